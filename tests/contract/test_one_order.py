"""One order in fair weather: whatever became of it before, the caller learns it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tronsave_async import (
    AlreadyClosed,
    Canceled,
    Evidence,
    NotFound,
    OrderGateway,
    OrderRef,
    OrderState,
    Refused,
    TooEarly,
    Unknown,
    Wire,
)
from tronsave_async.sandbox import fill_in_the_race, partial_fill_in_the_race

from .play import playing
from .scenario import scenario
from .stage import Ability

if TYPE_CHECKING:
    from .stage import Stage


@scenario()
async def test_canceled(kind: type[Stage]) -> None:
    """An open order is canceled by one request, and its reply is the proof."""
    async with playing(kind) as play:
        assert isinstance(play.gateway, OrderGateway)
        order = play.stage.place()
        outcome = await play.cancel(order)
        assert isinstance(outcome, Canceled)
        assert (outcome.evidence, outcome.wire) == (Evidence.REPLY, Wire.ANSWERED)
        assert (outcome.attempts, play.arrived(order)) == (1, 1)
        assert outcome.order == OrderRef(id=order)


@scenario(Ability.AMOUNTS)
async def test_canceled_with_amounts(kind: type[Stage]) -> None:
    """Where the vendor tells amounts, the outcome has them."""
    async with playing(kind) as play:
        order = play.stage.place()
        outcome = await play.cancel(order)
        record = play.stage.record(order)
        assert isinstance(outcome, Canceled)
        assert record is not None
        assert outcome.executed == record.executed == 0


@scenario(Ability.PARTIAL_FILLS)
async def test_canceled_in_parts(kind: type[Stage]) -> None:
    """What was filled before the cancel is told, and so is what never will be."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.fill_partly(order)
        outcome = await play.cancel(order)
        record = play.stage.record(order)
        assert isinstance(outcome, Canceled)
        assert record is not None
        assert (outcome.executed, outcome.remaining) == (record.executed, record.remaining)
        assert outcome.executed
        assert outcome.remaining or record.remaining is None


@scenario()
async def test_already_canceled(kind: type[Stage]) -> None:
    """An order that somebody else canceled is not called canceled by this cancel."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.sandbox.cancel_behind_back(order)
        outcome = await play.cancel(order)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.CANCELED
        assert play.arrived(order) == 1


@scenario()
async def test_canceled_twice(kind: type[Stage]) -> None:
    """The second cancel of an order finds what the first did."""
    async with playing(kind) as play:
        order = play.stage.place()
        assert isinstance(await play.cancel(order), Canceled)
        again = await play.cancel(order)
        assert isinstance(again, AlreadyClosed)
        assert again.state is OrderState.CANCELED


@scenario()
async def test_already_filled(kind: type[Stage]) -> None:
    """A fill is told."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.fill(order)
        outcome = await play.cancel(order)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.FILLED


@scenario(Ability.EXPIRY)
async def test_already_expired(kind: type[Stage]) -> None:
    """An order that the vendor ended by itself was dead before, and not filled."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.expire(order)
        outcome = await play.cancel(order)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is play.stage.expiry_reads_as


@scenario(Ability.EXPIRY)
async def test_expired_by_its_age(kind: type[Stage]) -> None:
    """So is one that is older than the vendor lets an order be, also where the caller knows its age."""
    async with playing(kind) as play:
        created_at = play.stage.now() - play.stage.lifetime - timedelta(seconds=30)
        order = play.stage.place(created_at)
        outcome = await play.cancel(OrderRef(id=order, created_at=created_at))
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is play.stage.expiry_reads_as


@scenario()
async def test_unknown_id(kind: type[Stage]) -> None:
    """The vendor's own words for an id that it never issued."""
    async with playing(kind) as play:
        stranger = play.stage.stranger()
        outcome = await play.cancel(stranger)
        assert isinstance(outcome, NotFound)
        assert outcome.evidence is Evidence.REPLY
        assert outcome.message
        assert play.arrived(stranger) == 1


@scenario()
async def test_refused(kind: type[Stage]) -> None:
    """A refusal is called one only after the order was read back alive, where that can be told; it is not repeated."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(play.stage.refusal(order))
        outcome = await play.cancel(order)
        if kind.tells_canceled:
            assert isinstance(outcome, Refused)
            assert outcome.evidence is Evidence.READ_BACK
        else:
            assert isinstance(outcome, Unknown)
            assert (outcome.evidence, outcome.last_state) == (Evidence.NONE, OrderState.OPEN)
        assert outcome.message
        assert play.arrived(order) == 1


@scenario()
async def test_filled_in_the_race(kind: type[Stage]) -> None:
    """An order that is filled an instant before the cancel is processed was filled."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(fill_in_the_race(play.stage.cancel_call))
        outcome = await play.cancel(order)
        assert isinstance(outcome, AlreadyClosed)
        assert outcome.state is OrderState.FILLED


@scenario(Ability.PARTIAL_FILLS)
async def test_partly_filled_in_the_race(kind: type[Stage]) -> None:
    """What is filled in the race belongs to the amounts."""
    async with playing(kind) as play:
        order = play.stage.place()
        play.stage.sandbox.faults.add(partial_fill_in_the_race(play.stage.cancel_call))
        outcome = await play.cancel(order)
        assert isinstance(outcome, Canceled)
        assert outcome.executed


# -- an order too young to be canceled ----------------------------------------------------------------------------


@scenario(Ability.AGE_RULE)
async def test_too_early(kind: type[Stage]) -> None:
    """Where the order's age is known and the caller does not wait so long, nothing is sent."""
    async with playing(kind) as play:
        created_at = play.stage.now()
        order = play.stage.place(created_at)
        outcome = await play.cancel(OrderRef(id=order, created_at=created_at), timeout=5)
        assert isinstance(outcome, TooEarly)
        assert outcome.retry_at == created_at + play.stage.cancelable_after
        assert outcome.elapsed < 1
        assert play.arrived(order) == 0


@scenario(Ability.AGE_RULE)
@pytest.mark.virtual_time
async def test_too_early_for_the_vendor(kind: type[Stage]) -> None:
    """Where its age is not known, the vendor says no, and the order is alive, where that can be told."""
    async with playing(kind) as play:
        order = play.stage.place(play.stage.now())
        outcome = await play.cancel(order)
        assert isinstance(outcome, Refused if kind.tells_canceled else Unknown)
        assert getattr(outcome, "last_state", OrderState.OPEN) is OrderState.OPEN
        assert play.arrived(order) == 1


@scenario(Ability.AGE_RULE)
@pytest.mark.virtual_time
async def test_held_back_until_it_is_not_too_early(kind: type[Stage]) -> None:
    """A caller who has the time gets the cancel at the first permitted moment."""
    async with playing(kind) as play:
        created_at = play.stage.now()
        order = play.stage.place(
            created_at - timedelta(seconds=1)
        )  # the caller heard of it a second later
        wait = play.stage.cancelable_after.total_seconds()
        outcome = await play.cancel(OrderRef(id=order, created_at=created_at), timeout=wait + 30)
        assert isinstance(outcome, Canceled)
        assert wait - 1 < outcome.elapsed < wait + 1
        assert play.arrived(order) == 1
