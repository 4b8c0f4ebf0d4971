"""The dispatcher against a model vendor: whatever happens in whatever order, no outcome lies and nothing is left."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import settings
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
from support.machine_gateway import Desk, Policy
from support.machine_judge import Errand, Judge
from support.machine_network import Act, Fate, Interrupt, Mishap, Network, Packet, Stage
from support.machine_vendor import ModelVendor
from support.virtual_time import START, VirtualTimeLoop
from tronsave_async import (
    CancelOutcome,
    OrderRef,
    OrderSnapshot,
    RateLimit,
    RateLimiter,
    RetryPolicy,
    admission,
    cancels,
)
from tronsave_async import exchange as exchange_module
from tronsave_async.errors import GatewayClosed, GatewayError
from tronsave_async.quota import DailyQuota

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

BATCH = Policy(
    name="tronsave",
    limit=RateLimit(1, 2.0, margin=0.05),
    shared=False,
    maximum=3,
    read_first=True,
    has_socket=False,
    sees_departures=True,
    tells_how=False,
    has_ages=False,
)
SOCKET = Policy(
    name="ripio",
    limit=RateLimit(4, 1.0, margin=0.05),
    shared=True,
    maximum=1,
    read_first=False,
    has_socket=True,
    sees_departures=True,
    tells_how=False,
    has_ages=False,
)
SINGLE = Policy(
    name="sms4sats",
    limit=RateLimit(2, 1.0, margin=0.05),
    shared=True,
    maximum=1,
    read_first=True,
    has_socket=False,
    sees_departures=True,
    tells_how=True,
    has_ages=True,
)

KNOWN: Final = "abcde"
STRANGERS: Final = "xy"
ANY = st.integers(0, 30)
NAMES = st.sampled_from(KNOWN + STRANGERS)
TIMEOUTS = st.sampled_from([None, None, 40.0, 5.0, 0.5, 0.015])
AGES = st.sampled_from([None, None, 0.0, 119.0, 300.0, 2000.0])
SECONDS = st.sampled_from([0.005, 0.05, 0.5, 2.0, 5.0, 15.0, 60.0])
CONNECT = st.sampled_from([0.0, 0.0, 0.3, 2.0])
ON_THE_WAY = st.sampled_from([0.01, 0.0, 0.5, 4.0])
INTERRUPTS = st.builds(
    Interrupt, stage=st.sampled_from(Stage), act=st.sampled_from(Act), turns=st.integers(0, 2)
)
MISHAPS = st.one_of(
    st.just(Mishap.NONE),
    st.sampled_from(Mishap),
    st.sampled_from([Mishap.RESET_AFTER, Mishap.RESET_FIRST, Mishap.REFUSED, Mishap.LATE]),
    st.sampled_from([Mishap.TOO_MANY_FOR, Mishap.TOO_MANY_FOR, Mishap.NO_CONNECTION]),
)
RACES = st.builds(
    Fate,
    mishap=st.sampled_from([Mishap.RESET_AFTER, Mishap.GARBAGE_AFTER, Mishap.LATE, Mishap.HANG]),
    connect=st.just(0.0),
    travel=ON_THE_WAY,
    back=ON_THE_WAY,
    interrupt=st.builds(
        Interrupt,
        stage=st.sampled_from([Stage.DEPARTED, Stage.ARRIVING]),
        act=st.sampled_from([Act.FILL, Act.FILL_PARTLY, Act.CANCEL_BEHIND]),
        turns=st.just(0),
    ),
)
"""The order is filled, or canceled from elsewhere, just before a cancel whose reply is lost."""
FATES = st.one_of(
    st.builds(
        Fate,
        mishap=MISHAPS,
        connect=CONNECT,
        travel=ON_THE_WAY,
        back=ON_THE_WAY,
        interrupt=st.one_of(st.none(), st.none(), INTERRUPTS),
    ),
    RACES,
)
WEATHER = st.lists(FATES, max_size=5)


def action(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Return the strategy of something that may happen: the name of the machine's method, and its arguments."""
    return st.tuples(st.just(name), *arguments)


CANCEL = action("cancel", NAMES, TIMEOUTS, AGES, WEATHER)
ACTIONS = st.one_of(
    CANCEL,
    CANCEL,
    action("cancel_many", st.lists(NAMES, min_size=1, max_size=6), TIMEOUTS, WEATHER),
    action("look", NAMES, TIMEOUTS, WEATHER),
    action("create", TIMEOUTS, WEATHER),
    action("cancel_a_call", ANY),
    action("wait", SECONDS),
    action("wait", SECONDS),
    action("be_late", SECONDS),
    action("turn_the_wall_clock", st.sampled_from([-90_000.0, -150.0, -1.0, 1.0, 150.0, 90_000.0])),
    action("trade", NAMES, st.sampled_from([Act.FILL, Act.FILL_PARTLY, Act.CANCEL_BEHIND])),
    action("replace", NAMES),
    action("ask_about_the_next_of_a_name", st.sampled_from(KNOWN)),
    action("penalize", st.sampled_from([0.0, 1.0, 7.0])),
    action("drop", st.integers(0, 3)),
    action("choke", st.booleans()),
    action("stray", st.sampled_from(["unknown", "malformed", "again"]), ANY),
)


class Wall(datetime):
    """The wall clock: it goes with the event loop's, and jumps when it is turned."""

    turned = 0.0

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        """What it shows."""
        seconds = asyncio.get_running_loop().time() - START + cls.turned
        return datetime(2025, 5, 5, 12, tzinfo=UTC) + timedelta(seconds=seconds)


class Call:
    """One call of a caller's: what it asked for, and what came of it."""

    def __init__(self, kind: str, errands: Sequence[Errand], timeout: float | None) -> None:
        self.kind = kind
        self.errands = errands
        self.timeout = timeout
        self.is_canceled = False
        self.lateness = 0.0
        """Seconds by which the event loop was late meanwhile."""
        self.task: asyncio.Task[None]


class Disasters(RuleBasedStateMachine):
    """Calls, a vendor with a life of its own, a network with fates, clocks that jump, and a gateway that closes and is
    opened again."""

    policy = BATCH

    def __init__(self) -> None:
        super().__init__()
        Wall.turned = 0.0
        self.loop = VirtualTimeLoop()
        self.reports: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.reports.append(str(context)))
        self.vendor = ModelVendor()
        self.network = Network(self.vendor, self.loop, self.happen)
        self.limiter = RateLimiter()
        self.calls: list[Call] = []
        self.judge = Judge(self.vendor, self.network)
        self.closings: list[asyncio.Task[None]] = []
        """Closings by interrupts; the next action completes them, and opens another gateway."""
        self.labels = itertools.count()
        self.steps = 0
        self.desk: Desk | None = None

    @initialize(
        attempts=st.integers(1, 4),
        repeats=st.sampled_from([20.0, 20.0, 2.0, 0.0]),
        maximum=st.integers(1, 4),
        tells_how=st.booleans(),
        sees=st.booleans(),
        daily=st.sampled_from([None, None, None, None, 8]),
        lifetime=st.integers(15, 200),
        first=CANCEL,
    )
    def open(
        self,
        attempts: int,
        repeats: float,
        maximum: int,
        tells_how: bool,
        sees: bool,
        daily: int | None,
        lifetime: int,
        first: tuple[Any, ...],
    ) -> None:
        """Place orders, and open a gateway for so many actions."""
        policy = self.policy
        for name in KNOWN:
            self.vendor.place(name)
        self.policy = policy._replace(
            maximum=maximum if policy.maximum > 1 else 1,
            tells_how=policy.tells_how or tells_how,
            sees_departures=policy.has_socket or sees,
        )
        self.retry = RetryPolicy(attempts=attempts, quota=repeats)
        self.quota = None if daily is None else DailyQuota(daily)
        self.lifetime = self.left = lifetime
        self.judge.opens(self.policy, self.retry, has_quota=daily is not None)
        self._open_desk()
        self.several([first])

    @rule(actions=st.lists(ACTIONS, min_size=1, max_size=5))
    def several(self, actions: list[tuple[Any, ...]]) -> None:
        """Do several things, with a turn of the loop after each."""
        for name, *arguments in actions:
            self.left -= 1
            if self.left == 0:
                self.close_and_reopen()
            getattr(self, name)(*arguments)
            self.turn()

    @invariant()
    def nobody_was_lied_to(self) -> None:
        """Whoever was told something was told the truth, and in time."""
        self.steps += 1
        self._check()

    def teardown(self) -> None:
        """Everybody is told in the end, and nothing is left behind."""
        try:
            if self.desk is not None:
                self._let_everything_end()
                self._close()
                self._wait(60.0)
                self._check()
                self.judge.judge_the_end()
                self._count()
        finally:
            self._give_up()
            self.loop.close()

    # -- what may happen ------------------------------------------------------------------------------------------

    def cancel(
        self, name: str, timeout: float | None, age: float | None, weather: list[Fate]
    ) -> None:
        """Somebody wants an order canceled."""
        self.network.fates.extend(weather)
        errand = Errand(self._ref(name, age))
        call = Call("cancel", [errand], timeout)
        self._start(call, self._cancel(call, errand))

    def cancel_many(self, names: list[str], timeout: float | None, weather: list[Fate]) -> None:
        """Somebody wants several canceled."""
        self.network.fates.extend(weather)
        call = Call("cancel_many", [Errand(self._ref(name, None)) for name in names], timeout)
        self._start(call, self._cancel_many(call))

    def look(self, name: str, timeout: float | None, weather: list[Fate]) -> None:
        """Somebody looks at an order."""
        self.network.fates.extend(weather)
        call = Call("look", [], timeout)
        self._start(call, self._look(call, self._ref(name, None)))

    def create(self, timeout: float | None, weather: list[Fate]) -> None:
        """Somebody creates an order."""
        self.network.fates.extend(weather)
        call = Call("create", [], timeout)
        self._start(call, self._create(call, f"new {next(self.labels)}"))

    def cancel_a_call(self, which: int) -> None:
        """A caller is canceled, wherever it waits."""
        if alive := [call for call in self.calls if not call.task.done()]:
            self._cancel_call(alive[which % len(alive)])

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self._wait(seconds)

    def be_late(self, seconds: float) -> None:
        """Time passes while nobody runs: whatever is due then happens at once."""
        self.loop._clock.now += seconds
        for call in self.calls:
            if not call.task.done():
                call.lateness += seconds
        self.judge.trouble()

    def turn_the_wall_clock(self, seconds: float) -> None:
        """The wall clock jumps."""
        Wall.turned += seconds

    def trade(self, name: str, act: Act) -> None:
        """The market, or the account's owner, does something to an order."""
        if self.vendor.life(name) is not None:
            self._trade(name, act)

    def replace(self, name: str) -> None:
        """A name is given to a new order, where that is possible, and nobody asks about the old one."""
        if self.policy.has_socket and name in KNOWN and not self.judge.open_errands(name):
            new = self._desk.dispatcher.cancels.creations.new_order(OrderRef(id=name), 1.0)
            self._run(new.departs)
            self.vendor.place(name)
            self.judge.replaces(name)
            self._run(new.is_there)

    def ask_about_the_next_of_a_name(self, name: str) -> None:
        """The reply about an old order comes when a cancel of the new one of its name is in doubt."""
        if not self.policy.has_socket or self.judge.open_errands(name):
            return
        self.network.fates = deque([Fate(Mishap.LATE)])
        self.cancel(name, 0.5, None, [])
        self._wait(15.9)
        self.replace(name)
        self.cancel(name, None, None, [Fate(Mishap.FAILURE_BEFORE, travel=0.05, back=0.05)] * 3)
        self._wait(1.0)

    def penalize(self, seconds: float) -> None:
        """Another gateway of this account was told to wait."""
        scopes = sorted(set(self._desk.scopes.values()))
        try:
            for scope in scopes:
                self._run(partial(self.limiter.penalize, scope, seconds))
        except GatewayError:
            return  # not declared yet
        self.judge.penalized(self.loop.time() + seconds)

    def drop(self, refusals: int) -> None:
        """The socket breaks, and is not to be had again at once."""
        if (socket := self._desk.socket) is not None:
            socket.refusals += refusals
            self.judge.trouble()
            if socket.current is not None:
                self._run(partial(socket.current.close, "dropped"))

    def choke(self, is_choked: bool) -> None:
        """The system takes no more bytes for the socket, or takes them again."""
        socket = self._desk.socket
        if socket is not None and (current := socket.current) is not None:
            self.judge.trouble()
            self.judge.is_choked = lambda: current is socket.current and current.is_choked
            current.is_choked = is_choked
            if not is_choked:
                self._run(socket.writable)

    def stray(self, kind: str, which: int) -> None:
        """A message comes that nobody waits for: or a reply a second time."""
        socket = self._desk.socket
        if socket is None or socket.current is None:
            return
        frames = [frame for frame in self.network.frames if not isinstance(frame, str)]
        again = frames[which % len(frames)] if kind == "again" and frames else kind
        self._run(partial(socket.current.hear, socket.frame(again)))

    def close_and_reopen(self) -> None:
        """The gateway is closed in the middle of it all; another one takes over its budget."""
        self._close()
        self._open_desk()

    def happen(self, act: Act, packet: Packet, turns: int) -> None:
        """A request is interrupted, at once or so many turns later."""
        if turns:
            self.loop.call_soon(self.happen, act, packet, turns - 1)
            return
        self.judge.trouble()
        match act:
            case Act.CANCEL_A_CALL:
                self.cancel_a_call(packet.number)
            case Act.CANCEL_ALL_CALLS:
                for call in self.calls:
                    if not call.task.done():
                        self._cancel_call(call)
            case Act.DROP:
                if (socket := self._desk.socket) is not None and socket.current is not None:
                    self.loop.call_soon(socket.current.close, "dropped")
            case Act.CLOSE:
                self.judge.is_closing = True
                self.left = 1
                self.closings.append(self.loop.create_task(self._desk.dispatcher.aclose()))
            case _:
                for name in packet.names:
                    self._trade(name, act)

    # -- the callers ----------------------------------------------------------------------------------------------

    async def _cancel(self, call: Call, errand: Errand) -> None:
        began = self._begin(call)
        try:
            outcome = await self._desk.dispatcher.cancels.cancel(errand.order, call.timeout)
            self.judge.told(errand, outcome)
        except GatewayError as error:
            self.judge.raised(errand, error)
        finally:
            self._end(call, began)

    async def _cancel_many(self, call: Call) -> None:
        began = self._begin(call)

        def hear(outcome: CancelOutcome) -> None:
            (errand,) = (e for e in call.errands if e.order is outcome.order)
            try:
                self.judge.told(errand, outcome)
            except AssertionError as lie:  # not to be lost in the callback's guard
                self.judge.lies.append(lie)

        orders = [errand.order for errand in call.errands]
        try:
            outcomes = await self._desk.dispatcher.cancels.cancel_many(
                orders, call.timeout, hear, lambda _: None
            )
            told = [errand.outcome for errand in call.errands]
            assert all(ours is its for ours, its in zip(told, outcomes, strict=True))
        except GatewayError as error:
            for errand in call.errands:
                if errand.outcome is None:
                    self.judge.raised(errand, error)
        finally:
            self._end(call, began)

    async def _look(self, call: Call, order: OrderRef) -> None:
        began, moment = self._begin(call), self.vendor.moment
        try:
            snapshot: OrderSnapshot | None = await self._desk.dispatcher.read(order, call.timeout)
            self.judge.read(order.id or "", snapshot, moment)
        except GatewayError as error:
            self.judge.could_not_read(order.id or "", error)
        finally:
            self._end(call, began)

    async def _create(self, call: Call, label: str) -> None:
        began = self._begin(call)
        try:
            await self._desk.create(label, call.timeout)
            self.judge.created(label)
        except GatewayError as error:
            self.judge.could_not_create(label, error)
        finally:
            self._end(call, began)

    def _begin(self, call: Call) -> float:
        for errand in call.errands:
            self.judge.begins(errand, call.timeout, self.loop.time(), alone=call.kind == "cancel")
        return self.loop.time()

    def _end(self, call: Call, began: float) -> None:
        for errand in call.errands:
            self.judge.ends(errand)
        if call.timeout is not None:
            took = self.loop.time() - began
            assert took <= call.timeout + call.lateness + 1e-6, "the deadline bounds everything"

    # -- inside ---------------------------------------------------------------------------------------------------

    @property
    def _desk(self) -> Desk:
        assert self.desk is not None, "opened first"
        return self.desk

    def _open_desk(self) -> None:
        number = self.judge.opens_gateway()
        self.desk = Desk(
            self.policy,
            self.network,
            limiter=self.limiter,
            retry=self.retry,
            quota=self.quota,
            listen=partial(self.judge.hear, number),
            now=Wall.now,
        )

    def _ref(self, name: str, age: float | None) -> OrderRef:
        if age is None or not self.policy.has_ages:
            return OrderRef(id=name)
        created_at = datetime(2025, 5, 5, 12, tzinfo=UTC) + timedelta(
            seconds=self.loop.time() - START + Wall.turned - age
        )
        return OrderRef(id=name, created_at=created_at)

    def _start(self, call: Call, coro: Coroutine[Any, Any, None]) -> None:
        call.task = self.loop.create_task(coro)
        self.calls.append(call)

    def _cancel_call(self, call: Call) -> None:
        call.is_canceled = True
        for errand in call.errands:
            self.judge.trouble(errand.name)
        call.task.cancel()

    def _trade(self, name: str, act: Act) -> None:
        if act is Act.CANCEL_BEHIND:
            self.vendor.cancel(name)
        elif act in (Act.FILL, Act.FILL_PARTLY):
            self.vendor.fill(name, whole=act is Act.FILL)

    def turn(self) -> None:
        """Let the loop turn once."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def _wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def _run(self, what: Any) -> None:
        """Do something on the loop."""

        async def do() -> None:
            what()

        self.loop.run_until_complete(do())

    def _close(self) -> None:
        desk = self._desk
        self.judge.trouble()
        self.judge.is_closing = True
        self.loop.run_until_complete(desk.dispatcher.aclose())
        for _ in range(10):
            self.turn()
        for call in self.calls:
            assert call.task.done(), f"{call.kind} is not ended by the closing"
        with pytest.raises(GatewayClosed):
            self.loop.run_until_complete(desk.dispatcher.cancels.cancel(OrderRef(id="a"), None))
        self._run(partial(self.judge.is_closed, desk, self.limiter))
        assert not asyncio.all_tasks(self.loop), "no task is left"

    def _check(self) -> None:
        for call in self.calls:
            if call.task.done() and not call.task.cancelled():
                call.task.result()
            if call.task.done():
                assert call.task.cancelled() == call.is_canceled, "none invented, none swallowed"
        self.judge.check(self.reports)

    def _let_everything_end(self) -> None:
        """From now on nothing goes wrong: then everybody is told."""
        self.network.fates.clear()
        if (socket := self._desk.socket) is not None:
            socket.refusals = 0
            self.choke(is_choked=False)
        for _ in range(40):
            if all(call.task.done() for call in self.calls):
                return
            self._wait(100.0)
        waiting = [call.kind for call in self.calls if not call.task.done()]
        assert not waiting, f"{waiting} wait for ever"

    def _give_up(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        for _ in range(10):
            self.turn()

    def _count(self) -> None:
        for kind, number in self.judge.outcomes.items():
            tally.count("state machine, dispatch", kind, number)
        tally.count("state machines, examples", "dispatch")
        tally.count("state machines, steps", "dispatch", self.steps)


class Sockets(Disasters):
    """Repeat first, over a socket, as Ripio's gateway does."""

    policy = SOCKET


class Singles(Disasters):
    """One order in a request, and a rule about its age, as in sms4sats' gateway."""

    policy = SINGLE


@pytest.mark.proof
@pytest.mark.parametrize("machine", [Disasters, Sockets, Singles])
def test_no_outcome_lies_whatever_happens(
    machine: type[Disasters], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every caller has one outcome, in time and true, or its own cancellation; permits and tables are even at the
    end."""
    monkeypatch.setattr(admission, "datetime", Wall)
    monkeypatch.setattr(cancels, "datetime", Wall)
    wall = SimpleNamespace(time=lambda: Wall.now().timestamp())
    monkeypatch.setattr(exchange_module, "time", wall)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=either(100, 800), stateful_step_count=either(15, 25), print_blob=True
        ),
    )
