"""A cancel that is interrupted, wherever it is: by its caller, by its deadline, by the gateway that closes."""

from __future__ import annotations

import asyncio
import enum
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from tronsave_async import (
    Canceled,
    GatewayClosed,
    NotSent,
    OrderRef,
    Queued,
    RateLimit,
    RateLimiter,
    Retried,
    RetryPolicy,
    Unknown,
    Wire,
)
from tronsave_async.sandbox import drop_after, hang_after, hang_before, rate_limited, server_error

from .play import playing, until
from .scenario import scenario
from .stage import QUICK, UNMETERED, Ability

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .play import Play
    from .stage import Stage

SLOW: Final = RetryPolicy(base=100.0, cap=100.0)
"""Whoever pauses by this comes back within `AGE`, unless it was ended."""

FOREVER: Final = RetryPolicy(base=1e6, cap=1e6)
"""Whoever pauses by this does not come back before its deadline."""

AGE: Final = 130.0
"""Seconds that pass in which nothing may happen any more."""


class Phase(enum.Enum):
    """Where a cancel can be."""

    QUEUE = "in the queue"
    IN_FLIGHT = "in flight, and carried out"
    IN_FLIGHT_LOST = "in flight, and lost"
    BACK_OFF = "in back-off after a 503 that was carried out"
    BACK_OFF_UNSENT = "in back-off after a refused connection"
    HELD_OFF = "waiting after a 429"
    READ_BACK = "in the read-back after a lost reply"


WIRES: Final = {
    Phase.QUEUE: Wire.NOT_SENT,
    Phase.IN_FLIGHT: Wire.MAYBE_SENT,
    Phase.IN_FLIGHT_LOST: Wire.MAYBE_SENT,
    Phase.BACK_OFF: Wire.ANSWERED,
    Phase.BACK_OFF_UNSENT: Wire.NOT_SENT,
    Phase.HELD_OFF: Wire.ANSWERED,
    Phase.READ_BACK: Wire.MAYBE_SENT,
}
"""What is known of the requests in each phase."""

OPTIONS: Final[dict[Phase, dict[str, Any]]] = {
    Phase.QUEUE: {"rate_limit": RateLimit(1, per=60.0, margin=0.0)},
    Phase.BACK_OFF: {"retry": SLOW},
    Phase.BACK_OFF_UNSENT: {"retry": SLOW},
    Phase.HELD_OFF: {"rate_limit": RateLimit(9, per=60.0, margin=0.0)},
}
"""Gateways that stay in a phase."""


@asynccontextmanager
async def interrupted(
    kind: type[Stage], phase: Phase, *, many: bool, timeout: float | None = None
) -> AsyncIterator[tuple[Play, str, asyncio.Task[Any]]]:
    """Yield a cancel that has come to a phase and stays there."""
    options = OPTIONS.get(phase, {})
    if timeout is not None and "retry" in options:
        options = {"retry": FOREVER}
    async with playing(kind, **options) as play:
        sandbox, cancel_call = play.stage.sandbox, play.stage.cancel_call
        order, read_call = play.stage.place(), play.stage.read_calls[0]
        match phase:
            case Phase.QUEUE:
                assert isinstance(await play.cancel(play.stage.place()), Canceled)
            case Phase.IN_FLIGHT:
                sandbox.faults.add(hang_after(cancel_call))
            case Phase.IN_FLIGHT_LOST:
                sandbox.faults.add(hang_before(cancel_call))
            case Phase.BACK_OFF:
                sandbox.faults.add(server_error(cancel_call, status=503, processed=True))
            case Phase.BACK_OFF_UNSENT:
                await sandbox.aclose()
            case Phase.HELD_OFF:
                sandbox.faults.add(rate_limited(cancel_call))
            case Phase.READ_BACK:
                sandbox.faults.add(drop_after(cancel_call), hang_before(read_call))
        canceling = play.begin(order, timeout=timeout, many=many)
        match phase:
            case Phase.QUEUE:
                await until(lambda: play.number_of(Queued, cancel_call) == 2)
            case Phase.IN_FLIGHT | Phase.IN_FLIGHT_LOST:
                await sandbox.arrived(1, cancel_call)
            case Phase.BACK_OFF | Phase.BACK_OFF_UNSENT:
                await until(lambda: any(isinstance(event, Retried) for event in play.events))
            case Phase.HELD_OFF:
                await until(lambda: play.number_of(Queued, cancel_call) == 2)
            case Phase.READ_BACK:
                await sandbox.arrived(1, read_call)
        for _ in range(20):  # whatever is on its way comes to rest
            await asyncio.sleep(0)
        assert not canceling.done()
        yield play, order, canceling


every_phase = pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
either_call = pytest.mark.parametrize("many", [False, True], ids=["cancel", "cancel_many"])


@scenario()
@every_phase
@either_call
@pytest.mark.virtual_time
async def test_caller_canceled(kind: type[Stage], phase: Phase, many: bool) -> None:
    """It ends at once, canceled; nothing more is sent for it; and a later cancel learns the truth."""
    async with interrupted(kind, phase, many=many) as (play, order, canceling):
        loop = asyncio.get_running_loop()
        since, sent = loop.time(), play.arrived(order)
        canceling.cancel()
        await asyncio.wait([canceling])
        assert canceling.cancelled()
        assert loop.time() == since
        play.stage.sandbox.faults.clear()
        await asyncio.sleep(AGE)
        assert play.arrived(order) == sent
        if phase is Phase.BACK_OFF_UNSENT:
            await play.stage.sandbox.start()
        async with play.stage.gateway(
            limiter=RateLimiter(), rate_limit=UNMETERED, retry=QUICK
        ) as other:
            # A gateway that is patient about connections would take its time.
            by = other if phase is Phase.BACK_OFF_UNSENT else None
            outcome = await play.cancel(order, gateway=by)
        assert isinstance(outcome, Canceled)


@scenario()
@every_phase
@either_call
@pytest.mark.virtual_time
async def test_gateway_closed(kind: type[Stage], phase: Phase, many: bool) -> None:
    """Its caller is told at once what was proved so far, nothing more is sent, and the gateway stays closed."""
    async with interrupted(kind, phase, many=many) as (play, order, canceling):
        loop = asyncio.get_running_loop()
        since, sent = loop.time(), play.arrived(order)
        await play.gateway.aclose()
        outcome = await canceling
        assert loop.time() == since
        assert isinstance(outcome, NotSent if WIRES[phase] is Wire.NOT_SENT else Unknown)
        assert outcome.wire is WIRES[phase]
        assert outcome.message
        with pytest.raises(GatewayClosed):
            await play.gateway.cancel(order)
        await asyncio.sleep(AGE)
        assert play.arrived(order) == sent


@scenario()
@every_phase
@either_call
@pytest.mark.virtual_time
async def test_deadline(kind: type[Stage], phase: Phase, many: bool) -> None:
    """The outcome comes at the deadline and says what was proved so far; nothing more is sent."""
    since = asyncio.get_running_loop().time()
    async with interrupted(kind, phase, many=many, timeout=5.0) as (play, order, canceling):
        outcome = await canceling
        sent = play.arrived(order)
        assert 5.0 <= asyncio.get_running_loop().time() - since < 5.1
        assert isinstance(outcome, NotSent if WIRES[phase] is Wire.NOT_SENT else Unknown)
        assert outcome.wire is WIRES[phase]
        await asyncio.sleep(AGE)
        assert play.arrived(order) == sent


# -- held back by a rule about the order's age --------------------------------------------------------------------


@asynccontextmanager
async def held_back(kind: type[Stage]) -> AsyncIterator[tuple[Play, str, asyncio.Task[Any]]]:
    """Yield a cancel that waits until its order is old enough."""
    async with playing(kind) as play:
        created_at = play.stage.now()
        order = play.stage.place(created_at)
        canceling = play.begin(OrderRef(id=order, created_at=created_at))
        await asyncio.sleep(10)
        assert not canceling.done()
        yield play, order, canceling


@scenario(Ability.AGE_RULE)
@pytest.mark.virtual_time
async def test_caller_canceled_while_held_back(kind: type[Stage]) -> None:
    """Nothing was sent, and nothing is."""
    async with held_back(kind) as (play, order, canceling):
        canceling.cancel()
        await asyncio.wait([canceling])
        assert canceling.cancelled()
        await asyncio.sleep(play.stage.cancelable_after.total_seconds() + 10)
        assert play.arrived(order) == 0
        assert isinstance(await play.cancel(order), Canceled)


@scenario(Ability.AGE_RULE)
@pytest.mark.virtual_time
async def test_gateway_closed_while_held_back(kind: type[Stage]) -> None:
    """The caller is told at once that nothing was sent, and nothing is."""
    async with held_back(kind) as (play, order, canceling):
        since = asyncio.get_running_loop().time()
        await play.gateway.aclose()
        outcome = await canceling
        assert isinstance(outcome, NotSent)
        assert asyncio.get_running_loop().time() == since
        await asyncio.sleep(play.stage.cancelable_after.total_seconds() + 10)
        assert play.arrived(order) == 0


# -- several callers ----------------------------------------------------------------------------------------------


@scenario()
@pytest.mark.virtual_time
async def test_canceled_caller_leaves_the_others_alone(kind: type[Stage]) -> None:
    """Two want the same order gone, in flight: one goes, the other gets the outcome of the one request."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(drop_after(play.stage.cancel_call))
        one, other = play.begin(order), play.begin(order)
        await play.stage.sandbox.arrived(1, play.stage.cancel_call)
        one.cancel()
        outcome = await other
        assert one.cancelled()
        assert isinstance(outcome, Canceled)
        assert play.arrived(order) == outcome.attempts


@scenario()
@pytest.mark.virtual_time
async def test_canceled_caller_gives_its_turn_back(kind: type[Stage]) -> None:
    """Who leaves the queue costs the one behind it nothing."""
    async with playing(kind, rate_limit=RateLimit(1, per=10.0, margin=0.0)) as play:
        first, second, third = (play.stage.place() for _ in range(3))
        assert isinstance(await play.cancel(first), Canceled)
        leaving, staying = play.begin(second), play.begin(third)
        await until(lambda: play.number_of(Queued, play.stage.cancel_call) == 2)
        leaving.cancel()
        assert isinstance(await staying, Canceled)
        [before], [after] = play.stage.cancels(first), play.stage.cancels(third)
        assert 10.0 <= after.arrived - before.arrived < 10.5
        await asyncio.sleep(AGE)
        assert play.arrived(second) == 0


@scenario()
@pytest.mark.virtual_time
@pytest.mark.parametrize("times", [1, 3])
async def test_canceled_again_and_again(kind: type[Stage], times: int) -> None:
    """A task that is canceled more than once, in one step, ends as one that is canceled once."""
    async with interrupted(kind, Phase.IN_FLIGHT, many=False) as (play, order, canceling):
        for _ in range(times):
            canceling.cancel()
        await asyncio.wait([canceling])
        assert canceling.cancelled()
        # A newcomer does not wait for the request that everybody has deserted.
        assert isinstance(await play.cancel(order, timeout=5), Canceled)
