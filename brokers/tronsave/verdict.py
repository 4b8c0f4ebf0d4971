"""What TronSave's replies mean. Tables and plain functions; no I/O.

Pages (docs.tronsave.io): developers/api-reference/fast-charge/{cancel-order,track-order,get-history} and
developers/errors-and-rate-limits. What they leave open is read the cautious way, and said so here:

- 200 to a cancel says nothing by itself: the outcome is per order.
- ``fail_reason`` is undocumented free text: it is quoted, and never interpreted. The same goes for an error's text:
  only "Invalid orderId" says that there is no such order; after any other refusal the order is read back.
- An order that the reply does not mention, mentions twice in different ways, or reports as successful together with a
  reason to fail or in the middle of an error, may or may not have been canceled. Nor does a reply prove anything in
  which an object names a field twice.
- No word for canceled or expired is documented. The words "canceled" (in both spellings) and "expired" are taken to
  mean what they say; any other word is not known, and the history decides. It also decides whether an order is filled
  that is "Completed" after a cancel that may have been carried out.
- A history row that is not matched and was given back money was canceled: by somebody, or by the vendor at its
  deadline, which the vendor calls canceled as well.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from tronsave_async.coalescing import Divide
from tronsave_async.duplicates import has_unique_names
from tronsave_async.errors import (
    AuthenticationRejected,
    BadReply,
    BusinessRefusal,
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
    CancelItem,
    CancelReply,
    ErrorBody,
    HistoryRow,
    TrackItem,
    TrackReply,
    decode_items,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "cancel_verdicts",
    "read_error",
    "read_reply",
    "snapshot_in_doubt",
    "snapshot_of_row",
    "snapshot_of_word",
    "state_of_word",
    "statuses",
]

T = TypeVar("T")

_TSAS: Final = re.compile(r"TSAS:([0-9]{1,9}|xxx)\s+([A-Z][A-Z0-9_]*)(?:\s+(.*))?", re.DOTALL)

_BY_STATUS: Final[Mapping[int, type[VendorError]]] = {
    401: AuthenticationRejected,
    403: PermissionDenied,
}
"""In the vendor's own shape; the same status from something in front of it says nothing about the account."""
_BY_ADDRESS: Final = frozenset({301, 307, 308, 404, 405})
"""In any shape: whoever answers does not serve the path. 302 and 303 are not among them: they may follow a request that
was carried out."""
_MALFORMED: Final = frozenset({400, 413, 415, 422})
"""Refused before anything was done."""

_BY_CODE: Final[Mapping[str, type[VendorError]]] = {
    "API_KEY_REQUIRED": AuthenticationRejected,
    "INVALID_API_KEY": AuthenticationRejected,
    "FORBIDDEN": PermissionDenied,
    "MISSING_PARAMS": InvalidRequest,
    "INVALID_PARAMS": InvalidRequest,
    "MIN_PRICE_INVALID": InvalidRequest,
}

_WORDS: Final[Mapping[str, OrderState]] = {
    "pending": OrderState.OPEN,
    "completed": OrderState.FILLED,
    "matched": OrderState.FILLED,
    "canceled": OrderState.CANCELED,
    "cancelled": OrderState.CANCELED,
    "expired": OrderState.EXPIRED,
}

_DEAD_UNFILLED: Final = frozenset({OrderState.CANCELED, OrderState.EXPIRED})

_CANCELED: Final = Verdict(meaning=Meaning.CANCELED, executed=Decimal(0))
"""Only orders that are not matched can be canceled, and all of their TRX goes back (page: cancel-order)."""

_decode_error = msgspec.json.Decoder(ErrorBody).decode
_decode_cancel = msgspec.json.Decoder(CancelReply).decode
_decode_track = msgspec.json.Decoder(TrackReply).decode
_UNFIT: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Words(NamedTuple):
    """What an error body says."""

    code: str | None
    number: int | None
    text: str


def read_error(
    endpoint: str, status: int, body: bytes, retry_after: float | None = None
) -> VendorError | BadReply | None:
    """The error in a reply.

    Args:
        endpoint: the vendor's call.
        status: HTTP status.
        body: the whole reply.
        retry_after: seconds the vendor asks to wait, or None.

    Returns:
        None if the reply is a success as far as an error could tell; BadReply where the reply does not look like
        TronSave's at all, so that nobody knows whether the request was processed.
    """
    if 200 <= status < 300:
        return _hidden_error(endpoint, status, body)
    words = _words(body)
    kind = _kind(status, words)
    if kind is None:
        reason = f"HTTP {status} in a shape that is not TronSave's"
        if words is not None:
            reason = f"HTTP {status}: {words.code or words.text}"
        return BadReply(VENUE, endpoint, reason, wire=Wire.ANSWERED, status=status)
    code, number, text = words or _Words(None, None, "")
    return kind(
        VENUE,
        endpoint,
        status=status,
        code=code,
        number=number,
        text=text,
        retry_after=retry_after,
    )


def read_reply(
    endpoint: str, status: int, body: bytes, reply_type: type[T], retry_after: float | None = None
) -> T:
    """Decode a success.

    Raises:
        VendorError: the reply is an error.
        BadReply: the reply does not fit.
    """
    if (error := read_error(endpoint, status, body, retry_after)) is not None:
        raise error
    try:
        reply = msgspec.json.decode(body, type=reply_type, strict=False)
    except _UNFIT as unfit:
        reason = "the reply is not TronSave's"
        raise BadReply(VENUE, endpoint, reason, wire=Wire.ANSWERED, status=status) from unfit
    if not has_unique_names(body):
        reason = "the reply names a field twice"
        raise BadReply(VENUE, endpoint, reason, wire=Wire.ANSWERED, status=status)
    return reply


def cancel_verdicts(
    ids: Sequence[str], status: int, body: bytes, retry_after: float | None = None
) -> Mapping[str, Verdict]:
    """What the reply to one cancel request means for each of its orders.

    Raises:
        Divide: the vendor refused the whole request, and one id of several may be the reason.
    """
    if (error := read_error("cancel", status, body, retry_after)) is not None:
        return _verdicts_of_error(ids, error)
    items = _cancel_items(body)
    if items is None:
        text = "the reply is not TronSave's"
        return dict.fromkeys(ids, Verdict(meaning=Meaning.AMBIGUOUS, message=text))
    verdicts: dict[str, Verdict] = {}
    for item in items:
        verdict = _verdict_of_item(item)
        known = verdicts.setdefault(item.order_id, verdict)
        if known is not verdict and known != verdict:
            text = "the reply contradicts itself"
            verdicts[item.order_id] = Verdict(meaning=Meaning.AMBIGUOUS, message=text)
    return verdicts


def statuses(
    ids: Sequence[str], status: int, body: bytes, retry_after: float | None = None
) -> Mapping[str, str]:
    """The vendor's word for each order that the reply to a tracking request mentions.

    Raises:
        Divide: the vendor refused the whole request, and one id of several may be the reason.
        VendorError, BadReply: the reply is an error, or not TronSave's.
    """
    error = read_error("track", status, body, retry_after)
    if isinstance(error, InvalidRequest | OrderNotFound) and len(ids) > 1:
        raise Divide from error
    if error is not None:
        raise error
    items = _track_items(body)
    if items is None:
        reason = "the reply is not TronSave's"
        raise BadReply(VENUE, "track", reason, wire=Wire.ANSWERED, status=status)
    words: dict[str, str] = {}
    contradicted: set[str] = set()
    for item in items:
        if item.status is not None and words.setdefault(item.order_id, item.status) != item.status:
            contradicted.add(item.order_id)
    return {order_id: word for order_id, word in words.items() if order_id not in contradicted}


def state_of_word(word: str | None) -> OrderState:
    """A status word in the field's terms; UNKNOWN where no page and no plain reading gives it a meaning."""
    return OrderState.UNKNOWN if word is None else _WORDS.get(word.casefold(), OrderState.UNKNOWN)


def snapshot_of_word(order: OrderRef, word: str | None) -> OrderSnapshot:
    """What tracking says about an order. It tells no amounts."""
    return OrderSnapshot(order=order, venue=VENUE, state=state_of_word(word), vendor_state=word)


def snapshot_of_row(order: OrderRef, row: HistoryRow) -> OrderSnapshot:
    """What the history says about an order; amounts in units of resource."""
    state = _state_of_row(row)
    # Less than nothing is nothing that an order can have.
    amount = None if row.amount is None or row.amount < 0 else Decimal(row.amount)
    filled = state is OrderState.FILLED
    dead_unfilled = state in _DEAD_UNFILLED
    return OrderSnapshot(
        order=order,
        venue=VENUE,
        state=state,
        vendor_state=row.status,
        executed=amount if filled else Decimal(0) if dead_unfilled and _unmatched(row) else None,
        remaining=amount if dead_unfilled and _unmatched(row) else None,
    )


def snapshot_in_doubt(order: OrderRef, word: str | None, row: HistoryRow | None) -> OrderSnapshot:
    """What is proved of an order whose cancel may have been carried out.

    No word for a canceled order is documented: it may be called "Completed" as well. Whether it was matched says the
    history; where that does not tell, the order is closed, and nobody knows how.
    """
    told = snapshot_of_word(order, word) if row is None else snapshot_of_row(order, row)
    if told.state is not OrderState.FILLED or (row is not None and row.is_matched):
        return told
    return msgspec.structs.replace(told, state=OrderState.CLOSED, executed=None)


def _unmatched(row: HistoryRow) -> bool:
    return row.is_matched is False


def _state_of_row(row: HistoryRow) -> OrderState:
    """The word and ``is_matched`` must not contradict each other; money given back tells a canceled order from a
    pending one."""
    state = state_of_word(row.status)
    if row.is_matched:
        return OrderState.UNKNOWN if state in _DEAD_UNFILLED else OrderState.FILLED
    if not _unmatched(row):
        return state
    if state is OrderState.FILLED:
        return OrderState.UNKNOWN
    return OrderState.CANCELED if (row.repay_amount or 0) > 0 else state


def _verdicts_of_error(ids: Sequence[str], error: VendorError | BadReply) -> Mapping[str, Verdict]:
    if isinstance(error, InvalidRequest | OrderNotFound) and len(ids) > 1:
        raise Divide from error
    code = error.code if isinstance(error, VendorError) else None
    text = error.text if isinstance(error, VendorError) else error.reason
    verdict = Verdict(
        meaning=MEANINGS[type(error)],
        code=code,
        message=text or None,
        error=error,
    )
    return dict.fromkeys(ids, verdict)


def _verdict_of_item(item: CancelItem) -> Verdict:
    reason = _text_of(item.fail_reason)
    if item.is_success is False:
        return Verdict(meaning=Meaning.UNPROVED, message=reason or "no reason given")
    if item.is_success is None:
        text = reason or "the reply does not say whether the order was canceled"
        return Verdict(meaning=Meaning.AMBIGUOUS, message=text)
    if reason:
        return Verdict(meaning=Meaning.AMBIGUOUS, message=reason)
    return _CANCELED


def _text_of(reason: object) -> str | None:
    if reason is None or isinstance(reason, str):
        return reason
    return msgspec.json.encode(reason).decode()


def _cancel_items(body: bytes) -> Sequence[CancelItem] | None:
    try:
        reply = _decode_cancel(body)
    except _UNFIT:
        items = decode_items(body, "cancel_results", CancelItem, strict=True)
        return items if has_unique_names(body) else None
    return reply.cancel_results if _says_all_once(reply, body) else None


def _track_items(body: bytes) -> Sequence[TrackItem] | None:
    try:
        reply = _decode_track(body)
    except _UNFIT:
        items = decode_items(body, "results", TrackItem, strict=True)
        return items if has_unique_names(body) else None
    return reply.results if _says_all_once(reply, body) else None


def _says_all_once(reply: CancelReply | TrackReply, body: bytes) -> bool:
    """Whether no object of a decoded body names a field twice. One that is written as the pages show it does not: it
    is what would be written of what was read."""
    try:
        if encode(reply) == body:
            return True
    except RecursionError:  # of a reason that is nested as deep as can just be read
        pass
    return has_unique_names(body)


def _hidden_error(endpoint: str, status: int, body: bytes) -> BadReply | None:
    """An error inside a success contradicts it: nobody knows what was done."""
    may_have_one = b'"error"' in body or b"\\u" in body  # a name can be written with escapes
    if not may_have_one or not _flags_error(body):
        return None
    words = _words(body) or _Words(None, None, "no words")
    reason = f"an error inside HTTP {status}: {words.code or words.text}"
    return BadReply(VENUE, endpoint, reason, wire=Wire.ANSWERED, status=status)


def _flags_error(body: bytes) -> bool:
    try:
        reply = msgspec.json.decode(body)
    except _UNFIT:
        return False
    return isinstance(reply, dict) and reply.get("error") not in (None, False)


def _kind(status: int, words: _Words | None) -> type[VendorError] | None:
    """The kind of an error; None where nobody can say whether the request was processed."""
    if status >= 500:
        return VendorFailure
    if status in _BY_ADDRESS:
        return WrongEndpoint
    if status == 429:
        return RateLimited
    if words is None:
        return None
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status not in _MALFORMED:
        return None
    if words.code == "INVALID_PARAMS" and words.text.strip().casefold() == "invalid orderid":
        return OrderNotFound
    if words.code is None or words.code.startswith("FST_"):
        return InvalidRequest
    return _BY_CODE.get(words.code, BusinessRefusal)


def _words(body: bytes) -> _Words | None:
    """Read an error body of any of the three shapes; None if it has none of them."""
    try:
        error = _decode_error(body)
    except _UNFIT:
        return None
    if error.message is None or error.error in (None, False) or not has_unique_names(body):
        return None
    match = _TSAS.fullmatch(error.message.strip())
    if match is None:
        return _Words(error.code, None, error.message)
    number, code, text = match.groups()
    return _Words(code, int(number) if number.isdigit() else None, text or "")
