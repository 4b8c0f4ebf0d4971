"""The correlation table: which request a reply belongs to, rule by rule and against a naive model."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, cast

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
from support.virtual_time import VirtualTimeLoop
from tronsave_async import RetryPolicy, Wire
from tronsave_async.correlation import TOMBSTONES, Match, Pending
from tronsave_async.errors import GatewayClosed, GatewayError, RequestFailed
from tronsave_async.websocket import Ask, WebSocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.typing import BytesLike

    from tronsave_async.connection import Connection


def entered(*keys: str, tombstones: int = TOMBSTONES) -> Pending[str]:
    """Return a table with requests; the waiter of ``"a"`` is ``"waiter of a"``."""
    table: Pending[str] = Pending(tombstones)
    for key in keys:
        table.enter(key, f"waiter of {key}")
    return table


def gone(table: Pending[str], key: str) -> bool:
    """Return whether nothing is remembered of a key."""
    return table.match(key) == (Match.UNKNOWN, None)


def test_a_reply_finds_its_request_once() -> None:
    """The first reply settles the request; every other one is a duplicate."""
    table = entered("a", "b")
    assert table.match("a") == (Match.AWAITED, "waiter of a")
    assert [table.match("a") for _ in range(3)] == [(Match.DUPLICATE, None)] * 3
    assert (len(table), "a" in table, "b" in table) == (1, False, True)


def test_replies_come_in_any_order() -> None:
    """What was sent first need not be answered first."""
    table = entered("a", "b", "c")
    assert [table.match(key)[1] for key in "cab"] == [f"waiter of {key}" for key in "cab"]
    assert len(table) == 0


def test_a_stranger_s_reply_is_unknown() -> None:
    """A key that was never entered matches nothing, and is not remembered."""
    table = entered("a")
    assert [table.match("z") for _ in range(2)] == [(Match.UNKNOWN, None)] * 2
    assert table.match("a") == (Match.AWAITED, "waiter of a")


def test_a_late_reply_finds_the_waiter_that_left_once() -> None:
    """A reply after its waiter went is late and names the waiter; the next one is a duplicate."""
    table = entered("a", "b")
    assert table.abandon("a") == "waiter of a"
    assert (len(table), "a" in table) == (1, False)
    assert table.match("a") == (Match.LATE, "waiter of a")
    assert table.match("a") == (Match.DUPLICATE, None)


def test_only_a_pending_request_can_be_abandoned() -> None:
    """Who leaves after the reply, or twice, is told that nothing was pending; the tombstone stays as it is."""
    table = entered("a", "b")
    table.match("a")
    table.abandon("b")
    assert [table.abandon(key) for key in ("a", "b", "z")] == [None, None, None]
    assert table.match("a") == (Match.DUPLICATE, None)
    assert table.match("b") == (Match.LATE, "waiter of b")


def test_a_withdrawn_request_was_never_there() -> None:
    """What was not sent has no reply: a key that was withdrawn is unknown, and only a pending one can be."""
    table = entered("a")
    table.withdraw("a")
    assert gone(table, "a")
    assert len(table) == 0
    with pytest.raises(KeyError):
        table.withdraw("a")


def test_a_key_is_entered_once() -> None:
    """Entering a pending key again is a bug of the caller."""
    table = entered("a")
    with pytest.raises(AssertionError, match="a key is entered once"):
        table.enter("a", "another")


def test_a_lost_connection_leaves_nothing_pending() -> None:
    """All waiters are handed out in the order of their requests, and late replies still find them."""
    table = entered("a", "b", "c", "d")
    table.match("b")
    assert table.abandon_all() == [f"waiter of {key}" for key in "acd"]
    assert (len(table), table.oldest) == (0, None)
    assert table.abandon_all() == []
    assert table.match("c") == (Match.LATE, "waiter of c")
    assert table.match("b") == (Match.DUPLICATE, None)


def test_the_oldest_is_the_first_that_is_still_pending() -> None:
    """The oldest request is the one that was entered first, whatever left before."""
    table = entered("a", "b", "c")
    assert table.oldest == ("a", "waiter of a")
    table.match("a")
    assert table.oldest == ("b", "waiter of b")
    table.abandon("b")
    assert table.oldest == ("c", "waiter of c")
    table.withdraw("c")
    assert table.oldest is None


@pytest.mark.parametrize("bury", [Pending.match, Pending.abandon])
def test_the_latest_tombstones_are_remembered(
    bury: Callable[[Pending[str], str], object],
) -> None:
    """Answered or abandoned, a request is remembered until so many others left after it."""
    table = entered("a", "b", "c", tombstones=2)
    for key in "abc":
        bury(table, key)
    assert gone(table, "a")
    assert not gone(table, "b")
    assert not gone(table, "c")


def test_pending_requests_are_not_bounded_by_the_tombstones() -> None:
    """However few are remembered afterwards, no pending request is forgotten."""
    table = entered(*"abcde", tombstones=0)
    assert len(table) == 5
    assert table.match("a") == (Match.AWAITED, "waiter of a")
    assert gone(table, "a")
    assert table.abandon_all() == [f"waiter of {key}" for key in "bcde"]
    assert gone(table, "b")


def test_ten_thousand_are_remembered_unless_told() -> None:
    """The bound is there without being asked for."""
    table = entered(*map(str, range(TOMBSTONES + 1)))
    table.abandon_all()
    assert gone(table, "0")
    assert table.match("1")[0] is Match.LATE


# -- against a naive model -------------------------------------------------------------------------

INDEX = st.integers(0, 30)
IN_THE_TABLE = st.one_of(
    st.tuples(st.just("enter"), st.integers(1, 4)),
    st.tuples(st.just("enter_again"), INDEX),
    st.tuples(st.just("withdraw"), INDEX),
    st.tuples(st.just("reply"), INDEX),
    st.tuples(st.just("reply"), INDEX),
    st.tuples(st.just("stray"), st.sampled_from(["-1", "", "x"])),
    st.tuples(st.just("abandon"), INDEX),
    st.tuples(st.just("abandon_all"), st.none()),
)


class TableMachine(RuleBasedStateMachine):
    """The table against a list of pending requests and a list of all that left, latest last."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = 0
        self.pending: list[str] = []
        self.left: list[tuple[str, bool]] = []
        """Keys that left the table, and whether a late reply would still find the waiter."""
        self.late: list[str] = []
        """Keys whose waiters were told of a late reply."""
        self.steps = 0

    @initialize(tombstones=st.integers(0, 6))
    def open(self, tombstones: int) -> None:
        """Make the table; few tombstones, so that they are used up."""
        self.tombstones = tombstones
        self.table: Pending[int] = Pending(tombstones)

    @rule(actions=st.lists(IN_THE_TABLE, min_size=1, max_size=8))
    def several(self, actions: list[tuple[str, Any]]) -> None:
        """Do several things, and compare after each."""
        for name, argument in actions:
            getattr(self, name)(argument)
            self.agrees()

    def remembered(self) -> list[tuple[str, bool]]:
        """Return what the table may still know of the requests that left."""
        return self.left[-self.tombstones :] if self.tombstones else []

    def bury(self, key: str, *, waits: bool) -> None:
        """A key leaves the table."""
        self.pending.remove(key)
        self.left.append((key, waits))

    def enter(self, number: int) -> None:
        """Requests are sent."""
        for _ in range(number):
            key = str(self.entered)
            self.table.enter(key, self.entered)
            self.pending.append(key)
            self.entered += 1

    def enter_again(self, which: int) -> None:
        """An id is not used while a request with it is pending."""
        if self.pending:
            with pytest.raises(AssertionError, match="a key is entered once"):
                self.table.enter(self.pending[which % len(self.pending)], -1)

    def withdraw(self, which: int) -> None:
        """A request is not sent after all."""
        if self.pending:
            key = self.pending[which % len(self.pending)]
            self.table.withdraw(key)
            self.pending.remove(key)

    def reply(self, which: int) -> None:
        """A reply comes for any request that ever was: pending, answered, abandoned, forgotten or withdrawn."""
        if not self.entered:
            return
        key = str(which % self.entered)
        buried = dict(self.remembered())
        if key in self.pending:
            assert self.table.match(key) == (Match.AWAITED, int(key))
            self.bury(key, waits=False)
        elif key not in buried:
            assert self.table.match(key) == (Match.UNKNOWN, None)
        elif buried[key]:
            assert self.table.match(key) == (Match.LATE, int(key))
            self.left[self.left.index((key, True))] = (key, False)
            self.late.append(key)
        else:
            assert self.table.match(key) == (Match.DUPLICATE, None)

    def stray(self, key: str) -> None:
        """A reply comes that was never asked for."""
        assert self.table.match(key) == (Match.UNKNOWN, None)

    def abandon(self, which: int) -> None:
        """A waiter goes, pending or not."""
        if not self.entered:
            return
        key = str(which % self.entered)
        pending = key in self.pending
        assert self.table.abandon(key) == (int(key) if pending else None)
        if pending:
            self.bury(key, waits=True)

    def abandon_all(self, _: None) -> None:
        """The connection is lost."""
        assert self.table.abandon_all() == [int(key) for key in self.pending]
        for key in list(self.pending):
            self.bury(key, waits=True)

    @invariant()
    def is_counted(self) -> None:
        """For the figures."""
        self.steps += 1

    def agrees(self) -> None:
        """Size, membership and the oldest are the model's, and the tombstones are bounded."""
        assert len(self.table) == len(self.pending)
        assert all(key in self.table for key in self.pending)
        assert not any(key in self.table for key, _ in self.left)
        oldest = (self.pending[0], int(self.pending[0])) if self.pending else None
        assert self.table.oldest == oldest
        assert list(self.table._buried) == [key for key, _ in self.remembered()]
        assert len(self.late) == len(set(self.late)), "a late reply is evidence once"

    def teardown(self) -> None:
        """Count what was judged."""
        tally.count("state machine, correlation table", "told late", len(self.late))
        answered = [key for key, waits in self.left if not waits and key not in self.late]
        tally.count("state machine, correlation table", "answered", len(answered))
        tally.count("state machines, examples", "correlation table")
        tally.count("state machines, steps", "correlation table", self.steps)


@pytest.mark.proof
def test_the_table_agrees_with_a_naive_model() -> None:
    """Whatever is entered, answered, abandoned or lost, every key is in exactly the state that the model says."""
    run_state_machine_as_test(
        TableMachine,
        settings=settings(
            max_examples=either(60, 600), stateful_step_count=either(12, 25), print_blob=True
        ),
    )


# -- on a connection -------------------------------------------------------------------------------

PATIENCE = 15.0
TICKS = st.integers(0, 2)
SECONDS = st.sampled_from([0.1, 5.0, 14.9, 15.0, 40.0])


class Line:
    """A connection in memory, as far as the transport needs one."""

    def __init__(self, transport: Transport) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.proved_itself = self.is_choked = False
        self._transport = transport

    @property
    def takes_more(self) -> bool:
        """It is written to."""
        return not (self.is_choked or self.ended.done())

    def say(self, message: bytes) -> int:
        """A request leaves."""
        self._transport.said.append(message.decode())
        return len(message)

    def write(self) -> None:
        """It left before."""

    def hear(self, message: str) -> None:
        """A message comes."""
        if not self.ended.done() and self._transport.received(message.encode()):
            self.proved_itself = True

    def close(self, reason: str) -> None:
        """It ends."""
        if not self.ended.done():
            self.ended.set_result(None)
            self._transport.lost(cast("Connection", self), reason)


class Transport(WebSocketTransport[str]):
    """The WebSocket transport over connections in memory. Its messages are ``<id> <text>``, or one word."""

    def __init__(self) -> None:
        super().__init__(
            "vendor",
            "ws://vendor",
            read=self._message,
            retry=RetryPolicy(),
            timeout=PATIENCE,
            max_in_flight=3,
        )
        self.said: list[str] = []
        """The ids of the requests that left, in order."""
        self.refusals = 0

    @property
    def line(self) -> Line | None:
        """The connection that stands."""
        return cast("Line | None", self._connection)

    def _message(self, message: BytesLike) -> tuple[str, str] | str:
        words = bytes(message).decode().split(" ")
        if words == ["odd"]:
            raise ValueError("odd")
        return (words[0], words[1]) if len(words) == 2 else words[0]

    async def _connect(self) -> tuple[Connection | None, str]:
        await asyncio.sleep(0)
        if self.refusals:
            self.refusals -= 1
            return None, "refused"
        self.stands(cast("Connection", Line(self)))
        return cast("Connection", self.line), ""


class Asker:
    """One who asks, and what came of it."""

    def __init__(self) -> None:
        self.key: str | None = None
        """The id of the request, once it left."""
        self.left_at = 0.0
        self.ends: list[str | BaseException] = []
        self.late: list[str] = []
        self.is_canceled = False
        self.leave: Callable[[], object]

    def departs(self, transport: Transport, key: str) -> bytes:
        """The request leaves, with an id that none had before."""
        assert self.key is None, "it leaves once"
        assert key not in transport.said, "an id is used once"
        self.key, self.left_at = key, asyncio.get_running_loop().time()
        return key.encode()


class PostedAsk(Ask[str]):
    """A request that nobody awaits."""

    def __init__(self, asker: Asker, transport: Transport) -> None:
        self.endpoint = "call"
        self._asker = asker
        self._transport = transport

    def departing(self, key: str) -> bytes:
        """It leaves."""
        return self._asker.departs(self._transport, key)

    def done(self) -> bool:
        """Its asker is gone, or was told."""
        return bool(self._asker.ends)

    def set_result(self, reply: str) -> None:
        """It is answered."""
        self._asker.ends.append(reply)

    def set_exception(self, error: Exception) -> None:
        """It is not."""
        self._asker.ends.append(error)

    def late(self, reply: str) -> None:
        """It is answered late."""
        self._asker.late.append(reply)


ASK = st.tuples(st.sampled_from(["ask", "post"]), st.integers(1, 5))
ON_A_CONNECTION = st.one_of(
    ASK,
    st.tuples(st.just("go"), INDEX),
    st.tuples(st.just("reply"), INDEX),
    st.tuples(st.just("reply"), INDEX),
    st.tuples(st.just("reply_in_the_tick_of_going"), INDEX),
    st.tuples(st.just("stray"), st.sampled_from(["odd", "kind", "nobody's reply"])),
    st.tuples(st.just("drop"), st.integers(0, 2)),
    st.tuples(st.just("choke"), st.booleans()),
    st.tuples(st.just("wait"), SECONDS),
    st.tuples(st.just("be_late"), SECONDS),
)


class ConnectionMachine(RuleBasedStateMachine):
    """The table at work in the transport: askers that come and go, replies in any order, twice and late, connections
    that break."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.reports: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.reports.append(str(context)))
        self.transport = Transport()
        self.askers: list[Asker] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.replies: dict[str, list[str]] = {}
        """What came for each id, in order."""
        self.strangers = 0
        self.steps = 0

    @initialize(first=ASK)
    def open(self, first: tuple[str, int]) -> None:
        """Somebody asks."""
        self.several([(first, 2)])

    @rule(actions=st.lists(st.tuples(ON_A_CONNECTION, TICKS), min_size=1, max_size=6))
    def several(self, actions: list[tuple[tuple[str, Any], int]]) -> None:
        """Do several things, with so many turns of the loop after each."""
        for (name, argument), ticks in actions:
            if name in ("wait", "be_late"):
                getattr(self, name)(argument)
            else:
                self.run(partial(getattr(self, name), argument))
            for _ in range(ticks):
                self.run(lambda: None)

    def run(self, what: Callable[[], object]) -> None:
        """Do something on the loop, which turns once."""
        self.loop.call_soon(what)
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    # what may happen

    def ask(self, number: int) -> None:
        """Some ask and wait."""
        for _ in range(number):
            asker = Asker()
            task = self.loop.create_task(self._ask(asker))
            asker.leave = task.cancel
            self.askers.append(asker)
            self.tasks.append(task)

    async def _ask(self, asker: Asker) -> None:
        departs = partial(asker.departs, self.transport)
        try:
            asker.ends.append(await self.transport.request("call", departs, asker.late.append))
        except (GatewayError, asyncio.CancelledError) as end:
            asker.ends.append(end)
            if isinstance(end, asyncio.CancelledError):
                raise

    def post(self, number: int) -> None:
        """Some ask without waiting."""
        for _ in range(number):
            asker = Asker()
            ask = PostedAsk(asker, self.transport)
            asker.leave = partial(self._withdraw, asker, ask)
            self.askers.append(asker)
            self.transport.post(ask)

    def _withdraw(self, asker: Asker, ask: PostedAsk) -> None:
        if not asker.ends:
            asker.ends.append(asyncio.CancelledError())
            self.transport.leave(ask)

    def go(self, which: int) -> None:
        """An asker goes."""
        if waiting := [asker for asker in self.askers if not asker.ends]:
            asker = waiting[which % len(waiting)]
            asker.is_canceled = True
            asker.leave()

    def reply(self, which: int) -> None:
        """A reply comes for any request that ever left: awaited, late or a second one."""
        if self.transport.said:
            said = self.transport.said
            self._reply(said[-1 - which % len(said)])

    def _reply(self, key: str) -> None:
        line = self.transport.line
        if line is not None:
            text = f"{key}:{len(self.replies.get(key, ()))}"
            self.replies.setdefault(key, []).append(text)
            line.hear(f"{key} {text}")

    def reply_in_the_tick_of_going(self, which: int) -> None:
        """An asker goes, and its reply comes before it has gone: or the other way around."""
        waiting = [asker for asker in self.askers if not asker.ends and asker.key is not None]
        if waiting:
            asker = waiting[which % len(waiting)]
            assert asker.key is not None, "just selected"
            steps: list[Callable[[], object]] = [partial(self._reply, asker.key), asker.leave]
            asker.is_canceled = True
            for step in steps if which % 2 else reversed(steps):
                step()

    def stray(self, message: str) -> None:
        """A message comes that answers nothing."""
        if self.transport.line is not None:
            self.strangers += 1
            self.transport.line.hear(message)

    def drop(self, refusals: int) -> None:
        """The connection breaks, and is not to be had again at once."""
        self.transport.refusals += refusals
        if self.transport.line is not None:
            self.transport.line.close("dropped")

    def choke(self, is_choked: bool) -> None:
        """The system takes no more, or takes more again."""
        if self.transport.line is not None:
            self.transport.line.is_choked = is_choked
            if not is_choked:
                self.transport.writable()

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run_forever()

    def be_late(self, seconds: float) -> None:
        """Time passes while nobody runs."""
        self.loop._clock.now += seconds

    # what always holds

    @invariant()
    def every_reply_has_one_taker(self) -> None:
        """The first reply for an id is its asker's result, or told late; no other reply is anybody's."""
        self.steps += 1
        for _ in range(3):
            self.run(lambda: None)
        assert self.reports == []
        under_way = [asker for asker in self.askers if asker.key is not None and not asker.ends]
        assert self.transport.in_flight == len(under_way) <= 3
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()
        for asker in self.askers:
            assert len(asker.ends) <= 1
            for end in asker.ends:
                self._judge(asker, end)

    def _judge(self, asker: Asker, end: str | BaseException) -> None:
        first = self.replies.get(asker.key or "", [])[:1]
        if isinstance(end, str):
            assert ([end], asker.late) == (first, [])
            return
        assert asker.late == first, "a reply is evidence once, however late"
        if isinstance(end, asyncio.CancelledError):
            assert asker.is_canceled, "no cancellation is invented"
        elif isinstance(end, RequestFailed):
            left = Wire.NOT_SENT if asker.key is None else Wire.MAYBE_SENT
            assert end.wire is left
        else:
            assert isinstance(end, GatewayClosed)

    def teardown(self) -> None:
        """Everybody is told in the end, and the tables are empty."""
        try:
            if self.askers:
                self.transport.refusals = 0
                self.run(partial(self.choke, False))
                self.wait(3 * PATIENCE * len(self.askers))
                assert all(asker.ends for asker in self.askers), "nobody waits for ever"
                self.every_reply_has_one_taker()
                assert (self.transport.in_flight, len(self.transport._outbox)) == (0, 0)
                self._count_strays()
        finally:
            self.loop.run_until_complete(self.transport.aclose())
            for task in self.tasks:
                self.loop.run_until_complete(asyncio.wait([task]))
            assert not asyncio.all_tasks(self.loop)
            self.loop.close()

    def _count_strays(self) -> None:
        strays = self.transport.strays
        late = sum(len(asker.late) for asker in self.askers)
        again = sum(len(texts) - 1 for texts in self.replies.values())
        assert (strays.get("late", 0), strays.get("duplicate", 0)) == (late, again)
        assert sum(strays.values()) == late + again + self.strangers
        for asker in self.askers:
            (end,) = asker.ends
            kind = "answered" if isinstance(end, str) else type(end).__name__
            tally.count("state machine, correlation", f"{kind}, then late" if asker.late else kind)
        tally.count("state machines, examples", "correlation")
        tally.count("state machines, steps", "correlation", self.steps)


@pytest.mark.proof
def test_every_reply_finds_its_asker_or_is_told_late() -> None:
    """Whatever comes, goes, breaks and is repeated: one end for each asker, one taker for each first reply."""
    run_state_machine_as_test(
        ConnectionMachine,
        settings=settings(
            max_examples=either(60, 600), stateful_step_count=either(12, 25), print_blob=True
        ),
    )
