"""Creations of orders whose names the client chose: when the cancels of a name may ask, and ask again."""

from __future__ import annotations

import asyncio

import pytest

from tronsave_async import OrderRef
from tronsave_async.creations import Creations, NewOrder
from tronsave_async.settlement import Doubts

ORDER, OTHER = OrderRef(client_id="e"), OrderRef(client_id="f")


class House:
    """Creations that take ten seconds at most, and what they tell."""

    def __init__(self) -> None:
        self.doubts = Doubts()
        self.detached: list[OrderRef] = []
        self.creations = Creations(self.doubts, self.detached.append)

    def left(self, order: OrderRef = ORDER) -> NewOrder:
        """A creation that leaves now."""
        new = self.creations.new_order(order, 10.0)
        new.departs()
        return new

    def may_come(self, order: OrderRef = ORDER) -> bool:
        """Whether an order of the name may come to be after now."""
        return self.doubts.may_come_after(order, asyncio.get_running_loop().time())

    async def waited(self, order: OrderRef = ORDER) -> float:
        """Seconds until the next end."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        await self.creations.end_of_one(order.name)
        return loop.time() - started


@pytest.fixture
def house() -> House:
    """A house without creations."""
    return House()


@pytest.mark.virtual_time
async def test_a_creation_ends_with_its_time(house: House) -> None:
    """Nobody told what became of it: after its time nothing will; others of other names do not matter."""
    house.left()
    assert house.detached == [ORDER]
    assert (house.may_come(), house.may_come(OTHER)) == (True, False)
    assert await house.waited(OTHER) == 0
    assert await house.waited() == pytest.approx(10)
    assert not house.may_come()
    assert await house.waited() == 0
    assert not len(house.creations)


@pytest.mark.virtual_time
@pytest.mark.parametrize("end", [NewOrder.is_there, NewOrder.is_refused])
async def test_an_answer_ends_it_at_once(house: House, end: object) -> None:
    """Whoever waits goes on, all of them; a second answer changes nothing."""
    assert callable(end)
    new = house.left()
    waiting = [asyncio.create_task(house.waited()) for _ in range(3)]
    await asyncio.sleep(2)
    end(new)
    assert await asyncio.gather(*waiting) == [pytest.approx(2)] * 3
    assert not house.may_come()
    end(new)
    assert not len(house.creations)


@pytest.mark.virtual_time
async def test_one_that_never_left_says_nothing(house: House) -> None:
    """It was refused a permit, say: another of the name may still take effect."""
    house.left()
    house.creations.new_order(ORDER, 10.0).is_refused()
    assert house.may_come()
    assert await house.waited() == pytest.approx(10)


@pytest.mark.virtual_time
@pytest.mark.parametrize("end", [NewOrder.is_there, NewOrder.is_refused])
async def test_the_end_of_one_is_not_the_others(house: House, end: object) -> None:
    """An end wakes up who waits; the name may be given by the other as long as that may take effect."""
    assert callable(end)
    first = house.left()
    await asyncio.sleep(4)
    second = house.left()
    end(second)
    assert house.may_come()
    assert await house.waited() == pytest.approx(6)
    assert not house.may_come()
    end(first)


@pytest.mark.virtual_time
async def test_one_that_leaves_again_is_one(house: House) -> None:
    """Its first request was not looked at: its time begins anew, and one refusal ends it."""
    new = house.left()
    await asyncio.sleep(9)
    new.departs()
    assert len(house.creations) == 1
    await asyncio.sleep(9)
    assert house.may_come()
    new.is_refused()
    assert not house.may_come()


@pytest.mark.virtual_time
async def test_closing_ends_all(house: House) -> None:
    """Nobody waits any more, and no timer is left."""
    for order in (ORDER, ORDER, OTHER):
        house.left(order)
    waiting = [asyncio.create_task(house.waited(order)) for order in (ORDER, OTHER)]
    await asyncio.sleep(0)
    house.creations.end()
    assert await asyncio.gather(*waiting) == [0, 0]
    assert not len(house.creations)
    house.creations.end()
