"""`get_order`: what the vendor says, or an error that says why not; never a guess."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tronsave_async import (
    ConnectFailed,
    GatewayClosed,
    GatewayError,
    OrderNotFound,
    OrderState,
    RequestFailed,
    RequestTimeout,
    RetryPolicy,
    VendorError,
)
from tronsave_async.sandbox import drop_before, hang_before, rate_limited, server_error

from .play import playing
from .scenario import scenario
from .stage import QUICK, Ability

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async.sandbox import Fault

    from .play import Play
    from .stage import Stage


async def state_of(play: Play, order: str) -> OrderState:
    """Read an order's state; its amounts must be the vendor's, where there are any."""
    snapshot = await play.gateway.get_order(order)
    record = play.stage.record(order)
    assert record is not None
    assert (snapshot.venue, snapshot.order.id) == (play.stage.venue, order)
    assert snapshot.executed in (None, record.executed)
    assert snapshot.remaining in (None, record.remaining)
    return snapshot.state


@scenario()
async def test_states(kind: type[Stage]) -> None:
    """Open, filled and canceled orders read as what they are."""
    async with playing(kind) as play:
        alive, filled, canceled = (play.stage.place() for _ in range(3))
        play.stage.fill(filled)
        play.stage.sandbox.cancel_behind_back(canceled)
        assert await state_of(play, alive) is OrderState.OPEN
        assert await state_of(play, filled) is OrderState.FILLED
        assert await state_of(play, canceled) is OrderState.CANCELED


@scenario(Ability.PARTIAL_FILLS)
async def test_partly_filled(kind: type[Stage]) -> None:
    """So does one that is filled in part, with its amounts."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.fill_partly(order)
        assert await state_of(play, order) is OrderState.PARTIALLY_FILLED
        assert (await play.gateway.get_order(order)).executed


@scenario(Ability.EXPIRY)
async def test_expired(kind: type[Stage]) -> None:
    """And one that the vendor ended by itself."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.expire(order)
        assert await state_of(play, order) is play.stage.expiry_reads_as


@scenario()
async def test_read_unknown_id(kind: type[Stage]) -> None:
    """The vendor's words, or no state: never an open, filled or dead order."""
    async with playing(kind) as play:
        told: OrderState | None
        try:
            told = (await play.gateway.get_order(play.stage.stranger())).state
        except OrderNotFound:
            told = None
        assert told in (None, OrderState.UNKNOWN)


@scenario()
@pytest.mark.virtual_time
@pytest.mark.parametrize("weather", [drop_before, server_error, rate_limited, hang_before])
async def test_a_read_is_repeated(kind: type[Stage], weather: Callable[[str], Fault]) -> None:
    """Once lost, refused for now or failed, and read by the second request."""
    async with playing(kind) as play:
        order, call = play.stage.place(), play.stage.read_calls[0]
        play.stage.sandbox.faults.add(weather(call))
        assert await state_of(play, order) is OrderState.OPEN
        assert len(play.stage.sandbox.requests_to(call)) == 2


@scenario()
async def test_a_read_fails(kind: type[Stage]) -> None:
    """As often as the policy says, and not once more; then it is an error."""
    async with playing(kind) as play:
        order, call = play.stage.place(), play.stage.read_calls[0]
        assert await state_of(play, order) is OrderState.OPEN
        play.stage.sandbox.faults.add(drop_before(call, times=99))
        with pytest.raises(RequestFailed):
            await play.gateway.get_order(order)
        assert len(play.stage.sandbox.requests_to(call)) == 1 + QUICK.attempts
        play.stage.sandbox.faults.clear()
        play.stage.sandbox.faults.add(server_error(call, status=503, times=99))
        with pytest.raises((VendorError, RequestFailed)):
            await play.gateway.get_order(order)
        assert len(play.stage.sandbox.requests_to(call)) == 1 + 2 * QUICK.attempts


@scenario()
async def test_exactly_one_request_for_each_read(kind: type[Stage]) -> None:
    """Libraries repeat a GET by themselves on a connection that stood before: here nobody does."""
    async with playing(kind, retry=RetryPolicy(attempts=1)) as play:
        order, call = play.stage.place(), play.stage.read_calls[0]
        assert await state_of(play, order) is OrderState.OPEN
        play.stage.sandbox.faults.add(drop_before(call, times=9))
        with pytest.raises(RequestFailed):
            await play.gateway.get_order(order)
        assert len(play.stage.sandbox.requests_to(call)) == 2


@scenario()
@pytest.mark.virtual_time
async def test_a_read_hangs(kind: type[Stage]) -> None:
    """Time runs out: a timeout, also for those who catch `TimeoutError`."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(hang_before(play.stage.read_calls[0]))
        with pytest.raises(RequestTimeout) as caught:
            await play.gateway.get_order(order, timeout=5)
        assert isinstance(caught.value, TimeoutError)


@scenario()
async def test_nobody_to_read_from(kind: type[Stage]) -> None:
    """A refused connection is told as such."""
    async with playing(kind) as play:
        order = play.stage.place()
        await play.stage.sandbox.aclose()
        with pytest.raises(ConnectFailed):
            await play.gateway.get_order(order)


@scenario()
async def test_read_while_the_gateway_closes(kind: type[Stage]) -> None:
    """A read under way ends at once with an error of ours; one after it is told that the gateway is closed."""
    async with playing(kind) as play:
        order, call = play.stage.place(), play.stage.read_calls[0]
        play.stage.sandbox.faults.add(hang_before(call))
        reading = asyncio.create_task(play.gateway.get_order(order))
        await play.stage.sandbox.arrived(1, call)
        await play.gateway.aclose()
        with pytest.raises(GatewayError):
            await reading
        with pytest.raises(GatewayClosed):
            await play.gateway.get_order(order)
