"""Ripio's messages, with the vendor's own names (apidocs.ripio.com, trade/websocket_api and trade/orders).

The usual reply is decoded straight into these types. One that does not fit is read field by field: what is odd is left
out, and the rest stands. Whether what is left proves anything is for `brokers.ripio.verdict` to say; here nothing
unreadable ever reads as a value: an unreadable amount is None and never 0, an unreadable error is an error without
words and never none.

Amounts are exact: a `Decimal` of the digits that were sent, as number or as text. Amounts of orders are in the base
currency of the pair (BTC in BTC_BRL), prices and values in the quote currency (BRL). Times are aware.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tronsave_async.duplicates import has_unique_names

__all__ = [
    "Frame",
    "Order",
    "OrdersPage",
    "Pagination",
    "Stray",
    "Trade",
    "Words",
    "read_message",
    "read_order",
    "read_orders",
    "read_server_time",
    "read_words",
]

T = TypeVar("T", bound=msgspec.Struct)

Data: TypeAlias = str | bytes | bytearray | memoryview

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time without an offset is not a time: it does not fit."""

_MAGNITUDE: Final = 100
"""No amount has more digits before its point, or more zeros behind it: ``1e999999999`` is none."""


# -- what orders look like -----------------------------------------------------------------------------------------


def _check(amounts: Iterable[Decimal | None]) -> None:
    for amount in amounts:
        if amount is None:
            continue
        if not (amount.is_finite() and -_MAGNITUDE < amount.adjusted() < _MAGNITUDE):
            raise ValueError("not an amount")


class Trade(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of an order (page: get-order, ``transactions``). A field is None where it is missing or odd.

    Attributes:
        amount: in the base currency.
        price: of one unit, in the quote currency.
        total_value: in the quote currency.
        fee: in ``fee_currency``.
        fee_currency: such as ``"BTC"``.
        create_date: aware; None also where the vendor sends it without an offset.
    """

    amount: Decimal | None = None
    price: Decimal | None = None
    total_value: Decimal | None = None
    fee: Decimal | None = None
    fee_currency: str | None = None
    create_date: Moment | None = None

    def __post_init__(self) -> None:
        _check((self.amount, self.price, self.total_value, self.fee))


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An order as the vendor records it: in replies to cancel and create, in the detail, and in lists.

    Each of them has its own selection of the fields; only ``id`` is always there. A field is None where it is missing,
    null or odd.

    Attributes:
        id: the order.
        external_id: the id that the client chose at creation. One that is not text is kept as its JSON text.
        status: the vendor's word, verbatim: ``"open"``, ``"executed_partially"``, ``"executed_completely"`` and
            ``"canceled"`` are known, ``"waiting"`` and ``"pending_creation"`` formerly; others may come.
        executed_amount, remaining_amount, requested_amount: in the base currency.
        remaining_value, requested_value, total_value: in the quote currency.
        pair: such as ``"BTC_BRL"``.
        side: ``"buy"`` or ``"sell"``.
        type: ``"limit"``, ``"market"`` and others.
        price, average_execution_price, stop_price: of one unit, in the quote currency.
        distance: of a trailing order, as the vendor counts it.
        step_amount: of an iceberg order, in the base currency.
        fee: as the vendor counts it.
        fill_or_kill, immediate_or_cancel, post_only: as the order was created.
        create_date, update_date: aware, in UTC as the vendor sends them.
        expiration: verbatim; a number looks like seconds since 1970, but no page says so.
        transactions: the executions; None where they are not told or not readable.
    """

    id: str
    external_id: str | None = None
    status: str | None = None
    executed_amount: Decimal | None = None
    remaining_amount: Decimal | None = None
    remaining_value: Decimal | None = None
    requested_amount: Decimal | None = None
    requested_value: Decimal | None = None
    total_value: Decimal | None = None
    pair: str | None = None
    side: str | None = None
    type: str | None = None
    price: Decimal | None = None
    average_execution_price: Decimal | None = None
    stop_price: Decimal | None = None
    distance: Decimal | None = None
    step_amount: Decimal | None = None
    fee: Decimal | None = None
    fill_or_kill: bool | None = None
    immediate_or_cancel: bool | None = None
    post_only: bool | None = None
    create_date: Moment | None = None
    update_date: Moment | None = None
    expiration: int | str | None = None
    transactions: list[Trade] | None = None

    def __post_init__(self) -> None:
        _check(
            (
                self.executed_amount,
                self.remaining_amount,
                self.remaining_value,
                self.requested_amount,
                self.requested_value,
                self.total_value,
                self.price,
                self.average_execution_price,
                self.stop_price,
                self.distance,
                self.step_amount,
                self.fee,
            )
        )


class Pagination(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page is in its list.

    Attributes:
        current_page: from 1.
        page_size: orders per page.
        total_pages: of the whole list.
        registers_count: orders in the whole list.
    """

    current_page: int | None = None
    page_size: int | None = None
    total_pages: int | None = None
    registers_count: int | None = None


class OrdersPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list of orders.

    Attributes:
        orders: those that can be read.
        unreadable: how many the vendor sent besides, without an id that can be read.
        pagination: where the page is; None where the reply does not say.
        nc, pc: the vendor's cursors to the next and the previous page, or None.
    """

    orders: list[Order]
    unreadable: int = 0
    pagination: Pagination | None = None
    nc: str | None = None
    pc: str | None = None


# -- what replies look like ----------------------------------------------------------------------------------------


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """What a reply says besides its result: in the socket's ``error``, or at the top level of a REST reply.

    Attributes:
        code: the vendor's ``error_code``, or the ``code`` that older pages name; a number as its digits, anything that
            is neither number nor text as its JSON text; None where there is none.
        message: the vendor's text, or None.
        timestamp: the vendor's time in milliseconds since 1970, or None.
    """

    code: str | None = None
    message: str | None = None
    timestamp: int | None = None

    @property
    def say_something(self) -> bool:
        """There is a code or a message."""
        return self.code is not None or self.message is not None


class Frame(msgspec.Struct, frozen=True):
    """The reply to one request over the socket (page: trade/websocket_api).

    Attributes:
        id: the request that is answered; not the order.
        status: HTTP-like; 0 where it cannot be read, or where the reply names a field twice: then nothing else is read.
        result: the order; None where there is no result, UNSET where there is one that is no order.
        error: what went wrong; without words where they cannot be read, and None only where there is no error at all.
        timestamp: the vendor's time in milliseconds since 1970, or None.
    """

    id: str
    status: int
    result: Order | UnsetType | None = None
    error: Words | None = None
    timestamp: int | None = None

    @property
    def message(self) -> str | None:
        """The error's text, or None."""
        return None if self.error is None else self.error.message

    def retry_after(self) -> float | None:
        """The socket never says how long to wait."""
        return None


class Stray(enum.Enum):
    """What a message is that answers no request."""

    EVENT = "event"
    """A stream's event (page: order_status); its ``id`` counts events."""
    MALFORMED = "malformed"
    """Not JSON, or nested deeper than any reply."""
    NOT_AN_OBJECT = "not an object"
    """JSON, and not an object."""
    NO_ID = "no id"
    """An object that names no request: request ids are text."""
    NO_REPLY = "no reply"
    """It names a request and says nothing about it."""


class _Success(msgspec.Struct):
    """The usual reply. Any error, and any oddity, does not fit."""

    id: str
    status: int
    result: Order | None
    timestamp: int | None = None
    error: None = None
    error_code: None = None
    code: None = None
    message: None = None
    topic: None = None


class _OrderReply(msgspec.Struct):
    data: Order


class _Time(msgspec.Struct):
    timestamp: int


class _TimeReply(msgspec.Struct):
    data: _Time


_Fields: TypeAlias = Mapping[str, Raw]

_decode_success = msgspec.json.Decoder(_Success).decode
_decode_order_reply = msgspec.json.Decoder(_OrderReply).decode
_decode_time_reply = msgspec.json.Decoder(_TimeReply).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_rows = msgspec.json.Decoder(list[Raw]).decode
_decode_orders = msgspec.json.Decoder(list[Order]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_number = msgspec.json.Decoder(int).decode
_UNFIT: Final = (msgspec.DecodeError, UnicodeError, RecursionError)


# -- the socket ----------------------------------------------------------------------------------------------------


def read_message(data: Data) -> tuple[str, Frame] | str:
    """Read a message of the socket, whatever it is.

    Returns:
        The id of the request that it answers, and the reply; or the kind of stray that it is.
    """
    reply = _read(data)
    return (reply.id, reply) if isinstance(reply, Frame) else reply.value


def _read(data: Data) -> Frame | Stray:
    try:
        usual = _decode_success(data)
    except _UNFIT:
        return _read_field_by_field(data)
    if not _is_plain(data, usual.result):
        return Frame(usual.id, 0)
    return Frame(usual.id, usual.status, usual.result, None, usual.timestamp)


def _is_plain(data: Data, order: Order | None) -> bool:
    """Whether no field comes twice. Where a success is as usual, a few counts show it of all that decides: each name is
    there, as it was read, and there is none to spare."""
    if order is None or not isinstance(data, bytes) or b"\\" in data:
        return has_unique_names(data)
    amounts = (order.executed_amount, order.remaining_amount, order.requested_amount or None)
    is_usual = (
        data.count(b'id"') == (2 if order.external_id is None else 3)
        and data.count(b'"status"') == 2
        and data.count(b'"result"') == 1
        and data.count(b'_amount"') == 3
        and None not in amounts
        and order.status is not None
    )
    return is_usual or has_unique_names(data)


def _read_field_by_field(data: Data) -> Frame | Stray:
    try:
        fields = _decode_fields(data)
    except msgspec.ValidationError:
        return Stray.NOT_AN_OBJECT
    except _UNFIT:
        return Stray.MALFORMED
    if _is_given(fields, "topic"):
        return Stray.EVENT
    request_id = _text(fields, "id")
    if request_id is None:
        return Stray.NO_ID
    if fields.keys().isdisjoint(("status", "result", "error")):
        return Stray.NO_REPLY
    if not has_unique_names(data):
        return Frame(request_id, 0)
    status = _number(fields, "status") or 0
    return Frame(
        request_id,
        status,
        _result(fields),
        _error(fields, status),
        _number(fields, "timestamp"),
    )


def _result(fields: _Fields) -> Order | UnsetType | None:
    if not _is_given(fields, "result"):
        return None
    return _order(fields["result"]) or UNSET


def _error(fields: _Fields, status: int) -> Words | None:
    if _is_given(fields, "error"):
        return read_words(fields["error"])
    outer = _words(fields)
    if outer.code is None and (outer.message is None or status == 200):
        return None
    return outer


# -- REST ----------------------------------------------------------------------------------------------------------


def read_words(body: Data | Raw) -> Words:
    """Read what a REST reply says besides its data, a success or not; no words where it is not an object."""
    fields = _object(body)
    return Words() if fields is None else _words(fields)


def read_order(body: bytes) -> Order | None:
    """Read the reply to get-order; None if it is none."""
    try:
        return _decode_order_reply(body).data
    except _UNFIT:
        fields = _object(body) or {}
        return _order(fields["data"]) if "data" in fields else None


def read_orders(body: bytes) -> OrdersPage | None:
    """Read the reply to list-orders or open-orders; None if it is none."""
    fields = _object(body) or {}
    data = _object(fields.get("data", b""))
    if data is None or "orders" not in data:
        return None
    try:
        rows = _decode_rows(data["orders"])
    except _UNFIT:
        return None
    orders = _orders(data["orders"], rows)
    pages = _object(data.get("pagination", b""))
    return OrdersPage(
        orders=orders,
        unreadable=len(rows) - len(orders),
        pagination=None if pages is None else _fitting(Pagination, pages),
        nc=_text(data, "nc") or _text(pages or {}, "nc"),
        pc=_text(data, "pc") or _text(pages or {}, "pc"),
    )


def read_server_time(body: bytes) -> int | None:
    """Read the reply to server-time: milliseconds since 1970; None if it is none."""
    try:
        return _decode_time_reply(body).data.timestamp
    except _UNFIT:
        return None


# -- field by field ------------------------------------------------------------------------------------------------


def _object(data: Data | Raw) -> _Fields | None:
    try:
        return _decode_fields(data)
    except _UNFIT:
        return None


def _words(fields: _Fields) -> Words:
    name = "error_code" if _is_given(fields, "error_code") else "code"
    return Words(
        code=_verbatim(fields, name),
        message=_text(fields, "message"),
        timestamp=_number(fields, "timestamp"),
    )


def _order(raw: Raw) -> Order | None:
    fields = _object(raw)
    return None if fields is None else _fitting(Order, fields)


def _orders(raw: Raw, rows: Iterable[Raw]) -> list[Order]:
    try:
        return _decode_orders(raw)
    except _UNFIT:
        return [order for row in rows if (order := _order(row)) is not None]


def _trades(raw: Raw) -> list[Trade] | None:
    """All of them or none: a list that lacks one would not add up."""
    try:
        rows = [_object(row) for row in _decode_rows(raw)]
    except _UNFIT:
        return None
    trades = [None if fields is None else _fitting(Trade, fields) for fields in rows]
    whole = [trade for trade in trades if trade is not None]
    return whole if len(whole) == len(trades) else None


def _fitting(kind: type[T], fields: _Fields) -> T | None:
    """Build a struct of those fields that fit; None if one that it cannot be without does not."""
    fitting = {
        name: value
        for name, read in _READERS[kind].items()
        if name in fields and (value := read(fields[name])) is not None
    }
    try:
        return kind(**fitting)
    except TypeError:
        return None


def _is_given(fields: _Fields, name: str) -> bool:
    return name in fields and bytes(fields[name]) != b"null"


def _text(fields: _Fields, name: str) -> str | None:
    try:
        return _decode_text(fields[name]) if name in fields else None
    except _UNFIT:
        return None


def _number(fields: _Fields, name: str) -> int | None:
    try:
        return _decode_number(fields[name]) if name in fields else None
    except _UNFIT:
        return None


def _verbatim(fields: _Fields, name: str) -> str | None:
    return _verbatim_text(fields[name]) or None if _is_given(fields, name) else None


def _verbatim_text(raw: Raw) -> str:
    """Text as it is, anything else as its JSON text: it differs from every text that is known, and is not silence."""
    try:
        return _decode_text(raw)
    except _UNFIT:
        return bytes(raw).decode(errors="replace")


def _reader(field_type: Any) -> Callable[[Raw], Any]:
    decode = msgspec.json.Decoder(field_type).decode

    def read(raw: Raw) -> Any:
        try:
            value = decode(raw)
            _check([value] if isinstance(value, Decimal) else ())
        except (*_UNFIT, ValueError):
            return None
        return value

    return read


def _readers(kind: type[msgspec.Struct]) -> dict[str, Callable[[Raw], Any]]:
    return {field.name: _reader(field.type) for field in msgspec.structs.fields(kind)}


def _external_id(raw: Raw) -> str | None:
    return None if bytes(raw) == b"null" else _verbatim_text(raw)


_READERS: Final[Mapping[type[msgspec.Struct], Mapping[str, Callable[[Raw], Any]]]] = {
    Trade: _readers(Trade),
    Pagination: _readers(Pagination),
    Order: _readers(Order) | {"external_id": _external_id, "transactions": _trades},
}
