"""The contract: what every vendor's gateway does, and all that a caller needs to read.

::

    async with TronSaveGateway(api_key=...) as gateway:
        outcome = await gateway.cancel("673c17a3129f1881382e98e3", timeout=10)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from tronsave_async.orders import OrderRef, OrderSnapshot, OrderState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from tronsave_async.outcomes import CancelOutcome

__all__ = ["OrderGateway", "OrderRef", "OrderSnapshot", "OrderState"]


@runtime_checkable
class OrderGateway(Protocol):
    """Cancels orders at one vendor, and knows what happened.

    A gateway may be opened in one task, used from many, and closed from another, all on one event loop.
    """

    @property
    def venue(self) -> str:
        """The vendor's name: ``"tronsave"``."""

    async def cancel(self, order: OrderRef | str, *, timeout: float | None = 30.0) -> CancelOutcome:
        """Cancel one order.

        Args:
            order: the order, or the vendor's id of it.
            timeout: seconds for the whole call: queueing, attempts, pauses, read-back. None for no bound.

        Returns:
            Exactly one outcome, which says who proved it. When time runs out it is `NotSent` if nothing left this
            process, and else `Unknown`, unless something better was proved by then.

        Raises:
            UsageError: the order or the timeout is not usable; nothing was sent.
            AuthenticationRejected, PermissionDenied, WrongEndpoint: the account or the address is wrong; nothing was
                done to the order, and no request of this call is in doubt.
            GatewayClosed: the gateway was closed before the call.

        Canceling the call is safe: an order that still waits for its request is not sent any more; a request under
        way may close the order. A later `cancel` or `get_order` tells; the gateway remembers the doubt.
        """

    async def cancel_many(
        self,
        orders: Iterable[OrderRef | str],
        *,
        timeout: float | None = None,
        on_outcome: Callable[[CancelOutcome], object] | None = None,
    ) -> list[CancelOutcome]:
        """Cancel many orders with as few requests as the vendor allows.

        Args:
            orders: any number; equal ids share their request and each gets its outcome.
            timeout: seconds for the whole call, or None: as long as it takes.
            on_outcome: called with each outcome as soon as it is known, on the event loop. What it raises goes to
                the loop's exception handler.

        Returns:
            One outcome per order, in order. An order that cannot be sent (an empty id) is `NotSent`, and disturbs no
            other.

        Raises:
            UsageError: the timeout is not usable, or an item is neither Unicode text nor an `OrderRef`; nothing was
                sent.
            AuthenticationRejected, PermissionDenied, WrongEndpoint: as for `cancel`, and no order was reached.
            GatewayClosed: the gateway was closed before the call.

        Canceling the call is safe, as for `cancel`.
        """

    async def get_order(
        self, order: OrderRef | str, *, timeout: float | None = 30.0
    ) -> OrderSnapshot:
        """Read an order.

        Args:
            order: the order, or the vendor's id of it.
            timeout: seconds for the whole call, retries included. None for no bound.

        Returns:
            What the vendor says; its state is UNKNOWN where the vendor says nothing or an unknown word.

        Raises:
            UsageError: the order or the timeout is not usable; nothing was sent.
            OrderNotFound: the vendor's own words.
            RequestFailed, VendorError: the vendor could not be asked, or did not answer usefully, also after the
                retries.
            GatewayClosed: the gateway was closed before or during the call.

        Canceling the call is safe.
        """

    async def aclose(self) -> None:
        """Close. Pending cancels end at once with what was proved so far. Idempotent, from any task of the loop."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
