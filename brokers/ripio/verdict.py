"""What Ripio's replies mean. Tables and plain functions; no I/O.

The vendor has two generations of pages and of codes (apidocs.ripio.com, called NEW here, and apidocs.ripiotrade.co,
OLD), and both are understood. A reply is read by its code, its call and its message together, never by the first
digits of its code: ``40408`` comes with status 400 and means "already closed"; ``40011`` is a rejected signature or
missing funds; ``40010`` a missing parameter or too small an amount; ``40021`` "executed completely" or "no orders to
cancel"; ``40400`` an unknown path or an unknown order. What the pages leave open is read the cautious way, and said so
here:

- Only status 200 with the word "canceled", about the order that was asked for, and without an error beside it, proves a
  cancel. An order that was filled whole, as its amounts say, was not canceled, whatever the word is.
- "Not found" takes the vendor's code and words that do not contradict it. So does "already closed".
- A code whose meaning depends on the message means nothing where the message is missing or unknown: the order is read
  back. So does every code that no page lists, with a status that refuses a request.
- A reply that contradicts itself (an error in a success, a result in an error, a status that belongs to another code,
  an object that names a field twice),
  a failure of the vendor (5xx), and a status that no page lists: the request may or may not have been processed.
- Over REST, only a JSON body with a code or a message is the vendor's; a gateway's page on a 401, 403 or 404 is not.
- Order ids are compared as they are; two UUIDs also if they differ only in the case of their letters, since the
  vendor's own pages show both. External ids are free text: they are compared as they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

from tronsave_async.duplicates import has_unique_names
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
from tronsave_async.settlement import MEANINGS, Meaning, Verdict

from .config import VENUE
from .wire import (
    Frame,
    Order,
    OrdersPage,
    Words,
    read_order,
    read_orders,
    read_server_time,
    read_words,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

__all__ = [
    "cancel_verdict",
    "clock_rejected",
    "created_order",
    "is_daily",
    "order_record",
    "orders_page",
    "read_error",
    "read_frame_reply",
    "read_rest_reply",
    "server_time",
    "snapshot_of",
    "state_of",
    "updated",
]

T = TypeVar("T")

# -- tables --------------------------------------------------------------------------------------------------------

_BY_STATUS: Final[Mapping[int, type[VendorError]]] = {
    401: AuthenticationRejected,
    403: PermissionDenied,
    429: RateLimited,
}
_REFUSING: Final = frozenset({400, 404, 405, 409, 410, 413, 415, 422})
"""Refused before anything was done; the code and the message say why. 408 is not among them: a request that took the
vendor too long may have been carried out."""
_BY_ADDRESS: Final = frozenset({301, 307, 308, 405})
"""Of REST, in any shape: whoever answers does not serve the path."""

_BY_CODE: Final[Mapping[str, type[VendorError]]] = {
    "40000": InvalidRequest,
    "40020": BusinessRefusal,
    "40021": BusinessRefusal,
    "40090": WrongEndpoint,
    "40408": BusinessRefusal,
    "40100": AuthenticationRejected,
    "401": AuthenticationRejected,
    "40300": PermissionDenied,
    "403": PermissionDenied,
    "42900": RateLimited,
    "429": RateLimited,
    **dict.fromkeys(
        ("50000", "50001", "50002", "50003", "500", "502", "503", "504"), VendorFailure
    ),
    **dict.fromkeys(("40030", "40031", "40032", "40033", "40034", "40035"), BusinessRefusal),
    **dict.fromkeys(("40040", "40041", "40050"), BusinessRefusal),
}
"""NEW and OLD, Error codes; the codes of three digits were seen. Those that depend on the message are not here."""

_MEANINGS: Final[Mapping[type[GatewayError], Meaning]] = {
    **MEANINGS,
    WrongEndpoint: Meaning.UNPROVED,
}
"""An unknown path over the socket may be an unknown order: 40400 is documented as both."""

_STATES: Final[Mapping[str, OrderState]] = {
    "open": OrderState.OPEN,
    "waiting": OrderState.OPEN,
    "pending_creation": OrderState.OPEN,
    "executed_partially": OrderState.PARTIALLY_FILLED,
    "executed_completely": OrderState.FILLED,
    "canceled": OrderState.CANCELED,
    "cancelled": OrderState.CANCELED,
}
"""OLD, Orders (v4, and v3.8 for ``waiting`` and ``pending_creation``)."""

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

# The messages, without the space around them and the full stop, in lower case.
_NO_SUCH_ORDER: Final = re.compile(
    r"(the )?order( (with )?(the )?(external[ _])?id:? \S{1,130})?( was)? not found"
)
_FILLED: Final = re.compile(
    r"(the )?order (was |is |has been )?(already )?((completely|fully) executed|executed completely)"
)
_CANCELED: Final = re.compile(r"(the )?order (was |is |has been )?(already )?cancell?ed( already)?")
_CLOSED: Final = re.compile(
    r"cannot (cancel|update) an? (already )?cancell?ed or fully executed order"
    r"|(the )?order (was |is |has been )?already (cancell?ed|closed|executed)( or (fully )?executed)?"
)
_SIGNATURE: Final = re.compile(r"\b(signature|timestamp|expired)\b")
_TOKEN: Final = re.compile(r"\b(token|blocked|key)\b")
_FUNDS: Final = re.compile(r"\b(funds|balance)\b")
_ADDRESS: Final = re.compile(r"\b(url|path|route|endpoint)\b")
_TIMED_OUT: Final = re.compile(r"\btime-?out\b|\btimed[ -]out\b")


# -- errors --------------------------------------------------------------------------------------------------------


def read_error(
    endpoint: str, status: int, words: Words | None, retry_after: float | None = None
) -> VendorError | BadReply | None:
    """The error in a reply, over the socket or REST.

    Args:
        endpoint: the call: ``"cancel"``, ``"create"``, ``"update"``, or a name of `PATHS`.
        status: HTTP or HTTP-like; 0 where it cannot be read.
        words: what the reply says besides its result; None where it is not the vendor's at all.
        retry_after: seconds the vendor asks to wait, or None.

    Returns:
        None if the reply is a success as far as an error could tell; BadReply where nobody knows whether the request
        was processed.
    """
    if 200 <= status < 300:
        if words is None or words.code is None:
            return None
        return _bad_reply(endpoint, f"an error inside status {status}", status, words)
    kind = _foreign_kind(status) if words is None else _kind(endpoint, status, words)
    said = Words() if words is None else words
    if kind is None:
        reason = "in a shape that is not Ripio's" if words is None else "proves nothing"
        return _bad_reply(endpoint, f"status {status} {reason}", status, words)
    return kind(
        VENUE,
        endpoint,
        status=status,
        code=said.code,
        text=said.message or "",
        retry_after=retry_after,
    )


def clock_rejected(error: GatewayError) -> bool:
    """Whether the vendor rejected a signature or its time, or may have, and did not look at the request: with the clock
    corrected, one fresh attempt is worth while. OLD has one code, 40100, for whatever is not authorized."""
    if not isinstance(error, AuthenticationRejected):
        return False
    text = _plain(error.text)
    if error.code == "40100":
        return _TOKEN.search(text) is None
    return error.code == "40011" or _SIGNATURE.search(text) is not None


def is_daily(status: int, message: str | None) -> bool:
    """Whether a reply says that the day's quota is used up, not only the second's."""
    if status != 429:
        return False
    text = _plain(message)
    return text == "limit exceeded" or "daily" in text


# -- replies over the socket ---------------------------------------------------------------------------------------


def read_frame_reply(endpoint: str, frame: Frame) -> Order | None:
    """The result of a call over the socket.

    Raises:
        VendorError: the reply is an error.
        BadReply: the reply contradicts itself, or its result is not an order.
    """
    if (error := _frame_error(endpoint, frame)) is not None:
        raise error
    if isinstance(frame.result, Order) or frame.result is None:
        return frame.result
    raise _bad_reply(endpoint, "the result is not an order", frame.status)


def created_order(frame: Frame) -> Order:
    """The order that a reply to create tells.

    Raises:
        VendorError: nothing was created.
        BadReply: an order may have been created, and the reply does not tell it.
    """
    order = read_frame_reply("create", frame)
    if order is None:
        raise _bad_reply("create", "the reply does not tell the order", frame.status)
    return order


def updated(frame: Frame, order_id: str) -> None:
    """Nothing, if a reply to update is a success; its result is empty, or the order.

    Raises:
        VendorError: nothing was changed.
        BadReply: the order may have been changed.
    """
    order = read_frame_reply("update", frame)
    if order is not None and not _names(order, order_id, None):
        raise _bad_reply("update", "the reply is about another order", frame.status)


def cancel_verdict(frame: Frame, order_id: str | None, external_id: str | None) -> Verdict:
    """What the reply to a cancel means for its order.

    Args:
        frame: the reply.
        order_id, external_id: how the order was named in the request; one of them is None.
    """
    if (error := _frame_error("cancel", frame)) is not None:
        return _verdict_of_error(error)
    if not isinstance(frame.result, Order):
        return _ambiguous("the reply does not say what became of the order")
    return _verdict_of_result(frame.result, order_id, external_id)


# -- replies over REST ---------------------------------------------------------------------------------------------


def read_rest_reply(
    endpoint: str,
    status: int,
    body: bytes,
    read: Callable[[bytes], T | None],
    retry_after: float | None = None,
) -> T:
    """Read a success.

    Args:
        endpoint: a name of `PATHS`.
        status: HTTP status.
        body: the whole reply.
        read: reads the body; None where it does not fit.
        retry_after: seconds the vendor asks to wait, or None.

    Raises:
        VendorError: the reply is an error.
        BadReply: the reply does not fit.
    """
    is_plain = has_unique_names(body)
    words = read_words(body) if is_plain else Words()
    error = read_error(endpoint, status, words if words.say_something else None, retry_after)
    if error is not None:
        raise error
    if not is_plain or (reply := read(body)) is None:
        raise _bad_reply(endpoint, "the reply is not Ripio's", status)
    return reply


def order_record(status: int, body: bytes, retry_after: float | None = None) -> Order:
    """The vendor's record of an order (page: get-order).

    Raises:
        OrderNotFound: the vendor's own words.
        VendorError, BadReply: as `read_rest_reply`.
    """
    return read_rest_reply("order", status, body, read_order, retry_after)


def orders_page(
    endpoint: str, status: int, body: bytes, retry_after: float | None = None
) -> OrdersPage:
    """A page of a list of orders (pages: list-orders, open-orders).

    Raises:
        VendorError, BadReply: as `read_rest_reply`.
    """
    return read_rest_reply(endpoint, status, body, read_orders, retry_after)


def server_time(status: int, body: bytes, retry_after: float | None = None) -> int:
    """The vendor's clock in milliseconds since 1970 (page: server-time).

    Raises:
        VendorError, BadReply: as `read_rest_reply`.
    """
    return read_rest_reply("server_time", status, body, read_server_time, retry_after)


# -- records -------------------------------------------------------------------------------------------------------


def state_of(order: Order) -> OrderState:
    """A record's word in the field's terms; UNKNOWN where no page gives it a meaning, or the amounts contradict it."""
    state = _STATES.get((order.status or "").casefold(), OrderState.UNKNOWN)
    if state is OrderState.FILLED:
        contradicted = order.executed_amount == 0 or _is_above_zero(order.remaining_amount)
    else:
        contradicted = _is_filled(order)
    return OrderState.UNKNOWN if contradicted else state


def snapshot_of(order: OrderRef, record: Order) -> OrderSnapshot:
    """What a record says about an order; amounts in the base currency. A record of another order says nothing."""
    if not _names(record, order.id, order.client_id):
        return OrderSnapshot(order=order, venue=VENUE, state=OrderState.UNKNOWN)
    state = state_of(record)
    canceled = state is OrderState.CANCELED
    return OrderSnapshot(
        order=order,
        venue=VENUE,
        state=state,
        vendor_state=record.status,
        executed=_amount(record.executed_amount),
        remaining=_unfilled(record) if canceled else _amount(record.remaining_amount),
    )


def _is_filled(order: Order) -> bool:
    """Whether the amounts say that an order was, or may have been, filled whole; values tell that something is left of
    an order by value, whose amounts do not."""
    executed, requested = order.executed_amount, order.requested_amount
    if executed is not None and requested is not None and requested > 0:
        return executed >= requested
    return (
        order.remaining_amount == 0 and executed != 0 and not _is_above_zero(order.remaining_value)
    )


def _is_above_zero(amount: Decimal | None) -> bool:
    return amount is not None and amount > 0


def _amount(amount: Decimal | None) -> Decimal | None:
    """Less than nothing is nothing that an order can have."""
    return amount if amount is not None and amount >= 0 else None


def _unfilled(order: Order) -> Decimal | None:
    """What is left of a canceled order: not nothing, or it was filled."""
    return order.remaining_amount if _is_above_zero(order.remaining_amount) else None


def _names(order: Order, order_id: str | None, external_id: str | None) -> bool:
    """Whether a record is that of the order asked for. The vendor may leave the external id out of it (page:
    cancel_order); then the reply itself, which is the answer to a question with that name, is what names it."""
    if order_id is not None:
        return _is_same_id(order.id, order_id)
    return order.external_id in (None, external_id)


def _is_same_id(one: str, other: str) -> bool:
    return one == other or (_UUID.fullmatch(one) is not None and one.lower() == other.lower())


# -- what a cancel's reply means -----------------------------------------------------------------------------------


def _verdict_of_result(result: Order, order_id: str | None, external_id: str | None) -> Verdict:
    if not _names(result, order_id, external_id):
        return _ambiguous("the reply is about another order")
    if result.status is None:
        return _ambiguous("the reply does not say what became of the order")
    if result.status.casefold() != "canceled":
        return _ambiguous(f"the reply says that the order is {result.status!r}")
    if _is_filled(result):
        return _ambiguous("the reply contradicts itself: canceled, and filled whole")
    return Verdict(
        meaning=Meaning.CANCELED,
        executed=_amount(result.executed_amount),
        remaining=_unfilled(result),
    )


def _ambiguous(message: str) -> Verdict:
    return Verdict(meaning=Meaning.AMBIGUOUS, message=message)


def _verdict_of_error(error: VendorError | BadReply) -> Verdict:
    if isinstance(error, BadReply):
        return Verdict(meaning=Meaning.AMBIGUOUS, message=error.reason, error=error)
    state = _closed_state(error)
    return Verdict(
        meaning=_meaning(error) if state is None else Meaning.ALREADY_CLOSED,
        state=OrderState.CLOSED if state is None else state,
        code=error.code,
        message=error.text or None,
        error=error,
    )


def _meaning(error: VendorError) -> Meaning:
    if clock_rejected(error):
        return Meaning.STALE
    if error.code == "40090":
        return Meaning.ACCOUNT
    return _MEANINGS[type(error)]


def _closed_state(error: VendorError) -> OrderState | None:
    """How an order was closed before the cancel, by the vendor's code and words; None where they do not say that."""
    if not isinstance(error, BusinessRefusal):
        return None
    text = _plain(error.text)
    match error.code:
        case "40408" if not text or _CLOSED.fullmatch(text):
            return OrderState.CLOSED
        case "40020" if not text or _CANCELED.fullmatch(text):
            return OrderState.CANCELED
        case "40021" if _FILLED.fullmatch(text):
            return OrderState.FILLED
    return None


# -- what kind of error a reply is ---------------------------------------------------------------------------------


def _frame_error(endpoint: str, frame: Frame) -> VendorError | BadReply | None:
    status, error, reason = frame.status, frame.error, None
    if status == 200:
        if error is None:
            return None
        reason = "an error inside status 200"
    elif frame.result is not None:
        reason = f"a result inside status {status}"
    elif status == 0:
        reason = "its status cannot be read"
    elif 200 <= status < 300:
        reason = f"status {status} is no success of any page"
    if reason is not None:
        return _bad_reply(endpoint, reason, status, error)
    return read_error(endpoint, status, error or Words())


def _foreign_kind(status: int) -> type[VendorError] | None:
    """Of a reply that is not the vendor's: what its status alone says."""
    if status >= 500:
        return VendorFailure
    if status == 429:
        return RateLimited
    return WrongEndpoint if status in _BY_ADDRESS else None


def _kind(endpoint: str, status: int, words: Words) -> type[VendorError] | None:
    """The kind of the vendor's error; None where nobody can say whether the request was processed."""
    if status >= 500:
        return VendorFailure
    by_code = _kind_of_code(endpoint, status, words)
    by_status = _BY_STATUS.get(status)
    if by_status is not None:
        return by_code or by_status if _agree(by_status, by_code) else None
    if status not in _REFUSING or not words.say_something:
        return None
    return by_code or _kind_of_message(status, words)


def _agree(by_status: type[VendorError], by_code: type[VendorError] | None) -> bool:
    if by_code is None or by_code is by_status:
        return True
    return {by_status, by_code} == {AuthenticationRejected, PermissionDenied}


def _kind_of_code(endpoint: str, status: int, words: Words) -> type[VendorError] | None:
    """By a code that a page lists, the call and the message; None for any other code."""
    text = _plain(words.message)
    match words.code:
        case "40010":
            return BusinessRefusal if "minimum" in text else InvalidRequest
        case "40011":
            return _kind_of_40011(endpoint, status, text)
        case "40400" | "40401":
            return _kind_of_404(words.code, text)
        case code:
            return _BY_CODE.get(code or "")


def _kind_of_40011(endpoint: str, status: int, text: str) -> type[VendorError]:
    """Missing funds (OLD, and NEW for create), or a rejected signature (NEW for cancel and update)."""
    if _SIGNATURE.search(text):
        return AuthenticationRejected
    if _FUNDS.search(text) or (endpoint == "create" and status != 401):
        return BusinessRefusal
    return AuthenticationRejected


def _kind_of_404(code: str, text: str) -> type[VendorError]:
    """40401 is an unknown order, 40400 an unknown path or an unknown order, unless the message says otherwise."""
    if _NO_SUCH_ORDER.fullmatch(text) or (code == "40401" and not text):
        return OrderNotFound
    return WrongEndpoint if _ADDRESS.search(text) or not text else InvalidRequest


def _kind_of_message(status: int, words: Words) -> type[VendorError] | None:
    """By the message, where no page lists the code or there is none."""
    text = _plain(words.message)
    if _TIMED_OUT.search(text):
        return None
    if words.code is not None:
        return BusinessRefusal
    if text == "too many requests":
        return RateLimited
    if status == 404 and not _NO_SUCH_ORDER.fullmatch(text):
        return WrongEndpoint
    return InvalidRequest


def _bad_reply(endpoint: str, reason: str, status: int, words: Words | None = None) -> BadReply:
    if words is not None and words.say_something:
        reason = f"{reason}: {words.code or words.message}"
    return BadReply(VENUE, endpoint, reason, wire=Wire.ANSWERED, status=status or None)


def _plain(message: str | None) -> str:
    """A message without what differs between equal ones: case, the space around it, the full stop."""
    return (message or "").strip().removesuffix(".").casefold()
