"""TronSave's part of the demo: everything in it that only this vendor needs."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from tronsave_async import OrderState, RateLimit, Sent
from tronsave_async import sandbox as accidents

from .demo import Conduct, Plan, Record
from .tronsave import TronSaveGateway
from .tronsave.sandbox import OrderState as BookState
from .tronsave.sandbox import SandboxOrder, TronSaveSandbox

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from tronsave_async import Event, TelemetryHook
    from tronsave_async.sandbox import Fault, RecordedRequest

__all__ = ["Accident", "TronSaveStage", "accidents_of_cancels", "accidents_of_reads"]

PACE: Final = 2.0
"""Seconds: every page of Fast Charge documents one request per two seconds."""
MARGIN: Final = 0.075
"""Seconds that the client leaves to the network, as by default."""
JITTER: Final = 0.05
"""Seconds that a request or a reply travels at most."""

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


class Accident(NamedTuple):
    """Something that befalls one request, and what the vendor did with it."""

    fault: Fault
    conduct: Conduct


PROCESSED: Final = Conduct("processed")


def accidents_of_cancels(pace: float) -> list[Accident]:
    """What befalls the cancels; some are spared."""
    spared = Accident(accidents.Fault(endpoint="cancel"), PROCESSED)
    silence = b'{"cancel_results":[]}'
    busy = 1.5 * pace
    return [
        spared,
        spared,
        _accident(accidents.drop_after("cancel"), "processed; reply lost"),
        _accident(accidents.drop_before("cancel"), "nothing: the line broke"),
        _accident(accidents.server_error("cancel", status=503), "nothing: out of service"),
        _accident(accidents.html_page("cancel", processed=True), "processed; proxy sent HTML"),
        _accident(
            accidents.replaced("cancel", status=200, body=silence, processed=True),
            "processed; named no order",
        ),
        _accident(
            accidents.rate_limited("cancel", retry_after=busy), f"nothing: busy for {busy:.3g} s"
        ),
    ]


def accidents_of_reads() -> list[Accident]:
    """What befalls the requests that read orders back."""
    return [
        Accident(accidents.Fault(endpoint="track"), PROCESSED),
        _accident(accidents.truncated("track"), "broke off halfway"),
    ]


def _accident(fault: Fault, words: str) -> Accident:
    return Accident(fault, Conduct(words, is_usual=False))


class TronSaveStage:
    """The sandbox with the documented limits, and a gateway to it.

    Args:
        plan: what is asked for.
        listen: hears the gateway's telemetry.
    """

    vendor = "TronSave Fast Charge"

    def __init__(self, plan: Plan, listen: TelemetryHook) -> None:
        self.pace = plan.pace if plan.pace is not None else PACE
        self.terms = f"strict limit of 1 request per {self.pace:g} s and call"
        self._plan = plan
        self._listen = listen
        self._random = random.Random(plan.seed)
        self._batch = min(50, -(-plan.orders // 5))
        self._races = 1 + plan.orders // 10
        self._elsewhere: dict[str, str] = {}
        self._script = self._accidents() if plan.faults else []
        self._sandbox = TronSaveSandbox(
            window=self.pace, jitter=JITTER, seed=plan.seed, balance=BALANCE
        )
        self._gateway: TronSaveGateway | None = None

    @property
    def gateway(self) -> TronSaveGateway:
        """The gateway; known once the stage is open."""
        assert self._gateway is not None, "the stage has not been opened"
        return self._gateway

    async def __aenter__(self) -> Self:
        await self._sandbox.start()
        self._sandbox.faults.add(*(accident.fault for accident in self._script))
        self._gateway = TronSaveGateway(
            "sandbox-key",
            base_url=self._sandbox.url,
            rate_limit=RateLimit(requests=1, per=self.pace, margin=MARGIN),
            max_ids=self._batch,
            telemetry=self._hear,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.gateway.aclose()
            await self._sandbox.aclose()

    async def open_orders(self) -> list[str]:
        """Create the orders by one call; a few are matched, expire, or are canceled on the website."""
        receivers = [f"T{number:033d}" for number in range(self._plan.orders)]
        orders = await self.gateway.create(
            receivers=receivers,
            amount=AMOUNT,
            max_price_accept=MAX_PRICE,
            duration_sec=900,
            deadline=300,
        )
        early = self._random.sample(orders, -(-len(orders) // 6))
        for number, order in enumerate(early):
            self._end_elsewhere(number, order)
        return orders

    def conduct(self, call: str, number: int) -> Conduct:
        """What the vendor did with a request, from its own record of requests."""
        arrived = self._sandbox.requests_to(call)
        if number >= len(arrived):
            return Conduct("nothing: it never arrived", is_usual=False)
        request = arrived[number]
        if request.fault is not None:
            return next(a.conduct for a in self._script if a.fault == request.fault)
        if not request.processed:
            return Conduct(f"nothing: {request.status}, too early", is_usual=False)
        if call == "create":
            number = len(request.body["receivers"])
            return Conduct(f"created {number} {'order' if number == 1 else 'orders'}")
        return PROCESSED

    def record(self, order: str) -> Record | None:
        """An order as the sandbox's book has it."""
        entry = self._sandbox.orders.get(order)
        if entry is None:
            return None
        elsewhere = self._elsewhere.get(order, "")
        return Record(
            state=_STATES[entry.state],
            word=entry.state.value,
            how=elsewhere,
            executed=_filled(entry),
            ours=entry.state is BookState.CANCELED and not elsewhere,
            asked=any(order in _ids(request) for request in self._sandbox.requests_to("cancel")),
        )

    def refused_for_pace(self) -> int:
        """How many requests the sandbox's meter rejected; the scripted 429 is none of them."""
        return self._sandbox.rejections

    def _accidents(self) -> list[Accident]:
        script = accidents_of_cancels(self.pace)
        self._random.shuffle(script)
        return [*script, *accidents_of_reads()]

    def _hear(self, event: Event, /) -> None:
        """In the moment in which a cancel leaves, the market takes one of the orders: that is the race."""
        if isinstance(event, Sent) and event.endpoint == "cancel" and self._races:
            book = self._sandbox.orders
            pending = [order for order in book if book[order].state is BookState.PENDING]
            if len(pending) > 1:
                self._races -= 1
                self._match(self._random.choice(pending[: self._batch]), "in the race")
        self._listen(event)

    def _end_elsewhere(self, number: int, order: str) -> None:
        if number % 4 == 1:
            self._elsewhere[order] = "at its deadline"
            self._sandbox.expire(order)
        elif number % 4 == 3:
            self._elsewhere[order] = "on the website"
            self._sandbox.cancel_behind_back(order)
        else:
            self._match(order, "beforehand")

    def _match(self, order: str, when: str) -> None:
        self._elsewhere[order] = when
        self._sandbox.match(order)


def _ids(request: RecordedRequest) -> Sequence[str]:
    """The orders that a cancel request named; the client's own requests always have a list of them."""
    ids: Sequence[str] = request.body["order_ids"]
    return ids


def _filled(entry: SandboxOrder) -> Decimal:
    return Decimal(entry.amount if entry.matched_at is not None else 0)
