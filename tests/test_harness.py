"""The harness itself: leaks fail a test, and virtual time jumps."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientTimeout, web

from interpreters import environments, find, probe

TESTS = Path(__file__).parent
LEAKY_TESTS = """
import asyncio
import socket
import warnings

import pytest

kept = []

async def forever():
    await asyncio.Event().wait()

async def answer():
    return 42

async def test_task():
    kept.append(asyncio.create_task(forever(), name="the-leaked-task"))

async def test_clean_after_task():
    await asyncio.create_task(answer())

async def test_socket():
    kept.append(socket.create_server(("127.0.0.1", 0)))

async def test_unclosed_socket():
    socket.create_server(("127.0.0.1", 0))

async def test_transport():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    kept.append(await asyncio.open_connection(*server.sockets[0].getsockname()))
    server.close()

async def test_coroutine():
    answer()

def test_coroutine_in_sync_test():
    answer()

async def test_warning():
    warnings.warn("deprecated", DeprecationWarning)

async def test_lost_exception():
    async def fail():
        raise ValueError("nobody asked")
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)

async def test_callback():
    def fail():
        raise ValueError("in a callback")
    asyncio.get_running_loop().call_soon(fail)

@pytest.fixture
async def background():
    task = asyncio.create_task(forever())
    yield
    task.cancel()

@pytest.mark.timeout(0.2)
async def test_hangs(background):
    await forever()

@pytest.mark.timeout(0.2)
@pytest.mark.virtual_time
async def test_hangs_in_virtual_time(background):
    await forever()

async def test_clean_at_the_end(background):
    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    task.cancel()
"""


@pytest.fixture(scope="module")
def leaky_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run the leaky tests in a copy of this harness; return what pytest printed."""
    project = tmp_path_factory.mktemp("leaky")
    shutil.copy(TESTS.parent / "pyproject.toml", project)
    shutil.copytree(TESTS / "support", project / "tests" / "support")
    shutil.copy(TESTS / "conftest.py", project / "tests")
    (project / "tests" / "test_leaky.py").write_text(LEAKY_TESTS)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    ).stdout


def summary(output: str, test: str) -> str:
    """Return the lines of the short summary that are about one test."""
    return "\n".join(re.findall(rf"^[A-Z]+ \S*::{test}(?: .*)?$", output, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("test_task", "task left running: the-leaked-task"),
        ("test_socket", r"left open: socket \('127.0.0.1', \d+\) to 'nobody'"),
        ("test_unclosed_socket", "ResourceWarning"),
        ("test_transport", "left open: socket"),
        ("test_coroutine", "coroutine 'answer' was never awaited"),
        ("test_coroutine_in_sync_test", "coroutine 'answer' was never awaited"),
        ("test_warning", "DeprecationWarning: deprecated"),
        ("test_lost_exception", "nobody asked"),
        ("test_callback", "in a callback"),
        ("test_hangs", "Hung: Timeout"),
        ("test_hangs_in_virtual_time", "Hung: Timeout"),
    ],
)
def test_what_a_test_leaves_behind_fails_it(leaky_run: str, test: str, reason: str) -> None:
    """A leaked task, socket, coroutine, exception or warning fails its test, and so does a hang."""
    assert re.search(r"\b(FAILED|ERROR) ", summary(leaky_run, test)), leaky_run
    assert re.search(reason, leaky_run)


@pytest.mark.parametrize("test", ["test_clean_after_task", "test_clean_at_the_end"])
def test_a_clean_test_passes_among_leaky_ones(leaky_run: str, test: str) -> None:
    """A test that cleans up is not blamed for what its neighbors left."""
    assert re.fullmatch("PASSED .*", summary(leaky_run, test)), leaky_run


async def test_debug_mode_is_as_asked_for_and_slow_callbacks_are_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The loop runs in debug mode unless told otherwise; a slow callback is a log line there, not a failure."""
    asked = os.environ.get("PYTHONASYNCIODEBUG") != ""
    assert asyncio.get_running_loop().get_debug() == asked
    asyncio.get_running_loop().set_debug(True)
    asyncio.get_running_loop().slow_callback_duration = 0.0
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert "Executing" in caplog.text


async def test_an_expected_report_to_the_loop_is_taken_out(loop_errors: list[str]) -> None:
    """A test that provokes an error in foreign code sees it, and does not fail by it."""
    asyncio.get_running_loop().call_exception_handler({"message": "a hook raised"})
    assert loop_errors.pop() == "a hook raised"


@pytest.mark.parametrize(
    ("minors", "names"),
    [
        ([12], ["py312-debug"]),
        ([11, 14], ["py314", "py311-others", "py311-debug-contract"]),
        ([11, 12, 13], ["py312-once", "py313-most", "py311-others", "py311-debug-contract"]),
        (
            [11, 12, 13, 14],
            ["py313-once", "py314-most", "py311-others", "py311-debug-contract", "py312-contract"],
        ),
    ],
)
def test_all_that_is_tested_is_tested_somewhere(minors: list[int], names: list[str]) -> None:
    """Every interpreter is used, and together they run everything."""
    assert environments(minors, "debug") == names


def test_interpreters_that_do_not_run_are_not_found(tmp_path: Path) -> None:
    """The runner tests on interpreters that run, and passes over a version manager's shims."""
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    assert probe(shim) is None
    assert probe(tmp_path / "missing") is None
    assert sys.version_info.minor in find()


@pytest.mark.virtual_time
async def test_an_hour_passes_at_once() -> None:
    """An hour's sleep takes less than a second, and the loop's clock shows the hour."""
    loop = asyncio.get_running_loop()
    started, began = loop.time(), time.monotonic()
    await asyncio.sleep(3600)
    assert started >= 1000
    assert loop.time() - started == pytest.approx(3600)
    assert time.monotonic() - began < 1


@pytest.mark.virtual_time
async def test_timers_fire_in_order_and_on_time() -> None:
    """`call_later`, `asyncio.timeout` and `sleep` share the loop's clock."""
    loop = asyncio.get_running_loop()
    start, fired = loop.time(), list[float]()
    loop.call_later(20, lambda: fired.append(loop.time()))
    loop.call_later(10, lambda: fired.append(loop.time()))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await asyncio.Event().wait()
    assert [*fired, loop.time()] == pytest.approx([start + 10, start + 20, start + 30])


@pytest.mark.virtual_time
async def test_many_timers_cost_no_pause_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no socket is open, the clock jumps without the grace that bytes get to arrive."""
    monkeypatch.setattr("support.virtual_time.GRACE", 1.0)
    loop, began = asyncio.get_running_loop(), time.monotonic()
    start = loop.time()
    for _ in range(50):
        await asyncio.sleep(10)
    assert loop.time() - start == pytest.approx(500)
    assert time.monotonic() - began < 10


@pytest.mark.virtual_time
async def test_time_stands_still_while_bytes_travel_on_loopback() -> None:
    """A request over real sockets takes no virtual time; the server's hour takes just an hour."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(float(request.query["seconds"]))
        return web.Response(text="late")

    loop = asyncio.get_running_loop()
    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        url, patience = f"http://127.0.0.1:{port}", ClientTimeout(7200)
        async with ClientSession(url, timeout=patience) as session:
            for seconds in (0, 3600, 0):
                start = loop.time()
                async with session.get("/", params={"seconds": seconds}) as response:
                    assert await response.text() == "late"
                assert loop.time() - start == pytest.approx(seconds)
    finally:
        await runner.cleanup()


@pytest.mark.virtual_time
async def test_the_clock_waits_for_work_in_threads() -> None:
    """While an executor job runs, time does not jump: a short timeout does not overtake it."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.timeout(5):
        await asyncio.to_thread(time.sleep, 0.02)
        addresses = await loop.getaddrinfo("localhost", 80)
    assert addresses
    assert loop.time() == start


@pytest.mark.virtual_time
async def test_a_cancelled_thread_job_lets_the_clock_go_on() -> None:
    """A job that nobody waits for any more does not hold the clock."""
    release = threading.Event()
    job = asyncio.create_task(asyncio.to_thread(release.wait, 5))
    await asyncio.sleep(0)
    job.cancel()
    await asyncio.sleep(3600)
    release.set()
    assert job.cancelled()
