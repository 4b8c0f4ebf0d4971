"""TronSave's history (docs.tronsave.io, fast-charge/get-history): queries, pages, where to look for an order.

The history has no filter by order id or status: newest first, a period in milliseconds, pages counted from 0.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from tronsave_async.arguments import whole_number
from tronsave_async.duplicates import has_unique_names
from tronsave_async.errors import BadReply, UsageError
from tronsave_async.outcomes import Wire

from .config import HISTORY_SLACK, VENUE
from .verdict import read_error
from .wire import HistoryPage, HistoryRow, decode_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Pages", "Period", "created_at", "periods", "query_of", "read_page"]


class _Total(msgspec.Struct):
    total: int | None = None


_decode = msgspec.json.Decoder(HistoryPage, strict=False).decode
_decode_total = msgspec.json.Decoder(_Total, strict=False).decode
_UNFIT: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SLACK: Final = timedelta(seconds=HISTORY_SLACK)
_DAY: Final = timedelta(days=1)
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_OBJECT_ID: Final = re.compile(r"[0-9a-fA-F]{24}")


class Period(NamedTuple):
    """From ``start`` to ``end``, aware."""

    start: datetime
    end: datetime


def query_of(
    start: datetime | None, end: datetime | None, page: int, page_size: int
) -> dict[str, str]:
    """The query of one page.

    Raises:
        UsageError: a naive time, a period that ends before it starts, a negative page, or an empty page size.
    """
    for moment in (start, end):
        if moment is not None and moment.tzinfo is None:
            raise UsageError("history takes aware datetimes")
    if start is not None and end is not None and end < start:
        raise UsageError("the period ends before it starts")
    whole_number("page", page, least=0)
    whole_number("page_size", page_size, least=1)
    query = {"page": str(page), "pageSize": str(page_size)}
    if start is not None:
        query["from"] = _milliseconds(start)
    if end is not None:
        query["to"] = _milliseconds(end)
    return query


def read_page(status: int, body: bytes, retry_after: float | None = None) -> HistoryPage:
    """Read a reply. A row with a field of an unexpected type loses that field and not its order.

    Raises:
        VendorError: the reply is an error.
        BadReply: the reply is not TronSave's.
    """
    if (error := read_error("history", status, body, retry_after)) is not None:
        raise error
    try:
        page: HistoryPage | None = _decode(body)
    except _UNFIT:
        rows = decode_items(body, "results", HistoryRow, strict=False)
        page = None if rows is None else HistoryPage(results=rows, total=_total(body))
    if page is None or not has_unique_names(body):
        reason = "the reply is not TronSave's"
        raise BadReply(VENUE, "history", reason, wire=Wire.ANSWERED, status=status)
    return page


def _total(body: bytes) -> int | None:
    try:
        return _decode_total(body).total
    except _UNFIT:
        return None


class Pages:
    """Counts the pages of one period, and drops rows that a shifted page repeats."""

    def __init__(self) -> None:
        self.next_page = 0
        self.complete = False
        self._rows = 0
        self._total: int | None = None
        self._seen: set[str] = set()

    def go_on(self, limit: int | None = None) -> bool:
        """Whether there may be more, and fewer than ``limit`` pages were taken."""
        return not self.complete and (limit is None or self.next_page < limit)

    def take(self, page: HistoryPage) -> Iterator[HistoryRow]:
        """The page's new rows. As many rows as the total complete the period; so does a page without any new row,
        unless the total grew meanwhile and pushed known rows onto it."""
        self.next_page += 1
        self._rows += len(page.results)
        grew = self._total is not None and page.total is not None and page.total > self._total
        self._total = page.total
        reached_total = page.total is not None and self._rows >= page.total
        fresh = [row for row in page.results if row.id not in self._seen]
        self._seen.update(row.id for row in fresh)
        self.complete = reached_total or not (fresh or grew)
        return iter(fresh)


def created_at(order_id: str) -> datetime | None:
    """When an order was created, as far as its id tells: ids look like MongoDB ObjectIds, whose first four bytes are
    seconds. None for an id of another form."""
    if _OBJECT_ID.fullmatch(order_id) is None:
        return None
    return _EPOCH + timedelta(seconds=int(order_id[:8], 16))


def periods(order_ids: Iterable[str], *, now: datetime) -> list[Period]:
    """Where to look for orders: around their creation, periods that touch joined; the last day for other ids."""
    wanted = sorted(_period_of(order_id, now) for order_id in set(order_ids))
    joined: list[Period] = []
    for period in wanted:
        if joined and period.start <= joined[-1].end:
            joined[-1] = Period(joined[-1].start, max(joined[-1].end, period.end))
        else:
            joined.append(period)
    return joined


def _period_of(order_id: str, now: datetime) -> Period:
    created = created_at(order_id)
    if created is None:
        return Period(now - _DAY, now + _SLACK)
    return Period(max(created - _SLACK, _EPOCH), created + _SLACK)


def _milliseconds(moment: datetime) -> str:
    return str((moment - _EPOCH) // timedelta(milliseconds=1))
