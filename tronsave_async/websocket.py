"""The WebSocket transport: many requests over one supervised connection; a reply for each, or an error that says
whether bytes left.

*One connection.* It is opened on first use or ahead of it, kept, and opened again when it is lost: at once if it had
served, else after the retry policy's pauses. What was not sent waits for the next connection; what was sent and not
answered is told at once that its reply is lost with the connection.

*Correlation.* A request is entered into the table before a byte of it is written, and its reply finds it there by the
vendor's request id, in any order. Whatever else arrives is counted, told to telemetry, and harms nobody.

*Sign last.* A request becomes bytes in the moment in which they are written: a connection stands and takes them.
Nothing that carries a signature waits in a queue of ours.

The protocol itself is websockets' sans-I/O core under an `asyncio.Protocol`. A request is written in the step in which
it is asked for if none is under way; what comes meanwhile is written together, at the end of the loop's turn.
"""

from __future__ import annotations

import abc
import asyncio
import random
import secrets
import ssl as tls
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.uri import parse_uri

from tronsave_async.arguments import tls_context, whole_number, within
from tronsave_async.connection import HIGH_WATER, Connection, dial
from tronsave_async.correlation import Match, Pending
from tronsave_async.errors import (
    ConnectFailed,
    ConnectionLost,
    GatewayClosed,
    GatewayError,
    RequestTimeout,
    UsageError,
)
from tronsave_async.outcomes import Wire
from tronsave_async.tasks import guarded, start
from tronsave_async.telemetry import Connected, Disconnected, Event, Stray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from websockets.typing import BytesLike
    from websockets.uri import WebSocketURI

    from tronsave_async.retry import RetryPolicy

__all__ = ["Ask", "Departing", "Read", "WebSocketTransport"]

R = TypeVar("R")

Departing = Callable[[str], bytes]
"""Called in the moment in which a connection stands and takes the request, with the request's id; returns the message.
What it raises ends the attempt before anything is sent."""

Read = Callable[["BytesLike"], tuple[str, R] | str]
"""Reads a message: the id of the request that it answers and the reply, or, where it answers none, what it is."""

LEAST_PAUSE: Final = 0.01
"""Seconds between attempts to connect that served nobody, at least: also where the policy of the requests has none."""
BITE: Final = 64
"""Requests that are written at once, at most."""


class Ask(abc.ABC, Generic[R]):
    """One request: what it says, and who is told how it ends. Each of them is told once, and nothing of it may raise,
    but `departing` and `late`."""

    __slots__ = ("endpoint", "key", "since")

    endpoint: str
    key: str | None
    """Its id, once it left (the transport's, like ``since``)."""
    since: float
    """When it was asked, and then when it left: monotonic seconds."""

    @abc.abstractmethod
    def departing(self, key: str) -> bytes:
        """Make the message, in the moment in which a connection stands and takes it. What it raises ends the attempt
        before anything is sent."""

    @abc.abstractmethod
    def done(self) -> bool:
        """It needs no reply any more: nobody waits for it, or its end was told."""

    @abc.abstractmethod
    def set_result(self, reply: R) -> None:
        """The reply is here."""

    @abc.abstractmethod
    def set_exception(self, error: Exception) -> None:
        """There is none."""

    @abc.abstractmethod
    def late(self, reply: R) -> None:
        """The reply came after its end."""

    def fail(self, error: Exception) -> None:
        """End it without a reply, unless it ended before."""
        if not self.done():
            self.set_exception(error)


class _Awaited(Ask[R]):
    """A request that a call waits for."""

    __slots__ = ("_departing", "future", "hear_late")

    def __init__(
        self,
        endpoint: str,
        departing: Departing,
        hear_late: Callable[[R], object] | None,
        future: asyncio.Future[R],
    ) -> None:
        self.endpoint = endpoint
        self._departing = departing
        self.hear_late = hear_late
        self.future = future

    def departing(self, key: str) -> bytes:
        return self._departing(key)

    def done(self) -> bool:
        return self.future.done()

    def set_result(self, reply: R) -> None:
        self.future.set_result(reply)

    def set_exception(self, error: Exception) -> None:
        if isinstance(error, StopIteration):  # no future takes it
            cause, error = error, RuntimeError("StopIteration")
            error.__cause__ = cause
        self.future.set_exception(error)

    def late(self, reply: R) -> None:
        if self.hear_late is not None:
            self.hear_late(reply)


class WebSocketTransport(Generic[R]):
    """Requests to one vendor, many at a time, over one WebSocket connection.

    Args:
        venue: the gateway's name, for errors and events.
        url: ``ws(s)://host[:port]/path``.
        read: reads a message of the vendor.
        retry: pauses between attempts to connect.
        ssl: a TLS context; by default certificates are verified against the system's.
        timeout: seconds for the reply to a request that left, and for a request to leave.
        connect_timeout: seconds for a connection to stand, TLS and upgrade included.
        quiet: seconds without a sign of life after which the peer is pinged; as many again, and it is gone.
        max_in_flight: requests under way at once; more wait.
        emit: takes the telemetry events, or None where nobody listens.

    Raises:
        UsageError: the URL is not a WebSocket URL, ``ssl`` is no TLS context, or a number is out of its range.
    """

    def __init__(
        self,
        venue: str,
        url: str,
        *,
        read: Read[R],
        retry: RetryPolicy,
        ssl: tls.SSLContext | None = None,
        timeout: float = 15.0,
        connect_timeout: float = 5.0,
        quiet: float = 10.0,
        max_in_flight: int = 1000,
        emit: Callable[[Event], None] | None = None,
    ) -> None:
        self._venue = venue
        self._uri = _checked_uri(url)
        self._read = read
        self._retry = retry
        self._ssl = tls_context(ssl)
        self._timeout = within("request_timeout", timeout)
        self._connect_timeout = within("connect_timeout", connect_timeout)
        self._quiet = within("quiet", quiet)
        self._max_in_flight = whole_number("max_in_flight", max_in_flight, least=1)
        self._emit = emit
        self._outbox: OrderedDict[Ask[R], None] = OrderedDict()
        self._pending: Pending[Ask[R]] = Pending()
        self._prefix = secrets.token_hex(4)
        self._asked = 0
        self._connection: Connection | None = None
        self._sockets: set[asyncio.Future[None]] = set()
        """Of all connections whose sockets are not closed yet: done when they are."""
        self._expectant: set[asyncio.Future[None]] = set()
        """Who waits for a connection without a request."""
        self._wanted: asyncio.Event | None = None
        """Somebody waits for a connection; None until the first."""
        self._supervisor: asyncio.Task[None] | None = None
        self._flushing = False
        self._loop: asyncio.AbstractEventLoop
        """The one that it serves; set on first use."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_due = 0.0
        self._strays: Counter[str] = Counter()
        self._connections = 0
        self._closed = False

    @property
    def host(self) -> str:
        """Host and port."""
        return f"{self._uri.host}:{self._uri.port}"

    @property
    def in_flight(self) -> int:
        """Requests that left and are not answered."""
        return len(self._pending)

    @property
    def connections(self) -> int:
        """Connections that stood so far."""
        return self._connections

    @property
    def strays(self) -> Mapping[str, int]:
        """Messages that answered no pending request, by what they were: ``late``, ``duplicate``, ``unknown``,
        ``binary``, and the vendor's kinds."""
        return dict(self._strays)

    async def request(
        self, endpoint: str, departing: Departing, late: Callable[[R], object] | None = None
    ) -> R:
        """Send one request, once, and wait for its reply.

        Args:
            endpoint: the vendor's call, for errors.
            departing: makes the message in the moment in which it leaves.
            late: takes a reply that comes after the call ended without one.

        Raises:
            ConnectFailed: no connection stood; nothing was sent.
            ConnectionLost: the connection broke; the request may have arrived.
            RequestTimeout: time ran out; ``wire`` says whether the request may have arrived.
            GatewayClosed: the transport is closed.

        Canceling the call disturbs no other; the request may have arrived if ``departing`` was called.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        ask = _Awaited(endpoint, departing, late, future)
        self.post(ask)
        try:
            return await future
        except asyncio.CancelledError:
            self.leave(ask)
            if future.done() and not future.cancelled() and future.exception() is None:
                self._too_late(ask, future.result())  # it came in the tick in which the caller goes
            raise

    def post(self, ask: Ask[R]) -> None:
        """Send one request, once, and tell it how it ends; see `request`.

        Raises:
            GatewayClosed: the transport is closed.
        """
        if self._connection is None:  # else all of it has been started
            self._start()
        ask.key, ask.since = None, self._loop.time()
        self._outbox[ask] = None
        if self._sweeper is None:
            self._sweep_at(ask.since + self._timeout)
        if self._flushing:
            return
        if self._pending:  # more may come in this step: they are written together
            self._flush_soon()
        else:
            self._flush()

    def leave(self, ask: Ask[R]) -> None:
        """Nobody waits for a request any more: it is not sent if it has not left, and a reply counts as late."""
        if ask.key is None:
            self._outbox.pop(ask, None)
        elif self._pending.abandon(ask.key) is not None:
            self._flush_soon()  # there is room for another

    async def warm_up(self) -> None:
        """Open the connection ahead of its first use; return when it stands.

        Raises:
            ConnectFailed: the attempt failed; others go on.
            GatewayClosed: the transport is closed.

        Canceling the call leaves the attempts going on.
        """
        self._start()
        loop = self._loop
        if self._connection is None:
            stands: asyncio.Future[None] = loop.create_future()
            self._expectant.add(stands)
            try:
                await stands
            finally:
                self._expectant.discard(stands)

    async def aclose(self) -> None:
        """Close the connection in good order, and send nothing any more. Whoever waits is told."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._fail_waiting(lambda _: GatewayClosed(self._venue))
        connection = self._connection
        if connection is not None:
            connection.close("gateway closed")
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        if self._sockets:
            await asyncio.wait(self._sockets)

    # -- what the connection tells --------------------------------------------------------------------------------

    def writable(self) -> None:
        """The connection takes more again."""
        self._flush()

    def stands(self, connection: Connection) -> None:
        """The upgrade is through."""
        self._connection = connection
        self._connections += 1
        if self._emit is not None:
            self._emit(Connected(venue=self._venue, connections=self._connections))
        for stands in self._expectant:
            if not stands.done():
                stands.set_result(None)
        self._flush()

    def _flush(self) -> None:
        """Write what waits, as far as the connection takes it."""
        connection = self._connection
        # What is asked for meanwhile, by those who hear of it, waits for its turn.
        self._flushing = True
        try:
            while self._outbox and connection is not None and connection.takes_more:
                room = min(BITE, self._max_in_flight - len(self._pending), len(self._outbox))
                if room <= 0:
                    return
                size, now = 0, self._loop.time()
                while room and size < HIGH_WATER:
                    room -= 1
                    size += self._depart(self._outbox.popitem(last=False)[0], connection, now)
                connection.write()
        finally:
            self._flushing = False

    def received(self, message: BytesLike) -> bool:
        """A whole text message came. True if it answered a pending request."""
        try:
            read = self._read(message)
        except Exception:  # noqa: BLE001 - whatever a message does to its reader: the connection is read on
            read = "malformed"
        if isinstance(read, str):
            self.stray(read)
            return False
        key, reply = read
        match, ask = self._pending.match(key)
        if ask is None:
            self.stray(match.value)
        elif match is Match.LATE or ask.done():  # its caller is gone, or goes in this tick
            self._too_late(ask, reply)
        else:
            ask.set_result(reply)
        if self._outbox:
            self._flush_soon()
        return match is Match.AWAITED

    def stray(self, kind: str) -> None:
        """Something came that answers no pending request."""
        self._strays[kind] += 1
        if self._emit is not None:
            self._emit(Stray(venue=self._venue, kind=kind))

    def lost(self, connection: Connection, reason: str) -> None:
        """A connection that stood is gone, or of no more use: all that is under way is told."""
        if self._connection is not connection:
            return
        self._connection = None
        if self._outbox and self._wanted is not None:
            self._wanted.set()
        # The end of some has been told before: their gateway closes.
        asks = [ask for ask in self._pending.abandon_all() if not ask.done()]
        if self._emit is not None:
            self._emit(Disconnected(venue=self._venue, reason=reason, pending=len(asks)))
        for ask in asks:
            wire = Wire.MAYBE_SENT
            ask.fail(ConnectionLost(self._venue, ask.endpoint, reason, wire=wire))

    # -- inside ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._closed:
            raise GatewayClosed(self._venue)
        self._loop = asyncio.get_running_loop()
        if self._wanted is None:
            self._wanted = asyncio.Event()
        self._wanted.set()
        if self._supervisor is None or self._supervisor.done():
            self._supervisor = start(self._supervise(self._wanted))

    def _flush_soon(self) -> None:
        if not self._flushing and self._connection is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _depart(self, ask: Ask[R], connection: Connection, now: float) -> int:
        """Make one request's message; return its length."""
        if ask.done():  # its caller goes in this tick
            return 0
        self._asked += 1
        key = ask.key = f"{self._prefix}-{self._asked}"
        ask.since = now
        self._pending.enter(key, ask)
        try:
            return connection.say(ask.departing(key))
        except Exception as error:  # noqa: BLE001 - whatever it is: nothing of the request was written
            self._pending.withdraw(key)
            ask.key = None
            ask.fail(error)
            return 0

    def _too_late(self, ask: Ask[R], reply: R) -> None:
        self.stray(Match.LATE.value)
        guarded(ask.late, reply, "a late reply's reader")

    def _sweep_at(self, due: float) -> None:
        self._sweep_due = due
        self._sweeper = self._loop.call_at(due, self._sweep)

    def _sweep(self) -> None:
        """One timer for all requests: those that left, and those that wait, are each in the order of their time."""
        # Event loops may be early by the resolution of their clock: to go by that alone would be to ask them again.
        now, timeout = max(self._loop.time(), self._sweep_due), self._timeout
        while (oldest := self._pending.oldest) is not None and oldest[1].since + timeout <= now:
            key, ask = oldest
            self._pending.abandon(key)
            self._time_out(ask, Wire.MAYBE_SENT)
        while self._outbox and (ask := next(iter(self._outbox))).since + timeout <= now:
            del self._outbox[ask]
            self._time_out(ask, Wire.NOT_SENT)
        heads = [
            ask.since
            for ask in (oldest[1] if oldest else None, next(iter(self._outbox), None))
            if ask
        ]
        self._sweeper = None
        if heads:
            self._sweep_at(min(heads) + timeout)
        self._flush_soon()

    def _time_out(self, ask: Ask[R], wire: Wire) -> None:
        ask.fail(RequestTimeout(self._venue, ask.endpoint, "timed out", wire=wire))

    def _fail_waiting(self, error: Callable[[str], GatewayError]) -> None:
        """Tell all who wait for a connection that there is none."""
        asks, self._outbox = self._outbox, OrderedDict()
        for ask in asks:
            ask.fail(error(ask.endpoint))
        for stands in self._expectant:
            if not stands.done():
                stands.set_exception(error("connect"))

    async def _supervise(self, wanted: asyncio.Event) -> None:
        """Keep a connection standing until the transport closes."""
        failures = 0
        while True:
            wanted.clear()
            connection, reason = await self._connect()
            if connection is None:
                failures += 1
                self._fail_waiting(self._no_connection(reason))
                await self._pause(failures, wanted)
                continue
            await asyncio.wait([connection.ended])
            failures = 0 if connection.proved_itself else failures + 1
            if failures:
                await self._pause(failures, wanted)

    async def _connect(self) -> tuple[Connection | None, str]:
        loop = asyncio.get_running_loop()
        context = (self._ssl or _verifying()) if self._uri.secure else None
        connection = Connection(self, self._uri, self._quiet)
        self._sockets.add(connection.gone)
        connection.gone.add_done_callback(self._sockets.discard)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await loop.create_connection(
                    lambda: connection,
                    sock=await dial(self._uri.host, self._uri.port),
                    ssl=context,
                    server_hostname=self._uri.host if context else None,
                )
                await connection.opened
        except Exception as error:  # noqa: BLE001 - whatever it is: no connection stands, and nothing was sent
            connection.abort()
            return None, _reason(error)
        except BaseException:
            connection.abort()
            raise
        return connection, ""

    def _no_connection(self, reason: str) -> Callable[[str], GatewayError]:
        return lambda endpoint: ConnectFailed(self._venue, endpoint, reason, wire=Wire.NOT_SENT)

    async def _pause(self, failures: int, wanted: asyncio.Event) -> None:
        """Wait before the next attempt, as long as the policy says; once the half of it is over, only until somebody
        wants a connection."""
        whole = max(LEAST_PAUSE, self._retry.delay(failures, spread=random.random()))
        least = min(whole, max(self._retry.base, whole / 2))
        await asyncio.sleep(least)
        try:
            async with asyncio.timeout(whole - least):
                await wanted.wait()
        except TimeoutError:
            pass


@cache
def _verifying() -> tls.SSLContext:
    """One context for all: it takes tens of milliseconds to build."""
    return tls.create_default_context()


def _reason(error: BaseException) -> str:
    """The kind of a failure, and the system's word for it. Never a text of the peer's."""
    name = type(error).__name__
    if isinstance(error, InvalidStatus):
        return f"HTTP {error.response.status_code} to the upgrade"
    if isinstance(error, tls.SSLCertVerificationError):
        return f"{name}: {error.verify_message}"
    if type(error) is OSError:  # of several addresses: the system's words for each
        return str(error)
    detail = error.strerror if isinstance(error, OSError) else None
    return f"{name}: {detail}" if detail else name


def _checked_uri(url: str) -> WebSocketURI:
    try:
        uri = parse_uri(url)
    except (InvalidURI, ValueError, TypeError, AttributeError):
        raise UsageError("ws_url must be ws(s)://host[:port]/path") from None
    if uri.user_info is not None:
        raise UsageError("ws_url must not carry credentials")
    return uri
