"""A vendor's quota for the day: how much is used, and until when there is no point in asking. No clock, no I/O."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from weakref import WeakValueDictionary

from tronsave_async.arguments import whole_number

__all__ = ["DailyQuota", "shared_quota"]

PATIENCE: Final = timedelta(hours=1)
"""Vendors do not say when their day begins: refused again after midnight UTC, they are asked once an hour."""


class DailyQuota:
    """Counts the requests of one account in a day of UTC, and remembers when the vendor called the day's quota used up.

    Args:
        requests: the quota, at least 1.

    Raises:
        UsageError: it is not.
    """

    def __init__(self, requests: int) -> None:
        self._requests = whole_number("daily_quota", requests, least=1)
        self._day: datetime | None = None
        """The latest day on which a request was counted: its midnight."""
        self._today = self._tomorrow = datetime.min.replace(tzinfo=UTC)
        """The day of the latest question."""
        self._used = 0
        self._refused_until: datetime | None = None

    @property
    def used(self) -> int:
        """Requests on the latest day."""
        return self._used

    def tighten(self, requests: int) -> None:
        """Go by the smaller of two quotas."""
        self._requests = min(self._requests, whole_number("daily_quota", requests, least=1))

    def count(self, now: datetime) -> None:
        """A request may leave at ``now`` (aware, UTC)."""
        day = self._midnight(now)
        if day != self._day:
            self._day, self._used = day, 0
        self._used += 1

    def give_back(self, counted_at: datetime) -> None:
        """The request that was counted then did not leave."""
        if self._midnight(counted_at) == self._day:
            self._used -= 1

    def refused(self, now: datetime) -> None:
        """The vendor says at ``now`` that the quota is used up."""
        before = self._refused_until
        if before is None or now >= before + PATIENCE:
            self._refused_until = self._midnight(now) + timedelta(days=1)
        elif now >= before:
            self._refused_until = now + PATIENCE

    def closed_until(self, now: datetime) -> datetime | None:
        """Until when nothing should be sent, or None."""
        day = self._midnight(now)
        if self._used >= self._requests and day == self._day:
            return day + timedelta(days=1)
        until = self._refused_until
        return until if until is not None and now < until else None

    def admit(self, now: datetime) -> bool:
        """Count a request that may leave at ``now``; False, and nothing is counted, where nothing should be sent."""
        day, until = self._midnight(now), self._refused_until
        if until is not None and now < until:
            return False
        if day != self._day:
            self._day, self._used = day, 0
        if self._used >= self._requests:
            return False
        self._used += 1
        return True

    def _midnight(self, now: datetime) -> datetime:
        if not self._today <= now < self._tomorrow:
            self._today = now.replace(hour=0, minute=0, second=0, microsecond=0)
            self._tomorrow = self._today + timedelta(days=1)
        return self._today


_shared: WeakValueDictionary[str, DailyQuota] = WeakValueDictionary()


def shared_quota(account: str, requests: int) -> DailyQuota:
    """The account's quota in this process, kept as long as a gateway uses it; of two sizes, the smaller.

    Args:
        account: names the account; never a secret.
        requests: the quota.
    """
    quota = _shared.get(account)
    if quota is None:
        quota = _shared[account] = DailyQuota(requests)
    else:
        quota.tighten(requests)
    return quota
