"""Ripio's own calls through the public API and real sockets: create, update, the reads, and how a gateway is opened."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from brokers.ripio import RipioGateway, config
from brokers.ripio.sandbox import Generation, OrderState, RipioSandbox
from support.ripio import PROMPT, lie, strict, vendor, virtual_now
from tronsave_async import (
    BadReply,
    BusinessRefusal,
    Canceled,
    CredentialsMissing,
    GatewayClosed,
    InvalidRequest,
    NotFound,
    OrderNotFound,
    OrderRef,
    OutcomeUnknown,
    PermissionDenied,
    RateLimit,
    RateLimited,
    RequestFailed,
    RequestTimeout,
    Unknown,
    UsageError,
    VendorFailure,
    Wire,
    open_gateway,
)
from tronsave_async import OrderState as Told
from tronsave_async import sandbox as faults
from tronsave_async import sandbox_socket as socket_faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async.sandbox import Fault

LIMIT: dict[str, Any] = {
    "pair": "BTC_BRL",
    "side": "buy",
    "type": "limit",
    "amount": Decimal("0.001"),
    "price": 100_000,
}


def sent(sandbox: RipioSandbox, endpoint: str = "create") -> dict[str, Any]:
    """The business parameters of the latest request, in their order."""
    params: dict[str, Any] = sandbox.requests_to(endpoint)[-1].body["params"]
    return {
        name: value
        for name, value in params.items()
        if name not in {"api_token", "apiToken", "timestamp", "signature"}
    }


# -- create -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", Generation)
async def test_create(generation: Generation) -> None:
    """An order is created once, and told as the vendor recorded it."""
    async with vendor(strict(generation=generation)) as (sandbox, gateway):
        order = await gateway.create(
            pair="BTC_BRL",
            side="sell",
            type="limit",
            amount=Decimal("0.12345678"),
            price=Decimal("100000.5"),
            external_id="bot/ç 1",
        )
        record = sandbox.orders[order.id]
        assert (record.side, record.external_id) == ("sell", "bot/ç 1")
        assert record.requested_amount == order.requested_amount == Decimal("0.12345678")
        assert record.price == Decimal("100000.5")
        assert (order.status, order.external_id) == ("open", "bot/ç 1")
        assert order.create_date is not None
        assert order.create_date.utcoffset() == timedelta(0)
        assert len(sandbox.requests) == 1
        outcome = await gateway.cancel(OrderRef(client_id="bot/ç 1"))
        assert isinstance(outcome, Canceled)


async def test_create_sends_every_parameter_in_the_documented_order() -> None:
    """What is given is sent under the vendor's names, in the page's order; what is not given is left out."""
    async with vendor() as (sandbox, gateway):
        await gateway.create(
            fill_or_kill=False,
            immediate_or_cancel=True,
            expiration=datetime(2024, 8, 7, 23, 14, 42, 999_000, tzinfo=UTC),
            post_only=True,
            external_id="e",
            step_amount=Decimal("0.0001"),
            distance=3,
            stop_price=Decimal("1E+2"),
            value=7,
            price=Decimal("0.00000001"),
            amount=1,
            type="iceberg",
            side="buy",
            pair="BTC_BRL",
        )
        params = sent(sandbox)
        assert list(params) == [
            "pair",
            "side",
            "type",
            "amount",
            "price",
            "value",
            "stop_price",
            "distance",
            "step_amount",
            "external_id",
            "post_only",
            "expiration",
            "immediate_or_cancel",
            "fill_or_kill",
        ]
        assert params["expiration"] == 1723072482
        assert (params["post_only"], params["immediate_or_cancel"], params["fill_or_kill"]) == (
            True,
            True,
            False,
        )
        assert Decimal(str(params["price"])) == Decimal("0.00000001")
        assert Decimal(str(params["stop_price"])) == 100
        await gateway.create(**LIMIT)
        assert list(sent(sandbox)) == ["pair", "side", "type", "amount", "price"]
        exact = Decimal("12345678901234567.12345678")
        order = await gateway.create(**(LIMIT | {"amount": exact}))
        assert sandbox.orders[order.id].requested_amount == exact


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 0.1},
        {"price": float("nan")},
        {"amount": Decimal("NaN")},
        {"price": Decimal("Infinity")},
        {"external_id": "x" * 37},
        {"external_id": ""},
        {"external_id": ".."},
        {"expiration": datetime(2030, 1, 1)},  # noqa: DTZ001 - naive on purpose
        {"timeout": -1},
        {"side": "\ud800"},
    ],
    ids=repr,
)
async def test_unusable_arguments_of_create(wrong: dict[str, Any]) -> None:
    """Floats, naive times and impossible ids are refused before anything is sent."""
    async with vendor() as (sandbox, gateway):
        with pytest.raises(UsageError):
            await gateway.create(**(LIMIT | wrong))
        assert len(sandbox.requests) == 0


@pytest.mark.parametrize("generation", Generation)
async def test_create_is_refused(generation: Generation) -> None:
    """Missing funds, small amounts and bad parameters are errors about the call; nothing was created or repeated."""
    rules = strict(generation=generation, external_id_unique=True)
    funds = {"BRL": Decimal(150)}
    async with vendor(rules, funds=funds, min_amount=Decimal("0.0005")) as (sandbox, gateway):
        order = await gateway.create(**LIMIT, external_id="e")
        for changed, kind in (
            ({}, BusinessRefusal),
            ({"external_id": "e"}, InvalidRequest),
            ({"side": "borrow"}, InvalidRequest),
            ({"pair": "BTC"}, InvalidRequest),
            ({"price": None}, InvalidRequest),
            (
                {"amount": Decimal("0.0001")},
                InvalidRequest if generation is Generation.NEW else BusinessRefusal,
            ),
        ):
            with pytest.raises(kind):
                await gateway.create(**(LIMIT | changed))
        sandbox.forbidden = frozenset({"create"})
        with pytest.raises(PermissionDenied):
            await gateway.create(**LIMIT)
        sandbox.faults.add(faults.rate_limited("create"))
        with pytest.raises(RateLimited):
            await gateway.create(**LIMIT)
        assert list(sandbox.orders) == [order.id]
        assert len(sandbox.requests_to("create")) == 9
        assert len(sandbox.requests) == 9


LOST: dict[str, Fault] = {
    "cut": faults.drop_after("create"),
    "reset": faults.drop_after("create", reset=True),
    "hang": faults.hang_after("create"),
    "late": faults.late("create", delay=60.0),
    "half a frame": faults.truncated("create"),
    "wrong types": faults.wrong_types("create"),
    "malformed": faults.malformed_json("create"),
    "binary": socket_faults.binary_frame("create"),
    "to another": socket_faults.unaddressed("create"),
    "closing": socket_faults.closing(1012, "create", processed=True),
    "500": faults.server_error("create", processed=True),
    "503": faults.server_error("create", status=503, processed=True),
    "200 without a result": faults.replaced(
        "create", status=200, body=b'{"status":200,"result":null}', processed=True
    ),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", LOST.values(), ids=LOST)
async def test_lost_reply_to_create(fault: Fault) -> None:
    """With an external id the order is found; without one nothing is guessed; it is never created twice."""
    async with vendor(now=virtual_now(), gateway_retry=PROMPT) as (sandbox, gateway):
        sandbox.faults.add(fault)
        order = await gateway.create(**LIMIT, external_id="ñ/1", timeout=100)
        assert sandbox.orders[order.id].external_id == "ñ/1"
        assert order.type == "limit"
        assert len(sandbox.requests_to("create")) == 1
        assert len(sandbox.requests_to("order_by_external_id")) == 1

        sandbox.faults.add(fault)
        with pytest.raises(OutcomeUnknown, match=r"open_orders\(\)") as caught:
            await gateway.create(**LIMIT, timeout=100)
        assert caught.value.sent_at.utcoffset() == timedelta(0)
        assert len(sandbox.requests_to("create")) == 2
        assert len(sandbox.requests_to("order_by_external_id")) == 1


@pytest.mark.virtual_time
async def test_create_found_only_after_the_processing_time() -> None:
    """An order that the vendor shows late is found by the second look."""
    async with vendor(strict(rest_lag=6.0), now=virtual_now()) as (sandbox, gateway):
        started = asyncio.get_running_loop().time()
        sandbox.faults.add(faults.drop_after("create"))
        order = await gateway.create(**LIMIT, external_id="e", timeout=100)
        assert list(sandbox.orders) == [order.id]
        assert len(sandbox.requests_to("create")) == 1
        assert len(sandbox.requests_to("order_by_external_id")) == 2
        passed = asyncio.get_running_loop().time() - started
        assert passed == pytest.approx(config.PROCESSING_TIME, abs=0.1)


@pytest.mark.virtual_time
@pytest.mark.parametrize("limit", [100.0, 5.0])
async def test_create_that_is_never_found(limit: float) -> None:
    """Not found by any look that the deadline leaves time for: OutcomeUnknown, which says how to look."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.drop_before("create"))
        with pytest.raises(OutcomeUnknown, match=r"client_id='e'"):
            await gateway.create(**LIMIT, external_id="e", timeout=limit)
        assert len(sandbox.requests_to("create")) == 1
        looks = len(sandbox.requests_to("order_by_external_id"))
        assert looks == 2
        assert len(sandbox.orders) == 0


@pytest.mark.virtual_time
async def test_create_whose_reply_comes_late() -> None:
    """A late reply tells what no look finds, and ends the search."""
    async with vendor(now=virtual_now(), gateway_request_timeout=0.5) as (sandbox, gateway):
        await sandbox.close_rest()
        sandbox.faults.add(faults.late("create", delay=2.0))
        started = asyncio.get_running_loop().time()
        order = await gateway.create(**LIMIT, external_id="e", timeout=100)
        assert asyncio.get_running_loop().time() - started == pytest.approx(2.0, abs=0.2)
        assert sandbox.orders[order.id].external_id == "e"
        assert len(sandbox.requests_to("create")) == 1


@pytest.mark.virtual_time
async def test_an_external_id_that_is_used_again_is_another_order() -> None:
    """What was in doubt about an order says nothing about a new one of the same name."""
    async with vendor(now=virtual_now(), gateway_request_timeout=0.5) as (sandbox, gateway):
        sandbox.add_order(external_id="e")
        await sandbox.close_rest()
        sandbox.faults.add(faults.late("cancel", delay=1.0), faults.hang_before("cancel"))
        name = OrderRef(client_id="e")
        assert isinstance(await gateway.cancel(name, timeout=0.7), Unknown)
        await asyncio.sleep(1.0)
        sandbox.faults.clear()
        order = await gateway.create(**LIMIT, external_id="e")
        sandbox.faults.add(faults.replaced("cancel", status=200, body=b"{}"))
        outcome = await gateway.cancel(name, timeout=0.2)
        assert not outcome.closed
        assert sandbox.orders[order.id].state is OrderState.OPEN


@pytest.mark.virtual_time
async def test_a_late_cancel_of_an_old_order_says_nothing_about_its_heir() -> None:
    """The second cancel is in doubt as well; the late success is the first one's, and the first order's."""
    async with vendor(now=virtual_now(), gateway_request_timeout=0.5) as (sandbox, gateway):
        sandbox.add_order(external_id="e")
        await sandbox.close_rest()
        sandbox.faults.add(faults.late("cancel", delay=2.0), faults.hang_before("cancel", times=9))
        name = OrderRef(client_id="e")
        assert isinstance(await gateway.cancel(name, timeout=0.7), Unknown)
        order = await gateway.create(**LIMIT, external_id="e")
        outcome = await gateway.cancel(name, timeout=3)
        assert gateway._socket.strays["late"] == 1
        assert not outcome.closed
        assert sandbox.orders[order.id].state is OrderState.OPEN


@pytest.mark.virtual_time
async def test_a_cancel_does_not_join_one_that_left_before_its_order_existed() -> None:
    """A name that is given to a new order is asked about anew."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.add_order(external_id="e")
        sandbox.faults.add(faults.late("cancel", delay=1.0))
        name = OrderRef(client_id="e")
        first = asyncio.create_task(gateway.cancel(name))
        await sandbox.arrived(1, "cancel")
        order = await gateway.create(**LIMIT, external_id="e")
        outcome = await gateway.cancel(name)
        await first
        assert len(sandbox.requests_to("cancel")) == 2
        assert outcome.closed == (sandbox.orders[order.id].state is OrderState.CANCELED)


# -- cancels of orders that are being created ---------------------------------------------------------------------

NAMED = OrderRef(client_id="e")


def refused(status: int, code: int, message: str) -> bytes:
    """The vendor's refusal, as a frame without its id."""
    error = {"error_code": code, "message": message}
    return msgspec.json.encode({"status": status, "result": None, "error": error})


GONE = refused(404, 40401, "Order not found.")


async def forsaken(gateway: RipioGateway, how: str) -> None:
    """Create an order that the vendor does not answer for, and do not wait for it."""
    if how == "timeout":
        with pytest.raises(OutcomeUnknown):
            await gateway.create(**LIMIT, external_id="e", timeout=0.5)
        return
    creating = asyncio.create_task(gateway.create(**LIMIT, external_id="e"))
    await asyncio.sleep(0.5)
    if how == "canceled":
        creating.cancel()
        await asyncio.wait([creating])


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["timeout", "canceled"])
@pytest.mark.parametrize("slow", [1.0, config.CREATION_TIME - 0.1])
async def test_an_order_that_is_not_there_yet(how: str, slow: float) -> None:
    """The vendor takes its time for the creation, and knows no such order meanwhile: it is canceled once it is
    there."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.hang_before("create"))
        asyncio.get_running_loop().call_later(
            slow, lambda: sandbox.add_order(external_id="e", amount="0.001", price="100000")
        )
        await forsaken(gateway, how)
        outcome = await gateway.cancel(NAMED, timeout=60)
        assert isinstance(outcome, Canceled)
        assert lie(sandbox, outcome) is None
        assert outcome.elapsed < config.CREATION_TIME + 0.1


@pytest.mark.virtual_time
async def test_an_order_that_is_created_while_its_cancel_waits() -> None:
    """The reply to the creation wakes the cancel up: it does not wait for the longest time."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(
            faults.late("create", delay=3.0), faults.replaced("cancel", status=200, body=GONE)
        )
        creating = asyncio.create_task(gateway.create(**LIMIT, external_id="e"))
        await asyncio.sleep(0.1)
        [one, several] = await asyncio.gather(
            gateway.cancel(NAMED, timeout=60), gateway.cancel_many([NAMED, NAMED], timeout=60)
        )
        order = await creating
        for outcome in (one, *several):
            assert outcome.closed
            assert lie(sandbox, outcome) is None
            assert 2.8 < outcome.elapsed < 3.1
        assert sandbox.orders[order.id].state is OrderState.CANCELED


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["timeout", "canceled"])
async def test_an_order_that_is_never_there(how: str) -> None:
    """Once the creation can take effect no more, the vendor's word is believed; before that nothing is known."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.hang_before("create"))
        await forsaken(gateway, how)
        outcome = await gateway.cancel(NAMED, timeout=5)
        assert isinstance(outcome, Unknown)
        assert outcome.message == "Order not found."
        outcome = await gateway.cancel(NAMED, timeout=60)
        assert isinstance(outcome, NotFound)
        assert outcome.elapsed < config.CREATION_TIME
        outcome = await gateway.cancel(NAMED, timeout=60)
        assert isinstance(outcome, NotFound)
        assert outcome.elapsed < 0.1


@pytest.mark.virtual_time
async def test_a_refused_creation_makes_no_cancel_wait() -> None:
    """Nothing will come of it; but an earlier one of the name that is in doubt may still take effect."""
    refusal = faults.replaced("create", status=400, body=refused(400, 40011, "Insufficient funds"))
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        for in_doubt in (False, True):
            if in_doubt:
                sandbox.faults.add(faults.hang_before("create"))
                await forsaken(gateway, "canceled")
            sandbox.faults.add(refusal)
            with pytest.raises(BusinessRefusal):
                await gateway.create(**LIMIT, external_id="e")
            outcome = await gateway.cancel(NAMED, timeout=60)
            assert isinstance(outcome, NotFound)
            assert (outcome.elapsed > 1) == in_doubt


@pytest.mark.virtual_time
async def test_a_creation_that_never_left_says_nothing_about_another() -> None:
    """One is in doubt; the next of the name ends in the queue: the first may still take effect."""
    limit = RateLimit(1, per=2.0, margin=0.0)
    async with vendor(now=virtual_now(), gateway_rate_limit=limit) as (sandbox, gateway):
        sandbox.faults.add(faults.hang_before("create"))
        await forsaken(gateway, "timeout")
        with pytest.raises(RequestTimeout) as caught:
            await gateway.create(**LIMIT, external_id="e", timeout=0.5)
        assert caught.value.wire is Wire.NOT_SENT
        asyncio.get_running_loop().call_later(5.0, lambda: sandbox.add_order(external_id="e"))
        outcome = await gateway.cancel(NAMED, timeout=60)
        assert isinstance(outcome, Canceled)
        assert len(sandbox.requests_to("create")) == 1


@pytest.mark.virtual_time
async def test_a_creation_that_is_signed_anew_is_one() -> None:
    """Its first request was rejected unprocessed, the second refused: nothing is left to wait for."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.clock_offset = 30.0
        sandbox.faults.add(
            faults.Fault(endpoint="create"),
            faults.replaced("create", status=400, body=refused(400, 40011, "Insufficient funds")),
        )
        with pytest.raises(BusinessRefusal):
            await gateway.create(**LIMIT, external_id="e", timeout=100)
        assert len(sandbox.requests_to("create")) == 2
        outcome = await gateway.cancel(NAMED, timeout=60)
        assert isinstance(outcome, NotFound)
        assert outcome.elapsed < 1


@pytest.mark.virtual_time
async def test_equal_names_share_one_request() -> None:
    """In one call, of many tasks at once, and of all who waited for a creation."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        first = sandbox.add_order(external_id="a")
        outcomes = await gateway.cancel_many([OrderRef(client_id="a")] * 20)
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert len(sandbox.requests_to("cancel")) == sandbox.orders[first].cancels == 1
        sandbox.add_order(external_id="b")
        name = OrderRef(client_id="b")
        outcomes = await asyncio.gather(*[gateway.cancel(name) for _ in range(20)])
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert len(sandbox.requests_to("cancel")) == 2
        sandbox.faults.add(faults.hang_before("create"))
        await forsaken(gateway, "canceled")
        asyncio.get_running_loop().call_later(2.0, lambda: sandbox.add_order(external_id="e"))
        outcomes = await asyncio.gather(*[gateway.cancel(NAMED, timeout=60) for _ in range(20)])
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert len(sandbox.requests_to("cancel")) == 4


@pytest.mark.virtual_time
@pytest.mark.parametrize("end", ["cancel_behind_back", "fill"])
async def test_a_look_at_a_former_order_is_not_about_the_new_one(end: str) -> None:
    """While a creation is under way the vendor's record of the name is still the former order's."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        getattr(sandbox, end)(sandbox.add_order(external_id="e"))
        sandbox.faults.add(faults.hang_before("create"))
        loop, born = asyncio.get_running_loop(), []
        loop.call_later(3.0, lambda: born.append(sandbox.add_order(external_id="e")))
        await forsaken(gateway, "canceled")
        sandbox.faults.add(faults.server_error("cancel"))
        outcome = await gateway.cancel(NAMED, timeout=60)
        assert isinstance(outcome, Canceled)
        assert sandbox.orders[born[0]].state is OrderState.CANCELED


@pytest.mark.virtual_time
async def test_a_success_of_before_the_call_is_not_taken() -> None:
    """Another process gives the name to a new order while the cancel of the former one is under way."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.add_order(external_id="e")
        sandbox.faults.add(faults.late("cancel", delay=1.0))
        first = asyncio.create_task(gateway.cancel(NAMED))
        await sandbox.arrived(1, "cancel")
        new = sandbox.add_order(external_id="e")
        assert isinstance(await gateway.cancel(NAMED), Canceled)
        assert sandbox.orders[new].state is OrderState.CANCELED
        assert isinstance(await first, Canceled)


@pytest.mark.virtual_time
@pytest.mark.parametrize("trouble", ["shared", "lost", "waiting"])
async def test_a_cancel_never_reaches_an_order_that_came_after_its_call(trouble: str) -> None:
    """Whatever it waits for: once its name is given to a new order, it is not sent any more."""
    async with vendor(now=virtual_now(), gateway_retry=PROMPT) as (sandbox, gateway):
        if trouble == "waiting":
            sandbox.faults.add(faults.hang_before("create"))
            await forsaken(gateway, "canceled")
        fault = (
            faults.drop_before("cancel") if trouble == "lost" else faults.late("cancel", delay=1)
        )
        sandbox.faults.add(fault, faults.late("order_by_external_id", delay=1.0))
        callers = [asyncio.create_task(gateway.cancel(NAMED, timeout=60))]
        await sandbox.arrived(1, "cancel")
        callers.append(asyncio.create_task(gateway.cancel(NAMED, timeout=60)))
        await asyncio.sleep(0 if trouble == "lost" else 0.5)
        order = await gateway.create(**LIMIT, external_id="e", timeout=100)
        outcomes = await asyncio.gather(*callers)
        assert sandbox.orders[order.id].state is OrderState.OPEN
        assert not any(outcome.closed for outcome in outcomes)


@pytest.mark.virtual_time
async def test_two_creations_of_a_name_at_once() -> None:
    """The end of one is not the other's."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.late("create", delay=2.0), faults.hang_before("create"))
        first = asyncio.create_task(gateway.create(**LIMIT, external_id="e"))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(gateway.create(**LIMIT, external_id="e"))
        loop, born = asyncio.get_running_loop(), []
        loop.call_later(7.0, lambda: born.append(sandbox.add_order(external_id="e")))
        order = await first
        second.cancel()
        assert isinstance(await gateway.cancel(NAMED, timeout=60), Canceled)
        assert sandbox.orders[order.id].state is OrderState.CANCELED
        assert isinstance(await gateway.cancel(NAMED, timeout=60), Canceled)
        assert sandbox.orders[born[0]].state is OrderState.CANCELED


@pytest.mark.virtual_time
async def test_a_late_reply_to_a_creation_wakes_its_cancels() -> None:
    """Nobody waits for the order any more, but those who want it canceled."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(
            faults.late("create", delay=1.0), faults.replaced("cancel", status=200, body=GONE)
        )
        await forsaken(gateway, "canceled")
        outcome = await gateway.cancel(NAMED, timeout=8)
        assert isinstance(outcome, Canceled)
        assert outcome.elapsed < 1


@pytest.mark.virtual_time
async def test_refused_creations_do_not_prolong_an_earlier_one() -> None:
    """What is in doubt is the first; it ends in its time, however often the creation is tried again."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.hang_before("create"))
        await forsaken(gateway, "canceled")
        for _ in range(4):
            await asyncio.sleep(5)
            sandbox.faults.add(
                faults.replaced(
                    "create", status=400, body=refused(400, 40011, "Insufficient funds")
                )
            )
            with pytest.raises(BusinessRefusal):
                await gateway.create(**LIMIT, external_id="e")
        outcome = await gateway.cancel(NAMED, timeout=60)
        assert isinstance(outcome, NotFound)
        assert outcome.elapsed < 1


async def test_moments_at_the_ends_of_the_calendar() -> None:
    """What is beyond is named, and what is not is sent."""
    west, east = (timezone(timedelta(hours=hours)) for hours in (-14, 14))
    async with vendor() as (sandbox, gateway):
        with pytest.raises(UsageError, match=r"^expiration is out of all calendars$"):
            await gateway.create(**LIMIT, expiration=datetime.max.replace(tzinfo=west))
        with pytest.raises(UsageError, match=r"^end_date is out of all calendars$"):
            await gateway.orders("BTC_BRL", end_date=datetime.min.replace(tzinfo=east))
        assert not sandbox.requests
        await gateway.orders("BTC_BRL", end_date=datetime.min.replace(tzinfo=UTC))


@pytest.mark.virtual_time
async def test_a_creation_has_nearly_all_of_its_time_for_the_answer() -> None:
    """Only the last second is kept for a look."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.late("create", delay=10.5))
        order = await gateway.create(**LIMIT, external_id="e", timeout=12.0)
        assert list(sandbox.orders) == [order.id]
        assert not sandbox.requests_to("order_by_external_id")


@pytest.mark.virtual_time
async def test_a_cancel_of_before_a_creation_is_not_about_its_order() -> None:
    """The vendor knows no such order when it is asked; the one that gets the name afterwards is left alone."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.late("cancel", delay=1.0))
        canceling = asyncio.create_task(gateway.cancel(NAMED, timeout=60))
        await asyncio.sleep(0.5)
        order = await gateway.create(**LIMIT, external_id="e")
        assert isinstance(await canceling, NotFound)
        assert sandbox.orders[order.id].state is OrderState.OPEN


@pytest.mark.virtual_time
async def test_a_gateway_that_closes_waits_for_no_creation() -> None:
    """Nor does a caller who goes."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.hang_before("create"))
        await forsaken(gateway, "canceled")
        canceling = asyncio.create_task(gateway.cancel(NAMED, timeout=60))
        going = asyncio.create_task(gateway.cancel(NAMED, timeout=60))
        await asyncio.sleep(1)
        going.cancel()
        await gateway.aclose()
        outcome = await asyncio.wait_for(canceling, 0.1)
        assert isinstance(outcome, Unknown)
        with pytest.raises(asyncio.CancelledError):
            await going


@pytest.mark.virtual_time
@pytest.mark.parametrize("said", ["not found", "canceled before"])
async def test_a_cancel_does_not_take_the_answer_to_an_earlier_one(said: str) -> None:
    """Another gateway creates the order while a cancel of the name is under way: who asks afterwards asks anew."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        if said == "canceled before":
            sandbox.cancel_behind_back(sandbox.add_order(external_id="e"))
        sandbox.faults.add(faults.late("cancel", delay=1.0))
        first = asyncio.create_task(gateway.cancel(NAMED, timeout=60))
        await sandbox.arrived(1, "cancel")
        order_id = sandbox.add_order(external_id="e")
        second = await gateway.cancel(NAMED, timeout=60)
        assert isinstance(second, Canceled)
        assert sandbox.orders[order_id].state is OrderState.CANCELED
        assert not isinstance(await first, Canceled)


@pytest.mark.parametrize(
    "told",
    [{"external_id": "other"}, {"pair": "ETH_BRL"}, {"side": "sell"}, {"requested_amount": 77}],
    ids=str,
)
@pytest.mark.virtual_time
async def test_a_creation_is_not_told_as_another_order(told: dict[str, Any]) -> None:
    """A reply about another order is no reply: the order is looked up instead."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        result = {"id": "X", "status": "open", **told}
        body = msgspec.json.encode({"status": 200, "result": result})
        sandbox.faults.add(faults.replaced("create", status=200, body=body, processed=True))
        order = await gateway.create(**LIMIT, external_id="e")
        assert order.id in sandbox.orders


@pytest.mark.virtual_time
async def test_an_update_is_not_told_of_another_order() -> None:
    """A reply about another order leaves it open whether this one was changed."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        order_id = sandbox.add_order()
        body = msgspec.json.encode({"status": 200, "result": {"id": "X", "status": "open"}})
        sandbox.faults.add(faults.replaced("update", status=200, body=body))
        with pytest.raises(OutcomeUnknown):
            await gateway.update(order_id, price=2)


@pytest.mark.virtual_time
async def test_create_with_rest_out_of_reach() -> None:
    """A look that fails proves nothing."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        await sandbox.close_rest()
        sandbox.faults.add(faults.drop_after("create"))
        with pytest.raises(OutcomeUnknown):
            await gateway.create(**LIMIT, external_id="e", timeout=100)
        assert len(sandbox.orders) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "differs",
    [{"age": 60}, {"pair": "ETH_BRL"}, {"side": "sell"}, {"amount": "77"}, {"price": "9"}],
)
async def test_older_order_is_not_taken_for_the_new_one(differs: dict[str, Any]) -> None:
    """An order with the same external id that this call did not create is not told as created."""
    clock = virtual_now()
    async with vendor(now=clock) as (sandbox, gateway):
        sandbox.add_order(
            external_id="e",
            pair=differs.get("pair", "BTC_BRL"),
            side=differs.get("side", "buy"),
            amount=differs.get("amount", "0.001"),
            price=differs.get("price", "100000"),
            created_at=clock() - timedelta(seconds=differs.get("age", 0)),
        )
        sandbox.faults.add(faults.drop_before("create"))
        with pytest.raises(OutcomeUnknown):
            await gateway.create(**LIMIT, external_id="e", timeout=100)
        assert len(sandbox.requests_to("order_by_external_id")) == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("local", [30.0, -30.0])
async def test_created_order_is_found_by_the_vendors_clock(local: float) -> None:
    """The first attempt's time was rejected, the second's reply lost: what counts is when that one left."""
    clock = virtual_now()
    async with vendor(now=clock) as (sandbox, gateway):
        sandbox.clock_offset = -local
        sandbox.faults.add(faults.Fault(endpoint="create"), faults.drop_after("create"))
        order = await gateway.create(**LIMIT, external_id="e", timeout=100)
        assert list(sandbox.orders) == [order.id]
        assert len(sandbox.requests_to("create")) == 2
        assert len(sandbox.requests_to("order_by_external_id")) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("local", [30.0, -30.0])
async def test_older_order_by_the_vendors_clock(local: float) -> None:
    """The same for an order that is 20 seconds old by the vendor's clock: it is not the new one."""
    clock = virtual_now()
    async with vendor(now=clock) as (sandbox, gateway):
        sandbox.clock_offset = -local
        old = clock() - timedelta(seconds=20 + local)
        sandbox.add_order(external_id="e", created_at=old)
        sandbox.faults.add(faults.Fault(endpoint="create"), faults.drop_before("create"))
        with pytest.raises(OutcomeUnknown) as caught:
            await gateway.create(**LIMIT, external_id="e", timeout=100)
        by_the_vendor = clock() - timedelta(seconds=local)
        ago = (by_the_vendor - caught.value.sent_at).total_seconds()
        assert ago == pytest.approx(config.PROCESSING_TIME, abs=1)


@pytest.mark.virtual_time
async def test_create_out_of_time() -> None:
    """In the queue: nothing was sent. Under way: in doubt, and there is no permit to look."""
    limit = RateLimit(1, per=5.0, margin=0.0)
    async with vendor(now=virtual_now(), gateway_rate_limit=limit) as (sandbox, gateway):
        await gateway.create(**LIMIT)
        with pytest.raises(RequestTimeout):
            await gateway.create(**LIMIT, external_id="e", timeout=1)
        await asyncio.sleep(10)
        assert len(sandbox.requests) == 1
        sandbox.faults.add(faults.hang_after("create"))
        with pytest.raises(OutcomeUnknown):
            await gateway.create(**LIMIT, external_id="e", timeout=1)
        assert len(sandbox.requests) == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("limit", [0.5, 1.0, 4.0, 12.0])
async def test_short_timeouts_leave_time_for_a_look(limit: float) -> None:
    """A creation that is not answered before the caller's time is over is looked for within that time."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.hang_after("create"))
        started = asyncio.get_running_loop().time()
        order = await gateway.create(**LIMIT, external_id="e", timeout=limit)
        assert list(sandbox.orders) == [order.id]
        assert asyncio.get_running_loop().time() - started <= limit
        sandbox.faults.add(faults.hang_after("create"))
        with pytest.raises(OutcomeUnknown, match=r"and not answered \(out of time\);"):
            await gateway.create(**LIMIT, timeout=limit)
        assert len(sandbox.requests_to("create")) == 2


@pytest.mark.virtual_time
async def test_what_came_in_place_of_an_answer_is_told() -> None:
    """An unknown creation says whether the vendor was silent, failed, or talked nonsense."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        for fault, said in (
            (faults.server_error("create"), r"and answered by HTTP 500 50000: Internal error;"),
            (faults.drop_after("create"), r"and not answered \(closed by the peer\);"),
            (faults.wrong_types("create"), r"and not answered as its API would \("),
        ):
            sandbox.faults.add(fault)
            with pytest.raises(OutcomeUnknown, match=said):
                await gateway.create(**LIMIT)


@pytest.mark.parametrize(
    "name", ["amount", "price", "value", "stop_price", "distance", "step_amount"]
)
@pytest.mark.parametrize("given", ["1", 0.001, True])
async def test_amounts_are_exact_numbers(name: str, given: Any) -> None:
    """Text would be sent as text, and a float not as what it seems: both are refused by name, and nothing is sent."""
    async with vendor() as (sandbox, gateway):
        with pytest.raises(UsageError, match=rf"^{name} must be a Decimal or an int, not "):
            await gateway.create(**(LIMIT | {name: given}))
        if name in {"price", "amount"}:
            with pytest.raises(UsageError, match=rf"^{name} must be"):
                await gateway.update(sandbox.add_order(), **{name: given})
        assert not sandbox.requests


@pytest.mark.virtual_time
@pytest.mark.parametrize("where", ["renewal", "queue"])
async def test_create_out_of_time_after_a_rejected_signature(where: str) -> None:
    """A create that was rejected and not sent again created nothing, and says so."""
    limit = RateLimit(1, per=5.0, margin=0.0)
    async with vendor(now=virtual_now(), gateway_rate_limit=limit) as (sandbox, gateway):
        sandbox.clock_offset = 30.0
        if where == "renewal":
            sandbox.faults.add(faults.hang_before("server_time"))
        with pytest.raises(RequestTimeout) as caught:
            await gateway.create(**LIMIT, external_id="e", timeout=3)
        assert caught.value.wire is Wire.ANSWERED
        await asyncio.sleep(100)
        assert len(sandbox.requests_to("create")) == 1
        assert len(sandbox.orders) == 0


@pytest.mark.virtual_time
async def test_canceled_create() -> None:
    """A caller that goes is told nothing but its cancellation; queued, the order never leaves."""
    limit = RateLimit(1, per=5.0, margin=0.0)
    async with vendor(now=virtual_now(), gateway_rate_limit=limit) as (sandbox, gateway):
        sandbox.faults.add(faults.hang_after("create"))
        flying = asyncio.create_task(gateway.create(**LIMIT, external_id="e"))
        await sandbox.arrived(1)
        queued = asyncio.create_task(gateway.create(**LIMIT))
        await asyncio.sleep(1)
        for task in (flying, queued):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.sleep(100)
        assert len(sandbox.requests) == 1
        assert (await gateway.order(OrderRef(client_id="e"))).status == "open"


@pytest.mark.virtual_time
async def test_closing_while_a_created_order_is_looked_for() -> None:
    """Closing ends the search; the call is still in doubt."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.drop_before("create"))
        creating = asyncio.create_task(gateway.create(**LIMIT, external_id="e", timeout=100))
        await sandbox.arrived(1, "order_by_external_id")
        await asyncio.sleep(1)
        await gateway.aclose()
        with pytest.raises(OutcomeUnknown):
            await creating
        with pytest.raises(GatewayClosed):
            await gateway.create(**LIMIT)


@pytest.mark.virtual_time
async def test_closing_while_a_create_waits_for_the_socket() -> None:
    """What had not left when the gateway closed never leaves."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.refuse_upgrades(faults.Reply.HANG)
        creating = asyncio.create_task(gateway.create(**LIMIT, external_id="e"))
        await asyncio.sleep(0.5)
        await gateway.aclose()
        with pytest.raises(GatewayClosed):
            await creating
        sandbox.accept_upgrades()
        await asyncio.sleep(30)
        assert len(sandbox.requests) == 0


@pytest.mark.virtual_time
async def test_create_waits_for_the_socket() -> None:
    """What provably never left may be sent again: refused upgrades cost no order and make no second one."""
    async with vendor(now=virtual_now(), gateway_retry=PROMPT) as (sandbox, gateway):
        sandbox.refuse_upgrades(503, times=2)
        order = await gateway.create(**LIMIT)
        assert list(sandbox.orders) == [order.id]
        assert len(sandbox.requests_to("create")) == 1


# -- update -------------------------------------------------------------------------------------------------------


async def test_update() -> None:
    """Price and amount are changed as asked; the reply's null is a success."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order()
        await gateway.update(order_id, price=Decimal("123.45"))
        assert list(sent(sandbox, "update")) == ["order_id", "price"]
        await gateway.update(order_id, amount=Decimal("0.00000009"))
        assert list(sent(sandbox, "update")) == ["order_id", "amount"]
        record = sandbox.orders[order_id]
        assert (record.price, record.requested_amount) == (Decimal("123.45"), Decimal("9E-8"))
        assert record.updates == 2


@pytest.mark.parametrize("wrong", [{}, {"price": 0.5}, {"order_id": "", "price": 1}], ids=repr)
async def test_unusable_arguments_of_update(wrong: dict[str, Any]) -> None:
    """An update changes something, by exact numbers, of an order that has a name."""
    async with vendor() as (sandbox, gateway):
        with pytest.raises(UsageError):
            await gateway.update(**({"order_id": "a"} | wrong))
        assert len(sandbox.requests) == 0


@pytest.mark.parametrize("generation", Generation)
async def test_update_is_refused(generation: Generation) -> None:
    """Closed orders and unknown orders are told apart; nothing is repeated."""
    async with vendor(strict(generation=generation)) as (sandbox, gateway):
        filled, canceled = sandbox.add_order(), sandbox.add_order()
        sandbox.fill(filled)
        sandbox.cancel_behind_back(canceled)
        new = generation is Generation.NEW
        for order_id, code in ((filled, "40021"), (canceled, "40020")):
            with pytest.raises(BusinessRefusal) as caught:
                await gateway.update(order_id, price=1)
            assert caught.value.code == ("40408" if new else code)
        with pytest.raises(OrderNotFound):
            await gateway.update("nothing", price=1)
        assert len(sandbox.requests) == 3


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", LOST.values(), ids=LOST)
async def test_lost_reply_to_update(fault: Fault) -> None:
    """An update is sent once: what becomes of its reply is said to be unknown."""
    befalls = msgspec.structs.replace(fault, endpoint="update")
    async with vendor(now=virtual_now(), gateway_retry=PROMPT) as (sandbox, gateway):
        order_id = sandbox.add_order()
        sandbox.faults.add(befalls)
        if fault is LOST["200 without a result"]:
            await gateway.update(order_id, price=1, timeout=100)
        else:
            with pytest.raises(OutcomeUnknown, match=r"order\(\)"):
                await gateway.update(order_id, price=1, timeout=100)
        assert sandbox.orders[order_id].updates == 1
        assert len(sandbox.requests) == 1


# -- reads --------------------------------------------------------------------------------------------------------


async def test_order() -> None:
    """The whole record, by either name; not found is an error here, and in get_order."""
    async with vendor() as (sandbox, gateway):
        order_id = sandbox.add_order(amount="0.00000003", external_id="ç/1")
        sandbox.fill(order_id, "0.00000001")
        for ref in (order_id, OrderRef(client_id="ç/1")):
            order = await gateway.order(ref)
            assert (order.id, order.external_id) == (order_id, "ç/1")
            assert (order.status, order.transactions) == ("executed_partially", [])
            assert (order.executed_amount, order.remaining_amount) == (
                Decimal("1E-8"),
                Decimal("2E-8"),
            )
            snapshot = await gateway.get_order(ref)
            assert snapshot.state is Told.PARTIALLY_FILLED
            assert (snapshot.executed, snapshot.remaining) == (Decimal("1E-8"), Decimal("2E-8"))
        for ref in ("nothing", OrderRef(client_id="nothing")):
            for call in (gateway.order, gateway.get_order):
                with pytest.raises(OrderNotFound):
                    await call(ref)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "fault",
    [
        faults.drop_after,
        faults.server_error,
        faults.html_page,
        faults.hang_before,
        faults.truncated,
    ],
)
async def test_reads_are_repeated(fault: Callable[..., Fault]) -> None:
    """A read that fails is asked again, and fails as it failed last when the tries are used up."""
    async with vendor(now=virtual_now(), gateway_retry=PROMPT) as (sandbox, gateway):
        order_id = sandbox.add_order()
        for endpoint, call in (
            ("order", gateway.order),
            ("order", gateway.get_order),
            ("orders", lambda _, timeout: gateway.orders("BTC_BRL", timeout=timeout)),
            ("open_orders", lambda _, timeout: gateway.open_orders(timeout=timeout)),
            ("server_time", lambda _, timeout: gateway.server_time(timeout=timeout)),
        ):
            sandbox.faults.add(fault(endpoint, times=3))
            before = len(sandbox.requests_to(endpoint))
            await call(order_id, timeout=100)
            assert len(sandbox.requests_to(endpoint)) == before + 4
        sandbox.faults.add(fault("order", times=4))
        with pytest.raises((RequestFailed, VendorFailure)):
            await gateway.order(order_id, timeout=100)


async def test_orders() -> None:
    """A page at a time, newest first; filters reach the vendor as given."""
    async with vendor() as (sandbox, gateway):
        ids = [sandbox.add_order(side="sell" if n % 2 else "buy") for n in range(5)]
        other = sandbox.add_order(pair="ETH_BRL", type="market")
        sandbox.fill(ids[0])
        page = await gateway.orders("BTC_BRL", page_size=2)
        assert [order.id for order in page.orders] == [ids[4], ids[3]]
        assert page.pagination is not None
        assert (page.pagination.total_pages, page.pagination.registers_count) == (3, 5)
        page = await gateway.orders("BTC_BRL", page_size=2, current_page=3)
        assert [order.id for order in page.orders] == [ids[0]]
        page = await gateway.orders("BTC_BRL", side="sell", status=["open"])
        assert [order.id for order in page.orders] == [ids[3], ids[1]]
        page = await gateway.orders("BTC_BRL", status=["executed_completely", "canceled"])
        assert [order.id for order in page.orders] == [ids[0]]
        page = await gateway.orders("BTC_BRL", ids=[ids[1], ids[2]])
        assert [order.id for order in page.orders] == [ids[2], ids[1]]
        page = await gateway.orders("ETH_BRL", type="market")
        assert [order.id for order in page.orders] == [other]
        assert (page.unreadable, page.nc, page.pc) == (0, None, None)
        long_ago = datetime(2020, 1, 1, tzinfo=UTC)
        page = await gateway.orders(
            "BTC_BRL", start_date=long_ago, end_date=long_ago + timedelta(days=1)
        )
        assert page.orders == []
        with pytest.raises(InvalidRequest):
            await gateway.orders("BTC_BRL", ids=[f"{n}" for n in range(11)])
        with pytest.raises(InvalidRequest):
            await gateway.orders("BTC_BRL", page_size=1001)


async def test_open_orders() -> None:
    """Only orders that live, of one pair or of all."""
    async with vendor() as (sandbox, gateway):
        ids = [sandbox.add_order() for _ in range(3)]
        other = sandbox.add_order(pair="ETH_BRL", side="sell")
        sandbox.fill(ids[0])
        sandbox.fill(ids[1], "0.0005")
        page = await gateway.open_orders()
        assert [order.id for order in page.orders] == [other, ids[2], ids[1]]
        page = await gateway.open_orders("BTC_BRL")
        assert [order.id for order in page.orders] == [ids[2], ids[1]]
        page = await gateway.open_orders(side="sell")
        assert [order.id for order in page.orders] == [other]
        page = await gateway.open_orders(page_size=1, current_page=3)
        assert [order.id for order in page.orders] == [ids[1]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"page_size": 0},
        {"current_page": 0},
        {"page_size": True},
        {"start_date": datetime(2030, 1, 1)},  # noqa: DTZ001 - naive on purpose
        {"end_date": datetime(2030, 1, 1)},  # noqa: DTZ001 - naive on purpose
        {"status": "open"},
        {"ids": "a"},
    ],
    ids=repr,
)
async def test_unusable_arguments_of_orders(wrong: dict[str, Any]) -> None:
    """What cannot be asked is refused before anything is sent."""
    async with vendor() as (sandbox, gateway):
        with pytest.raises(UsageError):
            await gateway.orders("BTC_BRL", **wrong)
        assert len(sandbox.requests) == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("ahead", [30.0, 0.0, -30.0])
async def test_new_orders_are_listed_whatever_the_local_clock_says(ahead: float) -> None:
    """The default period is the vendor's: a local clock that is behind hides no order."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.clock_offset = ahead
        await gateway.create(**LIMIT)
        page = await gateway.orders("BTC_BRL")
        assert len(page.orders) == 1


@pytest.mark.parametrize("ahead", [0.0, 86_400.0])
async def test_server_time(ahead: float) -> None:
    """The vendor's clock, aware."""
    async with vendor() as (sandbox, gateway):
        sandbox.clock_offset = ahead
        told = await gateway.server_time()
        assert told.utcoffset() == timedelta(0)
        assert abs(told - datetime.now(UTC) - timedelta(seconds=ahead)) < timedelta(seconds=5)


@pytest.mark.parametrize("stamp", [b"99999999999999999", b"-99999999999999999", b'"x"', b"null"])
async def test_absurd_server_time(stamp: bytes) -> None:
    """A time that is none is a bad reply."""
    async with vendor(gateway_retry=msgspec.structs.replace(PROMPT, attempts=1)) as (
        sandbox,
        gateway,
    ):
        sandbox.faults.add(
            faults.replaced("server_time", status=200, body=b'{"data":{"timestamp":%b}}' % stamp)
        )
        with pytest.raises(BadReply):
            await gateway.server_time()
        assert isinstance(await gateway.cancel(sandbox.add_order()), Canceled)


# -- how a gateway is opened --------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_warm_up() -> None:
    """The socket stands and the clocks are compared: the first cancel needs neither, even by a wrong clock."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.clock_offset = 30.0
        await gateway.warm_up()
        await gateway.warm_up()
        assert sandbox.sockets_opened == 1
        assert isinstance(await gateway.cancel(sandbox.add_order()), Canceled)
        assert len(sandbox.requests_to("cancel")) == 1
        assert sandbox.sockets_opened == 1


@pytest.mark.virtual_time
async def test_warm_up_without_server_time() -> None:
    """A server-time that fails does not keep the socket from standing."""
    async with vendor(now=virtual_now()) as (sandbox, gateway):
        sandbox.faults.add(faults.server_error("server_time"))
        await gateway.warm_up()
        assert sandbox.sockets == 1
        with pytest.raises(UsageError):
            await gateway.warm_up(timeout=0)


installed = pytest.mark.skipif(
    "ripio" not in entry_points(group="tronsave_async.gateways").names,
    reason="the installed distribution is older than this entry point",
)


@installed
def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``from_env`` and ``open_gateway`` read both variables, and say which one is missing."""
    monkeypatch.setenv("RIPIO_API_TOKEN", "token")
    monkeypatch.setenv("RIPIO_SECRET", "secret")
    assert RipioGateway.from_env(rest_url=config.LEGACY_REST_URL).venue == "ripio"
    assert isinstance(open_gateway("ripio"), RipioGateway)
    monkeypatch.setenv("RIPIO_SECRET", "")
    with pytest.raises(CredentialsMissing, match="RIPIO_SECRET"):
        open_gateway("ripio")
    monkeypatch.delenv("RIPIO_API_TOKEN")
    with pytest.raises(CredentialsMissing, match="RIPIO_API_TOKEN"):
        RipioGateway.from_env()
    assert RipioGateway.from_env("token", "secret").venue == "ripio"
    assert open_gateway("ripio", api_token="token", secret="secret").venue == "ripio"


@pytest.mark.parametrize(
    "options",
    [
        {"api_token": ""},
        {"secret": ""},
        {"ws_url": "https://ws-api.ripio.com"},
        {"ws_url": "wss://user:password@ws-api.ripio.com"},
        {"rest_url": "wss://api.ripio.com"},
        {"token_field": "token"},
        {"request_timeout": 0},
        {"connect_timeout": -1},
    ],
    ids=repr,
)
def test_unusable_options(options: dict[str, Any]) -> None:
    """An unusable option is a usage error at once."""
    with pytest.raises(UsageError):
        RipioGateway(**({"api_token": "token", "secret": "secret"} | options))


@installed
async def test_legacy_prefix() -> None:
    """The older prefix is part of the path that is signed."""
    async with RipioSandbox(requests_per_window=1000, rules=strict()) as sandbox:
        url = sandbox.rest_url.removesuffix("/trade") + "/v4"
        options: dict[str, Any] = {"ws_url": sandbox.ws_url, "rest_url": url}
        async with open_gateway(
            "ripio", api_token=sandbox.api_token, secret=sandbox.secret, **options
        ) as gateway:
            order_id = sandbox.add_order()
            assert (await gateway.get_order(order_id)).state is Told.OPEN
            assert sandbox.orders[order_id].state is OrderState.OPEN
            assert sandbox.requests[-1].path == f"/v4/orders/{order_id}"
