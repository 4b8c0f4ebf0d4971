"""The judge: what the vendor recorded decides whether an outcome was true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tronsave_async import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    Evidence,
    NotFound,
    NotSent,
    OrderState,
    Refused,
    TooEarly,
    Unknown,
    Wire,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from .stage import Record, Stage

__all__ = ["lie"]

DEAD_UNFILLED = frozenset({OrderState.CANCELED, OrderState.EXPIRED})


def lie(stage: Stage, outcome: CancelOutcome, arrived: int) -> str | None:
    """Say what an outcome claims that is not so; None if it told the truth.

    Args:
        stage: the vendor.
        outcome: what the caller was told.
        arrived: how many cancels for the order arrived by reason of the call.
    """
    order_id = outcome.order.id or ""
    record = stage.record(order_id)
    claims = {
        "its venue": outcome.venue == stage.venue,
        "what became of the order": _is_borne_out(outcome, record),
        "who proved it": _is_evidence(outcome),
        "how often it was tried": arrived <= outcome.attempts,
        "that nothing was sent": outcome.wire is not Wire.NOT_SENT or arrived == 0,
        "that it was answered": outcome.wire is not Wire.ANSWERED or arrived > 0,
        "how long it took": outcome.elapsed >= 0,
        "its serialization": _reads_back(outcome),
    }
    false = [claim for claim, is_so in claims.items() if not is_so]
    if not false:
        return None
    return f"{outcome!r} is wrong about {', '.join(false)}: {record}, {arrived} cancels arrived"


def _is_borne_out(outcome: CancelOutcome, record: Record | None) -> bool:
    match outcome:
        case Canceled(executed=executed, remaining=remaining):
            dead = record is not None and record.state in DEAD_UNFILLED
            return dead and _amounts(record, executed, remaining)
        case AlreadyClosed(state=state, executed=executed):
            told = record is not None and _is_closed_as(state, record.state)
            return told and _amounts(record, executed, None)
        case NotFound():
            return record is None
        case Refused() | TooEarly():
            return record is None or record.state.is_open
        case NotSent() | Unknown():
            return not outcome.closed


def _is_closed_as(told: OrderState, state: OrderState) -> bool:
    """Vendors call what they ended by themselves canceled as well; a fill is never called anything else."""
    if told is OrderState.CLOSED:
        return state.is_closed
    return state is told or (told is OrderState.CANCELED and state is OrderState.EXPIRED)


def _amounts(record: Record | None, executed: Decimal | None, remaining: Decimal | None) -> bool:
    if record is None:
        return False
    return executed in (None, record.executed) and remaining in (None, record.remaining)


def _is_evidence(outcome: CancelOutcome) -> bool:
    """What is called proved names its proof; what is not proved names none."""
    if isinstance(outcome, NotSent | Unknown | TooEarly):
        return outcome.evidence is Evidence.NONE and not outcome.closed
    return outcome.evidence is not Evidence.NONE


def _reads_back(outcome: CancelOutcome) -> bool:
    decoded: CancelOutcome = msgspec.json.decode(msgspec.json.encode(outcome), type=CancelOutcome)
    return type(decoded) is type(outcome) and decoded.order.name == outcome.order.name
