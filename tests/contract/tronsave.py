"""TronSave on the stage."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from brokers.tronsave import TronSaveGateway
from brokers.tronsave.sandbox import OrderState as Recorded
from brokers.tronsave.sandbox import TronSaveRules, TronSaveSandbox, UnknownIds
from support.canary import CANARY
from tronsave_async import OrderState
from tronsave_async.sandbox import replaced

from .stage import Ability, CancelsByOrder, Record, Stage, virtual_now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tronsave_async import OrderGateway
    from tronsave_async.sandbox import Fault, RecordedRequest

STATES: Final = {
    Recorded.PENDING: OrderState.OPEN,
    Recorded.MATCHED: OrderState.FILLED,
    Recorded.CONFIRMED: OrderState.FILLED,
    Recorded.CANCELED: OrderState.CANCELED,
    Recorded.EXPIRED: OrderState.EXPIRED,
}


class TronSaveStage(Stage):
    """Fast Charge: REST, orders share requests, all or nothing is filled."""

    venue: ClassVar[str] = "tronsave"
    lacks: ClassVar[Mapping[Ability, str]] = {
        Ability.AGE_RULE: "an order can be canceled as long as it is not matched",
        Ability.PARTIAL_FILLS: "an order is matched wholly or not at all",
    }
    read_calls: ClassVar[tuple[str, ...]] = ("track", "history")
    cancels_per_request: ClassVar[int] = 50
    lifetime: ClassVar[timedelta] = timedelta(minutes=5)

    sandbox: TronSaveSandbox

    def __init__(self, limit: tuple[int, float] | None = None) -> None:
        requests, window = limit or (100_000, 1.0)
        self.now = virtual_now()
        self.sandbox = TronSaveSandbox(
            api_key=CANARY,
            requests_per_window=requests,
            window=window,
            rules=TronSaveRules(unknown_canceled=UnknownIds.REJECTED),
            now=self.now,
        )
        self._cancels = CancelsByOrder(
            self.sandbox, "cancel", lambda request: request.body["order_ids"]
        )

    def gateway(self, **options: Any) -> OrderGateway:
        return TronSaveGateway(CANARY, base_url=self.sandbox.url, **options)

    def place(self, created_at: datetime | None = None) -> str:
        deadline = int(self.lifetime.total_seconds())
        return self.sandbox.add_order(created_at=created_at, deadline=deadline)

    def stranger(self) -> str:
        return "673c17a3129f1881382e98e3"

    def fill(self, order_id: str) -> None:
        self.sandbox.match(order_id)

    def expire(self, order_id: str) -> None:
        self.sandbox.expire(order_id)

    def refusal(self, order_id: str) -> Fault:
        result = {"order_id": order_id, "is_success": False, "fail_reason": "not now"}
        body = msgspec.json.encode({"cancel_results": [result]})
        return replaced("cancel", status=200, body=body)

    def record(self, order_id: str) -> Record | None:
        order = self.sandbox.orders.get(order_id)
        if order is None:
            return None
        state, amount = STATES[order.state], Decimal(order.amount)
        filled = state is OrderState.FILLED
        return Record(state, amount if filled else Decimal(0), Decimal(0) if filled else amount)

    def cancels(self, order_id: str) -> Sequence[RecordedRequest]:
        return self._cancels[order_id]


STAGE: type[Stage] = TronSaveStage
