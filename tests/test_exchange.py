"""The record of one request: what is proved about it at every moment."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tronsave_async import exchange as module
from tronsave_async.errors import GatewayError
from tronsave_async.exchange import Exchange, Revoked
from tronsave_async.limiter import Lane, RateLimit, RateLimiter, Scope
from tronsave_async.outcomes import Wire
from tronsave_async.quota import DailyQuota
from tronsave_async.telemetry import Answered, Event, Lost, Queued, Sent

if TYPE_CHECKING:
    from tronsave_async.limiter import Permit

SCOPE = Scope("venue", "account", "cancel")


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at 100 seconds."""
    return Clock()


def opened(clock: Clock, events: list[Event] | None = None) -> Exchange:
    """Return a new request about three orders, with a listener or without."""
    emit = None if events is None else events.append
    return Exchange(7, "venue", "cancel", 3, clock(), clock, emit)


def counted(exchange: Exchange) -> DailyQuota:
    """Count a request against a quota."""
    quota, now = DailyQuota(10), datetime(2026, 3, 4, tzinfo=UTC)
    quota.count(now)
    exchange.counted(quota, now)
    return quota


def test_it_says_how_far_it_got(clock: Clock) -> None:
    """Before the departure nothing was sent; then it may have arrived, until the whole reply is here."""
    exchange = opened(clock)
    reached = [exchange.reached]
    exchange.depart()
    reached.append(exchange.reached)
    exchange.answered(200)
    reached.append(exchange.reached)
    assert reached == [Wire.NOT_SENT, Wire.MAYBE_SENT, Wire.ANSWERED]


def test_a_lost_request_stays_as_far_as_it_got(clock: Clock) -> None:
    """The end without a reply changes nothing of what is proved."""
    waiting, under_way = opened(clock), opened(clock)
    waiting.lost("connection refused")
    under_way.depart()
    under_way.lost("connection reset")
    assert waiting.reached is Wire.NOT_SENT
    assert under_way.reached is Wire.MAYBE_SENT


def test_a_revoked_request_never_departs(clock: Clock) -> None:
    """Revoked before the departure, it can promise that no byte leaves."""
    events: list[Event] = []
    exchange = opened(clock, events)
    assert exchange.revoke()
    with pytest.raises(Revoked, match=r"^revoked before it left$"):
        exchange.depart()
    assert exchange.revoke()
    assert exchange.reached is Wire.NOT_SENT
    assert not any(isinstance(event, Sent) for event in events)
    assert issubclass(Revoked, GatewayError)


def test_revoking_after_the_departure_promises_nothing(clock: Clock) -> None:
    """What has left cannot be revoked, and may still be answered."""
    exchange = opened(clock)
    exchange.depart()
    assert not exchange.revoke()
    exchange.answered(200)
    assert exchange.reached is Wire.ANSWERED


def test_it_departs_once(clock: Clock) -> None:
    """A second departure would be a hidden repeat: it is a bug."""
    exchange = opened(clock)
    exchange.depart()
    with pytest.raises(AssertionError, match="departs once"):
        exchange.depart()


@pytest.mark.parametrize("first", ["answered", "lost"])
@pytest.mark.parametrize("second", ["answered", "lost"])
def test_it_ends_once(clock: Clock, first: str, second: str) -> None:
    """A second end is a bug, and is not told to whoever listens."""
    events: list[Event] = []
    exchange = opened(clock, events)
    exchange.depart()
    for end in (first, second):
        told = len(events)
        if end == second and exchange.ended_at is not None:
            with pytest.raises(AssertionError, match="ends once"):
                exchange.answered(200) if end == "answered" else exchange.lost("again")
            assert len(events) == told
        else:
            exchange.answered(200) if end == "answered" else exchange.lost("reset")
            assert len(events) == told + 1


def test_its_times(clock: Clock) -> None:
    """The wait before the departure and the time under way are told apart; the wait counts from when one joined."""
    exchange = opened(clock)
    clock.now = 104.0
    assert exchange.queue_time(since=101.0) == 3.0
    assert exchange.wire_time == 0.0
    exchange.depart()
    clock.now = 104.5
    assert exchange.wire_time == 0.0
    exchange.answered(200)
    clock.now = 200.0
    assert (exchange.queued_at, exchange.departed_at, exchange.ended_at) == (100.0, 104.0, 104.5)
    assert exchange.wire_time == 0.5
    assert exchange.queue_time(since=100.0) == 4.0
    assert exchange.queue_time(since=104.25) == 0.0, "joined under way: never negative"


def test_the_times_of_a_request_that_never_left(clock: Clock) -> None:
    """It was never under way, and its wait ended when it failed to leave."""
    exchange = opened(clock)
    clock.now = 103.0
    exchange.lost("connection refused")
    clock.now = 200.0
    assert exchange.wire_time == 0.0
    assert exchange.queue_time(since=101.0) == 2.0


def test_what_is_told_of_an_answered_request(clock: Clock) -> None:
    """Whoever listens hears of the wait, the departure and the reply, with the times in between."""
    events: list[Event] = []
    exchange = opened(clock, events)
    clock.now = 102.0
    exchange.orders = 2
    exchange.depart()
    clock.now = 102.5
    exchange.answered(429)
    shared = {"venue": "venue", "request": 7, "endpoint": "cancel"}
    assert events == [
        Queued(orders=3, **shared),  # type: ignore[arg-type]
        Sent(orders=2, queue=2.0, **shared),  # type: ignore[arg-type]
        Answered(orders=2, status=429, wire=0.5, **shared),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(
    ("departs", "reached", "wire"), [(False, Wire.NOT_SENT, 0.0), (True, Wire.MAYBE_SENT, 1.0)]
)
def test_what_is_told_of_a_lost_request(
    clock: Clock, departs: bool, reached: Wire, wire: float
) -> None:
    """Whoever listens hears why it was lost and whether it may have arrived."""
    events: list[Event] = []
    exchange = opened(clock, events)
    if departs:
        exchange.depart()
    clock.now += 1.0
    exchange.lost("connection reset")
    lost = events[-1]
    assert isinstance(lost, Lost)
    assert (lost.reason, lost.reached, lost.wire) == ("connection reset", reached, wire)


@pytest.mark.parametrize("end", ["answered", "lost before", "lost after"])
def test_nothing_is_built_where_nobody_listens(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Without a listener no event is made: not even its construction is paid for."""

    def build(**_: object) -> None:
        raise AssertionError("an event was built for nobody")

    for name in ("Queued", "Sent", "Answered", "Lost"):
        monkeypatch.setattr(module, name, build)
    exchange = opened(clock)
    if end != "lost before":
        exchange.depart()
    if end == "answered":
        exchange.answered(200)
    else:
        exchange.lost("reset")
    assert exchange.ended_at is not None


async def permit_of(limiter: RateLimiter) -> Permit:
    """Return the one permit of a scope that grants one in an hour."""
    limiter.declare(SCOPE, RateLimit(requests=1, per=3600.0))
    return await limiter.acquire(SCOPE, lane=Lane.CANCEL)


@pytest.mark.virtual_time
async def test_a_permit_is_spent_by_the_departure(clock: Clock) -> None:
    """From the moment in which a request leaves, its permit counts for the vendor's window."""
    limiter = RateLimiter()
    exchange = opened(clock)
    exchange.granted(await permit_of(limiter))
    exchange.depart()
    exchange.lost("connection reset")
    statistics = limiter.statistics()[SCOPE]
    assert (statistics.in_window, statistics.in_hand) == (1, 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("revoked", [False, True])
async def test_a_permit_that_was_not_used_is_given_back(clock: Clock, revoked: bool) -> None:
    """A request that never leaves costs nobody a place in the vendor's window."""
    limiter = RateLimiter()
    exchange = opened(clock)
    exchange.granted(await permit_of(limiter))
    if revoked:
        exchange.revoke()
        with pytest.raises(Revoked):
            exchange.depart()
    exchange.lost("not wanted any more")
    statistics = limiter.statistics()[SCOPE]
    assert (statistics.in_window, statistics.in_hand) == (0, 0)


def test_sharers_come_back_together(clock: Clock) -> None:
    """The random part of the back-off belongs to the request, within 0..1, and differs between requests."""
    spreads = {opened(clock).spread for _ in range(20)}
    assert len(spreads) > 1
    assert all(0.0 <= spread < 1.0 for spread in spreads)
    exchange = opened(clock)
    assert exchange.spread == exchange.spread
    assert opened(clock).quota_admitted is None


@pytest.mark.virtual_time
async def test_an_unseen_departure_spends_its_permit_at_the_end(clock: Clock) -> None:
    """Where nobody sees the first byte leave, the window starts when the vendor must have seen the request."""
    limiter = RateLimiter()
    exchange = opened(clock)
    exchange.granted(await permit_of(limiter))
    exchange.depart(seen=False)
    assert exchange.reached is Wire.MAYBE_SENT
    statistics = limiter.statistics()[SCOPE]
    assert (statistics.in_window, statistics.in_hand) == (0, 1)
    exchange.lost("connection reset")
    statistics = limiter.statistics()[SCOPE]
    assert (statistics.in_window, statistics.in_hand) == (1, 0)


@pytest.mark.virtual_time
async def test_an_unseen_departure_that_did_not_happen_costs_nothing(clock: Clock) -> None:
    """With the proof that nothing left, the permit is given back, and the request was not sent."""
    limiter = RateLimiter()
    exchange = opened(clock)
    quota = counted(exchange)
    exchange.granted(await permit_of(limiter))
    exchange.depart(seen=False)
    exchange.never_left()
    exchange.lost("connection refused")
    statistics = limiter.statistics()[SCOPE]
    assert (statistics.in_window, statistics.in_hand) == (0, 0)
    assert exchange.reached is Wire.NOT_SENT
    assert quota.used == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("departs", [False, True])
async def test_what_was_counted_for_it_is_taken_back_if_it_never_left(
    clock: Clock, departs: bool
) -> None:
    """Given back to the day's quota once, and only for a request that did not depart."""
    exchange = opened(clock)
    quota = counted(exchange)
    exchange.granted(await permit_of(RateLimiter()))
    if departs:
        exchange.depart()
    exchange.lost("gone")
    assert quota.used == (1 if departs else 0)


@pytest.mark.parametrize("departed", [False, True])
def test_it_knows_that_nobody_wants_it(clock: Clock, departed: bool) -> None:
    """Revoked, it is unwanted, also where it had departed before."""
    exchange = opened(clock)
    if departed:
        exchange.depart()
    assert not exchange.is_unwanted
    assert exchange.revoke() is not departed
    assert exchange.is_unwanted


def test_its_departure_is_dated_by_the_best_clock_known(clock: Clock) -> None:
    """By the wall clock, until the vendor's time is known."""
    exchange = opened(clock)
    assert exchange.departed_time == 0.0
    before = time.time()
    exchange.depart()
    assert before <= exchange.departed_time <= time.time()
    exchange.signed_at(1_700_000_000.25)
    assert exchange.departed_time == 1_700_000_000.25


def test_an_attempt_that_was_not_looked_at_hands_its_doubt_on(clock: Clock) -> None:
    """What may have arrived is the further attempt: if there is none, or it did not depart, nothing did."""
    exchange, further, never = opened(clock), opened(clock), opened(clock)
    exchange.depart()
    clock.now = 105.0
    exchange.replaced_by(never)
    assert (exchange.reached, exchange.departed_time) == (Wire.NOT_SENT, 0.0)
    further.depart()
    further.signed_at(1_700_000_000.5)
    exchange.replaced_by(further)
    assert exchange.reached is Wire.MAYBE_SENT
    assert (exchange.departed_at, exchange.departed_time) == (105.0, 1_700_000_000.5)
    exchange.replaced_by(None)
    assert (exchange.reached, exchange.departed_at) == (Wire.NOT_SENT, None)
