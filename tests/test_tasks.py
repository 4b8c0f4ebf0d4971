"""Small things about the event loop: foreign code cannot harm an order, and a task begins after its caller's step."""

from __future__ import annotations

import asyncio

import pytest

from tronsave_async.tasks import clock, guarded, start


@pytest.mark.virtual_time
async def test_the_clock_is_the_event_loops() -> None:
    """So that waiting and measuring agree."""
    began = clock()
    await asyncio.sleep(2.5)
    assert clock() - began == 2.5


@pytest.mark.parametrize("error", [LookupError("a bug"), asyncio.CancelledError()])
async def test_what_foreign_code_raises_goes_to_the_event_loop(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller goes on; who looks after the loop is told which callback raised what."""
    contexts: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_exception_handler", contexts.append)

    def fails(_: int) -> None:
        raise error

    guarded(fails, 7, "on_outcome")
    assert contexts == [{"message": "on_outcome raised", "exception": error}]


async def test_foreign_code_gets_its_argument() -> None:
    """And whatever it returns is of no interest."""
    got: list[int] = []

    def callback(number: int) -> str:
        got.append(number)
        return "ignored"

    guarded(callback, 7, "on_outcome")
    assert got == [7]


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit])
async def test_an_order_to_stop_the_program_is_obeyed(ends: type[BaseException]) -> None:
    """What ends the program is nobody's to swallow."""

    def stop(_: int) -> None:
        raise ends

    with pytest.raises(ends):
        guarded(stop, 7, "on_outcome")


async def test_a_task_begins_after_its_callers_step() -> None:
    """Also where tasks begin at once."""
    order: list[str] = []

    async def work() -> None:
        order.append("task")

    if (eager := getattr(asyncio, "eager_task_factory", None)) is not None:
        asyncio.get_running_loop().set_task_factory(eager)
    task = start(work())
    order.append("caller")
    await task
    assert order == ["caller", "task"]
