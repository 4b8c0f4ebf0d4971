"""Ripio Trade on the stage."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Final

from brokers.ripio import RipioGateway
from brokers.ripio.sandbox import OrderState as Recorded
from brokers.ripio.sandbox import RipioRules, RipioSandbox
from support.canary import CANARY
from tronsave_async import OrderState
from tronsave_async.sandbox import replaced

from .stage import Ability, CancelsByOrder, Record, Stage, virtual_now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tronsave_async import OrderGateway
    from tronsave_async.sandbox import Fault, RecordedRequest

STATES: Final = {
    Recorded.OPEN: OrderState.OPEN,
    Recorded.EXECUTED_PARTIALLY: OrderState.PARTIALLY_FILLED,
    Recorded.EXECUTED_COMPLETELY: OrderState.FILLED,
    Recorded.CANCELED: OrderState.CANCELED,
}


class RipioStage(Stage):
    """One signed WebSocket for cancels, REST for the read-back, amounts in every reply."""

    venue: ClassVar[str] = "ripio"
    lacks: ClassVar[Mapping[Ability, str]] = {
        Ability.AGE_RULE: "an order can be canceled as long as it is open",
        Ability.EXPIRY: "an order stays open until it is executed or canceled",
        Ability.RETRY_AFTER: "cancels travel on a WebSocket, whose messages have no headers",
    }
    read_calls: ClassVar[tuple[str, ...]] = ("order",)
    repeats_first: ClassVar[bool] = True

    sandbox: RipioSandbox

    def __init__(self, limit: tuple[int, float] | None = None) -> None:
        requests, window = limit or (100_000, 1.0)
        self.now = virtual_now()
        self.sandbox = RipioSandbox(
            api_token=f"token-{CANARY}",
            secret=f"secret-{CANARY}",
            requests_per_window=requests,
            window=window,
            rules=RipioRules(reject_replayed_signatures=True),
            now=self.now,
        )
        self._cancels = CancelsByOrder(
            self.sandbox, "cancel", lambda request: [request.body["params"]["id"]]
        )

    def gateway(self, **options: Any) -> OrderGateway:
        ws_url, rest_url = self.sandbox.ws_url, self.sandbox.rest_url
        token, secret = self.sandbox.api_token, self.sandbox.secret
        return RipioGateway(token, secret, ws_url=ws_url, rest_url=rest_url, **options)

    def place(self, created_at: datetime | None = None) -> str:
        return self.sandbox.add_order(amount="0.003", created_at=created_at)

    def stranger(self) -> str:
        return "00000000-0000-4000-8000-000000000000"

    def fill(self, order_id: str) -> None:
        self.sandbox.fill(order_id)

    def fill_partly(self, order_id: str) -> None:
        self.sandbox.fill(order_id, Decimal("0.001"))

    def refusal(self, order_id: str) -> Fault:
        return replaced("cancel", status=400)

    def record(self, order_id: str) -> Record | None:
        order = self.sandbox.orders.get(order_id)
        if order is None:
            return None
        return Record(STATES[order.state], order.executed_amount, order.remaining_amount)

    def cancels(self, order_id: str) -> Sequence[RecordedRequest]:
        return self._cancels[order_id]


STAGE: type[Stage] = RipioStage
