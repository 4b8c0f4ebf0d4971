"""The demo: many orders are canceled while things go wrong, and the vendor's own record judges every outcome.

A `Stage` is one vendor's part: its simulator, its gateway, and what happens behind the client's back. Everything here
knows no vendor; each ``demo_<vendor>`` has a stage, and ``demo_screen`` draws what `Progress` learns and what `perform`
returns.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar, assert_never

import anyio

from tronsave_async import (
    AlreadyClosed,
    Answered,
    Canceled,
    Connected,
    Disconnected,
    Lost,
    NotFound,
    NotSent,
    OrderGateway,
    OrderState,
    OutcomeReached,
    Penalized,
    Queued,
    Refused,
    Sent,
    Stray,
    TooEarly,
    Unknown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal
    from types import TracebackType
    from typing import Self

    from tronsave_async import CancelOutcome, Event, TelemetryHook
    from tronsave_async.sandbox import Fault, FaultScript, RecordedRequest

__all__ = [
    "PROCESSED",
    "Accident",
    "Conduct",
    "Fact",
    "Line",
    "Plan",
    "Progress",
    "Record",
    "Report",
    "Row",
    "Simulator",
    "Stage",
    "accident",
    "cancel_all",
    "counted",
    "is_true",
    "perform",
]


def counted(number: int, noun: str) -> str:
    """So many of something, in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Plan(NamedTuple):
    """What the demo is asked to do.

    Attributes:
        orders: how many orders.
        seed: of everything that is left to chance.
        faults: whether requests meet with accidents.
        pace: seconds between two requests of the same call, in place of the vendor's documented ones.
    """

    orders: int
    seed: int
    faults: bool
    pace: float | None = None


class Record(NamedTuple):
    """What the vendor's own books say about an order in the end.

    Attributes:
        state: its true state.
        word: the vendor's word for it.
        how: what happened to it, where more than the client had a hand in it.
        executed, remaining: amounts filled and not filled, in the vendor's unit.
        ours: a cancel request of the client closed it.
        asked: at least one cancel request for it arrived.
    """

    state: OrderState
    word: str
    how: str
    executed: Decimal
    remaining: Decimal
    ours: bool
    asked: bool


class Conduct(NamedTuple):
    """What the vendor did with a request.

    Attributes:
        words: it, in a few words.
        is_usual: whether no accident happened to the request or its reply.
    """

    words: str
    is_usual: bool = True


PROCESSED: Final = Conduct("processed")


class Accident(NamedTuple):
    """Something that befalls one request, and what the vendor did with it."""

    fault: Fault
    conduct: Conduct


def accident(fault: Fault, words: str) -> Accident:
    """One that shows."""
    return Accident(fault, Conduct(words, is_usual=False))


class Fact(NamedTuple):
    """A number that is worth telling in the end, and what is to be said about it."""

    name: str
    number: str
    words: str


class Simulator(Protocol):
    """What all simulated vendors have in common."""

    faults: FaultScript
    rejections: int

    async def start(self) -> None:
        """Listen."""

    async def aclose(self) -> None:
        """Listen no more."""

    def requests_to(self, endpoint: str) -> Sequence[RecordedRequest]:
        """The requests to one of its calls so far."""


S = TypeVar("S", bound=Simulator)
G = TypeVar("G", bound=OrderGateway)


class Stage(ABC, Generic[S, G]):
    """One vendor's part of the demo. As a context manager it opens and closes simulator and gateway.

    Args:
        plan: what is asked for.
        listen: hears the gateway's telemetry.
    """

    vendor: str
    """Its name for the heading."""
    terms: str
    """The limit that the simulator meters, in words."""
    usual_orders: int
    """How many orders are a good show."""
    pace: float
    """Seconds between two cancels at that limit."""
    jitter = 0.05
    """Seconds that a request or a reply travels at most."""
    margin = 0.075
    """Seconds that the gateway leaves to the network."""
    strays: Mapping[str, str] = {}
    """What the vendor did when a message came that answers no request, by the client's word for it."""
    yardstick: str
    """What a cancel for each order at that pace is, in words."""

    def __init__(self, plan: Plan, listen: TelemetryHook) -> None:
        self.pace = self.pace if plan.pace is None else plan.pace
        self._plan = plan
        self._listen = listen
        self._random = random.Random(plan.seed)
        self._elsewhere: dict[str, str] = {}
        """What else happened to an order than the client's cancels."""
        self._busy = 0
        """So many orders, the first ones, meet enough accidents: others end early."""
        self._script: Sequence[Accident] = self._accidents() if plan.faults else ()
        self._simulator = self._simulate()
        self._gateway: G | None = None

    @property
    def gateway(self) -> G:
        """What cancels; known once the stage is open."""
        assert self._gateway is not None, "the stage has not been opened"
        return self._gateway

    async def __aenter__(self) -> Self:
        await self._simulator.start()
        self._simulator.faults.add(*(accident.fault for accident in self._script))
        self._gateway = self._connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.gateway.aclose()
            await self._simulator.aclose()

    async def open_orders(self) -> list[str]:
        """Create the orders, and let some of them end before they are canceled."""
        orders = await self._create(self._plan.orders)
        number_early = -(-len(orders) // 6)
        quiet = orders[self._busy :]
        early = self._random.sample(quiet if len(quiet) >= number_early else orders, number_early)
        for number, order in enumerate(early):
            self._end_elsewhere(number, order)
        return orders

    def refused_for_pace(self) -> int:
        """How many requests came too early for the vendor's meter; a scripted 429 is none of them."""
        return self._simulator.rejections

    def facts(self) -> list[Fact]:
        """What else is worth telling in the end."""
        return []

    @abstractmethod
    def conduct(self, call: str, number: int) -> Conduct:
        """What the vendor did so far with the ``number``-th request (from 0) that left for one of its calls."""

    @abstractmethod
    def record(self, order: str) -> Record | None:
        """The vendor's own record of an order; None if it knows no such order."""

    @abstractmethod
    def _simulate(self) -> S:
        """Make the simulator, at the stage's pace."""

    @abstractmethod
    def _connect(self) -> G:
        """Make the gateway to the running simulator."""

    @abstractmethod
    def _accidents(self) -> Sequence[Accident]:
        """What befalls the requests, in this order."""

    @abstractmethod
    async def _create(self, number: int) -> list[str]:
        """Create so many orders."""

    @abstractmethod
    def _end_elsewhere(self, number: int, order: str) -> None:
        """Let the ``number``-th (from 0) of the early ones meet its fate."""

    def _befell(self, fault: Fault) -> Conduct:
        """What the script says about a fault."""
        return next(accident.conduct for accident in self._script if accident.fault == fault)


# --- what the telemetry hook tells ----------------------------------------------------------------


class Line(NamedTuple):
    """One request, or something else that happened to a connection, from both ends.

    Attributes:
        at: seconds since the beginning.
        call: the vendor's call, or ``"socket"``.
        orders: how many orders the request was about; 0 where that is not known.
        saw: what came back to the client.
        did: what the vendor did.
    """

    at: float
    call: str
    orders: int
    saw: str
    did: Conduct


class Progress:
    """What is known while it happens. `hear` is a telemetry hook; the rest is to be looked at.

    Attributes:
        total: how many orders.
        outcomes: how many orders ended in each outcome, by its name.
        on_wire: orders in requests under way.
        queued, under_way, answered, lost: requests.
        lines: the requests that have ended, and what else happened, in order.
        conduct: asked what the vendor did with a request (`Stage.conduct`).
        strays: what the vendor did when a message came that answers no request (`Stage.strays`).
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.outcomes: Counter[str] = Counter()
        self.on_wire = self.queued = self.under_way = self.answered = self.lost = 0
        self.lines: list[Line] = []
        self.conduct: Callable[[str, int], Conduct] = lambda call, number: Conduct("")
        self.strays: Mapping[str, str] = {}
        self._started = time.monotonic()
        self._sent: Counter[str] = Counter()
        self._numbers: dict[int, int] = {}

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    @property
    def settled(self) -> int:
        """Orders that have their outcome."""
        return self.outcomes.total()

    @property
    def waiting(self) -> int:
        """Orders that neither have their outcome nor are under way."""
        return max(0, self.total - self.settled - self.on_wire)

    @property
    def sent(self) -> Mapping[str, int]:
        """Requests that left, by the vendor's call."""
        return self._sent

    def hear(self, event: Event, /) -> None:
        """Take note of an event."""
        match event:
            case Queued():
                self.queued += 1
            case Sent():
                self._depart(event)
            case Answered(status=status, wire=wire):
                self.answered += 1
                self._arrive(event, f"{status} in {wire * 1000:.0f} ms")
            case Lost(request=number) if number not in self._numbers:
                self.queued -= 1  # it never left
            case Lost():
                self.lost += 1
                self._arrive(event, "no reply")
            case Penalized(seconds=seconds):
                last = self.lines[-1]
                self.lines[-1] = last._replace(saw=f"{last.saw}, wait {seconds:.3g} s")
            case OutcomeReached(outcome=outcome):
                self.outcomes[type(outcome).__name__] += 1
            case Connected(connections=number):
                self._note("open" if number == 1 else "open again", Conduct(""))
            case Disconnected(reason=reason, pending=pending) if self.settled < self.total:
                self._note(f"lost, {pending} in flight", Conduct(reason, is_usual=False))
            case Stray(kind=kind):
                self._note(
                    f"stray message: {kind}", Conduct(self.strays.get(kind, ""), is_usual=False)
                )
            case _:
                pass

    def _depart(self, event: Sent) -> None:
        self._numbers[event.request] = self._sent[event.endpoint]
        self._sent[event.endpoint] += 1
        self.queued -= 1
        self.under_way += 1
        self.on_wire += event.orders

    def _arrive(self, event: Answered | Lost, saw: str) -> None:
        number = self._numbers.pop(event.request)
        self.under_way -= 1
        self.on_wire -= event.orders
        did = self.conduct(event.endpoint, number)
        self.lines.append(Line(self.elapsed, event.endpoint, event.orders, saw, did))

    def _note(self, saw: str, did: Conduct) -> None:
        self.lines.append(Line(self.elapsed, "socket", 0, saw, did))


# --- the judge ------------------------------------------------------------------------------------


def is_true(outcome: CancelOutcome, record: Record | None) -> bool:
    """Whether an outcome agrees with the vendor's own record. `Unknown` claims nothing, and so cannot lie."""
    if isinstance(outcome, Unknown):
        return True
    if record is None or isinstance(outcome, NotFound):
        return record is None and isinstance(outcome, NotFound)
    match outcome:
        case Canceled(executed=executed, remaining=remaining):
            amounts_agree = executed in (None, record.executed) and remaining in (
                None,
                record.remaining,
            )
            return record.state is OrderState.CANCELED and amounts_agree
        case AlreadyClosed(state=state, executed=executed):
            unspecific = state is OrderState.CLOSED and record.state.is_closed
            closed_so_before = (unspecific or record.state is state) and not record.ours
            return closed_so_before and executed in (None, record.executed)
        case Refused() | TooEarly():
            return record.asked and record.state.is_open
        case NotSent():
            return not record.asked
        case _:
            assert_never(outcome)


class Row(NamedTuple):
    """One order in the end: what the client was told, and what is so."""

    outcome: CancelOutcome
    record: Record | None

    @property
    def is_lie(self) -> bool:
        """Whether the client was told what is not so."""
        return not is_true(self.outcome, self.record)


class Report(NamedTuple):
    """How it went.

    Attributes:
        rows: one for each order.
        cancels: cancel requests.
        reads: requests that read orders back.
        elapsed: seconds from the first cancel to the last outcome.
        pace: seconds that one cancel takes at the vendor's limit.
        yardstick: what one cancel for each order is, in words.
        refused_for_pace: requests that came too early for the vendor's meter.
        facts: what else is worth telling.
    """

    rows: Sequence[Row]
    cancels: int
    reads: int
    elapsed: float
    pace: float
    yardstick: str
    refused_for_pace: int
    facts: Sequence[Fact] = ()

    @property
    def lies(self) -> int:
        """How many outcomes are not so."""
        return sum(row.is_lie for row in self.rows)

    @property
    def outcomes(self) -> Counter[str]:
        """How many orders ended in each outcome, by its name."""
        return Counter(type(row.outcome).__name__ for row in self.rows)

    @property
    def settled_first(self) -> list[Row]:
        """The rows in the order in which they were settled; those that were settled together as they were created."""
        return sorted(self.rows, key=lambda row: round(row.outcome.elapsed, 1))


# --- the performance ------------------------------------------------------------------------------

PATIENCE = 180.0
"""Seconds after which a cancel ends with what it knows."""


async def perform(stage: Stage[Any, Any], progress: Progress) -> Report:
    """Create the orders on an open stage, cancel them all, and compare every outcome with the vendor's record."""
    progress.conduct, progress.strays = stage.conduct, stage.strays
    orders = await stage.open_orders()
    before, started = Counter(progress.sent), progress.elapsed
    outcomes = await cancel_all(stage.gateway, orders)
    elapsed = progress.elapsed - started
    sent = Counter(progress.sent) - before
    cancels = sent.pop("cancel", 0)
    return Report(
        rows=[Row(outcomes[order], stage.record(order)) for order in orders],
        cancels=cancels,
        reads=sent.total(),
        elapsed=elapsed,
        pace=stage.pace,
        yardstick=stage.yardstick,
        refused_for_pace=stage.refused_for_pace(),
        facts=stage.facts(),
    )


async def cancel_all(gateway: OrderGateway, orders: Sequence[str]) -> Mapping[str, CancelOutcome]:
    """Cancel all orders at the same time: one half by one call, the other half by a task for each order."""
    outcomes: dict[str, CancelOutcome] = {}

    def note(outcome: CancelOutcome) -> None:
        outcomes[str(outcome.order)] = outcome

    async def cancel(order: str) -> None:
        note(await gateway.cancel(order, timeout=PATIENCE))

    half = len(orders) // 2
    together = partial(gateway.cancel_many, orders[:half], timeout=PATIENCE, on_outcome=note)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(together)
        for order in orders[half:]:
            tasks.start_soon(cancel, order)
    return outcomes
