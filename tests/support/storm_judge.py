"""Whether a storm's callers were told the truth, each outcome once: by the vendor's record (`contract.judge`)."""

from __future__ import annotations

from collections import Counter
from copy import copy
from typing import TYPE_CHECKING, Any

from contract.judge import lie
from contract.stage import Record
from tronsave_async import OrderState, OutcomeReached, Refused, TooEarly, Wire
from tronsave_async.sandbox import Processing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from contract.stage import Stage
    from support.storm_ledger import Ledger, Request
    from tronsave_async import CancelOutcome, Event, OrderSnapshot
    from tronsave_async.sandbox import RecordedRequest

__all__ = ["Judge", "Stay"]


class Stay:
    """One order that one caller wants canceled, from the call to its end. Moments are the ledger's."""

    __slots__ = ("begun", "ended", "order_id", "outcome")

    def __init__(self, order_id: str, begun: int) -> None:
        self.order_id = order_id
        self.begun = begun
        self.ended: int | None = None
        self.outcome: CancelOutcome | None = None

    def overlaps(self, begun: int, over: int) -> bool:
        """Whether it lasted at any moment of a time."""
        return self.begun <= over and (self.ended is None or self.ended >= begun)


class Judge:
    """Judges outcomes as they come, and once more when all is over.

    Args:
        stage: the vendor.
        ledger: which requests were made.
        complain: takes a sentence about what is not true.

    Attributes:
        outcomes: how many were told, by kind.
    """

    def __init__(self, stage: Stage, ledger: Ledger, complain: Callable[[str], None]) -> None:
        self.outcomes: Counter[str] = Counter()
        self._stage = stage
        self._ledger = ledger
        self._complain = complain
        # Of the present page.
        self._stays: dict[str, list[Stay]] = {}
        self._changed: dict[str, int] = {}
        self._watched: set[str] = set()
        self._given: dict[int, CancelOutcome] = {}
        self._heard: Counter[int] = Counter()

    # -- what happens ---------------------------------------------------------------------------------------------

    def begin(self, order_ids: Sequence[str]) -> list[Stay]:
        """A caller wants these orders canceled."""
        stays = [Stay(order_id, self._ledger.tick()) for order_id in order_ids]
        for stay in stays:
            self._stays.setdefault(stay.order_id, []).append(stay)
        return stays

    def told(self, stays: Sequence[Stay], outcome: CancelOutcome) -> None:
        """A caller is told an outcome."""
        name = outcome.order.id
        stay = next((s for s in stays if s.order_id == name and s.outcome is None), None)
        if stay is None:
            self._complain(f"told again, or about another order: {outcome}")
            return
        stay.outcome = outcome
        self._given[id(outcome)] = outcome
        self.outcomes[type(outcome).__name__] += 1
        self._judge(stay, outcome)

    def end(self, stays: Sequence[Stay]) -> None:
        """The caller's call ends. Once is enough."""
        for stay in stays:
            if stay.ended is None:
                stay.ended = self._ledger.tick()

    def changed(self, order_id: str) -> None:
        """An order changed behind its callers' backs."""
        self._changed[order_id] = self._ledger.tick()

    def watched(self, order_id: str) -> None:
        """Somebody else looks at an order."""
        self._watched.add(order_id)

    def seen(self, snapshot: OrderSnapshot, order_id: str) -> None:
        """Somebody read an order: what is said to be dead is dead."""
        record = self._stage.record(order_id)
        if record is None or (snapshot.state.is_closed and not record.state.is_closed):
            self._complain(f"{snapshot}, and it is {record}")

    def hear(self, event: Event, /) -> None:
        """A telemetry hook."""
        if isinstance(event, OutcomeReached):
            self._heard[id(event.outcome)] += 1

    def where(self, stay: Stay) -> str:
        """Where a call is, as far as the vendor's record tells."""
        requests = self._requests_for(stay.order_id)
        ends = [r.ended for r in requests if r.ended is None or r.ended >= stay.begun]
        if None in ends:
            return "in flight"
        return "after a reply" if ends else "before anything arrived"

    # -- when all is over -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """What was dead stays dead, and what was not sent never came; nothing was sent that nobody wanted; telemetry
        was told every outcome that a caller was told, once, and no other."""
        for order_id, stays in self._stays.items():
            for stay in stays:
                if stay.outcome is not None and self._lasts(stay, stay.outcome):
                    self._judge(stay, stay.outcome)
            for request in self._requests_for(order_id):
                if not _is_wanted(request, stays):
                    self._complain(f"{request} was sent for nobody: {order_id}")
        for each, times in self._heard.items():
            if each not in self._given or times != 1:
                self._complain(f"telemetry was told {times} times: {self._given.get(each)}")
        for each in self._given.keys() - self._heard.keys():
            self._complain(f"telemetry was not told: {self._given[each]}")

    def turn_the_page(self) -> None:
        """Forget what was settled."""
        for table in (self._stays, self._changed, self._watched, self._given, self._heard):
            table.clear()

    def _lasts(self, stay: Stay, outcome: CancelOutcome) -> bool:
        """Whether an outcome says something about all time to come: an order that the vendor declined to cancel is
        alive, until somebody else closes it."""
        if isinstance(outcome, Refused):
            alone = self._is_alone(stay, stay.begun, self._ledger.moment)
            return alone and stay.order_id not in self._changed
        return not isinstance(outcome, TooEarly)

    # -- one outcome ----------------------------------------------------------------------------------------------

    def _judge(self, stay: Stay, outcome: CancelOutcome) -> None:
        found = lie(self._stage, outcome, self._arrived(stay, outcome))
        if found is not None and not self._claims_the_present(stay, outcome):
            before: Any = copy(self._stage)
            before.record = lambda order_id: Record(OrderState.OPEN)
            found = lie(before, outcome, self._arrived(stay, outcome))
        if found is not None:
            self._complain(found)

    def _claims_the_present(self, stay: Stay, outcome: CancelOutcome) -> bool:
        """An order that was alive when it was asked for may be closed by others before the caller is told so; and about
        one that is too young nobody was asked."""
        if isinstance(outcome, Refused):
            changed = self._changed.get(stay.order_id, 0) >= stay.begun
            alone = self._is_alone(stay, stay.begun, self._ledger.moment)
            return alone and not changed and not self._was_filled_by_a_look(stay)
        return not isinstance(outcome, TooEarly)

    def _was_filled_by_a_look(self, stay: Stay) -> bool:
        """An order can be filled in the race with a request that only reads it: somebody else's, or one whose reply
        this caller did not hear. What it did hear is no excuse."""
        sandbox: Any = self._stage.sandbox
        about = getattr(sandbox, "requests_about", None)
        looks = sandbox.requests if about is None else about(stay.order_id)
        return any(
            entry.endpoint in self._stage.read_calls
            and entry.fault is not None
            and entry.fault.processing is Processing.RACE
            and (about is not None or stay.order_id in f"{entry.path} {entry.body}")
            and (stay.order_id in self._watched or not self._heard_in(stay, entry))
            for entry in looks
        )

    def _heard_in(self, stay: Stay, entry: RecordedRequest) -> bool:
        """Whether a request was answered while a call lasted."""
        request = self._ledger.requests.get(self._ledger.number_of(entry))
        if request is None or request.answer is None or request.ended is None:
            return False
        return stay.ended is None or request.ended <= stay.ended

    def _arrived(self, stay: Stay, outcome: CancelOutcome) -> int:
        """How many cancels arrived by reason of a call: where others wanted the same order at the time, the number
        within what is possible that the outcome claims."""
        certain, possible = 0, 0
        over = self._ledger.moment if stay.ended is None else stay.ended
        for request in self._requests_for(stay.order_id):
            if request.sent is None or request.sent > over:
                continue
            if request.ended is None or request.ended >= stay.begun:
                possible += 1
            if request.sent >= stay.begun and self._is_alone(stay, request.queued, request.sent):
                certain += 1
        if outcome.wire is Wire.ANSWERED and not certain:
            return min(1, possible)
        return certain

    def _requests_for(self, order_id: str) -> list[Request]:
        """The cancels for an order that arrived. The ledger complains about those that telemetry does not know."""
        numbers = map(self._ledger.number_of, self._stage.cancels(order_id))
        return [self._ledger.requests[n] for n in numbers if n in self._ledger.requests]

    def _is_alone(self, stay: Stay, begun: int, over: int) -> bool:
        """Nobody else wanted the order at any moment of a time."""
        others = self._stays[stay.order_id]
        return not any(other is not stay and other.overlaps(begun, over) for other in others)


def _is_wanted(request: Request, stays: Sequence[Stay]) -> bool:
    """Somebody waited for it when it left; a caller who leaves a request that others share leaves its order in."""
    if request.sent is None:
        return True  # the ledger complains
    since = request.sent if request.orders == 1 else request.queued
    return any(stay.overlaps(since, request.sent) for stay in stays)
