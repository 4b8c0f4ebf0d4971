"""A gateway's life on an event loop: bound to it by the first call, ended once, and its background tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tronsave_async.errors import GatewayClosed, UsageError
from tronsave_async.tasks import clock, start

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Lifetime"]


class Lifetime:
    """Whether a gateway is open, on which event loop, and what runs in its background.

    Args:
        venue: the gateway's name, for errors.
    """

    def __init__(self, venue: str) -> None:
        self.venue: Final = venue
        self.time: Callable[[], float] = clock
        """Monotonic seconds of the loop that it serves."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_over(self) -> bool:
        """The gateway is closed, or closes."""
        return self._over.is_set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it serves."""
        assert self._loop is not None, "every call begins with `check_open`"
        return self._loop

    def check_open(self) -> asyncio.AbstractEventLoop:
        """Bind the gateway to the running event loop on its first call, and return it.

        Raises:
            GatewayClosed: it is closed.
            UsageError: it serves another event loop.
        """
        if self._over.is_set():
            raise GatewayClosed(self.venue)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self.time = loop.time
        elif self._loop is not loop:
            raise UsageError(f"this {self.venue} gateway serves another event loop: open a new one")
        return loop

    def end(self) -> bool:
        """Close the gateway. False where there is nothing to end: it serves another loop, with which that has gone."""
        self._over.set()
        return self._loop in (None, asyncio.get_running_loop())

    def spawn(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a background task of the gateway."""
        task = start(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def end_tasks(self) -> None:
        """Cancel the background tasks, and wait for their end."""
        if tasks := set(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def sleep_until(self, moment: float) -> None:
        """Sleep, or until the gateway closes. The moment is absolute: those who shared a request wake up in one tick,
        and share the next."""
        bound = asyncio.timeout_at(moment)
        try:
            async with bound:
                await self._over.wait()
        except TimeoutError:
            if not bound.expired():
                raise
