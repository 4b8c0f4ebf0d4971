"""sms4sats on the stage."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from brokers.sms4sats import Sms4SatsGateway
from brokers.sms4sats.sandbox import REASONS, Problem, Sms4SatsSandbox
from brokers.sms4sats.sandbox import OrderState as Recorded
from support.canary import CANARY
from tronsave_async import OrderState
from tronsave_async.sandbox import replaced

from .stage import Ability, Record, Stage, virtual_now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tronsave_async import OrderGateway
    from tronsave_async.sandbox import Fault, RecordedRequest

STATES: Final = {
    Recorded.WAITING: OrderState.OPEN,
    Recorded.DELIVERED: OrderState.FILLED,
    Recorded.CANCELED: OrderState.CANCELED,
    Recorded.NO_NUMBER: OrderState.CANCELED,
    Recorded.FAILED: OrderState.CANCELED,
    Recorded.EXPIRED: OrderState.EXPIRED,
}


class Sms4SatsStage(Stage):
    """Cancels by GET, refusals with HTTP 500, no states, no amounts, and two clocks."""

    venue: ClassVar[str] = "sms4sats"
    lacks: ClassVar[Mapping[Ability, str]] = {
        Ability.AMOUNTS: "an order is for one code and has no amount",
        Ability.PARTIAL_FILLS: "an order is for one code",
    }
    read_calls: ClassVar[tuple[str, ...]] = ("status",)
    tells_canceled: ClassVar[bool] = False
    expiry_reads_as: ClassVar[OrderState] = OrderState.CANCELED
    cancelable_after: ClassVar[timedelta] = timedelta(minutes=2)
    lifetime: ClassVar[timedelta] = timedelta(minutes=21)

    sandbox: Sms4SatsSandbox

    def __init__(self, limit: tuple[int, float] | None = None) -> None:
        requests, window = limit or (None, 1.0)
        self.now = virtual_now()
        self.sandbox = Sms4SatsSandbox(
            api_key=CANARY, requests_per_window=requests, window=window, now=self.now
        )

    def gateway(self, **options: Any) -> OrderGateway:
        return Sms4SatsGateway(CANARY, base_url=self.sandbox.url, **options)

    def place(self, created_at: datetime | None = None) -> str:
        created_at = created_at or self.now() - self.cancelable_after - timedelta(seconds=1)
        return self.sandbox.add_order(created_at=created_at)

    def stranger(self) -> str:
        return "5a" * 32

    def fill(self, order_id: str) -> None:
        self.sandbox.deliver(order_id)

    def expire(self, order_id: str) -> None:
        self.sandbox.expire(order_id)

    def refusal(self, order_id: str) -> Fault:
        body = msgspec.json.encode({"status": "error", "reason": REASONS[Problem.TOO_EARLY]})
        return replaced("cancel", status=500, body=body)

    def record(self, order_id: str) -> Record | None:
        order = self.sandbox.orders.get(order_id)
        return None if order is None else Record(STATES[order.state])

    def cancels(self, order_id: str) -> Sequence[RecordedRequest]:
        requests = self.sandbox.requests_about(order_id)
        return [request for request in requests if request.endpoint == "cancel"]


STAGE: type[Stage] = Sms4SatsStage
