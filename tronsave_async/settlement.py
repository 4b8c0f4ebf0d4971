"""How one cancel is settled: from what the vendor said to the outcome. Decisions only; no clock, no I/O.

A `Case` is one caller's cancel of one order. It is told what happened (an answer, a lost request, a read-back) and says
what to do next; it remembers doubt. The rules, in the order in which they matter:

1. A lost reply casts doubt. In doubt, "already closed", "not found" and "no" prove nothing by themselves: the order is
   read back, and what that does not prove is `Unknown`.
2. A fill is never hidden: whoever reports it, the outcome is ``AlreadyClosed(FILLED)``.
3. In doubt, an order that reads as open may still be closed by the lost request: repeat the cancel, unless the vendor
   declined it since; when no attempt is left, the outcome is `Unknown`, not `Refused`.
4. Nothing left and no doubt: `NotSent`.
5. A vendor that contradicts itself (closed, then open) proves nothing: `Unknown`.
6. An answer that comes too late for its request is still an answer: one that proves the order dead ends the doubt.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar
from weakref import WeakSet

import msgspec

from tronsave_async.errors import (
    AuthenticationRejected,
    BadReply,
    BusinessRefusal,
    GatewayError,
    InvalidRequest,
    OrderNotFound,
    PermissionDenied,
    RateLimited,
    RequestFailed,
    VendorFailure,
    WrongEndpoint,
)
from tronsave_async.orders import OrderRef, OrderSnapshot, OrderState
from tronsave_async.outcomes import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    Evidence,
    NotFound,
    NotSent,
    Refused,
    TooEarly,
    Unknown,
    Wire,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from tronsave_async.exchange import Exchange

__all__ = [
    "MEANINGS",
    "Case",
    "Doubts",
    "Meaning",
    "Name",
    "Step",
    "Verdict",
    "canceled_at_once",
]


V = TypeVar("V")
Name = tuple[str | None, str | None]
"""``(id, client_id)`` of an order."""

REMEMBERED: Final = 10_000
"""Orders in doubt that are remembered."""


class Meaning(enum.Enum):
    """What a vendor's reply to a cancel means for the order."""

    CANCELED = "canceled"
    """This request closed the order."""
    ALREADY_CLOSED = "already_closed"
    """The order was dead when the vendor looked; `Verdict.state` says how, as far as the vendor tells."""
    NOT_FOUND = "not_found"
    """The vendor's own words: no such order."""
    REFUSED = "refused"
    """The vendor's own words: the order stays as it is."""
    UNPROVED = "unproved"
    """The vendor did not cancel, and does not say what state the order is in."""
    AMBIGUOUS = "ambiguous"
    """The request may or may not have been processed."""
    NOT_PROCESSED = "not_processed"
    """The vendor did not look at the request (429)."""
    STALE = "stale"
    """The vendor did not look at the request: its signature or timestamp was rejected. Once, a fresh attempt is worth
    while; after that it is the account's error: `Verdict.error` is to be raised."""
    ACCOUNT = "account"
    """The account or the address is wrong, not the order: `Verdict.error` is to be raised."""


MEANINGS: Final[Mapping[type[GatewayError], Meaning]] = {
    AuthenticationRejected: Meaning.ACCOUNT,
    PermissionDenied: Meaning.ACCOUNT,
    WrongEndpoint: Meaning.ACCOUNT,
    InvalidRequest: Meaning.UNPROVED,
    OrderNotFound: Meaning.NOT_FOUND,
    BusinessRefusal: Meaning.UNPROVED,
    RateLimited: Meaning.NOT_PROCESSED,
    VendorFailure: Meaning.AMBIGUOUS,
    BadReply: Meaning.AMBIGUOUS,
}
"""What an error in reply to a cancel means for its order, unless a vendor knows better."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A vendor's reply, read.

    Attributes:
        meaning: what it means.
        state: for ALREADY_CLOSED: how it was closed; CLOSED where the vendor does not tell.
        executed, remaining: amounts in the vendor's unit, where the reply tells.
        code, message: the vendor's words, verbatim.
        error: for ACCOUNT and STALE: what to raise.
    """

    meaning: Meaning
    state: OrderState = OrderState.CLOSED
    executed: Decimal | None = None
    remaining: Decimal | None = None
    code: str | None = None
    message: str | None = None
    error: GatewayError | None = None


class _Facts(TypedDict):
    """The fields that all outcomes share."""

    order: OrderRef
    venue: str
    attempts: int
    elapsed: float
    wire: Wire
    evidence: Evidence
    code: str | None
    message: str | None


class Step(enum.Enum):
    """What a case wants next."""

    SEND = "cancel"
    SEND_AFTER_PAUSE = "cancel after a pause"
    SEND_WHEN_CREATED = "cancel when it is created"
    READ_BACK = "read back"
    READ_BACK_AFTER_PAUSE = "read back after a pause"
    DONE = "done"

    @property
    def pauses(self) -> bool:
        """A pause comes first."""
        return self is Step.SEND_AFTER_PAUSE or self is Step.READ_BACK_AFTER_PAUSE

    @property
    def sends(self) -> bool:
        """The cancel is sent (again)."""
        return self in _SENDING


_SENDING: Final = frozenset({Step.SEND, Step.SEND_AFTER_PAUSE, Step.SEND_WHEN_CREATED})


class Doubts:
    """Orders whose cancel may have reached the vendor unanswered: all cases of a gateway know them, at once.

    Doubt is cast by a lost reply and dispelled by proof that the order is dead. Where a name is given to a new order,
    doubt about the former one lasts until the new one is known to be there, and until then, or until its creation can
    take effect no more, its absence proves nothing. The latest 10,000 names are remembered, each with the cases that
    wait to know.
    """

    __slots__ = ("_absent_until", "_former", "_orders", "_renamed")

    def __init__(self) -> None:
        self._orders: OrderedDict[Name, WeakSet[Case]] = OrderedDict()
        self._former: OrderedDict[Name, WeakSet[Case]] = OrderedDict()
        """About the orders that had a name before."""
        self._renamed: OrderedDict[Name, float] = OrderedDict()
        """When the creation of a new order of the name left: monotonic seconds."""
        self._absent_until: OrderedDict[Name, float] = OrderedDict()
        """Until when an order of the name may not have been there, though its creation had left: monotonic seconds."""

    def __len__(self) -> int:
        return len(self._orders)

    def cast(self, order: OrderRef, case: Case | None = None) -> None:
        """A cancel of ``order`` may have arrived, and nothing says what it did; ``case`` waits to know."""
        waiting = self._orders.get(order.name) or WeakSet()
        if case is not None:
            waiting.add(case)
        _remember(self._orders, order.name, waiting)

    def resolve(self, name: Name, verdict: Verdict, since: float | None) -> bool:
        """The answer to a request of ``since`` (monotonic seconds) came after its caller went, or was given up.

        Only the success of a cancel proves something: to the cases that wait to know, and to nobody who comes later,
        when the name may be another order's. True if it proves something about the order that has the name.
        """
        if verdict.meaning is not Meaning.CANCELED or not (self._orders or self._former):
            return False
        doubts = self._about(name, since)
        waiting = doubts.pop(name, None)
        for case in waiting or ():
            case.proof = verdict
        return waiting is not None and doubts is self._orders

    def dispel(self, order: OrderRef, since: float | None) -> None:
        """``order`` is proved dead, by what was asked at ``since`` (monotonic seconds)."""
        if self._orders or self._former:
            self._about(order.name, since).pop(order.name, None)

    def hold(self, order: OrderRef) -> bool:
        """Whether ``order`` is in doubt."""
        if not self._orders and not self._former:
            return False
        return order.name in self._orders or order.name in self._former

    def creating(self, order: OrderRef, now: float, until: float) -> None:
        """The creation of a new order of this name leaves: what was asked before says nothing about the new one. It
        takes effect before ``until``, or never."""
        name = order.name
        _remember(self._renamed, name, now)
        _remember(self._absent_until, name, until)
        waiting = self._orders.pop(name, None)
        if waiting is not None:
            _remember(self._former, name, waiting | self._former.get(name, WeakSet()))

    def created(self, order: OrderRef, until: float) -> None:
        """The new order is there: doubt about the former one is none about it. ``until`` is now, unless there is
        another creation of the name."""
        self._former.pop(order.name, None)
        _remember(self._absent_until, order.name, until)

    def not_created(self, order: OrderRef, until: float | None) -> None:
        """The creation was refused: nothing comes of it. ``until`` is None, unless there is another one of the name."""
        if until is None:
            self._absent_until.pop(order.name, None)
        else:
            _remember(self._absent_until, order.name, until)

    def was_given_away(self, order: OrderRef, since: float) -> bool:
        """Whether the creation of a new order of the name left after that."""
        return self._renamed.get(order.name, since) > since

    def may_come_after(self, order: OrderRef, since: float) -> bool:
        """Whether a creation had left at ``since`` whose order may have come to be after that. What was asked before it
        left was asked about the former order, and is answered about that."""
        until = self._absent_until.get(order.name)
        return until is not None and self._renamed.get(order.name, since) <= since < until

    def _about(self, name: Name, since: float | None) -> OrderedDict[Name, WeakSet[Case]]:
        """Where doubt is kept about the order that had the name at ``since``."""
        renamed = self._renamed.get(name)
        was_another = renamed is not None and (since is None or since < renamed)
        return self._former if was_another else self._orders


def _remember(table: OrderedDict[Name, V], name: Name, value: V) -> None:
    table[name] = value
    table.move_to_end(name)
    if len(table) > REMEMBERED:
        table.popitem(last=False)


def canceled_at_once(order: OrderRef, venue: str, verdict: Verdict, elapsed: float) -> Canceled:
    """The outcome of a cancel whose first request was answered with its success: what a `Case` would say."""
    return Canceled(
        order=order,
        venue=venue,
        attempts=1,
        elapsed=elapsed,
        wire=Wire.ANSWERED,
        evidence=Evidence.REPLY,
        code=verdict.code,
        message=verdict.message,
        executed=verdict.executed,
        remaining=verdict.remaining,
    )


_OUTDATED: Final = frozenset({Meaning.NOT_FOUND, Meaning.ALREADY_CLOSED})
"""What is no longer true of a name once a new order has it."""


class Case:
    """One caller's cancel of one order.

    Args:
        order: the order.
        venue: the gateway's name.
        started: monotonic seconds at the call.
        attempts: cancel requests, and read-backs, to try at most.
        doubts: shared by the gateway's cases; what one call lost, another call for the same order is in doubt about.
        read_first: after a lost reply, read the order back before repeating the cancel. Otherwise the cancel is
            repeated first: right where a repeat costs no more than a look, and reaches further. After an answer that
            leaves doubt, the order is read back first in any case.
        tells_canceled: whether the vendor's record of an order, if it was canceled, differs from that of one that
            waits. Where that is not known, one that seems to wait after its cancel was refused is not proved alive.
    """

    __slots__ = (
        "__weakref__",
        "_code",
        "_denied",
        "_divided",
        "_doubt",
        "_doubts",
        "_last_state",
        "_limit",
        "_message",
        "_read_first",
        "_reads",
        "_renewed",
        "_started",
        "_tells_canceled",
        "_trouble",
        "_wire",
        "attempts",
        "error",
        "exchange",
        "failures",
        "order",
        "outcome",
        "proof",
        "queue_time",
        "read_back_time",
        "venue",
        "wire_time",
    )

    def __init__(
        self,
        order: OrderRef,
        venue: str,
        *,
        started: float,
        attempts: int,
        doubts: Doubts,
        read_first: bool = True,
        tells_canceled: Callable[[OrderRef], bool] = lambda order: True,
    ) -> None:
        self.order = order
        self.venue = venue
        self.attempts = 0
        self.failures = 0
        """Requests that failed in a row: the exponent of the back-off."""
        self.outcome: CancelOutcome | None = None
        self.error: GatewayError | None = None
        """The account's error, to be raised where nothing is in doubt; the outcome is then only second best."""
        self.proof: Verdict | None = None
        """What a late answer proved."""
        self.exchange: Exchange | None = None
        """The latest request, whose failure asks for a pause."""
        self.queue_time = self.wire_time = self.read_back_time = 0.0
        self._started = started
        self._limit = attempts
        self._read_first = read_first
        self._tells_canceled = tells_canceled
        self._reads = 0
        self._renewed = False
        self._denied = False
        self._divided = 0
        self._doubt = False
        self._doubts = doubts
        self._wire = Wire.NOT_SENT
        self._last_state: OrderState | None = None
        self._code: str | None = None
        self._message: str | None = None
        """The vendor's latest words; None once something went wrong after them."""
        self._trouble: str | None = None
        """What went wrong since."""

    @property
    def doubt(self) -> bool:
        """A cancel of this order, by this call or another, may have reached the vendor unanswered."""
        return self._doubt or self._doubts.hold(self.order)

    # -- what happened to a cancel request ------------------------------------------------------------------------

    def answered(self, verdict: Verdict, now: float) -> Step:
        """The vendor replied to a cancel."""
        self.attempts += 1
        if verdict.meaning is not Meaning.STALE or self._renewed:
            self._quote(verdict.code, verdict.message)
        if self._wire is Wire.NOT_SENT:
            self._wire = Wire.ANSWERED
        if verdict.meaning in _OUTDATED and self._was_asked_too_soon:
            return self._ask_again(now)
        match verdict.meaning:
            case Meaning.CANCELED:
                self._code, self._message = verdict.code, verdict.message
                return self._canceled(Evidence.REPLY, verdict.executed, verdict.remaining, now)
            case Meaning.AMBIGUOUS:
                return self._in_doubt(look=True)
            case Meaning.NOT_PROCESSED:
                return self._not_processed()
            case Meaning.STALE:
                return self._not_accepted(verdict.error, now)
            case Meaning.ALREADY_CLOSED:
                return self._was_closed(verdict, now)
            case Meaning.ACCOUNT:
                return self._account_rejected(verdict.error, now)
            case _:
                return self._answered_no(verdict.meaning, now)

    def failed(self, failure: RequestFailed, now: float) -> Step:
        """A cancel request brought no reply."""
        self.attempts += 1
        self._suffer(failure.reason)
        if failure.wire is not Wire.NOT_SENT:
            if failure.wire is Wire.MAYBE_SENT or self._wire is Wire.NOT_SENT:
                self._wire = failure.wire
            return self._in_doubt(look=self._read_first or failure.wire is Wire.ANSWERED)
        self.failures += 1
        if self.attempts < self._limit:
            return Step.SEND_AFTER_PAUSE
        if self.doubt or self._wire is not Wire.NOT_SENT:
            return self._look(pause=True)
        return self._unproved(now)

    def was_divided(self, times: int) -> None:
        """So many requests carried the order, were answered, and were divided. They are no tries of this order."""
        self._divided += times
        if times and self._wire is Wire.NOT_SENT:
            self._wire = Wire.ANSWERED

    def left_queue(self, reached: Wire, *, tried: bool, deserted: bool = True) -> None:
        """The caller goes while its request waits or is under way.

        Args:
            reached: what is known of that request.
            tried: it was under way.
            deserted: nobody else waits for its answer, which will not be heard.
        """
        self.attempts += tried
        if reached is Wire.MAYBE_SENT:
            self._wire = reached
            self._doubt = True
            if deserted:
                self._doubts.cast(self.order, self)
        elif reached is Wire.ANSWERED and self._wire is Wire.NOT_SENT:
            self._wire = reached

    def cut_off(self, reached: Wire, reason: str, now: float) -> Step:
        """The gateway closes with the request waiting or under way."""
        self.left_queue(reached, tried=reached is not Wire.NOT_SENT)
        self.give_up(reason, now)
        return Step.DONE

    def broken(self, error: GatewayError, now: float) -> Step:
        """The request could not even be tried (the limiter serves another event loop)."""
        if not self.doubt:
            self.error = error
        self._suffer(str(error))
        return self._unproved(now)

    def too_early(self, retry_at: datetime, now: float) -> None:
        """The vendor's rule does not permit a cancel before ``retry_at``, and the caller does not wait so long."""
        if self.doubt:
            self._unproved(now)
        else:
            self._settle(TooEarly(retry_at=retry_at, **self._facts(Evidence.NONE, now)))

    # -- what happened to a read-back -----------------------------------------------------------------------------

    def read(
        self, snapshot: OrderSnapshot | None, now: float, *, asked_at: float | None = None
    ) -> Step:
        """The order was read back, as it was after ``asked_at``; None where the vendor tells nothing about it."""
        self._reads += not self._looked_first
        self.failures = 0
        if asked_at is not None and self._doubts.may_come_after(self.order, asked_at):
            return self._ask_again(now)
        if self.name_was_given_away:  # it may be the new order that was read
            return self._unproved(now)
        if snapshot is None or not (snapshot.state.is_closed or snapshot.state.is_open):
            return self._untold(now)
        state = snapshot.state
        contradicted = self._last_state is not None and self._last_state.is_closed
        self._last_state = state
        if state is OrderState.CANCELED and self.doubt:
            return self._canceled(Evidence.READ_BACK, snapshot.executed, snapshot.remaining, now)
        if state is OrderState.CLOSED and self.doubt:  # maybe by that very cancel
            return self._unproved(now)
        if state.is_closed:
            return self._closed(Evidence.READ_BACK, state, snapshot.executed, now)
        if self._looked_first:
            return Step.SEND
        if not self.doubt and not contradicted and self._tells_canceled(self.order):
            return self._settle(Refused(**self._facts(Evidence.READ_BACK, now)))
        return self._untold(now)

    def read_failed(self, reason: str, now: float) -> Step:
        """The read-back brought no usable answer."""
        if self._looked_first:
            return Step.SEND
        self._reads += 1
        self.failures += 1
        if self._message is None and self._trouble is None:
            self._trouble = reason
        if self.doubt and not self._denied and self.attempts < self._limit:
            return Step.SEND_AFTER_PAUSE
        return self._look(pause=True) if self._reads < self._limit else self._unproved(now)

    # -- the end --------------------------------------------------------------------------------------------------

    def consult(self, now: float) -> bool:
        """Take the proof that a late answer brought, if there is one. True if the case has its outcome."""
        if self.outcome is None and (proof := self.proof) is not None:
            self._code, self._message = proof.code, proof.message
            self._canceled(Evidence.REPLY, proof.executed, proof.remaining, now)
        return self.outcome is not None

    def give_up(self, reason: str, now: float) -> None:
        """No time, no quota or no gateway is left: the outcome is what was proved so far."""
        self.consult(now)
        if self.outcome is None:
            if self._message is None:
                self._trouble = reason if self._trouble is None else f"{self._trouble}; {reason}"
            self._unproved(now)

    def must_not_repeat(self, now: float) -> Step:
        """The quota of repeats is used up: the outcome is what was proved so far, and by a look that is no repeat."""
        look = self._look(pause=True)
        if self.doubt and not self.is_repeat(look):
            return look
        self.give_up("the retry quota is used up", now)
        return Step.DONE

    def is_repeat(self, step: Step) -> bool:
        """Whether a step does again what was tried. The first look at an order in doubt is what the doubt calls for."""
        return step.sends or self.was_read

    @property
    def name_was_given_away(self) -> bool:
        """Since this call the creation of a new order of the name left: that must not be canceled, nor told of."""
        return self._doubts.was_given_away(self.order, self._started)

    @property
    def was_read(self) -> bool:
        """The order was read back after a cancel of it, or it was tried."""
        return self._reads > 0

    @property
    def reason(self) -> str:
        """Why nothing is proved yet, in a few words."""
        return self._message or self._trouble or "no answer"

    @property
    def untouched(self) -> bool:
        """No request of this case left the process, and none of an earlier call is in doubt."""
        return self._wire is Wire.NOT_SENT and not self.doubt

    @property
    def _was_asked_too_soon(self) -> bool:
        """The answer may be older than the order, which is created meanwhile."""
        departed_at = None if self.exchange is None else self.exchange.departed_at
        if departed_at is None:
            return False
        return self._doubts.may_come_after(self.order, departed_at)

    def _ask_again(self, now: float) -> Step:
        """What was told may be about a former order of the name."""
        return Step.SEND_WHEN_CREATED if self.attempts < self._limit else self._unproved(now)

    def _in_doubt(self, *, look: bool) -> Step:
        self._doubt = True
        self._doubts.cast(self.order, self)
        self.failures += 1
        if self.attempts < self._limit and not look:
            return Step.SEND_AFTER_PAUSE
        return self._look(pause=True)

    def _not_processed(self) -> Step:
        """The limiter's penalty is the pause."""
        return Step.SEND if self.attempts < self._limit else self._look(pause=False)

    def _not_accepted(self, error: GatewayError | None, now: float) -> Step:
        """One fresh signature by a corrected clock; a second rejection has another reason than the clock."""
        if self._renewed or self.attempts >= self._limit:
            return self._account_rejected(error, now)
        self._renewed = True
        return Step.SEND

    def _was_closed(self, verdict: Verdict, now: float) -> Step:
        self._last_state = verdict.state
        self._denied = True
        certain = verdict.state is OrderState.FILLED or not self.doubt
        if certain and verdict.state is not OrderState.CLOSED:
            return self._closed(Evidence.REPLY, verdict.state, verdict.executed, now)
        return self._look(pause=False)

    def _account_rejected(self, error: GatewayError | None, now: float) -> Step:
        if not self.doubt:
            self.error = error
        return self._unproved(now)

    def _answered_no(self, meaning: Meaning, now: float) -> Step:
        self._denied = True
        if meaning is Meaning.UNPROVED or self.doubt:
            return self._look(pause=False)
        facts = self._facts(Evidence.REPLY, now)
        return self._settle(NotFound(**facts) if meaning is Meaning.NOT_FOUND else Refused(**facts))

    @property
    def _looked_first(self) -> bool:
        """The order was looked at before any cancel of it was tried."""
        return self.attempts == 0 and not self.doubt

    def _untold(self, now: float) -> Step:
        """The read-back did not prove the order dead."""
        if self._looked_first:
            return Step.SEND
        if self.doubt and not self._denied and self.attempts < self._limit:
            return Step.SEND
        return self._unproved(now)

    def _look(self, *, pause: bool) -> Step:
        return Step.READ_BACK_AFTER_PAUSE if pause else Step.READ_BACK

    def _canceled(
        self, evidence: Evidence, executed: Decimal | None, remaining: Decimal | None, now: float
    ) -> Step:
        facts = self._facts(evidence, now)
        return self._settle(Canceled(executed=executed, remaining=remaining, **facts))

    def _closed(
        self, evidence: Evidence, state: OrderState, executed: Decimal | None, now: float
    ) -> Step:
        facts = self._facts(evidence, now)
        return self._settle(AlreadyClosed(state=state, executed=executed, **facts))

    def _unproved(self, now: float) -> Step:
        """What is left to say when nothing was proved about the order itself."""
        if not self.doubt and self._last_state is OrderState.CLOSED:
            return self._closed(Evidence.REPLY, OrderState.CLOSED, None, now)
        facts = self._facts(Evidence.NONE, now)
        if self.untouched:
            return self._settle(NotSent(**facts))
        return self._settle(Unknown(last_state=self._last_state, **facts))

    def _settle(self, outcome: CancelOutcome) -> Step:
        """The only place where a case gets its outcome."""
        assert self.outcome is None, "settled once"
        self.outcome = outcome
        if outcome.closed:
            self._doubts.dispel(self.order, self._started)
        return Step.DONE

    def _quote(self, code: str | None, message: str | None) -> None:
        """Keep the vendor's latest words; silence does not erase them."""
        if code is not None or message is not None:
            self._code, self._message, self._trouble = code, message, None

    def _suffer(self, reason: str) -> None:
        """Something went wrong: what the vendor said before is not about it."""
        self._code, self._message, self._trouble = None, None, reason

    def _facts(self, evidence: Evidence, now: float) -> _Facts:
        message = self._message
        if message is None and evidence is Evidence.NONE:  # what is proved needs no excuse
            message = self._trouble
        return {
            "order": self.order,
            "venue": self.venue,
            "attempts": self.attempts + self._divided,
            "elapsed": now - self._started,
            "wire": self._wire,
            "evidence": evidence,
            "code": self._code,
            "message": message,
        }
