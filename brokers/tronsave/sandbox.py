"""
TronSave's Fast Charge API on loopback, to test a bot without an account, TRX or a network.

    from brokers.tronsave import TronSaveGateway
    from brokers.tronsave.sandbox import OrderState, TronSaveSandbox
    from tronsave_async.sandbox import drop_after

    async def test_my_bot_survives_a_lost_reply() -> None:
        async with TronSaveSandbox(window=0.01) as sandbox:
            order_id = sandbox.add_order()
            sandbox.faults.add(drop_after("cancel"))
            async with TronSaveGateway("sandbox-key", base_url=sandbox.url) as gateway:
                await my_bot_cancels(gateway, order_id)
            assert sandbox.orders[order_id].state is OrderState.CANCELED

`sandbox.orders` is the vendor's own truth, `sandbox.requests` what it saw, `sandbox.faults` what is
to go wrong, `TronSaveRules` what the documentation leaves open.

Endpoints are called "estimate", "create", "track", "cancel", "confirm" and "history". A request is
judged in this order, as far as it gets: route (404), key (401), meter (429), scripted fault, body
(400, 413, 415), the order's own life. Requests without a valid key are neither metered nor befallen
by faults; a request that the meter rejects leaves the script as it is. The documentation is silent
on both.

Pages: docs.tronsave.io, developers/api-reference/fast-charge: estimate-trx, create-order,
track-order, cancel-order, confirm-request, get-history; and errors-and-rate-limits.
"""

from __future__ import annotations

import enum
import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from tronsave_async.sandbox import (
    Decision,
    Fault,
    FaultScript,
    HttpReply,
    HttpRequest,
    LoopbackServer,
    Processing,
    SlidingWindow,
    http_date,
)
from tronsave_async.simulator import Simulator

if TYPE_CHECKING:
    import ssl

__all__ = [
    "CANCEL_REASONS",
    "CONFIRM_REASONS",
    "ENDPOINTS",
    "HistoryFilter",
    "IdOrder",
    "OrderState",
    "PriceTooHigh",
    "RetryAfter",
    "SandboxOrder",
    "TronSaveRules",
    "TronSaveSandbox",
    "UnknownIds",
]

ENDPOINTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "estimate": ("POST", "/v0/fast-charge-estimate-order-request"),
        "create": ("POST", "/v0/fast-charge-order-request"),
        "track": ("POST", "/v0/fast-charge-order-tracking"),
        "cancel": ("POST", "/v0/fast-charge-order-cancel"),
        "confirm": ("POST", "/v0/fast-charge-order-confirmation"),
        "history": ("GET", "/v0/fast-charge-order-history"),
    }
)
"""Method and path of each endpoint, by its word."""

ROUTES = {route: endpoint for endpoint, route in ENDPOINTS.items()}

SUN_PER_ENERGY = 13_554
"""Staked SUN behind one unit of Energy, as in the documented history row; it varies on the chain."""


# --- an order's life ------------------------------------------------------------------------------


class OrderState(enum.Enum):
    """What an order really is: the sandbox's truth, not the vendor's word for it."""

    PENDING = "pending"
    MATCHED = "matched"
    CANCELED = "canceled"
    EXPIRED = "expired"
    CONFIRMED = "confirmed"


class SandboxOrder(msgspec.Struct, frozen=True, kw_only=True):
    """
    The vendor's own truth about an order. Amounts of money in SUN, times aware UTC.

    Attributes:
        id: 24 hexadecimal digits; the first 8 are the creation time in seconds.
        request_id: The create call it came from.
        receiver: Who gets the Energy.
        amount: Units of Energy.
        unit_price: SUN per unit.
        duration_sec: How long the Energy is rented, in seconds.
        deadline: How long it may wait for a match, in seconds.
        max_price_accept: The buyer's limit, SUN per unit.
        state: Its state.
        created_at: When it was created.
        updated_at: When it last changed.
        matched_at: When it was matched.
        repaid_at: When money was paid back.
        repaid: What was paid back.
        cancels: How many cancels were processed on it, whatever they achieved.
    """

    id: str
    request_id: str
    receiver: str
    amount: int
    unit_price: int
    duration_sec: int
    deadline: int
    max_price_accept: int
    state: OrderState
    created_at: datetime
    updated_at: datetime
    matched_at: datetime | None = None
    repaid_at: datetime | None = None
    repaid: int = 0
    cancels: int = 0

    @property
    def charged(self) -> int:
        """What was charged when it was created."""
        return self.amount * self.unit_price

    @property
    def paid(self) -> int:
        """What it cost in the end: charged less repaid."""
        return self.charged - self.repaid

    @property
    def expires_at(self) -> datetime:
        """When it is no longer matched, but refunded."""
        return self.created_at + timedelta(seconds=self.deadline)

    def moved(self, state: OrderState, at: datetime, **changes: Any) -> SandboxOrder:
        """Return the order in another state."""
        return msgspec.structs.replace(self, state=state, updated_at=at, **changes)

    def repaid_as(self, state: OrderState, at: datetime, amount: int) -> SandboxOrder:
        """Return the order in another state, with money paid back."""
        return self.moved(state, at, repaid=amount, repaid_at=at)


class _ObjectIds:
    """Object ids: 4 bytes of creation time in seconds, 5 random bytes, a counter of 3 bytes."""

    def __init__(self, seed: int) -> None:
        numbers = random.Random(seed)
        self._machine = numbers.randbytes(5).hex()
        self._counter = numbers.randrange(1 << 23)

    def next(self, at: datetime) -> str:
        """Return a new id, larger than all before it within the same second."""
        self._counter = (self._counter + 1) % (1 << 24)
        return f"{int(at.timestamp()):08x}{self._machine}{self._counter:06x}"


class _OrderBook(Mapping[str, SandboxOrder]):
    """
    The vendor's orders and the buyer's balance: every change of either is made here.

    As a mapping it shows the orders by id. An order past its deadline expires when it is looked at.

    Args:
        balance: Of the internal account, in SUN.
        now: The vendor's clock.
        expire: Whether deadlines are kept.
    """

    def __init__(self, *, balance: int, now: Callable[[], datetime], expire: bool) -> None:
        self.balance = balance
        self._now = now
        self._expire = expire
        self._orders: dict[str, SandboxOrder] = {}

    def __len__(self) -> int:
        return len(self._orders)

    def __iter__(self) -> Iterator[str]:
        return iter(self._orders)

    def __getitem__(self, order_id: str) -> SandboxOrder:
        return self._looked_at(self._orders[order_id], self._now())

    def __repr__(self) -> str:
        return f"<OrderBook of {len(self)}>"

    def place(self, order: SandboxOrder) -> None:
        """Add an order; who pays for it is the caller's business."""
        self._orders[order.id] = order

    def look(self, order_id: str, at: datetime) -> SandboxOrder | None:
        """Return an order as it is at a time, or None."""
        order = self._orders.get(order_id)
        return None if order is None else self._looked_at(order, at)

    def match(self, order_id: str, at: datetime) -> bool:
        """Match a pending order; return whether it was pending."""
        order = self.look(order_id, at)
        if order is None or order.state is not OrderState.PENDING:
            return False
        self._orders[order_id] = order.moved(OrderState.MATCHED, at, matched_at=at)
        return True

    def cancel(self, order_id: str, at: datetime) -> bool:
        """Cancel a pending order with a full refund; return whether it was pending."""
        return self._refund(order_id, OrderState.CANCELED, at)

    def expire(self, order_id: str, at: datetime) -> bool:
        """Let a pending order expire with a full refund; return whether it was pending."""
        return self._refund(order_id, OrderState.EXPIRED, at)

    def confirm(self, order_id: str, at: datetime, percent: int) -> bool:
        """
        End a matched order's rental early; return whether it was matched.

        `percent` of the charge for the time that is left is paid back.
        """
        order = self.look(order_id, at)
        if order is None or order.state is not OrderState.MATCHED or order.matched_at is None:
            return False
        left = order.duration_sec - max(0, math.ceil((at - order.matched_at).total_seconds()))
        repaid = order.charged * percent * max(0, left) // (100 * order.duration_sec)
        self._pay_back(order, OrderState.CONFIRMED, at, repaid)
        return True

    def count_cancel(self, order_id: str) -> None:
        """Count a cancel that was processed on an order."""
        order = self._orders[order_id]
        self._orders[order_id] = msgspec.structs.replace(order, cancels=order.cancels + 1)

    def newest_first(self, at: datetime) -> list[SandboxOrder]:
        """Return all orders as they are at a time, the newest first."""
        orders = [self._looked_at(order, at) for order in self._orders.values()]
        orders.reverse()
        orders.sort(key=lambda order: order.created_at, reverse=True)
        return orders

    def _looked_at(self, order: SandboxOrder, at: datetime) -> SandboxOrder:
        if order.state is OrderState.PENDING and self._expire and order.expires_at <= at:
            return self._pay_back(order, OrderState.EXPIRED, order.expires_at, order.charged)
        return order

    def _refund(self, order_id: str, state: OrderState, at: datetime) -> bool:
        order = self.look(order_id, at)
        if order is None or order.state is not OrderState.PENDING:
            return False
        self._pay_back(order, state, at, order.charged)
        return True

    def _pay_back(
        self, order: SandboxOrder, state: OrderState, at: datetime, amount: int
    ) -> SandboxOrder:
        self.balance += amount
        self._orders[order.id] = repaid = order.repaid_as(state, at, amount)
        return repaid


# --- what the documentation leaves open -----------------------------------------------------------


class UnknownIds(enum.Enum):
    """What a call answers about an id that it does not know."""

    OMITTED = "omitted"
    """The results have no item for it."""

    NULL = "null"
    """Its item has null where the answer belongs (`status`, or `is_success`)."""

    FAILED = "failed"
    """Its item says so in words: `is_success` false with a reason; in tracking, a status word."""

    REJECTED = "rejected"
    """400 TSAS:408 INVALID_PARAMS Invalid orderId for the whole request; nothing is done."""


class IdOrder(enum.Enum):
    """How the ids that a create call returns are ordered, compared with its receivers."""

    AS_RECEIVERS = "as receivers"
    REVERSED = "reversed"
    SHUFFLED = "shuffled"


class PriceTooHigh(enum.Enum):
    """What a create call answers when the market is not below the buyer's limit."""

    ERROR = "error"
    """400 TSAS:xxx PRICE_EXCEED_MAX_PRICE_REQUIRED."""

    EMPTY = "empty"
    """200 with no ids."""

    ACCEPTED = "accepted"
    """The orders are created at the market's price, as a documented history row suggests."""


class HistoryFilter(enum.Enum):
    """Which time of an order the history's `from` and `to` look at; both ends belong to it."""

    CREATED = "created_at"
    UPDATED = "update_at"
    IGNORED = "ignored"


class RetryAfter(enum.Enum):
    """Whether a 429 of the meter carries a Retry-After header, and in which form."""

    ABSENT = "absent"
    SECONDS = "seconds"
    DATE = "date"


CANCEL_REASONS: Mapping[OrderState, str | None] = MappingProxyType(
    {
        OrderState.MATCHED: "Order is already matched",
        OrderState.CANCELED: "Order is already canceled",
        OrderState.EXPIRED: "Order is expired",
        OrderState.CONFIRMED: "Order is already confirmed",
    }
)
"""Invented `fail_reason` texts of a cancel: none is documented."""

CONFIRM_REASONS: Mapping[OrderState, str | None] = MappingProxyType(
    {
        OrderState.PENDING: "Order is not matched",
        OrderState.CANCELED: "Order is canceled",
        OrderState.EXPIRED: "Order is expired",
        OrderState.CONFIRMED: "Order is already confirmed",
    }
)
"""Invented `fail_reason` texts of a confirmation: none is documented."""

PAST_STATES = frozenset(OrderState) - {OrderState.PENDING}


class TronSaveRules(msgspec.Struct, frozen=True, kw_only=True):
    """
    How the simulated vendor behaves where its documentation is silent or contradicts itself.

    A client that is right under every combination of these is right at the vendor.

    Attributes:
        matched_word: Status of a matched order. track-order's example says "Completed", the Fast
            Charge README "Matched".
        canceled_word: Status of a canceled order; undocumented.
        expired_word: Status of an expired order; undocumented.
        confirmed_word: Status of a confirmed order; the one in get-history's example is confirmed
            and "Completed".
        unknown_word: Status in tracking of an unknown id, under `UnknownIds.FAILED`; undocumented.
        tracking_omits: States whose orders tracking leaves out of its results; undocumented.
        unknown_tracked: How tracking answers about unknown ids; undocumented. Only the ordinary
            orders' page (v2/order) documents 400 TSAS:408 for one.
        unknown_canceled: The same for cancel-order; undocumented.
        unknown_confirmed: The same for confirm-request; undocumented.
        odd_ids_rejected: Whether an id that is not 24 hexadecimal digits fails the whole request
            with FST_ERR_VALIDATION, or is an unknown id like any other; undocumented.
        empty_ids_rejected: Whether an empty `order_ids` is a validation error; undocumented.
        max_ids: The most ids in one request, beyond it FST_ERR_VALIDATION; undocumented.
        max_receivers: The most receivers in one create call; undocumented.
        duplicates_merged: Whether an id named twice in one request is processed and answered once;
            else each mention is, and the second cancel of it fails; undocumented.
        results_shuffled: Whether results come in an order of their own; undocumented.
        cancel_again_succeeds: Whether the cancel of a canceled order is a success; undocumented.
        cancel_reasons: `fail_reason` of a refused cancel by state; a state left out has null.
        confirm_reasons: The same for confirmations.
        unknown_reason: `fail_reason` for an unknown id, under `UnknownIds.FAILED`.
        id_order: How the ids of a create call are ordered; undocumented.
        partial_creation: When the balance is too low for all orders of a create call, whether those
            that it suffices for are created; else none is; undocumented.
        price_too_high: What create answers when the price is not below `max_price_accept`.
        optional_fields: Body fields of estimate and create that may be missing. The tables have no
            "required" marks; by default only `resource_type` may.
        estimate_checks_balance: Whether an estimate beyond the balance is an error, as
            estimate-trx's list of errors suggests.
        estimate_able_to_match: Whether an estimate has `able_to_match`: in the example only.
        estimate_duration: Whether an estimate has `duration_sec`: in the schema only.
        history_lists: States that the history lists. get-history speaks of "past orders"; whether
            pending and canceled ones are among them is undocumented.
        history_filter: What `from` and `to` filter by; undocumented.
        history_page_cap: The largest page; undocumented.
        history_page_cap_rejects: Whether a larger `pageSize` is a validation error, or is cut.
        history_nulls: Whether fields that do not apply are null, or missing; undocumented.
        repay_words: `repay_by` by state. "Confirmed" is documented, the others are not.
        confirm_refund_percent: How much of the charge for the unused time a confirmation pays back.
            "Earlier is larger" is documented, the formula is not.
        missing_key_is_invalid: Endpoints that answer a missing key with TSAS:107 instead of
            TSAS:106; cancel-order's page reads so, confirm-request's and the others' do not.
        metered_together: Whether all keys share one meter, as if the limit were per address.
        rejected_count: Whether a request rejected with 429 counts against the limit.
        retry_after: The Retry-After header of a 429; undocumented.
    """

    matched_word: str = "Completed"
    canceled_word: str = "Canceled"
    expired_word: str = "Expired"
    confirmed_word: str = "Completed"
    unknown_word: str = "NotFound"
    tracking_omits: frozenset[OrderState] = frozenset()
    unknown_tracked: UnknownIds = UnknownIds.OMITTED
    unknown_canceled: UnknownIds = UnknownIds.FAILED
    unknown_confirmed: UnknownIds = UnknownIds.FAILED
    odd_ids_rejected: bool = False
    empty_ids_rejected: bool = False
    max_ids: int | None = None
    max_receivers: int | None = None
    duplicates_merged: bool = False
    results_shuffled: bool = False
    cancel_again_succeeds: bool = False
    cancel_reasons: Mapping[OrderState, str | None] = CANCEL_REASONS
    confirm_reasons: Mapping[OrderState, str | None] = CONFIRM_REASONS
    unknown_reason: str | None = "Order not found"
    id_order: IdOrder = IdOrder.AS_RECEIVERS
    partial_creation: bool = False
    price_too_high: PriceTooHigh = PriceTooHigh.ERROR
    optional_fields: frozenset[str] = frozenset({"resource_type"})
    estimate_checks_balance: bool = True
    estimate_able_to_match: bool = True
    estimate_duration: bool = False
    history_lists: frozenset[OrderState] = PAST_STATES
    history_filter: HistoryFilter = HistoryFilter.CREATED
    history_page_cap: int | None = None
    history_page_cap_rejects: bool = False
    history_nulls: bool = False
    repay_words: Mapping[OrderState, str] = MappingProxyType(
        {
            OrderState.CONFIRMED: "Confirmed",
            OrderState.CANCELED: "Canceled",
            OrderState.EXPIRED: "Expired",
        }
    )
    confirm_refund_percent: int = 10
    missing_key_is_invalid: frozenset[str] = frozenset()
    metered_together: bool = False
    rejected_count: bool = False
    retry_after: RetryAfter = RetryAfter.ABSENT

    def word(self, state: OrderState) -> str:
        """Return the vendor's word for a state, in tracking and history."""
        words = {
            OrderState.PENDING: "Pending",
            OrderState.MATCHED: self.matched_word,
            OrderState.CANCELED: self.canceled_word,
            OrderState.EXPIRED: self.expired_word,
            OrderState.CONFIRMED: self.confirmed_word,
        }
        return words[state]


# --- error replies --------------------------------------------------------------------------------


class _Refusal(Exception):
    """A request is answered with an error; nothing was done."""

    def __init__(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, body)
        self.reply = HttpReply(status=status, body=msgspec.json.encode(body), headers=headers or {})


RATE_LIMIT_REACHED = {"error": True, "message": "Rate limit reached"}


def _unauthorized(code: str) -> _Refusal:
    """Return the error of a missing or invalid key: v0 has no `data` in it."""
    return _Refusal(401, {"error": True, "message": code})


def _business(message: str) -> _Refusal:
    """Return the error of a business rule."""
    return _Refusal(400, {"error": True, "message": message, "data": None})


def _validation(message: str) -> _Refusal:
    """Return Fastify's error for a request that does not fit the schema."""
    return _fastify(400, "FST_ERR_VALIDATION", "Bad Request", message)


def _fastify(status: int, code: str, error: str, message: str) -> _Refusal:
    """Return an error of the web framework."""
    body = {"statusCode": status, "code": code, "error": error, "message": message}
    return _Refusal(status, body)


def _no_route(request: HttpRequest) -> _Refusal:
    """Return the error of a path or method that does not exist."""
    message = f"Route {request.method}:{request.target} not found"
    return _Refusal(404, {"message": message, "error": "Not Found", "statusCode": 404})


# --- reading a request ----------------------------------------------------------------------------


def _json_object(request: HttpRequest) -> dict[str, Any]:
    """
    Return the body of a POST, as the web framework reads it.

    Raises:
        Refusal: 413 for more than 1 MiB, 415 for a content type without a parser, 400 for no JSON
            object.
    """
    if request.raw is None:
        raise _fastify(
            413, "FST_ERR_CTP_BODY_TOO_LARGE", "Payload Too Large", "Request body is too large"
        )
    content_type = request.headers.get("content-type", "")
    essence = content_type.partition(";")[0].strip().lower()
    if essence == "application/json":
        return _json_body(request.raw)
    if essence == "text/plain" or not (essence or request.raw):
        raise _validation("body must be object")
    raise _fastify(
        415,
        "FST_ERR_CTP_INVALID_MEDIA_TYPE",
        "Unsupported Media Type",
        f"Unsupported Media Type: {content_type or 'undefined'}",
    )


def _json_body(raw: bytes) -> dict[str, Any]:
    """Return a JSON body that is an object."""
    if not raw:
        raise _fastify(
            400,
            "FST_ERR_CTP_EMPTY_JSON_BODY",
            "Bad Request",
            "Body cannot be empty when content-type is set to 'application/json'",
        )
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _fastify(
            400,
            "FST_ERR_CTP_INVALID_JSON_BODY",
            "Bad Request",
            "Body is not valid JSON but content-type is set to 'application/json'",
        ) from None
    if not isinstance(body, dict):
        raise _validation("body must be object")
    return body


def _demand(body: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise for the first of the named properties that is missing."""
    for name in names:
        if name not in body:
            raise _validation(f"body must have required property '{name}'")


def _integer(body: Mapping[str, Any], name: str, default: int, minimum: int = 1) -> int:
    """Return a body's integer; the default, if it is missing."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _validation(f"body/{name} must be integer")
    if value < minimum:
        raise _validation(f"body/{name} must be >= {minimum}")
    return value


def _strings(body: Mapping[str, Any], name: str, *, least: int, most: int | None) -> list[str]:
    """Return a body's array of strings."""
    value = body[name]
    if not isinstance(value, list):
        raise _validation(f"body/{name} must be array")
    if len(value) < least:
        raise _validation(f"body/{name} must NOT have fewer than {least} items")
    if most is not None and len(value) > most:
        raise _validation(f"body/{name} must NOT have more than {most} items")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise _validation(f"body/{name}/{index} must be string")
    return value


def _from_query(query: Mapping[str, str], name: str) -> int | None:
    """Return a query's number, not below zero; None, if it is missing."""
    text = query.get(name)
    if text is None:
        return None
    if not text.removeprefix("-").isascii() or not text.removeprefix("-").isdigit():
        raise _validation(f"querystring/{name} must be integer")
    if text.startswith("-"):
        raise _validation(f"querystring/{name} must be >= 0")
    return int(text)


def _is_object_id(text: str) -> bool:
    """Return whether a text is 24 hexadecimal digits."""
    return len(text) == 24 and all(digit in "0123456789abcdefABCDEF" for digit in text)


# --- writing the history --------------------------------------------------------------------------


MATCHED_FIELDS = (
    "delegate_amount_in_sun",
    "delegate_at",
    "delegate_txid",
    "delegator",
    "expire_delegate_at",
    "matched_resource_order_id",
    "resource_order_request_id",
)
REPAID_FIELDS = ("paid_amount_actual", "repay_amount", "repay_at", "repay_by", "repay_txid")


def _history_row(order: SandboxOrder, rules: TronSaveRules) -> dict[str, Any]:
    """Return an order as the history shows it."""
    row: dict[str, Any] = {
        "_id": order.id,
        "receiver": order.receiver,
        "resource_type": "ENERGY",
        "amount": order.amount,
        "options": {"deadline": order.deadline, "max_price_accept": order.max_price_accept},
        "charge_amount": order.charged,
        "status": rules.word(order.state),
        "pay_txid": f"internal_fast_charge_{order.request_id}",
        "request_id": order.request_id,
        "requester": "TLoE6dE6EaEfeH6pbWHrtcTfMLtk111111",
        "unit_price": order.unit_price,
        "is_matched": order.matched_at is not None,
        "charge_duration_sec": order.duration_sec,
        "scan_times": 1,
        "created_at": _iso(order.created_at),
        "update_at": _iso(order.updated_at),
    }
    if rules.history_nulls:
        row |= dict.fromkeys((*MATCHED_FIELDS, *REPAID_FIELDS))
    if order.matched_at is not None:
        row |= _matched_part(order, order.matched_at)
    if order.repaid_at is not None:
        row |= _repaid_part(order, order.repaid_at, rules)
    return row


def _matched_part(order: SandboxOrder, at: datetime) -> dict[str, Any]:
    """Return what a history row has once its order is matched."""
    return {
        "delegate_amount_in_sun": order.amount * SUN_PER_ENERGY,
        "delegate_at": _iso(at),
        "delegate_txid": hashlib.sha256(order.id.encode()).hexdigest(),
        "delegator": "TQBV7xU489Rq8ZCsYi72zBhJMdr2222222",
        "expire_delegate_at": _iso(at + timedelta(seconds=order.duration_sec)),
        "matched_resource_order_id": _related_id(order, "matched"),
        "resource_order_request_id": _related_id(order, "request"),
        "paid_amount_actual": order.paid,
    }


def _repaid_part(order: SandboxOrder, at: datetime, rules: TronSaveRules) -> dict[str, Any]:
    """Return what a history row has once money was paid back."""
    return {
        "paid_amount_actual": order.paid,
        "repay_amount": order.repaid,
        "repay_at": _iso(at),
        "repay_by": rules.repay_words.get(order.state),
        "repay_txid": _related_id(order, "repay"),
    }


def _related_id(order: SandboxOrder, role: str) -> str:
    """Return the id of something that belongs to an order: always the same one."""
    return order.id[:8] + hashlib.sha256(f"{role}{order.id}".encode()).hexdigest()[:16]


def _iso(moment: datetime) -> str:
    """Return a time as the history writes it: milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds(moment: datetime) -> int:
    """Return a time in whole milliseconds since 1970."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _wall_clock() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


# --- the vendor -----------------------------------------------------------------------------------


class TronSaveSandbox(Simulator):
    """
    TronSave's Fast Charge API, served on 127.0.0.1.

    Use it as an asynchronous context manager, or call `start` and `aclose`, from any tasks.

    Args:
        api_key: The key that is accepted.
        more_keys: Further keys of the same account, each metered for itself.
        requests_per_window: How many requests the vendor admits in a window, per endpoint and key.
        window: The window's length in seconds.
        shared_bucket: Whether the six endpoints share one limit; the documentation does not say.
        jitter: Each request and each reply travels for a random time up to this, in seconds.
        seed: Of every random number: travel times, ids, shuffled answers.
        balance: Of the internal account, in SUN.
        price: Of the market, in SUN per unit of Energy.
        capacity: Energy on offer, in units.
        match_at_once: Whether created orders are matched at once instead of waiting for `match`.
        keep_deadlines: Whether pending orders expire at their deadline.
        rules: What the documentation leaves open.
        now: The vendor's wall clock, returning aware times; delays and the meter use `loop.time()`.
        ssl_context: Serve TLS with it.
        keepalive: Seconds after which an idle connection is closed.

    Attributes:
        faults: The script of what goes wrong.
        price: May be set at any time.
        capacity: May be set at any time.
        rules: May be set at any time.
        rejections: How many requests the meter has rejected. A scripted 429 is not one of them.
    """

    credentials = frozenset({"apikey"})

    def __init__(
        self,
        *,
        api_key: str = "sandbox-key",
        more_keys: Sequence[str] = (),
        requests_per_window: int = 1,
        window: float = 2.0,
        shared_bucket: bool = False,
        jitter: float = 0.0,
        seed: int = 0,
        balance: int = 117_505_470,
        price: int = 69,
        capacity: int = 1_040_000,
        match_at_once: bool = False,
        keep_deadlines: bool = True,
        rules: TronSaveRules | None = None,
        now: Callable[[], datetime] = _wall_clock,
        ssl_context: ssl.SSLContext | None = None,
        keepalive: float = 75.0,
    ) -> None:
        self.api_key = api_key
        self.faults = FaultScript(ENDPOINTS)
        self.price = price
        self.capacity = capacity
        self.rules = rules or TronSaveRules()
        self.rejections = 0
        self._callers = {key: f"key {i}" for i, key in enumerate((api_key, *more_keys), 1)}
        self._limit = (requests_per_window, window)
        self._shared_bucket = shared_bucket
        self._meters: dict[tuple[str, str], SlidingWindow] = {}
        self._match_at_once = match_at_once
        self._now = now
        self._ids = _ObjectIds(seed)
        self._random = random.Random(seed)
        self._book = _OrderBook(balance=balance, now=now, expire=keep_deadlines)
        self._server = LoopbackServer(
            self,
            now=now,
            jitter=jitter,
            seed=seed,
            ssl_context=ssl_context,
            keepalive=keepalive,
        )
        super().__init__(self._server.log, [self._server], window=window)

    # What a test looks at.

    @property
    def url(self) -> str:
        """The base URL, for example "http://127.0.0.1:1234"."""
        return self._server.url

    @property
    def orders(self) -> Mapping[str, SandboxOrder]:
        """The vendor's own truth, by order id: a live view of frozen records."""
        return self._book

    @property
    def balance(self) -> int:
        """The internal account's balance in SUN; may be set."""
        return self._book.balance

    @balance.setter
    def balance(self, balance: int) -> None:
        self._book.balance = balance

    # What a test makes happen.

    def add_order(
        self,
        *,
        receiver: str = "TQk2eKHE9ZfCdVmyPnh8DfRMUF0123456",
        amount: int = 130_000,
        duration_sec: int = 900,
        deadline: int = 300,
        max_price_accept: int = 70,
        unit_price: int | None = None,
        created_at: datetime | None = None,
        request_id: str | None = None,
    ) -> str:
        """
        Place a pending order that was paid for earlier: the balance stays as it is.

        Args:
            receiver: Who gets the Energy.
            amount: Units of Energy.
            duration_sec: How long it is rented, in seconds.
            deadline: How long it may wait, in seconds from `created_at`.
            max_price_accept: The buyer's limit, SUN per unit.
            unit_price: SUN per unit; by default the market's price.
            created_at: Aware; by default now.
            request_id: The create call it came from; by default one of its own.

        Returns:
            The order's id.
        """
        at = created_at or self._now()
        terms = _Terms(
            amount=amount,
            duration_sec=duration_sec,
            deadline=deadline,
            max_price_accept=max_price_accept,
            unit_price=self.price if unit_price is None else unit_price,
        )
        return self._place(receiver, terms, request_id or self._ids.next(at), at)

    def match(self, order_id: str) -> None:
        """Match a pending order. Raises ValueError if it is not pending, KeyError if unknown."""
        self._settled(order_id, self._book.match(order_id, self._now()))

    def expire(self, order_id: str) -> None:
        """Let a pending order expire before its deadline, with a refund. Raises like `match`."""
        self._settled(order_id, self._book.expire(order_id, self._now()))

    def cancel_behind_back(self, order_id: str) -> None:
        """Cancel a pending order from elsewhere, say the website. Raises like `match`."""
        self._settled(order_id, self._book.cancel(order_id, self._now()))

    def revoke_keys(self, api_key: str) -> None:
        """Accept only this key from now on, as after "Revoke" on the website."""
        self._callers = {api_key: "key 1"}

    def _settled(self, order_id: str, was_pending: bool) -> None:
        if not was_pending:
            raise ValueError(f"{order_id} is not pending but {self._book[order_id].state.value}")

    # What the vendor does: `HttpVendor`.

    def route(self, method: str, path: str) -> str | None:
        """Return the word for an endpoint, or None."""
        return ROUTES.get((method, path))

    def error_body(self, status: int) -> bytes:
        """Return the body of an error: documented for 429, the web framework's usual for others."""
        if status == 429:
            return msgspec.json.encode(RATE_LIMIT_REACHED)
        phrase = HTTPStatus(status).phrase
        return msgspec.json.encode({"statusCode": status, "error": phrase, "message": phrase})

    def decide(self, request: HttpRequest) -> Decision:
        """Carry a request out, and say how it is answered."""
        try:
            endpoint, caller = self._admit(request)
        except _Refusal as refusal:
            key = request.headers.get("apikey", "")
            return Decision(reply=refusal.reply, caller=self._callers.get(key))
        fault = self.faults.take(endpoint)
        if not _is_scripted_429(fault) or self.rules.rejected_count:
            self._meter(caller, endpoint).count(request.arrived)
        if fault is not None and fault.processing is Processing.SKIPPED:
            return Decision(fault=fault, caller=caller)
        try:
            body = self._process(endpoint, request, fault)
        except _Refusal as refusal:
            return Decision(reply=refusal.reply, fault=fault, caller=caller)
        reply = HttpReply(status=200, body=msgspec.json.encode(body))
        return Decision(reply=reply, fault=fault, caller=caller, processed=True)

    def _admit(self, request: HttpRequest) -> tuple[str, str]:
        """Return endpoint and caller of a request that may be processed."""
        if request.endpoint is None:
            raise _no_route(request)
        caller = self._authenticate(request, request.endpoint)
        meter = self._meter(caller, request.endpoint)
        if not meter.admits(request.arrived):
            self.rejections += 1
            refusal = self._too_many(meter, request.arrived)
            if self.rules.rejected_count:
                meter.count(request.arrived)
            raise refusal
        return request.endpoint, caller

    def _authenticate(self, request: HttpRequest, endpoint: str) -> str:
        key = request.headers.get("apikey")
        if key is None and endpoint not in self.rules.missing_key_is_invalid:
            raise _unauthorized("TSAS:106 API_KEY_REQUIRED")
        if key is None or key not in self._callers:
            raise _unauthorized("TSAS:107 INVALID_API_KEY")
        return self._callers[key]

    def _meter(self, caller: str, endpoint: str) -> SlidingWindow:
        """Return the meter of a caller at an endpoint, or of whatever shares one."""
        scope = (
            "every key" if self.rules.metered_together else caller,
            "every endpoint" if self._shared_bucket else endpoint,
        )
        meter = self._meters.get(scope)
        if meter is None:
            meter = self._meters[scope] = SlidingWindow(*self._limit)
        return meter

    def _too_many(self, meter: SlidingWindow, now: float) -> _Refusal:
        headers = {}
        seconds = max(1, math.ceil(meter.free_at() - now))
        if self.rules.retry_after is RetryAfter.SECONDS:
            headers["Retry-After"] = str(seconds)
        elif self.rules.retry_after is RetryAfter.DATE:
            # An HTTP date has whole seconds: one more, so that it is not before the window's end.
            headers["Retry-After"] = http_date(self._now() + timedelta(seconds=seconds + 1))
        return _Refusal(429, RATE_LIMIT_REACHED, headers)

    def _process(self, endpoint: str, request: HttpRequest, fault: Fault | None) -> dict[str, Any]:
        at = self._now() + timedelta(seconds=fault.clock_offset if fault else 0.0)
        if endpoint == "history":
            return self._history(request.query, at)
        body = _json_object(request)
        if endpoint == "estimate":
            return self._estimate(body)
        if endpoint == "create":
            return self._create(body, at)
        ids = self._order_ids(body)
        if fault is not None and fault.processing is Processing.RACE:
            for order_id in ids:
                self._book.match(order_id, at)
        if endpoint == "track":
            return self._track(ids, at)
        return self._cancel(ids, at) if endpoint == "cancel" else self._confirm(ids, at)

    # The six calls.

    def _estimate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        names = ("receiver_count", "amount", "max_price_accept", "resource_type", "duration_sec")
        _demand(body, [name for name in names if name not in self.rules.optional_fields])
        # The table says String, the example and the error text a number: both are taken.
        count = body.get("receiver_count", 1)
        if isinstance(count, str) and count.isdecimal():
            body = {**body, "receiver_count": int(count)}
        count = _integer(body, "receiver_count", 1)
        terms = self._terms(body)
        if body.get("resource_type", "ENERGY") != "ENERGY":
            raise _validation("body/resource_type must be equal to one of the allowed values")
        charge = count * terms.amount * self.price
        if self.rules.estimate_checks_balance and charge > self.balance:
            raise _business("TSAS:xxx INTERNAL_BALANCE_ACCOUNT_TOO_LOW")
        providable = self.capacity // terms.amount
        reply: dict[str, Any] = {
            "charge_amount": charge,
            "price": self.price,
            "max_receiver_can_provide": providable,
        }
        if self.rules.estimate_able_to_match:
            # In the example 8 of 10 receivers can be provided, and this is true.
            reply["able_to_match"] = providable > 0 and self.price < terms.max_price_accept
        if self.rules.estimate_duration:
            reply["duration_sec"] = terms.duration_sec
        return {**reply, "internal_balance": str(self.balance)}

    def _create(self, body: Mapping[str, Any], at: datetime) -> dict[str, Any]:
        names = ("max_price_accept", "amount", "duration_sec", "deadline")
        needed = [name for name in names if name not in self.rules.optional_fields]
        _demand(body, [*needed, "receivers"])
        terms = self._terms(body)
        receivers = _strings(body, "receivers", least=1, most=self.rules.max_receivers)
        if self.price >= terms.max_price_accept:
            if self.rules.price_too_high is PriceTooHigh.ERROR:
                raise _business("TSAS:xxx PRICE_EXCEED_MAX_PRICE_REQUIRED")
            if self.rules.price_too_high is PriceTooHigh.EMPTY:
                return {"order_ids": []}
        affordable = self.balance // terms.charge
        if affordable < (1 if self.rules.partial_creation else len(receivers)):
            raise _business("TSAS:xxx INTERNAL_BALANCE_ACCOUNT_TOO_LOW")
        request_id = self._ids.next(at)
        ids = []
        for receiver in receivers[:affordable]:
            self.balance -= terms.charge
            ids.append(self._place(receiver, terms, request_id, at))
        if self._match_at_once:
            for order_id in ids:
                self._book.match(order_id, at)
        return {"order_ids": self._ordered(ids)}

    def _track(self, ids: list[str], at: datetime) -> dict[str, Any]:
        self._refuse_unknown(ids, self.rules.unknown_tracked, at)
        items = []
        for order_id in ids:
            order = self._book.look(order_id, at)
            if order is None:
                items += self._untracked(order_id)
            elif order.state not in self.rules.tracking_omits:
                items.append({"order_id": order_id, "status": self.rules.word(order.state)})
        return {"results": self._shuffled(items)}

    def _cancel(self, ids: list[str], at: datetime) -> dict[str, Any]:
        self._refuse_unknown(ids, self.rules.unknown_canceled, at)
        items = []
        for order_id in ids:
            order = self._book.look(order_id, at)
            if order is None:
                items += self._unknown(order_id, self.rules.unknown_canceled)
                continue
            self._book.count_cancel(order_id)
            again = self.rules.cancel_again_succeeds and order.state is OrderState.CANCELED
            success = self._book.cancel(order_id, at) or again
            reason = None if success else self.rules.cancel_reasons.get(order.state)
            items.append(_result(order_id, success, reason))
        return {"cancel_results": self._shuffled(items)}

    def _confirm(self, ids: list[str], at: datetime) -> dict[str, Any]:
        self._refuse_unknown(ids, self.rules.unknown_confirmed, at)
        items = []
        for order_id in ids:
            order = self._book.look(order_id, at)
            if order is None:
                items += self._unknown(order_id, self.rules.unknown_confirmed)
                continue
            success = self._book.confirm(order_id, at, self.rules.confirm_refund_percent)
            reason = None if success else self.rules.confirm_reasons.get(order.state)
            items.append(_result(order_id, success, reason))
        return {"confirmation_results": self._shuffled(items)}

    def _history(self, query: Mapping[str, str], at: datetime) -> dict[str, Any]:
        page = _from_query(query, "page") or 0
        size = self._page_size(_from_query(query, "pageSize"))
        start, end = _from_query(query, "from"), _from_query(query, "to")
        listed = [
            order
            for order in self._book.newest_first(at)
            if order.state in self.rules.history_lists and self._within(order, start, end)
        ]
        rows = listed[page * size : (page + 1) * size]
        results = [_history_row(order, self.rules) for order in rows]
        return {"total": len(listed), "results": results}

    # Parts of the calls.

    def _terms(self, body: Mapping[str, Any]) -> _Terms:
        return _Terms(
            amount=_integer(body, "amount", 65_000),
            duration_sec=_integer(body, "duration_sec", 900),
            deadline=_integer(body, "deadline", 300),
            max_price_accept=_integer(body, "max_price_accept", 1 << 31),
            unit_price=self.price,
        )

    def _place(self, receiver: str, terms: _Terms, request_id: str, at: datetime) -> str:
        order = SandboxOrder(
            id=self._ids.next(at),
            request_id=request_id,
            receiver=receiver,
            amount=terms.amount,
            unit_price=terms.unit_price,
            duration_sec=terms.duration_sec,
            deadline=terms.deadline,
            max_price_accept=terms.max_price_accept,
            state=OrderState.PENDING,
            created_at=at,
            updated_at=at,
        )
        self._book.place(order)
        return order.id

    def _ordered(self, ids: list[str]) -> list[str]:
        if self.rules.id_order is IdOrder.REVERSED:
            return ids[::-1]
        if self.rules.id_order is IdOrder.SHUFFLED:
            return self._random.sample(ids, len(ids))
        return ids

    def _order_ids(self, body: Mapping[str, Any]) -> list[str]:
        _demand(body, ["order_ids"])
        least = 1 if self.rules.empty_ids_rejected else 0
        ids = _strings(body, "order_ids", least=least, most=self.rules.max_ids)
        if self.rules.odd_ids_rejected:
            for index, order_id in enumerate(ids):
                if not _is_object_id(order_id):
                    pattern = "^[0-9a-fA-F]{24}$"
                    raise _validation(f'body/order_ids/{index} must match pattern "{pattern}"')
        return list(dict.fromkeys(ids)) if self.rules.duplicates_merged else ids

    def _refuse_unknown(self, ids: list[str], how: UnknownIds, at: datetime) -> None:
        """Refuse the whole request for one unknown id, where that is the rule."""
        if how is UnknownIds.REJECTED and any(self._book.look(i, at) is None for i in ids):
            raise _business("TSAS:408 INVALID_PARAMS Invalid orderId")

    def _untracked(self, order_id: str) -> list[dict[str, Any]]:
        """Return the items of tracking about an unknown id: one or none."""
        if self.rules.unknown_tracked is UnknownIds.OMITTED:
            return []
        named = self.rules.unknown_tracked is UnknownIds.FAILED
        return [{"order_id": order_id, "status": self.rules.unknown_word if named else None}]

    def _unknown(self, order_id: str, how: UnknownIds) -> list[dict[str, Any]]:
        """Return the items of a cancel or confirmation about an unknown id: one or none."""
        if how is UnknownIds.OMITTED:
            return []
        if how is UnknownIds.NULL:
            return [_result(order_id, None, None)]
        return [_result(order_id, False, self.rules.unknown_reason)]

    def _shuffled(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.rules.results_shuffled:
            self._random.shuffle(items)
        return items

    def _page_size(self, asked: int | None) -> int:
        cap = self.rules.history_page_cap
        size = 10 if asked is None else asked
        if cap is None or size <= cap:
            return size
        if self.rules.history_page_cap_rejects:
            raise _validation(f"querystring/pageSize must be <= {cap}")
        return cap

    def _within(self, order: SandboxOrder, start: int | None, end: int | None) -> bool:
        """Return whether the history's filter lets an order through."""
        if self.rules.history_filter is HistoryFilter.IGNORED:
            return True
        by_update = self.rules.history_filter is HistoryFilter.UPDATED
        time = _milliseconds(order.updated_at if by_update else order.created_at)
        return (start is None or start <= time) and (end is None or time <= end)


class _Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What all orders of one create call have in common."""

    amount: int
    duration_sec: int
    deadline: int
    max_price_accept: int
    unit_price: int

    @property
    def charge(self) -> int:
        """What one order costs, in SUN."""
        return self.amount * self.unit_price


def _result(order_id: str, success: bool | None, reason: str | None) -> dict[str, Any]:
    """Return one item of a cancel's or a confirmation's results."""
    return {"order_id": order_id, "is_success": success, "fail_reason": reason}


def _is_scripted_429(fault: Fault | None) -> bool:
    """Return whether a fault is the meter's own answer, scripted."""
    return fault is not None and fault.processing is Processing.SKIPPED and fault.status == 429
