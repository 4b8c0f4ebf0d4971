"""The composition under attack: what other callers, closing, hooks, sessions and odd replies may not bring about."""

from __future__ import annotations

import asyncio
import itertools
import sys
import traceback
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from brokers.tronsave import TronSaveGateway
from brokers.tronsave.sandbox import OrderState as Recorded
from brokers.tronsave.sandbox import TronSaveRules, TronSaveSandbox, UnknownIds
from support.canary import CANARY, WatchedGateway
from support.raw_server import RawServer, Reply, http
from support.tronsave import LIMIT, QUICK, UNMETERED, lie, vendor
from tronsave_async import (
    AlreadyClosed,
    AuthenticationRejected,
    Canceled,
    ConnectFailed,
    Evidence,
    GatewayClosed,
    NotFound,
    NotSent,
    OutcomeUnknown,
    RateLimit,
    RateLimiter,
    RequestTimeout,
    RetryPolicy,
    Unknown,
    UsageError,
    Wire,
)
from tronsave_async import sandbox as faults
from tronsave_async.arguments import timeout_seconds

if TYPE_CHECKING:
    from tronsave_async import CancelOutcome, Event

NOWHERE = "673c17a3129f1881382e98e3"
SLOW = RetryPolicy(base=1e6, cap=1e6)
CREATE: dict[str, Any] = {
    "receivers": ["T1"],
    "amount": 1000,
    "max_price_accept": 70,
    "duration_sec": 900,
    "deadline": 300,
}


def at(server: RawServer, **options: Any) -> TronSaveGateway:
    """Return a quick gateway at a server."""
    defaults: dict[str, Any] = {"rate_limit": UNMETERED, "retry": QUICK, "limiter": RateLimiter()}
    return WatchedGateway(CANARY, base_url=server.url, **(defaults | options))


# -- other replies --------------------------------------------------------------------------------------------


async def test_a_reply_that_nobody_asked_for_answers_nobody() -> None:
    """A reply that comes a second time on a kept-alive connection is not read as the answer to the next request."""
    unknown = http(400, b'{"error":true,"message":"TSAS:408 INVALID_PARAMS Invalid orderId"}')
    canceled = http(
        200, b'{"cancel_results":[{"order_id":"a","is_success":true,"fail_reason":null}]}'
    )
    script = [Reply(unknown, then="again"), Reply(canceled)]
    async with RawServer(script) as server, at(server) as gateway:
        assert isinstance(await gateway.cancel("bogus"), NotFound)
        await asyncio.sleep(0.02)
        assert isinstance(await gateway.cancel("a"), Canceled)
        assert (server.connections, len(server.requests)) == (2, 2)


@pytest.mark.parametrize(
    "headers",
    [
        ("Retry-After: 5", "Date: 1e300"),
        ("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", "Date: Sat, 01 Jan 0001 00:00:00 GMT"),
        ("Retry-After: -5",),
        ("Retry-After: 1e400",),
    ],
)
async def test_odd_headers_cost_no_reply(headers: tuple[str, ...]) -> None:
    """Headers that cannot be read do not turn a success into an error."""
    reply = Reply(http(200, b'{"order_ids":["a"]}', *headers))
    async with RawServer([reply]) as server, at(server) as gateway:
        assert await gateway.create(**CREATE) == ["a"]


@pytest.mark.parametrize(
    "reply",
    [
        http(200, b'{"error":true,"message":"TSAS:xxx ROLLED_BACK","order_ids":["x"]}'),
        http(409, b'{"error":true,"message":"TSAS:xxx SOME_CONFLICT"}'),
        http(499, b'{"statusCode":499,"error":"x","message":"x"}'),
        http(403, b"<html>blocked</html>"),
        http(302, b"", "Location: /done"),
        http(303, b"", "Location: /done"),
    ],
)
async def test_create_that_may_have_happened_is_never_denied(reply: bytes) -> None:
    """Replies that do not prove that nothing was created leave a create unknown, after one request."""
    async with RawServer([Reply(reply)]) as server, at(server) as gateway:
        with pytest.raises(OutcomeUnknown):
            await gateway.create(**CREATE)
        assert len(server.requests) == 1


@pytest.mark.virtual_time
async def test_vendor_out_of_service_with_retry_after() -> None:
    """A 503 with Retry-After closes the scope; a reply of another kind starts the count of rejections anew."""
    async with vendor(gateway_retry=RetryPolicy()) as (sandbox, gateway):
        order_id = sandbox.add_order(deadline=9999)
        busy = faults.replaced("cancel", status=503, headers={"Retry-After": "30"})
        sandbox.faults.add(faults.rate_limited("cancel"), busy, faults.rate_limited("cancel"))
        assert isinstance(await gateway.cancel(order_id, timeout=None), Canceled)
        times = [request.arrived for request in sandbox.requests_to("cancel")]
        waits = [after - before for before, after in itertools.pairwise(times)]
        assert waits == pytest.approx([1, 30, 4], abs=0.5)
        sandbox.faults.add(faults.rate_limited("cancel"))
        await gateway.cancel(sandbox.add_order(), timeout=None)
        first, second = [request.arrived for request in sandbox.requests_to("cancel")][-2:]
        assert second - first == pytest.approx(1, abs=0.1)


# -- other callers --------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_doubt_of_one_caller_is_doubt_of_all() -> None:
    """While one call pauses after a lost reply, another for the same order says neither "not sent" nor "not found"."""
    rules = TronSaveRules(unknown_canceled=UnknownIds.REJECTED)
    async with vendor(rules, gateway_retry=SLOW, gateway_rate_limit=LIMIT) as (sandbox, gateway):
        sandbox.faults.add(faults.drop_after("cancel"))
        first = asyncio.create_task(gateway.cancel(NOWHERE, timeout=None))
        await asyncio.sleep(0.5)
        queued = await gateway.cancel(NOWHERE, timeout=0.5)
        assert isinstance(queued, Unknown)
        assert queued.wire is Wire.NOT_SENT
        assert isinstance(await gateway.cancel(NOWHERE, timeout=30), Unknown)
        assert isinstance(await first, Unknown)


@pytest.mark.virtual_time
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_doubt_survives_a_caller_that_is_canceled_again_and_again(times: int) -> None:
    """However often its caller is canceled, ``cancel_many`` leaves the doubt behind that it has."""
    rules = TronSaveRules(unknown_canceled=UnknownIds.REJECTED)
    async with vendor(rules, gateway_retry=SLOW) as (sandbox, gateway):
        sandbox.faults.add(faults.drop_after("cancel"))
        task = asyncio.create_task(gateway.cancel_many([NOWHERE]))
        await asyncio.sleep(0.5)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        assert isinstance(await gateway.cancel(NOWHERE), Unknown)


async def test_sharers_of_a_failure_share_no_exception() -> None:
    """Each caller gets an exception of its own, with its own short traceback."""
    async with vendor(gateway_retry=RetryPolicy(attempts=1)) as (sandbox, gateway):
        sandbox.faults.add(faults.drop_before("track"))
        errors = await asyncio.gather(
            *[gateway.get_order(NOWHERE) for _ in range(50)], return_exceptions=True
        )
        assert len({id(error) for error in errors}) == 50
        assert all(isinstance(error, Exception) for error in errors)
        depths = [
            len(traceback.extract_tb(e.__traceback__)) for e in errors if isinstance(e, Exception)
        ]
        assert max(depths) < 12


@pytest.mark.virtual_time
async def test_cancels_go_ahead_of_reads_and_creates() -> None:
    """Where all calls share one bucket, a cancel and its read-back go ahead of queued reads, and those of creates."""
    limiter = RateLimiter()
    async with vendor(
        requests_per_window=1,
        window=2.0,
        shared_bucket=True,
        gateway_shared_bucket=True,
        gateway_rate_limit=LIMIT,
        gateway_limiter=limiter,
    ) as (sandbox, gateway):
        filled = sandbox.add_order(deadline=9999)
        sandbox.match(filled)
        await gateway.history()
        waiting = [asyncio.create_task(gateway.create(**CREATE, timeout=None)) for _ in range(2)]
        waiting += [asyncio.create_task(gateway.history(timeout=None)) for _ in range(3)]  # type: ignore[arg-type]
        await asyncio.sleep(0.5)
        outcome = await gateway.cancel(filled, timeout=60)
        assert isinstance(outcome, AlreadyClosed)
        await asyncio.gather(*waiting)
        order = [request.endpoint for request in sandbox.requests]
        assert order[:3] == ["history", "cancel", "track"]
        assert order[3:] == ["history", "history", "history", "create", "create"]
        assert sandbox.rejections == 0


@pytest.mark.virtual_time
async def test_track_shares_requests_and_has_one_deadline() -> None:
    """Callers of ``track`` and ``get_order`` share requests; its timeout bounds all of its requests together."""
    async with vendor(gateway_rate_limit=LIMIT, gateway_max_ids=10) as (sandbox, gateway):
        ids = [sandbox.add_order(deadline=9999) for _ in range(10)]
        words, snapshot = await asyncio.gather(
            gateway.track(ids[:9], timeout=None), gateway.get_order(ids[9])
        )
        assert words == dict.fromkeys(ids[:9], "Pending")
        assert snapshot.vendor_state == "Pending"
        assert len(sandbox.requests) == 1
        ids += [sandbox.add_order(deadline=9999) for _ in range(30)]
        started = asyncio.get_running_loop().time()
        with pytest.raises(RequestTimeout):
            await gateway.track(ids, timeout=3)
        assert asyncio.get_running_loop().time() - started == pytest.approx(3, abs=0.01)
        sent = len(sandbox.requests)
        await asyncio.sleep(30)
        assert len(sandbox.requests) == sent


@pytest.mark.virtual_time
async def test_nobody_pages_on_for_callers_that_left() -> None:
    """A look-up in the history stops at the next page when nobody waits for it any more."""
    rules = TronSaveRules(tracking_omits=frozenset(Recorded), history_page_cap=1)
    async with vendor(rules, gateway_rate_limit=LIMIT) as (sandbox, gateway):
        for _ in range(20):
            sandbox.match(sandbox.add_order())
        wanted = sandbox.add_order()
        with pytest.raises(RequestTimeout):
            await gateway.get_order(wanted, timeout=3)
        await asyncio.sleep(60)
        assert len(sandbox.requests_to("history")) <= 3


@pytest.mark.virtual_time
async def test_a_look_up_in_the_history_is_bounded() -> None:
    """At most five pages of a period are read for an order that is not among them."""
    rules = TronSaveRules(tracking_omits=frozenset(Recorded), history_page_cap=2)
    async with vendor(rules) as (sandbox, gateway):
        wanted = sandbox.add_order()
        for _ in range(30):
            sandbox.match(sandbox.add_order())
        assert (await gateway.get_order(wanted)).vendor_state is None
        assert len(sandbox.requests_to("history")) == 5


async def test_an_id_from_the_dawn_of_time_spoils_no_sibling() -> None:
    """An id whose time of creation makes an impossible period is looked up without harm to others."""
    rules = TronSaveRules(tracking_omits=frozenset(Recorded))
    async with vendor(rules) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.match(order_id)
        first, second = await gateway.cancel_many([order_id, "0" * 24], timeout=20)
        assert isinstance(first, AlreadyClosed)
        assert isinstance(second, Unknown)


async def test_a_history_without_end_ends() -> None:
    """A vendor that ignores the page number and tells no total does not make the history endless."""
    page = http(200, b'{"results":[{"_id":"a","status":"Completed"}]}')
    async with RawServer([Reply(page)]) as server, at(server) as gateway:
        assert [row.id async for row in gateway.iter_history()] == ["a"]
        assert len(server.requests) == 2
        assert all(b"&to=" in request for request in server.requests)


# -- hooks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_raising_hooks_harm_nobody(
    error: type[BaseException], loop_errors: list[str]
) -> None:
    """Whatever a hook or ``on_outcome`` raises, every caller gets its outcome, and a create its ids."""

    def bad(_: Event | CancelOutcome) -> None:
        raise error("foreign")

    async with vendor(gateway_telemetry=bad) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(3)]
        other = asyncio.create_task(gateway.cancel(ids[2], timeout=5))
        outcomes = await gateway.cancel_many(ids[:2], on_outcome=bad)
        assert all(isinstance(outcome, Canceled) for outcome in (*outcomes, await other))
        assert len(await gateway.create(**CREATE)) == 1
    assert loop_errors
    loop_errors.clear()


@pytest.mark.virtual_time
async def test_canceling_every_other_task_leaves_nobody_hanging() -> None:
    """A program that cancels all tasks but its own gets its outcomes nevertheless."""
    async with vendor(gateway_retry=SLOW) as (sandbox, gateway):
        sandbox.faults.add(faults.drop_before("cancel"))
        many = asyncio.create_task(gateway.cancel_many([sandbox.add_order()], timeout=None))
        await asyncio.sleep(0.1)
        own = {asyncio.current_task(), many}
        for task in asyncio.all_tasks() - own:
            if "settle" in repr(task.get_coro()):
                task.cancel()
        (outcome,) = await many
        assert isinstance(outcome, Unknown)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
async def test_eager_tasks() -> None:
    """An eager task factory changes nothing."""
    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    async with vendor() as (sandbox, gateway):
        for _ in range(3):
            assert isinstance(await gateway.cancel(sandbox.add_order(), timeout=5), Canceled)
        sandbox.faults.add(faults.drop_after("cancel"))
        outcomes = await gateway.cancel_many([sandbox.add_order() for _ in range(3)], timeout=5)
        assert all(isinstance(outcome, Canceled) for outcome in outcomes)
    asyncio.get_running_loop().set_task_factory(None)


# -- lifetime -------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_closing_ends_waits_for_permits_at_once() -> None:
    """A vendor's own call that waits for its permit ends as soon as the gateway closes."""
    async with vendor(gateway_rate_limit=LIMIT) as (sandbox, gateway):
        await gateway.create(**CREATE)
        task = asyncio.create_task(gateway.create(**CREATE))
        await asyncio.sleep(0.1)
        started = asyncio.get_running_loop().time()
        await gateway.aclose()
        with pytest.raises(GatewayClosed):
            await task
        assert asyncio.get_running_loop().time() - started < 0.1
        assert len(sandbox.requests) == 1


async def test_canceled_closing_closes() -> None:
    """Canceling ``aclose`` does not leave the session open: the closing goes on."""
    async with vendor() as (sandbox, gateway):
        await gateway.cancel(sandbox.add_order())
        pool = gateway._http._pool
        assert pool is not None
        closing = asyncio.create_task(gateway.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await gateway.aclose()
        assert pool.connector.closed


@pytest.mark.virtual_time
async def test_a_create_in_mid_connect_never_leaves_after_closing() -> None:
    """Closing while a create still connects: it fails as closed, and nothing arrives."""
    async with RawServer() as server:
        gateway = at(server)
        connector = gateway._http._open_pool().connector
        connect = connector._create_connection

        async def slowly(*arguments: Any) -> Any:
            await asyncio.sleep(1)
            return await connect(*arguments)

        connector._create_connection = slowly  # type: ignore[assignment,method-assign]
        task = asyncio.create_task(gateway.create(**CREATE))
        await asyncio.sleep(0.5)
        await gateway.aclose()
        with pytest.raises((GatewayClosed, ConnectFailed)):
            await task
        await asyncio.sleep(5)
        assert server.requests == []


def test_a_gateway_serves_one_event_loop() -> None:
    """On another event loop every call is refused before anything leaves, and closing does nothing."""
    gateway = TronSaveGateway("key", base_url="http://127.0.0.1:9")

    async def use() -> None:
        assert await gateway.cancel_many([]) == []

    async def misuse() -> None:
        calls = [gateway.cancel("a"), gateway.get_order("a"), gateway.create(**CREATE)]
        calls += [gateway.track(["a"]), gateway.history()]  # type: ignore[list-item]
        for call in calls:
            with pytest.raises(UsageError, match="another event loop"):
                await call
        await gateway.aclose()

    asyncio.run(use())
    asyncio.run(misuse())


@pytest.mark.virtual_time
async def test_first_look_is_no_repeat() -> None:
    """Even with an empty retry quota a lost cancel is read back."""
    async with vendor(gateway_retry=RetryPolicy(base=0.001, quota=0)) as (sandbox, gateway):
        sandbox.faults.add(faults.drop_after("cancel"))
        outcome = await gateway.cancel(sandbox.add_order())
        assert isinstance(outcome, Canceled)
        assert outcome.evidence is Evidence.READ_BACK


# -- a session of the caller's own ----------------------------------------------------------------------------


async def test_own_session_that_raises_for_status() -> None:
    """A session's own habit of raising does not hide what the vendor says."""
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        vendor(gateway_session=session) as (sandbox, gateway),
    ):
        sandbox.revoke_keys("another")
        with pytest.raises(AuthenticationRejected):
            await gateway.cancel(NOWHERE)


@pytest.mark.virtual_time
async def test_own_session_keeps_the_limit_through_slow_connections() -> None:
    """Where the departure cannot be seen, the window starts at the end of a request: slow ones do not bunch."""
    async with aiohttp.ClientSession() as session:
        limit = RateLimit(1, per=1.0, margin=0.05)
        async with vendor(
            requests_per_window=1, window=1.0, gateway_session=session, gateway_rate_limit=limit
        ) as (sandbox, gateway):
            sandbox.faults.add(faults.late("cancel", delay=0.9))
            first = asyncio.create_task(gateway.cancel(sandbox.add_order()))
            await asyncio.sleep(0.1)
            await gateway.cancel(sandbox.add_order())
            await first
            one, two = [request.arrived for request in sandbox.requests]
            assert two - one == pytest.approx(0.9 + 1.05, abs=0.01)


@pytest.mark.virtual_time
async def test_own_session_that_cannot_connect_sent_nothing() -> None:
    """A create whose connections are refused until time runs out was not sent."""
    async with aiohttp.ClientSession() as session:
        retry = RetryPolicy(attempts=99, base=1, quota=99)
        async with RawServer() as server:
            url = server.url
        gateway = TronSaveGateway(
            "key", base_url=url, session=session, retry=retry, limiter=RateLimiter()
        )
        async with gateway:
            with pytest.raises(RequestTimeout) as caught:
                await gateway.create(**CREATE, timeout=5)
            assert caught.value.wire is Wire.NOT_SENT
            assert isinstance(await gateway.cancel("a", timeout=5), NotSent)


# -- secrets and input ----------------------------------------------------------------------------------------


async def test_nothing_that_can_be_dumped_shows_the_key() -> None:
    """The transport's own attributes, and a reply that hides the key behind escapes, show nothing."""
    hidden = "".join(f"\\u{ord(letter):04x}" for letter in CANARY)
    body = f'{{"error":true,"message":"TSAS:107 INVALID_API_KEY {hidden}"}}'.encode()
    async with (
        RawServer([Reply(http(401, body))]) as server,
        at(server, proxy="http://user:canary-pass@127.0.0.1:9") as gateway,
        at(server) as direct,
    ):
        transport = gateway._http
        dispatch = gateway._dispatch
        rooms = (dispatch.lifetime, dispatch.admission, dispatch.calls, dispatch.cancels)
        dump = " ".join(str(vars(room)) for room in (transport, gateway, dispatch, *rooms))
        assert CANARY not in repr(gateway)
        assert CANARY not in dump
        assert "canary-pass" not in dump
        with pytest.raises(AuthenticationRejected) as caught:
            await direct.cancel("a")
        assert CANARY not in str(caught.value)
        assert "***" in caught.value.text
        outcome = await gateway.cancel("a")
        assert isinstance(outcome, NotSent)
        with pytest.raises(ConnectFailed) as refused:
            await gateway.get_order("a")
        shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
        assert "canary-pass" not in "".join(shown.format())


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
async def test_host_that_is_no_name(host: str) -> None:
    """A host that cannot even be looked up is a failed connection, and nothing was sent."""
    gateway = TronSaveGateway("key", base_url=f"http://{host}", retry=QUICK, rate_limit=UNMETERED)
    async with gateway:
        with pytest.raises(ConnectFailed):
            await gateway.history()
        assert isinstance(await gateway.cancel("a"), NotSent)


async def test_orders_of_a_sandbox_without_rules() -> None:
    """The judge of these tests sees a lie: an outcome about another order than the vendor's record is one."""
    async with TronSaveSandbox(api_key=CANARY) as sandbox:
        async with TronSaveGateway(CANARY, base_url=sandbox.url) as gateway:
            outcome = await gateway.cancel(sandbox.add_order())
        assert lie(sandbox, outcome) is None
    async with TronSaveSandbox(api_key=CANARY) as other:
        assert lie(other, outcome) is not None


def test_timeouts_without_end() -> None:
    """A timeout beyond any event loop's life is no bound, whatever its type."""
    assert timeout_seconds(10**400) is None
    assert timeout_seconds(float("inf")) is None
    assert timeout_seconds(1e300) is None
    assert timeout_seconds(5) == 5.0
