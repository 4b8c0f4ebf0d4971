"""What sms4sats' replies mean: every documented one, and everything else the cautious way."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.sms4sats import verdict
from brokers.sms4sats.sandbox import REASONS
from brokers.sms4sats.wire import Country, CreatedOrder, OrderStatus, Price, Service
from support.sms4sats import LITERALS, NOWHERE, encoded
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
from tronsave_async.orders import OrderRef, OrderState
from tronsave_async.outcomes import Wire
from tronsave_async.settlement import MEANINGS, Meaning, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

ID = NOWHERE


def refusal(reason: object = None, **fields: object) -> bytes:
    """Return the vendor's error with this reason, or none."""
    told = {} if reason is None else {"reason": reason}
    return encoded({"status": "error", **told, **fields})


def judged(status: int, body: bytes) -> Verdict:
    """Return what the reply to a cancel means."""
    return verdict.cancel_verdict(ID, status, body, 7.5)


HTML = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"
NOT_ITS_OWN: dict[str, bytes] = {
    "empty": b"",
    "html": HTML,
    "truncated": b'{"status":"OK"',
    "single quotes": b"{status: 'OK'}",
    "array": b'[{"status":"OK"}]',
    "text": b'"OK"',
    "no status": b'{"ok":true}',
    "status null": b'{"status":null}',
    "status empty": b'{"status":""}',
    "utf-16": '{"status":"OK"}'.encode("utf-16"),
    "deep": b'{"a":' * 100_000,
}
"""Bodies that are not the vendor's, whatever their status."""

# -- a cancel: what is documented (vendors.md 3.5), and each shape that was seen ---------------------------------------

CANCELS: dict[str, tuple[int, bytes, Meaning, type[GatewayError] | None, str | None]] = {
    "OK": (200, encoded(LITERALS["cancel"]), Meaning.CANCELED, None, None),
    "OK with new fields": (200, b'{"status":"OK","x":[1]}', Meaning.CANCELED, None, None),
    "ok": (200, b'{"status":"ok"}', Meaning.CANCELED, None, None),
    "OK, no error": (
        200,
        b'{"status":"OK","error":null,"reason":""}',
        Meaning.CANCELED,
        None,
        None,
    ),
    "OK, error 0": (200, b'{"status":"OK","error":0,"code":0}', Meaning.CANCELED, None, None),
    "unable to save": (
        500,
        encoded(LITERALS["cancel failed"]),
        Meaning.AMBIGUOUS,
        VendorFailure,
        "unable to save data",
    ),
    "unable to save in 200": (
        200,
        encoded(LITERALS["cancel failed"]),
        Meaning.AMBIGUOUS,
        VendorFailure,
        "unable to save data",
    ),
    "backend error": (
        500,
        refusal("backend error"),
        Meaning.AMBIGUOUS,
        VendorFailure,
        "backend error",
    ),
    **{
        f"trouble: {words}": (500, refusal(words), Meaning.AMBIGUOUS, VendorFailure, words)
        for words in (
            "Internal Server Error",
            "request timed out",
            "upstream timeout",
            "time-out",
            "service unavailable",
            "please try again",
            "Database is locked",
        )
    },
    "no reason": (500, refusal(), Meaning.AMBIGUOUS, VendorFailure, None),
    "empty reason": (500, refusal(""), Meaning.AMBIGUOUS, VendorFailure, None),
    "reason null": (
        500,
        b'{"status":"error","reason":null}',
        Meaning.AMBIGUOUS,
        VendorFailure,
        None,
    ),
    **{
        f"no: {words}": (500, refusal(words), Meaning.UNPROVED, BusinessRefusal, words)
        for words in dict.fromkeys(REASONS.values())
        if words not in (None, "order not found", "too many requests") and "key" not in str(words)
    },
    "no in 200": (200, refusal("too late"), Meaning.UNPROVED, BusinessRefusal, "too late"),
    "no in 404": (404, refusal("too late"), Meaning.UNPROVED, BusinessRefusal, "too late"),
    "no in 409": (409, refusal("too late"), Meaning.UNPROVED, BusinessRefusal, "too late"),
    "no as message": (
        500,
        encoded({"status": "error", "message": "too late"}),
        Meaning.UNPROVED,
        BusinessRefusal,
        "too late",
    ),
    "no as object": (500, refusal({"a": 1}), Meaning.UNPROVED, BusinessRefusal, '{"a":1}'),
    "malformed": (400, refusal("bad id"), Meaning.UNPROVED, InvalidRequest, "bad id"),
    "malformed, 422": (422, refusal("bad id"), Meaning.UNPROVED, InvalidRequest, "bad id"),
    **{
        f"not found: {words} {status}": (
            status,
            refusal(words),
            Meaning.NOT_FOUND,
            OrderNotFound,
            words,
        )
        for status in (200, 400, 404, 422, 500)
        for words in (
            "order not found",
            "Order not found.",
            "The order was not found!",
            "unknown order",
            "No such order",
            "order id does not exist",
        )
    },
    **{
        f"perhaps found: {words}": (500, refusal(words), Meaning.UNPROVED, BusinessRefusal, words)
        for words in (
            "number for order not found",
            "order not found or already canceled",
            "country not found",
            "not found",
        )
    },
    "not found, by a gateway": (
        502,
        refusal("order not found"),
        Meaning.AMBIGUOUS,
        VendorFailure,
        "order not found",
    ),
    "key": (500, refusal("api key required"), Meaning.ACCOUNT, AuthenticationRejected, None),
    "unauthorized": (500, refusal("Unauthorized"), Meaning.ACCOUNT, AuthenticationRejected, None),
    "401": (401, refusal("who are you"), Meaning.ACCOUNT, AuthenticationRejected, None),
    "403": (403, refusal("not you"), Meaning.ACCOUNT, PermissionDenied, None),
    "429": (429, refusal("too many requests"), Meaning.NOT_PROCESSED, RateLimited, None),
    "429, OK": (429, b'{"status":"OK"}', Meaning.AMBIGUOUS, BadReply, None),
    **{
        f"trouble, {status}": (status, refusal("no"), Meaning.AMBIGUOUS, VendorFailure, "no")
        for status in (501, 502, 503, 504, 520)
    },
    **{
        f"OK inside {status}": (
            status,
            b'{"status":"OK"}',
            Meaning.AMBIGUOUS,
            BadReply,
            f"OK inside HTTP {status}",
        )
        for status in (201, 202, 204, 302, 404, 500, 502)
    },
    **{
        f"neither {word}": (
            200,
            b'{"status":%s}' % word.encode(),
            Meaning.AMBIGUOUS,
            BadReply,
            "HTTP 200 with a status that is neither OK nor error",
        )
        for word in ("true", "200", '"canceled"', '"OKAY"', '" OK "', '["OK"]', '{"OK":1}')
    },
    **{
        f"foreign 429: {name}": (429, body, Meaning.NOT_PROCESSED, RateLimited, None)
        for name, body in NOT_ITS_OWN.items()
    },
    **{
        f"foreign {status}": (status, HTML, Meaning.AMBIGUOUS, VendorFailure, None)
        for status in (500, 502, 503, 504)
    },
    **{
        f"elsewhere {status}": (status, HTML, Meaning.ACCOUNT, WrongEndpoint, None)
        for status in (301, 307, 308, 404, 405)
    },
    **{
        f"perhaps done {status}": (
            status,
            HTML,
            Meaning.AMBIGUOUS,
            BadReply,
            f"HTTP {status} in a shape that is not sms4sats'",
        )
        for status in (200, 201, 204, 302, 303, 400, 401, 403, 418)
    },
}


@pytest.mark.parametrize("name", CANCELS)
def test_what_the_reply_to_a_cancel_means(name: str) -> None:
    """Each reply has one meaning, with the vendor's words verbatim, and the error that it is."""
    status, body, meaning, kind, message = CANCELS[name]
    told = judged(status, body)
    assert told.meaning is meaning
    assert (None if told.error is None else type(told.error)) is kind
    if message is not None or kind is None:
        assert told.message == message
    if isinstance(told.error, VendorError):
        assert (told.error.venue, told.error.endpoint) == ("sms4sats", "cancel")
        assert (told.error.status, told.error.retry_after) == (status, 7.5)
    if isinstance(told.error, BadReply):
        assert (told.error.status, told.error.wire) == (status, Wire.ANSWERED)
    if kind is not None:
        assert meaning is MEANINGS[kind]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"error": "code already received"}, "code already received"),
        ({"reason": "order expired"}, "order expired"),
        ({"error": f"no {ID}"}, "no ***"),
        ({"error": True}, "the reply contradicts itself"),
        ({"error": {"a": 1}}, "the reply contradicts itself"),
        ({"code": 48010}, "the reply contradicts itself"),
        ({"code": "048010"}, "the reply contradicts itself"),
    ],
)
def test_an_ok_that_contradicts_itself_proves_nothing(
    fields: dict[str, object], message: str
) -> None:
    """OK with an error, a reason or a delivered code: the order is looked at."""
    told = judged(200, encoded({"status": "OK", **fields}))
    assert (told.meaning, told.message, told.error) == (Meaning.AMBIGUOUS, message, None)


@pytest.mark.parametrize("name", NOT_ITS_OWN)
def test_what_is_not_the_vendor_s_says_nothing_about_the_order(name: str) -> None:
    """Whatever it looks like: in a 200 it proves nothing."""
    assert judged(200, NOT_ITS_OWN[name]).meaning is Meaning.AMBIGUOUS


# -- the id is a secret ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order_id", "echo", "quoted"),
    [
        (ID, f"order {ID} is busy", "order *** is busy"),
        (ID, f"{ID}{ID}", "******"),
        (ID, f"order {ID.upper()} is busy", "order *** is busy"),
        ("a/b+c", "no /x?orderId=a%2Fb%2Bc", "no /x?orderId=***"),
        ("a/b+c", "no a%2fb%2bc", "no ***"),
        ("a.c", "abc a.c", "abc ***"),
        ("é*", "no é*, %C3%A9%2A", "no ***, ***"),
    ],
)
def test_an_echoed_id_is_blotted_out(order_id: str, echo: str, quoted: str) -> None:
    """Whoever echoes the id, in whatever case or encoding: it is quoted with the id blotted out."""
    for status, body in (
        (500, refusal(echo)),
        (200, refusal(echo)),
        (200, encoded({"status": "OK", "error": echo})),
    ):
        told = verdict.cancel_verdict(order_id, status, body)
        assert told.message == quoted
        assert order_id not in f"{told!r} {told.error} {told.error!r}"
    with pytest.raises(BusinessRefusal) as caught:
        verdict.order_status(order_id, 500, refusal(echo))
    assert caught.value.text == quoted
    status_told = verdict.order_status(
        order_id, 200, encoded({"status": "OK", "paid": True, "error": echo})
    )
    assert status_told.error == quoted


# -- an order ----------------------------------------------------------------------------------------------------

OPEN, FILLED, CANCELED, UNKNOWN = (
    OrderState.OPEN,
    OrderState.FILLED,
    OrderState.CANCELED,
    OrderState.UNKNOWN,
)

BLANKS: tuple[object, ...] = (None, 0, "0", "", " ", [], {}, False)

STATES: dict[str, tuple[dict[str, object], OrderState, OrderState, str | None]] = {
    # fields, state, state of one overdue, the vendor's word
    "code received": (LITERALS["code received"], FILLED, FILLED, "paid"),
    "no number": (LITERALS["no number"], CANCELED, CANCELED, LITERALS["no number"]["error"]),
    "waiting": ({"paid": True}, OPEN, UNKNOWN, "paid"),
    "waiting for a number": ({"paid": True, "number": 0}, OPEN, UNKNOWN, "paid"),
    "waiting for payment": ({"paid": False}, OPEN, UNKNOWN, "not paid"),
    "paid in numbers": ({"paid": 1}, OPEN, UNKNOWN, "paid"),
    **{
        f"no code yet: {blank!r}": ({"paid": True, "code": blank}, OPEN, UNKNOWN, "paid")
        for blank in BLANKS
    },
    **{
        f"no error: {blank!r}": ({"paid": True, "error": blank}, OPEN, UNKNOWN, "paid")
        for blank in BLANKS
    },
    "code as text": ({"paid": True, "code": "048010"}, FILLED, FILLED, "paid"),
    "code of zeros": ({"paid": True, "code": "000000"}, FILLED, FILLED, "paid"),
    "code of letters": ({"code": "pending"}, UNKNOWN, UNKNOWN, None),
    "code of letters and digits": ({"code": "G-4711"}, FILLED, FILLED, None),
    "canceled": ({"paid": True, "error": "Order canceled"}, CANCELED, CANCELED, "Order canceled"),
    "an error of no known meaning": (
        {"paid": True, "error": "no luck"},
        UNKNOWN,
        UNKNOWN,
        "no luck",
    ),
    "not canceled": (
        {"paid": True, "error": "Order could not be canceled"},
        UNKNOWN,
        UNKNOWN,
        "Order could not be canceled",
    ),
    "canceled yet": (
        {"paid": True, "error": "invoice not canceled yet"},
        UNKNOWN,
        UNKNOWN,
        "invoice not canceled yet",
    ),
    "axios": (
        {"paid": True, "error": "Request failed with status code 502"},
        UNKNOWN,
        UNKNOWN,
        "Request failed with status code 502",
    ),
    "rule": (
        {"paid": True, "error": "Order can be cancelled after 2 minutes"},
        UNKNOWN,
        UNKNOWN,
        "Order can be cancelled after 2 minutes",
    ),
    "condition": (
        {"paid": True, "error": "Funds are returned automatically if no code arrives"},
        UNKNOWN,
        UNKNOWN,
        "Funds are returned automatically if no code arrives",
    ),
    "never": (
        {"paid": True, "error": "The order was never canceled"},
        UNKNOWN,
        UNKNOWN,
        "The order was never canceled",
    ),
    "negated request": (
        {"paid": True, "error": "Order cancellation failed"},
        UNKNOWN,
        UNKNOWN,
        "Order cancellation failed",
    ),
    "clause of a condition": (
        {"paid": True, "error": "if no code arrives, order is canceled"},
        UNKNOWN,
        UNKNOWN,
        "if no code arrives, order is canceled",
    ),
    "will expire": (
        {"paid": True, "error": "Order will expire in 3 minutes"},
        UNKNOWN,
        UNKNOWN,
        "Order will expire in 3 minutes",
    ),
    "canceled unpaid": ({"paid": False, "error": "Expired"}, CANCELED, CANCELED, "Expired"),
    "timed out, refunded": (
        {"paid": True, "error": "Timed out, refunded"},
        CANCELED,
        CANCELED,
        "Timed out, refunded",
    ),
    **{
        f"cannot tell: {words}": ({"paid": True, "error": words}, UNKNOWN, UNKNOWN, words)
        for words in (
            "internal server error",
            "backend error",
            "Try again later",
            "order not found.",
        )
    },
    "code and error": ({"paid": True, "code": 1, "error": "no"}, UNKNOWN, UNKNOWN, "no"),
    "silence": ({}, UNKNOWN, UNKNOWN, None),
    "message created": ({"paid": True, "smsStatus": "created"}, OPEN, OPEN, "created"),
    "message sent": ({"paid": True, "smsStatus": "sent"}, FILLED, FILLED, "sent"),
    "message delivered": ({"paid": True, "smsStatus": "Delivered"}, FILLED, FILLED, "Delivered"),
    "message failed": ({"paid": True, "smsStatus": "failed"}, CANCELED, CANCELED, "failed"),
    "message lost": ({"paid": True, "smsStatus": "lost"}, UNKNOWN, UNKNOWN, "lost"),
}


@pytest.mark.parametrize("name", STATES)
def test_what_a_status_means(name: str) -> None:
    """A code is delivered, an error is canceled, a live order waits, and what nobody can know is unknown."""
    fields, state, overdue, word = STATES[name]
    status = verdict.order_status(ID, 200, encoded({"status": "OK", **fields}))
    assert verdict.state_of(status, overdue=False) is state
    assert verdict.state_of(status, overdue=True) is overdue
    order = OrderRef(id=ID)
    snapshot = verdict.snapshot_of(order, status, overdue=False)
    assert (snapshot.state, snapshot.vendor_state) == (state, word)
    assert (snapshot.order, snapshot.venue) == (order, "sms4sats")
    assert (snapshot.executed, snapshot.remaining) == (None, None)


def test_the_documented_status_is_read() -> None:
    """Every field of the literal reply, codes and numbers as text."""
    body = encoded(LITERALS["code received"])
    assert verdict.order_status(ID, 200, body) == OrderStatus(
        paid=True,
        code="48010",
        number="12345678901",
        id="1125699791",
        timestamp=1_666_613_406_969,
        country="India",
        service="openAI",
    )
    body = encoded({"status": "OK", "code": "0048", "number": "+4917", "smsStatus": "sent"})
    told = verdict.order_status(ID, 200, body)
    assert (told.code, told.number, told.sms_status) == ("0048", "+4917", "sent")


@pytest.mark.parametrize(
    "fields",
    [
        {"code": True},
        {"code": [48010]},
        {"code": {"code": 48010}},
        {"code": -1},
        {"code": 4.5},
        {"error": True},
        {"error": 500},
        {"error": ["canceled"]},
        {"error": {"message": "canceled"}},
        {"paid": "True"},
        {"paid": "yes"},
        {"paid": 2},
        {"paid": [1]},
    ],
)
def test_a_status_of_other_types_proves_nothing(fields: dict[str, object]) -> None:
    """What decides between delivered, canceled and waiting is of its documented type, or nothing is read from it."""
    with pytest.raises(BadReply, match="not sms4sats'"):
        verdict.order_status(ID, 200, encoded({"status": "OK", "paid": True, **fields}))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, refusal("order not found"), OrderNotFound),
        (200, refusal("unknown order"), OrderNotFound),
        (500, refusal("order expired"), BusinessRefusal),
        (500, refusal("backend error"), VendorFailure),
        (500, HTML, VendorFailure),
        (404, HTML, WrongEndpoint),
        (429, HTML, RateLimited),
        (302, b"", BadReply),
        (200, HTML, BadReply),
        (200, b"", BadReply),
        (500, b'{"status":"OK","paid":true}', BadReply),
    ],
)
def test_a_status_that_is_none(status: int, body: bytes, kind: type[GatewayError]) -> None:
    """A refusal, an outage and what is not the vendor's are errors of their own."""
    with pytest.raises(kind) as caught:
        verdict.order_status(ID, status, body, 3.0)
    assert type(caught.value) is kind
    if isinstance(caught.value, VendorError):
        assert (caught.value.endpoint, caught.value.retry_after) == ("status", 3.0)


# -- the other calls -----------------------------------------------------------------------------------------------


def test_the_other_documented_replies() -> None:
    """Creation, balance and price as documented, numbers and text alike."""
    created = verdict.created_order(200, encoded(LITERALS["created"]))
    assert created == CreatedOrder(order_id=NOWHERE, payreq="lnbc30u1p34yef6pp5...")
    assert verdict.created_order(200, b'{"status":"OK","orderId":7}').order_id == "7"
    for balance in (b"100000", b'"100000"'):
        told = verdict.balance(200, b'{"status":"OK","balance":%s}' % balance)
        assert told == Decimal(100_000)
    prices = b'{"receive":"1500","send":3000,"rent":15000,"s4s":"4000","query":{},"computed":{}}'
    expected = Price(
        receive=Decimal(1500), send=Decimal(3000), rent=Decimal(15000), s4s=Decimal(4000)
    )
    assert verdict.price(200, prices) == expected
    assert verdict.price(200, prices[:-1] + b',"status":"OK"}') == expected
    assert verdict.price(200, b'{"receive":"?"}') == Price()


@pytest.mark.parametrize(
    "body",
    [
        b'{"status":"OK"}',
        b'{"status":"OK","orderId":null,"payreq":"x"}',
        b'{"status":"OK","orderId":"","payreq":"x"}',
        b'{"status":"OK","orderId":[],"payreq":"x"}',
        b'{"status":"OK","orderId":true,"payreq":"x"}',
        b'{"status":"OK","orderId":{"id":"x"},"payreq":"x"}',
        b'{"status":"OK","orderId":"x","payreq":"x","error":"No available number"}',
    ],
)
def test_a_created_order_without_a_name_is_none(body: bytes) -> None:
    """An order may exist, and the reply does not tell it."""
    with pytest.raises(BadReply):
        verdict.created_order(200, body)


def test_countries_and_services() -> None:
    """Rows that can be read, in either form of a list; flags as truths or numbers."""
    rows = b'[{"id":187,"eng":"USA","visible":1,"rent":"0"},{"eng":"?"},{"id":"12","visible":true}]'
    assert verdict.countries(200, rows) == [
        Country(id=187, eng="USA", visible=True, rent=False),
        Country(id=12, visible=True),
    ]
    assert verdict.countries(200, b'{"0":{"id":0}}') == [Country(id=0)]
    services = b'[{"key":"vk","text":"VK","value":"v","count":"7"},{"value":"tg"},{"text":"?"}]'
    assert verdict.services(200, services) == [
        Service(key="vk", text="VK", value="v", count=7),
        Service(key="tg", value="tg"),
    ]


READERS: dict[str, Callable[[int, bytes, float | None], Any]] = {
    "create": verdict.created_order,
    "balance": verdict.balance,
    "price": verdict.price,
    "countries": verdict.countries,
    "services": verdict.services,
}


@pytest.mark.parametrize("endpoint", READERS)
def test_errors_of_the_other_calls(endpoint: str) -> None:
    """Each call's refusal, outage and unreadable reply is typed, and names the call."""
    read = READERS[endpoint]
    for status, body, kind in (
        (500, refusal("invalid parameters"), BusinessRefusal),
        (200, refusal("invalid parameters"), BusinessRefusal),
        (500, refusal("api key required"), AuthenticationRejected),
        (401, refusal("no"), AuthenticationRejected),
        (500, HTML, VendorFailure),
        (429, b"", RateLimited),
        (200, b"<html>", BadReply),
        (200, b"7", BadReply),
    ):
        with pytest.raises(kind) as caught:
            read(status, body, 2.0)
        assert type(caught.value) is kind
        error: Any = caught.value
        assert (error.venue, error.endpoint, error.status) == ("sms4sats", endpoint, status)
        assert getattr(error, "retry_after", 2.0) == 2.0
    with pytest.raises(BadReply):
        read(200, b'{"status":"OK","balance":"?","x":1}' if endpoint != "price" else b"[]", None)


# -- anything at all -----------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
WORDS = st.sampled_from(["OK", "ok", "error", "", "order not found", "canceled", "api key", ID])
VALUES = SCALARS | WORDS | st.lists(SCALARS, max_size=2) | st.floats(allow_nan=False)
NAMES = st.sampled_from(
    ["status", "error", "reason", "message", "code", "paid", "smsStatus", "orderId", "payreq", "id"]
)
STATUSES = st.sampled_from([200, 201, 204, 301, 302, 400, 401, 404, 418, 429, 500, 502, 503])
BODIES = (
    st.dictionaries(NAMES, VALUES, max_size=6).map(encoded)
    | st.dictionaries(NAMES, VALUES, max_size=5).map(lambda told: encoded({"status": "OK"} | told))
    | st.dictionaries(NAMES, VALUES, max_size=5).map(
        lambda told: encoded({**told, "status": "error"})
    )
    | st.binary(max_size=40)
    | st.lists(st.dictionaries(NAMES, VALUES, max_size=3), max_size=2).map(encoded)
)


def says(told: Any, name: str) -> bool:
    """Whether a field of a reply says anything at all, looked at as plainly as can be."""
    value = told.get(name)
    blank = value in (None, False, 0, "0", [], {})
    return not (blank or (isinstance(value, str) and not value.strip()))


@given(status=STATUSES, body=BODIES)
def test_no_bytes_are_taken_for_a_cancel_that_are_none(status: int, body: bytes) -> None:
    """Whatever arrives, nothing is raised, and CANCELED comes only of a 200 whose status is OK and stands alone."""
    told = verdict.cancel_verdict(ID, status, body)
    assert ID not in repr(told)
    if told.meaning is Meaning.CANCELED:
        reply = json.loads(body)
        assert status == 200
        assert reply["status"].lower() == "ok"
        assert not any(says(reply, name) for name in ("error", "reason", "code"))
    if told.meaning is Meaning.NOT_FOUND:
        assert json.loads(body)["status"].lower() == "error"
    assert told.meaning not in (Meaning.ALREADY_CLOSED, Meaning.REFUSED, Meaning.STALE)


@given(status=STATUSES, body=BODIES)
def test_no_bytes_are_taken_for_an_end_that_are_none(status: int, body: bytes) -> None:
    """Whatever arrives, only the documented errors are raised, and an order is dead only by a code or an error text."""
    try:
        told = verdict.order_status(ID, status, body)
    except (VendorError, BadReply) as error:
        shows = ID in f"{error} {error!r}"
    else:
        shows = False
        check_end(status, told, json.loads(body))
    assert not shows


def check_end(status: int, told: OrderStatus, reply: dict[str, Any]) -> None:
    """Assert that an order's state is what the reply plainly says."""
    assert status == 200
    assert reply["status"].lower() == "ok"
    state = verdict.state_of(told, overdue=False)
    if state is FILLED:
        assert says(reply, "code")
        assert not says(reply, "error")
    if state is CANCELED:
        assert isinstance(reply["error"], str)
        assert not says(reply, "code")
    if state is OPEN:
        assert not says(reply, "code")
        assert not says(reply, "error")


@given(status=STATUSES, body=BODIES, endpoint=st.sampled_from(sorted(READERS)))
def test_no_bytes_break_the_other_calls(status: int, body: bytes, endpoint: str) -> None:
    """Whatever arrives, only the documented errors are raised."""
    try:
        READERS[endpoint](status, body, None)
    except (VendorError, BadReply):
        return
    assert status == 200


@pytest.mark.parametrize(
    "reason",
    [
        "No response received from provider",
        "Cannot read properties of undefined (reading 'number')",
        "order not found",
        "lnd: unauthorized macaroon",
        "order already created",
    ],
)
def test_a_prepaid_order_is_not_refused_by_words_of_another_matter(reason: str) -> None:
    """Where money is spent, a reason that is no known refusal leaves open whether an order was created."""
    body = msgspec.json.encode({"status": "error", "reason": reason})
    with pytest.raises(VendorFailure):
        verdict.created_order(500, body, prepaid=True)


@pytest.mark.parametrize(
    "reason", ["insufficient balance", "Unsupported country.", "invalid service"]
)
def test_a_prepaid_order_is_refused_by_plain_words(reason: str) -> None:
    """Nothing was created, and the caller may order something else."""
    body = msgspec.json.encode({"status": "error", "reason": reason})
    with pytest.raises(BusinessRefusal):
        verdict.created_order(500, body, prepaid=True)


def test_a_cancel_without_a_key_is_not_refused_for_somebody_elses() -> None:
    """Words of a key that are no plain refusal may hide that the order was canceled."""
    body = msgspec.json.encode({"status": "error", "reason": "lnd: unauthorized macaroon"})
    assert verdict.cancel_verdict("f" * 64, 500, body).meaning is Meaning.AMBIGUOUS


# -- every wording that is understood ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason",
    [
        *("unable to save", "unable to store it", "unable to update", "unable to write"),
        *("fail to save", "failed to store it", "could not update", "couldn't write"),
        *("could not save data", "failed to save", "backend down", "an internal problem"),
        *("server error", "upstream is down", "bad gateway", "connection refused"),
        *("network is down", "ECONNRESET", "timeout", "time out", "timed out", "time-out"),
        *("temporarily unavailable", "please try again", "database is locked"),
        *("uncaught exception", "unexpected token <", "something went wrong", "unknown error"),
        *("error", "An error.", "Error!"),
    ],
)
def test_words_of_trouble_prove_nothing(reason: str) -> None:
    """What was asked for may have been done before the trouble came."""
    assert judged(500, refusal(reason)).meaning is Meaning.AMBIGUOUS
    assert judged(500, refusal(reason.upper())).meaning is Meaning.AMBIGUOUS


@pytest.mark.parametrize(
    "reason", ["the order is unknown to us", "could not be canceled", "the errors of others", "no"]
)
def test_other_words_are_a_refusal(reason: str) -> None:
    """The vendor said no, for whatever reason: the order is looked at."""
    assert judged(500, refusal(reason)).meaning is Meaning.UNPROVED


@pytest.mark.parametrize(
    "reason",
    [
        *("order not found", "the order was not found", "order does not exist", "order unknown"),
        *("order id unknown", "unknown order", "no such order id", " Order Not Found!. "),
    ],
)
@pytest.mark.parametrize("status", [400, 500])
def test_words_for_an_order_that_is_not_known(reason: str, status: int) -> None:
    """Only these, alone, say that the vendor knows no such order."""
    assert judged(status, refusal(reason)).meaning is Meaning.NOT_FOUND
    assert judged(status, refusal(f"{reason} or busy")).meaning is Meaning.UNPROVED


@pytest.mark.parametrize(
    "reason",
    [
        *("insufficient balance", "not enough balance", "not enough funds"),
        *("balance too low", "funds insufficient", "balance is too low", "Funds are too low!"),
        *("unsupported country", "unknown country", "invalid service", "missing service"),
        *("no such country", "country required", "service is required", "country not supported"),
    ],
)
@pytest.mark.parametrize("status", [200, 500])
def test_a_prepaid_order_is_refused_by_these_words_alone(reason: str, status: int) -> None:
    """Nothing was created; with any word beside them, that is not certain."""
    with pytest.raises(BusinessRefusal):
        verdict.created_order(status, refusal(reason), prepaid=True)
    told = f"{reason}, order kept"
    with pytest.raises(VendorFailure) as caught:
        verdict.created_order(status, refusal(told), prepaid=True)
    assert (caught.value.endpoint, caught.value.status, caught.value.text) == (
        *("create", status),
        told,
    )
    with pytest.raises(BusinessRefusal):
        verdict.created_order(status, refusal(told))


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_a_prepaid_order_is_refused_by_a_status_that_says_so(status: int) -> None:
    """Whatever the words: with such a status nothing was created."""
    with pytest.raises(VendorError) as caught:
        verdict.created_order(status, refusal("no luck"), prepaid=True)
    assert not isinstance(caught.value, VendorFailure)


REJECTED_KEYS = [
    *("missing api key", "invalid api-key", "unknown api_key", "Wrong apikey.", "no API key!"),
    *("api key required", "api key is missing", "api key invalid", "api key is unknown"),
    *("api key needed",),
]


@pytest.mark.parametrize("reason", REJECTED_KEYS)
def test_plain_words_reject_a_key(reason: str) -> None:
    """Of any call, also of one that costs money, and of one that carries no key."""
    assert judged(500, refusal(reason)).meaning is Meaning.ACCOUNT
    for prepaid in (False, True):
        with pytest.raises(AuthenticationRejected):
            verdict.created_order(500, refusal(reason), prepaid=prepaid)


@pytest.mark.parametrize("reason", ["unauthorized", "Unauthorised!", "api key"])
def test_words_that_reject_a_key_where_no_money_is_spent(reason: str) -> None:
    """They are plain enough, but for a prepaid order."""
    assert judged(500, refusal(reason)).meaning is Meaning.ACCOUNT
    with pytest.raises(AuthenticationRejected):
        verdict.created_order(500, refusal(reason))
    with pytest.raises(VendorFailure):
        verdict.created_order(500, refusal(reason), prepaid=True)


@pytest.mark.parametrize("endpoint", READERS)
@pytest.mark.parametrize("reason", ["your api key has no rights", "unauthorised: ask for a plan"])
def test_words_about_a_key_are_about_the_callers_where_there_is_one(
    endpoint: str, reason: str
) -> None:
    """Of a call that carries no key, they are somebody else's trouble coming through."""
    carries_key = endpoint in ("balance", "create")
    with pytest.raises(AuthenticationRejected if carries_key else VendorFailure):
        READERS[endpoint](500, refusal(reason), None)
    assert judged(500, refusal(reason)).meaning is Meaning.AMBIGUOUS


def state_of_error(error: str) -> OrderState:
    """Return the state of a paid order with this error."""
    body = encoded({"status": "OK", "paid": True, "error": error})
    return verdict.state_of(verdict.order_status(ID, 200, body), overdue=False)


ENDS = [
    *("no available number", "canceled", "Cancelled", "expired", "refunded"),
    *("order expired", "your order is canceled", "The invoice was already canceled"),
    *("payment request expired", "the payment has been refunded", "order already released"),
    *("order has been canceled", "the invoice has been refunded"),
    *("invoice cancelled by the receiver", "payment released", "order refunded by us"),
    *("funds are returned", "your money is refunded", "the sats were released"),
    *("payment was returned", "money has been returned to you", "sats have been already refunded"),
    *("funds are already returned automatically",),
]


@pytest.mark.parametrize("error", ENDS)
def test_whole_clauses_that_say_that_an_order_ended(error: str) -> None:
    """Alone or among others; a word before it, in the same clause, takes it back."""
    assert state_of_error(error) is CANCELED
    assert state_of_error(f"Sorry: {error}. Bye") is CANCELED
    assert state_of_error(f"perhaps {error}") is UNKNOWN


@pytest.mark.parametrize(
    "word",
    [
        *("if", "when", "unless", "until", "after", "before", "will", "would", "could", "can"),
        *("may", "not", "never", "only", "unable", "please", "try", "retry", "If", "WILL"),
        *("couldn't", "isn\u2019t", "Don't"),
    ],
)
def test_words_that_take_an_end_back(word: str) -> None:
    """Anywhere in the text: what is said with a condition is not said."""
    for error in (f"order canceled, {word} x", f"x {word}: order canceled"):
        assert state_of_error(error) is UNKNOWN


@pytest.mark.parametrize("word", ["notice", "cancel", "willing", "tent", "ant", "trying"])
def test_words_that_only_look_like_those_take_nothing_back(word: str) -> None:
    """Whole words count."""
    assert state_of_error(f"{word} x, order canceled") is CANCELED


def test_a_reply_that_does_not_fit_says_so() -> None:
    """The reason names what is wrong, for whoever reads the log."""
    with pytest.raises(BadReply) as caught:
        verdict.balance(200, b'{"status":"OK","balance":"?"}')
    assert caught.value.reason == "the reply is not sms4sats'"
    with pytest.raises(BadReply) as caught:
        verdict.countries(200, b'{"status":"OK"}')
    assert caught.value.reason == "the reply is not a list"
