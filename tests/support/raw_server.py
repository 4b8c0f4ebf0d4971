"""
An HTTP server that does exactly what a test says, byte by byte.

Each request takes the next reply from the script. It counts what it received, which is the judge of what a client sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Iterable


@dataclass(frozen=True)
class Reply:
    """What the server does after it has read a request."""

    data: bytes = b""
    """Written verbatim."""
    then: str = "keep"
    """Then the connection is: "keep" open for the next request, "close"d, "abort"ed (RST), or left to "hang"; or the
    data are sent "again", unasked for, before it is kept open."""


def http(status: int = 200, body: bytes = b"{}", *headers: str, length: int | None = None) -> bytes:
    """Return a reply's bytes; ``length`` may lie about the body's."""
    head = [f"HTTP/1.1 {status} Reason", *headers]
    head.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class RawServer:
    """Serves the script on loopback; when it is used up, the last reply is repeated."""

    def __init__(
        self, script: Iterable[Reply] = (Reply(http()),), *, ssl: tls.SSLContext | None = None
    ) -> None:
        self._script = list(script)
        self._ssl = ssl
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.requests: list[bytes] = []
        self._news = asyncio.Condition()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None, "entered before"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http{'s' if self._ssl else ''}://127.0.0.1:{self.port}"

    async def received(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.requests) >= count)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._ssl)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None, "entered before"
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"
        self._tasks.add(task)
        self.connections += 1
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                async with self._news:
                    self._news.notify_all()
                if not await self._act(writer):
                    break
        except asyncio.CancelledError:
            pass  # the end of the test
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _act(self, writer: asyncio.StreamWriter) -> bool:
        reply = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        writer.write(reply.data)
        await writer.drain()
        if reply.then == "abort":
            writer.transport.abort()
        if reply.then == "hang":
            await asyncio.Event().wait()
        if reply.then == "again":
            await asyncio.sleep(0.005)
            writer.write(reply.data)
        return reply.then in ("keep", "again")


async def _read_request(reader: asyncio.StreamReader) -> bytes | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        return None
    lines = head.decode("latin-1").split("\r\n")
    length = next(
        (int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0
    )
    return head + (await reader.readexactly(length) if length else b"")
