"""The demo: many orders are canceled while things go wrong, and the vendor's own record judges every outcome.

A `Stage` is one vendor's part: its simulator, its gateway, and what happens behind the client's back. Everything here
knows no vendor; ``demo_tronsave`` is a stage, ``demo_screen`` draws what `Progress` learns and what `perform` returns.
"""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, assert_never

import anyio

from tronsave_async import (
    AlreadyClosed,
    Answered,
    Canceled,
    Lost,
    NotFound,
    NotSent,
    OrderState,
    OutcomeReached,
    Penalized,
    Queued,
    Refused,
    Sent,
    TooEarly,
    Unknown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal
    from types import TracebackType

    from tronsave_async import CancelOutcome, Event, OrderGateway, TelemetryHook

__all__ = [
    "Conduct",
    "Line",
    "Plan",
    "Progress",
    "Record",
    "Report",
    "Row",
    "Stage",
    "cancel_all",
    "is_true",
    "perform",
]


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
        executed: amount filled, in the vendor's unit.
        ours: a cancel request of the client closed it.
        asked: at least one cancel request for it arrived.
    """

    state: OrderState
    word: str
    how: str
    executed: Decimal
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


class Stage(Protocol):
    """One vendor's part of the demo. As a context manager it opens and closes simulator and gateway."""

    vendor: str
    """Its name for the heading."""
    terms: str
    """The limit that the simulator meters, in words."""
    pace: float
    """Seconds between two cancels at that limit."""

    def __init__(self, plan: Plan, listen: TelemetryHook) -> None: ...

    @property
    def gateway(self) -> OrderGateway:
        """What cancels."""

    async def open_orders(self) -> list[str]:
        """Create the orders by the gateway's own call, and let some of them end before they are canceled."""

    def conduct(self, call: str, number: int) -> Conduct:
        """What the vendor did with the ``number``-th request (from 0) to one of its calls."""

    def record(self, order: str) -> Record | None:
        """The vendor's own record of an order; None if it knows no such order."""

    def refused_for_pace(self) -> int:
        """How many requests came too early for the vendor's meter."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


# --- what the telemetry hook tells ----------------------------------------------------------------


class Line(NamedTuple):
    """One request, from both ends.

    Attributes:
        at: seconds since the beginning.
        call: the vendor's call.
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
        lines: the requests that have ended, in order.
        conduct: asked what the vendor did with a request (`Stage.conduct`).
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.outcomes: Counter[str] = Counter()
        self.on_wire = self.queued = self.under_way = self.answered = self.lost = 0
        self.lines: list[Line] = []
        self.conduct: Callable[[str, int], Conduct] = lambda call, number: Conduct("")
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


# --- the judge ------------------------------------------------------------------------------------


def is_true(outcome: CancelOutcome, record: Record | None) -> bool:
    """Whether an outcome agrees with the vendor's own record. `Unknown` claims nothing, and so cannot lie."""
    if isinstance(outcome, Unknown):
        return True
    if record is None or isinstance(outcome, NotFound):
        return record is None and isinstance(outcome, NotFound)
    match outcome:
        case Canceled(executed=executed):
            return record.state is OrderState.CANCELED and executed in (None, record.executed)
        case AlreadyClosed(state=OrderState.CLOSED, executed=executed):
            closed_before = record.state.is_closed and not record.ours
            return closed_before and executed in (None, record.executed)
        case AlreadyClosed(state=state, executed=executed):
            closed_so_before = record.state is state and not record.ours
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
        refused_for_pace: requests that came too early for the vendor's meter.
    """

    rows: Sequence[Row]
    cancels: int
    reads: int
    elapsed: float
    pace: float
    refused_for_pace: int

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


async def perform(stage: Stage, progress: Progress) -> Report:
    """Create the orders on an open stage, cancel them all, and compare every outcome with the vendor's record."""
    progress.conduct = stage.conduct
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
        refused_for_pace=stage.refused_for_pace(),
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
