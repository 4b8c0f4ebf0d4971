"""A cancel over one WebSocket, through the whole public API: what does it cost, and how long does it take?

Ours is `RipioGateway.cancel`: argument checks, deadline, limiter, quota, coalescing, signing, correlation, verdict,
outcome. The ideal has the same sans-I/O core under an `asyncio.Protocol`, the same signer and the same decoder, one
write per tick and a future for each request. python-binance and ccxt.pro send Binance's cancel, whose request and
reply have the same shape and size; pybotters has no cancel and no matching of replies. Rate limits are off in all.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import measure
import peers
from ideals import Informed, RawAiohttpSocket, RawWebsockets, SansIO
from measure import Arm, Goal, Kind, Options, Series
from report import Bar, Chart, Report, finish

from brokers.ripio import Profile, RipioGateway
from tronsave_async import Canceled, RateLimit, RateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SETTINGS = ((1, 200), (100, 1000), (1000, 2000))
"""In flight at once, and cancels in a block."""
TO_IDEAL = Goal(1.15, "x")
TO_PEER = {1: Goal(0.5, "x"), 100: Goal(0.25, "x")}


def named(order: int) -> str:
    """An order's id as Ripio's are."""
    return f"7155ED34-9EC4-4733-8B32-{order:012X}"


def gateway(port: int, patience: float = 15.0) -> RipioGateway:
    """A gateway without a limit worth the name; ``patience`` is for requests and connections, in seconds."""
    return RipioGateway(
        "token",
        "secret",
        ws_url=f"ws://127.0.0.1:{port}/",
        rest_url=f"http://127.0.0.1:{port}/trade",
        profile=Profile(RateLimit(10_000_000, per=1.0, margin=0.0), daily_quota=1_000_000_000),
        limiter=RateLimiter(),
        request_timeout=patience,
        connect_timeout=patience,
    )


class Cancels:
    """Every arm by name, and how an order is named to it."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[Kind, str, peers.Cancel]] = {}
        self.remarks: list[str] = []

    async def open(self, stack: AsyncExitStack, port: int) -> None:
        """Open ours, the ideals and the peers, and see that each of them cancels."""
        ours = await stack.enter_async_context(gateway(port))
        await ours.warm_up()
        said = await ours.cancel(named(1))
        peers.ensure(isinstance(said, Canceled) and said.order.id == named(1), said)
        ideal, informed = await SansIO.open(port), await Informed.open(port)
        sockets, aiohttp = await RawWebsockets.open(port), await RawAiohttpSocket.open(port)
        for client in (ideal, informed, sockets, aiohttp):
            stack.push_async_callback(client.close)
        for name, kind, note, call in (
            ("tronsave-async", Kind.OURS, "RipioGateway.cancel", ours.cancel),
            ("ideal", Kind.IDEAL, "websockets' sans-I/O core by hand", ideal.cancel),
            ("informed ideal", Kind.FLOOR, "with limit, deadline, outcome", informed.cancel),
            ("raw websockets", Kind.FLOOR, "its client, a table of futures", sockets.cancel),
            ("raw aiohttp", Kind.FLOOR, "its client, a table of futures", aiohttp.cancel),
        ):
            self.calls[name] = (kind, note, numbered(call))
        for peer, cancel in await peers.open_all(peers.SOCKETS, stack, port, self.remarks):
            self.calls[peer.name] = (peer.kind, peer.note, cancel)

    def arms(self, at_once: int, total: int) -> list[Arm]:
        """A block of so many cancels for each."""
        return [
            Arm(name, kind, partial(block, cancel, at_once, total), note)
            for name, (kind, note, cancel) in self.calls.items()
        ]


def numbered(cancel: Callable[[str], Awaitable[object]]) -> peers.Cancel:
    """Cancel by number; the names are made before."""
    names = [named(order) for order in range(SETTINGS[-1][1])]
    return lambda order: cancel(names[order])


async def block(cancel: peers.Cancel, at_once: int, total: int) -> float:
    """CPU per cancel."""
    return await measure.cpu_of(measure.in_flight(cancel, range(total), at_once), total)


async def compare(port: int, loop: str, given: Options, report: Report) -> None:
    """Measure every setting on one event loop."""
    async with AsyncExitStack() as stack:
        cancels = Cancels()
        await cancels.open(stack, port)
        report.remarks += [f"{loop}: {remark}" for remark in cancels.remarks]
        measure.settle_heap()
        for at_once, total in SETTINGS:
            size = given.size(total, quick=total // 2)
            setting = f"{at_once:,} in flight, {loop}"
            arms = cancels.arms(at_once, size)
            measured = await measure.alternate(arms, given.rounds(24))
            report.add(setting, "us", arms, measured)
            question = f"WebSocket cancel, CPU, {setting}"
            report.judge(question, setting, ideal=TO_IDEAL, peer=TO_PEER.get(at_once))
            if at_once == 100:
                bars = [Bar(arm.name, arm.kind, measured[arm.name]) for arm in arms]
                name, title = f"ws_cancel_{loop}", f"CPU per WebSocket cancel, {setting}"
                report.charts.append(Chart(name, title, "us", bars))
            await pace(cancels, at_once, size, setting, given, report)


async def pace(
    cancels: Cancels, at_once: int, total: int, setting: str, given: Options, report: Report
) -> None:
    """Measure what callers feel, in rounds of their own."""
    found: dict[str, list[measure.Pace]] = {name: [] for name in cancels.calls}
    for _ in range(given.rounds(6, quick=2)):
        for name, (_, _, cancel) in cancels.calls.items():
            found[name].append(await measure.pace_of(cancel, range(total), at_once))
    for name, (kind, _, _) in cancels.calls.items():
        p50 = Series([each.p50 * 1e6 for each in found[name]])
        p99 = Series([each.p99 * 1e6 for each in found[name]])
        rate = Series([each.rate for each in found[name]])
        note = f"p99 {measure.number(p99.median)} us; {rate.median:,.0f} cancels/s"
        report.line(f"{setting}: wall", name, kind, "us p50", p50, note)


async def profile(port: int, given: Options, report: Report) -> None:
    """Write where a cancel's time goes."""
    assert given.profile is not None
    async with gateway(port) as ours:
        await ours.warm_up()
        for at_once, total in ((1, 5_000), (100, 20_000)):
            keys = [named(order) for order in range(given.size(total))]
            work = measure.in_flight(ours.cancel, keys, at_once)
            name = f"ws_cancel_{at_once}"
            report.profiles.append(await measure.profiled(given.profile, name, work))


def main(argv: list[str] | None = None) -> None:
    """Measure."""
    given = measure.options(__doc__, argv)
    started = time.perf_counter()
    report = Report("ws_cancel", "WebSocket cancel", __doc__ or "")
    with measure.server() as port:
        if given.profile:
            measure.run_on("asyncio", profile(port, given, report))
        else:
            loops, remarks = measure.usable_loops(given.loops)
            report.remarks += remarks
            for loop in loops:
                measure.run_on(loop, compare(port, loop, given, report))
    finish(report, given, time.perf_counter() - started)


if __name__ == "__main__":
    main()
