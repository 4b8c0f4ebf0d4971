"""What is cut, where and how, and what becomes of the order and of later connections meanwhile."""

from __future__ import annotations

import asyncio
import enum
import itertools
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from support.cut_points import HANDSHAKE, Point, points, spans
from support.cut_scene import Scene
from support.cutter import Cut, Direction, How
from support.effort import sampled
from tronsave_async import Canceled
from tronsave_async.sandbox import Fault, Processing, Reply, fill_in_the_race, hang_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from support.cut_points import Span
    from support.cutter import Cutter, Link
    from tronsave_async import OrderGateway

__all__ = [
    "SETTLING",
    "WAYS",
    "Act",
    "After",
    "Case",
    "Life",
    "between",
    "cases",
    "record",
    "seen",
    "without_handshake",
]

TO_VENDOR, TO_CLIENT = Direction.TO_VENDOR, Direction.TO_CLIENT

WAYS: Final = (How.FIN, How.RESET, How.HALF_CLOSE, How.STALL)
"""How a connection is cut at a byte."""

SETTLING: Final = 0.01
"""Seconds in which what is on the way arrives."""


class After(enum.Enum):
    """What becomes of the connections after the one that was cut."""

    PASS = "pass"
    SAME = "are cut at the same byte"
    REFUSED = "are refused"


@dataclass(frozen=True)
class Life:
    """What the vendor, and others, do with the order meanwhile.

    Attributes:
        name: for the report of a failure.
        before: before the call.
        at_cut: in the moment of the cut.
        decides: whether it is dead in the end, or a repeated cancel kills it.
    """

    name: str
    before: Callable[[Scene, str], None] = lambda scene, order: None
    at_cut: Callable[[Scene, str], None] = lambda scene, order: None
    decides: bool = True


def canceled_elsewhere(scene: Scene, order: str) -> None:
    """Somebody else cancels the order, if it is alive."""
    if scene.is_open(order):
        scene.stage.sandbox.cancel_behind_back(order)


def filled_in_the_race(scene: Scene, order: str) -> None:
    """The next cancel that arrives finds the order just filled."""
    scene.stage.sandbox.faults.add(fill_in_the_race(scene.stage.cancel_call))


def refused(scene: Scene, order: str) -> None:
    """The next cancel that arrives is declined."""
    scene.stage.sandbox.faults.add(scene.stage.refusal(order))


def lost(scene: Scene, order: str) -> None:
    """The next cancel that arrives is neither carried out nor answered."""
    scene.stage.sandbox.faults.add(hang_before(scene.stage.cancel_call))


def dropped(processing: Processing) -> Callable[[Scene, str], None]:
    """The next cancel that arrives is not answered: its connection is closed."""

    def befall(scene: Scene, order: str) -> None:
        call = scene.stage.cancel_call
        fault = Fault(endpoint=call, processing=processing, reply=Reply.DROP)
        scene.stage.sandbox.faults.add(fault)

    return befall


WAITS: Final = Life("waits")
FILLED_AT_CUT: Final = Life("is filled in the moment of the cut, if it lives", at_cut=Scene.fill)
CANCELED_AT_CUT: Final = Life(
    "is canceled elsewhere in the moment of the cut, if it lives", at_cut=canceled_elsewhere
)
FILLED_BEFORE: Final = Life("is filled just before the cancel", before=filled_in_the_race)
FILLED_LATER: Final = Life("is filled just before the repeat", at_cut=filled_in_the_race)
REFUSED: Final = Life("cannot be canceled for now", before=refused, decides=False)
LOST: Final = Life("is forgotten by the vendor, which says nothing", before=lost)

LIVES: Final[dict[Direction, Sequence[Life]]] = {
    TO_VENDOR: (WAITS, FILLED_AT_CUT, CANCELED_AT_CUT, FILLED_LATER, FILLED_BEFORE, LOST),
    TO_CLIENT: (WAITS, FILLED_BEFORE, FILLED_AT_CUT, REFUSED, FILLED_LATER),
}
"""What befalls an order whose cancel is cut."""

READ_LIVES: Final = (
    Life("was canceled", before=dropped(Processing.NORMAL)),
    Life("was filled", before=dropped(Processing.RACE)),
    Life("waits", before=dropped(Processing.SKIPPED)),
    Life(
        "waits, and is filled in the moment of the cut",
        before=dropped(Processing.SKIPPED),
        at_cut=Scene.fill,
    ),
    Life(
        "waits, and is filled just before the repeat",
        before=dropped(Processing.SKIPPED),
        at_cut=filled_in_the_race,
    ),
)
"""What befell an order whose cancel was not answered, and that is looked at then."""

TIME_LIVES: Final = (WAITS, FILLED_AT_CUT, CANCELED_AT_CUT, FILLED_LATER)
"""What befalls an order whose cancel was rejected for the time of its signature."""


class Act(enum.Enum):
    """Which exchange is cut."""

    FIRST = "the cancel, on a connection of its own"
    KEPT = "the cancel, on a connection that has served another"
    IDLE = "nothing: a connection that has served another is cut before the cancel"
    READ_BACK = "the look at the order, after its cancel was not answered"
    SERVER_TIME = "the look at the vendor's clock, after a signature was rejected"

    def lives(self, direction: Direction) -> Sequence[Life]:
        """What may become of the order meanwhile."""
        if self is Act.READ_BACK:
            return READ_LIVES
        return TIME_LIVES if self is Act.SERVER_TIME else LIVES[direction]

    def cutter(self, scene: Scene) -> Cutter:
        """Before which host it is cut."""
        return scene.reads if self.serves else scene.cutter

    @property
    def serves(self) -> bool:
        """It is not the cancel itself."""
        return self in (Act.READ_BACK, Act.SERVER_TIME)

    @property
    def goes_on(self) -> bool:
        """The connection has served another order."""
        return self in (Act.KEPT, Act.IDLE)

    async def prepare(self, scene: Scene, gateway: OrderGateway) -> None:
        """Let come what precedes it."""
        if self.goes_on:
            assert isinstance(await gateway.cancel(scene.stage.place()), Canceled)
        if self is Act.SERVER_TIME:
            sandbox: Any = scene.stage.sandbox
            sandbox.clock_offset += 60.0  # from what the account has learned by now

    async def arm(self, scene: Scene, cut: Cut) -> None:
        """Have it cut."""
        cutter = self.cutter(scene)
        if self.goes_on:
            cutter.links[0].cut(cut)
            if self is Act.IDLE:
                await asyncio.sleep(SETTLING)
        elif self is Act.READ_BACK and cutter is scene.cutter:
            cutter.next()  # the connection of the cancel
            cutter.next(cut)
        else:
            cutter.next(cut)


@dataclass(frozen=True)
class Case:
    """One cut.

    Attributes:
        point, how: where and how.
        after: what becomes of later connections, until the call has ended.
        life: what becomes of the order.
        goes: the caller closes its gateway with the first outcome; otherwise it asks once more if that is no proof.
    """

    point: Point
    how: How
    after: After
    life: Life
    goes: bool

    @property
    def cut(self) -> Cut:
        """What happens to the connection."""
        return Cut(self.point.direction, self.point.at, self.how, lazy=self.point.lazy)

    @property
    def again(self) -> Cut:
        """The same for another connection."""
        return Cut(self.point.direction, self.point.fresh, self.how, lazy=self.point.lazy)

    def __str__(self) -> str:
        when = "when more than" if self.point.lazy else "after"
        where = f"{when} {self.point.at} bytes {self.point.direction.value} ({self.point.phase})"
        later = (
            f"later connections {self.after.value}, and the caller {'goes' * self.goes or 'stays'}"
        )
        return f"{self.how.value} {where}; {later}; the order {self.life.name}"


def cases(act: Act, found: Sequence[Point], usually: int) -> Iterator[Case]:
    """Points, each with every way to cut there; with two of them in a TLS handshake, which is long, and in what only
    serves a cancel.

    Which two, and what becomes of the order and of later connections, is drawn, the same way in every run.

    Args:
        act: the exchange.
        found: its points.
        usually: how many of a phase and a direction are tried, unless all are.
    """
    drawn = random.Random(0)
    for phase, direction in dict.fromkeys((point.phase, point.direction) for point in found):
        own = [p for p in found if (p.phase, p.direction) == (phase, direction)]
        ways = 2 if phase == HANDSHAKE or act.serves else len(WAYS)
        for point in sampled(own, usually):
            for how in drawn.sample(WAYS, ways):
                yield _drawn(drawn, act, point, how)


def between(act: Act, points: Sequence[Point], ways: Iterable[How]) -> Iterator[Case]:
    """Points, each with all of the ways, with all that may become of the order and of later connections."""
    for point, how, after in itertools.product(points, ways, After):
        for life in act.lives(point.direction):
            yield Case(point, how, after, life, goes=how is How.FIN)


def _drawn(drawn: random.Random, act: Act, point: Point, how: How) -> Case:
    after = drawn.choice((After.PASS, After.PASS, After.SAME, After.REFUSED))
    life, goes = drawn.choice(act.lives(point.direction)), drawn.random() < 0.3
    return Case(point, how, after, life, goes)


async def record(scene: Scene, act: Act, number: int = 1) -> list[Point]:
    """Run the exchange of a call for so many orders without cutting it; return where it can be cut."""
    async with scene.gateway() as gateway:
        await act.prepare(scene, gateway)
        since, first = dict.fromkeys(Direction, 0), None
        if act.goes_on:
            link = act.cutter(scene).links[-1]
            first = seen(scene, link, since)
            since = {direction: len(came) for direction, came in link.came.items()}
        orders = [scene.stage.place() for _ in range(number)]
        act.lives(TO_VENDOR)[0].before(scene, orders[0])
        outcomes = await gateway.cancel_many(orders)
        assert all(isinstance(outcome, Canceled) for outcome in outcomes)
    found = seen(scene, act.cutter(scene).links[-1], since)
    scene.forget()
    every = points(found, first or found)
    if act.serves:  # on a connection that begins like any other
        every = without_handshake(every)
    return [_named(act, point) for point in every]


def without_handshake(every: Iterable[Point]) -> list[Point]:
    """The points that are not in a TLS handshake."""
    return [point for point in every if point.phase != HANDSHAKE]


def seen(scene: Scene, link: Link, since: Mapping[Direction, int]) -> list[Span]:
    """The phases of what a connection has served since then."""
    socket = scene.socket and link in scene.cutter.links
    return spans(link, secure=scene.secure, socket=socket, welcome=scene.welcome, since=since)


def _named(act: Act, point: Point) -> Point:
    """A point, with its phase called by its place in the whole call."""
    if act.serves:
        name = "read-back" if act is Act.READ_BACK else "server time"
        return replace(point, phase=name)
    if point.at == 0 and not point.lazy:
        return replace(point, phase="connect")
    return point
