"""TronSave's messages, with the vendor's own names (docs.tronsave.io, developers/api-reference/fast-charge).

Requests are encoded from these structs, replies decoded straight into them. Fields that the pages do not promise are
optional; fields that they do not mention are ignored. Amounts of money are SUN (1 TRX = 1,000,000 SUN), prices SUN per
unit of resource, amounts of orders units of resource.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec

__all__ = [
    "CancelItem",
    "CancelReply",
    "ConfirmReply",
    "ConfirmResult",
    "CreateReply",
    "CreateRequest",
    "ErrorBody",
    "Estimate",
    "EstimateRequest",
    "HistoryPage",
    "HistoryRow",
    "OrderIds",
    "OrderOptions",
    "TrackItem",
    "TrackReply",
    "decode_items",
    "encode",
]

T = TypeVar("T", bound=msgspec.Struct)

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time without an offset is not a time: it does not fit."""

encode = msgspec.json.Encoder().encode


class OrderIds(msgspec.Struct, frozen=True):
    """The body of cancel, track and confirm."""

    order_ids: Sequence[str]


class EstimateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of estimate (page: estimate-trx)."""

    receiver_count: int
    amount: int
    max_price_accept: int
    resource_type: str
    duration_sec: int


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of create (page: create-order)."""

    max_price_accept: int
    amount: int
    duration_sec: int
    deadline: int
    receivers: Sequence[str]


class CreateReply(msgspec.Struct, frozen=True):
    """The reply to create."""

    order_ids: list[str]


class CancelItem(msgspec.Struct, frozen=True):
    """What became of one order. ``fail_reason`` is undocumented free text.

    ``is_success`` is None where it cannot be read: an order that is mentioned unreadably is mentioned nevertheless.
    """

    order_id: str
    is_success: bool | None = None
    fail_reason: Any = None


class CancelReply(msgspec.Struct, frozen=True):
    """The reply to cancel (page: cancel-order)."""

    cancel_results: list[CancelItem]


class ConfirmResult(msgspec.Struct, frozen=True):
    """Whether one rental was ended early (page: confirm-request).

    Attributes:
        order_id: the order.
        is_success: the vendor ended the rental and reclaims the unused resource.
        fail_reason: undocumented free text, or None.
    """

    order_id: str
    is_success: bool
    fail_reason: Any = None


class ConfirmReply(msgspec.Struct, frozen=True):
    """The reply to confirm."""

    confirmation_results: list[ConfirmResult]


class TrackItem(msgspec.Struct, frozen=True):
    """The status of one order (page: track-order).

    Attributes:
        order_id: the order.
        status: the vendor's word: ``"Pending"``, ``"Completed"`` or ``"Matched"`` are known; others may come.
    """

    order_id: str
    status: str | None = None


class TrackReply(msgspec.Struct, frozen=True):
    """The reply to track."""

    results: list[TrackItem]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What an order would cost (page: estimate-trx).

    Attributes:
        charge_amount: SUN for all orders together.
        price: SUN per unit of resource.
        max_receiver_can_provide: how many receivers the market can serve now.
        able_to_match: whether the order would be matched; None where the reply does not say.
        internal_balance: SUN on the internal account.
        duration_sec: seconds of the rental; None where the reply does not say.
    """

    charge_amount: int
    price: int | None = None
    max_receiver_can_provide: int | None = None
    able_to_match: bool | None = None
    internal_balance: int | None = None
    duration_sec: int | None = None


class OrderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of an order in the history: ``deadline`` in seconds, ``max_price_accept`` in SUN per unit."""

    deadline: int | None = None
    max_price_accept: int | None = None


class HistoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One past order (page: get-history). Only ``id`` and ``status`` can be relied on.

    Attributes:
        id: the order.
        status: the vendor's word, verbatim.
        receiver, requester, delegator: TRON addresses.
        resource_type: ``"ENERGY"``.
        amount: units of resource.
        options: the order's deadline and price limit.
        charge_amount: SUN charged when the order was created.
        unit_price: SUN per unit of resource.
        is_matched: the order was filled.
        paid_amount_actual, repay_amount: SUN kept and SUN given back, as far as known.
        repay_by: why it was given back: ``"Confirmed"`` is known; others may come.
        charge_duration_sec: seconds of the rental.
        created_at, update_at, delegate_at, expire_delegate_at, repay_at: aware, in UTC as the vendor sends them.
        request_id: groups the orders of one create call.
        pay_txid, delegate_txid, repay_txid, matched_resource_order_id, resource_order_request_id: references.
        delegate_amount_in_sun, scan_times: as the vendor counts them.
    """

    id: str = msgspec.field(name="_id")
    status: str | None = None
    receiver: str | None = None
    resource_type: str | None = None
    amount: int | None = None
    options: OrderOptions | None = None
    charge_amount: int | None = None
    pay_txid: str | None = None
    request_id: str | None = None
    requester: str | None = None
    unit_price: int | None = None
    is_matched: bool | None = None
    charge_duration_sec: int | None = None
    scan_times: int | None = None
    created_at: Moment | None = None
    update_at: Moment | None = None
    delegate_amount_in_sun: int | None = None
    delegate_at: Moment | None = None
    delegate_txid: str | None = None
    delegator: str | None = None
    expire_delegate_at: Moment | None = None
    matched_resource_order_id: str | None = None
    paid_amount_actual: int | None = None
    repay_amount: int | None = None
    repay_at: Moment | None = None
    repay_by: str | None = None
    repay_txid: str | None = None
    resource_order_request_id: str | None = None


class HistoryPage(msgspec.Struct, frozen=True):
    """One page of the history, newest first.

    Attributes:
        total: orders in the whole period; None where the reply does not say.
        results: the page's rows.
    """

    results: list[HistoryRow]
    total: int | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """The three shapes of an error, in one (page: errors-and-rate-limits).

    ``{"error": true, "message": "TSAS:107 INVALID_API_KEY"}``, Fastify's ``{"statusCode", "code", "error", "message"}``
    where ``error`` is text, and the same without ``code`` for a wrong path.
    """

    error: bool | str | None = None
    message: str | None = None
    code: str | None = None


def decode_items(body: bytes, field: str, item_type: type[T], *, strict: bool) -> list[T] | None:
    """Decode a reply whose whole did not fit, item by item: one odd item must not hide the others.

    Args:
        body: the reply.
        field: where the list is.
        item_type: what its items are. Fields that do not fit are left out where they are optional.
        strict: no conversion between text and numbers.

    Returns:
        The items that can be read; None if the reply is not an object with such a list.
    """
    try:
        reply = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    items = reply.get(field) if isinstance(reply, dict) else None
    if not isinstance(items, list):
        return None
    decoded = [_decode_item(item, item_type, strict=strict) for item in items]
    return [item for item in decoded if item is not None]


def _decode_item(item: object, item_type: type[T], *, strict: bool) -> T | None:
    if not isinstance(item, dict):
        return None
    try:
        return msgspec.convert(item, item_type, strict=strict)
    except msgspec.ValidationError:
        pass
    fitting = {
        field.encode_name: item[field.encode_name]
        for field in msgspec.structs.fields(item_type)
        if field.encode_name in item and _fits(item[field.encode_name], field.type, strict=strict)
    }
    try:
        return msgspec.convert(fitting, item_type, strict=strict)
    except msgspec.ValidationError:
        return None


def _fits(value: object, field_type: Any, *, strict: bool) -> bool:
    try:
        msgspec.convert(value, field_type, strict=strict)
    except msgspec.ValidationError:
        return False
    return True
