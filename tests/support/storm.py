"""A storm: thousands of cancels at a vendor's sandbox, whose callers go at random moments under random faults.

It comes in squalls. In a squall a crowd of callers cancels orders, alone and together, by one call and by many, while
requests and replies are lost, the vendor restarts, and orders change behind everybody's back. Every outcome is judged
in the moment in which it comes (`storm_judge`). When the squall is over and nothing is under way any more, all of them
are judged again, the vendor's record is compared with the telemetry, request by request (`storm_ledger`), and what the
gateway still holds is looked at (`storm_remains`). Then the vendor forgets, and the next squall comes: to the same
gateway.

A storm with the same seed places the same calls, whose callers have the same patience; faults befall requests in the
order in which they arrive, which the system's sockets decide, too.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from brokers.ripio.config import Profile
from contract.stage import Ability
from support.canary import sightings
from support.storm_judge import Judge
from support.storm_ledger import Ledger
from support.storm_remains import (
    Memory,
    descriptors,
    empty_tables,
    entries,
    forget,
    measure,
    sdk_tasks,
)
from support.storm_weather import A_FEW, Climate, Gusts, Way, drawn_from, faults_of
from tronsave_async import (
    GatewayClosed,
    GatewayError,
    OrderRef,
    RateLimit,
    RateLimiter,
    RetryPolicy,
)
from tronsave_async.tasks import clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from contract.stage import Stage
    from support.storm_judge import Stay
    from tronsave_async import Event

__all__ = ["Report", "Storm", "storming"]

COMPLAINTS: Final = 50
"""Sentences that are kept about what was wrong; more are only counted."""

TURNS: Final = (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 30, 45, 70)
"""After how many turns of the loop a caller may go."""

SHARERS: Final = 12
"""How many orders share a request at most, where they can: more requests for as many orders."""

OTHER_CALLS: Final[Mapping[str, Callable[[Any], Awaitable[object]]]] = {
    "ripio": lambda gateway: gateway.order("00000000-0000-4000-8000-000000000000"),
    "tronsave": lambda gateway: gateway.history(),
    "sms4sats": lambda gateway: gateway.price(),
}
"""Calls that wait for their permits by themselves."""

LOOKED_AT: Final = 16
"""Every so many events one is searched for the secret: that costs more than a cancel."""


class Report:
    """What came of a storm.

    Attributes:
        cancels: orders that callers wanted canceled, each as often as it was wanted.
        outcomes: what came of them, by kind; "CancelledError" where the caller went before there was an outcome.
        callers: calls.
        gone: those that were canceled by their callers before they ended, by where they were.
        faults: requests that a fault befell, by the fault's name.
        gusts: what befell the vendor as a whole, by name.
        requests: requests that arrived.
        wrong: how many things were wrong.
        complaints: the first of them, in words.
        memory: after each squall.
        most_descriptors: open in the midst of a squall, at most.
    """

    def __init__(self) -> None:
        self.cancels = 0
        self.outcomes: Counter[str] = Counter()
        self.callers = 0
        self.gone: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.gusts: Counter[str] = Counter()
        self.requests = 0
        self.wrong = 0
        self.complaints: list[str] = []
        self.memory: list[Memory] = []
        self.most_descriptors = 0

    def complain(self, sentence: str) -> None:
        """Take note of what is wrong."""
        self.wrong += 1
        if len(self.complaints) < COMPLAINTS:
            self.complaints.append(sentence)


class Storm:
    """A vendor, a gateway at it, and the callers.

    Args:
        stage: the vendor; its sandbox listens.
        gateway: not used yet.
        limiter: the gateway's.
        ledger: its telemetry hook.
        gusts: what befalls the vendor as a whole.
        climate: how rough it is.
        seed: of everything that is drawn.
        report: what came of it.
    """

    def __init__(
        self,
        stage: Stage,
        gateway: Any,
        limiter: RateLimiter,
        ledger: Ledger,
        gusts: Gusts,
        climate: Climate,
        seed: int,
        report: Report,
    ) -> None:
        self.stage = stage
        self.gateway = gateway
        self.report = report
        self.ledger = ledger
        self._limiter = limiter
        self._gusts = gusts
        self._climate = climate
        self._seed = seed
        self._judge = Judge(stage, ledger, report.complain)
        report.outcomes = self._judge.outcomes
        self._faults = faults_of(stage, climate)
        self._names = {id(fault): name for name, fault in self._faults.items()}
        self._weights = {
            self._alone: 45,
            self._together: 15,
            self._again: 12,
            self._call_a_stranger: 4,
            self._read: 3,
            self._ask_otherwise: 1,
            self._be_refused: 4 if stage.cancels_per_request == 1 else 1,  # it befalls all sharers
            self._many: 16,
        }
        self._bouts = self._left = self._events = 0
        self._interval = self._due = 0.0
        self._over = asyncio.Event()
        self._closing = False

    def hear(self, event: Event, /) -> None:
        """The telemetry hook."""
        self.ledger.hear(event)
        self._judge.hear(event)
        self._events += 1
        if self._events % LOOKED_AT == 0:
            sightings.event(event)

    # -- a squall -------------------------------------------------------------------------------------------------

    async def squall(
        self, cancels: int, *, rate: float | None = None, closing: bool = False
    ) -> None:
        """Let a crowd cancel so many orders, and settle the accounts. Canceling the call leaves them unsettled.

        Args:
            cancels: how many.
            rate: at most so many a second.
            closing: the gateway closes in the midst of it.
        """
        self._left, self._interval, self._due = cancels, 1 / rate if rate else 0.0, clock()
        self._over.clear()
        chance = random.Random(f"{self._seed} faults {self._bouts}")
        drawn = drawn_from(self._faults, self.stage, chance)
        seed = chance.getrandbits(32)
        self.stage.sandbox.faults.chaos(drawn, self._climate.fault_rate, seed)
        crowd = [asyncio.create_task(self._join_in()) for _ in range(self._climate.crowd)]
        gusts = asyncio.create_task(self._blow())
        try:
            if closing:
                await self._close_in_the_midst(cancels)
            await self._disperse(crowd)
            self._over.set()
            await gusts
        except BaseException:
            for task in (*crowd, gusts):
                task.cancel()
            await asyncio.wait([*crowd, gusts])
            raise
        crowd.clear()
        await self._come_to_rest()
        await self._settle()

    async def _disperse(self, crowd: Sequence[asyncio.Task[None]]) -> None:
        """Wait until all have had their turn; what is wrong with the storm itself ends it."""
        done, late = await asyncio.wait(crowd, timeout=self._climate.ages)
        for task in late:
            self.report.complain(f"a caller waits for ever: {task.get_stack()[-1:]}")
            task.cancel()
        for task in done:
            task.result()

    async def _close_in_the_midst(self, cancels: int) -> None:
        while self._left > cancels / 2:  # noqa: ASYNC110 - callers come and go in the same moment
            await asyncio.sleep(self._climate.moments[0])
        self._closing = True
        self.ledger.closed()
        await self.gateway.aclose()
        if tasks := sdk_tasks():
            self.report.complain(f"closed, and still running: {tasks}")

    async def _blow(self) -> None:
        chance = random.Random(f"{self._seed} calm {self._bouts}")
        while not self._over.is_set():
            try:
                async with asyncio.timeout(chance.random() * self._climate.calm):
                    await self._over.wait()
            except TimeoutError:
                await self._gusts.blow()
                self.report.most_descriptors = max(self.report.most_descriptors, descriptors())
                self._look_at_the_table()

    def _look_at_the_table(self) -> None:
        """What has ended is not pending any more."""
        socket = getattr(self.gateway, "_socket", None)
        if socket is None or self._closing:
            return
        if (pending := socket.in_flight) > (open_ := self.ledger.under_way):
            self.report.complain(f"{pending} requests are pending, and {open_} are under way")

    async def _join_in(self) -> None:
        """One of the crowd's bouts after the other, each drawn from its number."""
        while self._left > 0 and not self._closing:
            self._bouts += 1
            chance = random.Random(f"{self._seed} {self._bouts}")
            if self._interval:
                await asyncio.sleep(self._due - clock())
            [bout] = chance.choices(list(self._weights), list(self._weights.values()))
            await bout(chance)

    # -- bouts ----------------------------------------------------------------------------------------------------

    async def _alone(self, chance: random.Random) -> None:
        """One caller, one order, which may change behind its back."""
        order = self._place(chance)
        await asyncio.gather(self._call(chance, [order]), self._meddle(chance, order))

    async def _together(self, chance: random.Random) -> None:
        """Several callers want the same order gone."""
        order = self._place(chance)
        callers = [self._call_in_a_while(chance, order) for _ in range(chance.randint(2, 4))]
        await asyncio.gather(*callers, self._meddle(chance, order))

    async def _call_in_a_while(self, chance: random.Random, order: OrderRef | str) -> None:
        await _turn(chance.choice(TURNS) // 2)
        await self._call(chance, [order], many=chance.random() < 0.2)

    async def _again(self, chance: random.Random) -> None:
        """One caller after the other, whatever the first was told."""
        order = self._place(chance)
        for _ in range(chance.randint(2, 3)):
            await self._call(chance, [order])

    async def _call_a_stranger(self, chance: random.Random) -> None:
        """The vendor knows no such order."""
        await self._call(chance, [self._stranger(chance)])

    async def _be_refused(self, chance: random.Random) -> None:
        """The vendor says no, to whoever comes first."""
        order = self._place(chance)
        self.stage.sandbox.faults.add(self.stage.refusal(_id_of(order)))
        await self._call(chance, [order])

    async def _many(self, chance: random.Random) -> None:
        """One call for several orders: also the same order twice, and strangers."""
        orders = [self._place(chance) for _ in range(chance.randint(2, 12))]
        if chance.random() < 0.2:
            orders.append(chance.choice(orders))
        if chance.random() < 0.05:
            orders.append(self._stranger(chance))
        meddling = [self._meddle(chance, order) for order in orders[:3]]
        await asyncio.gather(self._call(chance, orders, many=True), *meddling)

    async def _read(self, chance: random.Random) -> None:
        """Somebody looks at an order while somebody cancels it."""
        order = self._place(chance)
        reading = asyncio.create_task(self._look_at(order))
        await asyncio.gather(self._call(chance, [order]), self._patience(chance, reading))
        await asyncio.wait([reading])

    async def _look_at(self, order: OrderRef | str) -> None:
        self._judge.watched(_id_of(order))
        try:
            snapshot = await self.gateway.get_order(order, timeout=self._climate.patience)
        except GatewayError:
            return  # it is not known
        self._judge.seen(snapshot, _id_of(order))

    async def _ask_otherwise(self, chance: random.Random) -> None:
        """Several others use the same budget, and go as they please."""
        calls = [asyncio.create_task(self._call_otherwise()) for _ in range(chance.randint(2, 12))]
        await asyncio.gather(*(self._patience(chance, call) for call in calls))
        await asyncio.wait(calls)

    async def _call_otherwise(self) -> None:
        try:
            await OTHER_CALLS[self.stage.venue](self.gateway)
        except GatewayError:
            pass  # the weather

    # -- orders ---------------------------------------------------------------------------------------------------

    def _place(self, chance: random.Random) -> OrderRef | str:
        """Place an order; in a few cases it was closed before, in a few its age is known."""
        stage, created_at = self.stage, None
        if chance.random() < 0.1:
            created_at = stage.now() - stage.cancelable_after
            if stage.cancelable_after:  # it may have to wait for a moment
                created_at += timedelta(seconds=chance.random())
        order_id = stage.place() if created_at is None else stage.place(created_at)
        if chance.random() < 0.05:
            self._change(chance, order_id)
        if created_at is not None or chance.random() < 0.2:
            return OrderRef(id=order_id, created_at=created_at)
        return order_id

    def _stranger(self, chance: random.Random) -> str:
        return self.stage.stranger()[:-12] + f"{chance.getrandbits(48):012x}"

    async def _meddle(self, chance: random.Random, order: OrderRef | str) -> None:
        """Change an order behind everybody's back, now and then."""
        if chance.random() > 0.12:
            return
        if chance.random() < 0.5:
            await _turn(chance.choice(TURNS))
        else:
            await asyncio.sleep(chance.choice(self._climate.moments[:5]))
        self._change(chance, _id_of(order))

    def _change(self, chance: random.Random, order_id: str) -> None:
        stage = self.stage
        changes = [stage.fill, stage.fill, stage.sandbox.cancel_behind_back]
        if Ability.EXPIRY not in stage.lacks:
            changes.append(stage.expire)
        if Ability.PARTIAL_FILLS not in stage.lacks:
            changes.append(stage.fill_partly)
        try:
            chance.choice(changes)(order_id)
        except (ValueError, KeyError):
            return  # it was closed before, or never was
        self._judge.changed(order_id)

    # -- one caller -----------------------------------------------------------------------------------------------

    async def _call(
        self, chance: random.Random, orders: Sequence[OrderRef | str], *, many: bool = False
    ) -> None:
        """Call the gateway; the caller may go at any moment, from before the first step to after the last."""
        self.report.callers += 1
        self.report.cancels += len(orders)
        self._left -= len(orders)
        self._due += len(orders) * self._interval
        stays = self._judge.begin([_id_of(order) for order in orders])
        timeout = chance.choice(self._climate.timeouts)
        bound = chance.choice(self._climate.moments) if chance.random() < 0.04 else None
        asking = partial(self._ask_for_many if many else self._ask, orders, stays, timeout)
        task = asyncio.create_task(self._bounded(asking, stays, bound))
        went = await self._patience(chance, task, stays[0])
        await asyncio.wait([task])
        self._judge.end(stays)  # if it went before its first step
        self._conclude(task, stays, went, bound)

    async def _bounded(
        self, asking: Callable[[], Awaitable[None]], stays: Sequence[Stay], bound: float | None
    ) -> None:
        """Some callers bound the call themselves."""
        try:
            async with asyncio.timeout(bound):
                await asking()
        finally:
            self._judge.end(stays)

    async def _ask(
        self, orders: Sequence[OrderRef | str], stays: Sequence[Stay], timeout: float | None
    ) -> None:
        self._judge.told(stays, await self.gateway.cancel(orders[0], timeout=timeout))

    async def _ask_for_many(
        self, orders: Sequence[OrderRef | str], stays: Sequence[Stay], timeout: float | None
    ) -> None:
        outcomes = await self.gateway.cancel_many(
            orders, timeout=timeout, on_outcome=partial(self._judge.told, stays)
        )
        told = Counter(id(stay.outcome) for stay in stays)
        if Counter(map(id, outcomes)) != told:
            self.report.complain(f"cancel_many returned others than it told: {outcomes}")
        if [outcome.order.id for outcome in outcomes] != [stay.order_id for stay in stays]:
            self.report.complain("cancel_many returned them in another order")

    async def _patience(
        self, chance: random.Random, task: asyncio.Task[None], stay: Stay | None = None
    ) -> bool:
        """Wait as long as the caller has patience; True if it went before the call ended."""
        kind, turns = chance.random(), chance.choice(TURNS)
        if kind < 0.62:
            await asyncio.wait([task])
        elif kind < 0.78:
            await _turn(turns)
        else:
            await asyncio.wait([task], timeout=chance.choice(self._climate.moments))
        where = "before its first step"
        if stay is not None and (kind >= 0.78 or turns > 0):
            where = self._judge.where(stay)
        went = task.cancel()
        if went and kind > 0.9:
            task.cancel()  # some are in a hurry
        if went and stay is not None:
            self.report.gone[where] += 1
        return went

    def _conclude(
        self, task: asyncio.Task[None], stays: Sequence[Stay], went: bool, bound: float | None
    ) -> None:
        """Every caller has its outcomes, or, if it went, its own CancelledError: one of the two."""
        complain, told = self.report.complain, sum(stay.outcome is not None for stay in stays)
        end = "its end"
        if task.cancelled():
            end = "CancelledError"
            if not went:
                complain(f"nobody canceled the caller, and it was canceled: {stays[0].order_id}")
        elif went:
            complain(f"the caller was canceled, and it went on: {stays[0].outcome}")
        elif (error := task.exception()) is not None:
            end = type(error).__name__
            closed = self._closing and isinstance(error, GatewayClosed)
            if not closed and (bound is None or not isinstance(error, TimeoutError)):
                complain(f"raised {error!r}")
        elif told != len(stays):
            complain(f"{told} outcomes for {len(stays)} orders")
        if told not in {0, len(stays)}:
            complain(f"{end} with {told} outcomes for {len(stays)} orders")
        if told != len(stays):
            self.report.outcomes[end] += len(stays) - told

    # -- the accounts ---------------------------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        """The weather is fine again, and whatever is under way ends."""
        sandbox: Any = self.stage.sandbox
        sandbox.faults.clear()
        if hasattr(sandbox, "accept_upgrades"):
            sandbox.accept_upgrades()
        held: dict[str, int] = {}
        try:
            async with asyncio.timeout(self._climate.rest):
                while held := entries(self.gateway, self._limiter):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(self._climate.patience / 8)
        except TimeoutError:
            self.report.complain(f"never comes to rest: {held}")
        told = self.ledger.moment
        await asyncio.sleep(self._climate.idle)
        if self.ledger.moment != told:
            self.report.complain("at rest, and it sends")

    async def _settle(self) -> None:
        """Judge everything again, compare the records, look at what is left, and turn the page."""
        sandbox, complain = self.stage.sandbox, self.report.complain
        await sandbox.aclose()
        await _turn(A_FEW)  # connections are noticed to be gone
        self._judge.settle()
        self.ledger.settle(sandbox.requests)
        self._count(sandbox.requests)
        if too_large := empty_tables(self.gateway):
            complain(f"hold more than they may: {too_large}")
        for page in (self.ledger, self._judge, self._gusts):
            page.turn_the_page()
        forget(self.stage)
        self.report.memory.append(measure())
        if not self._closing:
            await sandbox.start()

    def _count(self, record: Sequence[Any]) -> None:
        self.report.requests += len(record)
        befallen = [entry.fault for entry in record if entry.fault is not None]
        self.report.faults.update(self._names.get(id(fault), "refused") for fault in befallen)
        rejected = [entry for entry in record if entry.fault is None and entry.status == 429]
        if too_fast := [entry for entry in rejected if not self._gusts.bunched(entry.arrived)]:
            self.report.complain(f"the vendor rejected {len(too_fast)} requests as too many")
        self.report.gusts = Counter(self._gusts.blown)


@asynccontextmanager
async def storming(
    kind: type[Stage], *, seed: int, climate: Climate | None = None
) -> AsyncIterator[Storm]:
    """Open a vendor and a gateway at it. At the end both are closed, and nothing of the SDK may be left.

    Args:
        kind: the vendor.
        seed: of everything that is drawn.
        climate: how rough it is.
    """
    climate = climate or Climate()
    report, limiter = Report(), RateLimiter()
    stage = kind((climate.limit_of(kind), climate.window))
    way = Way(climate, seed)
    way.lead_to(stage)
    ledger = Ledger(report.complain, climate.longest_way + climate.lag)
    hooks: list[Callable[[Event], None]] = []
    await stage.sandbox.start()
    try:
        gateway = stage.gateway(
            **_options(kind, climate), limiter=limiter, telemetry=lambda event: hooks[0](event)
        )
        ledger.attend(gateway)
        gusts = Gusts(stage, limiter, ledger, way, climate, random.Random(f"{seed} gusts"))
        storm = Storm(stage, gateway, limiter, ledger, gusts, climate, seed, report)
        hooks.append(storm.hear)
        try:
            yield storm
        finally:
            ledger.closed()
            await gateway.aclose()
        if tasks := sdk_tasks():
            report.complain(f"closed, and still running: {tasks}")
        if held := entries(gateway, limiter):
            report.complain(f"closed, and still held: {held}")
    finally:
        await stage.sandbox.aclose()


def _options(kind: type[Stage], climate: Climate) -> dict[str, Any]:
    limit = RateLimit(climate.limit_of(kind), per=climate.window, margin=climate.margin)
    pause = climate.window
    options: dict[str, Any] = {
        "rate_limit": limit,
        "retry": RetryPolicy(base=pause / 50, cap=pause, quota=1e6, quota_refill=1e6),
        "request_timeout": climate.patience,
        "connect_timeout": climate.patience / 3,
    }
    if kind.venue == "ripio":
        options["profile"] = Profile(limit, daily_quota=10**9)
    if kind.cancels_per_request > 1:
        options["max_ids"] = SHARERS
    return options


async def _turn(turns: int) -> None:
    """Let the loop turn so often."""
    for _ in range(turns):
        await asyncio.sleep(0)


def _id_of(order: OrderRef | str) -> str:
    name = order if isinstance(order, str) else order.id
    assert name is not None, "a storm names orders by the vendor's id"
    return name
