"""`brokers.ripio.sandbox`: the simulated vendor, seen through plain WebSocket and HTTP clients."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import random
import shutil
import ssl
import struct
import subprocess
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
import yarl
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from brokers.ripio.sandbox import (
    ENDPOINTS,
    SOCKET_METHODS,
    Amounts,
    Announce,
    Generation,
    OrderState,
    RetryAfter,
    RipioRules,
    RipioSandbox,
    SlowReply,
    TooMany,
    _number_text,
    _parse,
    _stringify,
)
from tronsave_async.sandbox import (
    Reply,
    drop_after,
    drop_before,
    fill_in_the_race,
    hang_after,
    html_page,
    late,
    partial_fill_in_the_race,
    rate_limited,
    replaced,
    server_error,
    skewed_clock,
    too_slow,
)
from tronsave_async.sandbox_socket import (
    Keepalive,
    closing,
    contradicted,
    duplicated,
    reordered,
    unaddressed,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOKEN, SECRET = "sandbox-token", "sandbox-secret"
UNKNOWN = "8DE12108-4643-4E9F-8425-0172F1B96876"

INVALID_SIGNATURE = {"error_code": 40011, "message": "Invalid signature"}
MISSING = {"error_code": 40010, "message": "Missing required parameters"}
INVALID = {"error_code": 40000, "message": "Invalid parameters"}
NOT_FOUND = {"error_code": 40401, "message": "Order not found."}
CLOSED = {
    "error_code": 40408,
    "message": "Cannot cancel an already canceled or fully executed order.",
}
UNAUTHORIZED = {"error_code": 40100, "message": "Not authorized"}

# The documented parameters of order.create.
CREATE = {"pair": "BTC_BRL", "side": "buy", "type": "limit", "amount": 0.001, "price": 100000}


class Clock:
    """A wall clock that stands at noon until it is moved."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def sign(text: str, secret: str = SECRET) -> str:
    """Return the documented signature of a text."""
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def compact(value: Any) -> str:
    """Return JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class Socket:
    """Calls on the WebSocket API, signed as documented."""

    def __init__(self, client: ClientConnection, clock: Clock) -> None:
        self.client = client
        self.clock = clock
        self._ids = itertools.count(1)

    def milliseconds(self) -> int:
        return int(self.clock().timestamp() * 1000)

    def frame(
        self,
        method: str,
        business: Any,
        *,
        request_id: Any = None,
        signed: str | None = None,
        **auth: Any,
    ) -> str:
        """Return a request; business parameters may be given as their JSON text."""
        text = business if isinstance(business, str) else compact(business)
        stamp = auth.get("timestamp", self.milliseconds())
        signature = sign(f"{stamp}{text if signed is None else signed}")
        usual = {"api_token": TOKEN, "timestamp": stamp, "signature": signature}
        fields = compact({k: v for k, v in {**usual, **auth}.items() if v is not ...})
        inner = f"{text[:-1]}{',' if text != '{}' and fields != '{}' else ''}{fields[1:]}"
        request_id = f"req-{next(self._ids):03}" if request_id is None else request_id
        return f'{{"id":{compact(request_id)},"method":"{method}","params":{inner}}}'

    async def send(self, method: str, business: Any, **options: Any) -> None:
        await self.client.send(self.frame(f"order.{method}", business, **options))

    async def heard(self) -> Any:
        """Return the next message."""
        return json.loads(await self.client.recv(), parse_float=Decimal)

    async def __call__(self, method: str, business: Any, **options: Any) -> Any:
        """Call a method; return the reply."""
        await self.send(method, business, **options)
        return await self.heard()

    async def result(self, method: str, business: Any, **options: Any) -> Any:
        """Call a method that must succeed; return the result."""
        reply = await self(method, business, **options)
        assert reply["status"] == 200, reply
        return reply["result"]

    async def error(self, method: str, business: Any, **options: Any) -> tuple[int, Any]:
        """Call a method that must fail; return status and error."""
        reply = await self(method, business, **options)
        assert reply["result"] is None
        return reply["status"], reply["error"]

    async def cancel(self, order_id: str, **options: Any) -> Any:
        return await self("cancel", {"id": order_id}, **options)


class Rest:
    """Calls by HTTP, signed as documented."""

    def __init__(self, session: aiohttp.ClientSession, sandbox: RipioSandbox, clock: Clock) -> None:
        self._session = session
        self._sandbox = sandbox
        self._clock = clock
        self.headers: Mapping[str, str] = {}

    async def __call__(
        self,
        method: str,
        path: str,
        body: str = "",
        *,
        query: str = "",
        signed: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send a signed request; return status and decoded body."""
        stamp = (headers or {}).get("Timestamp", str(int(self._clock().timestamp() * 1000)))
        signature = sign(f"{stamp}{method}{path if signed is None else signed}{body}")
        usual = {"Authorization": TOKEN, "Timestamp": stamp, "Signature": signature}
        sent = {k: v for k, v in {**usual, **(headers or {})}.items() if v}
        url = yarl.URL(self._sandbox.rest_url.removesuffix("/trade") + path + query, encoded=True)
        async with self._session.request(method, url, data=body or None, headers=sent) as reply:
            self.headers = reply.headers
            return reply.status, json.loads(await reply.read(), parse_float=Decimal)

    async def data(self, path: str, query: str = "") -> Any:
        """Get something that must be there; return the data."""
        status, body = await self("GET", f"/trade{path}", query=query)
        assert status == 200, body
        return body["data"]


class World:
    """A sandbox, a socket to it, and an HTTP client."""

    def __init__(self, sandbox: RipioSandbox, socket: Socket, rest: Rest, clock: Clock) -> None:
        self.sandbox = sandbox
        self.socket = socket
        self.rest = rest
        self.clock = clock


@asynccontextmanager
async def trading(**options: Any) -> AsyncIterator[World]:
    """Open a sandbox with a limit nobody reaches and a clock that stands, and clients for it."""
    clock = Clock()
    options = {"requests_per_window": 100_000, "now": clock, **options}
    async with (
        RipioSandbox(**options) as sandbox,
        connected(sandbox) as client,
        aiohttp.ClientSession() as session,
    ):
        yield World(sandbox, Socket(client, clock), Rest(session, sandbox, clock), clock)


def connected(sandbox: RipioSandbox, **options: Any) -> connect:
    """Connect a client that neither pings nor waits when it leaves."""
    usual = {"ping_interval": None, "close_timeout": 0.01, "compression": None}
    return connect(sandbox.ws_url, **{**usual, **options})


async def turns(count: int = 10) -> None:
    """Let the loop run, so that bytes on loopback arrive."""
    for _ in range(count):
        await asyncio.sleep(0.0005)


# --- the documented messages ----------------------------------------------------------------------


async def test_a_cancel_is_answered_in_the_documented_words() -> None:
    """The literal reply of the order.cancel page, but for dates and what optional fields hold."""
    async with trading() as world:
        order_id = world.sandbox.add_order(external_id="my-order-123")
        world.clock.move(185.27)
        reply = await world.socket.cancel(order_id, request_id="req-003")
    assert reply == {
        "id": "req-003",
        "status": 200,
        "result": {
            "id": order_id,
            "create_date": "2026-01-01T12:00:00.000Z",
            "update_date": "2026-01-01T12:03:05.270Z",
            "executed_amount": 0,
            "remaining_amount": Decimal("0.001"),
            "remaining_value": 100,
            "requested_amount": Decimal("0.001"),
            "requested_value": 100,
            "total_value": 100,
            "status": "canceled",
            "type": "limit",
            "price": 100000,
            "pair": "BTC_BRL",
            "external_id": "my-order-123",
        },
    }
    assert len(order_id) == 36
    assert order_id == order_id.upper()
    order = world.sandbox.orders[order_id]
    assert (order.state, order.cancels, order.is_live) == (OrderState.CANCELED, 1, False)


async def test_errors_are_the_documented_ones() -> None:
    """Unknown, canceled, executed: 404/40401 and twice 400/40408."""
    async with trading() as world:
        canceled, filled = world.sandbox.add_order(), world.sandbox.add_order()
        world.sandbox.cancel_behind_back(canceled)
        world.sandbox.fill(filled)
        assert await world.socket.error("cancel", {"id": UNKNOWN}) == (404, NOT_FOUND)
        assert await world.socket.error("cancel", {"external_id": "?"}) == (404, NOT_FOUND)
        for order_id in (canceled, filled):
            assert await world.socket.error("cancel", {"id": order_id}) == (400, CLOSED)
            assert world.sandbox.orders[order_id].cancels == 1
        with pytest.raises(ValueError, match="canceled"):
            world.sandbox.fill(canceled)
        with pytest.raises(ValueError, match="executed_completely"):
            world.sandbox.cancel_behind_back(filled)
        with pytest.raises(KeyError):
            world.sandbox.fill(UNKNOWN)


async def test_the_older_generation_has_other_codes() -> None:
    """40400, 40020, 40021, and words of its own for what the new one calls 40010 and 40011."""
    rules = RipioRules(generation=Generation.OLD)
    async with trading(rules=rules, min_amount=Decimal("0.001"), funds={}) as world:
        canceled, filled = world.sandbox.add_order(), world.sandbox.add_order()
        world.sandbox.cancel_behind_back(canceled)
        world.sandbox.fill(filled)

        async def code(method: str, business: Any, **options: Any) -> tuple[int, int, str]:
            status, error = await world.socket.error(method, business, **options)
            return status, error["error_code"], error["message"]

        assert await code("cancel", {"id": UNKNOWN}) == (404, 40400, "Order not found.")
        assert await code("cancel", {"id": canceled}) == (400, 40020, "Order already canceled.")
        assert await code("cancel", {"id": filled}) == (400, 40021, "Order executed completely.")
        assert await code("cancel", {}) == (400, 40000, "Invalid parameters")
        assert await code("cancel", {"id": filled}, signature="x") == (
            401,
            40100,
            "Not authorized",
        )
        small = {**CREATE, "amount": "0.0009"}
        assert await code("create", small) == (400, 40010, "Order amount below minimum")
        assert await code("create", CREATE) == (400, 40011, "Insufficient funds")
        status, body = await world.rest("GET", f"/trade/orders/{UNKNOWN}")
        assert (status, body) == (
            404,
            {"error_code": 40400, "message": "Order not found.", "data": None},
        )


@pytest.mark.parametrize(
    "business",
    [{}, {"id": UNKNOWN, "external_id": "x"}, {"id": None}, {"order_id": UNKNOWN}],
)
async def test_a_cancel_names_exactly_one_id(business: dict[str, Any]) -> None:
    """Neither or both of id and external_id: 40010, and nothing is done."""
    async with trading() as world:
        assert await world.socket.error("cancel", business) == (400, MISSING)
        assert not world.sandbox.requests[0].processed


async def test_a_partly_executed_order_is_canceled_with_what_was_executed() -> None:
    """The success says canceled, and how much was executed and remains."""
    async with trading() as world:
        order_id = world.sandbox.add_order(amount="0.5", price="3")
        world.sandbox.fill(order_id, "0.2")
        assert world.sandbox.orders[order_id].state is OrderState.EXECUTED_PARTIALLY
        result = (await world.socket.cancel(order_id))["result"]
    assert (result["status"], result["executed_amount"]) == ("canceled", Decimal("0.2"))
    assert (result["remaining_amount"], result["remaining_value"]) == (
        Decimal("0.3"),
        Decimal("0.9"),
    )


async def test_an_order_is_canceled_by_its_external_id() -> None:
    """The newest order with an external id is meant; ids are case-sensitive."""
    async with trading() as world:
        old = world.sandbox.add_order(external_id="ä😀")
        external_id = world.sandbox.orders[old].external_id
        new = world.sandbox.add_order(external_id=external_id)
        result = await world.socket.result("cancel", {"external_id": external_id})
        assert (result["id"], result["external_id"]) == (new, external_id)
        assert world.sandbox.orders[old].is_live
        assert await world.socket.error("cancel", {"id": old.lower()}) == (404, NOT_FOUND)


async def test_requests_on_the_socket_are_recorded_without_credentials() -> None:
    """Word, text, parameters, socket and the signature's age; never token or signature."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        frame = world.socket.frame("order.cancel", {"id": order_id})
        world.clock.move(0.25)
        await world.socket.client.send(frame)
        reply = await world.socket.heard()
        entry = world.sandbox.requests[0]
        await world.rest.data(f"/orders/{order_id}")
        by_http = world.sandbox.requests_to("order")[0]
        assert reply["status"] == entry.status == 200
    assert (entry.endpoint, entry.method, entry.connection) == ("cancel", "MESSAGE", 1)
    assert (entry.caller, entry.processed) == ("token", True)
    assert entry.body["params"] == {
        "id": order_id,
        "api_token": "***",
        "timestamp": 1767268800000,
        "signature": "***",
    }
    assert json.loads(entry.raw) == entry.body
    assert (by_http.connection, by_http.headers["signature"]) == (None, "***")
    assert (entry.signature_age, by_http.signature_age) == (0.25, 0.0)
    for record in (entry, by_http):
        for signature in world.sandbox.signatures:
            assert signature not in repr(record)
        assert TOKEN not in repr(record)
    assert len(set(world.sandbox.signatures)) == len(world.sandbox.signatures) == 2
    assert world.sandbox.connections == 2


async def test_the_words_for_methods_and_paths() -> None:
    """Scripts and records name the calls by these words."""
    assert set(SOCKET_METHODS.values()) == {"cancel", "create", "update"}
    assert set(ENDPOINTS.values()) == {
        "orders",
        "open_orders",
        "rest_cancel",
        "ticket",
        "server_time",
    }


# --- order.create and order.update ----------------------------------------------------------------


async def test_an_order_is_created_with_numbers_or_texts() -> None:
    """Both forms mean the same exact amounts; the result has the documented fields."""
    async with trading() as world:
        result = await world.socket.result("create", {**CREATE, "external_id": "mine"})
        assert result == {
            "id": result["id"],
            "status": "open",
            "create_date": "2026-01-01T12:00:00.000Z",
            "external_id": "mine",
            "pair": "BTC_BRL",
            "side": "buy",
            "executed_amount": 0,
            "remaining_amount": Decimal("0.001"),
            "remaining_value": 100,
            "requested_amount": Decimal("0.001"),
            "requested_value": 100,
        }
        texts = {**CREATE, "amount": "0.00100000", "price": "100000.5"}
        other = world.sandbox.orders[(await world.socket.result("create", texts))["id"]]
    assert str(other.requested_amount) == "0.00100000"
    assert (other.price, other.external_id) == (Decimal("100000.5"), None)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"pair": None}, MISSING),
        ({"amount": None}, MISSING),
        ({"pair": "BTCBRL"}, {"error_code": 40000, "message": "Invalid pair"}),
        ({"side": "Buy"}, INVALID),
        ({"type": "LIMIT"}, INVALID),
        ({"amount": "1e-5"}, INVALID),
        ({"amount": 0}, INVALID),
        ({"price": "-1"}, INVALID),
        ({"price": True}, INVALID),
        ({"external_id": "x" * 37}, INVALID),
        ({"external_id": 7}, INVALID),
        ({"amount": "0.00001"}, INVALID),
    ],
)
async def test_an_order_that_cannot_be_is_refused(change: dict[str, Any], error: Any) -> None:
    """A missing parameter is 40010, a wrong one 40000; there is no order then."""
    async with trading(min_amount=Decimal("0.0001")) as world:
        assert await world.socket.error("create", {**CREATE, **change}) == (400, error)
        assert len(world.sandbox.orders) == 0


@pytest.mark.parametrize("unique", [False, True])
async def test_an_external_id_may_be_used_twice_or_not(unique: bool) -> None:
    """By rule the second order is made, or refused."""
    async with trading(rules=RipioRules(external_id_unique=unique)) as world:
        for expected in (200, 400 if unique else 200):
            reply = await world.socket("create", {**CREATE, "external_id": "x" * 36})
            assert reply["status"] == expected
        assert len(world.sandbox.orders) == (1 if unique else 2)


async def test_funds_are_taken_and_given_back() -> None:
    """A buy takes the quote currency, a sell the base; a cancel frees the rest."""
    funds = {"BRL": Decimal(150), "BTC": Decimal("0.001")}
    async with trading(funds=funds) as world:
        buy = (await world.socket.result("create", CREATE))["id"]
        assert await world.socket.error("create", CREATE) == (
            400,
            {"error_code": 40011, "message": "Insufficient funds"},
        )
        sell = (await world.socket.result("create", {**CREATE, "side": "sell"}))["id"]
        assert world.sandbox.funds == {"BRL": Decimal(50), "BTC": Decimal(0)}
        world.sandbox.fill(buy, "0.0005")
        await world.socket.cancel(buy)
        await world.socket.cancel(sell)
        assert world.sandbox.funds == {"BRL": Decimal(100), "BTC": Decimal("0.001")}


@pytest.mark.parametrize("field", ["order_id", "id"])
@pytest.mark.parametrize("value", [0.002, "0.002"], ids=["number", "text"])
async def test_an_order_is_updated(field: str, value: Any) -> None:
    """Both documented fields for the id, numbers and texts; the result is null."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        reply = await world.socket("update", {field: order_id, "amount": value})
        assert (reply["status"], reply["result"]) == (200, None)
        await world.socket("update", {field: order_id, "price": value})
        order = world.sandbox.orders[order_id]
        assert (order.requested_amount, order.price) == (Decimal("0.002"), Decimal("0.002"))
        assert order.updates == 2
        other = "id" if field == "order_id" else "order_id"
        world.sandbox.rules = RipioRules(update_id_fields=frozenset({other}))
        update = {field: order_id, "price": 1}
        assert await world.socket.error("update", update) == (400, MISSING)


async def test_an_update_may_be_refused() -> None:
    """Nothing to update, nothing to find, a closed order, less than was executed."""
    async with trading() as world:
        order_id = world.sandbox.add_order(amount="2")
        world.sandbox.fill(order_id, "1")
        assert await world.socket.error("update", {"order_id": order_id}) == (
            400,
            {
                "error_code": 40010,
                "message": "At least one of price or amount must be provided",
            },
        )
        both = {"order_id": order_id, "id": order_id, "price": 1}
        assert await world.socket.error("update", both) == (400, MISSING)
        unknown = {"order_id": UNKNOWN, "price": 1}
        assert await world.socket.error("update", unknown) == (404, NOT_FOUND)
        less = {"order_id": order_id, "amount": 0.5}
        assert await world.socket.error("update", less) == (400, INVALID)
        assert (await world.socket("update", {"order_id": order_id, "amount": 1}))["status"] == 200
        assert world.sandbox.orders[order_id].state is OrderState.EXECUTED_COMPLETELY
        assert await world.socket.error("update", {"order_id": order_id, "price": 1}) == (
            400,
            {
                "error_code": 40408,
                "message": "Cannot update a canceled or fully executed order.",
            },
        )


# --- signatures on the socket ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "signed"),
    [
        ('{"id":"x"}', '{"id":"x"}'),
        ('{ "id" : "x" }', '{"id":"x"}'),
        ('{"id":1.0}', '{"id":1}'),
        ('{"id":1e-05}', '{"id":0.00001}'),
        ('{"id":0.0000001}', '{"id":1e-7}'),
        ('{"id":1e21}', '{"id":1e+21}'),
        ('{"id":100000000000000000000}', '{"id":100000000000000000000}'),
        ('{"id":12345678901234567890}', '{"id":12345678901234567000}'),
        ('{"id":-0.0}', '{"id":0}'),
        ('{"id":1e999}', '{"id":null}'),
        ('{"b":1,"10":2,"a":3,"9":4,"01":5}', '{"9":4,"10":2,"b":1,"a":3,"01":5}'),
        ('{"id":"a","id":"b"}', '{"id":"b"}'),
        ('{"id":"\\u00e4\\u2028/\\/"}', '{"id":"ä\u2028//"}'),
        ('{"id":"\\u0001\\u001F\\t\\"\\\\\u007f"}', '{"id":"\\u0001\\u001f\\t\\"\\\\\x7f"}'),
        ('{"id":"\\uD800"}', '{"id":"\\ud800"}'),
        ('{"id":"\\ud83d\\ude00"}', '{"id":"😀"}'),
        ('{"id":[true,null,{"a":[]}]}', '{"id":[true,null,{"a":[]}]}'),
    ],
)
async def test_what_is_verified_is_what_javascript_prints(sent: str, signed: str) -> None:
    """Any text with the same meaning is taken, if what JSON.stringify makes of it was signed."""
    async with trading() as world:
        status, error = await world.socket.error("cancel", sent, signed=signed)
        assert error["message"] != "Invalid signature"
        assert status in {400, 404}
        if sent != signed:
            assert await world.socket.error("cancel", sent) == (400, INVALID_SIGNATURE)


@pytest.mark.parametrize(
    ("auth", "error"),
    [
        ({"signature": sign("x")}, INVALID_SIGNATURE),
        ({"signature": "ä\ud800"}, INVALID_SIGNATURE),
        ({"signature": ...}, MISSING),
        ({"signature": 7}, MISSING),
        ({"timestamp": ...}, MISSING),
        ({"timestamp": "soon"}, MISSING),
        ({"timestamp": 10**300}, INVALID_SIGNATURE),
        ({"api_token": ...}, MISSING),
    ],
)
async def test_a_request_without_valid_credentials_is_not_carried_out(
    auth: dict[str, Any], error: Any
) -> None:
    """Wrong is 40011, missing is 40010; the order lives on."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        frame = world.socket.frame("order.cancel", {"id": order_id}, **auth)
        await world.socket.client.send(json.dumps(json.loads(frame)))
        reply = await world.socket.heard()
        assert (reply["status"], reply["error"]) == (400, error)
        assert world.sandbox.orders[order_id].cancels == 0


async def test_the_request_id_is_not_signed() -> None:
    """The outer id may be any text or number, and comes back as JavaScript prints it."""
    async with trading() as world:
        for request_id in ("req-001", "ä", 7, 1.5):
            order_id = world.sandbox.add_order()
            reply = await world.socket.cancel(order_id, request_id=request_id)
            assert (reply["id"], reply["status"]) == (request_id, 200)


async def test_the_timestamp_may_be_a_text() -> None:
    """A text is signed as it is."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        stamp = str(world.socket.milliseconds())
        assert (await world.socket.cancel(order_id, timestamp=stamp))["status"] == 200


@pytest.mark.parametrize(
    ("fields", "sent", "status"),
    [
        ({"api_token", "apiToken"}, {"api_token": TOKEN}, 200),
        ({"api_token", "apiToken"}, {"api_token": ..., "apiToken": TOKEN}, 200),
        ({"api_token", "apiToken"}, {"api_token": TOKEN, "apiToken": TOKEN}, 200),
        ({"apiToken"}, {"api_token": TOKEN}, 400),
        ({"apiToken"}, {"api_token": TOKEN, "apiToken": TOKEN}, 200),
        ({"api_token"}, {"api_token": ..., "apiToken": TOKEN}, 400),
        ({"api_token"}, {"api_token": "another"}, 401),
    ],
)
async def test_the_token_is_taken_from_the_fields_that_the_rule_says(
    fields: set[str], sent: dict[str, Any], status: int
) -> None:
    """Neither spelling is part of the signed text."""
    async with trading(rules=RipioRules(token_fields=frozenset(fields))) as world:
        reply = await world.socket.cancel(world.sandbox.add_order(), **sent)
        assert reply["status"] == status
        caller = world.sandbox.requests[0].caller
        assert caller == ("token" if status == 200 else None)


@pytest.mark.parametrize(
    ("rules", "ahead", "accepted"),
    [
        (RipioRules(), -5.0, True),
        (RipioRules(), -5.001, False),
        (RipioRules(), 5.0, True),
        (RipioRules(), 5.001, False),
        (RipioRules(ahead_ms=0), 0.0, True),
        (RipioRules(ahead_ms=0), 0.001, False),
        (RipioRules(tolerance_ms=60_000), -59.0, True),
    ],
)
async def test_a_timestamp_is_neither_old_nor_far_ahead(
    rules: RipioRules, ahead: float, accepted: bool
) -> None:
    """The window is the rule's, on both sides, to the millisecond."""
    async with trading(rules=rules) as world:
        stamp = world.socket.milliseconds() + round(ahead * 1000)
        reply = await world.socket.cancel(world.sandbox.add_order(), timestamp=stamp)
        assert reply.get("error") == (None if accepted else INVALID_SIGNATURE)
        assert world.sandbox.requests[0].signature_age == -ahead


async def test_the_vendors_clock_may_be_wrong() -> None:
    """For good, or for one request that a fault befalls."""
    async with trading() as world:
        one, two = world.sandbox.add_order(), world.sandbox.add_order()
        world.sandbox.faults.add(skewed_clock("cancel", offset=16))
        assert (await world.socket.cancel(one))["error"] == INVALID_SIGNATURE
        assert (await world.socket.cancel(one))["status"] == 200
        world.sandbox.clock_offset = -16.0
        assert (await world.socket.cancel(two))["error"] == INVALID_SIGNATURE
        ages = [entry.signature_age for entry in world.sandbox.requests]
        assert ages == [16.0, 0.0, -16.0]
        assert world.sandbox.requests[2].received_at == NOON - timedelta(seconds=16)


@pytest.mark.parametrize("reject", [False, True])
async def test_a_signature_may_be_replayed_or_not(reject: bool) -> None:
    """The record shows the replay; by rule it is refused, too."""
    async with trading(rules=RipioRules(reject_replayed_signatures=reject)) as world:
        frame = world.socket.frame("order.cancel", {"id": world.sandbox.add_order()})
        codes = []
        for _ in range(2):
            await world.socket.client.send(frame)
            codes.append((await world.socket.heard()).get("error", {}).get("error_code"))
        assert codes == [None, 40011 if reject else 40408]
        assert len(world.sandbox.signatures) == 2
        assert len(set(world.sandbox.signatures)) == 1


async def test_the_status_of_an_invalid_signature_is_a_rule() -> None:
    """The documentation shows the code, and not the status."""
    async with trading(rules=RipioRules(signature_status=401)) as world:
        error = await world.socket.error("cancel", {"id": UNKNOWN}, signature="x")
        assert error == (401, INVALID_SIGNATURE)


async def test_tokens_may_be_blocked_or_lack_a_permission() -> None:
    """401/40100 and 403/40300; nothing is carried out."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        world.sandbox.forbidden = frozenset({"cancel"})
        assert (await world.socket.cancel(order_id))["error"] == {
            "error_code": 40300,
            "message": "Forbidden",
        }
        await world.rest.data(f"/orders/{order_id}")
        world.sandbox.blocked = True
        for _ in range(2):
            reply = await world.socket.cancel(order_id)
            assert (reply["status"], reply["error"]["message"]) == (401, "Blocked token")
        assert world.sandbox.orders[order_id].is_live
        assert len(world.sandbox.signatures) == 2


# --- other messages on the socket -----------------------------------------------------------------


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize(
    "message",
    [
        "nonsense",
        "[]",
        '{"method":"order.cancel","params":{}}',
        '{"id":null,"method":"order.cancel","params":{}}',
        '{"id":"a","method":7,"params":{}}',
        '{"id":"a","method":"order.cancel","params":[]}',
        '{"id":"a","method":"order.cancel","params":{"id":NaN}}',
        '{"id":"a","method":"order.cancel","params":' + "[" * 100_000,
        '{"id":"a","method":"order.cancel","params":{"a":' + "[" * 100_000 + "]" * 100_000 + "}}",
        b'{"id":"a","method":"order.cancel","params":{}}',
    ],
    ids=range(10),
)
async def test_what_is_no_request_is_answered_without_id_or_not_at_all(
    message: str | bytes, answered: bool
) -> None:
    """The socket lives on in any case."""
    async with trading(rules=RipioRules(unreadable_answered=answered)) as world:
        await world.socket.client.send(message)
        if answered:
            assert await world.socket.heard() == {
                "id": None,
                "status": 400,
                "result": None,
                "error": INVALID,
            }
        assert (await world.socket.cancel(world.sandbox.add_order()))["status"] == 200
        assert world.sandbox.requests[0].endpoint is None


async def test_an_unknown_method_is_unsupported() -> None:
    """40090, and the record has no word for it."""
    async with trading() as world:
        assert await world.socket.error("get", {"id": "x"}) == (
            400,
            {"error_code": 40090, "message": "Unsupported operation"},
        )
        assert world.sandbox.requests[0].endpoint is None


async def test_replies_may_have_a_timestamp() -> None:
    """By rule success and error have one."""
    async with trading(rules=RipioRules(frame_timestamp=True)) as world:
        order_id = world.sandbox.add_order()
        for _ in range(2):
            assert (await world.socket.cancel(order_id))["timestamp"] == 1767268800000


@pytest.mark.parametrize(
    ("amounts", "small", "large", "zero"),
    [
        (Amounts.PLAIN, "0.000000010", "12345678901234567.89", "0"),
        (Amounts.EXPONENT, "1e-8", "12345678901234567.89", "0"),
        (Amounts.TEXT, '"0.000000010"', '"12345678901234567.89"', '"0"'),
    ],
)
async def test_amounts_are_printed_exactly(
    amounts: Amounts, small: str, large: str, zero: str
) -> None:
    """All digits of the decimal: as a number, with an exponent, or as text."""
    async with trading(rules=RipioRules(amounts=amounts)) as world:
        order_id = world.sandbox.add_order(amount="0.000000010", price="12345678901234567.89")
        await world.socket.send("cancel", {"id": order_id})
        text = await world.socket.client.recv()
        assert isinstance(text, str)
        assert f'"remaining_amount":{small},' in text
        assert f'"price":{large},' in text
        assert f'"executed_amount":{zero},' in text


async def test_an_exponent_has_the_fraction_that_it_needs() -> None:
    """As JavaScript prints it: one digit before the point."""
    async with trading(rules=RipioRules(amounts=Amounts.EXPONENT)) as world:
        order_id = world.sandbox.add_order(amount="0.000000123")
        await world.socket.send("cancel", {"id": order_id})
        assert '"requested_amount":1.23e-7,' in str(await world.socket.client.recv())


async def test_the_result_leaves_out_what_the_rule_says() -> None:
    """Optional fields are absent; words for states may be others."""
    omitted = frozenset({"type", "external_id", "requested_value"})
    words = {OrderState.CANCELED: "cancelled"}
    async with trading(rules=RipioRules(cancel_omits=omitted, state_words=words)) as world:
        result = (await world.socket.cancel(world.sandbox.add_order(external_id="e")))["result"]
        assert omitted.isdisjoint(result)
        assert (result["side"], result["status"]) == ("buy", "cancelled")


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "state"), [(drop_before, "open"), (drop_after, "canceled")])
async def test_a_drop_says_nothing_of_what_was_done(fault: Any, state: str) -> None:
    """The socket is cut before or after the cancel; the truth is in the order."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        world.sandbox.faults.add(fault("cancel"))
        with pytest.raises(ConnectionClosed):
            await world.socket.cancel(order_id)
        assert world.sandbox.sockets == 0
        assert (await world.rest.data(f"/orders/{order_id}"))["status"] == state


async def test_an_order_is_filled_in_the_race() -> None:
    """Completely, or half of what remains, an instant before the cancel."""
    async with trading() as world:
        filled, half = world.sandbox.add_order(), world.sandbox.add_order(amount="3")
        world.sandbox.fill(half, "1")
        world.sandbox.faults.add(fill_in_the_race("cancel"), partial_fill_in_the_race("cancel"))
        assert (await world.socket.cancel(filled))["error"] == CLOSED
        assert world.sandbox.orders[filled].state is OrderState.EXECUTED_COMPLETELY
        result = (await world.socket.cancel(half))["result"]
        assert (result["status"], result["executed_amount"]) == ("canceled", 2)


async def test_scripted_errors_are_worded_as_the_vendor_does() -> None:
    """To the request that asked, with the vendor's codes."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        expected = {
            400: INVALID,
            401: UNAUTHORIZED,
            403: {"error_code": 40300, "message": "Forbidden"},
            404: NOT_FOUND,
            429: {"message": "Too many requests"},
            500: {"error_code": 50000, "message": "Internal error"},
            502: {"error_code": 50200, "message": "Bad Gateway"},
            503: {"error_code": 503, "message": "Maintenance"},
            520: {"error_code": 52000, "message": "Unknown error"},
        }
        for status, error in expected.items():
            world.sandbox.faults.add(server_error("cancel", status=status))
            reply = await world.socket.cancel(order_id)
            assert reply == {"id": reply["id"], "status": status, "result": None, "error": error}
        assert world.sandbox.orders[order_id].is_live
        assert world.sandbox.rejections == 0


async def test_faults_of_sockets_are_played() -> None:
    """A sample of them, with the vendor's own messages."""
    async with trading() as world:
        orders = [world.sandbox.add_order() for _ in range(8)]
        faults = world.sandbox.faults
        faults.add(duplicated("cancel"))
        await world.socket.send("cancel", {"id": orders[0]}, request_id="a")
        assert await world.socket.heard() == await world.socket.heard()
        faults.add(contradicted("cancel", status=404))
        assert (await world.socket.cancel(orders[1]))["status"] == 200
        assert (await world.socket.heard())["error"] == NOT_FOUND
        faults.add(reordered("cancel", within=60))
        await world.socket.send("cancel", {"id": orders[2]}, request_id="late")
        assert (await world.socket.cancel(orders[3], request_id="next"))["id"] == "next"
        assert (await world.socket.heard())["id"] == "late"
        faults.add(unaddressed("cancel", address=None))
        assert (await world.socket.cancel(orders[4]))["id"] is None
        faults.add(replaced("cancel", status=200, body=b'{"status":200,"result":null}'))
        reply = await world.socket.cancel(orders[5], request_id="e")
        assert reply == {"id": "e", "status": 200, "result": None}
        faults.add(html_page("cancel"))
        await world.socket.send("cancel", {"id": orders[5]})
        assert str(await world.socket.client.recv()).startswith("<html>")
        faults.add(closing(1012, "cancel", processed=True))
        with pytest.raises(ConnectionClosed) as closed:
            await world.socket.cancel(orders[6])
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert not world.sandbox.orders[orders[6]].is_live
        assert world.sandbox.orders[orders[5]].is_live


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("how", "processed", "status"),
    [
        (SlowReply.SILENCE, True, None),
        (SlowReply.SILENCE, False, None),
        (SlowReply.ERROR, True, 500),
        (SlowReply.ERROR, False, 500),
        (SlowReply.LATE, True, 200),
        (SlowReply.LATE, False, 500),
    ],
)
async def test_a_request_may_exceed_the_processing_time(
    how: SlowReply, processed: bool, status: int | None
) -> None:
    """What it answers after ten seconds, and whether it was carried out, are rules."""
    async with trading(rules=RipioRules(slow_reply=how, slow_processed=processed)) as world:
        order_id = world.sandbox.add_order()
        world.sandbox.faults.add(too_slow("cancel"))
        loop = asyncio.get_running_loop()
        before = loop.time()
        await world.socket.send("cancel", {"id": order_id})
        if status is None:
            await asyncio.sleep(60)
        else:
            reply = await world.socket.heard()
            assert 10 <= loop.time() - before < 11
            assert reply["status"] == status
        assert world.sandbox.requests[0].status == status
        assert world.sandbox.orders[order_id].is_live != processed


# --- announcements --------------------------------------------------------------------------------


async def test_an_order_status_message_is_sent_on_every_socket() -> None:
    """Uninvited, with a sequential id and the stream's names for things."""
    async with trading() as world, connected(world.sandbox) as other:
        order_id = world.sandbox.add_order(external_id="mine", amount="2", price="5")
        world.sandbox.fill(order_id, "0.5")
        world.sandbox.broadcast(order_id)
        message = await world.socket.heard()
        assert message == json.loads(await other.recv(), parse_float=Decimal)
        assert message == {
            "id": 1,
            "topic": "order_status",
            "timestamp": 1767268800000,
            "body": {
                "id": order_id,
                "status": "executed_partially",
                "type": "limit",
                "side": "buy",
                "pair": "BTC_BRL",
                "price": 5,
                "amount": 2,
                "executed_amount": Decimal("0.5"),
                "remaining_amount": Decimal("1.5"),
                "average_execution_price": 5,
                "external_id": "mine",
                "user_id": message["body"]["user_id"],
                "created_at": "2026-01-01T12:00:00.000Z",
                "updated_at": "2026-01-01T12:00:00.000Z",
            },
        }
        world.sandbox.broadcast_raw(b"\x00", binary=True)
        assert await other.recv() == b"\x00"


@pytest.mark.parametrize(
    ("announce", "seen"),
    [
        (Announce.NEVER, [200]),
        (Announce.BEFORE, ["canceled", 200]),
        (Announce.AFTER, [200, "canceled"]),
    ],
)
async def test_changes_are_announced_by_rule(announce: Announce, seen: list[Any]) -> None:
    """Before or after the reply to the request that changed the order."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        world.sandbox.rules = RipioRules(announce_orders=announce)
        await world.socket.send("cancel", {"id": order_id})
        messages = [await world.socket.heard() for _ in seen]
        assert [m["body"]["status"] if "body" in m else m["status"] for m in messages] == seen


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_socket_and_http_share_one_meter() -> None:
    """One request per second and user, whichever way it comes; a rejected one is not counted."""
    async with trading(requests_per_window=1) as world:
        order_id = world.sandbox.add_order()
        assert (await world.socket.cancel(order_id, request_id="a"))["status"] == 200
        status, body = await world.rest("GET", f"/trade/orders/{order_id}")
        assert (status, body) == (429, {"message": "Too many requests"})
        assert "Retry-After" not in world.rest.headers
        reply = await world.socket.cancel(order_id, request_id="b")
        assert reply == {
            "id": "b",
            "status": 429,
            "result": None,
            "error": {"message": "Too many requests"},
        }
        await asyncio.sleep(1)
        await world.rest.data(f"/orders/{order_id}")
        assert (world.sandbox.rejections, world.sandbox.orders[order_id].cancels) == (2, 1)
        assert world.sandbox.peak_in_window() == 3
        assert world.sandbox.peak_in_window("order") == 1
        assert [entry.processed for entry in world.sandbox.requests] == [True, False, False, True]


@pytest.mark.virtual_time
async def test_rejected_requests_may_count() -> None:
    """By rule, whoever asks too early waits longer."""
    async with trading(requests_per_window=1, rules=RipioRules(rejected_count=True)) as world:
        order_id = world.sandbox.add_order()
        statuses = []
        for _ in range(3):
            statuses.append((await world.socket.cancel(order_id))["status"])
            await asyncio.sleep(0.6)
        assert statuses == [200, 429, 429]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (TooMany.CODE_42900, {"error_code": 42900, "message": "Too many requests"}),
        (TooMany.CODE_429, {"error_code": 429, "message": "Too many requests"}),
    ],
)
async def test_a_429_is_worded_by_rule(how: TooMany, error: Any) -> None:
    """On the socket and by HTTP, the meter's own and a scripted one."""
    rules = RipioRules(socket_too_many=how, rest_too_many=how)
    async with trading(rules=rules, requests_per_window=1, window=600.0) as world:
        world.sandbox.faults.add(rate_limited("cancel"), rate_limited("order", retry_after=3))
        assert (await world.socket.cancel(UNKNOWN))["error"] == error
        assert await world.rest("GET", f"/trade/orders/{UNKNOWN}") == (429, error)
        assert world.rest.headers["Retry-After"] == "3"
        await world.socket.cancel(UNKNOWN)
        assert (await world.socket.cancel(UNKNOWN))["error"] == error
        assert await world.rest("GET", f"/trade/orders/{UNKNOWN}") == (429, error)


@pytest.mark.parametrize(
    ("how", "window", "day"),
    [
        (RetryAfter.SECONDS, "600", "43200"),
        (
            RetryAfter.DATE,
            "Thu, 01 Jan 2026 12:10:01 GMT",
            "Fri, 02 Jan 2026 00:00:01 GMT",
        ),
    ],
)
async def test_a_429_may_say_when_to_come_back(how: RetryAfter, window: str, day: str) -> None:
    """In seconds or as a date, until the window's end or the day's."""
    options: dict[str, Any] = {"rules": RipioRules(retry_after=how), "requests_per_window": 1}
    async with trading(window=600.0, **options) as world:
        for _ in range(2):
            await world.rest("GET", f"/trade/orders/{UNKNOWN}")
        assert world.rest.headers["Retry-After"] == window
    async with trading(window=0.001, daily_quota=0, **options) as world:
        await world.rest("GET", f"/trade/orders/{UNKNOWN}")
        assert world.rest.headers["Retry-After"] == day


async def test_a_day_has_a_quota() -> None:
    """What is beyond it is refused in other words until the next day begins, in UTC."""
    async with trading(daily_quota=2) as world:
        for _ in range(2):
            assert (await world.socket.cancel(UNKNOWN))["status"] == 404
        assert (await world.socket.cancel(UNKNOWN))["error"] == {"message": "Limit Exceeded"}
        answer = await world.rest("GET", f"/trade/orders/{UNKNOWN}")
        assert answer == (429, {"message": "Limit Exceeded"})
        world.clock.move(12 * 3600)
        assert (await world.socket.cancel(UNKNOWN))["status"] == 404


# --- by HTTP --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/trade", "/v4"])
async def test_an_order_is_read_in_the_documented_words(prefix: str) -> None:
    """Both prefixes are served; the path is signed with the one that was sent."""
    async with trading() as world:
        order_id = world.sandbox.add_order(
            external_id="C90796F2", amount="0.02347418", price="42600"
        )
        world.sandbox.fill(order_id)
        status, body = await world.rest("GET", f"{prefix}/orders/by-external-id/C90796F2")
        assert status == 200
        assert body == {
            "error_code": None,
            "message": None,
            "timestamp": 1767268800000,
            "data": {
                "average_execution_price": 42600,
                "create_date": "2026-01-01T12:00:00.000Z",
                "external_id": "C90796F2",
                "executed_amount": Decimal("0.02347418"),
                "id": order_id,
                "remaining_amount": 0,
                "requested_amount": Decimal("0.02347418"),
                "requested_value": Decimal("1000.000068"),
                "remaining_value": 0,
                "pair": "BTC_BRL",
                "price": 42600,
                "side": "buy",
                "status": "executed_completely",
                "fee": 0,
                "total_value": Decimal("1000.000068"),
                "type": "limit",
                "update_date": "2026-01-01T12:00:00.000Z",
                "transactions": [],
            },
        }
        assert (await world.rest("GET", f"{prefix}/orders/{order_id}"))[1] == body


async def test_unknown_orders_and_paths_are_told_apart() -> None:
    """40401 for an order, 40400 for a path."""
    async with trading() as world:
        for path in (f"/orders/{UNKNOWN}", "/orders/by-external-id/none"):
            status, body = await world.rest("GET", f"/trade{path}")
            assert (status, body["error_code"], body["data"]) == (404, 40401, None)
        for method, path in (("GET", "/orders"), ("PUT", "/trade/orders"), ("GET", "/v5/orders/x")):
            status, body = await world.rest(method, path)
            assert (status, body["error_code"], body["message"]) == (404, 40400, "URL not found")


@pytest.mark.parametrize("decoded", [False, True])
async def test_the_path_is_signed_as_sent_or_decoded(decoded: bool) -> None:
    """An external id may need percent-encoding; which form is signed is a rule."""
    async with trading(rules=RipioRules(signed_path_decoded=decoded)) as world:
        world.sandbox.add_order(external_id="a/b ä")
        sent = "/trade/orders/by-external-id/a%2Fb%20%C3%A4"
        plain = "/trade/orders/by-external-id/a/b ä"
        right, wrong = (plain, sent) if decoded else (sent, plain)
        status, body = await world.rest("GET", sent, signed=right)
        assert (status, body["data"]["external_id"]) == (200, "a/b ä")
        assert (await world.rest("GET", sent, signed=wrong))[0] == 400


@pytest.mark.parametrize(
    ("headers", "documented", "observed"),
    [
        ({"Authorization": "x"}, (401, 40100, "Not authorized"), "Invalid token"),
        ({"Authorization": ""}, (401, 40100, "Not authorized"), "Invalid token"),
        ({"Signature": "x"}, (400, 40011, "Invalid signature"), "Invalid signature"),
        ({"Signature": ""}, (400, 40011, "Invalid signature"), "Invalid signature"),
        ({"Timestamp": "1767268794999"}, (400, 40011, "Invalid signature"), "Invalid timestamp"),
        (
            {"Timestamp-tolerance": "60001"},
            (400, 40011, "Invalid signature"),
            "Invalid timestamp",
        ),
    ],
)
async def test_credentials_are_refused_as_documented_or_as_observed(
    headers: dict[str, str], documented: tuple[int, int, str], observed: str
) -> None:
    """Documented are 40011 and 40100; a client saw 401 with error_code 401."""
    async with trading() as world:
        path = f"/trade/orders/{UNKNOWN}"
        status, body = await world.rest("GET", path, headers=headers)
        assert (status, body["error_code"], body["message"]) == documented
        world.sandbox.rules = RipioRules(observed_auth_errors=True)
        status, body = await world.rest("GET", path, headers=headers)
        assert (status, body["error_code"], body["message"]) == (401, 401, observed)


@pytest.mark.parametrize(
    ("tolerance", "age", "status"),
    [("60000", 59_000, 404), ("1000", 1000, 404), ("1000", 1001, 400), ("x", 1, 400)],
)
async def test_a_request_by_http_says_how_old_it_may_be(
    tolerance: str, age: int, status: int
) -> None:
    """Timestamp-tolerance in milliseconds, up to a minute."""
    async with trading() as world:
        stamp = str(1767268800000 - age)
        headers = {"Timestamp": stamp, "Timestamp-tolerance": tolerance}
        assert (await world.rest("GET", f"/trade/orders/{UNKNOWN}", headers=headers))[0] == status


async def test_orders_are_listed_and_filtered() -> None:
    """The newest first; pair is demanded, the other filters are not."""
    async with trading() as world:
        ids = []
        for index in range(5):
            ids.append(world.sandbox.add_order(side="sell" if index % 2 else "buy"))
            world.clock.move(60)
        world.sandbox.fill(ids[0])
        world.sandbox.cancel_behind_back(ids[1])
        other = world.sandbox.add_order(pair="ETH_BRL", type="market")

        async def listed(query: str, path: str = "/orders") -> list[int]:
            data = await world.rest.data(path, query)
            return [[*ids, other].index(row["id"]) for row in data["orders"]]

        pair = "?pair=BTC_BRL"
        assert await listed(pair) == [4, 3, 2, 1, 0]
        assert await listed(f"{pair}&status=canceled,executed_completely") == [1, 0]
        assert await listed(f"{pair}&ids={ids[3]},{ids[0]}") == [3, 0]
        assert await listed(f"{pair}&side=sell") == [3, 1]
        assert await listed("?pair=ETH_BRL&type=market") == [5]
        start, end = "2026-01-01T12:01:00.000Z", "2026-01-01T12:02:00"
        assert await listed(f"{pair}&start_date={start}&end_date={end}") == [2, 1]
        assert await listed("", "/orders/open") == [5, 4, 3, 2]
        assert await listed(pair, "/orders/open") == [4, 3, 2]
        assert await listed(f"{pair}&page_size=2&current_page=2") == [2, 1]
        data = await world.rest.data("/orders", f"{pair}&page_size=2&current_page=3")
        assert [row["id"] for row in data["orders"]] == [ids[0]]
        assert data["pagination"] == {
            "current_page": 3,
            "page_size": 2,
            "registers_count": 5,
            "total_pages": 3,
            "nc": None,
            "pc": None,
        }


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", 40010),
        ("?pair=A_B&page_size=0", 40000),
        ("?pair=A_B&page_size=1001", 40000),
        ("?pair=A_B&current_page=x", 40000),
        ("?pair=A_B&current_page=" + "9" * 5000, 40000),
        ("?pair=A_B&start_date=yesterday", 40000),
        ("?pair=A_B&ids=" + ",".join(map(str, range(11))), 40000),
    ],
)
async def test_a_list_that_cannot_be_is_refused(query: str, code: int) -> None:
    """Pair is required, pages have 1 to 1000 rows, and ten ids are the most."""
    async with trading() as world:
        status, body = await world.rest("GET", "/trade/orders", query=query)
        assert (status, body["error_code"]) == (400, code)


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("DELETE", "/orders", "id"),
        ("POST", "/orders/cancel", "id"),
        ("DELETE", "/orders/by-external-id", "external_id"),
        ("POST", "/orders/cancel-by-external-id", "external_id"),
    ],
)
async def test_an_order_is_canceled_by_http(method: str, path: str, field: str) -> None:
    """Four ways, each with a signed body, all called "rest_cancel"."""
    async with trading() as world:
        order_id = world.sandbox.add_order(external_id="mine")
        body = compact({field: order_id if field == "id" else "mine"})
        status, reply = await world.rest(method, f"/trade{path}", body)
        assert (status, reply["data"]["id"], reply["data"]["status"]) == (200, order_id, "canceled")
        status, reply = await world.rest(method, f"/trade{path}", body)
        assert (status, reply["error_code"]) == (400, 40408)
        assert len(world.sandbox.requests_to("rest_cancel")) == 2
        for wrong in ("[]", "{", "{}"):
            status, _ = await world.rest(method, f"/trade{path}", wrong)
            assert status == 400
        assert world.sandbox.orders[order_id].cancels == 2


@pytest.mark.virtual_time
async def test_the_view_by_http_may_lag_behind() -> None:
    """So many seconds pass before an order, and each change of it, is seen."""
    async with trading(rules=RipioRules(rest_lag=2.0)) as world:
        order_id = world.sandbox.add_order()

        async def seen() -> str | None:
            status, body = await world.rest("GET", f"/trade/orders/{order_id}")
            listed = (await world.rest.data("/orders", "?pair=BTC_BRL"))["orders"]
            assert len(listed) == (status == 200)
            return body["data"]["status"] if status == 200 else None

        assert await seen() is None
        await asyncio.sleep(2)
        assert await seen() == "open"
        await world.socket.cancel(order_id)
        assert await seen() == "open"
        await asyncio.sleep(2)
        assert await seen() == "canceled"


def test_orders_may_be_placed_before_any_loop_runs() -> None:
    """They are visible from the beginning, whatever the lag."""
    sandbox = RipioSandbox(rules=RipioRules(rest_lag=5.0), now=Clock())
    order_id = sandbox.add_order()
    assert sandbox.orders[order_id].created_at == NOON
    assert list(sandbox.orders) == [order_id]
    assert repr(sandbox.orders) == "<OrderBook of 1>"


@pytest.mark.virtual_time
async def test_the_servers_time_is_public_and_may_be_old() -> None:
    """No credentials, no user's limit, a cache of its own."""
    async with trading(requests_per_window=1, window=60.0) as world:
        headers = {"Authorization": "", "Timestamp": "", "Signature": ""}

        async def time() -> float:
            status, body = await world.rest("GET", "/trade/public/server-time", headers=headers)
            assert (status, body["message"]) == (200, None)
            return float(body["data"]["timestamp"]) / 1000 - NOON.timestamp()

        world.sandbox.clock_offset = 16.0
        assert await time() == 16
        world.clock.move(5)
        assert await time() == 21
        world.sandbox.rules = RipioRules(server_time_cache=30.0)
        world.clock.move(5)
        assert await time() == 21
        await asyncio.sleep(30)
        assert await time() == 26
        assert world.sandbox.requests_to("server_time")[0].caller is None
        # aiohttp repeats a GET by itself, once.
        world.sandbox.faults.add(drop_before("server_time", times=2))
        with pytest.raises(aiohttp.ClientError):
            await time()


@pytest.mark.virtual_time
async def test_the_servers_time_may_be_metered() -> None:
    """Per address, and not with the user's requests."""
    async with trading(public_requests_per_window=1) as world:
        statuses = []
        for _ in range(3):
            await world.socket.cancel(UNKNOWN)
            statuses.append((await world.rest("GET", "/trade/public/server-time"))[0])
            await asyncio.sleep(0.5)
        assert statuses == [200, 429, 200]
        assert world.sandbox.rejections == 1


async def test_a_ticket_is_given() -> None:
    """For the stream, which is not simulated."""
    async with trading() as world:
        status, body = await world.rest("POST", "/trade/ticket")
        assert (status, len(body["data"]["ticket"])) == (200, 36)


async def test_faults_by_http_are_the_usual_ones() -> None:
    """Drops, proxies' pages, fills in the race, and lateness that is processed."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        path = f"/trade/orders/{order_id}"
        world.sandbox.faults.add(
            drop_after("order", times=2),  # aiohttp repeats a GET by itself, once
            server_error("order", status=503),
            fill_in_the_race("rest_cancel"),
            duplicated(),
        )
        with pytest.raises(aiohttp.ClientError):
            await world.rest("GET", path)
        status, body = await world.rest("GET", path)
        assert (status, body["error_code"]) == (503, 503)
        status, body = await world.rest("POST", "/trade/orders/cancel", compact({"id": order_id}))
        assert (status, body["error_code"]) == (400, 40408)
        assert len(world.sandbox.faults) == 1


# --- ways that are closed -------------------------------------------------------------------------


async def test_only_http_may_be_unreachable() -> None:
    """Connections are refused there; the socket works on, and HTTP comes back."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        await world.sandbox.close_rest()
        with pytest.raises(aiohttp.ClientConnectorError):
            await world.rest("GET", f"/trade/orders/{order_id}")
        assert (await world.socket.cancel(order_id))["status"] == 200
        await world.sandbox.open_rest()
        assert (await world.rest.data(f"/orders/{order_id}"))["status"] == "canceled"


async def test_only_the_socket_may_be_unreachable() -> None:
    """Open sockets are cut, new ones refused; HTTP works on, and sockets come back."""
    async with trading() as world:
        order_id = world.sandbox.add_order()
        await world.sandbox.close_ws()
        with pytest.raises(ConnectionClosed):
            await world.socket.cancel(order_id)
        with pytest.raises(ConnectionRefusedError):
            await connected(world.sandbox)
        assert (await world.rest.data(f"/orders/{order_id}"))["status"] == "open"
        await world.sandbox.open_ws()
        async with connected(world.sandbox) as client:
            assert (await Socket(client, world.clock).cancel(order_id))["status"] == 200
        assert world.sandbox.sockets_opened == 2


async def test_sockets_are_closed_cut_frozen_and_refused() -> None:
    """What a test does to the sockets, one after the other."""
    async with trading() as world:
        sandbox = world.sandbox
        order_id = sandbox.add_order()
        sandbox.freeze()
        await world.socket.send("cancel", {"id": order_id})
        await turns()
        assert (len(sandbox.requests), sandbox.sockets) == (0, 1)
        sandbox.thaw()
        assert (await world.socket.heard())["status"] == 200
        sandbox.close_sockets(1012, "restart")
        with pytest.raises(ConnectionClosed) as closed:
            await world.socket.heard()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "restart")
        async with connected(sandbox) as client:
            sandbox.cut_sockets(reset=True)
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is None
        sandbox.refuse_upgrades(times=1)
        with pytest.raises(InvalidStatus):
            await connected(sandbox)
        sandbox.refuse_upgrades(Reply.DROP)
        sandbox.accept_upgrades()
        async with connected(sandbox):
            assert sandbox.sockets == 1


@pytest.mark.virtual_time
async def test_keepalive_follows_the_rules() -> None:
    """Sockets that hear nothing for a minute are closed; pings are answered by rule."""
    rules = RipioRules(ping_interval=None, answers_pings=False, idle_close_code=1000)
    async with trading(rules=rules) as world:
        loop = asyncio.get_running_loop()
        before = loop.time()
        pong = await world.socket.client.ping()
        with pytest.raises(ConnectionClosed) as closed:
            await world.socket.heard()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "idle")
        assert 60 <= loop.time() - before < 61
        with pytest.raises(ConnectionClosed):
            await pong


def test_the_rules_say_how_sockets_are_kept_alive() -> None:
    """Each rule is one part of the sockets' keep-alive; idle and pong are the documented minute."""
    assert RipioSandbox().keepalive == Keepalive(
        idle_timeout=60.0, ping_interval=20.0, pong_timeout=60.0, close_code=1001
    )
    rules = RipioRules(
        idle_timeout=1.0,
        ping_interval=2.0,
        pong_timeout=3.0,
        idle_close_code=None,
        answers_pings=False,
        pings_count=True,
    )
    assert RipioSandbox(rules=rules).keepalive == Keepalive(
        idle_timeout=1.0,
        ping_interval=2.0,
        pong_timeout=3.0,
        close_code=None,
        answers_pings=False,
        pings_count=True,
    )


@pytest.mark.virtual_time
async def test_a_client_that_answers_pings_stays() -> None:
    """The vendor's pings keep an idle socket open, by the usual rules."""
    async with trading() as world:
        await asyncio.sleep(3600)
        assert world.sandbox.sockets == 1


async def test_a_sandbox_starts_again_where_it_was() -> None:
    """The same ports, the same orders, one record."""
    sandbox = RipioSandbox(requests_per_window=1000)
    with pytest.raises(RuntimeError, match="not been started"):
        _ = sandbox.ws_url
    order = sandbox.orders[sandbox.add_order()]
    assert abs(datetime.now(UTC) - order.created_at) < timedelta(seconds=10)
    await sandbox.aclose()
    urls = []
    for _ in range(2):
        await sandbox.start()
        urls.append((sandbox.ws_url, sandbox.rest_url))
        with pytest.raises(RuntimeError, match="already running"):
            await sandbox.start()
        await sandbox.aclose()
    assert urls[0] == urls[1]
    assert urls[0][0].startswith("ws://127.0.0.1:")
    assert urls[0][1].endswith("/trade")


async def test_a_sandbox_that_cannot_start_leaves_nothing_open() -> None:
    """If one port is taken meanwhile, the other is given back."""
    sandbox = RipioSandbox()
    async with sandbox:
        port = int(sandbox.rest_url.removesuffix("/trade").rpartition(":")[2])
    thief = await asyncio.start_server(lambda r, w: None, "127.0.0.1", port)
    with pytest.raises(OSError, match="address already in use"):
        await sandbox.start()
    thief.close()
    await thief.wait_closed()
    async with sandbox:
        assert sandbox.sockets == 0


async def test_closing_is_prompt_and_leaves_nothing() -> None:
    """Hung requests, late replies, frozen sockets: all end at once."""
    async with trading() as world:
        world.sandbox.faults.add(hang_after("cancel"), late("cancel", delay=60))
        for _ in range(2):
            await world.socket.send("cancel", {"id": world.sandbox.add_order()})
        await world.sandbox.arrived(2, "cancel")
        world.sandbox.freeze()
        before = asyncio.get_running_loop().time()
        await world.sandbox.aclose()
        assert asyncio.get_running_loop().time() - before < 0.5


async def test_both_ways_speak_tls() -> None:
    """With a context the URLs are wss and https."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    connector = aiohttp.TCPConnector(ssl=trust)
    async with (
        RipioSandbox(ssl_context=context, now=Clock()) as sandbox,
        connected(sandbox, ssl=trust) as client,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        assert sandbox.ws_url.startswith("wss://")
        assert sandbox.rest_url.startswith("https://")
        reply = await Socket(client, Clock()).cancel(sandbox.add_order())
        assert reply["status"] == 200
        async with session.get(f"{sandbox.rest_url}/public/server-time") as answer:
            assert answer.status == 200


@pytest.mark.virtual_time
async def test_requests_travel() -> None:
    """With jitter both ways take their time, on the socket and by HTTP."""
    async with trading(jitter=4.0, seed=1) as world:
        loop = asyncio.get_running_loop()
        order_id = world.sandbox.add_order()
        for call in (
            lambda: world.socket.cancel(order_id),
            lambda: world.rest("GET", f"/trade/orders/{order_id}"),
        ):
            before = loop.time()
            await call()
            assert 0.1 < loop.time() - before < 8.1


async def test_chaos_strikes_sockets_and_http_alike() -> None:
    """Faults at random befall both ways; what only a socket can play stays there."""
    async with trading() as world:
        world.sandbox.faults.chaos([duplicated(), server_error()], rate=1.0, seed=0)
        order_id = world.sandbox.add_order()
        for _ in range(5):
            assert (await world.rest("GET", f"/trade/orders/{order_id}"))[0] == 500
        await world.socket.send("cancel", {"id": order_id})
        await world.socket.heard()
        fault = world.sandbox.requests[-1].fault
        assert fault in [duplicated(), server_error()]


async def test_many_requests_take_little_time() -> None:
    """The work per request does not grow with the record or the order book."""
    async with trading() as world:
        count = 2000
        ids = [world.sandbox.add_order() for _ in range(count)]
        frames = [world.socket.frame("order.cancel", {"id": order_id}) for order_id in ids]
        waiting = asyncio.create_task(world.sandbox.arrived(count, "cancel"))
        loop = asyncio.get_running_loop()
        before = loop.time()

        async def send() -> None:
            for frame in frames:
                await world.socket.client.send(frame)

        sending = asyncio.create_task(send())
        for _ in range(count):
            assert b'"status":200' in await world.socket.client.recv(decode=False)
        await asyncio.gather(sending, waiting)
        assert loop.time() - before < 5
        assert all(not order.is_live for order in world.sandbox.orders.values())


# --- JavaScript -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (0.1, "0.1"),
        (100.0, "100"),
        (123456.789, "123456.789"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-7, "1.5e-7"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (5e-324, "5e-324"),
        (1634567890000.0, "1634567890000"),
        (0.30000000000000004, "0.30000000000000004"),
        (float("inf"), "null"),
        (float("nan"), "null"),
    ],
)
def test_numbers_are_printed_as_ecmascript_does(number: float, text: str) -> None:
    """Number::toString, case by case."""
    assert _number_text(number) == text


def test_node_agrees() -> None:
    """Any JSON text is parsed and printed as the JavaScript engine of Node.js does it."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    numbers = random.Random(1)
    texts = [
        '{"b":1,"10":2,"a":3,"9":4,"01":5,"4294967295":6,"4294967294":7,"-1":8}',
        '{"a":"\\ud800\\udc00\\ud800 \\udc00\\u2028\\u007f\\u0000\\b\\f\\/"}',
        '{"a":1,"b":2,"a":{"a":[1e400,-1e400,-0,1E5,1e-7]}}',
        '[true,false,null,"",[],{}]',
        '{"__proto__":1,"":2}',
    ]
    for _ in range(3000):
        (number,) = struct.unpack("<d", numbers.randbytes(8))
        texts += [repr(number)] if number == number and abs(number) != float("inf") else []
        texts.append(f"{numbers.randrange(10**9)}e{numbers.randrange(-30, 30)}")
        texts.append(f"0.{numbers.randrange(10**10)}")
    script = (
        "const texts = JSON.parse(require('fs').readFileSync(0));"
        "console.log(JSON.stringify(texts.map(text => JSON.stringify(JSON.parse(text)))))"
    )
    run = subprocess.run(
        [node, "-e", script], input=json.dumps(texts).encode(), capture_output=True, check=True
    )
    printed = json.loads(run.stdout)
    for text, expected in zip(texts, printed, strict=True):
        assert _stringify(_parse(text.encode())) == expected


def test_rules_can_be_changed_one_by_one() -> None:
    """The rules are a frozen value."""
    rules = RipioRules()
    assert replace(rules, rest_lag=1.0).rest_lag == 1.0
    with pytest.raises(AttributeError):
        rules.rest_lag = 1.0  # type: ignore[misc]
