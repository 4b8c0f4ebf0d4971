"""TronSave's part of the demo: everything in it that only this vendor needs."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from tronsave_async import OrderState, RateLimit, Sent
from tronsave_async import sandbox as accidents

from .demo import PROCESSED, Accident, Conduct, Plan, Record, Stage, accident, counted
from .tronsave import TronSaveGateway
from .tronsave.sandbox import OrderState as BookState
from .tronsave.sandbox import SandboxOrder, TronSaveSandbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tronsave_async import Event, TelemetryHook
    from tronsave_async.sandbox import RecordedRequest

__all__ = ["TronSaveStage", "accidents_of_cancels", "accidents_of_reads"]

AMOUNT: Final = 65_000
MAX_PRICE: Final = 70
BALANCE: Final = 10_000_000_000

_STATES: Final = {
    BookState.PENDING: OrderState.OPEN,
    BookState.MATCHED: OrderState.FILLED,
    BookState.CONFIRMED: OrderState.FILLED,
    BookState.CANCELED: OrderState.CANCELED,
    BookState.EXPIRED: OrderState.EXPIRED,
}


def accidents_of_cancels(pace: float) -> list[Accident]:
    """What befalls the cancels; some are spared."""
    spared = Accident(accidents.Fault(endpoint="cancel"), PROCESSED)
    silence = b'{"cancel_results":[]}'
    busy = 1.5 * pace
    return [
        spared,
        spared,
        accident(accidents.drop_after("cancel"), "processed; reply lost"),
        accident(accidents.drop_before("cancel"), "nothing: the line broke"),
        accident(accidents.server_error("cancel", status=503), "nothing: out of service"),
        accident(accidents.html_page("cancel", processed=True), "processed; proxy sent HTML"),
        accident(
            accidents.replaced("cancel", status=200, body=silence, processed=True),
            "processed; named no order",
        ),
        accident(
            accidents.rate_limited("cancel", retry_after=busy), f"nothing: busy for {busy:.3g} s"
        ),
    ]


def accidents_of_reads() -> list[Accident]:
    """What befalls the requests that read orders back."""
    return [
        Accident(accidents.Fault(endpoint="track"), PROCESSED),
        accident(accidents.truncated("track"), "broke off halfway"),
    ]


class TronSaveStage(Stage[TronSaveSandbox, TronSaveGateway]):
    """The sandbox with the documented limits, and a gateway to it."""

    vendor = "TronSave Fast Charge"
    usual_orders = 60
    pace = 2.0  # every page of Fast Charge documents one request per two seconds
    yardstick = "one by one"

    def __init__(self, plan: Plan, listen: TelemetryHook) -> None:
        super().__init__(plan, listen)
        self.terms = f"strict limit of 1 request per {self.pace:g} s and call"
        self._batch = min(50, -(-plan.orders // 5))
        self._races = 1 + plan.orders // 10

    def _simulate(self) -> TronSaveSandbox:
        return TronSaveSandbox(
            window=self.pace, jitter=self.jitter, seed=self._plan.seed, balance=BALANCE
        )

    def _connect(self) -> TronSaveGateway:
        return TronSaveGateway(
            "sandbox-key",
            base_url=self._simulator.url,
            rate_limit=RateLimit(requests=1, per=self.pace, margin=self.margin),
            max_ids=self._batch,
            telemetry=self._hear,
        )

    async def _create(self, number: int) -> list[str]:
        """All by one call."""
        return await self.gateway.create(
            receivers=[f"T{each:033d}" for each in range(number)],
            amount=AMOUNT,
            max_price_accept=MAX_PRICE,
            duration_sec=900,
            deadline=300,
        )

    def conduct(self, call: str, number: int) -> Conduct:
        """What the vendor did with a request, from its own record of requests."""
        arrived = self._simulator.requests_to(call)
        if number >= len(arrived):
            return Conduct("nothing: it never arrived", is_usual=False)
        request = arrived[number]
        if request.fault is not None:
            return self._befell(request.fault)
        if not request.processed:
            return Conduct(f"nothing: {request.status}, too early", is_usual=False)
        if call == "create":
            return Conduct(f"created {counted(len(request.body['receivers']), 'order')}")
        return PROCESSED

    def record(self, order: str) -> Record | None:
        """An order as the sandbox's book has it."""
        entry = self._simulator.orders.get(order)
        if entry is None:
            return None
        elsewhere = self._elsewhere.get(order, "")
        return Record(
            state=_STATES[entry.state],
            word=entry.state.value,
            how=elsewhere,
            executed=_filled(entry),
            remaining=entry.amount - _filled(entry),
            ours=entry.state is BookState.CANCELED and not elsewhere,
            asked=any(order in _ids(request) for request in self._simulator.requests_to("cancel")),
        )

    def _accidents(self) -> Sequence[Accident]:
        script = accidents_of_cancels(self.pace)
        self._random.shuffle(script)
        return [*script, *accidents_of_reads()]

    def _hear(self, event: Event, /) -> None:
        """In the moment in which a cancel leaves, the market takes one of the orders: that is the race."""
        if isinstance(event, Sent) and event.endpoint == "cancel" and self._races:
            book = self._simulator.orders
            pending = [order for order in book if book[order].state is BookState.PENDING]
            if len(pending) > 1:
                self._races -= 1
                self._match(self._random.choice(pending[: self._batch]), "in the race")
        self._listen(event)

    def _end_elsewhere(self, number: int, order: str) -> None:
        if number % 4 == 1:
            self._elsewhere[order] = "at its deadline"
            self._simulator.expire(order)
        elif number % 4 == 3:
            self._elsewhere[order] = "on the website"
            self._simulator.cancel_behind_back(order)
        else:
            self._match(order, "beforehand")

    def _match(self, order: str, when: str) -> None:
        self._elsewhere[order] = when
        self._simulator.match(order)


def _ids(request: RecordedRequest) -> Sequence[str]:
    """The orders that a cancel request named; the client's own requests always have a list of them."""
    ids: Sequence[str] = request.body["order_ids"]
    return ids


def _filled(entry: SandboxOrder) -> Decimal:
    return Decimal(entry.amount if entry.matched_at is not None else 0)
