"""What an order is to this SDK: its name, its state, and what a vendor says about it."""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal

import msgspec

from tronsave_async.errors import UsageError

__all__ = ["BearerRef", "OrderRef", "OrderSnapshot", "OrderState"]


class OrderState(enum.Enum):
    """The life of an order in the field's words. Vendors' own words are mapped to it by a table."""

    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    CLOSED = "closed"
    """Dead, and the vendor does not tell how."""
    UNKNOWN = "unknown"
    """The vendor said nothing, or a word that no table knows."""

    @property
    def is_closed(self) -> bool:
        """True where the order can never be filled (further)."""
        return self in _CLOSED

    @property
    def is_open(self) -> bool:
        """True where the order can still be filled."""
        return self in _OPEN


_CLOSED = frozenset({OrderState.FILLED, OrderState.CANCELED, OrderState.EXPIRED, OrderState.CLOSED})
_OPEN = frozenset({OrderState.OPEN, OrderState.PARTIALLY_FILLED})


class OrderRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The name of one order: exactly one of ``id`` and ``client_id``.

    Attributes:
        id: the vendor's id, echoed verbatim.
        client_id: the id that the client chose at creation (Ripio's ``external_id``), where the vendor has such.
        created_at: when the order was created (aware), where the caller knows; it helps a vendor's look-up and
            vendors with a rule about the order's age. It takes no part in equality of ids at the vendor.

    Raises:
        UsageError: both ids or none were given, the id is not valid Unicode text, or ``created_at`` is naive.
    """

    id: str | None = None
    client_id: str | None = None
    created_at: datetime | None = None

    def __post_init__(self) -> None:
        if (self.id is None) == (self.client_id is None):
            raise UsageError("an OrderRef takes exactly one of id and client_id")
        name: object = self.id if self.id is not None else self.client_id
        if not isinstance(name, str) or not _is_unicode(name):
            raise UsageError("an order's id must be valid Unicode text")
        if self.created_at is not None and self.created_at.utcoffset() is None:
            raise UsageError("OrderRef.created_at must be an aware datetime")

    def __hash__(self) -> int:
        return hash((self.id, self.client_id, self.created_at))

    @property
    def name(self) -> tuple[str | None, str | None]:
        """``(id, client_id)``: what names the order at the vendor, without what the caller knows besides."""
        return self.id, self.client_id

    def __str__(self) -> str:
        return self.id if self.id is not None else f"client_id={self.client_id}"


class BearerRef(OrderRef, frozen=True, kw_only=True, omit_defaults=True):
    """The name of an order at a vendor where it is a secret: whoever knows it has power over the order. It is shown
    masked, and equals the `OrderRef` of the same name. Serializing it, or taking ``id``, gives the plain text."""

    def __repr__(self) -> str:
        return f"OrderRef(id={str(self)!r}, created_at={self.created_at!r})"

    def __str__(self) -> str:
        return f"{(self.id or '')[:4]}…"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OrderRef):
            return NotImplemented
        return (*self.name, self.created_at) == (*other.name, other.created_at)

    __ne__ = object.__ne__  # the opposite of __eq__: a Struct's own compares the types
    __hash__ = OrderRef.__hash__


def _is_unicode(text: str) -> bool:
    """A lone surrogate can be neither sent nor serialized."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class OrderSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the vendor said about an order at one moment.

    Attributes:
        order: the order as the caller named it.
        venue: the gateway's name.
        state: the vendor's word mapped by its table; UNKNOWN where it said nothing or an unmapped word.
        vendor_state: the vendor's word, verbatim, or None where it said nothing.
        executed: amount filled, in the vendor's unit; None where the vendor did not tell.
        remaining: amount not filled, in the vendor's unit; None where the vendor did not tell.
    """

    order: OrderRef
    venue: str
    state: OrderState
    vendor_state: str | None = None
    executed: Decimal | None = None
    remaining: Decimal | None = None
