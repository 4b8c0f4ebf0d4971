"""
The connection is cut at every byte of an exchange, and nobody is told a lie.

A clean exchange is recorded through the cutter (`support.cutter`), which says how many bytes it has and to which phase
each belongs. Then the exchange is run again for each of these bytes and each way to cut, with the vendor going on
with the order's life in various ways, and with later connections that pass or fail as well. What the vendor has
recorded says whether the outcome was true (`contract.judge`): when the call ends, when what was held on the way has
arrived, and after a second call for the same order.

By default an evenly spread sample is tried, in `make proof` every byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from contract.judge import lie
from support import tally
from support.cut_cases import WAYS, Act, between, cases, record, seen, without_handshake
from support.cut_points import Point, points
from support.cut_scene import VENUES, Scene, opened
from support.cut_trials import CREATE, Creation, Trial
from support.cutter import Direction, How
from support.effort import either, sampled
from tronsave_async import Canceled, NotSent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from support.cut_cases import Case

pytestmark = [pytest.mark.proof, pytest.mark.virtual_time, pytest.mark.timeout(either(120, 1800))]


@pytest.fixture(autouse=True)
def handshakes_fail(loop_errors: list[str]) -> Iterator[None]:
    """In debug mode the loop reports the TLS handshakes that the vendor's side saw fail."""
    yield
    loop_errors[:] = [report for report in loop_errors if "incoming connection" not in report]


async def try_each(scene: Scene, act: Act, every: Iterable[Case], number: int = 1) -> None:
    """Run the cases, and count what came of them. Most exchanges come to the point of their cut; looks at an order that
    is proved dead without one do not."""
    was_cut: list[bool] = []
    for case in every:
        trial = Trial(scene, act, case, number)
        ends = await trial.run()
        was_cut.append(trial.was_cut)
        if trial.was_cut:
            for end in ends:
                tally.count(f"{scene.cut_what}, {case.point.phase}", end)
    least = 0.25 if act is Act.READ_BACK else 0.75
    assert sum(was_cut) >= len(was_cut) * least > 0


everywhere = pytest.mark.parametrize("venue", VENUES)
plain_and_secure = pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])


@plain_and_secure
@everywhere
@pytest.mark.parametrize("act", [Act.FIRST, Act.KEPT, Act.READ_BACK], ids=lambda act: act.name)
async def test_every_byte(venue: str, secure: bool, act: Act) -> None:
    """No outcome lies, wherever its connection is cut: the first one, one that was kept, one that reads back."""
    async with opened(venue, secure=secure) as scene:
        found = await record(scene, act)
        await try_each(scene, act, cases(act, found, 6 if act is Act.FIRST else 4))


@plain_and_secure
async def test_every_byte_of_the_time(secure: bool) -> None:
    """Nor where the vendor's time, which a signature needs, is asked for in vain."""
    async with opened("ripio", secure=secure) as scene:
        found = await record(scene, Act.SERVER_TIME)
        await try_each(scene, Act.SERVER_TIME, cases(Act.SERVER_TIME, found, 6))


@plain_and_secure
@everywhere
async def test_several_cancels(venue: str, secure: bool) -> None:
    """Nor for one of several orders, which may share the request, or the connection. Every fourth byte is tried."""
    async with opened(venue, secure=secure) as scene:
        found = without_handshake(await record(scene, Act.FIRST, number=3))
        await try_each(scene, Act.FIRST, cases(Act.FIRST, found[::4], 2), number=3)


@plain_and_secure
@everywhere
@pytest.mark.parametrize("act", [Act.FIRST, Act.IDLE], ids=lambda act: act.name)
async def test_before_the_first_byte(venue: str, secure: bool, act: Act) -> None:
    """Nor where a connection is cut on arrival, or while nothing is under way on it."""
    phase = "connect" if act is Act.FIRST else "between requests"
    here = [Point(phase, direction, 0, lazy=False, fresh=0) for direction in Direction]
    every = list(between(act, here, (*WAYS, How.BLACKHOLE)))
    async with opened(venue, secure=secure) as scene:
        await try_each(scene, act, sampled(every, 16))


@plain_and_secure
@everywhere
async def test_nobody_listens(venue: str, secure: bool) -> None:
    """A refused connection proves that nothing was sent; the same gateway goes on when somebody listens."""
    async with opened(venue, secure=secure) as scene, scene.gateway() as gateway:
        order = scene.stage.place()
        for cutter in scene.cutters:
            cutter.refuse()
        outcome = await gateway.cancel(order)
        assert isinstance(outcome, NotSent)
        assert lie(scene.stage, outcome, 0) is None
        await scene.heal()
        assert isinstance(await gateway.cancel(order), Canceled)
        assert {cutter.cuts for cutter in scene.cutters} == {0}
    tally.count(f"{scene.cut_what}, refused", "NotSent")


@plain_and_secure
@pytest.mark.parametrize(
    ("venue", "named"),
    [("ripio", False), ("ripio", True), ("sms4sats", False), ("tronsave", False)],
    ids=["ripio", "ripio-named", "sms4sats", "tronsave"],
)
async def test_creations(venue: str, secure: bool, named: bool) -> None:
    """Nothing is created twice, and nobody is told that nothing was created where something may have been. Every fourth
    byte is tried. An order that its owner has named is found again."""
    async with opened(venue, secure=secure) as scene:
        sandbox: Any = scene.stage.sandbox
        sandbox.balance = 10**12
        async with scene.gateway() as gateway:
            name = "bot-000000" if named else None
            assert await CREATE[venue](gateway, name, 30.0)
        found = seen(scene, scene.cutter.links[-1], dict.fromkeys(Direction, 0))
        every = without_handshake(points(found, found))
        scene.forget()
        was_cut: list[bool] = []
        for number, case in enumerate(cases(Act.FIRST, [*every[::4], every[-1]], 4), 1):
            creation = Creation(scene, case, f"bot-{number:06}" if named else None)
            end = await creation.run()
            was_cut.append(creation.was_cut)
            if creation.was_cut:
                tally.count(f"{scene.cut_what}, create", end)
        assert sum(was_cut) >= len(was_cut) * 0.75 > 0
