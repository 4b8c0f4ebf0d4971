"""The retry policy: decisions as tables, bounds as properties."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tronsave_async.errors import UsageError
from tronsave_async.retry import (
    Reach,
    Repeatable,
    RetryPolicy,
    RetryQuota,
    may_repeat,
    parse_retry_after,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)

# --- may_repeat -----------------------------------------------------------------------------------

MAY_REPEAT = {
    (Reach.NEVER_LEFT, Repeatable.ALWAYS): True,
    (Reach.NEVER_LEFT, Repeatable.UNLESS_SENT): True,
    (Reach.REFUSED_UNPROCESSED, Repeatable.ALWAYS): True,
    (Reach.REFUSED_UNPROCESSED, Repeatable.UNLESS_SENT): False,
    (Reach.MAY_HAVE_ARRIVED, Repeatable.ALWAYS): True,
    (Reach.MAY_HAVE_ARRIVED, Repeatable.UNLESS_SENT): False,
    (Reach.ANSWERED, Repeatable.ALWAYS): False,
    (Reach.ANSWERED, Repeatable.UNLESS_SENT): False,
}


@pytest.mark.parametrize("reach", Reach)
@pytest.mark.parametrize("call", Repeatable)
def test_what_may_be_repeated(reach: Reach, call: Repeatable) -> None:
    """A create is repeated only if no byte left; nothing is repeated that was answered."""
    assert may_repeat(reach, call) is MAY_REPEAT[reach, call]


# --- RetryPolicy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [0, -1])
def test_at_least_one_attempt(attempts: int) -> None:
    """A policy that never tries is a usage error."""
    with pytest.raises(
        UsageError, match=r"^RetryPolicy\.attempts must be a whole number, 1 or more$"
    ):
        RetryPolicy(attempts=attempts)


@pytest.mark.parametrize("field", ["base", "cap", "max_retry_after", "quota", "quota_refill"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, -math.inf])
def test_a_policy_out_of_range_is_refused(field: str, value: float) -> None:
    """Times and counts are finite and not negative, and the error names the field."""
    with pytest.raises(UsageError, match=rf"^RetryPolicy\.{field} must be a finite number"):
        RetryPolicy(**{field: value})  # type: ignore[arg-type]


def test_the_least_policy_is_allowed() -> None:
    """One attempt, no waiting and no repeats are a policy too."""
    policy = RetryPolicy(
        attempts=1, base=0.0, cap=0.0, max_retry_after=0.0, quota=0.0, quota_refill=0.0
    )
    assert policy.delay(1, spread=1.0) == 0.0


def test_a_policy_is_frozen() -> None:
    """A policy that gateways share cannot be changed under them."""
    with pytest.raises(AttributeError):
        RetryPolicy().attempts = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("failures", "bound"), [(1, 0.25), (2, 0.5), (3, 1.0), (5, 4.0), (6, 8.0), (7, 8.0), (99, 8.0)]
)
def test_the_bound_doubles_up_to_the_cap(failures: int, bound: float) -> None:
    """Full jitter: anything from nothing to a bound that doubles with each failure."""
    policy = RetryPolicy(base=0.25, cap=8.0)
    assert policy.delay(failures, spread=1.0) == bound
    assert policy.delay(failures, spread=0.5) == bound / 2
    assert policy.delay(failures, spread=0.0) == 0.0


SECONDS = st.floats(0.0, 1e300)


@given(SECONDS, SECONDS, st.integers(1, 10**9), st.floats(0.0, 1.0))
def test_a_delay_is_never_longer_than_the_cap(
    base: float, cap: float, failures: int, spread: float
) -> None:
    """Any number of failures gives a finite delay between nothing and the cap."""
    policy = RetryPolicy(base=base, cap=cap)
    delay = policy.delay(failures, spread=spread)
    assert 0.0 <= delay <= cap
    assert delay <= policy.delay(failures + 1, spread=spread)
    assert policy.delay(1, spread=spread) == spread * min(base, cap)


@pytest.mark.parametrize(
    ("rejections", "retry_after", "minimum", "expected"),
    [
        (1, None, 2.0, 2.0),
        (2, None, 2.0, 4.0),
        (3, None, 2.0, 8.0),
        (4, None, 2.0, 8.0),
        (10**6, None, 2.0, 8.0),
        (1, None, 10.0, 10.0),
        (9, None, 10.0, 10.0),
        (1, 5.0, 2.0, 5.0),
        (9, 5.0, 2.0, 5.0),
        (1, 0.0, 2.0, 2.0),
        (1, 1.9, 2.0, 2.0),
        (1, 60.0, 2.0, 60.0),
        (1, 61.0, 2.0, 60.0),
        (1, 1e18, 2.0, 60.0),
        (1, 1e18, 90.0, 90.0),
    ],
)
def test_the_penalty(
    rejections: int, retry_after: float | None, minimum: float, expected: float
) -> None:
    """What the vendor asked for, cut to the policy's most; else doubling; never below the minimum."""
    policy = RetryPolicy(cap=8.0, max_retry_after=60.0)
    assert policy.penalty(rejections, retry_after=retry_after, minimum=minimum) == expected


@given(st.integers(1, 10**9), st.none() | SECONDS, SECONDS)
def test_a_penalty_is_one_that_a_limiter_takes(
    rejections: int, retry_after: float | None, minimum: float
) -> None:
    """It is finite, at least the minimum, and no longer than minimum, cap and the most honored."""
    policy = RetryPolicy()
    penalty = policy.penalty(rejections, retry_after=retry_after, minimum=minimum)
    most = policy.cap if retry_after is None else policy.max_retry_after
    assert minimum <= penalty <= max(minimum, most)


# --- RetryQuota -----------------------------------------------------------------------------------


def test_an_empty_quota_admits_nothing() -> None:
    """A gateway may repeat as often as it has saved up, then no more."""
    quota = RetryQuota(RetryPolicy(quota=3.0, quota_refill=0.0))
    assert [quota.admit(100.0) for _ in range(5)] == [True, True, True, False, False]
    assert quota.tokens == 0.0


@pytest.mark.parametrize("saved", [0.0, 0.9])
def test_a_quota_below_one_never_admits(saved: float) -> None:
    """Zero repeats, or less than a whole one, means never to repeat, however long and often."""
    quota = RetryQuota(RetryPolicy(quota=saved, quota_refill=100.0))
    for at in range(5):
        quota.answered()
        assert not quota.admit(at * 1000.0)


def test_time_refills_the_quota() -> None:
    """Repeats come back at the rate of the policy, whole ones only."""
    quota = RetryQuota(RetryPolicy(quota=2.0, quota_refill=0.25))
    assert [quota.admit(100.0), quota.admit(100.0), quota.admit(100.0)] == [True, True, False]
    assert not quota.admit(103.0)
    assert quota.tokens == 0.75
    assert quota.admit(104.0)
    assert quota.tokens == 0.0


def test_a_refused_repeat_costs_nothing() -> None:
    """Asking an empty quota over and over does not keep it from refilling."""
    quota = RetryQuota(RetryPolicy(quota=1.0, quota_refill=0.125))
    assert quota.admit(0.0)
    assert [at for at in range(1, 17) if quota.admit(float(at))] == [8, 16]


def test_time_does_not_overfill_the_quota() -> None:
    """A quiet year saves up no more than the quota."""
    quota = RetryQuota(RetryPolicy(quota=2.0, quota_refill=1.0))
    assert quota.admit(0.0)
    assert [quota.admit(3e7) for _ in range(3)] == [True, True, False]


def test_the_first_admission_has_no_time_behind_it() -> None:
    """Whatever the clock shows at first, no time has passed: nothing is refilled."""
    quota = RetryQuota(RetryPolicy(quota=5.0, quota_refill=1.0))
    for _ in range(5):
        assert quota.admit(1e9)
    assert not quota.admit(1e9)


def test_a_clock_that_goes_back_takes_nothing() -> None:
    """A step back is no time passed, neither positive nor negative."""
    quota = RetryQuota(RetryPolicy(quota=3.0, quota_refill=1.0))
    assert quota.admit(100.0)
    assert quota.admit(50.0)
    assert quota.tokens == 1.0


def test_each_answer_returns_a_repeat() -> None:
    """An answered request shows that the vendor is there: one repeat more, up to the quota."""
    quota = RetryQuota(RetryPolicy(quota=2.5, quota_refill=0.0))
    quota.answered()
    assert quota.tokens == 2.5
    for _ in range(2):
        assert quota.admit(0.0)
    assert quota.tokens == 0.5
    quota.answered()
    assert quota.tokens == 1.5
    quota.answered()
    quota.answered()
    assert quota.tokens == 2.5


@given(
    st.floats(0.0, 10.0),
    st.floats(0.0, 2.0),
    st.lists(st.one_of(st.none(), st.floats(0.0, 20.0)), max_size=60),
)
def test_an_outage_does_not_multiply_traffic(
    saved: float, refill: float, steps: list[float | None]
) -> None:
    """Repeats are never more than what was saved, answered and refilled together."""
    quota = RetryQuota(RetryPolicy(quota=saved, quota_refill=refill))
    clock, admitted, answers = 0.0, 0, 0
    for step in steps:
        if step is None:
            quota.answered()
            answers += 1
        else:
            clock += step
            admitted += quota.admit(clock)
        assert 0.0 <= quota.tokens <= saved
    assert admitted <= saved + answers + clock * refill + 1e-6


# --- Retry-After ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("  7 ", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("1e3", 1000.0),
        ("9" * 30, 1e30),
        # today's form, and the obsolete ones that RFC 9110 5.6.7 still asks recipients to read
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Thursday, 01-Jan-26 00:01:00 GMT", 60.0),
        ("Thu Jan  1 00:01:00 2026", 60.0),
        # not HTTP's, but seen
        ("Thu, 01 Jan 2026 02:01:00 +0200", 60.0),
        ("Thu, 01 Jan 2026 00:01:00 -0000", 60.0),
        ("Thu, 01 Jan 2026 00:01:00", 60.0),
        # over long ago: the time to wait has passed
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
        ("Sun Nov  6 08:49:37 1994", 0.0),
        ("Wed, 31 Dec 2025 23:59:59 GMT", 0.0),
        ("Mon, 01 Jan 0001 00:00:00 +1400", 0.0),
    ],
)
def test_a_retry_after_that_can_be_read(value: str, seconds: float) -> None:
    """Seconds, decimals and dates in every form are seconds from now, 0 or more."""
    assert parse_retry_after(value, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "   ",
        "soon",
        "5 seconds",
        "5;foo",
        "120, 60",
        "0x10",
        "nan",
        "-nan",
        "inf",
        "-inf",
        "Infinity",
        "1e999",
        ",",
        "GMT",
        "Thu, 99 Jan 2026 00:01:00 GMT",
        "Thu, 01 Foo 2026 00:01:00 GMT",
        "Thu, 01 Jan 2026 25:00:00 GMT",
        "Thu, 01 Jan 2026 00:01:00 +9999",
        "Fri, 31 Dec 99999 23:59:59 GMT",
        f"Thu, 01 Jan {'9' * 30} 00:00:00 GMT",
        "2026-01-01T00:01:00Z",
        "\x00",
    ],
)
def test_a_retry_after_that_cannot_be_read(value: str | None) -> None:
    """No header, garbage, and numbers that are none are no statement of the vendor's."""
    assert parse_retry_after(value, NOW) is None


NUMBERS = st.integers(-1, 10**6)
ALMOST_DATES = st.builds("Thu, {} Jan {} {}:{}:{} {}".format, *[NUMBERS] * 5, st.text(max_size=6))


@given(st.text() | ALMOST_DATES)
def test_no_header_breaks_the_reader(value: str) -> None:
    """Any text is read as a finite number of seconds, 0 or more, or as nothing."""
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or (seconds >= 0.0 and math.isfinite(seconds))


@given(st.integers(0, 10**9))
def test_dates_and_seconds_agree(seconds: int) -> None:
    """The same wait said as a date and as a number is the same."""
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(date, NOW) == parse_retry_after(str(seconds), NOW) == seconds


# --- what is said nowhere else --------------------------------------------------------------------


def test_the_policy_of_whoever_says_nothing() -> None:
    """Four tries within seconds, a minute's patience with the vendor, twenty repeats saved, one regained in 5 s."""
    policy = RetryPolicy()
    assert (policy.attempts, policy.base, policy.cap) == (4, 0.25, 8.0)
    assert (policy.max_retry_after, policy.quota, policy.quota_refill) == (60.0, 20.0, 0.2)


def test_a_policy_is_not_positional() -> None:
    """Nobody passes seconds for tries by their place."""
    with pytest.raises(TypeError):
        RetryPolicy(4)  # type: ignore[call-arg]


@pytest.mark.parametrize(("rejections", "seconds"), [(1, 2.0), (4, 16.0), (5, 32.0), (6, 60.0)])
def test_a_penalty_without_a_word_doubles(rejections: int, seconds: float) -> None:
    """With each rejection in a row, up to the cap."""
    policy = RetryPolicy(cap=60.0)
    assert policy.penalty(rejections, retry_after=None, minimum=2.0) == seconds
