"""Hand-written ideals: the least code that does a job, on the libraries that the SDK uses.

But for `Informed`, none of them knows a deadline or a limit, and none a retry, a lost reply or a closing socket. What
the SDK costs above them is the price of knowing what happened to an order.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import aiohttp
import msgspec
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.uri import parse_uri

from brokers.ripio import wire
from brokers.ripio.auth import Signer, business_json
from brokers.ripio.clock import VendorClock
from brokers.ripio.verdict import cancel_verdict
from brokers.tronsave.wire import CancelReply, OrderIds
from tronsave_async import Canceled, OrderRef, RateLimit, RateLimiter, Scope, Secret
from tronsave_async.deadlines import Deadlines
from tronsave_async.quota import DailyQuota
from tronsave_async.settlement import Doubts, Meaning, canceled_at_once

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

SCOPE = Scope("ripio", "account", "all")
CANCEL_PATH = "/v0/fast-charge-order-cancel"
decode_cancel = msgspec.json.Decoder(CancelReply).decode


class Requests:
    """Builds signed cancels with the SDK's signer, and hands replies to whoever waits for them."""

    def __init__(self) -> None:
        self.signer = Signer(Secret("token"), Secret("secret"))
        self.pending: dict[str, asyncio.Future[wire.Frame]] = {}
        self.numbers = itertools.count(1)
        self.loop = asyncio.get_running_loop()

    def new(self, order: str) -> tuple[bytes, asyncio.Future[wire.Frame]]:
        """A request for an order, and what will hold its reply."""
        key = str(next(self.numbers))
        future: asyncio.Future[wire.Frame] = self.loop.create_future()
        self.pending[key] = future
        stamp = int(time.time() * 1000)
        return self.signer.frame(key, "order.cancel", business_json({"id": order}), stamp), future

    def settle(self, message: bytes) -> None:
        """Take a reply."""
        read = wire.read_message(message)
        assert isinstance(read, tuple), read
        self.pending.pop(read[0]).set_result(read[1])


class SansIO(asyncio.Protocol):
    """WebSocket cancels on websockets' sans-I/O core, under an own protocol, with one write per tick: the ideal."""

    def __init__(self, url: str) -> None:
        self.core = ClientProtocol(parse_uri(url), max_size=1 << 20)
        self.requests = Requests()
        self.loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self.loop.create_future()
        self.corked = False

    @classmethod
    async def open(cls, port: int) -> SansIO:
        """Connect."""
        loop = asyncio.get_running_loop()
        url = f"ws://127.0.0.1:{port}/"
        _, client = await loop.create_connection(lambda: cls(url), "127.0.0.1", port)
        await client.opened
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is of another class
        self.core.send_request(self.core.connect())
        self.write()

    def data_received(self, data: bytes) -> None:
        """Settle what is answered."""
        self.core.receive_data(data)
        for event in self.core.events_received():
            if isinstance(event, Frame):
                self.requests.settle(bytes(event.data))
            else:
                self.opened.set_result(None)

    def write(self) -> None:
        """Write once per tick."""
        self.corked = False
        self.transport.write(b"".join(self.core.data_to_send()))

    async def cancel(self, order: str) -> object:
        """Cancel one order."""
        message, future = self.requests.new(order)
        self.core.send_text(message)
        if not self.corked:
            self.corked = True
            self.loop.call_soon(self.write)
        return await future

    async def close(self) -> None:
        """Close."""
        self.transport.close()


class Awaited:
    """A reply that is waited for until its time is over."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[wire.Frame]) -> None:
        self.future = future

    def expire(self) -> None:
        """Wait no longer."""
        self.future.cancel()


class Informed(SansIO):
    """The ideal with what has to be known about a cancel, in one function: limit, quota, deadline, who shares it, when
    it left, by whose clock it was signed, what its reply proves. What a lost reply, a closing socket, a late reply or a
    caller that goes would mean is not known. It shows what the knowledge costs by itself."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.limiter = RateLimiter()
        self.limiter.declare(SCOPE, RateLimit(10_000_000, per=1.0, margin=0.0))
        self.quota = DailyQuota(1_000_000_000)
        self.deadlines = Deadlines()
        self.clock = VendorClock(monotonic=self.loop.time)
        self.doubts = Doubts()
        self.under_way: dict[tuple[str | None, str | None], Awaited] = {}

    async def cancel(self, order: str) -> Canceled:
        """Cancel one order."""
        started = self.loop.time()
        ref = OrderRef(id=order)
        assert ref.name not in self.under_way
        permit = self.limiter.at_hand(SCOPE, self.loop, started)
        assert permit is not None
        is_admitted = self.quota.admit(datetime.now(UTC))
        assert is_admitted
        awaited = self.under_way[ref.name] = Awaited(self.loop.create_future())
        key, business = str(next(self.requests.numbers)), business_json({"id": order})
        self.requests.pending[key] = awaited.future
        self.deadlines.enter(awaited, 30.0, started)
        departed = self.loop.time()
        permit.spend(departed)
        stamp = self.clock.timestamp(business)
        self.core.send_text(self.requests.signer.frame(key, "order.cancel", business, stamp))
        if not self.corked:
            self.corked = True
            self.loop.call_soon(self.write)
        try:
            reply = await awaited.future
        finally:
            self.deadlines.leave(awaited, 30.0)
            del self.under_way[ref.name]
        said = cancel_verdict(reply, order, None)
        self.doubts.dispel(ref, departed)
        assert said.meaning is Meaning.CANCELED
        return canceled_at_once(ref, "ripio", said, self.loop.time() - started)


class RawWebsockets:
    """WebSocket cancels on websockets' asyncio client, with a task that reads."""

    def __init__(self, socket: ClientConnection) -> None:
        self.requests = Requests()
        self.socket = socket
        self.reader = asyncio.create_task(self.read())

    @classmethod
    async def open(cls, port: int) -> RawWebsockets:
        """Connect."""
        return cls(await connect(f"ws://127.0.0.1:{port}/", compression=None))

    async def read(self) -> None:
        """Settle what is answered."""
        async for message in self.socket:
            self.requests.settle(message.encode() if isinstance(message, str) else message)

    async def cancel(self, order: str) -> wire.Frame:
        """Cancel one order."""
        message, future = self.requests.new(order)
        await self.socket.send(message, text=True)
        return await future

    async def close(self) -> None:
        """Close."""
        self.reader.cancel()
        await self.socket.close()


class RawAiohttpSocket:
    """WebSocket cancels on aiohttp's client, with a task that reads."""

    def __init__(
        self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse
    ) -> None:
        self.requests = Requests()
        self.session, self.socket = session, socket
        self.reader = asyncio.create_task(self.read())

    @classmethod
    async def open(cls, port: int) -> RawAiohttpSocket:
        """Connect."""
        session = aiohttp.ClientSession()
        return cls(session, await session.ws_connect(f"http://127.0.0.1:{port}/"))

    async def read(self) -> None:
        """Settle what is answered."""
        async for message in self.socket:
            self.requests.settle(message.data.encode())

    async def cancel(self, order: str) -> wire.Frame:
        """Cancel one order."""
        message, future = self.requests.new(order)
        await self.socket.send_str(message.decode())
        return await future

    async def close(self) -> None:
        """Close."""
        self.reader.cancel()
        await self.session.close()


class RawAiohttp:
    """TronSave's cancel on aiohttp and msgspec: the ideal over HTTP."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}{CANCEL_PATH}"
        self.session = aiohttp.ClientSession(
            headers={"apikey": "key", "Content-Type": "application/json"}
        )

    async def cancel(self, *orders: str) -> CancelReply:
        """Cancel orders in one request."""
        body = msgspec.json.encode(OrderIds(orders))
        async with self.session.post(self.url, data=body) as response:
            return decode_cancel(await response.read())

    async def close(self) -> None:
        """Close."""
        await self.session.close()


class HandWrittenHttp:
    """TronSave's cancel over HTTP/1.1 written by hand, on kept-alive connections: the floor."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[HttpConnection] = []
        self.head = (
            f"POST {CANCEL_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\napikey: key\r\n"
            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        ).encode()

    async def cancel(self, order: str) -> CancelReply:
        """Cancel one order."""
        body = msgspec.json.encode(OrderIds([order]))
        connection = self.idle.pop() if self.idle else await self.connect()
        try:
            return decode_cancel(await connection.ask(self.head % (len(body), body)))
        finally:
            self.idle.append(connection)

    async def connect(self) -> HttpConnection:
        """Open one more connection."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(HttpConnection, "127.0.0.1", self.port)
        return connection

    async def close(self) -> None:
        """Close."""
        for connection in self.idle:
            connection.transport.close()


class HttpConnection(asyncio.Protocol):
    """One request at a time; the reply tells its length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is of another class

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; the future will hold the body of its reply."""
        self.received = b""
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.reply

    def data_received(self, data: bytes) -> None:
        """Settle a whole reply."""
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if found and len(body) == int(head.rpartition(b"Content-Length: ")[2].split(b"\r")[0]):
            self.reply.set_result(body)


class SlidingLog:
    """A limiter for one lane: a log of grants, a queue of futures and one timer."""

    def __init__(self, requests: int, per: float) -> None:
        self.requests, self.per = requests, per
        self.log: deque[float] = deque()
        self.queue: deque[asyncio.Future[None]] = deque()
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None

    async def acquire(self) -> None:
        """Wait for a grant."""
        if not self.queue and self.has_room(self.loop.time()):
            self.log.append(self.loop.time())
            return
        future = self.loop.create_future()
        self.queue.append(future)
        self.wake_up()
        await future

    def has_room(self, now: float) -> bool:
        """Whether one more may pass."""
        while self.log and self.log[0] + self.per <= now:
            self.log.popleft()
        return len(self.log) < self.requests

    def wake_up(self) -> None:
        """Come back when the oldest grant is forgotten."""
        if self.timer is None and self.queue:
            self.timer = self.loop.call_at(self.log[0] + self.per, self.serve)

    def serve(self) -> None:
        """Grant all that may pass."""
        self.timer = None
        now = self.loop.time()
        while self.queue and self.has_room(now):
            future = self.queue.popleft()
            if not future.done():
                self.log.append(now)
                future.set_result(None)
        self.wake_up()
