"""TronSave's messages: the documented literals fit, and one odd item hides no other."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.tronsave import config, wire
from support.tronsave_wire import (
    ENDPOINTS,
    HOSTILE_VALUES,
    LITERALS,
    NOT_TRONSAVE,
    A,
    B,
    C,
    encoded,
    literal,
)

# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "request_type"),
    [
        ("cancel", wire.OrderIds),
        ("confirm", wire.OrderIds),
        ("track", wire.OrderIds),
        ("create", wire.CreateRequest),
        ("estimate", wire.EstimateRequest),
    ],
)
def test_a_request_is_the_documented_one(endpoint: str, request_type: type[Any]) -> None:
    """Each request is encoded to the documented body, field for field and in that order."""
    body = LITERALS[endpoint]["request"]
    assert wire.encode(request_type(**body)) == encoded(body)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_call_s_path_is_the_documented_one(endpoint: str) -> None:
    """Each call goes where its page says."""
    assert config.PATHS[endpoint] == LITERALS[endpoint]["path"]
    assert LITERALS[endpoint]["method"] == ("GET" if endpoint == "history" else "POST")


def test_hosts_and_limits_are_the_documented_ones() -> None:
    """Base URLs and the rate limit are the pages' own."""
    hosts = (LITERALS["base_url"], LITERALS["testnet_base_url"])
    assert hosts == (config.MAINNET, config.NILE)
    limit = LITERALS["rate_limit_per_endpoint"]
    assert (config.RATE_LIMIT.requests, config.RATE_LIMIT.per) == (
        limit["requests"],
        limit["per_seconds"],
    )


# -- replies ---------------------------------------------------------------------------------------


def test_the_documented_replies_fit() -> None:
    """Every literal reply decodes to its type with every value it carries."""
    assert msgspec.json.decode(literal("cancel"), type=wire.CancelReply) == wire.CancelReply(
        [wire.CancelItem(C, is_success=True, fail_reason=None)]
    )
    assert msgspec.json.decode(literal("confirm"), type=wire.ConfirmReply) == wire.ConfirmReply(
        [wire.ConfirmResult("673d5fe2d2451e67c4d09483", is_success=True, fail_reason=None)]
    )
    assert msgspec.json.decode(literal("create"), type=wire.CreateReply) == wire.CreateReply([B, C])
    assert msgspec.json.decode(literal("track"), type=wire.TrackReply) == wire.TrackReply(
        [wire.TrackItem(B, "Completed"), wire.TrackItem(C, "Pending")]
    )
    estimate = msgspec.json.decode(literal("estimate"), type=wire.Estimate, strict=False)
    assert estimate == wire.Estimate(
        charge_amount=44_850_000,
        price=69,
        max_receiver_can_provide=8,
        able_to_match=True,
        internal_balance=117_505_470,
    )


def test_the_documented_history_row_fits_in_every_field() -> None:
    """All 28 fields of the literal row are read, amounts as integers and times as aware UTC."""
    page = msgspec.json.decode(literal("history"), type=wire.HistoryPage)
    (row,) = page.results
    (documented,) = LITERALS["history"]["reply_200"]["results"]
    assert page.total == 1
    milliseconds = msgspec.json.encode(row).replace(b'000Z"', b'Z"')
    assert json.loads(milliseconds) == documented
    assert len(documented) == len(msgspec.structs.fields(row)) == 28
    assert row.created_at == datetime(2024, 11, 20, 3, 32, 58, 722_000, UTC)
    assert row.created_at.tzinfo is UTC


@pytest.mark.parametrize("error", LITERALS["errors"], ids=lambda error: error["when"])
def test_the_documented_errors_fit(error: dict[str, Any]) -> None:
    """Every literal error decodes to the one error type."""
    body = msgspec.json.decode(encoded(error["body"]), type=wire.ErrorBody)
    assert body.message == error["body"]["message"]
    assert body.error == error["body"]["error"]
    assert body.code == error["body"].get("code")


def test_what_no_page_promises_is_optional() -> None:
    """A row needs its id alone, an estimate its charge, an item its order; unknown fields are ignored."""
    decode = msgspec.json.decode
    assert decode(b'{"_id":"x","new":[{}]}', type=wire.HistoryRow) == wire.HistoryRow(id="x")
    assert decode(b'{"charge_amount":1,"x":1}', type=wire.Estimate) == wire.Estimate(
        charge_amount=1
    )
    assert decode(b'{"order_id":"x","y":1}', type=wire.TrackItem) == wire.TrackItem("x")
    assert decode(b'{"order_id":"x"}', type=wire.CancelItem) == wire.CancelItem("x", None)
    assert decode(b'{"results":[]}', type=wire.HistoryPage) == wire.HistoryPage([])


def test_a_time_without_an_offset_does_not_fit() -> None:
    """A naive time is no time: it cannot be compared with an aware one."""
    with pytest.raises(msgspec.ValidationError, match="timezone"):
        msgspec.json.decode(b'{"_id":"x","repay_at":"2024-11-20T03:32:58"}', type=wire.HistoryRow)
    body = b'{"results":[{"_id":"x","repay_at":"2024-11-20T03:32:58","amount":5}]}'
    rows = wire.decode_items(body, "results", wire.HistoryRow, strict=False)
    assert rows == [wire.HistoryRow(id="x", amount=5)]


# -- item by item ----------------------------------------------------------------------------------


def tracked(body: bytes) -> list[wire.TrackItem] | None:
    """Return the items of a tracking reply, one by one."""
    return wire.decode_items(body, "results", wire.TrackItem, strict=True)


@pytest.mark.parametrize(
    "odd", ["null", "1", '"x"', "[]", "{}", '{"order_id":1}', '{"status":"x"}']
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_odd_item_hides_no_other(odd: str, place: int) -> None:
    """Wherever an unreadable item stands, the readable ones are read, in order."""
    items = [f'{{"order_id":"{A}","status":"Pending"}}', f'{{"order_id":"{B}","status":"Matched"}}']
    items.insert(place, odd)
    body = f'{{"results":[{",".join(items)}]}}'.encode()
    assert tracked(body) == [wire.TrackItem(A, "Pending"), wire.TrackItem(B, "Matched")]


@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES.keys())
def test_an_odd_optional_field_loses_itself_and_not_its_item(value: bytes) -> None:
    """An item whose optional field does not fit keeps its other fields."""
    body = b'{"results":[{"order_id":"%s","status":%s}]}' % (A.encode(), value)
    items = tracked(body)
    if items is None:  # numbers of thousands of digits do not fit into any reply
        assert len(value) >= 5000
        return
    (item,) = items
    assert item.order_id == A
    assert item.status is None or value == encoded(item.status) or value == b'"\\u0000"'


@pytest.mark.parametrize("body", NOT_TRONSAVE.values(), ids=NOT_TRONSAVE.keys())
@pytest.mark.parametrize("field", ["cancel_results", "results"])
def test_a_body_without_the_list_has_no_items(body: bytes, field: str) -> None:
    """A body that is not an object with such a list yields None, never a crash and hardly ever an empty list."""
    assert wire.decode_items(body, field, wire.TrackItem, strict=True) is None


def test_an_item_is_converted_only_where_that_is_asked_for() -> None:
    """Text becomes a number in the history, where the vendor mixes them, and nowhere else."""
    body = b'{"results":[{"_id":"x","amount":"5"}]}'
    lax = wire.decode_items(body, "results", wire.HistoryRow, strict=False)
    strict = wire.decode_items(body, "results", wire.HistoryRow, strict=True)
    assert lax == [wire.HistoryRow(id="x", amount=5)]
    assert strict == [wire.HistoryRow(id="x")]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = [field.encode_name for field in msgspec.structs.fields(wire.HistoryRow)]


@given(rows=st.lists(JSON | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6), max_size=4))
def test_any_json_is_read_as_far_as_it_goes(rows: list[Any]) -> None:
    """Whatever the items are, those with a readable id are returned and nothing is raised."""
    items = wire.decode_items(encoded({"results": rows}), "results", wire.HistoryRow, strict=False)
    assert items is not None
    readable = [row for row in rows if isinstance(row, dict) and isinstance(row.get("_id"), str)]
    assert [item.id for item in items] == [row["_id"] for row in readable]
