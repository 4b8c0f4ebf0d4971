"""Many callers, one request: who shares it, who may leave it, and that nobody is forgotten."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

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
from tronsave_async.coalescing import Batch, Batcher, Delivery, Divide, Mailbox, Ticket
from tronsave_async.errors import ConnectionLost, GatewayError, RequestFailed, UsageError
from tronsave_async.exchange import Exchange, Revoked
from tronsave_async.limiter import Lane
from tronsave_async.outcomes import Wire
from tronsave_async.telemetry import Lost, Queued, Sent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence

    from tronsave_async.telemetry import Event

LOST = ConnectionLost("venue", "cancel", "connection reset", wire=Wire.MAYBE_SENT)


class Caller:
    """One who wants a key, and what came of it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.deliveries: list[Delivery[str]] = []
        self.ticket: Ticket[str, str]
        self.left: Wire | None = None

    def leave(self) -> Wire:
        """Go; return what is known of the request."""
        self.left = self.ticket.leave()
        return self.left

    @property
    def waits(self) -> bool:
        """Neither delivered to nor gone."""
        return not self.deliveries and self.left is None

    @property
    def delivery(self) -> Delivery[str]:
        """The one delivery."""
        (delivery,) = self.deliveries
        return delivery

    @property
    def value(self) -> str | None:
        """The value of the one delivery, which brought no failure."""
        assert self.delivery.failure is None
        return self.delivery.value

    @property
    def failure(self) -> GatewayError:
        """The failure of the one delivery."""
        assert self.delivery.failure is not None
        assert self.delivery.value is None
        return self.delivery.failure


class Admission:
    """A request that waits for its permit."""

    def __init__(self, exchange: Exchange, lane: Lane, passed: asyncio.Future[None]) -> None:
        self.exchange = exchange
        self.lane = lane
        self.passed = passed


class Request:
    """A request under way: it waits for a connection, departs, waits for its reply."""

    def __init__(
        self,
        keys: Sequence[str],
        exchange: Exchange,
        connected: asyncio.Future[None],
        reply: asyncio.Future[Mapping[str, str]],
    ) -> None:
        self.keys = list(keys)
        self.exchange = exchange
        self.connected = connected
        self.reply = reply

    @property
    def departed(self) -> bool:
        """Bytes left."""
        return self.exchange.departed_at is not None


def echo(keys: Iterable[str]) -> dict[str, str]:
    """Return what the fake vendor answers for each key."""
    return {key: f"{key}!" for key in keys}


class Room:
    """A batcher with a fake limiter and a fake vendor, which wait for the test or answer at once."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, maximum: int = 3, join_departed: bool = True
    ) -> None:
        self.loop = loop
        self.maximum = maximum
        self.admits_at_once = False
        self.answers_at_once = False
        self.bad: set[str] = set()
        self.events: list[Event] = []
        self.exchanges: list[Exchange] = []
        self.admissions: list[Admission] = []
        self.requests: list[Request] = []
        self.under_way: list[Request] = []
        self.crashes: list[BaseException] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.batcher: Batcher[str, str] = Batcher(
            maximum=maximum,
            open_exchange=self.open_exchange,
            admit=self.admit,
            send=self.send,
            spawn=self.spawn,
            join_departed=join_departed,
        )

    def open_exchange(self, orders: int) -> Exchange:
        exchange = Exchange(
            len(self.exchanges),
            "venue",
            "cancel",
            orders,
            self.loop.time(),
            self.loop.time,
            self.events.append,
        )
        self.exchanges.append(exchange)
        return exchange

    async def admit(self, exchange: Exchange, lane: Lane) -> None:
        if self.admits_at_once:
            return
        admission = Admission(exchange, lane, self.loop.create_future())
        self.admissions.append(admission)
        try:
            await admission.passed
        finally:
            self.admissions.remove(admission)

    async def send(self, keys: Sequence[str], exchange: Exchange) -> Mapping[str, str]:
        request = Request(keys, exchange, self.loop.create_future(), self.loop.create_future())
        self.requests.append(request)
        self.under_way.append(request)
        try:
            if not self.answers_at_once:
                await request.connected
            exchange.depart()
            if self.answers_at_once:
                self.answer(request)
            results = await request.reply
        except Divide:
            if exchange.ended_at is None:
                exchange.answered(400)
            raise
        except GatewayError as error:
            if exchange.ended_at is None:
                exchange.lost(str(error))
            raise
        finally:
            self.under_way.remove(request)
        if exchange.ended_at is None:
            exchange.answered(200)
        return results

    def answer(self, request: Request) -> None:
        """Answer as the vendor does: one bad key spoils a request of several."""
        if self.bad.isdisjoint(request.keys):
            request.reply.set_result(echo(request.keys))
        elif len(request.keys) > 1:
            request.reply.set_exception(Divide())
        else:
            request.reply.set_exception(UsageError("bad key"))

    def spawn(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(coro)
        self.tasks.add(task)
        task.add_done_callback(self.ended)
        return task

    def ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.crashes.append(error)

    def want(self, *keys: str, lane: Lane = Lane.CANCEL) -> list[Caller]:
        """Join for each key."""
        callers = [Caller(key) for key in keys]
        for caller in callers:
            caller.ticket = self.batcher.join(
                caller.key, lane, caller.deliveries.append, self.loop.time()
            )
        return callers

    def grant(self, lane: Lane | None = None) -> None:
        """Admit the first request in line, or the first of a lane."""
        admission = next(a for a in self.admissions if lane in (None, a.lane) and live(a.passed))
        admission.passed.set_result(None)

    async def sent(self, *, departed: bool = False) -> Request:
        """Admit the first in line; return the request that it made."""
        known = len(self.requests)
        self.grant()
        await turns()
        (request,) = self.requests[known:]
        if departed:
            request.connected.set_result(None)
            await turns()
        return request

    def assert_idle(self) -> None:
        """Fail unless nothing is left: no task, no key, no request without an end."""
        assert not self.tasks
        assert (self.batcher.waiting, self.batcher.under_way) == (0, 0)
        assert not self.batcher._flushers
        assert not self.batcher._batches
        assert not self.batcher._divided
        assert all(exchange.ended_at is not None for exchange in self.exchanges)


def live(future: asyncio.Future[Any]) -> bool:
    """Return whether a future still waits."""
    return not future.done()


async def turns(count: int = 6) -> None:
    """Let everything happen that is ready to."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    """Yield a room for batches of three that shares what departed; it must be left empty."""
    room = Room(asyncio.get_running_loop())
    yield room
    await turns()
    room.assert_idle()
    assert room.crashes == []


@pytest.fixture
async def reading_room() -> AsyncIterator[Room]:
    """Yield a room for reads: what departed is not shared; it must be left empty."""
    room = Room(asyncio.get_running_loop(), join_departed=False)
    yield room
    await turns()
    room.assert_idle()
    assert room.crashes == []


@pytest.fixture
async def narrow_room() -> AsyncIterator[Room]:
    """Yield a room for batches of one, where all but the last get a task of their own; it must be left empty."""
    room = Room(asyncio.get_running_loop(), maximum=1)
    yield room
    await turns()
    room.assert_idle()
    assert room.crashes == []


# -- sharing ---------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_the_first_caller_is_not_delayed(room: Room) -> None:
    """On an idle call the request asks for its permit at once and leaves when it gets it: no time passes."""
    room.admits_at_once = room.answers_at_once = True
    started = room.loop.time()
    (caller,) = room.want("a")
    await turns()
    assert caller.value == "a!"
    assert room.loop.time() == started
    assert caller.ticket.joined_at == started


async def test_a_request_takes_whoever_waits_when_it_is_granted(room: Room) -> None:
    """Callers that come while a request waits for its permit go with it, in the order in which they came."""
    (first,) = room.want("b")
    await turns()
    assert len(room.admissions) == 1
    others = room.want("a", "c")
    assert (room.batcher.waiting, room.batcher.under_way) == (3, 0)
    request = await room.sent()
    assert request.keys == ["b", "a", "c"]
    assert request.exchange.orders == 3
    assert (room.batcher.waiting, room.batcher.under_way) == (0, 3)
    request.connected.set_result(None)
    request.reply.set_result(echo("abc"))
    await turns()
    assert [caller.value for caller in (first, *others)] == ["b!", "a!", "c!"]


@pytest.mark.parametrize(("maximum", "keys"), [(50, 1000), (7, 1000), (1, 5), (2000, 1000)])
async def test_many_keys_need_as_few_requests_as_fit(maximum: int, keys: int) -> None:
    """N keys need N / maximum requests, rounded up, and none is larger than the maximum."""
    room = Room(asyncio.get_running_loop(), maximum=maximum)
    room.admits_at_once = room.answers_at_once = True
    callers = room.want(*map(str, range(keys)))
    while room.tasks:
        await turns()
    assert len(room.requests) == math.ceil(keys / maximum)
    assert max(len(request.keys) for request in room.requests) == min(maximum, keys)
    assert [caller.value for caller in callers] == [f"{key}!" for key in range(keys)]
    queued = [event.orders for event in room.events if isinstance(event, Queued)]
    assert max(queued) <= maximum
    room.assert_idle()


async def test_equal_keys_share_one_slot(room: Room) -> None:
    """However many want the same key, it goes once, and each of them gets the result."""
    callers = room.want("a", "b", "a", "a", "b", "c")
    assert room.batcher.waiting == 3
    await turns()
    request = await room.sent(departed=True)
    assert request.keys == ["a", "b", "c"]
    request.reply.set_result(echo("abc"))
    await turns()
    assert [caller.value for caller in callers] == ["a!", "b!", "a!", "a!", "b!", "c!"]


@pytest.mark.parametrize("departed", [False, True])
async def test_a_newcomer_shares_the_cancel_under_way(room: Room, departed: bool) -> None:
    """With ``join_departed`` a key whose request is under way is not sent again."""
    (early,) = room.want("a")
    await turns()
    request = await room.sent(departed=departed)
    (late,) = room.want("a")
    assert late.ticket.taken
    assert room.batcher.waiting == 0
    if not departed:
        request.connected.set_result(None)
    request.reply.set_result(echo("a"))
    await turns()
    assert (early.value, late.value) == ("a!", "a!")
    assert len(room.requests) == 1


@pytest.mark.parametrize("departed", [False, True])
async def test_a_key_that_may_name_something_else_by_now(room: Room, departed: bool) -> None:
    """A request that left before the newcomer came is not shared, and whoever comes later shares the newcomer's."""
    room.batcher._is_reusable = lambda key: key == "a"
    room.want("a", "b")
    await turns()
    first = await room.sent(departed=departed)
    late = room.want("a", "b")
    await turns()
    assert [caller.ticket.taken for caller in late] == [not departed, True]
    if not departed:
        first.connected.set_result(None)
    first.reply.set_result({"a": "a!", "b": "b!"})
    if departed:
        second = await room.sent(departed=True)
        second.reply.set_result({"a": "again"})
    await turns()
    assert [caller.value for caller in late] == ["again" if departed else "a!", "b!"]


@pytest.mark.parametrize("departed", [False, True])
async def test_a_newcomer_never_shares_the_read_under_way(
    reading_room: Room, departed: bool
) -> None:
    """Without ``join_departed`` a newcomer's read is asked for after it came, whatever is under way."""
    room = reading_room
    (early,) = room.want("a")
    await turns()
    first = await room.sent(departed=departed)
    (late,) = room.want("a")
    assert not late.ticket.taken
    await turns()
    second = await room.sent(departed=True)
    assert room.batcher.under_way == 1
    if not departed:
        first.connected.set_result(None)
    first.reply.set_result({"a": "old"})
    await turns()
    assert early.value == "old"
    assert late.waits
    assert room.batcher.under_way == 1
    second.reply.set_result({"a": "new"})
    await turns()
    assert late.value == "new"


async def test_a_key_is_under_way_until_its_last_request_ends(reading_room: Room) -> None:
    """Two requests may carry the same key at once: it counts once, and whichever ends first."""
    room = reading_room
    (early,) = room.want("a")
    await turns()
    first = await room.sent(departed=True)
    (late,) = room.want("a")
    await turns()
    second = await room.sent(departed=True)
    second.reply.set_result({"a": "new"})
    await turns()
    assert (late.value, early.waits, room.batcher.under_way) == ("new", True, 1)
    first.reply.set_result({"a": "old"})
    await turns()
    assert early.value == "old"


async def test_a_key_that_the_reply_does_not_mention_is_silence(room: Room) -> None:
    """A missing result is neither a value nor a failure; results that nobody asked for are ignored."""
    heard, silent = room.want("a", "b")
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_result({"a": "a!", "z": "z!"})
    await turns()
    assert heard.value == "a!"
    assert silent.value is None
    assert silent.delivery.reached is Wire.ANSWERED


# -- lanes -----------------------------------------------------------------------------------------


async def test_each_lane_asks_for_its_own_permit(room: Room) -> None:
    """A request asks for its permit in the lane of those who wait for it, and once for each lane."""
    room.want("a", "b", lane=Lane.CREATE)
    room.want("c", "d", lane=Lane.READ)
    await turns()
    assert [admission.lane for admission in room.admissions] == [Lane.CREATE, Lane.READ]
    room.batcher.close()


async def test_cancels_go_first_whoever_was_granted(room: Room) -> None:
    """A permit is used by whoever is first: cancels before reads before creates, each in order."""
    room.want("w1", "w2", lane=Lane.CREATE)
    room.want("r1", "r2", lane=Lane.READ)
    room.want("c1", "c2", lane=Lane.CANCEL)
    await turns()
    room.answers_at_once = True
    room.grant(Lane.CREATE)
    await turns()
    assert room.requests[0].keys == ["c1", "c2", "r1"]
    room.grant(Lane.CREATE)
    await turns()
    assert room.requests[1].keys == ["r2", "w1", "w2"]
    while room.admissions:
        room.grant()
        await turns()
    assert len(room.requests) == 2
    unused = [event for event in room.events if isinstance(event, Lost)]
    assert {event.reason for event in unused} == {"not wanted any more"}
    assert {event.reached for event in unused} == {Wire.NOT_SENT}


async def test_a_waiting_key_is_promoted_by_a_higher_lane(room: Room) -> None:
    """A cancel of a key that already waits in a lower lane takes it along; a lower lane never demotes it."""
    (reader,) = room.want("a", lane=Lane.READ)
    room.want("b", lane=Lane.READ)
    (canceler,) = room.want("a", lane=Lane.CANCEL)
    (late,) = room.want("a", lane=Lane.CREATE)
    assert room.batcher.waiting == 2
    await turns()
    assert [admission.lane for admission in room.admissions] == [Lane.READ, Lane.CANCEL]
    request = await room.sent(departed=True)
    assert request.keys == ["a", "b"]
    request.reply.set_result(echo("ab"))
    await turns()
    assert [caller.value for caller in (reader, canceler, late)] == ["a!", "a!", "a!"]
    room.grant()
    await turns()


# -- leaving ---------------------------------------------------------------------------------------


async def test_leaving_before_the_permit_takes_only_the_own_key(room: Room) -> None:
    """A caller that goes while its key waits leaves nothing behind, and its siblings go on."""
    callers = room.want("a", "b", "b", "c")
    await turns()
    assert not callers[0].ticket.taken
    assert callers[0].leave() is Wire.NOT_SENT
    assert callers[1].leave() is Wire.NOT_SENT
    assert callers[3].leave() is Wire.NOT_SENT
    request = await room.sent(departed=True)
    assert request.keys == ["b"]
    request.reply.set_result(echo("b"))
    await turns()
    assert callers[2].value == "b!"
    assert not any(caller.deliveries for caller in (callers[0], callers[1], callers[3]))


@pytest.mark.parametrize("settled", [False, True])
async def test_when_the_last_one_leaves_nothing_is_asked_for(room: Room, settled: bool) -> None:
    """Nobody waits any more: the wait for the permit ends, even before it began, and nothing is sent."""
    first, second = room.want("a", "b")
    if settled:
        await turns()
    assert (first.leave(), second.leave()) == (Wire.NOT_SENT, Wire.NOT_SENT)
    await turns()
    assert not room.admissions
    assert not room.requests
    assert not room.tasks


async def test_one_who_comes_in_the_tick_in_which_the_last_one_left_is_served(room: Room) -> None:
    """The wait that was given up is not the newcomer's: it gets its own."""
    (gone,) = room.want("a")
    await turns()
    gone.leave()
    (late,) = room.want("a")
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_result(echo("a"))
    await turns()
    assert late.value == "a!"


async def test_leaving_in_the_tick_of_the_grant_still_takes_the_key_out(room: Room) -> None:
    """Between the grant and the taking a key can still be taken out; a request without keys is not sent."""
    first, second = room.want("a", "b")
    await turns()
    room.grant()
    assert first.leave() is Wire.NOT_SENT
    await turns()
    assert room.requests[0].keys == ["b"]
    assert second.leave() is Wire.NOT_SENT
    await turns()
    assert not room.requests[0].departed


async def test_a_request_that_nobody_wants_never_departs(room: Room) -> None:
    """The last one to leave before the departure revokes the request: NOT_SENT is proved, not hoped."""
    first, second = room.want("a", "b")
    await turns()
    request = await room.sent()
    assert first.leave() is Wire.MAYBE_SENT
    assert second.leave() is Wire.NOT_SENT
    with pytest.raises(Revoked):
        request.exchange.depart()
    await turns()
    assert not request.departed
    assert request.connected.cancelled()
    assert not any(isinstance(event, Sent) for event in room.events)
    assert room.batcher.under_way == 0


async def test_a_request_is_revoked_even_before_its_task_ran(narrow_room: Room) -> None:
    """A request that was taken and not yet begun is never begun when nobody wants it."""
    room = narrow_room
    caller, other = room.want("a", "b")
    await turns()
    room.grant()
    await turns(1)
    assert caller.ticket.taken
    assert not other.ticket.taken
    assert not room.requests
    assert caller.leave() is Wire.NOT_SENT
    await turns()
    assert not room.requests
    request = await room.sent(departed=True)
    assert request.keys == ["b"]
    request.reply.set_result(echo("b"))
    await turns()
    assert other.value == "b!"


async def test_the_last_batch_begins_in_the_step_that_took_it(narrow_room: Room) -> None:
    """Who asked for the permit carries the last batch itself; only one before the last needs a task of its own."""
    room = narrow_room
    first, last = room.want("a", "b")
    (flusher,) = room.tasks
    await turns()
    one = await room.sent(departed=True)
    (carrier,) = room.tasks - {flusher}
    room.grant()
    await turns(1)
    assert last.ticket.taken
    assert [request.keys for request in room.requests] == [["a"], ["b"]]
    assert room.tasks == {flusher, carrier}
    two = room.requests[1]
    two.connected.set_result(None)
    two.reply.set_result(echo("b"))
    await turns()
    assert room.tasks == {carrier}
    one.reply.set_result(echo("a"))
    await turns()
    assert (first.value, last.value) == ("a!", "b!")


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("end", ["revoke", "cancel", "crash"])
async def test_the_end_of_a_carrier_is_not_the_newcomers_end(
    room: Room, end: str, settled: bool
) -> None:
    """Whoever comes while the last batch is carried gets another flusher, which outlives the carrying one."""
    (early,) = room.want("a")
    (carrier,) = room.tasks
    await turns()
    request = await room.sent()
    (late,) = room.want("b")
    (flusher,) = room.tasks - {carrier}
    if settled:
        await turns()
    if end == "revoke":
        assert early.leave() is Wire.NOT_SENT
    elif end == "cancel":
        carrier.cancel()
    else:
        request.connected.set_exception(ZeroDivisionError("a bug"))
    await turns()
    assert carrier.done()
    assert carrier.cancelled() == (end != "crash")
    assert not early.waits
    assert not request.departed
    assert room.tasks == {flusher}
    assert late.waits
    new = await room.sent(departed=True)
    assert new.keys == ["b"]
    new.reply.set_result(echo("b"))
    await turns()
    assert late.value == "b!"
    assert [type(crash) for crash in room.crashes] == [ZeroDivisionError] * (end == "crash")
    room.crashes.clear()


async def test_a_ticket_that_left_tells_whether_others_want_its_key(room: Room) -> None:
    """Company are those of the same key who stay, whether it waits or is under way, and nobody else."""
    first, second, third, other = room.want("a", "a", "a", "b")
    await turns()
    assert first.ticket.has_company
    first.leave()
    assert first.ticket.has_company
    request = await room.sent(departed=True)
    second.leave()
    assert second.ticket.has_company
    third.leave()
    assert not third.ticket.has_company
    assert other.waits
    (late,) = room.want("a")
    assert not third.ticket.has_company, "it wants the key of another request"
    late.leave()
    assert not late.ticket.has_company
    request.reply.set_result(echo("ab"))
    await turns()
    assert other.value == "b!"


async def test_a_ticket_tells_whether_its_key_is_under_way(room: Room) -> None:
    """A key is under way from the moment it is taken, and in a half that waits it is not, although it was taken."""
    caller, other = room.want("a", "b")

    def told(caller: Caller) -> tuple[bool, bool]:
        return caller.ticket.taken, caller.ticket.under_way

    assert told(caller) == (False, False)
    await turns()
    assert told(caller) == (False, False)
    request = await room.sent()
    (sharer,) = room.want("a")
    assert told(caller) == told(sharer) == (True, True)
    request.connected.set_result(None)
    await turns()
    assert told(caller) == (True, True)
    request.reply.set_exception(Divide())
    await turns()
    assert told(caller) == told(other) == (True, False)
    request = await room.sent(departed=True)
    assert (told(caller), told(other)) == ((True, True), (True, False))
    other.leave()
    request.reply.set_result(echo("a"))
    await turns()
    assert (caller.value, sharer.value) == ("a!", "a!")


async def test_a_newcomer_after_a_revoked_request_gets_its_own(room: Room) -> None:
    """Nobody is put on a request that will never leave."""
    (gone,) = room.want("a")
    await turns()
    await room.sent()
    gone.leave()
    (late,) = room.want("a")
    assert not late.ticket.taken
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_result(echo("a"))
    await turns()
    assert late.value == "a!"


async def test_leaving_after_the_departure_is_maybe_sent(room: Room) -> None:
    """What departed cannot be called back: it goes on, for those who stay and for nobody."""
    first, late = *room.want("a"), *room.want("b")
    await turns()
    request = await room.sent(departed=True)
    assert first.leave() is Wire.MAYBE_SENT
    assert late.leave() is Wire.MAYBE_SENT
    await turns()
    assert live(request.reply)
    request.reply.set_result(echo("ab"))
    await turns()
    assert not first.deliveries
    assert not late.deliveries


async def test_a_newcomer_does_not_share_what_everybody_gave_up_on(room: Room) -> None:
    """Who comes after all others lost patience with a request gets a new one, and the old reply is nobody's."""
    (gone,) = room.want("a")
    await turns()
    old = await room.sent(departed=True)
    gone.leave()
    (late,) = room.want("a")
    assert not late.ticket.taken
    await turns()
    new = await room.sent(departed=True)
    old.reply.set_result({"a": "old"})
    await turns()
    assert late.waits
    assert room.batcher.under_way == 1
    (later,) = room.want("a")
    assert later.ticket.taken, "the end of the old request does not hide the new one"
    assert late.leave() is Wire.MAYBE_SENT
    new.reply.set_result({"a": "new"})
    await turns()
    assert later.value == "new"


async def test_a_delivery_may_make_another_caller_of_the_same_key_leave(room: Room) -> None:
    """Whoever leaves during a delivery gets none, and nobody after it is forgotten."""
    first, second, third = Caller("a"), Caller("a"), Caller("b")

    def deliver(delivery: Delivery[str]) -> None:
        first.deliveries.append(delivery)
        second.leave()

    first.ticket = room.batcher.join("a", Lane.CANCEL, deliver, 0.0)
    second.ticket = room.batcher.join("a", Lane.CANCEL, second.deliveries.append, 0.0)
    third.ticket = room.batcher.join("b", Lane.CANCEL, third.deliveries.append, 0.0)
    await turns()
    room.admissions[0].passed.set_exception(UsageError("another event loop"))
    await turns()
    assert not first.waits
    assert (second.left, second.deliveries) == (Wire.NOT_SENT, [])
    assert isinstance(third.failure, UsageError)


# -- dividing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 8, 50, 500])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
async def test_one_bad_key_is_isolated_among_many(size: int, place: str) -> None:
    """A bad key costs O(log n) requests and harms no other; each other key is processed exactly once."""
    room = Room(asyncio.get_running_loop(), maximum=size)
    room.admits_at_once = room.answers_at_once = True
    keys = list(map(str, range(size)))
    bad = {"first": keys[0], "middle": keys[size // 2], "last": keys[-1]}[place]
    room.bad = {bad}
    callers = {caller.key: caller for caller in room.want(*keys)}
    while room.tasks:
        await turns()
    assert isinstance(callers.pop(bad).failure, UsageError)
    assert all(caller.value == f"{key}!" for key, caller in callers.items())
    assert len(room.requests) <= 1 + 2 * math.ceil(math.log2(size))
    processed = [
        key for request in room.requests if bad not in request.keys for key in request.keys
    ]
    assert sorted(processed) == sorted(callers)
    room.assert_idle()


async def test_halves_go_before_those_who_wait_and_in_the_cancel_lane(room: Room) -> None:
    """What was divided does not queue again behind newcomers, even where it was only read."""
    room.want("a", "b", "c", lane=Lane.READ)
    await turns()
    request = await room.sent(departed=True)
    room.want("z")
    request.reply.set_exception(Divide())
    await turns()
    assert {admission.lane for admission in room.admissions} == {Lane.CANCEL}
    assert room.batcher.waiting == 4
    room.answers_at_once = True
    while room.admissions:
        room.grant()
        await turns()
    assert [request.keys for request in room.requests[1:]] == [["a"], ["b", "c"], ["z"]]


async def test_a_delivery_counts_the_divided_requests_before_it(room: Room) -> None:
    """``divided`` says how often the key went before; the requests together were answered even if the last was not."""
    callers = room.want("a", "b", "c")
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_exception(Divide())
    await turns()
    single = await room.sent()
    assert single.keys == ["a"]
    single.connected.set_exception(UsageError("never left"))
    await turns()
    assert callers[0].delivery.divided == 1
    assert single.exchange.reached is Wire.NOT_SENT
    assert callers[0].delivery.reached is Wire.ANSWERED
    pair = await room.sent(departed=True)
    pair.reply.set_exception(Divide())
    await turns()
    for key in "bc":
        last = await room.sent(departed=True)
        last.reply.set_exception(LOST)
        await turns()
        assert last.keys == [key]
    assert [caller.delivery.divided for caller in callers] == [1, 2, 2]
    assert [caller.delivery.reached for caller in callers[1:]] == [Wire.MAYBE_SENT] * 2


async def test_leaving_a_divided_request_is_answered(room: Room) -> None:
    """The key went and was refused unprocessed: it is not NOT_SENT, and it does not go again."""
    first, second, third = room.want("a", "b", "c")
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_exception(Divide())
    await turns()
    assert first.ticket.taken
    assert first.leave() is Wire.ANSWERED
    assert second.leave() is Wire.ANSWERED
    assert room.batcher.waiting == 1
    again = await room.sent()
    assert again.keys == ["c"]
    assert third.leave() is Wire.ANSWERED
    await turns()
    assert not again.departed


async def test_halves_that_nobody_wants_are_forgotten(room: Room) -> None:
    """When the last one leaves a divided request, no permit is asked for any more."""
    callers = room.want("a", "b")
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_exception(Divide())
    await turns()
    assert {caller.leave() for caller in callers} == {Wire.ANSWERED}
    await turns()
    assert not room.admissions
    assert not room.tasks


async def test_a_request_divided_after_everybody_left_is_not_repeated(room: Room) -> None:
    """Only keys that somebody wants go into the halves."""
    first, second, third = room.want("a", "b", "c")
    await turns()
    request = await room.sent(departed=True)
    first.leave()
    third.leave()
    request.reply.set_exception(Divide())
    await turns()
    again = await room.sent(departed=True)
    assert again.keys == ["b"]
    again.reply.set_result(echo("b"))
    await turns()
    assert second.value == "b!"
    callers = room.want("d", "e")
    await turns()
    request = await room.sent(departed=True)
    for caller in callers:
        caller.leave()
    request.reply.set_exception(Divide())
    await turns()
    assert not room.admissions


async def test_a_newcomer_shares_a_divided_key_but_not_its_past(room: Room) -> None:
    """Who joins a key that waits in a half was not part of the request before: nothing of its own has left."""
    early, _ = room.want("a", "b")
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_exception(Divide())
    await turns()
    late, gone = room.want("a", "a")
    assert room.batcher.waiting == 2
    other, new = room.want("b", "z")
    assert room.batcher.waiting == 3
    assert early.ticket.taken
    assert not late.ticket.taken
    assert gone.leave() is Wire.NOT_SENT
    room.answers_at_once = True
    while room.admissions:
        room.grant()
        await turns()
    assert (early.value, late.value) == ("a!", "a!")
    assert (other.value, new.value) == ("b!", "z!")
    assert (early.delivery.divided, late.delivery.divided) == (1, 0)


async def test_one_key_alone_is_not_divided_for_ever(room: Room) -> None:
    """A sender that calls one key divisible gets a failure delivered and no endless repeats."""
    (caller,) = room.want("a")
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_exception(Divide())
    await turns()
    assert isinstance(caller.failure, RequestFailed)
    assert caller.failure.wire is Wire.ANSWERED
    assert not room.admissions


# -- failures --------------------------------------------------------------------------------------


async def test_a_failed_request_fails_all_its_keys_and_no_others(room: Room) -> None:
    """A `GatewayError` of the sender is delivered to everybody who shared the request."""
    callers = room.want("a", "b", "b")
    await turns()
    request = await room.sent(departed=True)
    (other,) = room.want("z")
    request.reply.set_exception(LOST)
    await turns()
    assert [caller.failure for caller in callers] == [LOST] * 3
    assert {caller.delivery.reached for caller in callers} == {Wire.MAYBE_SENT}
    assert other.waits
    other.leave()


@pytest.mark.parametrize(("departed", "wire"), [(False, Wire.NOT_SENT), (True, Wire.MAYBE_SENT)])
async def test_a_sender_that_crashes_leaves_nobody_waiting(
    room: Room, departed: bool, wire: Wire
) -> None:
    """An unexpected exception is delivered as a failed request that says how far it got, and is reported."""
    (caller,) = room.want("a")
    await turns()
    request = await room.sent(departed=departed)
    bug = ZeroDivisionError("a bug")
    (request.reply if departed else request.connected).set_exception(bug)
    await turns()
    assert isinstance(caller.failure, RequestFailed)
    assert (caller.failure.reason, caller.failure.wire) == ("ended early", wire)
    assert room.crashes == [bug]
    room.crashes.clear()


@pytest.mark.parametrize("departed", [False, True])
async def test_a_sender_that_is_canceled_leaves_nobody_waiting(room: Room, departed: bool) -> None:
    """A task that is canceled from outside delivers what is known of its request, and stays canceled."""
    (caller,) = room.want("a")
    await turns()
    request = await room.sent(departed=departed)
    (task,) = room.tasks
    task.cancel()
    await turns()
    assert task.cancelled()
    assert isinstance(caller.failure, RequestFailed)
    assert caller.failure.wire is (Wire.MAYBE_SENT if departed else Wire.NOT_SENT)
    assert request.departed == departed


async def test_a_limiter_that_refuses_fails_whoever_waits(room: Room) -> None:
    """A `GatewayError` instead of a permit is delivered to all lanes at once, and later callers ask anew."""
    callers = [*room.want("a", "a", "b"), *room.want("c", lane=Lane.READ)]
    await turns()
    refusal = UsageError("the limiter serves another event loop")
    room.admissions[0].passed.set_exception(refusal)
    await turns()
    assert [caller.failure for caller in callers] == [refusal] * 4
    assert {caller.delivery.reached for caller in callers} == {Wire.NOT_SENT}
    assert not room.requests
    assert not room.admissions
    (late,) = room.want("a")
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_result(echo("a"))
    await turns()
    assert late.value == "a!"


async def test_a_limiter_that_crashes_leaves_nobody_waiting(room: Room) -> None:
    """An unexpected exception instead of a permit is delivered as a failure, and later callers ask anew."""
    callers = room.want("a", "b")
    await turns()
    bug = ZeroDivisionError("a bug")
    room.admissions[0].passed.set_exception(bug)
    await turns()
    for caller in callers:
        assert isinstance(caller.failure, RequestFailed)
        assert caller.failure.wire is Wire.NOT_SENT
    assert room.crashes == [bug]
    room.crashes.clear()
    room.want("a")
    await turns()
    assert len(room.admissions) == 1
    room.batcher.close()


async def test_a_limiter_that_refuses_nobody_harms_nobody(room: Room) -> None:
    """A refusal that comes after its callers were taken along by another permit is delivered to nobody."""
    (caller,) = room.want("a", lane=Lane.READ)
    await turns()
    room.want("a", lane=Lane.CANCEL)
    await turns()
    room.grant(Lane.CANCEL)
    await turns()
    (request,) = room.requests
    room.admissions[0].passed.set_exception(UsageError("too late"))
    await turns()
    assert caller.waits
    request.connected.set_result(None)
    request.reply.set_result(echo("a"))
    await turns()
    assert caller.value == "a!"


async def test_every_request_has_one_end(room: Room) -> None:
    """Whatever ends a request, its record is ended exactly once, even by a sender that forgets to."""

    async def forgetful(keys: Sequence[str], exchange: Exchange) -> Mapping[str, str]:
        exchange.depart()
        return echo(keys)

    room.batcher._send = forgetful
    room.admits_at_once = True
    (caller,) = room.want("a")
    await turns()
    assert caller.value == "a!"
    assert room.exchanges[0].ended_at is not None


# -- closing ---------------------------------------------------------------------------------------


def assert_cut_off(caller: Caller, wire: Wire) -> None:
    """Fail unless a caller was told of the closing, with what is known of its request."""
    assert isinstance(caller.failure, RequestFailed)
    assert (caller.failure.reason, caller.delivery.reached) == ("gateway closed", wire)


async def test_closing_an_idle_room_does_nothing(room: Room) -> None:
    """Closing is idempotent and makes no request."""
    room.batcher.close()
    room.batcher.close()
    assert not room.exchanges


@pytest.mark.parametrize("lane", Lane)
async def test_whoever_comes_after_the_closing_is_told_at_once(room: Room, lane: Lane) -> None:
    """Nothing waits and nothing is sent any more: a newcomer's failure is delivered while it joins."""
    room.admits_at_once = room.answers_at_once = True
    room.batcher.close()
    (caller,) = room.want("a", lane=lane)
    assert_cut_off(caller, Wire.NOT_SENT)
    assert caller.delivery.divided == 0
    assert not caller.ticket.taken
    assert not caller.ticket.under_way
    assert not caller.ticket.has_company
    assert caller.ticket.divided == 0
    assert caller.ticket.joined_at <= room.loop.time()
    assert not room.tasks
    assert (room.batcher.waiting, room.batcher.under_way) == (0, 0)
    await turns()
    assert not room.requests
    (exchange,) = room.exchanges
    assert caller.delivery.exchange is exchange
    assert (exchange.orders, exchange.departed_at) == (1, None)


async def test_whoever_comes_back_during_the_closing_is_told_at_once(room: Room) -> None:
    """A delivery of the closing that makes its caller join again does not keep the room open."""
    again = Caller("a")

    def deliver(delivery: Delivery[str]) -> None:
        again.ticket = room.batcher.join("a", Lane.CANCEL, again.deliveries.append, 0.0)

    room.batcher.join("a", Lane.CANCEL, deliver, 0.0)
    room.batcher.close()
    assert_cut_off(again, Wire.NOT_SENT)


@pytest.mark.parametrize("settled", [False, True])
async def test_closing_fails_those_who_wait_at_once(room: Room, settled: bool) -> None:
    """Whoever waits for a permit is told in the same tick, even if the wait never began."""
    callers = [*room.want("a", "a"), *room.want("b", lane=Lane.CREATE)]
    if settled:
        await turns()
    room.batcher.close()
    for caller in callers:
        assert_cut_off(caller, Wire.NOT_SENT)
    await turns()
    assert not room.requests


async def test_closing_before_the_task_ran_lets_nothing_depart(narrow_room: Room) -> None:
    """A request that was taken and not begun is told of the closing, and does not depart when it begins."""
    room = narrow_room
    caller, other = room.want("a", "b")
    await turns()
    room.grant()
    await turns(1)
    assert caller.ticket.taken
    assert not other.ticket.taken
    assert not room.requests
    room.answers_at_once = True
    room.batcher.close()
    assert_cut_off(caller, Wire.NOT_SENT)
    assert_cut_off(other, Wire.NOT_SENT)
    await turns()
    (request,) = room.requests
    assert request.keys == ["a"]
    assert not request.departed


async def test_a_task_that_is_canceled_before_it_ran_after_closing_changes_nothing(
    narrow_room: Room,
) -> None:
    """The closing gateway cancels its tasks: one that never started has delivered all the same."""
    room = narrow_room
    caller, other = room.want("a", "b")
    await turns()
    room.grant()
    await turns(1)
    assert caller.ticket.taken
    assert not other.ticket.taken
    room.batcher.close()
    for task in room.tasks:
        task.cancel()
    await turns()
    assert_cut_off(caller, Wire.NOT_SENT)
    assert_cut_off(other, Wire.NOT_SENT)
    assert not room.requests


async def test_a_carrier_that_is_canceled_after_closing_changes_nothing(room: Room) -> None:
    """The closing gateway cancels its tasks: who carries the last batch has delivered all the same."""
    (caller,) = room.want("a")
    await turns()
    request = await room.sent()
    (task,) = room.tasks
    room.batcher.close()
    task.cancel()
    await turns()
    assert_cut_off(caller, Wire.NOT_SENT)
    assert task.cancelled()
    assert not request.departed


async def test_closing_before_the_connection_stands_lets_nothing_depart(room: Room) -> None:
    """A request that waits for its connection is revoked: NOT_SENT is proved."""
    (caller,) = room.want("a")
    await turns()
    request = await room.sent()
    room.batcher.close()
    assert_cut_off(caller, Wire.NOT_SENT)
    request.connected.set_result(None)
    await turns()
    assert not request.departed
    assert not any(isinstance(event, Sent) for event in room.events)


@pytest.mark.parametrize("end", ["reply", "failure", "divide", "crash"])
async def test_closing_after_the_departure_is_maybe_sent(room: Room, end: str) -> None:
    """What departed may have arrived; whatever its sender brings afterwards is delivered to nobody."""
    callers = room.want("a", "b")
    await turns()
    request = await room.sent(departed=True)
    room.batcher.close()
    for caller in callers:
        assert_cut_off(caller, Wire.MAYBE_SENT)
    if end == "reply":
        request.reply.set_result(echo("ab"))
    elif end == "crash":
        request.reply.cancel()
    else:
        request.reply.set_exception(LOST if end == "failure" else Divide())
    await turns()
    assert all(len(caller.deliveries) == 1 for caller in callers)
    assert len(room.requests) == 1


async def test_closing_tells_what_was_divided(room: Room) -> None:
    """Keys that wait in a half were answered before, and do not go again."""
    callers = room.want("a", "b")
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_exception(Divide())
    await turns()
    room.batcher.close()
    for caller in callers:
        assert_cut_off(caller, Wire.ANSWERED)
        assert caller.delivery.divided == 1


# -- whatever happens ------------------------------------------------------------------------------

KEYS = st.sampled_from("abcde")
ANY = st.integers(0, 1000)
FOREIGN = "what the vendor said of a key that it was not asked for"
TICKS = st.integers(0, 3)
FAILURES = st.sampled_from(
    [LOST, ZeroDivisionError(), asyncio.CancelledError()],
)


def action(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Return the strategy of something that may happen to a `Crowd`: the name of the method, and its arguments."""
    return st.tuples(st.just(name), *arguments)


JOIN = action(
    "join",
    st.lists(KEYS, min_size=1, max_size=6),
    st.sampled_from(Lane),
    st.sampled_from([None, None, None, "leave", "come back"]),
)
ACTIONS = st.one_of(
    JOIN,
    action("leave", ANY, st.booleans()),
    action("tick", st.integers(1, 4)),
    action("grant", ANY),
    action("connect", ANY),
    action("serve", ANY, st.integers(1, 3), st.booleans()),
    action("serve", ANY, st.integers(1, 3), st.just(True)),
    action("serve", ANY, st.just(1), st.just(False)),
    action("reply", ANY, st.sets(KEYS), st.sets(KEYS)),
    action("refuse", ANY, st.booleans()),
    action("connection_fails", ANY, FAILURES),
    action("reply_is_lost", ANY, FAILURES),
    action("divide", ANY),
    action("late_reply", ANY),
    action("rename", ANY),
)


def said(key: str, exchange: Exchange) -> str:
    """Return what the vendor answers for a key of a request: another thing for each."""
    return f"{key} by {exchange.number}"


def carrier(caller: Caller) -> Exchange | None:
    """Return the request under way that a caller's key is with."""
    batch = caller.ticket._slot.batch
    return None if batch is None else batch.exchange


class Crowd(RuleBasedStateMachine):
    """Callers that come and go at random while permits, connections, replies, failures and closings happen."""

    join_departed = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.callers: list[Caller] = []
        self.carried: defaultdict[Exchange, set[Caller]] = defaultdict(set)
        """Callers whose keys each request carries."""
        self.taken: dict[Exchange, set[Caller]] = {}
        """Callers that waited at the moment in which each request took its keys."""
        self.never: list[tuple[Exchange, str]] = []
        self.detached: set[tuple[Exchange, str]] = set()
        """Keys that no newcomer may share with the request that carries them."""
        self.judgments: list[AssertionError] = []
        self.closed = False
        self.steps = 0

    @initialize(
        maximum=st.integers(1, 5), first=JOIN, lifetime=st.integers(10, 150), rudely=st.booleans()
    )
    def open(self, maximum: int, first: tuple[Any, ...], lifetime: int, rudely: bool) -> None:
        """Open the room, for batches of some size and for so many actions, and let the first callers in."""
        self.lifetime, self.rudely = lifetime, rudely
        self.room = Room(self.loop, maximum=maximum, join_departed=self.join_departed)
        self.room.batcher._admit = self.admit
        self.room.batcher._send = self.send
        self.join(*first[1:])

    # what happens inside, observed

    async def admit(self, exchange: Exchange, lane: Lane) -> None:
        await self.room.admit(exchange, lane)
        # The keys are taken in this very step.
        self.taken[exchange] = {caller for caller in self.waiting() if carrier(caller) is None}

    async def send(self, keys: Sequence[str], exchange: Exchange) -> Mapping[str, str]:
        wanted = {caller.key for caller in self.taken[exchange]}
        assert wanted.issuperset(keys), "only what somebody wanted when it was taken is sent"
        assert len(keys) == len(set(keys)) <= self.room.maximum
        self.carried[exchange] |= {
            caller for caller in self.taken[exchange] if carrier(caller) is exchange
        }
        try:
            return await self.room.send(keys, exchange)
        finally:
            if exchange.departed_at is not None:
                wanted = {
                    caller.key
                    for caller in self.carried[exchange]
                    if caller.left in (None, Wire.MAYBE_SENT)
                }
                assert wanted, "nothing leaves for those who were told that it never will"

    def waiting(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.waits]

    def tick(self, ticks: int = 1) -> None:
        for _ in range(ticks):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    # what may happen

    @rule(actions=st.lists(st.tuples(ACTIONS, TICKS), min_size=1, max_size=6))
    def several(self, actions: list[tuple[tuple[Any, ...], int]]) -> None:
        """Do several things, with so many turns of the loop after each."""
        for (name, *arguments), ticks in actions:
            self.lifetime -= 1
            if self.lifetime == 0:
                self.close()
            getattr(self, name)(*arguments)
            self.tick(ticks)

    def join(self, keys: list[str], lane: Lane, then: str | None) -> None:
        """Some want keys, and may do something in the step in which they are told."""
        for key in keys:
            self._join(key, lane, then)

    def _join(self, key: str, lane: Lane, then: str | None = None) -> None:
        caller = Caller(key)

        def deliver(delivery: Delivery[str]) -> None:
            caller.deliveries.append(delivery)
            try:
                if then == "leave" and (waiting := self.waiting()):
                    self._leave(waiting[-1])
                if then == "come back":
                    self._join(key, lane)
            except AssertionError as error:  # a judgment, and not to be lost in the batcher
                self.judgments.append(error)

        caller.ticket = self.room.batcher.join(key, lane, deliver, self.room.loop.time())
        assert not (self.closed and caller.waits), "a newcomer is told at once, too"
        if (shared := carrier(caller)) is not None:
            assert self.join_departed
            assert (shared, key) not in self.detached
            assert any(other.key == key and carrier(other) is shared for other in self.waiting())
            self.carried[shared].add(caller)
        self.callers.append(caller)

    def leave(self, which: int, boarded: bool) -> None:
        """A caller is canceled, wherever it waits, or just before its request leaves."""
        exchanges = [(caller, carrier(caller)) for caller in self.waiting()]
        leaving = [c for c, its in exchanges if its is not None and its.departed_at is None]
        if waiting := (leaving if boarded and leaving else self.waiting()):
            self._leave(waiting[which % len(waiting)])

    def _leave(self, caller: Caller) -> None:
        carrying = [exchange for exchange, carried in self.carried.items() if caller in carried]
        reached = caller.leave()
        if any(exchange.reached is Wire.MAYBE_SENT for exchange in carrying):
            assert reached is Wire.MAYBE_SENT
        elif reached is not Wire.MAYBE_SENT:
            answered = any(exchange.was_answered for exchange in carrying)
            assert reached is (Wire.ANSWERED if answered else Wire.NOT_SENT)
        if reached is not Wire.MAYBE_SENT and not any(
            other.key == caller.key for other in self.waiting()
        ):
            for exchange in carrying:
                if exchange.departed_at is None:
                    self.never.append((exchange, caller.key))

    def pending(self, which: int) -> Admission | None:
        pending = [admission for admission in self.room.admissions if live(admission.passed)]
        return pending[which % len(pending)] if pending else None

    def grant(self, which: int) -> None:
        """A request gets its permit."""
        if (admission := self.pending(which)) is not None:
            admission.passed.set_result(None)

    def serve(self, which: int, times: int, replies: bool) -> None:
        """Requests get their permits, leave, and may be answered."""
        for _ in range(times):
            self.grant(which)
            self.tick(3)
            self.connect(which)
            self.tick(3)
            if replies:
                self.reply(which, silent=set(), foreign=set())
                self.tick(3)

    def refuse(self, which: int, crash: bool) -> None:
        """A request gets no permit, or the limiter crashes."""
        if (admission := self.pending(which)) is not None:
            error: Exception = ZeroDivisionError() if crash else UsageError("no permit")
            admission.passed.set_exception(error)

    def request(self, which: int, *, connected: bool) -> Request | None:
        found = [
            request
            for request in self.room.under_way
            if live(request.reply if connected else request.connected)
            and (request.departed or not connected)
        ]
        return found[which % len(found)] if found else None

    def connect(self, which: int) -> None:
        """A request leaves."""
        if (request := self.request(which, connected=False)) is not None:
            request.connected.set_result(None)

    def connection_fails(self, which: int, error: BaseException) -> None:
        """A request finds no connection."""
        if (request := self.request(which, connected=False)) is not None:
            self.fail(request.connected, error)

    def reply(self, which: int, silent: set[str], foreign: set[str]) -> None:
        """A reply comes; it may miss keys, and name others that the request did not carry."""
        if (request := self.request(which, connected=True)) is not None:
            told = dict.fromkeys(sorted(foreign), FOREIGN)
            for key in request.keys:
                told[key] = said(key, request.exchange)
                if key in silent:
                    del told[key]
            request.reply.set_result(told)

    def reply_is_lost(self, which: int, error: BaseException) -> None:
        """A batch fails as a whole."""
        if (request := self.request(which, connected=True)) is not None:
            self.fail(request.reply, error)

    def divide(self, which: int) -> None:
        """The vendor refuses a batch as a whole, one that is under way or the next."""
        if self.request(which, connected=True) is None:
            self.serve(which, times=1, replies=False)
        if (request := self.request(which, connected=True)) is not None:
            request.reply.set_exception(Divide())

    def late_reply(self, which: int) -> None:
        """An earlier request is answered late: who waits for another one for the key need not wait any more."""
        departed = [exchange for exchange in self.carried if exchange.departed_at is not None]
        queue = [caller for caller in self.waiting() if carrier(caller) is None]
        if not (departed and queue):
            return
        late, key = departed[which % len(departed)], queue[which % len(queue)].key
        waits = {caller: caller.ticket._slot for caller in queue if caller.key == key}
        self.room.batcher.call_off(key, late, said(key, late))
        for caller, slot in waits.items():
            told = [(d.late, d.exchange, d.value) for d in caller.deliveries]
            if slot.divided:
                assert caller.waits or caller.left, "what was divided goes nevertheless"
            else:
                assert told == [(True, late, said(key, late))] or caller.left

    def rename(self, which: int) -> None:
        """A key that is under way names something else from now on, and somebody wants that."""
        carried = [caller for caller in self.waiting() if carrier(caller) is not None]
        if carried:
            key = carried[which % len(carried)].key
            self.room.batcher.detach(key)
            carrying = {carrier(caller) for caller in carried if caller.key == key}
            self.detached |= {(exchange, key) for exchange in carrying if exchange is not None}
            self._join(key, Lane.CANCEL)

    def close(self) -> None:
        """The gateway closes in the middle of it all."""
        departing = [exchange for exchange in self.room.exchanges if exchange.departed_at is None]
        self.room.batcher.close()
        self.closed = True
        assert not self.waiting(), "everybody is told at once"
        self.never += [(exchange, "") for exchange in departing]
        for task in list(self.room.tasks) if self.rudely else []:
            task.cancel()

    @staticmethod
    def fail(future: asyncio.Future[Any], error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(error)

    # what always holds

    @invariant()
    def is_counted(self) -> None:
        self.steps += 1

    @invariant()
    def nobody_is_told_twice(self) -> None:
        for caller in self.callers:
            assert len(caller.deliveries) + (caller.left is not None) <= 1

    @invariant()
    def what_is_delivered_was_asked_for(self) -> None:
        for caller in self.callers:
            for delivery in caller.deliveries:
                if delivery.exchange.departed_at is not None and not delivery.late:
                    assert caller in self.carried[delivery.exchange]
                answered = delivery.late or delivery.exchange.was_answered
                assert answered or delivery.failure is not None, "silence is an answer as well"
                if delivery.value is not None:
                    assert delivery.value == said(caller.key, delivery.exchange)
                    assert delivery.late or delivery.reached is Wire.ANSWERED

    @invariant()
    def not_sent_stays_not_sent(self) -> None:
        for exchange, _ in self.never:
            assert exchange.departed_at is None

    @invariant()
    def equal_keys_share_one_slot(self) -> None:
        slots = {
            caller.ticket._slot
            for caller in self.waiting()
            if (carrier(caller), caller.key) not in self.detached
        }
        if not self.join_departed or self.detached:
            # A read under way, or divided, is not shared with newcomers; nor is what was renamed.
            slots = {slot for slot in slots if slot.batch is None and not slot.divided}
        assert len(slots) == len({slot.key for slot in slots})

    @invariant()
    def keys_are_counted_once(self) -> None:
        slots = {caller.ticket._slot for caller in self.waiting()}
        carried = {slot.key for slot in slots if slot.batch is not None}
        if slots:
            assert self.room.batcher.waiting == sum(slot.batch is None for slot in slots)
            assert self.room.batcher.under_way >= len(carried)

    @invariant()
    def only_the_scripted_bugs_crash(self) -> None:
        for judgment in self.judgments:
            raise judgment
        if self.callers:
            assert {type(crash) for crash in self.room.crashes} <= {ZeroDivisionError}

    def teardown(self) -> None:
        try:
            if self.callers:
                self._let_everything_end()
                self._judge_the_end()
        finally:
            for task in list(self.room.tasks) if self.callers else []:
                task.cancel()
            self.tick(5)
            self.loop.close()

    def _let_everything_end(self) -> None:
        for _ in range(200):
            while (admission := self.pending(0)) is not None:
                admission.passed.set_result(None)
            while (request := self.request(0, connected=False)) is not None:
                request.connected.set_result(None)
            while (request := self.request(0, connected=True)) is not None:
                exchange = request.exchange
                request.reply.set_result({key: said(key, exchange) for key in request.keys})
            if not self.room.tasks:
                break
            self.tick()

    def _judge_the_end(self) -> None:
        assert not self.waiting(), "nobody waits for ever"
        self.nobody_is_told_twice()
        self.what_is_delivered_was_asked_for()
        self.not_sent_stays_not_sent()
        self.only_the_scripted_bugs_crash()
        self.room.assert_idle()
        assert not self.room.batcher._under_way
        for caller in self.callers:
            tally.count("state machine, coalescing", self._end_of(caller))
        tally.count("state machines, examples", "coalescing")
        tally.count("state machines, steps", "coalescing", self.steps)

    @staticmethod
    def _end_of(caller: Caller) -> str:
        if caller.left is not None:
            return f"left, {caller.left.value.replace('_', ' ')}"
        if caller.delivery.failure is not None:
            return "failed"
        if caller.delivery.late:
            return "answered late"
        return "silence" if caller.delivery.value is None else "answered"


class Readers(Crowd):
    """The same crowd where a newcomer never shares what is under way."""

    join_departed = False


@pytest.mark.proof
@pytest.mark.parametrize("crowd", [Crowd, Readers])
def test_everybody_is_served_exactly_once_or_gone(crowd: type[Crowd]) -> None:
    """Whatever happens, every ticket is delivered to once or left, and nothing leaves that nobody wants."""
    run_state_machine_as_test(
        crowd,
        settings=settings(
            max_examples=either(60, 600), stateful_step_count=either(15, 25), print_blob=True
        ),
    )


# -- waiting for one delivery --------------------------------------------------------------------------


def delivered(value: str) -> Delivery[str]:
    """Return a delivery with a value."""
    exchange = Exchange(1, "venue", "cancel", 1, 0.0, lambda: 0.0, None)
    return Delivery(exchange, value, None, 0)


async def test_a_mailbox_waits_for_its_delivery() -> None:
    """Who waits gets what was delivered, before the wait or during it."""
    mailbox: Mailbox[str] = Mailbox(asyncio.get_running_loop())
    waiter = asyncio.create_task(mailbox.wait())
    await turns()
    assert not waiter.done()
    assert mailbox.delivery is None
    mailbox(delivered("now"))
    assert (await waiter).value == "now"
    assert (await mailbox.wait()).value == "now"


async def test_a_mailbox_keeps_what_comes_in_the_tick_of_a_cancellation() -> None:
    """The vendor's answer is not lost because its waiter was canceled with it, in whichever order."""
    for delivery_first in (True, False):
        mailbox: Mailbox[str] = Mailbox(asyncio.get_running_loop())
        waiter = asyncio.create_task(mailbox.wait())
        await turns()
        actions = [lambda box=mailbox: box(delivered("kept")), waiter.cancel]
        for act in actions if delivery_first else reversed(actions):
            act()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert mailbox.delivery is not None
        assert mailbox.delivery.value == "kept"


# -- what is known in the meantime ---------------------------------------------------------------------


async def test_a_waiting_key_is_called_off_when_its_answer_is_known(room: Room) -> None:
    """Whoever waits for the key gets the late answer, with the request that brought it; others go on waiting."""
    first, second, other = room.want("a", "a", "b")
    await turns()
    earlier = room.open_exchange(1)
    room.batcher.call_off("a", earlier, "known")
    for caller in (first, second):
        assert (caller.value, caller.delivery.exchange, caller.delivery.late) == (
            *("known", earlier),
            True,
        )
    assert other.waits
    request = await room.sent(departed=True)
    assert request.keys == ["b"]
    request.reply.set_result(echo(["b"]))
    await turns()
    assert (other.value, other.delivery.late) == ("b!", False)
    earlier.lost("it is the test's")


async def test_calling_off_the_last_key_asks_for_no_permit(room: Room) -> None:
    """When nobody waits any more, the request that waited for its permit is withdrawn."""
    (caller,) = room.want("a")
    await turns()
    assert len(room.admissions) == 1
    earlier = room.open_exchange(1)
    room.batcher.call_off("a", earlier, "known")
    await turns()
    assert caller.value == "known"
    assert (room.admissions, room.requests) == ([], [])
    earlier.lost("it is the test's")


async def test_only_what_waits_can_be_called_off(room: Room) -> None:
    """A key that nobody wants, or that is under way, is left alone: its own request answers."""
    (caller,) = room.want("a")
    await turns()
    request = await room.sent(departed=True)
    earlier = room.open_exchange(1)
    room.batcher.call_off("a", earlier, "known")
    room.batcher.call_off("nobody's", earlier, "known")
    assert caller.waits
    request.reply.set_result(echo(["a"]))
    await turns()
    assert (caller.value, caller.delivery.late) == ("a!", False)
    earlier.lost("it is the test's")


async def test_nobody_shares_the_request_of_a_detached_key(room: Room) -> None:
    """When a key begins to name something else, a newcomer gets a request of its own; who was there keeps the old."""
    (early,) = room.want("a")
    await turns()
    first = await room.sent(departed=True)
    room.batcher.detach("a")
    room.batcher.detach("nobody's")
    (late,) = room.want("a")
    assert not late.ticket.under_way
    await turns()
    second = await room.sent(departed=True)
    first.reply.set_result({"a": "old"})
    second.reply.set_result({"a": "new"})
    await turns()
    assert (early.value, late.value) == ("old", "new")


# -- requests without a task -----------------------------------------------------------------------


class PostRoom(Room):
    """A room for batches of one, which are posted as long as permits are there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, maximum=1)
        self.permits = 100
        self.posted: list[Batch[str, str]] = []
        self.withdrawn: list[str] = []
        self.batcher = Batcher(
            maximum=1,
            open_exchange=self.open_exchange,
            admit=self.admit,
            send=self.send,
            spawn=self.spawn,
            join_departed=True,
            admit_at_once=self.admit_at_once,
            post=self.post,
        )

    def admit_at_once(self, lane: Lane, now: float) -> Exchange | None:
        if self.permits == 0:
            return None
        self.permits -= 1
        exchange = self.open_exchange(1)
        exchange.lane = lane
        return exchange

    def post(self, key: str, batch: Batch[str, str]) -> None:
        batch.withdraw = lambda: self.withdrawn.append(key)
        self.posted.append(batch)


@pytest.fixture
async def post_room() -> AsyncIterator[PostRoom]:
    """Yield a room whose requests need no task; it must be left empty."""
    room = PostRoom(asyncio.get_running_loop())
    yield room
    await turns()
    room.assert_idle()
    assert room.crashes == []


async def test_a_posted_request_needs_no_task(post_room: PostRoom) -> None:
    """It is sent in the step in which it is wanted, and delivered in the step in which its end is told."""
    first, second = post_room.want("a", "b")
    assert not post_room.tasks
    one, other = post_room.posted
    one.exchange.depart()
    other.exchange.depart()
    one.exchange.answered(200)
    one.succeed("a!")
    assert first.value == "a!"
    assert (first.delivery.late, first.delivery.divided) == (False, 0)
    other.exchange.lost("connection reset")
    other.fail(LOST)
    assert second.failure is LOST
    one.succeed("again")
    other.break_off()
    assert len(first.deliveries) == len(second.deliveries) == 1
    assert [event.orders for event in post_room.events if isinstance(event, Queued)] == [1, 1]


async def test_a_fault_in_a_posted_request_is_its_failure(post_room: PostRoom) -> None:
    """It may have arrived, and nobody waits for ever."""
    (caller,) = post_room.want("a")
    post_room.posted[0].exchange.depart()
    post_room.posted[0].break_off()
    assert isinstance(caller.failure, RequestFailed)
    assert caller.failure.wire is Wire.MAYBE_SENT


async def test_who_shares_a_posted_request(post_room: PostRoom) -> None:
    """Whoever wants the same key, as long as somebody waits for it; the last one who goes withdraws it."""
    first, second = post_room.want("a", "a")
    assert len(post_room.posted) == 1
    assert first.leave() is Wire.MAYBE_SENT
    assert post_room.withdrawn == []
    assert second.leave() is Wire.NOT_SENT
    assert post_room.withdrawn == ["a"]
    with pytest.raises(Revoked):
        post_room.posted[0].exchange.depart()
    (third,) = post_room.want("a")
    post_room.posted[1].exchange.depart()
    assert third.leave() is Wire.MAYBE_SENT
    post_room.posted[1].exchange.answered(200)
    post_room.posted[1].succeed("a!")
    assert post_room.withdrawn == ["a"]


async def test_what_has_to_wait_is_not_posted_and_not_overtaken(post_room: PostRoom) -> None:
    """Without a permit there is a queue, and while there is one, nobody passes it by."""
    post_room.permits = 0
    (waits,) = post_room.want("a")
    post_room.permits = 5
    (behind,) = post_room.want("b")
    await turns()
    assert post_room.posted == []
    for caller in (waits, behind):
        request = await post_room.sent(departed=True)
        request.reply.set_result(echo(request.keys))
        await turns()
        assert caller.value == f"{caller.key}!"
    (after,) = post_room.want("c")
    post_room.posted[0].succeed("c!")
    assert after.value == "c!"


async def test_a_closing_room_ends_posted_requests(post_room: PostRoom) -> None:
    """What has not departed never will."""
    left, gone = post_room.want("a", "b")
    post_room.posted[0].exchange.depart()
    post_room.batcher.close()
    assert isinstance(left.failure, RequestFailed)
    assert left.failure.wire is Wire.MAYBE_SENT
    assert isinstance(gone.failure, RequestFailed)
    assert gone.failure.wire is Wire.NOT_SENT
    with pytest.raises(Revoked):
        post_room.posted[1].exchange.depart()


async def test_a_mailbox_may_wait_no_longer() -> None:
    """Expired, it has no delivery; one that comes first counts, and expiring twice changes nothing."""
    mailbox: Mailbox[str] = Mailbox(asyncio.get_running_loop())
    mailbox.expire()
    mailbox.expire()
    assert mailbox.future.done()
    assert mailbox.delivery is None


async def test_a_fault_in_one_delivery_keeps_nobody_waiting(
    room: Room, loop_errors: list[str]
) -> None:
    """The others of its key and of its batch are delivered to, and the fault is reported."""

    def fails(_: Delivery[str]) -> None:
        raise LookupError("a bug")

    room.batcher.join("a", Lane.CANCEL, fails, 0.0)
    callers = room.want("a", "b")
    await turns()
    request = await room.sent(departed=True)
    request.reply.set_result(echo("ab"))
    await turns()
    assert [caller.value for caller in callers] == ["a!", "b!"]
    reported = loop_errors.pop()
    assert "a bug" in reported


async def test_a_ticket_is_open_until_it_is_delivered_to_or_left(post_room: PostRoom) -> None:
    """Also where that is in the step in which it was taken."""
    first, second = post_room.want("a", "b")
    assert [caller.ticket.is_open for caller in (first, second)] == [True, True]
    post_room.posted[0].exchange.depart()
    post_room.posted[0].exchange.answered(200)
    post_room.posted[0].succeed("a!")
    second.leave()
    assert [caller.ticket.is_open for caller in (first, second)] == [False, False]


async def test_who_hears_of_a_posted_request_may_close_the_room(post_room: PostRoom) -> None:
    """Then it is not sent any more, and whoever wanted it is told."""
    admit = post_room.admit_at_once

    def closing(lane: Lane, now: float) -> Exchange | None:
        exchange = admit(lane, now)
        post_room.batcher.close()
        return exchange

    post_room.batcher._admit_at_once = closing
    (caller,) = post_room.want("a")
    assert post_room.posted == []
    assert isinstance(caller.failure, RequestFailed)
    assert caller.failure.wire is Wire.NOT_SENT


async def test_what_left_in_the_same_turn_is_shared_under_any_name(post_room: PostRoom) -> None:
    """Nobody can have heard of a change meanwhile; a turn later, the name may be another's."""
    post_room.batcher._is_reusable = lambda key: key == "a"
    callers = post_room.want("a", "b")
    for batch in post_room.posted:
        batch.exchange.depart()
    callers += post_room.want("a", "b")
    assert len(post_room.posted) == 2
    await turns()
    callers += post_room.want("a", "b")
    assert [batch.slots[0].key for batch in post_room.posted] == ["a", "b", "a"]
    for batch, value in zip(post_room.posted, ("old", "b!", "new"), strict=True):
        batch.exchange.answered(200)
        batch.succeed(value)
    assert [caller.value for caller in callers] == ["old", "b!", "old", "b!", "new", "b!"]


async def test_what_must_not_be_posted_yet_takes_no_permit(post_room: PostRoom) -> None:
    """Something else has to be waited for: it goes the other way, with a task that can wait."""
    post_room.batcher._may_post = lambda: False
    (caller,) = post_room.want("a")
    await turns()
    assert (post_room.posted, post_room.permits) == ([], 100)
    request = await post_room.sent(departed=True)
    request.reply.set_result(echo("a"))
    await turns()
    assert caller.value == "a!"
    post_room.batcher._may_post = lambda: True
    post_room.want("b")
    assert len(post_room.posted) == 1
    post_room.posted[0].succeed("b!")


async def test_what_cannot_be_admitted_at_once_is_tried_the_other_way(post_room: PostRoom) -> None:
    """Which tells the error to those who wait, and to nobody else."""

    def refusing(lane: Lane, now: float) -> Exchange | None:
        raise UsageError("another event loop's")

    post_room.batcher._admit_at_once = refusing
    (caller,) = post_room.want("a")
    await turns()
    request = await post_room.sent(departed=True)
    request.reply.set_result(echo("a"))
    await turns()
    assert caller.value == "a!"


async def test_one_may_leave_while_another_is_told_that_nothing_was_sent(room: Room) -> None:
    """The request has landed already: there is nothing to withdraw."""
    told: list[Wire] = []
    room.batcher.join("a", Lane.CANCEL, lambda _: told.append(second.leave()), 0.0)
    (second,) = room.want("a")
    await turns()
    request = await room.sent()
    request.connected.set_exception(LOST)
    await turns()
    assert told == [Wire.NOT_SENT]
    assert second.deliveries == []
