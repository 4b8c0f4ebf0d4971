"""Has a hot path become slower? Its CPU against reference work in the same process, compared with stored ratios.

What goes over sockets is measured against the hand-written ideal on the same server, the rest against a fixed piece of
Python work: both slow down with the machine, so that the ratio stays. A ratio above the stored one by more than the
tolerance is a regression: exit 1. Ratios belong to a version of Python; ``--update`` writes those of the running one,
after a change that is worth its price, or one that made things faster.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import imports
import measure
import peers
import rest_cancel
import retry_policy
import signing
import ws_cancel
from ideals import RawAiohttp, SansIO
from limiters import SCOPE, ours
from measure import Arm, Kind

from tronsave_async import Lane, RateLimit, RateLimiter

EXPECTED = measure.HERE / "expected.json"
TOLERANCE = 0.2
"""So much more than the stored ratio is noise: runs on a busy machine differ by up to a tenth."""
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
ROUNDS = 25

Block = Callable[[], Awaitable[float]]


def reference_work(count: int) -> None:
    """Work as the hot paths do it: objects, attributes, dictionaries, text, a hash, and no input or output."""

    class Thing:
        __slots__ = ("name", "value")

        def __init__(self, name: str, value: int) -> None:
            self.name = name
            self.value = value

        def grown(self, by: int) -> Thing:
            return Thing(self.name, self.value + by)

    known: dict[str, Thing] = {}
    for turn in range(count):
        thing = Thing(f"order-{turn % 100}", turn)
        known[thing.name] = thing.grown(len(known))
        hashlib.sha256(json.dumps({"id": thing.name, "at": thing.value}).encode()).digest()


async def reference() -> float:
    """Microseconds of CPU for one piece of reference work."""
    started = time.process_time()
    reference_work(1_000)
    return (time.process_time() - started) / 1_000 * 1e6


async def contended(count: int = 2_000) -> float:
    """CPU per permit when so many wait in three lanes."""
    limiter = RateLimiter()
    limiter.declare(SCOPE, RateLimit(count // 20, per=0.001, margin=0.0))

    async def take(place: int) -> None:
        with await limiter.acquire(SCOPE, lane=Lane(place % 3)) as permit:
            permit.spend()

    return await measure.cpu_of(asyncio.gather(*map(take, range(count))), count)


async def hot_paths(stack: AsyncExitStack, port: int) -> dict[str, tuple[Block, Block]]:
    """Each hot path with its reference."""
    socket = await stack.enter_async_context(ws_cancel.gateway(port))
    await socket.warm_up()
    socket_by_hand = await SansIO.open(port)
    stack.push_async_callback(socket_by_hand.close)
    http = await stack.enter_async_context(rest_cancel.gateway(port))
    batches = await stack.enter_async_context(rest_cancel.gateway(port, max_ids=50))
    http_by_hand = RawAiohttp(port)
    stack.push_async_callback(http_by_hand.close)
    acquire, _ = ours(1_000_000, 1.0)
    build, call = signing.signer(stack), retry_policy.policy()
    orders = [ws_cancel.named(order) for order in range(1_000)]
    ids = [peers.tronsave_id(order) for order in range(1_000)]

    def sent(cancel: Callable[[str], Awaitable[object]], keys: list[str], at_once: int) -> Block:
        return lambda: measure.cpu_of(measure.in_flight(cancel, keys, at_once), len(keys))

    async def acquired() -> float:
        return await measure.cpu_of(
            measure.in_flight(lambda _: acquire(Lane.CANCEL), range(2_000), 1), 2_000
        )

    return {
        "ws_cancel, sequential": (
            sent(socket.cancel, orders[:200], 1),
            sent(socket_by_hand.cancel, orders[:200], 1),
        ),
        "ws_cancel, 100 in flight": (
            sent(socket.cancel, orders, 100),
            sent(socket_by_hand.cancel, orders, 100),
        ),
        "rest_cancel, sequential": (
            sent(http.cancel, ids[:100], 1),
            sent(http_by_hand.cancel, ids[:100], 1),
        ),
        "cancel_many, 1,000 orders": (
            lambda: measure.cpu_of(batches.cancel_many(ids), 1_000),
            reference,
        ),
        "limiter, uncontended": (acquired, reference),
        "limiter, 2,000 waiters": (contended, reference),
        "signing": (lambda: signing.block(build, 2_000), reference),
        "retry policy": (lambda: retry_policy.block(call, 5_000), reference),
    }


async def ratios(port: int, rounds: int) -> dict[str, float]:
    """Measure every hot path against its reference."""
    found: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        paths = await hot_paths(stack, port)
        measure.settle_heap()
        for name, (path, against) in paths.items():
            arms = [Arm("path", Kind.OURS, path), Arm("reference", Kind.IDEAL, against)]
            measured = await measure.alternate(arms, rounds)
            found[name] = measured["path"].over(measured["reference"]).median
    return found


def import_ratio(rounds: int) -> float:
    """The SDK's import against asyncio's and json's, in fresh interpreters."""
    pairs = [
        imports.milliseconds(imports.SDK.statement) / imports.milliseconds("import asyncio, json")
        for _ in range(rounds)
    ]
    return measure.Series(pairs).median


def regressions(
    found: Mapping[str, float], expected: Mapping[str, float], tolerance: float
) -> list[str]:
    """The hot paths that cost more than their stored ratio allows, and those that nothing is stored for."""
    return [
        name
        for name, ratio in found.items()
        if name not in expected or ratio > expected[name] * (1 + tolerance)
    ]


def main(argv: list[str] | None = None) -> int:
    """Compare, or store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="store the ratios of this run")
    parser.add_argument("--quick", action="store_true", help="few rounds: a try, no result")
    given = parser.parse_args(argv)
    rounds = 5 if given.quick else ROUNDS
    with measure.server() as port:
        found = measure.run_on("asyncio", ratios(port, rounds))
    found["import tronsave_async"] = import_ratio(max(3, rounds // 2))
    stored = json.loads(EXPECTED.read_text(encoding="utf-8")) if EXPECTED.exists() else {}
    expected: dict[str, float] = stored.get(VERSION, {})
    for name, ratio in found.items():
        was = f"{expected[name]:.3f}" if name in expected else "not stored"
        print(f"{name:<28} {ratio:>8.3f}   stored: {was}")
    if given.update:
        stored[VERSION] = {name: round(ratio, 3) for name, ratio in found.items()}
        EXPECTED.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        print(f"stored for Python {VERSION}")
        return 0
    slower = regressions(found, expected, TOLERANCE)
    for name in slower:
        print(
            f"REGRESSION: {name} is more than {TOLERANCE:.0%} above its stored ratio, or has none"
        )
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
