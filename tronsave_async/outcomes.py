"""The outcomes of a cancel, and what each of them proves.

A cancel ends in exactly one of seven outcomes. They are values, not exceptions: match over them, and let the type
checker prove that none was forgotten.

==================  ==========================================================  ==========
outcome             what the caller knows                                       ``closed``
==================  ==========================================================  ==========
`Canceled`          dead, and not fully filled                                  True
`AlreadyClosed`     dead before this cancel: filled, canceled, expired          True
`NotFound`          the vendor says that it knows no such order                 False
`TooEarly`          nothing was sent; the rule permits it at ``retry_at``       False
`Refused`           the vendor said no; this cancel did not close the order     False
`NotSent`           no byte of this call left; it did not touch the order       False
`Unknown`           it may or may not be dead: look before you act              False
==================  ==========================================================  ==========

All of them are frozen `msgspec.Struct`s with the tag field ``outcome``: ``msgspec.json.encode(outcome)`` and
``msgspec.json.decode(data, type=CancelOutcome)`` round-trip.
"""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

import msgspec

from tronsave_async.orders import OrderRef, OrderState

__all__ = [
    "AlreadyClosed",
    "CancelOutcome",
    "Canceled",
    "Evidence",
    "NotFound",
    "NotSent",
    "Refused",
    "TooEarly",
    "Unknown",
    "Wire",
]


class Wire(enum.Enum):
    """How far the requests of a call got, by proof and not by hope."""

    NOT_SENT = "not_sent"
    """No byte of any request left this process."""
    MAYBE_SENT = "maybe_sent"
    """At least one request may have reached the vendor, and its reply was never seen."""
    ANSWERED = "answered"
    """Every request that left was answered."""


class Evidence(enum.Enum):
    """Who proved the outcome."""

    REPLY = "reply"
    """The vendor's reply to the cancel itself."""
    READ_BACK = "read_back"
    """The vendor's record of the order, read after the cancel."""
    NONE = "none"
    """Nobody: the outcome says only what did or did not leave this process."""


class _Outcome(msgspec.Struct, frozen=True, kw_only=True, tag_field="outcome"):
    """What every outcome carries.

    Attributes:
        order: the order as the caller named it.
        venue: the gateway's name, ``"tronsave"``.
        attempts: how many cancel requests were tried for this order, sent or not.
        elapsed: seconds from the call to the outcome.
        wire: how far those requests got.
        evidence: who proved the outcome.
        code: the vendor's code, verbatim, or None.
        message: the vendor's text, verbatim, or the reason why nothing better is known, or None.
    """

    order: OrderRef
    venue: str
    attempts: int
    elapsed: float
    wire: Wire
    evidence: Evidence
    code: str | None = None
    message: str | None = None

    closed: ClassVar[bool] = False
    """True only where the vendor proved that the order is dead."""


class Canceled(_Outcome, frozen=True, kw_only=True, tag="canceled"):
    """The order is dead and was not fully filled.

    Attributes:
        executed: amount filled before the cancel, in the vendor's unit; None where the vendor did not tell.
        remaining: amount that will never be filled, in the vendor's unit; None where the vendor did not tell.
    """

    executed: Decimal | None = None
    remaining: Decimal | None = None

    closed: ClassVar[bool] = True


class AlreadyClosed(_Outcome, frozen=True, kw_only=True, tag="already_closed"):
    """The order was dead before this cancel.

    Attributes:
        state: FILLED, CANCELED, EXPIRED, or CLOSED where the vendor does not tell how.
        executed: amount filled, in the vendor's unit; None where the vendor did not tell. Never assume zero.
    """

    state: OrderState
    executed: Decimal | None = None

    closed: ClassVar[bool] = True


class NotFound(_Outcome, frozen=True, kw_only=True, tag="not_found"):
    """The vendor's own words: it knows no such order. Never guessed from a timeout or an ambiguous attempt."""


class TooEarly(_Outcome, frozen=True, kw_only=True, tag="too_early"):
    """The vendor does not permit a cancel before ``retry_at`` (aware, UTC), by its rule and the order's known age.
    Nothing was sent: what became of the order otherwise is not said."""

    retry_at: datetime


class Refused(_Outcome, frozen=True, kw_only=True, tag="refused"):
    """The vendor said no: the order was not closed by this call. Treat it as alive."""


class NotSent(_Outcome, frozen=True, kw_only=True, tag="not_sent"):
    """No byte of this call left this process, and no other call left the order in doubt: this call did not touch the
    order, and repeating it is safe."""


class Unknown(_Outcome, frozen=True, kw_only=True, tag="unknown"):
    """The order may or may not be dead. Read it again (`OrderGateway.get_order`) before acting on it.

    Attributes:
        last_state: the last state the vendor reported during this call, or None. It may be stale: a request that
            was lost can still take effect.
    """

    last_state: OrderState | None = None


CancelOutcome = Canceled | AlreadyClosed | NotFound | TooEarly | Refused | NotSent | Unknown
"""Any of the seven."""
