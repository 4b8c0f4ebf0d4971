"""sms4sats through the public API and real sockets. The vendor's own record is the judge."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

from brokers.sms4sats import Country, Sms4SatsGateway, config
from brokers.sms4sats.sandbox import (
    NO_NUMBER,
    REASONS,
    UNABLE_TO_SAVE,
    Blank,
    CancelAnswer,
    ClockStart,
    OrderKind,
    Problem,
    Reading,
    RetryAfter,
    Sms4SatsRules,
    Sms4SatsSandbox,
    SmsStatus,
    WireType,
    unable_to_save,
)
from brokers.sms4sats.sandbox import OrderState as Recorded
from support.canary import CANARY, WatchedSms4Sats
from support.raw_server import RawServer, Reply, http
from support.sms4sats import (
    NOWHERE,
    UNMETERED,
    cancels_of,
    encoded,
    lie,
    shown,
    vendor,
    wall_of_the_loop,
)
from tronsave_async import (
    AlreadyClosed,
    AuthenticationRejected,
    BadReply,
    BusinessRefusal,
    Canceled,
    CancelOutcome,
    ConnectFailed,
    CredentialsMissing,
    Event,
    Evidence,
    GatewayClosed,
    NotFound,
    NotSent,
    OrderGateway,
    OrderNotFound,
    OrderRef,
    OrderSnapshot,
    OrderState,
    OutcomeUnknown,
    RateLimit,
    RateLimiter,
    Refused,
    RequestTimeout,
    RetryPolicy,
    TooEarly,
    Unknown,
    UsageError,
    VendorError,
    Wire,
    WrongEndpoint,
    open_gateway,
    registry,
)
from tronsave_async import sandbox as faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async.sandbox import Fault

TWO_MINUTES = 120
OLD = 1260


def ripe(sandbox: Sms4SatsSandbox, count: int = 1, **options: Any) -> list[str]:
    """Place orders that the vendor lets cancel by now."""
    made = sandbox.now() - timedelta(seconds=TWO_MINUTES + 30)
    return [sandbox.add_order(created_at=made, **options) for _ in range(count)]


def queries(sandbox: Sms4SatsSandbox) -> list[str | None]:
    """Return the calls that arrived, in order."""
    return [request.endpoint for request in sandbox.requests]


# -- one order ------------------------------------------------------------------------------------------------


async def test_cancel() -> None:
    """A waiting order is canceled by the reply to one GET, and its invoice released."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        outcome = await gateway.cancel(order_id, timeout=5)
        assert isinstance(outcome, Canceled)
        assert outcome.order == OrderRef(id=order_id)
        assert (outcome.executed, outcome.remaining, outcome.attempts) == (None, None, 1)
        assert (outcome.evidence, outcome.wire) == (Evidence.REPLY, Wire.ANSWERED)
        assert (outcome.venue, outcome.closed) == ("sms4sats", True)
        assert sandbox.orders[order_id].released
        (request,) = sandbox.requests
        assert (request.method, request.path) == ("GET", "/cancelorder")
        assert isinstance(gateway, OrderGateway)


async def test_code_that_was_delivered_is_told_as_filled() -> None:
    """A cancel that the vendor refuses is read back: a code means settled."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        sandbox.deliver(order_id)
        outcome = await gateway.cancel(order_id)
        assert isinstance(outcome, AlreadyClosed)
        assert (outcome.state, outcome.evidence) == (OrderState.FILLED, Evidence.READ_BACK)
        assert outcome.message == REASONS[Problem.DELIVERED]
        assert queries(sandbox) == ["cancel", "status"]


@pytest.mark.parametrize("end", ["cancel_behind_back", "expire", "fail_number"])
async def test_order_that_died_before(end: str) -> None:
    """Canceled by others, by the clock or for want of a number: an error text says that the money went back."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        getattr(sandbox, end)(order_id)
        outcome = await gateway.cancel(order_id)
        assert isinstance(outcome, AlreadyClosed)
        assert (outcome.state, outcome.evidence) == (OrderState.CANCELED, Evidence.READ_BACK)
        assert lie(sandbox, outcome) is None
        snapshot = await gateway.get_order(order_id)
        assert snapshot.state is OrderState.CANCELED
        if end == "fail_number":
            assert snapshot.vendor_state == NO_NUMBER


@pytest.mark.parametrize("status", [200, 500, 409])
async def test_business_refusal_is_a_reply(status: int) -> None:
    """An HTTP 500 with a reason is an answer, not an outage: one cancel, one look, and the reason verbatim."""
    words = "Too  early, min. 120s (ünïcode)"
    reasons = {**REASONS, Problem.TOO_EARLY: words}
    rules = Sms4SatsRules(reasons=reasons, refusal_status=status)
    async with vendor(rules) as (sandbox, gateway):
        outcome = await gateway.cancel(sandbox.add_order(), timeout=5)
        assert isinstance(outcome, Unknown), (
            "it may have been canceled before, for all that its record tells"
        )
        assert (outcome.message, outcome.code) == (words, None)
        assert (outcome.attempts, outcome.last_state) == (1, OrderState.OPEN)
        assert queries(sandbox) == ["cancel", "status"]


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("shows", [False, True])
async def test_unable_to_save_data(released: bool, shows: bool) -> None:
    """The one documented failure says nothing about the order: it is read back, and canceled again if it waits."""
    async with vendor(Sms4SatsRules(unsaved_release_shows=shows)) as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        sandbox.faults.add(unable_to_save(released=released))
        outcome = await gateway.cancel(order_id, timeout=5)
        assert isinstance(outcome, Canceled)
        assert sandbox.orders[order_id].released
        seen_at_once = released and shows
        assert queries(sandbox) == ["cancel", "status", "cancel"][: 2 if seen_at_once else 3]
        assert outcome.message == (UNABLE_TO_SAVE if seen_at_once else None)


async def test_unable_to_save_without_end() -> None:
    """A vendor that never saves leaves the order unknown, in its words, after a bounded number of requests."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        sandbox.faults.add(unable_to_save(released=True, times=99))
        outcome = await gateway.cancel(order_id, timeout=30)
        assert isinstance(outcome, Unknown)
        assert (outcome.attempts, outcome.message) == (4, UNABLE_TO_SAVE)
        assert outcome.last_state is OrderState.OPEN


async def test_unknown_id() -> None:
    """An id that the vendor does not know is NotFound in the vendor's plain words only."""
    async with vendor() as (sandbox, gateway):
        outcome = await gateway.cancel(NOWHERE)
        assert isinstance(outcome, NotFound)
        assert (outcome.message, outcome.evidence) == ("order not found", Evidence.REPLY)
        with pytest.raises(OrderNotFound):
            await gateway.get_order(NOWHERE)
        reasons = {**REASONS, Problem.UNKNOWN: f"there is no {NOWHERE}"}
        sandbox.rules = Sms4SatsRules(reasons=reasons)
        outcome = await gateway.cancel(NOWHERE)
        assert isinstance(outcome, Unknown)
        assert outcome.message == "there is no ***"


# -- what the documentation leaves open ---------------------------------------------------------------------------

SITUATIONS: dict[str, Callable[[Sms4SatsSandbox, str], object]] = {
    "ripe": lambda sandbox, order_id: None,
    "early": lambda sandbox, order_id: None,
    "unpaid": lambda sandbox, order_id: None,
    "rental": lambda sandbox, order_id: None,
    "send": lambda sandbox, order_id: None,
    "delivered": lambda sandbox, order_id: sandbox.deliver(order_id),
    "canceled": lambda sandbox, order_id: sandbox.cancel_behind_back(order_id),
    "expired": lambda sandbox, order_id: sandbox.expire(order_id),
    "no_number": lambda sandbox, order_id: sandbox.fail_number(order_id),
    "unknown": lambda sandbox, order_id: None,
    "sent": lambda sandbox, order_id: sandbox.move_message(order_id, SmsStatus.DELIVERED),
    "failed": lambda sandbox, order_id: sandbox.move_message(order_id, SmsStatus.FAILED),
}
ANSWERED_BY = {
    "early": "early_cancel",
    "unpaid": "unpaid_cancel",
    "rental": "rental_cancel",
    "send": "send_cancel",
    "delivered": "delivered_cancel",
    "canceled": "repeated_cancel",
    "expired": "expired_cancel",
    "no_number": "no_number_cancel",
    "unknown": "unknown_cancel",
    "sent": "send_cancel",
    "failed": "send_cancel",
}
KINDS = {"rental": OrderKind.RENTAL} | dict.fromkeys(["send", "sent", "failed"], OrderKind.SEND)


def arrange(sandbox: Sms4SatsSandbox, situation: str) -> str:
    """Place an order in this situation; return its id."""
    if situation == "unknown":
        return NOWHERE
    made = sandbox.now() - timedelta(seconds=0 if situation == "early" else TWO_MINUTES + 1)
    order_id = sandbox.add_order(
        kind=KINDS.get(situation, OrderKind.RECEIVE), paid=situation != "unpaid", created_at=made
    )
    SITUATIONS[situation](sandbox, order_id)
    return order_id


def is_vendors_lie(situation: str, answer: CancelAnswer) -> bool:
    """Whether the vendor says OK of an order that it does not cancel: nobody can see through that."""
    if answer is CancelAnswer.ACCEPTED:
        return situation in {"delivered", "unknown", "sent"}
    ignored = answer is CancelAnswer.IGNORED
    return ignored and situation not in {"canceled", "expired", "no_number", "failed"}


@pytest.mark.parametrize("answer", CancelAnswer)
@pytest.mark.parametrize("situation", ANSWERED_BY)
async def test_every_answer_to_a_cancel(situation: str, answer: CancelAnswer) -> None:
    """However the vendor answers a cancel in whatever situation, the outcome tells the truth, or the vendor's OK."""
    fields: dict[str, Any] = {ANSWERED_BY[situation]: answer}
    async with vendor(Sms4SatsRules(**fields), gateway_early="send") as (sandbox, gateway):
        for known in (False, True):
            order_id = arrange(sandbox, situation)
            record = sandbox.orders.get(order_id)
            created_at = record.created_at if known and record is not None else None
            outcome = await gateway.cancel(OrderRef(id=order_id, created_at=created_at), timeout=5)
            if is_vendors_lie(situation, answer):
                assert isinstance(outcome, Canceled)
                assert outcome.evidence is Evidence.REPLY
            else:
                assert lie(sandbox, outcome) is None
            if answer in {CancelAnswer.REFUSED, CancelAnswer.OK_WITH_ERROR}:
                assert not (isinstance(outcome, Canceled) and outcome.evidence is Evidence.REPLY)
            if answer is CancelAnswer.REFUSED and situation != "unknown":
                assert cancels_of(sandbox, order_id) == 1
            if situation in {"delivered", "sent"}:
                assert (await gateway.get_order(order_id)).state is OrderState.FILLED


@pytest.mark.parametrize("reading", Reading)
@pytest.mark.parametrize("answer", CancelAnswer)
@pytest.mark.parametrize("situation", ["canceled", "expired"])
async def test_every_reading_of_a_dead_order(
    situation: str, answer: CancelAnswer, reading: Reading
) -> None:
    """However the vendor tells of a dead order, or hides it, nothing is said that it did not say."""
    fields: dict[str, Any] = {ANSWERED_BY[situation]: answer}
    rules = Sms4SatsRules(**fields, canceled_reads=reading, expired_reads=reading)
    async with vendor(rules) as (sandbox, gateway):
        order_id = arrange(sandbox, situation)
        outcome = await gateway.cancel(order_id, timeout=5)
        assert lie(sandbox, outcome) is None
        told_dead = reading is Reading.ERROR or answer in {
            CancelAnswer.ACCEPTED,
            CancelAnswer.IGNORED,
        }
        assert outcome.closed is told_dead


@pytest.mark.parametrize("reading", Reading)
@pytest.mark.parametrize("situation", ["canceled", "expired"])
async def test_every_reading_of_an_order_past_its_time(situation: str, reading: Reading) -> None:
    """Of an order known to be older than 21 minutes, "it waits" proves nothing, and is not called Refused."""
    rules = Sms4SatsRules(canceled_reads=reading, expired_reads=reading)
    async with vendor(rules) as (sandbox, gateway):
        made = sandbox.now() - timedelta(seconds=OLD + 1)
        order_id = sandbox.add_order(created_at=made + timedelta(seconds=300))
        SITUATIONS[situation](sandbox, order_id)
        outcome = await gateway.cancel(OrderRef(id=order_id, created_at=made), timeout=5)
        assert lie(sandbox, outcome) is None
        assert isinstance(outcome, AlreadyClosed if reading is Reading.ERROR else Unknown)
        assert queries(sandbox)[0] == "status"


async def looked_at(gateway: Sms4SatsGateway, order_id: str) -> OrderSnapshot | None:
    """Read an order; None where the vendor says no."""
    try:
        return await gateway.get_order(order_id)
    except VendorError:
        return None


@pytest.mark.parametrize(
    "rules",
    [
        Sms4SatsRules(reasons={}),
        Sms4SatsRules(reasons=dict.fromkeys(Problem, "")),
        Sms4SatsRules(reasons=dict.fromkeys(Problem, "no")),
        Sms4SatsRules(reasons=dict.fromkeys(Problem, "try again later")),
        Sms4SatsRules(reasons=dict.fromkeys(Problem, UNABLE_TO_SAVE)),
        Sms4SatsRules(refusal_status=200),
        Sms4SatsRules(refusal_status=400),
        Sms4SatsRules(refusal_status=503),
        Sms4SatsRules(unknown_status=200),
        Sms4SatsRules(unknown_status=404),
        Sms4SatsRules(unknown_reads_unpaid=True, reasons={}),
        Sms4SatsRules(unknown_reads_unpaid=True),
        Sms4SatsRules(canceled_error="no", expired_error="no"),
        Sms4SatsRules(canceled_error="internal", expired_error="timeout"),
        Sms4SatsRules(timestamp_of_change=True, code_as=WireType.TEXT, number_as=WireType.TEXT),
        Sms4SatsRules(cancel_counts_from=ClockStart.PAID, expire_counts_from=ClockStart.PAID),
        Sms4SatsRules(cancel_after=0.0, rentals_expire=True),
        Sms4SatsRules(cancel_after=600.0),
        Sms4SatsRules(expire_after=180.0),
        Sms4SatsRules(unsaved_release_shows=True, prepaid_refunded=False),
        *(Sms4SatsRules(blank_code=b, blank_number=b, blank_error=b) for b in Blank),
    ],
)
async def test_every_habit_of_the_vendor(rules: Sms4SatsRules) -> None:
    """Whatever the vendor's habits are, and with a first reply lost or not, no situation makes an outcome lie."""
    async with vendor(rules) as (sandbox, gateway):
        for situation, lost in itertools.product(SITUATIONS, (False, True)):
            order_id = arrange(sandbox, situation)
            if lost:
                sandbox.faults.add(faults.drop_after("cancel"))
            outcome = await gateway.cancel(order_id, timeout=5)
            assert lie(sandbox, outcome) is None, situation
            snapshot = await looked_at(gateway, order_id)
            assert (snapshot is not None) or situation == "unknown"
            state = sandbox.orders[order_id].state if situation != "unknown" else None
            if snapshot is not None and snapshot.state is OrderState.FILLED:
                assert state is Recorded.DELIVERED
            if snapshot is not None and snapshot.state is OrderState.CANCELED:
                assert state not in {Recorded.WAITING, Recorded.DELIVERED}


@pytest.mark.parametrize("blank", Blank)
async def test_no_error_yet_is_no_error(blank: Blank) -> None:
    """However the vendor writes "no error" and "no code yet", a live order is neither canceled nor delivered."""
    rules = Sms4SatsRules(blank_code=blank, blank_number=blank, blank_error=blank)
    async with vendor(rules) as (sandbox, gateway):
        order_id = sandbox.add_order(number=None)
        assert (await gateway.get_order(order_id)).state is OrderState.OPEN
        status = await gateway.orderstatus(order_id)
        assert (status.code, status.number, status.error) == (None, None, None)
        outcome = await gateway.cancel(order_id)
        assert isinstance(outcome, Unknown)
        assert outcome.last_state is OrderState.OPEN


@pytest.mark.parametrize(
    ("code", "code_as", "told"),
    [
        ("048010", WireType.TEXT, "048010"),
        ("000000", WireType.TEXT, "000000"),
        ("48010", WireType.NUMBER, "48010"),
        ("048010", WireType.NUMBER, "48010"),
        ("G-0480", WireType.NUMBER, "G-0480"),
    ],
)
async def test_codes_and_numbers_are_text(code: str, code_as: WireType, told: str) -> None:
    """A code sent as text keeps its leading zeros; what was sent as a number is text without them."""
    async with vendor(Sms4SatsRules(code_as=code_as, number_as=code_as)) as (sandbox, gateway):
        order_id = sandbox.add_order(number=99_000_111)
        sandbox.deliver(order_id, code)
        status = await gateway.orderstatus(order_id)
        assert (status.code, status.number, status.paid) == (told, "99000111", True)
        assert (await gateway.get_order(order_id)).state is OrderState.FILLED


@pytest.mark.parametrize("http_status", [301, 307, 308])
async def test_redirect_that_names_another_address(http_status: int) -> None:
    """A permanent redirect is not followed: the address is wrong, and the id goes nowhere else."""
    async with Sms4SatsSandbox() as elsewhere:
        rules = Sms4SatsRules(redirects_to=elsewhere.url, redirect_status=http_status)
        async with vendor(rules) as (sandbox, gateway):
            (order_id,) = ripe(sandbox)
            with pytest.raises(WrongEndpoint):
                await gateway.cancel(order_id)
            with pytest.raises(WrongEndpoint):
                await gateway.get_order(order_id)
            assert len(sandbox.requests) == 2
            assert len(elsewhere.requests) == 0


@pytest.mark.parametrize("http_status", [302, 303])
async def test_redirect_after_the_deed(http_status: int) -> None:
    """A temporary redirect may follow a cancel that was carried out: not followed, and in doubt."""
    async with Sms4SatsSandbox() as elsewhere:
        rules = Sms4SatsRules(redirects_to=elsewhere.url, redirect_status=http_status)
        async with vendor(rules) as (sandbox, gateway):
            (order_id,) = ripe(sandbox)
            assert isinstance(await gateway.cancel(order_id, timeout=5), Unknown)
            sandbox.rules = Sms4SatsRules()
            sandbox.faults.add(
                faults.replaced(
                    "cancel",
                    status=http_status,
                    body=b"",
                    headers={"Location": elsewhere.url},
                    processed=True,
                )
            )
            assert isinstance(await gateway.cancel(order_id, timeout=5), Canceled)
            assert len(elsewhere.requests) == 0


async def test_cache_that_obeys_is_told_to_keep_out() -> None:
    """A cache before the vendor that heeds requests answers none of ours."""
    rules = Sms4SatsRules(cached={"status": 3600.0, "cancel": 3600.0, "price": 3600.0})
    async with vendor(rules) as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        assert (await gateway.get_order(order_id)).state is OrderState.OPEN
        sandbox.deliver(order_id)
        assert (await gateway.get_order(order_id)).state is OrderState.FILLED


async def test_reply_out_of_a_cache_proves_nothing() -> None:
    """What an old copy says of an order is not believed: neither that it waits, nor that its cancel succeeded."""
    cached = {"status": 3600.0, "cancel": 3600.0}
    async with vendor(Sms4SatsRules(cached=cached, cache_obeys=False)) as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        await gateway.get_order(order_id)
        sandbox.deliver(order_id)
        sandbox.advance(60)
        with pytest.raises(BadReply, match="cache"):
            await gateway.get_order(order_id)
        with pytest.raises(BadReply, match="cache"):
            await gateway.orderstatus(order_id)
        outcome = await gateway.cancel(order_id, timeout=5)
        assert isinstance(outcome, Unknown)
        assert outcome.message == REASONS[Problem.DELIVERED]


async def test_stale_status_hides_no_fill() -> None:
    """A stale copy of the status after a lost cancel is asked for again."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        stale = sandbox.stale_status(order_id)
        sandbox.deliver(order_id)
        sandbox.faults.add(stale, sandbox.stale_status(order_id, age=3))
        outcome = await gateway.cancel(order_id, timeout=5)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.FILLED
        assert queries(sandbox) == ["cancel", "status", "status", "status"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("retry_after", RetryAfter)
@pytest.mark.parametrize("counts", [False, True])
async def test_vendor_that_meters(retry_after: RetryAfter, counts: bool) -> None:
    """A limit that nobody documented costs time, and no outcome."""
    rules = Sms4SatsRules(retry_after=retry_after, rejected_count=counts)
    async with vendor(
        rules,
        requests_per_window=2,
        window=1.0,
        gateway_rate_limit=RateLimit(3, per=1.0, margin=0.0),
    ) as (sandbox, gateway):
        ids = ripe(sandbox, 7)
        outcomes = await gateway.cancel_many(ids, timeout=120)
        assert [type(outcome) for outcome in outcomes] == [Canceled] * 7
        assert sandbox.rejections > 0


# -- bad weather ----------------------------------------------------------------------------------------------

PROCESSED: dict[str, Fault] = {
    "reply dropped": faults.drop_after("cancel"),
    "reply reset": faults.drop_after("cancel", reset=True),
    "reply truncated": faults.truncated("cancel"),
    "500 after processing": faults.replaced("cancel", status=500, body=b"oops", processed=True),
    "HTML after processing": faults.html_page("cancel", status=200, processed=True),
    "empty": faults.empty_body("cancel"),
    "array": faults.json_array("cancel"),
    "malformed": faults.malformed_json("cancel"),
    "wrong types": faults.wrong_types("cancel"),
    "huge": faults.huge_body("cancel"),
    "hangs": faults.hang_after("cancel"),
    "later than the time for one request": faults.late("cancel", delay=20.0),
    "status neither": faults.replaced(
        "cancel", status=200, body=b'{"status":"pending"}', processed=True
    ),
    "OK with an error": faults.replaced(
        "cancel", status=200, body=b'{"status":"OK","error":"?"}', processed=True
    ),
    "302": faults.replaced(
        "cancel", status=302, body=b"", headers={"Location": "/x"}, processed=True
    ),
    "out of a cache": faults.replaced(
        "cancel", status=200, body=b'{"status":"OK"}', headers={"Age": "3"}, processed=True
    ),
    "503 with Retry-After": faults.replaced(
        "cancel", status=503, body=b"{}", headers={"Retry-After": "2"}, processed=True
    ),
}
UNPROCESSED: dict[str, Fault] = {
    "request dropped": faults.drop_before("cancel"),
    "request reset": faults.drop_before("cancel", reset=True),
    "hangs before": faults.hang_before("cancel"),
    "500 in the vendor's words": faults.server_error("cancel", status=500),
    "503": faults.server_error("cancel", status=503),
    "HTML gateway error": faults.html_page("cancel", status=502),
    "429": faults.rate_limited("cancel"),
    "429 with seconds": faults.rate_limited("cancel", retry_after=3),
    "429 with a date": faults.rate_limited(
        "cancel", retry_after=datetime.now(UTC) + timedelta(seconds=5)
    ),
    "429 with nonsense": faults.rate_limited("cancel", retry_after="soon"),
    "429 as HTML": faults.html_page("cancel", status=429),
    "cached success of nobody": faults.replaced(
        "cancel", status=200, body=b'{"status":"OK"}', headers={"Age": "60"}
    ),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", PROCESSED.values(), ids=PROCESSED)
async def test_processed_cancel_with_a_lost_answer(fault: Fault) -> None:
    """A cancel that was carried out and not answered usably is proved by reading the order back."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        sandbox.faults.add(fault)
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, Canceled)
        assert outcome.evidence is Evidence.READ_BACK
        assert queries(sandbox) == ["cancel", "status"]
        assert lie(sandbox, outcome) is None


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", UNPROCESSED.values(), ids=UNPROCESSED)
async def test_cancel_that_was_not_processed(fault: Fault) -> None:
    """A cancel that was not carried out is repeated once that is known, and proved by its reply."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        sandbox.faults.add(fault)
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, Canceled)
        assert (outcome.attempts, outcome.evidence) == (2, Evidence.REPLY)
        assert cancels_of(sandbox, order_id) == 2


@pytest.mark.virtual_time
async def test_too_many_waits_as_long_as_the_vendor_asks() -> None:
    """Retry-After is kept, in whichever form; without it the limit's period is."""
    async with vendor() as (sandbox, gateway):
        for retry_after, least in ((7, 7.0), (None, 1.0)):
            (order_id,) = ripe(sandbox)
            sandbox.faults.add(faults.rate_limited("cancel", retry_after=retry_after))
            await gateway.cancel(order_id, timeout=60)
            first, second = (request.arrived for request in sandbox.requests_about(order_id))
            assert second - first == pytest.approx(least, abs=0.1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("lost", [faults.drop_after, faults.truncated, faults.hang_after])
async def test_fill_in_the_race_is_never_hidden(lost: Callable[[str], Fault]) -> None:
    """A code that arrives an instant before a cancel whose reply is lost ends as filled."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        race = faults.fill_in_the_race("cancel")
        sandbox.faults.add(
            faults.Fault(endpoint="cancel", processing=race.processing, reply=lost("cancel").reply)
        )
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.FILLED


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "fault",
    [
        faults.drop_before("status"),
        faults.hang_after("status"),
        faults.truncated("status"),
        faults.html_page("status", status=502),
        faults.server_error("status", status=500),
        faults.rate_limited("status", retry_after=2),
        faults.malformed_json("status"),
        faults.wrong_types("status"),
        faults.huge_body("status"),
        faults.empty_body("status"),
    ],
    ids=str,
)
@pytest.mark.parametrize("blank", [Blank.MISSING, Blank.NULL])
async def test_status_that_fails_proves_nothing(fault: Fault, blank: Blank) -> None:
    """A refused cancel whose read-back fails is read back again, and what mangled values say is not believed."""
    rules = Sms4SatsRules(blank_code=blank, blank_error=blank)
    async with vendor(rules) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(fault)
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, Unknown)
        assert outcome.last_state is OrderState.OPEN
        assert queries(sandbox) == ["cancel", "status", "status"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("lost", [faults.drop_before, faults.drop_after])
async def test_nothing_is_guessed_while_the_vendor_is_out(lost: Callable[..., Fault]) -> None:
    """With every answer lost, the outcome is Unknown, and the number of requests is bounded."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        sandbox.faults.add(lost("cancel", times=99), faults.drop_before("status", times=99))
        outcome = await gateway.cancel(order_id, timeout=300)
        assert isinstance(outcome, Unknown)
        assert (outcome.wire, outcome.evidence) == (Wire.MAYBE_SENT, Evidence.NONE)
        assert outcome.attempts == cancels_of(sandbox, order_id) == 4
        sandbox.faults.clear()
        sandbox.rules = Sms4SatsRules(repeated_cancel=CancelAnswer.REFUSED)
        assert isinstance(await gateway.cancel(order_id), Canceled), "doubt is remembered"


@pytest.mark.virtual_time
async def test_not_found_after_a_lost_attempt_is_unknown() -> None:
    """In doubt, "order not found" and "no" prove nothing by themselves."""
    async with vendor() as (sandbox, gateway):
        sandbox.faults.add(faults.drop_after("cancel"))
        outcome = await gateway.cancel(NOWHERE, timeout=60)
        assert isinstance(outcome, Unknown)
        assert outcome.message == "order not found"
        early = sandbox.add_order()
        sandbox.faults.add(faults.drop_before("cancel"))
        outcome = await gateway.cancel(early, timeout=60)
        assert isinstance(outcome, Unknown)
        assert (outcome.last_state, outcome.message) == (
            OrderState.OPEN,
            REASONS[Problem.TOO_EARLY],
        )


async def test_connection_refused_is_not_sent() -> None:
    """Where nobody listens nothing was sent, of cancels and creates alike."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        await sandbox.aclose()
        outcome = await gateway.cancel(order_id, timeout=5)
        assert isinstance(outcome, NotSent)
        with pytest.raises(ConnectFailed):
            await gateway.createorder(country=187, service="vk", immediate=True)
        assert len(sandbox.requests) == 0


# -- exactly one request per attempt ------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True], ids=["the gateway's session", "a session of ours"])
@pytest.mark.parametrize("then", ["close", "abort"])
async def test_one_request_per_attempt(own: bool, then: str) -> None:
    """A kept-alive connection that drops a GET gets that cancel once; aiohttp alone would have sent it again."""
    ok = Reply(http(body=b'{"status":"OK"}'))
    waiting = Reply(http(body=b'{"status":"OK","paid":true}'))
    script = [ok, Reply(then=then), Reply(then=then), waiting]
    async with RawServer(script) as server, aiohttp.ClientSession() as session:
        gateway = WatchedSms4Sats(
            base_url=server.url,
            limiter=RateLimiter(),
            rate_limit=UNMETERED,
            retry=RetryPolicy(attempts=1, quota=0),
            session=session if own else None,
        )
        async with gateway:
            assert isinstance(await gateway.cancel("one"), Canceled)
            before = len(server.requests)
            outcome = await gateway.cancel("two")
            assert isinstance(outcome, Unknown)
            assert outcome.wire is Wire.MAYBE_SENT
            sent = [request.split(b"\r\n")[0] for request in server.requests[before:]]
            assert sent.count(b"GET /cancelorder?orderId=two HTTP/1.1") == 1
            assert outcome.attempts == 1
        assert not session.closed


async def test_aiohttp_alone_would_repeat_the_cancel() -> None:
    """The drop of the test above does make a plain aiohttp session send the cancel twice."""
    script = [Reply(http()), Reply(then="close"), Reply(http())]
    async with RawServer(script) as server, aiohttp.ClientSession() as session:
        await (await session.get(server.url)).read()
        await (await session.get(f"{server.url}/cancelorder?orderId=two")).read()
        assert len(server.requests) == 3


async def test_every_request_forbids_its_storage_and_carries_no_key_in_vain() -> None:
    """``Cache-Control: no-store`` is on every request, X-API-Key on a prepaid create and the balance alone."""
    rules = Sms4SatsRules(country_names=True)
    async with vendor(rules) as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        await gateway.cancel(order_id)
        await gateway.get_order(order_id)
        await gateway.orderstatus(order_id)
        await gateway.price(country="germany", service="vk")
        await gateway.countries()
        await gateway.services(187)
        await gateway.createorder(country=187, service="vk")
        await gateway.createorder(country="germany", service="vk", immediate=True)
        await gateway.balance()
        assert {request.headers["cache-control"] for request in sandbox.requests} == {"no-store"}
        keyed = [request.endpoint for request in sandbox.requests if request.caller]
        assert keyed == ["create", "balance"]
        named = ["x-api-key" in request.headers for request in sandbox.requests]
        assert named == [False] * 7 + [True] * 2


@pytest.mark.parametrize("own", [False, True], ids=["the gateway's session", "a session of ours"])
async def test_key_travels_over_any_session(own: bool) -> None:
    """A session of the caller's own carries the key and the header where they belong, and is left open."""
    async with aiohttp.ClientSession() as session:
        options: dict[str, Any] = {"gateway_session": session} if own else {}
        async with vendor(**options) as (sandbox, gateway):
            assert await gateway.balance() == sandbox.balance
            (order_id,) = ripe(sandbox)
            await gateway.cancel(order_id)
            assert [request.caller for request in sandbox.requests] == ["key 1", None]
            assert sandbox.requests[1].headers["cache-control"] == "no-store"
        assert not session.closed


ODD = [
    "a&orderId=b",
    "a=b",
    "a+b",
    "a%2Bb",
    "%",
    "100%",
    "a#b",
    "a?b",
    "../../x",
    "a/b;c,d",
    "a'\"b\\",
    "{}[]|^`",
    "é😀",
    "日本",
    "a:b@c",
    "~-._!*()$",
    "x" * 128,
    "i\u0307",
    "e\u0301",
]


async def test_id_with_odd_characters() -> None:
    """Any visible id reaches the vendor as it is, whatever its characters mean in a URL."""
    async with vendor() as (sandbox, gateway):
        for odd in ODD:
            assert isinstance(await gateway.cancel(odd), NotFound)
            with pytest.raises(OrderNotFound):
                await gateway.orderstatus(odd)
            asked = [request.endpoint for request in sandbox.requests_about(odd)]
            assert asked == ["cancel", "status"], odd
        assert all(request.query.count("=") == 1 for request in sandbox.requests)


async def test_id_on_the_wire_is_percent_encoded() -> None:
    """What a URL could misread is encoded, byte by byte of UTF-8."""
    async with RawServer([Reply(http(body=b'{"status":"OK"}'))]) as server:
        gateway = WatchedSms4Sats(base_url=server.url + "/v1/", limiter=RateLimiter())
        async with gateway:
            await gateway.cancel("a+b&c=d%é#")
        (request,) = server.requests
        line, *headers = request.split(b"\r\n")
        assert line == b"GET /v1/cancelorder?orderId=a%2Bb%26c%3Dd%25%C3%A9%23 HTTP/1.1"
        assert b"Cache-Control: no-store" in headers


BAD_IDS = ["", " ", "a b", "a\nb", "\x00", "x" * 129, "\u00a0", "a\u200bb", "\u2028"]


@pytest.mark.parametrize("bad", BAD_IDS)
async def test_unusable_id(bad: str) -> None:
    """An id that cannot be meant is a usage error alone, and NotSent among others, which go on."""
    async with vendor() as (sandbox, gateway):
        (good,) = ripe(sandbox)
        for call in (gateway.cancel, gateway.get_order, gateway.orderstatus):
            with pytest.raises(UsageError):
                await call(bad)
        orders: list[OrderRef | str] = [bad, good, OrderRef(client_id="c")]
        first, second, third = await gateway.cancel_many(orders)
        assert isinstance(first, NotSent)
        assert isinstance(second, Canceled)
        assert isinstance(third, NotSent)
        assert "client id" in (third.message or "")


# -- the two minutes ------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("age", [0.0, 60.0, 119.5])
@pytest.mark.parametrize("many", [False, True])
async def test_early_cancel_is_held_to_the_first_permitted_moment(
    age: float, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the first two minutes a cancel waits, and leaves at the first moment at which the vendor permits it."""
    now = wall_of_the_loop(monkeypatch)
    async with vendor(now=now) as (sandbox, gateway):
        made = now() - timedelta(seconds=age)
        order_id = sandbox.add_order(created_at=made)
        ref = OrderRef(id=order_id, created_at=made)
        started = asyncio.get_running_loop().time()
        if many:
            (outcome,) = await gateway.cancel_many([ref], timeout=None)
        else:
            outcome = await gateway.cancel(ref, timeout=130)
        assert isinstance(outcome, Canceled)
        (request,) = sandbox.requests
        assert request.arrived - started == pytest.approx(120 - age, abs=0.01)
        assert request.received_at >= made + timedelta(seconds=120)
        assert outcome.elapsed == pytest.approx(120 - age, abs=0.01)
        assert outcome.order == ref


@pytest.mark.virtual_time
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))])
async def test_early_cancel_without_the_time_to_wait(
    many: bool, zone: timezone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the timeout ends before the first permitted moment, TooEarly says at once when that is; nothing leaves."""
    now = wall_of_the_loop(monkeypatch)
    async with vendor(now=now) as (sandbox, gateway):
        made = now()
        ref = OrderRef(id=sandbox.add_order(created_at=made), created_at=made.astimezone(zone))
        started = asyncio.get_running_loop().time()
        if many:
            (outcome,) = await gateway.cancel_many([ref], timeout=119)
        else:
            outcome = await gateway.cancel(ref, timeout=119)
        assert isinstance(outcome, TooEarly)
        assert outcome.retry_at == made + timedelta(seconds=120)
        assert outcome.retry_at.utcoffset() == timedelta(0)
        assert (outcome.wire, outcome.attempts) == (Wire.NOT_SENT, 0)
        assert (outcome.evidence, outcome.closed) == (Evidence.NONE, False)
        assert asyncio.get_running_loop().time() == started
        assert len(sandbox.requests) == 0
        await asyncio.sleep((outcome.retry_at - now()).total_seconds())
        assert isinstance(await gateway.cancel(ref), Canceled)


@pytest.mark.virtual_time
async def test_order_of_unknown_age_is_tried_at_once() -> None:
    """Without a known creation nothing is held back: the vendor says no, and the order still waits, as it seems."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        outcome = await gateway.cancel(order_id)
        assert isinstance(outcome, Unknown)
        assert (outcome.last_state, outcome.message) == (
            OrderState.OPEN,
            REASONS[Problem.TOO_EARLY],
        )


@pytest.mark.parametrize("reading", Reading)
@pytest.mark.parametrize("known", [None, 180, 110, -30])
async def test_an_order_that_was_canceled_before_is_not_called_alive(
    reading: Reading, known: int | None
) -> None:
    """Whatever the vendor says of an order that its buyer canceled, and however old it is known to be: a second cancel
    does not make it live again."""
    async with vendor(Sms4SatsRules(canceled_reads=reading), gateway_early="send") as (
        sandbox,
        gateway,
    ):
        (order_id,) = ripe(sandbox)
        sandbox.cancel_behind_back(order_id)
        made = None if known is None else datetime.now(UTC) - timedelta(seconds=known)
        outcome = await gateway.cancel(OrderRef(id=order_id, created_at=made), timeout=5)
        assert not isinstance(outcome, Refused)
        assert lie(sandbox, outcome) is None


@pytest.mark.virtual_time
async def test_an_order_that_was_held_back_is_not_too_young_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be canceled by another between its second minute and the request."""
    now = wall_of_the_loop(monkeypatch)
    limit = RateLimit(1, per=5.0, margin=0.0)
    rules = Sms4SatsRules(canceled_reads=Reading.SILENT)
    async with vendor(rules, now=now, gateway_rate_limit=limit) as (sandbox, gateway):
        refs = [OrderRef(id=sandbox.add_order(created_at=now()), created_at=now()) for _ in "ab"]
        canceling = asyncio.create_task(gateway.cancel_many(refs, timeout=None))
        await asyncio.sleep(122)
        for ref in refs:
            if not sandbox.orders[ref.id or ""].released:
                sandbox.cancel_behind_back(ref.id or "")
        outcomes = await canceling
        assert [lie(sandbox, outcome) for outcome in outcomes] == [None, None]
        assert isinstance(outcomes[1], Unknown)


@pytest.mark.virtual_time
async def test_early_send_tries_at_once() -> None:
    """With ``early="send"`` the rule is the vendor's alone to apply."""
    async with vendor(gateway_early="send") as (sandbox, gateway):
        ref = OrderRef(id=sandbox.add_order(), created_at=datetime.now(UTC))
        outcome = await gateway.cancel(ref, timeout=5)
        assert isinstance(outcome, Refused)
        assert outcome.attempts == 1
        sandbox.rules = Sms4SatsRules(early_cancel=CancelAnswer.ACCEPTED)
        assert isinstance(await gateway.cancel(ref, timeout=5), Canceled)


@pytest.mark.virtual_time
@pytest.mark.parametrize("immediate", [False, True])
async def test_order_of_this_gateway_has_a_known_age(
    immediate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that this gateway created is held back by its name alone, other gateways' orders are not."""
    now = wall_of_the_loop(monkeypatch)
    async with vendor(now=now) as (sandbox, gateway):
        created = await gateway.createorder(country=187, service="vk", immediate=immediate)
        if not immediate:
            sandbox.pay(created.order_id)
        assert isinstance(await gateway.cancel(created.order_id, timeout=60), TooEarly)
        assert isinstance(await gateway.cancel(created.order_id, timeout=121), Canceled)
        (request,) = sandbox.requests_to("cancel")
        assert request.processed


@pytest.mark.virtual_time
async def test_age_counts_from_the_creation_and_not_from_the_wish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A create that waits in the queue, is repeated, or is slow makes an order that is younger than the call."""
    now = wall_of_the_loop(monkeypatch)
    slow = RateLimit(1, per=10.0, margin=0.0)
    async with vendor(now=now, gateway_rate_limit=slow) as (sandbox, gateway):
        await gateway.price()
        sandbox.faults.add(faults.drop_before("create"), faults.late("create", delay=3.0))
        created = await gateway.createorder(country=187, service="vk", timeout=None)
        sandbox.pay(created.order_id)
        assert sandbox.orders[created.order_id].created_at > now() - timedelta(seconds=4)
        outcome = await gateway.cancel(created.order_id, timeout=None)
        assert isinstance(outcome, Canceled), outcome
        assert outcome.attempts == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "created_at",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
        datetime.min.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    ],
)
async def test_absurd_times_of_creation(created_at: datetime) -> None:
    """An order from the future is as young as can be, one from antiquity is old, and neither disturbs its siblings."""
    async with vendor() as (sandbox, gateway):
        odd, good = ripe(sandbox, 2)
        ref = OrderRef(id=odd, created_at=created_at)
        outcomes = await gateway.cancel_many([ref, good], timeout=5)
        young = created_at.year == 9999
        assert [type(outcome) for outcome in outcomes] == [
            TooEarly if young else Canceled,
            Canceled,
        ]
        assert isinstance(
            await gateway.cancel(ref, timeout=200), Canceled if young else AlreadyClosed
        )


@pytest.mark.virtual_time
async def test_cancel_at_the_very_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """At two minutes sharp nothing is held back; an instant before, it is."""
    now = wall_of_the_loop(monkeypatch)
    async with vendor(now=now) as (sandbox, gateway):
        made = now() - timedelta(seconds=120)
        ref = OrderRef(id=sandbox.add_order(created_at=made), created_at=made)
        assert isinstance(await gateway.cancel(ref, timeout=0.5), Canceled)
        made = now() - timedelta(seconds=120) + timedelta(microseconds=1)
        ref = OrderRef(id=sandbox.add_order(created_at=made), created_at=made)
        assert isinstance(await gateway.cancel(ref, timeout=1e-7), TooEarly)


@pytest.mark.virtual_time
async def test_latest_orders_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many creations are remembered; of a forgotten one the age is unknown."""
    monkeypatch.setattr(config, "REMEMBERED", 2)
    async with vendor() as (sandbox, gateway):
        orders = [(await gateway.createorder(country=187, service="vk")).order_id for _ in range(3)]
        for order_id in orders:
            sandbox.pay(order_id)
        outcomes = await gateway.cancel_many(orders, timeout=5)
        assert [type(outcome) for outcome in outcomes] == [Unknown, TooEarly, TooEarly]


# -- the twenty-one minutes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["expired", "delivered", "canceled"])
async def test_old_order_is_looked_at_first(end: str) -> None:
    """After 21 minutes the vendor has canceled by itself: that is read, and no cancel is sent."""
    async with vendor() as (sandbox, gateway):
        made = sandbox.now()
        order_id = sandbox.add_order(created_at=made)
        if end == "delivered":
            sandbox.deliver(order_id)
        if end == "canceled":
            sandbox.cancel_behind_back(order_id)
        sandbox.advance(OLD + 1)
        ref = OrderRef(id=order_id, created_at=made - timedelta(seconds=OLD + 1))
        outcome = await gateway.cancel(ref)
        assert isinstance(outcome, AlreadyClosed)
        filled = end == "delivered"
        assert outcome.state is (OrderState.FILLED if filled else OrderState.CANCELED)
        assert (outcome.evidence, outcome.attempts) == (Evidence.READ_BACK, 0)
        assert outcome.wire is Wire.NOT_SENT
        assert queries(sandbox) == ["status"]
        assert lie(sandbox, outcome) is None


@pytest.mark.parametrize("count", [ClockStart.CREATED, ClockStart.PAID])
async def test_old_order_that_still_waits_is_canceled(count: ClockStart) -> None:
    """Where the vendor's clock started later, the order still waits, and is canceled."""
    async with vendor(Sms4SatsRules(expire_counts_from=count, expire_after=5000.0)) as (
        sandbox,
        gateway,
    ):
        made = sandbox.now() - timedelta(seconds=OLD + 60)
        order_id = sandbox.add_order(created_at=made)
        outcome = await gateway.cancel(OrderRef(id=order_id, created_at=made))
        assert isinstance(outcome, Canceled)
        assert queries(sandbox) == ["status", "cancel"]
        assert (outcome.attempts, outcome.evidence) == (1, Evidence.REPLY)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "fault",
    [
        faults.drop_before("status"),
        faults.server_error("status", status=500),
        faults.html_page("status", status=502),
        faults.hang_before("status"),
        faults.wrong_types("status"),
        faults.rate_limited("status", retry_after=2),
    ],
    ids=str,
)
async def test_old_order_whose_first_look_fails_is_canceled(fault: Fault) -> None:
    """A first look that fails is no reason to let the order live."""
    async with vendor(Sms4SatsRules(expire_after=5000.0)) as (sandbox, gateway):
        made = sandbox.now() - timedelta(seconds=OLD + 60)
        order_id = sandbox.add_order(created_at=made)
        sandbox.faults.add(fault)
        outcome = await gateway.cancel(OrderRef(id=order_id, created_at=made), timeout=60)
        assert isinstance(outcome, Canceled)
        assert queries(sandbox) == ["status", "cancel"]


async def test_old_order_that_the_vendor_forgot() -> None:
    """An old order of which the vendor knows nothing any more is what the vendor's words to the cancel say."""
    async with vendor() as (sandbox, gateway):
        made = sandbox.now() - timedelta(days=400)
        outcome = await gateway.cancel(OrderRef(id=NOWHERE, created_at=made))
        assert isinstance(outcome, NotFound)
        assert queries(sandbox) == ["status", "cancel"]


# -- many orders ----------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_cancel_many_of_all_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Young, ripe, old, delivered, unknown, unusable, doubled: each has its outcome, as early as it can be known."""
    now = wall_of_the_loop(monkeypatch)
    async with vendor(now=now) as (sandbox, gateway):
        clock = asyncio.get_running_loop().time
        started = clock()

        def made(seconds: float) -> OrderRef:
            created_at = now() - timedelta(seconds=seconds)
            order_id = sandbox.add_order(created_at=created_at)
            return OrderRef(id=order_id, created_at=created_at)

        young, younger, ready, old = made(60), made(10), made(300), made(OLD + 10)
        (delivered,) = ripe(sandbox)
        sandbox.deliver(delivered)
        orders: list[OrderRef | str] = [
            young,
            ready,
            old,
            delivered,
            NOWHERE,
            "a b",
            younger,
            ready,
            young.id or "",
        ]
        told: dict[int, float] = {}
        outcomes = await gateway.cancel_many(
            orders,
            timeout=None,
            on_outcome=lambda outcome: told.setdefault(id(outcome.order), clock() - started),
        )
        assert [type(outcome) for outcome in outcomes] == [
            Canceled,
            Canceled,
            AlreadyClosed,
            AlreadyClosed,
            NotFound,
            NotSent,
            Canceled,
            Canceled,
            Unknown,
        ]
        assert not any(lie(sandbox, outcome) for outcome in outcomes)
        moments = [told[id(outcome.order)] for outcome in outcomes]
        waits = [0, 0, 0, 0, 0, 0, 0, 0, 0]
        waits[0], waits[6] = 60, 110
        assert moments == pytest.approx(waits, abs=0.1)
        assert [outcome.order.id for outcome in outcomes] == [
            order if isinstance(order, str) else order.id for order in orders
        ]
        assert cancels_of(sandbox, ready.id) == 1


@pytest.mark.virtual_time
async def test_deadline_of_cancel_many_with_held_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the deadline permits is held and sent, what it does not is TooEarly at once, the rest goes on."""
    now = wall_of_the_loop(monkeypatch)
    async with vendor(now=now) as (sandbox, gateway):
        made = [now() - timedelta(seconds=age) for age in (110, 50, 200)]
        refs = [OrderRef(id=sandbox.add_order(created_at=at), created_at=at) for at in made]
        started = asyncio.get_running_loop().time()
        outcomes = await gateway.cancel_many(refs, timeout=30)
        assert [type(outcome) for outcome in outcomes] == [Canceled, TooEarly, Canceled]
        assert asyncio.get_running_loop().time() - started == pytest.approx(10, abs=0.1)


@pytest.mark.virtual_time
async def test_500_orders() -> None:
    """500 orders are 500 requests within the limit, and one outcome each."""
    limit = RateLimit(50, per=1.0, margin=0.01)
    async with vendor(gateway_rate_limit=limit, requests_per_window=50) as (sandbox, gateway):
        ids = ripe(sandbox, 500)
        outcomes = await gateway.cancel_many(ids)
        assert Counter(map(type, outcomes)) == {Canceled: 500}
        assert [outcome.order.id for outcome in outcomes] == ids
        assert sandbox.rejections == 0
        assert sandbox.peak_in_window() <= 50


async def test_many_callers_of_one_order_share_one_request() -> None:
    """100 tasks that cancel the same order need one GET."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        outcomes = await asyncio.gather(*[gateway.cancel(order_id) for _ in range(100)])
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert len(sandbox.requests) == 1


# -- held, and then --------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("many", [False, True])
async def test_caller_canceled_while_its_cancel_is_held(many: bool) -> None:
    """A canceled caller takes its held cancel with it, and nobody else's."""
    async with vendor() as (sandbox, gateway):
        made = datetime.now(UTC)
        refs = [OrderRef(id=sandbox.add_order(created_at=made), created_at=made) for _ in range(2)]
        victim = asyncio.create_task(
            gateway.cancel_many(refs) if many else gateway.cancel(refs[0], timeout=None)
        )
        await asyncio.sleep(50)
        victim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await victim
        await asyncio.sleep(500)
        assert len(sandbox.requests) == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("many", [False, True])
async def test_gateway_closed_while_a_cancel_is_held(many: bool) -> None:
    """Closing ends a held cancel at once, as NotSent."""
    async with vendor() as (sandbox, gateway):
        made = datetime.now(UTC)
        refs = [OrderRef(id=sandbox.add_order(created_at=made), created_at=made) for _ in range(2)]
        clock = asyncio.get_running_loop().time
        started = clock()
        call = (
            gateway.cancel_many(refs)
            if many
            else asyncio.gather(*[gateway.cancel(ref, timeout=None) for ref in refs])
        )
        held = asyncio.ensure_future(call)
        await asyncio.sleep(50)
        await gateway.aclose()
        for outcome in await held:
            assert isinstance(outcome, NotSent)
            assert outcome.message == "gateway closed"
        assert clock() - started == pytest.approx(50, abs=0.01)
        assert len(sandbox.requests) == 0
        with pytest.raises(GatewayClosed):
            await gateway.cancel(refs[0])


@pytest.mark.virtual_time
@pytest.mark.parametrize("call", ["aclose", "cancel", "timeout"])
async def test_end_during_the_first_look(call: str) -> None:
    """Whatever ends a call while an old order is looked at first: no cancel was sent, and that is said."""
    async with vendor() as (sandbox, gateway):
        made = datetime.now(UTC) - timedelta(seconds=OLD + 1)
        ref = OrderRef(id=sandbox.add_order(created_at=made), created_at=made)
        sandbox.faults.add(faults.hang_before("status"))
        task = asyncio.create_task(gateway.cancel(ref, timeout=5 if call == "timeout" else None))
        await sandbox.arrived(1)
        if call == "cancel":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            if call == "aclose":
                await gateway.aclose()
            outcome = await task
            assert isinstance(outcome, NotSent)
            assert (outcome.attempts, outcome.wire) == (0, Wire.NOT_SENT)
        assert queries(sandbox) == ["status"]


@pytest.mark.virtual_time
async def test_asyncio_timeout_around_a_held_cancel() -> None:
    """``asyncio.timeout`` around the call works, and leaves nothing behind."""
    async with vendor() as (sandbox, gateway):
        made = datetime.now(UTC)
        ref = OrderRef(id=sandbox.add_order(created_at=made), created_at=made)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await gateway.cancel(ref, timeout=None)
        assert len(sandbox.requests) == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("moment", [0.0, 0.5, 1.1, 5.0, 18.0])
async def test_canceled_caller_disturbs_nobody(moment: float) -> None:
    """Whenever a caller is canceled (queue, flight, pause, read-back), CancelledError comes out and others go on."""
    limit = RateLimit(1, per=1.0, margin=0.0)
    async with vendor(gateway_rate_limit=limit) as (sandbox, gateway):
        first, victim, other = ripe(sandbox, 3)
        await gateway.cancel(first)
        sandbox.faults.add(faults.hang_before("cancel"), faults.hang_after("status"))
        canceled = asyncio.create_task(gateway.cancel(victim, timeout=60))
        staying = asyncio.create_task(gateway.cancel(other, timeout=60))
        await asyncio.sleep(moment)
        canceled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await canceled
        assert isinstance(await staying, Canceled)
        assert (cancels_of(sandbox, victim) == 0) is (moment < 1)


@pytest.mark.virtual_time
async def test_deadlines() -> None:
    """In the queue a deadline is NotSent, under way Unknown, and it bounds everything."""
    limit = RateLimit(1, per=10.0, margin=0.0)
    async with vendor(gateway_rate_limit=limit) as (sandbox, gateway):
        first, second = ripe(sandbox, 2)
        sandbox.faults.add(faults.hang_after("cancel"))
        outcome = await gateway.cancel(first, timeout=3)
        assert isinstance(outcome, Unknown)
        assert outcome.elapsed == pytest.approx(3, abs=0.01)
        outcome = await gateway.cancel(second, timeout=3)
        assert isinstance(outcome, NotSent)
        assert outcome.elapsed == pytest.approx(3, abs=0.01)
        with pytest.raises(RequestTimeout):
            await gateway.orderstatus(second, timeout=1)
        assert cancels_of(sandbox, second) == 0


# -- the vendor's own calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prices_as", [None, *WireType])
@pytest.mark.parametrize("balance_as", WireType)
async def test_the_calls(prices_as: WireType | None, balance_as: WireType) -> None:
    """Create, status, price, countries, services and balance work, typed, however numbers are written."""
    rules = Sms4SatsRules(prices_as=prices_as, balance_as=balance_as)
    async with vendor(rules) as (sandbox, gateway):
        price = await gateway.price(country=187, service="vk")
        assert (price.receive, price.send) == (Decimal(1500), Decimal(3000))
        assert (price.rent, price.s4s) == (Decimal(15_000), Decimal(4000))
        assert (await gateway.price()).receive == Decimal(1500)
        countries = await gateway.countries()
        assert countries[0] == Country(id=0, eng="Russia", visible=True, rent=True)
        (vk,) = [service for service in await gateway.services(187) if service.key == "vk"]
        assert (vk.text, vk.count) == ("VK", 100)
        assert await gateway.balance() == Decimal(100_000)
        created = await gateway.createorder(
            country=187, service="vk", is_rental=False, realphone=True, ref="me"
        )
        (request,) = sandbox.requests_to("create")
        assert request.body == {
            "country": 187,
            "service": "vk",
            "isRental": False,
            "realphone": True,
            "ref": "me",
        }
        assert created.payreq is not None
        assert created.payreq.startswith("lnbc15000n")
        assert list(sandbox.orders) == [created.order_id]
        status = await gateway.orderstatus(OrderRef(id=created.order_id))
        assert (status.paid, status.code, status.country, status.service) == (
            False,
            None,
            "USA",
            "vk",
        )
        snapshot = await gateway.get_order(created.order_id)
        assert (snapshot.state, snapshot.vendor_state) == (OrderState.OPEN, "not paid")


async def test_prepaid_order() -> None:
    """A prepaid order debits the balance, with the key; without funds it is refused, and not repeated."""
    async with vendor() as (sandbox, gateway):
        created = await gateway.createorder(country="germany", service="vk", immediate=True)
        assert created.payreq == "paid"
        assert await gateway.balance() == Decimal(98_500)
        assert sandbox.requests[0].body["immediate"] is True
        sandbox.balance = 5
        with pytest.raises(BusinessRefusal, match="insufficient balance"):
            await gateway.createorder(country=187, service="vk", immediate=True)
        assert len(sandbox.requests_to("create")) == 2
        sandbox.revoke_keys("another")
        for status in (500, 401, 403):
            sandbox.rules = Sms4SatsRules(key_status=status)
            with pytest.raises(Exception, match="invalid api key") as caught:
                await gateway.createorder(country=187, service="vk", immediate=True)
            assert type(caught.value).__name__ in {"AuthenticationRejected", "PermissionDenied"}
        assert len(sandbox.orders) == 1


async def test_key_that_a_cancel_should_not_need() -> None:
    """A vendor that wants a key where none is documented says so of the account, not of the order."""
    rules = Sms4SatsRules(key_needed=frozenset({"cancel", "status"}))
    async with vendor(rules) as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        with pytest.raises(AuthenticationRejected):
            await gateway.cancel(order_id)
        with pytest.raises(AuthenticationRejected):
            await gateway.orderstatus(order_id)
        assert len(sandbox.requests) == 2


LOST_CREATES: dict[str, Fault] = {
    "dropped before": faults.drop_before("create"),
    "dropped after": faults.drop_after("create"),
    "reset": faults.drop_after("create", reset=True),
    "hangs": faults.hang_after("create"),
    "truncated": faults.truncated("create"),
    "500": faults.server_error("create", status=500),
    "backend error": faults.replaced(
        "create", status=500, body=b'{"status":"error","reason":"backend error"}'
    ),
    "no reason": faults.replaced("create", status=500, body=b'{"status":"error"}'),
    "503 with Retry-After": faults.replaced(
        "create", status=503, body=b"{}", headers={"Retry-After": "1"}
    ),
    "HTML": faults.html_page("create", status=200, processed=True),
    "gateway": faults.html_page("create", status=502),
    "array": faults.json_array("create"),
    "no id": faults.replaced("create", status=200, body=b'{"status":"OK"}', processed=True),
    "302": faults.replaced("create", status=302, body=b"", processed=True),
    "cached": faults.replaced(
        "create", status=200, body=b'{"status":"OK","orderId":"x"}', headers={"Age": "9"}
    ),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", LOST_CREATES.values(), ids=LOST_CREATES)
async def test_prepaid_create_is_never_repeated_once_bytes_may_have_left(fault: Fault) -> None:
    """A prepaid create whose answer is lost leaves once, and the error says when and how to look."""
    async with vendor() as (sandbox, gateway):
        sandbox.faults.add(fault)
        before = datetime.now(UTC)
        with pytest.raises(OutcomeUnknown, match="balance") as caught:
            await gateway.createorder(country=187, service="vk", immediate=True)
        assert len(sandbox.requests_to("create")) == 1
        assert before <= caught.value.sent_at <= datetime.now(UTC)
        assert (caught.value.venue, caught.value.endpoint) == ("sms4sats", "create")


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", LOST_CREATES.values(), ids=LOST_CREATES)
async def test_plain_create_is_repeated(fault: Fault) -> None:
    """A create that costs nothing before its invoice is paid is repeated like a read."""
    async with vendor() as (sandbox, gateway):
        sandbox.faults.add(fault)
        created = await gateway.createorder(country=187, service="vk", timeout=60)
        assert created.order_id in sandbox.orders
        assert len(sandbox.requests_to("create")) == 2


@pytest.mark.virtual_time
async def test_prepaid_create_that_was_not_processed() -> None:
    """After 429 nothing was created: it is said, and not repeated either; out of time under way is unknown."""
    async with vendor() as (sandbox, gateway):
        sandbox.faults.add(faults.rate_limited("create", retry_after=1))
        with pytest.raises(Exception, match="HTTP 429"):
            await gateway.createorder(country=187, service="vk", immediate=True)
        sandbox.faults.add(faults.late("create", delay=10))
        with pytest.raises(OutcomeUnknown):
            await gateway.createorder(country=187, service="vk", immediate=True, timeout=3)
        assert len(sandbox.requests_to("create")) == 2


@pytest.mark.parametrize("wrong", [{"country": ""}, {"service": ""}, {"timeout": 0}])
async def test_unusable_create(wrong: dict[str, Any]) -> None:
    """What cannot be meant is a usage error, and nothing is sent."""
    wanted: dict[str, Any] = {"country": 187, "service": "vk"}
    async with vendor() as (sandbox, gateway):
        with pytest.raises(UsageError):
            await gateway.createorder(**(wanted | wrong))
        assert len(sandbox.requests) == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("call", ["price", "countries", "services", "balance", "orderstatus"])
async def test_reads_are_repeated(call: str) -> None:
    """Reads survive three failures of any kind, and then fail as what the last one was."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        arguments = {"services": (187,), "orderstatus": (order_id,)}.get(call, ())
        endpoint = {"services": "stock", "orderstatus": "status"}.get(call, call)
        sandbox.faults.add(
            faults.drop_before(endpoint),
            faults.html_page(endpoint, status=502),
            faults.html_page(endpoint, status=200),
        )
        await getattr(gateway, call)(*arguments)
        assert len(sandbox.requests) == 4
        sandbox.faults.add(faults.malformed_json(endpoint, times=4))
        with pytest.raises(BadReply):
            await getattr(gateway, call)(*arguments)
        assert len(sandbox.requests) == 8
        refused = faults.replaced(
            endpoint, status=500, body=encoded({"status": "error", "reason": "no"})
        )
        sandbox.faults.add(refused)
        with pytest.raises(BusinessRefusal):
            await getattr(gateway, call)(*arguments)
        assert len(sandbox.requests) == 9


async def test_two_gateways_share_their_budget() -> None:
    """Two gateways on one host share the limit without being told; all calls count together."""
    limit = RateLimit(4, per=0.3, margin=0.02)
    limiter = RateLimiter()
    options: dict[str, Any] = {
        "gateway_rate_limit": limit,
        "gateway_limiter": limiter,
        "window": 0.3,
    }
    async with vendor(requests_per_window=4, **options) as (sandbox, gateway):
        other = WatchedSms4Sats(base_url=sandbox.url, limiter=limiter, rate_limit=limit)
        async with other:
            ids = ripe(sandbox, 6)
            await asyncio.gather(
                *[gateway.cancel(i) for i in ids[:3]],
                *[other.cancel(i) for i in ids[3:]],
                gateway.price(),
                other.countries(),
            )
        assert sandbox.rejections == 0
        assert len(sandbox.requests) == 8


# -- opening --------------------------------------------------------------------------------------------------


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce the vendor, whether or not a wheel is installed."""
    group = "tronsave_async.gateways"
    point = EntryPoint("sms4sats", "brokers.sms4sats:Sms4SatsGateway", group)
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda *, group, name=None: [point] if name in (None, point.name) else [],
    )


@pytest.mark.usefixtures("announced")
@pytest.mark.parametrize("value", [None, "", CANARY])
async def test_opened_by_name(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes from the environment where it is set; without it everything but prepaid calls works."""
    monkeypatch.delenv("SMS4SATS_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SMS4SATS_API_KEY", value)
    async with Sms4SatsSandbox(api_key=CANARY) as sandbox:
        options: dict[str, Any] = {
            "base_url": sandbox.url,
            "limiter": RateLimiter(),
            "rate_limit": UNMETERED,
        }
        opened = open_gateway("sms4sats", **options)
        assert isinstance(opened, Sms4SatsGateway)
        for gateway in (opened, Sms4SatsGateway.from_env(**options)):
            async with gateway:
                assert gateway.venue == "sms4sats"
                (order_id,) = ripe(sandbox)
                assert isinstance(await gateway.cancel(order_id), Canceled)
                sent = len(sandbox.requests)
                if value:
                    assert await gateway.balance() == sandbox.balance
                    continue
                with pytest.raises(CredentialsMissing, match="SMS4SATS_API_KEY"):
                    await gateway.balance()
                with pytest.raises(CredentialsMissing):
                    await gateway.createorder(country=187, service="vk", immediate=True)
                await gateway.createorder(country=187, service="vk")
                assert len(sandbox.requests) == sent + 1


@pytest.mark.usefixtures("announced")
def test_given_key_needs_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is given goes before the environment's; one that no header can carry is a usage error."""
    monkeypatch.setenv("SMS4SATS_API_KEY", "not this one")
    assert open_gateway("sms4sats", api_key="key").venue == "sms4sats"
    with pytest.raises(UsageError):
        Sms4SatsGateway.from_env()


@pytest.mark.parametrize("options", [{"early": "never"}, {"base_url": "x"}, {"api_key": ""}])
def test_unusable_gateway(options: dict[str, Any]) -> None:
    """What cannot be meant is a usage error."""
    with pytest.raises(UsageError):
        Sms4SatsGateway(**options)


# -- the id is a secret ---------------------------------------------------------------------------------------


class Records(logging.Handler):
    """Keeps every log record as text, with its arguments and traceback."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.lines.append(f"{self.format(record)} {record.args!r}")


ECHO: dict[str, Callable[[str], Fault | None]] = {
    "nothing": lambda order_id: None,
    "refusal": lambda order_id: faults.replaced(
        "cancel", status=500, body=encoded({"status": "error", "reason": f"{order_id} is busy"})
    ),
    "not found": lambda order_id: faults.replaced(
        "status", status=500, body=encoded({"status": "error", "reason": f"no {order_id}"}), times=9
    ),
    "error": lambda order_id: faults.replaced(
        "cancel", status=200, body=encoded({"status": "OK", "error": f"{order_id} is busy"})
    ),
    "page": lambda order_id: faults.replaced(
        None, status=404, body=f"Cannot GET /cancelorder?orderId={order_id}".encode(), times=9
    ),
    "header": lambda order_id: faults.replaced(
        None, status=302, body=b"", headers={"Location": f"/?orderId={order_id}"}, times=99
    ),
    "huge": lambda order_id: faults.replaced(
        None, status=200, body=order_id.encode() * 20_000, times=99
    ),
    "misfit": lambda order_id: faults.replaced(
        None, status=200, body=encoded({"status": "OK", "code": {"of": order_id}}), times=99
    ),
    "dropped": lambda order_id: faults.drop_before(times=99),
    "reset": lambda order_id: faults.drop_after(times=99, reset=True),
    "truncated": lambda order_id: faults.truncated(times=99),
    "hangs": lambda order_id: faults.hang_before(times=99),
    "too many": lambda order_id: faults.rate_limited(times=99),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("echo", "own"),
    [
        *((echo, False) for echo in ECHO),
        *((echo, True) for echo in ("nothing", "huge", "reset", "hangs")),
    ],
)
@pytest.mark.parametrize("call", ["cancel", "cancel_many", "get_order", "orderstatus"])
async def test_id_is_shown_nowhere(call: str, echo: str, own: bool) -> None:
    """Logs, events, outcomes, snapshots, and exceptions with causes and locals: none shows the id of an order."""
    records, events = Records(), list[Event]()
    root = logging.getLogger()
    root.addHandler(records)
    texts: list[str] = []
    try:
        async with aiohttp.ClientSession() as session:
            options: dict[str, Any] = {"gateway_session": session} if own else {}
            async with vendor(gateway_telemetry=events.append, **options) as (sandbox, gateway):
                (order_id,) = ripe(sandbox)
                if (fault := ECHO[echo](order_id)) is not None:
                    sandbox.faults.add(fault)
                for order in (order_id, OrderRef(id=order_id)):
                    argument: Any = [order] if call == "cancel_many" else order
                    try:
                        told = await getattr(gateway, call)(argument, timeout=40)
                    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
                        texts.append(shown(error))
                    else:
                        texts.append(f"{told!r} {told} {told}")
                texts.append(f"{gateway!r} {vars(gateway)!r}")
    finally:
        root.removeHandler(records)
    texts += [f"{event!r} {event}" for event in events] + records.lines
    leaks = [text for text in texts if order_id in text or order_id.upper() in text]
    lines = [line for text in leaks for line in text.splitlines() if order_id in line]
    assert lines == []
    assert events


@pytest.mark.virtual_time
@pytest.mark.parametrize("call", ["cancel", "cancel_many", "get_order", "orderstatus"])
async def test_id_is_not_shown_by_a_canceled_call(call: str) -> None:
    """The cancellation of a call carries the frames on its way: none of them holds the id in plain text."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        sandbox.faults.add(faults.hang_before(times=9))
        argument: Any = [order_id] if call == "cancel_many" else order_id
        task = asyncio.create_task(getattr(gateway, call)(argument, timeout=None))
        await sandbox.arrived(1)
        task.cancel()
        caught: BaseException | None = None
        try:
            await task
        except asyncio.CancelledError as error:
            caught = error
        assert caught is not None
        lines = [line for line in shown(caught).splitlines() if order_id in line]
        assert lines == []


@pytest.mark.virtual_time
@pytest.mark.parametrize("immediate", [False, True])
async def test_created_id_is_shown_nowhere(immediate: bool) -> None:
    """A reply to a create that cannot be used tells the id, and the error does not."""
    async with vendor() as (sandbox, gateway):
        body = encoded({"status": "OK", "orderId": NOWHERE, "error": "?", "payreq": f"ln{NOWHERE}"})
        sandbox.faults.add(faults.replaced("create", status=200, body=body, times=99))
        with pytest.raises((OutcomeUnknown, BadReply)) as caught:
            await gateway.createorder(country=187, service="vk", immediate=immediate)
        assert NOWHERE not in shown(caught.value)


async def test_serialized_outcome_carries_the_id() -> None:
    """What is only shown is masked; what is kept is whole: it goes through JSON, and names the order."""
    async with vendor() as (sandbox, gateway):
        (order_id,) = ripe(sandbox)
        made = datetime.now(UTC)
        for order in (order_id, OrderRef(id=order_id, created_at=made - timedelta(hours=1))):
            outcome = await gateway.cancel(order)
            assert order_id not in f"{outcome!r} {outcome} {outcome.order!r} {outcome.order}"
            assert order_id[:4] in repr(outcome)
            expected = OrderRef(id=order_id) if isinstance(order, str) else order
            assert outcome.order == expected
            assert expected == outcome.order
            data = msgspec.json.encode(outcome)
            assert order_id.encode() in data
            again = msgspec.json.decode(data, type=CancelOutcome)
            assert again == outcome
            assert again.order == expected
        snapshot = await gateway.get_order(order_id)
        assert order_id not in f"{snapshot!r} {snapshot}"
        assert snapshot.order == OrderRef(id=order_id)


# -- telling the truth at random ------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(4))
async def test_no_outcome_lies_in_random_weather(seed: int) -> None:
    """Under random faults, races, deadlines, ages and vendor's habits every outcome agrees with the vendor's record."""
    weather = [
        *PROCESSED.values(),
        *(f for name, f in UNPROCESSED.items() if name != "cached success of nobody"),
        unable_to_save(released=True),
        unable_to_save(released=False),
        faults.hang_before(),
        faults.hang_after(),
        faults.fill_in_the_race("cancel"),
        faults.fill_in_the_race("status"),
        faults.late(delay=3.0),
        faults.drop_before(),
        faults.drop_after(),
        faults.html_page(status=500),
        faults.wrong_types("status"),
    ]
    blanks = itertools.cycle(Blank)
    rules = [
        Sms4SatsRules(),
        Sms4SatsRules(canceled_reads=Reading.SILENT, refusal_status=200, reasons={}),
        Sms4SatsRules(unsaved_release_shows=True, repeated_cancel=CancelAnswer.ACCEPTED),
        Sms4SatsRules(expired_reads=Reading.GONE, repeated_cancel=CancelAnswer.OK_WITH_ERROR),
    ][seed % 4]
    blank = [next(blanks) for _ in range(seed + 1)][-1]
    rules = msgspec.structs.replace(rules, blank_code=blank, blank_error=blank)
    async with vendor(rules, gateway_request_timeout=5.0, jitter=0.05, seed=seed) as (
        sandbox,
        gateway,
    ):
        ids = ripe(sandbox, 30)
        for order_id in ids[::5]:
            sandbox.deliver(order_id)
        for order_id in ids[1::5]:
            sandbox.cancel_behind_back(order_id)
        young = [sandbox.add_order() for _ in range(10)]
        old = datetime.now(UTC) - timedelta(seconds=OLD + 5)
        sandbox.faults.chaos(weather, rate=0.5, seed=seed)
        outcomes: list[CancelOutcome] = []
        refs = [OrderRef(id=i, created_at=old if n % 3 == 0 else None) for n, i in enumerate(ids)]
        outcomes += await gateway.cancel_many([*refs[:20], *young], timeout=40)
        outcomes += await asyncio.gather(
            *[gateway.cancel(ref, timeout=1 + 0.5 * n) for n, ref in enumerate(refs[20:])]
        )
        assert [told for outcome in outcomes if (told := lie(sandbox, outcome))] == []
        assert any(outcome.closed for outcome in outcomes)
