"""Every code block of the README runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from brokers.ripio import RipioGateway
from brokers.ripio.sandbox import OrderState as BookState
from brokers.ripio.sandbox import RipioSandbox
from brokers.sms4sats import Sms4SatsGateway
from brokers.sms4sats.sandbox import Sms4SatsSandbox
from brokers.tronsave import TronSaveGateway
from brokers.tronsave.sandbox import TronSaveSandbox
from tronsave_async import (
    AlreadyClosed,
    Canceled,
    NotSent,
    OrderState,
    RateLimit,
    RetryPolicy,
    Unknown,
)
from tronsave_async.sandbox import drop_after, server_error

README = Path(__file__).parent.parent / "README.md"


def blocks() -> dict[str, Any]:
    """Run the README's Python blocks one after the other in one namespace, as a reader would."""
    namespace: dict[str, Any] = {"__name__": "readme"}
    for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(compile(code, str(README), "exec"), namespace)
    return namespace


async def test_first_cancel() -> None:
    """The first example cancels an order, and tells a fill from a cancel."""
    readme = blocks()
    async with TronSaveSandbox(window=0.02) as sandbox:
        order_id, filled = sandbox.add_order(), sandbox.add_order()
        sandbox.match(filled)
        limit = RateLimit(1, per=0.02, margin=0.02)
        async with TronSaveGateway(
            sandbox.api_key, base_url=sandbox.url, rate_limit=limit
        ) as gateway:
            assert isinstance(await readme["get_rid_of"](gateway, order_id), Canceled)
            outcome = await readme["get_rid_of"](gateway, filled)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.FILLED


async def test_many_orders() -> None:
    """The second example names the orders that are still to be looked after."""
    readme = blocks()
    async with TronSaveSandbox() as sandbox:
        ids = [sandbox.add_order() for _ in range(3)]
        async with TronSaveGateway(sandbox.api_key, base_url=sandbox.url) as gateway:
            assert await readme["get_rid_of_all"](gateway, [*ids, ""]) == [""]


@pytest.mark.virtual_time
async def test_own_calls() -> None:
    """The third example rents energy."""
    readme = blocks()
    async with TronSaveSandbox() as sandbox:
        async with TronSaveGateway(sandbox.api_key, base_url=sandbox.url) as gateway:
            ids = await readme["rent_energy"](gateway, ["TQk2eKHE9ZfCdVmyPnh8DfRMUF0123456"])
        assert list(sandbox.orders) == ids


async def test_service_and_bot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of a service opens a gateway by name; the example of a bot reads again what nobody proved."""
    readme = blocks()
    async with TronSaveSandbox(window=0.02) as sandbox:
        limit = RateLimit(1, per=0.02, margin=0.02)
        gateway = TronSaveGateway(sandbox.api_key, base_url=sandbox.url, rate_limit=limit)
        monkeypatch.setattr(readme["ta"], "open_gateway", lambda vendor, **_: gateway)
        order_id = sandbox.add_order()
        sandbox.faults.add(drop_after("cancel"), *[server_error("track") for _ in range(4)])
        application: dict[str, Any] = {}
        async with readme["lifespan"](application):
            left = await readme["stop"](application["gateway"], [order_id])
    [(outcome, snapshot)] = left
    assert isinstance(outcome, Unknown)
    assert snapshot.state is OrderState.CANCELED


async def test_stop_out_of_reach() -> None:
    """A stop tells every order that nobody proved dead, also where the vendor cannot be reached."""
    readme = blocks()
    async with TronSaveSandbox(window=0.02) as sandbox:
        order_id = sandbox.add_order()
    limit, retry = RateLimit(1, per=0.02, margin=0.02), RetryPolicy(base=0.001)
    async with TronSaveGateway(
        sandbox.api_key, base_url=sandbox.url, rate_limit=limit, retry=retry
    ) as gateway:
        [(outcome, snapshot)] = await readme["stop"](gateway, [order_id])
    assert isinstance(outcome, NotSent)
    assert snapshot is None


async def test_number() -> None:
    """The example of a number waits for the moment in which a cancel is permitted; here the caller does not."""
    readme = blocks()
    async with (
        Sms4SatsSandbox() as sandbox,
        Sms4SatsGateway(base_url=sandbox.url, early="send") as gateway,
    ):
        outcome = await readme["get_a_number"](gateway)
    assert isinstance(outcome, Canceled)


async def test_exchange() -> None:
    """The exchange's example creates an order by its own id and cancels it."""
    readme = blocks()
    async with (
        RipioSandbox(requests_per_window=10) as sandbox,
        RipioGateway(
            sandbox.api_token,
            sandbox.secret,
            ws_url=sandbox.ws_url,
            rest_url=sandbox.rest_url,
            rate_limit=RateLimit(10, per=1.0),
        ) as gateway,
    ):
        assert isinstance(await readme["trade"](gateway), Canceled)
    [order] = sandbox.orders.values()
    assert (order.external_id, order.state) == ("bot-7-000123", BookState.CANCELED)


@pytest.mark.virtual_time
async def test_test_of_a_bot() -> None:
    """The examples of a bot's own tests pass."""
    readme = blocks()
    await readme["test_bot_survives_a_lost_reply"]()
    await readme["test_bot_sees_a_fill"]()
