"""Limiters that users would pick instead, behind one call: wait for the right to send one request.

Each is given the same limit, N requests per so many seconds, in the words of its own documentation. None of them has
lanes: all who wait, wait in one queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, NamedTuple

from ideals import SlidingLog
from measure import Kind

from tronsave_async import Lane, RateLimit, RateLimiter, Scope

Acquire = Callable[[Lane], Awaitable[object]]
SCOPE = Scope("bench", "account", "call")


class Contender(NamedTuple):
    """How to make one limiter: its call, and what ends it."""

    name: str
    kind: Kind
    note: str
    make: Callable[[int, float], tuple[Acquire, AbstractContextManager[object]]]


def ours(requests: int, per: float) -> tuple[Acquire, AbstractContextManager[object]]:
    """The SDK's, with its default margin."""
    limiter = RateLimiter()
    limiter.declare(SCOPE, RateLimit(requests, per=per))

    async def acquire(lane: Lane) -> None:
        with await limiter.acquire(SCOPE, lane=lane) as permit:
            permit.spend()

    return acquire, nullcontext()


def sliding_log(requests: int, per: float) -> tuple[Acquire, AbstractContextManager[object]]:
    """Written by hand, with the same margin."""
    limiter = SlidingLog(requests, RateLimit(requests, per=per).span)
    return lambda lane: limiter.acquire(), nullcontext()


def aiolimiter(requests: int, per: float) -> tuple[Acquire, AbstractContextManager[object]]:
    """A leaky bucket."""
    limiter = import_module("aiolimiter").AsyncLimiter(requests, per)
    return lambda lane: limiter.acquire(), nullcontext()


def pyrate(requests: int, per: float) -> tuple[Acquire, AbstractContextManager[object]]:
    """A sliding log in milliseconds."""
    module = import_module("pyrate_limiter")
    limiter = module.Limiter(module.Rate(requests, int(per * 1000)))
    return lambda lane: limiter.try_acquire_async("bench"), limiter


def limits(requests: int, per: float) -> tuple[Acquire, AbstractContextManager[object]]:
    """A moving window that answers yes or no; waiting is left to its user, who sleeps until the window resets."""
    module, storage = import_module("limits"), import_module("limits.aio.storage")
    strategies = import_module("limits.aio.strategies")
    limiter = strategies.MovingWindowRateLimiter(storage.MemoryStorage())
    item = module.RateLimitItemPerSecond(requests, max(1, round(per)))

    async def acquire(_: Lane) -> None:
        while not await limiter.hit(item, "bench"):
            window = await limiter.get_window_stats(item, "bench")
            await asyncio.sleep(max(0.001, window.reset_time - time.time()))

    return acquire, nullcontext()


def ccxt(requests: int, per: float) -> tuple[Acquire, AbstractContextManager[object]]:
    """The rolling window of its throttler; its default, a leaky bucket, spaces requests evenly."""
    throttler: Any = import_module("ccxt.async_support.base.throttler").Throttler(
        {
            "algorithm": "rollingWindow",
            "windowSize": per * 1000,
            "rateLimit": per * 1000 / requests,
        },
        asyncio.get_running_loop(),
    )
    return lambda lane: throttler(), nullcontext()


CONTENDERS = (
    Contender("tronsave-async", Kind.OURS, "three lanes, margin 50 ms", ours),
    Contender("ideal", Kind.IDEAL, "one lane: log, queue, timer", sliding_log),
    Contender("aiolimiter", Kind.PEER, "one lane, leaky bucket", aiolimiter),
    Contender("pyrate-limiter", Kind.PEER, "one lane, sliding log", pyrate),
    Contender("limits", Kind.PEER, "no queue: asked again until it says yes", limits),
    Contender("ccxt", Kind.PEER, "one lane, rolling window", ccxt),
)
