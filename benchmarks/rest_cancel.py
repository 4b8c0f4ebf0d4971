"""A cancel over HTTP, through the whole public API: what does it cost?

Ours is `TronSaveGateway.cancel`, held to one order per request; as shipped, callers that wait share one, which is the
second arm where 50 cancel at once. The ideal is raw aiohttp and msgspec, the floor HTTP/1.1 written by hand. pybotters
and httpx post the same cancel; python-binance and ccxt send Binance's, which is signed; the vendor's official SDK has
no cancel and is measured on `get_order`. Rate limits are off in all.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from functools import partial

import measure
import peers
from ideals import HandWrittenHttp, RawAiohttp
from measure import Arm, Goal, Kind, Options
from report import Bar, Chart, Report, finish

from brokers.tronsave import TronSaveGateway
from tronsave_async import Canceled, RateLimit, RateLimiter

SETTINGS = ((1, 100), (50, 400))
"""Concurrent cancels, and cancels in a block."""
GOALS = (
    ("pybotters", Goal(0.8, "x")),
    ("ccxt", Goal(0.5, "x")),
    ("tronsave (official)", Goal(0.35, "x")),
)
TO_IDEAL = Goal(1.15, "x")


def gateway(port: int, max_ids: int = 1, patience: float = 15.0) -> TronSaveGateway:
    """A gateway without a limit worth the name; ``patience`` is for requests and connections, in seconds."""
    return TronSaveGateway(
        "key",
        base_url=f"http://127.0.0.1:{port}",
        limiter=RateLimiter(),
        rate_limit=RateLimit(10_000_000, per=1.0, margin=0.0),
        max_ids=max_ids,
        request_timeout=patience,
        connect_timeout=patience,
    )


async def open_calls(
    stack: AsyncExitStack, port: int, at_once: int, remarks: list[str]
) -> dict[str, tuple[Kind, str, peers.Cancel]]:
    """Open ours, the ideals and the peers, and see that each of them cancels."""
    names = [peers.tronsave_id(order) for order in range(max(size for _, size in SETTINGS) + 1)]
    ours = await stack.enter_async_context(gateway(port))
    said = await ours.cancel(names[1])
    peers.ensure(isinstance(said, Canceled) and said.order.id == names[1], said)
    ideal, floor = RawAiohttp(port), HandWrittenHttp(port)
    stack.push_async_callback(ideal.close)
    stack.push_async_callback(floor.close)
    calls: dict[str, tuple[Kind, str, peers.Cancel]] = {
        "tronsave-async": (
            Kind.OURS,
            "TronSaveGateway.cancel, max_ids=1",
            lambda order: ours.cancel(names[order]),
        ),
        "ideal": (Kind.IDEAL, "raw aiohttp + msgspec", lambda order: ideal.cancel(names[order])),
        "hand-written": (Kind.FLOOR, "HTTP/1.1 by hand", lambda order: floor.cancel(names[order])),
    }
    if at_once > 1:
        shipped = await stack.enter_async_context(gateway(port, max_ids=50))
        calls["tronsave-async, as shipped"] = (
            Kind.OURS_TOO,
            "waiting callers share a request",
            lambda order: shipped.cancel(names[order]),
        )
    official = peers.SEQUENTIAL_HTTP if at_once == 1 else peers.CONCURRENT_HTTP
    for peer, cancel in await peers.open_all((*peers.HTTP, official), stack, port, remarks):
        calls[peer.name] = (peer.kind, peer.note, cancel)
    return calls


async def block(cancel: peers.Cancel, at_once: int, total: int) -> float:
    """CPU per cancel."""
    return await measure.cpu_of(measure.in_flight(cancel, range(total), at_once), total)


async def compare(port: int, loop: str, given: Options, report: Report) -> None:
    """Measure every setting on one event loop."""
    for at_once, total in SETTINGS:
        async with AsyncExitStack() as stack:
            remarks: list[str] = []
            calls = await open_calls(stack, port, at_once, remarks)
            setting = f"{'sequential' if at_once == 1 else f'{at_once} concurrent'}, {loop}"
            report.remarks += [f"{setting}: {remark}" for remark in remarks]
            size = given.size(total)
            arms = [
                Arm(name, kind, partial(block, cancel, at_once, size), note)
                for name, (kind, note, cancel) in calls.items()
            ]
            measure.settle_heap()
            measured = await measure.alternate(arms, given.rounds(16))
            report.add(setting, "us", arms, measured)
            question = f"REST cancel, CPU, {setting}"
            report.judge(question, setting, ideal=TO_IDEAL)
            for name, goal in GOALS:
                report.judge(question, setting, peer=goal, peers=[name])
            if at_once == 1:
                bars = [Bar(arm.name, arm.kind, measured[arm.name]) for arm in arms]
                title = f"CPU per REST cancel, {setting}"
                report.charts.append(Chart(f"rest_cancel_{loop}", title, "us", bars))


async def profile(port: int, given: Options, report: Report) -> None:
    """Write where a cancel's time goes."""
    assert given.profile is not None
    async with gateway(port) as ours:
        for at_once, total in ((1, 2_000), (50, 4_000)):
            keys = [peers.tronsave_id(order) for order in range(given.size(total))]
            await ours.cancel(keys[0])
            work = measure.in_flight(ours.cancel, keys, at_once)
            name = f"rest_cancel_{at_once}"
            report.profiles.append(await measure.profiled(given.profile, name, work))


def main(argv: list[str] | None = None) -> None:
    """Measure."""
    given = measure.options(__doc__, argv)
    started = time.perf_counter()
    report = Report("rest_cancel", "REST cancel", __doc__ or "")
    with measure.server() as port:
        if given.profile:
            measure.run_on("asyncio", profile(port, given, report))
        else:
            loops, report.remarks = measure.usable_loops(given.loops)
            for loop in loops:
                measure.run_on(loop, compare(port, loop, given, report))
    finish(report, given, time.perf_counter() - started)


if __name__ == "__main__":
    main()
