"""Small things about the event loop that several rooms need."""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["clock", "guarded", "start"]

T = TypeVar("T")


def clock() -> float:
    """Monotonic seconds of the running event loop."""
    return get_running_loop().time()


def guarded(callback: Callable[[T], object], argument: T, name: str) -> None:
    """Call foreign code: what it raises goes to the event loop's exception handler and not to an order."""
    try:
        callback(argument)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - foreign code, and no await to cancel
        context = {"message": f"{name} raised", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)


def start(coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a coroutine as a task whose first step comes after the caller's, also under an eager task factory."""
    return asyncio.Task(coro, loop=asyncio.get_running_loop())
