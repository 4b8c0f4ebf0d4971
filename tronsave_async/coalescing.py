"""Many callers, one request: single-flight for equal keys, batches for different ones.

Callers that wait for the same call of a vendor share its next request, up to a maximum of keys. The first caller of an
idle call is not delayed: a request asks for its permit at once and takes, in the moment it is granted, whoever waits by
then. Equal keys share one slot. A caller that goes takes only its own key out of a request that has not been taken;
when nobody is left who wants a request, it is revoked unless it departed already.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tronsave_async.errors import GatewayError, RequestFailed
from tronsave_async.limiter import Lane
from tronsave_async.outcomes import Wire
from tronsave_async.tasks import guarded

if TYPE_CHECKING:
    from tronsave_async.exchange import Exchange

__all__ = ["Batch", "Batcher", "Delivery", "Divide", "Mailbox", "Spawn", "Ticket"]

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Divide(Exception):
    """Raised by a sender: the vendor refused the request as a whole and processed nothing of it, and one key may be
    the reason. The batch is sent again in halves, so that one bad key harms no other."""


class Delivery(Generic[R]):
    """What a request brought for one key: a value, or the failure of the whole request, or neither: silence.

    Attributes:
        exchange: the request.
        divided: requests that carried the key for this caller before, were answered, and were divided.
        late: it answers an earlier request, which had been given up.
    """

    __slots__ = ("divided", "exchange", "failure", "late", "value")

    def __init__(
        self,
        exchange: Exchange,
        value: R | None,
        failure: GatewayError | None,
        divided: int = 0,
        late: bool = False,
    ) -> None:
        self.exchange = exchange
        self.value = value
        self.failure = failure
        self.divided = divided
        self.late = late

    @property
    def reached(self) -> Wire:
        """How far the requests with this key got."""
        reached = self.exchange.reached
        return Wire.ANSWERED if self.divided and reached is Wire.NOT_SENT else reached


class Spawn(Protocol):
    """Runs a coroutine as a task of the gateway, which starts after the caller's current step (not eagerly)."""

    def __call__(self, coro: Coroutine[Any, Any, None], /) -> asyncio.Task[None]: ...


class Ticket(Generic[K, R]):
    """One caller's interest in one key. It is delivered to once, or left."""

    __slots__ = ("_slot", "deliver", "divided_before", "joined_at")

    def __init__(
        self, slot: _Slot[K, R], deliver: Callable[[Delivery[R]], None], joined_at: float
    ) -> None:
        self._slot = slot
        self.divided_before = slot.divided
        self.deliver = deliver
        self.joined_at = joined_at

    def leave(self) -> Wire:
        """Go before the delivery.

        Returns:
            NOT_SENT: this key has not left with any request of this ticket, and because of this ticket it never will.
            ANSWERED: it left, was refused unprocessed with its batch, and has not left again.
            MAYBE_SENT: it left, or will leave with a request that others still want.
        """
        return self._slot.leave(self)

    @property
    def is_open(self) -> bool:
        """It was neither delivered to nor left."""
        return self in self._slot.tickets

    @property
    def taken(self) -> bool:
        """A request took the key with it."""
        return self._slot.batch is not None or self.divided > 0

    @property
    def has_company(self) -> bool:
        """Somebody wants the same key: others, once this ticket was left."""
        return bool(self._slot.tickets)

    @property
    def under_way(self) -> bool:
        """A request took the key with it and has not been divided."""
        return self._slot.batch is not None

    @property
    def divided(self) -> int:
        """Requests that took the key with them since this caller joined, were answered, and were divided."""
        return self._slot.divided - self.divided_before


class Mailbox(Generic[R]):
    """Waits for one delivery, and keeps it even if the waiter was canceled in the same tick."""

    __slots__ = ("delivery", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[None] = loop.create_future()
        """Done when it is delivered, or expired."""
        self.delivery: Delivery[R] | None = None

    def __call__(self, delivery: Delivery[R]) -> None:
        self.delivery = delivery
        if not self.future.done():
            self.future.set_result(None)

    def expire(self) -> None:
        """Wait no longer."""
        if not self.future.done():
            self.future.set_result(None)

    async def wait(self) -> Delivery[R]:
        """Wait for the delivery. Canceling the call leaves a delivery of the same tick in ``delivery``."""
        await self.future
        assert self.delivery is not None, "delivered before the future is done"
        return self.delivery


class _Slot(Generic[K, R]):
    """One key and all who want it."""

    __slots__ = ("batch", "batcher", "divided", "is_fresh", "key", "lane", "tickets")

    def __init__(self, batcher: Batcher[K, R], key: K, lane: Lane) -> None:
        self.batcher = batcher
        self.key = key
        self.lane = lane
        self.tickets: dict[Ticket[K, R], None] = {}
        self.batch: Batch[K, R] | None = None
        """The request under way that carries the key; None while it waits."""
        self.divided = 0
        """Batches with this key that were answered and divided."""
        self.is_fresh = False
        """Its request left in this turn of the event loop."""

    @property
    def left_before(self) -> bool:
        """Its request has left, and whoever comes now may have heard of something since."""
        departed = self.batch is not None and self.batch.exchange.departed_at is not None
        return departed and not self.is_fresh

    def age(self) -> None:
        """The turn of the event loop is over."""
        self.is_fresh = False

    def leave(self, ticket: Ticket[K, R]) -> Wire:
        del self.tickets[ticket]
        before = Wire.ANSWERED if ticket.divided else Wire.NOT_SENT
        if self.batch is None:
            if not self.tickets:
                self.batcher.drop(self)
            return before
        return before if self.batcher.revoke_if_unwanted(self.batch) else Wire.MAYBE_SENT

    def deliver(
        self,
        exchange: Exchange,
        value: R | None,
        failure: GatewayError | None,
        late: bool = False,
    ) -> None:
        """Deliver to all who want it, and let no newcomer join. One's delivery may make another leave."""
        self.batcher.release(self)
        tickets = self.tickets
        for ticket in list(tickets):
            if ticket not in tickets:  # it left
                continue
            del tickets[ticket]
            divided = self.divided - ticket.divided_before
            delivery = Delivery(exchange, value, failure, divided, late)
            guarded(ticket.deliver, delivery, "a delivery")  # a fault in one keeps no other waiting
        self.batch = None  # no cycle is left behind for the garbage collector


class Batch(Generic[K, R]):
    """The slots of one request under way, and where the end of a posted one is told. The first end counts."""

    __slots__ = ("_batcher", "begun", "exchange", "slots", "withdraw")

    def __init__(
        self, batcher: Batcher[K, R], slots: Sequence[_Slot[K, R]], exchange: Exchange
    ) -> None:
        self._batcher = batcher
        self.begun = False
        self.slots = slots
        self.exchange = exchange
        self.withdraw: Callable[[], object] | None = None
        """Ends the sending of what will not leave any more; set when it is launched."""

    def succeed(self, value: R) -> None:
        """The posted request brought this for its key."""
        if self._batcher.ends(self):
            self.slots[0].deliver(self.exchange, value, None)

    def fail(self, failure: GatewayError) -> None:
        """The posted request brought nothing."""
        self._batcher.land(self, {}, failure)

    def break_off(self) -> None:
        """A fault of ours ended it."""
        self._batcher.land(self, {}, _failure(self.exchange, "ended early"))


class Batcher(Generic[K, R]):
    """The waiting room of one call of a vendor.

    Args:
        maximum: keys per request, at least 1.
        open_exchange: starts the record of a request about so many orders.
        admit: waits for the exchange's permit in a lane.
        send: sends one request for the keys and returns what it brought for each; raises a `GatewayError` for all of
            them, or `Divide`.
        spawn: runs the gateway's background tasks.
        join_departed: a newcomer may share the request that is already under way for its key, as long as somebody
            still waits for it. Right for cancels, whose aim is a state; wrong for reads, which must see what happened
            before they were asked for.
        is_reusable: a key may name something else by the time a newcomer comes: then only a request that has not left
            yet is shared, or one that left in the same turn of the event loop, in which nobody can hear of a change.
        admit_at_once, post: for a maximum of one: start a request about one order with its permit, in a lane and at a
            moment (monotonic seconds), or return None if that has to be waited for; and send it without a task, tell
            its batch how it ends, and set what withdraws it as long as it has not left. What cannot go this way, or
            would overtake others, goes the other.
        may_post: nothing else has to be waited for before a request is posted.
    """

    def __init__(
        self,
        *,
        maximum: int,
        open_exchange: Callable[[int], Exchange],
        admit: Callable[[Exchange, Lane], Awaitable[None]],
        send: Callable[[Sequence[K], Exchange], Awaitable[Mapping[K, R]]],
        spawn: Spawn,
        join_departed: bool,
        admit_at_once: Callable[[Lane, float], Exchange | None] | None = None,
        post: Callable[[K, Batch[K, R]], None] | None = None,
        may_post: Callable[[], bool] | None = None,
        is_reusable: Callable[[K], bool] | None = None,
    ) -> None:
        self._maximum = maximum
        self._open_exchange = open_exchange
        self._admit = admit
        self._send = send
        self._spawn = spawn
        self._join_departed = join_departed
        self._admit_at_once = admit_at_once
        self._post = post
        self._may_post = may_post
        self._is_reusable = is_reusable
        self._ahead: Batch[K, R] | None = None
        """The latest request that got a task of its own: until that has begun, nobody overtakes it."""
        self._waiting: dict[Lane, OrderedDict[K, _Slot[K, R]]] = {
            lane: OrderedDict() for lane in Lane
        }
        self._divided: deque[list[_Slot[K, R]]] = deque()
        self._under_way: dict[K, _Slot[K, R]] = {}
        self._batches: set[Batch[K, R]] = set()
        self._flushers: dict[Lane, asyncio.Task[None]] = {}
        self._closed = False

    def join(
        self, key: K, lane: Lane, deliver: Callable[[Delivery[R]], None], now: float
    ) -> Ticket[K, R]:
        """Want ``key`` with the next request, at ``now`` (monotonic seconds). ``deliver`` is called once, on the event
        loop, unless left before; in this step, if the batcher is closed, or closes."""
        if self._closed:
            return self._turn_away(key, lane, deliver, now)
        slot = self._find(key, lane) if self._flushers else self._find_under_way(key)
        is_new = slot is None
        if slot is None:
            slot = _Slot(self, key, lane)
        ticket = Ticket(slot, deliver, now)
        slot.tickets[ticket] = None
        if is_new and not self._post_at_once(slot, now):
            self._enqueue(slot, lane)
        return ticket

    @property
    def waiting(self) -> int:
        """Keys that wait for a request."""
        return sum(map(len, self._waiting.values())) + sum(map(len, self._divided))

    @property
    def under_way(self) -> int:
        """Keys whose request is under way."""
        return len({slot.key for batch in self._batches for slot in batch.slots})

    def drop(self, slot: _Slot[K, R]) -> None:
        """A waiting slot lost its last caller (internal to the tickets)."""
        lane = self._waiting[slot.lane]
        if lane.get(slot.key) is slot:
            del lane[slot.key]
        else:
            halves = ([other for other in half if other is not slot] for half in self._divided)
            self._divided = deque(half for half in halves if half)
        if not self.waiting:
            self._retire_flushers()

    def call_off(self, key: K, exchange: Exchange, value: R) -> None:
        """What a waiting request for ``key`` would bring is known from an earlier one: deliver that in its place. One
        that waits after its batch was divided goes nevertheless."""
        slot = next((lane.pop(key) for lane in self._waiting.values() if key in lane), None)
        if slot is None:
            return
        if not self.waiting:
            self._retire_flushers()
        slot.deliver(exchange, value, None, late=True)

    def release(self, slot: _Slot[K, R]) -> None:
        """The request of a slot has ended (internal to the slots)."""
        if self._under_way.get(slot.key) is slot:
            del self._under_way[slot.key]

    def detach(self, key: K) -> None:
        """Let no newcomer share the request under way for ``key``: the key names something else from now on."""
        self._under_way.pop(key, None)

    def revoke_if_unwanted(self, batch: Batch[K, R]) -> bool:
        """True if nobody wants the request any more and it will never leave (internal to the tickets)."""
        if any(slot.tickets for slot in batch.slots) or not batch.exchange.revoke():
            return False
        withdraw = batch.withdraw
        self.land(batch, {}, None)
        if withdraw is not None:  # else it is landing, and one delivery makes another caller leave
            withdraw()
        return True

    def close(self) -> None:
        """Deliver a failure to every ticket, now and in future, and let no request depart any more."""
        self._closed = True
        for batch in list(self._batches):
            batch.exchange.revoke()
            self.land(batch, {}, _failure(batch.exchange, "gateway closed"))
        self._retire_flushers()
        if orders := self.waiting:
            exchange = self._open_exchange(orders)
            exchange.lost("never sent")
            self._fail_waiting(exchange, _failure(exchange, "gateway closed"))

    def _turn_away(
        self, key: K, lane: Lane, deliver: Callable[[Delivery[R]], None], now: float
    ) -> Ticket[K, R]:
        exchange = self._open_exchange(1)
        exchange.lost("never sent")
        deliver(Delivery(exchange, None, _failure(exchange, "gateway closed")))
        return Ticket(_Slot(self, key, lane), deliver, now)

    def _fail_waiting(self, exchange: Exchange, failure: GatewayError) -> None:
        """Tell all who wait that their request was not sent."""
        slots = self._all_waiting()
        for lane in self._waiting.values():
            lane.clear()
        self._divided.clear()
        self._retire_flushers()
        for slot in slots:
            slot.deliver(exchange, None, failure)

    def _all_waiting(self) -> list[_Slot[K, R]]:
        lanes = [slot for lane in self._waiting.values() for slot in lane.values()]
        return [*lanes, *itertools.chain.from_iterable(self._divided)]

    def _find(self, key: K, lane: Lane) -> _Slot[K, R] | None:
        for queued, waiting in self._waiting.items():
            if (slot := waiting.get(key)) is not None:
                if lane < queued:
                    del waiting[key]
                    self._enqueue(slot, lane)
                return slot
        for half in self._divided:
            for slot in half:
                if slot.key == key:
                    return slot
        return self._find_under_way(key)

    def _find_under_way(self, key: K) -> _Slot[K, R] | None:
        under_way = self._under_way.get(key) if self._join_departed else None
        # A request that everybody has deserted may hang: a newcomer must not wait for it.
        if under_way is None or not under_way.tickets:
            return None
        if self._is_reusable is not None and under_way.left_before and self._is_reusable(key):
            return None
        return under_way

    def _post_at_once(self, slot: _Slot[K, R], now: float) -> bool:
        """Send the request of a new slot in this step, if it can be, and overtakes nobody."""
        if self._post is None or self._flushers or not self._ahead_has_begun:
            return False
        if self._may_post is not None and not self._may_post():
            return False
        assert self._admit_at_once is not None, "given together"
        try:
            exchange = self._admit_at_once(slot.lane, now)
        except GatewayError:  # told on the other way
            return False
        if exchange is None:
            return False
        if self._closed:  # by whoever heard of the request
            exchange.lost("never sent")
            slot.deliver(exchange, None, _failure(exchange, "gateway closed"))
            return True
        self._post(slot.key, self._board([slot], exchange))
        if self._is_reusable is not None and self._is_reusable(slot.key):
            slot.is_fresh = True
            asyncio.get_running_loop().call_soon(slot.age)
        return True

    @property
    def _ahead_has_begun(self) -> bool:
        return self._ahead is None or self._ahead.begun

    def _enqueue(self, slot: _Slot[K, R], lane: Lane) -> None:
        slot.lane = lane
        self._waiting[lane][slot.key] = slot
        self._ensure_flusher(lane)

    def _ensure_flusher(self, lane: Lane) -> None:
        if lane not in self._flushers:
            self._flushers[lane] = self._spawn(self._flush(lane))

    def _retire_flushers(self) -> None:
        flushers, self._flushers = self._flushers, {}
        for task in flushers.values():
            task.cancel()

    async def _flush(self, lane: Lane) -> None:
        """Ask for permits in ``lane`` until nobody waits in it; each takes whoever is first in any lane."""
        while self._has_waiting(lane):
            exchange = self._open_exchange(min(self.waiting, self._maximum))
            try:
                await self._admit(exchange, lane)
            except GatewayError as error:
                exchange.lost(str(error))
                self._fail_waiting(exchange, error)
                return
            except BaseException:
                retired = self._flushers.get(lane) is not asyncio.current_task()
                exchange.lost("not wanted any more" if retired else "ended early")
                if not retired:
                    self._fail_waiting(exchange, _failure(exchange, "ended early"))
                raise
            slots = self._take()
            if not slots:
                exchange.lost("not wanted any more")
            elif self._has_waiting(lane) or not self._ahead_has_begun:
                self._ahead = batch = self._board(slots, exchange)
                batch.withdraw = self._spawn(self._carry(batch)).cancel
            else:
                # The last one needs no task of its own, unless it would overtake the one ahead of it; newcomers get
                # another flusher meanwhile.
                own = self._flushers.pop(lane)
                batch = self._board(slots, exchange)
                batch.withdraw = own.cancel
                await self._carry(batch)
                return
        del self._flushers[lane]

    def _has_waiting(self, lane: Lane) -> bool:
        return bool(self._waiting[lane]) or (bool(self._divided) and lane is Lane.CANCEL)

    def _take(self) -> list[_Slot[K, R]]:
        if self._divided:
            return self._divided.popleft()
        slots: list[_Slot[K, R]] = []
        for lane in self._waiting.values():
            while lane and len(slots) < self._maximum:
                slots.append(lane.popitem(last=False)[1])
        return slots

    def _board(self, slots: list[_Slot[K, R]], exchange: Exchange) -> Batch[K, R]:
        exchange.orders = len(slots)
        batch = Batch(self, slots, exchange)
        self._batches.add(batch)
        for slot in slots:
            slot.batch = batch
            self._under_way[slot.key] = slot
        return batch

    async def _carry(self, batch: Batch[K, R]) -> None:
        """Send one batch and deliver what it brings: whatever happens, every ticket is delivered to or divided."""
        exchange = batch.exchange
        batch.begun = True
        try:
            results = await self._send([slot.key for slot in batch.slots], exchange)
        except Divide:
            self._divide(batch)
        except GatewayError as failure:
            self.land(batch, {}, failure)
        except BaseException:
            self.land(batch, {}, _failure(exchange, "ended early"))
            raise
        else:
            self.land(batch, results, None)

    def land(
        self, batch: Batch[K, R], results: Mapping[K, R], failure: GatewayError | None
    ) -> None:
        """A request under way has ended: tell those who want its keys. A second landing changes nothing."""
        if self.ends(batch, failure):
            for slot in batch.slots:
                slot.deliver(batch.exchange, results.get(slot.key), failure)

    def ends(self, batch: Batch[K, R], failure: GatewayError | None = None) -> bool:
        """The only place where a request under way ends, unless it is divided; False if it had ended before."""
        if batch not in self._batches:
            return False
        self._batches.remove(batch)
        batch.begun = True  # or it never will
        if batch.exchange.ended_at is None:
            batch.exchange.lost("ended early" if failure is None else str(failure))
        batch.withdraw = None
        return True

    def _divide(self, batch: Batch[K, R]) -> None:
        """Let those who are still wanted wait again, in two halves. One key alone cannot be divided: it fails."""
        if len(batch.slots) == 1:
            self.land(batch, {}, _failure(batch.exchange, "refused as a whole"))
            return
        self._batches.discard(batch)
        for slot in batch.slots:
            self.release(slot)
            slot.batch = None
            slot.divided += 1
        wanted = [slot for slot in batch.slots if slot.tickets]
        middle = len(wanted) // 2
        self._divided.extend(half for half in (wanted[:middle], wanted[middle:]) if half)
        if wanted:
            self._ensure_flusher(Lane.CANCEL)


def _failure(exchange: Exchange, reason: str) -> RequestFailed:
    return RequestFailed(exchange.venue, exchange.endpoint, reason, wire=exchange.reached)
