"""The settlement of one cancel: the decision table, and the truth against a model of the vendor."""

from __future__ import annotations

import dataclasses
import enum
import gc
import weakref
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tronsave_async.errors import (
    AuthenticationRejected,
    BadReply,
    BusinessRefusal,
    ConnectFailed,
    ConnectionLost,
    GatewayClosed,
    GatewayError,
    InvalidRequest,
    OrderNotFound,
    PermissionDenied,
    RateLimited,
    UsageError,
    VendorFailure,
    WrongEndpoint,
)
from tronsave_async.exchange import Exchange
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
from tronsave_async.settlement import (
    MEANINGS,
    REMEMBERED,
    Case,
    Doubts,
    Meaning,
    Step,
    Verdict,
    canceled_at_once,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ORDER = OrderRef(id="673c17a3129f1881382e98e3")
VENUE = "somewhere"
LIMIT = 3
STARTED, NOW, LATER = 100.0, 107.5, 118.5

AUTH = AuthenticationRejected(VENUE, "cancel", status=401, code="INVALID_API_KEY", number=107)
LOST = ConnectionLost(VENUE, "cancel", "connection reset", wire=Wire.MAYBE_SENT)
UNREADABLE = BadReply(VENUE, "cancel", "reply too large", wire=Wire.ANSWERED)
NOT_CONNECTED = ConnectFailed(VENUE, "cancel", "connection refused", wire=Wire.NOT_SENT)
SESSION_CLOSED = GatewayClosed(VENUE)


def opened(*, doubt: bool = False, attempts: int = LIMIT, read_first: bool = True) -> Case:
    """Return a new case; in doubt if another call's cancel of the same order was lost."""
    doubts = Doubts()
    if doubt:
        doubts.cast(ORDER)
    return Case(
        ORDER, VENUE, started=STARTED, attempts=attempts, doubts=doubts, read_first=read_first
    )


Event = tuple[str, object]
"""What happened to a case, in the words of `tell`."""


def says(meaning: Meaning, state: OrderState = OrderState.CLOSED) -> Event:
    """Return the event of a reply to the cancel."""
    error = AUTH if meaning in (Meaning.ACCOUNT, Meaning.STALE) else None
    return "answered", Verdict(meaning=meaning, state=state, message=meaning.value, error=error)


def reads(state: OrderState | None) -> Event:
    """Return the event of a read-back; None where the vendor tells nothing about the order."""
    return "read", state


READ_FAILED: Event = ("read failed", "tracking timed out")


def tell(case: Case, event: Event) -> Step:
    """Tell a case what happened; return what it wants next."""
    kind, what = event
    match kind, what:
        case "answered", Verdict():
            return case.answered(what, NOW)
        case "failed", ConnectFailed() | ConnectionLost() | BadReply():
            return case.failed(what, NOW)
        case "read", OrderState():
            snapshot = OrderSnapshot(order=ORDER, venue=VENUE, state=what)
            return case.read(snapshot, NOW)
        case "read", None:
            return case.read(None, NOW)
        case "read failed", str():
            return case.read_failed(what, NOW)
        case "broken", GatewayError():
            return case.broken(what, NOW)
        case _:
            raise AssertionError(event)


def after(*events: Event, doubt: bool = False, attempts: int = LIMIT) -> tuple[Case, Step]:
    """Return a case to which all this happened, and what it wants next."""
    case, step = opened(doubt=doubt, attempts=attempts), Step.SEND
    for event in events:
        assert step is not Step.DONE, f"already settled before {event}"
        step = tell(case, event)
    return case, step


CANCELED = says(Meaning.CANCELED)
NOT_FOUND = says(Meaning.NOT_FOUND)
REFUSED = says(Meaning.REFUSED)
UNPROVED = says(Meaning.UNPROVED)
AMBIGUOUS = says(Meaning.AMBIGUOUS)
NOT_PROCESSED = says(Meaning.NOT_PROCESSED)
ACCOUNT = says(Meaning.ACCOUNT)
STALE = says(Meaning.STALE)
WAS_FILLED = says(Meaning.ALREADY_CLOSED, OrderState.FILLED)
WAS_CANCELED = says(Meaning.ALREADY_CLOSED, OrderState.CANCELED)
WAS_EXPIRED = says(Meaning.ALREADY_CLOSED, OrderState.EXPIRED)
WAS_CLOSED = says(Meaning.ALREADY_CLOSED, OrderState.CLOSED)
NO_REPLY: Event = ("failed", LOST)
BAD_REPLY: Event = ("failed", UNREADABLE)
NO_CONNECTION: Event = ("failed", NOT_CONNECTED)
IMPOSSIBLE: Event = ("broken", SESSION_CLOSED)

OPEN, PARTLY = OrderState.OPEN, OrderState.PARTIALLY_FILLED
FILLED, DEAD, EXPIRED, CLOSED = (
    OrderState.FILLED,
    OrderState.CANCELED,
    OrderState.EXPIRED,
    OrderState.CLOSED,
)

# -- what an error means, and what a reply says ------------------------------------------------------


@pytest.mark.parametrize(
    ("meaning", "errors"),
    [
        (Meaning.ACCOUNT, {AuthenticationRejected, PermissionDenied, WrongEndpoint}),
        (Meaning.NOT_FOUND, {OrderNotFound}),
        (Meaning.NOT_PROCESSED, {RateLimited}),
        # the vendor did not cancel, and its words need not say what became of the order
        (Meaning.UNPROVED, {InvalidRequest, BusinessRefusal}),
        # the request may have been carried out
        (Meaning.AMBIGUOUS, {VendorFailure, BadReply}),
    ],
)
def test_what_an_error_means_unless_a_vendor_knows_better(
    meaning: Meaning, errors: set[type[GatewayError]]
) -> None:
    """No error proves an order dead, and only the vendor's own words say that there is none."""
    assert {error for error, means in MEANINGS.items() if means is meaning} == errors


def test_a_verdict_says_no_more_than_it_was_told() -> None:
    """No state but "closed somehow", no amount, no words; and nobody can change it afterwards."""
    verdict = Verdict(meaning=Meaning.ALREADY_CLOSED)
    assert verdict.state is OrderState.CLOSED
    assert (verdict.executed, verdict.remaining) == (None, None)
    assert (verdict.code, verdict.message, verdict.error) == (None, None, None)
    with pytest.raises(AttributeError):
        verdict.state = OrderState.FILLED  # type: ignore[misc]
    with pytest.raises(TypeError):
        Verdict(Meaning.CANCELED)  # type: ignore[call-arg]


def test_a_new_case_has_done_nothing() -> None:
    """Nothing was tried, nothing was spent, nothing is known."""
    case = opened()
    assert (case.attempts, case.failures, case.was_read) == (0, 0, False)
    assert (case.queue_time, case.wire_time, case.read_back_time) == (0.0, 0.0, 0.0)
    assert (case.outcome, case.error, case.proof, case.exchange) == (None, None, None, None)


# -- the decision table ----------------------------------------------------------------------------

# What happened, whether an earlier call left doubt, and what the case wants next.
NEXT_STEPS: list[tuple[list[Event], bool, Step]] = [
    # an answer that proves nothing is followed by a look at the order
    ([UNPROVED], False, Step.READ_BACK),
    ([UNPROVED], True, Step.READ_BACK),
    ([REFUSED], True, Step.READ_BACK),
    ([NOT_FOUND], True, Step.READ_BACK),
    ([WAS_CLOSED], False, Step.READ_BACK),
    ([WAS_CLOSED], True, Step.READ_BACK),
    ([WAS_CANCELED], True, Step.READ_BACK),
    ([WAS_EXPIRED], True, Step.READ_BACK),
    # a lost reply is followed by a pause and a look
    ([AMBIGUOUS], False, Step.READ_BACK_AFTER_PAUSE),
    ([NO_REPLY], False, Step.READ_BACK_AFTER_PAUSE),
    ([BAD_REPLY], False, Step.READ_BACK_AFTER_PAUSE),
    ([NO_REPLY, reads(OPEN), AMBIGUOUS], False, Step.READ_BACK_AFTER_PAUSE),
    # what never arrived is sent again, and after the last attempt looked at where something did arrive
    ([NO_CONNECTION], False, Step.SEND_AFTER_PAUSE),
    ([NO_CONNECTION], True, Step.SEND_AFTER_PAUSE),
    ([NO_CONNECTION] * 2, False, Step.SEND_AFTER_PAUSE),
    ([NO_CONNECTION] * 3, True, Step.READ_BACK_AFTER_PAUSE),
    ([NOT_PROCESSED, NO_CONNECTION, NO_CONNECTION], False, Step.READ_BACK_AFTER_PAUSE),
    # what was not processed is sent again without a pause: the limiter's penalty is the pause
    ([NOT_PROCESSED], False, Step.SEND),
    ([NOT_PROCESSED] * 2, True, Step.SEND),
    ([NOT_PROCESSED] * 3, False, Step.READ_BACK),
    ([NOT_PROCESSED] * 3, True, Step.READ_BACK),
    # what was signed too long ago is signed anew at once, whatever came before
    ([STALE], False, Step.SEND),
    ([STALE], True, Step.SEND),
    ([NOT_PROCESSED, STALE], False, Step.SEND),
    ([STALE, NOT_PROCESSED], False, Step.SEND),
    ([NO_REPLY, reads(OPEN), STALE], False, Step.SEND),
    # in doubt, what does not read as closed is canceled again
    ([NO_REPLY, reads(OPEN)], False, Step.SEND),
    ([NO_REPLY, reads(PARTLY)], False, Step.SEND),
    ([NO_REPLY, reads(None)], False, Step.SEND),
    ([NO_REPLY, reads(OrderState.UNKNOWN)], False, Step.SEND),
    ([NO_REPLY, READ_FAILED], False, Step.SEND_AFTER_PAUSE),
    ([NO_REPLY, READ_FAILED, NO_REPLY, reads(OPEN)], False, Step.SEND),
    # a read-back that failed is repeated where another cancel would be in vain
    ([UNPROVED, READ_FAILED], False, Step.READ_BACK_AFTER_PAUSE),
    ([UNPROVED, READ_FAILED, READ_FAILED], False, Step.READ_BACK_AFTER_PAUSE),
    ([NO_REPLY, reads(OPEN), REFUSED, READ_FAILED], False, Step.READ_BACK_AFTER_PAUSE),
    ([NOT_PROCESSED, NOT_PROCESSED, AMBIGUOUS, READ_FAILED], False, Step.READ_BACK_AFTER_PAUSE),
]


@pytest.mark.parametrize(("events", "doubt", "step"), NEXT_STEPS)
def test_what_a_case_wants_next(events: list[Event], doubt: bool, step: Step) -> None:
    """While nothing is proved, a case asks for another cancel or for a look at the order, never for both."""
    case, wanted = after(*events, doubt=doubt)
    assert wanted is step
    assert case.outcome is None
    assert case.error is None


Facts = dict[str, object]

REPLY, READ_BACK, NOBODY = Evidence.REPLY, Evidence.READ_BACK, Evidence.NONE

End = tuple[list[Event], bool, type[CancelOutcome], Facts]
"""What happened, whether an earlier call left doubt, the outcome, and what else it says."""


def denied_in_doubt(state: OrderState, kind: type[CancelOutcome], facts: Facts) -> list[End]:
    """Return one end for each way in which a vendor can decline a cancel that is in doubt."""
    denials = (WAS_CLOSED, WAS_CANCELED, NOT_FOUND, REFUSED, UNPROVED)
    return [([denial, reads(state)], True, kind, facts) for denial in denials]


ENDS: list[End] = [
    # the reply alone, without doubt
    ([CANCELED], False, Canceled, {"evidence": REPLY}),
    ([WAS_FILLED], False, AlreadyClosed, {"evidence": REPLY, "state": FILLED}),
    ([WAS_CANCELED], False, AlreadyClosed, {"evidence": REPLY, "state": DEAD}),
    ([WAS_EXPIRED], False, AlreadyClosed, {"evidence": REPLY, "state": EXPIRED}),
    ([NOT_FOUND], False, NotFound, {"evidence": REPLY}),
    ([REFUSED], False, Refused, {"evidence": REPLY}),
    # the reply alone, in doubt: only success and a fill prove anything
    ([CANCELED], True, Canceled, {"evidence": REPLY}),
    ([NO_REPLY, reads(OPEN), CANCELED], False, Canceled, {"evidence": REPLY}),
    ([WAS_FILLED], True, AlreadyClosed, {"evidence": REPLY, "state": FILLED}),
    (
        [NO_REPLY, reads(OPEN), WAS_FILLED],
        False,
        AlreadyClosed,
        {"evidence": REPLY, "state": FILLED},
    ),
    # closed, and the vendor does not tell how: the read-back tells, or nobody
    ([WAS_CLOSED, reads(FILLED)], False, AlreadyClosed, {"evidence": READ_BACK, "state": FILLED}),
    ([WAS_CLOSED, reads(DEAD)], False, AlreadyClosed, {"evidence": READ_BACK, "state": DEAD}),
    ([WAS_CLOSED, reads(CLOSED)], False, AlreadyClosed, {"evidence": READ_BACK, "state": CLOSED}),
    ([WAS_CLOSED, reads(None)], False, AlreadyClosed, {"evidence": REPLY, "state": CLOSED}),
    (
        [WAS_CLOSED, reads(OrderState.UNKNOWN)],
        False,
        AlreadyClosed,
        {"evidence": REPLY, "state": CLOSED},
    ),
    (
        [WAS_CLOSED, READ_FAILED, READ_FAILED, READ_FAILED],
        False,
        AlreadyClosed,
        {"evidence": REPLY, "state": CLOSED, "executed": None},
    ),
    ([WAS_CLOSED, reads(None)], True, Unknown, {"evidence": NOBODY, "last_state": CLOSED}),
    ([WAS_CLOSED, reads(FILLED)], True, AlreadyClosed, {"evidence": READ_BACK, "state": FILLED}),
    # a vendor that contradicts itself proves nothing
    ([WAS_CLOSED, reads(OPEN)], False, Unknown, {"evidence": NOBODY, "last_state": OPEN}),
    ([WAS_CLOSED, reads(PARTLY)], True, Unknown, {"evidence": NOBODY, "last_state": PARTLY}),
    # not canceled, and no doubt: the read-back decides
    ([UNPROVED, reads(OPEN)], False, Refused, {"evidence": READ_BACK}),
    ([UNPROVED, reads(PARTLY)], False, Refused, {"evidence": READ_BACK}),
    ([UNPROVED, reads(FILLED)], False, AlreadyClosed, {"evidence": READ_BACK, "state": FILLED}),
    ([UNPROVED, reads(DEAD)], False, AlreadyClosed, {"evidence": READ_BACK, "state": DEAD}),
    ([UNPROVED, reads(EXPIRED)], False, AlreadyClosed, {"evidence": READ_BACK, "state": EXPIRED}),
    ([UNPROVED, reads(CLOSED)], False, AlreadyClosed, {"evidence": READ_BACK, "state": CLOSED}),
    ([UNPROVED, reads(None)], False, Unknown, {"evidence": NOBODY, "last_state": None}),
    ([UNPROVED, reads(OrderState.UNKNOWN)], False, Unknown, {"last_state": None}),
    ([UNPROVED, *[READ_FAILED] * 3], False, Unknown, {"evidence": NOBODY, "last_state": None}),
    ([*[NOT_PROCESSED] * 3, reads(OPEN)], False, Refused, {"evidence": READ_BACK}),
    ([*[NOT_PROCESSED] * 3, reads(DEAD)], False, AlreadyClosed, {"state": DEAD}),
    ([*[NOT_PROCESSED] * 3, reads(None)], False, Unknown, {"wire": Wire.ANSWERED}),
    # in doubt, what reads as canceled was canceled by us or by others: dead, and not filled
    ([NO_REPLY, reads(DEAD)], False, Canceled, {"evidence": READ_BACK}),
    ([BAD_REPLY, reads(DEAD)], False, Canceled, {"evidence": READ_BACK, "wire": Wire.ANSWERED}),
    ([AMBIGUOUS, reads(DEAD)], False, Canceled, {"evidence": READ_BACK, "wire": Wire.ANSWERED}),
    ([NO_REPLY, reads(FILLED)], False, AlreadyClosed, {"evidence": READ_BACK, "state": FILLED}),
    ([NO_REPLY, reads(EXPIRED)], False, AlreadyClosed, {"evidence": READ_BACK, "state": EXPIRED}),
    ([NO_REPLY, reads(CLOSED)], False, Unknown, {"evidence": NOBODY, "last_state": CLOSED}),
    *denied_in_doubt(DEAD, Canceled, {"evidence": READ_BACK}),
    # in doubt, a denial is no proof and is not asked for again
    *denied_in_doubt(OPEN, Unknown, {"evidence": NOBODY, "last_state": OPEN}),
    ([NOT_FOUND, reads(None)], True, Unknown, {"last_state": None}),
    ([WAS_EXPIRED, reads(None)], True, Unknown, {"last_state": EXPIRED}),
    ([REFUSED, *[READ_FAILED] * 3], True, Unknown, {"last_state": None}),
    # looks that worked count among those that are tried
    (
        [*[NO_REPLY, reads(OPEN)] * 2, REFUSED, READ_FAILED],
        False,
        Unknown,
        {"evidence": NOBODY, "last_state": OPEN},
    ),
    # in doubt, an order that stays open until no attempt is left is not refused: it is unknown
    ([*[NO_REPLY, reads(OPEN)] * 3], False, Unknown, {"evidence": NOBODY, "last_state": OPEN}),
    ([*[NO_REPLY, reads(None)] * 3], False, Unknown, {"wire": Wire.MAYBE_SENT}),
    ([*[NO_REPLY, READ_FAILED] * 3], False, Unknown, {"wire": Wire.MAYBE_SENT}),
    ([*[AMBIGUOUS, reads(OPEN)] * 3], False, Unknown, {"wire": Wire.ANSWERED}),
    # nothing left this process
    ([NO_CONNECTION] * 3, False, NotSent, {"evidence": NOBODY, "wire": Wire.NOT_SENT}),
    ([*[NO_CONNECTION] * 3, reads(OPEN)], True, Unknown, {"wire": Wire.NOT_SENT}),
    ([*[NO_CONNECTION] * 3, reads(DEAD)], True, Canceled, {"wire": Wire.NOT_SENT}),
    ([NO_CONNECTION, CANCELED], False, Canceled, {"wire": Wire.ANSWERED, "attempts": 2}),
    # the account
    ([ACCOUNT], True, Unknown, {"evidence": NOBODY, "wire": Wire.ANSWERED}),
    ([NO_REPLY, reads(OPEN), ACCOUNT], False, Unknown, {"last_state": OPEN}),
    # a fresh signature is rejected too: it is not the clock, it is the account
    ([STALE, STALE], True, Unknown, {"evidence": NOBODY, "wire": Wire.ANSWERED, "attempts": 2}),
    ([NO_REPLY, reads(OPEN), STALE, STALE], False, Unknown, {"last_state": OPEN}),
    ([STALE, CANCELED], False, Canceled, {"evidence": REPLY, "attempts": 2}),
    ([STALE, NOT_FOUND], False, NotFound, {"evidence": REPLY}),
    # a request that cannot even be tried
    ([IMPOSSIBLE], True, Unknown, {"wire": Wire.NOT_SENT, "attempts": 0}),
    ([NO_REPLY, reads(OPEN), IMPOSSIBLE], False, Unknown, {"wire": Wire.MAYBE_SENT}),
]


@pytest.mark.parametrize(("events", "doubt", "kind", "facts"), ENDS)
def test_how_a_case_ends(
    events: list[Event], doubt: bool, kind: type[CancelOutcome], facts: Facts
) -> None:
    """Each sequence of answers, lost requests and read-backs has exactly one end, and it says who proved it."""
    case, step = after(*events, doubt=doubt)
    assert step is Step.DONE
    assert type(case.outcome) is kind
    assert {name: getattr(case.outcome, name) for name in facts} == facts
    assert case.error is None
    assert case.outcome is not None
    assert not (case.outcome.closed and case._doubts.hold(ORDER))


def test_a_second_end_is_a_bug() -> None:
    """A case that was settled cannot be settled again."""
    case, _ = after(CANCELED)
    with pytest.raises(AssertionError, match="settled once"):
        case.answered(Verdict(meaning=Meaning.REFUSED), NOW)


def test_giving_up_after_the_end_changes_nothing() -> None:
    """A deadline that comes after the outcome is too late."""
    case, _ = after(CANCELED)
    outcome = case.outcome
    case.give_up("out of time", NOW)
    assert case.outcome is outcome


# -- without read-backs first ----------------------------------------------------------------------


def test_where_reading_is_dear_the_cancel_is_repeated_first() -> None:
    """With ``read_first=False`` a lost reply is followed by another cancel, and by a look after the last."""
    case = opened(read_first=False)
    assert tell(case, NO_REPLY) is Step.SEND_AFTER_PAUSE
    assert tell(case, NO_REPLY) is Step.SEND_AFTER_PAUSE
    assert tell(case, NO_REPLY) is Step.READ_BACK_AFTER_PAUSE
    assert tell(case, reads(DEAD)) is Step.DONE
    assert isinstance(case.outcome, Canceled)


def test_a_lost_reply_is_followed_by_a_look_unless_reading_is_dear() -> None:
    """Who does not say that reading is dear gets the cautious order: look, then repeat."""
    case = Case(ORDER, VENUE, started=STARTED, attempts=LIMIT, doubts=Doubts())
    assert tell(case, NO_REPLY) is Step.READ_BACK_AFTER_PAUSE


@pytest.mark.parametrize("event", [AMBIGUOUS, BAD_REPLY])
def test_an_answer_that_leaves_doubt_is_followed_by_a_look(event: Event) -> None:
    """Whatever was answered: the vendor is there, and the order is looked at before anything is repeated."""
    assert tell(opened(read_first=False), event) is Step.READ_BACK_AFTER_PAUSE


@pytest.mark.parametrize("event", [NO_REPLY, AMBIGUOUS, BAD_REPLY])
def test_a_single_attempt_is_still_read_back(event: Event) -> None:
    """One attempt at most does not mean no look at the order."""
    assert after(event, attempts=1)[1] is Step.READ_BACK_AFTER_PAUSE
    assert after(NOT_PROCESSED, attempts=1)[1] is Step.READ_BACK
    assert isinstance(after(NO_CONNECTION, attempts=1)[0].outcome, NotSent)


# -- the account, and the program ------------------------------------------------------------------


def test_a_rejected_account_is_an_error_where_nothing_is_in_doubt() -> None:
    """The account's error is kept to be raised; the outcome beside it does not claim that nothing was sent."""
    case, step = after(ACCOUNT)
    assert step is Step.DONE
    assert case.error is AUTH
    assert isinstance(case.outcome, Unknown)
    assert case.outcome.message == "account"


@pytest.mark.parametrize(
    "error", [SESSION_CLOSED, UsageError("the limiter serves another event loop")]
)
def test_a_request_that_cannot_be_tried_is_an_error_where_nothing_is_in_doubt(
    error: GatewayError,
) -> None:
    """A broken program is told by its error; the outcome beside it says that the order is untouched."""
    case, step = after(("broken", error))
    assert step is Step.DONE
    assert case.error is error
    assert isinstance(case.outcome, NotSent)
    assert case.outcome.message == str(error)


@pytest.mark.parametrize("before", [[STALE], [NOT_PROCESSED, STALE], [STALE, NO_CONNECTION]])
def test_a_signature_that_is_rejected_twice_is_the_account_s_error(before: list[Event]) -> None:
    """One fresh attempt is made; the second rejection is raised, and its outcome does not claim that nothing left."""
    case, step = after(*before, STALE)
    assert step is Step.DONE
    assert case.error is AUTH
    assert isinstance(case.outcome, Unknown)
    assert case.outcome.message == "stale"
    assert case.attempts == len(before) + 1


def test_a_rejected_signature_that_is_made_anew_is_not_the_reason() -> None:
    """The vendor's words about the clock say nothing about the order, and the clock is being corrected."""
    case, _ = after(STALE)
    assert case.reason == "no answer"
    case.give_up("out of time", NOW)
    assert case.outcome is not None
    assert case.outcome.message == "out of time"


def test_a_stale_signature_is_not_renewed_beyond_the_last_attempt() -> None:
    """Where one attempt is all there is, its rejection is the account's error."""
    case, step = after(STALE, attempts=1)
    assert (step, case.error) == (Step.DONE, AUTH)


@pytest.mark.parametrize("event", [ACCOUNT, IMPOSSIBLE])
@pytest.mark.parametrize("before", [[NO_REPLY, reads(OPEN)], [AMBIGUOUS, reads(None)]])
def test_an_error_never_hides_a_request_in_doubt(before: list[Event], event: Event) -> None:
    """After a lost reply no error is raised in place of the outcome: the order may be dead."""
    case, _ = after(*before, event)
    assert case.error is None
    assert isinstance(case.outcome, Unknown)
    assert case.doubt


# -- what an outcome says --------------------------------------------------------------------------


def test_an_outcome_carries_the_vendor_s_amounts_and_words() -> None:
    """Amounts, code and text of the reply are quoted verbatim, with the time since the call."""
    case = opened()
    case.answered(
        Verdict(
            meaning=Meaning.CANCELED,
            executed=Decimal("1.50"),
            remaining=Decimal("8.5"),
            code="20",
            message=" Teilweise ausgeführt ",
        ),
        NOW,
    )
    assert case.outcome == Canceled(
        order=ORDER,
        venue=VENUE,
        attempts=1,
        elapsed=7.5,
        wire=Wire.ANSWERED,
        evidence=Evidence.REPLY,
        code="20",
        message=" Teilweise ausgeführt ",
        executed=Decimal("1.50"),
        remaining=Decimal("8.5"),
    )


def test_a_record_that_hides_a_cancel_proves_no_order_alive() -> None:
    """An order that seems to wait after its cancel was refused may have been canceled before."""
    for tells, kind in ((True, Refused), (False, Unknown)):
        case = Case(
            ORDER,
            VENUE,
            started=STARTED,
            attempts=LIMIT,
            doubts=Doubts(),
            tells_canceled=partial(dict.__getitem__, {ORDER: tells}),
        )
        tell(case, UNPROVED)
        tell(case, reads(OPEN))
        assert isinstance(case.outcome, kind)
        assert case.attempts == 1
        assert getattr(case.outcome, "last_state", OPEN) is OPEN


def test_amounts_of_the_reply_and_of_the_read_back_are_kept() -> None:
    """What was executed is reported by whoever proved the outcome, never assumed to be zero."""
    closed = opened()
    verdict = Verdict(meaning=Meaning.ALREADY_CLOSED, state=FILLED, executed=Decimal(7))
    closed.answered(verdict, NOW)
    assert isinstance(closed.outcome, AlreadyClosed)
    assert closed.outcome.executed == Decimal(7)
    for state, doubt in ((DEAD, True), (DEAD, False), (FILLED, False)):
        case, _ = after(UNPROVED, doubt=doubt)
        case.read(
            OrderSnapshot(
                order=ORDER,
                venue=VENUE,
                state=state,
                executed=Decimal(3),
                remaining=Decimal(4),
            ),
            NOW,
        )
        assert isinstance(case.outcome, Canceled | AlreadyClosed)
        assert case.outcome.executed == Decimal(3)
        if isinstance(case.outcome, Canceled):
            assert case.outcome.remaining == Decimal(4)


def test_silence_does_not_erase_the_vendor_s_words() -> None:
    """The latest words are kept with their code until there are others."""
    case = opened(doubt=True)
    case.answered(Verdict(meaning=Meaning.UNPROVED, code="B1", message="busy"), NOW)
    case.read_failed("tracking timed out", NOW)
    assert case.reason == "busy"
    case.give_up("out of time", NOW)
    assert isinstance(case.outcome, Unknown)
    assert (case.outcome.code, case.outcome.message) == ("B1", "busy")


def test_new_words_replace_the_old_ones_together_with_their_code() -> None:
    """A code is never shown with a text that it did not come with."""
    case = opened()
    case.answered(Verdict(meaning=Meaning.NOT_PROCESSED, code="429", message="slow down"), NOW)
    case.answered(Verdict(meaning=Meaning.CANCELED), NOW)
    assert isinstance(case.outcome, Canceled)
    assert (case.outcome.code, case.outcome.message) == (None, None), "it was not about this"
    other = opened()
    other.answered(Verdict(meaning=Meaning.NOT_PROCESSED, code="429", message="slow down"), NOW)
    other.failed(LOST, NOW)
    assert other.reason == "connection reset"
    other.give_up("out of time", NOW)
    assert isinstance(other.outcome, Unknown)
    words = (other.outcome.code, other.outcome.message)
    assert words == (None, "connection reset; out of time")


def test_what_is_proved_needs_no_excuse() -> None:
    """Troubles on the way are quoted where they are why nothing is known, and nowhere else."""
    case = opened()
    case.failed(LOST, NOW)
    assert case.reason == "connection reset"
    tell(case, reads(DEAD))
    assert isinstance(case.outcome, Canceled)
    assert case.outcome.message is None
    told = opened()
    told.failed(LOST, NOW)
    told.answered(Verdict(meaning=Meaning.UNPROVED, code="B1", message="busy"), NOW)
    tell(told, reads(FILLED))
    assert isinstance(told.outcome, AlreadyClosed)
    assert (told.outcome.code, told.outcome.message) == ("B1", "busy")
    unread = opened()
    unread.failed(LOST, NOW)
    unread.read_failed("tracking timed out", NOW)
    unread.give_up("out of time", NOW)
    assert isinstance(unread.outcome, Unknown)
    assert unread.outcome.message == "connection reset; out of time"


def test_the_reason_is_the_best_known() -> None:
    """Where nobody said anything, the reason is the read-back's or the end's; before that there is a plain word."""
    case = opened()
    assert case.reason == "no answer"
    case.answered(Verdict(meaning=Meaning.UNPROVED), NOW)
    assert case.reason == "no answer"
    case.read_failed("tracking timed out", NOW)
    assert case.reason == "tracking timed out"
    silent = opened()
    silent.give_up("out of time", NOW)
    assert silent.outcome is not None
    assert (silent.outcome.code, silent.outcome.message) == (None, "out of time")
    laconic = opened()
    laconic.answered(Verdict(meaning=Meaning.UNPROVED, code="B1"), NOW)
    tell(laconic, reads(OPEN))
    assert laconic.outcome is not None
    assert (laconic.outcome.code, laconic.outcome.message) == ("B1", None)


def test_failures_count_in_a_row() -> None:
    """The exponent of the back-off grows with each failure and starts anew after a read-back that worked."""
    case = opened(attempts=9)
    counts = []
    for event in (NO_CONNECTION, NO_CONNECTION, NO_REPLY, READ_FAILED, NO_REPLY, reads(OPEN)):
        tell(case, event)
        counts.append(case.failures)
    assert counts == [1, 2, 3, 4, 5, 0]


def test_every_try_is_counted() -> None:
    """``attempts`` counts the cancels that were tried, sent or not, and no read-back."""
    case, _ = after(NO_CONNECTION, NOT_PROCESSED, NO_REPLY, READ_FAILED)
    assert case.attempts == 3


WIRES: list[tuple[list[Event], Wire]] = [
    ([], Wire.NOT_SENT),
    ([NO_CONNECTION], Wire.NOT_SENT),
    ([NOT_PROCESSED], Wire.ANSWERED),
    ([BAD_REPLY], Wire.ANSWERED),
    ([NO_REPLY], Wire.MAYBE_SENT),
    ([NO_CONNECTION, NO_REPLY], Wire.MAYBE_SENT),
    ([NOT_PROCESSED, NO_REPLY], Wire.MAYBE_SENT),
    ([NOT_PROCESSED, BAD_REPLY], Wire.ANSWERED),
    ([NOT_PROCESSED, NO_CONNECTION], Wire.ANSWERED),
    ([NO_REPLY, reads(OPEN), NOT_PROCESSED], Wire.MAYBE_SENT),
    ([NO_REPLY, reads(OPEN), BAD_REPLY], Wire.MAYBE_SENT),
    ([NO_REPLY, reads(OPEN), NO_CONNECTION], Wire.MAYBE_SENT),
]


@pytest.mark.parametrize(("events", "wire"), WIRES)
def test_the_wire_says_the_least_that_is_proved_of_all_requests(
    events: list[Event], wire: Wire
) -> None:
    """One request without a reply outweighs all that were answered, and an answer all that never left."""
    case, _ = after(*events)
    case.give_up("out of time", NOW)
    assert case.outcome is not None
    assert case.outcome.wire is wire
    assert isinstance(case.outcome, NotSent) == (wire is Wire.NOT_SENT)
    assert case.untouched == (wire is Wire.NOT_SENT)


# -- leaving, and closing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "reached", "tried", "wire", "doubt"),
    [
        ([], Wire.NOT_SENT, False, Wire.NOT_SENT, False),
        ([], Wire.NOT_SENT, True, Wire.NOT_SENT, False),
        ([], Wire.ANSWERED, True, Wire.ANSWERED, False),
        ([], Wire.MAYBE_SENT, True, Wire.MAYBE_SENT, True),
        ([NOT_PROCESSED], Wire.NOT_SENT, False, Wire.ANSWERED, False),
        ([NOT_PROCESSED], Wire.MAYBE_SENT, True, Wire.MAYBE_SENT, True),
        ([NO_REPLY, reads(OPEN)], Wire.NOT_SENT, False, Wire.MAYBE_SENT, True),
        ([NO_REPLY, reads(OPEN)], Wire.ANSWERED, True, Wire.MAYBE_SENT, True),
    ],
)
def test_a_caller_that_goes_takes_what_is_known_of_its_request(
    before: list[Event], reached: Wire, tried: bool, wire: Wire, doubt: bool
) -> None:
    """Leaving adds the request under way to what was known: it can cast doubt and never remove it."""
    case, _ = after(*before)
    tries = case.attempts
    case.left_queue(reached, tried=tried)
    assert (case.attempts, case.doubt) == (tries + tried, doubt)
    case.give_up("out of time", NOW)
    assert case.outcome is not None
    assert case.outcome.wire is wire
    assert isinstance(case.outcome, NotSent if wire is Wire.NOT_SENT else Unknown)


@pytest.mark.parametrize(
    ("reached", "kind", "attempts"),
    [(Wire.NOT_SENT, NotSent, 0), (Wire.ANSWERED, Unknown, 1), (Wire.MAYBE_SENT, Unknown, 1)],
)
def test_a_gateway_that_closes_cuts_the_case_off(
    reached: Wire, kind: type[CancelOutcome], attempts: int
) -> None:
    """Closing settles at once: nothing left means untouched, everything else is unknown."""
    case = opened()
    assert case.cut_off(reached, "gateway closed", NOW) is Step.DONE
    assert type(case.outcome) is kind
    assert case.outcome is not None
    assert (case.outcome.attempts, case.outcome.message) == (attempts, "gateway closed")


def test_an_earlier_call_in_doubt_forbids_not_sent() -> None:
    """What an earlier call may have sent can still arrive: the order is not untouched."""
    case = opened(doubt=True)
    assert not case.untouched
    case.cut_off(Wire.NOT_SENT, "gateway closed", NOW)
    assert isinstance(case.outcome, Unknown)
    assert case.outcome.wire is Wire.NOT_SENT


def test_proof_ends_doubt() -> None:
    """Doubt about an order lasts until an outcome proves it dead, for all cases that come later."""
    case, doubts = opened(doubt=True), opened()._doubts
    assert (case._doubts.hold(ORDER), doubts.hold(ORDER)) == (True, False)
    tell(case, CANCELED)
    assert not case._doubts.hold(ORDER)


def test_doubt_is_shared_at_once() -> None:
    """What one case loses, every other case of the order is in doubt about from that moment on."""
    doubts = Doubts()
    lost, other = (
        Case(ORDER, VENUE, started=STARTED, attempts=LIMIT, doubts=doubts) for _ in range(2)
    )
    assert other.untouched
    tell(lost, NO_REPLY)
    assert other.doubt
    other.give_up("out of time", NOW)
    assert isinstance(other.outcome, Unknown)


@pytest.mark.parametrize("event", [NO_REPLY, BAD_REPLY, AMBIGUOUS])
def test_a_case_never_forgets_its_own_lost_reply(event: Event) -> None:
    """Also where the gateway forgot it: the name was given to a new order, or another call proved this one dead."""
    case, _ = after(event)
    case._doubts.dispel(ORDER, NOW)
    assert case.doubt
    assert tell(case, reads(OPEN)) is Step.SEND
    assert tell(case, NOT_FOUND) is Step.READ_BACK


def test_a_request_that_others_wait_for_is_not_in_doubt() -> None:
    """Who leaves a request that others still wait for is in doubt alone; who deserts one leaves doubt behind."""
    doubts = Doubts()
    case = Case(ORDER, VENUE, started=STARTED, attempts=LIMIT, doubts=doubts)
    case.left_queue(Wire.MAYBE_SENT, tried=True, deserted=False)
    assert (case.doubt, doubts.hold(ORDER)) == (True, False)
    case.left_queue(Wire.MAYBE_SENT, tried=True)
    assert doubts.hold(ORDER)


def test_the_latest_doubts_are_remembered() -> None:
    """Doubts are bounded: the oldest goes, and one cast again counts as new; ids and client ids are told apart."""
    doubts = Doubts()
    orders = [OrderRef(id=str(index)) for index in range(REMEMBERED)]
    for order in orders:
        doubts.cast(order)
    doubts.cast(orders[0])
    doubts.cast(OrderRef(client_id="1"))
    assert len(doubts) == REMEMBERED
    assert doubts.hold(orders[0])
    assert not doubts.hold(orders[1])
    assert doubts.hold(OrderRef(client_id="1"))
    doubts.dispel(OrderRef(id="never seen"), NOW)


def test_what_was_asked_about_the_old_order_of_a_name_says_nothing_about_the_new_one() -> None:
    """No answer, early or late, to what was asked before touches the doubt about the new order; it ends that about the
    old one."""
    doubts = Doubts()
    old, older = (
        Case(ORDER, VENUE, started=STARTED, attempts=LIMIT, doubts=doubts) for _ in range(2)
    )
    tell(old, NO_REPLY)
    tell(older, NO_REPLY)
    doubts.creating(ORDER, NOW, LATER)
    new = Case(ORDER, VENUE, started=NOW, attempts=LIMIT, doubts=doubts)
    tell(new, NO_REPLY)
    assert not doubts.resolve(ORDER.name, SUCCESS, NOW - 0.001)
    assert old.consult(NOW)
    assert isinstance(old.outcome, Canceled)
    assert not new.consult(NOW)
    assert not doubts.resolve(ORDER.name, SUCCESS, None)
    doubts.dispel(ORDER, NOW - 0.001)
    tell(older, reads(FILLED))
    doubts.created(ORDER, LATER)
    assert doubts.hold(ORDER)
    assert doubts.resolve(ORDER.name, SUCCESS, NOW)
    assert new.consult(NOW)
    proved(new)
    doubts.cast(ORDER)
    doubts.dispel(ORDER, NOW)
    assert not doubts.hold(ORDER)


def test_doubt_about_the_old_order_of_a_name_lasts_until_there_is_a_new_one() -> None:
    """A creation may fail, or be lost: then the name is the old order's still, whose cancel is in doubt."""
    doubts = Doubts()
    doubts.cast(ORDER)
    doubts.creating(ORDER, NOW, LATER)
    assert doubts.hold(ORDER)
    assert sharing(doubts).doubt
    doubts.creating(ORDER, NOW + 1.0, LATER)  # the creation is sent again
    assert sharing(doubts).doubt
    doubts.created(ORDER, LATER)
    doubts.created(ORDER, LATER)
    assert not sharing(doubts).doubt


def test_each_proof_ends_the_doubt_about_the_order_that_it_is_about() -> None:
    """About the former one of a name, or about the one that has it, whatever else is in doubt."""
    doubts = Doubts()
    doubts.cast(ORDER)
    doubts.creating(ORDER, NOW, LATER)
    doubts.dispel(ORDER, STARTED)
    assert not doubts.hold(ORDER)
    new = Case(ORDER, VENUE, started=NOW, attempts=LIMIT, doubts=doubts)
    tell(new, NO_REPLY)
    assert doubts.hold(ORDER)
    tell(new, reads(FILLED))
    assert isinstance(new.outcome, AlreadyClosed)
    assert not doubts.hold(ORDER)


def test_who_waits_is_told_however_often_its_name_is_given_away() -> None:
    """A late answer about a former order proves to all its cases."""
    doubts = Doubts()
    first, second = sharing(doubts), sharing(doubts)
    tell(first, NO_REPLY)
    doubts.creating(ORDER, NOW, LATER)
    tell(second, NO_REPLY)
    doubts.creating(ORDER, NOW + 1.0, LATER)
    assert not doubts.resolve(ORDER.name, SUCCESS, NOW)
    for case in (first, second):
        assert case.consult(NOW)
        proved(case)
    assert not doubts.hold(ORDER)


def test_the_latest_renamings_are_remembered() -> None:
    """They are bounded as well: the oldest goes, and one renamed again counts as new."""
    doubts = Doubts()
    orders = [OrderRef(client_id=str(index)) for index in range(REMEMBERED)]
    for order in (*orders, orders[0], OrderRef(client_id="one more")):
        doubts.cast(order)
        doubts.creating(order, NOW, LATER)
    assert [doubts.hold(order) for order in orders[:3]] == [True, False, True]
    for order in orders[:3]:
        doubts.cast(order)
        doubts.dispel(order, STARTED)
    for order in orders[:3]:
        doubts.created(order, LATER)
    assert [doubts.hold(order) for order in orders[:3]] == [True, False, True]


# -- answers that are older than the order ---------------------------------------------------------


def asked(case: Case, departed_at: float | None) -> Case:
    """Return the case whose answer comes to a request of that moment."""
    case.exchange = Exchange(1, VENUE, "cancel", 1, STARTED, lambda: NOW, None)
    case.exchange.departed_at = departed_at
    return case


GONE = Verdict(meaning=Meaning.NOT_FOUND, code="404", message="Order not found.")
CLOSED_BEFORE = Verdict(meaning=Meaning.ALREADY_CLOSED, state=FILLED)


@pytest.mark.parametrize("outdated", [GONE, CLOSED_BEFORE])
def test_an_answer_from_before_the_creation_ended_proves_no_absence(outdated: Verdict) -> None:
    """The order may come to be after the vendor looked for it: it is asked for again, once that is over."""
    doubts = Doubts()
    doubts.creating(ORDER, STARTED, LATER)
    for departed_at in (STARTED, NOW, LATER - 0.001):
        case = asked(sharing(doubts), departed_at)
        assert case.answered(outdated, NOW) is Step.SEND_WHEN_CREATED
        assert settled(case) is None
        asked(case, LATER)
        assert case.answered(outdated, LATER) is Step.DONE
        assert isinstance(case.outcome, NotFound | AlreadyClosed)
    doubts.created(ORDER, NOW)
    case = asked(sharing(doubts), NOW - 0.001)
    assert case.answered(outdated, NOW) is Step.SEND_WHEN_CREATED
    assert asked(case, NOW).answered(outdated, NOW) is Step.DONE


@pytest.mark.parametrize("outdated", [GONE, CLOSED_BEFORE])
def test_who_asked_before_a_creation_left_asked_about_the_former_order(outdated: Verdict) -> None:
    """The answer is true of that, and the new order is not canceled for it."""
    doubts = Doubts()
    doubts.creating(ORDER, NOW, LATER)
    assert asked(sharing(doubts), NOW - 0.001).answered(outdated, NOW) is Step.DONE
    assert asked(sharing(doubts), NOW).answered(outdated, NOW) is Step.SEND_WHEN_CREATED
    doubts.creating(ORDER, LATER, LATER + 1.0)
    assert asked(sharing(doubts), LATER - 0.001).answered(outdated, LATER) is Step.DONE


def test_without_tries_left_an_outdated_answer_proves_nothing() -> None:
    """Neither that there is no such order, nor that there is."""
    doubts = Doubts()
    doubts.creating(ORDER, STARTED, LATER)
    case = asked(Case(ORDER, VENUE, started=STARTED, attempts=1, doubts=doubts), NOW)
    assert case.answered(GONE, NOW) is Step.DONE
    assert isinstance(case.outcome, Unknown)
    assert (case.outcome.wire, case.outcome.evidence) == (Wire.ANSWERED, Evidence.NONE)
    assert (case.outcome.code, case.outcome.message) == ("404", "Order not found.")


@pytest.mark.parametrize(
    "verdict", [Verdict(meaning=Meaning.REFUSED), Verdict(meaning=Meaning.CANCELED)]
)
def test_what_is_true_of_a_new_order_too_is_believed(verdict: Verdict) -> None:
    """A success closed it, and a refusal left it as it is."""
    doubts = Doubts()
    doubts.creating(ORDER, STARTED, LATER)
    assert asked(sharing(doubts), NOW).answered(verdict, NOW) is Step.DONE


def test_a_creation_that_was_refused_hides_nothing() -> None:
    """There is no new order: what the vendor says is true of the name."""
    doubts = Doubts()
    doubts.creating(ORDER, STARTED, LATER)
    doubts.not_created(ORDER, None)
    doubts.not_created(ORDER, None)
    case = asked(sharing(doubts), NOW)
    assert case.answered(GONE, NOW) is Step.DONE
    assert isinstance(case.outcome, NotFound)


def test_another_creation_goes_on() -> None:
    """One was refused, and one told its order: the name may still be another's that is under way."""
    for end in (Doubts.created, Doubts.not_created):
        doubts = Doubts()
        doubts.creating(ORDER, STARTED, LATER + 5.0)
        end(doubts, ORDER, LATER)
        case = asked(sharing(doubts), NOW)
        assert case.answered(GONE, NOW) is Step.SEND_WHEN_CREATED
        assert asked(case, LATER).answered(GONE, LATER) is Step.DONE


def test_a_look_at_a_name_that_is_given_away_tells_of_the_former_order() -> None:
    """What is read while a creation is under way may be about the order that had the name before."""
    doubts = Doubts()
    doubts.creating(ORDER, STARTED, LATER)
    dead = OrderSnapshot(order=ORDER, venue=VENUE, state=FILLED)
    case = sharing(doubts)
    tell(case, NO_REPLY)
    assert case.read(dead, NOW, asked_at=NOW) is Step.SEND_WHEN_CREATED
    assert settled(case) is None
    assert case.read(dead, LATER, asked_at=LATER) is Step.DONE
    assert isinstance(case.outcome, AlreadyClosed)
    last = Case(ORDER, VENUE, started=STARTED, attempts=1, doubts=Doubts())
    last._doubts.creating(ORDER, STARTED, LATER)
    tell(last, NO_REPLY)
    assert last.read(dead, NOW, asked_at=NOW) is Step.DONE
    assert isinstance(last.outcome, Unknown)


def test_a_call_is_about_the_order_that_had_the_name() -> None:
    """Whoever called before a creation left must not cancel the new order."""
    doubts = Doubts()
    case = sharing(doubts)
    given_away = []
    for left in (None, STARTED, STARTED + 0.001):
        if left is not None:
            doubts.creating(ORDER, left, LATER)
        given_away.append(case.name_was_given_away)
    assert given_away == [False, False, True], "who called in that very moment may be meant"
    later = Case(ORDER, VENUE, started=NOW, attempts=LIMIT, doubts=doubts)
    assert not later.name_was_given_away


def test_what_is_read_of_a_name_that_was_given_away_meanwhile_proves_nothing() -> None:
    """The creation left while the record was asked for: whose record it is, nobody knows."""
    doubts = Doubts()
    case = sharing(doubts)
    tell(case, NO_REPLY)
    doubts.creating(ORDER, NOW, LATER)
    dead = OrderSnapshot(order=ORDER, venue=VENUE, state=DEAD)
    assert case.read(dead, NOW, asked_at=NOW - 0.001) is Step.DONE
    assert isinstance(case.outcome, Unknown)


def test_the_latest_creations_are_remembered() -> None:
    """Bounded as everything else."""
    doubts = Doubts()
    orders = [OrderRef(client_id=str(index)) for index in range(REMEMBERED + 1)]
    for order in orders:
        doubts.creating(order, NOW, LATER)
    assert [doubts.may_come_after(order, NOW) for order in orders[:2]] == [False, True]


def test_divided_requests_are_answered_requests() -> None:
    """Batches that were answered and divided left the process, and are no tries against the limit."""
    case = opened(attempts=1)
    case.was_divided(1)
    case.was_divided(2)
    tell(case, ("failed", NOT_CONNECTED))
    assert not case.untouched
    case.give_up("out of time", NOW)
    assert isinstance(case.outcome, Unknown)
    assert (case.outcome.attempts, case.outcome.wire) == (4, Wire.ANSWERED)
    assert not case.was_read


def test_steps_say_what_they_ask_for() -> None:
    """Two steps pause, three send, and only the end does neither, and the look that need not wait."""
    assert {step for step in Step if step.pauses} == {
        Step.SEND_AFTER_PAUSE,
        Step.READ_BACK_AFTER_PAUSE,
    }
    assert {step for step in Step if step.sends} == {
        Step.SEND,
        Step.SEND_AFTER_PAUSE,
        Step.SEND_WHEN_CREATED,
    }


# -- too early, and looked at first ----------------------------------------------------------------

RETRY_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_too_early_is_alive_and_untouched() -> None:
    """The vendor's rule does not permit a cancel yet: nothing was sent, nobody was asked, and it says when to come."""
    case = opened()
    case.too_early(RETRY_AT, NOW)
    outcome = case.outcome
    assert isinstance(outcome, TooEarly)
    assert outcome.retry_at == RETRY_AT
    assert (outcome.attempts, outcome.wire) == (0, Wire.NOT_SENT)
    assert (outcome.evidence, outcome.closed) == (Evidence.NONE, False)
    assert (outcome.elapsed, outcome.order) == (NOW - STARTED, ORDER)
    assert not case._doubts.hold(ORDER)


def test_too_early_in_doubt_is_unknown() -> None:
    """An earlier cancel may have arrived: then the order need not be alive, and its doubt stays."""
    case = opened(doubt=True)
    case.too_early(RETRY_AT, NOW)
    assert isinstance(case.outcome, Unknown)
    assert case._doubts.hold(ORDER)


LOOKS: list[tuple[Event, type[CancelOutcome], Facts]] = [
    (reads(FILLED), AlreadyClosed, {"state": FILLED}),
    (reads(DEAD), AlreadyClosed, {"state": DEAD}),
    (reads(EXPIRED), AlreadyClosed, {"state": EXPIRED}),
    (reads(CLOSED), AlreadyClosed, {"state": CLOSED}),
]


@pytest.mark.parametrize(("look", "kind", "facts"), LOOKS)
def test_an_order_that_reads_as_dead_is_not_canceled(
    look: Event, kind: type[CancelOutcome], facts: Facts
) -> None:
    """Looked at before its first cancel, a dead order needs none, and was dead before."""
    case = opened()
    assert tell(case, look) is Step.DONE
    assert type(case.outcome) is kind
    assert {name: getattr(case.outcome, name) for name in facts} == facts
    assert case.outcome is not None
    assert (case.outcome.attempts, case.outcome.wire) == (0, Wire.NOT_SENT)
    assert case.outcome.evidence is Evidence.READ_BACK


@pytest.mark.parametrize(
    "look", [reads(OPEN), reads(PARTLY), reads(None), reads(OrderState.UNKNOWN), READ_FAILED]
)
def test_an_order_that_does_not_read_as_dead_is_canceled(look: Event) -> None:
    """Whatever the first look brings, or if it fails: the cancel is sent at once, and ends as without the look."""
    case = opened()
    assert tell(case, look) is Step.SEND
    assert settled(case) is None
    assert tell(case, CANCELED) is Step.DONE
    assert isinstance(case.outcome, Canceled)
    assert (case.outcome.attempts, case.outcome.evidence) == (1, Evidence.REPLY)


@pytest.mark.parametrize(
    ("look", "second", "kind"),
    [
        (reads(OPEN), reads(OPEN), Refused),
        (reads(None), reads(OPEN), Refused),
        (READ_FAILED, reads(OPEN), Refused),
        (reads(OPEN), reads(None), Unknown),
        (reads(OPEN), reads(DEAD), AlreadyClosed),
    ],
)
def test_a_refusal_after_the_first_look(
    look: Event, second: Event, kind: type[CancelOutcome]
) -> None:
    """A cancel that was declined is followed by a second look: only that one decides."""
    case = opened()
    assert tell(case, look) is Step.SEND
    assert tell(case, UNPROVED) is Step.READ_BACK
    assert tell(case, second) is Step.DONE
    assert type(case.outcome) is kind


@pytest.mark.parametrize("look", [reads(OPEN), reads(None), READ_FAILED])
def test_a_first_look_counts_for_nothing(look: Event) -> None:
    """The cancel goes out as without the look: all read-backs are left to be tried, and the pauses start anew."""
    case = opened()
    assert tell(case, look) is Step.SEND
    assert (case.failures, case.was_read) == (0, False)
    assert tell(case, UNPROVED) is Step.READ_BACK
    for _ in range(LIMIT - 1):
        assert tell(case, READ_FAILED) is Step.READ_BACK_AFTER_PAUSE
        assert case.was_read
    assert tell(case, READ_FAILED) is Step.DONE


@pytest.mark.parametrize("look", [reads(OPEN), reads(None), READ_FAILED])
def test_a_case_knows_that_it_was_read(look: Event) -> None:
    """From the first look on, also where that brought nothing."""
    case, _ = after(NO_REPLY)
    assert not case.was_read
    tell(case, look)
    assert case.was_read


@pytest.mark.parametrize("look", [reads(OPEN), READ_FAILED])
def test_a_lost_cancel_after_the_first_look_is_in_doubt(look: Event) -> None:
    """The first look proves nothing about what a cancel did after it."""
    case = opened()
    tell(case, look)
    assert tell(case, NO_REPLY) is Step.READ_BACK_AFTER_PAUSE
    assert case.doubt
    assert tell(case, reads(DEAD)) is Step.DONE
    assert isinstance(case.outcome, Canceled)


@pytest.mark.parametrize(
    ("look", "step"),
    [
        (reads(OPEN), Step.SEND),
        (reads(None), Step.SEND),
        (READ_FAILED, Step.SEND_AFTER_PAUSE),
    ],
)
def test_in_doubt_a_first_look_is_a_read_back(look: Event, step: Step) -> None:
    """Where another call's cancel was lost, the look proves what that cancel did, and its failure asks for a pause."""
    case = opened(doubt=True)
    assert tell(case, look) is step
    dead = opened(doubt=True)
    assert tell(dead, reads(DEAD)) is Step.DONE
    assert isinstance(dead.outcome, Canceled)


@pytest.mark.parametrize("look", [reads(OPEN), reads(None), READ_FAILED])
def test_giving_up_after_the_first_look_alone_is_not_sent(look: Event) -> None:
    """A look is no cancel: the order is untouched."""
    case = opened()
    tell(case, look)
    assert case.untouched
    case.give_up("out of time", NOW)
    assert isinstance(case.outcome, NotSent)
    assert case.outcome.message == "out of time"


def test_what_takes_from_the_quota_of_repeats() -> None:
    """Every cancel that is sent again, and every look but the first."""
    case = opened()
    case.failed(LOST, NOW)
    assert [
        case.is_repeat(step) for step in (Step.SEND_AFTER_PAUSE, Step.READ_BACK_AFTER_PAUSE)
    ] == [
        True,
        False,
    ]
    case.read_failed("tracking timed out", NOW)
    assert case.is_repeat(Step.READ_BACK_AFTER_PAUSE)


def test_the_first_look_is_no_repeat() -> None:
    """Without a quota of repeats an order in doubt is looked at once; what was seen or not is then the outcome."""
    case = opened()
    case.failed(LOST, NOW)
    assert case.must_not_repeat(NOW) is Step.READ_BACK_AFTER_PAUSE
    assert settled(case) is None
    case.read_failed("tracking timed out", NOW)
    assert case.must_not_repeat(NOW) is Step.DONE
    assert isinstance(case.outcome, Unknown)
    assert case.outcome.message == "connection reset; the retry quota is used up"
    unsent = opened()
    unsent.failed(NOT_CONNECTED, NOW)
    assert unsent.must_not_repeat(NOW) is Step.DONE
    assert isinstance(unsent.outcome, NotSent)


# -- answers that come too late --------------------------------------------------------------------

SUCCESS = Verdict(
    meaning=Meaning.CANCELED,
    executed=Decimal("1.5"),
    remaining=Decimal("8.5"),
    code="0",
    message="done",
)


def sharing(doubts: Doubts) -> Case:
    """Return a new case of the order that shares what is in doubt."""
    return Case(ORDER, VENUE, started=STARTED, attempts=LIMIT, doubts=doubts)


def settled(case: Case) -> CancelOutcome | None:
    """Return the outcome so far."""
    return case.outcome


def proved(case: Case) -> None:
    """Assert that a case ended with the words and amounts of the late success, and that the doubt is over."""
    assert isinstance(case.outcome, Canceled)
    assert case.outcome.evidence is Evidence.REPLY
    assert (case.outcome.executed, case.outcome.remaining) == (Decimal("1.5"), Decimal("8.5"))
    assert (case.outcome.code, case.outcome.message) == ("0", "done")
    assert not case._doubts.hold(ORDER)


def test_a_late_success_proves_an_order_in_doubt_dead() -> None:
    """Whoever lost the reply, and at whatever step: consulted, the late answer is the outcome."""
    doubts = Doubts()
    case = sharing(doubts)
    assert tell(case, NO_REPLY) is not Step.DONE
    assert not case.consult(NOW)
    assert settled(case) is None
    assert doubts.resolve(ORDER.name, SUCCESS, NOW)
    assert case.consult(NOW)
    proved(case)
    assert case.outcome is not None
    assert (case.outcome.attempts, case.outcome.wire) == (1, Wire.MAYBE_SENT)


def test_a_late_success_is_worth_more_than_giving_up() -> None:
    """A case that runs out of time takes the proof instead of its `Unknown`."""
    doubts = Doubts()
    case = sharing(doubts)
    case.left_queue(Wire.MAYBE_SENT, tried=True)
    doubts.resolve(ORDER.name, SUCCESS, NOW)
    case.give_up("out of time", NOW)
    proved(case)


def test_a_late_success_proves_to_all_who_wait_and_to_nobody_later() -> None:
    """Every case in doubt ends Canceled. A later one asks the vendor: the name may be another order's by then."""
    doubts = Doubts()
    cases = [sharing(doubts) for _ in range(3)]
    for case in cases:
        tell(case, NO_REPLY)
    assert doubts.resolve(ORDER.name, SUCCESS, NOW)
    later = sharing(doubts)
    later.consult(NOW)
    assert later.outcome is None
    assert later.untouched
    for case in cases:
        case.consult(NOW)
        proved(case)


def test_a_case_that_is_gone_is_not_kept() -> None:
    """The table of doubts keeps no case alive whose caller forgot it."""
    doubts = Doubts()
    case = sharing(doubts)
    tell(case, NO_REPLY)
    there = weakref.ref(case)
    del case
    gc.collect()
    assert there() is None
    assert doubts.hold(ORDER)


@pytest.mark.parametrize(
    "meaning", [meaning for meaning in Meaning if meaning is not Meaning.CANCELED]
)
def test_no_other_late_answer_proves_anything(meaning: Meaning) -> None:
    """A late "no", "not found" or "closed" may have been overtaken by another request: the doubt stays."""
    doubts = Doubts()
    case = sharing(doubts)
    tell(case, NO_REPLY)
    assert not doubts.resolve(ORDER.name, Verdict(meaning=meaning, state=FILLED, error=AUTH), NOW)
    case.consult(NOW)
    assert settled(case) is None
    case.give_up("out of time", NOW)
    assert isinstance(case.outcome, Unknown)
    assert doubts.hold(ORDER)


def test_a_late_answer_about_an_order_not_in_doubt_is_not_kept() -> None:
    """Nobody needs it: neither where the order was never in doubt, nor where the doubt is over."""
    doubts = Doubts()
    assert not doubts.resolve(ORDER.name, SUCCESS, NOW)
    doubts.cast(OrderRef(id="another"))
    assert not doubts.resolve(ORDER.name, SUCCESS, NOW)
    doubts.cast(ORDER)
    doubts.dispel(ORDER, NOW)
    assert not doubts.resolve(ORDER.name, SUCCESS, NOW)
    assert len(doubts) == 1


def test_a_settled_case_is_not_settled_again_by_a_late_answer() -> None:
    """Consulting after the outcome changes nothing, also where another call left doubt meanwhile."""
    case, _ = after(REFUSED)
    outcome = case.outcome
    case._doubts.cast(ORDER)
    case._doubts.resolve(ORDER.name, SUCCESS, NOW)
    assert case.consult(NOW)
    case.give_up("out of time", NOW)
    assert case.outcome is outcome


# -- the truth, against a model of the vendor ------------------------------------------------------


class Truth(enum.Enum):
    """What an order really is at the vendor."""

    NEVER_EXISTED = "never existed"
    OPEN = "open"
    FILLED = "filled"
    EXPIRED = "expired"
    CANCELED_BY_US = "canceled by us"
    CANCELED_BY_OTHERS = "canceled by others"

    @property
    def dead(self) -> bool:
        """The order can never be filled (further)."""
        return self not in (Truth.NEVER_EXISTED, Truth.OPEN)

    @property
    def told(self) -> OrderState:
        """The state in which a vendor reports it."""
        match self:
            case Truth.FILLED:
                return OrderState.FILLED
            case Truth.EXPIRED:
                return OrderState.EXPIRED
            case Truth.CANCELED_BY_US | Truth.CANCELED_BY_OTHERS:
                return OrderState.CANCELED
            case _:
                return OrderState.OPEN


@dataclasses.dataclass
class Vendor:
    """The order as it really is, and the requests that still travel."""

    truth: Truth
    travelling: int
    """Cancels without a reply that have not arrived yet, and may."""
    arrived: int = 0
    told_filled: bool = False

    def process(self) -> bool:
        """Process a cancel that arrives; return whether it closed the order."""
        self.arrived += 1
        if self.truth is Truth.OPEN:
            self.truth = Truth.CANCELED_BY_US
            return True
        return False

    def say(self, choose: Callable[[list[Verdict]], Verdict]) -> Verdict:
        """Answer a cancel that arrives: one of the truthful answers."""
        declined = [Verdict(meaning=meaning) for meaning in (Meaning.UNPROVED, Meaning.REFUSED)]
        ignored = [
            Verdict(meaning=Meaning.NOT_PROCESSED),
            Verdict(meaning=Meaning.ACCOUNT, error=AUTH),
            Verdict(meaning=Meaning.AMBIGUOUS),
        ]
        if self.truth is Truth.OPEN:
            canceled = Verdict(meaning=Meaning.CANCELED)
            lost = Verdict(meaning=Meaning.AMBIGUOUS, message="500 after processing")
            verdict = choose([canceled, lost, *declined, *ignored])
            if verdict in (canceled, lost):
                self.process()
                return verdict
        elif self.truth is Truth.NEVER_EXISTED:
            verdict = choose([Verdict(meaning=Meaning.NOT_FOUND), *declined, *ignored])
        else:
            states = (self.truth.told, OrderState.CLOSED)
            closed = [Verdict(meaning=Meaning.ALREADY_CLOSED, state=state) for state in states]
            # Vendors forget: a dead order may be "not found". Nobody calls a dead order unharmed.
            forgotten = [Verdict(meaning=Meaning.NOT_FOUND), declined[0]]
            verdict = choose([*closed, *forgotten, *ignored])
            self.told_filled |= verdict.state is OrderState.FILLED
        self.arrived += 1
        return verdict

    def show(self, choose: Callable[[list[OrderState | None]], OrderState | None]) -> Event:
        """Show the order to a read-back: the truth, or a shrug."""
        shrugs: list[OrderState | None] = [None, OrderState.UNKNOWN]
        if self.truth is Truth.NEVER_EXISTED:
            return reads(choose(shrugs))
        told = [self.truth.told, *([OrderState.CLOSED] if self.truth.dead else [])]
        state = choose([*told, *shrugs])
        self.told_filled |= state is OrderState.FILLED
        return reads(state)


def lies(vendor: Vendor, outcome: CancelOutcome, *, lost: bool) -> str | None:
    """Say in which way an outcome lies; None if it does not. ``lost``: a reply was lost, now or earlier."""
    match outcome:
        case Canceled() if vendor.truth not in (Truth.CANCELED_BY_US, Truth.CANCELED_BY_OTHERS):
            return f"canceled, and it is {vendor.truth}"
        case AlreadyClosed() if not vendor.truth.dead:
            return f"closed, and it is {vendor.truth}"
        case AlreadyClosed(state=OrderState.CLOSED):
            return "the vendor told of the fill" if vendor.told_filled else None
        case AlreadyClosed(state=state) if state is not vendor.truth.told:
            return f"closed as {state}, and it is {vendor.truth}"
        case NotSent() if lost or vendor.arrived or vendor.travelling:
            return "not sent, and something left"
        case NotFound() | Refused() if lost:
            return "a denial after a lost reply proves nothing"
        case NotFound() if vendor.truth is Truth.OPEN:
            return "not found, and it is open"
        case Refused() if vendor.truth.dead:
            return f"refused, and it is {vendor.truth}"
    if vendor.told_filled and not isinstance(outcome, AlreadyClosed):
        return "the vendor told of the fill"
    return None


@settings(max_examples=400)
@given(data=st.data())
def test_no_outcome_lies_whatever_happens_to_the_requests(data: st.DataObject) -> None:
    """Whatever is lost, delayed, refused or filled in the race, the one outcome agrees with the vendor's truth."""

    def choose(options: list[object]) -> object:
        return data.draw(st.sampled_from(options))

    doubt = data.draw(st.booleans(), label="an earlier call is in doubt")
    limit = data.draw(st.integers(1, 5), label="attempts")
    truths = [Truth.OPEN, *Truth] if not doubt else [Truth.OPEN, Truth.CANCELED_BY_US, Truth.FILLED]
    vendor = Vendor(data.draw(st.sampled_from(truths)), travelling=int(doubt))
    case = opened(doubt=doubt, attempts=limit, read_first=data.draw(st.booleans()))
    lost, cancels, looks = doubt, 0, 0
    step = Step.SEND
    while step is not Step.DONE:
        # Meanwhile, at the vendor
        while vendor.travelling and data.draw(st.booleans(), label="a lost cancel arrives late"):
            vendor.travelling -= 1
            vendor.process()
        if vendor.truth is Truth.OPEN:
            fates = [Truth.OPEN] * 3 + [Truth.FILLED, Truth.EXPIRED, Truth.CANCELED_BY_OTHERS]
            vendor.truth = data.draw(st.sampled_from(fates), label="fate")
        # The caller runs out of time, waits for its permit, or the gateway closes
        if data.draw(st.integers(0, 9), label="given up at 0") == 0:
            reached = Wire.NOT_SENT
            if step.sends and data.draw(st.booleans(), label="on its way"):
                reached = Wire.MAYBE_SENT
                vendor.travelling, lost, cancels = vendor.travelling + 1, True, cancels + 1
            if data.draw(st.booleans(), label="closed"):
                step = case.cut_off(reached, "gateway closed", NOW)
            else:
                case.left_queue(reached, tried=reached is not Wire.NOT_SENT)
                case.give_up("out of time", NOW)
            break
        if step.sends:
            cancels += 1
            event = choose(["answered", "lost before", "lost after", "lost on its way", "not sent"])
            event = choose([event] * 9 + ["broken", "unreadable"])
            match event:
                case "answered":
                    verdict = vendor.say(choose)  # type: ignore[arg-type]
                    lost |= verdict.meaning is Meaning.AMBIGUOUS
                    step = case.answered(verdict, NOW)
                case "not sent":
                    step = case.failed(NOT_CONNECTED, NOW)
                case "broken":
                    cancels -= 1
                    step = case.broken(SESSION_CLOSED, NOW)
                case _:
                    lost = True
                    if event in ("lost after", "unreadable"):
                        vendor.process()
                    vendor.travelling += event == "lost on its way"
                    step = case.failed(UNREADABLE if event == "unreadable" else LOST, NOW)
        else:
            looks += 1
            failed = data.draw(st.integers(0, 3), label="the read-back fails at 0") == 0
            step = tell(case, READ_FAILED if failed else vendor.show(choose))  # type: ignore[arg-type]
    assert case.outcome is not None
    assert (lie := lies(vendor, case.outcome, lost=lost)) is None, lie
    assert case.error is None or not lost, "an error says that nothing is in doubt"
    assert case.outcome.attempts == case.attempts == cancels <= limit
    assert looks <= limit
    assert case.outcome.closed or case.doubt == lost


@pytest.mark.parametrize(
    ("before", "times", "wire", "outcome"),
    [
        ([], 0, Wire.NOT_SENT, NotSent),
        ([], 2, Wire.ANSWERED, Unknown),
        ([NO_REPLY], 1, Wire.MAYBE_SENT, Unknown),
    ],
)
def test_a_divided_request_was_answered(
    before: list[Event], times: int, wire: Wire, outcome: type[CancelOutcome]
) -> None:
    """It touched the order's wire, and counts as attempts; a reply that was lost stays lost."""
    case, _ = after(*before)
    case.was_divided(times)
    case.give_up("out of time", NOW)
    assert type(case.outcome) is outcome
    assert (case.outcome.wire, case.outcome.attempts) == (wire, len(before) + times)


@given(
    st.none() | st.text(max_size=5),
    st.none() | st.text(max_size=5),
    st.none() | st.decimals(0, 9, places=2),
    st.none() | st.decimals(0, 9, places=2),
)
def test_what_is_canceled_at_once_needs_no_case(
    code: str | None, message: str | None, executed: Decimal | None, remaining: Decimal | None
) -> None:
    """The short way to the outcome of a first success says what the case would say."""
    success = Verdict(
        meaning=Meaning.CANCELED,
        executed=executed,
        remaining=remaining,
        code=code,
        message=message,
    )
    case = opened()
    assert case.answered(success, NOW) is Step.DONE
    assert canceled_at_once(ORDER, VENUE, success, NOW - STARTED) == case.outcome
