"""TronSave's history: queries, pages, and where to look for an order."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brokers.tronsave.config import HISTORY_SLACK
from brokers.tronsave.history import Pages, Period, created_at, periods, query_of, read_page
from brokers.tronsave.wire import HistoryPage, HistoryRow
from support.tronsave_wire import (
    HOSTILE_VALUES,
    LITERALS,
    NOT_TRONSAVE,
    A,
    B,
    encoded,
    error_of,
    literal,
)
from tronsave_async.errors import (
    AuthenticationRejected,
    BadReply,
    RateLimited,
    UsageError,
    VendorFailure,
)

NOW = datetime(2024, 11, 20, 4, tzinfo=UTC)
SLACK = timedelta(seconds=HISTORY_SLACK)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# -- queries ---------------------------------------------------------------------------------------


def test_the_documented_query() -> None:
    """The literal query is what its period and page give, in milliseconds and as text."""
    query = LITERALS["history"]["query"]
    start = EPOCH + timedelta(milliseconds=int(query["from"]))
    end = EPOCH + timedelta(milliseconds=int(query["to"]))
    assert query_of(start, end, 0, 10) == query


def test_a_bound_that_is_not_given_is_not_sent() -> None:
    """No bound means no parameter, not an empty one."""
    assert query_of(None, None, 3, 50) == {"page": "3", "pageSize": "50"}
    assert "to" not in query_of(NOW, None, 0, 1)
    assert "from" not in query_of(None, NOW, 0, 1)


@given(moment=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=7))])))
def test_milliseconds_are_exact(moment: datetime) -> None:
    """A time is sent to the millisecond, however large it is: no float on the way loses one."""
    sent = timedelta(milliseconds=int(query_of(moment, None, 0, 1)["from"]))
    assert timedelta(0) <= (moment - EPOCH) - sent < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("start", "end", "page", "page_size", "reason"),
    [
        (NOW.replace(tzinfo=None), None, 0, 1, "aware"),
        (None, NOW.replace(tzinfo=None), 0, 1, "aware"),
        (NOW, NOW - timedelta(seconds=1), 0, 1, "ends before it starts"),
        (None, None, -1, 1, "page must be"),
        (None, None, 0, 0, "page_size"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(
    start: datetime | None, end: datetime | None, page: int, page_size: int, reason: str
) -> None:
    """Naive times, a period turned around and impossible pages are the caller's mistakes."""
    with pytest.raises(UsageError, match=reason):
        query_of(start, end, page, page_size)


def test_an_empty_period_is_a_period() -> None:
    """One moment is allowed."""
    query = query_of(NOW, NOW, 0, 1)
    assert query["from"] == query["to"]


# -- replies ---------------------------------------------------------------------------------------


def test_the_documented_page() -> None:
    """The literal reply is one row of one, with its amounts."""
    page = read_page(200, literal("history"))
    assert page.total == 1
    (row,) = page.results
    assert (row.id, row.status, row.is_matched) == ("673d586ad2451e67c4d0943b", "Completed", True)
    assert row.charge_amount == 4_485_000
    assert row.paid_amount_actual == 4_127_500
    assert row.repay_amount == 357_500


@pytest.mark.parametrize(
    ("when", "error"),
    [("apikey not valid", AuthenticationRejected), ("rate limit", RateLimited)],
)
def test_an_error_is_raised_as_what_it_is(when: str, error: type[Exception]) -> None:
    """A page that is an error is not an empty page; the asked-for pause is kept."""
    status, body = error_of(when)
    with pytest.raises(error) as caught:
        read_page(status, body, 7.5)
    assert getattr(caught.value, "retry_after", None) == 7.5


def test_a_failing_vendor_is_not_an_empty_page() -> None:
    """A 5xx with HTML is a failure, whatever its body."""
    with pytest.raises(VendorFailure):
        read_page(502, b"<html>")


@pytest.mark.parametrize("body", NOT_TRONSAVE.values(), ids=NOT_TRONSAVE.keys())
def test_a_foreign_body_is_a_bad_reply(body: bytes) -> None:
    """What is not a page is never read as an empty one: "no such order" would be a lie."""
    with pytest.raises(BadReply, match="not TronSave's") as caught:
        read_page(200, body)
    assert caught.value.status == 200


AMOUNTS = ["amount", "charge_amount", "is_matched", "created_at", "options", "status", "repay_by"]


@pytest.mark.parametrize("field", AMOUNTS)
@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES.keys())
def test_an_odd_field_hides_neither_its_order_nor_the_others(field: str, value: bytes) -> None:
    """A field of an unexpected type is lost; its row's other fields, the other rows and the total are not."""
    odd = b'{"_id":"%s","requester":"T1","%s":%s}' % (A.encode(), field.encode(), value)
    body = b'{"total":2,"results":[%s,{"_id":"%s","amount":5}]}' % (odd, B.encode())
    try:
        page = read_page(200, body)
    except BadReply:
        assert len(value) >= 5000, "only numbers of thousands of digits spoil the whole"
        return
    first, second = page.results
    assert (first.id, first.requester) == (A, "T1")
    assert second == HistoryRow(id=B, amount=5)
    assert page.total == 2


@pytest.mark.parametrize("total", ['"many"', "[]", "1.5", "null"])
def test_an_odd_total_hides_no_row(total: str) -> None:
    """A total that cannot be read is one that the reply does not say."""
    page = read_page(200, f'{{"total":{total},"results":[{{"_id":"{A}"}}]}}'.encode())
    assert page == HistoryPage([HistoryRow(id=A)], None)


def test_an_odd_row_hides_no_other() -> None:
    """A row without a readable id is lost, and only that."""
    body = encoded({"total": 3, "results": [{"_id": 1}, {"_id": A}, None, {"status": "Pending"}]})
    assert read_page(200, body) == HistoryPage([HistoryRow(id=A)], 3)


def test_numbers_in_text_are_numbers() -> None:
    """The vendor sends amounts both ways."""
    (row,) = read_page(200, b'{"results":[{"_id":"x","amount":"65000"}]}').results
    assert row.amount == 65_000


# -- pages -----------------------------------------------------------------------------------------


def rows_of(*ids: str) -> list[HistoryRow]:
    """Return rows with these ids."""
    return [HistoryRow(id=order_id) for order_id in ids]


def test_an_empty_page_ends_the_period() -> None:
    """Without a total, pages are asked for until one is empty."""
    pages = Pages()
    assert (pages.next_page, pages.complete) == (0, False)
    assert list(pages.take(HistoryPage(rows_of("a", "b")))) == rows_of("a", "b")
    assert (pages.next_page, pages.complete) == (1, False)
    assert list(pages.take(HistoryPage([]))) == []
    assert (pages.next_page, pages.complete) == (2, True)


def test_the_total_ends_the_period() -> None:
    """As many rows as the total: no further page is asked for, and one less is not enough."""
    pages = Pages()
    pages.take(HistoryPage(rows_of("a", "b"), total=3))
    assert not pages.complete
    pages.take(HistoryPage(rows_of("c"), total=3))
    assert pages.complete


def test_a_row_that_a_shifted_page_repeats_comes_once() -> None:
    """A new order shifts the pages by one: the repeated row is dropped, and the last one still read."""
    pages = Pages()
    assert list(pages.take(HistoryPage(rows_of("c", "b"), total=3))) == rows_of("c", "b")
    assert list(pages.take(HistoryPage(rows_of("b", "a"), total=4))) == rows_of("a")
    assert pages.complete


@pytest.mark.parametrize("total", [None, 4, 1000])
def test_a_page_of_nothing_but_repeats_ends_the_period(total: int | None) -> None:
    """Only a fresh row shows that pages go on: one among repeats is enough, none is the end, whatever the total."""
    pages = Pages()
    assert list(pages.take(HistoryPage(rows_of("d", "c"), total))) == rows_of("d", "c")
    assert not pages.complete
    assert list(pages.take(HistoryPage(rows_of("c", "b"), None))) == rows_of("b")
    assert not pages.complete
    assert list(pages.take(HistoryPage(rows_of("d", "b"), 1000))) == []
    assert (pages.next_page, pages.complete) == (3, True)


@given(rows=st.integers(0, 12), tells_total=st.booleans(), more=st.integers(0, 100))
def test_a_vendor_that_ignores_the_page_ends_it(rows: int, tells_total: bool, more: int) -> None:
    """The same page again and again is read once: the second look at it ends the period."""
    same = rows_of(*map(str, range(rows)))
    page = HistoryPage(same, rows + more if tells_total else None)
    pages, read = Pages(), list[HistoryRow]()
    while pages.go_on():
        assert pages.next_page < 2
        read += pages.take(page)
    assert read == same


def test_reading_goes_on_until_the_end_or_the_limit() -> None:
    """So many pages at most are asked for, and none after the last."""
    pages = Pages()
    assert pages.go_on()
    assert pages.go_on(1)
    assert not pages.go_on(0)
    pages.take(HistoryPage(rows_of("a")))
    assert pages.go_on()
    assert pages.go_on(2)
    assert not pages.go_on(1)
    pages.take(HistoryPage([]))
    assert not pages.go_on()
    assert not pages.go_on(100)


@given(
    orders=st.integers(0, 40),
    size=st.integers(1, 12),
    tells_total=st.booleans(),
    newcomers=st.lists(st.integers(0, 12), max_size=6),
)
def test_every_row_of_a_period_comes_exactly_once(
    orders: int, size: int, tells_total: bool, newcomers: list[int]
) -> None:
    """However the pages are cut and shifted by new orders, fewer than a page between two of them, each old row is read
    once and the reading ends."""
    newcomers = [min(count, size - 1) for count in newcomers]
    history = [str(number) for number in range(orders, 0, -1)]
    pages, read, arriving = Pages(), list[str](), iter(newcomers)
    while pages.go_on():
        assert pages.next_page <= math.ceil((orders + sum(newcomers)) / size) + 1
        start = pages.next_page * size
        total = len(history) if tells_total else None
        page = HistoryPage(rows_of(*history[start : start + size]), total)
        read += [row.id for row in pages.take(page)]
        history = [f"new {len(history) + n}" for n in range(next(arriving, 0))] + history
    assert len(read) == len(set(read))
    assert {str(number) for number in range(1, orders + 1)} <= set(read)


# -- where to look ---------------------------------------------------------------------------------


def test_an_id_tells_when_its_order_was_created() -> None:
    """The documented row's id carries the second in which its page says that it was created, up to a few."""
    (row,) = LITERALS["history"]["reply_200"]["results"]
    created = created_at(row["_id"])
    assert created is not None
    assert abs(created - datetime.fromisoformat(row["created_at"])) < timedelta(seconds=5)
    assert created.tzinfo is UTC


@given(seconds=st.integers(0, 2**32 - 1), rest=st.integers(0, 2**64 - 1), upper=st.booleans())
def test_any_object_id_tells_its_second(seconds: int, rest: int, upper: bool) -> None:
    """The first four bytes are seconds since 1970, in either case, to the end of 32 bits."""
    order_id = f"{seconds:08x}{rest:016x}"
    created = created_at(order_id.upper() if upper else order_id)
    assert created == EPOCH + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "order_id",
    [
        "",
        "673c17a3129f1881382e98e",
        "673c17a3129f1881382e98e33",
        "673c17a3129f1881382e98eg",
        "0x3c17a3129f1881382e98e3",
        "+73c17a3129f1881382e98e3",
        "-73c17a3129f1881382e98e3",
        "673c_7a3129f1881382e98e3",
        " 73c17a3129f1881382e98e3",
        "673c17a3129f1881382e98e\n",
        "673c17a3129f1881382e98e3\n",
        "٦73c17a3129f1881382e98e3",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    ],
)
def test_an_id_of_another_form_tells_nothing(order_id: str) -> None:
    """Only 24 hexadecimal digits are an ObjectId: what Python reads as a number is not enough."""
    assert created_at(order_id) is None


def test_where_an_order_is_looked_for() -> None:
    """Around its creation with the slack on both sides; the last day for an id that does not tell."""
    created = created_at(A)
    assert created is not None
    assert periods([A], now=NOW) == [Period(created - SLACK, created + SLACK)]
    assert periods(["other"], now=NOW) == [Period(NOW - timedelta(days=1), NOW + SLACK)]
    assert periods(["0" * 24], now=NOW) == [Period(EPOCH, EPOCH + SLACK)]
    assert periods([], now=NOW) == []


def object_id(seconds: int) -> str:
    """Return the id of an order that was created so many seconds after 1970."""
    return f"{seconds:08x}{0:016x}"


@pytest.mark.parametrize(("apart", "count"), [(0, 1), (239, 1), (240, 1), (241, 2)])
def test_periods_that_touch_are_joined(apart: int, count: int) -> None:
    """Two orders within twice the slack are looked for together, later ones on their own."""
    found = periods([object_id(10**9), object_id(10**9 + apart)], now=NOW)
    assert len(found) == count
    assert found[-1].end - found[0].start == timedelta(seconds=apart) + 2 * SLACK


IDS = st.lists(
    st.integers(-90_000, 1_000).map(lambda ago: object_id(int(NOW.timestamp()) + ago))
    | st.sampled_from(["x", "y"]),
    max_size=12,
)


@given(ids=IDS)
@example(ids=["x", object_id(int(NOW.timestamp()) - 3600)])
def test_every_order_is_looked_for_and_no_period_twice(ids: list[str]) -> None:
    """Periods are sorted, apart from each other, and hold every order's own; repeated ids change nothing."""
    found = periods(ids, now=NOW)
    assert found == periods([*ids, *ids], now=NOW)
    assert all(one.end < other.start for one, other in itertools.pairwise(found))
    for order_id in ids:
        created = created_at(order_id)
        wanted = (NOW - timedelta(days=1), NOW) if created is None else (created, created)
        assert any(p.start <= wanted[0] and wanted[1] <= p.end for p in found)
