"""TronSave through the public API and real sockets. The vendor's own record is the judge."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from brokers.tronsave import MAINNET, NILE, TronSaveGateway
from brokers.tronsave.sandbox import (
    HistoryFilter,
    PriceTooHigh,
    RetryAfter,
    TronSaveRules,
    TronSaveSandbox,
    UnknownIds,
)
from brokers.tronsave.sandbox import OrderState as Recorded
from support.canary import CANARY, WatchedGateway
from support.raw_server import RawServer, Reply, http
from support.tronsave import LIMIT, QUICK, UNMETERED, lie, vendor
from tronsave_async import (
    AlreadyClosed,
    AuthenticationRejected,
    BadReply,
    BusinessRefusal,
    Canceled,
    ConnectFailed,
    CredentialsMissing,
    Evidence,
    GatewayClosed,
    InvalidRequest,
    NotFound,
    NotSent,
    OrderGateway,
    OrderNotFound,
    OrderRef,
    OrderState,
    OutcomeUnknown,
    RateLimit,
    RateLimiter,
    Refused,
    RequestTimeout,
    RetryPolicy,
    Unknown,
    UsageError,
    Wire,
    WrongEndpoint,
)
from tronsave_async import sandbox as faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async import CancelOutcome
    from tronsave_async.sandbox import Fault

NOWHERE = "673c17a3129f1881382e98e3"
"""An id that no sandbox has issued."""


# -- one order ------------------------------------------------------------------------------------------------


async def test_cancel() -> None:
    """A pending order is canceled by the reply to one request, and nothing of it was filled."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        outcome = await gateway.cancel(order_id, timeout=5)
        assert isinstance(outcome, Canceled)
        assert outcome.order == OrderRef(id=order_id)
        assert (outcome.executed, outcome.attempts) == (Decimal(0), 1)
        assert (outcome.evidence, outcome.wire) == (Evidence.REPLY, Wire.ANSWERED)
        assert (outcome.venue, outcome.closed) == ("tronsave", True)
        assert 0 < outcome.elapsed < 5
        assert sandbox.orders[order_id].state is Recorded.CANCELED
        assert len(sandbox.requests) == 1


@pytest.mark.parametrize("word", ["Completed", "Matched", "COMPLETED"])
async def test_filled_order(word: str) -> None:
    """A filled order is read back as filled, in either of the vendor's words."""
    async with vendor(TronSaveRules(matched_word=word)) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.match(order_id)
        outcome = await gateway.cancel(order_id)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.FILLED
        assert outcome.evidence is Evidence.READ_BACK
        assert outcome.message == "Order is already matched"


@pytest.mark.parametrize("end", ["cancel_behind_back", "expire"])
@pytest.mark.parametrize("word", ["Canceled", "Refunded", None])
async def test_order_that_died_before(end: str, word: str | None) -> None:
    """An order that died before is told as such, by tracking's plain word or else by its row in the history."""
    omitted = frozenset({Recorded.CANCELED, Recorded.EXPIRED}) if word is None else frozenset()
    rules = TronSaveRules(canceled_word=word or "", expired_word=word or "", tracking_omits=omitted)
    async with vendor(rules) as (sandbox, gateway):
        order_id = sandbox.add_order()
        getattr(sandbox, end)(order_id)
        outcome = await gateway.cancel(order_id)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.CANCELED
        assert outcome.evidence is Evidence.READ_BACK
        assert outcome.executed == (None if word == "Canceled" else Decimal(0))
        assert len(sandbox.requests_to("history")) == (0 if word == "Canceled" else 1)


async def test_refused_order_that_tracking_shows_pending() -> None:
    """A refusal is called one only after tracking said that the order still waits."""
    body = b'{"cancel_results":[{"order_id":"%s","is_success":false,"fail_reason":"not now"}]}'
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(faults.replaced("cancel", status=200, body=body % order_id.encode()))
        outcome = await gateway.cancel(order_id)
        assert isinstance(outcome, Refused)
        assert (outcome.message, outcome.evidence) == ("not now", Evidence.READ_BACK)
        assert not outcome.closed
        assert len(sandbox.requests_to("cancel")) == 1


@pytest.mark.parametrize("tracked", UnknownIds)
@pytest.mark.parametrize("canceled", UnknownIds)
async def test_unknown_id(canceled: UnknownIds, tracked: UnknownIds) -> None:
    """An id that the vendor does not know is NotFound only in the vendor's documented words, and never closed."""
    rules = TronSaveRules(unknown_canceled=canceled, unknown_tracked=tracked)
    async with vendor(rules) as (sandbox, gateway):
        outcome = await gateway.cancel(NOWHERE)
        assert not outcome.closed
        if canceled is UnknownIds.REJECTED:
            assert isinstance(outcome, NotFound)
            assert (outcome.code, outcome.message) == ("INVALID_PARAMS", "Invalid orderId")
        else:
            assert isinstance(outcome, Unknown)
        assert lie(sandbox, outcome) is None


async def test_unknown_status_word_survives() -> None:
    """A status that no table knows reads as not known, verbatim, and never as dead or alive."""
    rules = TronSaveRules(matched_word="Vaporized", history_lists=frozenset())
    async with vendor(rules) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.match(order_id)
        snapshot = await gateway.get_order(order_id)
        assert (snapshot.state, snapshot.vendor_state) == (OrderState.UNKNOWN, "Vaporized")
        assert isinstance(await gateway.cancel(order_id), Unknown)


# -- bad weather ----------------------------------------------------------------------------------------------

PROCESSED: dict[str, Fault] = {
    "reply dropped": faults.drop_after("cancel"),
    "reply reset": faults.drop_after("cancel", reset=True),
    "reply truncated": faults.truncated("cancel"),
    "500 after processing": faults.server_error("cancel", status=500, processed=True),
    "HTML after processing": faults.html_page("cancel", status=200, processed=True),
    "empty": faults.empty_body("cancel"),
    "array": faults.json_array("cancel"),
    "malformed": faults.malformed_json("cancel"),
    "wrong types": faults.wrong_types("cancel"),
    "not a list": faults.replaced(
        "cancel", status=200, body=b'{"cancel_results":{"a":1}}', processed=True
    ),
    "huge": faults.huge_body("cancel"),
}
UNPROCESSED: dict[str, Fault] = {
    "request dropped": faults.drop_before("cancel"),
    "request reset": faults.drop_before("cancel", reset=True),
    "503": faults.server_error("cancel", status=503),
    "HTML gateway error": faults.html_page("cancel", status=502),
    "429": faults.rate_limited("cancel"),
    "429 with seconds": faults.rate_limited("cancel", retry_after=3),
    "429 as HTML": faults.html_page("cancel", status=429),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", PROCESSED.values(), ids=PROCESSED)
async def test_processed_cancel_with_a_lost_answer(fault: Fault) -> None:
    """A cancel that was carried out and not answered usably is proved by reading the order back."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(fault)
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, Canceled)
        assert outcome.evidence is Evidence.READ_BACK
        assert len(sandbox.requests_to("cancel")) == 1
        assert lie(sandbox, outcome) is None


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", UNPROCESSED.values(), ids=UNPROCESSED)
async def test_cancel_that_was_not_processed(fault: Fault) -> None:
    """A cancel that was not carried out is repeated once that is known, and proved by its reply."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(fault)
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, Canceled)
        assert (outcome.attempts, outcome.evidence) == (2, Evidence.REPLY)
        assert len(sandbox.requests_to("cancel")) == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("lost", [faults.drop_after, faults.truncated, faults.hang_after])
async def test_fill_in_the_race_is_never_hidden(lost: Callable[[str], Fault]) -> None:
    """An order that is filled an instant before a cancel whose reply is lost ends as filled."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        fault = lost("cancel")
        race = faults.fill_in_the_race("cancel")
        sandbox.faults.add(
            faults.Fault(endpoint="cancel", processing=race.processing, reply=fault.reply, times=1)
        )
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.FILLED


@pytest.mark.virtual_time
@pytest.mark.parametrize("processed", [False, True])
async def test_nothing_is_guessed_while_the_vendor_is_out(processed: bool) -> None:
    """With every answer lost, the outcome is Unknown, and the number of requests is bounded."""
    lost = faults.drop_after if processed else faults.drop_before
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(lost("cancel", times=99), faults.drop_before("track", times=99))
        outcome = await gateway.cancel(order_id, timeout=300)
        assert isinstance(outcome, Unknown)
        assert (outcome.wire, outcome.evidence) == (Wire.MAYBE_SENT, Evidence.NONE)
        assert outcome.attempts == len(sandbox.requests_to("cancel")) == 4
        assert len(sandbox.requests_to("track")) <= 4


@pytest.mark.virtual_time
async def test_doubt_is_remembered_between_calls() -> None:
    """After an Unknown, "not found" and a full queue prove nothing in the next call either."""
    rules = TronSaveRules(unknown_canceled=UnknownIds.REJECTED)
    async with vendor(rules) as (sandbox, gateway):
        sandbox.faults.add(
            faults.drop_after("cancel", times=4), faults.drop_before("track", times=4)
        )
        assert isinstance(await gateway.cancel(NOWHERE, timeout=300), Unknown)
        again = await gateway.cancel(NOWHERE, timeout=300)
        assert isinstance(again, Unknown)
        assert again.code == "INVALID_PARAMS"
        sandbox.faults.add(faults.hang_before("cancel"))
        assert isinstance(await gateway.cancel(NOWHERE, timeout=0.001), Unknown)


@pytest.mark.virtual_time
async def test_doubt_ends_with_proof() -> None:
    """Once an order is proved dead, a later call is not in doubt about it."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(
            faults.drop_after("cancel", times=4), faults.drop_before("track", times=4)
        )
        assert isinstance(await gateway.cancel(order_id, timeout=300), Unknown)
        assert isinstance(await gateway.cancel(order_id, timeout=300), Canceled)
        assert isinstance(await gateway.cancel(order_id, timeout=300), AlreadyClosed)


@pytest.mark.virtual_time
async def test_refusal_after_a_lost_attempt_is_unknown() -> None:
    """In doubt, a refusal of an order that reads as pending proves nothing: the lost attempt may still act."""
    body = b'{"cancel_results":[{"order_id":"%s","is_success":false,"fail_reason":"busy"}]}'
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(
            faults.drop_before("cancel"),
            faults.replaced("cancel", status=200, body=body % order_id.encode()),
        )
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, Unknown)
        assert (outcome.last_state, outcome.message) == (OrderState.OPEN, "busy")


# -- deadlines ------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_deadline_in_the_queue_is_not_sent() -> None:
    """A timeout too short for the queue ends as NotSent, and the order never leaves."""
    async with vendor(gateway_rate_limit=LIMIT) as (sandbox, gateway):
        first, second = sandbox.add_order(), sandbox.add_order()
        await gateway.cancel(first)
        started = asyncio.get_running_loop().time()
        outcome = await gateway.cancel(second, timeout=1.5)
        assert isinstance(outcome, NotSent)
        assert (outcome.wire, outcome.attempts) == (Wire.NOT_SENT, 0)
        assert asyncio.get_running_loop().time() - started == pytest.approx(1.5, abs=0.01)
        await asyncio.sleep(5)
        assert sandbox.orders[second].state is Recorded.PENDING
        assert len(sandbox.requests_to("cancel")) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", [faults.hang_before, faults.hang_after])
async def test_deadline_while_the_vendor_hangs_is_unknown(fault: Callable[[str], Fault]) -> None:
    """A deadline that strikes with the request under way leaves the order in doubt."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(fault("cancel"))
        outcome = await gateway.cancel(order_id, timeout=3)
        assert isinstance(outcome, Unknown)
        assert (outcome.wire, outcome.attempts) == (Wire.MAYBE_SENT, 1)
        assert outcome.elapsed == pytest.approx(3, abs=0.01)


@pytest.mark.virtual_time
async def test_one_deadline_bounds_everything() -> None:
    """Queue, attempts, pauses and read-backs together take no longer than the timeout."""
    async with vendor(gateway_rate_limit=LIMIT, gateway_retry=RetryPolicy(attempts=50)) as (
        sandbox,
        gateway,
    ):
        order_id = sandbox.add_order()
        sandbox.faults.add(
            faults.drop_before("cancel", times=99), faults.drop_before("track", times=99)
        )
        outcome = await gateway.cancel(order_id, timeout=20)
        assert isinstance(outcome, Unknown)
        assert outcome.elapsed == pytest.approx(20, abs=0.01) or outcome.elapsed < 20


@pytest.mark.virtual_time
async def test_connect_hang_until_the_deadline_is_not_sent() -> None:
    """A caller whose connection never stood gets NotSent, and its request cannot leave any more."""
    async with RawServer() as server:
        gateway = WatchedGateway(
            "key", base_url=server.url, limiter=RateLimiter(), connect_timeout=60
        )
        connector = gateway._http._open_pool().connector

        async def never(*_: Any) -> Any:
            await asyncio.Event().wait()

        connector._create_connection = never  # type: ignore[assignment,method-assign]
        async with gateway:
            outcome = await gateway.cancel("a", timeout=3)
        assert isinstance(outcome, NotSent)
        assert (outcome.attempts, server.requests) == (1, [])


@pytest.mark.parametrize("timeout", [0, -1, -math.inf, math.nan, "5", True])
async def test_unusable_timeout(timeout: Any) -> None:
    """A timeout that is no number of seconds above 0 is a usage error, and nothing is sent."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        for call in (gateway.cancel, gateway.get_order):
            with pytest.raises(UsageError):
                await call(order_id, timeout=timeout)
        with pytest.raises(UsageError):
            await gateway.cancel_many([order_id], timeout=timeout)
        with pytest.raises(UsageError):
            await gateway.history(timeout=timeout)
        assert len(sandbox.requests) == 0


async def test_asyncio_timeout_around_a_call() -> None:
    """``asyncio.timeout`` around a call works, and is not mistaken for the call's own."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(faults.hang_before("cancel"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await gateway.cancel(order_id, timeout=30)
        assert isinstance(await gateway.cancel(order_id), Canceled)


# -- canceling the caller -------------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("moment", [0.0, 0.5, 2.1, 5.0, 18.0])
async def test_canceled_caller_disturbs_nobody(moment: float) -> None:
    """Whenever a caller is canceled (queue, flight, pause, read-back), CancelledError comes out and others go on."""
    async with vendor(gateway_rate_limit=LIMIT, gateway_request_timeout=10.0) as (
        sandbox,
        gateway,
    ):
        await gateway.cancel(sandbox.add_order())
        victim, other = sandbox.add_order(), sandbox.add_order()
        sandbox.faults.add(faults.hang_before("cancel"), faults.hang_after("track"))
        canceled = asyncio.create_task(gateway.cancel(victim, timeout=60))
        staying = asyncio.create_task(gateway.cancel(other, timeout=60))
        await asyncio.sleep(moment)
        canceled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await canceled
        assert isinstance(await staying, Canceled)
        if moment < 2:
            named = [request.body["order_ids"] for request in sandbox.requests_to("cancel")]
            assert not any(victim in ids for ids in named)


@pytest.mark.virtual_time
async def test_canceled_waiter_leaves_no_trace() -> None:
    """After a lone waiter was canceled in the queue, the limiter has nobody waiting and nothing in hand."""
    limiter = RateLimiter()
    async with vendor(gateway_rate_limit=LIMIT, gateway_limiter=limiter) as (sandbox, gateway):
        await gateway.cancel(sandbox.add_order())
        task = asyncio.create_task(gateway.cancel(sandbox.add_order()))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        (cancels,) = [
            told for scope, told in limiter.statistics().items() if scope.endpoint == "cancel"
        ]
        assert sum(cancels.waiting.values()) == cancels.in_hand == 0
        assert (cancels.granted, len(sandbox.requests_to("cancel"))) == (1, 1)


# -- many orders ----------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_thousand_tasks_thousand_orders() -> None:
    """1,000 tasks that cancel 1,000 orders at once need 1,000 / maximum requests (+ 1), each has its own outcome."""
    async with vendor(gateway_rate_limit=LIMIT) as (sandbox, gateway):
        ids = [sandbox.add_order(deadline=10_000) for _ in range(1000)]
        for order_id in ids[::3]:
            sandbox.match(order_id)
        outcomes = await asyncio.gather(*[gateway.cancel(i, timeout=None) for i in ids])
        assert len(sandbox.requests_to("cancel")) <= 1000 / 50 + 1
        assert len(sandbox.requests_to("track")) <= 1000 / 50 + 1
        assert [outcome.order.id for outcome in outcomes] == ids
        assert not any(lie(sandbox, outcome) for outcome in outcomes)
        filled = [isinstance(outcome, AlreadyClosed) for outcome in outcomes]
        assert filled == [index % 3 == 0 for index in range(1000)]


async def test_thousand_tasks_one_order() -> None:
    """1,000 tasks that cancel the same order need one request."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        outcomes = await asyncio.gather(*[gateway.cancel(order_id) for _ in range(1000)])
        assert len(sandbox.requests) == 1
        assert all(isinstance(outcome, Canceled) for outcome in outcomes)


@pytest.mark.virtual_time
async def test_newcomer_shares_the_request_under_way() -> None:
    """A caller that comes while its order's cancel is under way shares it."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(faults.late("cancel", delay=5.0))
        first = asyncio.create_task(gateway.cancel(order_id))
        await asyncio.sleep(1)
        assert isinstance(await gateway.cancel(order_id), Canceled)
        assert isinstance(await first, Canceled)
        assert len(sandbox.requests) == 1


@pytest.mark.virtual_time
async def test_sharers_of_a_lost_request_share_the_next() -> None:
    """40 tasks whose cancels were lost together are read back together, after one pause."""
    retry = RetryPolicy()
    async with vendor(gateway_rate_limit=LIMIT, gateway_retry=retry) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(40)]
        sandbox.faults.add(faults.drop_after("cancel"))
        await asyncio.gather(*[gateway.cancel(order_id) for order_id in ids])
        assert [len(request.body["order_ids"]) for request in sandbox.requests] == [40, 40]


@pytest.mark.parametrize("listed", [True, False])
async def test_completed_may_be_the_word_for_a_canceled_order(listed: bool) -> None:
    """A cancel whose reply was lost was carried out: that the order is "Completed" afterwards is no fill."""
    lists = TronSaveRules().history_lists if listed else frozenset()
    rules = TronSaveRules(canceled_word="Completed", history_lists=lists)
    async with vendor(rules) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(faults.drop_after("cancel"))
        outcome = await gateway.cancel(order_id, timeout=5)
        assert isinstance(outcome, Canceled | Unknown)
        assert lie(sandbox, outcome) is None
        if isinstance(outcome, Unknown):
            assert (await gateway.get_order(order_id)).state is not OrderState.FILLED


@pytest.mark.parametrize("listed", [True, False])
async def test_a_fill_in_doubt_is_borne_out_by_the_history(listed: bool) -> None:
    """Which tells the amount as well; where it does not list the order, that is closed, and nobody knows how."""
    lists = TronSaveRules().history_lists if listed else frozenset()
    async with vendor(TronSaveRules(history_lists=lists)) as (sandbox, gateway):
        order_id = sandbox.add_order(amount=65_000)
        sandbox.match(order_id)
        sandbox.faults.add(faults.drop_before("cancel"))
        outcome = await gateway.cancel(order_id, timeout=5)
        assert lie(sandbox, outcome) is None
        if listed:
            assert isinstance(outcome, AlreadyClosed)
            assert (outcome.state, outcome.executed) == (OrderState.FILLED, Decimal(65_000))
        else:
            assert isinstance(outcome, Unknown)
            assert outcome.last_state is OrderState.CLOSED


@pytest.mark.virtual_time
async def test_first_caller_is_not_delayed() -> None:
    """On an idle call the first request leaves at once."""
    async with vendor(gateway_rate_limit=LIMIT) as (sandbox, gateway):
        started = asyncio.get_running_loop().time()
        await gateway.cancel(sandbox.add_order())
        assert sandbox.requests[0].arrived == started


@pytest.mark.virtual_time
async def test_cancel_many() -> None:
    """One outcome per order, in the order asked for, told as soon as each is known."""
    async with vendor(gateway_rate_limit=LIMIT, gateway_max_ids=10) as (sandbox, gateway):
        ids = [sandbox.add_order(deadline=10_000) for _ in range(35)]
        sandbox.match(ids[3])
        told: list[tuple[float, str | None]] = []
        clock = asyncio.get_running_loop().time
        outcomes = await gateway.cancel_many(
            [*ids, ids[0], OrderRef(id=ids[1])],
            on_outcome=lambda outcome: told.append((clock(), outcome.order.id)),
        )
        assert [outcome.order.id for outcome in outcomes] == [*ids, ids[0], ids[1]]
        assert len(sandbox.requests_to("cancel")) == 4
        assert not any(lie(sandbox, outcome) for outcome in outcomes)
        assert len(told) == 37
        assert told[0][0] < told[-1][0] - 5
        assert Counter(type(outcome) for outcome in outcomes) == {Canceled: 36, AlreadyClosed: 1}


async def test_cancel_many_of_nothing() -> None:
    """An empty list needs no request and gives no outcome."""
    async with vendor() as (sandbox, gateway):
        assert await gateway.cancel_many([]) == []
        assert await gateway.track([]) == {}
        assert await gateway.confirm([]) == []
        assert len(sandbox.requests) == 0


BAD_IDS = ["", " ", "a b", "a\nb", "\x00", "x" * 129]


@pytest.mark.parametrize("bad", BAD_IDS)
async def test_unusable_id(bad: str) -> None:
    """An id that cannot be sent is a usage error alone, and NotSent among others, which go on."""
    async with vendor() as (sandbox, gateway):
        good = sandbox.add_order()
        with pytest.raises(UsageError):
            await gateway.cancel(bad)
        with pytest.raises(UsageError):
            await gateway.get_order(bad)
        first, second, third = await gateway.cancel_many([bad, good, OrderRef(client_id="c")])
        assert isinstance(first, NotSent)
        assert isinstance(second, Canceled)
        assert isinstance(third, NotSent)
        assert "client id" in (third.message or "")


@pytest.mark.parametrize("orders", ["673c17a3129f1881382e98e3", [None], [5], [b"x"], ["\ud800"]])
async def test_unusable_orders(orders: Any) -> None:
    """What is no order at all is a usage error, and nothing is sent."""
    async with vendor() as (sandbox, gateway):
        with pytest.raises(UsageError):
            await gateway.cancel_many(orders)
        assert len(sandbox.requests) == 0


@pytest.mark.parametrize("odd", ["é😀", "../../x", "a'\"b", "%00", "{}"])
async def test_id_with_odd_characters(odd: str) -> None:
    """Any visible text is sent as it is, and harms no other order even if the vendor refuses the whole request."""
    async with vendor(TronSaveRules(odd_ids_rejected=True)) as (sandbox, gateway):
        good = [sandbox.add_order() for _ in range(9)]
        outcomes = await gateway.cancel_many([*good[:5], odd, *good[5:]])
        assert [isinstance(outcome, Canceled) for outcome in outcomes] == [True] * 5 + [False] + [
            True
        ] * 4
        assert isinstance(outcomes[5], Unknown)
        assert outcomes[5].code == "FST_ERR_VALIDATION"
        assert any(odd in request.body["order_ids"] for request in sandbox.requests)


@pytest.mark.virtual_time
async def test_vendor_that_takes_fewer_ids() -> None:
    """A maximum that the vendor does not document costs requests, and no outcome."""
    async with vendor(TronSaveRules(max_ids=7)) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(50)]
        for order_id in ids[::7]:
            sandbox.match(order_id)
        outcomes = await gateway.cancel_many(ids)
        assert not any(isinstance(outcome, Unknown) for outcome in outcomes)
        assert not any(lie(sandbox, outcome) for outcome in outcomes)


async def test_missing_id_is_unknown_for_that_id_alone() -> None:
    """An id that the reply leaves out, and that tracking leaves out, is Unknown alone."""
    async with vendor(TronSaveRules(unknown_canceled=UnknownIds.OMITTED)) as (sandbox, gateway):
        good = [sandbox.add_order() for _ in range(3)]
        outcomes = await gateway.cancel_many([good[0], NOWHERE, *good[1:]], timeout=20)
        assert [type(outcome) for outcome in outcomes] == [Canceled, Unknown, Canceled, Canceled]


async def test_malformed_item_is_alone() -> None:
    """An item of the wrong types leaves the other items of the reply standing."""
    async with vendor() as (sandbox, gateway):
        first, second = sandbox.add_order(), sandbox.add_order()
        body = (
            f'{{"cancel_results":[{{"order_id":"{first}","is_success":"yes"}},7,'
            f'{{"order_id":"{second}","is_success":true,"fail_reason":null}}]}}'
        )
        sandbox.faults.add(
            faults.replaced("cancel", status=200, body=body.encode(), processed=True)
        )
        outcomes = await gateway.cancel_many([first, second])
        assert [type(outcome) for outcome in outcomes] == [Canceled, Canceled]
        assert [outcome.evidence for outcome in outcomes] == [Evidence.READ_BACK, Evidence.REPLY]


@pytest.mark.virtual_time
async def test_deadline_of_cancel_many() -> None:
    """When time runs out, what was sent is told as it is and the rest is NotSent."""
    async with vendor(gateway_rate_limit=LIMIT, gateway_max_ids=10) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(40)]
        outcomes = await gateway.cancel_many(ids, timeout=3)
        kinds = Counter(type(outcome) for outcome in outcomes)
        assert kinds == {Canceled: 20, NotSent: 20}
        assert not any(lie(sandbox, outcome) for outcome in outcomes)
        await asyncio.sleep(10)
        assert len(sandbox.requests) == 2


@pytest.mark.virtual_time
async def test_canceled_cancel_many_leaves_nothing_behind() -> None:
    """Canceling the call withdraws everything that has not left."""
    async with vendor(gateway_rate_limit=LIMIT, gateway_max_ids=10) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(40)]
        sandbox.faults.add(faults.drop_before("cancel", times=2))
        task = asyncio.create_task(gateway.cancel_many(ids))
        await asyncio.sleep(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sent = len(sandbox.requests)
        await asyncio.sleep(60)
        assert len(sandbox.requests) == sent


async def test_raising_callback_harms_no_order() -> None:
    """What ``on_outcome`` raises goes to the loop's exception handler."""
    reports: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reports.append(context))
    async with vendor() as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(2)]
        outcomes = await gateway.cancel_many(ids, on_outcome=lambda _: 1 / 0)
        assert [type(outcome) for outcome in outcomes] == [Canceled, Canceled]
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError] * 2


# -- the account ----------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_wrong_key() -> None:
    """A rejected key is an error about the account, for one order, many orders and reads; one request is enough."""
    async with (
        TronSaveSandbox(api_key=CANARY) as sandbox,
        WatchedGateway("wrong", base_url=sandbox.url, max_ids=2) as gateway,
    ):
        order_id = sandbox.add_order()
        for call in (gateway.cancel, gateway.get_order):
            with pytest.raises(AuthenticationRejected) as caught:
                await call(order_id)
            assert (caught.value.code, caught.value.number) == ("INVALID_API_KEY", 107)
        before = len(sandbox.requests)
        with pytest.raises(AuthenticationRejected):
            await gateway.cancel_many([order_id, *(sandbox.add_order() for _ in range(9))])
        assert len(sandbox.requests) == before + 1
        assert sandbox.orders[order_id].state is Recorded.PENDING


@pytest.mark.virtual_time
async def test_key_revoked_meanwhile() -> None:
    """Outcomes that were proved before the account was rejected are not thrown away."""
    async with vendor(gateway_rate_limit=LIMIT, gateway_max_ids=2) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(6)]
        task = asyncio.create_task(gateway.cancel_many(ids))
        await asyncio.sleep(1)
        sandbox.revoke_keys("another")
        outcomes = await task
        assert [type(outcome) for outcome in outcomes] == [
            Canceled,
            Canceled,
            Unknown,
            Unknown,
            NotSent,
            NotSent,
        ]
        assert outcomes[2].code == "INVALID_API_KEY"
        assert not any(lie(sandbox, outcome) for outcome in outcomes)


@pytest.mark.virtual_time
async def test_rejected_key_in_doubt_is_unknown() -> None:
    """After a lost attempt a rejected key does not hide the doubt behind an error."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(faults.drop_after("cancel"), faults.drop_before("track"))
        sandbox.faults.add(
            faults.replaced(
                "cancel", status=401, body=b'{"error":true,"message":"TSAS:107 INVALID_API_KEY"}'
            )
        )
        outcome = await gateway.cancel(order_id, timeout=60)
        assert isinstance(outcome, Unknown)
        assert outcome.code == "INVALID_API_KEY"


async def test_wrong_host() -> None:
    """A host that refuses connections, and a host that is not TronSave, are told apart, and prove what they prove."""
    async with RawServer([Reply(http(404, b"<html>nginx</html>"))]) as server:
        async with WatchedGateway("key", base_url=server.url, retry=QUICK) as gateway:
            with pytest.raises(WrongEndpoint):
                await gateway.cancel("a")
        url = server.url
    async with WatchedGateway(
        "key", base_url=url, retry=QUICK, rate_limit=UNMETERED, limiter=RateLimiter()
    ) as gateway:
        outcome = await gateway.cancel("a")
        assert isinstance(outcome, NotSent)
        assert (outcome.attempts, outcome.wire) == (4, Wire.NOT_SENT)
        with pytest.raises(ConnectFailed):
            await gateway.get_order("a")
        with pytest.raises(ConnectFailed):
            await gateway.create(
                receivers=["T"], amount=1, max_price_accept=1, duration_sec=1, deadline=1
            )


def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``from_env`` reads TRONSAVE_API_KEY, and says so when it is missing."""
    monkeypatch.setenv("TRONSAVE_API_KEY", "key")
    assert TronSaveGateway.from_env(base_url=NILE).venue == "tronsave"
    monkeypatch.setenv("TRONSAVE_API_KEY", "")
    with pytest.raises(CredentialsMissing, match="TRONSAVE_API_KEY"):
        TronSaveGateway.from_env()


@pytest.mark.parametrize(
    "options", [{"max_ids": 0}, {"base_url": "x"}, {"proxy": "x"}, {"api_key": ""}]
)
def test_unusable_options(options: dict[str, Any]) -> None:
    """An unusable option is a usage error at once."""
    with pytest.raises(UsageError):
        TronSaveGateway(**({"api_key": "key", "base_url": MAINNET} | options))


# -- lifetime -------------------------------------------------------------------------------------------------


async def test_closed_gateway() -> None:
    """After closing every call says so and sends nothing; closing twice is fine."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        await gateway.aclose()
        await gateway.aclose()
        calls = [
            gateway.cancel(order_id),
            gateway.cancel_many([order_id]),
            gateway.get_order(order_id),
            gateway.track([order_id]),
            gateway.history(),
            gateway.__aenter__(),
        ]
        for call in calls:
            with pytest.raises(GatewayClosed):
                await call
        assert len(sandbox.requests) == 0


@pytest.mark.virtual_time
async def test_closing_ends_everything_with_the_truth() -> None:
    """Closing settles what waits as NotSent, what is under way as Unknown, and lets reads fail."""
    async with vendor(gateway_rate_limit=LIMIT) as (sandbox, gateway):
        sandbox.faults.add(faults.hang_after("cancel"), faults.hang_after("track"))
        sent = asyncio.create_task(gateway.cancel(sandbox.add_order()))
        reading = asyncio.create_task(gateway.get_order(NOWHERE))
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(gateway.cancel(sandbox.add_order()))
        many = asyncio.create_task(gateway.cancel_many([sandbox.add_order()]))
        calling = asyncio.create_task(gateway.track([NOWHERE]))
        await asyncio.sleep(0.5)
        await asyncio.create_task(gateway.aclose())
        assert isinstance(await sent, Unknown)
        assert isinstance(await waiting, NotSent)
        assert [type(outcome) for outcome in await many] == [NotSent]
        with pytest.raises(GatewayClosed):
            await reading
        with pytest.raises(GatewayClosed):
            await calling


@pytest.mark.virtual_time
async def test_closing_ends_a_pause() -> None:
    """A case that waits for its next try ends as soon as the gateway closes."""
    retry = RetryPolicy(base=1e6, cap=1e6)
    async with vendor(gateway_retry=retry) as (sandbox, gateway):
        sandbox.faults.add(faults.drop_before("cancel"))
        task = asyncio.create_task(gateway.cancel(sandbox.add_order(), timeout=None))
        await asyncio.sleep(0.5)
        await gateway.aclose()
        outcome = await task
        assert isinstance(outcome, Unknown)
        assert outcome.elapsed < 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("moment", [0.5, 3.0, 4.5])
async def test_closing_ends_cancel_many(moment: float) -> None:
    """Closing ends a ``cancel_many`` in every phase (under way, pause, read-back) with the truth."""
    retry = RetryPolicy(base=1e6, cap=1e6)
    async with vendor(gateway_retry=retry, gateway_max_ids=2) as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(6)]
        sandbox.match(ids[0])
        sandbox.faults.add(faults.late("cancel", delay=2.0), faults.drop_after("cancel"))
        sandbox.faults.add(faults.late("track", delay=2.0))
        task = asyncio.create_task(gateway.cancel_many(ids))
        await asyncio.sleep(moment)
        await gateway.aclose()
        outcomes = await task
        assert len(outcomes) == 6
        assert not any(lie(sandbox, outcome) for outcome in outcomes)
        with pytest.raises(GatewayClosed):
            await gateway.cancel(ids[0])


async def test_opened_in_one_task_closed_in_another() -> None:
    """Tasks do not matter to a gateway's lifetime."""
    async with TronSaveSandbox(api_key=CANARY) as sandbox:
        gateway = WatchedGateway(sandbox.api_key, base_url=sandbox.url)
        await asyncio.create_task(gateway.__aenter__())
        assert isinstance(await asyncio.create_task(gateway.cancel(sandbox.add_order())), Canceled)
        await asyncio.create_task(gateway.aclose())


async def test_own_session_stays_open() -> None:
    """A session of the caller's own is used and not closed."""
    async with aiohttp.ClientSession() as session:
        async with vendor(gateway_session=session) as (sandbox, gateway):
            assert isinstance(await gateway.cancel(sandbox.add_order()), Canceled)
        assert not session.closed
    async with vendor(gateway_session=session) as (_, gateway):
        with pytest.raises(GatewayClosed):
            await gateway.cancel("a")


def test_it_is_an_order_gateway() -> None:
    """The gateway implements the contract."""
    assert isinstance(TronSaveGateway("key"), OrderGateway)


# -- the rate limit -------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_two_hundred_calls_and_no_rejection() -> None:
    """200 calls through 50 ms of jitter give no 429 at a strict meter, at 95 % of the documented pace or better."""
    async with (
        TronSaveSandbox(api_key=CANARY, jitter=0.05, seed=7) as sandbox,
        WatchedGateway(sandbox.api_key, base_url=sandbox.url, max_ids=1) as gateway,
    ):
        ids = [sandbox.add_order(deadline=10_000) for _ in range(200)]
        await gateway.cancel_many(ids)
        arrivals = [request.arrived for request in sandbox.requests_to("cancel")]
        assert (len(arrivals), sandbox.rejections) == (200, 0)
        assert sandbox.peak_in_window("cancel") == 1
        pace = 199 / (arrivals[-1] - arrivals[0])
        assert pace >= 0.95 * 0.5


@pytest.mark.virtual_time
async def test_gateways_of_one_account_share_their_budget() -> None:
    """Two gateways on one account and host, not told of each other, give no 429; another account has its own budget."""
    async with (
        TronSaveSandbox(api_key=CANARY, more_keys=["other-key"]) as sandbox,
        WatchedGateway(sandbox.api_key, base_url=sandbox.url) as one,
        WatchedGateway(sandbox.api_key, base_url=sandbox.url) as two,
        WatchedGateway("other-key", base_url=sandbox.url) as other,
    ):
        started = asyncio.get_running_loop().time()
        await asyncio.gather(
            one.cancel(sandbox.add_order()),
            two.cancel(sandbox.add_order()),
            other.cancel(sandbox.add_order()),
        )
        assert sandbox.rejections == 0
        arrivals = sorted(request.arrived - started for request in sandbox.requests)
        assert arrivals == pytest.approx([0, 0, 2.09], abs=0.01)


@pytest.mark.virtual_time
@pytest.mark.parametrize("rules", [TronSaveRules(), TronSaveRules(retry_after=RetryAfter.DATE)])
async def test_vendor_that_meters_all_calls_together(rules: TronSaveRules) -> None:
    """If the calls share one bucket, the gateway survives it by itself, and avoids it by option."""
    async with vendor(
        rules,
        requests_per_window=1,
        window=2.0,
        shared_bucket=True,
        gateway_rate_limit=LIMIT,
    ) as (sandbox, gateway):
        filled = sandbox.add_order()
        sandbox.match(filled)
        outcome = await gateway.cancel(filled, timeout=60)
        assert isinstance(outcome, AlreadyClosed)
        assert sandbox.rejections > 0
        async with WatchedGateway(
            sandbox.api_key, base_url=sandbox.url, limiter=RateLimiter(), shared_bucket=True
        ) as knowing:
            await asyncio.sleep(10)
            before = sandbox.rejections
            assert isinstance(await knowing.cancel(filled, timeout=60), AlreadyClosed)
            assert sandbox.rejections == before


@pytest.mark.virtual_time
async def test_429_closes_the_scope_for_all_its_users() -> None:
    """After a Retry-After nobody on the account asks before it is over."""
    limiter = RateLimiter()
    async with (
        vendor(gateway_limiter=limiter) as (sandbox, gateway),
        WatchedGateway(
            sandbox.api_key, base_url=sandbox.url, limiter=limiter, rate_limit=UNMETERED
        ) as other,
    ):
        sandbox.faults.add(faults.rate_limited("cancel", retry_after=30))
        task = asyncio.create_task(gateway.cancel(sandbox.add_order(), timeout=None))
        await asyncio.sleep(1)
        assert isinstance(await other.cancel(sandbox.add_order(), timeout=None), Canceled)
        assert isinstance(await task, Canceled)
        first, *rest = [request.arrived for request in sandbox.requests]
        assert all(arrival >= first + 30 for arrival in rest)


@pytest.mark.virtual_time
async def test_429_without_end() -> None:
    """A vendor that only says "too many" ends as what tracking proves: alive is refused, silence is Unknown."""
    async with vendor(gateway_retry=RetryPolicy()) as (sandbox, gateway):
        order_id = sandbox.add_order(deadline=10_000)
        sandbox.faults.add(faults.rate_limited("cancel", times=99))
        outcome = await gateway.cancel(order_id, timeout=None)
        assert isinstance(outcome, Refused)
        assert (outcome.evidence, outcome.attempts) == (Evidence.READ_BACK, 4)
        assert outcome.message == "Rate limit reached"
        arrivals = [request.arrived for request in sandbox.requests_to("cancel")]
        waits = [after - before for before, after in itertools.pairwise(arrivals)]
        assert waits == pytest.approx([1, 2, 4], abs=0.1)


# -- the vendor's own calls -----------------------------------------------------------------------------------

ORDER: dict[str, Any] = {
    "receivers": ["TQk2eKHE9ZfCdVmyPnh8DfRMUF0123456", "TQk2eKHE9ZfCdVmyPnh8DfRMUF1111111"],
    "amount": 130_000,
    "max_price_accept": 70,
    "duration_sec": 900,
    "deadline": 300,
}


async def test_the_six_calls() -> None:
    """Estimate, create, track, cancel, confirm and history work, typed, in their documented units."""
    async with vendor() as (sandbox, gateway):
        estimate = await gateway.estimate(
            receiver_count=2, amount=130_000, max_price_accept=70, duration_sec=900
        )
        assert estimate.price == 69
        assert estimate.charge_amount == 2 * 130_000 * 69
        assert estimate.internal_balance == 117_505_470
        ids = await gateway.create(**ORDER)
        assert list(sandbox.orders) == ids
        assert await gateway.track(ids) == dict.fromkeys(ids, "Pending")
        sandbox.match(ids[0])
        assert await gateway.track([*ids, NOWHERE]) == {ids[0]: "Completed", ids[1]: "Pending"}
        (confirmed,) = await gateway.confirm([ids[0]])
        assert (confirmed.order_id, confirmed.is_success) == (ids[0], True)
        (refused,) = await gateway.confirm([ids[1]])
        assert (refused.is_success, refused.fail_reason) == (False, "Order is not matched")
        await gateway.cancel(ids[1])
        page = await gateway.history()
        assert page.total == 2
        newest, oldest = page.results
        assert {newest.id, oldest.id} == set(ids)
        row = next(row for row in page.results if row.id == ids[0])
        assert (row.is_matched, row.repay_by, row.amount) == (True, "Confirmed", 130_000)
        assert row.created_at is not None
        assert row.created_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("state", ["pending", "matched", "canceled"])
async def test_get_order(state: str) -> None:
    """An order is read by tracking; amounts come with the history."""
    rules = TronSaveRules(tracking_omits=frozenset({Recorded.CANCELED, Recorded.MATCHED}))
    async with vendor(rules) as (sandbox, gateway):
        order_id = sandbox.add_order(amount=65_000)
        if state == "matched":
            sandbox.match(order_id)
        if state == "canceled":
            sandbox.cancel_behind_back(order_id)
        snapshot = await gateway.get_order(order_id)
        expected = {
            "pending": (OrderState.OPEN, "Pending", None, None),
            "matched": (OrderState.FILLED, "Completed", 65_000, None),
            "canceled": (OrderState.CANCELED, "Canceled", 0, 65_000),
        }[state]
        assert (
            snapshot.state,
            snapshot.vendor_state,
            snapshot.executed,
            snapshot.remaining,
        ) == expected


async def test_get_order_that_the_vendor_does_not_know() -> None:
    """Silence is an unknown state; the vendor's own words are an error."""
    async with vendor() as (sandbox, gateway):
        assert (await gateway.get_order(NOWHERE)).state is OrderState.UNKNOWN
        sandbox.rules = TronSaveRules(unknown_tracked=UnknownIds.REJECTED)
        with pytest.raises(OrderNotFound):
            await gateway.get_order(NOWHERE)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "rules",
    [
        TronSaveRules(history_page_cap=3),
        TronSaveRules(history_filter=HistoryFilter.IGNORED),
        TronSaveRules(history_nulls=True),
    ],
)
async def test_history_look_up(rules: TronSaveRules) -> None:
    """Orders that tracking leaves out are found page by page in the history, also behind a small page cap."""
    omitted = frozenset({Recorded.CANCELED})
    fields = {name: getattr(rules, name) for name in rules.__struct_fields__}
    async with vendor(TronSaveRules(**(fields | {"tracking_omits": omitted}))) as (
        sandbox,
        gateway,
    ):
        ids = [sandbox.add_order() for _ in range(10)]
        for order_id in ids:
            sandbox.cancel_behind_back(order_id)
        outcomes = await gateway.cancel_many(ids)
        assert all(isinstance(outcome, AlreadyClosed) for outcome in outcomes)
        assert len(sandbox.requests_to("history")) <= 4


async def test_iter_history() -> None:
    """All rows of a period come once, newest first, page by page; orders made meanwhile shift nothing."""
    async with vendor() as (sandbox, gateway):
        made = datetime.now(UTC) - timedelta(hours=1)
        ids = [
            sandbox.add_order(created_at=made + timedelta(seconds=i), deadline=9999)
            for i in range(25)
        ]
        for order_id in ids:
            sandbox.match(order_id)
        rows: list[str] = []
        async for row in gateway.iter_history(page_size=10, to=made + timedelta(minutes=5)):
            if not rows:
                sandbox.match(sandbox.add_order())
            rows.append(row.id)
        assert rows == ids[::-1]
        assert len(sandbox.requests_to("history")) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"page": -1},
        {"page_size": 0},
        {"from_": datetime(2026, 1, 1)},  # noqa: DTZ001 - naive on purpose
        {"from_": datetime(2026, 1, 2, tzinfo=UTC), "to": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)
async def test_unusable_history(options: dict[str, Any]) -> None:
    """A naive time, a reversed period, a negative page and an empty page are usage errors."""
    async with vendor() as (sandbox, gateway):
        with pytest.raises(UsageError):
            await gateway.history(**options)
        assert len(sandbox.requests) == 0


LOST_CREATES: dict[str, Fault] = {
    "dropped before": faults.drop_before("create"),
    "dropped after": faults.drop_after("create"),
    "hangs": faults.hang_after("create"),
    "truncated": faults.truncated("create"),
    "500": faults.server_error("create", status=500),
    "503 with Retry-After": faults.replaced(
        "create", status=503, body=b"{}", headers={"Retry-After": "1"}
    ),
    "HTML": faults.html_page("create", status=200, processed=True),
    "gateway": faults.html_page("create", status=502),
    "array": faults.json_array("create"),
    "teapot": faults.html_page("create", status=418),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", LOST_CREATES.values(), ids=LOST_CREATES)
async def test_create_is_never_repeated_once_bytes_may_have_left(fault: Fault) -> None:
    """A create whose answer is lost leaves once, and the error says when and how to look."""
    async with vendor() as (sandbox, gateway):
        sandbox.faults.add(fault)
        before = datetime.now(UTC)
        with pytest.raises(OutcomeUnknown, match="history") as caught:
            await gateway.create(**ORDER)
        assert len(sandbox.requests_to("create")) == 1
        assert before <= caught.value.sent_at <= datetime.now(UTC)
        assert caught.value.endpoint == "create"
        sandbox.faults.add(faults.drop_after("confirm"))
        with pytest.raises(OutcomeUnknown, match="Confirmed"):
            await gateway.confirm([NOWHERE])
        assert len(sandbox.requests_to("confirm")) == 1


@pytest.mark.virtual_time
async def test_create_out_of_time() -> None:
    """A create whose deadline strikes under way is unknown; in the queue it was not sent."""
    async with vendor(gateway_rate_limit=LIMIT) as (sandbox, gateway):
        sandbox.faults.add(faults.late("create", delay=10))
        with pytest.raises(OutcomeUnknown):
            await gateway.create(**ORDER, timeout=1)
        with pytest.raises(RequestTimeout) as caught:
            await gateway.create(**ORDER, timeout=0.5)
        assert caught.value.wire is Wire.NOT_SENT
        assert len(sandbox.requests_to("create")) == 1


async def test_create_refused() -> None:
    """A create that the vendor refuses created nothing, and is not repeated; 429 included."""
    async with vendor() as (sandbox, gateway):
        with pytest.raises(BusinessRefusal) as refused:
            await gateway.create(**(ORDER | {"max_price_accept": 10}))
        assert refused.value.code == "PRICE_EXCEED_MAX_PRICE_REQUIRED"
        sandbox.rules = TronSaveRules(price_too_high=PriceTooHigh.EMPTY)
        assert await gateway.create(**(ORDER | {"max_price_accept": 10})) == []
        sandbox.balance = 5
        with pytest.raises(BusinessRefusal) as poor:
            await gateway.create(**ORDER)
        assert poor.value.code == "INTERNAL_BALANCE_ACCOUNT_TOO_LOW"
        sandbox.rules = TronSaveRules(max_receivers=1)
        with pytest.raises(InvalidRequest) as invalid:
            await gateway.create(**ORDER)
        assert invalid.value.code == "FST_ERR_VALIDATION"
        sent = len(sandbox.requests_to("create"))
        sandbox.faults.add(faults.rate_limited("create", retry_after=1))
        with pytest.raises(Exception, match="Rate limit reached"):
            await gateway.create(**ORDER)
        assert len(sandbox.requests_to("create")) == sent + 1
        assert len(sandbox.orders) == 0


UNUSABLE_CREATES: list[dict[str, Any]] = [
    {"receivers": []},
    {"receivers": "TQk2"},
    {"receivers": b"TQk2"},
    {"receivers": [""]},
    {"receivers": [5]},
    {"receivers": iter(())},
    {"amount": -1},
    {"amount": math.nan},
    {"amount": 1.5},
    {"amount": True},
    {"deadline": "300"},
    {"max_price_accept": None},
]


@pytest.mark.parametrize("wrong", UNUSABLE_CREATES)
async def test_unusable_create(wrong: dict[str, Any]) -> None:
    """What cannot be meant is refused before it costs money, in estimates and confirmations as well."""
    async with vendor() as (sandbox, gateway):
        with pytest.raises(UsageError):
            await gateway.create(**(ORDER | wrong))
        with pytest.raises(UsageError):
            await gateway.confirm(NOWHERE)
        with pytest.raises(UsageError):
            await gateway.track(NOWHERE)
        with pytest.raises(UsageError):
            await gateway.estimate(receiver_count=0, amount=1, max_price_accept=1, duration_sec=1)
        assert len(sandbox.requests) == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("call", ["track", "history", "estimate"])
async def test_reads_are_repeated(call: str) -> None:
    """Reads survive three failures of any kind, and then fail as what the last one was."""
    async with vendor() as (sandbox, gateway):

        async def read() -> Any:
            if call == "estimate":
                return await gateway.estimate(
                    receiver_count=1, amount=1, max_price_accept=70, duration_sec=900
                )
            return await (gateway.track([NOWHERE]) if call == "track" else gateway.history())

        sandbox.faults.add(faults.drop_before(call), faults.server_error(call, status=500))
        sandbox.faults.add(faults.html_page(call, status=200))
        await read()
        assert len(sandbox.requests) == 4
        sandbox.faults.add(faults.malformed_json(call, times=4))
        with pytest.raises(BadReply):
            await read()


@pytest.mark.virtual_time
async def test_outage_does_not_multiply_traffic() -> None:
    """When everything fails, the quota keeps the repeats of many calls below their number."""
    retry = RetryPolicy(attempts=10, base=0.001, quota=20.0, quota_refill=0.0)
    async with vendor(gateway_retry=retry, gateway_max_ids=1) as (sandbox, gateway):
        sandbox.faults.add(faults.server_error("cancel", status=503, times=9999))
        sandbox.faults.add(faults.server_error("track", status=503, times=9999))
        ids = [sandbox.add_order() for _ in range(200)]
        outcomes = await gateway.cancel_many(ids)
        assert all(isinstance(outcome, Unknown) for outcome in outcomes)
        assert len(sandbox.requests_to("cancel")) <= 220
        assert len(sandbox.requests_to("track")) <= 200 + 20


# -- telling the truth at random ------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(6))
async def test_no_outcome_lies_in_random_weather(seed: int) -> None:
    """Under random faults, races, deadlines and vendor's habits every outcome agrees with the vendor's record."""
    weather = [
        *PROCESSED.values(),
        *UNPROCESSED.values(),
        faults.hang_before(),
        faults.hang_after(),
        faults.fill_in_the_race("cancel"),
        faults.late(delay=3.0),
        faults.drop_before(),
        faults.drop_after(),
        faults.html_page(status=500),
    ]
    rules = [
        TronSaveRules(),
        TronSaveRules(canceled_word="Refunded", tracking_omits=frozenset({Recorded.EXPIRED})),
        TronSaveRules(history_lists=frozenset(), canceled_word="Gone", results_shuffled=True),
        TronSaveRules(cancel_again_succeeds=True, unknown_canceled=UnknownIds.OMITTED),
    ][seed % 4]
    async with vendor(
        rules, gateway_max_ids=7, gateway_request_timeout=5.0, jitter=0.05, seed=seed
    ) as (sandbox, gateway):
        ids = [sandbox.add_order(deadline=60) for _ in range(80)]
        for order_id in ids[::5]:
            sandbox.match(order_id)
        for order_id in ids[1::9]:
            if sandbox.orders[order_id].state is Recorded.PENDING:
                sandbox.cancel_behind_back(order_id)
        sandbox.faults.chaos(weather, rate=0.5, seed=seed)
        outcomes: list[CancelOutcome] = []
        outcomes += await gateway.cancel_many(ids[:40], timeout=40)
        outcomes += await asyncio.gather(
            *[gateway.cancel(i, timeout=1 + 0.5 * n) for n, i in enumerate(ids[40:])]
        )
        assert [outcome.order.id for outcome in outcomes] == ids
        assert [told for outcome in outcomes if (told := lie(sandbox, outcome))] == []
        assert any(outcome.closed for outcome in outcomes)


async def test_custom_rate_limit_is_kept() -> None:
    """A caller's own limit takes the documented one's place."""
    async with vendor(
        requests_per_window=5, window=0.2, gateway_rate_limit=RateLimit(5, per=0.2, margin=0.02)
    ) as (sandbox, gateway):
        for _ in range(8):
            await gateway.cancel(sandbox.add_order())
        assert sandbox.rejections == 0
