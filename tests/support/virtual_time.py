"""
An event loop whose clock jumps.

`loop.time()` is a number kept by the loop. It stands still while anything is ready to run and jumps
to the next timer when nothing is, so that an hour of waiting takes no time, and `asyncio.sleep`,
`asyncio.timeout` and `call_later` agree on what time it is. Sockets are real: a client and a server
on loopback in the same loop exchange bytes while the clock stands still.

Work outside the loop is waited for in real time: executor jobs (`run_in_executor`, `to_thread`,
`getaddrinfo`) hold the clock until they end. Threads that the loop did not start, and other
processes, cannot be seen: do not wait for those on this loop.
"""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from support.interruptible import InterruptibleLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import Executor

T = TypeVar("T")
Args = TypeVarTuple("Args")

START = 1000.0
"""What a new loop's clock shows: positive, as a monotonic clock's value is, and easy to read."""

GRACE = 0.002
"""Seconds of real time that bytes on loopback get to arrive before the clock jumps."""


class Clock:
    """What time it is, and whether it may jump."""

    def __init__(self) -> None:
        self.now = START
        # How many pieces of work are under way that end in real time only.
        self.holds = 0


class JumpingSelector(selectors.DefaultSelector):
    """A selector that moves the clock instead of waiting for a timer."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; if nothing is, the timeout has passed on the clock."""
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        # The loop's own wake-up pipe is always registered. Alone, it has nothing to wait for.
        idle = len(self.get_map()) <= 1 and not self._clock.holds
        ready = super().select(0 if idle else min(timeout, GRACE))
        if not ready and not self._clock.holds:
            self._clock.now += timeout
        return ready


class VirtualTimeLoop(InterruptibleLoop):
    """A selector event loop on a clock that jumps."""

    def __init__(self) -> None:
        self._clock = Clock()
        super().__init__(JumpingSelector(self._clock))

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._clock.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Args], T], *args: *Args
    ) -> asyncio.Future[T]:
        """Run a function in a thread; the clock stands still until it has ended."""
        future = super().run_in_executor(executor, func, *args)
        self._clock.holds += 1
        future.add_done_callback(self._release)
        return future

    async def shutdown_default_executor(self, *timeout: float | None) -> None:
        """Join the executor's threads; the clock stands still, so that no timeout is invented."""
        self._clock.holds += 1
        try:
            await super().shutdown_default_executor(*timeout)
        finally:
            self._clock.holds -= 1

    def _release(self, _: asyncio.Future[T]) -> None:
        self._clock.holds -= 1
