"""The seven outcomes: what each says, and how it is written down."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tronsave_async import outcomes
from tronsave_async.orders import OrderRef, OrderState
from tronsave_async.outcomes import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    Evidence,
    NotFound,
    NotSent,
    Refused,
    TooEarly,
    Unknown,
    Wire,
)

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
CARRIED: dict[str, Any] = {
    "order": OrderRef(id="673c17a3129f1881382e98e3"),
    "venue": "tronsave",
    "attempts": 2,
    "elapsed": 0.25,
    "wire": Wire.MAYBE_SENT,
    "evidence": Evidence.READ_BACK,
    "code": "ORDER_CLOSED",
    "message": "Order is closed",
}

# outcome: (tag, closed)
OUTCOMES: list[tuple[CancelOutcome, str, bool]] = [
    (Canceled(**CARRIED, executed=Decimal("0.10"), remaining=Decimal(5)), "canceled", True),
    (Canceled(**CARRIED), "canceled", True),
    (
        AlreadyClosed(**CARRIED, state=OrderState.FILLED, executed=Decimal("1e-9")),
        "already_closed",
        True,
    ),
    (AlreadyClosed(**CARRIED, state=OrderState.CLOSED), "already_closed", True),
    (NotFound(**CARRIED), "not_found", False),
    (TooEarly(**CARRIED, retry_at=AT), "too_early", False),
    (Refused(**CARRIED), "refused", False),
    (NotSent(**CARRIED), "not_sent", False),
    (Unknown(**CARRIED, last_state=OrderState.OPEN), "unknown", False),
    (Unknown(**CARRIED), "unknown", False),
]
IDS = [f"{tag}-{n}" for n, (_, tag, _) in enumerate(OUTCOMES)]
each = pytest.mark.parametrize(("outcome", "tag", "closed"), OUTCOMES, ids=IDS)


def test_there_are_seven() -> None:
    """The union is the seven of the docstring's table, each with the `closed` that it says."""
    row = re.compile(r"^`(\w+)` +.*\b(True|False)$", re.MULTILINE)
    table = [(name, closed == "True") for name, closed in row.findall(outcomes.__doc__ or "")]
    union = [(kind.__name__, kind.closed) for kind in get_args(CancelOutcome)]
    assert table == union
    assert len(union) == 7
    assert {type(outcome) for outcome, _, _ in OUTCOMES} == set(get_args(CancelOutcome))


@each
def test_closed_is_true_only_where_the_vendor_proved_it(
    outcome: CancelOutcome, tag: str, closed: bool
) -> None:
    """`closed` belongs to the kind of outcome, and no instance can say otherwise."""
    assert outcome.closed is closed
    assert type(outcome).closed is closed
    with pytest.raises(AttributeError):
        outcome.closed = not closed  # type: ignore[misc]
    facts = {**CARRIED, "closed": not closed}
    with pytest.raises(TypeError, match="closed"):
        type(outcome)(**facts)


@each
def test_an_outcome_goes_through_json(outcome: CancelOutcome, tag: str, closed: bool) -> None:
    """Read again by the union, an outcome is the same kind with the same facts."""
    data = msgspec.json.encode(outcome)
    assert msgspec.json.decode(data)["outcome"] == tag
    again = msgspec.json.decode(data, type=CancelOutcome)
    assert again == outcome
    assert type(again) is type(outcome)


@each
def test_an_outcome_is_frozen(outcome: CancelOutcome, tag: str, closed: bool) -> None:
    """Nobody rewrites what happened; equal outcomes are equal, and hash."""
    for field in outcome.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(outcome, field, None)
    assert hash(outcome) == hash(msgspec.structs.replace(outcome))


@each
def test_an_outcome_carries_its_facts(outcome: CancelOutcome, tag: str, closed: bool) -> None:
    """Whatever the kind, it says whose order, how far it got and who proved it."""
    assert {field: getattr(outcome, field) for field in CARRIED} == CARRIED


@each
def test_an_outcome_invents_nothing(outcome: CancelOutcome, tag: str, closed: bool) -> None:
    """Code, message, amounts and last state are None unless the vendor told them."""
    optional = {"code", "message", "executed", "remaining", "last_state"}
    told = set(CARRIED) - optional | {"state", "retry_at"}
    given_ = {f: getattr(outcome, f) for f in outcome.__struct_fields__ if f in told}
    bare = type(outcome)(**given_)
    unsaid = [field for field in outcome.__struct_fields__ if field in optional]
    assert [getattr(bare, field) for field in unsaid] == [None] * len(unsaid)


@pytest.mark.parametrize("kind", get_args(CancelOutcome), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("missing", ["order", "venue", "attempts", "elapsed", "wire", "evidence"])
def test_an_outcome_needs_its_facts(kind: type[CancelOutcome], missing: str) -> None:
    """No outcome exists without its order, its wire and its evidence."""
    facts = {**CARRIED, "state": OrderState.FILLED, "retry_at": AT}
    with pytest.raises(TypeError, match=missing):
        kind(**{f: facts[f] for f in kind.__struct_fields__ if f in facts and f != missing})


def test_what_only_one_kind_knows() -> None:
    """A closed order has a state, and a too early cancel a time: they cannot be left out."""
    with pytest.raises(TypeError, match="state"):
        AlreadyClosed(**CARRIED)
    with pytest.raises(TypeError, match="retry_at"):
        TooEarly(**CARRIED)


def test_outcomes_with_equal_facts_are_not_equal() -> None:
    """The kind is part of what an outcome says."""
    plain: list[CancelOutcome] = [NotFound(**CARRIED), Refused(**CARRIED), NotSent(**CARRIED)]
    assert len(set(plain)) == 3


def test_an_outcome_of_no_known_kind_is_not_read() -> None:
    """JSON with another tag, or none, is no outcome."""
    data = msgspec.to_builtins(NotFound(**CARRIED))
    for tag in ("cancelled", "", None):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**data, "outcome": tag}, CancelOutcome)
    del data["outcome"]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, CancelOutcome)


def test_the_words_of_wire_and_evidence() -> None:
    """They are part of what is serialized, and do not change."""
    assert [wire.value for wire in Wire] == ["not_sent", "maybe_sent", "answered"]
    assert [evidence.value for evidence in Evidence] == ["reply", "read_back", "none"]


AMOUNTS = st.none() | st.decimals(allow_nan=False, allow_infinity=False)


@given(AMOUNTS, AMOUNTS, st.text(), st.floats(0.0, 1e9))
def test_no_digit_is_lost_in_json(
    executed: Decimal | None, remaining: Decimal | None, message: str, elapsed: float
) -> None:
    """Any amount and any text of a vendor's comes back as it went."""
    facts = {**CARRIED, "message": message, "elapsed": elapsed}
    outcome = Canceled(**facts, executed=executed, remaining=remaining)
    again = msgspec.json.decode(msgspec.json.encode(outcome), type=CancelOutcome)
    assert isinstance(again, Canceled)
    assert again == outcome
    assert (str(again.executed), str(again.remaining)) == (str(executed), str(remaining))


@each
def test_an_outcome_is_not_positional(outcome: CancelOutcome, tag: str, closed: bool) -> None:
    """Nobody passes an amount executed for one remaining, or an id for a venue, by its place."""
    fields = {name: getattr(outcome, name) for name in outcome.__struct_fields__}
    kind: Any = type(outcome)
    assert kind(**fields) == outcome
    for name in fields:
        others = {other: value for other, value in fields.items() if other != name}
        with pytest.raises(TypeError):
            kind(fields[name], **others)
