"""What must hold of the exchange, over real sockets, with the vendor's own record as the judge."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest

from support.ripio import QUICK, UNMETERED, lie, names_asked, vendor
from tronsave_async import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    Disconnected,
    Event,
    GatewayClosed,
    Lost,
    OrderRef,
    OrderState,
    RateLimit,
    Unknown,
    UsageError,
    Wire,
)
from tronsave_async import sandbox as faults
from tronsave_async import sandbox_socket as socket_faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers.ripio.sandbox import RipioSandbox


def placed(sandbox: RipioSandbox, number: int) -> list[str]:
    """Place so many orders."""
    return [sandbox.add_order(amount="0.003", price="100000") for _ in range(number)]


CHAOS = [
    faults.hang_before("cancel"),
    faults.hang_after("cancel"),
    faults.late("cancel", delay=0.005),
    faults.late("cancel", delay=1.2),
    faults.malformed_json("cancel", processed=True),
    faults.malformed_json("cancel", processed=False),
    faults.fill_in_the_race("cancel"),
    faults.partial_fill_in_the_race("cancel"),
    socket_faults.duplicated("cancel"),
    socket_faults.reordered("cancel"),
    socket_faults.unaddressed("cancel"),
    socket_faults.unaddressed("cancel", address=None),
    socket_faults.binary_frame("cancel"),
    socket_faults.uninvited("cancel", body=b'{"id":7,"topic":"order_status","body":{}}'),
    socket_faults.uninvited("cancel", body=b"\xff\xfe not text"[2:]),
]
CUTS = [
    faults.drop_after("cancel"),
    faults.drop_before("cancel", reset=True),
    socket_faults.closing(1012, "cancel"),
    socket_faults.closing(1001, "cancel", processed=True),
]


@pytest.mark.once
@pytest.mark.timeout(60)
async def test_ten_thousand_cancels_through_bad_weather() -> None:
    """Every caller gets exactly one true outcome; nothing stays behind; the reader is alive, on one socket."""
    outcomes: list[CancelOutcome] = []
    async with vendor(gateway_request_timeout=1.0) as (sandbox, gateway):
        ids = placed(sandbox, 10_000)
        waiting = iter(ids)
        sandbox.faults.chaos(CHAOS, rate=0.1, seed=3)

        async def bot() -> None:
            for order in waiting:
                outcomes.append(await gateway.cancel(order, timeout=None))  # noqa: PERF401 - one iterator for all

        await asyncio.gather(*(bot() for _ in range(300)))
        asked = names_asked(sandbox)
        lies = [lie(sandbox, o, arrived=o.order.name in asked) for o in outcomes]
        assert [text for text in lies if text] == []
        assert Counter(str(outcome.order) for outcome in outcomes) == Counter(ids)
        kinds = Counter(type(outcome).__name__ for outcome in outcomes)
        assert kinds["Canceled"] > 9_000
        assert kinds["AlreadyClosed"] > 20
        assert kinds.keys() <= {"Canceled", "AlreadyClosed", "Unknown"}
        sandbox.faults.clear()
        await until(lambda: gateway._socket.in_flight == 0)
        assert {
            "late",
            "duplicate",
            "unknown",
            "binary",
            "malformed",
        } <= gateway._socket.strays.keys()
        [last] = placed(sandbox, 1)
        assert isinstance(await gateway.cancel(last), Canceled)
        assert gateway._socket.connections == 1
        assert not gateway._socket._outbox


async def test_memory_is_flat() -> None:
    """Ten thousand cancels leave no more objects behind than a thousand."""
    async with vendor(gateway_telemetry=None) as (sandbox, gateway):

        async def objects_after(number: int) -> int:
            ids = placed(sandbox, number)
            await gateway.cancel_many(ids)
            del ids
            gc.collect()
            return sum(
                type(each).__module__.startswith(("tronsave_async.", "brokers.ripio."))
                and not type(each).__module__.endswith(("sandbox", "simulator", "sandbox_socket"))
                for each in gc.get_objects()
            )

        before = await objects_after(1_000)
        assert before > 10, "those of the gateway itself are counted"
        assert await objects_after(3_000) <= before + 5


async def test_a_cut_with_a_hundred_in_flight() -> None:
    """Everyone is told at once and settles truthfully, by one reconnect, and nothing is sent twice as it was."""
    events: list[Event] = []
    async with vendor(gateway_telemetry=events.append) as (sandbox, gateway):
        ids = placed(sandbox, 100)
        await gateway.warm_up()
        half = [faults.hang_after("cancel"), faults.hang_before("cancel")]
        sandbox.faults.add(*(half[number % 2] for number in range(100)))
        canceling = asyncio.create_task(gateway.cancel_many(ids))
        await sandbox.arrived(100, "cancel")
        in_flight = gateway._socket.in_flight
        sandbox.cut_sockets(reset=True)
        outcomes = await canceling
        assert in_flight == 100
        cut = next(event for event in events if isinstance(event, Disconnected))
        assert cut.pending == 100
        told = [event for event in events if isinstance(event, Lost) and event.endpoint == "cancel"]
        assert len(told) == 100
        assert {event.reached for event in told} == {Wire.MAYBE_SENT}
        assert [lie(sandbox, outcome) for outcome in outcomes] == [None] * 100
        assert {type(outcome) for outcome in outcomes} == {Canceled}
        assert sum(sandbox.orders[order].cancels == 2 for order in ids) == 50
        assert sandbox.sockets_opened == 2
        assert len(set(sandbox.signatures)) == len(sandbox.signatures)


async def test_signatures_are_fresh_behind_a_saturated_limiter_and_a_reconnect() -> None:
    """Sixty cancels wait for their permits, the socket is cut in the middle: no signature is old when it arrives."""
    async with vendor(gateway_rate_limit=RateLimit(2, per=0.04, margin=0.0)) as (sandbox, gateway):
        ids = placed(sandbox, 60)
        canceling = asyncio.create_task(gateway.cancel_many(ids))
        await sandbox.arrived(30, "cancel")
        sandbox.cut_sockets()
        outcomes = await canceling
        assert [lie(sandbox, outcome) for outcome in outcomes] == [None] * 60
        ages = [request.signature_age for request in sandbox.requests_to("cancel")]
        assert len(ages) >= 60
        assert max(age for age in ages if age is not None) < 0.1
        assert len(set(sandbox.signatures)) == len(sandbox.signatures)
        assert sandbox.sockets_opened == 2


async def test_a_late_reject_harms_nobody() -> None:
    """A refusal that comes after its caller timed out is counted; the next cancels work."""
    async with vendor() as (sandbox, gateway):
        filled, *others = placed(sandbox, 20)
        sandbox.fill(filled)
        sandbox.faults.add(faults.late("cancel", delay=0.05))
        outcome = await gateway.cancel(filled, timeout=0.02)
        assert isinstance(outcome, Unknown)
        assert lie(sandbox, outcome) is None
        outcomes = await gateway.cancel_many(others)
        assert {type(each) for each in outcomes} == {Canceled}
        await until(lambda: gateway._socket.in_flight == 0)
        again = await gateway.cancel(filled)
        assert isinstance(again, AlreadyClosed)
        assert again.state is OrderState.FILLED
        assert sandbox.sockets_opened == 1


async def test_a_late_success_ends_the_doubt() -> None:
    """A success that comes after its request timed out proves the order dead: no second cancel is needed."""
    async with vendor(gateway_request_timeout=0.02) as (sandbox, gateway):
        [order] = placed(sandbox, 1)
        await sandbox.close_rest()
        sandbox.faults.add(faults.late("cancel", delay=0.03), faults.hang_before("cancel", times=9))
        outcome = await gateway.cancel(order, timeout=5)
        assert isinstance(outcome, Canceled)
        assert (outcome.executed, outcome.remaining) == (Decimal(0), Decimal("0.003"))
        assert lie(sandbox, outcome) is None
        assert gateway._socket.strays["late"] == 1


async def test_every_request_is_counted_also_after_a_late_success() -> None:
    """The proof comes while the repeat is under way, and the repeat is lost: both requests were attempts."""
    async with vendor(gateway_request_timeout=0.05) as (sandbox, gateway):
        [order] = placed(sandbox, 1)
        await sandbox.close_rest()
        sandbox.faults.add(faults.late("cancel", delay=0.08), faults.hang_before("cancel"))
        outcome = await gateway.cancel(order)
        assert isinstance(outcome, Canceled)
        assert outcome.attempts == len(sandbox.requests_to("cancel")) == 2


async def test_a_late_success_calls_off_a_repeat_that_waits_for_its_permit() -> None:
    """The repeat would have to wait for half a minute, and tells nothing new: the outcome comes with the late reply."""
    limit = RateLimit(1, per=30.0)
    async with vendor(gateway_request_timeout=0.02, gateway_rate_limit=limit) as (sandbox, gateway):
        [order] = placed(sandbox, 1)
        sandbox.faults.add(faults.late("cancel", delay=0.04))
        outcome = await gateway.cancel(order)
        assert isinstance(outcome, Canceled)
        assert (outcome.code, outcome.message) == (None, None)
        assert len(sandbox.requests_to("cancel")) == 1
        assert lie(sandbox, outcome) is None


async def test_a_late_success_is_told_to_all_who_share_the_repeat() -> None:
    """Two callers wait for one repeat; the late reply settles both."""
    limit = RateLimit(1, per=30.0)
    async with vendor(gateway_request_timeout=0.02, gateway_rate_limit=limit) as (sandbox, gateway):
        [order] = placed(sandbox, 1)
        sandbox.faults.add(faults.late("cancel", delay=0.04))
        outcomes = await asyncio.gather(gateway.cancel(order), gateway.cancel(order))
        assert [type(outcome) for outcome in outcomes] == [Canceled, Canceled]
        assert len(sandbox.requests_to("cancel")) == 1


async def test_a_secret_that_the_socket_echoes_is_shown_nowhere() -> None:
    """The vendor's words are quoted verbatim, but for the credentials in them."""
    async with vendor() as (sandbox, gateway):
        [order] = placed(sandbox, 1)
        words = f"bad token {sandbox.api_token} and secret {sandbox.secret}"
        error = {"status": 400, "result": None, "error": {"error_code": 40000, "message": words}}
        body = msgspec.json.encode(error)
        sandbox.faults.add(faults.replaced("cancel", status=400, body=body))
        outcome = await gateway.cancel(order)
        assert outcome.message == "bad token *** and secret ***"


@pytest.mark.parametrize("turns", range(6))
async def test_closing_twice(turns: int) -> None:
    """Closing is idempotent also while the first closing ends a call that waits for its permit."""
    async with vendor(gateway_rate_limit=RateLimit(1, per=30.0)) as (sandbox, gateway):
        await gateway.orders("BTC_BRL")
        waiting = asyncio.create_task(gateway.orders("BTC_BRL", timeout=None))
        await asyncio.sleep(0)
        first = asyncio.create_task(gateway.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        await gateway.aclose()
        await first
        with pytest.raises(GatewayClosed):
            await waiting
        assert len(sandbox.requests_to("orders")) == 1


async def test_a_supervisor_that_somebody_canceled_is_replaced() -> None:
    """A program that cancels all tasks and goes on has a working gateway nevertheless."""
    async with vendor() as (sandbox, gateway):
        first, second = placed(sandbox, 2)
        await gateway.cancel(first)
        supervisor = gateway._socket._supervisor
        assert supervisor is not None
        supervisor.cancel()
        await asyncio.wait([supervisor])
        sandbox.cut_sockets()
        await until(lambda: gateway._socket._connection is None)
        assert isinstance(await gateway.cancel(second, timeout=10), Canceled)


@pytest.mark.parametrize("name", [None, "both"])
async def test_an_order_has_exactly_one_name(name: str | None) -> None:
    """Both ids or none are refused before anything is sent."""
    async with vendor() as (sandbox, gateway):
        with pytest.raises(UsageError, match="exactly one of id and client_id"):
            await gateway.cancel(OrderRef(id=name, client_id=name))
        assert len(sandbox.requests) == 0
        assert sandbox.sockets_opened == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_callers_who_go(seed: int) -> None:
    """Callers go at random moments through random faults, cuts and planned closes; who stays is told the truth."""
    chance = random.Random(seed)
    async with vendor(
        gateway_request_timeout=0.2, gateway_retry=QUICK, gateway_rate_limit=UNMETERED
    ) as (
        sandbox,
        gateway,
    ):
        ids = placed(sandbox, 600)
        sandbox.faults.chaos(
            CHAOS + CUTS,
            rate=0.15,
            seed=seed,
        )

        async def one(order: str) -> object:
            await asyncio.sleep(chance.random() * 0.2)
            try:
                async with asyncio.timeout(chance.choice([0.001, 0.01, 0.05, 10])):
                    return await gateway.cancel(order)
            except TimeoutError:
                return None

        outcomes = [o for o in await asyncio.gather(*map(one, ids)) if o is not None]
        assert len(outcomes) > 100
        lies = [lie(sandbox, outcome) for outcome in outcomes]  # type: ignore[arg-type]
        assert [text for text in lies if text] == []
        assert len(set(sandbox.signatures)) == len(sandbox.signatures)
        sandbox.faults.clear()
        [last] = placed(sandbox, 1)
        assert isinstance(await gateway.cancel(last), Canceled)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds; the test's own timeout bounds it."""
    while not holds():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.002)
