"""What Ripio's replies mean: every documented one of both generations, and everything else the cautious way."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.ripio import verdict, wire
from brokers.ripio.verdict import cancel_verdict, clock_rejected, is_daily, read_error, snapshot_of
from support.ripio_wire import (
    ALREADY_CLOSED,
    CANCELED,
    EXTERNAL_ID,
    HOSTILE_VALUES,
    LIMIT_EXCEEDED,
    NO_JSON,
    NO_OBJECT,
    NOT_FOUND,
    ORDER_ID,
    OTHER_ID,
    RECORD,
    RESULT,
    TOO_MANY,
    canceled,
    encoded,
    failed,
    with_value,
)
from tronsave_async.errors import (
    AuthenticationRejected,
    BadReply,
    BusinessRefusal,
    GatewayError,
    InvalidRequest,
    OrderNotFound,
    PermissionDenied,
    RateLimited,
    VendorError,
    VendorFailure,
    WrongEndpoint,
)
from tronsave_async.orders import OrderRef, OrderSnapshot, OrderState
from tronsave_async.outcomes import Wire
from tronsave_async.settlement import Meaning, Verdict


def frame(message: object) -> wire.Frame:
    """Read a message that is a reply."""
    read = wire.read_message(message if isinstance(message, bytes) else encoded(message))
    assert isinstance(read, tuple)
    return read[1]


def told(message: object) -> Verdict:
    """Return what a reply to the cancel of the documented order means."""
    return cancel_verdict(frame(message), ORDER_ID, None)


# -- a cancel that succeeded -----------------------------------------------------------------------


def test_the_documented_success_proves_the_cancel() -> None:
    """The literal reply cancels its order, by either name; nothing was executed, and all is left."""
    proof = Verdict(meaning=Meaning.CANCELED, executed=Decimal(0), remaining=Decimal("0.001"))
    assert cancel_verdict(frame(CANCELED), ORDER_ID, None) == proof
    assert cancel_verdict(frame(CANCELED), None, EXTERNAL_ID) == proof


def test_a_partly_filled_order_is_canceled_with_its_amounts() -> None:
    """What was executed and what is left are told exactly."""
    partly = told(canceled(executed_amount="0.0004", remaining_amount=0.0006))
    assert partly == Verdict(
        meaning=Meaning.CANCELED, executed=Decimal("0.0004"), remaining=Decimal("0.0006")
    )


SUCCESSES: dict[str, tuple[dict[str, object], Decimal | None, Decimal | None]] = {
    "upper case": ({"status": "CANCELED"}, Decimal(0), Decimal("0.001")),
    "no executed amount": ({"executed_amount": None}, None, Decimal("0.001")),
    "odd executed amount": ({"executed_amount": "all"}, None, Decimal("0.001")),
    "not a number": ({"executed_amount": "NaN"}, None, Decimal("0.001")),
    "less than nothing": ({"executed_amount": -1}, None, Decimal("0.001")),
    "odd remaining amount": ({"remaining_amount": []}, Decimal(0), None),
    "remaining less than nothing": ({"remaining_amount": -1}, Decimal(0), None),
    "remaining nothing of an order not filled": ({"remaining_amount": 0}, Decimal(0), None),
    "odd requested amount": ({"requested_amount": "x"}, Decimal(0), Decimal("0.001")),
    "no requested amount": (
        {"requested_amount": None, "executed_amount": 0.5},
        Decimal("0.5"),
        Decimal("0.001"),
    ),
    "by value, not filled": (
        {"requested_amount": 0, "executed_amount": 0, "remaining_amount": 0, "remaining_value": 0},
        Decimal(0),
        None,
    ),
    "by value, partly filled": (
        {"requested_amount": 0, "executed_amount": 1, "remaining_amount": 0, "remaining_value": 9},
        Decimal(1),
        None,
    ),
    "odd other fields": (
        {"price": {}, "type": 5, "update_date": "?"},
        Decimal(0),
        Decimal("0.001"),
    ),
    "external id of another order": ({"external_id": "other"}, Decimal(0), Decimal("0.001")),
}


@pytest.mark.parametrize(
    ("changes", "executed", "remaining"), SUCCESSES.values(), ids=SUCCESSES.keys()
)
def test_amounts_of_a_canceled_order(
    changes: dict[str, object], executed: Decimal | None, remaining: Decimal | None
) -> None:
    """An amount that is missing or cannot be true is None, never 0, and spoils no proof."""
    assert told(canceled(**changes)) == Verdict(
        meaning=Meaning.CANCELED, executed=executed, remaining=remaining
    )


ODD_STATUSES: list[object] = [None, "200", 200.5, True, [], 0, -200]
DISPUTED: dict[str, dict[str, Any]] = {
    "null result": {**CANCELED, "result": None},
    "no result": {"id": "req-003", "status": 200},
    "result is text": {**CANCELED, "result": "canceled"},
    "result is empty": {**CANCELED, "result": {}},
    "result is a list": {**CANCELED, "result": [RESULT]},
    "result without an id": canceled(id=None),
    **{
        f"status {word}": canceled(status=word)
        for word in (
            "open",
            "executed_completely",
            "executed_partially",
            "pending_cancelation",
            "canceling",
            "cancelled",
            "cancel",
            "not canceled",
            " canceled",
            "",
        )
    },
    "status missing": canceled(status=None),
    "status is a bool": canceled(status=True),
    "status is a list": canceled(status=["canceled"]),
    "another order": canceled(id=OTHER_ID),
    "id with a space": canceled(id=ORDER_ID + " "),
    "part of the id": canceled(id=ORDER_ID[:-1]),
    "id is the request's": canceled(id="req-003"),
    "filled whole": canceled(executed_amount=0.001, remaining_amount=0),
    "filled whole, amounts in text": canceled(executed_amount="0.0010"),
    "more than whole": canceled(executed_amount=0.002),
    "nothing left, requested unknown": canceled(
        executed_amount=0.001, remaining_amount=0, remaining_value=0, requested_amount=None
    ),
    "nothing left, executed unknown": canceled(
        executed_amount=None, remaining_amount=0, remaining_value=None
    ),
    "error of the documented kind": {**CANCELED, "error": NOT_FOUND["error"]},
    "closed before": {**CANCELED, "error": ALREADY_CLOSED["error"]},
    "error without words": {**CANCELED, "error": {"error_code": None, "message": None}},
    "error is empty": {**CANCELED, "error": {}},
    "error is text": {**CANCELED, "error": "Order not found."},
    "error is false": {**CANCELED, "error": False},
    "error at the top": {**CANCELED, "error_code": 40408},
    "older error at the top": {**CANCELED, "code": 40408},
    "error in place of the result": {**NOT_FOUND, "status": 200},
    "closed before, in a success": {**ALREADY_CLOSED, "status": 200},
    **{f"status {odd!r}": {**CANCELED, "status": odd} for odd in ODD_STATUSES},
    **{
        f"status {status}": {**CANCELED, "status": status}
        for status in (100, 199, 201, 202, 204, 299, 302, 400, 401, 403, 404, 408, 409, 429, 500)
    },
    "not found, with a result": {**NOT_FOUND, "result": RESULT},
    "closed before, with a result": {**ALREADY_CLOSED, "result": RESULT},
    "not found, with an odd result": {**NOT_FOUND, "result": {}},
    "limited, with a result": {**failed(429), "result": RESULT},
}


@pytest.mark.parametrize("message", DISPUTED.values(), ids=DISPUTED.keys())
def test_a_success_that_is_not_plain_proves_nothing(message: dict[str, Any]) -> None:
    """Another word, another order, another status, an error beside it, or amounts of a filled order: ambiguous."""
    said = told(message)
    assert said.meaning is Meaning.AMBIGUOUS
    assert (said.executed, said.remaining, said.code) == (None, None, None)
    assert said.message


def test_the_reason_why_a_success_proves_nothing_is_said() -> None:
    """Each reason has its words."""
    assert told(canceled(status="open")).message == "the reply says that the order is 'open'"
    assert told(canceled(id=OTHER_ID)).message == "the reply is about another order"
    assert told(DISPUTED["filled whole"]).message == (
        "the reply contradicts itself: canceled, and filled whole"
    )
    unsaid = "the reply does not say what became of the order"
    assert told(DISPUTED["null result"]).message == unsaid
    assert told(canceled(status=5)).message == unsaid
    assert told(DISPUTED["closed before"]).message == "an error inside status 200: 40408"
    assert told(DISPUTED["error is empty"]).message == "an error inside status 200"
    assert told({**CANCELED, "status": 404}).message == "a result inside status 404"
    assert told(DISPUTED["not found, with a result"]).message == "a result inside status 404: 40401"
    assert told({**failed(None), "error": None}).message == "its status cannot be read"
    assert told({**failed(201), "error": None}).message == "status 201 is no success of any page"
    assert told({**failed(300), "error": None}).message == "status 300 proves nothing"
    assert told({**failed(400), "error": None}).message == "status 400 proves nothing"
    assert told(failed(400, None, "Timeout.")).message == "status 400 proves nothing: Timeout."
    assert told(failed(408, 7, "Slow")).message == "status 408 proves nothing: 7"


# -- which order a reply is about ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        (ORDER_ID, ORDER_ID, True),
        (ORDER_ID, ORDER_ID.lower(), True),
        (ORDER_ID.lower(), ORDER_ID, True),
        (ORDER_ID, OTHER_ID, False),
        ("order-a", "order-a", True),
        ("order-a", "ORDER-A", False),
        (ORDER_ID + "a", ORDER_ID + "A", False),
        (ORDER_ID.replace("-", ""), ORDER_ID, False),
        (ORDER_ID, "", False),
        ("\u017f" * 36, "s" * 36, False),
    ],
)
def test_ids_are_compared_as_they_are_and_uuids_without_case(
    asked: str, answered: str, same: bool
) -> None:
    """The vendor's pages show UUIDs in both cases; the case of any other id counts."""
    meaning = cancel_verdict(frame(canceled(id=answered)), asked, None).meaning
    assert meaning is (Meaning.CANCELED if same else Meaning.AMBIGUOUS)
    snapshot = snapshot_of(OrderRef(id=asked), wire.Order(id=answered, status="open"))
    assert snapshot.state is (OrderState.OPEN if same else OrderState.UNKNOWN)


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("my-order-123", "my-order-123", True),
        ("my-order-123", None, True),
        ("my-order-123", "My-Order-123", False),
        ("my-order-123", "", False),
        ("my-order-123", "other", False),
        (ORDER_ID, ORDER_ID.lower(), False),
        ("5", 5, True),
        ("5", 6, False),
        ("my-order-123", ["my-order-123"], False),
    ],
)
def test_external_ids_are_compared_as_they_are(asked: str, answered: object, same: bool) -> None:
    """They are the client's free text. A reply may leave it out, and may not name another."""
    meaning = cancel_verdict(frame(canceled(external_id=answered)), None, asked).meaning
    assert meaning is (Meaning.CANCELED if same else Meaning.AMBIGUOUS)
    record = verdict.order_record(200, encoded({"data": {**RESULT, "external_id": answered}}))
    snapshot = snapshot_of(OrderRef(client_id=asked), record)
    assert snapshot.state is (OrderState.CANCELED if same else OrderState.UNKNOWN)


# -- a cancel that failed --------------------------------------------------------------------------

CLOSED_WORDS = "Cannot cancel an already canceled or fully executed order."
Case = tuple[dict[str, Any], Meaning, OrderState, type[GatewayError]]
CLOSED = OrderState.CLOSED

FAILURES: dict[str, Case] = {
    # the documented literals
    "not found": (NOT_FOUND, Meaning.NOT_FOUND, CLOSED, OrderNotFound),
    "closed": (ALREADY_CLOSED, Meaning.ALREADY_CLOSED, CLOSED, BusinessRefusal),
    "signature": (
        failed(400, 40011, "Invalid signature"),
        Meaning.STALE,
        CLOSED,
        AuthenticationRejected,
    ),
    "parameters": (
        failed(400, 40010, "Missing required parameters"),
        Meaning.UNPROVED,
        CLOSED,
        InvalidRequest,
    ),
    "canceled before, OLD": (
        failed(400, 40020),
        Meaning.ALREADY_CLOSED,
        OrderState.CANCELED,
        BusinessRefusal,
    ),
    "executed, OLD, without a message": (
        failed(400, 40021),
        Meaning.UNPROVED,
        CLOSED,
        BusinessRefusal,
    ),
    "per second": (
        {**failed(429), "error": {"message": "Too many requests"}},
        Meaning.NOT_PROCESSED,
        CLOSED,
        RateLimited,
    ),
    "daily": (
        {**failed(429), "error": {"message": "Limit Exceeded"}},
        Meaning.NOT_PROCESSED,
        CLOSED,
        RateLimited,
    ),
    # not found, in both generations
    "40401 without a message": (
        failed(404, 40401),
        Meaning.NOT_FOUND,
        CLOSED,
        OrderNotFound,
    ),
    "40401 in status 400": (
        failed(400, 40401, "Order not found."),
        Meaning.NOT_FOUND,
        CLOSED,
        OrderNotFound,
    ),
    "40401 as text": (
        failed(404, "40401", "Order not found."),
        Meaning.NOT_FOUND,
        CLOSED,
        OrderNotFound,
    ),
    "40400 of an order": (
        failed(404, 40400, " order NOT found "),
        Meaning.NOT_FOUND,
        CLOSED,
        OrderNotFound,
    ),
    "40400 of an id": (
        failed(404, 40400, "The order with id 7155 was not found."),
        Meaning.NOT_FOUND,
        CLOSED,
        OrderNotFound,
    ),
    "40400 of a path": (
        failed(404, 40400, "URL not found"),
        Meaning.UNPROVED,
        CLOSED,
        WrongEndpoint,
    ),
    "40401 of a path": (
        failed(404, 40401, "URL not found"),
        Meaning.UNPROVED,
        CLOSED,
        WrongEndpoint,
    ),
    "40400 without a message": (failed(404, 40400), Meaning.UNPROVED, CLOSED, WrongEndpoint),
    "40400 of something": (
        failed(404, 40400, "Not found"),
        Meaning.UNPROVED,
        CLOSED,
        InvalidRequest,
    ),
    "40401 of a pair": (
        failed(404, 40401, "Pair not found."),
        Meaning.UNPROVED,
        CLOSED,
        InvalidRequest,
    ),
    "40401 that says more": (
        failed(404, 40401, "Order not found or already closed."),
        Meaning.UNPROVED,
        CLOSED,
        InvalidRequest,
    ),
    "404 without a code": (
        failed(404, None, "Order not found."),
        Meaning.UNPROVED,
        CLOSED,
        InvalidRequest,
    ),
    "404 with another code": (
        failed(404, 40499, "Order not found."),
        Meaning.UNPROVED,
        CLOSED,
        BusinessRefusal,
    ),
    "404 of something": (failed(404, None, "Not Found"), Meaning.UNPROVED, CLOSED, WrongEndpoint),
    # closed before, in both generations
    "40408 without a message": (
        failed(400, 40408),
        Meaning.ALREADY_CLOSED,
        CLOSED,
        BusinessRefusal,
    ),
    "40408 of a status like its code": (
        failed(404, 40408, CLOSED_WORDS),
        Meaning.ALREADY_CLOSED,
        CLOSED,
        BusinessRefusal,
    ),
    "40408 as text": (
        failed(400, "40408", CLOSED_WORDS.upper()),
        Meaning.ALREADY_CLOSED,
        CLOSED,
        BusinessRefusal,
    ),
    "40408 of an update": (
        failed(400, 40408, "Cannot update a canceled or fully executed order."),
        Meaning.ALREADY_CLOSED,
        CLOSED,
        BusinessRefusal,
    ),
    "40408 in other words": (
        failed(400, 40408, "Order is already closed"),
        Meaning.ALREADY_CLOSED,
        CLOSED,
        BusinessRefusal,
    ),
    **{
        f"40408: {text}": (failed(400, 40408, text), Meaning.UNPROVED, CLOSED, BusinessRefusal)
        for text in (
            "Order not found.",
            "Cannot cancel the order now.",
            "Order is already being canceled.",
            "The order is not fully executed.",
            "Cannot tell whether the order is already closed.",
        )
    },
    "40020": (
        failed(400, 40020, "Order already canceled."),
        Meaning.ALREADY_CLOSED,
        OrderState.CANCELED,
        BusinessRefusal,
    ),
    "40020, the other spelling": (
        failed(400, 40020, "order was already cancelled"),
        Meaning.ALREADY_CLOSED,
        OrderState.CANCELED,
        BusinessRefusal,
    ),
    "40020 in other words": (
        failed(400, 40020, "Order already executed."),
        Meaning.UNPROVED,
        CLOSED,
        BusinessRefusal,
    ),
    "40020, not yet": (
        failed(400, 40020, "Order already being canceled"),
        Meaning.UNPROVED,
        CLOSED,
        BusinessRefusal,
    ),
    "40021": (
        failed(400, 40021, "Order executed completely."),
        Meaning.ALREADY_CLOSED,
        OrderState.FILLED,
        BusinessRefusal,
    ),
    "40021 in other words": (
        failed(400, 40021, "The order was fully executed"),
        Meaning.ALREADY_CLOSED,
        OrderState.FILLED,
        BusinessRefusal,
    ),
    "40021 of cancel-all": (
        failed(400, 40021, "No orders to cancel"),
        Meaning.UNPROVED,
        CLOSED,
        BusinessRefusal,
    ),
    "40021, in part": (
        failed(400, 40021, "Order executed partially"),
        Meaning.UNPROVED,
        CLOSED,
        BusinessRefusal,
    ),
    "40021, not": (
        failed(400, 40021, "Order not executed completely"),
        Meaning.UNPROVED,
        CLOSED,
        BusinessRefusal,
    ),
    # the older name of the code
    "code in place of error_code": (
        {**failed(400), "error": {"code": 40020, "message": "Order already canceled."}},
        Meaning.ALREADY_CLOSED,
        OrderState.CANCELED,
        BusinessRefusal,
    ),
    "code at the top": (
        {"id": "req-003", "status": 404, "error_code": 40401, "message": "Order not found."},
        Meaning.NOT_FOUND,
        CLOSED,
        OrderNotFound,
    ),
    # signature and time
    **{
        f"40011: {text}": (
            failed(status, 40011, text),
            Meaning.STALE,
            CLOSED,
            AuthenticationRejected,
        )
        for status, text in (
            (400, "Invalid signature or timestamp is expired."),
            (400, "Timestamp expired"),
            (400, "INVALID TIMESTAMP"),
            (400, "request expired"),
            (401, "Invalid signature"),
            (403, "Invalid signature"),
            (400, None),
            (400, "Assinatura"),
        )
    },
    "40011 of funds": (
        failed(400, 40011, "Insufficient funds"),
        Meaning.UNPROVED,
        CLOSED,
        BusinessRefusal,
    ),
    **{
        f"401: {code} {text}": (
            failed(status, code, text),
            Meaning.STALE,
            CLOSED,
            AuthenticationRejected,
        )
        for status, code, text in (
            (401, 401, "Invalid timestamp"),
            (401, 401, "Invalid signature"),
            (401, 40100, "Invalid signature."),
            (401, 40100, "Not authorized"),
            (401, 40100, None),
            (401, None, "Invalid timestamp"),
            (400, 40100, "Signature expired"),
            (400, 401, "Invalid timestamp"),
        )
    },
    # the account
    **{
        f"{status}: {code} {text}": (
            failed(status, code, text),
            Meaning.ACCOUNT,
            CLOSED,
            AuthenticationRejected,
        )
        for status, code, text in (
            (401, 40100, "Blocked token"),
            (401, 40100, "Blocked token"),
            (401, 401, "Invalid token"),
            (401, None, None),
            (401, None, "Unauthorized"),
            (401, "ERR_0008", "No"),
            (400, 40100, "Blocked token"),
            (403, 40100, "Blocked token"),
        )
    },
    **{
        f"{status}: {code} {text}": (
            failed(status, code, text),
            Meaning.ACCOUNT,
            CLOSED,
            PermissionDenied,
        )
        for status, code, text in (
            (403, 40300, "Forbidden"),
            (403, 403, "Forbidden"),
            (403, None, None),
            (403, "ERR_1", "IP"),
            (400, 40300, "Forbidden"),
            (401, 40300, "Forbidden"),
        )
    },
    "unsupported": (
        failed(400, 40090, "Unsupported operation"),
        Meaning.ACCOUNT,
        CLOSED,
        WrongEndpoint,
    ),
    # malformed
    "40010 of amounts, OLD": (
        failed(400, 40010, "Order amount below minimum"),
        Meaning.UNPROVED,
        CLOSED,
        BusinessRefusal,
    ),
    "40000": (failed(400, 40000, "Invalid parameters"), Meaning.UNPROVED, CLOSED, InvalidRequest),
    "40000 of a pair": (
        failed(400, 40000, "Invalid pair"),
        Meaning.UNPROVED,
        CLOSED,
        InvalidRequest,
    ),
    # limits
    **{
        f"{status}: {code} {text}": (
            failed(status, code, text),
            Meaning.NOT_PROCESSED,
            CLOSED,
            RateLimited,
        )
        for status, code, text in (
            (429, 42900, "Too many requests"),
            (429, 429, "Too many requests"),
            (429, None, None),
            (429, "ERR_9", "Slow down"),
            (400, 42900, "x"),
            (400, 429, None),
            (400, None, "Too many requests."),
        )
    },
    # the vendor's failures
    **{
        f"{status}: {code} {text}": (
            failed(status, code, text),
            Meaning.AMBIGUOUS,
            CLOSED,
            VendorFailure,
        )
        for status, code, text in (
            (500, 50000, "Internal error"),
            (500, 50001, "Data error"),
            (500, 50002, "External communication"),
            (500, 50003, "Internal communication"),
            (503, 503, "Maintenance, wait and try again"),
            (500, None, None),
            (502, "x", "y"),
            (599, 40401, "Order not found."),
            (500, 40408, CLOSED_WORDS),
            (500, 40020, "Order already canceled."),
            (503, 40021, "Order executed completely."),
            (500, 40011, "Invalid signature"),
            (503, 429, "Too many requests"),
            (400, 50000, "Internal error"),
            (400, 503, "Maintenance"),
            (404, 50002, None),
        )
    },
    # codes of other calls, and of none
    **{
        f"other {code}": (
            failed(400, code, "words"),
            Meaning.UNPROVED,
            CLOSED,
            BusinessRefusal,
        )
        for code in (
            40030,
            40035,
            40040,
            40041,
            40050,
            40099,
            49999,
            "ERR_0008",
            "0009",
            {"odd": 1},
        )
    },
    "no code": (failed(400, None, "Something is off"), Meaning.UNPROVED, CLOSED, InvalidRequest),
    "conflict": (failed(409, 40900, "Busy"), Meaning.UNPROVED, CLOSED, BusinessRefusal),
    # contradictions, and what may have been carried out
    **{
        f"disputed {status}: {code} {text}": (
            failed(status, code, text),
            Meaning.AMBIGUOUS,
            CLOSED,
            BadReply,
        )
        for status, code, text in (
            (401, 40401, "Order not found."),
            (403, 40408, CLOSED_WORDS),
            (429, 40408, CLOSED_WORDS),
            (429, 40401, "Order not found."),
            (429, 40020, "Order already canceled."),
            (429, 50000, "Internal error"),
            (429, 40100, "Not authorized"),
            (401, 42900, "Too many requests"),
            (401, 40011, "Insufficient funds"),
            (408, 40408, CLOSED_WORDS),
            (408, None, "Timeout"),
            (402, 40401, "Order not found."),
            (499, 40000, "Invalid parameters"),
            (399, 40401, "Order not found."),
            (302, 40401, "Order not found."),
            (100, 40401, "Order not found."),
            (0, 40401, "Order not found."),
            (-1, 40401, "Order not found."),
            ("404", 40401, "Order not found."),
            (None, 40408, CLOSED_WORDS),
            (200, 40408, CLOSED_WORDS),
            (200, 40020, "Order already canceled."),
            (200, 40021, "Order executed completely."),
            (200, 40401, "Order not found."),
            (201, 40401, "Order not found."),
            (400, None, None),
            (404, None, None),
            (400, 40059, "Request timed out"),
            (400, None, "Timeout."),
            (400, None, "upstream time-out"),
        )
    },
    "error is null": ({**failed(400), "error": None}, Meaning.AMBIGUOUS, CLOSED, BadReply),
    "error is text": (
        {**failed(404), "error": "Order not found."},
        Meaning.AMBIGUOUS,
        CLOSED,
        BadReply,
    ),
    "error is a list": ({**failed(404), "error": [40401]}, Meaning.AMBIGUOUS, CLOSED, BadReply),
}


@pytest.mark.parametrize("case", FAILURES.values(), ids=FAILURES.keys())
def test_what_an_error_means_for_its_order(case: Case) -> None:
    """By status, code, and message together; the vendor's words are quoted where they stand."""
    message, meaning, state, kind = case
    said = told(message)
    assert (said.meaning, said.state) == (meaning, state)
    assert type(said.error) is kind
    assert (said.executed, said.remaining) == (None, None)
    read = frame(message)
    if isinstance(said.error, VendorError):
        assert read.error in (None, wire.Words(code=said.code, message=said.message))
        assert (said.error.code, said.error.text) == (said.code, said.message or "")
        assert (said.error.venue, said.error.endpoint) == ("ripio", "cancel")
        assert said.error.status == read.status
    else:
        assert isinstance(said.error, BadReply)
        assert (said.error.venue, said.error.endpoint) == ("ripio", "cancel")
        assert (said.code, said.message) == (None, said.error.reason)
        assert (said.error.wire, said.error.status) == (Wire.ANSWERED, read.status or None)


# The vendor's pages, Error codes (both generations), but for those whose meaning depends on the message; those of three
# digits were seen.
CODES_OF: dict[type[VendorError], tuple[int, ...]] = {
    InvalidRequest: (40000,),
    BusinessRefusal: (
        *(40020, 40021, 40408),
        *(40030, 40031, 40032, 40033, 40034, 40035, 40040, 40041, 40050),
    ),
    WrongEndpoint: (40090,),
    AuthenticationRejected: (40100, 401),
    PermissionDenied: (40300, 403),
    RateLimited: (42900, 429),
    VendorFailure: (50000, 50001, 50002, 50003, 500, 502, 503, 504),
}
ACCOUNT_ERRORS = {AuthenticationRejected, PermissionDenied}


@pytest.mark.parametrize(
    ("code", "kind"), [(code, kind) for kind, codes in CODES_OF.items() for code in codes]
)
@pytest.mark.parametrize(
    ("status", "said"),
    [(401, ACCOUNT_ERRORS), (403, ACCOUNT_ERRORS), (429, {RateLimited})],
)
def test_a_documented_code_must_fit_a_status_that_says_something_by_itself(
    code: int, kind: type[VendorError], status: int, said: set[type[VendorError]]
) -> None:
    """The account's codes fit each other's status; any other code contradicts it, and proves nothing."""
    assert type(told(failed(status, code)).error) is (kind if kind in said else BadReply)
    # with a status that only refuses the request, the code says why
    assert type(told(failed(400, code)).error) is kind


REFUSING = {400, 404, 405, 409, 410, 413, 415, 422}


@pytest.mark.parametrize("status", sorted({*range(300, 500)} - {401, 403, 429}))
def test_only_some_statuses_refuse_a_request(status: int) -> None:
    """Refused before anything was done: the code says why. With any other status it may have been carried out."""
    said = told(failed(status, 40000, "Invalid parameters"))
    refused = status in REFUSING
    assert said.meaning is (Meaning.UNPROVED if refused else Meaning.AMBIGUOUS)
    assert type(said.error) is (InvalidRequest if refused else BadReply)


WORDINGS: dict[int, tuple[Meaning, OrderState, list[str]]] = {
    40021: (
        Meaning.ALREADY_CLOSED,
        OrderState.FILLED,
        [
            *("Order was completely executed", "The order is fully executed."),
            *("order has been executed completely", "Order already executed completely."),
        ],
    ),
    40020: (
        Meaning.ALREADY_CLOSED,
        OrderState.CANCELED,
        [
            *("Order was canceled", "The order is already cancelled.", "order has been canceled"),
            *("Order canceled already",),
        ],
    ),
    40408: (
        Meaning.ALREADY_CLOSED,
        OrderState.CLOSED,
        [
            *("Cannot cancel a cancelled or fully executed order", "Order already canceled"),
            *("Cannot update an already canceled or fully executed order.",),
            *("Order was already closed", "The order is already executed."),
            *("order has been already cancelled or fully executed", "Order already executed"),
        ],
    ),
    40400: (
        Meaning.NOT_FOUND,
        OrderState.CLOSED,
        [
            "The order was not found",
            "order id 7155 not found",
            "Order with external_id: a not found",
        ],
    ),
}


@pytest.mark.parametrize(
    ("code", "text"), [(code, text) for code, case in WORDINGS.items() for text in case[2]]
)
def test_every_wording_that_is_understood(code: int, text: str) -> None:
    """Alone; with any word beside it, it may mean anything, and the order is read back."""
    meaning, state, _ = WORDINGS[code]
    said = told(failed(400, code, text))
    assert (said.meaning, said.state) == (meaning, state)
    for beside in (f"Perhaps {text}", f"{text} soon"):
        assert told(failed(400, code, beside)).meaning is Meaning.UNPROVED


@pytest.mark.parametrize("word", ["url", "path", "route", "endpoint"])
@pytest.mark.parametrize("code", [40400, 40401])
def test_words_for_an_address_that_is_not_known(code: int, word: str) -> None:
    """It is the call that is not found, and not the order."""
    assert type(told(failed(404, code, f"The {word} was not found")).error) is WrongEndpoint


@pytest.mark.parametrize("text", ["Invalid token", "Account blocked", "Unknown API key"])
def test_words_for_an_account_that_is_not_accepted(text: str) -> None:
    """OLD has one code for whatever is not authorized: about these, a fresh signature changes nothing."""
    assert told(failed(401, 40100, text)).meaning is Meaning.ACCOUNT


def test_the_words_are_quoted_verbatim() -> None:
    """Code and message as the vendor wrote them."""
    said = told(ALREADY_CLOSED)
    assert (said.code, said.message) == ("40408", CLOSED_WORDS)
    assert str(said.error) == f"ripio cancel: HTTP 400 40408: {CLOSED_WORDS}"
    assert told(failed(400, "0009", " Odd. ")).message == " Odd. "


@pytest.mark.parametrize("code", ["40400", "40401", "40408", "40020", "40021", "40011", "40010"])
@pytest.mark.parametrize("status", [400, 404])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="oO"), max_size=30))
def test_no_free_text_proves_anything(code: str, status: int, text: str) -> None:
    """Whatever the message is: unless it is one that is known, the order is read back."""
    meaning = told(failed(status, code, text)).meaning
    silent = not text.strip().removesuffix(".")
    if code == "40011":
        assert meaning in (Meaning.STALE, Meaning.UNPROVED)
    elif silent and code in ("40401", "40408", "40020"):
        assert meaning is (Meaning.NOT_FOUND if code == "40401" else Meaning.ALREADY_CLOSED)
    else:
        assert meaning is Meaning.UNPROVED


@pytest.mark.parametrize("length", [10_000, 1_000_000])
@pytest.mark.parametrize("code", ["40401", "40408", "40020", "40021", "40011", "x", None])
def test_a_long_message_is_read_in_no_time(code: str | None, length: int) -> None:
    """However it is made."""
    for part in ("order with id ", "order not found ", "already ", "time-", " . "):
        text = "order with " + part * (length // len(part))
        assert told(failed(400, code, text)).meaning in (Meaning.UNPROVED, Meaning.STALE)


# -- what an error is, call by call ----------------------------------------------------------------

CALLS: dict[str, tuple[str, int, object, str | None, type[GatewayError]]] = {
    "create, funds": ("create", 400, 40011, "Insufficient funds", BusinessRefusal),
    "create, no message": ("create", 400, 40011, None, BusinessRefusal),
    "create, other words": ("create", 400, 40011, "No", BusinessRefusal),
    "create, signature": ("create", 400, 40011, "Invalid signature", AuthenticationRejected),
    "create, time": ("create", 400, 40011, "Timestamp is expired.", AuthenticationRejected),
    "create, 401": ("create", 401, 40011, "No", AuthenticationRejected),
    "create, minimum": ("create", 400, 40010, "Order amount below minimum", BusinessRefusal),
    "create, parameters": ("create", 400, 40010, "Missing required parameters", InvalidRequest),
    "create, invalid": ("create", 400, 40000, "Invalid pair", InvalidRequest),
    "create, failure": ("create", 500, 50000, "Internal error", VendorFailure),
    "create, limit": ("create", 429, None, "Too many requests", RateLimited),
    "create, forbidden": ("create", 403, 40300, "Forbidden", PermissionDenied),
    "create, timeout": ("create", 400, None, "Timed out", BadReply),
    "create, disputed": ("create", 401, 40010, "Missing", BadReply),
    "create, nobody knows": ("create", 408, 40800, "Slow", BadReply),
    "update, closed": ("update", 400, 40408, CLOSED_WORDS, BusinessRefusal),
    "update, executed": ("update", 400, 40021, "Order executed completely.", BusinessRefusal),
    "update, not found": ("update", 404, 40401, "Order not found.", OrderNotFound),
    "update, signature": ("update", 400, 40011, "Invalid signature", AuthenticationRejected),
    "update, no message": ("update", 400, 40011, None, AuthenticationRejected),
    "update, funds": ("update", 400, 40011, "Insufficient balance", BusinessRefusal),
    "update, parameters": (
        "update",
        400,
        40010,
        "At least one of price or amount must be provided",
        InvalidRequest,
    ),
}


@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS.keys())
def test_an_error_depends_on_its_call(
    case: tuple[str, int, object, str | None, type[GatewayError]],
) -> None:
    """The same number is missing funds to one call and a rejected signature to another."""
    endpoint, status, code, message, kind = case
    reply = frame(failed(status, code, message))
    with pytest.raises(GatewayError) as caught:
        verdict.read_frame_reply(endpoint, reply)
    assert type(caught.value) is kind
    if isinstance(caught.value, VendorError | BadReply):
        assert (caught.value.endpoint, caught.value.status) == (endpoint, status)
    read = (
        verdict.created_order
        if endpoint == "create"
        else partial(verdict.updated, order_id=ORDER_ID)
    )
    with pytest.raises(kind) as caught:
        read(reply)
    assert getattr(caught.value, "endpoint", None) == endpoint


def test_an_error_carries_the_pause_that_the_vendor_asks_for() -> None:
    """In seconds, where it says so."""
    error = read_error("order", 429, wire.Words(message="Too many requests"), 7.5)
    assert isinstance(error, RateLimited)
    assert error.retry_after == 7.5


STALE_ERRORS = {
    "40011": (400, 40011, None, True),
    "signature": (401, 401, "Invalid signature", True),
    "timestamp": (401, 40100, "Invalid TIMESTAMP.", True),
    "expired": (401, None, "Request expired", True),
    "token": (401, 401, "Invalid token", False),
    "blocked": (401, 40100, "Blocked token", False),
    "other account error": (403, 40300, "Invalid signature", False),
    "other error": (400, 40000, "Invalid timestamp", False),
    "failure": (500, 40011, "Invalid signature", False),
}


@pytest.mark.parametrize(
    ("status", "code", "text", "rejected"), STALE_ERRORS.values(), ids=STALE_ERRORS.keys()
)
def test_a_rejected_clock(status: int, code: object, text: str | None, rejected: bool) -> None:
    """Only a rejected signature is worth a fresh one."""
    error = told(failed(status, code, text)).error
    assert error is not None
    assert clock_rejected(error) is rejected
    assert clock_rejected(BadReply("ripio", "cancel", "signature", wire=Wire.ANSWERED)) is False


@pytest.mark.parametrize(
    ("status", "message", "daily"),
    [
        (429, "Limit Exceeded", True),
        (429, " limit exceeded. ", True),
        (429, "Daily limit reached", True),
        (429, "Too many requests", False),
        (429, "Rate limit exceeded", False),
        (429, "", False),
        (429, None, False),
        (400, "Limit Exceeded", False),
        (200, "Limit Exceeded", False),
        (503, "Limit Exceeded", False),
    ],
)
def test_the_day_s_quota(status: int, message: str | None, daily: bool) -> None:
    """The two limits are told apart by their messages; only a 429 means one of them."""
    assert is_daily(status, message) is daily


# -- replies over the socket -----------------------------------------------------------------------


def test_a_created_order_is_read() -> None:
    """The result of create has no type and no price."""
    result = {name: RESULT[name] for name in RESULT if name not in ("type", "price")}
    order = verdict.created_order(frame({**CANCELED, "result": {**result, "status": "open"}}))
    assert (order.id, order.status, order.price) == (ORDER_ID, "open", None)


def test_an_update_answers_with_nothing() -> None:
    """Null or an order is a success; anything else may be one."""
    verdict.updated(frame({**CANCELED, "result": None}), ORDER_ID)
    verdict.updated(frame(CANCELED), ORDER_ID)
    for reply, order_id, reason in (
        (frame({**CANCELED, "result": False}), ORDER_ID, "the result is not an order"),
        (frame(CANCELED), OTHER_ID, "the reply is about another order"),
    ):
        with pytest.raises(BadReply) as caught:
            verdict.updated(reply, order_id)
        check_bad(caught.value, "update", reason)


def check_bad(error: BadReply, endpoint: str, reason: str) -> None:
    """Assert that an unreadable success says whose it was, to which call, and that it was a reply."""
    assert (error.venue, error.endpoint, error.reason) == ("ripio", endpoint, reason)
    assert (error.status, error.wire) == (200, Wire.ANSWERED)


UNREADABLE_SUCCESSES = {
    "no result": {**CANCELED, "result": None},
    "result is no order": {**CANCELED, "result": {"status": "open"}},
    "error": {**CANCELED, "error": {}},
    "status 201": {**CANCELED, "status": 201},
    "status 202, no result": {**CANCELED, "status": 202, "result": None},
    "status unreadable": {**CANCELED, "status": "200"},
    "result in an error": {**NOT_FOUND, "result": RESULT},
}


@pytest.mark.parametrize("message", UNREADABLE_SUCCESSES.values(), ids=UNREADABLE_SUCCESSES.keys())
def test_a_create_that_is_not_plainly_answered_may_have_been_carried_out(
    message: dict[str, Any],
) -> None:
    """Such a reply is bad: it proves neither that there is an order, nor that there is none."""
    with pytest.raises(BadReply) as caught:
        verdict.created_order(frame(message))
    assert (caught.value.wire, caught.value.endpoint) == (Wire.ANSWERED, "create")


def test_a_create_whose_order_is_not_told_says_so() -> None:
    """Null is a success of update only."""
    for result, reason in (
        (None, "the reply does not tell the order"),
        ({"status": "open"}, "the result is not an order"),
    ):
        with pytest.raises(BadReply) as caught:
            verdict.created_order(frame({**CANCELED, "result": result}))
        check_bad(caught.value, "create", reason)


# -- replies over REST -----------------------------------------------------------------------------


def body(code: object = None, message: object = None, **fields: object) -> bytes:
    """Return a REST reply without data."""
    return encoded({"error_code": code, "message": message, "data": None, **fields})


def test_the_documented_record_is_read() -> None:
    """Over REST, in its envelope, with or without a time and a message."""
    record = verdict.order_record(200, encoded({**RECORD, "timestamp": 5, "message": "OK"}))
    assert (record.id, record.status) == (OTHER_ID, "executed_completely")
    page = verdict.orders_page("orders", 200, encoded({"data": {"orders": [RECORD["data"]]}}))
    assert page.orders == [record]
    stamp = encoded({"message": None, "data": {"timestamp": 1675708481219}})
    assert verdict.server_time(200, stamp) == 1675708481219


REST_ERRORS: dict[str, tuple[int, bytes, type[GatewayError]]] = {
    "not found": (404, body(40401, "Order not found."), OrderNotFound),
    "not found, OLD": (404, body(40400, "Order not found"), OrderNotFound),
    "no such path": (404, body(40400, "URL not found"), WrongEndpoint),
    "no such path, no message": (404, body(40400), WrongEndpoint),
    "not found, without a code": (404, body(None, "Order not found."), InvalidRequest),
    "not found, by somebody": (404, b'{"message":"Not Found"}', WrongEndpoint),
    "time": (401, body(401, "Invalid timestamp"), AuthenticationRejected),
    "token": (401, body(40100, "Blocked token"), AuthenticationRejected),
    "signature": (400, body(40011, "Invalid signature"), AuthenticationRejected),
    "forbidden": (403, body(40300, "Forbidden"), PermissionDenied),
    "parameters": (400, body(40000, "Invalid parameters"), InvalidRequest),
    "older name": (400, b'{"code":40000,"message":"Invalid pair"}', InvalidRequest),
    "wallet": (400, body("ERR_0008", "No"), BusinessRefusal),
    "per second": (429, TOO_MANY, RateLimited),
    "daily": (429, LIMIT_EXCEEDED, RateLimited),
    "limit with a code": (429, body(429, "Too many requests"), RateLimited),
    "limit in HTML": (429, b"<html>", RateLimited),
    "limit in silence": (429, b"", RateLimited),
    "failure": (500, body(50001, "Data"), VendorFailure),
    "maintenance": (503, body(503, "Maintenance"), VendorFailure),
    "failure in HTML": (500, b"<html><h1>500</h1></html>", VendorFailure),
    "bad gateway": (502, b"<html><h1>502 Bad Gateway</h1></html>", VendorFailure),
    "a record that is no success": (300, encoded(RECORD), BadReply),
    "a record before the reply": (199, encoded(RECORD), BadReply),
    "not found in a failure": (500, body(40401, "Order not found."), VendorFailure),
    "redirect": (301, b"", WrongEndpoint),
    "redirect, 307": (307, b"<html>", WrongEndpoint),
    "redirect, 308": (308, b"<html>", WrongEndpoint),
    "wrong method": (405, b"<html>", WrongEndpoint),
    "forbidden in HTML": (403, b"<html><h1>403 Forbidden</h1></html>", BadReply),
    "not found in HTML": (404, b"<html><h1>404 Order not found.</h1></html>", BadReply),
    "not found in text": (404, b"Order not found.", BadReply),
    "not found in quotes": (404, b'"Order not found."', BadReply),
    "not found in a list": (404, b'[{"error_code":40401}]', BadReply),
    "not found, without words": (404, body(), BadReply),
    "not found, empty": (404, b"{}", BadReply),
    "unauthorized in silence": (401, b"", BadReply),
    "request in HTML": (400, b"<html>", BadReply),
    "redirect of a request": (302, b"", BadReply),
    "error in a success": (200, body(40401, "Order not found."), BadReply),
    "error around the record": (200, encoded({**RECORD, "error_code": 50000}), BadReply),
    "limit in a success": (200, TOO_MANY, BadReply),
    "disputed": (401, body(40401, "Order not found."), BadReply),
    "no page's status": (418, body(40401, "Order not found."), BadReply),
    "no status": (0, body(40401, "Order not found."), BadReply),
    "no data": (200, body(), BadReply),
    "nothing": (204, b"", BadReply),
    "HTML in a success": (200, b"<html>", BadReply),
    "data is a list": (200, body(data=[]), BadReply),
}


@pytest.mark.parametrize(("status", "reply", "kind"), REST_ERRORS.values(), ids=REST_ERRORS.keys())
def test_an_error_over_rest_is_typed(status: int, reply: bytes, kind: type[GatewayError]) -> None:
    """Only the vendor's own body says anything about an order; a gateway's page never does."""
    for read in (
        lambda: verdict.order_record(status, reply, 2.5),
        lambda: verdict.orders_page("orders", status, reply, 2.5),
        lambda: verdict.server_time(status, reply, 2.5),
    ):
        with pytest.raises(GatewayError) as caught:
            read()
        error = caught.value
        assert type(error) is kind
        assert isinstance(error, VendorError | BadReply)
        assert error.status == (status or None)
        assert error.endpoint in ("order", "orders", "server_time")
        if isinstance(error, VendorError):
            assert error.retry_after == 2.5
        else:
            assert error.wire is Wire.ANSWERED


def test_a_bad_reply_over_rest_says_why() -> None:
    """In a few words."""
    not_found = body(40401, "Order not found.")
    for status, reply, reason in (
        (404, b"<html>", "status 404 in a shape that is not Ripio's"),
        (200, not_found, "an error inside status 200: 40401"),
        (200, b"{}", "the reply is not Ripio's"),
        (401, not_found, "status 401 proves nothing: 40401"),
    ):
        with pytest.raises(BadReply) as caught:
            verdict.order_record(status, reply)
        assert caught.value.reason == reason


@pytest.mark.parametrize(("status", "kind"), [(200, BadReply), (404, BadReply), (429, RateLimited)])
def test_a_rest_reply_that_names_a_field_twice_is_not_read(
    status: int, kind: type[GatewayError]
) -> None:
    """Nobody knows which of the two values is meant; what the HTTP status alone says, stands."""
    twice = (
        b'"error_code":null,"error_code":40401' if status == 404 else b'"data":null,"message":null'
    )
    reply = encoded(RECORD if status == 200 else {"data": None, "message": "Order not found."})
    with pytest.raises(kind):
        verdict.order_record(status, reply.replace(b'"data":', twice + b',"data":'))


# -- records ---------------------------------------------------------------------------------------


def record(**changes: object) -> wire.Order:
    """Return the record of the documented order with other values."""
    return verdict.order_record(200, encoded({"data": {**RESULT, **changes}}))


def test_a_snapshot_quotes_the_record() -> None:
    """Word and amounts are the vendor's."""
    ref = OrderRef(id=ORDER_ID)
    assert snapshot_of(ref, record(status="executed_partially", executed_amount=0.0004)) == (
        OrderSnapshot(
            order=ref,
            venue="ripio",
            state=OrderState.PARTIALLY_FILLED,
            vendor_state="executed_partially",
            executed=Decimal("0.0004"),
            remaining=Decimal("0.001"),
        )
    )
    filled = verdict.order_record(200, encoded(RECORD))
    snapshot = snapshot_of(OrderRef(client_id=RECORD["data"]["external_id"]), filled)
    assert (snapshot.state, snapshot.executed, snapshot.remaining) == (
        OrderState.FILLED,
        Decimal("0.02347418"),
        Decimal(0),
    )


def test_a_record_of_another_order_says_nothing() -> None:
    """Not even its word and its amounts."""
    ref = OrderRef(id=OTHER_ID)
    nothing = OrderSnapshot(order=ref, venue="ripio", state=OrderState.UNKNOWN)
    assert snapshot_of(ref, record()) == nothing


STATES: dict[str, tuple[dict[str, object], OrderState]] = {
    "open": ({"status": "open"}, OrderState.OPEN),
    "waiting": ({"status": "waiting"}, OrderState.OPEN),
    "pending_creation": ({"status": "pending_creation"}, OrderState.OPEN),
    "executed_partially": ({"status": "executed_partially"}, OrderState.PARTIALLY_FILLED),
    "executed_completely": (
        {"status": "executed_completely", "executed_amount": 0.001, "remaining_amount": 0},
        OrderState.FILLED,
    ),
    "executed_completely, amounts unknown": (
        {"status": "executed_completely", "executed_amount": None, "remaining_amount": None},
        OrderState.FILLED,
    ),
    "canceled": ({"status": "canceled"}, OrderState.CANCELED),
    "cancelled": ({"status": "cancelled"}, OrderState.CANCELED),
    "another case": ({"status": "Executed_Partially"}, OrderState.PARTIALLY_FILLED),
    "canceled in part": ({"executed_amount": 0.0005}, OrderState.CANCELED),
    **{
        f"word {word!r}": ({"status": word}, OrderState.UNKNOWN)
        for word in ("", " open", "expired", "pending_cancelation", "closed", "executed", None, 5)
    },
    # contradictions
    "canceled and filled": ({"executed_amount": 0.001}, OrderState.UNKNOWN),
    "canceled and more than filled": ({"executed_amount": 5}, OrderState.UNKNOWN),
    "canceled, nothing left, requested unknown": (
        {
            "executed_amount": 1,
            "remaining_amount": 0,
            "remaining_value": 0,
            "requested_amount": None,
        },
        OrderState.UNKNOWN,
    ),
    "executed with something left": (
        {"status": "executed_completely", "executed_amount": 0.001},
        OrderState.UNKNOWN,
    ),
    "executed with nothing executed": (
        {"status": "executed_completely", "executed_amount": 0, "remaining_amount": 0},
        OrderState.UNKNOWN,
    ),
    "open and filled": ({"status": "open", "executed_amount": 0.001}, OrderState.UNKNOWN),
    "in part and filled": (
        {"status": "executed_partially", "executed_amount": 0.001},
        OrderState.UNKNOWN,
    ),
}


@pytest.mark.parametrize(("changes", "state"), STATES.values(), ids=STATES.keys())
def test_a_record_s_state(changes: dict[str, object], state: OrderState) -> None:
    """The words of both generations; an unknown one, or one that its amounts contradict, is not known."""
    said = record(**changes)
    assert verdict.state_of(said) is state
    snapshot = snapshot_of(OrderRef(id=ORDER_ID), said)
    assert (snapshot.state, snapshot.vendor_state) == (state, said.status)


def test_what_a_snapshot_cannot_tell_is_not_told() -> None:
    """An unreadable or absurd amount is None; nothing is left of a canceled order only if it was filled."""
    ref = OrderRef(id=ORDER_ID)
    odd = snapshot_of(ref, record(executed_amount="x", remaining_amount=-1, status="open"))
    assert (odd.state, odd.executed, odd.remaining) == (OrderState.OPEN, None, None)
    assert snapshot_of(ref, record(remaining_amount=0)).remaining is None
    assert snapshot_of(ref, record(executed_amount=-1)).executed is None


# -- anything --------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
STATUSES = st.sampled_from([200, 201, 400, 401, 403, 404, 408, 429, 500, 503, 0]) | ANYTHING
AMOUNTS = st.sampled_from([0, 1, "1.0", 2, 0.5, None, -1, "NaN"]) | ANYTHING
RESULTS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from([ORDER_ID, ORDER_ID.lower(), OTHER_ID]) | ANYTHING,
        "external_id": st.sampled_from([EXTERNAL_ID, "other"]) | ANYTHING,
        "status": st.sampled_from(["canceled", "Canceled", "open"]) | ANYTHING,
        "executed_amount": AMOUNTS,
        "remaining_amount": AMOUNTS,
        "requested_amount": AMOUNTS,
        "remaining_value": AMOUNTS,
    },
)
LIKELY = st.fixed_dictionaries(
    {"id": st.just(ORDER_ID), "status": st.just("canceled")},
    optional={
        "external_id": st.just(EXTERNAL_ID),
        "executed_amount": AMOUNTS,
        "remaining_amount": AMOUNTS,
        "requested_amount": AMOUNTS,
        "remaining_value": AMOUNTS,
    },
)
CODES = [None, 40000, 40010, 40011, 40020, 40021, 40100, 40300, 40400, 40401, 40408, 42900, 50000]
TEXTS = [
    None,
    "Order not found.",
    "URL not found",
    CLOSED_WORDS,
    "Order already canceled.",
    "Order executed completely.",
    "No orders to cancel",
    "Invalid signature",
    "Too many requests",
]
WORDS = st.fixed_dictionaries(
    {},
    optional={
        "error_code": st.sampled_from(CODES) | ANYTHING,
        "message": st.sampled_from(TEXTS) | ANYTHING,
        "code": st.sampled_from(CODES) | ANYTHING,
    },
)


def amount_of(result: dict[str, Any], name: str) -> Decimal | None:
    """Return an amount of a result as a plain reader would read it."""
    value = result.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(repr(value) if isinstance(value, float) else value)
    except ArithmeticError:
        return None
    return amount if amount.is_finite() and abs(amount.adjusted()) < 100 else None


@given(
    status=st.just(200) | STATUSES,
    result=LIKELY | RESULTS | ANYTHING,
    error=st.none() | WORDS | ANYTHING,
    outer=st.just({}) | WORDS,
    by_id=st.booleans(),
)
def test_canceled_is_said_only_of_a_plain_success(
    status: object, result: Any, error: object, outer: dict[str, object], by_id: bool
) -> None:
    """Whatever the reply is: CANCELED takes a 200 with the word, about the order asked for, and no error."""
    message = {"id": "r", "status": status, "result": result, "error": error, **outer}
    asked = (ORDER_ID, None) if by_id else (None, EXTERNAL_ID)
    said = cancel_verdict(frame(message), *asked)
    if said.meaning is not Meaning.CANCELED:
        return
    assert status == 200
    assert error is None
    assert result["status"].casefold() == "canceled"
    if by_id:
        assert result["id"].upper() == ORDER_ID
    else:
        assert result.get("external_id") in (None, EXTERNAL_ID)
    executed = amount_of(result, "executed_amount")
    requested = amount_of(result, "requested_amount")
    assert said.executed == (executed if executed is None or executed >= 0 else None)
    assert said.remaining is None or said.remaining > 0
    if executed is not None and requested is not None:
        assert not executed >= requested > 0


@given(status=STATUSES, result=st.none() | ANYTHING, error=WORDS | ANYTHING, outer=WORDS)
def test_what_closes_or_denies_an_order_is_the_vendor_s_word(
    status: object, result: object, error: Any, outer: dict[str, object]
) -> None:
    """NOT_FOUND and ALREADY_CLOSED take a documented code in a refusal, with no result beside it."""
    message = {"id": "r", "status": status, "result": result, "error": error, **outer}
    said = told(message)
    if said.meaning not in (Meaning.NOT_FOUND, Meaning.ALREADY_CLOSED):
        return
    assert (status in (400, 404), result) == (True, None)
    words = outer if error is None else error
    message_text = words.get("message")
    text = message_text if isinstance(message_text, str) else ""
    if said.meaning is Meaning.NOT_FOUND:
        assert said.code in ("40401", "40400")
        assert text == "Order not found." or (said.code == "40401" and text.strip(" .") == "")
    else:
        states = {"40408": CLOSED, "40020": OrderState.CANCELED, "40021": OrderState.FILLED}
        assert said.state is states[said.code or ""]


@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES.keys())
@pytest.mark.parametrize("field", ["id", "status", "executed_amount"])
def test_an_odd_value_never_makes_a_proof(field: str, value: bytes) -> None:
    """An odd name or word is ambiguous; an odd amount is not told."""
    said = told(with_value(field, value))
    if field == "executed_amount":
        assert (said.meaning, said.executed) == (Meaning.CANCELED, None)
    else:
        assert said.meaning is Meaning.AMBIGUOUS


@pytest.mark.parametrize("reply", [*NO_JSON.values(), *NO_OBJECT.values()])
@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
def test_a_foreign_body_is_an_error(status: int, reply: bytes) -> None:
    """Never a record, never an empty list, never an unknown order."""
    for read in (verdict.order_record, verdict.server_time):
        with pytest.raises((BadReply, RateLimited, VendorFailure)):
            read(status, reply)


@given(data=st.binary(max_size=60), status=st.integers(-1, 700))
def test_no_bytes_crash(data: bytes, status: int) -> None:
    """Any bytes with any status are a typed error; any message is a stray or has a verdict."""
    with pytest.raises((VendorError, BadReply)):
        verdict.order_record(status, data)
    with pytest.raises((VendorError, BadReply)):
        verdict.orders_page("open_orders", status, data)
    read = wire.read_message(data)
    assert isinstance(read, str) or told(data).meaning is not Meaning.CANCELED


@given(top=st.fixed_dictionaries({}, optional={"data": RESULTS | ANYTHING}), words=WORDS)
@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_no_json_crashes(status: int, top: dict[str, Any], words: dict[str, Any]) -> None:
    """Any JSON is a record or a typed error; a record makes a snapshot, and only its word makes a state."""
    try:
        read = verdict.order_record(status, encoded({**top, **words}))
    except (VendorError, BadReply):
        return
    assert status == 200
    snapshot = snapshot_of(OrderRef(id=ORDER_ID), read)
    if snapshot.state is OrderState.CANCELED:
        assert (read.status or "").casefold() == "canceled"
        assert read.id.upper() == ORDER_ID
    with pytest.raises((VendorError, BadReply)):
        verdict.read_frame_reply("update", wire.Frame("r", 200, None, wire.Words()))
