"""
How the suite runs: one fresh event loop per test, nothing left behind.

The loops are in debug mode, unless `PYTHONASYNCIODEBUG` is set and empty: debug mode costs more than the tests, so the
project's runner leaves it to one interpreter.

Any `async def test_...` runs by itself. `@pytest.mark.virtual_time` runs it on a loop whose clock
jumps to the next timer (`support.virtual_time`). An asynchronous test fails if it leaves a task, a
socket, an un-awaited coroutine or an error reported to the event loop (`support.leaks`).
"""

from __future__ import annotations

import gc
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest
from anyio.pytest_plugin import get_runner
from hypothesis import HealthCheck, settings

from support import tally
from support.canary import sightings
from support.effort import either
from support.interruptible import InterruptibleLoop
from support.leaks import LoopErrors, leftover_sockets, leftover_tasks, open_sockets
from support.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

DEBUG = os.environ.get("PYTHONASYNCIODEBUG") != ""

FAILED = pytest.StashKey[bool]()
REPORTED = pytest.StashKey[list[str]]()

settings.register_profile(
    "suite",
    # A loaded machine is no bug, and a shared runner cannot promise 200 ms.
    deadline=None,
    # `anyio_backend` serves all examples of a property: each brings its own state to the one loop.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


ONCE = frozenset(
    {
        *(
            "test_arguments",
            "test_benchmarks",
            "test_blot",
            "test_cli",
            "test_commands",
            "test_demo",
            "test_errors",
            "test_layering",
            "test_orders",
        ),
        *("test_outcomes", "test_quota", "test_repository", "test_retry", "test_settlement"),
        *("test_sandbox_faults", "test_sandbox_sockets"),
        *(
            "test_tronsave_history",
            "test_tronsave_sandbox",
            "test_tronsave_verdict",
            "test_tronsave_wire",
        ),
        *(
            "test_ripio_auth",
            "test_ripio_clock",
            "test_ripio_sandbox",
            "test_ripio_verdict",
            "test_ripio_wire",
        ),
        *("test_sms4sats_sandbox", "test_sms4sats_verdict", "test_sms4sats_wire"),
    }
)
"""Modules that one interpreter answers for all: pure decisions, the simulators themselves, the command line."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the runner leaves to one interpreter, and what none is spared."""
    for item in items:
        is_proof = item.get_closest_marker("proof") is not None
        if item.path.stem in ONCE or is_proof:
            item.add_marker("once")
        if is_proof and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(either(120, 3000)))
        if item.path.parent.name == "contract":
            item.add_marker("contract")


def pytest_collection_finish() -> None:
    """Exempt what importing has made from garbage collection, which runs after every async test."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Exempt what a module's tests have left for good (reports, caches) as well: with thousands of tests behind it,
    collecting would take longer than a test."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was tried and judged."""
    if tally.counted:
        terminalreporter.section("tried and judged")
        for row in tally.rows():
            terminalreporter.write_line(row)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failure: its traceback keeps objects alive that would look like leaks."""
    report = yield
    item.stash[FAILED] = report.failed or item.stash.get(FAILED, False)
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Let the canary read every record: pytest sets the level for what it keeps, so this must be the inner wrapper."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    try:
        return (yield)
    finally:
        root.setLevel(level)


@pytest.fixture(autouse=True)
def canary() -> Iterator[None]:
    """Fail the test that shows the suite's secret in a log record, an event, an outcome or a traceback."""
    root = logging.getLogger()
    root.addHandler(sightings)
    yield
    root.removeHandler(sightings)
    seen, sightings.seen = sightings.seen, []
    if seen:
        pytest.fail("the secret was shown:\n" + "\n".join(seen), pytrace=False)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """
    Run the test on a fresh event loop, then check what it left behind.

    Every asynchronous fixture depends on this one, so this is the last to be torn down. Holding a
    lease on the runner keeps the loop open until the tasks have been counted.
    """
    virtual = request.node.get_closest_marker("virtual_time") is not None
    loop_factory = VirtualTimeLoop if virtual else InterruptibleLoop
    options = {"debug": DEBUG, "loop_factory": loop_factory}
    sockets = open_sockets()
    errors = LoopErrors()
    request.node.stash[REPORTED] = errors.reports
    tasks: list[str] = []
    with get_runner("asyncio", options) as runner:
        loop, own = runner.run_fixture(errors.listen, {})
        yield "asyncio", options
        failed = request.node.stash.get(FAILED, False)
        if not failed:
            tasks = loop.run_until_complete(leftover_tasks(own))
    if not failed:
        report_leaks(tasks, leftover_sockets(sockets), errors.reports)


@pytest.fixture
def loop_errors(request: pytest.FixtureRequest, anyio_backend: object) -> list[str]:
    """What was reported to the event loop; a test that expects it takes it out (`pop`, `clear`)."""
    reports: list[str] = request.node.stash[REPORTED]
    return reports


def report_leaks(tasks: list[str], sockets: list[str], errors: list[str]) -> None:
    """Fail the test, naming everything that it left behind."""
    leaks = [
        *(f"task left running: {task}" for task in tasks),
        *(f"left open: {end}" for end in sockets),
        *(f"reported to the event loop: {error}" for error in errors),
    ]
    if leaks:
        pytest.fail("\n".join(leaks), pytrace=False)
