"""The rate limiter: pure arithmetic as tables and properties, waiting on a clock that jumps."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from support import tally
from support.effort import either
from support.virtual_time import VirtualTimeLoop
from tronsave_async import limiter as limiter_module
from tronsave_async.errors import UsageError
from tronsave_async.limiter import (
    CANCELS_IN_A_ROW,
    READS_IN_A_ROW,
    Lane,
    Permit,
    RateLimit,
    RateLimiter,
    Scope,
    ScopeStatistics,
    Window,
    choose_lane,
    shared_limiter,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

pytestmark = pytest.mark.virtual_time

SCOPE = Scope("vendor", "account", "cancel")
OTHER = Scope("vendor", "account", "read")
CANCEL, READ, CREATE = Lane.CANCEL, Lane.READ, Lane.CREATE
ROUNDING = 1e-9


def limited(requests: int, per: float, margin: float = 0.0) -> RateLimiter:
    """Return a limiter that knows one scope."""
    limiter = RateLimiter()
    limiter.declare(SCOPE, RateLimit(requests, per, margin))
    return limiter


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let everything run that can run without time passing."""
    for _ in range(5):
        await asyncio.sleep(0)


def busiest(left: list[tuple[float, int]], span: float) -> int:
    """Return the greatest weight that left within any window of ``span`` seconds."""
    return max(
        sum(weight for at, weight in left if end - span + ROUNDING < at <= end) for end, _ in left
    )


class Crowd:
    """Callers of one scope, who note in what order and when they were served and sent."""

    def __init__(self, limiter: RateLimiter, scope: Scope = SCOPE) -> None:
        self.limiter = limiter
        self.scope = scope
        self.served: list[str] = []
        self.served_at: dict[str, float] = {}
        self.left: list[tuple[float, int]] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def join(
        self,
        name: str,
        lane: Lane = READ,
        *,
        weight: int = 1,
        hold: float = 0.0,
        send: bool = True,
    ) -> None:
        """Start a caller and let it queue up."""
        call = self._call(name, lane, weight=weight, hold=hold, send=send)
        self.tasks[name] = asyncio.create_task(call)
        await asyncio.sleep(0)

    async def everybody(self) -> None:
        """Wait until all were served or canceled."""
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def _call(self, name: str, lane: Lane, *, weight: int, hold: float, send: bool) -> None:
        with await self.limiter.acquire(self.scope, weight=weight, lane=lane) as permit:
            self.served.append(name)
            self.served_at[name] = now()
            await asyncio.sleep(hold)
            if send:
                permit.spend()
                self.left.append((now(), weight))


async def take(limiter: RateLimiter, weight: int = 1) -> Permit:
    """Take a permit that must be free."""
    started = now()
    permit = await limiter.acquire(SCOPE, weight=weight)
    assert now() == started
    return permit


def look(limiter: RateLimiter, scope: Scope = SCOPE) -> ScopeStatistics:
    """Return one scope's statistics."""
    return limiter.statistics()[scope]


def waiting(limiter: RateLimiter) -> int:
    """Return how many callers wait."""
    return sum(look(limiter).waiting.values())


def live_timers(loop: asyncio.AbstractEventLoop) -> int:
    """Return how many timers the event loop has that were not canceled."""
    return sum(not handle.cancelled() for handle in vars(loop)["_scheduled"])


@pytest.fixture
async def undebugged() -> None:
    """Turn asyncio's debug mode off for a crowd: it records a traceback for every task and timer."""
    asyncio.get_running_loop().set_debug(False)


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note every timer that any virtual loop sets."""
    moments: list[float] = []
    genuine = VirtualTimeLoop.call_at

    def call_at(self: VirtualTimeLoop, when: float, *args: Any, **kwargs: Any) -> Any:
        moments.append(when)
        return genuine(self, when, *args, **kwargs)

    monkeypatch.setattr(VirtualTimeLoop, "call_at", call_at)
    return moments


# --- RateLimit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "per", "margin", "field"),
    [
        (0, 1.0, 0.0, "requests"),
        (-1, 1.0, 0.0, "requests"),
        (1, 0.0, 0.0, "per"),
        (1, -1.0, 0.0, "per"),
        (1, math.nan, 0.0, "per"),
        (1, math.inf, 0.0, "per"),
        (1, 1.0, -0.1, "margin"),
        (1, 1.0, math.nan, "margin"),
        (1, 1.0, math.inf, "margin"),
    ],
)
def test_a_limit_out_of_range_is_refused(
    requests: int, per: float, margin: float, field: str
) -> None:
    """A limit that cannot be kept or never ends is a usage error that names the field."""
    with pytest.raises(UsageError, match=rf"RateLimit\.{field} "):
        RateLimit(requests, per, margin)


def test_a_limit_has_a_span_and_a_pace() -> None:
    """The margin is part of every window, 50 ms unless told, and slows the pace by its share."""
    assert RateLimit(10, 2.0).span == 2.05
    limit = RateLimit(10, 4.0, margin=1.0)
    assert (limit.span, limit.pace) == (5.0, 2.0)
    assert RateLimit(1, 1e-9, margin=0.0).pace == pytest.approx(1e9)


# --- choose_lane ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cancels", "reads", "creates", "cancels_run", "reads_run", "expected"),
    [
        (0, 0, 0, 0, 0, None),
        (0, 0, 0, 99, 99, None),
        (1, 0, 0, 0, 0, CANCEL),
        (0, 1, 0, 0, 0, READ),
        (0, 0, 1, 0, 0, CREATE),
        (1, 1, 1, 0, 0, CANCEL),
        (0, 1, 1, 0, 0, READ),
        (1, 1, 1, 6, 0, CANCEL),
        (1, 1, 1, 7, 0, READ),
        (1, 1, 1, 7, 2, READ),
        (1, 1, 1, 7, 3, CREATE),
        (1, 0, 1, 7, 0, CREATE),
        (1, 1, 0, 7, 3, READ),
        (1, 0, 0, 7, 3, CANCEL),
        (0, 1, 1, 0, 3, CREATE),
        (0, 1, 0, 0, 3, READ),
    ],
)
def test_who_is_next(
    cancels: int, reads: int, creates: int, cancels_run: int, reads_run: int, expected: Lane | None
) -> None:
    """Cancels go first seven times, then a lower lane once; of those, reads three times."""
    chosen = choose_lane(cancels, reads, creates, cancels_run=cancels_run, reads_run=reads_run)
    assert chosen is expected


COUNTS = st.integers(0, 3)
RUNS = st.integers(0, 20)


@given(COUNTS, COUNTS, COUNTS, RUNS, RUNS)
def test_only_a_lane_in_which_somebody_waits_is_chosen(
    cancels: int, reads: int, creates: int, cancels_run: int, reads_run: int
) -> None:
    """The chosen lane is never empty, and there is one exactly while somebody waits."""
    lanes = [cancels, reads, creates]
    chosen = choose_lane(*lanes, cancels_run=cancels_run, reads_run=reads_run)
    assert (chosen is None) == (not any(lanes))
    assert chosen is None or lanes[chosen] > 0


# --- Window ---------------------------------------------------------------------------------------


def test_a_window_counts_what_left_for_one_span() -> None:
    """Spent weight counts until exactly one span has passed, the oldest first."""
    window = Window(RateLimit(3, 10.0, margin=0.0))
    for at, weight in [(100.0, 2), (104.0, 1)]:
        window.take(weight)
        window.spend(at, weight)
    assert window.free_at(105.0, 1) == 110.0
    assert window.free_at(105.0, 2) == 110.0
    assert window.free_at(105.0, 3) == 114.0
    assert window.free_at(109.999, 1) > 109.999
    assert window.free_at(110.0, 2) <= 110.0
    assert window.free_at(110.0, 3) == 114.0
    assert window.free_at(114.0, 3) <= 114.0
    assert window.in_window == 0


def test_a_permit_in_hand_blocks_its_place_without_end() -> None:
    """Nobody can tell when a request in hand leaves, so its place is free at infinity."""
    window = Window(RateLimit(2, 10.0, margin=0.0))
    window.take(1)
    assert window.free_at(0.0, 1) <= 0.0
    assert window.free_at(0.0, 2) == math.inf
    assert window.free_at(1e9, 2) == math.inf
    window.spend(1e9, 1)
    assert window.free_at(1e9, 2) == 1e9 + 10.0


def test_what_was_given_back_was_never_taken() -> None:
    """A permit given back leaves the whole limit to the others."""
    window = Window(RateLimit(2, 10.0, margin=0.0))
    window.take(2)
    window.give_back(2)
    assert (window.in_hand, window.in_window) == (0, 0)
    assert window.free_at(0.0, 2) <= 0.0


def test_a_closed_window_opens_at_the_latest_moment_asked_for() -> None:
    """A penalty holds back free places too, and a shorter one never ends a longer one."""
    window = Window(RateLimit(1, 10.0, margin=0.0))
    assert window.free_at(0.0, 1) == -math.inf
    window.close_until(50.0)
    window.close_until(20.0)
    assert window.free_at(0.0, 1) == 50.0
    window.take(1)
    window.spend(45.0, 1)
    assert window.free_at(45.0, 1) == 55.0
    window.close_until(60.0)
    assert window.free_at(45.0, 1) == 60.0


STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "spend", "give back"]), st.integers(1, 4), st.floats(0, 3)),
    max_size=60,
)


@given(st.integers(1, 6), STEPS)
def test_a_window_is_never_overdrawn(requests: int, steps: list[tuple[str, int, float]]) -> None:
    """Whoever asks `free_at` first keeps every sliding window, and `free_at` is not too late."""
    limit = RateLimit(requests, 2.0, margin=0.5)
    window, clock, held = Window(limit), 0.0, Counter[int]()
    left: list[tuple[float, int]] = []
    for step, drawn, passed in steps:
        weight, clock = min(drawn, requests), clock + passed
        counted = sum(w for at, w in left if at + limit.span > clock)
        used = counted + sum(w * n for w, n in held.items())
        free = window.free_at(clock, weight) <= clock
        assert free == (used + weight <= requests)
        assert window.in_window == counted
        if step == "take" and free:
            window.take(weight)
            held[weight] += 1
        elif step != "take" and held[weight]:
            held[weight] -= 1
            if step == "spend":
                window.spend(clock, weight)
                left.append((clock, weight))
            else:
                window.give_back(weight)
    assert not left or busiest(left, limit.span) <= requests


# --- the pace -------------------------------------------------------------------------------------


async def test_a_scope_with_room_delays_nobody() -> None:
    """The first requests of a window pass in the same tick, without the loop being entered."""
    limiter = limited(3, 1.0)
    for _ in range(3):
        attempt = limiter.acquire(SCOPE)
        with pytest.raises(StopIteration):
            attempt.send(None)


async def test_a_permit_that_need_not_be_waited_for_is_taken_at_once() -> None:
    """By one call, which counts like any other; where the window has no room there is none, and nobody waits."""
    limiter = limited(2, 1.0)
    first, second = limiter.try_acquire(SCOPE), limiter.try_acquire(SCOPE)
    assert first is not None
    assert second is not None
    assert limiter.try_acquire(SCOPE) is None
    assert (look(limiter).granted, look(limiter).in_hand, waiting(limiter)) == (2, 2, 0)
    first.spend()
    second.give_back()
    third = limiter.try_acquire(SCOPE)
    assert third is not None
    third.spend()
    await asyncio.sleep(0.999)
    assert limiter.try_acquire(SCOPE) is None
    await asyncio.sleep(0.001)
    assert limiter.try_acquire(SCOPE) is not None
    with pytest.raises(UsageError, match="not declared"):
        limiter.try_acquire(OTHER)


def test_a_limiter_has_no_time_before_its_first_use() -> None:
    """It is the event loop's, which binds it."""
    with pytest.raises(AssertionError, match=r"^a limiter is bound on its first use$"):
        limited(1, 1.0).time()


async def test_nobody_who_waits_is_passed_by() -> None:
    """Whoever cannot wait gets nothing while somebody waits, also where there would be room for one of less weight; nor
    under a penalty."""
    limiter = limited(2, 1.0)
    (await take(limiter)).spend()
    crowd = Crowd(limiter)
    await crowd.join("heavy", weight=2)
    assert limiter.try_acquire(SCOPE) is None
    await crowd.everybody()
    await asyncio.sleep(5.0)
    limiter.penalize(SCOPE, 3.0)
    assert limiter.try_acquire(SCOPE) is None
    await asyncio.sleep(3.0)
    assert limiter.try_acquire(SCOPE) is not None


async def test_never_more_than_the_limit_in_any_window() -> None:
    """A burst of callers leaves at the limit's pace: full at once, then as places come free."""
    crowd = Crowd(limited(5, 1.0, margin=0.1))
    started = now()
    for n in range(23):
        await crowd.join(str(n))
    await crowd.everybody()
    assert busiest(crowd.left, 1.1) == 5
    assert [at - started for at, _ in crowd.left] == pytest.approx(
        [n // 5 * 1.1 for n in range(23)]
    )


async def test_weights_count() -> None:
    """A request of weight three takes three places of every window."""
    crowd, rng = Crowd(limited(5, 1.0)), random.Random(1)
    for n in range(60):
        await crowd.join(str(n), weight=rng.randint(1, 5))
    await crowd.everybody()
    assert len(crowd.left) == 60
    assert busiest(crowd.left, 1.0) == 5


async def test_a_slow_connect_cannot_make_requests_arrive_together() -> None:
    """The window starts when the request leaves, not when its permit was granted."""
    crowd = Crowd(limited(2, 1.0))
    holds = itertools.cycle([3.0, 0.0, 0.9, 0.0, 2.5])
    for n in range(30):
        await crowd.join(str(n), hold=next(holds))
    await crowd.everybody()
    assert len(crowd.left) == 30
    assert busiest(crowd.left, 1.0) == 2


async def test_a_permit_in_hand_keeps_its_place_as_long_as_it_takes() -> None:
    """While a connection takes an hour, its place is nobody else's, and the next waits a window."""
    limiter = limited(1, 1.0)
    held = await take(limiter)
    crowd = Crowd(limiter)
    await crowd.join("next")
    await asyncio.sleep(3600)
    assert crowd.served == []
    held.spend()
    spent = now()
    await crowd.everybody()
    assert crowd.served_at["next"] == spent + 1.0


async def test_a_permit_given_back_serves_the_next_at_once() -> None:
    """What was not sent costs nobody anything."""
    crowd = Crowd(limited(1, 1.0))
    started = now()
    for n in range(10):
        await crowd.join(str(n), send=False)
    await crowd.everybody()
    assert len(crowd.served) == 10
    assert now() == started
    assert look(crowd.limiter) == look(limited(1, 1.0))


@pytest.mark.usefixtures("undebugged")
async def test_a_mixed_crowd_keeps_every_window() -> None:
    """Weights, lanes, slow holders and permits given back together never exceed the limit."""
    crowd, rng = Crowd(limited(7, 2.0, margin=0.25)), random.Random(2)
    for n in range(300):
        await crowd.join(
            str(n),
            rng.choice(list(Lane)),
            weight=rng.choice([1, 1, 1, 2, 7]),
            hold=rng.choice([0.0, 0.0, 0.3, 4.0]),
            send=rng.random() < 0.8,
        )
    await crowd.everybody()
    assert len(crowd.served) == 300
    assert busiest(crowd.left, 2.25) == 7


async def test_scopes_do_not_share() -> None:
    """What the vendor meters apart is limited apart, however full the other scope is."""
    limiter = limited(1, 100.0)
    limiter.declare(OTHER, RateLimit(1, 1.0, margin=0.0))
    (await take(limiter)).spend()
    slow, fast = Crowd(limiter), Crowd(limiter, OTHER)
    started = now()
    await slow.join("slow")
    for n in range(3):
        await fast.join(str(n))
    await asyncio.gather(slow.everybody(), fast.everybody())
    assert [fast.served_at[str(n)] - started for n in range(3)] == [0.0, 1.0, 2.0]
    assert slow.served_at["slow"] - started == 100.0


# --- permits --------------------------------------------------------------------------------------


async def test_a_permit_is_spent_once() -> None:
    """Later calls of spend and give_back change nothing, whichever came first."""
    limiter = limited(2, 1.0)
    spent, unsent = await take(limiter), await take(limiter)
    spent.spend()
    unsent.give_back()
    after = look(limiter)
    for permit in (spent, unsent):
        permit.spend()
        permit.give_back()
        permit.spend()
    assert look(limiter) == after
    assert (after.in_window, after.in_hand, after.granted) == (1, 0, 1)


async def test_a_permit_not_spent_at_the_end_of_its_block_is_given_back() -> None:
    """An exception before the request left gives the place back and is not swallowed."""
    limiter = limited(1, 1.0)

    async def fail() -> None:
        with await limiter.acquire(SCOPE):
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert (look(limiter).in_window, look(limiter).in_hand) == (0, 0)
    with await take(limiter) as permit:
        permit.spend()
    assert (look(limiter).in_window, look(limiter).in_hand) == (1, 0)


# --- order ----------------------------------------------------------------------------------------


async def test_first_come_first_served_inside_a_lane() -> None:
    """A lane is a queue."""
    crowd = Crowd(limited(2, 1.0))
    names = [str(n) for n in range(50)]
    for name in names:
        await crowd.join(name)
    await crowd.everybody()
    assert crowd.served == names


async def test_weight_never_reorders() -> None:
    """A light request does not pass a heavy one that came first, though there is room for it."""
    limiter = limited(5, 1.0)
    (await take(limiter, 3)).spend()
    crowd = Crowd(limiter)
    await crowd.join("heavy", weight=4)
    await crowd.join("light")
    await settle()
    assert crowd.served == []
    await crowd.everybody()
    assert crowd.served == ["heavy", "light"]
    assert crowd.served_at["heavy"] == crowd.served_at["light"]


async def test_nobody_barges_in() -> None:
    """A caller who comes while another waits does not take the place that suits only itself."""
    limiter = limited(4, 1.0)
    (await take(limiter, 2)).spend()
    crowd = Crowd(limiter)
    await crowd.join("waits", CREATE, weight=3)
    barging = asyncio.create_task(limiter.acquire(SCOPE, lane=CREATE))
    await settle()
    assert not barging.done()
    await crowd.everybody()
    (await barging).give_back()


async def test_a_place_handed_on_is_not_up_for_grabs() -> None:
    """Between a grant and the moment its caller runs, a newcomer finds no room."""
    limiter = limited(1, 1.0)
    held = await take(limiter)
    crowd = Crowd(limiter)
    await crowd.join("first", hold=1.0)
    held.give_back()
    newcomer = asyncio.create_task(limiter.acquire(SCOPE))
    await settle()
    assert crowd.served == ["first"]
    assert not newcomer.done()
    await crowd.everybody()
    (await newcomer).give_back()


async def test_cancels_go_ahead_of_reads_ahead_of_creates() -> None:
    """Whoever came last in a higher lane goes before whoever came first in a lower one."""
    limiter = limited(1, 1.0)
    held = await take(limiter)
    crowd = Crowd(limiter)
    for name, lane in [("create", CREATE), ("read", READ), ("cancel", CANCEL)]:
        await crowd.join(name, lane)
    held.give_back()
    await crowd.everybody()
    assert crowd.served == ["cancel", "read", "create"]


async def test_the_lower_lanes_keep_their_share() -> None:
    """Under a storm every eighth permit is not a cancel's, and every fourth of those a create's."""
    limiter = limited(1, 1.0)
    held = await take(limiter)
    crowd = Crowd(limiter)
    for n in range(64):
        for lane in Lane:
            await crowd.join(f"{lane.name} {n}", lane)
    held.give_back()
    await asyncio.sleep(63.5)
    lanes = "".join(name.split()[0][1] for name in crowd.served)  # cAncel, rEad, cReate
    assert lanes == ("AAAAAAAE" * 3 + "AAAAAAAR") * 2
    await crowd.everybody()


async def test_creates_keep_a_quarter_beside_reads() -> None:
    """Without cancels, three reads pass and then one create."""
    limiter = limited(1, 1.0)
    held = await take(limiter)
    crowd = Crowd(limiter)
    for n in range(12):
        for lane in (READ, CREATE):
            await crowd.join(f"{lane.name} {n}", lane)
    held.give_back()
    await asyncio.sleep(11.5)
    assert "".join(name[0:2] for name in crowd.served) == "RERERECR" * 3
    await crowd.everybody()


async def test_a_run_counts_only_while_somebody_below_waits() -> None:
    """Cancels that made nobody wait do not cost later cancels their precedence."""
    limiter = limited(1, 1.0)
    held = await take(limiter)
    crowd = Crowd(limiter)
    for n in range(20):
        await crowd.join(f"cancel {n}", CANCEL)
    held.give_back()
    await asyncio.sleep(9.5)
    assert len(crowd.served) == 10
    await crowd.join("read", READ)
    await crowd.everybody()
    assert crowd.served.index("read") == 17


async def test_a_heavy_create_is_not_starved() -> None:
    """A create that needs the whole window gets it though cancels keep coming."""
    limiter = limited(4, 1.0)
    crowd = Crowd(limiter)
    for n in range(4):
        await crowd.join(f"cancel {n}", CANCEL)
    await crowd.join("create", CREATE, weight=4)
    for n in range(4, 100):
        await crowd.join(f"cancel {n}", CANCEL)
    await crowd.everybody()
    assert crowd.served.index("create") == 4 + 7
    assert busiest(crowd.left, 1.0) == 4


@pytest.mark.usefixtures("undebugged")
@pytest.mark.parametrize("requests", [1, 10])
async def test_a_cancel_behind_a_crowd_is_granted_within_one_interval(requests: int) -> None:
    """A cancel that comes last after 500 reads and creates leaves with the next free place."""
    limiter = limited(requests, 2.0, margin=0.05)
    crowd = Crowd(limiter)
    for n in range(500):
        await crowd.join(str(n), READ if n % 2 else CREATE)
    await asyncio.sleep(2.05 * 3 + 0.7)
    asked = now()
    await crowd.join("cancel", CANCEL)
    await crowd.tasks["cancel"]
    assert 0 < crowd.served_at["cancel"] - asked <= 2.05
    for task in crowd.tasks.values():
        task.cancel()
    await crowd.everybody()


# --- penalties ------------------------------------------------------------------------------------


async def test_a_penalty_closes_the_scope_for_all_its_users() -> None:
    """Those who wait, those who come, and every lane: nothing passes before its end."""
    limiter = limited(2, 1.0)
    (await take(limiter, 2)).spend()
    crowd = Crowd(limiter)
    started = now()
    await crowd.join("waits")
    limiter.penalize(SCOPE, 30.0)
    for lane in Lane:
        await crowd.join(lane.name, lane)
    assert look(limiter).closed_for == 30.0
    await asyncio.sleep(29.9)
    assert crowd.served == []
    await crowd.everybody()
    assert min(crowd.served_at.values()) == started + 30.0
    assert look(limiter).closed_for == 0.0


async def test_a_penalty_closes_a_scope_with_room() -> None:
    """Free places do not open a closed scope."""
    limiter = limited(10, 1.0)
    limiter.penalize(SCOPE, 5.0)
    started = now()
    (await limiter.acquire(SCOPE)).spend()
    assert now() == started + 5.0


async def test_a_penalty_leaves_other_scopes_alone() -> None:
    """What the vendor meters apart is closed apart."""
    limiter = limited(1, 1.0)
    limiter.declare(OTHER, RateLimit(1, 1.0))
    limiter.penalize(OTHER, 1000.0)
    (await take(limiter)).spend()


async def test_a_shorter_penalty_never_ends_a_longer_one() -> None:
    """Of several penalties the one that ends last is in force."""
    limiter = limited(1, 1.0)
    started = now()
    for seconds in (10.0, 40.0, 20.0, 0.0):
        limiter.penalize(SCOPE, seconds)
    assert look(limiter).closed_for == 40.0
    await limiter.acquire(SCOPE)
    assert now() == started + 40.0


async def test_a_penalty_also_holds_what_comes_free_meanwhile() -> None:
    """A permit given back during a penalty is passed on when the penalty ends."""
    limiter = limited(1, 1.0)
    held = await take(limiter)
    crowd = Crowd(limiter)
    started = now()
    await crowd.join("next")
    limiter.penalize(SCOPE, 7.0)
    held.give_back()
    await crowd.everybody()
    assert crowd.served_at["next"] == started + 7.0


@pytest.mark.parametrize("seconds", [-0.1, math.nan, math.inf, -math.inf])
async def test_a_penalty_out_of_range_is_refused(seconds: float) -> None:
    """A penalty that never ends, or ended before it began, is a usage error."""
    limiter = limited(1, 1.0)
    with pytest.raises(UsageError, match="penalty"):
        limiter.penalize(SCOPE, seconds)
    assert look(limiter).closed_for == 0.0


# --- cancellation ---------------------------------------------------------------------------------


async def test_canceled_before_the_grant() -> None:
    """Who leaves the queue leaves no trace, and the next in line goes on."""
    limiter = limited(1, 1.0)
    (await take(limiter)).spend()
    before = look(limiter)
    crowd = Crowd(limiter)
    await crowd.join("leaves", CANCEL)
    assert look(limiter).waiting == {CANCEL: 1, READ: 0, CREATE: 0}
    crowd.tasks["leaves"].cancel()
    await settle()
    assert crowd.tasks["leaves"].cancelled()
    assert look(limiter) == before
    await crowd.join("next")
    await crowd.everybody()
    assert crowd.served == ["next"]


async def test_canceled_before_the_grant_makes_room_for_lighter_ones() -> None:
    """When the heavy head of a queue leaves, those behind it pass at once if they fit."""
    limiter = limited(4, 1.0)
    (await take(limiter, 2)).spend()
    crowd = Crowd(limiter)
    started = now()
    await crowd.join("heavy", weight=4)
    await crowd.join("light")
    crowd.tasks["heavy"].cancel()
    await crowd.everybody()
    assert crowd.served_at == {"light": started}


async def test_canceled_in_the_tick_of_its_grant() -> None:
    """A permit granted to a caller that is canceled before it runs is handed on to the next."""
    limiter = limited(1, 1.0)
    held = await take(limiter)
    crowd = Crowd(limiter)
    await crowd.join("canceled")
    await crowd.join("next")
    started = now()
    held.give_back()
    crowd.tasks["canceled"].cancel()
    await crowd.everybody()
    assert crowd.tasks["canceled"].cancelled()
    assert crowd.served_at == {"next": started}
    assert (look(limiter).granted, look(limiter).in_hand, look(limiter).in_window) == (1, 0, 1)


@pytest.mark.parametrize("place", ["spend", "give back", "leave", "come"])
async def test_canceled_in_the_tick_before_its_grant(place: str) -> None:
    """A caller canceled but not yet run is skipped: nobody else's call fails, the next is served."""
    limiter = limited(2, 1.0)
    held = [await take(limiter), await take(limiter)]
    crowd = Crowd(limiter)
    for name in ("first", "second", "next"):
        await crowd.join(name)
    crowd.tasks["first"].cancel()
    match place:
        case "spend":
            held.pop().spend()
            held.pop().give_back()
        case "give back":
            held.pop().give_back()
        case "leave":
            crowd.tasks["second"].cancel()
            held.pop().give_back()
        case _:
            held.pop().give_back()
            await crowd.join("late")
    await settle()
    assert crowd.tasks["first"].cancelled()
    assert crowd.served[0] == ("next" if place == "leave" else "second")
    while held:
        held.pop().give_back()
    await crowd.everybody()
    assert crowd.served[-1] == ("late" if place == "come" else "next")
    assert (waiting(limiter), look(limiter).in_hand) == (0, 0)


async def test_canceled_in_the_tick_of_the_timer() -> None:
    """The timer passes over a caller that was canceled in its tick, and serves the next in time."""
    limiter = limited(1, 1.0)
    (await take(limiter)).spend()
    started, crowd = now(), Crowd(limiter)
    await crowd.join("first")
    # Set before the limiter's own timer is due, at the same moment: it runs just ahead of it.
    asyncio.get_running_loop().call_at(started + 1.0 - 1e-10, crowd.tasks["first"].cancel)
    await crowd.join("next")
    await crowd.everybody()
    assert crowd.tasks["first"].cancelled()
    assert crowd.served_at == {"next": pytest.approx(started + 1.0)}


async def test_canceled_after_the_grant() -> None:
    """A caller canceled with the permit in hand gives it back at the end of its block."""
    limiter = limited(1, 1.0)
    crowd = Crowd(limiter)
    await crowd.join("holds", hold=100.0)
    await crowd.join("next")
    started = now()
    crowd.tasks["holds"].cancel()
    await crowd.everybody()
    assert crowd.served == ["holds", "next"]
    assert crowd.served_at["next"] == started


async def test_canceled_after_the_request_left() -> None:
    """Cancellation does not unsend: a spent permit counts for its whole window."""
    limiter = limited(1, 1.0)

    async def send_and_wait() -> None:
        with await limiter.acquire(SCOPE) as permit:
            permit.spend()
            await asyncio.sleep(100.0)

    sender = asyncio.create_task(send_and_wait())
    await settle()
    sender.cancel()
    started = now()
    await limiter.acquire(SCOPE)
    assert now() == started + 1.0


async def test_a_timeout_around_a_waiting_call() -> None:
    """`asyncio.timeout` ends the wait in time, and leaves the queue empty."""
    limiter = limited(1, 100.0)
    (await take(limiter)).spend()
    started = now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3.0):
            await limiter.acquire(SCOPE)
    assert now() == started + 3.0
    assert waiting(limiter) == 0


@pytest.mark.usefixtures("undebugged")
async def test_half_of_a_crowd_is_canceled_and_the_pace_stays() -> None:
    """Of 2,000 waiters half are canceled anywhere in the queue; the rest goes on, in order."""
    limiter = limited(100, 1.0)
    (await take(limiter, 100)).spend()
    crowd, started = Crowd(limiter), now()
    for n in range(2000):
        await crowd.join(str(n))
    canceled = set(random.Random(3).sample(range(2000), 1000))
    for n in canceled:
        crowd.tasks[str(n)].cancel()
    await crowd.everybody()
    assert crowd.served == [str(n) for n in range(2000) if n not in canceled]
    assert [at - started for at, _ in crowd.left] == [1.0 + n // 100 for n in range(1000)]


# --- the timer ------------------------------------------------------------------------------------


async def test_one_timer_serves_all_scopes(timers: list[float]) -> None:
    """However many wait in however many scopes, the event loop holds one timer, the earliest."""
    limiter, crowds = RateLimiter(), []
    for n in range(10):
        scope = Scope("vendor", str(n), "cancel")
        limiter.declare(scope, RateLimit(1, 10.0 - n, margin=0.0))
        crowds.append(Crowd(limiter, scope))
        for name in "abcdef":
            await crowds[-1].join(name)
        assert live_timers(asyncio.get_running_loop()) == 1
    for elapsed in range(60):
        assert live_timers(asyncio.get_running_loop()) <= 1, elapsed
        await asyncio.sleep(1.0)
    for crowd in crowds:
        await crowd.everybody()
        assert [at - crowd.left[0][0] for at, _ in crowd.left] == pytest.approx(
            [n * (crowd.left[1][0] - crowd.left[0][0]) for n in range(6)]
        )


@pytest.mark.usefixtures("undebugged")
async def test_nothing_polls(timers: list[float]) -> None:
    """A thousand callers wait an hour for one timer; each place that comes free costs one more."""
    limiter = limited(100, 1.0)
    limiter.penalize(SCOPE, 3600.0)
    crowd = Crowd(limiter)
    for n in range(1000):
        await crowd.join(str(n))
    assert len(timers) == len(limiter._due) == 1
    await crowd.everybody()
    assert len(timers) <= 1 + 1000 // 100


async def test_no_timer_without_need(timers: list[float]) -> None:
    """Room, permits in hand and permits given back need no timer: only a window running out does."""
    crowd = Crowd(limited(1, 1.0))
    for n in range(10):
        await crowd.join(str(n), send=False)
    await crowd.everybody()
    assert timers == []


async def test_a_later_need_does_not_move_an_earlier_timer(timers: list[float]) -> None:
    """A scope that is due later leaves the timer alone; one that is due earlier moves it."""
    limiter, started, crowds = RateLimiter(), now(), []
    for name, per in [("middle", 20.0), ("late", 30.0), ("early", 10.0)]:
        scope = Scope("vendor", "account", name)
        limiter.declare(scope, RateLimit(1, per, margin=0.0))
        (await limiter.acquire(scope)).spend()
        crowds.append(Crowd(limiter, scope))
        await crowds[-1].join(name)
    assert [when - started for when in timers] == [20.0, 10.0]
    assert live_timers(asyncio.get_running_loop()) == 1
    for crowd in crowds:
        await crowd.everybody()
    assert now() == started + 30.0


async def test_a_need_that_passed_is_forgotten() -> None:
    """A timer set for somebody who has left serves the others in their own time."""
    limiter = limited(2, 10.0)
    limiter.declare(OTHER, RateLimit(1, 15.0, margin=0.0))
    (await limiter.acquire(OTHER)).spend()
    (await take(limiter)).spend()
    await asyncio.sleep(5.0)
    (await take(limiter)).spend()
    gone, stays, started = Crowd(limiter), Crowd(limiter, OTHER), now()
    await gone.join("light")
    await stays.join("stays")
    gone.tasks["light"].cancel()
    await settle()
    await gone.join("heavy", weight=2)
    await asyncio.gather(gone.everybody(), stays.everybody())
    assert gone.served_at == {"heavy": started + 10.0}
    assert stays.served_at == {"stays": started + 10.0}


async def test_a_timer_that_comes_early_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop may call a timer up to its clock's resolution early: nobody passes early."""
    limiter = limited(1, 1.0)
    (await take(limiter)).spend()
    loop, started = asyncio.get_running_loop(), now()
    genuine, early = loop.call_at, [True]

    def call_at(when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        return genuine(when - 0.25 if early and early.pop() else when, *args, **kwargs)

    monkeypatch.setattr(loop, "call_at", call_at)
    crowd = Crowd(limiter)
    await crowd.join("waits")
    await crowd.everybody()
    assert crowd.served_at["waits"] == started + 1.0


# --- declarations, arguments, statistics ----------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
async def test_of_two_declarations_the_slower_stays(order: int) -> None:
    """Two gateways that disagree about one scope are both held to the slower limit."""
    limiter = RateLimiter()
    for limit in [RateLimit(10, 1.0, margin=0.0), RateLimit(1, 2.0, margin=0.0)][::order]:
        limiter.declare(SCOPE, limit)
    started = now()
    for _ in range(3):
        (await limiter.acquire(SCOPE)).spend()
    assert now() == started + 4.0


async def test_a_repeated_declaration_keeps_what_was_counted() -> None:
    """Declaring a scope again does not hand out its budget anew."""
    limiter = limited(1, 10.0)
    (await take(limiter)).spend()
    limiter.declare(SCOPE, RateLimit(1, 10.0, margin=0.0))
    limiter.declare(SCOPE, RateLimit(1, 20.0, margin=0.0))
    started = now()
    await limiter.acquire(SCOPE)
    assert now() == started + 20.0


async def test_a_stricter_declaration_fails_those_it_can_never_serve() -> None:
    """A waiting call heavier than the new limit gets its usage error; those behind it are served."""
    limiter = limited(5, 1.0)
    (await take(limiter, 5)).spend()
    heavy = asyncio.create_task(limiter.acquire(SCOPE, weight=4))
    crowd = Crowd(limiter)
    await crowd.join("light")
    limiter.declare(SCOPE, RateLimit(2, 1.0, margin=0.0))
    async with asyncio.timeout(100.0):
        with pytest.raises(UsageError, match=r"^weight 4 is not within 1\.\.2$"):
            await heavy
        await crowd.everybody()
    assert crowd.served == ["light"]


@pytest.mark.parametrize("per", [1.5, 4.0])
async def test_those_who_wait_go_by_a_new_declaration(per: float) -> None:
    """A declaration with a longer window holds for those who wait already, and for what left before."""
    limiter = limited(2, 1.0)
    (await take(limiter)).spend()
    await asyncio.sleep(0.5)
    (await take(limiter)).spend()
    crowd, started = Crowd(limiter), now()
    await crowd.join("waits")
    limiter.declare(SCOPE, RateLimit(2, per, margin=0.0))
    await crowd.everybody()
    assert crowd.served_at["waits"] == started - 0.5 + per


async def test_what_left_counts_as_long_as_under_the_limit_it_left_under() -> None:
    """A declaration with fewer requests in a shorter window: nobody may go earlier for it, since the vendor may count
    by the first one."""
    limiter, started = limited(2, 5.0), now()
    (await take(limiter, 2)).spend()
    await asyncio.sleep(3.0)
    limiter.declare(SCOPE, RateLimit(1, 2.0, margin=0.0))
    assert limiter.try_acquire(SCOPE) is None
    crowd = Crowd(limiter)
    await crowd.join("first")
    await crowd.join("second")
    await crowd.everybody()
    assert [crowd.served_at[name] - started for name in ("first", "second")] == [5.0, 7.5]


def test_a_log_stays_in_order_when_windows_become_shorter() -> None:
    """What leaves after a declaration counts as long as what left before it, or longer."""
    window = Window(RateLimit(3, 10.0, margin=0.0))
    for at in (0.0, 1.0):
        window.take(1)
        window.spend(at, 1)
    window.go_by(RateLimit(3, 2.0, margin=0.0))
    window.take(1)
    window.spend(2.0, 1)
    assert [window.free_at(2.0, weight) for weight in (1, 2, 3)] == [10.0, 11.0, 11.0]
    assert window.free_at(10.5, 1) <= 10.5
    assert window.in_window == 2


def test_what_left_under_a_former_limit_counts_as_long_under_another_clock() -> None:
    """Two requests of a limit of two in ten seconds left; a limit with shorter windows and another loop follow."""
    window = Window(RateLimit(2, 10.0, margin=0.0))
    window.take(2)
    window.spend(0.0, 2)
    window.go_by(RateLimit(1, 5.0, margin=0.0))
    assert window.rebased(1.0, 101.0).free_at(101.0, 1) == 110.0


def test_what_is_in_hand_counts_as_long_as_under_the_limit_it_was_granted_under() -> None:
    """Three permits of a limit of three leave together after a limit with shorter windows was declared: no fourth may
    follow within the first limit's window. When none is left in hand, the new limit counts alone."""
    window = Window(RateLimit(3, 3.0, margin=0.0))
    window.take(3)
    window.go_by(RateLimit(1, 1.0, margin=0.0))
    window.spend(1.0, 1)
    window.spend(1.0, 1)
    window.give_back(1)
    assert window.free_at(1.0, 1) == 4.0
    assert window.take_if_free(4.0, 1)
    window.spend(4.0, 1)
    assert window.free_at(4.0, 1) == 5.0


@pytest.mark.parametrize("weight", [-1, 0, 4])
async def test_a_weight_out_of_range_is_refused(weight: int) -> None:
    """A weight that is nothing, or could never pass, is a usage error and leaves no trace."""
    limiter = limited(3, 1.0)
    with pytest.raises(UsageError, match=rf"^weight {weight} is not within 1\.\.3$"):
        await limiter.acquire(SCOPE, weight=weight)
    assert look(limiter) == look(limited(3, 1.0))


async def test_an_undeclared_scope_is_refused() -> None:
    """Neither a permit nor a penalty exists for a scope that was not declared."""
    limiter = limited(1, 1.0)
    text = r"^scope \('vendor', 'account', 'read'\) was not declared to this limiter$"
    with pytest.raises(UsageError, match=text):
        await limiter.acquire(OTHER)
    with pytest.raises(UsageError, match=text):
        limiter.penalize(OTHER, 1.0)
    assert set(limiter.statistics()) == {SCOPE}


async def test_statistics_tell_the_moment() -> None:
    """They count what was granted, what still counts, what is in hand and who waits where."""
    limiter = limited(4, 1.0)
    limiter.declare(OTHER, RateLimit(1, 1.0))
    (await take(limiter, 2)).spend()
    held = await take(limiter, 2)
    crowd = Crowd(limiter)
    for n, lane in enumerate([CANCEL, READ, READ, CREATE]):
        await crowd.join(str(n), lane)
    limiter.penalize(SCOPE, 0.5)
    empty = ScopeStatistics(0, 0, 0, {CANCEL: 0, READ: 0, CREATE: 0}, 0.0)
    busy = ScopeStatistics(2, 2, 2, {CANCEL: 1, READ: 2, CREATE: 1}, 0.5)
    assert limiter.statistics() == {SCOPE: busy, OTHER: empty}
    held.give_back()
    await crowd.everybody()
    assert look(limiter).granted == 5
    await asyncio.sleep(1.0)
    assert look(limiter) == ScopeStatistics(5, 0, 0, {CANCEL: 0, READ: 0, CREATE: 0}, 0.0)


async def test_statistics_are_a_snapshot() -> None:
    """What was returned does not change afterwards, and cannot be changed."""
    limiter = limited(1, 1.0)
    before = limiter.statistics()
    (await take(limiter)).spend()
    assert before[SCOPE].granted == 0
    with pytest.raises(TypeError):
        before[SCOPE].waiting[READ] = 1  # type: ignore[index]


# --- event loops ----------------------------------------------------------------------------------


def run(main: Callable[[], Coroutine[Any, Any, None]], *, begin: float = 0.0) -> None:
    """Run ``main`` on a new event loop whose clock begins ``begin`` seconds later, and close it."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(asyncio.sleep(begin))
        runner.run(main())


def test_a_limiter_needs_an_event_loop_only_when_it_is_used() -> None:
    """It is made and told its limits outside of any event loop."""
    limiter = limited(1, 1.0)
    assert limiter.is_stranded
    with pytest.raises(RuntimeError, match="no running event loop"):
        limiter.statistics()

    async def use() -> None:
        (await take(limiter)).spend()
        assert not limiter.is_stranded

    run(use)
    assert limiter.is_stranded


@pytest.mark.parametrize("begin", [0.0, 5000.0])
def test_a_budget_survives_its_event_loop(begin: float) -> None:
    """What counted under a closed loop counts under the next, whatever its clock shows."""
    limiter = limited(3, 10.0)

    async def first() -> None:
        (await take(limiter)).spend()
        await take(limiter)

    async def second() -> None:
        started = now()
        assert (look(limiter).in_window, look(limiter).in_hand) == (2, 0)
        (await take(limiter)).spend()
        await limiter.acquire(SCOPE, weight=3)
        assert now() == started + 10.0

    run(first, begin=1000.0)
    run(second, begin=begin)


def test_what_no_longer_counted_does_not_count_on_the_next_event_loop() -> None:
    """Requests of an hour ago do not delay the first request of the next event loop."""
    limiter = limited(1, 10.0)

    async def first() -> None:
        (await take(limiter)).spend()
        await asyncio.sleep(3600.0)

    async def second() -> None:
        (await take(limiter)).spend()

    run(first)
    run(second)


@pytest.mark.parametrize("begin", [0.0, 5000.0])
def test_a_penalty_survives_its_event_loop(begin: float) -> None:
    """A vendor that said "too many" is left alone for the rest of the time, also by the next loop."""
    limiter = limited(1, 1.0)

    async def first() -> None:
        limiter.penalize(SCOPE, 60.0)
        await asyncio.sleep(20.0)

    async def second() -> None:
        assert look(limiter).closed_for == 40.0
        started = now()
        await limiter.acquire(SCOPE)
        assert now() == started + 40.0

    run(first, begin=1000.0)
    run(second, begin=begin)


@pytest.mark.parametrize("end", [Permit.give_back, Permit.spend])
def test_a_permit_of_a_closed_event_loop_changes_nothing(end: Callable[[Permit], None]) -> None:
    """It was counted as spent when the limiter was taken over, and is not counted twice."""
    limiter = limited(1, 10.0)
    permits: list[Permit] = []

    async def first() -> None:
        permits.append(await take(limiter))

    async def second() -> None:
        before = look(limiter)
        end(permits[0])
        assert look(limiter) == before
        await asyncio.sleep(10.0)
        await take(limiter)
        assert (look(limiter).in_hand, look(limiter).in_window) == (1, 0)

    run(first)
    run(second)


def test_the_waiters_of_a_closed_event_loop_are_gone(timers: list[float]) -> None:
    """Nobody is left in the queue, no timer that never comes, and nothing calls the closed loop."""
    limiter = limited(2, 10.0)
    loop = VirtualTimeLoop()
    held: list[Permit] = []
    attempts: list[asyncio.Task[Permit]] = []

    async def first() -> None:
        (await take(limiter)).spend()
        held.append(await take(limiter))
        attempts.extend(asyncio.create_task(limiter.acquire(SCOPE, lane=lane)) for lane in Lane)
        await settle()
        assert waiting(limiter) == 3

    async def second() -> None:
        assert waiting(limiter) == 0
        crowd, started, before = Crowd(limiter), now(), len(timers)
        await crowd.join("next")
        await crowd.everybody()
        assert crowd.served_at["next"] == started + 20.0
        assert len(timers) - before == 1
        held[0].give_back()

    try:
        loop.run_until_complete(first())
    finally:
        loop.close()
    limiter.declare(SCOPE, RateLimit(2, 20.0, margin=0.0))
    run(second, begin=5000.0)
    for attempt in attempts:  # forsaken on purpose: their loop cannot end them any more
        attempt._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_a_limiter_serves_one_running_event_loop() -> None:
    """While its loop runs, another loop's calls are refused and change nothing."""
    limiter = limited(1, 1.0)
    (await take(limiter)).spend()
    before = look(limiter)

    async def elsewhere() -> None:
        with pytest.raises(
            UsageError, match=r"^this RateLimiter serves another running event loop$"
        ):
            await limiter.acquire(SCOPE)
        with pytest.raises(
            UsageError, match=r"^this RateLimiter serves another running event loop$"
        ):
            limiter.penalize(SCOPE, 1.0)
        with pytest.raises(
            UsageError, match=r"^this RateLimiter serves another running event loop$"
        ):
            limiter.statistics()

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert look(limiter) == before


@pytest.fixture
def nothing_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the limiters that other tests' event loops have shared."""
    monkeypatch.setattr(limiter_module, "_shared", WeakKeyDictionary())


@pytest.mark.usefixtures("nothing_shared")
def test_an_event_loop_has_one_shared_limiter() -> None:
    """Whoever asks on one loop gets the same; outside of any loop there is none."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        shared_limiter()

    async def ask() -> None:
        assert shared_limiter() is shared_limiter()

    run(ask)


@pytest.mark.usefixtures("nothing_shared")
def test_the_next_event_loop_takes_over_the_shared_limiter() -> None:
    """Budgets survive several `asyncio.run` in a row."""
    seen: list[RateLimiter] = []

    async def use() -> None:
        seen.append(limiter := shared_limiter())
        limiter.declare(SCOPE, RateLimit(10, 10.0))
        (await take(limiter)).spend()
        assert look(limiter).in_window == len(seen)

    for _ in range(3):
        run(use)
    assert seen[0] is seen[1] is seen[2]


@pytest.mark.usefixtures("nothing_shared")
@pytest.mark.parametrize("used", [True, False])
def test_event_loops_that_run_at_the_same_time_do_not_share(used: bool) -> None:
    """A loop in another thread gets its own, also while the first has not used its limiter yet."""
    seen: list[RateLimiter] = []

    async def ask() -> None:
        seen.append(shared_limiter())

    async def both() -> None:
        mine = shared_limiter()
        if used:
            mine.statistics()
        await asyncio.to_thread(run, ask)
        assert seen[0] is not mine
        assert shared_limiter() is mine

    run(both)


@pytest.mark.usefixtures("nothing_shared")
def test_a_shared_limiter_in_use_elsewhere_is_not_taken_over() -> None:
    """One that was carried by hand from a closed loop to a running one stays with the latter."""
    seen: list[RateLimiter] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def ask() -> None:
        seen.append(shared_limiter())
        loops.append(asyncio.get_running_loop())

    async def carry() -> None:
        seen[0].statistics()
        await asyncio.to_thread(run, ask)
        assert seen[1] is not seen[0]

    run(ask)
    run(carry)


# --- anything at any time -------------------------------------------------------------------------

INDEX = st.integers(0, 20)
SCOPES = st.sampled_from([SCOPE, OTHER])
LIMITS = st.builds(
    RateLimit,
    requests=st.integers(1, 5),
    per=st.sampled_from([2.0, 2.0, 0.75, 5.0]),
    margin=st.sampled_from([0.0, 0.25]),
)
Action = tuple[str, Any, Any, Any]
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.tuples(
        st.sampled_from(["acquire", "acquire and send", "try"]),
        SCOPES,
        st.sampled_from(Lane),
        st.integers(1, 6),
    ),
    st.tuples(st.just("crowd"), SCOPES, st.sampled_from(Lane), st.integers(2, 20)),
    st.tuples(st.just("cancel"), INDEX, st.none(), st.none()),
    st.tuples(st.just("cancel one who waits"), SCOPES, st.integers(0, 3), st.none()),
    st.tuples(st.just("connect"), INDEX, st.booleans(), st.none()),
    st.tuples(st.just("answer"), INDEX, st.none(), st.none()),
    st.tuples(st.just("penalize"), SCOPES, st.floats(0.0, 6.0), st.none()),
    st.tuples(st.just("declare"), SCOPES, LIMITS, st.none()),
    st.tuples(st.just("wall clock"), st.floats(-1e6, 1e6), st.none(), st.none()),
)
TURNS = st.tuples(ACTIONS, st.integers(0, 2))
CANCEL_THE_FIRST: Action = ("cancel one who waits", SCOPE, 0, None)


class Sender:
    """One who asks for a permit, sends a request with it once a connection stands, and waits for the answer."""

    def __init__(self, scope: Scope, lane: Lane, weight: int) -> None:
        self.scope, self.lane, self.weight = scope, lane, weight
        loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[bool] = loop.create_future()
        self.answered: asyncio.Future[None] = loop.create_future()
        self.ends: list[str] = []
        """What came of it: exactly one thing, when its task is done."""
        self.is_canceled = self.waited = self.tries = False
        self.number = 0
        """Of its grant in its scope."""
        self.passed_by_cancels = self.passed_by_reads = 0
        """How many in a row went ahead of it; below zero while some have not run that were granted before it came."""
        self.task: asyncio.Task[None]


class Place:
    """What happened in one scope, as an onlooker who does not know the limiter's numbers writes it down."""

    def __init__(self, limit: RateLimit) -> None:
        self.declared = [(0, 0, limit)]
        """Every limit, with the number of the last grant before it was said, and of the last before it was in force."""
        self.declaring: list[tuple[int, RateLimit]] = []
        self.queue: dict[Sender, None] = {}
        """Who waits, in the order in which they came."""
        self.owed: list[Sender] = []
        """Who must have been granted before what was seen."""
        self.holding: dict[Sender, None] = {}
        self.left: list[tuple[float, int, int]] = []
        """When each request left, its weight, and the number of its grant."""
        self.granted = self.given_back = 0
        self.closed_until = self.closed_before = -math.inf
        """By the penalties so far, and by those before what happens now."""

    @property
    def most(self) -> int:
        """The greatest weight that all limits allow."""
        limits = [limit for *_, limit in self.declared] + [limit for _, limit in self.declaring]
        return min(limit.requests for limit in limits)

    def settled(self) -> None:
        """Whatever was granted was seen: from now on all that was said is in force."""
        assert not [sender for sender in self.owed if sender in self.queue], "nobody barges in"
        self.owed.clear()
        self.declared += [(said, self.granted, limit) for said, limit in self.declaring]
        self.declaring.clear()
        self.closed_before = self.closed_until

    def joins(self, sender: Sender, unseen: int) -> None:
        """Somebody queues up, while so many of those that were granted have not run yet."""
        sender.passed_by_cancels = sender.passed_by_reads = -unseen
        self.queue[sender] = None

    @property
    def kept(self) -> int:
        """Permits that were granted and not given back."""
        return self.granted - self.given_back

    def leaves(self, sender: Sender, end: str = "") -> None:
        """Somebody waits no more, served or not: the lower lanes had their turn, if it is one of theirs."""
        del self.queue[sender]
        if end:
            sender.ends.append(end)
        for other in self.queue:
            if sender.lane is not CANCEL:
                other.passed_by_cancels = min(other.passed_by_cancels, 0)
            if sender.lane is CREATE:
                other.passed_by_reads = min(other.passed_by_reads, 0)

    def grants(self, sender: Sender) -> None:
        """A permit was granted: judge that it was this one's turn, and that there was room."""
        ahead = itertools.takewhile(lambda other: other is not sender, self.queue)
        passed = [
            other
            for other in ahead
            if other.lane is sender.lane and not (other.is_canceled or other.weight > self.most)
        ]
        # Who needs not wait may come before those who were granted in this tick and have not run yet.
        assert not (passed and sender.waited), "first come, first served"
        self.owed += passed
        assert now() >= self.closed_before, "the scope is closed"
        self.leaves(sender)
        self.granted += 1
        sender.number = self.granted
        self.holding[sender] = None
        for other in self.queue:
            other.passed_by_cancels += sender.lane is CANCEL and other.lane is not CANCEL
            other.passed_by_reads += sender.lane is READ and other.lane is CREATE
            assert other.passed_by_cancels <= CANCELS_IN_A_ROW, "the others keep an eighth"
            assert other.passed_by_reads <= READS_IN_A_ROW, "creates keep a quarter of that"
        in_hand = sum(other.weight for other in self.holding)
        since = self.granted if self.declaring else self.declared[-1][1]
        for *_, limit in self.declared:
            recent = [
                weight
                for at, weight, number in self.left
                if number > since and at > now() - limit.span + ROUNDING
            ]
            assert in_hand + sum(recent) <= limit.requests, "never more than the limit"

    def sends(self, sender: Sender) -> None:
        """The request leaves."""
        del self.holding[sender]
        self.left.append((now(), sender.weight, sender.number))
        sender.ends.append("sent")

    def ends(self, sender: Sender) -> None:
        """A sender goes; what it did not spend is given back."""
        if sender in self.holding:
            del self.holding[sender]
            self.given_back += 1
            sender.ends.append("given back")

    def judge_windows(self) -> None:
        """From each declaration to the next, no window held more than any of the limits so far allows."""
        ends = [said for said, *_ in self.declared[1:]] + [self.granted]
        for index, ((_, since, _), end) in enumerate(zip(self.declared, ends, strict=True)):
            left = [(at, weight) for at, weight, number in self.left if since < number <= end]
            for *_, limit in self.declared[: index + 1]:
                assert not left or busiest(left, limit.span) <= limit.requests


class AnythingAtAnyTime(RuleBasedStateMachine):
    """Senders come, are canceled, hold, send and give back in any order, several in one tick, in two scopes that share
    a timer; limits and penalties are declared meanwhile, the event loop is late, and the wall clock jumps.
    """

    wall_clock = 1e9

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.reports: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.reports.append(str(context)))
        self.limiter = RateLimiter()
        self.senders: list[Sender] = []
        self.places: dict[Scope, Place] = {}
        self.steps = 0

    @initialize(limit=LIMITS, other=LIMITS)
    def begin(self, limit: RateLimit, other: RateLimit) -> None:
        """Declare the scopes."""
        for scope, its in ((SCOPE, limit), (OTHER, other)):
            self.limiter.declare(scope, its)
            self.places[scope] = Place(its)

    @rule(actions=st.lists(TURNS, min_size=1, max_size=6))
    def several(self, actions: list[tuple[Action, int]]) -> None:
        """Do several things, in one tick or with so many turns of the loop after each."""
        self.run(self._act(actions))

    @rule(n=INDEX, actions=st.lists(TURNS, min_size=1, max_size=4), ticks=st.integers(0, 3))
    def when_something_comes_free(
        self, n: int, actions: list[tuple[Action, int]], ticks: int
    ) -> None:
        """Do several things in the very tick in which the timer serves a queue, or a few ticks later."""
        moments = {place.closed_until for place in self.places.values()}
        for place in self.places.values():
            moments |= {at + limit.span for *_, limit in place.declared for at, *_ in place.left}
        coming = sorted(moment for moment in moments if moment > self.loop.time())
        if coming:
            self.run(self._act_at(coming[n % len(coming)], ticks, actions))

    @rule(lane=st.sampled_from(Lane), sends=st.lists(st.booleans(), min_size=1, max_size=3))
    def cancel_around_the_tick_of_a_grant(self, lane: Lane, sends: list[bool]) -> None:
        """Let go of places, and cancel the first who wait for them: in the tick before the grant, in the tick of it,
        and in the tick in which they run."""
        crowd: list[tuple[Action, int]] = [(("acquire", SCOPE, lane, 1), 0)] * 6
        self.run(self._act(crowd))
        for turns in range(3):
            ends: list[tuple[Action, int]] = []
            for connected in sends:
                ends += [(("connect", 0, connected, None), turns), (CANCEL_THE_FIRST, 0)]
            self.run(self._act(ends))

    @rule(seconds=st.floats(0.0, 5.0))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.run(asyncio.sleep(seconds))

    @rule(seconds=st.floats(0.0, 5.0), actions=st.lists(TURNS, max_size=3))
    def the_loop_is_late(self, seconds: float, actions: list[tuple[Action, int]]) -> None:
        """Time passes while nobody runs: all timers are late, and others act before they do."""
        self.loop._clock.now += seconds
        self.run(self._act(actions))

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every permit is in hand, spent or given back; every sender waits, is served, or has its one end."""
        self.steps += 1
        if self.places:
            self.run(self._check())

    def teardown(self) -> None:
        """Nobody waits for ever once the holders let go, and nothing is left."""
        try:
            if self.places:
                self.run(self._let_go())
                for place in self.places.values():
                    place.judge_windows()
                self._count()
        finally:
            self.run(self._end())
            self.loop.close()

    def run(self, coro: Coroutine[Any, Any, object]) -> None:
        """Run something, and then all that is ready."""
        self.loop.run_until_complete(coro)
        self.loop.run_until_complete(settle())

    async def _act_at(self, when: float, ticks: int, actions: list[tuple[Action, int]]) -> None:
        done: asyncio.Future[None] = self.loop.create_future()

        def act(ticks: int) -> None:
            if ticks:
                self.loop.call_soon(act, ticks - 1)
            else:
                self._do(actions[0][0])
                done.set_result(None)

        self.loop.call_at(when, act, ticks)
        await done
        await self._act(actions[1:])

    async def _act(self, actions: list[tuple[Action, int]]) -> None:
        for action, turns in actions:
            self._do(action)
            for _ in range(turns):
                await asyncio.sleep(0)

    def _do(self, action: Action) -> None:
        kind, first, second, third = action
        match kind:
            case "acquire" | "acquire and send":
                self._come(first, second, third, sends=kind != "acquire")
            case "try":
                self._come(first, second, 1, sends=bool(third % 2), tries=True)
            case "crowd":
                for _ in range(third):
                    self._come(first, second, 1, sends=True)
            case "cancel" if alive := [s for s in self.senders if not s.task.done()]:
                self._cancel(alive[first % len(alive)])
            case "cancel one who waits" if queue := list(self.places[first].queue):
                self._cancel(queue[second % len(queue)])
            case "connect" if holding := [
                sender
                for place in self.places.values()
                for sender in place.holding
                if not sender.connected.done()
            ]:
                holding[first % len(holding)].connected.set_result(second)
            case "answer" if sent := [
                s for s in self.senders if s.ends == ["sent"] and not s.answered.done()
            ]:
                sent[first % len(sent)].answered.set_result(None)
            case "penalize":
                self.limiter.penalize(first, second)
                place = self.places[first]
                place.closed_until = max(place.closed_until, now() + second)
            case "declare":
                self.limiter.declare(first, second)
                self.places[first].declaring.append((self.places[first].granted, second))
            case "wall clock":
                AnythingAtAnyTime.wall_clock += first
            case _:
                pass

    def _come(
        self, scope: Scope, lane: Lane, weight: int, *, sends: bool, tries: bool = False
    ) -> None:
        sender = Sender(scope, lane, weight)
        sender.tries = tries
        if sends:
            sender.connected.set_result(True)
            sender.answered.set_result(None)
        sender.task = self.loop.create_task(self._call(sender))
        self.senders.append(sender)

    def _cancel(self, sender: Sender) -> None:
        sender.is_canceled = True
        sender.task.cancel()

    async def _call(self, sender: Sender) -> None:
        place = self.places[sender.scope]
        place.joins(sender, unseen=look(self.limiter, sender.scope).granted - place.kept)
        self.loop.call_soon(setattr, sender, "waited", True)
        try:
            permit = await self._permit(sender)
        except LookupError:
            place.leaves(sender, "turned away")
            return
        except UsageError:
            assert sender.weight > place.most, "only what can never pass is refused"
            place.leaves(sender, "refused")
            return
        except asyncio.CancelledError:
            place.leaves(sender, "canceled in the queue")
            raise
        place.grants(sender)
        try:
            with permit:
                if await sender.connected:
                    permit.spend()
                    place.sends(sender)
                    await sender.answered
        finally:
            place.ends(sender)

    async def _permit(self, sender: Sender) -> Permit:
        """Wait for a permit; who only tries does not wait.

        Raises:
            LookupError: it would have to.
        """
        if not sender.tries:
            return await self.limiter.acquire(sender.scope, lane=sender.lane, weight=sender.weight)
        permit = self.limiter.try_acquire(sender.scope)
        if permit is not None:
            return permit
        seen, most = look(self.limiter, sender.scope), self.places[sender.scope].most
        is_full = seen.in_hand + seen.in_window >= most
        assert is_full or seen.closed_for or any(seen.waiting.values()), "nothing is in the way"
        raise LookupError

    async def _check(self) -> None:
        for sender in self.senders:
            if sender.task.done() and not sender.task.cancelled():
                sender.task.result()
        assert self.reports == []
        for scope, place in self.places.items():
            place.settled()
            self._compare(place, look(self.limiter, scope))
        assert live_timers(self.loop) <= 1

    def _compare(self, place: Place, seen: ScopeStatistics) -> None:
        """The limiter's numbers are the onlooker's."""
        waits = Counter(sender.lane for sender in place.queue)
        assert seen.waiting == {lane: waits[lane] for lane in Lane}
        assert seen.in_hand == sum(sender.weight for sender in place.holding)
        assert seen.granted == place.kept == len(place.left) + len(place.holding)
        assert seen.closed_for == max(0.0, place.closed_until - now())
        room = place.most - seen.in_hand - seen.in_window
        if len(place.declared) == 1:
            [(*_, limit)] = place.declared
            counts = [weight for at, weight, _ in place.left if at + limit.span > now()]
            assert seen.in_window == sum(counts)
            assert room >= 0
        if place.queue and not seen.closed_for:
            heads = {sender.lane: sender.weight for sender in reversed(place.queue)}
            assert max(heads.values()) > room, "nobody waits for room that is there"

    async def _let_go(self) -> None:
        for _ in range(len(self.senders) + 1):
            for sender in self.senders:
                if not sender.connected.done():
                    sender.connected.set_result(False)
                if not sender.answered.done():
                    sender.answered.set_result(None)
            if all(sender.task.done() for sender in self.senders):
                break
            await asyncio.sleep(10.0)
        await self._check()
        for sender in self.senders:
            assert sender.task.done(), "nobody waits for ever"
            assert sender.is_canceled or not sender.task.cancelled(), "no cancellation is invented"
            assert len(sender.ends) == 1 or (sender.is_canceled and not sender.ends)
        await asyncio.sleep(20.0)
        for scope, place in self.places.items():
            seen = look(self.limiter, scope)
            assert (seen.in_hand, seen.in_window, sum(seen.waiting.values())) == (0, 0, 0)
            assert seen.granted == len(place.left)
        assert live_timers(self.loop) == 0

    def _count(self) -> None:
        """Count what was judged."""
        for sender in self.senders:
            (end,) = sender.ends or ("canceled before it began",)
            tally.count("state machine, limiter", end)
        tally.count("state machines, examples", "limiter")
        tally.count("state machines, steps", "limiter", self.steps)

    async def _end(self) -> None:
        for sender in self.senders:
            sender.task.cancel()
        await asyncio.gather(*(sender.task for sender in self.senders), return_exceptions=True)


@pytest.mark.proof
def test_anything_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Permits are conserved, windows kept, lanes in order, shares too, and nobody waits for ever."""
    monkeypatch.setattr(time, "time", lambda: AnythingAtAnyTime.wall_clock)
    run_state_machine_as_test(
        AnythingAtAnyTime,
        settings=settings(
            max_examples=either(50, 500), stateful_step_count=either(20, 30), print_blob=True
        ),
    )


# -- two limits for one scope ---------------------------------------------------------------------------------


@st.composite
def limits(draw: st.DrawFn) -> RateLimit:
    """Draw a limit."""
    requests = draw(st.integers(1, 50))
    return RateLimit(
        requests, per=draw(st.integers(1, 600)) / 4, margin=draw(st.integers(0, 9)) / 8
    )


@given(limits(), limits())
def test_one_limit_keeps_both(one: RateLimit, other: RateLimit) -> None:
    """The limit that replaces two lets no more through in either's window than that one allows."""
    both = one.and_also(other)
    for limit in (one, other):
        windows = math.ceil(limit.per / both.per - 1e-9)
        assert both.requests * windows <= limit.requests
        assert both.margin >= limit.margin
    assert one.and_also(one) == one
    assert both == other.and_also(one)


async def test_a_burst_does_not_replace_a_pace() -> None:
    """A limit of many in a long window does not let a burst through where one in a short window is in force."""
    limiter = RateLimiter()
    limiter.declare(SCOPE, RateLimit(1, per=60.0))
    limiter.declare(SCOPE, RateLimit(100, per=60_000.0))
    with await limiter.acquire(SCOPE) as permit:
        permit.spend()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await limiter.acquire(SCOPE)


# -- small rules that callers rely on ---------------------------------------------------------------


def at_once(call: Coroutine[Any, Any, Permit]) -> Permit:
    """Return what a call gives that does not wait, not even a turn of the event loop."""
    try:
        call.send(None)
    except StopIteration as done:
        permit: Permit = done.value
        return permit
    call.close()
    raise AssertionError("it waited")


async def test_limits_and_snapshots_are_frozen() -> None:
    """What gateways share, or somebody looks at, cannot be changed under the others."""
    limiter = limited(1, 10.0)
    with pytest.raises(AttributeError):
        RateLimit(1, 10.0).requests = 100  # type: ignore[misc]
    with pytest.raises(AttributeError):
        look(limiter).granted = 7  # type: ignore[misc]


async def test_an_idle_scope_grants_without_giving_way() -> None:
    """A caller that need not wait goes on in the same turn, also in the very moment in which a window has run out."""
    limiter = limited(1, 10.0)
    at_once(limiter.acquire(SCOPE)).spend()
    await asyncio.sleep(10.0)
    at_once(limiter.acquire(SCOPE)).give_back()
    assert look(limiter).waiting == {CANCEL: 0, READ: 0, CREATE: 0}


async def test_a_refused_weight_holds_nobody_up() -> None:
    """Who waits behind a call that became too heavy is served in that moment, not by the next chance."""
    limiter = limited(5, 10.0)
    await take(limiter)
    heavy = asyncio.create_task(limiter.acquire(SCOPE, weight=5))
    crowd = Crowd(limiter)
    await crowd.join("light")
    assert crowd.served == []
    limiter.declare(SCOPE, RateLimit(2, 10.0, margin=0.0))
    await settle()
    assert crowd.served == ["light"]
    with pytest.raises(UsageError, match="weight 5"):
        await heavy


async def test_who_names_no_lane_reads() -> None:
    """Ahead of creates, behind cancels."""
    limiter = limited(1, 10.0)
    (await take(limiter)).spend()
    crowd = Crowd(limiter)
    await crowd.join("create", CREATE)

    async def read() -> None:
        with await limiter.acquire(SCOPE) as permit:
            crowd.served.append("no lane")
            permit.spend()

    crowd.tasks["no lane"] = asyncio.create_task(read())
    await crowd.join("cancel", CANCEL)
    assert look(limiter).waiting == {CANCEL: 1, READ: 1, CREATE: 1}
    await crowd.everybody()
    assert crowd.served == ["cancel", "no lane", "create"]


async def test_what_a_penalty_must_be() -> None:
    """Seconds, none or more: the error says of what."""
    with pytest.raises(UsageError, match=r"^a penalty must be a finite number, 0 or more$"):
        limited(1, 1.0).penalize(SCOPE, -1.0)
