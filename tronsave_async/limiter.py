"""The shared async rate limiter: never more than the limit in any window, as the vendor sees it.

A limiter holds one queue for each *scope*, which is what a vendor meters: (vendor, account, endpoint). Three lanes wait
in each queue: cancels go ahead of reads, reads ahead of creates, first come first served inside a lane, and the lower
lanes keep a guaranteed share. One timer serves the whole limiter; nothing polls.

The window is an exact log of the moments at which requests left. A permit has three lives: *in hand* from the grant
until the request leaves (it blocks its place for as long as that takes), *spent* for one window after it left, or
*given back* if nothing was sent. So a slow connect cannot make two requests arrive together, and a canceled caller
costs nobody anything. Requests still bunch up on the network after they left: `RateLimit.margin` is added to every
window for that.
"""

from __future__ import annotations

import asyncio
import enum
import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Final, NamedTuple, Self
from weakref import WeakKeyDictionary

import msgspec

from tronsave_async.arguments import whole_number, within
from tronsave_async.errors import UsageError

__all__ = [
    "Lane",
    "Permit",
    "RateLimit",
    "RateLimiter",
    "Scope",
    "ScopeStatistics",
    "Window",
    "choose_lane",
    "shared_limiter",
]

CANCELS_IN_A_ROW: Final = 7
"""So many cancels pass while others wait, then one of the others: their share is an eighth."""
READS_IN_A_ROW: Final = 3
"""So many reads pass while creates wait, then one create: their share of that is a quarter."""


class Lane(enum.IntEnum):
    """Who goes first when a scope is short of permits."""

    CANCEL = 0
    READ = 1
    CREATE = 2


class RateLimit(msgspec.Struct, frozen=True):
    """So many requests in any window of ``per`` seconds.

    Attributes:
        requests: permits per window, at least 1.
        per: length of the window in seconds, above 0.
        margin: seconds added to every window, because requests that left evenly arrive bunched: at least the
            difference between the slowest and the fastest way to the vendor. It costs ``margin / per`` of the pace.

    Raises:
        UsageError: a value is out of its range.
    """

    requests: int
    per: float
    margin: float = 0.05

    def __post_init__(self) -> None:
        whole_number("RateLimit.requests", self.requests, least=1)
        within("RateLimit.per", self.per)
        within("RateLimit.margin", self.margin, inclusive=True)

    @property
    def span(self) -> float:
        """Seconds for which a spent permit counts."""
        return self.per + self.margin

    def and_also(self, other: RateLimit) -> RateLimit:
        """One limit that keeps both: so few requests in so long a window that neither is exceeded."""
        if self == other:
            return self
        requests = min(self.requests, other.requests)
        per = max(each.per / (each.requests // requests) for each in (self, other))
        return RateLimit(requests, per, max(self.margin, other.margin))

    @property
    def pace(self) -> float:
        """Requests per second that this limit sustains."""
        return self.requests / self.span


class Scope(NamedTuple):
    """What the vendor meters. ``account`` must not hold a secret: use `Secret.account`."""

    vendor: str
    account: str
    endpoint: str


class ScopeStatistics(msgspec.Struct, frozen=True):
    """One scope at one moment.

    Attributes:
        granted: permits given out since the scope exists, without those given back.
        in_window: weight of the permits that still count (spent within the window).
        in_hand: weight of the permits granted whose requests have not left yet.
        waiting: callers in the queue, by lane.
        closed_for: seconds until the scope opens again after a penalty, else 0.
    """

    granted: int
    in_window: int
    in_hand: int
    waiting: Mapping[Lane, int]
    closed_for: float


class Window:
    """The arithmetic of one scope, without a clock and without waiting.

    Invariant: ``in_window`` and ``in_hand`` together are at most ``limit.requests``, unless the limit was made stricter
    meanwhile. The log has for each permit that was spent the moment until which it counts, in order.
    """

    __slots__ = ("_log", "_outgrown", "_span", "closed_until", "in_hand", "limit")

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._span = limit.span
        self._outgrown = False
        """The span is still a former limit's, under which permits in hand were granted."""
        self.in_hand = 0
        self.closed_until = -math.inf
        self._log: deque[float] = deque()

    @property
    def in_window(self) -> int:
        """The weight of what left within the window, by the latest look at it."""
        return len(self._log)

    def free_at(self, now: float, weight: int) -> float:
        """When ``weight`` more may pass: at most ``now`` means at once, infinity means not before a permit in hand
        is spent or given back."""
        self._forget(now)
        log = self._log
        short = self.in_hand + len(log) + weight - self.limit.requests
        if short <= 0:
            return self.closed_until
        return max(log[short - 1], self.closed_until) if short <= len(log) else math.inf

    def take_if_free(self, now: float, weight: int) -> bool:
        """Grant a permit if `free_at` says "at once"."""
        log = self._log
        if log and log[0] <= now:
            self._forget(now)
        if self.in_hand + len(log) + weight > self.limit.requests or now < self.closed_until:
            return False
        self.in_hand += weight
        return True

    def go_by(self, limit: RateLimit) -> None:
        """Keep another limit from now on; what counts already, or is in hand, counts as long as under the longer of the
        two."""
        longer = limit.span - self._span
        if longer > 0.0:
            self._log = deque(until + longer for until in self._log)
        self.limit = limit
        self._outgrown = longer < 0.0 and self.in_hand > 0
        if not self._outgrown:
            self._span = limit.span

    def take(self, weight: int) -> None:
        """A permit was granted."""
        self.in_hand += weight

    def spend(self, now: float, weight: int) -> None:
        """Its request leaves now."""
        self.in_hand -= weight
        log, until = self._log, now + self._span
        if log and until < log[-1]:  # that counts as long as under the limit that was in force
            until = log[-1]
        if weight == 1:
            log.append(until)
        else:
            log.extend([until] * weight)
        if self._outgrown:
            self._fit()

    def give_back(self, weight: int) -> None:
        """Its request will not leave."""
        self.in_hand -= weight
        if self._outgrown:
            self._fit()

    def _fit(self) -> None:
        """Go by the limit's own span once no permit of a former limit can be in hand."""
        if not self.in_hand:
            self._outgrown = False
            self._span = self.limit.span

    def close_until(self, when: float) -> None:
        """Nothing passes before ``when``; an earlier moment than the one in force changes nothing."""
        self.closed_until = max(self.closed_until, when)

    def rebased(self, was: float, now: float) -> Window:
        """A window under another clock, which reads ``now`` where this one reads ``was``: what counts, counts as if
        it had left just now, and a penalty goes on for the rest of its time."""
        self._forget(was)
        heir = Window(self.limit)
        heir.take(self.in_window + self.in_hand)
        longest = self._log[-1] - was if self._log else 0.0  # maybe under a former limit
        heir._span = max(self._span, longest)
        heir.spend(now, self.in_window + self.in_hand)
        heir._span = heir.limit.span
        heir.closed_until = self.closed_until - was + now
        return heir

    def _forget(self, now: float) -> None:
        log = self._log
        while log and log[0] <= now:
            log.popleft()


def choose_lane(
    cancels: int, reads: int, creates: int, *, cancels_run: int, reads_run: int
) -> Lane | None:
    """Which lane is next.

    Args:
        cancels, reads, creates: how many wait in each lane.
        cancels_run: cancels granted in a row while a lower lane waited.
        reads_run: reads granted in a row while a create waited.

    Returns:
        The lane, or None if nobody waits.
    """
    if cancels and (cancels_run < CANCELS_IN_A_ROW or not (reads or creates)):
        return Lane.CANCEL
    if reads and (reads_run < READS_IN_A_ROW or not creates):
        return Lane.READ
    return Lane.CREATE if creates else None


class Permit:
    """The right to send one request. Use it as a context manager: what was not spent at the end is given back.

    ``spend()`` is called in the moment in which the request leaves; only then the window starts to run.
    """

    __slots__ = ("_queue", "_weight")

    def __init__(self, queue: _Queue, weight: int) -> None:
        self._queue: _Queue | None = queue
        self._weight = weight

    def spend(self, now: float | None = None) -> None:
        """The request leaves now, or rather at a moment that was just read from the event loop's clock. Once is enough;
        later calls change nothing."""
        if (queue := self._queue) is not None:
            self._queue = None
            queue.spend(queue.time() if now is None else now, self._weight)

    def give_back(self) -> None:
        """The request will not leave. After `spend` it changes nothing."""
        if (queue := self._queue) is not None:
            self._queue = None
            queue.give_back(self._weight)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._queue is not None:  # by far the most are spent
            self.give_back()


class _Waiter:
    __slots__ = ("future", "permit", "weight")

    def __init__(self, weight: int, future: asyncio.Future[None]) -> None:
        self.weight = weight
        self.future = future
        self.permit: Permit | None = None


class _Queue:
    """Those who wait for one scope. `serve` is the only place where a waiter gets a permit."""

    __slots__ = (
        "_cancels_run",
        "_lanes",
        "_limiter",
        "_reads_run",
        "due",
        "granted",
        "time",
        "window",
    )

    def __init__(self, limiter: RateLimiter, limit: RateLimit) -> None:
        self._limiter = limiter
        self.time: Callable[[], float] = limiter.time
        """Monotonic seconds of the event loop."""
        self._lanes: tuple[OrderedDict[_Waiter, None], ...] = tuple(OrderedDict() for _ in Lane)
        self._cancels_run = 0
        self._reads_run = 0
        self.window = Window(limit)
        self.granted = 0
        self.due = math.inf
        """When the limiter's timer serves this queue; infinity if it need not."""

    def try_grant(self, now: float, weight: int) -> Permit | None:
        """A permit at once, if nobody waits and the window has room."""
        cancels, reads, creates = self._lanes
        if cancels or reads or creates or not self.window.take_if_free(now, weight):
            return None
        self.granted += 1
        return Permit(self, weight)

    def join(self, lane: Lane, waiter: _Waiter) -> None:
        self._lanes[lane][waiter] = None
        self.serve()

    def leave(self, lane: Lane, waiter: _Waiter) -> None:
        """A caller was canceled: before the grant it leaves no trace, in the tick of the grant it hands it on."""
        if waiter.permit is not None:
            waiter.permit.give_back()
            return
        self._lanes[lane].pop(waiter, None)
        self.serve()

    def serve(self) -> None:
        """Grant all that may pass now, in order, and ask the timer to come back for the rest."""
        now = self.time()
        cancels, reads, creates = self._lanes
        while True:
            lane = choose_lane(
                len(cancels),
                len(reads),
                len(creates),
                cancels_run=self._cancels_run,
                reads_run=self._reads_run,
            )
            if lane is None:
                self.due = math.inf
                return
            waiter = next(iter(self._lanes[lane]))
            if waiter.future.done():  # canceled in this tick; its caller has not run yet
                del self._lanes[lane][waiter]
                continue
            if waiter.weight > self.window.limit.requests:  # declared stricter while it waited
                del self._lanes[lane][waiter]
                waiter.future.set_exception(_bad_weight(waiter.weight, self.window.limit))
                continue
            free_at = self.window.free_at(now, waiter.weight)
            if free_at > now:
                self._limiter.come_back(self, free_at)
                return
            del self._lanes[lane][waiter]
            self._count_run(lane)
            self.window.take(waiter.weight)
            self.granted += 1
            waiter.permit = Permit(self, waiter.weight)
            waiter.future.set_result(None)

    def spend(self, now: float, weight: int) -> None:
        self.window.spend(now, weight)
        cancels, reads, creates = self._lanes
        if cancels or reads or creates:
            self.serve()

    def give_back(self, weight: int) -> None:
        self.window.give_back(weight)
        self.granted -= 1
        self.serve()

    def tighten(self, limit: RateLimit) -> None:
        """Go by a slower limit, and so do those who wait."""
        self.window.go_by(limit)
        if any(self._lanes) and not self._limiter.is_stranded:
            self.serve()

    def successor(self, was: float, now: float) -> _Queue:
        """The same scope on another event loop. Those who waited are gone with theirs, and so are their permits."""
        for lane in self._lanes:
            lane.clear()
        heir = _Queue(self._limiter, self.window.limit)
        heir.window, heir.granted = self.window.rebased(was, now), self.granted
        return heir

    def statistics(self, now: float) -> ScopeStatistics:
        self.window.free_at(now, 0)
        return ScopeStatistics(
            granted=self.granted,
            in_window=self.window.in_window,
            in_hand=self.window.in_hand,
            waiting=MappingProxyType({lane: len(self._lanes[lane]) for lane in Lane}),
            closed_for=max(0.0, self.window.closed_until - now),
        )

    def _count_run(self, lane: Lane) -> None:
        _, reads, creates = self._lanes
        if lane is Lane.CANCEL:
            self._cancels_run = self._cancels_run + 1 if reads or creates else 0
            return
        self._cancels_run = 0
        self._reads_run = self._reads_run + 1 if lane is Lane.READ and creates else 0


def _not_bound() -> float:
    raise AssertionError("a limiter is bound on its first use")


def _bad_weight(weight: int, limit: RateLimit) -> UsageError:
    return UsageError(f"weight {weight} is not within 1..{limit.requests}")


class RateLimiter:
    """Rate limits for any number of scopes, shared by any number of gateways on one event loop.

    Gateways find one by themselves (`shared_limiter`): two gateways on the same account share their budget without
    being told. Give them a limiter of your own to separate or to combine budgets. Not thread-safe.
    """

    def __init__(self) -> None:
        self._queues: dict[Scope, _Queue] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.time: Callable[[], float] = _not_bound
        """Monotonic seconds of its event loop (internal to the queues)."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._due: list[tuple[float, int, _Queue]] = []
        self._pushed = 0

    def declare(self, scope: Scope, limit: RateLimit) -> None:
        """Set a scope's limit. Where it has one already, both are kept from then on."""
        queue = self._queues.get(scope)
        if queue is None:
            self._queues[scope] = _Queue(self, limit)
        elif (both := limit.and_also(queue.window.limit)) != queue.window.limit:
            queue.tighten(both)

    async def acquire(self, scope: Scope, *, weight: int = 1, lane: Lane = Lane.READ) -> Permit:
        """Wait for the right to send one request.

        Args:
            scope: what the vendor meters, declared before.
            weight: how much of the limit the request takes.
            lane: who goes first when the scope is short.

        Returns:
            A permit in hand: spend it in the moment the request leaves, or give it back.

        Raises:
            UsageError: the scope was not declared, the weight is not between 1 and its limit, or the limiter serves
                another running event loop.

        Canceling a call that waits is safe: it leaves the queue, or hands on the permit it was just granted.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        queue = self._queues.get(scope) or self._queue(scope)
        if not 1 <= weight <= queue.window.limit.requests:
            raise _bad_weight(weight, queue.window.limit)
        if (permit := queue.try_grant(queue.time(), weight)) is not None:
            return permit
        return await self._wait(queue, weight, lane)

    def try_acquire(self, scope: Scope) -> Permit | None:
        """The right to send one request, if nobody has to be waited for; else None. It takes weight 1.

        Raises:
            UsageError: the scope was not declared, or the limiter serves another running event loop.
        """
        loop = asyncio.get_running_loop()
        return self.at_hand(scope, loop, loop.time())

    def at_hand(self, scope: Scope, loop: asyncio.AbstractEventLoop, now: float) -> Permit | None:
        """`try_acquire` for who knows the running event loop and has just read its time.

        Raises:
            UsageError: the scope was not declared, or the limiter serves another running event loop.
        """
        if loop is not self._loop:
            self._bind(loop)
        queue = self._queues.get(scope) or self._queue(scope)
        return queue.try_grant(now, 1)

    def penalize(self, scope: Scope, seconds: float) -> None:
        """Close a scope for all its users: the vendor said "too many". A shorter penalty never ends a longer one.

        Raises:
            UsageError: the scope was not declared, or ``seconds`` is negative or not finite.
        """
        within("a penalty", seconds, inclusive=True)
        self._bind(asyncio.get_running_loop())
        self._queue(scope).window.close_until(self.time() + seconds)

    def statistics(self) -> Mapping[Scope, ScopeStatistics]:
        """A snapshot of every scope. Call it on the limiter's event loop."""
        self._bind(asyncio.get_running_loop())
        now = self.time()
        return {scope: queue.statistics(now) for scope, queue in self._queues.items()}

    def come_back(self, queue: _Queue, when: float) -> None:
        """Serve ``queue`` at ``when`` (internal to the queues)."""
        if when == queue.due:
            return
        queue.due = when
        if when == math.inf:
            return
        self._pushed += 1
        heapq.heappush(self._due, (when, self._pushed, queue))
        self._arm()

    @property
    def is_stranded(self) -> bool:
        """True if its event loop is closed, so that another loop may take it over."""
        return self._loop is None or self._loop.is_closed()

    async def _wait(self, queue: _Queue, weight: int, lane: Lane) -> Permit:
        assert self._loop is not None, "bound by acquire"
        waiter = _Waiter(weight, self._loop.create_future())
        queue.join(lane, waiter)
        try:
            await waiter.future
        except asyncio.CancelledError:
            queue.leave(lane, waiter)
            raise
        assert waiter.permit is not None, "granted together with the future's result"
        return waiter.permit

    def _queue(self, scope: Scope) -> _Queue:
        try:
            return self._queues[scope]
        except KeyError:
            raise UsageError(f"scope {tuple(scope)} was not declared to this limiter") from None

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self._loop:
            return
        if not self.is_stranded:
            raise UsageError("this RateLimiter serves another running event loop")
        now = loop.time()
        was = now if self._loop is None else self._loop.time()
        self._loop, self._timer, self._timer_at = loop, None, math.inf
        self.time = loop.time
        self._queues = {s: queue.successor(was, now) for s, queue in self._queues.items()}
        self._due.clear()

    def _arm(self) -> None:
        """Keep the one timer at the earliest moment at which a queue is due."""
        while self._due and self._due[0][0] != self._due[0][2].due:
            heapq.heappop(self._due)
        when = self._due[0][0] if self._due else math.inf
        if when == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        assert self._loop is not None, "queues are served on a bound loop"
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self.time()
        while self._due and self._due[0][0] <= now:
            when, _, queue = heapq.heappop(self._due)
            if when == queue.due:
                queue.due = math.inf
                queue.serve()
        self._arm()


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, RateLimiter] = WeakKeyDictionary()


def shared_limiter() -> RateLimiter:
    """The running event loop's own limiter, which gateways use by default.

    A new loop takes over the limiter of a closed one, so that budgets survive several ``asyncio.run`` in a row. Loops
    that run at the same time in several threads do not share: give such gateways their part of the limit.
    """
    loop = asyncio.get_running_loop()
    limiter = _shared.get(loop)
    if limiter is None:
        closed = (old for old, known in _shared.items() if old.is_closed() and known.is_stranded)
        stranded = next(closed, None)
        limiter = RateLimiter() if stranded is None else _shared.pop(stranded)
        _shared[loop] = limiter
    return limiter
