"""What the simulators of all vendors share: their lifetime, and the record of what they saw."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from tronsave_async.sandbox import LoopbackServer, RecordedRequest, RequestLog

__all__ = ["Simulator"]


class Simulator:
    """
    A vendor served on 127.0.0.1.

    Use it as an asynchronous context manager, or call `start` and `aclose`, from any tasks.

    Args:
        log: The record of what arrives.
        servers: What listens.
        window: The length of the vendor's window in seconds.
    """

    def __init__(
        self, log: RequestLog, servers: Sequence[LoopbackServer], *, window: float
    ) -> None:
        self._log = log
        self._servers = servers
        self._window = window

    async def start(self) -> None:
        """Listen on free ports of 127.0.0.1; after `aclose`, on the same ports again."""
        async with AsyncExitStack() as started:
            for server in self._servers:
                await server.start()
                started.push_async_callback(server.aclose)
            started.pop_all()

    async def aclose(self) -> None:
        """Abort all connections, hung requests too, and stop listening. The record is kept."""
        async with AsyncExitStack() as closing:
            for server in self._servers:
                closing.push_async_callback(server.aclose)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """Everything that arrived, in order: a live view of frozen records, secrets masked."""
        return self._log

    def requests_to(self, endpoint: str) -> Sequence[RecordedRequest]:
        """Return the requests to one endpoint so far."""
        return self._log.to(endpoint)

    async def arrived(self, count: int, endpoint: str | None = None) -> None:
        """Wait until `count` requests have arrived in all, at one endpoint or (None) any."""
        await self._log.until(count, endpoint)

    def peak_in_window(self, endpoint: str | None = None) -> int:
        """
        Return the most requests that one caller made within any window, rejected ones too.

        Args:
            endpoint: To this endpoint; None: to all of them together.
        """
        return self._log.peak(endpoint, self._window)

    @property
    def connections(self) -> int:
        """How many TCP connections were accepted."""
        return sum(server.accepted for server in self._servers)
