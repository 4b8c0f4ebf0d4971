"""Cancels that are sent and read without a task: what a fault, a caller or the gateway does to them in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from brokers.ripio import RipioGateway, verdict
from brokers.ripio.sandbox import OrderState
from support.ripio import lie, strict, vendor
from tronsave_async import (
    Answered,
    Canceled,
    Evidence,
    GatewayClosed,
    NotSent,
    OrderRef,
    RateLimit,
    Unknown,
    UsageError,
    VendorError,
)
from tronsave_async import sandbox as faults

if TYPE_CHECKING:
    from brokers.ripio.sandbox import RipioSandbox
    from tronsave_async import CancelOutcome

pytestmark = pytest.mark.virtual_time


LIMIT_ORDER: Any = {"pair": "BTC_BRL", "side": "buy", "type": "limit", "amount": 1, "price": 1}


def judge(sandbox: RipioSandbox, *outcomes: CancelOutcome) -> None:
    """No outcome lies."""
    assert [lie(sandbox, outcome) for outcome in outcomes] == [None] * len(outcomes)


async def test_no_task_is_started_for_a_cancel_that_need_not_wait() -> None:
    """On an idle scope, with the connection standing, the caller's task is the only one."""
    async with vendor() as (sandbox, gateway):
        await gateway.warm_up()
        before = asyncio.all_tasks()
        cancel = asyncio.create_task(gateway.cancel(sandbox.add_order()))
        seen: set[asyncio.Task[object]] = set()
        while not cancel.done():
            seen |= asyncio.all_tasks()
            await asyncio.sleep(0)
        assert isinstance(cancel.result(), Canceled)
        assert seen - before == {cancel}


async def test_a_caller_that_goes_before_it_is_written_leaves_no_trace() -> None:
    """While the connection is being opened: nothing is sent, and the permit is there for the next."""
    async with vendor() as (sandbox, gateway):
        cancel = asyncio.create_task(gateway.cancel(sandbox.add_order()))
        await asyncio.sleep(0)
        assert gateway._socket._outbox, "it waits there, with its permit"
        cancel.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancel
        assert not gateway._socket._outbox
        assert [
            each.in_hand for each in gateway._dispatch.admission.limiter.statistics().values()
        ] == [
            0,
            0,
        ]
        assert isinstance(await gateway.cancel(sandbox.add_order()), Canceled)
        assert len(sandbox.requests_to("cancel")) == 1


async def test_callers_of_one_order_share_its_request() -> None:
    """Whoever comes while it is under way waits for it, and one who goes takes nothing from the others."""
    async with vendor() as (sandbox, gateway):
        await gateway.warm_up()
        order = sandbox.add_order()
        callers = [asyncio.create_task(gateway.cancel(order)) for _ in range(5)]
        await asyncio.sleep(0)
        callers[0].cancel()
        outcomes = await asyncio.gather(*callers[1:])
        assert all(isinstance(outcome, Canceled) for outcome in outcomes)
        judge(sandbox, *outcomes)
        assert len(sandbox.requests_to("cancel")) == 1
        assert callers[0].cancelled()


async def test_a_fault_of_ours_in_reading_a_reply_harms_one_order(
    monkeypatch: pytest.MonkeyPatch, loop_errors: list[str]
) -> None:
    """The order is read back, the fault is reported, and the connection is read on."""
    async with vendor() as (sandbox, gateway):
        await gateway.warm_up()
        with monkeypatch.context() as patch:
            patch.setattr(verdict, "cancel_verdict", lambda *_: 1 // 0)
            outcome = await gateway.cancel(sandbox.add_order(), timeout=30)
        assert isinstance(outcome, Canceled)
        assert outcome.evidence is Evidence.READ_BACK
        reported = loop_errors[:]
        loop_errors.clear()
        assert any("ZeroDivisionError" in error for error in reported)
        after = await gateway.cancel(sandbox.add_order())
        assert isinstance(after, Canceled)
        judge(sandbox, outcome, after)


async def test_a_fault_of_ours_in_reading_a_late_reply_harms_nobody(
    monkeypatch: pytest.MonkeyPatch, loop_errors: list[str]
) -> None:
    """It is reported, and the connection with all that is under way on it is read on."""
    async with vendor(gateway_request_timeout=0.5) as (sandbox, gateway):
        await gateway.warm_up()
        sandbox.faults.add(faults.late("cancel", delay=0.8))
        order = sandbox.add_order()
        with monkeypatch.context() as patch:
            patch.setattr(RipioGateway, "_hear_late", lambda *_: 1 // 0)
            outcome = await gateway.cancel(order, timeout=0.6)
            await asyncio.sleep(0.5)
        assert any("ZeroDivisionError" in error for error in loop_errors)
        loop_errors.clear()
        after = await gateway.cancel(sandbox.add_order())
        assert isinstance(after, Canceled)
        judge(sandbox, outcome, after)
        assert gateway._socket.connections == 1


async def test_a_new_order_does_not_share_the_cancel_of_the_old_one_of_its_name() -> None:
    """Also where that still waited for its permit when the new order was asked for: it left before the new one."""
    limit = RateLimit(1, per=0.2, margin=0.0)
    async with vendor(gateway_rate_limit=limit) as (sandbox, gateway):
        await gateway.warm_up()
        name = OrderRef(client_id="mine")
        sandbox.add_order(external_id="mine")
        await gateway.cancel(sandbox.add_order())
        sandbox.faults.add(faults.late("cancel", delay=1.5))
        old = asyncio.create_task(gateway.cancel(name))
        await asyncio.sleep(0)
        created = await gateway.create(**LIMIT_ORDER, external_id="mine")
        assert not old.done()
        outcome = await gateway.cancel(name)
        assert isinstance(outcome, Canceled)
        assert sandbox.orders[created.id].state is OrderState.CANCELED
        assert isinstance(await old, Canceled)
        assert len(sandbox.requests_to("cancel")) == 3


async def test_a_creation_that_fails_leaves_the_doubt_about_the_old_order_of_its_name() -> None:
    """The name is the old order's still: what became of its cancel is not known."""
    async with vendor(strict(external_id_unique=True)) as (sandbox, gateway):
        await gateway.warm_up()
        name = OrderRef(client_id="mine")
        sandbox.add_order(external_id="mine")
        sandbox.faults.add(faults.hang_before("cancel", times=10))
        assert isinstance(await gateway.cancel(name, timeout=0.2), Unknown)
        with pytest.raises(UsageError):
            await gateway.create(**LIMIT_ORDER, external_id="mine", timeout=-1.0)
        with pytest.raises(VendorError):
            await gateway.create(**LIMIT_ORDER, external_id="mine")
        assert gateway._dispatch.cancels._doubts.hold(name)


async def test_a_creation_ends_the_doubt_about_the_old_order_of_its_name() -> None:
    """There is a new order, whose cancel nobody asked for: not found is believed of it, and nothing is in doubt."""
    async with vendor() as (sandbox, gateway):
        await gateway.warm_up()
        name = OrderRef(client_id="mine")
        sandbox.add_order(external_id="mine")
        sandbox.faults.add(faults.hang_before("cancel", times=10))
        assert isinstance(await gateway.cancel(name, timeout=0.2), Unknown)
        created = await gateway.create(**LIMIT_ORDER, external_id="mine")
        assert created.external_id == "mine"
        assert not gateway._dispatch.cancels._doubts.hold(name)


async def test_the_time_of_an_outcome_is_when_its_caller_has_it() -> None:
    """Where somebody keeps the event loop busy after the reply, that belongs to it."""
    loop: Any = asyncio.get_running_loop()

    def dawdle(event: object) -> None:
        if isinstance(event, Answered):
            loop._clock.now += 3.0

    async with vendor(gateway_telemetry=dawdle) as (sandbox, gateway):
        await gateway.warm_up()
        order = sandbox.add_order()
        started = loop.time()
        outcome = await gateway.cancel(order)
        assert isinstance(outcome, Canceled)
        assert outcome.elapsed == pytest.approx(loop.time() - started)
        assert outcome.elapsed >= 3.0


async def test_a_closing_gateway_ends_what_waits_to_be_written() -> None:
    """Closed while the connection is being opened, nothing is sent."""
    async with vendor() as (sandbox, gateway):
        cancel = asyncio.create_task(gateway.cancel(sandbox.add_order()))
        await asyncio.sleep(0)
        await gateway.aclose()
        outcome = await cancel
        assert isinstance(outcome, NotSent)
        judge(sandbox, outcome)
        assert len(sandbox.requests_to("cancel")) == 0
        with pytest.raises(GatewayClosed):
            await gateway.cancel("an order")
