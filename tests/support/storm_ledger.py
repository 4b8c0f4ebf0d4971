"""Every request that left, by telemetry and by the vendor's own record, and whether the two agree.

The ledger writes on each request the number that telemetry gave it: into a header, or, on a socket, next to the id that
the request has there. So what arrived is matched with what was told one by one, and not by counting.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from brokers.ripio import RipioGateway
from tronsave_async import Answered, Connected, Disconnected, Lost, Queued, Sent, Wire
from tronsave_async.tasks import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tronsave_async import Event
    from tronsave_async.http import HttpTransport
    from tronsave_async.sandbox import RecordedRequest
    from tronsave_async.websocket import WebSocketTransport

__all__ = ["Ledger", "Request"]

HEADER: Final = "x-request-number"


class Request:
    """One request, as telemetry told it. Moments are the ledger's.

    Attributes:
        number: telemetry's.
        endpoint: the vendor's call.
        orders: how many orders it was about when it left.
        queued, sent, ended: when that was told; None if it was not.
        sent_at: the same in seconds of the event loop.
        answer: the status it was answered with; None if it was lost.
        reason: why it was lost.
        connection: the socket on which it left, counted from 1; None for HTTP.
    """

    __slots__ = (
        "answer",
        "connection",
        "ended",
        "endpoint",
        "number",
        "orders",
        "queued",
        "reason",
        "sent",
        "sent_at",
    )

    def __init__(self, number: int, endpoint: str, queued: int) -> None:
        self.number = number
        self.endpoint = endpoint
        self.orders = 0
        self.queued = queued
        self.sent: int | None = None
        self.sent_at = 0.0
        self.ended: int | None = None
        self.answer: int | None = None
        self.reason = ""
        self.connection: int | None = None

    def __repr__(self) -> str:
        told = f"answered {self.answer}" if self.answer is not None else f"lost: {self.reason}"
        return f"request {self.number} ({self.endpoint}, {told if self.ended else 'under way'})"


class Ledger:
    """The telemetry hook of one gateway, and its account.

    Args:
        complain: takes a sentence about what does not add up.
        longest_way: seconds for which a request may travel at most.

    Attributes:
        moment: rises with everything that is told and everything that callers do: it orders them.
        requests: those of the present page by number.
        kinds: events by their names.
        lost_on_the_way: requests that left and did not arrive, by what ate them.
    """

    def __init__(self, complain: Callable[[str], None], longest_way: float) -> None:
        self.moment = 0
        self.requests: dict[int, Request] = {}
        self.kinds: Counter[str] = Counter()
        self.lost_on_the_way: Counter[str] = Counter()
        self.sent = 0
        self._complain = complain
        self._longest_way = longest_way
        self._latest_sent: list[int] = []
        self._by_key: dict[str, int] = {}
        self._connections = 0
        self._gone: dict[int, Disconnected] = {}
        self._outages: list[tuple[float, int]] = []
        self._closed_at: int | None = None

    def tick(self) -> int:
        """Return a new moment."""
        self.moment += 1
        return self.moment

    # -- what telemetry tells -------------------------------------------------------------------------------------

    def hear(self, event: Event, /) -> None:
        """The telemetry hook."""
        self.kinds[type(event).__name__] += 1
        match event:
            case Queued():
                self._queue(event)
            case Sent():
                self._send(event)
            case Answered() | Lost():
                self._end(event)
            case Connected():
                self._connections = event.connections
            case Disconnected():
                self._disconnect(event)
            case _:
                pass  # counted by its kind; it is about no request

    def _queue(self, event: Queued) -> None:
        if event.request in self.requests:
            self._complain(f"request {event.request} was queued twice")
        self.requests[event.request] = Request(event.request, event.endpoint, self.tick())

    def _send(self, event: Sent) -> None:
        self._latest_sent.append(event.request)
        request = self._known(event)
        if request.sent is not None or request.ended is not None:
            self._complain(f"{request} is sent again")
        request.orders = event.orders
        request.sent, request.sent_at = self.tick(), clock()
        self.sent += 1

    def _end(self, event: Answered | Lost) -> None:
        request = self._known(event)
        if request.ended is not None:
            self._complain(f"{request} ends again: {event}")
        request.ended = self.tick()
        if isinstance(event, Answered):
            request.answer = event.status
            if request.sent is None:
                self._complain(f"{request} was never sent")
            return
        request.reason = event.reason
        reached = Wire.NOT_SENT if request.sent is None else Wire.MAYBE_SENT
        if event.reached is not reached:
            self._complain(f"{request} is said to be {event.reached}, and is {reached}")

    def _disconnect(self, event: Disconnected) -> None:
        """A lost connection says how many requests it takes along."""
        self._gone[self._connections] = event

    def _known(self, event: Sent | Answered | Lost) -> Request:
        request = self.requests.get(event.request)
        if request is None:
            self._complain(f"{event} about a request that was never queued")
            request = self.requests[event.request] = Request(
                event.request, event.endpoint, self.tick()
            )
        return request

    # -- the numbers on the requests ------------------------------------------------------------------------------

    def attend(self, gateway: Any) -> None:
        """Number the requests of a gateway that has not been used yet."""
        self._number_http(gateway._http)
        if isinstance(gateway, RipioGateway):
            self._number_socket(gateway._socket)

    def _number_http(self, transport: HttpTransport) -> None:
        send = transport.send

        def numbered(*args: Any, departing: Callable[[bool], Any], **options: Any) -> Any:
            def leaving(seen: bool) -> Mapping[str, str]:
                self._latest_sent.clear()
                headers: Mapping[str, str] = departing(seen) or {}
                return {**headers, HEADER: str(self._leaving())}

            return send(*args, departing=leaving, **options)

        transport.send = numbered  # type: ignore[method-assign]

    def _number_socket(self, transport: WebSocketTransport[Any]) -> None:
        depart = transport._depart

        def numbered(ask: Any, connection: Any, now: float) -> int:
            self._latest_sent.clear()
            length = depart(ask, connection, now)
            if ask.key is not None:
                self._by_key[ask.key] = number = self._leaving()
                if number in self.requests:
                    self.requests[number].connection = self._connections
            return length

        transport._depart = numbered  # type: ignore[method-assign]

    def _leaving(self) -> int:
        """The number of the request that leaves in this moment; 0 if it was not told exactly once."""
        if len(self._latest_sent) != 1:
            self._complain(f"a request left, and telemetry told it as {self._latest_sent}")
            return 0
        return self._latest_sent[0]

    def number_of(self, entry: RecordedRequest) -> int:
        """Telemetry's number of what arrived; 0 if it has none."""
        if entry.connection is not None:
            return self._by_key.get(entry.body["id"], 0)
        return int(entry.headers.get(HEADER, 0))

    # -- the account ----------------------------------------------------------------------------------------------

    @contextmanager
    def outage(self) -> Iterator[None]:
        """While it lasts, what leaves by HTTP need not arrive."""
        begun_at = clock()
        try:
            yield
        finally:
            self._outages.append((begun_at, self.tick()))

    def closed(self) -> None:
        """The gateway closes: what was under way by HTTP need not arrive."""
        self._closed_at = self.tick()

    @property
    def under_way(self) -> int:
        """Requests that left on a socket and have not ended."""
        requests = self.requests.values()
        return sum(r.connection is not None and r.ended is None for r in requests)

    def settle(self, record: Sequence[RecordedRequest]) -> None:
        """Compare what was told with the vendor's record: each with each, exactly once."""
        arrived: set[int] = set()
        for entry in record:
            number = self.number_of(entry)
            request = self.requests.get(number)
            if request is None:
                self._complain(
                    f"{entry.endpoint} number {number} arrived, and telemetry does not know it"
                )
                continue
            if number in arrived:
                self._complain(f"{request} arrived twice")
            arrived.add(number)
            self._compare(request, entry)
        for request in self.requests.values():
            if request.ended is None:
                self._complain(f"{request} has no end")
            if request.sent is not None and request.number not in arrived:
                self._explain(request)
        for connection, event in self._gone.items():
            self._count_lost_with(connection, event)

    def turn_the_page(self) -> None:
        """Forget what was settled."""
        self.requests.clear()
        self._by_key.clear()
        self._latest_sent.clear()
        self._gone.clear()
        self._outages.clear()

    def _compare(self, request: Request, entry: RecordedRequest) -> None:
        if request.endpoint != entry.endpoint:
            self._complain(f"{request} arrived as {entry.endpoint}")
        if isinstance(entry.body, dict) and "order_ids" in entry.body:
            named = len(entry.body["order_ids"])
            if named != request.orders:
                self._complain(
                    f"{request} arrived with {named} orders, and left with {request.orders}"
                )
        if request.sent is None:
            self._complain(f"{request} arrived, and was never sent")
        elif request.answer is not None and entry.status is None:
            self._complain(f"{request} was never replied to")
        elif entry.connection is None and request.answer not in {None, entry.status}:
            self._complain(f"{request} was replied to with {entry.status}")

    def _count_lost_with(self, connection: int, event: Disconnected) -> None:
        lost = sum(
            request.connection == connection and request.reason == event.reason
            for request in self.requests.values()
        )
        if lost != event.pending:
            self._complain(f"{event}, and {lost} requests were lost with it")

    def _explain(self, request: Request) -> None:
        """Say what ate a request that left and did not arrive; nothing did if it was answered."""
        assert request.sent is not None, "checked before"
        ended = self.moment if request.ended is None else request.ended
        comes_at = request.sent_at + self._longest_way
        if request.answer is not None:
            self._complain(f"{request} never arrived")
        elif request.connection is not None and request.connection in self._gone:
            self.lost_on_the_way["with its socket"] += 1
        elif any(at <= comes_at and request.sent <= over for at, over in self._outages):
            self.lost_on_the_way["in an outage"] += 1
        elif self._closed_at is not None and ended >= self._closed_at:
            self.lost_on_the_way["with its gateway"] += 1
        else:
            self._complain(f"{request} never arrived, and nothing ate it")
