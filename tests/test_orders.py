"""Orders: their names, states and snapshots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import msgspec
import pytest

from tronsave_async.errors import UsageError
from tronsave_async.orders import BearerRef, OrderRef, OrderSnapshot, OrderState

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

# state: (is_closed, is_open)
LIVES = {
    OrderState.OPEN: (False, True),
    OrderState.PARTIALLY_FILLED: (False, True),
    OrderState.FILLED: (True, False),
    OrderState.CANCELED: (True, False),
    OrderState.EXPIRED: (True, False),
    OrderState.CLOSED: (True, False),
    OrderState.UNKNOWN: (False, False),
}


@pytest.mark.parametrize("state", OrderState)
def test_a_state_is_closed_open_or_not_known(state: OrderState) -> None:
    """Every state is dead or alive, but for the one that nobody knows: it is neither."""
    assert (state.is_closed, state.is_open) == LIVES[state]


def test_states_are_the_fields_words() -> None:
    """Their values are part of what is serialized, and do not change."""
    words = ["open", "partially_filled", "filled", "canceled", "expired", "closed", "unknown"]
    assert [state.value for state in OrderState] == words


@pytest.mark.parametrize(
    "ids", [{}, {"id": "1", "client_id": "2"}, {"id": "", "client_id": ""}, {"created_at": AT}]
)
def test_a_ref_takes_exactly_one_id(ids: dict[str, str]) -> None:
    """Both ids or none do not name an order."""
    with pytest.raises(UsageError, match=r"^an OrderRef takes exactly one of id and client_id$"):
        OrderRef(**ids)  # type: ignore[arg-type]


def test_a_ref_is_not_positional() -> None:
    """Nobody passes a client's id for the vendor's by its place."""
    with pytest.raises(TypeError):
        OrderRef("673c17a3129f1881382e98e3")  # type: ignore[call-arg]


@pytest.mark.parametrize("field", ["id", "client_id"])
@pytest.mark.parametrize("value", ["\ud800", "673c\udcff", 7, b"673c", ["673c"]])
def test_a_ref_takes_text_that_can_be_sent(field: str, value: object) -> None:
    """Half a character, or what is no text, can be neither sent nor serialized."""
    with pytest.raises(UsageError, match=r"^an order's id must be valid Unicode text$"):
        OrderRef(**{field: value})  # type: ignore[arg-type]


def test_a_ref_takes_any_unicode() -> None:
    """What looks odd to us may be an id to the vendor."""
    assert OrderRef(id="\U0001f600\u0000").id == "\U0001f600\u0000"


def test_a_ref_takes_no_naive_time() -> None:
    """A time of creation without a time zone could be hours off."""
    with pytest.raises(UsageError, match=r"^OrderRef\.created_at must be an aware datetime$"):
        OrderRef(id="1", created_at=datetime(2026, 1, 2))  # noqa: DTZ001


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-3))])
def test_a_ref_takes_any_aware_time(zone: timezone) -> None:
    """Any time zone will do."""
    assert OrderRef(id="1", created_at=AT.astimezone(zone)).created_at == AT


def test_a_ref_prints_as_the_id_it_names() -> None:
    """The vendor's id stands for itself; a client's is marked as such."""
    assert str(OrderRef(id="673c17a3", created_at=AT)) == "673c17a3"
    assert str(OrderRef(client_id="mine")) == "client_id=mine"


def test_refs_are_values() -> None:
    """Equal refs are one key of a dict, an id is echoed verbatim, and none can be changed."""
    assert len({OrderRef(id="1"), OrderRef(id="1"), OrderRef(client_id="1")}) == 2
    assert OrderRef(id=" 1\n").id == " 1\n"
    with pytest.raises(AttributeError):
        OrderRef(id="1").id = "2"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("ref", "data"),
    [
        (OrderRef(id="1"), b'{"id":"1"}'),
        (OrderRef(client_id="1"), b'{"client_id":"1"}'),
        (OrderRef(id="1", created_at=AT), b'{"id":"1","created_at":"2026-01-02T03:04:05Z"}'),
    ],
)
def test_a_ref_goes_through_json(ref: OrderRef, data: bytes) -> None:
    """Only what is known is written, and read again it is equal."""
    assert msgspec.json.encode(ref) == data
    assert msgspec.json.decode(data, type=OrderRef) == ref


@pytest.mark.parametrize(
    "data", [b"{}", b'{"id":"1","client_id":"2"}', b'{"id":"1","created_at":"2026-01-02T03:04:05"}']
)
def test_a_bad_ref_does_not_come_in_through_json(data: bytes) -> None:
    """What the constructor refuses, the decoder refuses."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(data, type=OrderRef)


def test_a_snapshot_invents_nothing() -> None:
    """What the vendor did not tell is None, above all the amounts."""
    snapshot = OrderSnapshot(order=OrderRef(id="1"), venue="v", state=OrderState.UNKNOWN)
    assert (snapshot.vendor_state, snapshot.executed, snapshot.remaining) == (None, None, None)
    with pytest.raises(AttributeError):
        snapshot.executed = Decimal(0)  # type: ignore[misc]


def test_a_snapshot_goes_through_json() -> None:
    """Amounts keep every digit, and the state its word."""
    snapshot = OrderSnapshot(
        order=OrderRef(id="1"),
        venue="v",
        state=OrderState.PARTIALLY_FILLED,
        vendor_state="Partial",
        executed=Decimal("0.10"),
        remaining=Decimal("123456789012345678901234567890.000000001"),
    )
    data = msgspec.json.encode(snapshot)
    assert b'"executed":"0.10"' in data
    assert msgspec.json.decode(data, type=OrderSnapshot) == snapshot


# -- an id that is a secret --------------------------------------------------------------------------------------

BEARER = "7dc6e6b61d8c54dff6b8d6ea2e3f08b018e57963df81d493a6f9728c4dc83318"


def test_a_bearer_ref_is_shown_masked() -> None:
    """Printed, alone or within a snapshot, a bearer's id shows its beginning and no more."""
    ref = BearerRef(id=BEARER, created_at=AT)
    snapshot = OrderSnapshot(order=ref, venue="v", state=OrderState.OPEN)
    for text in (repr(ref), str(ref), f"{ref}", repr(snapshot), str(snapshot), repr([ref])):
        assert BEARER[:4] in text
        assert BEARER[4:9] not in text
    assert str(ref) == "7dc6…"
    assert repr(ref) == f"OrderRef(id='7dc6…', created_at={AT!r})"


def test_a_bearer_ref_is_the_order_it_names() -> None:
    """It equals the plain ref of the same name and time, either way round, and no other."""
    ref, plain = BearerRef(id=BEARER), OrderRef(id=BEARER)
    assert ref == plain
    assert plain == ref
    assert ref == BearerRef(id=BEARER)
    assert ref.name == plain.name == (BEARER, None)
    assert hash(ref) == hash(BearerRef(id=BEARER))
    assert len({ref, BearerRef(id=BEARER), BearerRef(id=BEARER, created_at=AT)}) == 2
    for other in (
        OrderRef(id="1"),
        OrderRef(client_id=BEARER),
        OrderRef(id=BEARER, created_at=AT),
        BearerRef(id=BEARER, created_at=AT),
        BEARER,
        None,
    ):
        assert ref != other
        assert other != ref


def test_a_bearer_ref_is_kept_whole() -> None:
    """What is written down is the plain name, and read again it names the same order."""
    ref = BearerRef(id=BEARER, created_at=AT)
    data = msgspec.json.encode(ref)
    assert data == msgspec.json.encode(OrderRef(id=BEARER, created_at=AT))
    assert msgspec.json.decode(data, type=OrderRef) == ref
    with pytest.raises(UsageError):
        BearerRef(id="1", client_id="2")
    with pytest.raises(AttributeError):
        ref.id = "2"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (OrderRef(id=BEARER), True),
        (BearerRef(id=BEARER), True),
        (OrderRef(id="1"), False),
        (BearerRef(id="1"), False),
        (BEARER, False),
    ],
)
def test_a_bearer_ref_equals_or_differs(other: object, equal: bool) -> None:
    """Either ``==`` or ``!=``, never both, whichever stands first."""
    ref = BearerRef(id=BEARER)
    assert [ref == other, other == ref] == [equal, equal]
    assert [ref != other, other != ref] == [not equal, not equal]
