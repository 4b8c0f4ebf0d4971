"""sms4sats' messages, with the vendor's own names (docs.sms4sats.com, api-reference).

The vendor mixes numbers and text: codes, phone numbers and prices are read from either, and are text (a code may have
leading zeros that a number has lost already) or `Decimal` here. Prices are satoshis.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec

from tronsave_async.duplicates import has_unique_names

__all__ = [
    "Country",
    "CreatedOrder",
    "OrderStatus",
    "Price",
    "Reply",
    "Service",
    "Unshown",
    "read_reply",
    "read_rows",
]

_UNFIT: Final = (msgspec.DecodeError, UnicodeError, RecursionError)
encode: Final = msgspec.json.Encoder().encode

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_truth = msgspec.json.Decoder(bool).decode
_decode_amount = msgspec.json.Decoder(Decimal).decode
_decode_whole = msgspec.json.Decoder(int, strict=False).decode
_NOTHING: Final = frozenset({b"null", b'""', b"false"})
_BLANK: Final = _NOTHING | {b"0", b'"0"', b"[]", b"{}"}

_MAGNITUDE: Final = 30
"""No price has more digits."""


class OrderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the vendor says about a receive order (page: get-order-status).

    Attributes:
        paid: the hold invoice was paid; None where the vendor does not say.
        code: the code that was delivered, as text, or None: nothing was delivered yet.
        number: the phone number, as text, or None: there is none yet.
        error: why the order ended without a code and the money went back, in the vendor's words, or None.
        id: the vendor's number for the delivery, as text, or None.
        timestamp: the vendor's, in milliseconds since 1970, or None.
        country, service: as ordered, or None.
        sms_status: how far a message is that was to be sent, in the vendor's word; None of other orders.
    """

    paid: bool | None = None
    code: str | None = None
    number: str | None = None
    error: str | None = None
    id: str | None = None
    timestamp: int | None = None
    country: str | None = None
    service: str | None = None
    sms_status: str | None = None


class CreatedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order that was created (page: create-receive-order).

    Attributes:
        order_id: names the order, and gives whoever knows it power over it: keep it like a password.
        payreq: the Lightning hold invoice to pay, or None for a prepaid order.
    """

    order_id: str
    payreq: str | None = None

    def __repr__(self) -> str:
        return (
            f"CreatedOrder(order_id='{self.order_id[:4]}…', payreq='{(self.payreq or '')[:10]}…')"
        )


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What things cost now, in satoshis (page: price). None where the vendor does not say.

    Attributes:
        receive: one code.
        send: one message.
        rent: a number for a while.
        s4s: as the vendor calls it.
    """

    receive: Decimal | None = None
    send: Decimal | None = None
    rent: Decimal | None = None
    s4s: Decimal | None = None


class Country(msgspec.Struct, frozen=True, kw_only=True):
    """A country in which numbers can be had (page: countries). None where the vendor does not say.

    Attributes:
        id: the number to order with.
        eng: its English name.
        visible, rent: as the vendor flags it.
    """

    id: int
    eng: str | None = None
    visible: bool | None = None
    rent: bool | None = None


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A service whose codes can be had in a country (page: numbers-status). None where the vendor does not say.

    Attributes:
        key: the word to order with.
        text, value: as the vendor shows it.
        count: numbers in stock.
    """

    key: str
    text: str | None = None
    value: str | None = None
    count: int | None = None


class Unshown(bytes):
    """A reply's body, whose ``repr`` shows nothing: it may tell an order's id or code."""

    def __repr__(self) -> str:
        return "b'***'"


class Reply:
    """A JSON object of the vendor's, of which each field is read for itself: one odd field hides no other."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, msgspec.Raw]) -> None:
        self._fields = fields

    def has(self, name: str) -> bool:
        """Whether a field says something: it is there, and neither null, false, empty nor 0, with which the vendor says
        that there is nothing yet."""
        raw = self._raw(name)
        if raw is None or raw in _BLANK:
            return False
        text = self._read(name, _decode_text)
        return text is None or bool(text.strip())

    def text(self, name: str) -> str | None:
        """A field as text: text as it is, anything else as its JSON text; None where it is null, false or empty."""
        raw = self._raw(name)
        if raw is None or raw in _NOTHING:
            return None
        text: str | None = self._read(name, _decode_text)
        return raw.decode(errors="replace") if text is None else text

    def words(self, name: str) -> str | None:
        """A field that is text; None where it says nothing, or is none."""
        words: str | None = self._read(name, _decode_text) if self.has(name) else None
        return words

    def digits(self, name: str) -> str | None:
        """A code or number as text, sent as text or as a whole number; None where it says nothing, or is neither."""
        raw = self._raw(name)
        if raw is None or not self.has(name):
            return None
        return raw.decode() if raw.isdigit() else self.words(name)

    def truth(self, name: str) -> bool | None:
        """A field that is true or false; None where it is neither."""
        truth: bool | None = self._read(name, _decode_truth)
        return truth

    def flag(self, name: str) -> bool | None:
        """True or false, also where it is sent as 1 or 0; None where it is neither."""
        truth = self.truth(name)
        number = self.whole(name) if truth is None else None
        return bool(number) if number in (0, 1) else truth

    def whole(self, name: str) -> int | None:
        """A whole number, also where it is sent as text; None where it is none."""
        number: int | None = self._read(name, _decode_whole)
        return number

    def amount(self, name: str) -> Decimal | None:
        """A finite amount, sent as number or text; None where it is none."""
        amount: Decimal | None = self._read(name, _decode_amount)
        sound = amount is not None and amount.is_finite() and abs(amount.adjusted()) < _MAGNITUDE
        return amount if sound else None

    def _raw(self, name: str) -> bytes | None:
        raw = self._fields.get(name)
        return None if raw is None else bytes(raw).strip()

    def _read(self, name: str, decode: Any) -> Any:
        try:
            return decode(self._fields[name])
        except (KeyError, *_UNFIT):
            return None


def read_rows(body: bytes) -> list[Reply] | None:
    """Read a list of objects, or the values of an object of objects; None if it is neither."""
    try:
        items = _decode_list(body)
    except _UNFIT:
        try:
            items = list(_decode_object(body).values())
        except _UNFIT:
            return None
        if not all(bytes(item).lstrip().startswith(b"{") for item in items):
            return None
    return [row for item in items if (row := _reply(bytes(item))) is not None]


def read_reply(body: bytes) -> Reply | None:
    """Read a reply; None if it is not a JSON object, or an object in it names a field twice."""
    reply = _reply(body)
    return reply if reply is not None and has_unique_names(body) else None


def _reply(body: bytes) -> Reply | None:
    try:
        return Reply(_decode_object(body))
    except _UNFIT:
        return None
