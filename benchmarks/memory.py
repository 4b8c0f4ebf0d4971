"""How much memory does a gateway take, idle and with 100,000 cancels waiting, and does it grow?

Each figure comes from a process of its own: its resident set before and after, divided by what came between. A waiting
cancel is a task that awaits ``cancel`` while the limit lets nothing pass; `cancel_many` takes the same orders without a
task each. The floor is a task that awaits a bare future. The peers' tasks wait in the queues of their limiters, which
is less than a cancel: ccxt's whole ``cancel_order`` waits, of aiolimiter only the limiter. A million cancels are sent
to the local server in turns, 300,000 by Ripio's gateway and 700,000 by TronSave's, on an event loop whose clock goes 30
times as fast: what is remembered for minutes is forgotten before memory is read, after the first 300,000 and at the
end. What Ripio's gateway remembers meanwhile has a line of its own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import selectors
import subprocess
import sys
import time
import tracemalloc
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import measure
import peers
from ideals import RawAiohttp, SansIO
from measure import Goal, Kind, Options, Series
from report import Bar, Chart, Report, finish
from rest_cancel import gateway as tronsave_gateway
from ws_cancel import gateway as ripio_gateway
from ws_cancel import named

from brokers.ripio import Profile, RipioGateway
from brokers.tronsave import TronSaveGateway
from tronsave_async import RateLimit, RateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WAITERS = 100_000
GATEWAYS = 50
CANCELS = 1_000_000
HURRY = 30
"""How much faster the clock goes while growth is measured."""
MEMORY = 130.0
"""Seconds after which everything that is remembered for a time is forgotten."""
NEVER = RateLimit(1, per=86_400.0)
PER_WAITER = Goal(3.0, "KB")
GROWTH = Goal(4.0, "bytes / cancel")
"""Flat: the smallest leak, one reference for each cancel, is 8 bytes; less is the heap's own coming and going."""


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


# -- what one process measures ----------------------------------------------------------------------------------------


async def idle(open_one: Callable[[], Awaitable[object]]) -> float:
    """Bytes of one more open client that has served."""
    kept = [await open_one() for _ in range(5)]
    before = resident()
    kept += [await open_one() for _ in range(GATEWAYS)]
    return (resident() - before) / GATEWAYS


async def idle_ripio(port: int, _: int) -> float:
    """A gateway whose socket is open and has served."""

    async def open_one() -> object:
        gateway = ripio_gateway(port)
        await gateway.cancel(named(1))
        return gateway

    return await idle(open_one)


async def idle_tronsave(port: int, _: int) -> float:
    """A gateway with a kept-alive connection."""

    async def open_one() -> object:
        gateway = tronsave_gateway(port)
        await gateway.cancel(peers.tronsave_id(1))
        return gateway

    return await idle(open_one)


async def idle_socket_by_hand(port: int, _: int) -> float:
    """The hand-written client."""

    async def open_one() -> object:
        client = await SansIO.open(port)
        await client.cancel(named(1))
        return client

    return await idle(open_one)


async def idle_http_by_hand(port: int, _: int) -> float:
    """A raw aiohttp session."""

    async def open_one() -> object:
        client = RawAiohttp(port)
        await client.cancel(peers.tronsave_id(1))
        return client

    return await idle(open_one)


async def waiting(start: Callable[[int], Awaitable[object]], count: int) -> float:
    """Bytes of one more task that waits; names of orders are made before."""
    tasks = [asyncio.ensure_future(start(number)) for number in range(100)]
    await asyncio.sleep(0.1)
    before = resident()
    tasks += [asyncio.ensure_future(start(number)) for number in range(100, 100 + count)]
    for _ in range(5):
        await asyncio.sleep(0.05)
    assert not any(task.done() for task in tasks[1:]), "they should wait"
    return (resident() - before) / count


async def waiting_tronsave(port: int, count: int) -> float:
    """Tasks that await `TronSaveGateway.cancel`."""
    ids = [peers.tronsave_id(number) for number in range(count + 100)]
    gateway = TronSaveGateway(
        "key", base_url=f"http://127.0.0.1:{port}", rate_limit=NEVER, limiter=RateLimiter()
    )
    await gateway.cancel(peers.tronsave_id(1 << 30))
    return await waiting(lambda number: gateway.cancel(ids[number], timeout=3600), count)


async def waiting_ripio(port: int, count: int) -> float:
    """Tasks that await `RipioGateway.cancel`."""
    ids = [named(number) for number in range(count + 100)]
    gateway = RipioGateway(
        "token",
        "secret",
        ws_url=f"ws://127.0.0.1:{port}/",
        rest_url=f"http://127.0.0.1:{port}/trade",
        profile=Profile(NEVER, daily_quota=1_000_000),
        limiter=RateLimiter(),
    )
    await gateway.cancel(named(1 << 30))
    return await waiting(lambda number: gateway.cancel(ids[number], timeout=3600), count)


async def waiting_many(port: int, count: int) -> float:
    """One task that awaits `TronSaveGateway.cancel_many`."""
    ids = [peers.tronsave_id(number) for number in range(count)]
    gateway = TronSaveGateway(
        "key", base_url=f"http://127.0.0.1:{port}", rate_limit=NEVER, limiter=RateLimiter()
    )
    await gateway.cancel(peers.tronsave_id(1 << 30))
    before = resident()
    task = asyncio.create_task(gateway.cancel_many(ids, timeout=3600))
    for _ in range(5):
        await asyncio.sleep(0.05)
    assert not task.done(), "it should wait"
    return (resident() - before) / count


async def waiting_futures(_: int, count: int) -> float:
    """Tasks that await a bare future."""
    futures: list[asyncio.Future[None]] = []

    async def wait(_: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        futures.append(future)
        await future

    return await waiting(wait, count)


async def waiting_aiolimiter(_: int, count: int) -> float:
    """Tasks that await aiolimiter."""
    limiter = import_module("aiolimiter").AsyncLimiter(1, 86_400)
    return await waiting(lambda _: limiter.acquire(), count)


async def waiting_ccxt(port: int, count: int) -> float:
    """Tasks that await ccxt's `cancel_order` behind its throttler."""
    async with AsyncExitStack() as stack:
        client = await peers.ccxt_client(stack, port)
        client.enableRateLimit = True
        client.throttler.config.update(refillRate=1e-9, tokens=-1, delay=3600)
        return await waiting(lambda number: client.cancel_order(str(number), "BTC/USDT"), count)


async def remembered(port: int, count: int) -> float:
    """Bytes that each of Ripio's cancels takes for as long as its signature must not be made again."""
    async with ripio_gateway(port) as ripio:

        async def cancel(first: int) -> None:
            names = [named(number) for number in range(first, first + count)]
            await measure.in_flight(ripio.cancel, names, 100)

        await cancel(0)
        before = resident()
        await cancel(count)
        return (resident() - before) / count


async def growth(port: int, count: int) -> float:
    """Bytes that each cancel leaves behind for good, after three tenths of them; on a loop whose clock hurries."""
    marks: list[int] = []
    ripio, tronsave = ripio_gateway(port, patience=900), tronsave_gateway(port, 50, patience=900)
    async with ripio, tronsave:
        for turn in range(100):
            if turn in (30, 99):
                await asyncio.sleep(MEMORY)
                await ripio.cancel(named(turn))
                marks.append(resident())
            share = count * 3 // 1000
            names = [named(number) for number in range(turn * share, (turn + 1) * share)]
            await measure.in_flight(partial(ripio.cancel, timeout=None), names, 100)
            share = count * 7 // 1000
            ids = [peers.tronsave_id(number) for number in range(turn * share, (turn + 1) * share)]
            outcomes = await tronsave.cancel_many(ids)
            assert all(outcome.closed for outcome in outcomes), "canceled"
    return (marks[1] - marks[0]) / (count * 0.69)


class HurriedSelector(selectors.DefaultSelector):
    """Waits for a fraction of the time it is told."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready."""
        return super().select(None if timeout is None else timeout / HURRY)


class HurriedLoop(asyncio.SelectorEventLoop):
    """An event loop on which two minutes take seconds, so that what is remembered for minutes is forgotten in time."""

    def __init__(self) -> None:
        super().__init__(HurriedSelector())

    def time(self) -> float:
        """Monotonic seconds, too fast."""
        return super().time() * HURRY


CASES: dict[str, Callable[[int, int], Awaitable[float]]] = {
    each.__name__: each
    for each in (
        *(idle_ripio, idle_socket_by_hand, idle_tronsave, idle_http_by_hand),
        *(waiting_tronsave, waiting_ripio, waiting_many, waiting_futures),
        *(waiting_aiolimiter, waiting_ccxt, remembered, growth),
    )
}


# -- all of it ---------------------------------------------------------------------------------------------------------


def bytes_of(case: str, count: int) -> float:
    """What a process of its own measures; raises with what it said."""
    command = [sys.executable, __file__, "--case", f"{case}:{count}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it ended early"])[-1][:150])
    return float(done.stdout)


def measured(
    report: Report,
    setting: str,
    arms: tuple[tuple[str, Kind, str, str], ...],
    count: int,
    times: int,
) -> dict[str, Series]:
    """Kilobytes for each arm, its processes in turn."""
    found: dict[str, list[float]] = {name: [] for name, *_ in arms}
    for _ in range(times):
        for name, _, case, _ in arms:
            try:
                found[name].append(bytes_of(case, count) / 1024)
            except RuntimeError as error:
                report.remarks.append(f"{setting}, {name}: not measured: {error}")
    series = {name: Series(values) for name, values in found.items()}
    for name, kind, _, note in arms:
        if found[name]:
            report.line(setting, name, kind, "KB", series[name], note)
    return series


def compare(given: Options, report: Report) -> None:
    """Start a process for each figure."""
    times = given.rounds(3, quick=1)
    measured(
        report,
        "an idle client",
        (
            ("RipioGateway", Kind.OURS, "idle_ripio", "socket open, has served"),
            ("socket by hand", Kind.IDEAL, "idle_socket_by_hand", "sans-I/O core"),
            ("TronSaveGateway", Kind.OURS, "idle_tronsave", "connection kept alive"),
            ("aiohttp", Kind.IDEAL, "idle_http_by_hand", "a session, connection kept alive"),
        ),
        GATEWAYS,
        times,
    )
    count = given.size(WAITERS, quick=20_000)
    setting = f"{count:,} waiting"
    waiters = measured(
        report,
        setting,
        (
            ("TronSaveGateway.cancel", Kind.OURS, "waiting_tronsave", "a task each"),
            ("RipioGateway.cancel", Kind.OURS, "waiting_ripio", "a task each"),
            ("TronSaveGateway.cancel_many", Kind.OURS_TOO, "waiting_many", "one task"),
            ("bare future", Kind.FLOOR, "waiting_futures", "a task each"),
            ("aiolimiter", Kind.NEAREST, "waiting_aiolimiter", "a task each, the limiter alone"),
            ("ccxt", Kind.PEER, "waiting_ccxt", "a task each, cancel_order"),
        ),
        count,
        times,
    )
    for name in ("TronSaveGateway.cancel", "RipioGateway.cancel"):
        report.judge_value(
            f"Memory per waiter, {name}, {count:,} waiting",
            waiters[name],
            PER_WAITER,
            ideal=f"{measure.number(waiters['bare future'].median)} KB",
            peer=f"{measure.number(waiters['ccxt'].median)} KB (ccxt)",
        )
    bars = [
        Bar(line.arm, line.kind, line.series) for line in report.lines if line.setting == setting
    ]
    report.charts.append(Chart("memory", f"KB per cancel, {setting}", "KB", bars))
    kept = Series([bytes_of("remembered", given.size(40_000)) for _ in range(times)])
    note = "the signed text, for one to two minutes: never signed twice in a millisecond"
    report.line("a cancel that is done", "RipioGateway", Kind.OURS, "bytes", kept, note)
    cancels = given.size(CANCELS, quick=200_000)
    left = Series([bytes_of("growth", cancels)])
    report.line(f"{cancels:,} cancels", "both gateways", Kind.OURS, "bytes / cancel", left)
    report.judge_value(f"Memory growth over {cancels:,} cancels", left, GROWTH)


def profile(given: Options, report: Report) -> None:
    """Write which lines of code allocated what 10,000 waiting cancels hold."""
    assert given.profile is not None
    for case in ("waiting_tronsave", "waiting_ripio"):
        command = [sys.executable, __file__, "--case", f"{case}:{given.size(10_000)}", "--profile"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        name = f"memory_{case}"
        report.profiles.append(measure.write_profile(given.profile, name, done.stdout.strip()))


def allocations(count: int) -> str:
    """What is held now, by the line that allocated it, per waiter."""
    held = tracemalloc.take_snapshot().statistics("lineno")[:25]
    lines = [
        f"{each.size / count:8.1f} bytes per waiter  {'/'.join(Path(each.traceback[0].filename).parts[-2:])}"
        f":{each.traceback[0].lineno}"
        for each in held
    ]
    return "\n".join(lines)


def measure_case(given: Options) -> None:
    """Measure one figure, print it, and end without taking down what waits."""
    assert given.case is not None
    case, _, count = given.case.partition(":")
    if given.profile is not None:
        tracemalloc.start()
    with measure.server() as port:
        # Whatever waits is still there when the figure is printed.
        print_and_exit = partial(end, profiled=given.profile is not None, count=int(count))
        loop = HurriedLoop if case == "growth" else asyncio.SelectorEventLoop
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(then(CASES[case](port, int(count)), print_and_exit))


async def then(figure: Awaitable[float], tell: Callable[[float], None]) -> None:
    """Tell a figure while the event loop still runs."""
    tell(await figure)


def end(figure: float, *, profiled: bool, count: int) -> None:
    """Print, and leave at once."""
    print(allocations(count) if profiled else figure, flush=True)
    os._exit(0)


def main(argv: list[str] | None = None) -> None:
    """Measure."""
    given = measure.options(__doc__, argv)
    if given.case is not None:
        measure_case(given)
    started = time.perf_counter()
    report = Report("memory", "Memory", __doc__ or "")
    (profile if given.profile else compare)(given, report)
    finish(report, given, time.perf_counter() - started)


if __name__ == "__main__":
    main()
