"""What sms4sats' replies mean. Tables and plain functions; no I/O.

Pages (docs.sms4sats.com, api-reference): cancel-order, get-order-status, create-receive-order. What they leave open is
read the cautious way, and said so here:

- A business refusal arrives as HTTP 500 with ``status: "error"`` and a ``reason`` in free text: it is a reply. Only one
  reason is documented, "unable to save data", and it does not say whether the order was canceled. Any other is quoted,
  and the order is read back. The same goes for ``status: "error"`` in a 200.
- "Too early", "already canceled", "code delivered" and "unknown order" cannot be told apart by any documented word.
  Only a reason that plainly says "order not found" is taken for the vendor's word that there is none.
- ``status: "OK"`` with an ``error`` is a failed order where the order was asked for; in reply to a cancel it
  contradicts itself.
- There is no state. A code means delivered, and the invoice settled; an error text that says that the order ended, or
  that the money went back, means canceled, and any other error text proves nothing; otherwise the order waits, as far
  as the vendor tells: what it says of an order that its buyer canceled is not documented. Of an order older than the
  vendor's 21 minutes that seems to wait, nothing is proved.
- A reply out of a cache says nothing about now.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

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
    Country,
    CreatedOrder,
    OrderStatus,
    Price,
    Reply,
    Service,
    read_reply,
    read_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

__all__ = [
    "balance",
    "cancel_verdict",
    "countries",
    "created_order",
    "order_status",
    "price",
    "read_success",
    "services",
    "snapshot_of",
    "state_of",
]

T = TypeVar("T")

_BY_STATUS: Final[Mapping[int, type[VendorError]]] = {
    401: AuthenticationRejected,
    403: PermissionDenied,
    400: InvalidRequest,
    422: InvalidRequest,
}
"""In the vendor's own shape; no page mentions them."""
_BY_ADDRESS: Final = frozenset({301, 307, 308, 404, 405})
"""In any other shape: whoever answers does not serve the path. 302 and 303 are not among them: they may follow a cancel
that was carried out."""

_OUTAGE: Final = re.compile(
    r"unable to (save|store|update|write)|(fail|failed|could not|couldn't) (to )?(save|store|update|write)|backend"
    r"|internal|server error|upstream|gateway|connection|network|econn|time-?d? ?out|unavailable|try again|database"
    r"|exception|unexpected|something went wrong|unknown error|^(an )?error\W*$",
    re.IGNORECASE,
)
"""Words of the vendor's trouble: what was asked for may have been done before the trouble came."""
_PREPAID_REFUSED: Final = re.compile(
    r"(insufficient|not enough) (balance|funds)|(balance|funds)( is| are)? (too low|insufficient)"
    r"|(unsupported|unknown|invalid|missing|no such) (country|service)|(country|service) (is )?(required|not supported)"
    r"|(missing|invalid|unknown|wrong|no) api[ _-]?key|api[ _-]?key (is )?(required|missing|invalid|unknown|needed)",
    re.IGNORECASE,
)
"""Reasons for which a prepaid order is certainly not created. Where money is spent, any other proves nothing."""
_NO_SUCH_ORDER: Final = re.compile(
    r"(the )?order( id)? (was )?(not found|does not exist|unknown)|(unknown|no such) order( id)?",
    re.IGNORECASE,
)
_ENDED: Final = re.compile(
    r"no available number|(cancell?ed|expired|refunded)"
    r"|((your|the) )?(payment request|order|invoice|payment)( (is|was|has been))?( already)?"
    r" (cancell?ed|expired|refunded|released)( by .{1,40})?"
    r"|((your|the) )?(funds|money|sats|payment) (is|are|was|were|has been|have been)( already)?"
    r" (returned|refunded|released)( to .{1,40}?)?( automatically)?",
    re.IGNORECASE,
)
"""Whole clauses that say that an order ended, or that its money went back."""
_CONDITION: Final = re.compile(
    r"\b(if|when|unless|until|after|before|will|would|could|can|may|not|never|only|unable|please|try|retry)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
"""Words that take an end back, or put it off."""
_CLAUSES: Final = re.compile(r"[.,;!:]+")
_KEY: Final = re.compile(r"\bapi[ _-]?key\b|\bunauthori[sz]ed\b", re.IGNORECASE)

_KEY_REFUSED: Final = re.compile(
    r"unauthori[sz]ed|((missing|invalid|unknown|wrong|no) )?api[ _-]?key"
    r"( (is )?(required|missing|invalid|unknown|needed))?",
    re.IGNORECASE,
)
_KEYED: Final = frozenset({"balance", "create"})

_MESSAGES: Final[Mapping[str, OrderState]] = {
    "created": OrderState.OPEN,
    "sent": OrderState.FILLED,
    "delivered": OrderState.FILLED,
    "failed": OrderState.CANCELED,
}
"""How far a message is, and so its invoice: settled once it was sent, returned where it failed (create-send-order)."""


# -- errors --------------------------------------------------------------------------------------------------------


def _error_of(
    endpoint: str, status: int, reply: Reply | None, retry_after: float | None, hidden: str | None
) -> VendorError | BadReply | None:
    """The error in a reply; None if it is a success as far as an error could tell.

    ``hidden`` is a text that must not be quoted: the order's id.
    """
    if reply is None or not reply.has("status"):
        return _foreign(endpoint, status, retry_after)
    word = (reply.text("status") or "").casefold()
    if word == "ok":
        return None if status == 200 else _bad(endpoint, f"OK inside HTTP {status}", status)
    if word != "error":
        return _bad(endpoint, f"HTTP {status} with a status that is neither OK nor error", status)
    text = _quoted(reply.text("reason") or reply.text("message") or "", hidden)
    kind = _kind(endpoint, status, text)
    return kind(VENUE, endpoint, status=status, text=text, retry_after=retry_after)


def _kind(endpoint: str, status: int, text: str) -> type[VendorError]:
    """By the status where it is none of the usual, else by the reason: HTTP 500 is how the vendor says no."""
    if status == 429:
        return RateLimited
    if status in _BY_STATUS:
        return OrderNotFound if _NO_SUCH_ORDER.fullmatch(text.strip(" .!")) else _BY_STATUS[status]
    if status > 500 or _OUTAGE.search(text) or not text:
        return VendorFailure
    if _NO_SUCH_ORDER.fullmatch(text.strip(" .!")):
        return OrderNotFound
    if _KEY.search(text) is None:
        return BusinessRefusal
    # Of a call that carries no key, words of keys that are no plain refusal are somebody else's trouble coming through.
    plain = _KEY_REFUSED.fullmatch(text.strip(" .!")) is not None
    return AuthenticationRejected if plain or endpoint in _KEYED else VendorFailure


def _foreign(endpoint: str, status: int, retry_after: float | None) -> VendorError | BadReply:
    """A reply that is not the vendor's: what the HTTP status alone says."""
    kind: type[VendorError] | None = None
    if status == 429:
        kind = RateLimited
    elif status in _BY_ADDRESS:
        kind = WrongEndpoint
    elif status >= 500:
        kind = VendorFailure
    if kind is None:
        return _bad(endpoint, f"HTTP {status} in a shape that is not sms4sats'", status)
    return kind(VENUE, endpoint, status=status, retry_after=retry_after)


def _bad(endpoint: str, reason: str, status: int) -> BadReply:
    return BadReply(VENUE, endpoint, reason, wire=Wire.ANSWERED, status=status)


def _quoted(text: str, hidden: str | None) -> str:
    """A text without the hidden one, also where that was encoded for a URL or its letters changed their case."""
    for shape in {hidden, quote(hidden, safe="")} if hidden else ():
        text = re.sub(re.escape(shape), "***", text, flags=re.IGNORECASE)
    return text


def read_success(
    endpoint: str,
    status: int,
    body: bytes,
    read: Callable[[Reply], T | None],
    retry_after: float | None = None,
    hidden: str | None = None,
) -> T:
    """Read a success.

    Args:
        endpoint: the vendor's call.
        status: HTTP status.
        body: the whole reply.
        read: reads the reply; None where it does not fit.
        retry_after: seconds the vendor asks to wait, or None.
        hidden: a text that must not be quoted: the order's id.

    Raises:
        VendorError: the reply is an error.
        BadReply: the reply does not fit.
    """
    reply = read_reply(body)
    if (error := _error_of(endpoint, status, reply, retry_after, hidden)) is not None:
        raise error
    assert reply is not None, "a success is an object"
    if (found := read(reply)) is None:
        raise _bad(endpoint, "the reply is not sms4sats'", status)
    return found


# -- a cancel ------------------------------------------------------------------------------------------------------


def cancel_verdict(
    order_id: str, status: int, body: bytes, retry_after: float | None = None
) -> Verdict:
    """What the reply to a cancel means for its order."""
    reply = read_reply(body)
    error = _error_of("cancel", status, reply, retry_after, order_id)
    if error is not None:
        text = error.text if isinstance(error, VendorError) else error.reason
        return Verdict(meaning=MEANINGS[type(error)], message=text or None, error=error)
    assert reply is not None, "a success is an object"
    if reply.has("error") or reply.has("reason") or reply.has("code"):
        said = reply.words("error") or reply.words("reason") or "the reply contradicts itself"
        return Verdict(meaning=Meaning.AMBIGUOUS, message=_quoted(said, order_id))
    return Verdict(meaning=Meaning.CANCELED)


# -- an order ------------------------------------------------------------------------------------------------------


def order_status(
    order_id: str, status: int, body: bytes, retry_after: float | None = None
) -> OrderStatus:
    """The reply to orderstatus.

    Raises:
        OrderNotFound: the vendor's own words.
        VendorError, BadReply: as `read_success`.
    """

    def read(reply: Reply) -> OrderStatus | None:
        paid, code, error = reply.flag("paid"), reply.digits("code"), reply.words("error")
        told = {"paid": paid, "code": code, "error": error}
        if any(value is None and reply.has(name) for name, value in told.items()):
            return None
        return OrderStatus(
            paid=paid,
            code=code,
            number=reply.digits("number"),
            error=None if error is None else _quoted(error, order_id),
            id=reply.text("id"),
            timestamp=reply.whole("timestamp"),
            country=reply.text("country"),
            service=reply.text("service"),
            sms_status=reply.words("smsStatus"),
        )

    return read_success("status", status, body, read, retry_after, order_id)


def state_of(status: OrderStatus, *, overdue: bool) -> OrderState:
    """An order's state, which the vendor does not name.

    Args:
        status: what the vendor says.
        overdue: the order is older than the vendor lets one wait: if it seems to wait, it was canceled without a trace,
            or its clock started later.
    """
    if status.code is not None:
        is_code = any(c.isdigit() for c in status.code) and status.error is None
        return OrderState.FILLED if is_code else OrderState.UNKNOWN
    if status.error is not None:
        return OrderState.CANCELED if _ends(status.error) else OrderState.UNKNOWN
    if status.sms_status is not None:
        return _MESSAGES.get(status.sms_status.casefold(), OrderState.UNKNOWN)
    return OrderState.UNKNOWN if overdue or status.paid is None else OrderState.OPEN


def _ends(error: str) -> bool:
    """Whether an order's error says that it ended. Any other text may speak of the request that asked."""
    clauses = (clause.strip() for clause in _CLAUSES.split(error))
    return not _CONDITION.search(error) and any(_ENDED.fullmatch(clause) for clause in clauses)


def snapshot_of(order: OrderRef, status: OrderStatus, *, overdue: bool) -> OrderSnapshot:
    """What the vendor says about an order. There are no amounts: an order is for one code."""
    word = status.error or status.sms_status
    if word is None and status.paid is not None:
        word = "paid" if status.paid else "not paid"
    state = state_of(status, overdue=overdue)
    return OrderSnapshot(order=order, venue=VENUE, state=state, vendor_state=word)


# -- the other calls -----------------------------------------------------------------------------------------------


def created_order(
    status: int, body: bytes, retry_after: float | None = None, *, prepaid: bool = False
) -> CreatedOrder:
    """The reply to createorder.

    Raises:
        VendorFailure: an order may have been created: of a prepaid one also after a refusal for no known reason.
        VendorError: nothing was created.
        BadReply: an order may have been created, and the reply does not tell it.
    """

    def read(reply: Reply) -> CreatedOrder | None:
        order_id = reply.digits("orderId")
        if order_id is None or reply.has("error"):
            return None
        return CreatedOrder(order_id=order_id, payreq=reply.words("payreq"))

    try:
        return read_success("create", status, body, read, retry_after)
    except (BusinessRefusal, OrderNotFound, AuthenticationRejected) as refusal:
        by_words = status in (200, 500) and not _PREPAID_REFUSED.fullmatch(
            refusal.text.strip(" .!")
        )
        if prepaid and by_words:
            raise VendorFailure(VENUE, "create", status=status, text=refusal.text) from None
        raise


def balance(status: int, body: bytes, retry_after: float | None = None) -> Decimal:
    """The prepaid balance in satoshis.

    Raises:
        VendorError, BadReply: as `read_success`.
    """
    return read_success("balance", status, body, lambda reply: reply.amount("balance"), retry_after)


def price(status: int, body: bytes, retry_after: float | None = None) -> Price:
    """What things cost. The reply to this call has no ``status``.

    Raises:
        VendorError, BadReply: as `read_success`.
    """
    reply = read_reply(body)
    if status != 200 or reply is None or reply.has("status"):
        return read_success("price", status, body, _price, retry_after)
    return _price(reply)


def _price(reply: Reply) -> Price:
    return Price(**{name: reply.amount(name) for name in Price.__struct_fields__})


def countries(status: int, body: bytes, retry_after: float | None = None) -> list[Country]:
    """The countries that can be read.

    Raises:
        VendorError, BadReply: as `read_success`.
    """
    rows = _rows("countries", status, body, retry_after)
    return [
        Country(
            id=number,
            eng=row.text("eng"),
            visible=row.flag("visible"),
            rent=row.flag("rent"),
        )
        for row in rows
        if (number := row.whole("id")) is not None
    ]


def services(status: int, body: bytes, retry_after: float | None = None) -> list[Service]:
    """The services that can be read.

    Raises:
        VendorError, BadReply: as `read_success`.
    """
    rows = _rows("services", status, body, retry_after)
    return [
        Service(key=key, text=row.text("text"), value=row.text("value"), count=row.whole("count"))
        for row in rows
        if (key := row.text("key") or row.text("value")) is not None
    ]


def _rows(endpoint: str, status: int, body: bytes, retry_after: float | None) -> list[Reply]:
    """The rows of a list, which has no ``status``."""
    rows = read_rows(body) if status == 200 else None
    if rows is not None:
        return rows
    error = _error_of(endpoint, status, read_reply(body), retry_after, None)
    raise error or _bad(endpoint, "the reply is not a list", status)
