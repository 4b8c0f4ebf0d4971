"""Canceling N TronSave orders at the documented limit: how many requests, how long, and how much CPU per order?

Requests and time come from the vendor's simulator, which enforces the limit of one request in two seconds, on an event
loop whose clock jumps (the tests' own): two hours take a second. `cancel_many` gets all orders at once; N tasks that
call `cancel` do what a bot does, whose first caller is not kept waiting for company. CPU is measured on a real loop
against the local server, with the limit off. The ideal sends chunks of 50 with raw aiohttp and msgspec. No peer puts
several orders into one request: one request per order takes at least two seconds for each, whoever sends it.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import measure
import peers
from ideals import RawAiohttp
from measure import Arm, Goal, Kind, Options, Series
from report import Bar, Chart, Report, Verdict, finish
from rest_cancel import gateway

from brokers.tronsave import TronSaveGateway
from brokers.tronsave.config import MAX_IDS, RATE_LIMIT
from brokers.tronsave.sandbox import TronSaveSandbox
from tronsave_async import Canceled, CancelOutcome, RateLimiter

SIZES = (1, 10, 100, 1_000, 10_000)
CPU_GOAL = Goal(10.0, "us")
Way = Callable[[list[str]], Awaitable[object]]


def requests_needed(orders: int, *, first_goes_alone: bool) -> int:
    """The goal: as few requests as the maximum per request allows; a first caller need not wait for company."""
    if first_goes_alone:
        return 1 + math.ceil((orders - 1) / MAX_IDS)
    return math.ceil(orders / MAX_IDS)


async def at_the_limit(orders: int, *, many: bool) -> tuple[int, float]:
    """Cancel so many orders at the simulated vendor; how many requests arrived, and how many seconds it took."""
    loop = asyncio.get_running_loop()
    async with TronSaveSandbox(keep_deadlines=False, keepalive=1e9) as sandbox:
        ids = [sandbox.add_order() for _ in range(orders)]
        async with TronSaveGateway(
            sandbox.api_key, base_url=sandbox.url, limiter=RateLimiter()
        ) as ours:
            started = loop.time()
            if many:
                outcomes = await ours.cancel_many(ids)
            else:
                outcomes = await one_by_one(ours, ids)
            took = loop.time() - started
        assert all(isinstance(outcome, Canceled) for outcome in outcomes)
        assert sandbox.rejections == 0, "the vendor's limit was exceeded"
        return len(sandbox.requests_to("cancel")), took


async def one_by_one(ours: TronSaveGateway, ids: list[str]) -> list[CancelOutcome]:
    """A task for each order; all but the first come 10 ms after it."""
    first = asyncio.create_task(ours.cancel(ids[0], timeout=None))
    await asyncio.sleep(0.01)
    return await asyncio.gather(first, *[ours.cancel(each, timeout=None) for each in ids[1:]])


def count_requests(report: Report, sizes: tuple[int, ...]) -> None:
    """Requests and virtual time for each N, both ways."""
    sys.path.insert(0, str(measure.HERE.parent / "tests"))
    try:
        from support.virtual_time import VirtualTimeLoop
    except ImportError as error:
        report.remarks.append(f"requests and time: not measured: {peers.reason(error)}")
        return
    bars: list[Bar] = []
    for many in (True, False):
        way = "cancel_many" if many else "tasks"
        sent: list[int] = []
        for orders in sizes:
            with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
                requests, took = runner.run(at_the_limit(orders, many=many))
            sent.append(requests)
            setting = f"{orders:,} orders, {way}"
            note = f"{requests:,} requests"
            report.line(setting, "tronsave-async", Kind.OURS, "s", Series([took]), note)
            needed = requests_needed(orders, first_goes_alone=not many)
            ideal, note = (
                Series([(needed - 1) * RATE_LIMIT.per]),
                f"{needed:,} requests; calculated",
            )
            report.line(setting, "shortest possible", Kind.IDEAL, "s", ideal, note)
            alone, note = (
                Series([(orders - 1) * RATE_LIMIT.per]),
                f"{orders:,} requests; calculated",
            )
            report.line(setting, "one request each", Kind.NEAREST, "s", alone, note)
            if many and orders >= 100:
                bars.append(Bar(f"{orders:,}: cancel_many", Kind.OURS, Series([took])))
                bars.append(Bar(f"{orders:,}: one request each", Kind.NEAREST, alone))
        judge_requests(report, sizes, sent, way, first_goes_alone=not many)
    title = "Seconds to cancel N orders at one request per two seconds"
    report.charts.append(Chart("coalescing", title, "s", bars, logarithmic=True))


def judge_requests(
    report: Report, sizes: tuple[int, ...], sent: list[int], way: str, *, first_goes_alone: bool
) -> None:
    """One line for all N: the goal is not one request more than needed."""
    needed = [requests_needed(n, first_goes_alone=first_goes_alone) for n in sizes]
    more = max(a - b for a, b in zip(sent, needed, strict=True))
    report.verdicts.append(
        Verdict(
            f"Coalescing, requests for {sizes[0]} ... {sizes[-1]:,} orders, {way}",
            ", ".join(f"{each:,}" for each in sent),
            ", ".join(f"{each:,}" for each in needed),
            ", ".join(f"{each:,}" for each in sizes) + " (any, one each)",
            "",
            "not one more than needed",
            more <= 0,
        )
    )


async def compare(port: int, given: Options, report: Report) -> None:
    """CPU per order with the limit off."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(gateway(port, max_ids=MAX_IDS))
        ideal = RawAiohttp(port)
        stack.push_async_callback(ideal.close)

        async def chunks(ids: list[str]) -> None:
            for start in range(0, len(ids), MAX_IDS):
                await ideal.cancel(*ids[start : start + MAX_IDS])

        async def tasks(ids: list[str]) -> None:
            await asyncio.gather(*[ours.cancel(each) for each in ids])

        async def one_each(ids: list[str]) -> None:
            for each in ids:
                await ideal.cancel(each)

        said = await ours.cancel_many([peers.tronsave_id(1)])
        peers.ensure(isinstance(said[0], Canceled), said)
        measure.settle_heap()
        ways = (
            ("tronsave-async", Kind.OURS, ours.cancel_many, "cancel_many"),
            ("tronsave-async, tasks", Kind.OURS_TOO, tasks, "a task with cancel for each"),
            ("ideal", Kind.IDEAL, chunks, "chunks of 50, raw aiohttp + msgspec"),
            ("one request each", Kind.FLOOR, one_each, "raw aiohttp + msgspec"),
        )
        sizes = SIZES[:-1] if given.quick else SIZES
        for orders in sizes:
            ids = [peers.tronsave_id(number) for number in range(orders)]
            repeats = max(1, 100 // orders)
            arms = [
                Arm(name, kind, partial(block, way, ids, repeats), note)
                for name, kind, way, note in ways
                if orders <= 1_000 or kind is not Kind.FLOOR
            ]
            measured = await measure.alternate(arms, given.rounds(12))
            report.add(f"{orders:,} orders, CPU", "us / order", arms, measured)
            if orders == sizes[-1]:
                report.judge_value(
                    f"Coalescing, CPU per order, {orders:,} orders",
                    measured["tronsave-async"],
                    CPU_GOAL,
                    ideal=f"{measure.number(measured['ideal'].median)} us",
                )


async def block(way: Way, ids: list[str], repeats: int) -> float:
    """CPU per order."""
    started = time.process_time()
    for _ in range(repeats):
        await way(ids)
    return (time.process_time() - started) / repeats / len(ids) * 1e6


async def profile(port: int, given: Options, report: Report) -> None:
    """Write where an order's time goes."""
    assert given.profile is not None
    ids = [peers.tronsave_id(number) for number in range(given.size(20_000))]
    async with gateway(port, max_ids=MAX_IDS) as ours:
        work = ours.cancel_many(ids)
        report.profiles.append(await measure.profiled(given.profile, "coalescing", work))


def main(argv: list[str] | None = None) -> None:
    """Measure."""
    given = measure.options(__doc__, argv)
    started = time.perf_counter()
    report = Report("coalescing", "Coalescing", __doc__ or "")
    if not given.profile:
        count_requests(report, SIZES[:-1] if given.quick else SIZES)
    with measure.server() as port:
        work = profile if given.profile else compare
        measure.run_on("asyncio", work(port, given, report))
    finish(report, given, time.perf_counter() - started)


if __name__ == "__main__":
    main()
