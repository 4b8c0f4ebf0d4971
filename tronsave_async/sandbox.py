"""
What the simulators of all vendors share: scripted faults, the record of requests, the meter, and
an HTTP server on loopback that plays the faults. It knows no vendor.

A simulator is an `HttpVendor`: one synchronous decision per request. Everything that waits, drops,
holds or mutilates a reply is done here, so that a fault means the same at every vendor.

A fault has two independent parts: what becomes of the *request* (`Processing`) and what becomes of
the *reply* (`Reply`). "The connection dropped" is therefore always one of two scripted facts: the
vendor had carried the request out, or it had not.

`sandbox_socket` plays the same faults, and some that only a socket can have, on WebSockets.
"""

from __future__ import annotations

import asyncio
import enum
import random
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING, Any, Protocol, overload

import msgspec
from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from socket import socket

__all__ = [
    "Decision",
    "Fault",
    "FaultScript",
    "HttpReply",
    "HttpRequest",
    "HttpVendor",
    "LoopbackServer",
    "Processing",
    "RecordedRequest",
    "Reply",
    "RequestLog",
    "Serve",
    "SlidingWindow",
    "cut_connection",
    "drop_after",
    "drop_before",
    "empty_body",
    "fill_in_the_race",
    "hang_after",
    "hang_before",
    "html_page",
    "http_date",
    "huge_body",
    "json_array",
    "late",
    "malformed_json",
    "partial_fill_in_the_race",
    "peak_in_window",
    "rate_limited",
    "replaced",
    "retyped",
    "server_error",
    "skewed_clock",
    "too_slow",
    "truncated",
    "wrong_types",
]

MASK = "***"
"""What a record shows in place of a credential."""

CREDENTIAL_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Headers masked for every vendor, in lower case."""

JSON_TYPE = "application/json; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"


# --- faults ---------------------------------------------------------------------------------------


class Processing(enum.Enum):
    """What the vendor does with the request."""

    NORMAL = "normal"
    """It is carried out."""

    SKIPPED = "skipped"
    """Nothing is done: the request was lost, or refused, before the vendor's logic saw it."""

    RACE = "race"
    """The orders it is about are filled an instant before it is carried out."""

    PARTIAL_RACE = "partial race"
    """The orders it is about are partly filled an instant before, where that can be."""

    TOO_SLOW = "too slow"
    """It takes longer than the vendor allows itself, where the vendor has such a limit."""


class Reply(enum.Enum):
    """What becomes of the reply."""

    NORMAL = "normal"
    """It is sent."""

    DROP = "drop"
    """The connection is closed; no byte of the reply was sent."""

    HANG = "hang"
    """No reply; the connection is held until the client goes or the sandbox closes."""

    LATE = "late"
    """It is sent, `delay` seconds after it was ready."""

    TRUNCATED = "truncated"
    """
    The headers promise the whole body; half of it is sent, then the connection is closed. On a
    socket: the same with a frame and its text.
    """

    RETYPED = "retyped"
    """It is sent with every text, number, truth and null in it turned into another type."""

    REPLACED = "replaced"
    """
    Another reply is sent in its place: `status`, `headers`, `body`. On a socket a body that is a
    JSON object is addressed to the request, unless it has an address.
    """

    DUPLICATED = "duplicated"
    """On a socket: it is sent, and sent again; with `status` or `body` the second is another."""

    PRECEDED = "preceded"
    """On a socket: another message comes first, `body` as it is or the error of `status`."""

    REORDERED = "reordered"
    """On a socket: it is sent after the next reply, at the latest after `delay` seconds."""

    BINARY = "binary"
    """On a socket: it, or `body`, is sent as a binary message."""

    UNADDRESSED = "unaddressed"
    """On a socket: it is sent with `address` as the id of the request it answers."""


SOCKET_REPLIES = frozenset(
    {Reply.DUPLICATED, Reply.PRECEDED, Reply.REORDERED, Reply.BINARY, Reply.UNADDRESSED}
)
"""What only a socket can do to a reply."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """
    One scripted fault.

    Attributes:
        endpoint: The vendor's word for the endpoint it waits for; None takes any request.
        times: How many requests it befalls, one after the other.
        processing: What the vendor does with the request.
        reply: What becomes of the reply.
        delay: Seconds by which the reply, or the closing of the connection, is held back.
        status: The HTTP status of a replaced reply.
        headers: The headers of a replaced reply. Without Content-Type it is sent as JSON.
        body: The body of a replaced reply; None: as the vendor words an error with this status.
        reset: Whether a connection closed by the fault ends with RST instead of FIN.
        clock_offset: Seconds by which the vendor's clock is ahead while it serves the request.
        address: Of an unaddressed reply: text, number or None.
        close_code: The socket is closed with this code once the reply has had its fate.
        close_reason: The reason that is given with it.

    Raises:
        ValueError: If the parts contradict each other.
    """

    endpoint: str | None = None
    times: int = 1
    processing: Processing = Processing.NORMAL
    reply: Reply = Reply.NORMAL
    delay: float = 0.0
    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    reset: bool = False
    clock_offset: float = 0.0
    address: str | float | None = None
    close_code: int | None = None
    close_reason: str = ""

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError("a fault befalls at least one request")
        if self.delay < 0 or (self.reply in {Reply.LATE, Reply.REORDERED} and not self.delay):
            raise ValueError("a delay is positive, and a late or reordered reply has one")
        own_reply = self.reply not in {Reply.DROP, Reply.HANG, Reply.REPLACED}
        if self.processing is Processing.SKIPPED and own_reply:
            raise ValueError("a request that is not processed has no reply of its own")

    def __repr__(self) -> str:
        """Leave out what is as usual, and the text of the body: it may be megabytes."""
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in msgspec.structs.fields(self)
            if field.name not in {"headers", "body"} and getattr(self, field.name) != field.default
        ]
        shown += [f"headers={dict(self.headers)!r}"] if self.headers else []
        shown += [f"body=<{len(self.body)} bytes>"] if self.body is not None else []
        return f"Fault({', '.join(shown)})"

    @property
    def needs_socket(self) -> bool:
        """Whether only a socket can play it."""
        return self.reply in SOCKET_REPLIES or self.close_code is not None

    def befalls(self, endpoint: str, *, socket: bool = False) -> bool:
        """Return whether it may befall a request to this endpoint, on a `socket` or by HTTP."""
        if self.needs_socket and not socket:
            return False
        return self.endpoint is None or self.endpoint == endpoint


def drop_before(endpoint: str | None = None, *, times: int = 1, reset: bool = False) -> Fault:
    """Close the connection before the vendor processes the request."""
    skipped = Processing.SKIPPED
    return Fault(endpoint=endpoint, times=times, processing=skipped, reply=Reply.DROP, reset=reset)


def drop_after(endpoint: str | None = None, *, times: int = 1, reset: bool = False) -> Fault:
    """Close the connection after the vendor has processed the request."""
    return Fault(endpoint=endpoint, times=times, reply=Reply.DROP, reset=reset)


def hang_before(endpoint: str | None = None, *, times: int = 1) -> Fault:
    """Never answer, and never process the request."""
    skipped = Processing.SKIPPED
    return Fault(endpoint=endpoint, times=times, processing=skipped, reply=Reply.HANG)


def hang_after(endpoint: str | None = None, *, times: int = 1) -> Fault:
    """Process the request, and never answer."""
    return Fault(endpoint=endpoint, times=times, reply=Reply.HANG)


def late(endpoint: str | None = None, *, delay: float, times: int = 1) -> Fault:
    """Process the request at once, and answer `delay` seconds later."""
    return Fault(endpoint=endpoint, times=times, reply=Reply.LATE, delay=delay)


def truncated(endpoint: str | None = None, *, times: int = 1, reset: bool = False) -> Fault:
    """Process the request, and break off in the middle of the body."""
    return Fault(endpoint=endpoint, times=times, reply=Reply.TRUNCATED, reset=reset)


def wrong_types(endpoint: str | None = None, *, times: int = 1) -> Fault:
    """Process the request, and answer with the expected names and values of other types."""
    return Fault(endpoint=endpoint, times=times, reply=Reply.RETYPED)


def fill_in_the_race(endpoint: str | None = None, *, times: int = 1) -> Fault:
    """Fill the orders that the request is about an instant before it is processed."""
    return Fault(endpoint=endpoint, times=times, processing=Processing.RACE)


def partial_fill_in_the_race(endpoint: str | None = None, *, times: int = 1) -> Fault:
    """Fill the orders that the request is about partly, an instant before it is processed."""
    return Fault(endpoint=endpoint, times=times, processing=Processing.PARTIAL_RACE)


def too_slow(endpoint: str | None = None, *, times: int = 1) -> Fault:
    """Let the request exceed the time that the vendor allows itself; its rules say what follows."""
    return Fault(endpoint=endpoint, times=times, processing=Processing.TOO_SLOW)


def skewed_clock(endpoint: str | None = None, *, offset: float, times: int = 1) -> Fault:
    """Serve the request with the vendor's clock `offset` seconds ahead (negative: behind)."""
    return Fault(endpoint=endpoint, times=times, clock_offset=offset)


def replaced(
    endpoint: str | None = None,
    *,
    status: int,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    times: int = 1,
    processed: bool = False,
) -> Fault:
    """Send another reply in place of the vendor's own; `processed` says what was done before."""
    return Fault(
        endpoint=endpoint,
        times=times,
        processing=Processing.NORMAL if processed else Processing.SKIPPED,
        reply=Reply.REPLACED,
        status=status,
        headers=headers or {},
        body=body,
    )


def rate_limited(
    endpoint: str | None = None,
    *,
    retry_after: float | datetime | str | None = None,
    times: int = 1,
) -> Fault:
    """
    Answer 429 without processing the request.

    Args:
        endpoint: The endpoint; None takes any.
        retry_after: The Retry-After header: seconds, a time (sent as an HTTP date), any text as it
            is, or None for no header.
        times: How many requests.
    """
    headers = {} if retry_after is None else {"Retry-After": _retry_after_text(retry_after)}
    return replaced(endpoint, status=429, headers=headers, times=times)


def server_error(
    endpoint: str | None = None, *, status: int = 500, times: int = 1, processed: bool = False
) -> Fault:
    """Answer 5xx; `processed` says whether the request was carried out all the same."""
    return replaced(endpoint, status=status, times=times, processed=processed)


def html_page(
    endpoint: str | None = None, *, status: int = 502, times: int = 1, processed: bool = False
) -> Fault:
    """Answer with the web page of a proxy, with any status, also 200."""
    return replaced(
        endpoint,
        status=status,
        body=f"<html><head><title>{status}</title></head><body>proxy</body></html>".encode(),
        headers={"Content-Type": HTML_TYPE},
        times=times,
        processed=processed,
    )


def empty_body(
    endpoint: str | None = None, *, status: int = 200, times: int = 1, processed: bool = True
) -> Fault:
    """Answer with a status and no body."""
    return replaced(endpoint, status=status, body=b"", times=times, processed=processed)


def json_array(endpoint: str | None = None, *, times: int = 1, processed: bool = True) -> Fault:
    """Answer 200 with an array where an object belongs."""
    return replaced(endpoint, status=200, body=b"[]", times=times, processed=processed)


def malformed_json(endpoint: str | None = None, *, times: int = 1, processed: bool = True) -> Fault:
    """Answer 200 with a complete body that is no JSON."""
    body = b'{"results":[{"order_id":'
    return replaced(endpoint, status=200, body=body, times=times, processed=processed)


def huge_body(
    endpoint: str | None = None,
    *,
    size: int = 10_000_000,
    times: int = 1,
    processed: bool = True,
) -> Fault:
    """Answer 200 with a well-formed JSON object of `size` bytes."""
    head, tail = b'{"padding":"', b'"}'
    body = head + b"x" * (size - len(head) - len(tail)) + tail
    return replaced(endpoint, status=200, body=body, times=times, processed=processed)


def retyped(body: bytes, kept: str | None = None) -> bytes:
    """Return a JSON text of the same shape, all values of other types but that of field `kept`."""
    value = msgspec.json.decode(body)
    changed = _retyped(value)
    if kept is not None and kept in value:
        changed[kept] = value[kept]
    return msgspec.json.encode(changed)


def _retyped(value: Any) -> Any:
    """Return a JSON value of the same shape whose texts, numbers and truths are of other types."""
    if isinstance(value, dict):
        return {name: _retyped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_retyped(item) for item in value]
    return len(value) if isinstance(value, str) else str(value)


def http_date(moment: datetime) -> str:
    """Return an aware time as HTTP headers write it."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def _retry_after_text(value: float | datetime | str) -> str:
    """Return the text of a Retry-After header."""
    if isinstance(value, datetime):
        return http_date(value)
    return value if isinstance(value, str) else f"{value:g}"


class FaultScript:
    """
    The faults to come.

    Scripted faults are taken first in, first out: a request takes the oldest one that waits for its
    endpoint. When none waits, `chaos` may strike. A script is empty once all of it has happened:
    ``assert not sandbox.faults`` at the end of a test.

    Args:
        endpoints: The vendor's words for its endpoints; None lets any word pass.
    """

    def __init__(self, endpoints: Iterable[str] | None = None) -> None:
        self._endpoints = None if endpoints is None else frozenset(endpoints)
        # [fault, how many requests it is still to befall], in the order they were added.
        self._waiting: list[tuple[Fault, int]] = []
        self._chaos: tuple[Fault, ...] = ()
        self._rate = 0.0
        self._random = random.Random(0)

    def __len__(self) -> int:
        """Return how many requests the scripted faults are still to befall."""
        return sum(left for _, left in self._waiting)

    def add(self, *faults: Fault) -> None:
        """
        Append faults to the script.

        Raises:
            ValueError: If the vendor has no such endpoint: the fault would never happen.
        """
        self._check(faults)
        self._waiting += [(fault, fault.times) for fault in faults]

    def clear(self) -> None:
        """Forget the script and end the chaos."""
        self._waiting.clear()
        self._chaos = ()

    def chaos(self, faults: Iterable[Fault], rate: float, seed: int) -> None:
        """
        Let one of `faults` befall each request with probability `rate`, the same way for one seed.

        Args:
            faults: What may happen; `times` means nothing here.
            rate: Probability per request, 0 to 1.
            seed: Of the random numbers.

        Raises:
            ValueError: If `rate` is not a probability, or the vendor has no such endpoint.
        """
        if not 0 <= rate <= 1:
            raise ValueError("rate is a probability: 0 to 1")
        chaos = tuple(faults)
        self._check(chaos)
        self._chaos, self._rate, self._random = chaos, rate, random.Random(seed)

    def take(self, endpoint: str, *, socket: bool = False) -> Fault | None:
        """
        Return the fault that befalls a request to this endpoint, and use it up.

        Args:
            endpoint: The vendor's word for it.
            socket: Whether the request came on a socket. Others leave the faults that only a socket
                can play to those that do.
        """
        for index, (fault, left) in enumerate(self._waiting):
            if fault.befalls(endpoint, socket=socket):
                if left > 1:
                    self._waiting[index] = (fault, left - 1)
                else:
                    del self._waiting[index]
                return fault
        return self._strike(endpoint, socket)

    def _check(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            if self._endpoints is not None and fault.endpoint not in {None, *self._endpoints}:
                words = ", ".join(sorted(self._endpoints))
                raise ValueError(f"no endpoint is called {fault.endpoint!r}; there are {words}")

    def _strike(self, endpoint: str, socket: bool) -> Fault | None:
        if not self._chaos or self._random.random() >= self._rate:
            return None
        fitting = [f for f in self._chaos if f.befalls(endpoint, socket=socket)]
        return self._random.choice(fitting) if fitting else None


# --- the meter ------------------------------------------------------------------------------------


class SlidingWindow:
    """
    A strict meter: never more than `requests` within any `per` seconds.

    Windows are half open, so that a request exactly `per` seconds after another is in the next one.
    Pure: the time is passed in, and never goes backwards.

    Args:
        requests: How many are admitted in one window.
        per: The window's length in seconds.

    Raises:
        ValueError: If either is not positive.
    """

    __slots__ = ("_admitted", "per", "requests")

    def __init__(self, requests: int, per: float) -> None:
        if requests < 1 or per <= 0:
            raise ValueError("a window admits at least one request in a positive time")
        self.requests = requests
        self.per = per
        # When the last `requests` requests were counted, oldest first.
        self._admitted: deque[float] = deque(maxlen=requests)

    def admits(self, now: float) -> bool:
        """Return whether a request at `now` is within the limit; it is not counted."""
        return self.free_at() <= now

    def count(self, now: float) -> None:
        """Count a request at `now` against the limit."""
        self._admitted.append(now)

    def free_at(self) -> float:
        """Return the time from which one more request is within the limit."""
        full = len(self._admitted) == self.requests
        return self._admitted[0] + self.per if full else float("-inf")


def peak_in_window(times: Iterable[float], per: float) -> int:
    """Return the largest number of `times` that lie within any half-open window of `per` seconds."""
    window: deque[float] = deque()
    peak = 0
    for time in sorted(times):
        window.append(time)
        while window[0] + per <= time:
            window.popleft()
        peak = max(peak, len(window))
    return peak


# --- the record of requests -----------------------------------------------------------------------


class RecordedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """
    A request as the vendor's side saw it, and what became of it.

    Attributes:
        number: Its place in the record, from 0.
        endpoint: The vendor's word for the endpoint; None for a path that is none.
        method: The HTTP method; "MESSAGE" for a message on a socket.
        path: The path, without the query; of a message, the one its socket was opened with.
        query: The query as sent, without the question mark.
        arrived: `loop.time()` when the vendor's side had all of it, in seconds.
        received_at: The vendor's clock then, aware, UTC.
        raw: The body's bytes; a message's bytes, credentials masked.
        body: The body or message decoded as JSON; None if it is no JSON.
        headers: The headers, names in lower case, credentials masked.
        caller: Which of the vendor's known callers sent it; None if it was not recognized.
        processed: Whether the vendor carried it out. A refused request is not carried out.
        status: The status that was put on the wire; None as long as, or if, there was none.
        fault: The fault that befell it.
        connection: Which socket it came on, counted from 1; None for HTTP.
        signature_age: Seconds since it was signed, by the vendor's clock; None without signature.
    """

    number: int
    endpoint: str | None
    method: str
    path: str
    query: str
    arrived: float
    received_at: datetime
    raw: bytes
    body: Any
    headers: Mapping[str, str]
    caller: str | None = None
    processed: bool = False
    status: int | None = None
    fault: Fault | None = None
    connection: int | None = None
    signature_age: float | None = None


class RequestLog(Sequence[RecordedRequest]):
    """The record of requests, in order of arrival: a live sequence of frozen entries."""

    def __init__(self) -> None:
        self._entries: list[RecordedRequest] = []
        self._counts: dict[str | None, int] = {}
        # Set at the next note; None while nobody waits for one.
        self._noted: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> RecordedRequest: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RecordedRequest]: ...
    def __getitem__(self, index: int | slice) -> RecordedRequest | Sequence[RecordedRequest]:
        return self._entries[index]

    def __repr__(self) -> str:
        return f"<RequestLog of {len(self)}>"

    def append(self, entry: RecordedRequest) -> None:
        """Record an arrival; its number is the length of the record so far."""
        self._entries.append(entry)
        self._counts[entry.endpoint] = self._counts.get(entry.endpoint, 0) + 1

    def note(self, number: int, **changes: Any) -> None:
        """Record what became of a request."""
        self._entries[number] = msgspec.structs.replace(self._entries[number], **changes)
        if self._noted is not None:
            self._noted.set()
            self._noted = None

    def to(self, endpoint: str | None) -> tuple[RecordedRequest, ...]:
        """Return the requests to one endpoint, in order of arrival."""
        return tuple(entry for entry in self._entries if entry.endpoint == endpoint)

    async def until(self, count: int, endpoint: str | None = None) -> None:
        """
        Wait until as many requests have arrived, and were carried out if they are to be.

        Args:
            count: How many, from the beginning.
            endpoint: To this endpoint; None: to any.
        """
        while (len(self) if endpoint is None else self._counts.get(endpoint, 0)) < count:
            if self._noted is None:
                self._noted = asyncio.Event()
            await self._noted.wait()

    def peak(self, endpoint: str | None, per: float) -> int:
        """
        Return the most requests one caller made in any window of `per` seconds.

        Args:
            endpoint: To this endpoint; None: to all of them together.
            per: The window's length in seconds.
        """
        arrivals: dict[str | None, list[float]] = {}
        for entry in self._entries:
            if endpoint is None or entry.endpoint == endpoint:
                arrivals.setdefault(entry.caller, []).append(entry.arrived)
        return max((peak_in_window(times, per) for times in arrivals.values()), default=0)


def _decoded(raw: bytes) -> Any:
    """Return a body decoded as JSON, or None."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _masked(headers: Mapping[str, str], credentials: frozenset[str]) -> dict[str, str]:
    """Return headers with the values of the named ones hidden."""
    hidden = credentials | CREDENTIAL_HEADERS
    return {name: MASK if name in hidden else value for name, value in headers.items()}


# --- HTTP on loopback -----------------------------------------------------------------------------


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """
    A request as a simulator sees it, credentials included.

    Attributes:
        number: Its place in the record.
        endpoint: What `HttpVendor.route` said.
        method: The HTTP method.
        target: The path and query as sent.
        query: The query's values by name; of a name sent twice, the last.
        headers: The headers, names in lower case.
        raw: The body's bytes; None if they were more than the server reads.
        arrived: `loop.time()` on arrival.
    """

    number: int
    endpoint: str | None
    method: str
    target: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw: bytes | None
    arrived: float


class HttpReply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply: status, body, and headers beside Content-Type and Date."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a simulator decided about a request, its work already done.

    Attributes:
        reply: Its own reply; None only with a fault that skips the processing.
        fault: The fault that befalls it.
        caller: Which known caller sent it.
        processed: Whether it was carried out.
        signature_age: Seconds since it was signed, by the vendor's clock.
    """

    reply: HttpReply | None = None
    fault: Fault | None = None
    caller: str | None = None
    processed: bool = False
    signature_age: float | None = None


class HttpVendor(Protocol):
    """A simulator behind a `LoopbackServer`. Its methods are synchronous: each call is atomic."""

    credentials: frozenset[str]
    """The headers to mask in the record, in lower case."""

    def route(self, method: str, path: str) -> str | None:
        """Return the vendor's word for the endpoint, or None."""

    def decide(self, request: HttpRequest) -> Decision:
        """Carry a request out, and say how it is answered."""

    def error_body(self, status: int) -> bytes:
        """Return the body with which the vendor answers an error of this HTTP status."""


Serve = Callable[[web.BaseRequest, asyncio.Event], Awaitable[web.StreamResponse]]
"""Serves a request, given the event that is set when its connection is gone."""


class _ClientConnections(web.Server):
    """
    aiohttp's server, which counts its connections, and tells its handler when one is gone.

    Args:
        serve: Answers a request, given the event that is set when its connection is gone.
        options: As for aiohttp's server.
    """

    def __init__(
        self,
        serve: Serve,
        **options: Any,
    ) -> None:
        super().__init__(self._handle, **options)
        self.accepted = 0
        self._serve = serve
        self._open: dict[web.RequestHandler, tuple[asyncio.Transport, asyncio.Event]] = {}
        self._serving: set[asyncio.Task[Any]] = set()
        self._closed = False

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection."""
        super().connection_made(handler, transport)
        self.accepted += 1
        self._open[handler] = transport, asyncio.Event()

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Wake whoever holds the connection."""
        super().connection_lost(handler, exc)
        _, gone = self._open.pop(handler)
        gone.set()

    async def aclose(self) -> None:
        """Abort every connection and request; return when the sockets are closed."""
        self._closed = True
        # Everything is told to end before the first await: a cancelled close is a close, too.
        leaving = list(self._open.values())
        serving = list(self._serving)
        for transport, _ in leaving:
            transport.abort()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for _, gone in leaving:
            await gone.wait()
        await self.shutdown(0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = self._open.get(request.protocol)
        task = asyncio.current_task()
        # aiohttp hands over what it has read even after the connection is gone.
        if self._closed or connection is None or task is None:
            if request.transport is not None:  # it was accepted in the moment of the close
                request.transport.abort()
            return _nothing()
        self._serving.add(task)
        try:
            return await self._serve(request, connection[1])
        finally:
            self._serving.discard(task)


class LoopbackServer:
    """
    An HTTP server on 127.0.0.1 that serves one simulated vendor and plays its faults.

    A request that has arrived is carried out even if the client has gone meanwhile, as at a real
    vendor. It may be started in one task and closed in another.

    Args:
        vendor: Who decides.
        now: The vendor's wall clock; returns aware times.
        jitter: Every request and every reply travels for a random time up to this, in seconds.
        seed: Of the random travel times.
        ssl_context: Serve TLS with it.
        keepalive: Seconds after which an idle connection is closed.
        log: The record to write to; by default one of its own.
        upgrade: Serves a connection whose client asks for a WebSocket, given the request and the
            event that is set when the connection is gone.
    """

    def __init__(
        self,
        vendor: HttpVendor,
        *,
        now: Callable[[], datetime],
        jitter: float = 0.0,
        seed: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        keepalive: float = 75.0,
        log: RequestLog | None = None,
        upgrade: Serve | None = None,
    ) -> None:
        self.log = RequestLog() if log is None else log
        self._upgrade = upgrade
        self._vendor = vendor
        self._now = now
        self._jitter = jitter
        self._random = random.Random(seed)
        self._ssl_context = ssl_context
        self._keepalive = keepalive
        self._listener: asyncio.Server | None = None
        self._connections: _ClientConnections | None = None
        self._accepted_before = 0
        self._port = 0

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end; known once started, and kept after closing."""
        if not self._port:
            raise RuntimeError("the sandbox has not been started")
        return f"{'https' if self._ssl_context else 'http'}://127.0.0.1:{self._port}"

    @property
    def accepted(self) -> int:
        """How many connections were accepted."""
        return self._accepted_before + (self._connections.accepted if self._connections else 0)

    async def start(self) -> None:
        """
        Listen on a free port. After closing it may be started again, on the same port.

        Raises:
            RuntimeError: If it is running.
        """
        if self._listener is not None:
            raise RuntimeError("the sandbox is already running")
        self._connections = _ClientConnections(
            self._answer,
            access_log=None,
            keepalive_timeout=self._keepalive,
            lingering_time=0.0,
        )
        self._listener = await asyncio.get_running_loop().create_server(
            self._connections, "127.0.0.1", self._port, ssl=self._ssl_context, backlog=1024
        )
        self._port = self._listener.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop listening and abort every connection and request at once; idempotent."""
        listener, self._listener = self._listener, None
        connections = self._connections
        if listener is None or connections is None:
            return
        self._accepted_before, self._connections = self.accepted, None
        listener.close()
        await connections.aclose()

    async def _answer(self, request: web.BaseRequest, gone: asyncio.Event) -> web.StreamResponse:
        if self._upgrade is not None and request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._upgrade(request, gone)
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raw = None
        except (ConnectionError, web.RequestPayloadError):
            return _nothing()  # half a request never reached the vendor
        await self._travel()
        arrival = self._arrive(request, raw)
        decision = self._vendor.decide(arrival)
        fault = decision.fault
        self.log.note(
            arrival.number,
            caller=decision.caller,
            processed=decision.processed,
            fault=fault,
            signature_age=decision.signature_age,
        )
        await self._travel()
        if fault is not None and await self._withheld(request, fault, gone):
            return _nothing()
        return await self._send(request, arrival.number, decision, gone)

    def _arrive(self, request: web.BaseRequest, raw: bytes | None) -> HttpRequest:
        """Record an arrival."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        path, _, query = request.raw_path.partition("?")
        arrival = HttpRequest(
            number=len(self.log),
            endpoint=self._vendor.route(request.method, path),
            method=request.method,
            target=request.raw_path,
            query=dict(request.query),
            headers=headers,
            raw=raw,
            arrived=asyncio.get_running_loop().time(),
        )
        entry = RecordedRequest(
            number=arrival.number,
            endpoint=arrival.endpoint,
            method=arrival.method,
            path=path,
            query=query,
            arrived=arrival.arrived,
            received_at=self._now(),
            raw=raw or b"",
            body=_decoded(raw or b""),
            headers=_masked(headers, self._vendor.credentials),
        )
        self.log.append(entry)
        return arrival

    async def _travel(self) -> None:
        if self._jitter:
            await asyncio.sleep(self._random.uniform(0, self._jitter))

    async def _withheld(self, request: web.BaseRequest, fault: Fault, gone: asyncio.Event) -> bool:
        """Play the part of a fault that comes before the first byte; say if that was all."""
        if fault.delay:
            await _gone_within(gone, fault.delay)
        if fault.reply is Reply.HANG:
            await gone.wait()
        if fault.reply is Reply.DROP:
            await _cut(request, gone, reset=fault.reset)
        return gone.is_set()

    async def _send(
        self, request: web.BaseRequest, number: int, decision: Decision, gone: asyncio.Event
    ) -> web.StreamResponse:
        """Send the reply, or what the fault makes of it."""
        fault = decision.fault
        reply = self._reply(decision)
        headers = self._headers(reply, fault)
        self.log.note(number, status=None if gone.is_set() else reply.status)
        if fault is not None and fault.reply is Reply.TRUNCATED:
            await self._send_half(request, reply, headers)
            await _cut(request, gone, reset=fault.reset)
            return _nothing()
        return web.Response(status=reply.status, headers=headers, body=reply.body)

    def _reply(self, decision: Decision) -> HttpReply:
        """Return the reply that is to be sent, whole."""
        fault, reply = decision.fault, decision.reply
        if fault is not None and fault.reply is Reply.REPLACED:
            body = self._vendor.error_body(fault.status) if fault.body is None else fault.body
            return HttpReply(status=fault.status, headers=fault.headers, body=body)
        assert reply is not None, "a simulator answers whatever it processes"
        if fault is not None and fault.reply is Reply.RETYPED:
            return msgspec.structs.replace(reply, body=retyped(reply.body))
        return reply

    def _headers(self, reply: HttpReply, fault: Fault | None) -> dict[str, str]:
        ahead = timedelta(seconds=fault.clock_offset if fault else 0.0)
        usual = {"Content-Type": JSON_TYPE, "Date": http_date(self._now() + ahead)}
        return {**usual, **reply.headers}

    async def _send_half(
        self, request: web.BaseRequest, reply: HttpReply, headers: dict[str, str]
    ) -> None:
        response = web.StreamResponse(status=reply.status, headers=headers)
        response.content_length = len(reply.body)
        try:
            await response.prepare(request)
            await response.write(reply.body[: len(reply.body) // 2])
        except ConnectionError:
            pass  # the client went first


def _nothing() -> web.StreamResponse:
    """Return what aiohttp asks a handler for when the connection is gone: it is not sent."""
    return web.Response()


async def _gone_within(gone: asyncio.Event, delay: float) -> None:
    """Wait for `delay` seconds, or until the connection is gone."""
    try:
        async with asyncio.timeout(delay):
            await gone.wait()
    except TimeoutError:
        pass


async def _cut(request: web.BaseRequest, gone: asyncio.Event, *, reset: bool) -> None:
    """Close the connection under a request."""
    if request.transport is not None:
        cut_connection(request.transport, reset=reset)
    await gone.wait()


def cut_connection(transport: asyncio.Transport, *, reset: bool = False) -> None:
    """Close a connection, with FIN (after what is still to be sent) or RST (at once)."""
    if not reset:
        transport.close()
        return
    # A socket that lingers for no time is reset when it is closed.
    sock: socket = transport.get_extra_info("socket")
    sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
