"""
What an asynchronous test may not leave behind.

Tasks, open sockets, errors reported to the event loop's exception handler, un-awaited coroutines
and unclosed transports. The last two are reported by the interpreter when the object is collected;
pytest turns that into a failure, and collecting garbage here makes it the right test's failure.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import traceback
from pathlib import Path
from typing import Any, cast

DESCRIPTORS = Path("/proc/self/fd")

SETTLING = 10
"""How many turns of the loop a task may need to end by itself after its owner has let it go."""


class LoopErrors:
    """An event loop's exception handler that keeps what it is told, as text."""

    def __init__(self) -> None:
        self.reports: list[str] = []

    async def listen(self) -> tuple[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]]:
        """Become the running loop's handler; return the loop, and the tasks of the runner."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self)
        return loop, asyncio.all_tasks()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep a report as text: to keep its objects would hide that they leak."""
        lines = [str(context["message"])]
        if isinstance(error := context.get("exception"), BaseException):
            lines += traceback.format_exception(error)
        self.reports.append("\n".join(lines))


async def leftover_tasks(own: set[asyncio.Task[Any]]) -> list[str]:
    """Describe the tasks that still run, other than this one and the runner's own."""
    own = own | {cast("asyncio.Task[Any]", asyncio.current_task())}
    for _ in range(SETTLING):
        if asyncio.all_tasks() <= own:
            return []
        await asyncio.sleep(0)
    return sorted(f"{task.get_name()}: {task.get_coro()!r}" for task in asyncio.all_tasks() - own)


def open_sockets() -> dict[str, int]:
    """Return this process's sockets by their inode's name; empty where the system does not tell."""
    found: dict[str, int] = {}
    if not DESCRIPTORS.is_dir():
        return found
    for name in os.listdir(DESCRIPTORS):
        try:
            target = os.readlink(DESCRIPTORS / name)
        except OSError:  # the descriptor of the listing itself
            continue
        if target.startswith("socket:"):
            found[target] = int(name)
    return found


def describe_socket(descriptor: int) -> str:
    """Return a socket's two ends, as far as the system tells."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        try:
            peer = copy.getpeername()
        except OSError:
            peer = "nobody"
        return f"socket {copy.getsockname()!r} to {peer!r}"


def leftover_sockets(before: dict[str, int]) -> list[str]:
    """Collect garbage, then describe the sockets that were not open before."""
    gc.collect()
    return [describe_socket(fd) for name, fd in open_sockets().items() if name not in before]
