"""Ripio Trade's part of the demo: everything in it that only this vendor needs."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import anyio
from msgspec.structs import replace

from tronsave_async import OrderState, RateLimit, Sent
from tronsave_async import sandbox as accidents
from tronsave_async import sandbox_socket as socket_accidents
from tronsave_async.sandbox import Processing

from .demo import PROCESSED, Accident, Conduct, Fact, Plan, Record, Stage, accident, counted
from .ripio import APPROVED, RipioGateway
from .ripio.sandbox import SOCKET_METHODS, RipioRules, RipioSandbox
from .ripio.sandbox import OrderState as BookState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tronsave_async import Event, TelemetryHook
    from tronsave_async.sandbox import RecordedRequest

__all__ = ["RipioStage", "accidents_of_cancels", "accidents_of_sockets"]

AT_ONCE: Final = APPROVED.rate_limit.requests
"""Requests per window, on the socket and by HTTP together."""
AHEAD: Final = 20.0
"""Seconds by which the vendor's clock is ahead of this machine's."""
TOLERANCE: Final = RipioRules().tolerance_ms / 1000
"""Seconds by which a signature's time may differ from the vendor's."""
CREATED_HERE: Final = 2
"""Orders that the gateway creates; the others are there before."""
AMOUNT: Final = Decimal("0.4")
PRICE: Final = 350_000
BEFOREHAND: Final = "beforehand"
ON_THE_WEBSITE: Final = "on the website"

_STATES: Final = {
    BookState.OPEN: OrderState.OPEN,
    BookState.EXECUTED_PARTIALLY: OrderState.PARTIALLY_FILLED,
    BookState.EXECUTED_COMPLETELY: OrderState.FILLED,
    BookState.CANCELED: OrderState.CANCELED,
}
_RACES: Final = frozenset({Processing.RACE, Processing.PARTIAL_RACE})

SPARED: Final = Accident(accidents.Fault(endpoint="cancel"), PROCESSED)


def accidents_of_cancels() -> list[Accident]:
    """What befalls one cancel and its reply each, with the socket left alone; some are spared."""
    return [
        SPARED,
        SPARED,
        accident(socket_accidents.duplicated("cancel"), "replied twice"),
        accident(socket_accidents.contradicted("cancel", first=True), "said 500 first"),
        accident(accidents.malformed_json("cancel"), "reply garbled"),
        accident(accidents.fill_in_the_race("cancel"), "filled it first"),
        accident(accidents.partial_fill_in_the_race("cancel"), "half filled"),
    ]


def accidents_of_sockets(window: float) -> list[Accident]:
    """Two ends of a socket, each with cancels in flight: the line breaks, and the vendor restarts."""
    lost = accident(accidents.hang_after("cancel"), "reply lost")
    cut = replace(accidents.drop_after("cancel", reset=True), delay=window / 4)
    return [
        lost,
        accident(accidents.hang_before("cancel"), "overlooked it"),
        lost,
        accident(cut, "cut the socket"),
        *[SPARED] * AT_ONCE,
        accident(accidents.hang_before("cancel"), "overlooked it"),
        accident(socket_accidents.closing(1012, "cancel"), "planned close"),
    ]


class RipioStage(Stage[RipioSandbox, RipioGateway]):
    """The sandbox with the documented limits and a clock that is ahead, and a gateway to it."""

    vendor = "Ripio Trade"
    usual_orders = 36
    pace = APPROVED.rate_limit.per / AT_ONCE
    yardstick = "one each"
    strays = MappingProxyType(
        {
            "duplicate": "one reply too many",
            "event": "order_status, unasked",
            "late": "replied at last",
            "malformed": "half a JSON",
        }
    )

    def __init__(self, plan: Plan, listen: TelemetryHook) -> None:
        super().__init__(plan, listen)
        self.terms = f"{AT_ONCE} requests per {self._window:.3g} s, socket and REST"
        self._busy = len(self._script)
        self._departed: defaultdict[str, list[int]] = defaultdict(list)
        """For each call on the socket, which of all requests on the socket its requests were, from 1."""
        self._uninvited = plan.orders // 3 if plan.faults else 0
        """With which cancel the vendor tells of a trade, although nobody asked."""

    @property
    def _window(self) -> float:
        return AT_ONCE * self.pace

    def _simulate(self) -> RipioSandbox:
        return RipioSandbox(
            requests_per_window=AT_ONCE,
            window=self._window,
            daily_quota=APPROVED.daily_quota,
            jitter=self.jitter,
            seed=self._plan.seed,
            rules=RipioRules(reject_replayed_signatures=True),
            now=self._now,
        )

    def _connect(self) -> RipioGateway:
        self._zero = datetime.now(UTC) - timedelta(seconds=anyio.current_time())
        self._simulator.clock_offset = AHEAD if self._plan.faults else 0.0
        return RipioGateway(
            self._simulator.api_token,
            self._simulator.secret,
            ws_url=self._simulator.ws_url,
            rest_url=self._simulator.rest_url,
            profile=APPROVED,
            rate_limit=RateLimit(AT_ONCE, per=self._window, margin=self.margin),
            request_timeout=2 * self._window,
            telemetry=self._hear,
        )

    async def _create(self, number: int) -> list[str]:
        """Two by the gateway; the others the account had before."""
        here = [
            await self.gateway.create(
                pair="BTC_BRL", side="sell", type="limit", amount=AMOUNT, price=PRICE
            )
            for _ in range(min(number, CREATED_HERE))
        ]
        before = [
            self._simulator.add_order(side="sell", amount=AMOUNT, price=str(PRICE))
            for _ in range(number - len(here))
        ]
        return [*(order.id for order in here), *before]

    def conduct(self, call: str, number: int) -> Conduct:
        """What the vendor did so far with a request, from its own record of requests."""
        request = self._arrival(call, number)
        if request is None:
            return Conduct("not arrived by then", is_usual=False)
        if request.status == 429:
            return Conduct("nothing: 429, too early", is_usual=False)
        if not _is_signed_in_time(request):
            return Conduct(f"nothing: signed {request.signature_age:.0f} s ago", is_usual=False)
        if call == "cancel":
            return self._conduct_of_cancel(request)
        return Conduct("created 1 order") if call == "create" else PROCESSED

    def record(self, order: str) -> Record | None:
        """An order as the sandbox's book has it."""
        entry = self._simulator.orders.get(order)
        if entry is None:
            return None
        asked = [r for r in self._simulator.requests_to("cancel") if _order_of(r) == order]
        raced = any(self._was_raced(request) for request in asked)
        how = self._elsewhere.get(order, "in the race" if raced else "")
        return Record(
            state=_STATES[entry.state],
            word=entry.state.value,
            how=how,
            executed=entry.executed_amount,
            remaining=entry.remaining_amount,
            ours=entry.state is BookState.CANCELED and how != ON_THE_WEBSITE,
            asked=bool(asked),
        )

    def facts(self) -> list[Fact]:
        """What is particular: one socket, and signatures."""
        signed = self._simulator.signatures
        again = len(signed) - len(set(signed))
        ages = [
            request.signature_age
            for request in self._simulator.requests
            if request.signature_age is not None and _is_signed_in_time(request)
        ]
        opened = self._simulator.sockets_opened
        return [
            Fact("sockets", str(opened), counted(opened - 1, "reconnect")),
            Fact(
                "signatures", str(len(signed)), f"{again} used again" if again else "no two alike"
            ),
            Fact("the oldest", f"{max(ages):.2f} s", "on arrival, of those accepted"),
        ]

    def _accidents(self) -> Sequence[Accident]:
        late = accidents.late("cancel", delay=2.5 * self._window)
        gentle = accidents_of_cancels()
        self._random.shuffle(gentle)
        # A late reply takes its time: the socket that it comes on must not be lost before.
        return [accident(late, "replied late"), *gentle, *accidents_of_sockets(self._window)]

    def _end_elsewhere(self, number: int, order: str) -> None:
        """Filled, partly filled, or canceled on the website."""
        if number % 4 == 2:
            self._elsewhere[order] = ON_THE_WEBSITE
            self._simulator.cancel_behind_back(order)
        else:
            self._elsewhere[order] = BEFOREHAND
            self._simulator.fill(order, AMOUNT / 2 if number % 2 else None)

    def _hear(self, event: Event, /) -> None:
        """Number the requests on the socket; with one of them the market takes half an order, and the vendor tells."""
        if isinstance(event, Sent) and event.endpoint in SOCKET_METHODS.values():
            self._departed[event.endpoint].append(sum(map(len, self._departed.values())) + 1)
            if self._uninvited and len(self._departed["cancel"]) == self._uninvited:
                self._trade()
        self._listen(event)

    def _trade(self) -> None:
        book = self._simulator.orders
        untouched = [order for order in book if book[order].state is BookState.OPEN]
        if untouched:
            order = self._random.choice(untouched)
            self._elsewhere[order] = "meanwhile"
            self._simulator.fill(order, AMOUNT / 2)
            self._simulator.broadcast(order)

    def _now(self) -> datetime:
        """This machine's time when the stage was opened, carried on by the event loop's clock."""
        return self._zero + timedelta(seconds=anyio.current_time())

    def _arrival(self, call: str, number: int) -> RecordedRequest | None:
        """The record of a request that left; None if it has not arrived."""
        arrived = self._simulator.requests_to(call)
        if call not in self._departed:
            # By HTTP they may overtake each other, and meet no accidents: one is as good as the other.
            return arrived[min(number, len(arrived) - 1)] if arrived else None
        name = f"-{self._departed[call][number]}"
        return next((r for r in arrived if r.body["id"].endswith(name)), None)

    def _conduct_of_cancel(self, request: RecordedRequest) -> Conduct:
        fault = request.fault
        befell = PROCESSED if fault is None else self._befell(fault)
        was_over = _is_race(request) and not self._was_raced(request)
        if fault is None or befell.is_usual or was_over:
            return PROCESSED if request.processed else Conduct("refused: closed already")
        deed = "processed" if request.processed else "refused"
        if fault.processing is Processing.SKIPPED:
            deed = "nothing"
        return befell._replace(words=f"{deed}; {befell.words}")

    def _was_raced(self, request: RecordedRequest) -> bool:
        """Whether its order was filled, or half of it, in the moment in which the request was carried out."""
        if not _is_race(request):
            return False
        changed = self._simulator.orders[_order_of(request)].updated_at
        return request.processed or changed >= request.received_at


def _order_of(request: RecordedRequest) -> str:
    """The order that a cancel named; the client's own requests always name one."""
    order: str = request.body["params"]["id"]
    return order


def _is_race(request: RecordedRequest) -> bool:
    """Whether the market was to be an instant faster than the request."""
    return request.fault is not None and request.fault.processing in _RACES


def _is_signed_in_time(request: RecordedRequest) -> bool:
    """Whether it was neither too old nor from the future, or needed no signature."""
    return request.signature_age is None or abs(request.signature_age) <= TOLERANCE
