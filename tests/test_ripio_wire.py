"""Ripio's messages: the documented literals fit, amounts are exact, and one odd field hides no other."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from brokers.ripio import config, wire
from support.ripio_wire import (
    ALREADY_CLOSED,
    CANCELED,
    EVENT,
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
    with_value,
)

AMOUNTS = [
    "executed_amount",
    "remaining_amount",
    "remaining_value",
    "requested_amount",
    "requested_value",
    "total_value",
    "price",
    "average_execution_price",
    "stop_price",
    "distance",
    "step_amount",
    "fee",
]
DATES = ["create_date", "update_date"]
WORDS = ["status", "pair", "side", "type"]
FLAGS = ["fill_or_kill", "immediate_or_cancel", "post_only"]


def frame(message: object) -> wire.Frame:
    """Read a message that is a reply."""
    read = wire.read_message(message if isinstance(message, bytes) else encoded(message))
    assert isinstance(read, tuple)
    return read[1]


def order(message: object) -> wire.Order:
    """Read a reply with an order."""
    result = frame(message).result
    assert isinstance(result, wire.Order)
    return result


# -- where, and how often --------------------------------------------------------------------------


def test_hosts_calls_and_limits_are_the_documented_ones() -> None:
    """Hosts, methods, paths and limits are the pages' own."""
    assert config.VENUE == "ripio"
    assert config.WS_URL == "wss://ws-api.ripio.com"
    assert config.REST_URL == "https://api.ripio.com/trade"
    assert config.LEGACY_REST_URL == "https://api.ripiotrade.co/v4"
    assert (config.API_TOKEN_VARIABLE, config.SECRET_VARIABLE) == (
        "RIPIO_API_TOKEN",
        "RIPIO_SECRET",
    )
    assert config.METHODS == {
        "cancel": "order.cancel",
        "create": "order.create",
        "update": "order.update",
    }
    assert config.PATHS == {
        "order": "/orders/{id}",
        "order_by_external_id": "/orders/by-external-id/{external_id}",
        "orders": "/orders",
        "open_orders": "/orders/open",
        "server_time": "/public/server-time",
    }
    assert (config.BASIC.daily_quota, config.APPROVED.daily_quota) == (86_400, 302_400)
    limits = [config.BASIC.rate_limit, config.APPROVED.rate_limit, config.PUBLIC_RATE_LIMIT]
    assert [(limit.requests, limit.per) for limit in limits] == [(1, 1.0), (3, 1.0), (1, 1.0)]
    assert (config.TOLERANCE, config.LONGEST_TOLERANCE) == (5.0, 60.0)
    assert config.PROCESSING_TIME == 10.0
    assert config.SERVER_TIME_CACHE == 30.0
    assert (config.LONGEST_EXTERNAL_ID, config.LONGEST_ID) == (36, 128)
    assert timedelta(days=180) == config.LONGEST_PERIOD


@pytest.mark.parametrize("seconds", [1, 2, 7, 60])
def test_the_approved_limit_holds_in_windows_of_any_length(seconds: int) -> None:
    """However long the vendor's window is, three a second never exceed three and a half."""
    limit = config.APPROVED.rate_limit
    windows = -(-seconds // limit.per)
    assert limit.requests * windows <= 3.5 * seconds
    assert limit.requests * 86_400 <= config.APPROVED.daily_quota


# -- the documented replies ------------------------------------------------------------------------


def test_the_documented_success_fits_in_every_field() -> None:
    """Every value of the literal reply is read, amounts exactly and times as aware UTC."""
    assert frame(CANCELED) == wire.Frame("req-003", 200, order(CANCELED))
    assert order(CANCELED) == wire.Order(
        id=ORDER_ID,
        create_date=datetime(2024, 3, 27, 13, 27, 19, 853_000, UTC),
        update_date=datetime(2024, 3, 27, 13, 30, 45, 123_000, UTC),
        executed_amount=Decimal(0),
        remaining_amount=Decimal("0.001"),
        remaining_value=Decimal(100),
        requested_amount=Decimal("0.001"),
        requested_value=Decimal(100),
        total_value=Decimal(100),
        status="canceled",
        type="limit",
        price=Decimal(100_000),
        pair="BTC_BRL",
        external_id=EXTERNAL_ID,
    )


@pytest.mark.parametrize("reply", [NOT_FOUND, ALREADY_CLOSED])
def test_the_documented_errors_fit(reply: dict[str, Any]) -> None:
    """Code and message are read, the code as its digits."""
    error = reply["error"]
    words = wire.Words(code=str(error["error_code"]), message=error["message"])
    read = frame(reply)
    assert read == wire.Frame("req-003", reply["status"], None, words)
    assert read.message == error["message"]
    assert words.say_something


def test_a_reply_of_the_newer_generation_tells_the_time() -> None:
    """The timestamp is read from success and error; a success has no message; nobody says how long to wait."""
    success = frame({**CANCELED, "timestamp": 1634567890000})
    assert (success.timestamp, success.message, success.error) == (1634567890000, None, None)
    failure = frame({**NOT_FOUND, "timestamp": 1634567890000})
    assert failure.timestamp == 1634567890000
    assert success.retry_after() is None


def test_the_documented_record_fits_in_every_field() -> None:
    """Every value of the literal record is read."""
    record = wire.read_order(encoded(RECORD))
    assert record is not None
    data = RECORD["data"]
    for name in DATES:
        assert getattr(record, name).isoformat(timespec="milliseconds") == data[name].replace(
            "Z", "+00:00"
        )
    for name in data.keys() - DATES:
        value = getattr(record, name)
        assert (str(value) if isinstance(value, Decimal) else value) == (
            str(data[name]) if name in AMOUNTS else data[name]
        )


def test_a_listed_order_may_have_any_selection_of_the_fields() -> None:
    """Only the id is always there; unknown fields are ignored; all others are read."""
    assert order({**CANCELED, "result": {"id": "x", "new": [{}]}, "extra": 1}) == wire.Order(id="x")
    everything = order(
        canceled(side="sell", stop_price=1, distance="2.5", step_amount=3, fee="0.1")
        | {"id": "req-003"}
    )
    assert (everything.side, everything.stop_price, everything.distance) == (
        "sell",
        Decimal(1),
        Decimal("2.5"),
    )
    flags = order(canceled(fill_or_kill=True, immediate_or_cancel=False, post_only=None))
    assert (flags.fill_or_kill, flags.immediate_or_cancel, flags.post_only) == (True, False, None)
    assert order(canceled(expiration=1723073682)).expiration == 1723073682
    assert order(canceled(expiration="2024-08-08")).expiration == "2024-08-08"


# -- amounts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0.1",
        "0.30000000000000004",
        "1e-8",
        "1E+2",
        "0.00000001",
        "0.1000",
        "12345678901234567.123456789",
        "9007199254740993",
        "123456789012345678901234567890.123456789012345678901234567890",
    ],
)
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("spoiled", [False, True])
@pytest.mark.parametrize("field", AMOUNTS)
def test_an_amount_is_exact(field: str, text: str, quoted: bool, spoiled: bool) -> None:
    """As number or text, straight or field by field: the digits that were sent are the digits that are read."""
    body = with_value(field, (f'"{text}"' if quoted else text).encode())
    if spoiled:
        body = body.replace(b'"limit"', b"[]")
    amount = getattr(order(body), field)
    assert isinstance(amount, Decimal)
    assert amount.as_tuple() == Decimal(text).as_tuple()


NO_AMOUNTS = {name: value for name, value in HOSTILE_VALUES.items() if name != "exponent"} | {
    "beyond all money": b"1e100",
    "beyond all dust": b"1e-100",
}


@pytest.mark.parametrize("value", [*NO_AMOUNTS.values(), b"1e308"])
@pytest.mark.parametrize("field", AMOUNTS)
def test_what_is_no_amount_is_not_known(field: str, value: bytes) -> None:
    """NaN, infinity, absurd exponents and everything else: None and never 0, and the rest of the reply stands."""
    started = time.perf_counter()
    read = order(with_value(field, value))
    assert getattr(read, field) is None
    untouched = order(CANCELED)
    for name in {*AMOUNTS, *DATES, *WORDS, "id", "external_id"} - {field}:
        assert getattr(read, name) == getattr(untouched, name)
    assert time.perf_counter() - started < 0.5


def test_a_missing_amount_is_not_known() -> None:
    """Absent is None, and never 0."""
    assert order({**CANCELED, "result": {"id": "x"}}).executed_amount is None


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("-Infinity"), Decimal("1e999999")])
def test_no_struct_holds_what_is_no_amount(value: Decimal) -> None:
    """An order or a trade cannot even be built with it."""
    with pytest.raises(ValueError, match="not an amount"):
        wire.Order(id="x", fee=value)
    with pytest.raises(ValueError, match="not an amount"):
        wire.Trade(amount=value)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_any_amount_survives(amount: Decimal) -> None:
    """Whatever its digits are."""
    read = order(with_value("executed_amount", str(amount).encode())).executed_amount
    if read is None:
        assert abs(amount.adjusted()) >= 100
    else:
        assert read == amount
        assert read.as_tuple().digits == amount.as_tuple().digits


# -- odd fields ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["2024-03-27T13:27:19", "2020-02-21 20:24:43.433", "soon", "", 1723073682, None, []]
)
@pytest.mark.parametrize("field", DATES)
def test_a_time_that_is_none_is_not_known(field: str, value: object) -> None:
    """A time without an offset is no time; times are aware or None."""
    read = order(canceled(**{field: value}))
    assert getattr(read, field) is None
    assert read.status == "canceled"


def test_a_time_of_another_zone_is_aware() -> None:
    """An offset is kept."""
    read = order(canceled(create_date="2024-03-27T10:27:19.853-03:00"))
    zone = timezone(timedelta(hours=-3))
    assert read.create_date == datetime(2024, 3, 27, 10, 27, 19, 853_000, zone)


@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES.keys())
@pytest.mark.parametrize("field", [*DATES, *WORDS, *FLAGS, "expiration", "transactions", "new"])
def test_an_odd_field_loses_itself_and_not_the_reply(field: str, value: bytes) -> None:
    """Whatever stands in a field: the others are read."""
    read = order(with_value(field, value))
    assert (read.id, read.external_id) == (ORDER_ID, EXTERNAL_ID)
    assert read.executed_amount == Decimal(0)
    if field != "status":
        assert read.status == "canceled"
    elif not value.startswith(b'"'):
        assert read.status is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"5", "5"), (b"1.50", "1.50"), (b"true", "true"), (b'{"a":[]}', '{"a":[]}'), (b"[]", "[]")],
)
def test_an_external_id_that_is_not_text_is_no_missing_one(value: bytes, text: str) -> None:
    """It is kept as its JSON text, so that it differs from the one that was asked for."""
    assert order(with_value("external_id", value)).external_id == text
    not_text = order(with_value("external_id", b'"\xff"')).external_id
    assert not_text not in (None, EXTERNAL_ID)


def test_an_external_id_of_null_is_a_missing_one() -> None:
    """Straight or field by field."""
    assert order(canceled(external_id=None)).external_id is None
    assert order(canceled(external_id=None, type=5)).external_id is None


@pytest.mark.parametrize("value", [*HOSTILE_VALUES.values(), b"5"])
def test_an_order_without_a_readable_id_is_none(value: bytes) -> None:
    """Nobody knows which order it is: the result is there, and is no order."""
    if value.startswith(b'"') and b"\xff" not in value:
        assert order(with_value("id", value)).id == json.loads(value)
    else:
        assert frame(with_value("id", value)).result is UNSET


@pytest.mark.parametrize(
    "result", [True, False, 0, 1, "", "canceled", [], [RESULT], {}, {"status": "canceled"}]
)
def test_a_result_that_is_no_order_is_not_a_missing_one(result: object) -> None:
    """Null or missing is no result; anything else is one, readable or not."""
    assert frame({**CANCELED, "result": result}).result is UNSET
    assert frame({**CANCELED, "result": None}).result is None
    assert frame({"id": "req-003", "status": 200}).result is None


TRADE = {
    "amount": 0.2,
    "create_date": "2020-02-21T20:24:43.433Z",
    "fee": 0.12,
    "fee_currency": "BTC",
    "price": 5000,
    "total_value": 1000,
}


def test_the_executions_of_an_order_are_read() -> None:
    """With every documented field, and a field that is odd is left out of its execution alone."""
    moment = datetime(2020, 2, 21, 20, 24, 43, 433_000, UTC)
    trade = wire.Trade(
        amount=Decimal("0.2"),
        create_date=moment,
        fee=Decimal("0.12"),
        fee_currency="BTC",
        price=Decimal(5000),
        total_value=Decimal(1000),
    )
    assert order(canceled(transactions=[TRADE, TRADE])).transactions == [trade, trade]
    naive = {**TRADE, "create_date": "2020-02-21 20:24:43.433", "price": "NaN"}
    odd = msgspec.structs.replace(trade, create_date=None, price=None)
    assert order(canceled(transactions=[TRADE, naive])).transactions == [trade, odd]


@pytest.mark.parametrize("odd", [None, 1, "x", [], [TRADE]])
def test_executions_that_cannot_all_be_read_are_not_told(odd: object) -> None:
    """A list that lacks one would not add up."""
    assert order(canceled(transactions=[TRADE, odd])).transactions is None


# -- odd replies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [b"null", b'"200"', b"200.0", b"200.5", b"true", b"[]", b"{}", b"9" * 5000, b'"\xff"', b"2e2"],
)
def test_a_status_that_cannot_be_read_is_none_of_http(value: bytes) -> None:
    """It reads as 0, and the rest of the reply is read."""
    body = encoded({**CANCELED, "status": "@@@"}).replace(b'"@@@"', value)
    read = frame(body)
    assert (read.id, read.status, read.result) == ("req-003", 0, order(CANCELED))
    missing = {name: value for name, value in CANCELED.items() if name != "status"}
    assert frame(missing).status == 0


@pytest.mark.parametrize("value", [None, True, "1634567890000", 1.5, [], {}])
def test_a_timestamp_that_cannot_be_read_is_none(value: object) -> None:
    """The rest of the reply is read."""
    read = frame({**CANCELED, "timestamp": value})
    assert (read.status, read.timestamp, read.error) == (200, None, None)


@pytest.mark.parametrize("error", [True, False, 0, "", "Order not found.", [], {}, {"x": 1}])
def test_an_error_that_cannot_be_read_is_an_error(error: object) -> None:
    """It says nothing, and it is there."""
    read = frame({**CANCELED, "error": error})
    assert read.error == wire.Words()
    assert not read.error.say_something
    assert read.message is None


ERRORS: dict[str, tuple[dict[str, object], wire.Words]] = {
    "number": (
        {"error_code": 40408, "message": "m"},
        wire.Words(code="40408", message="m"),
    ),
    "text": ({"error_code": "ERR_0008"}, wire.Words(code="ERR_0008")),
    "text with a zero": ({"error_code": "0009", "message": None}, wire.Words(code="0009")),
    "older name": ({"code": 40020, "message": "m"}, wire.Words(code="40020", message="m")),
    "both names": ({"error_code": 40408, "code": 1}, wire.Words(code="40408")),
    "null and older name": ({"error_code": None, "code": "x"}, wire.Words(code="x")),
    "empty code": ({"error_code": "", "message": "m"}, wire.Words(message="m")),
    "odd code": ({"error_code": {"a": [1]}}, wire.Words(code='{"a":[1]}')),
    "fraction": ({"error_code": 40408.5}, wire.Words(code="40408.5")),
    "bool": ({"error_code": False}, wire.Words(code="false")),
    "no code": ({"message": "Too many requests"}, wire.Words(message="Too many requests")),
    "odd message": ({"error_code": 1, "message": ["m"]}, wire.Words(code="1")),
    "time": (
        {"error_code": 1, "timestamp": 1634567890000},
        wire.Words(code="1", timestamp=1634567890000),
    ),
    "odd time": ({"error_code": 1, "timestamp": "now"}, wire.Words(code="1")),
    "more": ({"error_code": 1, "details": {"x": []}}, wire.Words(code="1")),
}


@pytest.mark.parametrize(("error", "words"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_is_read_in_each_of_its_shapes(
    error: dict[str, object], words: wire.Words
) -> None:
    """In the socket's ``error`` and at the top level of REST; what is odd is never silence."""
    assert frame({**NOT_FOUND, "error": error}).error == words
    assert wire.read_words(encoded(error)) == words
    assert words.say_something


def test_an_error_at_the_top_level_of_a_frame_is_one() -> None:
    """A code there is an error in any status, a message only where the status is none of a success."""
    bare = {"id": "req-003", "status": 429, "result": None}
    assert frame({**bare, "message": "Too many requests"}).message == "Too many requests"
    assert frame({**bare, "error_code": 42900}).error == wire.Words(code="42900")
    assert frame({**CANCELED, "error_code": 40408}).error == wire.Words(code="40408")
    assert frame({**CANCELED, "code": "x"}).error == wire.Words(code="x")
    assert frame({**CANCELED, "error_code": None, "message": "OK"}).error is None
    assert frame({**CANCELED, "message": "OK", "error_code": ""}).error is None
    assert frame(bare).error is None


def test_a_huge_code_is_its_digits() -> None:
    """However many there are."""
    body = b'{"error_code":%s,"message":"m"}' % (b"9" * 5000)
    assert wire.read_words(body) == wire.Words(code="9" * 5000, message="m")


# -- strays ----------------------------------------------------------------------------------------


STRAYS: dict[str, tuple[bytes, wire.Stray]] = {
    **{name: (body, wire.Stray.MALFORMED) for name, body in NO_JSON.items()},
    **{name: (body, wire.Stray.NOT_AN_OBJECT) for name, body in NO_OBJECT.items()},
    "event": (encoded(EVENT), wire.Stray.EVENT),
    "welcome": (encoded({**EVENT, "id": -1}), wire.Stray.EVENT),
    "event with a text as id": (encoded({**EVENT, "id": "req-003"}), wire.Stray.EVENT),
    "event that resembles a reply": (
        encoded({**CANCELED, "topic": "order_status"}),
        wire.Stray.EVENT,
    ),
    "empty object": (b"{}", wire.Stray.NO_ID),
    "id is null": (encoded({**CANCELED, "id": None}), wire.Stray.NO_ID),
    "id is a number": (encoded({**CANCELED, "id": 3}), wire.Stray.NO_ID),
    "id is a list": (encoded({**CANCELED, "id": ["req-003"]}), wire.Stray.NO_ID),
    "id is not utf-8": (b'{"id":"\xff","status":200}', wire.Stray.NO_ID),
    "no id": (b'{"status":200,"result":null}', wire.Stray.NO_ID),
    "id alone": (b'{"id":"req-003"}', wire.Stray.NO_REPLY),
    "our own request": (
        b'{"id":"req-003","method":"order.cancel","params":{"id":"x"}}',
        wire.Stray.NO_REPLY,
    ),
}


@pytest.mark.parametrize(("body", "kind"), STRAYS.values(), ids=STRAYS.keys())
def test_what_answers_no_request_is_told_what_it_is(body: bytes, kind: wire.Stray) -> None:
    """Never an exception, and never a reply."""
    read = wire.read_message(body)
    assert type(read) is str
    assert read == kind.value


def test_a_reply_is_no_stray() -> None:
    """It is told with the id of its request, as text, bytes, or any buffer."""
    body = encoded(CANCELED)
    for data in (body, body.decode(), bytearray(body), memoryview(body)):
        assert isinstance(wire.read_message(data), tuple)
        assert wire.read_message(data) == ("req-003", frame(CANCELED))
    assert wire.read_message(encoded(NOT_FOUND)) == ("req-003", frame(NOT_FOUND))


def test_text_with_a_lone_surrogate_is_malformed() -> None:
    """It cannot have come over a socket, and crashes nobody."""
    assert wire.read_message('{"id":"\ud800","status":200}') == wire.Stray.MALFORMED.value
    assert wire.read_words('{"message":"\ud800"}') == wire.Words()


@pytest.mark.parametrize("depth", [50, 400, 900, 950, 980, 990, 995, 1000, 1010])
@pytest.mark.parametrize("field", ["result", "error", "x", "id"])
def test_a_deep_value_never_crashes(depth: int, field: str) -> None:
    """However deep it is nested, it is read or the message is a stray."""
    body = encoded({**CANCELED, field: "@@@"}).replace(b'"@@@"', b"[" * depth + b"]" * depth)
    assert isinstance(wire.read_message(body), str | tuple)


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        ('"status":"canceled"', '"status":"executed_completely","status":"canceled"'),
        ('"status":"canceled"', '"status" :"executed_completely","status":"canceled"'),
        ('"status":"canceled"', '"\\u0073tatus":"executed_completely","status":"canceled"'),
        ('"status":200', '"status":400,"status":200'),
        ('"result":', '"result":null,"result":'),
        ('"id":"req-003"', '"id":"req-002","id":"req-003"'),
        ('"result":{', '"result":{"id":"8DE12108-4643-4E9F-8425-0172F1B96876",'),
        ('"executed_amount":0', '"executed_amount":0.0005,"executed_amount":0'),
        ('"requested_amount":0.001', '"requested_amount":0,"requested_amount":0.001'),
        ('"external_id":', '"external_id":"another","external_id":'),
        ('"result":', '"error":{"error_code":40408},"error":null,"result":'),
    ],
)
def test_a_reply_that_names_a_field_twice_is_not_read(once: str, twice: str) -> None:
    """Nobody knows which of the two values is meant: straight, and field by field (here for want of a status)."""
    body = encoded(CANCELED).decode()
    assert frame(body.encode()).status == 200
    assert body.count(once) == 1
    for whole in (body.replace(once, twice), body.replace(once, twice).replace("200", "2e2")):
        for data in (whole, whole.encode(), bytearray(whole.encode())):
            assert wire.read_message(data) == ("req-003", wire.Frame("req-003", 0))


def test_an_error_that_names_a_field_twice_is_not_read() -> None:
    """The same goes for what proves that there is no such order."""
    body = encoded(NOT_FOUND).replace(b'"status":404', b'"status":200,"status":404')
    assert frame(body) == wire.Frame("req-003", 0)


def test_a_usual_reply_is_not_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a few counts to see that the documented success names everything once."""
    monkeypatch.setattr(wire, "has_unique_names", None)
    assert frame(CANCELED).status == 200
    assert frame({**CANCELED, "timestamp": 1}).status == 200


# -- REST ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [*NO_JSON.values(), *NO_OBJECT.values()])
def test_a_body_that_is_no_object_is_no_reply(body: bytes) -> None:
    """It has no words and no data, and crashes nobody."""
    assert wire.read_words(body) == wire.Words()
    assert wire.read_order(body) is None
    assert wire.read_orders(body) is None
    assert wire.read_server_time(body) is None


def test_the_words_of_a_rest_reply() -> None:
    """A success has none; a rate limit has no code."""
    assert wire.read_words(encoded(RECORD)) == wire.Words()
    assert wire.read_words(encoded({**RECORD, "timestamp": 5})) == wire.Words(timestamp=5)
    assert wire.read_words(TOO_MANY) == wire.Words(message="Too many requests")
    assert wire.read_words(LIMIT_EXCEEDED) == wire.Words(message="Limit Exceeded")


@pytest.mark.parametrize("data", [None, True, 1, "x", [], [RECORD["data"]], {}, {"id": None}])
def test_a_reply_without_the_record_is_none(data: object) -> None:
    """``data`` may be anything."""
    assert wire.read_order(encoded({**RECORD, "data": data})) is None
    assert wire.read_order(encoded(RECORD["data"])) is None


def test_an_odd_field_of_a_record_loses_itself() -> None:
    """The rest of the record is read."""
    record = wire.read_order(encoded({"data": {**RECORD["data"], "fee": "free", "status": 1}}))
    assert record is not None
    assert (record.id, record.fee, record.status) == (OTHER_ID, None, None)
    assert record.executed_amount == Decimal("0.02347418")


def listed(*orders: object, **data: object) -> bytes:
    """Return the reply to a list of orders."""
    return encoded({"error_code": None, "message": None, "data": {"orders": orders, **data}})


PAGINATION = {"current_page": 1, "registers_count": 21, "total_pages": 1, "page_size": 100}


def test_a_list_is_read_with_its_place_and_its_cursors() -> None:
    """Pagination and cursors, beside the list or in the pagination; without them too."""
    page = wire.read_orders(listed(RECORD["data"], pagination=PAGINATION, nc="n", pc=None))
    assert page == wire.OrdersPage(
        orders=[wire.read_order(encoded(RECORD)) or wire.Order(id="")],
        pagination=wire.Pagination(
            current_page=1, registers_count=21, total_pages=1, page_size=100
        ),
        nc="n",
    )
    inside = wire.read_orders(listed(pagination={"nc": "n", "pc": "p", "page_size": "100"}))
    assert inside == wire.OrdersPage(orders=[], pagination=wire.Pagination(), nc="n", pc="p")
    assert wire.read_orders(listed()) == wire.OrdersPage(orders=[])
    assert wire.read_orders(listed(pagination=5, nc=[])) == wire.OrdersPage(orders=[])


@pytest.mark.parametrize("odd", [None, 1, "x", [], {}, {"id": 5}, {"status": "open"}])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_odd_row_hides_no_other_and_is_counted(odd: object, place: int) -> None:
    """The readable ones are read, in order, and it is said that there was another."""
    rows: list[object] = [{"id": "a", "fee": "free"}, {"id": "b", "executed_amount": 0.1}]
    rows.insert(place, odd)
    page = wire.read_orders(listed(*rows))
    a, b = wire.Order(id="a"), wire.Order(id="b", executed_amount=Decimal("0.1"))
    assert page == wire.OrdersPage(orders=[a, b], unreadable=1)


@pytest.mark.parametrize("data", [None, 1, "x", [], [RECORD["data"]], {}, {"orders": None}])
def test_a_reply_without_the_list_is_none(data: object) -> None:
    """And no empty list."""
    assert wire.read_orders(encoded({"data": data})) is None
    assert wire.read_orders(b'{"data":{"orders":{}}}') is None
    assert wire.read_orders(encoded({"orders": []})) is None


@pytest.mark.parametrize("data", [None, 1, [], {}, {"timestamp": None}, {"timestamp": "5"}])
def test_the_server_s_time(data: object) -> None:
    """Milliseconds, or None."""
    body = {"message": None, "data": {"timestamp": 1675708481219}}
    assert wire.read_server_time(encoded(body)) == 1675708481219
    assert wire.read_server_time(encoded({**body, "data": data})) is None


# -- anything --------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = [field.name for field in msgspec.structs.fields(wire.Order)]
ROW = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6)


def read_all(body: bytes) -> None:
    """Read a body in every way there is."""
    read = wire.read_message(body)
    assert isinstance(read, tuple) or read in {kind.value for kind in wire.Stray}
    wire.read_words(body)
    wire.read_order(body)
    wire.read_orders(body)
    wire.read_server_time(body)


@given(body=st.binary(max_size=60))
def test_no_bytes_crash(body: bytes) -> None:
    """Any bytes are read as something, or as nothing."""
    read_all(body)


@given(
    top=st.dictionaries(
        st.sampled_from(["id", "status", "result", "error", "timestamp", "topic", "data", "code"]),
        JSON | ROW | st.fixed_dictionaries({"orders": st.lists(ROW | JSON, max_size=3)}),
    )
)
def test_no_json_crashes(top: dict[str, Any]) -> None:
    """Whatever JSON comes; and a list counts all of its rows."""
    body = encoded(top)
    read_all(body)
    page = wire.read_orders(body)
    if page is not None:
        assert len(page.orders) + page.unreadable == len(top["data"]["orders"])


@given(row=ROW)
def test_any_row_is_read_as_far_as_it_goes(row: dict[str, Any]) -> None:
    """An order with a readable id is read, and each of its fields is the vendor's value or None."""
    read = wire.read_order(encoded({"data": row}))
    assert (read is None) == (not isinstance(row.get("id"), str))
    if read is not None:
        for name in WORDS:
            assert getattr(read, name) in (None, row.get(name))
        for name in AMOUNTS:
            amount = getattr(read, name)
            assert amount is None or (not isinstance(row[name], bool) and amount.is_finite())
