"""The day's quota: counted in days of UTC, and left alone once the vendor calls it used up."""

from __future__ import annotations

import gc
from datetime import UTC, datetime, timedelta

import pytest

from tronsave_async import UsageError
from tronsave_async.quota import DailyQuota, shared_quota

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_requests_pass_until_the_quota_is_used() -> None:
    """The last request of the quota may leave; after it nothing does until midnight UTC."""
    quota = DailyQuota(3)
    for _ in range(2):
        quota.count(NOON)
    assert quota.closed_until(NOON) is None
    quota.count(NOON)
    assert quota.closed_until(NOON) == MIDNIGHT
    assert quota.closed_until(MIDNIGHT - timedelta(microseconds=1)) == MIDNIGHT
    assert quota.closed_until(MIDNIGHT) is None


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 4, tzinfo=UTC),
        datetime(2026, 3, 4, 5, 34, 56, 789, tzinfo=UTC),
        MIDNIGHT - timedelta(microseconds=1),
    ],
)
def test_a_day_lasts_from_midnight_to_midnight(moment: datetime) -> None:
    """Whenever in it the first request is counted."""
    quota = DailyQuota(1)
    quota.count(moment)
    assert quota.closed_until(moment) == MIDNIGHT
    assert quota.closed_until(NOON) == MIDNIGHT
    assert quota.closed_until(MIDNIGHT) is None


def test_what_did_not_leave_is_given_back() -> None:
    """A request that was counted and did not leave opens the quota again; yesterday's changes nothing today."""
    quota = DailyQuota(1)
    quota.count(NOON)
    quota.give_back(NOON)
    assert quota.closed_until(NOON) is None
    quota.count(NOON + 24 * HOUR)
    quota.give_back(NOON)
    assert quota.closed_until(NOON + 24 * HOUR) == MIDNIGHT + 24 * HOUR


def test_each_day_counts_anew() -> None:
    """Yesterday's requests are not today's."""
    quota = DailyQuota(2)
    quota.count(NOON)
    quota.count(NOON + 24 * HOUR)
    assert quota.used == 1
    assert quota.closed_until(NOON + 24 * HOUR) is None


def test_the_vendors_word_closes_until_midnight() -> None:
    """Whatever was counted here: others may use the same account."""
    quota = DailyQuota(1000)
    quota.refused(NOON)
    assert quota.closed_until(NOON) == MIDNIGHT
    quota.refused(NOON + HOUR)  # the answer to a request that was under way
    assert quota.closed_until(NOON + HOUR) == MIDNIGHT


def test_a_vendor_whose_day_begins_later_is_asked_once_an_hour() -> None:
    """Refused again right after midnight UTC, nothing is sent for another hour, and another."""
    quota = DailyQuota(1000)
    quota.refused(NOON)
    for hours in range(3):
        moment = MIDNIGHT + hours * HOUR
        assert quota.closed_until(moment) is None
        quota.refused(moment)
        assert quota.closed_until(moment) == moment + HOUR


def test_a_refusal_on_a_later_day_closes_until_its_midnight() -> None:
    """The hourly question is for the hours after a closed day, and not for good."""
    quota = DailyQuota(1000)
    quota.refused(NOON)
    quota.refused(NOON + 24 * HOUR)
    assert quota.closed_until(NOON + 24 * HOUR) == MIDNIGHT + 24 * HOUR


def test_an_account_has_one_quota_and_the_smaller_size_counts() -> None:
    """Gateways on one account count together, as long as one of them lives."""
    first = shared_quota("an account", 10)
    assert shared_quota("an account", 2) is first
    assert shared_quota("another account", 2) is not first
    first.count(NOON)
    first.count(NOON)
    assert first.closed_until(NOON) == MIDNIGHT
    del first
    gc.collect()
    assert shared_quota("an account", 10).used == 0


@pytest.mark.parametrize("requests", [0, -1, 1.5, True, "1"])
def test_a_quota_is_a_whole_number(requests: object) -> None:
    """Anything else is refused where it is set."""
    with pytest.raises(UsageError, match="daily_quota must be a whole number"):
        DailyQuota(requests)  # type: ignore[arg-type]


@pytest.mark.parametrize("requests", [0, -1, 1.5, True, "1"])
def test_a_second_quota_is_a_whole_number_too(requests: object) -> None:
    """Whoever shares an account cannot make its quota unusable, and may make it as small as one request."""
    quota = DailyQuota(2)
    with pytest.raises(UsageError, match=r"^daily_quota must be a whole number, 1 or more$"):
        quota.tighten(requests)  # type: ignore[arg-type]
    quota.tighten(1)
    quota.count(NOON)
    assert quota.closed_until(NOON) == MIDNIGHT


def test_each_request_is_given_back_once() -> None:
    """One that did not leave makes room for one, however many were counted."""
    quota = DailyQuota(3)
    for _ in range(3):
        quota.count(NOON)
    quota.give_back(NOON)
    assert quota.used == 2


def test_a_request_is_admitted_and_counted_in_one() -> None:
    """As long as something is left; one that is not admitted is not counted."""
    quota = DailyQuota(2)
    assert quota.admit(NOON)
    assert quota.admit(NOON + HOUR)
    assert not quota.admit(NOON + HOUR)
    assert quota.used == 2
    quota.give_back(NOON)
    assert quota.admit(NOON + HOUR)
    assert quota.admit(MIDNIGHT)
    assert quota.used == 1


def test_what_the_vendor_calls_used_up_is_not_admitted() -> None:
    """Until midnight."""
    quota = DailyQuota(1000)
    quota.refused(NOON)
    assert not quota.admit(NOON + HOUR)
    assert quota.used == 0
    assert quota.admit(MIDNIGHT)
