"""Creations of orders whose names the client chose, as far as they concern the cancels of these names.

An order of such a name may come to be at any moment while its creation is under way, or in doubt. Until then the
vendor knows no such order, or still a former one: cancels of the name wait for the creation's end, and ask again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async.orders import OrderRef
    from tronsave_async.settlement import Doubts, Name

__all__ = ["Creations", "NewOrder"]


class NewOrder:
    """One creation.

    Args:
        creations: the gateway's.
        order: the name.
        seconds: so long after its departure it has taken effect, or never will.
    """

    def __init__(self, creations: Creations, order: OrderRef, seconds: float) -> None:
        self.order: Final = order
        self.seconds: Final = seconds
        self._creations = creations

    def departs(self) -> None:
        """Its request leaves; or leaves again, since the vendor did not look at the first."""
        self._creations.departs(self)

    def is_there(self) -> None:
        """The vendor tells the order."""
        self._creations.is_there(self)

    def is_refused(self) -> None:
        """It made no order, and will make none."""
        self._creations.is_refused(self)


class Creations:
    """The creations of one gateway that have left and not ended, by the names of their orders.

    Args:
        doubts: the gateway's.
        detach: lets nobody who comes from now on share a cancel of the order that is under way.
    """

    def __init__(self, doubts: Doubts, detach: Callable[[OrderRef], None]) -> None:
        self._doubts = doubts
        self._detach = detach
        self._open: dict[Name, dict[NewOrder, asyncio.TimerHandle]] = {}
        """Each with what ends it at the latest."""
        self._ends: dict[Name, asyncio.Future[None]] = {}
        """Done at the next end."""

    def __len__(self) -> int:
        """How many names wait for an order."""
        return len(self._open)

    def new_order(self, order: OrderRef, seconds: float) -> NewOrder:
        """What is to be told of the creation of ``order``; see `NewOrder`."""
        return NewOrder(self, order, seconds)

    async def end_of_one(self, name: Name) -> None:
        """Wait until one of the creations of a name ends, if there is one."""
        if name in self._open:
            loop = asyncio.get_running_loop()
            await asyncio.wait([self._ends.setdefault(name, loop.create_future())])

    def departs(self, new: NewOrder) -> None:
        """A creation leaves (internal to `NewOrder`)."""
        self._detach(new.order)
        loop = asyncio.get_running_loop()
        now = loop.time()
        timers = self._open.setdefault(new.order.name, {})
        if new in timers:
            timers[new].cancel()
        timers[new] = loop.call_at(now + new.seconds, self._close, new)
        self._doubts.creating(new.order, now, self._latest_end(new.order.name, now))

    def is_there(self, new: NewOrder) -> None:
        """Its order is there (internal to `NewOrder`)."""
        self._close(new)
        now = asyncio.get_running_loop().time()
        self._doubts.created(new.order, self._latest_end(new.order.name, now))

    def is_refused(self, new: NewOrder) -> None:
        """There is no order of it, and will be none (internal to `NewOrder`)."""
        if self._close(new):
            others = new.order.name in self._open
            self._doubts.not_created(
                new.order, self._latest_end(new.order.name, 0.0) if others else None
            )

    def end(self) -> None:
        """The gateway is closed: nothing is waited for any more."""
        for timers in list(self._open.values()):
            for new in list(timers):
                self._close(new)

    def _latest_end(self, name: Name, now: float) -> float:
        """When the last of those under way ends; now if there is none."""
        return max((timer.when() for timer in self._open.get(name, {}).values()), default=now)

    def _close(self, new: NewOrder) -> bool:
        """The only place where a creation ends. False if it had not left, or had ended before."""
        name = new.order.name
        timers = self._open.get(name, {})
        if new not in timers:
            return False
        timers.pop(new).cancel()
        if not timers:
            del self._open[name]
        if name in self._ends:
            self._ends.pop(name).set_result(None)
        return True
