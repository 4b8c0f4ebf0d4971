"""Gateways: who opens and closes them, and what they share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tronsave_async import (
    Canceled,
    GatewayClosed,
    OrderRef,
    RateLimit,
    RateLimiter,
    UsageError,
)

from .play import playing
from .scenario import scenario
from .stage import UNMETERED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tronsave_async import OrderGateway

    from .stage import Stage


@scenario()
async def test_opened_in_one_task_and_closed_in_another(kind: type[Stage]) -> None:
    """One task opens it, others use it, one more closes it, and a canceled opener takes nothing with it."""
    async with playing(kind) as play:
        opened: asyncio.Future[OrderGateway] = asyncio.get_running_loop().create_future()

        async def opening() -> None:
            opened.set_result(await play.stage.gateway(rate_limit=UNMETERED).__aenter__())
            await asyncio.Event().wait()

        opener = asyncio.create_task(opening())
        gateway = await opened
        orders = [play.stage.place() for _ in range(4)]
        first = asyncio.create_task(play.cancel(orders[0], gateway=gateway))
        assert isinstance(await first, Canceled)
        opener.cancel()
        users = [play.cancel(order, gateway=gateway) for order in orders[1:]]
        assert [type(outcome) for outcome in await asyncio.gather(*users)] == [Canceled] * 3
        await asyncio.create_task(gateway.aclose())
        assert opener.cancelled()
        with pytest.raises(GatewayClosed):
            await gateway.cancel(orders[0])


@scenario()
async def test_closed_by_several_at_once(kind: type[Stage]) -> None:
    """Closing is idempotent, also while another closes, and also of a gateway that was never used."""
    async with playing(kind) as play:
        assert isinstance(await play.cancel(play.stage.place()), Canceled)
        await asyncio.gather(*(play.gateway.aclose() for _ in range(3)))
        await play.gateway.aclose()
        unused = play.stage.gateway()
        await unused.aclose()
        with pytest.raises(GatewayClosed):
            await unused.__aenter__()
        with pytest.raises(GatewayClosed):
            await unused.cancel_many([play.stage.place()])


@scenario()
async def test_closing_that_is_canceled(kind: type[Stage]) -> None:
    """Whoever waits for the closing may go: it goes on."""
    async with playing(kind) as play:
        assert isinstance(await play.cancel(play.stage.place()), Canceled)
        closing = asyncio.create_task(play.gateway.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await play.gateway.aclose()
        with pytest.raises(GatewayClosed):
            await play.gateway.cancel("order")


async def aiter_of(order: str) -> AsyncIterator[str]:
    """Yield one order."""
    yield order


@scenario()
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "5", True])
async def test_wrong_usage(kind: type[Stage], timeout: object) -> None:
    """A call that is wrong by itself is refused, and nothing is sent."""
    async with playing(kind) as play:
        order = play.stage.place()
        for wrong in ("", OrderRef(id="x" * 10_000), 7):
            with pytest.raises(UsageError):
                await play.gateway.cancel(wrong)  # type: ignore[arg-type]
            with pytest.raises(UsageError):
                await play.gateway.get_order(wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            await play.gateway.cancel(order, timeout=timeout)  # type: ignore[arg-type]
        for one in (order, OrderRef(id=order)):
            with pytest.raises(UsageError, match="takes several orders; cancel takes one"):
                await play.gateway.cancel_many(one)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="on_outcome must be callable"):
            await play.gateway.cancel_many([order], on_outcome=5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="a list or another iterable, not async_generator"):
            await play.gateway.cancel_many(one async for one in aiter_of(order))  # type: ignore[arg-type]
        await asyncio.sleep(0.005)
        assert play.arrived(order) == 0


@scenario()
@pytest.mark.virtual_time
async def test_two_gateways_share_the_account_s_budget(kind: type[Stage]) -> None:
    """Two gateways on one account, not told of each other, keep the vendor's limit together, at its full pace."""
    limit = RateLimit(2, per=1.0, margin=0.05)
    async with (
        playing(kind, limit=(2, 1.0), limiter=None, rate_limit=limit) as play,
        play.stage.gateway(rate_limit=limit) as other,
    ):
        loop = asyncio.get_running_loop()
        since = loop.time()

        async def one_after_the_other(gateway: OrderGateway) -> None:
            for _ in range(5):
                order = play.stage.place()
                outcome = await play.cancel(order, timeout=60, gateway=gateway)
                assert isinstance(outcome, Canceled)
                assert outcome.attempts == 1

        await asyncio.gather(one_after_the_other(play.gateway), one_after_the_other(other))
        assert play.stage.sandbox.rejections == 0
        assert len(play.stage.sandbox.requests_to(play.stage.cancel_call)) == 10
        assert loop.time() - since == pytest.approx(4 * limit.span, abs=0.1)


@scenario()
@pytest.mark.virtual_time
async def test_two_gateways_with_a_limiter_of_the_caller_s(kind: type[Stage]) -> None:
    """So do two that are given one limiter."""
    limit, shared = RateLimit(1, per=1.0, margin=0.05), RateLimiter()
    async with (
        playing(kind, limit=(1, 1.0), limiter=shared, rate_limit=limit) as play,
        play.stage.gateway(rate_limit=limit, limiter=shared) as other,
    ):
        orders = [play.stage.place() for _ in range(6)]
        calls = [
            play.cancel(order, timeout=60, gateway=(play.gateway, other)[number % 2])
            for number, order in enumerate(orders)
        ]
        assert {type(outcome) for outcome in await asyncio.gather(*calls)} == {Canceled}
        assert play.stage.sandbox.rejections == 0
