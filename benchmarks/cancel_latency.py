"""A cancel that comes when 500 reads and creates are queued: how long until it may leave?

One request may leave per interval of 20 ms; 250 reads and 250 creates wait; then cancels come, one every five intervals
or so. Limiters alone: the intervals from asking to the grant. Ours, through the whole public API: the same on a
`RipioGateway`, whose reads, creates and cancels draw on one budget, from the call until the request leaves. The peers'
queues know no urgency: each of five has one cancel behind it, and after 12 seconds nobody waits any longer. ``limits``
has no queue, and no window shorter than a second. python-binance and pybotters have neither limiter nor queue: they
send, and the vendor says 429.
"""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import measure
from limiter import usable
from limiters import SCOPE, Acquire, Contender
from measure import Goal, Kind, Options, Series, number
from report import Bar, Chart, Report, finish
from ws_cancel import named

from brokers.ripio import Profile, RipioGateway
from tronsave_async import Event, Lane, RateLimit, RateLimiter, Sent

if TYPE_CHECKING:
    from collections.abc import Coroutine

QUEUED = 500
INTERVAL = 0.02
PATIENCE = 12.0
"""Seconds for which a peer's grant is waited for."""
APART = 5.3
"""Intervals between two cancels: out of step with the grants."""
WITHIN = Goal(1.0, "intervals")
NO_QUEUE = "limits: not measured: it has no queue, and no window shorter than a second"


def ours() -> tuple[Acquire, RateLimiter]:
    """The SDK's limiter, without the margin that belongs to a network."""
    limiter = RateLimiter()
    limiter.declare(SCOPE, RateLimit(1, per=INTERVAL, margin=0.0))

    async def acquire(lane: Lane) -> None:
        with await limiter.acquire(SCOPE, lane=lane) as permit:
            permit.spend()

    return acquire, limiter


async def behind_queue(acquire: Acquire, cancels: int) -> list[float]:
    """Intervals that each cancel waits for its grant while 500 others wait."""
    lanes = (Lane.READ, Lane.CREATE)
    await acquire(Lane.CANCEL)
    waiting = [asyncio.ensure_future(acquire(lanes[n % 2])) for n in range(QUEUED)]
    waits: list[float] = []
    for _ in range(cancels):
        await asyncio.sleep(APART * INTERVAL)
        asked = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                await acquire(Lane.CANCEL)
        except TimeoutError:
            pass
        waits.append((time.perf_counter() - asked) / INTERVAL)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return waits


async def peer_waits(contender: Contender) -> list[float]:
    """One cancel behind each of five queues of a peer, out of step with each other."""

    async def one(turn: int) -> float:
        acquire, ending = contender.make(1, INTERVAL)
        with ending:
            await asyncio.sleep(turn * INTERVAL / 5.1)
            return (await behind_queue(acquire, cancels=1))[0]

    return await asyncio.gather(*map(one, range(5)))


async def gateway_waits(port: int, cancels: int) -> list[float]:
    """Intervals from `RipioGateway.cancel` until its request leaves, while 500 calls wait."""
    left: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Sent) and event.endpoint == "cancel":
            left.append(time.perf_counter())

    waits: list[float] = []
    async with RipioGateway(
        "token",
        "secret",
        ws_url=f"ws://127.0.0.1:{port}/",
        rest_url=f"http://127.0.0.1:{port}/trade",
        profile=Profile(RateLimit(1, per=INTERVAL, margin=0.0), daily_quota=1_000_000),
        limiter=RateLimiter(),
        telemetry=listen,
    ) as gateway:
        await gateway.warm_up()
        await gateway.cancel(named(0))
        calls = [
            asyncio.create_task(call) for n in range(QUEUED // 2) for call in others(gateway, n)
        ]
        for order in range(1, cancels + 1):
            await asyncio.sleep(APART * INTERVAL)
            asked = time.perf_counter()
            await gateway.cancel(named(order))
            waits.append((left[-1] - asked) / INTERVAL)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    return waits


def others(gateway: RipioGateway, n: int) -> tuple[Coroutine[Any, Any, object], ...]:
    """A read and a create."""
    create = gateway.create(
        pair="BTC_BRL", side="buy", type="limit", amount=Decimal("0.001"), price=100_000
    )
    return (gateway.order(named(1_000_000 + n)), create)


async def compare(port: int, given: Options, report: Report) -> None:
    """Ours one after the other, then all peers at the same time: they do nothing but wait."""
    cancels = given.rounds(20)
    acquire, _ = ours()
    alone = Series(await behind_queue(acquire, cancels))
    whole = Series(await gateway_waits(port, cancels))
    contenders = [
        each for each in await usable(report) if each.kind is Kind.PEER and each.name != "limits"
    ]
    report.remarks.append(NO_QUEUE)
    waits = await asyncio.gather(*[peer_waits(each) for each in contenders])
    setting = f"behind {QUEUED} reads and creates"
    for name, kind, series in (
        ("tronsave-async, limiter", Kind.OURS, alone),
        ("tronsave-async, RipioGateway", Kind.OURS, whole),
        *[
            (each.name, each.kind, Series(found))
            for each, found in zip(contenders, waits, strict=True)
        ],
    ):
        note = f"at most {number(max(series.values))}"
        if series.median * INTERVAL >= PATIENCE:
            note = "not granted when nobody waited any longer"
        report.line(setting, name, kind, "intervals", series, note)
    bars = [Bar(line.arm, line.kind, line.series) for line in report.lines]
    title = f"Permit intervals until a cancel may leave, {setting}"
    report.charts.append(Chart("cancel_latency", title, "intervals", bars, logarithmic=True))
    others_waited = ", ".join(
        f"{line.arm} {number(line.series.median)}"
        for line in report.lines
        if line.kind is Kind.PEER
    )
    for name, series in (("limiter", alone), ("RipioGateway", whole)):
        question = f"Cancel latency {setting}, {name}"
        report.judge_value(question, series, WITHIN, peer=others_waited)


def main(argv: list[str] | None = None) -> None:
    """Measure."""
    given = measure.options(__doc__, argv)
    started = time.perf_counter()
    report = Report("cancel_latency", "Cancel latency behind a queue", __doc__ or "")
    with measure.server() as port:
        measure.run_on("asyncio", compare(port, given, report))
    finish(report, given, time.perf_counter() - started)


if __name__ == "__main__":
    main()
