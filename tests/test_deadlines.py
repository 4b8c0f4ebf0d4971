"""One timer for many waits: each ends at its own moment, and what ends in time costs no timer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.virtual_time import VirtualTimeLoop
from tronsave_async.deadlines import FEW, Deadlines


class Waiting:
    """A wait that notes when its time was over."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.over: list[float] = []

    def expire(self) -> None:
        self.over.append(self.loop.time() - self.began)


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The moments for which timers were set."""
    moments: list[float] = []
    call_at = VirtualTimeLoop.call_at

    def watched(self: VirtualTimeLoop, when: float, *args: object, **options: object) -> object:
        moments.append(when)
        return call_at(self, when, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(VirtualTimeLoop, "call_at", watched)
    return moments


def enter(deadlines: Deadlines, timeout: float) -> Waiting:
    """Begin a wait now."""
    waiting = Waiting()
    deadlines.enter(waiting, timeout, waiting.began)
    return waiting


@pytest.mark.virtual_time
async def test_a_wait_ends_at_its_deadline_and_once() -> None:
    """Not a moment before, and never again."""
    deadlines = Deadlines()
    waiting = enter(deadlines, 3.0)
    await asyncio.sleep(2.999)
    assert waiting.over == []
    await asyncio.sleep(10.0)
    assert waiting.over == [3.0]
    assert len(deadlines) == 0


@pytest.mark.virtual_time
async def test_what_ended_in_time_is_left_alone(timers: list[float]) -> None:
    """A thousand waits in a row set one timer, and none of them is expired."""
    deadlines = Deadlines()
    waits = []
    for _ in range(1000):
        waits.append(enter(deadlines, 30.0))
        deadlines.leave(waits[-1], 30.0)
    assert len(timers) == 1
    await asyncio.sleep(100.0)
    assert not any(waiting.over for waiting in waits)
    deadlines.leave(waits[0], 30.0)
    deadlines.leave(waits[0], 7.0)


@pytest.mark.virtual_time
async def test_each_has_its_own_deadline() -> None:
    """Waits of one timeout that began one after the other, with some that ended between them."""
    deadlines = Deadlines()
    waits = []
    for number in range(10):
        waits.append(enter(deadlines, 5.0))
        if number % 3 == 0:
            deadlines.leave(waits[-1], 5.0)
        await asyncio.sleep(0.25)
    await asyncio.sleep(20.0)
    assert [w.over for w in waits] == [[] if n % 3 == 0 else [5.0] for n in range(10)]


@pytest.mark.virtual_time
async def test_closed_it_ends_all_waits_at_once_and_leaves_no_timer() -> None:
    """Whoever waits then has no more time, and is told once."""
    deadlines = Deadlines()
    waits = [enter(deadlines, timeout) for timeout in (1.0, 2.0, 1.0)]
    await asyncio.sleep(0.5)
    deadlines.close()
    assert [waiting.over for waiting in waits] == [[0.5]] * 3
    deadlines.leave(waits[0], 1.0)
    await asyncio.sleep(5.0)
    assert ([waiting.over for waiting in waits], len(deadlines)) == ([[0.5]] * 3, 0)


@pytest.mark.virtual_time
async def test_a_timer_that_is_early_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop's are, by up to a millisecond: to ask it again for the same moment would keep the processor busy."""
    asked: list[float] = []
    call_at = VirtualTimeLoop.call_at

    def early(self: VirtualTimeLoop, when: float, *args: object, **options: object) -> object:
        asked.append(when)
        return call_at(self, when - 0.0009, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(VirtualTimeLoop, "call_at", early)
    deadlines = Deadlines()
    first = enter(deadlines, 1.0)
    loop = asyncio.get_running_loop()
    second = Waiting()
    deadlines.enter(second, 1.0, loop.time() + 0.0005)
    done = loop.create_future()
    loop.call_later(3.0, done.set_result, None)
    asked.clear()
    await done
    assert (len(first.over), len(second.over)) == (1, 1)
    assert asked == [second.began + 1.0005]


@given(
    st.lists(
        st.tuples(st.sampled_from([0.5, 2.0, 7.0]), st.floats(0.0, 3.0), st.floats(0.0, 9.0)),
        max_size=30,
    )
)
def test_any_waits(plan: list[tuple[float, float, float]]) -> None:
    """Whatever the timeouts, the arrivals and the departures: a wait is over at its deadline if it was not left."""

    async def play() -> None:
        deadlines = Deadlines()
        loop = asyncio.get_running_loop()
        waits = []
        for timeout, pause, stay in plan:
            waiting = enter(deadlines, timeout)
            waits.append((waiting, timeout, stay))
            loop.call_later(stay, deadlines.leave, waiting, timeout)
            await asyncio.sleep(pause)
        await asyncio.sleep(30.0)
        for waiting, timeout, stay in waits:
            if stay != timeout:  # in the same moment either may come first
                assert waiting.over == ([] if stay < timeout else [pytest.approx(timeout)])
        assert len(deadlines) == 0

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(play())


@pytest.mark.virtual_time
async def test_many_different_timeouts_keep_no_more_than_a_few_timers() -> None:
    """Who gives the time that is left has a timeout of its own for each call."""
    deadlines = Deadlines()
    loop = asyncio.get_running_loop()
    for number in range(1000):
        timeout = 1000.0 + number
        deadlines.leave(enter(deadlines, timeout), timeout)
    live = [handle for handle in vars(loop)["_scheduled"] if not handle.cancelled()]
    assert len(live) <= FEW
    waiting = enter(deadlines, 3.0)
    await asyncio.sleep(5.0)
    assert waiting.over == [3.0]
    deadlines.close()
