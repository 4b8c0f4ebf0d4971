"""One order in bad weather: what is lost on the way is not guessed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tronsave_async import (
    AlreadyClosed,
    Canceled,
    Evidence,
    NotSent,
    OrderState,
    Penalized,
    RateLimit,
    RetryPolicy,
    Unknown,
    Wire,
)
from tronsave_async.sandbox import (
    Processing,
    drop_after,
    drop_before,
    hang_after,
    hang_before,
    rate_limited,
    server_error,
)

from .play import playing, until
from .scenario import scenario
from .stage import QUICK, Ability
from .weather import LOST_REPLIES, LOST_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async.sandbox import Fault

    from .stage import Stage

    Weather = Callable[[str], Fault]

ONCE = RetryPolicy(attempts=1)


# -- a lost request, a lost reply ---------------------------------------------------------------------------------


@scenario()
@pytest.mark.virtual_time
@pytest.mark.parametrize("weather", LOST_REPLIES.values(), ids=LOST_REPLIES)
async def test_reply_lost_after_processing(kind: type[Stage], weather: Weather) -> None:
    """A cancel that was carried out and not answered usably is proved by reading the order back."""
    async with playing(kind) as play:
        order = play.stage.place()
        await play.gateway.get_order(
            order
        )  # on a connection that stands: there libraries repeat by themselves
        play.stage.sandbox.faults.add(weather(play.stage.cancel_call))
        outcome = await play.cancel(order, timeout=120)
        assert isinstance(outcome, Canceled)
        assert outcome.evidence is Evidence.READ_BACK
        assert play.arrived(order) == outcome.attempts
        assert outcome.attempts == 1 or (play.stage.repeats_first and outcome.attempts == 2)


@scenario()
@pytest.mark.virtual_time
@pytest.mark.parametrize("weather", LOST_REQUESTS.values(), ids=LOST_REQUESTS)
async def test_request_lost_before_processing(kind: type[Stage], weather: Weather) -> None:
    """A cancel that was not carried out is repeated, once, and the second reply is the proof."""
    async with playing(kind) as play:
        order = play.stage.place()
        await play.gateway.get_order(order)
        play.stage.sandbox.faults.add(weather(play.stage.cancel_call))
        outcome = await play.cancel(order, timeout=120)
        assert isinstance(outcome, Canceled)
        assert outcome.evidence is Evidence.REPLY
        assert play.arrived(order) == outcome.attempts == 2


@scenario()
@pytest.mark.virtual_time
@pytest.mark.parametrize("weather", LOST_REPLIES.values(), ids=LOST_REPLIES)
async def test_a_fill_is_never_hidden(kind: type[Stage], weather: Weather) -> None:
    """An order that is filled an instant before a cancel whose reply is lost ends as filled."""
    async with playing(kind) as play:
        order = play.stage.place()
        fault = replace(weather(play.stage.cancel_call), processing=Processing.RACE)
        play.stage.sandbox.faults.add(fault)
        outcome = await play.cancel(order, timeout=120)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.FILLED


@scenario()
async def test_exactly_one_request_for_each_attempt(kind: type[Stage]) -> None:
    """Whoever may try once sends once, also on a connection that drops under the request."""
    async with playing(kind, retry=ONCE) as play:
        order = play.stage.place()
        await play.gateway.get_order(order)
        play.stage.sandbox.faults.add(drop_before(play.stage.cancel_call, times=9))
        outcome = await play.cancel(order)
        assert isinstance(outcome, Unknown)
        assert play.arrived(order) == outcome.attempts == 1


@scenario()
async def test_every_request_is_lost(kind: type[Stage]) -> None:
    """As often as the policy says, and then it is unknown; the order is alive, and nobody says otherwise."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(drop_before(play.stage.cancel_call, times=99))
        outcome = await play.cancel(order)
        assert isinstance(outcome, Unknown)
        assert outcome.wire is Wire.MAYBE_SENT
        assert play.arrived(order) == outcome.attempts == QUICK.attempts


@scenario()
async def test_nothing_can_be_read_back(kind: type[Stage]) -> None:
    """A cancel that was carried out, unanswered and not to be read back is unknown, though it is refused since."""
    async with playing(kind) as play:
        order = play.stage.place()
        faults = play.stage.sandbox.faults
        faults.add(drop_after(play.stage.cancel_call))
        faults.add(*(server_error(call, status=503, times=99) for call in play.stage.read_calls))
        outcome = await play.cancel(order)
        assert isinstance(outcome, Unknown)


@scenario()
@pytest.mark.parametrize("lost", [drop_before, drop_after, server_error])
async def test_not_found_after_a_lost_reply(
    kind: type[Stage], lost: Callable[[str], Fault]
) -> None:
    """In doubt, "no such order" proves nothing."""
    async with playing(kind) as play:
        play.stage.sandbox.faults.add(lost(play.stage.cancel_call))
        assert isinstance(await play.cancel(play.stage.stranger()), Unknown)


@scenario()
async def test_refused_after_a_lost_request(kind: type[Stage]) -> None:
    """In doubt, a refusal and an order that reads as open prove nothing: the lost request may still take effect."""
    async with playing(kind) as play:
        order = play.stage.place()
        faults = play.stage.sandbox.faults
        faults.add(drop_before(play.stage.cancel_call), play.stage.refusal(order))
        outcome = await play.cancel(order)
        assert isinstance(outcome, Unknown)
        assert outcome.last_state is OrderState.OPEN


@scenario()
async def test_doubt_outlives_the_call(kind: type[Stage]) -> None:
    """What one call lost, the next is in doubt about: it does not call the order refused, nor not found."""
    async with playing(kind, retry=ONCE) as play:
        order = play.stage.place()
        faults = play.stage.sandbox.faults
        faults.add(drop_before(play.stage.cancel_call))
        assert isinstance(await play.cancel(order), Unknown)
        faults.add(play.stage.refusal(order))
        assert isinstance(await play.cancel(order), Unknown)
        assert isinstance(await play.cancel(order), Canceled)


# -- no connection, no answer -------------------------------------------------------------------------------------


@scenario()
async def test_connection_refused(kind: type[Stage]) -> None:
    """Nobody listens: nothing was sent, and when somebody does, the same gateway goes on."""
    async with playing(kind) as play:
        order = play.stage.place()
        await play.stage.sandbox.aclose()
        outcome = await play.cancel(order)
        assert isinstance(outcome, NotSent)
        assert outcome.wire is Wire.NOT_SENT
        assert outcome.attempts == QUICK.attempts
        assert outcome.message
        await play.stage.sandbox.start()
        assert isinstance(await play.cancel(order), Canceled)
        assert play.arrived(order) == 1


@scenario()
async def test_connection_refused_after_a_lost_request(kind: type[Stage]) -> None:
    """What may have arrived before the vendor went is not called unsent."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(hang_after(play.stage.cancel_call))
        canceling = play.begin(order)
        await play.stage.sandbox.arrived(1, play.stage.cancel_call)
        await play.stage.sandbox.aclose()
        outcome = await canceling
        assert isinstance(outcome, Unknown)
        assert outcome.wire is Wire.MAYBE_SENT


@scenario()
@pytest.mark.virtual_time
@pytest.mark.parametrize("hang", [hang_before, hang_after])
async def test_hang_until_the_deadline(kind: type[Stage], hang: Callable[[str], Fault]) -> None:
    """Time runs out with a request under way: it is unknown, at the deadline and not later."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(hang(play.stage.cancel_call))
        outcome = await play.cancel(order, timeout=5)
        assert isinstance(outcome, Unknown)
        assert outcome.wire is Wire.MAYBE_SENT
        assert outcome.elapsed == pytest.approx(5, abs=0.1)
        assert play.arrived(order) == outcome.attempts == 1
        assert isinstance(await play.cancel(order), Canceled)


@scenario()
@pytest.mark.virtual_time
async def test_deadline_in_the_queue(kind: type[Stage]) -> None:
    """Time runs out before the order's turn: nothing was sent, and nothing is sent afterwards."""
    async with playing(kind, rate_limit=RateLimit(1, per=60.0, margin=0.0)) as play:
        first, second = play.stage.place(), play.stage.place()
        assert isinstance(await play.cancel(first), Canceled)
        outcome = await play.cancel(second, timeout=5)
        assert isinstance(outcome, NotSent)
        assert outcome.elapsed == pytest.approx(5, abs=0.1)
        assert outcome.attempts == 0
        await asyncio.sleep(300)
        assert play.arrived(second) == 0


@scenario()
@pytest.mark.virtual_time
async def test_outer_timeout(kind: type[Stage]) -> None:
    """`asyncio.timeout` around a call ends it, and the next call learns what the request did."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(hang_after(play.stage.cancel_call))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await play.cancel(order)
        await play.stage.sandbox.arrived(1, play.stage.cancel_call)
        outcome = await play.cancel(order)
        assert isinstance(outcome, Canceled)
        assert outcome.evidence is Evidence.READ_BACK


# -- too many requests --------------------------------------------------------------------------------------------


@scenario()
@pytest.mark.virtual_time
async def test_too_many_requests(kind: type[Stage]) -> None:
    """A 429 was not processed: it is repeated after the limit's own period, and is no doubt."""
    async with playing(kind, rate_limit=RateLimit(10, per=2.0, margin=0.0)) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(rate_limited(play.stage.cancel_call))
        outcome = await play.cancel(order)
        assert isinstance(outcome, Canceled)
        assert (outcome.attempts, outcome.wire) == (2, Wire.ANSWERED)
        first, second = play.stage.cancels(order)
        assert second.arrived - first.arrived >= 2.0


@scenario(Ability.RETRY_AFTER)
@pytest.mark.virtual_time
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_too_many_requests_with_retry_after(kind: type[Stage], form: str) -> None:
    """The vendor says how long to wait, and all who share its budget do: those who come later, too."""
    async with playing(kind, rate_limit=RateLimit(10, per=2.0, margin=0.0)) as play:
        order, later = play.stage.place(), play.stage.place()
        retry_after = 30 if form == "seconds" else play.stage.now() + timedelta(seconds=30)
        play.stage.sandbox.faults.add(rate_limited(play.stage.cancel_call, retry_after=retry_after))
        canceling = play.begin(order)
        await play.stage.sandbox.arrived(1, play.stage.cancel_call)
        await until(lambda: play.number_of(Penalized, play.stage.cancel_call))
        assert isinstance(await play.cancel(later, timeout=60), Canceled)
        assert isinstance(await canceling, Canceled)
        first, second = play.stage.cancels(order)
        assert 29 <= second.arrived - first.arrived < 33
        [shared] = play.stage.cancels(later)
        assert 29 <= shared.arrived - first.arrived < 33


@scenario()
@pytest.mark.virtual_time
async def test_too_many_requests_to_read_back(kind: type[Stage]) -> None:
    """A read-back that is refused for now is tried again; the doubt waits as long."""
    async with playing(kind) as play:
        order = play.stage.place()
        call = play.stage.read_calls[0]
        play.stage.sandbox.faults.add(
            drop_after(play.stage.cancel_call), rate_limited(call, retry_after=20)
        )
        outcome = await play.cancel(order, timeout=60)
        assert isinstance(outcome, Canceled)
        assert outcome.evidence is Evidence.READ_BACK
        first, second = play.stage.sandbox.requests_to(call)
        assert 20 <= second.arrived - first.arrived < 23


@scenario()
@pytest.mark.virtual_time
async def test_too_many_requests_until_the_deadline(kind: type[Stage]) -> None:
    """A vendor that never looks at a cancel leaves it unknown, or unsent: never canceled, refused or not found."""
    async with playing(kind, rate_limit=RateLimit(10, per=2.0, margin=0.0)) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(rate_limited(play.stage.cancel_call, times=99))
        outcome = await play.cancel(order, timeout=5)
        assert isinstance(outcome, Unknown)
        assert outcome.wire is Wire.ANSWERED
