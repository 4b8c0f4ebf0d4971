"""Many orders: one outcome for each, in order, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tronsave_async import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    NotSent,
    OrderRef,
    OrderState,
    RateLimit,
    RetryPolicy,
)
from tronsave_async.sandbox import (
    drop_after,
    drop_before,
    fill_in_the_race,
    hang_before,
    late,
    malformed_json,
    rate_limited,
    server_error,
    truncated,
)

from .play import playing
from .scenario import scenario

if TYPE_CHECKING:
    from .stage import Stage

PERSISTENT = RetryPolicy(attempts=50, base=0.001, cap=0.002, quota=1e6, quota_refill=1e6)

numbers = pytest.mark.parametrize("number", [1, 500])


@scenario()
@numbers
async def test_all_canceled(kind: type[Stage], number: int) -> None:
    """With as few requests as the vendor allows, and each is told as soon as it is known."""
    told: list[CancelOutcome] = []
    async with playing(kind) as play:
        orders = [play.stage.place() for _ in range(number)]
        outcomes = await play.cancel_many(orders, on_outcome=told.append)
        assert [type(outcome) for outcome in outcomes] == [Canceled] * number
        assert Counter(map(id, told)) == Counter(map(id, outcomes))
        requests = play.stage.sandbox.requests_to(play.stage.cancel_call)
        assert len(requests) == math.ceil(number / play.stage.cancels_per_request)


@scenario()
@numbers
async def test_many_callers(kind: type[Stage], number: int) -> None:
    """As many tasks that cancel one order each."""
    async with playing(kind) as play:
        orders = [play.stage.place() for _ in range(number)]
        outcomes = await asyncio.gather(*map(play.cancel, orders))
        assert [type(outcome) for outcome in outcomes] == [Canceled] * number
        assert {play.arrived(order) for order in orders} == {1}


@scenario()
async def test_mixed(kind: type[Stage]) -> None:
    """Open, filled and canceled orders and one nobody knows, in one call: each gets its own truth, in its place."""
    async with playing(kind) as play:
        orders = [play.stage.place() for _ in range(60)]
        for order in orders[1::3]:
            play.stage.fill(order)
        for order in orders[2::3]:
            play.stage.sandbox.cancel_behind_back(order)
        stranger = play.stage.stranger()
        outcomes = await play.cancel_many([*orders, stranger])
        assert [outcome.order.id for outcome in outcomes] == [*orders, stranger]
        assert {type(outcome) for outcome in outcomes[:60:3]} == {Canceled}
        for offset, state in ((1, OrderState.FILLED), (2, OrderState.CANCELED)):
            found = {
                outcome.state if isinstance(outcome, AlreadyClosed) else None
                for outcome in outcomes[offset:60:3]
            }
            assert found == {state}
        assert not outcomes[-1].closed
        assert not isinstance(outcomes[-1], NotSent)


@scenario()
async def test_equal_ids(kind: type[Stage]) -> None:
    """An order that is named twice is canceled once, and told twice."""
    async with playing(kind) as play:
        order = play.stage.place()
        outcomes = await play.cancel_many([order, OrderRef(id=order), order])
        assert [type(outcome) for outcome in outcomes] == [Canceled] * 3
        assert play.arrived(order) == 1


@scenario()
async def test_one_that_cannot_be_sent(kind: type[Stage]) -> None:
    """An id that cannot be one is not sent, and disturbs nobody."""
    async with playing(kind) as play:
        one, other = play.stage.place(), play.stage.place()
        outcomes = await play.cancel_many([one, "", other])
        assert [type(outcome) for outcome in outcomes] == [Canceled, NotSent, Canceled]
        assert await play.cancel_many([]) == []


@scenario()
@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", [1, 2])
async def test_many_in_bad_weather(kind: type[Stage], seed: int) -> None:
    """Every tenth request meets some fault, fills in the race among them: everybody gets one true outcome."""
    async with playing(kind, retry=PERSISTENT) as play:
        orders = [play.stage.place() for _ in range(500)]
        call = play.stage.cancel_call
        faults = [
            drop_after(call),
            drop_before(call, reset=True),
            server_error(call, status=503),
            server_error(call, status=500, processed=True),
            truncated(call),
            malformed_json(call),
            fill_in_the_race(call),
            late(call, delay=0.01),
            hang_before(call),
            rate_limited(call),
        ]
        play.stage.sandbox.faults.chaos(faults, rate=0.1, seed=seed)
        outcomes = await play.cancel_many(orders)
        kinds = Counter(type(outcome) for outcome in outcomes)
        assert kinds.keys() <= {Canceled, AlreadyClosed}
        assert kinds[Canceled] > 250


@scenario()
@pytest.mark.virtual_time
async def test_deadline_of_many(kind: type[Stage]) -> None:
    """Those whose turn came are canceled, those whose turn did not come were not sent, now and later."""
    async with playing(kind, rate_limit=RateLimit(1, per=1.0, margin=0.0)) as play:
        number = 10 * play.stage.cancels_per_request
        orders = [play.stage.place() for _ in range(number)]
        outcomes = await play.cancel_many(orders, timeout=3.5)
        kinds = Counter(type(outcome) for outcome in outcomes)
        assert kinds == {
            Canceled: 4 * play.stage.cancels_per_request,
            NotSent: 6 * play.stage.cancels_per_request,
        }
        await asyncio.sleep(60)
        sent = {order for order in orders if play.arrived(order)}
        assert sent == {o.order.id for o in outcomes if isinstance(o, Canceled)}


@scenario()
@pytest.mark.virtual_time
async def test_gateway_closed_under_many(kind: type[Stage]) -> None:
    """Closing in the middle: one outcome for each all the same, and nothing is sent any more."""
    async with playing(kind, rate_limit=RateLimit(1, per=1.0, margin=0.0)) as play:
        orders = [play.stage.place() for _ in range(10 * play.stage.cancels_per_request)]
        canceling = asyncio.create_task(play.cancel_many(orders))
        await asyncio.sleep(3.5)
        await play.gateway.aclose()
        kinds = Counter(type(outcome) for outcome in await canceling)
        assert kinds == {
            Canceled: 4 * play.stage.cancels_per_request,
            NotSent: 6 * play.stage.cancels_per_request,
        }


@scenario()
@pytest.mark.virtual_time
async def test_caller_of_many_canceled(kind: type[Stage]) -> None:
    """Its orders leave the queue; those of another call stay in it."""
    async with playing(kind, rate_limit=RateLimit(1, per=1.0, margin=0.0)) as play:
        orders = [play.stage.place() for _ in range(10 * play.stage.cancels_per_request)]
        other = play.stage.place()
        leaving = asyncio.create_task(play.cancel_many(orders))
        await asyncio.sleep(3.5)
        staying = play.begin(other)
        await asyncio.sleep(0)
        leaving.cancel()
        assert isinstance(await staying, Canceled)
        assert leaving.cancelled()
        await asyncio.sleep(60)
        assert sum(play.arrived(order) for order in orders) == 4 * play.stage.cancels_per_request
