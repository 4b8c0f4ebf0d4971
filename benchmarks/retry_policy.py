"""A retry policy where nothing goes wrong: what does it cost to be ready for failure?

An awaited call that succeeds at once, bare and under each policy; the difference is the policy's. Ours is the SDK's
`RetryPolicy` and `RetryQuota` in the loop that a dispatcher has around each attempt; the ideal is a bare loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module

import measure
import peers
from measure import Arm, Goal, Kind, Options, Series
from report import Bar, Chart, Report, finish

from tronsave_async import RetryPolicy
from tronsave_async.retry import Reach, Repeatable, RetryQuota, may_repeat

Call = Callable[[], Awaitable[int]]
COST = Goal(1.0, "us")


class Lost(Exception):
    """What would be tried again."""


async def succeed() -> int:
    """The call."""
    return 42


def policy() -> Call:
    """The SDK's policy and quota around a call."""
    rules = RetryPolicy()
    quota = RetryQuota(rules)

    async def call() -> int:
        for failures in range(1, rules.attempts + 1):
            try:
                result = await succeed()
            except Lost:
                repeat = may_repeat(Reach.MAY_HAVE_ARRIVED, Repeatable.ALWAYS)
                if failures == rules.attempts or not repeat or not quota.admit(time.monotonic()):
                    raise
                await asyncio.sleep(rules.delay(failures, spread=random.random()))
            else:
                quota.answered()
                return result
        raise AssertionError("the last failure is raised")

    return call


def by_hand() -> Call:
    """The least."""

    async def call() -> int:
        for failures in range(4):
            try:
                return await succeed()
            except Lost:
                await asyncio.sleep(0.25 * 2**failures)
        raise Lost

    return call


def stamina() -> Call:
    """stamina's decorator."""
    retry = import_module("stamina").retry
    wrapped: Call = retry(on=Lost, attempts=4, timeout=None)(succeed)
    return wrapped


def tenacity() -> Call:
    """tenacity's decorator."""
    module = import_module("tenacity")
    wrapped: Call = module.retry(
        retry=module.retry_if_exception_type(Lost),
        stop=module.stop_after_attempt(4),
        wait=module.wait_random_exponential(0.25, 8.0),
    )(succeed)
    return wrapped


POLICIES: tuple[tuple[str, Kind, str, Callable[[], Call]], ...] = (
    ("bare call", Kind.FLOOR, "no policy; taken off the others", lambda: succeed),
    ("tronsave-async", Kind.OURS, "RetryPolicy and RetryQuota", policy),
    ("ideal", Kind.IDEAL, "a loop", by_hand),
    ("stamina", Kind.PEER, "decorator", stamina),
    ("tenacity", Kind.PEER, "decorator", tenacity),
)


async def block(call: Call, count: int) -> float:
    """CPU per call."""
    started = time.process_time()
    for _ in range(count):
        await call()
    return (time.process_time() - started) / count * 1e6


async def compare(given: Options, report: Report) -> None:
    """All policies."""
    arms = []
    for name, kind, note, make in POLICIES:
        try:
            call = make()
            await call()
        except Exception as error:  # noqa: BLE001 - whatever a foreign library raises is the reason
            report.remarks.append(f"{name}: not measured: {peers.reason(error)}")
            continue
        size = given.size(2_000 if kind is Kind.PEER else 20_000)
        arms.append(Arm(name, kind, partial(block, call, size), note))
    measure.settle_heap()
    measured = await measure.alternate(arms, given.rounds(20))
    bare = measured["bare call"]
    over = {
        name: series if series is bare else Series([a - b for a, b in zip(series.values, bare.values, strict=True)])
        for name, series in measured.items()
    }  # fmt: skip
    report.add("success path", "us", arms, over)
    report.judge_value(
        "Retry policy on the success path",
        over["tronsave-async"],
        COST,
        ideal=f"{measure.number(over['ideal'].median)} us",
        peer=", ".join(
            f"{measure.number(over[arm.name].median)} us ({arm.name})"
            for arm in arms
            if arm.kind is Kind.PEER
        ),
    )
    bars = [Bar(arm.name, arm.kind, over[arm.name]) for arm in arms]
    report.charts.append(
        Chart("retry_policy", "CPU of a retry policy that has nothing to do", "us", bars)
    )


def main(argv: list[str] | None = None) -> None:
    """Measure."""
    given = measure.options(__doc__, argv)
    started = time.perf_counter()
    report = Report("retry_policy", "Retry policy", __doc__ or "")
    measure.run_on("asyncio", compare(given, report))
    finish(report, given, time.perf_counter() - started)


if __name__ == "__main__":
    main()
