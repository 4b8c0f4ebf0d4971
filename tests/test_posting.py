"""Cancels that are sent and read without a task: what a fault, a caller or the gateway does to them in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from brokers.ripio import verdict
from support.ripio import lie, vendor
from tronsave_async import Canceled, Evidence, GatewayClosed, NotSent

if TYPE_CHECKING:
    from brokers.ripio.sandbox import RipioSandbox
    from tronsave_async import CancelOutcome

pytestmark = pytest.mark.virtual_time


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
        assert [each.in_hand for each in gateway._dispatch._shared().statistics().values()] == [
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
