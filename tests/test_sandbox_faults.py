"""`tronsave_async.sandbox`: faults, meter, record, and the server on loopback, without a vendor."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
import trustme

from tronsave_async.sandbox import (
    Decision,
    Fault,
    FaultScript,
    HttpReply,
    HttpRequest,
    LoopbackServer,
    Processing,
    RecordedRequest,
    Reply,
    RequestLog,
    SlidingWindow,
    _retyped,
    drop_after,
    drop_before,
    empty_body,
    fill_in_the_race,
    hang_after,
    hang_before,
    html_page,
    huge_body,
    json_array,
    late,
    malformed_json,
    peak_in_window,
    rate_limited,
    replaced,
    server_error,
    skewed_clock,
    truncated,
    wrong_types,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_TEXT = "Thu, 01 Jan 2026 12:00:00 GMT"


class Counter:
    """A vendor with one endpoint, which counts: the smallest `HttpVendor`."""

    credentials = frozenset({"secret"})

    def __init__(self) -> None:
        self.faults = FaultScript()
        self.count = 0
        self.padding = ""

    def route(self, method: str, path: str) -> str | None:
        return "count" if (method, path) == ("POST", "/count") else None

    def error_body(self, status: int) -> bytes:
        return b'{"error":%d}' % status

    def decide(self, request: HttpRequest) -> Decision:
        if request.endpoint is None:
            return Decision(reply=HttpReply(status=404, body=b"no such path"))
        fault = self.faults.take(request.endpoint)
        if fault is not None and fault.processing is Processing.SKIPPED:
            return Decision(fault=fault)
        self.count += 1
        body = msgspec.json.encode({"count": self.count, "list": ["one"], "truth": True})
        body += self.padding.encode()
        headers = {"X-Size": "none" if request.raw is None else str(len(request.raw))}
        reply = HttpReply(status=200, body=body, headers=headers)
        return Decision(reply=reply, fault=fault, processed=True, caller="somebody")


@asynccontextmanager
async def counting(**options: Any) -> AsyncIterator[tuple[Counter, LoopbackServer]]:
    """Serve a counter whose clock stands at noon."""
    vendor = Counter()
    server = LoopbackServer(vendor, now=lambda: NOON, **options)
    await server.start()
    try:
        yield vendor, server
    finally:
        await server.aclose()


@asynccontextmanager
async def served(*faults: Fault) -> AsyncIterator[tuple[Counter, LoopbackServer, Post]]:
    """Serve a counter with these faults ahead, to a client."""
    async with counting() as (vendor, server), aiohttp.ClientSession() as session:
        vendor.faults.add(*faults)
        yield vendor, server, Post(session, server.url)


class Post:
    """POST to the counter; the reply's status, body and headers."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def __call__(
        self, path: str = "/count", **options: Any
    ) -> tuple[int, bytes, Mapping[str, str]]:
        async with self._session.post(self._url + path, **options) as reply:
            return reply.status, await reply.read(), reply.headers


async def turns(count: int = 20) -> None:
    """Let the loop run, so that bytes on loopback arrive."""
    for _ in range(count):
        await asyncio.sleep(0.0005)


async def raw_exchange(url: str, request: bytes) -> bytes:
    """Send bytes over a socket of our own; return all that came until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what aiohttp logged: an error that a simulator lets through ends there."""
    return [entry.getMessage() for entry in caplog.records if entry.name == "aiohttp.server"]


RAW_POST = b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


# --- the fault model ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        {"times": 0},
        {"delay": -1.0},
        {"reply": Reply.LATE},
        {"processing": Processing.SKIPPED},
        {"processing": Processing.SKIPPED, "reply": Reply.LATE, "delay": 1.0},
        {"processing": Processing.SKIPPED, "reply": Reply.TRUNCATED},
        {"processing": Processing.SKIPPED, "reply": Reply.RETYPED},
    ],
)
def test_contradictory_faults_are_rejected(parts: dict[str, Any]) -> None:
    """A fault that cannot be played is an error where it is written."""
    with pytest.raises(ValueError, match=r"fault|delay|processed"):
        Fault(**parts)


@pytest.mark.parametrize(
    ("fault", "processing", "reply"),
    [
        (drop_before(), Processing.SKIPPED, Reply.DROP),
        (drop_after(), Processing.NORMAL, Reply.DROP),
        (hang_before(), Processing.SKIPPED, Reply.HANG),
        (hang_after(), Processing.NORMAL, Reply.HANG),
        (late(delay=1), Processing.NORMAL, Reply.LATE),
        (truncated(), Processing.NORMAL, Reply.TRUNCATED),
        (wrong_types(), Processing.NORMAL, Reply.RETYPED),
        (rate_limited(), Processing.SKIPPED, Reply.REPLACED),
        (server_error(), Processing.SKIPPED, Reply.REPLACED),
        (server_error(processed=True), Processing.NORMAL, Reply.REPLACED),
        (html_page(), Processing.SKIPPED, Reply.REPLACED),
        (empty_body(), Processing.NORMAL, Reply.REPLACED),
        (json_array(), Processing.NORMAL, Reply.REPLACED),
        (malformed_json(), Processing.NORMAL, Reply.REPLACED),
        (huge_body(), Processing.NORMAL, Reply.REPLACED),
        (fill_in_the_race(), Processing.RACE, Reply.NORMAL),
        (skewed_clock(offset=60), Processing.NORMAL, Reply.NORMAL),
    ],
)
def test_each_constructor_says_what_was_processed_and_replied(
    fault: Fault, processing: Processing, reply: Reply
) -> None:
    """The two parts of a fault are independent, and each constructor sets both."""
    assert (fault.processing, fault.reply) == (processing, reply)


def test_a_fault_shows_what_is_unusual_but_not_its_body() -> None:
    """The text of a fault stays short even when its body is 10 MB."""
    assert repr(Fault()) == "Fault()"
    assert repr(huge_body("count")).endswith("body=<10000000 bytes>)")
    fault = replaced(status=418, body=b"tea", headers={"A": "b"}, times=2)
    assert "status=418" in repr(fault)
    assert "times=2" in repr(fault)
    assert "headers={'A': 'b'}" in repr(fault)
    assert "tea" not in repr(fault)


@pytest.mark.parametrize(
    ("retry_after", "text"),
    [(2, "2"), (1.5, "1.5"), (NOON, NOON_TEXT), ("soon", "soon")],
)
def test_retry_after_is_seconds_a_date_or_any_text(
    retry_after: float | datetime | str, text: str
) -> None:
    """Both documented forms of Retry-After can be scripted, and nonsense, too."""
    assert rate_limited(retry_after=retry_after).headers == {"Retry-After": text}


def test_retyped_keeps_the_shape() -> None:
    """Every leaf of a reply changes its type, every object and array stays what it was."""
    value = {"a": ["x", 1, None], "b": {"c": True}}
    assert _retyped(value) == {"a": [1, "1", "None"], "b": {"c": "True"}}


# --- the script -----------------------------------------------------------------------------------


def test_faults_are_taken_in_order_by_endpoint() -> None:
    """A request takes the oldest fault that waits for its endpoint, and leaves the others."""
    script = FaultScript()
    one, two, three = drop_before("a"), drop_after("b"), hang_after()
    script.add(one, two)
    script.add(three)
    assert [script.take(e) for e in ("b", "b", "a", "a")] == [two, three, one, None]


def test_a_fault_befalls_as_many_requests_as_it_says() -> None:
    """`times` counts requests to the fault's endpoint only, and len() what is left."""
    script = FaultScript()
    fault = drop_before("a", times=2)
    script.add(fault)
    assert len(script) == 2
    assert [script.take(e) for e in ("a", "b", "a", "a")] == [fault, None, fault, None]
    assert len(script) == 0


def test_a_fault_that_would_never_happen_is_refused() -> None:
    """A word that is no endpoint's is a slip of the pen, and a test with it would prove nothing."""
    script = FaultScript(["cancel", "order"])
    for slip in (drop_after("cancle"), drop_after("Cancel"), drop_after("")):
        with pytest.raises(
            ValueError, match=r"^no endpoint is called '.*'; there are cancel, order$"
        ):
            script.add(drop_after("cancel"), slip)
        with pytest.raises(ValueError, match=r"^no endpoint is called"):
            script.chaos([drop_after("cancel"), slip], rate=1, seed=0)
    assert not script
    assert script.take("cancel") is None
    script.add(drop_after("cancel"), drop_after())
    assert len(script) == 2


def test_clear_forgets_everything() -> None:
    """After `clear` neither a scripted fault nor chaos strikes."""
    script = FaultScript()
    script.add(drop_before())
    script.chaos([drop_after()], rate=1, seed=0)
    script.clear()
    assert script.take("a") is None


def test_chaos_repeats_itself_for_a_seed() -> None:
    """The same seed makes the same faults, another one others; the rate is kept roughly."""

    def run(seed: int) -> list[Fault | None]:
        script = FaultScript()
        script.chaos([drop_before(), drop_after()], rate=0.3, seed=seed)
        return [script.take("a") for _ in range(1000)]

    assert run(1) == run(1) != run(2)
    struck = [fault for fault in run(1) if fault is not None]
    assert 230 < len(struck) < 370
    assert {fault.processing for fault in struck} == {Processing.NORMAL, Processing.SKIPPED}


def test_chaos_honors_endpoints_and_waits_for_the_script() -> None:
    """Scripted faults go first; chaos for another endpoint does not strike."""
    script = FaultScript()
    script.chaos([drop_before("a")], rate=1, seed=0)
    script.add(hang_after("a"))
    taken = [script.take(endpoint) for endpoint in ("b", "a", "a")]
    assert taken == [None, hang_after("a"), drop_before("a")]


def test_a_rate_is_a_probability() -> None:
    """A rate outside 0 to 1 is an error."""
    with pytest.raises(ValueError, match="probability"):
        FaultScript().chaos([], rate=1.1, seed=0)


# --- the meter ------------------------------------------------------------------------------------


def test_the_window_slides() -> None:
    """Two per second means: never three within any second, wherever it begins."""
    window = SlidingWindow(2, 1.0)
    admitted = []
    for tenth in range(40):
        now = tenth / 10
        if window.admits(now):
            window.count(now)
            admitted.append(tenth)
    assert admitted == [0, 1, 10, 11, 20, 21, 30, 31]


def test_the_window_is_half_open_and_exact() -> None:
    """A request exactly one window after another is admitted, any earlier one is not."""
    window = SlidingWindow(1, 2.0)
    window.count(10.0)
    assert not window.admits(11.999999999)
    assert window.free_at() == 12.0
    assert window.admits(12.0)


def test_asking_does_not_count() -> None:
    """`admits` leaves the meter as it is: only `count` uses the limit up."""
    window = SlidingWindow(1, 2.0)
    assert window.admits(0.0)
    assert window.admits(0.0)


@pytest.mark.parametrize(("requests", "per"), [(0, 1.0), (1, 0.0)])
def test_a_window_has_room_and_length(requests: int, per: float) -> None:
    """A meter that admits nothing, or for no time, is an error."""
    with pytest.raises(ValueError, match="window"):
        SlidingWindow(requests, per)


@pytest.mark.parametrize(
    ("times", "peak"),
    [([], 0), ([5.0], 1), ([0.0, 2.0, 4.0], 1), ([0.0, 1.9, 2.0], 2), ([3.0, 0.0, 1.5, 1.6], 3)],
)
def test_the_peak_is_the_fullest_window(times: list[float], peak: int) -> None:
    """The peak looks at every window, whatever the order of the times."""
    assert peak_in_window(times, 2.0) == peak


# --- the record -----------------------------------------------------------------------------------


def record(number: int, **fields: Any) -> RecordedRequest:
    """Return a record's entry."""
    usual: dict[str, Any] = {
        "endpoint": "a",
        "method": "GET",
        "path": "/",
        "query": "",
        "arrived": 0.0,
        "received_at": NOON,
        "raw": b"",
        "body": None,
        "headers": {},
    }
    return RecordedRequest(number=number, **{**usual, **fields})


def test_the_record_is_a_live_sequence_of_frozen_entries() -> None:
    """An entry does not change under the reader; the sequence shows the newer one."""
    log = RequestLog()
    log.append(record(0))
    before = log[0]
    log.note(0, processed=True, status=200)
    assert not before.processed
    assert (log[0].processed, log[0].status) == (True, 200)
    assert [entry.number for entry in log[:1]] == [0]
    assert repr(log) == "<RequestLog of 1>"
    with pytest.raises(AttributeError):
        before.status = 500  # type: ignore[misc]


def test_the_peak_is_counted_for_each_caller() -> None:
    """Two callers have a limit each: their requests do not add up."""
    log = RequestLog()
    callers = [("a", "x"), ("a", "x"), ("a", "y"), ("b", "x")]
    for number, (endpoint, caller) in enumerate(callers):
        log.append(record(number, endpoint=endpoint, caller=caller))
    assert [log.peak(endpoint, 2.0) for endpoint in ("a", "b", "c", None)] == [2, 1, 0, 3]
    assert [entry.number for entry in log.to("a")] == [0, 1, 2]


async def test_several_may_wait_for_requests() -> None:
    """`until` returns at once for what has arrived, and wakes everybody for what arrives."""
    async with served() as (_, server, post):
        waiters = [asyncio.create_task(server.log.until(2, e)) for e in (None, "count")]
        await server.log.until(0)
        await post("/elsewhere")
        await post()
        await waiters[0]
        assert not waiters[1].done()
        await post()
        await waiters[1]


async def test_a_request_is_recorded_with_its_credentials_masked() -> None:
    """The record tells when, what and from whom, never a secret."""
    async with served() as (_, server, post):
        before = asyncio.get_running_loop().time()
        headers = {"Secret": "s3cret", "Authorization": "s3cret", "X-Other": "shown"}
        await post("/count?a=1&b=2", json={"x": [1]}, headers=headers)
        entry = server.log[0]
        assert before <= entry.arrived <= asyncio.get_running_loop().time()
    assert (entry.number, entry.endpoint, entry.method) == (0, "count", "POST")
    assert (entry.path, entry.query, entry.caller) == ("/count", "a=1&b=2", "somebody")
    assert (entry.received_at, entry.status, entry.processed) == (NOON, 200, True)
    assert entry.body == {"x": [1]}
    assert msgspec.json.decode(entry.raw) == {"x": [1]}
    assert entry.headers["secret"] == entry.headers["authorization"] == "***"
    assert entry.headers["x-other"] == "shown"
    assert "s3cret" not in repr(entry)


async def test_a_path_that_is_none_is_recorded_without_an_endpoint() -> None:
    """A wrong path is on the record, and takes no fault."""
    async with served(drop_before()) as (vendor, server, post):
        status, _, _ = await post("/elsewhere", data=b"no json")
        assert status == 404
        assert len(vendor.faults) == 1
    assert (server.log[0].endpoint, server.log[0].body) == (None, None)


# --- the faults on the wire -----------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("fault", "processed"), [(drop_before, False), (drop_after, True)])
async def test_a_drop_sends_nothing(fault: Any, processed: bool, reset: bool) -> None:
    """The client sees the end of the connection, the record whether it was processed."""
    async with served(fault("count", reset=reset)) as (vendor, server, post):
        error = aiohttp.ClientOSError if reset else aiohttp.ServerDisconnectedError
        with pytest.raises(error):
            await post()
        assert vendor.count == processed
        assert (server.log[0].processed, server.log[0].status) == (processed, None)
        assert server.log[0].fault == fault("count", reset=reset)
        assert (await post())[0] == 200
        assert server.accepted == 2


@pytest.mark.parametrize(("reset", "error"), [(False, None), (True, ConnectionResetError)])
async def test_a_drop_ends_with_fin_or_rst(reset: bool, error: type[Exception] | None) -> None:
    """On a bare socket a drop is a clean end without a byte, a reset is a reset."""
    async with served(drop_after(reset=reset)) as (_, server, _post):
        if error is None:
            assert await raw_exchange(server.url, RAW_POST) == b""
        else:
            with pytest.raises(error):
                await raw_exchange(server.url, RAW_POST)


@pytest.mark.parametrize(("fault", "processed"), [(hang_before, False), (hang_after, True)])
async def test_a_hang_holds_the_connection_until_the_client_goes(
    fault: Any, processed: bool
) -> None:
    """No reply comes, the record says what was done meanwhile, and the server goes on."""
    async with served(fault()) as (vendor, server, post):
        client = asyncio.create_task(post())
        await server.log.until(1, "count")
        await turns(3)
        assert not client.done()
        client.cancel()
        await asyncio.wait([client])
        assert vendor.count == processed
        assert (server.log[0].processed, server.log[0].status) == (processed, None)
        assert (await post())[0] == 200


async def test_closing_is_prompt_with_hung_requests() -> None:
    """Closing ends hung requests at once: their clients see the end of the connection."""
    async with aiohttp.ClientSession() as session, counting() as (vendor, server):
        vendor.faults.add(hang_after(), hang_before(), late(delay=60))
        post = Post(session, server.url)
        clients = [asyncio.create_task(post()) for _ in range(3)]
        await server.log.until(3)
        before = asyncio.get_running_loop().time()
        await server.aclose()
        assert asyncio.get_running_loop().time() - before < 0.5
        ends = await asyncio.gather(*clients, return_exceptions=True)
    assert all(isinstance(end, aiohttp.ClientConnectionError) for end in ends)


@pytest.mark.virtual_time
async def test_a_late_reply_is_late_and_processed_at_once() -> None:
    """The work is done on arrival; only the reply takes `delay` seconds."""
    async with served(late(delay=30)) as (vendor, server, post):
        before = asyncio.get_running_loop().time()
        reply = asyncio.create_task(post())
        await server.log.until(1)
        assert vendor.count == 1
        assert asyncio.get_running_loop().time() - before < 1
        assert (await reply)[0] == 200
        assert 30 <= asyncio.get_running_loop().time() - before < 31


@pytest.mark.virtual_time
async def test_a_late_reply_to_nobody_is_not_recorded_as_answered() -> None:
    """If the client has gone before the reply is due, nothing was put on the wire."""
    async with served(late(delay=30)) as (_, server, post):
        with pytest.raises(TimeoutError):
            await post(timeout=aiohttp.ClientTimeout(total=1))
        await asyncio.sleep(60)
        assert (server.log[0].processed, server.log[0].status) == (True, None)


@pytest.mark.virtual_time
async def test_nobody_is_left_to_drop() -> None:
    """A client that goes before the late drop leaves nothing to be closed."""
    async with served(Fault(reply=Reply.DROP, delay=5)) as (_, server, post):
        with pytest.raises(TimeoutError):
            await post(timeout=aiohttp.ClientTimeout(total=1))
        await asyncio.sleep(10)
        assert server.log[0].status is None


@pytest.mark.virtual_time
async def test_a_drop_can_be_late() -> None:
    """A delay goes with any reply: here the connection is closed after 5 seconds."""
    fault = Fault(reply=Reply.DROP, delay=5)
    async with served(fault) as (_, _server, post):
        before = asyncio.get_running_loop().time()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post()
        assert 5 <= asyncio.get_running_loop().time() - before < 6


@pytest.mark.parametrize("reset", [False, True])
async def test_a_truncated_reply_promises_more_than_it_sends(reset: bool) -> None:
    """Status and headers arrive whole, the body breaks off."""
    async with served(truncated(reset=reset)) as (vendor, server, post):
        with pytest.raises(aiohttp.ClientPayloadError):
            await post()
        assert vendor.count == 1
        assert server.log[0].status == 200


async def test_a_truncated_reply_is_half_a_body_on_the_wire() -> None:
    """On a bare socket: the promised length, half of the bytes, and the end."""
    async with served(truncated()) as (vendor, server, _post):
        vendor.padding = " " * 5_000_000
        head, _, body = (await raw_exchange(server.url, RAW_POST)).partition(b"\r\n\r\n")
        whole = b'{"count":1,"list":["one"],"truth":true}' + vendor.padding.encode()
        assert f"Content-Length: {len(whole)}".encode() in head
        assert body == whole[: len(whole) // 2]


async def test_a_client_may_leave_in_the_middle_of_half_a_reply(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A connection reset by the client while the half is written ends only that request."""
    async with served(truncated()) as (vendor, server, post):
        vendor.padding = " " * 20_000_000
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as sock:
            sock.sendall(RAW_POST)
            await server.log.until(1)
            await turns(3)
        vendor.padding = ""
        assert (await post())[0] == 200
    assert complaints(caplog) == []


async def test_a_truncated_reply_to_nobody_harms_nobody() -> None:
    """A client that leaves before the half reply is written leaves the server unharmed."""
    fault = Fault(reply=Reply.TRUNCATED, delay=0.001)
    async with served(fault) as (_, server, post):
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as sock:
            sock.sendall(RAW_POST)
        await server.log.until(1)
        assert (await post())[0] == 200


@pytest.mark.parametrize(
    ("fault", "status", "body", "kind"),
    [
        (rate_limited(), 429, b'{"error":429}', "application/json; charset=utf-8"),
        (server_error(), 500, b'{"error":500}', "application/json; charset=utf-8"),
        (server_error(status=503), 503, b'{"error":503}', "application/json; charset=utf-8"),
        (empty_body(status=204), 204, b"", None),
        (empty_body(), 200, b"", "application/json; charset=utf-8"),
        (json_array(), 200, b"[]", "application/json; charset=utf-8"),
        (malformed_json(), 200, b'{"results":[{"order_id":', "application/json; charset=utf-8"),
        (wrong_types(), 200, b'{"count":"1","list":[3],"truth":"True"}', None),
        (replaced(status=418, body=b"tea", headers={"Content-Type": "x/y"}), 418, b"tea", "x/y"),
    ],
)
async def test_replies_are_replaced(
    fault: Fault, status: int, body: bytes, kind: str | None
) -> None:
    """Status, body and content type are the fault's; errors are worded by the vendor."""
    async with served(fault) as (vendor, server, post):
        answered, got, headers = await post()
        assert (answered, got) == (status, body)
        assert kind is None or headers["Content-Type"] == kind
        processed = fault.processing is Processing.NORMAL
        assert vendor.count == processed
        assert (server.log[0].status, server.log[0].processed) == (status, processed)


@pytest.mark.parametrize("processed", [False, True])
async def test_a_proxy_page_is_html(processed: bool) -> None:
    """An HTML page comes with its content type, and says nothing of what was done."""
    async with served(html_page(status=502, processed=processed)) as (vendor, _, post):
        status, body, headers = await post()
        assert (status, headers["Content-Type"]) == (502, "text/html; charset=utf-8")
        assert body.startswith(b"<html>")
        assert vendor.count == processed


async def test_a_huge_body_is_valid_json_of_ten_megabytes() -> None:
    """The huge body is complete and well formed, of exactly the size that was asked for."""
    async with served(huge_body()) as (_, _server, post):
        _, body, _ = await post()
        assert len(body) == 10_000_000
        assert set(msgspec.json.decode(body)) == {"padding"}


@pytest.mark.parametrize(
    ("fault", "date"),
    [
        (None, NOON_TEXT),
        (skewed_clock(offset=3600), "Thu, 01 Jan 2026 13:00:00 GMT"),
        (skewed_clock(offset=-60), "Thu, 01 Jan 2026 11:59:00 GMT"),
    ],
)
async def test_the_date_header_shows_the_vendors_clock(fault: Fault | None, date: str) -> None:
    """Date comes from the injected clock, plus the fault's offset."""
    async with served(*([fault] if fault else [])) as (_, _server, post):
        assert (await post())[2]["Date"] == date


# --- the server -----------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_jitter_delays_requests_and_replies() -> None:
    """Each way takes up to `jitter` seconds, and arrival is recorded after the way there."""
    async with counting(jitter=10.0, seed=3) as (_, server), aiohttp.ClientSession() as session:
        loop = asyncio.get_running_loop()
        there, back = [], []
        for _ in range(50):
            sent = loop.time()
            await Post(session, server.url)()
            there.append(server.log[-1].arrived - sent)
            back.append(loop.time() - server.log[-1].arrived)
    for ways in (there, back):
        assert 0 <= min(ways) < 3
        assert 7 < max(ways) < 10.1


@pytest.mark.virtual_time
async def test_a_request_on_its_way_arrives_though_its_client_has_gone() -> None:
    """Giving up does not un-send: the vendor carries out what was sent completely."""
    async with counting(jitter=10.0) as (vendor, server), aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            await Post(session, server.url)(timeout=aiohttp.ClientTimeout(total=0.01))
        assert vendor.count == 0
        await asyncio.sleep(30)
        assert vendor.count == 1
        assert (server.log[0].processed, server.log[0].status) == (True, None)


async def test_half_a_request_never_arrives(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that ends within the body leaves no trace in the record."""
    async with served() as (vendor, server, _):
        half = b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as sock:
            sock.sendall(half)
            await turns()
        await turns()
        assert (len(server.log), vendor.count, server.accepted) == (0, 0, 1)
    assert complaints(caplog) == []


async def test_closing_does_not_wait_for_half_a_request() -> None:
    """A client that never finishes its request does not hold the server up."""
    async with counting() as (_, server):
        half = b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as sock:
            sock.sendall(half)
            await turns()
            await server.aclose()


@pytest.mark.parametrize("turn", range(8))
async def test_nothing_begins_after_closing(turn: int) -> None:
    """Whenever the close comes, no request is carried out after it, and no task is left."""
    async with counting(jitter=60.0) as (vendor, server):
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as sock:
            await turns(3)
            sock.sendall(RAW_POST)
            for _ in range(turn):
                await asyncio.sleep(0)
            await server.aclose()
            await turns(3)
    assert (vendor.count, len(server.log)) == (0, 0)


@pytest.mark.parametrize("turn", [0, 1, 3, 4, 5, 6, 7])
async def test_what_is_not_recorded_is_not_answered(turn: int) -> None:
    """Also a client whose connection is accepted in the moment of the close gets no answer. (In the second turn asyncio
    forgets the connection.)"""
    async with counting() as (_, server):
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as sock:
            sock.sendall(RAW_POST)
            for _ in range(turn):
                await asyncio.sleep(0)
            await server.aclose()
            await turns()
            sock.setblocking(False)
            try:
                answer = sock.recv(100)
            except ConnectionResetError:
                answer = b""
            assert (answer != b"") <= (len(server.log) == 1)


async def test_a_body_too_large_is_told_to_the_vendor() -> None:
    """Beyond 1 MiB the vendor gets no body, and answers as it sees fit."""
    async with served() as (_, server, _post):
        size = (1 << 20) + 1
        request = b"POST /count HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        request += b"Content-Length: %d\r\n\r\n" % size
        reply = await raw_exchange(server.url, request + bytes(size))
        assert b"X-Size: none" in reply
        assert server.log[0].raw == b""


async def test_a_server_starts_and_closes_in_different_tasks_and_again() -> None:
    """Opening, closing and reopening may happen in any task; port, record and counts stay."""
    server = LoopbackServer(Counter(), now=lambda: NOON)
    with pytest.raises(RuntimeError, match="not been started"):
        _ = server.url
    await server.aclose()
    async with aiohttp.ClientSession() as session:
        urls = []
        for _ in range(2):
            await asyncio.create_task(server.start())
            urls.append(server.url)
            with pytest.raises(RuntimeError, match="already running"):
                await server.start()
            await Post(session, server.url)()
            await asyncio.create_task(server.aclose())
            await server.aclose()
            with pytest.raises(aiohttp.ClientConnectionError):
                await Post(session, server.url)()
    assert urls[0] == urls[1] == server.url
    assert (server.accepted, len(server.log)) == (2, 2)


async def test_connections_are_counted_and_kept_alive() -> None:
    """Requests one after the other share a connection; the counter says so."""
    async with served() as (_, server, post):
        for _ in range(5):
            await post()
        assert server.accepted == 1


@pytest.mark.virtual_time
async def test_an_idle_connection_is_closed() -> None:
    """After `keepalive` seconds without a request the server closes the connection."""
    async with counting(keepalive=5.0) as (_, server):
        before = asyncio.get_running_loop().time()
        reply = await raw_exchange(server.url, RAW_POST)
        assert reply.startswith(b"HTTP/1.1 200 OK")
        assert 5 <= asyncio.get_running_loop().time() - before < 7


async def test_tls_is_served_and_dropped() -> None:
    """With a context the server speaks TLS, and every way of closing works through it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    trusting = aiohttp.TCPConnector(ssl=trust)
    async with (
        aiohttp.ClientSession(connector=trusting) as session,
        counting(ssl_context=context) as (vendor, server),
    ):
        assert server.url.startswith("https://127.0.0.1:")
        post = Post(session, server.url)
        assert (await post())[0] == 200
        vendor.faults.add(drop_after(), drop_after(reset=True), truncated(), hang_after())
        for error in (aiohttp.ClientConnectionError, aiohttp.ClientOSError):
            with pytest.raises(error):
                await post()
        with pytest.raises(aiohttp.ClientPayloadError):
            await post()
        hung = asyncio.create_task(post())
        await server.log.until(5)
        await server.aclose()
        with pytest.raises(aiohttp.ClientConnectionError):
            await hung


async def test_many_clients_at_once() -> None:
    """Two hundred simultaneous clients are each served once."""
    async with counting() as (vendor, server):
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            post = Post(session, server.url)
            replies = await asyncio.gather(*(post() for _ in range(200)))
        counts = sorted(msgspec.json.decode(body)["count"] for _, body, _ in replies)
        assert counts == list(range(1, 201))
        assert vendor.count == 200
        assert server.log[-1].received_at - NOON == timedelta()
