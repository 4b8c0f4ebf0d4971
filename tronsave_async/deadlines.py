"""One timer for the deadlines of any number of waits, where a timer for each would cost more than the wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, Protocol

__all__ = ["Deadlines", "Wait"]


FEW: Final = 64
"""Different timeouts whose queues are kept when nobody waits in them; who gives the time that is left has many."""


class Wait(Protocol):
    """What can run out of time."""

    def expire(self) -> None:
        """Its time is over. Nothing of it may raise."""


class Deadlines:
    """The deadlines of waits on one event loop.

    Waits with the same timeout end in the order in which they began: for each timeout there is a queue, whose head has
    the only timer. A timer that finds its head gone is set anew; so a wait that ends in time costs no timer at all.
    """

    __slots__ = ("_queues", "_timers")

    def __init__(self) -> None:
        self._queues: dict[float, OrderedDict[Wait, float]] = {}
        self._timers: dict[float, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._queues.values()))

    def enter(self, wait: Wait, timeout: float, now: float) -> None:
        """A wait begins at ``now`` (the loop's time) and may take ``timeout`` seconds."""
        queue = self._queues.get(timeout)
        if queue is None:
            queue = self._queues[timeout] = OrderedDict()
        queue[wait] = now + timeout
        if timeout not in self._timers:
            self._arm(timeout, now + timeout)

    def leave(self, wait: Wait, timeout: float) -> None:
        """It ended, in time or not."""
        queue = self._queues.get(timeout)
        if queue is None:
            return
        queue.pop(wait, None)
        if not queue and len(self._queues) > FEW:
            del self._queues[timeout]
            self._timers.pop(timeout).cancel()

    def close(self) -> None:
        """The time of all who wait is over."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            while queue:
                queue.popitem(last=False)[0].expire()

    def _arm(self, timeout: float, when: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[timeout] = loop.call_at(when, self._sweep, timeout, when)

    def _sweep(self, timeout: float, due: float) -> None:
        # Event loops may be early, uvloop by a millisecond: to go by the clock alone would be to ask them again.
        now = max(asyncio.get_running_loop().time(), due)
        queue = self._queues[timeout]
        while queue:
            wait, when = next(iter(queue.items()))
            if when > now:
                self._arm(timeout, when)
                return
            del queue[wait]
            wait.expire()
        del self._queues[timeout], self._timers[timeout]
