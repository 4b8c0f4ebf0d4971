"""`brokers.sms4sats.sandbox`: the simulated vendor, seen through a plain HTTP client."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
import trustme
from msgspec.structs import replace
from yarl import URL

from brokers.sms4sats.sandbox import (
    ENDPOINTS,
    NO_NUMBER,
    REASONS,
    UNABLE_TO_SAVE,
    Blank,
    CancelAnswer,
    ClockStart,
    Invoice,
    OrderKind,
    OrderState,
    Problem,
    Reading,
    RetryAfter,
    Sms4SatsRules,
    Sms4SatsSandbox,
    SmsStatus,
    WireType,
    unable_to_save,
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
    too_slow,
    wrong_types,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = {"X-API-Key": "sandbox-key"}
UNKNOWN = "7dc6e6b61d8c54dff6b8d6ea2e3f08b018e57963df81d493a6f9728c4dc83318"
OK = (200, {"status": "OK"})
UNSAVED = (500, {"status": "error", "reason": "unable to save data"})


class Client:
    """Calls by the vendor's words."""

    def __init__(self, session: aiohttp.ClientSession, sandbox: Sms4SatsSandbox) -> None:
        self._session = session
        self._sandbox = sandbox
        self.headers: Mapping[str, str] = {}
        """The headers of the last reply."""

    async def raw(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        """Send any request; return status and body."""
        options.setdefault("allow_redirects", False)
        url = URL(self._sandbox.url + path, encoded=True)
        async with self._session.request(method, url, **options) as reply:
            self.headers = reply.headers
            return reply.status, await reply.read()

    async def reply(self, endpoint: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """Call an endpoint; return status and decoded body."""
        method, path = ENDPOINTS[endpoint]
        if method == "POST" and "data" not in options:
            options["json"] = body
        status, raw = await self.raw(method, path, **options)
        return status, msgspec.json.decode(raw)

    async def __call__(self, endpoint: str, body: Any = None, **options: Any) -> Any:
        """Call an endpoint that must answer 200; return the decoded body."""
        status, answer = await self.reply(endpoint, body, **options)
        assert status == 200, answer
        return answer

    async def cancel(self, order_id: str, **options: Any) -> tuple[int, Any]:
        """Cancel an order; return status and decoded body."""
        return await self.reply("cancel", params={"orderId": order_id}, **options)

    async def status(self, order_id: str, **options: Any) -> tuple[int, Any]:
        """Ask for an order's status; return HTTP status and decoded body."""
        return await self.reply("status", params={"orderId": order_id}, **options)

    async def read(self, order_id: str) -> Any:
        """Ask for an order's status, which must be answered with 200; return the decoded body."""
        return await self("status", params={"orderId": order_id})


@asynccontextmanager
async def trading(**options: Any) -> AsyncIterator[tuple[Sms4SatsSandbox, Client]]:
    """Open a sandbox whose clock stands at noon until it is moved, and a client for it."""
    options = {"now": lambda: NOON, **options}
    if isinstance(options.get("rules"), dict):
        options["rules"] = Sms4SatsRules(**options["rules"])
    async with Sms4SatsSandbox(**options) as sandbox, aiohttp.ClientSession() as session:
        yield sandbox, Client(session, sandbox)


def refused(problem: Problem, status: int = 500) -> tuple[int, dict[str, Any]]:
    """Return the reply of a business refusal."""
    return status, {"status": "error", "reason": REASONS[problem]}


def old(sandbox: Sms4SatsSandbox, **options: Any) -> str:
    """Place an order that may be canceled."""
    created = sandbox.now() - timedelta(seconds=120)
    return sandbox.add_order(created_at=created, **options)


# --- the documented messages ----------------------------------------------------------------------


def test_the_paths_are_the_documented_ones() -> None:
    """Cancel and status are GET requests."""
    assert dict(ENDPOINTS) == {
        "availability": ("GET", "/"),
        "countries": ("GET", "/getCountries"),
        "rental_countries": ("GET", "/getRentalCountries"),
        "stock": ("GET", "/getnumbersstatus"),
        "price": ("GET", "/price"),
        "create": ("POST", "/createorder"),
        "status": ("GET", "/orderstatus"),
        "cancel": ("GET", "/cancelorder"),
        "send": ("POST", "/createsendorder"),
        "fund": ("POST", "/fund"),
        "balance": ("GET", "/balance"),
        "history": ("GET", "/history"),
    }


async def test_an_order_is_created_paid_and_canceled_in_the_documented_words() -> None:
    """The documented request, its reply, a cancel after two minutes, and the money with it."""
    async with trading() as (sandbox, client):
        created = await client("create", {"country": 187, "service": "vk"})
        order_id = created["orderId"]
        assert created == {"status": "OK", "orderId": order_id, "payreq": created["payreq"]}
        assert created["payreq"].startswith("lnbc15000n1p")
        order = sandbox.orders[order_id]
        assert (order.kind, order.country, order.service) == (OrderKind.RECEIVE, "USA", "vk")
        assert (order.invoice, order.price, order.prepaid) == (Invoice.UNPAID, 1500, False)
        assert (await client.read(order_id))["paid"] is False
        sandbox.pay(order_id)
        assert sandbox.orders[order_id].invoice is Invoice.HELD
        sandbox.advance(120)
        assert await client.cancel(order_id) == OK
        order = sandbox.orders[order_id]
        assert (order.state, order.invoice) == (OrderState.CANCELED, Invoice.RELEASED)
        assert (order.released, order.cancels, order.cancel_requests) == (True, 1, 1)
        assert order.updated_at == NOON + timedelta(seconds=120)


async def test_a_delivered_code_reads_as_documented() -> None:
    """The documented reply, literally; the invoice is settled, and no cancel undoes it."""
    created = datetime.fromtimestamp(1666613406, UTC) + timedelta(milliseconds=969)
    async with trading(now=lambda: created) as (sandbox, client):
        order_id = sandbox.add_order(activation=1125699791)
        sandbox.deliver(order_id)
        assert await client.status(order_id) == (
            200,
            {
                "status": "OK",
                "paid": True,
                "code": 48010,
                "id": 1125699791,
                "number": 12345678901,
                "timestamp": 1666613406969,
                "country": "India",
                "service": "openAI",
            },
        )
        sandbox.advance(9999)
        before = sandbox.orders[order_id]
        assert (before.state, before.invoice) == (OrderState.DELIVERED, Invoice.SETTLED)
        assert await client.cancel(order_id) == refused(Problem.DELIVERED)
        assert sandbox.orders[order_id] == replace(before, cancels=1, cancel_requests=1)


async def test_an_order_without_a_number_reads_as_documented() -> None:
    """200, `status` OK, and an `error`; the money is back."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order(number=None)
        sandbox.fail_number(order_id)
        assert await client.status(order_id) == (
            200,
            {
                "status": "OK",
                "paid": True,
                "error": "No available number, payment request is canceled. "
                "Your funds are returned to your wallet automatically.",
            },
        )
        order = sandbox.orders[order_id]
        assert (order.state, order.released) == (OrderState.NO_NUMBER, True)


async def test_a_waiting_order_says_nothing_of_a_code() -> None:
    """Paid, with or without a number, no code and no error."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order(number=None)
        answer = await client.read(order_id)
        assert (answer["paid"], answer["number"]) == (True, 0)
        assert {"code", "error"}.isdisjoint(answer)
        sandbox.assign_number(order_id, 79001234567)
        assert (await client.read(order_id))["number"] == 79001234567


async def test_ids_are_payment_hashes() -> None:
    """64 hexadecimal digits: the hash of a preimage; no two alike, repeatable by the seed."""

    def ids(seed: int) -> list[str]:
        sandbox = Sms4SatsSandbox(seed=seed)
        made = [sandbox.add_order() for _ in range(3)]
        for order_id in made:
            preimage = bytes.fromhex(sandbox.orders[order_id].preimage)
            assert order_id == hashlib.sha256(preimage).hexdigest()
        return made

    assert ids(1) == ids(1) != ids(2)
    assert len(set(ids(1))) == 3


# --- the clocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ClockStart)
@pytest.mark.parametrize(("age", "early"), [(119.9, True), (120.0, False)])
async def test_a_cancel_is_allowed_after_two_minutes(
    start: ClockStart, age: float, early: bool
) -> None:
    """From the creation or from the payment; before, the order stays as it is."""
    async with trading(rules={"cancel_counts_from": start}) as (sandbox, client):
        order_id = sandbox.add_order(paid=False)
        sandbox.advance(60)
        sandbox.pay(order_id)
        sandbox.advance(age - (60 if start is ClockStart.CREATED else 0))
        reply = await client.cancel(order_id)
        assert reply == (refused(Problem.TOO_EARLY) if early else OK)
        assert sandbox.orders[order_id].released is not early


@pytest.mark.parametrize("start", ClockStart)
@pytest.mark.parametrize("expired", [False, True])
async def test_an_order_ends_after_twenty_one_minutes(start: ClockStart, expired: bool) -> None:
    """Nobody needs to look: it is released as of its end, and not a moment earlier."""
    async with trading(rules={"expire_counts_from": start}) as (sandbox, client):
        order_id = sandbox.add_order(created_at=NOON, paid_at=NOON + timedelta(seconds=60))
        end = 1260 + (60 if start is ClockStart.PAID else 0)
        sandbox.advance(end + 500 if expired else end - 0.1)
        order = sandbox.orders[order_id]
        assert order.state is (OrderState.EXPIRED if expired else OrderState.WAITING)
        assert order.released is expired
        if expired:
            assert order.updated_at == NOON + timedelta(seconds=end)
        assert ("error" in await client.read(order_id)) is expired
        assert await client.cancel(order_id) == (refused(Problem.EXPIRED) if expired else OK)


async def test_the_lengths_of_the_clocks_can_be_changed() -> None:
    """A tutorial says 20 minutes; a test may want seconds."""
    async with trading(rules={"cancel_after": 1.0, "expire_after": 1200.0}) as (sandbox, client):
        order_id, other = sandbox.add_order(), sandbox.add_order()
        sandbox.advance(1)
        assert await client.cancel(order_id) == OK
        sandbox.advance(1199)
        assert sandbox.orders[other].state is OrderState.EXPIRED


async def test_an_unpaid_order_has_a_clock_or_not() -> None:
    """Counted from the creation it ends unpaid; counted from the payment it waits for ever."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order(paid=False)
        sandbox.advance(1260)
        sandbox.rules = Sms4SatsRules(expire_counts_from=ClockStart.PAID)
        assert sandbox.orders[order_id].state is OrderState.WAITING
        sandbox.rules = Sms4SatsRules()
        order = sandbox.orders[order_id]
        assert (order.state, order.invoice) == (OrderState.EXPIRED, Invoice.UNPAID)
        assert (await client.read(order_id))["paid"] is False
        with pytest.raises(ValueError, match="expired"):
            sandbox.pay(order_id)


@pytest.mark.parametrize("expire", [False, True])
async def test_rentals_expire_or_not(expire: bool) -> None:
    """The 21 minutes are documented for orders without a code."""
    async with trading(rules={"rentals_expire": expire}) as (sandbox, _):
        order_id = sandbox.add_order(kind=OrderKind.RENTAL)
        sandbox.advance(1260)
        assert sandbox.orders[order_id].released is expire


async def test_the_clock_offset_is_the_vendors_time() -> None:
    """It may be set either way, and replies are dated by it."""
    async with trading() as (sandbox, client):
        sandbox.clock_offset = -3600
        assert sandbox.now() == NOON - timedelta(hours=1)
        await client("availability")
        assert client.headers["Date"] == "Thu, 01 Jan 2026 11:00:00 GMT"
        assert sandbox.requests[0].received_at == sandbox.now()


async def test_a_skewed_clock_makes_a_cancel_early() -> None:
    """For one request the vendor's clock is elsewhere."""
    async with trading() as (sandbox, client):
        order_id = old(sandbox)
        sandbox.faults.add(skewed_clock("cancel", offset=-30))
        assert await client.cancel(order_id) == refused(Problem.TOO_EARLY)
        assert await client.cancel(order_id) == OK


# --- how a cancel is answered ---------------------------------------------------------------------


def put(sandbox: Sms4SatsSandbox, problem: Problem) -> str:
    """Return an id whose cancel meets this problem."""
    if problem is Problem.UNKNOWN:
        return UNKNOWN
    if problem is Problem.RENTAL:
        return old(sandbox, kind=OrderKind.RENTAL)
    if problem is Problem.NOT_RECEIVE:
        return old(sandbox, kind=OrderKind.SEND)
    if problem is Problem.UNPAID:
        return old(sandbox, paid=False)
    if problem is Problem.TOO_EARLY:
        return sandbox.add_order()
    order_id = old(sandbox)
    if problem is Problem.DELIVERED:
        sandbox.deliver(order_id)
    if problem is Problem.CANCELED:
        sandbox.cancel_behind_back(order_id)
    if problem is Problem.EXPIRED:
        sandbox.expire(order_id)
    if problem is Problem.NO_NUMBER:
        sandbox.fail_number(order_id)
    return order_id


RULES = {
    Problem.TOO_EARLY: "early_cancel",
    Problem.UNPAID: "unpaid_cancel",
    Problem.DELIVERED: "delivered_cancel",
    Problem.CANCELED: "repeated_cancel",
    Problem.EXPIRED: "expired_cancel",
    Problem.NO_NUMBER: "no_number_cancel",
    Problem.RENTAL: "rental_cancel",
    Problem.NOT_RECEIVE: "send_cancel",
    Problem.UNKNOWN: "unknown_cancel",
}
ALIVE = {Problem.TOO_EARLY, Problem.UNPAID, Problem.RENTAL, Problem.NOT_RECEIVE}


@pytest.mark.parametrize("problem", RULES)
@pytest.mark.parametrize("answer", CancelAnswer)
async def test_each_cancel_is_answered_by_its_rule(problem: Problem, answer: CancelAnswer) -> None:
    """Accepted, refused, OK without effect, OK with an error: only the first kills the order."""
    async with trading(rules={RULES[problem]: answer}) as (sandbox, client):
        order_id = put(sandbox, problem)
        before = sandbox.orders.get(order_id)
        error = {"status": "OK", "error": REASONS[problem]}
        expected = {
            CancelAnswer.REFUSED: refused(problem),
            CancelAnswer.OK_WITH_ERROR: (200, error),
        }
        assert await client.cancel(order_id) == expected.get(answer, OK)
        assert sandbox.requests[0].processed is (answer is not CancelAnswer.REFUSED)
        if before is None:
            assert len(sandbox.orders) == 0
            return
        after = sandbox.orders[order_id]
        if answer is CancelAnswer.ACCEPTED and problem in ALIVE:
            assert after.state is OrderState.CANCELED
            assert after.released is (problem is not Problem.UNPAID)
        else:
            assert after == replace(before, cancels=1, cancel_requests=1)


async def test_rules_start_as_a_cautious_client_expects() -> None:
    """By default all but the cancel of an unpaid order is refused."""
    async with trading() as (sandbox, client):
        for problem in RULES:
            reply = await client.cancel(put(sandbox, problem))
            assert reply == (OK if problem is Problem.UNPAID else refused(problem)), problem


async def test_an_accepted_rental_has_its_two_minutes_too() -> None:
    """Under that rule a rental is an order like any other."""
    async with trading(rules={"rental_cancel": CancelAnswer.ACCEPTED}) as (sandbox, client):
        order_id = sandbox.add_order(kind=OrderKind.RENTAL)
        assert await client.cancel(order_id) == refused(Problem.TOO_EARLY)
        sandbox.advance(120)
        assert await client.cancel(order_id) == OK


@pytest.mark.parametrize("answer", [CancelAnswer.ACCEPTED, CancelAnswer.IGNORED])
async def test_an_unpaid_order_can_be_paid_unless_it_was_canceled(answer: CancelAnswer) -> None:
    """OK without effect leaves an invoice that can be paid."""
    async with trading(rules={"unpaid_cancel": answer}) as (sandbox, client):
        order_id = sandbox.add_order(paid=False)
        assert await client.cancel(order_id) == OK
        if answer is CancelAnswer.IGNORED:
            sandbox.pay(order_id)
        else:
            with pytest.raises(ValueError, match="canceled, unpaid"):
                sandbox.pay(order_id)


async def test_reasons_can_be_other_words_or_none() -> None:
    """Nobody knows the texts: a rule replaces them, or leaves the field out."""
    texts = {Problem.TOO_EARLY: "zu früh", Problem.UNKNOWN: None}
    async with trading(rules={"reasons": texts}) as (sandbox, client):
        early = sandbox.add_order()
        assert await client.cancel(early) == (500, {"status": "error", "reason": "zu früh"})
        assert await client.cancel(UNKNOWN) == (500, {"status": "error"})
        sandbox.rules = replace(sandbox.rules, unknown_cancel=CancelAnswer.OK_WITH_ERROR)
        assert await client.cancel(UNKNOWN) == OK
        delivered = put(sandbox, Problem.DELIVERED)
        assert await client.cancel(delivered) == (500, {"status": "error"})


async def test_refusals_have_the_http_status_of_their_rule() -> None:
    """500 as documented, 200 as front ends do it, and another for an unknown id."""
    async with trading(rules={"refusal_status": 200, "unknown_status": 404}) as (sandbox, client):
        early = sandbox.add_order()
        assert await client.cancel(early) == refused(Problem.TOO_EARLY, 200)
        assert await client.cancel(UNKNOWN) == refused(Problem.UNKNOWN, 404)
        assert await client.status(UNKNOWN) == refused(Problem.UNKNOWN, 404)
        assert [entry.processed for entry in sandbox.requests] == [False] * 3


@pytest.mark.parametrize("endpoint", ["cancel", "status"])
@pytest.mark.parametrize("params", [{}, {"orderId": ""}, {"orderid": UNKNOWN}])
async def test_an_id_has_to_be_there(endpoint: str, params: Mapping[str, str]) -> None:
    """Without `orderId` there is nothing to do."""
    async with trading() as (_, client):
        assert await client.reply(endpoint, params=params) == refused(Problem.INVALID)


# --- what the status says -------------------------------------------------------------------------

DEAD = {"canceled_reads": Problem.CANCELED, "expired_reads": Problem.EXPIRED}


@pytest.mark.parametrize(("rule", "problem"), DEAD.items())
@pytest.mark.parametrize("reading", Reading)
async def test_a_dead_order_reads_as_its_rule_says(
    rule: str, problem: Problem, reading: Reading
) -> None:
    """With an error, without a trace, as never paid, refused or unknown."""
    async with trading(rules={rule: reading}) as (sandbox, client):
        order_id = old(sandbox)
        alive = await client.read(order_id)
        if problem is Problem.CANCELED:
            sandbox.cancel_behind_back(order_id)
        else:
            sandbox.advance(1140)
        texts = [sandbox.rules.canceled_error, sandbox.rules.expired_error]
        error = texts[problem is Problem.EXPIRED]
        assert (
            await client.status(order_id)
            == {
                Reading.ERROR: (200, {"status": "OK", "paid": True, "error": error}),
                Reading.SILENT: (200, alive),
                Reading.UNPAID: (200, {**alive, "paid": False}),
                Reading.REFUSED: refused(problem),
                Reading.GONE: refused(Problem.UNKNOWN),
            }[reading]
        )


async def test_the_error_texts_can_be_other_words() -> None:
    """What a canceled order's status says is unknown: so are its words."""
    rules = {"canceled_error": "Cancelled!", "expired_error": "Too late!"}
    async with trading(rules=rules) as (sandbox, client):
        canceled, expired = put(sandbox, Problem.CANCELED), put(sandbox, Problem.EXPIRED)
        assert (await client.read(canceled))["error"] == "Cancelled!"
        assert (await client.read(expired))["error"] == "Too late!"


async def test_an_unknown_id_reads_as_unpaid_or_is_refused() -> None:
    """Both would be plausible; "gone" follows the same rule."""
    async with trading() as (sandbox, client):
        assert await client.status(UNKNOWN) == refused(Problem.UNKNOWN)
        order_id = put(sandbox, Problem.CANCELED)
        sandbox.rules = Sms4SatsRules(unknown_reads_unpaid=True, canceled_reads=Reading.GONE)
        unpaid = (200, {"status": "OK", "paid": False})
        assert await client.status(UNKNOWN) == await client.status(order_id) == unpaid


@pytest.mark.parametrize(
    ("kind", "code", "written"),
    [
        (WireType.NUMBER, "048010", 48010),
        (WireType.TEXT, "048010", "048010"),
        (WireType.NUMBER, "G-48010", "G-48010"),
        (WireType.NUMBER, "²", "²"),
    ],
)
async def test_a_code_is_a_number_or_a_text(kind: WireType, code: str, written: Any) -> None:
    """As a number it loses its leading zeros; what is no number is a text anyway."""
    async with trading(rules={"code_as": kind}) as (sandbox, client):
        order_id = sandbox.add_order()
        sandbox.deliver(order_id, code)
        assert (await client.read(order_id))["code"] == written
        assert sandbox.orders[order_id].code == code


async def test_a_number_is_a_number_or_a_text() -> None:
    """Both are seen."""
    async with trading(rules={"number_as": WireType.TEXT}) as (sandbox, client):
        assert (await client.read(sandbox.add_order()))["number"] == "12345678901"


@pytest.mark.parametrize("field", ["code", "number", "error"])
@pytest.mark.parametrize(
    ("blank", "values"),
    [(Blank.MISSING, []), (Blank.NULL, [None]), (Blank.ZERO, [0]), (Blank.EMPTY, [""])],
)
async def test_a_field_without_value_is_written_by_its_rule(
    field: str, blank: Blank, values: list[Any]
) -> None:
    """Missing, null, zero or empty."""
    async with trading(rules={f"blank_{field}": blank}) as (sandbox, client):
        answer = await client.read(sandbox.add_order(number=None))
        assert [value for name, value in answer.items() if name == field] == values


async def test_a_timestamp_is_of_the_creation_or_of_the_last_change() -> None:
    """In milliseconds."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order()
        sandbox.advance(7)
        sandbox.deliver(order_id)
        created = int(NOON.timestamp() * 1000)
        assert (await client.read(order_id))["timestamp"] == created
        sandbox.rules = Sms4SatsRules(timestamp_of_change=True)
        assert (await client.read(order_id))["timestamp"] == created + 7000


# --- "unable to save data" ------------------------------------------------------------------------


async def test_saving_fails_before_the_release() -> None:
    """The documented 500, and nothing was done."""
    async with trading() as (sandbox, client):
        order_id = old(sandbox)
        sandbox.faults.add(unable_to_save(released=False))
        assert await client.cancel(order_id) == UNSAVED
        order = sandbox.orders[order_id]
        assert (order.state, order.cancel_requests, order.cancels) == (OrderState.WAITING, 1, 0)
        assert await client.cancel(order_id) == OK


@pytest.mark.parametrize("shows", [False, True])
async def test_saving_fails_after_the_release(shows: bool) -> None:
    """The same 500; the money is back, and the vendor's record may not know it."""
    async with trading(rules={"unsaved_release_shows": shows}) as (sandbox, client):
        order_id = old(sandbox)
        sandbox.faults.add(unable_to_save(released=True))
        assert await client.cancel(order_id) == UNSAVED
        order = sandbox.orders[order_id]
        assert (order.state, order.released, order.recorded) == (OrderState.CANCELED, True, False)
        assert ("error" in await client.read(order_id)) is shows
        assert await client.cancel(order_id) == OK
        assert sandbox.orders[order_id].recorded
        assert "error" in await client.read(order_id)
        assert await client.cancel(order_id) == refused(Problem.CANCELED)


async def test_a_refused_cancel_releases_nothing() -> None:
    """Whatever saving does: too early is too early. It can be said of several cancels."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order()
        sandbox.faults.add(unable_to_save(released=True, times=2))
        assert [await client.cancel(order_id) for _ in range(2)] == [UNSAVED] * 2
        assert sandbox.orders[order_id].state is OrderState.WAITING
        assert await client.cancel(order_id) == refused(Problem.TOO_EARLY)


async def test_a_repeated_failure_to_save_changes_nothing_more() -> None:
    """Released once; prepaid sats come back once."""
    async with trading() as (sandbox, client):
        order_id = old(sandbox, prepaid=True)
        balance = sandbox.balance
        sandbox.faults.add(unable_to_save(released=True, times=2))
        assert [await client.cancel(order_id) for _ in range(3)] == [UNSAVED, UNSAVED, OK]
        assert sandbox.balance == balance + 1500


# --- other faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize("processed", [False, True])
async def test_a_lost_reply_hides_what_happened(processed: bool) -> None:
    """The client sees a dropped connection either way; the truth tells."""
    async with trading() as (sandbox, client):
        order_id = old(sandbox)
        # aiohttp repeats a dropped GET once, by itself.
        sandbox.faults.add((drop_after if processed else drop_before)("cancel", times=2))
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.cancel(order_id)
        order = sandbox.orders[order_id]
        assert (order.released, order.cancels) == (processed, 2 * processed)
        assert order.cancel_requests == 2


async def test_a_code_arrives_in_the_race() -> None:
    """An instant before the cancel: delivered, settled, refused; other orders are untouched."""
    async with trading() as (sandbox, client):
        order_id, other = old(sandbox, number=None), old(sandbox)
        sandbox.faults.add(fill_in_the_race("cancel"))
        assert await client.cancel(order_id) == refused(Problem.DELIVERED)
        order = sandbox.orders[order_id]
        assert (order.code, order.number) == ("48010", 12345678901)
        assert order.invoice is Invoice.SETTLED
        assert sandbox.orders[other].state is OrderState.WAITING


@pytest.mark.parametrize("problem", [Problem.UNKNOWN, Problem.UNPAID, Problem.NOT_RECEIVE])
async def test_no_code_arrives_where_none_can(problem: Problem) -> None:
    """A race about an order that gets no code changes nothing."""
    async with trading(rules={"unpaid_cancel": CancelAnswer.REFUSED}) as (sandbox, client):
        order_id = put(sandbox, problem)
        sandbox.faults.add(fill_in_the_race(), too_slow())
        assert await client.cancel(order_id) == refused(problem)
        assert await client.cancel(order_id) == refused(problem)


async def test_errors_are_worded_by_the_vendor() -> None:
    """A scripted 500 has the documented words; others have the same shape."""
    async with trading() as (sandbox, client):
        order_id = old(sandbox)
        sandbox.faults.add(
            server_error(processed=True), rate_limited(retry_after=3), server_error(status=503)
        )
        assert await client.cancel(order_id) == UNSAVED
        assert sandbox.orders[order_id].recorded
        assert await client.cancel(order_id) == refused(Problem.TOO_MANY, 429)
        assert client.headers["Retry-After"] == "3"
        answer = {"status": "error", "reason": "Service Unavailable"}
        assert await client.cancel(order_id) == (503, answer)
        assert sandbox.rejections == 0


async def test_a_web_page_is_an_answer_too() -> None:
    """A gateway's page, with the cancel done or not."""
    async with trading() as (sandbox, client):
        order_id = old(sandbox)
        sandbox.faults.add(html_page("cancel", processed=True))
        status, page = await client.raw("GET", f"/cancelorder?orderId={order_id}")
        assert (status, page[:6]) == (502, b"<html>")
        assert sandbox.orders[order_id].released


async def test_types_are_wrong_in_the_vendors_own_reply() -> None:
    """The names are right, and no value has its type."""
    async with trading() as (sandbox, client):
        sandbox.faults.add(wrong_types())
        answer = await client.read(sandbox.add_order())
        assert (answer["status"], answer["paid"], answer["number"]) == (2, "True", "12345678901")


async def test_a_stale_status_comes_from_a_cache() -> None:
    """What was true when the fault was made, with its age; the vendor did not see the request."""
    async with trading() as (sandbox, client):
        order_id = old(sandbox)
        alive = await client.read(order_id)
        sandbox.faults.add(sandbox.stale_status(order_id, age=30, times=2))
        assert await client.cancel(order_id) == OK
        assert [await client.read(order_id) for _ in range(2)] == [alive, alive]
        assert client.headers["Age"] == "30"
        assert "error" in await client.read(order_id)
        assert "Age" not in client.headers
        processed = [entry.processed for entry in sandbox.requests_to("status")]
        assert processed == [True, False, False, True]


async def test_a_refusal_can_be_stale_too() -> None:
    """An id that was unknown when a cache asked."""
    async with trading() as (sandbox, client):
        sandbox.faults.add(sandbox.stale_status(UNKNOWN))
        assert await client.status(sandbox.add_order()) == refused(Problem.UNKNOWN)
        assert client.headers["Age"] == "60"


async def test_closing_ends_hung_requests_and_keeps_the_record() -> None:
    """After closing, the truth and the record can still be read; it starts on the same port."""
    sandbox = Sms4SatsSandbox()
    await asyncio.create_task(sandbox.start())
    url, order_id = sandbox.url, old(sandbox)
    sandbox.faults.add(hang_after())
    async with aiohttp.ClientSession() as session:
        client = Client(session, sandbox)
        hung = asyncio.create_task(client.cancel(order_id))
        await sandbox.arrived(1, "cancel")
        await asyncio.create_task(sandbox.aclose())
        with pytest.raises(aiohttp.ClientConnectionError):
            await hung
        assert sandbox.orders[order_id].released
        (entry,) = sandbox.requests
        assert (entry.processed, entry.status, sandbox.connections) == (True, None, 1)
        async with sandbox:
            assert sandbox.url == url
            assert await client.cancel(order_id) == refused(Problem.CANCELED)


async def test_it_speaks_tls() -> None:
    """With a context the URL is https, and the calls are the same."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with trading(ssl_context=server) as (sandbox, client):
        assert sandbox.url.startswith("https://")
        assert await client.cancel(old(sandbox), ssl=trusting) == OK


@pytest.mark.virtual_time
async def test_requests_and_replies_travel() -> None:
    """With jitter neither arrives at once."""
    async with trading(jitter=10.0, seed=3) as (sandbox, client):
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await client("availability")
        (entry,) = sandbox.requests
        assert begun < entry.arrived < loop.time() <= begun + 21


# --- what stands before the vendor ----------------------------------------------------------------


async def test_a_proxy_answers_from_its_cache() -> None:
    """A second status is the first one's, with its age, until it is too old."""
    async with trading(rules={"cached": {"status": 30.0}}) as (sandbox, client):
        order_id, other = old(sandbox), old(sandbox)
        alive = await client.read(order_id)
        assert "Age" not in client.headers
        assert await client.cancel(order_id) == OK
        sandbox.advance(29.4)
        assert await client.read(order_id) == alive
        assert client.headers["Age"] == "29"
        assert (await client.read(other))["id"] != alive["id"]
        sandbox.advance(0.6)
        assert "error" in await client.read(order_id)
        seen = [entry.processed for entry in sandbox.requests_about(order_id)]
        assert seen == [True, True, False, True]


async def test_a_cached_cancel_does_not_reach_the_vendor() -> None:
    """It says OK as before, and counts as no cancel; refusals are not kept."""
    async with trading(rules={"cached": {"cancel": 30.0}}) as (sandbox, client):
        order_id, early = old(sandbox), sandbox.add_order()
        assert [await client.cancel(order_id) for _ in range(2)] == [OK, OK]
        order = sandbox.orders[order_id]
        assert (order.cancels, order.cancel_requests) == (1, 1)
        assert len(sandbox.requests_about(order_id)) == 2
        assert await client.cancel(early) == refused(Problem.TOO_EARLY)
        sandbox.advance(120)
        assert await client.cancel(early) == OK


@pytest.mark.parametrize(
    "header",
    [
        {"Cache-Control": "no-store"},
        {"Cache-Control": "No-Cache"},
        {"Cache-Control": "max-age=0"},
        {"Pragma": "no-cache"},
    ],
)
@pytest.mark.parametrize("obeys", [True, False])
async def test_a_proxy_obeys_or_not(header: Mapping[str, str], obeys: bool) -> None:
    """A request may ask for a fresh answer; not every proxy cares."""
    async with trading(rules={"cached": {"status": 30.0}, "cache_obeys": obeys}) as (
        sandbox,
        client,
    ):
        order_id = old(sandbox)
        await client.read(order_id)
        sandbox.deliver(order_id)
        assert ("code" in (await client.status(order_id, headers=header))[1]) is obeys


async def test_faults_are_not_kept() -> None:
    """What a fault spoiled is no answer to give again."""
    async with trading(rules={"cached": {"status": 30.0}}) as (sandbox, client):
        order_id = old(sandbox)
        sandbox.faults.add(wrong_types("status"))
        await client.read(order_id)
        assert (await client.read(order_id))["status"] == "OK"


@pytest.mark.parametrize("status", [302, 308])
async def test_a_redirect_leads_elsewhere_unprocessed(status: int) -> None:
    """A client that follows it hands the id to another host."""
    async with trading() as (other, _), trading() as (sandbox, client):
        order_id = old(sandbox)
        sandbox.rules = Sms4SatsRules(redirects_to=other.url + "/", redirect_status=status)
        target = f"/cancelorder?orderId={order_id}"
        assert await client.raw("GET", target) == (status, b"")
        assert client.headers["Location"] == other.url + target
        assert sandbox.orders[order_id].state is OrderState.WAITING
        assert not other.requests
        await client.raw("GET", target, allow_redirects=True)
        assert len(other.requests_about(order_id)) == 1


# --- the meter ------------------------------------------------------------------------------------


async def test_no_limit_is_documented() -> None:
    """By default nothing is metered."""
    async with trading() as (sandbox, client):
        for _ in range(30):
            await client("availability")
        assert (sandbox.rejections, sandbox.peak_in_window()) == (0, 30)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("counted", "last"), [(False, 200), (True, 429)])
async def test_a_limit_may_be_set(counted: bool, last: int) -> None:
    """429 in the vendor's shape, nothing processed; a rejected request counts or not."""
    options: dict[str, Any] = {"requests_per_window": 1, "rules": {"rejected_count": counted}}
    async with trading(**options) as (sandbox, client):
        order_id = old(sandbox)
        statuses = []
        for wait in (0.0, 0.6, 0.6):
            await asyncio.sleep(wait)
            status, answer = await client.cancel(order_id)
            assert status != 429 or answer == refused(Problem.TOO_MANY)[1]
            statuses.append(status if status == 429 else 200)
        assert statuses == [200, 429, last]
        assert sandbox.rejections == statuses.count(429)
        assert sandbox.orders[order_id].cancel_requests == 3
        assert sandbox.orders[order_id].cancels == statuses.count(200)
        assert sandbox.peak_in_window("cancel") == 2


@pytest.mark.parametrize(("shared", "rejections"), [(True, 1), (False, 0)])
async def test_endpoints_share_a_limit_or_not(shared: bool, rejections: int) -> None:
    """Undocumented, like the limit itself; other clients share it in any case."""
    options: dict[str, Any] = {"requests_per_window": 1, "window": 9.0, "shared_bucket": shared}
    async with trading(**options) as (sandbox, client):
        await client("availability", headers=KEY)
        await client.reply("countries")
        assert sandbox.rejections == rejections
        assert (sandbox.peak_in_window(), sandbox.peak_in_window("countries")) == (2, 1)


@pytest.mark.parametrize(
    ("form", "header"),
    [
        (RetryAfter.ABSENT, None),
        (RetryAfter.SECONDS, "1"),
        (RetryAfter.DATE, "Thu, 01 Jan 2026 12:00:02 GMT"),
    ],
)
async def test_a_429_may_say_when_to_come_back(form: RetryAfter, header: str | None) -> None:
    """Retry-After is undocumented: absent, seconds, or a date, never too early."""
    async with trading(requests_per_window=1, rules={"retry_after": form}) as (sandbox, client):
        sandbox.faults.add(drop_before("cancel"))
        await client("availability")
        assert (await client.cancel(UNKNOWN))[0] == 429
        assert client.headers.get("Retry-After") == header
        assert len(sandbox.faults) == 1


async def test_a_scripted_429_leaves_the_meter_alone() -> None:
    """Unless rejected requests count."""
    async with trading(requests_per_window=1, window=9.0) as (sandbox, client):
        sandbox.faults.add(rate_limited())
        assert (await client.reply("countries"))[0] == 429
        assert (await client.reply("countries"))[0] == 200
        assert sandbox.rejections == 0


# --- the record -----------------------------------------------------------------------------------


async def test_the_record_does_not_show_ids() -> None:
    """Wherever an id may stand: query, path, body, headers; encoded, misspelt, or of no order."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order()
        encoded = f"%{ord(order_id[0]):02x}{order_id[1:]}"
        for target in (
            f"/orderstatus?orderId={order_id}",
            f"/orderstatus?orderId={encoded}&x=1",
            f"/orderstatus?x={order_id}&order%49d=short-secret",
            f"/orderstatus?x=%{ord(order_id[0]):02x}{order_id[1:]}",
            f"/order/{order_id}/cancel",
        ):
            await client.raw("GET", target)
        await client.raw(
            "POST", "/cancelorder", json={"orderId": order_id}, headers={"Referer": order_id}
        )
        await client.raw("POST", "/cancelorder", data=f"[{'1' * 64}]")
        assert len(sandbox.requests) == 7
        shown = "***" + order_id[-4:]
        for entry in sandbox.requests:
            text = repr(entry)
            assert order_id[1:] not in text
            assert "short-secret" not in text
        queries = [entry.query for entry in sandbox.requests]
        assert queries[:3] == [
            f"orderId={shown}",
            f"orderId={shown}&x=1",
            f"x={shown}&orderId=***",
        ]
        assert sandbox.requests[4].path == f"/order/{shown}/cancel"
        assert sandbox.requests[5].body == {"orderId": shown}
        assert sandbox.requests[6].body is None


async def test_the_record_knows_which_order_a_request_was_about() -> None:
    """Requests that were lost, refused or answered by others are among them."""
    async with trading(requests_per_window=3, window=9.0) as (sandbox, client):
        one, two = sandbox.add_order(), sandbox.add_order()
        sandbox.faults.add(server_error("cancel"))
        await client.cancel(one)
        await client.status(two)
        await client.status(one)
        await client.cancel(one)
        about = sandbox.requests_about(one)
        assert [entry.endpoint for entry in about] == ["cancel", "status", "cancel"]
        assert [entry.status for entry in about] == [500, 200, 429]
        assert len(sandbox.requests_about(two)) == 1
        assert sandbox.requests_about(UNKNOWN) == ()
        assert sandbox.orders[one].cancel_requests == 2
        assert sandbox.orders[one].cancels == 0


async def test_nothing_that_is_printed_shows_a_secret() -> None:
    """Ids, codes, preimages and keys are masked in what a failing test prints."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order()
        sandbox.deliver(order_id, "135790")
        await client("balance", headers=KEY)
        order = sandbox.orders[order_id]
        printed = repr(order) + repr(sandbox.orders) + repr(order.__rich_repr__())
        with pytest.raises(KeyError) as unknown:
            sandbox.orders[UNKNOWN]
        with pytest.raises(ValueError, match="delivered, settled") as refusal:
            sandbox.deliver(order_id)
        printed += repr(unknown.value) + repr(refusal.value) + repr(sandbox.requests[0])
        for secret in (order_id, UNKNOWN, "135790", order.preimage, "sandbox-key"):
            assert secret not in printed
        assert sandbox.requests[0].caller == "key 1"
        assert (UNKNOWN in sandbox.orders, list(sandbox.orders)) == (False, [order_id])


# --- creating, sending, funding -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("country", "name"),
    [(187, "USA"), ("12", "USA virtual"), ("germany", "Germany"), (999, "Auto select"), (86, "86")],
)
async def test_a_country_is_a_number_or_a_name(country: Any, name: str) -> None:
    """Typed a number, said to work by name; what is sent decides nothing else."""
    async with trading() as (sandbox, client):
        created = await client("create", {"country": country, "service": "vk"})
        assert sandbox.orders[created["orderId"]].country == name


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"country": 187},
        {"service": "vk"},
        {"country": 187, "service": ""},
        {"country": "atlantis", "service": "vk"},
        {"country": True, "service": "vk"},
        [],
    ],
)
async def test_an_order_needs_a_country_and_a_service(body: Any) -> None:
    """The reason is invented, the shape is not."""
    async with trading() as (sandbox, client):
        assert await client.reply("create", body) == refused(Problem.INVALID)
        assert len(sandbox.orders) == 0


async def test_names_of_countries_may_be_refused() -> None:
    """If the documented type is meant."""
    async with trading(rules={"country_names": False}) as (_, client):
        body = {"country": "germany", "service": "vk"}
        assert await client.reply("create", body) == refused(Problem.INVALID)


@pytest.mark.parametrize("data", [b"", b"{", b'{"a":"\xff"}', b"null"])
async def test_a_body_has_to_be_a_json_object(data: bytes) -> None:
    """Anything else is refused."""
    async with trading() as (_, client):
        assert await client.reply("create", data=data) == refused(Problem.INVALID)


@pytest.mark.parametrize(
    ("endpoint", "body", "price"),
    [
        ("create", {"country": 0, "service": "vk"}, 1500),
        ("create", {"country": 0, "service": "vk", "isRental": True}, 15_000),
        ("send", {"message": "hello", "phone": "+4915112345678"}, 3000),
    ],
)
async def test_prepaid_orders_are_paid_at_once(
    endpoint: str, body: dict[str, Any], price: int
) -> None:
    """With the key and enough sats: debited, held, no invoice. Without: refused."""
    body = {**body, "immediate": True}
    async with trading(balance=price) as (sandbox, client):
        assert await client.reply(endpoint, body) == refused(Problem.KEY_MISSING)
        wrong = {"X-API-Key": "wrong"}
        assert await client.reply(endpoint, body, headers=wrong) == refused(Problem.KEY_INVALID)
        created = await client(endpoint, body, headers=KEY)
        order = sandbox.orders[created["orderId"]]
        assert created == {"status": "OK", "orderId": order.id, "payreq": "paid"}
        assert (order.prepaid, order.invoice, order.price) == (True, Invoice.HELD, price)
        assert sandbox.balance == 0
        assert await client.reply(endpoint, body, headers=KEY) == refused(Problem.NO_FUNDS)
        assert len(sandbox.orders) == 1


@pytest.mark.parametrize(("refunded", "balance"), [(True, 2000), (False, 500)])
async def test_released_sats_go_back_to_the_balance_or_not(refunded: bool, balance: int) -> None:
    """Once, and only for an order that was prepaid."""
    body = {"country": 0, "service": "vk", "immediate": True}
    async with trading(balance=2000, rules={"prepaid_refunded": refunded}) as (sandbox, client):
        order_id = (await client("create", body, headers=KEY))["orderId"]
        other = sandbox.add_order()
        sandbox.advance(120)
        assert await client.cancel(order_id) == await client.cancel(other) == OK
        assert (await client("balance", headers=KEY))["balance"] == sandbox.balance == balance
        assert sandbox.orders[order_id].released


async def test_a_message_is_settled_when_it_is_sent() -> None:
    """Created, sent, delivered, in the documented words."""
    async with trading() as (sandbox, client):
        created = await client("send", {"message": "hello", "phone": "+4915112345678"})
        order_id = created["orderId"]
        assert created["payreq"].startswith("lnbc30000n1p")
        with pytest.raises(ValueError, match="send order"):
            sandbox.move_message(order_id, SmsStatus.SENT)
        sandbox.pay(order_id)
        answer = await client.read(order_id)
        assert answer == {
            "status": "OK",
            "paid": True,
            "id": answer["id"],
            "smsStatus": "created",
            "timestamp": int(NOON.timestamp() * 1000),
        }
        assert answer["id"].startswith("SM")
        sandbox.advance(9999)
        for status in (SmsStatus.SENT, SmsStatus.DELIVERED):
            sandbox.move_message(order_id, status)
            assert (await client.read(order_id))["smsStatus"] == status.value
            assert sandbox.orders[order_id].invoice is Invoice.SETTLED
        with pytest.raises(ValueError, match="delivered, settled"):
            sandbox.move_message(order_id, SmsStatus.FAILED)
        assert await client.cancel(order_id) == refused(Problem.NOT_RECEIVE)


async def test_a_message_that_fails_costs_nothing() -> None:
    """Failed, and the money is back."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order(kind=OrderKind.SEND)
        sandbox.move_message(order_id, SmsStatus.FAILED)
        assert (await client.read(order_id))["smsStatus"] == "failed"
        order = sandbox.orders[order_id]
        assert (order.state, order.released) == (OrderState.FAILED, True)


async def test_a_canceled_message_is_not_sent() -> None:
    """Should a cancel of one ever be accepted, it is dead."""
    async with trading(rules={"send_cancel": CancelAnswer.ACCEPTED}) as (sandbox, client):
        order_id = sandbox.add_order(kind=OrderKind.SEND)
        assert await client.cancel(order_id) == OK
        with pytest.raises(ValueError, match="canceled, released"):
            sandbox.move_message(order_id, SmsStatus.SENT)


@pytest.mark.parametrize(
    ("message", "phone"),
    [("", "+4915112345678"), ("x" * 141, "+4915112345678"), ("x", "015112345678"), (1, "x")],
)
async def test_a_message_has_a_length_and_a_receiver(message: Any, phone: str) -> None:
    """At most 140 characters, to a number as E.164 writes it."""
    async with trading() as (sandbox, client):
        body = {"message": message, "phone": phone}
        assert await client.reply("send", body) == refused(Problem.INVALID)
        sandbox.rules = Sms4SatsRules(message_limit=1600)
        assert (await client.reply("send", body))[0] == (200 if message == "x" * 141 else 500)


async def test_a_funding_is_in_the_balance_and_in_the_history_once_it_is_paid() -> None:
    """The documented names; unpaid ones and orders are not listed."""
    async with trading(balance=10) as (sandbox, client):
        created = [await client("fund", {"amount": 250}, headers=KEY) for _ in range(2)]
        order_id = created[0]["orderId"]
        assert created[0]["payreq"].startswith("lnbc2500n1p")
        assert (await client.read(order_id))["paid"] is False
        sandbox.add_order()
        assert (await client("history", headers=KEY))["orders"] == []
        sandbox.pay(order_id)
        order = sandbox.orders[order_id]
        assert (order.state, order.invoice) == (OrderState.DELIVERED, Invoice.SETTLED)
        assert await client("balance", headers=KEY) == {"status": "OK", "balance": 260}
        answer = await client("history", headers=KEY)
        (row,) = answer["orders"]
        assert (answer["status"], answer["totalAmount"]) == ("OK", 250)
        assert sorted(row) == sorted(
            [
                "amount",
                "createdAt",
                "desc",
                "description",
                "holdinvoice",
                "preimage",
                "preimageHash",
                "price",
                "userId",
            ]
        )
        assert (row["amount"], row["createdAt"]) == (250, int(NOON.timestamp() * 1000))
        assert hashlib.sha256(bytes.fromhex(row["preimage"])).hexdigest() == order_id
        assert (await client.read(order_id)) == {
            "status": "OK",
            "paid": True,
            "timestamp": row["createdAt"],
        }


@pytest.mark.parametrize("amount", [None, 0, -1, "1", True, 1.5])
async def test_a_funding_has_an_amount(amount: Any) -> None:
    """A positive whole number of sats."""
    async with trading() as (_, client):
        reply = await client.reply("fund", {"amount": amount}, headers=KEY)
        assert reply == refused(Problem.INVALID)


# --- the key --------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["fund", "balance", "history"])
@pytest.mark.parametrize("status", [500, 401])
async def test_some_calls_need_the_key(endpoint: str, status: int) -> None:
    """Refused without it; with which HTTP status is undocumented."""
    async with trading(rules={"key_status": status}) as (sandbox, client):
        assert await client.reply(endpoint) == refused(Problem.KEY_MISSING, status)
        sandbox.revoke_keys("new")
        reply = await client.reply(endpoint, {"amount": 1}, headers=KEY)
        assert reply == refused(Problem.KEY_INVALID, status)
        new = {"X-API-Key": "new"}
        assert (await client.reply(endpoint, {"amount": 1}, headers=new))[0] == 200
        assert [entry.caller for entry in sandbox.requests] == [None, None, "key 1"]


async def test_other_calls_do_not_need_it_unless_a_rule_says_so() -> None:
    """Whoever has the id can cancel: no key, and a wrong one does not matter."""
    async with trading() as (sandbox, client):
        assert await client.cancel(old(sandbox), headers={"X-API-Key": "wrong"}) == OK
        order_id = old(sandbox)
        sandbox.rules = Sms4SatsRules(key_needed=frozenset({"cancel"}))
        assert await client.cancel(order_id) == refused(Problem.KEY_MISSING)
        assert await client.cancel(order_id, headers=KEY) == OK
        assert (await client.reply("balance"))[0] == 200


# --- lists and prices -----------------------------------------------------------------------------


async def test_prices_are_mixed_as_documented_or_of_one_type() -> None:
    """Two texts, two numbers; a rule makes all of them one or the other."""
    async with trading() as (sandbox, client):
        prices = await client("price", params={"country": "187", "service": "vk"})
        assert prices == {
            "receive": "1500",
            "send": 3000,
            "rent": 15000,
            "s4s": "4000",
            "query": {"country": "187", "service": "vk"},
            "computed": {"price": "1500", "country": "USA", "description": "vk"},
        }
        for kind, wanted in ((WireType.TEXT, str), (WireType.NUMBER, int)):
            sandbox.rules = Sms4SatsRules(prices_as=kind)
            prices = await client("price")
            assert {type(prices[name]) for name in ("receive", "send", "rent", "s4s")} == {wanted}


async def test_prices_may_change() -> None:
    """A new order costs what the list says."""
    async with trading() as (sandbox, client):
        sandbox.prices = {**sandbox.prices, "receive": 1}
        created = await client("create", {"country": 0, "service": "vk"})
        assert sandbox.orders[created["orderId"]].price == 1
        assert (await client("price"))["receive"] == "1"


async def test_a_balance_is_a_number_or_a_text() -> None:
    """Undocumented."""
    async with trading(balance=7, rules={"balance_as": WireType.TEXT}) as (sandbox, client):
        assert (await client("balance", headers=KEY))["balance"] == "7"
        sandbox.balance = 8
        assert (await client("balance", headers=KEY))["balance"] == "8"


async def test_the_lists_have_the_names_that_clients_read() -> None:
    """Countries by number, services with their stock; rentals in some countries only."""
    async with trading() as (_, client):
        assert await client("availability") == {"status": "OK"}
        countries = await client("countries")
        assert {"id": 187, "eng": "USA", "visible": 1, "rent": 1} in countries
        rentals = await client("rental_countries")
        assert rentals == [row for row in countries if row["rent"]] != countries
        stock = await client("stock", params={"country": "187"})
        assert {"key", "text", "value", "count", "image"} == set(stock[0])
        assert await client.reply("stock") == refused(Problem.INVALID)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/cancelorder"), ("GET", "/createorder"), ("GET", "/cancelOrder/<x>")],
)
async def test_a_wrong_path_is_not_an_unknown_order(method: str, path: str) -> None:
    """404 and a web page: cancelorder is a GET, whatever a demo on the web does."""
    async with trading() as (sandbox, client):
        status, page = await client.raw(method, path)
        assert (status, client.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
        assert b"Cannot " + method.encode() in page
        assert b"<x>" not in page
        assert sandbox.requests[0].endpoint is None


# --- the control surface --------------------------------------------------------------------------


async def test_the_control_surface_refuses_what_cannot_be() -> None:
    """A test that moves a dead, unpaid or unknown order has a mistake, and hears of it."""
    async with trading() as (sandbox, _):
        dead, unpaid = put(sandbox, Problem.CANCELED), sandbox.add_order(paid=False)
        paid, message = sandbox.add_order(), sandbox.add_order(kind=OrderKind.SEND)
        moves = (sandbox.assign_number, sandbox.deliver, sandbox.fail_number)
        for move in (*moves, sandbox.pay, sandbox.cancel_behind_back, sandbox.expire):
            with pytest.raises(ValueError, match="canceled, released"):
                move(dead)
            with pytest.raises(KeyError):
                move(UNKNOWN)
        for move in moves:
            with pytest.raises(ValueError, match="waiting, unpaid"):
                move(unpaid)
            with pytest.raises(ValueError, match="send order"):
                move(message)
        with pytest.raises(ValueError, match="waiting, held"):
            sandbox.pay(paid)
        with pytest.raises(ValueError, match="receive order"):
            sandbox.move_message(paid, SmsStatus.SENT)


async def test_an_order_can_be_placed_in_every_detail() -> None:
    """`add_order` takes the terms as they are, and leaves the balance alone."""
    async with trading() as (sandbox, client):
        balance = sandbox.balance
        order_id = sandbox.add_order(
            kind=OrderKind.RENTAL,
            prepaid=True,
            created_at=NOON - timedelta(seconds=9),
            paid_at=NOON - timedelta(seconds=8),
            number=7,
            price=5,
            country="Utopia",
            service="x",
            activation=3,
        )
        order = sandbox.orders[order_id]
        assert (order.kind, order.prepaid, order.price) == (OrderKind.RENTAL, True, 5)
        assert order.created_at == NOON - timedelta(seconds=9)
        assert order.paid_at == order.updated_at == NOON - timedelta(seconds=8)
        answer = await client.read(order_id)
        assert (answer["number"], answer["country"], answer["service"]) == (7, "Utopia", "x")
        assert (answer["id"], sandbox.balance) == (3, balance)


async def test_rules_can_be_read_and_set() -> None:
    """At any time, for the next request."""
    async with trading() as (sandbox, client):
        order_id = sandbox.add_order()
        assert sandbox.rules == Sms4SatsRules()
        sandbox.rules = Sms4SatsRules(cancel_after=0)
        assert await client.cancel(order_id) == OK
        assert (UNABLE_TO_SAVE, NO_NUMBER[:19]) == ("unable to save data", "No available number")
