"""One creation of an order: what was asked for, and how its order is known again when the reply was lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from tronsave_async.errors import BadReply
from tronsave_async.orders import OrderRef
from tronsave_async.outcomes import Wire
from tronsave_async.tasks import clock

from . import config, verdict
from .auth import JsonValue, business_json
from .config import VENUE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from tronsave_async.lifetime import Lifetime

    from .wire import Frame, Order

__all__ = ["Creation"]

_LOOK_AT_OPEN_ORDERS: Final = (
    "Look with open_orders() and orders(pair) for its side, amount and price; with an external_id the gateway would "
    "have looked by itself."
)
_SLACK: Final = timedelta(seconds=config.TOLERANCE)
"""By how much an order may seem older than the request that created it: the vendor's own tolerance."""


class Creation:
    """What one ``create`` asked for.

    Args:
        params: the vendor's parameters, in its order; None where one is not given.

    Raises:
        UsageError: a parameter cannot be sent.
    """

    def __init__(self, params: Mapping[str, JsonValue]) -> None:
        self._wanted = {name: value for name, value in params.items() if value is not None}
        self.business: Final = business_json(self._wanted)
        external_id = self._wanted.get("external_id")
        self.order: Final = (
            OrderRef(client_id=external_id) if isinstance(external_id, str) else None
        )
        """The caller's own name of the order, or None: then there is nothing to find it by."""
        self.how_to_check: Final = (
            _LOOK_AT_OPEN_ORDERS
            if self.order is None
            else f"Look with order(OrderRef(client_id={self.order.client_id!r}))."
        )
        self._late: asyncio.Future[Order] = asyncio.get_running_loop().create_future()

    def time_to_answer(self, seconds: float | None) -> float | None:
        """The part of the caller's time in which the vendor may answer: the rest is for a look."""
        if seconds is None or self.order is None:
            return seconds
        return max(seconds - config.LAST_LOOK, seconds / 2)

    def read(self, reply: Frame) -> Order:
        """The order that a reply to the creation tells.

        Raises:
            GatewayError: the reply is an error, or tells another order.
        """
        order = verdict.created_order(reply)
        if not self._matches(order):
            reason = "the reply tells another order"
            raise BadReply(VENUE, "create", reason, wire=Wire.ANSWERED, status=reply.status)
        return order

    def is_found(self, order: Order) -> None:
        """A reply that came when nobody waited for it any more tells the order: the search is over."""
        if not self._late.done():
            self._late.set_result(order)

    async def search(
        self,
        look: Callable[[OrderRef, float], Awaitable[Order | None]],
        sent_at: datetime,
        deadline: float,
        lifetime: Lifetime,
    ) -> Order | None:
        """Look for the order whose creation was not answered: at once, and when the vendor is certainly done with it,
        or when time runs out; a late reply ends the search.

        Args:
            look: the vendor's record of an order, by a deadline, or None.
            sent_at: when the creation left, aware, by the vendor's clock as far as that is known.
            deadline: monotonic seconds, or infinity.
            lifetime: the gateway's; its end ends the pause between two looks.
        """
        now = clock()
        last = min(now + config.PROCESSING_TIME, deadline - config.LAST_LOOK)
        for moment in (now, last) if last > now else (now,):
            sleeping = lifetime.spawn(lifetime.sleep_until(moment))
            try:
                waiting: list[asyncio.Future[Any]] = [sleeping, self._late]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
            if self._late.done():
                return self._late.result()
            if self.order is None or deadline <= clock():
                continue
            found = await look(self.order, deadline)
            if found is not None and self._is_it(found, sent_at):
                return found
        return None

    def _is_it(self, found: Order, sent_at: datetime) -> bool:
        """Whether an order of that name is the one that was created then."""
        created = found.create_date
        return created is not None and created >= sent_at - _SLACK and self._matches(found)

    def _matches(self, order: Order) -> bool:
        """Whether an order is what was asked for, as far as the vendor's record tells."""
        told = {
            "external_id": order.external_id,
            "pair": order.pair,
            "side": order.side,
            "type": order.type,
            "amount": order.requested_amount,
            "price": order.price,
        }
        return all(
            said is None or self._wanted.get(name) in (None, said) for name, said in told.items()
        )
