"""The limiter: what does a permit cost, alone and with thousands waiting, and is the limit kept?

Uncontended: CPU of one permit taken and spent. Contended: N tasks wait in three lanes for a quarter of N per second, on
the real clock; CPU per grant, the most grants in any window as the tasks saw them, how much later than possible the
grants came, and whether the order was kept within a lane. Canceled: half of those who wait are canceled at random, and
the rest should go on at the limit's pace. The peers have one queue and no lanes; each keeps the same limit in its own
words. ``limits`` only says yes or no: waiting is the caller's loop.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import statistics
import time
from functools import partial
from typing import NamedTuple

import measure
import peers
from limiters import CONTENDERS, SCOPE, Acquire, Contender
from measure import Arm, Goal, Kind, Options, Series, number
from report import Bar, Chart, Report, Verdict, finish

from tronsave_async import Lane, RateLimit, RateLimiter

PER = 1.0
WAITERS = (1_000, 10_000)
NO_PEERS = ("tronsave-async", "ideal")
SHARE = 4
"""The limit is this part of the waiters."""
UNCONTENDED = Goal(1.0, "us")
TO_PEER = Goal(0.5, "x")
KEPT_RATE = Goal(98.0, "%", at_least=True)


class Run(NamedTuple):
    """What came of one crowd of waiters."""

    cpu: float
    """Microseconds per grant."""
    peak: int
    """The most grants in any window."""
    late: float
    """Seconds after the moment at which the limit would have let it pass, 99 of 100 grants."""
    overtaken: int
    """Grants that came before one that had waited longer in the same lane."""
    rate: float
    """Percent of the limit's pace."""


def peak_in_window(moments: list[float], per: float) -> int:
    """The most moments within any half-open window of ``per`` seconds."""
    most = first = 0
    ordered = sorted(moments)
    for last, moment in enumerate(ordered):
        while moment - ordered[first] >= per:
            first += 1
        most = max(most, last - first + 1)
    return most


def overtakings(granted: list[int]) -> int:
    """How many of these, in the order in which they were granted, come after one that stood behind them."""
    highest, count = -1, 0
    for place in granted:
        count += place < highest
        highest = max(highest, place)
    return count


def percent_of_pace(moments: list[float], limit: RateLimit) -> float:
    """The rate after the first window, in percent of what the limit allows."""
    ordered = sorted(moments)
    # The first window's grants come at once, and the last window may be a part of one: neither tells a pace.
    first, whole = limit.requests, (len(ordered) - 1) // limit.requests * limit.requests
    if whole <= first:
        return math.nan
    return 100.0 * (whole - first) / (ordered[whole] - ordered[first]) / limit.pace


async def crowd(contender: Contender, count: int, *, canceled: float = 0.0) -> Run:
    """Let so many tasks wait, and cancel a part of them once the first window has passed through."""
    limit = RateLimit(count // SHARE, per=PER)
    if contender.kind not in (Kind.OURS, Kind.IDEAL):
        limit = RateLimit(count // SHARE, per=PER, margin=0.0)
    acquire, ending = contender.make(limit.requests, PER)
    grants: list[tuple[float, int]] = []

    async def wait(place: int) -> None:
        await acquire(Lane(place % 3))
        grants.append((time.perf_counter(), place))

    gc.collect()
    with ending:
        spent, began = time.process_time(), time.perf_counter()
        tasks = [asyncio.create_task(wait(place)) for place in range(count)]
        if canceled:
            await asyncio.sleep(PER / 4)
            waiting = [task for task in tasks if not task.done()]
            for task in random.Random(1).sample(waiting, int(len(waiting) * canceled)):
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        spent = time.process_time() - spent
    moments = [moment for moment, _ in grants]
    lanes = 3 if contender.kind is Kind.OURS else 1
    overtaken = sum(
        overtakings([place for _, place in grants if place % lanes == lane])
        for lane in range(lanes)
    )
    lateness = [
        moment - began - index // limit.requests * limit.span
        for index, moment in enumerate(sorted(moments))
    ]
    late = statistics.quantiles(lateness, n=100)[98]
    peak = peak_in_window(moments, PER)
    return Run(spent / len(grants) * 1e6, peak, late, overtaken, percent_of_pace(moments, limit))


async def usable(report: Report) -> list[Contender]:
    """The limiters that can be made here."""
    found = []
    for contender in CONTENDERS:
        try:
            acquire, ending = contender.make(10, PER)
            with ending:
                await acquire(Lane.CANCEL)
        except Exception as error:  # noqa: BLE001 - whatever a foreign library raises is the reason
            report.remarks.append(f"{contender.name}: not measured: {peers.reason(error)}")
        else:
            found.append(contender)
    return found


async def block(acquire: Acquire, count: int) -> float:
    """CPU per permit that nobody has to wait for."""
    started = time.process_time()
    for _ in range(count):
        await acquire(Lane.CANCEL)
    return (time.process_time() - started) / count * 1e6


async def uncontended(contenders: list[Contender], given: Options, report: Report) -> None:
    """One caller at a time, far below the limit."""
    size, rounds = given.size(2_000), given.rounds(20)
    made = [(each, *each.make(1_000_000, PER)) for each in contenders]
    arms = [
        Arm(each.name, each.kind, partial(block, acquire, size), each.note)
        for each, acquire, _ in made
    ]
    measured = await measure.alternate(arms, rounds)
    for _, _, ending in made:
        ending.__exit__(None, None, None)
    report.add("uncontended", "us", arms, measured)
    report.judge_value(
        "Limiter, uncontended, CPU per permit",
        measured["tronsave-async"],
        UNCONTENDED,
        ideal=f"{number(measured['ideal'].median)} us" if "ideal" in measured else "",
    )
    bars = [Bar(arm.name, arm.kind, measured[arm.name]) for arm in arms]
    report.charts.append(
        Chart("limiter_uncontended", "CPU per permit that nobody waits for", "us", bars, True)
    )


async def contended(
    contenders: list[Contender], count: int, given: Options, report: Report
) -> None:
    """Everybody at once."""
    setting = f"{count:,} waiters"
    runs: dict[str, list[Run]] = {each.name: [] for each in contenders}
    for _ in range(given.rounds(3, quick=1)):
        for each in contenders:
            runs[each.name].append(await crowd(each, count))
    limit = count // SHARE
    arms = [each._replace(note=kept(runs[each.name], limit)) for each in contenders]
    measured = {name: Series([run.cpu for run in found]) for name, found in runs.items()}
    report.add(setting, "us / grant", arms, measured)
    aiolimiter = ["aiolimiter"]
    report.judge(f"Limiter, CPU per grant, {setting}", setting, peer=TO_PEER, peers=aiolimiter)
    promised(report, f"Limiter, most grants in a window, {setting}", "peak", runs, limit)
    promised(report, f"Limiter, overtakings in a lane, {setting}", "overtaken", runs, 0)
    if count == WAITERS[-1] or given.quick:
        bars = [Bar(arm.name, arm.kind, measured[arm.name]) for arm in arms]
        title = f"CPU per grant, {setting} in three lanes (peers: one)"
        report.charts.append(Chart("limiter_contended", title, "us", bars))


def kept(runs: list[Run], limit: int) -> str:
    """What else was seen, as a note."""
    peak = max(run.peak for run in runs)
    late = max(run.late for run in runs) * 1000
    overtaken = max(run.overtaken for run in runs)
    return (
        f"at most {peak:,} in a window of {limit:,}; {late:,.1f} ms late (p99); "
        f"{overtaken:,} overtaken; {number(runs[0].rate)} % of the pace"
    )


def promised(
    report: Report, question: str, what: str, runs: dict[str, list[Run]], most: int
) -> None:
    """Hold what must never happen against its bound, with what the peers did beside it."""
    worst = {name: max(int(getattr(run, what)) for run in found) for name, found in runs.items()}
    others = [f"{name} {value:,}" for name, value in worst.items() if name not in NO_PEERS]
    report.verdicts.append(
        Verdict(
            question,
            f"{worst['tronsave-async']:,}",
            f"{worst['ideal']:,}" if "ideal" in worst else "",
            ", ".join(others),
            "",
            f"<= {most:,}",
            worst["tronsave-async"] <= most,
        )
    )


async def half_canceled(contenders: list[Contender], given: Options, report: Report) -> None:
    """The rate of the rest, after half of those who waited have gone."""
    count = given.size(4_000)
    runs: dict[str, list[Run]] = {each.name: [] for each in contenders}
    for _ in range(given.rounds(3, quick=1)):
        for each in contenders:
            runs[each.name].append(await crowd(each, count, canceled=0.5))
    setting = f"{count:,} waiters, half of them canceled"
    rates = {name: Series([run.rate for run in found]) for name, found in runs.items()}
    for each in contenders:
        report.line(setting, each.name, each.kind, "% of the pace", rates[each.name], each.note)
    others = [f"{name} {number(rate.median)} %" for name, rate in rates.items()]
    report.judge_value(
        f"Limiter, rate, {setting}",
        rates["tronsave-async"],
        KEPT_RATE,
        peer=", ".join(other for other in others if not other.startswith(NO_PEERS)),
    )


async def profile(given: Options, report: Report) -> None:
    """Write where a permit's time goes."""
    assert given.profile is not None
    count = given.size(20_000)
    limiter = RateLimiter()
    limiter.declare(SCOPE, RateLimit(count // 20, per=0.01, margin=0.0))

    async def take(lane: Lane) -> None:
        with await limiter.acquire(SCOPE, lane=lane) as permit:
            permit.spend()

    crowd_of_all = asyncio.gather(*[take(Lane(place % 3)) for place in range(count)])
    report.profiles.append(await measure.profiled(given.profile, "limiter_contended", crowd_of_all))


async def compare(given: Options, report: Report) -> None:
    """All of it."""
    contenders = await usable(report)
    measure.settle_heap()
    await uncontended(contenders, given, report)
    for count in WAITERS[:1] if given.quick else WAITERS:
        await contended(contenders, count, given, report)
    await half_canceled(contenders, given, report)


def main(argv: list[str] | None = None) -> None:
    """Measure."""
    given = measure.options(__doc__, argv)
    started = time.perf_counter()
    report = Report("limiter", "Limiter", __doc__ or "")
    measure.run_on("asyncio", (profile if given.profile else compare)(given, report))
    finish(report, given, time.perf_counter() - started)


if __name__ == "__main__":
    main()
