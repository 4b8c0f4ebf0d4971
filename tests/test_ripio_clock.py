"""The vendor's clock: bounds of the error as properties, uniqueness of the timestamps, tables for the rest."""

from __future__ import annotations

import asyncio
import gc
import math
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.ripio.clock import VendorClock, shared_clock

if TYPE_CHECKING:
    from random import Random

START = 1_700_000_000.0
TICK = 0.001
FLOAT = 1e-5
"""Rounding of sums of seconds since 1970 and of long up-times."""
ORDER = b'{"id":"1"}'


class World:
    """Three clocks: the monotonic one, the local wall clock, and the vendor's, which is ahead and drifts."""

    def __init__(self, ahead: float = 0.0, drift: float = 0.0, uptime: float = 1000.0) -> None:
        self.now = uptime
        self.wall = START
        self.ahead = ahead
        self.drift = drift
        self.passed = 0.0
        self.clock = VendorClock(wall=lambda: self.wall, monotonic=lambda: self.now)

    def wait(self, seconds: float) -> None:
        """Let time pass for all."""
        self.now += seconds
        self.wall += seconds
        self.passed += seconds

    @property
    def vendor(self) -> float:
        """The vendor's time."""
        return START + self.ahead + self.passed * (1 + self.drift)

    @property
    def error(self) -> float:
        """By how much the estimate is ahead of the vendor's time."""
        return START + self.passed + self.clock.offset - self.vendor

    def hear(self, there: float, back: float) -> None:
        """A signed request whose reply is stamped after ``there`` seconds and arrives ``back`` seconds later."""
        sent = self.now
        self.wait(there)
        stamp = math.floor(self.vendor * 1000)
        self.wait(back)
        self.clock.heard(stamp, sent, self.now)

    def ask(self, there: float, back: float, age: float, *, rejected: bool) -> None:
        """A request for the server's time, whose answer was cached ``age`` seconds ago."""
        sent = self.now
        self.wait(there)
        stamp = math.floor((self.vendor - age) * 1000)
        self.wait(back)
        self.clock.told(stamp, sent, self.now, rejected=rejected)


def sign(world: World, text: bytes = ORDER) -> int:
    """Return a timestamp."""
    return world.clock.timestamp(text)


# --- the estimate ---------------------------------------------------------------------------------

AHEAD = st.floats(-1e6, 1e6)
DRIFT = st.floats(-150e-6, 150e-6)
WAY = st.floats(0.0, 5.0)
PAUSE = st.floats(0.0, 3600.0)
UPTIME = st.floats(0.0, 1e8)


def test_it_starts_with_the_wall_clock() -> None:
    """Nobody was heard yet: the local clock's word is all there is."""
    world = World()
    assert world.clock.offset == 0.0
    assert world.clock.uncertainty is None
    assert sign(world) == START * 1000


def test_it_uses_the_real_clocks() -> None:
    """Without arguments it tells the time of day."""
    before = time.time()
    stamp = VendorClock().timestamp(ORDER)
    assert (before - 0.1) * 1000 <= stamp <= (time.time() + 0.1) * 1000


@given(AHEAD, DRIFT, WAY, WAY, PAUSE, UPTIME)
def test_one_reply_is_enough(
    ahead: float, drift: float, there: float, back: float, pause: float, uptime: float
) -> None:
    """However wrong the local clock is: the error is at most half the round trip, and what drifted since."""
    world = World(ahead, drift, uptime)
    world.hear(there, back)
    drifted = 150e-6 * (there + back)
    assert abs(world.error) <= (there + back) / 2 + TICK / 2 + drifted + FLOAT
    world.wait(pause)
    assert world.clock.uncertainty is not None
    assert abs(world.error) <= world.clock.uncertainty + FLOAT


@given(AHEAD, DRIFT, st.lists(st.tuples(WAY, WAY, PAUSE), min_size=1, max_size=12))
def test_more_replies_never_make_it_worse(
    ahead: float, drift: float, trips: list[tuple[float, float, float]]
) -> None:
    """The error is within what is claimed, and what is claimed is no more than any one reply proved."""
    world = World(ahead, drift)
    best = math.inf
    for there, back, pause in trips:
        world.hear(there, back)
        proved = (there + back) / 2 + TICK / 2
        best = min(best, proved) + 200e-6 * (there + back)
        uncertainty = world.clock.uncertainty
        assert uncertainty is not None
        assert abs(world.error) <= uncertainty + FLOAT
        assert uncertainty <= best + FLOAT
        world.wait(pause)
        best += 200e-6 * pause


TRIPS = st.lists(st.tuples(WAY, WAY, PAUSE), min_size=2, max_size=8)


@given(AHEAD, DRIFT, TRIPS, st.randoms())
def test_replies_in_any_order(
    ahead: float, drift: float, trips: list[tuple[float, float, float]], dice: Random
) -> None:
    """Replies may be told late, even after newer ones, and still only help."""
    world = World(ahead, drift)
    heard: list[tuple[int, float, float]] = []
    for there, back, pause in trips:
        sent = world.now
        world.wait(there)
        stamp = math.floor(world.vendor * 1000)
        world.wait(back)
        heard.append((stamp, sent, world.now))
        world.wait(pause)
    dice.shuffle(heard)
    for stamp, sent, received in heard:
        world.clock.heard(stamp, sent, received)
        uncertainty = world.clock.uncertainty
        assert uncertainty is not None
        assert abs(world.error) <= uncertainty + FLOAT


def test_a_late_reply_ages_too() -> None:
    """An old reply, told after a new one, is widened by what drifted in between before it cuts anything."""
    world = World(drift=150e-6)
    stamp, sent = math.floor(world.vendor * 1000), world.now
    world.wait(1000.0)
    world.hear(0.1, 0.1)
    known = world.clock.offset
    world.clock.heard(stamp, sent, sent)
    assert world.clock.offset == pytest.approx(known, abs=0.1)
    assert abs(world.error) <= 0.1 + TICK


def test_a_narrow_interval_is_kept() -> None:
    """After a quick reply, a slow one says nothing new."""
    world = World(ahead=7.0)
    world.hear(0.005, 0.005)
    sure = world.clock.offset
    world.hear(1.5, 1.5)
    assert world.clock.offset == pytest.approx(sure, abs=1e-3)
    assert world.clock.uncertainty == pytest.approx(0.0055, abs=1e-3)


def test_two_wide_intervals_are_cut() -> None:
    """One reply was slow to come, another request slow to arrive: together they leave little room."""
    world = World(ahead=7.0)
    world.hear(2.0, 0.0)
    assert world.error == pytest.approx(1.0, abs=TICK)
    world.hear(0.0, 2.0)
    assert world.error == pytest.approx(0.0, abs=2 * TICK)


@given(AHEAD, st.floats(-1e5, 1e5), WAY, WAY)
def test_a_clock_that_was_set_is_believed(
    ahead: float, step: float, there: float, back: float
) -> None:
    """The vendor's clock jumps, or this machine slept: the error is at most what the new reply leaves open."""
    world = World(ahead)
    world.hear(0.01, 0.01)
    world.ahead += step
    world.hear(there, back)
    trip = there + back + TICK + 1e-3
    assert abs(world.error) <= trip + FLOAT
    if abs(step) > 2 * trip + 0.1:
        assert abs(world.error) <= trip / 2 + FLOAT
        assert world.clock.uncertainty == pytest.approx((there + back + TICK) / 2, abs=4e-3)


@given(st.floats(-1e9, 1e9), st.booleans())
def test_a_wall_clock_that_is_set_changes_nothing(step: float, informed: bool) -> None:
    """After construction the local wall clock is never read again."""
    worlds = [World(ahead=3.0), World(ahead=3.0)]
    for world, jump in zip(worlds, (0.0, step), strict=True):
        world.wall += jump
        if informed:
            world.hear(0.1, 0.2)
        world.wall -= jump
        world.ask(0.1, 0.1, 15.0, rejected=False)
    assert worlds[0].clock.offset == worlds[1].clock.offset
    assert sign(worlds[0]) == sign(worlds[1])


ABSURD: list[tuple[float, float, float]] = [
    (-1, 1.0, 2.0),
    (0, 1.0, 2.0),
    (math.nan, 1.0, 2.0),
    (math.inf, 1.0, 2.0),
    (253_402_300_800_000, 1.0, 2.0),
    (10**400, 1.0, 2.0),
    (1_800_000_000_000, 2.0, 1.0),
    (1_800_000_000_000, math.nan, 1.0),
    (1_800_000_000_000, 1.0, math.nan),
    (1_800_000_000_000, -math.inf, 1.0),
    (1_800_000_000_000, 1.0, math.inf),
]


@pytest.mark.parametrize(("stamp", "sent", "received"), ABSURD)
def test_absurd_stamps_are_ignored(stamp: int, sent: float, received: float) -> None:
    """No year beyond 9999, no time before 1970, no reply before its request."""
    world = World()
    world.clock.heard(stamp, sent, received)
    world.clock.told(stamp, sent, received, rejected=True)
    assert world.clock.offset == 0.0
    assert world.clock.uncertainty is None


def test_the_last_plausible_stamp() -> None:
    """The last millisecond of 2099 is still a time."""
    world = World()
    world.clock.heard(4_102_444_800_000, world.now, world.now)
    assert sign(world) == pytest.approx(4_102_444_800_000, abs=1)


@pytest.mark.parametrize("stamp", [4_102_444_800_001, 1_262_303_999_999, 1_795_251_983])
def test_an_implausible_stamp_is_ignored(stamp: int) -> None:
    """A time of another age, or in seconds, misleads no signature."""
    world = World()
    before = sign(world)
    world.clock.heard(stamp, world.now, world.now)
    assert sign(world) == pytest.approx(before, abs=5)
    assert world.clock.uncertainty is None


# --- the cached server time -----------------------------------------------------------------------

AGE = st.floats(0.0, 30.0)


@given(WAY, WAY, AGE, UPTIME)
def test_a_stale_time_leaves_a_right_clock_alone(
    there: float, back: float, age: float, uptime: float
) -> None:
    """Up to 30 seconds old: a bound, which a right estimate is within."""
    world = World(uptime=uptime)
    world.ask(there, back, age, rejected=False)
    assert abs(world.error) <= TICK + FLOAT


@given(AHEAD, WAY, WAY, AGE)
def test_a_cached_time_never_makes_it_worse(
    ahead: float, there: float, back: float, age: float
) -> None:
    """A wrong estimate moves towards the truth, and to within 30 seconds of it."""
    world = World(ahead)
    before = abs(world.error)
    world.ask(there, back, age, rejected=False)
    assert abs(world.error) <= before + FLOAT
    assert abs(world.error) <= 30.0 + there + back + TICK + FLOAT


@given(AHEAD, WAY, WAY, AGE)
def test_what_was_heard_survives_a_cached_time(
    ahead: float, there: float, back: float, age: float
) -> None:
    """A good estimate is not given up for a cached answer."""
    world = World(ahead)
    world.hear(0.05, 0.05)
    world.ask(there, back, age, rejected=False)
    assert abs(world.error) <= 0.05 + TICK + FLOAT


def test_a_bound_that_is_kept_teaches_nothing() -> None:
    """The estimate is within it: neither that nor its certainty changes."""
    world = World(ahead=5.0)
    world.ask(0.1, 0.1, 3.0, rejected=True)
    world.hear(0.05, 0.05)
    known = world.clock.offset
    world.ask(0.1, 0.1, 15.0, rejected=False)
    assert world.clock.offset == known
    assert world.clock.uncertainty == pytest.approx(0.05, abs=2 * TICK)


@given(AHEAD, WAY, WAY)
def test_after_a_rejection_the_answer_is_taken_at_its_word(
    ahead: float, there: float, back: float
) -> None:
    """A fresh answer corrects any error; only where it was cached is the estimate late by its age."""
    world = World(ahead)
    world.ask(there, back, 0.0, rejected=True)
    assert abs(world.error) <= (there + back) / 2 + TICK / 2 + FLOAT
    assert world.clock.uncertainty == pytest.approx((there + back + TICK + 30.0) / 2, abs=4e-3)


@given(AHEAD, WAY, WAY, AGE)
def test_a_reply_corrects_a_stale_time(ahead: float, there: float, back: float, age: float) -> None:
    """What was told is only a bound for the replies that follow."""
    world = World(ahead)
    world.ask(0.1, 0.1, age, rejected=True)
    assert world.error == pytest.approx(-age, abs=0.11)
    world.hear(there, back)
    assert abs(world.error) <= (there + back) / 2 + TICK + 1e-3 + FLOAT


def test_the_nearer_bound() -> None:
    """An estimate too late goes to the lower bound, one too early to the upper one."""
    late, early = World(ahead=60.0), World(ahead=-60.0)
    late.ask(0.0, 0.0, 10.0, rejected=False)
    early.ask(0.0, 0.0, 10.0, rejected=False)
    assert late.error == pytest.approx(-10.0, abs=2 * TICK)
    assert early.error == pytest.approx(20.0, abs=2 * TICK)
    assert late.clock.uncertainty == pytest.approx(15.0, abs=TICK)


# --- timestamps -----------------------------------------------------------------------------------


def test_two_signatures_for_one_text_never_share_a_timestamp() -> None:
    """Within one millisecond the second gets the next one, and other texts are not delayed by it."""
    world = World()
    assert [sign(world) - START * 1000 for _ in range(4)] == [0, 1, 2, 3]
    assert sign(world, b"other") == START * 1000
    world.wait(0.002)
    assert sign(world) == START * 1000 + 4
    world.wait(0.010)
    assert sign(world) == START * 1000 + 12


def test_a_burst_does_not_run_ahead() -> None:
    """Ten thousand different orders in one millisecond share it; equal ones are told apart quickly."""
    world = World()
    orders = [b"%d" % number for number in range(10_000)]
    assert {sign(world, order) for order in orders} == {START * 1000}
    assert {sign(world, order) for order in orders} == {START * 1000 + 1}
    assert len({sign(world) for _ in range(50_000)}) == 50_000


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("sign"), st.sampled_from([b"a", b"b"])),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.0004, 0.001, 0.0021, 0.5, 9.0, 59.0])),
        st.tuples(
            st.just("ahead"), st.sampled_from([-9.0, -0.5, -0.003, -0.001, 0.002, 0.5, 60.0])
        ),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_no_timestamp_is_ever_repeated(actions: list[tuple[str, float | bytes]]) -> None:
    """Whatever is corrected, forwards or backwards: one text, one signature for each timestamp."""
    world = World()
    world.hear(0.0, 0.0)
    given_out: dict[bytes, list[int]] = {}
    for what, value in actions:
        if isinstance(value, bytes):
            given_out.setdefault(value, []).append(sign(world, value))
        elif what == "wait":
            world.wait(value)
        elif world.ahead + value > -50.0:  # a minute back in all, and it is forgotten
            world.ahead += value
            world.hear(0.0, 0.0)
    for stamps in given_out.values():
        assert len(set(stamps)) == len(stamps)


@pytest.mark.parametrize("back", [0.0, 0.001, 0.1, 0.24])
def test_a_small_correction_backwards_stops_the_clock(back: float) -> None:
    """The timestamps of a text still rise, also against those that are free again."""
    world = World()
    world.hear(0.0, 0.0)
    stamps = [sign(world), sign(world)]
    world.ahead -= back
    world.hear(0.0, 0.0)
    stamps += [sign(world), sign(world)]
    world.wait(back)
    stamps += [sign(world)]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] - world.vendor * 1000 <= 5


@pytest.mark.parametrize("back", [0.26, 16.0, 59.0])
def test_a_clock_found_to_be_ahead_is_right_at_once(back: float) -> None:
    """The next attempt for the same order carries the vendor's time, and when that comes round again, none twice."""
    world = World(ahead=-back)
    ahead = [sign(world) for _ in range(3)]
    world.hear(0.0, 0.0)
    assert sign(world) == pytest.approx(world.vendor * 1000, abs=2)
    world.now = math.nextafter(world.now + back, math.inf)
    world.passed += back
    again = [sign(world) for _ in range(6)]
    assert not set(again) & set(ahead)
    assert again == sorted(set(again))


def test_a_minute_is_remembered() -> None:
    """Through the sweep of what is older, and back."""
    world = World()
    first = int(START * 1000)
    stamps = []
    for now in (first, first + 30_000, first + 60_000, first):
        world.clock.heard(now, world.now, world.now)
        stamps.append(sign(world))
    assert stamps == [first, first + 30_000, first + 60_000, first + 1]


@pytest.mark.parametrize("back", [0.0, 30.0, 1e6])
def test_memory_is_bounded(back: float) -> None:
    """A quarter of an hour at a hundred a second: two minutes of it are kept at most."""
    world = World(ahead=-back)
    sign(world)
    world.hear(0.0, 0.0)
    for number in range(90_000):
        world.wait(0.01)
        sign(world, b"%d" % number)
    assert len(world.clock._next) <= 12_002


def test_equal_texts_faster_than_the_clock() -> None:
    """A text signed more often than once in a millisecond, for long, costs no more each time."""
    world = World()
    stamps = []
    for _ in range(20_000):
        world.wait(0.0004)
        stamps.append(sign(world))
    assert stamps == sorted(set(stamps))
    assert stamps[-1] == START * 1000 + 19_999


@pytest.mark.parametrize("far", [1e6, -1e6])
def test_memory_is_swept_after_a_leap(far: float) -> None:
    """Whichever way the clock was set, the next minute is swept as any other."""
    world = World()
    world.hear(0.0, 0.0)
    for number in range(1000):
        sign(world, b"%d" % number)
    world.ahead += far
    world.hear(0.0, 0.0)
    sign(world)
    assert len(world.clock._next) == (1 if far > 0 else 1001)
    world.ahead -= far - 1000.0
    world.hear(0.0, 0.0)
    sign(world)
    assert len(world.clock._next) <= 2


async def test_gateways_of_an_account_share_its_clock() -> None:
    """On one event loop, as long as one of them uses it: two must not sign the same text at the same time."""
    clock = shared_clock("account")
    assert shared_clock("account") is clock
    other = shared_clock("another")
    assert other is not clock
    stamps = {clock.timestamp(ORDER), shared_clock("account").timestamp(ORDER)}
    assert len(stamps) == 2


async def test_a_clock_is_the_event_loops_own() -> None:
    """Another loop has its own monotonic time, and gets a clock of its own."""

    async def there() -> VendorClock:
        return shared_clock("account")

    clock = shared_clock("account")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, there()).result() is not clock
    assert shared_clock("account") is clock


async def test_a_clock_that_nobody_uses_is_forgotten() -> None:
    """What was learned for a gateway that is gone is not kept for ever."""
    kept = weakref.ref(shared_clock("account"))
    gc.collect()
    assert kept() is None
