"""`brokers.tronsave.sandbox`: the simulated vendor, seen through a plain HTTP client."""

from __future__ import annotations

import asyncio
import io
import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from brokers.tronsave.sandbox import (
    ENDPOINTS,
    HistoryFilter,
    IdOrder,
    OrderState,
    PriceTooHigh,
    RetryAfter,
    TronSaveRules,
    TronSaveSandbox,
    UnknownIds,
)
from tronsave_async.sandbox import (
    drop_after,
    drop_before,
    fill_in_the_race,
    hang_after,
    html_page,
    rate_limited,
    server_error,
    skewed_clock,
    wrong_types,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = {"apikey": "sandbox-key"}
UNKNOWN = "673c17a3129f1881382e98e3"

# The documented requests, literally.
CREATE = {
    "max_price_accept": 70,
    "amount": 130_000,
    "duration_sec": 900,
    "deadline": 300,
    "receivers": ["TQk2eKHE9ZfCdVmyPnh8DfRMUF0123456", "TQk2eKHE9ZfCdVmyPnh8DfRMUF1111111"],
}
ESTIMATE = {
    "receiver_count": 10,
    "amount": 130_000,
    "max_price_accept": 70,
    "resource_type": "ENERGY",
    "duration_sec": 900,
}
CHARGE = 130_000 * 69


class Clock:
    """A wall clock that stands at noon until it is moved."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Client:
    """Calls by the vendor's words."""

    def __init__(self, session: aiohttp.ClientSession, sandbox: TronSaveSandbox) -> None:
        self._session = session
        self._sandbox = sandbox

    async def send(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Send any request; return status and decoded body."""
        options.setdefault("headers", KEY)
        async with self._session.request(method, self._sandbox.url + path, **options) as reply:
            return reply.status, msgspec.json.decode(await reply.read())

    async def reply(self, endpoint: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """Call an endpoint; return status and decoded body."""
        method, path = ENDPOINTS[endpoint]
        if method == "POST" and "data" not in options:
            options["json"] = body
        return await self.send(method, path, **options)

    async def __call__(self, endpoint: str, body: Any = None, **options: Any) -> Any:
        """Call an endpoint that must answer 200; return the decoded body."""
        status, answer = await self.reply(endpoint, body, **options)
        assert status == 200, answer
        return answer

    async def ids(self, endpoint: str, *ids: str) -> Any:
        """Track, cancel or confirm ids; return the list of results."""
        answer = await self(endpoint, {"order_ids": ids})
        (results,) = answer.values()
        return results


@asynccontextmanager
async def trading(**options: Any) -> AsyncIterator[tuple[TronSaveSandbox, Client]]:
    """Open a sandbox with a limit nobody reaches, and a client for it."""
    options = {"requests_per_window": 10_000, **options}
    async with TronSaveSandbox(**options) as sandbox, aiohttp.ClientSession() as session:
        yield sandbox, Client(session, sandbox)


def ok(order_id: str) -> dict[str, Any]:
    """Return the documented item of a success."""
    return {"order_id": order_id, "is_success": True, "fail_reason": None}


def failed(order_id: str, reason: str | None) -> dict[str, Any]:
    """Return the item of a failure."""
    return {"order_id": order_id, "is_success": False, "fail_reason": reason}


def invalid(message: str) -> tuple[int, dict[str, Any]]:
    """Return the documented reply to a request that does not fit the schema."""
    body = {"statusCode": 400, "code": "FST_ERR_VALIDATION", "error": "Bad Request"}
    return 400, {**body, "message": message}


# --- the documented messages ----------------------------------------------------------------------


def test_the_paths_are_the_documented_ones() -> None:
    """Six calls, all below /v0."""
    assert dict(ENDPOINTS) == {
        "estimate": ("POST", "/v0/fast-charge-estimate-order-request"),
        "create": ("POST", "/v0/fast-charge-order-request"),
        "track": ("POST", "/v0/fast-charge-order-tracking"),
        "cancel": ("POST", "/v0/fast-charge-order-cancel"),
        "confirm": ("POST", "/v0/fast-charge-order-confirmation"),
        "history": ("GET", "/v0/fast-charge-order-history"),
    }


async def test_an_order_is_created_tracked_and_canceled_in_the_documented_words() -> None:
    """The whole way of an order, message by message, and the money with it."""
    async with trading() as (sandbox, client):
        before = sandbox.balance
        created = await client("create", CREATE)
        assert list(created) == ["order_ids"]
        one, two = created["order_ids"]
        assert sandbox.balance == before - 2 * CHARGE
        sandbox.match(one)
        assert await client("track", {"order_ids": [one, two]}) == {
            "results": [
                {"order_id": one, "status": "Completed"},
                {"order_id": two, "status": "Pending"},
            ]
        }
        assert await client("cancel", {"order_ids": [two]}) == {"cancel_results": [ok(two)]}
        assert sandbox.balance == before - CHARGE
        assert await client("confirm", {"order_ids": [one]}) == {"confirmation_results": [ok(one)]}


async def test_ids_are_object_ids_in_the_order_of_the_receivers() -> None:
    """24 hexadecimal digits, beginning with the creation time; one request id for both."""
    async with trading(now=Clock()) as (sandbox, client):
        ids = (await client("create", CREATE))["order_ids"]
        orders = [sandbox.orders[order_id] for order_id in ids]
    assert [order.receiver for order in orders] == CREATE["receivers"]
    assert [order.id for order in orders] == ids == sorted(ids)
    assert len({order.request_id for order in orders} | set(ids)) == 3
    for order_id in ids:
        assert len(order_id) == 24
        assert datetime.fromtimestamp(int(order_id[:8], 16), UTC) == NOON


async def test_an_estimate_is_reckoned_from_the_market() -> None:
    """The documented request gets the documented fields; the price is for every unit."""
    async with trading() as (_, client):
        assert await client("estimate", ESTIMATE) == {
            "charge_amount": 10 * 130_000 * 69,
            "price": 69,
            "max_receiver_can_provide": 8,
            "able_to_match": True,
            "internal_balance": "117505470",
        }


@pytest.mark.parametrize(
    ("change", "able", "providable"),
    [({"amount": 1_040_001}, False, 0), ({"max_price_accept": 69}, False, 8)],
)
async def test_an_estimate_says_what_cannot_be_matched(
    change: dict[str, int], able: bool, providable: int
) -> None:
    """Too little Energy on offer, or a limit that is not above the price."""
    async with trading() as (_, client):
        answer = await client("estimate", {**ESTIMATE, "receiver_count": "1", **change})
        assert (answer["able_to_match"], answer["max_receiver_can_provide"]) == (able, providable)


async def test_an_estimate_follows_its_rules() -> None:
    """The fields only the example, or only the schema, has come and go; so does the check."""
    rules = TronSaveRules(estimate_able_to_match=False, estimate_duration=True)
    async with trading(rules=rules, balance=1) as (sandbox, client):
        assert await client.reply("estimate", ESTIMATE) == (
            400,
            {"error": True, "message": "TSAS:xxx INTERNAL_BALANCE_ACCOUNT_TOO_LOW", "data": None},
        )
        sandbox.rules = replace(rules, estimate_checks_balance=False)
        answer = await client("estimate", ESTIMATE)
    assert (answer.get("able_to_match"), answer["duration_sec"]) == (None, 900)


async def test_a_history_row_has_the_documented_fields() -> None:
    """A confirmed order's row: the names, types and sums of the documented one."""
    clock = Clock()
    async with trading(now=clock) as (sandbox, client):
        (order_id,) = (await client("create", {**CREATE, "receivers": ["T1"]}))["order_ids"]
        clock.move(30)
        sandbox.match(order_id)
        clock.move(90)
        await client.ids("confirm", order_id)
        order = sandbox.orders[order_id]
        answer = await client("history")
    (row,) = answer["results"]
    assert answer["total"] == 1
    assert order.repaid == CHARGE * 10 * 810 // 90_000
    assert row == {
        "_id": order_id,
        "receiver": "T1",
        "resource_type": "ENERGY",
        "amount": 130_000,
        "options": {"deadline": 300, "max_price_accept": 70},
        "charge_amount": CHARGE,
        "status": "Completed",
        "pay_txid": f"internal_fast_charge_{order.request_id}",
        "request_id": order.request_id,
        "requester": row["requester"],
        "unit_price": 69,
        "is_matched": True,
        "charge_duration_sec": 900,
        "scan_times": 1,
        "created_at": "2026-01-01T12:00:00.000Z",
        "update_at": "2026-01-01T12:02:00.000Z",
        "delegate_amount_in_sun": row["delegate_amount_in_sun"],
        "delegate_at": "2026-01-01T12:00:30.000Z",
        "delegate_txid": row["delegate_txid"],
        "delegator": row["delegator"],
        "expire_delegate_at": "2026-01-01T12:15:30.000Z",
        "matched_resource_order_id": row["matched_resource_order_id"],
        "paid_amount_actual": CHARGE - order.repaid,
        "repay_amount": order.repaid,
        "repay_at": "2026-01-01T12:02:00.000Z",
        "repay_by": "Confirmed",
        "repay_txid": row["repay_txid"],
        "resource_order_request_id": row["resource_order_request_id"],
    }
    ids = [row[name] for name in row if name.endswith("_id") and name != "delegate_txid"]
    assert {len(text) for text in [*ids, row["repay_txid"]]} == {24}
    assert len(row["delegate_txid"]) == 64


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "TSAS:106 API_KEY_REQUIRED"),
        ({"apikey": "wrong"}, "TSAS:107 INVALID_API_KEY"),
        ({"apikey": ""}, "TSAS:107 INVALID_API_KEY"),
    ],
)
async def test_every_call_needs_the_key(
    endpoint: str, headers: Mapping[str, str], message: str
) -> None:
    """401 in the documented words, without `data`; nothing metered, no fault used up."""
    async with trading(requests_per_window=1) as (sandbox, client):
        sandbox.faults.add(drop_before())
        for _ in range(2):
            reply = await client.reply(endpoint, {}, headers=headers)
            assert reply == (401, {"error": True, "message": message})
        assert (sandbox.rejections, len(sandbox.faults)) == (0, 1)
        assert [entry.caller for entry in sandbox.requests] == [None, None]


async def test_the_cancel_page_may_be_right_about_missing_keys() -> None:
    """Where the pages contradict each other, a rule says which endpoint follows which."""
    rules = TronSaveRules(missing_key_is_invalid=frozenset({"cancel"}))
    async with trading(rules=rules) as (_, client):
        assert (await client.reply("cancel", {}, headers={}))[1]["message"].startswith("TSAS:107")
        assert (await client.reply("track", {}, headers={}))[1]["message"].startswith("TSAS:106")


async def test_a_revoked_key_is_invalid_at_once() -> None:
    """After "Revoke" only the new key is accepted."""
    async with trading() as (sandbox, client):
        sandbox.revoke_keys("new")
        assert (await client.reply("history"))[0] == 401
        assert (await client.reply("history", headers={"apikey": "new"}))[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/fast-charge-order-cancel"),
        ("GET", "/v0/fast-charge-order-cancel?x=1"),
        ("POST", "/v0/fast-charge-order-history"),
        ("POST", "/v0/fast-charge-order-cancel/"),
    ],
)
async def test_a_wrong_path_is_not_an_unknown_order(method: str, path: str) -> None:
    """404 in the framework's words for a path or method that does not exist, key or not."""
    async with trading() as (sandbox, client):
        assert await client.send(method, path, headers={}) == (
            404,
            {
                "message": f"Route {method}:{path} not found",
                "error": "Not Found",
                "statusCode": 404,
            },
        )
        assert sandbox.requests[0].endpoint is None


@pytest.mark.parametrize(
    ("endpoint", "body", "message"),
    [
        ("cancel", {}, "body must have required property 'order_ids'"),
        ("track", {"ids": []}, "body must have required property 'order_ids'"),
        ("confirm", {"order_ids": "x"}, "body/order_ids must be array"),
        ("cancel", {"order_ids": [UNKNOWN, 1]}, "body/order_ids/1 must be string"),
        ("cancel", [], "body must be object"),
        ("create", {}, "body must have required property 'max_price_accept'"),
        ("create", {**CREATE, "amount": "1"}, "body/amount must be integer"),
        ("create", {**CREATE, "amount": 1.5}, "body/amount must be integer"),
        ("create", {**CREATE, "amount": True}, "body/amount must be integer"),
        ("create", {**CREATE, "amount": 0}, "body/amount must be >= 1"),
        ("create", {**CREATE, "receivers": []}, "body/receivers must NOT have fewer than 1 items"),
        ("estimate", {"amount": 1}, "body must have required property 'receiver_count'"),
        ("estimate", {**ESTIMATE, "receiver_count": "x"}, "body/receiver_count must be integer"),
        (
            "estimate",
            {**ESTIMATE, "resource_type": "BANDWIDTH"},
            "body/resource_type must be equal to one of the allowed values",
        ),
    ],
)
async def test_a_body_that_does_not_fit_is_refused(endpoint: str, body: Any, message: str) -> None:
    """400 FST_ERR_VALIDATION names the first thing that is wrong; nothing is processed."""
    async with trading() as (sandbox, client):
        assert await client.reply(endpoint, body) == invalid(message)
        assert not sandbox.requests[0].processed


async def test_fields_may_be_optional() -> None:
    """The tables have no "required" marks: the fewest fields may be enough."""
    every = {*CREATE, *ESTIMATE} - {"receivers"}
    async with trading(rules=TronSaveRules(optional_fields=frozenset(every))) as (_, client):
        assert len((await client("create", {"receivers": ["T1"]}))["order_ids"]) == 1
        assert (await client("estimate", {}))["able_to_match"]


@pytest.mark.parametrize(
    ("content_type", "data", "status", "code"),
    [
        ("text/html", b"x", 415, "FST_ERR_CTP_INVALID_MEDIA_TYPE"),
        ("text/plain", b"x", 400, "FST_ERR_VALIDATION"),
        ("", b"", 400, "FST_ERR_VALIDATION"),
        ("application/json", b"", 400, "FST_ERR_CTP_EMPTY_JSON_BODY"),
        ("application/json", b"{", 400, "FST_ERR_CTP_INVALID_JSON_BODY"),
        ("application/json", b'{"a":"\xff"}', 400, "FST_ERR_CTP_INVALID_JSON_BODY"),
    ],
)
async def test_only_json_is_read(content_type: str, data: bytes, status: int, code: str) -> None:
    """The framework refuses what is no JSON, in its own shape."""
    async with trading() as (_, client):
        headers = {**KEY, "Content-Type": content_type}
        answered, body = await client.reply("cancel", data=data, headers=headers)
        assert (answered, body["code"], body["statusCode"]) == (status, code, status)
        assert isinstance(body["error"], str)


async def test_a_large_body_is_not_read() -> None:
    """Beyond 1 MiB the framework answers 413, whatever is in the body."""
    headers = {**KEY, "Content-Type": "application/json"}
    async with trading() as (_, client):
        data = io.BytesIO(bytes((1 << 20) + 1))
        status, body = await client.reply("cancel", data=data, headers=headers)
        assert (status, body["code"]) == (413, "FST_ERR_CTP_BODY_TOO_LARGE")


async def test_json_may_name_its_charset() -> None:
    """Parameters of the content type do not matter."""
    headers = {**KEY, "Content-Type": "Application/JSON; charset=utf-8"}
    async with trading() as (_, client):
        body = b'{"order_ids":[]}'
        assert await client("cancel", data=body, headers=headers) == {"cancel_results": []}


# --- the meter ------------------------------------------------------------------------------------

EMPTY: dict[str, Any] = {"order_ids": []}


@pytest.mark.virtual_time
async def test_one_request_in_two_seconds_by_default() -> None:
    """The documented limit and its documented 429, without Retry-After; nothing is processed."""
    async with TronSaveSandbox() as sandbox, aiohttp.ClientSession() as session:
        client = Client(session, sandbox)
        order_id = sandbox.add_order()
        await client.ids("cancel")
        await asyncio.sleep(1.9)
        reply = await client.reply("cancel", {"order_ids": [order_id]})
        assert reply == (429, {"error": True, "message": "Rate limit reached"})
        assert sandbox.orders[order_id].state is OrderState.PENDING
        await asyncio.sleep(0.2)
        assert await client.ids("cancel", order_id) == [ok(order_id)]
        assert (sandbox.rejections, sandbox.peak_in_window("cancel")) == (1, 2)
        assert [entry.status for entry in sandbox.requests_to("cancel")] == [200, 429, 200]


@pytest.mark.virtual_time
async def test_no_window_ever_holds_more_than_the_limit() -> None:
    """Whatever the client does, requests admitted by the meter keep to the limit."""
    numbers = random.Random(5)
    async with trading(requests_per_window=3, window=1.0) as (sandbox, client):
        for _ in range(200):
            await client.reply("track", EMPTY)
            await asyncio.sleep(numbers.random() / 2)
    admitted = [entry.arrived for entry in sandbox.requests if entry.status == 200]
    pairs = zip(admitted, admitted[3:], strict=False)
    assert min(later - earlier for earlier, later in pairs) >= 1.0
    assert sandbox.rejections == 200 - len(admitted) > 0


@pytest.mark.parametrize(("shared", "statuses"), [(False, [200, 200]), (True, [200, 429])])
async def test_endpoints_share_a_limit_or_not(shared: bool, statuses: list[int]) -> None:
    """By default each endpoint has its own limit; whether it is so is undocumented."""
    async with trading(requests_per_window=1, shared_bucket=shared) as (sandbox, client):
        replies = [await client.reply(endpoint, EMPTY) for endpoint in ("track", "cancel")]
        assert [status for status, _ in replies] == statuses
        assert (sandbox.peak_in_window(), sandbox.peak_in_window("track")) == (2, 1)


@pytest.mark.parametrize(("together", "statuses"), [(False, [200, 200]), (True, [200, 429])])
async def test_keys_share_a_limit_or_not(together: bool, statuses: list[int]) -> None:
    """By default each key has its own limit; whether it is per address is undocumented."""
    rules = TronSaveRules(metered_together=together)
    options: dict[str, Any] = {"rules": rules, "more_keys": ["other"], "requests_per_window": 1}
    async with trading(**options) as (sandbox, client):
        keys = ("sandbox-key", "other")
        replies = [await client.reply("track", EMPTY, headers={"apikey": key}) for key in keys]
        assert [status for status, _ in replies] == statuses
        assert [entry.caller for entry in sandbox.requests] == ["key 1", "key 2"]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("counted", "last"), [(False, 200), (True, 429)])
async def test_rejected_requests_count_or_not(counted: bool, last: int) -> None:
    """By default a rejected request does not prolong the wait; as a rule it may."""
    async with trading(requests_per_window=1, rules=TronSaveRules(rejected_count=counted)) as (
        _,
        client,
    ):
        statuses = []
        for wait in (0.0, 1.5, 1.0):
            await asyncio.sleep(wait)
            statuses.append((await client.reply("track", EMPTY))[0])
        assert statuses == [200, 429, last]


@pytest.mark.parametrize(
    ("form", "header"),
    [
        (RetryAfter.ABSENT, None),
        (RetryAfter.SECONDS, "2"),
        (RetryAfter.DATE, "Thu, 01 Jan 2026 12:00:03 GMT"),
    ],
)
async def test_a_429_may_say_when_to_come_back(form: RetryAfter, header: str | None) -> None:
    """Retry-After is undocumented: absent, seconds, or a date, never too early."""
    options: dict[str, Any] = {"rules": TronSaveRules(retry_after=form), "now": Clock()}
    async with trading(requests_per_window=1, **options) as (sandbox, client):
        await client.ids("track")
        async with aiohttp.request(
            "POST", sandbox.url + ENDPOINTS["track"][1], json=EMPTY, headers=KEY
        ) as reply:
            assert (reply.status, reply.headers.get("Retry-After")) == (429, header)


@pytest.mark.virtual_time
async def test_the_meter_measures_arrivals() -> None:
    """Requests sent too far apart to be rejected may bunch up on the network, and are."""
    async with trading(requests_per_window=1, jitter=1.0) as (sandbox, client):
        await asyncio.gather(*(delayed(client, 2.05 * number) for number in range(50)))
    assert sandbox.rejections > 5
    assert sandbox.peak_in_window("track") == 2


async def delayed(client: Client, delay: float) -> None:
    """Track nothing, later."""
    await asyncio.sleep(delay)
    await client.reply("track", EMPTY)


# --- the life of an order -------------------------------------------------------------------------

MOVES = {
    OrderState.MATCHED: "Order is already matched",
    OrderState.CANCELED: "Order is already canceled",
    OrderState.EXPIRED: "Order is expired",
    OrderState.CONFIRMED: "Order is already confirmed",
}


async def put(sandbox: TronSaveSandbox, client: Client, state: OrderState) -> str:
    """Return the id of an order in this state."""
    order_id = sandbox.add_order()
    if state in {OrderState.MATCHED, OrderState.CONFIRMED}:
        sandbox.match(order_id)
    if state is OrderState.CONFIRMED:
        assert await client.ids("confirm", order_id) == [ok(order_id)]
    if state is OrderState.CANCELED:
        sandbox.cancel_behind_back(order_id)
    if state is OrderState.EXPIRED:
        sandbox.expire(order_id)
    assert sandbox.orders[order_id].state is state
    return order_id


@pytest.mark.parametrize(("state", "reason"), MOVES.items())
async def test_only_pending_orders_can_be_canceled(state: OrderState, reason: str) -> None:
    """200 with `is_success` false, and neither the order nor the balance changes."""
    async with trading() as (sandbox, client):
        order_id = await put(sandbox, client, state)
        before, balance = sandbox.orders[order_id], sandbox.balance
        assert await client.ids("cancel", order_id) == [failed(order_id, reason)]
        assert sandbox.orders[order_id] == replace(before, cancels=1)
        assert sandbox.balance == balance


@pytest.mark.parametrize(
    "state", [state for state in OrderState if state is not OrderState.MATCHED]
)
async def test_only_matched_orders_can_be_confirmed(state: OrderState) -> None:
    """A confirmation of anything else fails, and changes nothing."""
    async with trading() as (sandbox, client):
        order_id = await put(sandbox, client, state)
        before, balance = sandbox.orders[order_id], sandbox.balance
        (item,) = await client.ids("confirm", order_id)
        assert (item["is_success"], type(item["fail_reason"])) == (False, str)
        assert (sandbox.orders[order_id], sandbox.balance) == (before, balance)


@pytest.mark.parametrize("state", [OrderState.CANCELED, OrderState.EXPIRED])
async def test_all_money_comes_back_of_an_order_that_was_never_matched(state: OrderState) -> None:
    """Canceled or expired: the full charge, once."""
    async with trading() as (sandbox, client):
        balance = sandbox.balance
        order = sandbox.orders[await put(sandbox, client, state)]
        assert sandbox.balance - balance == order.repaid == order.charged == CHARGE
        assert order.paid == 0


@pytest.mark.parametrize(("after", "share"), [(0, 900), (450, 450), (450.2, 449), (2000, 0)])
async def test_an_earlier_confirmation_pays_back_more(after: float, share: int) -> None:
    """A tenth of the charge for the unused seconds comes back, never less than nothing."""
    clock = Clock()
    async with trading(now=clock) as (sandbox, client):
        balance = sandbox.balance
        order_id = sandbox.add_order()
        sandbox.match(order_id)
        clock.move(after)
        await client.ids("confirm", order_id)
        assert sandbox.balance - balance == CHARGE * share // 9000


async def test_an_order_expires_at_its_deadline() -> None:
    """Nobody needs to look: at the deadline it is expired and refunded, as of the deadline."""
    clock = Clock()
    async with trading(now=clock) as (sandbox, client):
        balance = sandbox.balance
        order_id = sandbox.add_order(deadline=60)
        clock.move(59.9)
        assert (await client.ids("track", order_id))[0]["status"] == "Pending"
        clock.move(20)
        assert sandbox.orders[order_id].state is OrderState.EXPIRED
        assert sandbox.orders[order_id].updated_at == NOON + timedelta(seconds=60)
        assert sandbox.balance == balance + CHARGE
        assert await client.ids("cancel", order_id) == [failed(order_id, "Order is expired")]


async def test_a_cancel_after_the_deadline_finds_the_order_expired() -> None:
    """The cancel is the first to look: it is too late all the same."""
    clock = Clock()
    async with trading(now=clock) as (sandbox, client):
        order_id = sandbox.add_order(created_at=NOON - timedelta(seconds=300))
        assert await client.ids("cancel", order_id) == [failed(order_id, "Order is expired")]


async def test_deadlines_may_be_ignored() -> None:
    """Without `keep_deadlines` orders stay pending for ever."""
    async with trading(keep_deadlines=False) as (sandbox, _):
        order_id = sandbox.add_order(created_at=NOON - timedelta(days=999))
        assert sandbox.orders[order_id].state is OrderState.PENDING


async def test_orders_may_be_matched_at_once() -> None:
    """With `match_at_once` a created order never waits."""
    async with trading(match_at_once=True) as (sandbox, client):
        ids = (await client("create", CREATE))["order_ids"]
        assert {sandbox.orders[i].state for i in ids} == {OrderState.MATCHED}


async def test_the_control_surface_refuses_what_cannot_be() -> None:
    """A test that matches a dead or unknown order has a mistake, and hears of it."""
    async with trading() as (sandbox, client):
        order_id = await put(sandbox, client, OrderState.CANCELED)
        for move in (sandbox.match, sandbox.expire, sandbox.cancel_behind_back):
            with pytest.raises(ValueError, match="not pending but canceled"):
                move(order_id)
            with pytest.raises(KeyError):
                move(UNKNOWN)


async def test_an_order_can_be_placed_in_every_detail() -> None:
    """`add_order` takes the terms as they are, and leaves the balance alone."""
    async with trading(now=Clock()) as (sandbox, _):
        balance = sandbox.balance
        order_id = sandbox.add_order(
            receiver="T9",
            amount=7,
            duration_sec=60,
            deadline=99,
            max_price_accept=11,
            unit_price=10,
            created_at=NOON,
            request_id="r",
        )
        order = sandbox.orders[order_id]
        assert (order.receiver, order.amount, order.charged, order.request_id) == ("T9", 7, 70, "r")
        assert (order.duration_sec, order.deadline, order.max_price_accept) == (60, 99, 11)
        assert sandbox.balance == balance
        assert list(sandbox.orders) == [order_id]
        assert repr(sandbox.orders) == "<OrderBook of 1>"


async def test_a_create_call_spends_the_balance_and_no_more() -> None:
    """All orders or none: too low a balance is an error, and nothing is created."""
    async with trading(balance=2 * CHARGE - 1) as (sandbox, client):
        assert await client.reply("create", CREATE) == (
            400,
            {"error": True, "message": "TSAS:xxx INTERNAL_BALANCE_ACCOUNT_TOO_LOW", "data": None},
        )
        assert (len(sandbox.orders), sandbox.balance) == (0, 2 * CHARGE - 1)
        sandbox.balance += 1
        assert len((await client("create", CREATE))["order_ids"]) == 2
        assert sandbox.balance == 0


# --- what the documentation leaves open -----------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "rule", "usual"),
    [
        (OrderState.MATCHED, "matched_word", "Completed"),
        (OrderState.CANCELED, "canceled_word", "Canceled"),
        (OrderState.EXPIRED, "expired_word", "Expired"),
        (OrderState.CONFIRMED, "confirmed_word", "Completed"),
    ],
)
async def test_status_words_are_a_choice(state: OrderState, rule: str, usual: str) -> None:
    """Tracking and history use the same word, and every word can be another, or missing."""
    async with trading() as (sandbox, client):
        order_id = await put(sandbox, client, state)
        assert await client.ids("track", order_id) == [{"order_id": order_id, "status": usual}]
        sandbox.rules = replace(TronSaveRules(), **{rule: "Strange"})
        assert await client.ids("track", order_id) == [{"order_id": order_id, "status": "Strange"}]
        assert (await client("history"))["results"][0]["status"] == "Strange"
        sandbox.rules = TronSaveRules(tracking_omits=frozenset({state}))
        assert await client.ids("track", order_id) == []


REJECTION = (
    400,
    {"error": True, "message": "TSAS:408 INVALID_PARAMS Invalid orderId", "data": None},
)


@pytest.mark.parametrize(
    ("how", "item"),
    [
        (UnknownIds.OMITTED, None),
        (UnknownIds.NULL, {"order_id": UNKNOWN, "status": None}),
        (UnknownIds.FAILED, {"order_id": UNKNOWN, "status": "NotFound"}),
        (UnknownIds.REJECTED, REJECTION),
    ],
)
async def test_tracking_answers_unknown_ids_by_rule(how: UnknownIds, item: Any) -> None:
    """Left out, null, a word, or an error for the whole request; known ids are answered."""
    async with trading(rules=TronSaveRules(unknown_tracked=how)) as (sandbox, client):
        known = sandbox.add_order()
        reply = await client.reply("track", {"order_ids": [known, UNKNOWN]})
        if how is UnknownIds.REJECTED:
            assert reply == item
        else:
            pending = {"order_id": known, "status": "Pending"}
            assert reply == (200, {"results": [pending, item] if item else [pending]})


@pytest.mark.parametrize(
    ("how", "items"),
    [
        (UnknownIds.OMITTED, []),
        (UnknownIds.NULL, [{"order_id": UNKNOWN, "is_success": None, "fail_reason": None}]),
        (UnknownIds.FAILED, [failed(UNKNOWN, "Order not found")]),
        (UnknownIds.REJECTED, None),
    ],
)
@pytest.mark.parametrize(
    ("endpoint", "rule"), [("cancel", "unknown_canceled"), ("confirm", "unknown_confirmed")]
)
async def test_results_answer_unknown_ids_by_rule(
    endpoint: str, rule: str, how: UnknownIds, items: Any
) -> None:
    """The same for cancel and confirm; a rejected request leaves the known orders alone."""
    async with trading(rules=replace(TronSaveRules(), **{rule: how})) as (sandbox, client):
        known = sandbox.add_order()
        if endpoint == "confirm":
            sandbox.match(known)
        before = sandbox.orders[known]
        reply = await client.reply(endpoint, {"order_ids": [known, UNKNOWN]})
        if items is None:
            assert reply == REJECTION
            assert sandbox.orders[known] == before
            assert not sandbox.requests[0].processed
        else:
            name = "cancel_results" if endpoint == "cancel" else "confirmation_results"
            assert reply == (200, {name: [ok(known), *items]})


async def test_unknown_ids_may_fail_without_a_reason() -> None:
    """A reason may be null although the item failed, for unknown ids and for states."""
    rules = TronSaveRules(unknown_reason=None, cancel_reasons={})
    async with trading(rules=rules) as (sandbox, client):
        order_id = await put(sandbox, client, OrderState.MATCHED)
        results = await client.ids("cancel", order_id, UNKNOWN)
        assert results == [failed(order_id, None), failed(UNKNOWN, None)]


@pytest.mark.parametrize("odd", ["x", "", "673c17a3129f1881382e98eg", UNKNOWN + "00"])
async def test_odd_ids_are_unknown_or_rejected(odd: str) -> None:
    """An id that is no object id is an unknown one, or fails the whole request."""
    async with trading() as (sandbox, client):
        assert await client.ids("cancel", odd) == [failed(odd, "Order not found")]
        sandbox.rules = TronSaveRules(odd_ids_rejected=True)
        order_id = sandbox.add_order()
        assert await client.reply("cancel", {"order_ids": [order_id, odd]}) == invalid(
            'body/order_ids/1 must match pattern "^[0-9a-fA-F]{24}$"'
        )
        assert sandbox.orders[order_id].cancels == 0
        assert await client.ids("cancel", order_id) == [ok(order_id)]


async def test_the_number_of_ids_and_receivers_may_be_limited() -> None:
    """None, exactly enough, one too many: the whole request fails, never a part."""
    rules = TronSaveRules(max_ids=2, max_receivers=1, empty_ids_rejected=True)
    async with trading(rules=rules) as (sandbox, client):
        ids = [sandbox.add_order() for _ in range(3)]
        assert await client.reply("cancel", {"order_ids": ids}) == invalid(
            "body/order_ids must NOT have more than 2 items"
        )
        assert await client.reply("cancel", EMPTY) == invalid(
            "body/order_ids must NOT have fewer than 1 items"
        )
        assert await client.ids("cancel", *ids[:2]) == [ok(order_id) for order_id in ids[:2]]
        assert await client.reply("create", CREATE) == invalid(
            "body/receivers must NOT have more than 1 items"
        )


async def test_an_id_named_twice_is_processed_twice_or_merged() -> None:
    """By default the second mention of an id finds it canceled by the first."""
    async with trading() as (sandbox, client):
        one, two = sandbox.add_order(), sandbox.add_order()
        second = failed(one, "Order is already canceled")
        assert await client.ids("cancel", one, one) == [ok(one), second]
        sandbox.rules = TronSaveRules(duplicates_merged=True)
        assert await client.ids("cancel", two, two) == [ok(two)]
        assert (sandbox.orders[one].cancels, sandbox.orders[two].cancels) == (2, 1)


async def test_a_cancel_may_be_idempotent() -> None:
    """By rule the cancel of a canceled order is a success, and refunds nothing more."""
    async with trading(rules=TronSaveRules(cancel_again_succeeds=True)) as (sandbox, client):
        balance = sandbox.balance
        order_id = sandbox.add_order()
        for _ in range(2):
            assert await client.ids("cancel", order_id) == [ok(order_id)]
        assert sandbox.balance == balance + CHARGE
        expired = await put(sandbox, client, OrderState.EXPIRED)
        assert not (await client.ids("cancel", expired))[0]["is_success"]


async def test_results_may_be_shuffled() -> None:
    """By rule the items come in an order of their own; none is lost."""
    async with trading(rules=TronSaveRules(results_shuffled=True)) as (sandbox, client):
        ids = [sandbox.add_order() for _ in range(20)]
        for endpoint in ("track", "cancel", "confirm"):
            answered = [item["order_id"] for item in await client.ids(endpoint, *ids)]
            assert answered != ids
            assert sorted(answered) == sorted(ids)


@pytest.mark.parametrize("order", IdOrder)
async def test_the_ids_of_a_create_call_may_be_in_any_order(order: IdOrder) -> None:
    """Which id belongs to which receiver is in the history, not in the order of the ids."""
    receivers = [f"T{number}" for number in range(20)]
    body = {**CREATE, "amount": 1, "receivers": receivers}
    async with trading(rules=TronSaveRules(id_order=order)) as (sandbox, client):
        ids = (await client("create", body))["order_ids"]
        got = [sandbox.orders[order_id].receiver for order_id in ids]
    assert sorted(got) == sorted(receivers)
    assert (got == receivers) == (order is IdOrder.AS_RECEIVERS)
    assert (got == receivers[::-1]) == (order is IdOrder.REVERSED)


async def test_a_create_call_may_be_carried_out_in_part() -> None:
    """By rule the balance is spent as far as it goes; none at all is still an error."""
    rules = TronSaveRules(partial_creation=True)
    async with trading(rules=rules, balance=CHARGE) as (sandbox, client):
        assert len((await client("create", CREATE))["order_ids"]) == 1
        assert (await client.reply("create", CREATE))[0] == 400
        assert (len(sandbox.orders), sandbox.balance) == (1, 0)


@pytest.mark.parametrize("price", [70, 71])
async def test_a_price_that_is_not_below_the_limit(price: int) -> None:
    """An error, an empty list, or orders at the market's price: each by rule."""
    async with trading(price=price) as (sandbox, client):
        assert await client.reply("create", CREATE) == (
            400,
            {"error": True, "message": "TSAS:xxx PRICE_EXCEED_MAX_PRICE_REQUIRED", "data": None},
        )
        sandbox.rules = TronSaveRules(price_too_high=PriceTooHigh.EMPTY)
        assert await client("create", CREATE) == {"order_ids": []}
        assert len(sandbox.orders) == 0
        sandbox.rules = TronSaveRules(price_too_high=PriceTooHigh.ACCEPTED)
        (order_id, _) = (await client("create", CREATE))["order_ids"]
        assert sandbox.orders[order_id].unit_price == price


# --- the history ----------------------------------------------------------------------------------


async def history(client: Client, **query: Any) -> tuple[int, list[str]]:
    """Return the history's total and the ids of its rows."""
    answer = await client("history", params={name: str(value) for name, value in query.items()})
    return answer["total"], [row["_id"] for row in answer["results"]]


async def past(sandbox: TronSaveSandbox, clock: Clock, count: int) -> list[str]:
    """Return the ids of matched orders, one second apart, the newest first."""
    ids = []
    for _ in range(count):
        clock.move(1)
        ids.append(sandbox.add_order())
        sandbox.match(ids[-1])
    return ids[::-1]


async def test_the_history_is_paged_newest_first() -> None:
    """Pages count from 0, have 10 rows by default, and end; the total is of all pages."""
    clock = Clock()
    async with trading(now=clock) as (sandbox, client):
        ids = await past(sandbox, clock, 25)
        assert await history(client) == (25, ids[:10])
        assert await history(client, page=2) == (25, ids[20:])
        assert await history(client, page=3) == (25, [])
        assert await history(client, page=1, pageSize=7) == (25, ids[7:14])
        assert await history(client, pageSize=1000) == (25, ids)


async def test_orders_of_one_instant_are_listed_newest_first() -> None:
    """Orders of one create call share their creation time; the last comes first."""
    async with trading(now=Clock(), match_at_once=True) as (_, client):
        ids = (await client("create", CREATE))["order_ids"]
        assert await history(client) == (2, ids[::-1])


async def test_the_history_is_filtered_by_milliseconds() -> None:
    """`from` and `to` are milliseconds, both ends included."""
    clock = Clock()
    async with trading(now=clock) as (sandbox, client):
        ids = await past(sandbox, clock, 5)
        noon = int(NOON.timestamp() * 1000)
        assert await history(client, **{"from": noon + 2000, "to": noon + 4000}) == (3, ids[1:4])
        assert await history(client, to=noon + 1000) == (1, ids[4:])
        assert await history(client, **{"from": noon + 5001}) == (0, [])


@pytest.mark.parametrize(
    ("how", "found"),
    [(HistoryFilter.CREATED, 0), (HistoryFilter.UPDATED, 1), (HistoryFilter.IGNORED, 1)],
)
async def test_the_history_may_filter_by_another_time(how: HistoryFilter, found: int) -> None:
    """Creation, last change, or nothing: which time is filtered by is undocumented."""
    clock = Clock()
    async with trading(now=clock, rules=TronSaveRules(history_filter=how)) as (sandbox, client):
        order_id = sandbox.add_order()
        clock.move(60)
        sandbox.match(order_id)
        since = int(NOON.timestamp() * 1000) + 30_000
        assert (await history(client, **{"from": since}))[0] == found


@pytest.mark.parametrize("state", OrderState)
async def test_the_history_lists_the_states_it_is_told_to(state: OrderState) -> None:
    """By default all but pending orders; any choice is possible."""
    async with trading() as (sandbox, client):
        order_id = await put(sandbox, client, state)
        assert (await history(client))[1] == ([] if state is OrderState.PENDING else [order_id])
        sandbox.rules = TronSaveRules(history_lists=frozenset({state}))
        assert (await history(client))[1] == [order_id]
        sandbox.rules = TronSaveRules(history_lists=frozenset(OrderState) - {state})
        assert (await history(client))[1] == []


@pytest.mark.parametrize(
    ("state", "word"), [(OrderState.CANCELED, "Canceled"), (OrderState.EXPIRED, "Expired")]
)
async def test_a_refund_is_in_the_history(state: OrderState, word: str) -> None:
    """Unmatched with everything paid back: the best sign of a canceled order."""
    async with trading() as (sandbox, client):
        await put(sandbox, client, state)
        (row,) = (await client("history"))["results"]
        assert (row["is_matched"], row["repay_amount"], row["repay_by"]) == (False, CHARGE, word)
        assert row["paid_amount_actual"] == 0
        assert "delegate_at" not in row
        sandbox.rules = TronSaveRules(repay_words={}, history_nulls=True)
        (row,) = (await client("history"))["results"]
        assert (row["repay_by"], row["delegate_at"], row["repay_amount"]) == (None, None, CHARGE)


async def test_large_pages_are_cut_or_refused() -> None:
    """A cap on `pageSize` cuts the page, or refuses the request."""
    clock = Clock()
    async with trading(now=clock, rules=TronSaveRules(history_page_cap=20)) as (sandbox, client):
        ids = await past(sandbox, clock, 25)
        assert await history(client, pageSize=100, page=1) == (25, ids[20:])
        sandbox.rules = TronSaveRules(history_page_cap=20, history_page_cap_rejects=True)
        assert await client.reply("history", params={"pageSize": "21"}) == invalid(
            "querystring/pageSize must be <= 20"
        )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("page", "x", "querystring/page must be integer"),
        ("from", "1.5", "querystring/from must be integer"),
        ("to", "²", "querystring/to must be integer"),
        ("pageSize", "-1", "querystring/pageSize must be >= 0"),
    ],
)
async def test_a_query_that_does_not_fit_is_refused(name: str, value: str, message: str) -> None:
    """Numbers in the query are whole and not negative."""
    async with trading() as (_, client):
        assert await client.reply("history", params={name: value}) == invalid(message)


# --- faults ---------------------------------------------------------------------------------------


async def test_a_lost_reply_hides_a_cancel_that_worked() -> None:
    """The client sees a dropped connection, the vendor's truth says canceled."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order()
        sandbox.faults.add(drop_after("cancel"))
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.ids("cancel", order_id)
        assert sandbox.orders[order_id].state is OrderState.CANCELED
        assert await client.ids("cancel", order_id) == [
            failed(order_id, "Order is already canceled")
        ]


async def test_a_lost_request_changes_nothing() -> None:
    """The same sight for the client, and the order is still alive."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order()
        sandbox.faults.add(drop_before("cancel"))
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.ids("cancel", order_id)
        assert sandbox.orders[order_id].state is OrderState.PENDING
        assert sandbox.orders[order_id].cancels == 0


async def test_an_order_is_filled_in_the_race() -> None:
    """Matched an instant before the cancel: pending ids of the batch only, others untouched."""
    async with trading() as (sandbox, client):
        pending, other = sandbox.add_order(), sandbox.add_order()
        dead = await put(sandbox, client, OrderState.CANCELED)
        sandbox.faults.add(fill_in_the_race("cancel"))
        assert await client.ids("cancel", pending, dead, UNKNOWN) == [
            failed(pending, "Order is already matched"),
            failed(dead, "Order is already canceled"),
            failed(UNKNOWN, "Order not found"),
        ]
        assert sandbox.orders[other].state is OrderState.PENDING


async def test_a_race_before_a_create_call_fills_nothing() -> None:
    """A request about no order has no race to lose."""
    async with trading() as (sandbox, client):
        sandbox.faults.add(fill_in_the_race())
        ids = (await client("create", CREATE))["order_ids"]
        assert {sandbox.orders[i].state for i in ids} == {OrderState.PENDING}


async def test_errors_are_worded_by_the_vendor() -> None:
    """A scripted 429 has the documented body, a scripted 5xx the framework's shape."""
    async with trading() as (sandbox, client):
        sandbox.faults.add(rate_limited(), server_error(status=503))
        limited = (429, {"error": True, "message": "Rate limit reached"})
        assert await client.reply("cancel", EMPTY) == limited
        status, body = await client.reply("cancel", EMPTY)
        assert (status, body["statusCode"], body["error"]) == (503, 503, "Service Unavailable")


async def test_a_scripted_429_leaves_the_meter_alone() -> None:
    """Like any rejected request it is not counted, and it is not one of the meter's."""
    async with trading(requests_per_window=1) as (sandbox, client):
        sandbox.faults.add(rate_limited())
        assert (await client.reply("cancel", EMPTY))[0] == 429
        assert (await client.reply("cancel", EMPTY))[0] == 200
        assert sandbox.rejections == 0


async def test_a_fault_waits_for_a_request_that_gets_through() -> None:
    """A request that the meter rejects does not use a fault up; a lost one counts."""
    async with trading(requests_per_window=1) as (sandbox, client):
        await client.ids("cancel")
        sandbox.faults.add(drop_before("cancel"))
        assert (await client.reply("cancel", EMPTY))[0] == 429
        assert len(sandbox.faults) == 1
        sandbox.faults.clear()
        sandbox.faults.add(html_page("track"))
        with pytest.raises(msgspec.DecodeError):
            await client.reply("track", EMPTY)
        assert (await client.reply("track", EMPTY))[0] == 429


async def test_a_processed_error_did_its_work() -> None:
    """500, and the order is canceled all the same."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order()
        sandbox.faults.add(server_error("cancel", processed=True))
        assert (await client.reply("cancel", {"order_ids": [order_id]}))[0] == 500
        assert sandbox.orders[order_id].state is OrderState.CANCELED


async def test_types_are_wrong_in_the_vendors_own_reply() -> None:
    """The names are right, and no value has its type."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order()
        sandbox.faults.add(wrong_types())
        wrong = {"order_id": 24, "is_success": "True", "fail_reason": "None"}
        assert await client.ids("cancel", order_id) == [wrong]


async def test_a_skewed_clock_dates_what_is_created() -> None:
    """The vendor's clock is ahead for one request: ids and times are, too."""
    async with trading(now=Clock()) as (sandbox, client):
        sandbox.faults.add(skewed_clock("create", offset=3600))
        for ahead in (3600, 0):
            order_id = (await client("create", CREATE))["order_ids"][0]
            order = sandbox.orders[order_id]
            assert order.created_at == NOON + timedelta(seconds=ahead)
            assert int(order_id[:8], 16) == order.created_at.timestamp()


async def test_an_invalid_request_is_befallen_by_faults_too() -> None:
    """A fault is of the network: it does not ask whether the body makes sense."""
    async with trading() as (sandbox, client):
        sandbox.faults.add(drop_after("cancel"))
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.reply("cancel", {})
        assert not sandbox.requests[0].processed


async def test_closing_ends_hung_requests_and_keeps_the_record() -> None:
    """After closing, the truth and the record can still be read."""
    sandbox = TronSaveSandbox()
    await asyncio.create_task(sandbox.start())
    order_id = sandbox.add_order()
    sandbox.faults.add(hang_after())
    async with aiohttp.ClientSession() as session:
        hung = asyncio.create_task(Client(session, sandbox).ids("cancel", order_id))
        await sandbox.arrived(1, "cancel")
        await asyncio.create_task(sandbox.aclose())
        with pytest.raises(aiohttp.ClientConnectionError):
            await hung
    assert sandbox.orders[order_id].state is OrderState.CANCELED
    (entry,) = sandbox.requests
    assert (entry.processed, entry.status, sandbox.connections) == (True, None, 1)
    assert "sandbox-key" not in repr(entry)


async def test_a_thousand_ids_in_one_request() -> None:
    """A large batch is answered whole, each id in its place."""
    async with trading() as (sandbox, client):
        ids = [sandbox.add_order() for _ in range(1000)]
        assert await client.ids("cancel", *ids) == [ok(order_id) for order_id in ids]
        assert all(order.state is OrderState.CANCELED for order in sandbox.orders.values())


async def test_seeds_make_ids_repeatable() -> None:
    """The same seed and clock make the same ids, another seed others."""

    def ids(seed: int) -> Sequence[str]:
        sandbox = TronSaveSandbox(seed=seed, now=Clock())
        return [sandbox.add_order() for _ in range(3)]

    assert ids(1) == ids(1) != ids(2)
