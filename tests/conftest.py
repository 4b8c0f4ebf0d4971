"""
How the suite runs: on asyncio in debug mode, one fresh event loop per test, nothing left behind.

Any `async def test_...` runs by itself. `@pytest.mark.virtual_time` runs it on a loop whose clock
jumps to the next timer (`support.virtual_time`). An asynchronous test fails if it leaves a task, a
socket, an un-awaited coroutine or an error reported to the event loop (`support.leaks`).
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from anyio.pytest_plugin import get_runner
from hypothesis import HealthCheck, settings

from support.leaks import LoopErrors, leftover_sockets, leftover_tasks, open_sockets
from support.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

FAILED = pytest.StashKey[bool]()

settings.register_profile(
    "suite",
    # A loaded machine is no bug, and a shared runner cannot promise 200 ms.
    deadline=None,
    # `anyio_backend` serves all examples of a property: each brings its own state to the one loop.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Exempt what importing has made from garbage collection, which runs after every async test."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failure: its traceback keeps objects alive that would look like leaks."""
    report = yield
    item.stash[FAILED] = report.failed or item.stash.get(FAILED, False)
    return report


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """
    Run the test on a fresh event loop, then check what it left behind.

    Every asynchronous fixture depends on this one, so this is the last to be torn down. Holding a
    lease on the runner keeps the loop open until the tasks have been counted.
    """
    virtual = request.node.get_closest_marker("virtual_time") is not None
    loop_factory = VirtualTimeLoop if virtual else asyncio.new_event_loop
    options = {"debug": True, "loop_factory": loop_factory}
    sockets = open_sockets()
    errors = LoopErrors()
    tasks: list[str] = []
    with get_runner("asyncio", options) as runner:
        loop, own = runner.run_fixture(errors.listen, {})
        yield "asyncio", options
        failed = request.node.stash.get(FAILED, False)
        if not failed:
            tasks = loop.run_until_complete(leftover_tasks(own))
    if not failed:
        report_leaks(tasks, leftover_sockets(sockets), errors.reports)


def report_leaks(tasks: list[str], sockets: list[str], errors: list[str]) -> None:
    """Fail the test, naming everything that it left behind."""
    leaks = [
        *(f"task left running: {task}" for task in tasks),
        *(f"left open: {end}" for end in sockets),
        *(f"reported to the event loop: {error}" for error in errors),
    ]
    if leaks:
        pytest.fail("\n".join(leaks), pytrace=False)
