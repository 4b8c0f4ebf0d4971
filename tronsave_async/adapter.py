"""What the vendors' gateways share: the contract, carried out by a `Dispatcher`."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

from tronsave_async.errors import UsageError
from tronsave_async.orders import OrderRef, OrderSnapshot, OrderState

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tronsave_async.dispatch import Dispatcher
    from tronsave_async.outcomes import CancelOutcome

__all__ = ["Adapter"]


class Adapter(abc.ABC):
    """An `OrderGateway`: a vendor's gateway derives from it, and adds how orders are named and the vendor's own calls.

    Use it as an async context manager, or call `aclose`. Constructing it opens nothing. One gateway serves any number
    of tasks of one event loop.

    Args:
        dispatcher: carries the calls; it knows how this vendor's cancels are sent and orders read back.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatch = dispatcher
        self._calls = dispatcher.calls
        self._admission = dispatcher.admission

    @abc.abstractmethod
    def _why_unusable(self, order: OrderRef) -> str | None:
        """Why an order cannot be named to this vendor, or None."""

    @property
    def venue(self) -> str:
        """The vendor's name."""
        return self._dispatch.venue

    async def cancel(self, order: OrderRef | str, *, timeout: float | None = 30.0) -> CancelOutcome:
        """Cancel one order; see `OrderGateway.cancel`."""
        # Nothing else keeps the name as it was given: where ids are secrets, no frame shows a plain one.
        order = self._usable(order)
        return await self._dispatch.cancels.cancel(order, timeout)

    async def cancel_many(
        self,
        orders: Iterable[OrderRef | str],
        *,
        timeout: float | None = None,
        on_outcome: Callable[[CancelOutcome], object] | None = None,
    ) -> list[CancelOutcome]:
        """Cancel many orders; see `OrderGateway.cancel_many`."""
        _check_several(orders)
        if on_outcome is not None and not callable(on_outcome):
            raise UsageError("on_outcome must be callable")
        refs = [self._ref(order) for order in orders]
        del orders
        cancels = self._dispatch.cancels
        return await cancels.cancel_many(refs, timeout, on_outcome, self._why_unusable)

    async def get_order(
        self, order: OrderRef | str, *, timeout: float | None = 30.0
    ) -> OrderSnapshot:
        """Read an order; see `OrderGateway.get_order`."""
        order = self._usable(order)
        snapshot = await self._dispatch.read(order, timeout)
        if snapshot is None:
            return OrderSnapshot(order=order, venue=self.venue, state=OrderState.UNKNOWN)
        return snapshot

    async def aclose(self) -> None:
        """Close; see `OrderGateway.aclose`."""
        await self._dispatch.aclose()

    async def __aenter__(self) -> Self:
        self._dispatch.lifetime.check_open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _usable(self, order: OrderRef | str) -> OrderRef:
        ref = self._ref(order)
        if (reason := self._why_unusable(ref)) is not None:
            raise UsageError(reason)
        return ref

    def _ref(self, order: object) -> OrderRef:
        if isinstance(order, str):
            return OrderRef(id=order)
        if isinstance(order, OrderRef):
            return order
        kind = type(order).__name__
        raise UsageError(f"an order is named by an OrderRef, or by its id as text, not by {kind}")


def _check_several(orders: object) -> None:
    if isinstance(orders, str | bytes | OrderRef):
        raise UsageError("cancel_many takes several orders; cancel takes one")
    if not isinstance(orders, Iterable):
        kind = type(orders).__name__
        raise UsageError(f"cancel_many takes orders in a list or another iterable, not {kind}")
