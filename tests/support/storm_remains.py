"""What is left of a storm when it is over: entries in the gateway's tables, tasks, descriptors, memory."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from brokers.ripio import RipioGateway
from support.leaks import DESCRIPTORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contract.stage import Stage
    from tronsave_async import RateLimiter

__all__ = ["Memory", "descriptors", "empty_tables", "entries", "forget", "measure", "sdk_tasks"]

LIBC: Final = ctypes.CDLL(None)
STATM: Final = Path("/proc/self/statm")

ROOMS: Final = frozenset({"tronsave_async", "tronsave", "ripio", "sms4sats"})
"""Folders of the SDK's code."""

REMEMBERED: Final = 10_000
"""What the gateway's bounded tables may hold: requests whose reply may come late, orders in doubt."""


class Memory(NamedTuple):
    """How much this process holds, garbage collected.

    Attributes:
        resident: bytes, by the system; the peak so far where the system tells no more.
        in_use: bytes of larger things that the allocator has given out, such as bodies; 0 where it does not tell. What
            is resident beyond that is what it keeps for itself.
        blocks: what the interpreter has allocated, whatever it is.
        objects: living objects of the SDK's classes, tasks and futures, by name.
    """

    resident: int
    in_use: int
    blocks: int
    objects: Mapping[str, int]

    def grown(self, before: Memory) -> dict[str, int]:
        """By how much there is more of each kind of object than there was before."""
        grown = {name: n - before.objects.get(name, 0) for name, n in self.objects.items()}
        return {name: more for name, more in grown.items() if more > 0}


def measure() -> Memory:
    """Measure now."""
    gc.collect()
    kinds = Counter(map(type, gc.get_objects()))
    living = {kind.__qualname__: number for kind, number in kinds.items() if _is_counted(kind)}
    return Memory(_resident(), _in_use(), sys.getallocatedblocks(), living)


def _is_counted(kind: type) -> bool:
    """Whether it is a class whose objects come and go with requests."""
    module = str(kind.__module__)
    ours = module.startswith(("tronsave_async.", "brokers.")) and "sandbox" not in module
    return ours or kind in {asyncio.Task, asyncio.Future}


def _resident() -> int:
    """Without what the allocator keeps for itself, where it can be told to let go."""
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Allocated(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _in_use() -> int:
    if not hasattr(LIBC, "mallinfo2"):
        return 0
    LIBC.mallinfo2.restype = _Allocated
    told = LIBC.mallinfo2()
    return int(told.uordblks + told.hblkhd)


def descriptors() -> int:
    """How many descriptors are open; 0 where the system does not tell."""
    return len(os.listdir(DESCRIPTORS)) if DESCRIPTORS.is_dir() else 0


def sdk_tasks() -> list[str]:
    """The SDK's own tasks that run, by their coroutines; a caller's task is not one of them."""
    running = [task.get_coro() for task in asyncio.all_tasks()]
    return sorted(repr(coro) for coro in running if _is_ours(coro))


def _is_ours(coro: Any) -> bool:
    code = getattr(coro, "cr_code", None)
    if code is None:
        return False
    path = Path(code.co_filename)
    return path.parent.name in ROOMS and "sandbox" not in path.stem


def entries(gateway: Any, limiter: RateLimiter) -> dict[str, int]:
    """Everything that the gateway and its limiter hold about requests and callers, where it is not empty."""
    dispatch = gateway._dispatch
    held = {
        "tasks": len(dispatch.lifetime._tasks),
        "calls": len(dispatch.calls._exchanges),
        "admissions": len(dispatch.calls._admissions),
        "deadlines": len(dispatch.cancels._deadlines),
        "creations": len(dispatch.cancels.creations),
    }
    for batcher in dispatch._batchers:
        name = batcher._open_exchange.args[0]
        held[f"{name} waiting"] = batcher.waiting
        held[f"{name} under way"] = batcher.under_way + len(batcher._under_way)
        held[f"{name} flushers"] = len(batcher._flushers)
    for scope, of in limiter.statistics().items():
        held[f"{scope.endpoint} permits in hand"] = of.in_hand
        held[f"{scope.endpoint} waiters"] = sum(of.waiting.values())
    if isinstance(gateway, RipioGateway):
        socket = gateway._socket
        held["pending"] = socket.in_flight
        held["outbox"] = len(socket._outbox)
        held["expectant"] = len(socket._expectant)
    return {name: number for name, number in held.items() if number}


def empty_tables(gateway: Any) -> list[str]:
    """Empty the gateway's tables of bounded size, which would fill up for longer than a test takes; return the names of
    those that were larger than they may be.

    They hold what may matter later: requests that were given up, orders in doubt, times that were signed with.
    """
    doubts = gateway._dispatch.cancels._doubts
    bounded: dict[str, Any] = {
        "doubts": doubts._orders,
        "renamed": doubts._renamed,
        "absent": doubts._absent_until,
    }
    if isinstance(gateway, RipioGateway):
        bounded["tombstones"] = gateway._socket._pending._buried
        if (clock := gateway._timekeeper._clock) is not None:
            clock._next.clear()  # bounded by time: what was signed in the last two minutes
    too_large = [name for name, table in bounded.items() if len(table) > REMEMBERED]
    for table in bounded.values():
        table.clear()
    return too_large


def forget(stage: Stage) -> None:
    """Empty the vendor's record and its book, while it does not listen: they would grow with every request."""
    sandbox: Any = stage.sandbox
    sandbox._log._entries.clear()
    sandbox._log._counts.clear()
    for of, table in (
        (sandbox._book, "_orders"),
        (sandbox._book, "_past"),
        (sandbox, "signatures"),
        (sandbox, "_seen"),
        (sandbox, "_about"),
        (sandbox, "_kept"),
    ):
        if hasattr(of, table):
            getattr(of, table).clear()
    index: Any = getattr(stage, "_cancels", None)
    if index is not None:
        index._read = 0
        index._numbers.clear()
