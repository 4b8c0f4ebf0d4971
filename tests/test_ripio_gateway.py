"""Ripio's cancels through the public API and real sockets. The vendor's own record is the judge."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
import trustme

from brokers.ripio import APPROVED, BASIC, Profile, RipioGateway, config
from brokers.ripio.sandbox import (
    Amounts,
    Announce,
    Generation,
    RetryAfter,
    RipioRules,
    RipioSandbox,
    SlowReply,
    TooMany,
)
from brokers.ripio.sandbox import OrderState as Recorded
from support.canary import CANARY, WatchedRipio
from support.ripio import PROMPT, QUICK, UNMETERED, lie, names_asked, strict, vendor, virtual_now
from tronsave_async import (
    AlreadyClosed,
    AuthenticationRejected,
    Canceled,
    ConnectFailed,
    Disconnected,
    Event,
    Evidence,
    GatewayClosed,
    Lost,
    NotFound,
    NotSent,
    OrderGateway,
    OrderNotFound,
    OrderRef,
    OrderState,
    PermissionDenied,
    QuotaExhausted,
    RateLimit,
    RateLimiter,
    Refused,
    RequestFailed,
    RequestTimeout,
    RetryPolicy,
    Unknown,
    UsageError,
    Wire,
    WrongEndpoint,
)
from tronsave_async import sandbox as faults
from tronsave_async import sandbox_socket as socket_faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async import CancelOutcome
    from tronsave_async.sandbox import Fault

NOWHERE = "00000000-0000-4000-8000-000000000000"
"""An id that no sandbox issues."""

EXTERNAL_IDS = [
    "bot-1",
    "ação ñ/Ω 100% ü",
    "a/../b?c=d&e#f",
    '%2F%00 "quoted" \\ back',
    "x" * 36,
    "日本語" * 12,
]
AMOUNTS = ["0.12345678", "0.00000002", "12345678901234567.12345678", "0.003"]
PARTS = ["0.12345677", "0.00000001", "12345678901234567.12345677", "0.001"]


# -- every way in which a cancel can end --------------------------------------------------------------------------


@pytest.mark.parametrize("amounts", Amounts)
@pytest.mark.parametrize("spelling", ["api_token", "apiToken"])
@pytest.mark.parametrize("generation", Generation)
async def test_every_documented_end(
    generation: Generation, spelling: str, amounts: Amounts
) -> None:
    """Open, partly filled, filled, canceled and unknown orders, by either name: told as they are, to the last digit."""
    rules = strict(
        generation=generation,
        token_fields=frozenset({spelling}),
        amounts=amounts,
        cancel_omits=frozenset({"side", "type", "external_id"}),
    )
    new = generation is Generation.NEW
    numbers = itertools.count()
    async with vendor(rules, gateway_token_field=spelling) as (sandbox, gateway):

        async def ended(by_id: bool, amount: str, *, part: str | None = None, end: str = "") -> Any:
            external_id = f"{next(numbers)} ç/%"
            order_id = sandbox.add_order(amount=amount, external_id=external_id)
            if part is not None:
                sandbox.fill(order_id, part)
            if end == "filled":
                sandbox.fill(order_id)
            elif end == "canceled":
                sandbox.cancel_behind_back(order_id)
            ref = OrderRef(id=order_id) if by_id else OrderRef(client_id=external_id)
            outcome = await gateway.cancel(ref)
            assert lie(sandbox, outcome) is None
            assert outcome.order == ref
            return outcome

        for by_id, (amount, part) in itertools.product(
            [True, False], zip(AMOUNTS, PARTS, strict=True)
        ):
            whole, filled = Decimal(amount), Decimal(part)
            outcome = await ended(by_id, amount)
            assert isinstance(outcome, Canceled)
            assert (outcome.executed, outcome.remaining) == (Decimal(0), whole)
            assert (outcome.evidence, outcome.wire) == (Evidence.REPLY, Wire.ANSWERED)
            assert (outcome.attempts, outcome.code) == (1, None)

            outcome = await ended(by_id, amount, part=part)
            assert isinstance(outcome, Canceled)
            assert (outcome.executed, outcome.remaining) == (filled, whole - filled)

            outcome = await ended(by_id, amount, end="filled")
            assert isinstance(outcome, AlreadyClosed)
            assert outcome.state is OrderState.FILLED
            assert outcome.executed == (whole if new else None)
            assert outcome.code == ("40408" if new else "40021")
            assert outcome.evidence is (Evidence.READ_BACK if new else Evidence.REPLY)

            outcome = await ended(by_id, amount, part=part, end="canceled")
            assert isinstance(outcome, AlreadyClosed)
            assert outcome.state is OrderState.CANCELED
            assert outcome.executed == (filled if new else None)
            assert outcome.code == ("40408" if new else "40020")

        for ref in (OrderRef(id=NOWHERE), OrderRef(client_id="nobody/ñ")):
            outcome = await gateway.cancel(ref)
            assert isinstance(outcome, NotFound)
            assert (outcome.code, outcome.message) == (
                "40401" if new else "40400",
                "Order not found.",
            )
            assert not outcome.closed
        assert len(set(sandbox.signatures)) == len(sandbox.signatures)


@pytest.mark.parametrize("external_id", EXTERNAL_IDS)
async def test_external_ids_are_free_text(external_id: str) -> None:
    """Every text that the vendor may have taken as an external id reaches it unchanged, in cancels and in reads."""
    async with vendor() as (sandbox, gateway):
        decoy = sandbox.add_order(external_id="decoy")
        order_id = sandbox.add_order(amount="0.5", external_id=external_id)
        ref = OrderRef(client_id=external_id)
        snapshot = await gateway.get_order(ref)
        assert (snapshot.state, snapshot.remaining) == (OrderState.OPEN, Decimal("0.5"))
        assert sandbox.requests[-1].path.count("/") == 4
        assert sandbox.requests[-1].path.isascii()
        outcome = await gateway.cancel(ref)
        assert isinstance(outcome, Canceled)
        assert lie(sandbox, outcome) is None
        again = await gateway.cancel(ref)
        assert isinstance(again, AlreadyClosed)
        assert (again.state, again.executed) == (OrderState.CANCELED, Decimal(0))
        assert sandbox.orders[order_id].cancels == 2
        assert sandbox.orders[decoy].state is Recorded.OPEN


@pytest.mark.parametrize("generation", Generation)
async def test_path_signed_decoded(generation: Generation) -> None:
    """Where the vendor verifies the decoded path, reads by an escaped external id are rejected, and nothing lies."""
    rules = strict(signed_path_decoded=True, generation=generation)
    async with vendor(rules) as (sandbox, gateway):
        order_id = sandbox.add_order(external_id="ç 1")
        sandbox.fill(order_id)
        outcome = await gateway.cancel(OrderRef(client_id="ç 1"))
        assert isinstance(outcome, AlreadyClosed)
        told = OrderState.CLOSED if generation is Generation.NEW else OrderState.FILLED
        assert (outcome.state, outcome.executed) == (told, None)
        with pytest.raises(AuthenticationRejected):
            await gateway.get_order(OrderRef(client_id="ç 1"))
        assert (await gateway.get_order(order_id)).state is OrderState.FILLED


UNUSABLE = [
    OrderRef(id="x" * 129),
    OrderRef(client_id="x" * 37),
    OrderRef(id="."),
    OrderRef(client_id=".."),
    OrderRef(id="a\nb"),
    OrderRef(client_id="a\x00"),
    OrderRef(id=""),
]


@pytest.mark.parametrize("ref", UNUSABLE, ids=repr)
async def test_unusable_names(ref: OrderRef) -> None:
    """A name that cannot be the vendor's is a usage error for one order, and NotSent among many."""
    async with vendor() as (sandbox, gateway):
        good = sandbox.add_order()
        for call in (gateway.cancel, gateway.get_order, gateway.order):
            with pytest.raises(UsageError):
                await call(ref)
        assert len(sandbox.requests) == 0
        bad, fine = await gateway.cancel_many([ref, good])
        assert isinstance(bad, NotSent)
        assert (bad.attempts, bad.wire) == (0, Wire.NOT_SENT)
        assert bad.message
        assert isinstance(fine, Canceled)


async def test_cancel_many_takes_both_kinds_of_names() -> None:
    """Text is an id, references may be either; equal names share one request, and order is kept."""
    async with vendor() as (sandbox, gateway):
        first = sandbox.add_order()
        second = sandbox.add_order(external_id="mine")
        outcomes = await gateway.cancel_many([first, OrderRef(client_id="mine"), NOWHERE, first])
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [Canceled, Canceled, NotFound, Canceled]
        assert sandbox.orders[first].cancels == 1
        assert not any(lie(sandbox, outcome) for outcome in outcomes)
        assert isinstance(await gateway.cancel(OrderRef(id=second)), AlreadyClosed)
        with pytest.raises(UsageError):
            await gateway.cancel_many(first)


def frame(status: int, error: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """A reply's text, without an address."""
    parts: dict[str, Any] = {"status": status, "result": None} | fields
    return msgspec.json.encode(parts | ({} if error is None else {"error": error}))


def error(code: object, message: str | None) -> dict[str, Any]:
    """What an error frame says."""
    return {"error_code": code, "message": message}


STRANGE: dict[str, tuple[bytes, bool, type[CancelOutcome]]] = {
    # The reply; whether the cancel was carried out; how it ends with REST at hand.
    "200 without a result": (frame(200), True, Canceled),
    "200 without a result, unprocessed": (frame(200), False, Canceled),
    "200 with another word": (frame(200, result={"id": "A", "status": "open"}), True, Canceled),
    "200 about another order": (
        frame(200, result={"id": NOWHERE, "status": "canceled", "external_id": "other"}),
        False,
        Canceled,
    ),
    "200 with an error": (frame(200, error(40401, "Order not found.")), True, Canceled),
    "result is text": (frame(200, result="canceled"), True, Canceled),
    "40000": (frame(400, error(40000, "Invalid parameters")), False, Refused),
    "40010": (frame(400, error(40010, "Missing required parameters")), False, Refused),
    "unknown code": (frame(400, error(49999, "Order is busy")), False, Refused),
    "408": (frame(408, error(40800, "Request timeout")), True, Canceled),
    "500": (frame(500, error(50000, "Internal error")), True, Canceled),
    "500 unprocessed": (frame(500, error(50002, "External")), False, Canceled),
    "503": (frame(503, error(503, "Maintenance")), False, Canceled),
    "40401 with other words": (frame(404, error(40401, "Pair not found.")), False, Refused),
    "40400 for a path": (frame(404, error(40400, "URL not found")), False, Refused),
    "40021 of cancel-all": (frame(400, error(40021, "No orders to cancel")), False, Refused),
    "status 0": (frame(0, error(40401, "Order not found.")), False, Canceled),
    "code in text": (frame(400, error("40000", "Invalid parameters")), False, Refused),
    "old name of the code": (
        frame(400, {"code": 40000, "message": "Invalid parameters"}),
        False,
        Refused,
    ),
    "429 without a code": (frame(429, {"message": "Too many requests"}), False, Canceled),
    "429 with 42900": (frame(429, error(42900, "Too many requests")), False, Canceled),
    "429 with 429": (frame(429, error(429, "Too many requests")), False, Canceled),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("case", STRANGE.values(), ids=STRANGE)
async def test_strange_reply(case: tuple[bytes, bool, type[CancelOutcome]]) -> None:
    """A reply that proves nothing is looked into; the order's record proves the outcome, by id and by external id."""
    body, processed, expected = case
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.add_order(external_id="e")
        for ref in (OrderRef(id=sandbox.add_order()), OrderRef(client_id="e")):
            sandbox.faults.add(
                faults.replaced("cancel", status=200, body=body, processed=processed)
            )
            outcome = await gateway.cancel(ref, timeout=60)
            assert type(outcome) is expected
            assert lie(sandbox, outcome) is None


ACCOUNT: dict[str, tuple[bytes, type[Exception], int]] = {
    "40100": (frame(401, error(40100, "Not authorized")), AuthenticationRejected, 2),
    "40100 for the token": (frame(401, error(40100, "Blocked token")), AuthenticationRejected, 1),
    "401 as observed": (frame(401, error(401, "Invalid token")), AuthenticationRejected, 1),
    "401 without words": (frame(401), AuthenticationRejected, 1),
    "Invalid timestamp": (frame(401, error(401, "Invalid timestamp")), AuthenticationRejected, 2),
    "40011": (frame(400, error(40011, "Invalid signature")), AuthenticationRejected, 2),
    "40011 as 401": (frame(401, error(40011, "Invalid signature")), AuthenticationRejected, 2),
    "40300": (frame(403, error(40300, "Forbidden")), PermissionDenied, 1),
    "40090": (frame(400, error(40090, "Unsupported operation")), WrongEndpoint, 1),
}


@pytest.mark.parametrize("case", ACCOUNT.values(), ids=ACCOUNT)
async def test_rejected_account(case: tuple[bytes, type[Exception], int]) -> None:
    """What is wrong with the account is raised, after one fresh attempt where the clock may be the reason."""
    body, kind, attempts = case
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(faults.replaced("cancel", status=200, body=body, times=attempts))
        with pytest.raises(kind):
            await gateway.cancel(order_id)
        assert len(sandbox.requests_to("cancel")) == attempts
        assert sandbox.orders[order_id].state is Recorded.OPEN
        assert isinstance(await gateway.cancel(order_id), Canceled)


@pytest.mark.virtual_time
@pytest.mark.parametrize("case", ACCOUNT.values(), ids=ACCOUNT)
async def test_rejected_account_in_doubt(case: tuple[bytes, type[Exception], int]) -> None:
    """After a lost reply a rejected account does not hide the doubt behind an error."""
    body, _, attempts = case
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(
            faults.drop_after("cancel"),
            faults.replaced("cancel", status=200, body=body, times=attempts),
        )
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, Unknown)
        assert outcome.wire is Wire.MAYBE_SENT
        later = await gateway.cancel(order_id, timeout=60)
        assert isinstance(later, Canceled)
        assert later.evidence is Evidence.READ_BACK


async def test_token_under_a_name_that_is_not_taken() -> None:
    """With the other spelling nothing is canceled, and nothing is claimed."""
    rules = strict(token_fields=frozenset({"apiToken"}))
    async with vendor(rules, gateway_token_field="api_token") as (sandbox, gateway):
        order_id = sandbox.add_order()
        outcome = await gateway.cancel(order_id)
        assert isinstance(outcome, Refused)
        assert outcome.code == "40010"
        assert lie(sandbox, outcome) is None


async def test_blocked_and_forbidden_account() -> None:
    """A blocked token and a missing permission are raised, and one order's trouble stops the rest of many."""
    async with vendor() as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(3)]
        sandbox.forbidden = frozenset({"cancel"})
        with pytest.raises(PermissionDenied):
            await gateway.cancel(ids[0])
        assert (await gateway.get_order(ids[0])).state is OrderState.OPEN
        sandbox.blocked = True
        with pytest.raises(AuthenticationRejected, match="Blocked token"):
            await gateway.cancel_many(ids)
        with pytest.raises(AuthenticationRejected):
            await gateway.get_order(ids[0])
        sandbox.blocked, sandbox.forbidden = False, frozenset()
        outcomes = await gateway.cancel_many(ids)
        assert {type(outcome) for outcome in outcomes} == {Canceled}


async def test_states_of_the_oldest_generation() -> None:
    """The oldest word for open reads as open; a word that no page knows proves nothing."""
    words = {Recorded.OPEN: "waiting", Recorded.EXECUTED_COMPLETELY: "vaporized"}
    async with vendor(strict(state_words=words)) as (sandbox, gateway):
        order_id = sandbox.add_order()
        snapshot = await gateway.get_order(order_id)
        assert (snapshot.state, snapshot.vendor_state) == (OrderState.OPEN, "waiting")
        sandbox.fill(order_id)
        snapshot = await gateway.get_order(order_id)
        assert (snapshot.state, snapshot.vendor_state) == (OrderState.UNKNOWN, "vaporized")
        outcome = await gateway.cancel(order_id)
        assert isinstance(outcome, AlreadyClosed)
        assert (outcome.state, outcome.executed) == (OrderState.CLOSED, None)


# -- REST out of reach, or behind ---------------------------------------------------------------------------------

OUTAGES: dict[str, Callable[[str], Fault] | None] = {
    "refused": None,
    "500": lambda to: faults.server_error(to, times=99),
    "HTML 502": lambda to: faults.html_page(to, times=99),
    "HTML 200": lambda to: faults.html_page(to, status=200, times=99),
    "HTML 404": lambda to: faults.html_page(to, status=404, times=99),
    "empty": lambda to: faults.empty_body(to, times=99),
    "array": lambda to: faults.json_array(to, times=99),
    "retyped": lambda to: faults.wrong_types(to, times=99),
    "cut": lambda to: faults.drop_after(to, times=99),
    "half a body": lambda to: faults.truncated(to, times=99),
    "hang": lambda to: faults.hang_before(to, times=99),
    "401": lambda to: faults.replaced(to, status=401, times=99),
    "429": lambda to: faults.rate_limited(to, times=99),
    "redirected": lambda to: faults.replaced(
        to, status=302, body=b"", headers={"Location": "/"}, times=99
    ),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("generation", Generation)
@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
async def test_closed_order_while_rest_is_out(
    outage: Callable[[str], Fault] | None, generation: Generation
) -> None:
    """The socket alone still ends in a true outcome: closed where it says so, Unknown in doubt."""
    async with vendor(strict(generation=generation), now=virtual_now()) as (sandbox, gateway):
        if outage is None:
            await sandbox.close_rest()
        else:
            sandbox.faults.add(outage("order"), outage("order"))
        new = generation is Generation.NEW

        filled = sandbox.add_order()
        sandbox.fill(filled)
        outcome = await gateway.cancel(filled, timeout=300)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is (OrderState.CLOSED if new else OrderState.FILLED)
        assert (outcome.executed, outcome.evidence) == (None, Evidence.REPLY)
        assert lie(sandbox, outcome) is None

        doubted = sandbox.add_order()
        sandbox.faults.add(faults.drop_after("cancel"))
        outcome = await gateway.cancel(doubted, timeout=300)
        assert isinstance(outcome, Unknown)
        assert not outcome.closed
        assert sandbox.orders[doubted].state is Recorded.CANCELED

        lost = sandbox.add_order()
        sandbox.faults.add(faults.drop_before("cancel"))
        outcome = await gateway.cancel(lost, timeout=300)
        assert isinstance(outcome, Canceled)
        assert outcome.evidence is Evidence.REPLY


@pytest.mark.virtual_time
@pytest.mark.parametrize("generation", Generation)
async def test_rest_lag_never_makes_a_lie(generation: Generation) -> None:
    """A view by REST that is behind is never taken for proof of what it cannot know."""
    rules = strict(generation=generation, rest_lag=5.0)
    async with vendor(rules, now=virtual_now()) as (sandbox, gateway):
        await gateway.warm_up()

        async def judged(*befalls: Fault, fill: str | None = None, end: str = "") -> CancelOutcome:
            order_id = sandbox.add_order(amount="0.004", external_id=None)
            await asyncio.sleep(10)
            if fill is not None:
                sandbox.fill(order_id, fill)
            if end:
                getattr(sandbox, end)(order_id)
            sandbox.faults.add(*befalls)
            outcome = await gateway.cancel(order_id, timeout=60)
            assert lie(sandbox, outcome) is None
            return outcome

        for fill, end in itertools.product([None, "0.001"], ["", "fill", "cancel_behind_back"]):
            await judged(fill=fill, end=end)
            for fault in (faults.drop_after("cancel"), faults.drop_before("cancel")):
                await judged(fault, fill=fill, end=end)
                await judged(fault, faults.fill_in_the_race("cancel"), fill=fill)
                await judged(fault, faults.partial_fill_in_the_race("cancel"), fill=fill)
        fresh = sandbox.add_order()
        sandbox.fill(fresh)
        outcome = await gateway.cancel(fresh, timeout=60)
        assert isinstance(outcome, AlreadyClosed)
        assert lie(sandbox, outcome) is None
        with pytest.raises(OrderNotFound):
            await gateway.get_order(sandbox.add_order())


# -- lost replies -------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_whoever_must_not_repeat_looks() -> None:
    """One connection lost with many cancels uses up the retry quota: the rest are read back, not given up."""
    retry = RetryPolicy(base=0.001, quota=3, quota_refill=0)
    async with vendor(gateway_retry=retry) as (sandbox, gateway):
        orders = [sandbox.add_order() for _ in range(20)]
        sandbox.faults.add(faults.drop_after("cancel"))
        outcomes = await gateway.cancel_many(orders, timeout=60)
        assert [lie(sandbox, outcome) for outcome in outcomes] == [None] * 20
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert Evidence.READ_BACK in {outcome.evidence for outcome in outcomes}


async def test_a_quota_that_is_used_up_is_named() -> None:
    """Where the look fails as well, the outcome says why nothing more was tried."""
    retry = RetryPolicy(base=0.001, quota=0)
    async with vendor(gateway_retry=retry) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(faults.drop_after("cancel"), faults.drop_before("order", times=2))
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, Unknown)
        assert outcome.message is not None
        assert outcome.message.endswith("; the retry quota is used up")


ERROR_400 = frame(400, error(40000, "Invalid parameters"))
LOST: dict[str, Fault] = {
    "cut before": faults.drop_before("cancel"),
    "cut after": faults.drop_after("cancel"),
    "reset before": faults.drop_before("cancel", reset=True),
    "reset after": faults.drop_after("cancel", reset=True),
    "hang before": faults.hang_before("cancel"),
    "hang after": faults.hang_after("cancel"),
    "late": faults.late("cancel", delay=1.0),
    "too late": faults.late("cancel", delay=20.0),
    "duplicate": socket_faults.duplicated("cancel"),
    "reordered": socket_faults.reordered("cancel", within=2.0),
    "contradicted by 500": socket_faults.contradicted("cancel"),
    "contradicted first by 500": socket_faults.contradicted("cancel", first=True),
    "contradicted by 404": socket_faults.contradicted("cancel", status=404),
    "contradicted first by 429": socket_faults.contradicted("cancel", status=429, first=True),
    "malformed": faults.malformed_json("cancel"),
    "malformed, unprocessed": faults.malformed_json("cancel", processed=False),
    "binary": socket_faults.binary_frame("cancel"),
    "binary of something else": socket_faults.binary_frame("cancel", body=b"\x00\xff"),
    "to another": socket_faults.unaddressed("cancel"),
    "to a number": socket_faults.unaddressed("cancel", address=7.0),
    "to nobody": socket_faults.unaddressed("cancel", address=None),
    "uninvited": socket_faults.uninvited("cancel", body=b'{"id":1,"topic":"order_status"}'),
    "half a frame": faults.truncated("cancel"),
    "half a frame, reset": faults.truncated("cancel", reset=True),
    "wrong types": faults.wrong_types("cancel"),
    "HTML": faults.html_page("cancel", processed=True),
    "HTML, unprocessed": faults.html_page("cancel"),
    "empty": faults.empty_body("cancel"),
    "array": faults.json_array("cancel"),
    "huge": faults.huge_body("cancel", size=2_000_000),
    "500": faults.server_error("cancel", processed=True),
    "500, unprocessed": faults.server_error("cancel"),
    "503": faults.server_error("cancel", status=503, processed=True),
    "503, unprocessed": faults.server_error("cancel", status=503),
    "refusal of what was done": faults.replaced(
        "cancel", status=400, body=frame(504, error(None, "Gateway timeout")), processed=True
    ),
    "closing 1001": socket_faults.closing(1001, "cancel"),
    "closing 1001, processed": socket_faults.closing(1001, "cancel", processed=True),
    "closing 1001, replied": socket_faults.closing(1001, "cancel", replied=True),
    "closing 1012": socket_faults.closing(1012, "cancel"),
    "closing 1012, processed": socket_faults.closing(1012, "cancel", processed=True),
    "closing 1012, replied": socket_faults.closing(1012, "cancel", replied=True),
    "429": faults.rate_limited("cancel"),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("generation", Generation)
@pytest.mark.parametrize("fault", LOST.values(), ids=LOST)
async def test_lost_reply(fault: Fault, generation: Generation) -> None:
    """Whatever becomes of a reply, and of the order meanwhile: the order's record proves the outcome."""
    rules = strict(generation=generation)
    async with vendor(rules, now=virtual_now(), gateway_retry=PROMPT) as (sandbox, gateway):
        await judge_every_life(sandbox, gateway, fault)


@pytest.mark.virtual_time
@pytest.mark.parametrize("patience", [15.0, 5.0])
@pytest.mark.parametrize("processed", [True, False])
@pytest.mark.parametrize("reply", SlowReply)
async def test_too_slow(reply: SlowReply, processed: bool, patience: float) -> None:
    """A request that exceeds the vendor's processing time, whatever it is answered and whoever is more patient."""
    rules = strict(slow_reply=reply, slow_processed=processed)
    async with vendor(
        rules, now=virtual_now(), gateway_request_timeout=patience, gateway_retry=PROMPT
    ) as (sandbox, gateway):
        await judge_every_life(sandbox, gateway, faults.too_slow("cancel"))


async def judge_every_life(sandbox: RipioSandbox, gateway: RipioGateway, fault: Fault) -> None:
    """Cancel orders in every state, one after the other, each befallen by the fault: all are proved."""
    processed = fault.processing is faults.Processing.NORMAL
    race = msgspec.structs.replace(fault, processing=faults.Processing.RACE)
    part = msgspec.structs.replace(fault, processing=faults.Processing.PARTIAL_RACE)
    lives: list[tuple[str, list[Fault], set[str]]] = [
        ("open", [fault], {"Canceled"}),
        ("partly", [fault], {"Canceled"}),
        ("filled", [fault], {"FILLED"}),
        ("canceled", [fault], {"Canceled", "CANCELED"}),
        ("open", [race] if processed else [fault, faults.fill_in_the_race("cancel")], {"FILLED"}),
        (
            "open",
            [part] if processed else [fault, faults.partial_fill_in_the_race("cancel")],
            {"Canceled"},
        ),
    ]
    if fault.processing is faults.Processing.TOO_SLOW:
        lives = lives[:4]
    names = itertools.count()
    for (life, befalls, expected), by_id in itertools.product(lives, [True, False]):
        external_id = f"ñ/{next(names)}"
        order_id = sandbox.add_order(amount="0.00000008", external_id=external_id)
        if life == "partly":
            sandbox.fill(order_id, "0.00000003")
        elif life == "filled":
            sandbox.fill(order_id)
        elif life == "canceled":
            sandbox.cancel_behind_back(order_id)
        sandbox.faults.clear()
        sandbox.faults.add(*befalls)
        ref = OrderRef(id=order_id) if by_id else OrderRef(client_id=external_id)
        outcome = await gateway.cancel(ref, timeout=200)
        assert lie(sandbox, outcome) is None
        told = outcome.state.name if isinstance(outcome, AlreadyClosed) else type(outcome).__name__
        # "Canceled" by this cancel, or by what its lost reply did: the order is dead, and not filled.
        assert told in expected | ({"CANCELED"} if "Canceled" in expected else set())
    sandbox.faults.clear()
    assert isinstance(await gateway.cancel(sandbox.add_order()), Canceled)


@pytest.mark.virtual_time
@pytest.mark.parametrize("lost", [faults.drop_after, faults.drop_before, faults.hang_before])
async def test_nothing_is_guessed_while_the_vendor_is_out(lost: Callable[..., Fault]) -> None:
    """With every answer lost, the outcome is Unknown, and the number of requests is bounded."""
    async with vendor(now=virtual_now(), gateway_retry=PROMPT) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(lost("cancel", times=99), lost("order", times=99))
        outcome = await gateway.cancel(order_id, timeout=300)
        assert isinstance(outcome, Unknown)
        assert (outcome.wire, outcome.evidence) == (Wire.MAYBE_SENT, Evidence.NONE)
        assert outcome.attempts == len(sandbox.requests_to("cancel")) == 4
        assert len(sandbox.requests_to("order")) <= 4


@pytest.mark.virtual_time
async def test_doubt_is_remembered_between_calls_and_ends_with_proof() -> None:
    """After an Unknown "not found" proves nothing in the next call; proof ends the doubt."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.drop_after("cancel", times=4))
        sandbox.faults.add(faults.drop_before("order", times=4))
        assert isinstance(await gateway.cancel(NOWHERE, timeout=300), Unknown)
        again = await gateway.cancel(NOWHERE, timeout=300)
        assert isinstance(again, Unknown)
        assert again.code == "40401"
        order_id = sandbox.add_order()
        sandbox.faults.add(faults.drop_after("cancel", times=4))
        sandbox.faults.add(faults.drop_before("order", times=4))
        assert isinstance(await gateway.cancel(order_id, timeout=300), Unknown)
        sandbox.faults.add(faults.hang_before("cancel"))
        assert isinstance(await gateway.cancel(order_id, timeout=0.001), Unknown)
        assert isinstance(await gateway.cancel(order_id, timeout=300), Canceled)
        assert isinstance(await gateway.cancel(order_id, timeout=300), AlreadyClosed)


@pytest.mark.virtual_time
async def test_timed_out_request_is_swept_once() -> None:
    """The timer for timeouts does not run again and again in the moment in which it is due."""
    loop = asyncio.get_running_loop()
    sweeps: Counter[float] = Counter()
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        socket = gateway._socket
        sweep = socket._sweep

        def counted() -> None:
            sweeps[loop.time()] += 1
            if sweeps[loop.time()] > 50:
                socket._timeout = 0.0  # lets the test end
            sweep()

        socket._sweep = counted  # type: ignore[method-assign]
        await gateway.warm_up()
        await asyncio.sleep(1022.0137 - loop.time())
        now = loop.time()
        # So many seconds that their end, less themselves, lies before their beginning: floats round.
        candidates = [n / 1000 for n in range(2500, 4000)]
        socket._timeout = next(t for t in candidates if now > now + (now + t - now) - t)
        sandbox.faults.add(faults.hang_after("cancel"))
        assert isinstance(await gateway.cancel(sandbox.add_order(), timeout=60), Canceled)
        assert max(sweeps.values()) < 5


@pytest.mark.virtual_time
async def test_frozen_socket() -> None:
    """A peer that falls silent with TCP connected is found out, and a new socket serves."""
    async with vendor(now=virtual_now(), gateway_retry=PROMPT) as (sandbox, gateway):
        await gateway.warm_up()
        ids = [sandbox.add_order() for _ in range(4)]
        sandbox.freeze(reads=True)
        outcomes = await gateway.cancel_many(ids[:2], timeout=200)
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert {outcome.evidence for outcome in outcomes} == {Evidence.READ_BACK}
        sandbox.freeze()
        outcomes = await gateway.cancel_many(ids[2:], timeout=200)
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert not any(lie(sandbox, outcome) for outcome in outcomes)


@pytest.mark.virtual_time
async def test_idle_socket_is_kept_and_closed_socket_reopened() -> None:
    """Minutes of idleness cost one socket; one that the vendor closes while idle is opened again."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        await gateway.warm_up()
        await asyncio.sleep(600)
        assert isinstance(await gateway.cancel(sandbox.add_order()), Canceled)
        assert sandbox.sockets_opened == 1
        sandbox.close_sockets(1001)
        await asyncio.sleep(1)
        assert isinstance(await gateway.cancel(sandbox.add_order()), Canceled)
        assert sandbox.sockets_opened == 2


@pytest.mark.parametrize("announce", [Announce.BEFORE, Announce.AFTER])
async def test_uninvited_events(announce: Announce) -> None:
    """Order events on the same socket harm nobody, before or after the replies."""
    async with vendor(strict(announce_orders=announce)) as (sandbox, gateway):
        await gateway.warm_up()
        ids = [sandbox.add_order() for _ in range(20)]
        sandbox.fill(ids[0])
        sandbox.broadcast_raw(b"\x00", binary=True)
        sandbox.broadcast_raw(b"[]")
        outcomes = await gateway.cancel_many(ids)
        assert not any(lie(sandbox, outcome) for outcome in outcomes)
        assert [type(outcome) for outcome in outcomes] == [AlreadyClosed] + [Canceled] * 19
        assert sandbox.sockets_opened == 1


# -- the clock ----------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize("generation", Generation)
@pytest.mark.parametrize("ahead", [30.0, -30.0])
async def test_skewed_and_stepping_clock(
    ahead: float, generation: Generation, stamped: bool
) -> None:
    """One rejected attempt for each step of the clock, whatever it learned from; no signature is repeated."""
    rules = strict(generation=generation, frame_timestamp=stamped)
    async with vendor(rules, now=virtual_now()) as (sandbox, gateway):
        for offset in (ahead, 0.0, ahead, 2 * ahead, 0.0):
            sandbox.clock_offset = offset
            await asyncio.sleep(2)
            before = len(sandbox.requests_to("cancel"))
            outcomes = [await gateway.cancel(sandbox.add_order(), timeout=60) for _ in range(3)]
            assert {type(outcome) for outcome in outcomes} == {Canceled}
            extra = len(sandbox.requests_to("cancel")) - before - 3
            assert extra == 1
            assert [outcome.evidence for outcome in outcomes] == [Evidence.REPLY] * 3
            assert not any(lie(sandbox, outcome) for outcome in outcomes)
        assert len(set(sandbox.signatures)) == len(sandbox.signatures)


@pytest.mark.virtual_time
@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("ahead", [30.0, -30.0])
async def test_skewed_clock_in_reads(ahead: float, observed: bool) -> None:
    """A read finds the vendor's time as a cancel does, in the newer words and in the observed ones."""
    generation = Generation.OLD if observed else Generation.NEW
    rules = strict(generation=generation, observed_auth_errors=observed)
    async with vendor(rules, now=virtual_now()) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.clock_offset = ahead
        assert (await gateway.get_order(order_id)).state is OrderState.OPEN
        assert len(sandbox.requests_to("order")) == 2
        assert isinstance(await gateway.cancel(order_id), Canceled)
        assert len(sandbox.requests_to("cancel")) == 1


@pytest.mark.virtual_time
async def test_cached_server_time() -> None:
    """An answer that the vendor gives again for 30 seconds does not harm an estimate that fresh replies made."""
    rules = strict(server_time_cache=30.0, frame_timestamp=True)
    async with vendor(rules, now=virtual_now()) as (sandbox, gateway):
        for seconds in (0.0, 20.0, 9.0, 40.0, 25.0):
            await asyncio.sleep(seconds)
            await gateway.server_time()
            assert isinstance(await gateway.cancel(sandbox.add_order()), Canceled)
        assert len(sandbox.requests_to("cancel")) == 5
        sandbox.clock_offset = 30.0
        assert isinstance(await gateway.cancel(sandbox.add_order(), timeout=60), Canceled)
        assert len(sandbox.requests_to("cancel")) == 7


@pytest.mark.virtual_time
async def test_step_while_server_time_is_cached() -> None:
    """Signed replies by REST carry the time uncached: a step of the clock can be found out at once."""
    rules = strict(server_time_cache=30.0)
    async with vendor(rules, now=virtual_now()) as (sandbox, gateway):
        await gateway.server_time()
        assert isinstance(await gateway.cancel(sandbox.add_order()), Canceled)
        await asyncio.sleep(10)
        sandbox.clock_offset = 30.0
        assert isinstance(await gateway.cancel(sandbox.add_order(), timeout=60), Canceled)


@pytest.mark.virtual_time
@pytest.mark.parametrize("generation", Generation)
async def test_old_answer_of_server_time_at_the_start(generation: Generation) -> None:
    """An answer that was cached 25 seconds ago for somebody else does not spoil a right clock."""
    rules = strict(server_time_cache=30.0, generation=generation)
    async with vendor(rules, now=virtual_now()) as (sandbox, gateway), another(sandbox) as other:
        await asyncio.gather(gateway.server_time(), other.server_time())
        await asyncio.sleep(25)
        await other.warm_up()
        assert isinstance(await other.cancel(sandbox.add_order()), Canceled)
        assert len(sandbox.requests_to("cancel")) == 1


def another(sandbox: RipioSandbox, **options: Any) -> WatchedRipio:
    """A further gateway on the sandbox's account."""
    settings: dict[str, Any] = {
        "ws_url": sandbox.ws_url,
        "rest_url": sandbox.rest_url,
        "limiter": RateLimiter(),
        "rate_limit": UNMETERED,
        "retry": QUICK,
    }
    return WatchedRipio(sandbox.api_token, sandbox.secret, **(settings | options))


TIME_OUTAGES: dict[str, Fault] = {
    "500": faults.server_error("server_time", times=9),
    "HTML": faults.html_page("server_time", status=200, times=9),
    "hang": faults.hang_before("server_time", times=9),
    "429": faults.rate_limited("server_time", times=9),
    "absurd": faults.replaced(
        "server_time", status=200, body=b'{"data":{"timestamp":99999999999999999}}', times=9
    ),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", TIME_OUTAGES.values(), ids=TIME_OUTAGES)
async def test_server_time_out_of_reach(fault: Fault) -> None:
    """Replies that carry the time are enough; without any the account is rejected, after one fresh attempt."""
    for stamped in (True, False):
        rules = strict(frame_timestamp=stamped)
        async with vendor(rules, now=virtual_now()) as (sandbox, gateway):
            sandbox.faults.add(fault)
            sandbox.clock_offset = 30.0
            order_id = sandbox.add_order()
            if stamped:
                assert isinstance(await gateway.cancel(order_id, timeout=100), Canceled)
            else:
                with pytest.raises(AuthenticationRejected) as caught:
                    await gateway.cancel(order_id, timeout=100)
                assert caught.value.code == "40011"
                assert sandbox.orders[order_id].state is Recorded.OPEN
            assert len(sandbox.requests_to("cancel")) == 2


@pytest.mark.virtual_time
async def test_server_time_that_fails_once() -> None:
    """It is asked again while the fresh signature waits."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.server_error("server_time"))
        sandbox.clock_offset = 30.0
        assert isinstance(await gateway.cancel(sandbox.add_order(), timeout=100), Canceled)
        assert len(sandbox.requests_to("cancel")) == 2
        assert len(sandbox.requests_to("server_time")) == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("ahead", [3, 20, 100])
async def test_a_server_whose_date_is_wrong(ahead: int, warm: bool) -> None:
    """What is in front of the vendor dates its replies by another clock: where the answer could be so old, that
    misleads one cancel, and no further."""
    now = virtual_now()
    async with vendor(now=now) as (sandbox, gateway):
        sandbox.clock_offset = 30.0

        def told() -> Fault:
            moment = now() + timedelta(seconds=30)
            body = msgspec.json.encode({"data": {"timestamp": int(moment.timestamp() * 1000)}})
            date = faults.http_date(moment + timedelta(seconds=ahead))
            return faults.replaced("server_time", status=200, body=body, headers={"Date": date})

        sandbox.faults.add(told(), told(), told())
        if warm:
            await gateway.warm_up()
        if ahead > 3 and not warm:
            with pytest.raises(AuthenticationRejected):
                await gateway.cancel(sandbox.add_order(), timeout=100)
            await asyncio.sleep(1.0)
        for _ in range(3):
            assert isinstance(await gateway.cancel(sandbox.add_order(), timeout=100), Canceled)


@pytest.mark.virtual_time
@pytest.mark.parametrize("stamped", [True, False])
async def test_wrong_secret(stamped: bool) -> None:
    """A wrong secret is raised after exactly one fresh attempt, in cancels, reads and the vendor's own calls."""
    rules = strict(frame_timestamp=stamped)
    async with vendor(rules, now=virtual_now()) as (sandbox, _):
        order_id = sandbox.add_order()
        async with WatchedRipio(
            sandbox.api_token,
            f"wrong-{CANARY}",
            ws_url=sandbox.ws_url,
            rest_url=sandbox.rest_url,
            limiter=RateLimiter(),
            rate_limit=UNMETERED,
            retry=QUICK,
        ) as gateway:
            for call in (gateway.cancel, gateway.get_order, gateway.order):
                before = len(sandbox.signatures)
                with pytest.raises(AuthenticationRejected) as caught:
                    await call(order_id)
                assert caught.value.code == "40011"
                assert len(sandbox.signatures) == before + 2
            before = len(sandbox.signatures)
            with pytest.raises(AuthenticationRejected):
                await gateway.create(pair="BTC_BRL", side="buy", type="limit", amount=1, price=1)
            assert len(sandbox.signatures) == before + 2
            with pytest.raises(AuthenticationRejected):
                await gateway.cancel_many([order_id, NOWHERE])
            sandbox.secret = f"wrong-{CANARY}"
            outcomes = await gateway.cancel_many([order_id, NOWHERE])
            assert [type(outcome) for outcome in outcomes] == [Canceled, NotFound]
        assert len(set(sandbox.signatures)) == len(sandbox.signatures)


@pytest.mark.virtual_time
async def test_secret_revoked_in_the_middle() -> None:
    """What was proved before the account was rejected is kept; the rest is not proved."""
    limit = RateLimit(1, per=1.0, margin=0.0)
    async with vendor(now=virtual_now(), gateway_rate_limit=limit) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(8)]
        canceling = asyncio.create_task(gateway.cancel_many(ids))
        await asyncio.sleep(2.5)
        sandbox.secret = "another"
        outcomes = await canceling
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds[:3] == [Canceled] * 3
        assert set(kinds[3:]) <= {Unknown, NotSent}
        assert not any(lie(sandbox, outcome) for outcome in outcomes)


@pytest.mark.virtual_time
@pytest.mark.parametrize("ahead", [30.0, -30.0])
async def test_one_estimate_for_all_who_were_rejected(ahead: float) -> None:
    """A hundred cancels signed by a wrong clock ask for the time once."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(100)]
        sandbox.clock_offset = ahead
        outcomes = await gateway.cancel_many(ids, timeout=60)
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert len(sandbox.requests_to("server_time")) == 1
        assert len(sandbox.requests_to("cancel")) == 200
        assert len(set(sandbox.signatures)) == len(sandbox.signatures)


@pytest.mark.virtual_time
async def test_one_estimate_besides_a_warm_up() -> None:
    """A warm-up that ends meanwhile does not make the rejected ask twice."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.late("server_time", delay=0.5))
        warming = asyncio.create_task(gateway.warm_up())
        await sandbox.arrived(1, "server_time")
        sandbox.clock_offset = -30.0
        canceling = [asyncio.create_task(gateway.cancel(sandbox.add_order(), timeout=60))]
        await warming
        await asyncio.sleep(0.1)
        canceling.append(asyncio.create_task(gateway.cancel(sandbox.add_order(), timeout=60)))
        outcomes = await asyncio.gather(*canceling)
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert (
            len(sandbox.requests_to("cancel")) == 3
        )  # whoever comes meanwhile waits for the estimate
        assert len(sandbox.requests_to("server_time")) == 2


@pytest.mark.virtual_time
async def test_a_vendor_that_does_not_tell_the_time_holds_up_no_cancel() -> None:
    """Whoever signs while the time is asked for waits for a moment, and not for the answer."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        body = frame(400, error(40011, "Invalid signature"))
        sandbox.faults.add(
            faults.replaced("cancel", status=200, body=body), faults.hang_before("server_time")
        )
        started = asyncio.get_running_loop().time()
        ids = [sandbox.add_order() for _ in range(5)]
        outcomes = [await gateway.cancel(order, timeout=60) for order in ids]
        passed = asyncio.get_running_loop().time() - started
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert passed < 2 * config.CLOCK_PATIENCE


@pytest.mark.virtual_time
@pytest.mark.parametrize("ahead", [30_000, -30_000])
async def test_a_vendor_whose_replies_tell_a_wrong_time_is_asked_for_the_right_one(
    ahead: int,
) -> None:
    """The time in replies misleads one signature; after that the vendor's clock endpoint counts."""
    clock = virtual_now()
    async with vendor(now=clock) as (sandbox, gateway):
        for number in range(5):
            stamp = int(clock().timestamp() * 1000) + ahead
            order_id = sandbox.add_order()
            result = {"id": order_id, "status": "canceled", "executed_amount": 0}
            body = msgspec.json.encode({"status": 200, "result": result, "timestamp": stamp})
            if number == 0:
                sandbox.faults.add(faults.replaced("cancel", status=200, body=body, processed=True))
            outcome = await gateway.cancel(order_id, timeout=60)
            assert isinstance(outcome, Canceled)
            await asyncio.sleep(2.0)
        assert len(sandbox.requests_to("cancel")) == 6
        assert len(sandbox.requests_to("server_time")) == 1


# -- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("profile", [BASIC, APPROVED], ids=["basic", "approved"])
async def test_the_vendors_meter_rejects_nothing(profile: Profile, seed: int) -> None:
    """Cancels, reads, creates and read-backs together stay within the limit as the vendor sees it, through jitter."""
    requests = profile.rate_limit.requests
    async with vendor(
        now=virtual_now(),
        requests_per_window=requests,
        window=1.0,
        public_requests_per_window=1,
        jitter=0.04,
        seed=seed,
        gateway_profile=profile,
        gateway_rate_limit=None,
    ) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(12)]
        for order_id in ids[::3]:
            sandbox.fill(order_id)
        calls: list[Any] = [
            gateway.cancel_many(ids),
            gateway.server_time(timeout=100),
            gateway.server_time(timeout=100),
            gateway.open_orders(timeout=100),
            gateway.update(sandbox.add_order(), price=5, timeout=100),
            *(gateway.get_order(order_id, timeout=100) for order_id in ids[:4]),
            *(
                gateway.create(
                    pair="BTC_BRL", side="buy", type="limit", amount=1, price=1, timeout=100
                )
                for _ in range(2)
            ),
        ]
        sandbox.faults.add(faults.drop_after("cancel"))
        outcomes, *_ = await asyncio.gather(*calls)
        assert not any(lie(sandbox, outcome) for outcome in outcomes)
        assert all(outcome.closed for outcome in outcomes)
        assert sandbox.rejections == 0
        assert sandbox.peak_in_window() <= requests


@pytest.mark.virtual_time
@pytest.mark.parametrize("header", RetryAfter)
@pytest.mark.parametrize("worded", TooMany)
async def test_too_many_requests(worded: TooMany, header: RetryAfter) -> None:
    """A 429 in any wording, on either channel, is no answer: the request is made again when it may be."""
    rules = strict(socket_too_many=worded, rest_too_many=worded, retry_after=header)
    limit = RateLimit(50, per=0.5, margin=0.0)
    async with vendor(
        rules, now=virtual_now(), requests_per_window=2, window=0.5, gateway_rate_limit=limit
    ) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(4)]
        sandbox.fill(ids[0])
        outcomes = await gateway.cancel_many(ids, timeout=100)
        assert not any(lie(sandbox, outcome) for outcome in outcomes)
        snapshots = await asyncio.gather(*(gateway.get_order(i, timeout=100) for i in ids))
        assert snapshots[0].state is OrderState.FILLED
        assert sandbox.rejections > 0


@pytest.mark.virtual_time
async def test_the_vendors_day_is_over() -> None:
    """Limit Exceeded: the cancel under way is not proved, and nothing more is sent today."""
    async with vendor(now=virtual_now(), daily_quota=2) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(6)]
        assert isinstance(await gateway.cancel(ids[0]), Canceled)
        assert (await gateway.get_order(ids[0])).state is OrderState.CANCELED
        outcome = await gateway.cancel(ids[1], timeout=60)
        assert isinstance(outcome, Unknown)
        assert lie(sandbox, outcome) is None
        arrived = len(sandbox.requests)
        started = asyncio.get_running_loop().time()
        outcomes = [await gateway.cancel(ids[2]), *await gateway.cancel_many(ids[3:])]
        assert {type(each) for each in outcomes} == {NotSent}
        assert "quota" in str(outcomes[0].message)
        for call in (gateway.get_order, gateway.order):
            with pytest.raises(QuotaExhausted) as caught:
                await call(ids[0])
            assert caught.value.retry_at.utcoffset() is not None
        with pytest.raises(QuotaExhausted):
            await gateway.create(pair="BTC_BRL", side="buy", type="limit", amount=1, price=1)
        assert asyncio.get_running_loop().time() == pytest.approx(started, abs=0.001)
        assert len(sandbox.requests) == arrived
        assert not any(lie(sandbox, each) for each in outcomes)


@pytest.mark.virtual_time
async def test_the_day_ends_while_an_order_is_read_back() -> None:
    """Limit Exceeded by REST: the socket's words stand."""
    async with vendor(now=virtual_now(), daily_quota=1) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.fill(order_id)
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.CLOSED
        assert isinstance(await gateway.cancel(sandbox.add_order(), timeout=60), NotSent)
        assert len(sandbox.requests) == 2


@pytest.mark.virtual_time
async def test_our_own_count_of_the_day() -> None:
    """A profile's quota ends the day before the vendor must."""
    profile = Profile(UNMETERED, daily_quota=5)
    async with vendor(now=virtual_now(), daily_quota=5, gateway_profile=profile) as (
        sandbox,
        gateway,
    ):
        ids = [sandbox.add_order() for _ in range(8)]
        outcomes = [await gateway.cancel(order_id) for order_id in ids]
        assert [type(each) for each in outcomes] == [Canceled] * 5 + [NotSent] * 3
        assert sandbox.rejections == 0


@pytest.mark.virtual_time
async def test_our_own_count_of_the_day_at_once() -> None:
    """The same where all want to leave at the same time."""
    profile = Profile(UNMETERED, daily_quota=5)
    async with vendor(now=virtual_now(), daily_quota=5, gateway_profile=profile) as (
        sandbox,
        gateway,
    ):
        outcomes = await gateway.cancel_many([sandbox.add_order() for _ in range(8)])
        assert sandbox.rejections == 0
        assert Counter(type(each) for each in outcomes) == {Canceled: 5, NotSent: 3}


@pytest.mark.virtual_time
async def test_two_gateways_on_one_account_share_its_budget() -> None:
    """Without being told, gateways on one token and host stay within one limit together."""
    async with vendor(
        now=virtual_now(),
        requests_per_window=2,
        window=1.0,
        gateway_limiter=None,
        gateway_rate_limit=RateLimit(2, per=1.0),
    ) as (sandbox, first):
        limit = RateLimit(2, per=1.0)
        async with another(sandbox, limiter=None, rate_limit=limit) as second:
            ids = [sandbox.add_order() for _ in range(8)]
            outcomes = await asyncio.gather(first.cancel_many(ids[:4]), second.cancel_many(ids[4:]))
            assert {type(each) for each in itertools.chain(*outcomes)} == {Canceled}
            assert sandbox.rejections == 0


@pytest.mark.virtual_time
async def test_cancels_go_ahead_of_reads() -> None:
    """A cancel is sent before reads that were queued earlier."""
    limit = RateLimit(1, per=1.0, margin=0.0)
    async with vendor(now=virtual_now(), gateway_rate_limit=limit) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(4)]
        reads = [asyncio.create_task(gateway.get_order(order_id)) for order_id in ids]
        await asyncio.sleep(0.5)
        assert isinstance(await gateway.cancel(ids[0]), Canceled)
        assert sum(read.done() for read in reads) == 1
        assert [request.endpoint for request in sandbox.requests] == ["order", "cancel"]
        for read in reads:
            read.cancel()
        await asyncio.wait(reads)


@pytest.mark.virtual_time
@pytest.mark.parametrize("number", [3, 6])
async def test_first_come_first_served(number: int) -> None:
    """Cancels leave in the order in which they were asked for."""
    async with vendor(now=virtual_now(), gateway_profile=APPROVED, gateway_rate_limit=None) as (
        sandbox,
        gateway,
    ):
        await gateway.warm_up()
        ids = [sandbox.add_order() for _ in range(number)]
        await gateway.cancel_many(ids)
        arrived = [request.body["params"]["id"] for request in sandbox.requests_to("cancel")]
        assert arrived == ids


# -- lifetime -----------------------------------------------------------------------------------------------------


async def test_from_task_to_task() -> None:
    """Opened in one task, used from many, closed in another."""
    async with vendor() as (sandbox, _):
        gateway: OrderGateway = await asyncio.create_task(another(sandbox).__aenter__())
        ids = [sandbox.add_order() for _ in range(10)]
        async with asyncio.TaskGroup() as group:
            canceling = [group.create_task(gateway.cancel(order_id)) for order_id in ids]
        assert {type(task.result()) for task in canceling} == {Canceled}
        assert sandbox.sockets_opened == 1
        await asyncio.create_task(gateway.aclose())
        assert gateway.venue == "ripio"


async def test_closed_gateway() -> None:
    """After closing every call says so and sends nothing; closing twice is fine."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        assert isinstance(await gateway.cancel(NOWHERE), NotFound)
        await gateway.aclose()
        await gateway.aclose()
        arrived = len(sandbox.requests)
        calls = [
            gateway.cancel(order_id),
            gateway.cancel_many([order_id]),
            gateway.get_order(order_id),
            gateway.order(order_id),
            gateway.orders("BTC_BRL"),
            gateway.open_orders(),
            gateway.server_time(),
            gateway.warm_up(),
            gateway.create(pair="BTC_BRL", side="buy", type="limit", amount=1, price=1),
            gateway.create(
                pair="BTC_BRL", side="buy", type="limit", amount=1, price=1, external_id="e"
            ),
            gateway.update(order_id, price=1),
            gateway.__aenter__(),
        ]
        for call in calls:
            with pytest.raises(GatewayClosed):
                await call
        assert len(sandbox.requests) == arrived


@pytest.mark.virtual_time
async def test_closing_ends_everything_with_the_truth() -> None:
    """Closing settles what waits as NotSent, what is under way as Unknown, and lets reads fail."""
    limit = RateLimit(2, per=1.0, margin=0.0)
    async with vendor(now=virtual_now(), gateway_rate_limit=limit) as (sandbox, gateway):
        sandbox.faults.add(faults.hang_after("cancel"), faults.hang_after("order"))
        ids = [sandbox.add_order() for _ in range(5)]
        flying = asyncio.create_task(gateway.cancel(ids[0]))
        reading = asyncio.create_task(gateway.get_order(ids[1]))
        await asyncio.sleep(0.1)
        queued = asyncio.create_task(gateway.cancel_many(ids[2:4]))
        creating = asyncio.create_task(
            gateway.create(pair="BTC_BRL", side="buy", type="limit", amount=1, price=1)
        )
        await asyncio.sleep(0.1)
        await asyncio.create_task(gateway.aclose())
        outcome = await flying
        assert isinstance(outcome, Unknown)
        assert outcome.wire is Wire.MAYBE_SENT
        assert [type(each) for each in await queued] == [NotSent, NotSent]
        for task in (reading, creating):
            with pytest.raises((GatewayClosed, RequestFailed)):
                await task
        assert lie(sandbox, outcome) is None
        assert len(sandbox.requests_to("create")) == 0
        await asyncio.sleep(30)
        assert len(names_asked(sandbox)) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("moment", ["connecting", "pause", "read back", "renewal"])
async def test_closing_and_canceling_in_every_phase(moment: str) -> None:
    """Closed, timed out or canceled while connecting, pausing, reading back or asking the time: true, and over."""
    for how in ("close", "timeout", "cancel"):
        slow = PROMPT if moment != "pause" else msgspec.structs.replace(PROMPT, base=60.0, cap=60.0)
        async with vendor(now=virtual_now(), gateway_retry=slow) as (sandbox, gateway):
            order_id = sandbox.add_order()
            if moment == "connecting":
                sandbox.refuse_upgrades(faults.Reply.HANG)
            elif moment == "pause":
                sandbox.faults.add(faults.drop_before("cancel"))
            elif moment == "read back":
                sandbox.fill(order_id)
                sandbox.faults.add(faults.hang_before("order"))
            else:
                sandbox.clock_offset = 30.0
                sandbox.faults.add(faults.hang_before("server_time"))
            limit = 0.01 if how == "timeout" else 100
            canceling = asyncio.create_task(gateway.cancel(order_id, timeout=limit))
            await asyncio.sleep(0.005)
            if how == "cancel":
                canceling.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await canceling
            else:
                if how == "close":
                    await gateway.aclose()
                outcome = await canceling
                assert lie(sandbox, outcome) is None
                expected: set[type[CancelOutcome]] = {
                    "connecting": {NotSent},
                    "pause": {Unknown},
                    "read back": {AlreadyClosed},
                    "renewal": {Unknown},
                }[moment]  # type: ignore[assignment]
                assert type(outcome) in expected
            asked = len(sandbox.requests_to("cancel"))
            assert asked == (0 if moment == "connecting" else 1)
            await asyncio.sleep(3)
            sandbox.accept_upgrades()
            await asyncio.sleep(100)
            assert len(sandbox.requests_to("cancel")) == asked


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", [503, 401, faults.Reply.DROP, faults.Reply.HANG])
async def test_upgrades_refused_for_a_while(how: int | faults.Reply) -> None:
    """Without a socket nothing was sent; when the vendor is back, the gateway is, too."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.refuse_upgrades(how)
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, NotSent)
        assert (outcome.attempts, outcome.wire) == (4, Wire.NOT_SENT)
        with pytest.raises(ConnectFailed) as caught:
            await gateway.warm_up(timeout=60)
        assert caught.value.wire is Wire.NOT_SENT
        with pytest.raises(ConnectFailed):
            await gateway.create(pair="BTC_BRL", side="buy", type="limit", amount=1, price=1)
        assert (await gateway.get_order(order_id)).state is OrderState.OPEN
        sandbox.refuse_upgrades(how, times=2)
        assert isinstance(await gateway.cancel(order_id, timeout=60), Canceled)
        assert sandbox.sockets_opened == 1


@pytest.mark.virtual_time
async def test_refused_connections() -> None:
    """A port that nobody listens on: NotSent, and later all is well."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        order_id = sandbox.add_order()
        await sandbox.close_ws()
        assert isinstance(await gateway.cancel(order_id, timeout=60), NotSent)
        await sandbox.open_ws()
        assert isinstance(await gateway.cancel(order_id, timeout=60), Canceled)


@pytest.mark.virtual_time
async def test_deadlines() -> None:
    """A deadline in the queue is NotSent; with the request under way it is Unknown."""
    limit = RateLimit(1, per=2.0, margin=0.0)
    async with vendor(now=virtual_now(), gateway_rate_limit=limit) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(3)]
        sandbox.faults.add(faults.hang_after("cancel"))
        outcome = await gateway.cancel(ids[0], timeout=1)
        assert isinstance(outcome, Unknown)
        assert (outcome.wire, outcome.attempts) == (Wire.MAYBE_SENT, 1)
        assert outcome.elapsed == pytest.approx(1, abs=0.01)
        assert isinstance(await gateway.cancel(ids[1], timeout=0.5), NotSent)
        with pytest.raises(RequestTimeout):
            await gateway.get_order(ids[1], timeout=0.1)
        await asyncio.sleep(10)
        assert names_asked(sandbox) == {(ids[0], None)}
        for timeout in (0, -1, float("nan"), True):
            with pytest.raises(UsageError):
                await gateway.cancel(ids[1], timeout=timeout)


async def test_foreign_session() -> None:
    """A session of the caller's own serves REST, is not closed, and its clock is corrected, too."""
    async with (
        aiohttp.ClientSession() as session,
        vendor(gateway_session=session) as (
            sandbox,
            gateway,
        ),
    ):
        order_id = sandbox.add_order(external_id="ñ/1")
        sandbox.fill(order_id)
        sandbox.clock_offset = 30.0
        snapshot = await gateway.get_order(OrderRef(client_id="ñ/1"))
        assert (snapshot.state, snapshot.executed) == (OrderState.FILLED, Decimal("0.001"))
        outcome = await gateway.cancel(order_id)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.FILLED
        await gateway.aclose()
        assert not session.closed


async def test_tls(loop_errors: list[str]) -> None:
    """Both hosts are verified: the right authority and name serve, others are never sent anything."""
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    misnamed = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("vendor.example").configure_cert(misnamed)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with vendor(ssl_context=serving, gateway_ssl=trusting) as (sandbox, gateway):
        filled, order_id = sandbox.add_order(), sandbox.add_order()
        sandbox.fill(filled)
        assert sandbox.ws_url.startswith("wss")
        assert isinstance(await gateway.cancel(order_id), Canceled)
        outcome = await gateway.cancel(filled)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.FILLED
        await never_reached(sandbox, ssl.create_default_context())
    async with vendor(ssl_context=misnamed, gateway_ssl=trusting) as (sandbox, _):
        await never_reached(sandbox, trusting)
    # In debug mode the loop reports handshakes that the sandbox's side saw fail.
    assert all("incoming connection" in report for report in loop_errors)
    loop_errors.clear()


async def never_reached(sandbox: RipioSandbox, context: ssl.SSLContext) -> None:
    """Nothing is sent to a host whose certificate does not hold."""
    before = len(sandbox.requests)
    async with another(sandbox, ssl=context) as stranger:
        assert isinstance(await stranger.cancel(sandbox.add_order()), NotSent)
        with pytest.raises(ConnectFailed):
            await stranger.get_order(NOWHERE)
        with pytest.raises(ConnectFailed):
            await stranger.warm_up()
    assert len(sandbox.requests) == before


OURS = ("brokers", "tronsave_async", "support", "aiohttp")
"""Packages whose objects are looked into."""


def slots_of(kind: type) -> list[str]:
    """The names of a class's slots."""
    slots = kind.__dict__.get("__slots__", ())
    return [slots] if isinstance(slots, str) else list(slots)


def vars_of(value: object) -> list[str]:
    """The names of an object's own attributes."""
    return list(getattr(value, "__dict__", {}))


async def test_nothing_shows_the_credentials() -> None:
    """Neither the gateway nor what it is made of prints the token, the secret or a signature."""
    async with vendor() as (sandbox, gateway):
        await gateway.cancel(sandbox.add_order())
        await gateway.get_order(sandbox.add_order())
        seen: set[int] = set()
        shown = [repr(gateway), str(gateway), repr(vars(gateway))]

        def walk(value: object, depth: int) -> None:
            if depth == 0 or id(value) in seen:
                return
            seen.add(id(value))
            shown.append(repr(value))
            inside = list(value.values()) if isinstance(value, dict) else []
            if isinstance(value, list | tuple | set):
                inside = list(value)
            elif type(value).__module__.startswith(OURS):
                names = [name for kind in type(value).__mro__ for name in slots_of(kind)]
                inside = [getattr(value, name, None) for name in [*names, *vars_of(value)]]
            for each in inside:
                walk(each, depth - 1)

        walk(gateway, 6)
        assert len(shown) > 30
        assert not [text for text in shown if CANARY in text]
        assert not [text for text in shown for each in sandbox.signatures if each in text]


def test_rules_are_strict_by_default() -> None:
    """These tests run by the rule that no signature is accepted twice."""
    assert strict().reject_replayed_signatures
    assert not RipioRules().reject_replayed_signatures


async def test_a_socket_says_how_many_requests_are_lost_with_it() -> None:
    """A `Lost` follows for each of them; a gateway that closes has told the end of all before."""
    events: list[Event] = []
    async with vendor(gateway_telemetry=events.append, gateway_retry=PROMPT) as (sandbox, gateway):
        for end in (sandbox.cut_sockets, gateway.aclose):
            del events[:]
            sandbox.faults.add(faults.hang_before("cancel", times=5))
            ids = [sandbox.add_order() for _ in range(5)]
            before = len(sandbox.requests_to("cancel"))
            canceling = asyncio.create_task(gateway.cancel_many(ids))
            await sandbox.arrived(before + 5, "cancel")
            if (ending := end()) is not None:
                await ending
            await canceling
            [at] = [n for n, event in enumerate(events) if isinstance(event, Disconnected)]
            [disconnected, *after] = events[at:]
            lost = sum(isinstance(event, Lost) for event in after)
            assert isinstance(disconnected, Disconnected)
            assert disconnected.pending == lost == (0 if end == gateway.aclose else 5)
        assert sum(isinstance(event, Lost) for event in events) == 5
