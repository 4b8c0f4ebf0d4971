"""sms4sats' messages: the documented literals fit, numbers and text read alike, and one odd field hides no other."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.sms4sats import config, wire
from support.sms4sats import LITERALS, NOWHERE, encoded

if TYPE_CHECKING:
    from collections.abc import Callable


def reply(**fields: object) -> wire.Reply:
    """Return a reply with these fields."""
    return of(encoded(fields))


def of(body: bytes) -> wire.Reply:
    """Return a body as a reply."""
    read = wire.read_reply(body)
    assert read is not None
    return read


def field(raw: str | bytes) -> wire.Reply:
    """Return a reply with one field ``x`` of this JSON."""
    text = raw if isinstance(raw, bytes) else raw.encode()
    return of(b'{"x":%s}' % text)


# -- what is documented ----------------------------------------------------------------------------


def test_hosts_paths_and_clocks_are_the_documented_ones() -> None:
    """Base URL, paths and the two clocks are the pages' own."""
    assert config.BASE_URL == "https://api2.sms4sats.com"
    assert config.PATHS["cancel"] == "/cancelorder"
    assert config.PATHS["status"] == "/orderstatus"
    assert config.PATHS["create"] == "/createorder"
    assert config.CANCEL_AFTER.total_seconds() == 120
    assert config.AUTO_CANCEL_AFTER.total_seconds() == 1260


def test_the_documented_replies_are_read() -> None:
    """Every field of the literal replies is told as the vendor wrote it."""
    received = reply(**LITERALS["code received"])
    assert received.text("status") == "OK"
    assert received.flag("paid") is True
    assert received.digits("code") == "48010"
    assert received.digits("number") == "12345678901"
    assert received.text("id") == "1125699791"
    assert received.whole("timestamp") == 1_666_613_406_969
    assert received.text("country") == "India"
    assert received.words("error") is None
    error = reply(**LITERALS["no number"]).words("error")
    assert error is not None
    assert error.startswith("No available number, payment request is canceled.")
    created = reply(**LITERALS["created"])
    assert (created.digits("orderId"), created.words("payreq")) == (
        NOWHERE,
        "lnbc30u1p34yef6pp5...",
    )


# -- one field ---------------------------------------------------------------------------------------------------

NOTHING = ["null", '""', "false", "0", '"0"', "[]", "{}", '" "', '"\\n\\t"', " null ", ' "" ']
SOMETHING = ["true", "1", "-0", "0.0", '"x"', '"00"', "[0]", '{"a":1}', '"false"', "1e400"]


@pytest.mark.parametrize("raw", NOTHING)
def test_a_field_that_says_nothing(raw: str) -> None:
    """Null, false, 0, and whatever is empty: the vendor has several ways to say that there is nothing yet."""
    assert not field(raw).has("x")
    assert field(raw).words("x") is None
    assert field(raw).digits("x") is None


@pytest.mark.parametrize("raw", SOMETHING)
def test_a_field_that_says_something(raw: str) -> None:
    """Anything else is said, and is not overlooked."""
    assert field(raw).has("x")


def test_a_field_that_is_not_there() -> None:
    """Of a missing field every reading is None."""
    empty = of(b"{}")
    assert not empty.has("x")
    readings = (
        empty.text,
        empty.words,
        empty.digits,
        empty.truth,
        empty.flag,
        empty.whole,
        empty.amount,
    )
    assert [read("x") for read in readings] == [None] * 7


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ('"a \\u00e9"', "a é"),
        ("0", "0"),
        ("12", "12"),
        ("true", "true"),
        ('{ "a": [1] }', '{ "a": [1] }'),
        ("1e400", "1e400"),
        ("false", None),
        ("null", None),
        ('""', None),
    ],
)
def test_text_is_anything(raw: str, text: str | None) -> None:
    """A field read as text is quoted whatever it is: a country may be the number 0."""
    assert field(raw).text("x") == text


@pytest.mark.parametrize(
    ("raw", "digits"),
    [
        ("48010", "48010"),
        ('"48010"', "48010"),
        ('"00480"', "00480"),
        ('"000"', "000"),
        ('"G-12"', "G-12"),
        ('"+491700"', "+491700"),
        (" 7 ", "7"),
        ("9" * 5000, "9" * 5000),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("true", None),
        ("[48010]", None),
        ('{"code":1}', None),
    ],
)
def test_codes_and_numbers_are_text(raw: str, digits: str | None) -> None:
    """A code is text with every leading zero that was sent; what is neither text nor a whole number is none."""
    assert field(raw).digits("x") == digits


@pytest.mark.parametrize("raw", ["1", "true", "[]", '["x"]', "{}", "1e5"])
def test_words_are_text_alone(raw: str) -> None:
    """What is no text says no words."""
    assert field(raw).words("x") is None
    assert field('" because "').words("x") == " because "


@pytest.mark.parametrize(
    ("raw", "flag", "truth"),
    [
        ("true", True, True),
        ("false", False, False),
        ("1", True, None),
        ("0", False, None),
        ('"1"', True, None),
        ("2", None, None),
        ('"yes"', None, None),
        ("null", None, None),
        ("[]", None, None),
    ],
)
def test_truths(raw: str, flag: bool | None, truth: bool | None) -> None:
    """A flag may be sent as 1 or 0; nothing else is bent into a truth."""
    assert field(raw).flag("x") is flag
    assert field(raw).truth("x") is truth


@pytest.mark.parametrize(
    ("raw", "whole"),
    [("12", 12), ('"12"', 12), ("-3", -3), ("1.5", None), ('"x"', None), ("[]", None)],
)
def test_whole_numbers(raw: str, whole: int | None) -> None:
    """A whole number is read from number or text."""
    assert field(raw).whole("x") == whole


@pytest.mark.parametrize(
    ("raw", "amount"),
    [
        ("1500", Decimal(1500)),
        ('"1500"', Decimal(1500)),
        ("0.1", Decimal("0.1")),
        ("-5", Decimal(-5)),
        ("0", Decimal(0)),
        ('"NaN"', None),
        ('"sNaN"', None),
        ('"Infinity"', None),
        ('"1e31"', None),
        ('"1e-31"', None),
        ("1e999999999999", None),
        ('"1.500,00"', None),
        ("true", None),
        ('""', None),
        ("9" * 5000, None),
    ],
)
def test_amounts_are_finite_and_of_a_sound_size(raw: str, amount: Decimal | None) -> None:
    """Prices are read from number or text, to every digit; what is no price is none."""
    found = field(raw).amount("x")
    assert found == amount
    assert found is None or isinstance(found, Decimal)


# -- bodies ------------------------------------------------------------------------------------------------------

DEEP = 100_000
NO_OBJECT: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \r\n",
    "html": b"<!DOCTYPE html><html></html>",
    "truncated": b'{"status":"OK"',
    "trailing": b'{"status":"OK"} x',
    "two": b'{"status":"OK"}{"status":"OK"}',
    "single quotes": b"{status:'OK'}",
    "array": b'[{"status":"OK"}]',
    "text": b'"OK"',
    "null": b"null",
    "byte order mark": b'\xef\xbb\xbf{"status":"OK"}',
    "zeros": b"\0" * 64,
    "deep": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep list": b"[" * DEEP + b"]" * DEEP,
    "megabytes": b" " * 10_000_000,
}


@pytest.mark.parametrize("body", NO_OBJECT.values(), ids=NO_OBJECT)
def test_what_is_no_object_is_no_reply(body: bytes) -> None:
    """Whatever is not one whole JSON object is None, and raises nothing."""
    assert wire.read_reply(body) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"status":"error","status":"OK"}',
        b'{"\\u0073tatus":"error","status":"OK"}',
        b'{"status":"OK","error":"no number","error":null}',
        b'{"status":"OK","x":[{"y":1,"y":1}]}',
    ],
)
def test_an_object_that_names_a_field_twice_is_no_reply(body: bytes) -> None:
    """Nobody knows which of the two values is meant, in whatever spelling and however deep."""
    assert wire.read_reply(body) is None


def test_one_odd_field_hides_no_other() -> None:
    """A field of a surprising type loses itself alone."""
    odd = of(b'{"paid":"?","code":"048010","timestamp":{},"new":[[]],"number":%s}' % (b"9" * 6000))
    assert odd.digits("code") == "048010"
    assert (odd.flag("paid"), odd.whole("timestamp")) == (None, None)


def test_text_that_is_not_utf_8_says_no_words() -> None:
    """Broken text is noticed, and may be quoted, but is never taken for the vendor's word."""
    broken = field(b'"OK\xff"')
    assert broken.has("x")
    assert (broken.words("x"), broken.digits("x")) == (None, None)
    assert broken.text("x") == '"OK\ufffd"'


def ids(rows: list[wire.Reply] | None) -> list[str | None] | None:
    """Return the ids of rows."""
    return None if rows is None else [row.text("id") for row in rows]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"[]", []),
        (b"{}", []),
        (b'[{"id":1},null,7,[],"x",{"id":2}]', ["1", "2"]),
        (b'{"0":{"id":1}, "12": {"id":2}}', ["1", "2"]),
        (b'{"0":{"id":1},"status":"OK"}', None),
        (b'{"status":"error","reason":"no"}', None),
        (b'[{"id":1}', None),
        (b"7", None),
        (b"", None),
    ],
)
def test_rows_come_in_a_list_or_an_object(body: bytes, found: list[str] | None) -> None:
    """The lists' forms are not documented: both are read, odd rows are left out, and nothing else is a list."""
    assert ids(wire.read_rows(body)) == found


# -- what may not be shown ---------------------------------------------------------------------------------------


def test_a_created_order_is_printed_masked() -> None:
    """Its id is a secret, and its invoice tells it; serialized it is whole."""
    created = wire.CreatedOrder(order_id=NOWHERE, payreq="lnbc30u1p34yef6pp5" + NOWHERE)
    for text in (repr(created), str(created), f"{created}"):
        assert NOWHERE[:8] not in text
        assert "pp5" not in text
    assert repr(wire.CreatedOrder(order_id="x")) == "CreatedOrder(order_id='x…', payreq='…')"
    assert msgspec.json.decode(msgspec.json.encode(created), type=wire.CreatedOrder) == created


def test_a_body_is_not_printed() -> None:
    """A body may tell an id or a code: its ``repr`` is the same for all, and it is read like any."""
    body = wire.Unshown(encoded(LITERALS["created"]))
    assert repr(body) == repr(wire.Unshown()) == "b'***'"
    assert of(body).digits("orderId") == NOWHERE


# -- anything at all ---------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def every_reading(read: wire.Reply, name: str) -> list[Any]:
    """Return a field in all its readings."""
    readings: list[Callable[[str], Any]] = [
        read.has,
        read.text,
        read.words,
        read.digits,
        read.truth,
        read.flag,
        read.whole,
        read.amount,
    ]
    return [reading(name) for reading in readings]


@given(value=JSON)
def test_any_value_can_be_read_in_any_way(value: Any) -> None:
    """Whatever a field holds, no reading raises, and each keeps its type."""
    read = reply(x=value)
    has, text, words, digits, truth, flag, whole, amount = every_reading(read, "x")
    assert isinstance(has, bool)
    assert text is None or text == value or json.loads(text) == value
    assert words is None or words == value
    assert digits is None or digits == value or digits == str(value)
    assert truth is None or truth is value
    assert flag is None or flag == value or str(int(flag)) == value
    assert whole is None or whole == float(value)
    assert amount is None or amount.is_finite()
    if not has:
        assert words is None
        assert digits is None


@given(body=st.binary(max_size=64) | st.text(max_size=30).map(str.encode))
def test_any_bytes_can_be_read(body: bytes) -> None:
    """No bytes raise anything."""
    for row in [*(wire.read_rows(body) or ()), wire.read_reply(body)]:
        if row is not None:
            every_reading(row, "status")
    wrapped = wire.read_reply(b'{"x":' + body + b"}")
    if wrapped is not None:
        every_reading(wrapped, "x")
