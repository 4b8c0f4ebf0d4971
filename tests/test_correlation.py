"""The correlation table: which request a reply belongs to, rule by rule and against a naive model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tronsave_async.correlation import TOMBSTONES, Match, Pending

if TYPE_CHECKING:
    from collections.abc import Callable


def entered(*keys: str, tombstones: int = TOMBSTONES) -> Pending[str]:
    """Return a table with requests; the waiter of ``"a"`` is ``"waiter of a"``."""
    table: Pending[str] = Pending(tombstones)
    for key in keys:
        table.enter(key, f"waiter of {key}")
    return table


def gone(table: Pending[str], key: str) -> bool:
    """Return whether nothing is remembered of a key."""
    return table.match(key) == (Match.UNKNOWN, None)


def test_a_reply_finds_its_request_once() -> None:
    """The first reply settles the request; every other one is a duplicate."""
    table = entered("a", "b")
    assert table.match("a") == (Match.AWAITED, "waiter of a")
    assert [table.match("a") for _ in range(3)] == [(Match.DUPLICATE, None)] * 3
    assert (len(table), "a" in table, "b" in table) == (1, False, True)


def test_replies_come_in_any_order() -> None:
    """What was sent first need not be answered first."""
    table = entered("a", "b", "c")
    assert [table.match(key)[1] for key in "cab"] == [f"waiter of {key}" for key in "cab"]
    assert len(table) == 0


def test_a_stranger_s_reply_is_unknown() -> None:
    """A key that was never entered matches nothing, and is not remembered."""
    table = entered("a")
    assert [table.match("z") for _ in range(2)] == [(Match.UNKNOWN, None)] * 2
    assert table.match("a") == (Match.AWAITED, "waiter of a")


def test_a_late_reply_finds_the_waiter_that_left_once() -> None:
    """A reply after its waiter went is late and names the waiter; the next one is a duplicate."""
    table = entered("a", "b")
    assert table.abandon("a") == "waiter of a"
    assert (len(table), "a" in table) == (1, False)
    assert table.match("a") == (Match.LATE, "waiter of a")
    assert table.match("a") == (Match.DUPLICATE, None)


def test_only_a_pending_request_can_be_abandoned() -> None:
    """Who leaves after the reply, or twice, is told that nothing was pending; the tombstone stays as it is."""
    table = entered("a", "b")
    table.match("a")
    table.abandon("b")
    assert [table.abandon(key) for key in ("a", "b", "z")] == [None, None, None]
    assert table.match("a") == (Match.DUPLICATE, None)
    assert table.match("b") == (Match.LATE, "waiter of b")


def test_a_withdrawn_request_was_never_there() -> None:
    """What was not sent has no reply: a key that was withdrawn is unknown, and only a pending one can be."""
    table = entered("a")
    table.withdraw("a")
    assert gone(table, "a")
    assert len(table) == 0
    with pytest.raises(KeyError):
        table.withdraw("a")


def test_a_key_is_entered_once() -> None:
    """Entering a pending key again is a bug of the caller."""
    table = entered("a")
    with pytest.raises(AssertionError, match="a key is entered once"):
        table.enter("a", "another")


def test_a_lost_connection_leaves_nothing_pending() -> None:
    """All waiters are handed out in the order of their requests, and late replies still find them."""
    table = entered("a", "b", "c", "d")
    table.match("b")
    assert table.abandon_all() == [f"waiter of {key}" for key in "acd"]
    assert (len(table), table.oldest) == (0, None)
    assert table.abandon_all() == []
    assert table.match("c") == (Match.LATE, "waiter of c")
    assert table.match("b") == (Match.DUPLICATE, None)


def test_the_oldest_is_the_first_that_is_still_pending() -> None:
    """The oldest request is the one that was entered first, whatever left before."""
    table = entered("a", "b", "c")
    assert table.oldest == ("a", "waiter of a")
    table.match("a")
    assert table.oldest == ("b", "waiter of b")
    table.abandon("b")
    assert table.oldest == ("c", "waiter of c")
    table.withdraw("c")
    assert table.oldest is None


@pytest.mark.parametrize("bury", [Pending.match, Pending.abandon])
def test_the_latest_tombstones_are_remembered(
    bury: Callable[[Pending[str], str], object],
) -> None:
    """Answered or abandoned, a request is remembered until so many others left after it."""
    table = entered("a", "b", "c", tombstones=2)
    for key in "abc":
        bury(table, key)
    assert gone(table, "a")
    assert not gone(table, "b")
    assert not gone(table, "c")


def test_pending_requests_are_not_bounded_by_the_tombstones() -> None:
    """However few are remembered afterwards, no pending request is forgotten."""
    table = entered(*"abcde", tombstones=0)
    assert len(table) == 5
    assert table.match("a") == (Match.AWAITED, "waiter of a")
    assert gone(table, "a")
    assert table.abandon_all() == [f"waiter of {key}" for key in "bcde"]
    assert gone(table, "b")


def test_ten_thousand_are_remembered_unless_told() -> None:
    """The bound is there without being asked for."""
    table = entered(*map(str, range(TOMBSTONES + 1)))
    table.abandon_all()
    assert gone(table, "0")
    assert table.match("1")[0] is Match.LATE


# -- against a naive model -------------------------------------------------------------------------


class TableMachine(RuleBasedStateMachine):
    """The table against a list of pending requests and a list of all that left, latest last."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = 0
        self.pending: list[str] = []
        self.left: list[tuple[str, bool]] = []
        """Keys that left the table, and whether a late reply would still find the waiter."""

    @initialize(tombstones=st.integers(0, 6))
    def open(self, tombstones: int) -> None:
        """Make the table; few tombstones, so that they are used up."""
        self.tombstones = tombstones
        self.table: Pending[int] = Pending(tombstones)

    def remembered(self) -> list[tuple[str, bool]]:
        """Return what the table may still know of the requests that left."""
        return self.left[-self.tombstones :] if self.tombstones else []

    def bury(self, key: str, *, waits: bool) -> None:
        """A key leaves the table."""
        self.pending.remove(key)
        self.left.append((key, waits))

    @rule()
    def enter(self) -> None:
        """A request is sent."""
        key = str(self.entered)
        self.table.enter(key, self.entered)
        self.pending.append(key)
        self.entered += 1

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """A request is not sent after all."""
        key = data.draw(st.sampled_from(self.pending))
        self.table.withdraw(key)
        self.pending.remove(key)

    @precondition(lambda self: self.entered)
    @rule(data=st.data())
    def reply(self, data: st.DataObject) -> None:
        """A reply comes for any request that ever was: pending, answered, abandoned, forgotten or withdrawn."""
        key = str(data.draw(st.integers(0, self.entered - 1)))
        buried = dict(self.remembered())
        if key in self.pending:
            assert self.table.match(key) == (Match.AWAITED, int(key))
            self.bury(key, waits=False)
        elif key not in buried:
            assert self.table.match(key) == (Match.UNKNOWN, None)
        elif buried[key]:
            assert self.table.match(key) == (Match.LATE, int(key))
            self.left[self.left.index((key, True))] = (key, False)
        else:
            assert self.table.match(key) == (Match.DUPLICATE, None)

    @rule(key=st.sampled_from(["-1", "", "x"]))
    def stray(self, key: str) -> None:
        """A reply comes that was never asked for."""
        assert self.table.match(key) == (Match.UNKNOWN, None)

    @precondition(lambda self: self.entered)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        """A waiter goes, pending or not."""
        key = str(data.draw(st.integers(0, self.entered - 1)))
        pending = key in self.pending
        assert self.table.abandon(key) == (int(key) if pending else None)
        if pending:
            self.bury(key, waits=True)

    @rule()
    def abandon_all(self) -> None:
        """The connection is lost."""
        assert self.table.abandon_all() == [int(key) for key in self.pending]
        for key in list(self.pending):
            self.bury(key, waits=True)

    @invariant()
    def agrees(self) -> None:
        """Size, membership and the oldest are the model's, and the tombstones are bounded."""
        assert len(self.table) == len(self.pending)
        assert all(key in self.table for key in self.pending)
        assert not any(key in self.table for key, _ in self.left)
        oldest = (self.pending[0], int(self.pending[0])) if self.pending else None
        assert self.table.oldest == oldest
        assert list(self.table._buried) == [key for key, _ in self.remembered()]


def test_the_table_agrees_with_a_naive_model() -> None:
    """Whatever is entered, answered, abandoned or lost, every key is in exactly the state that the model says."""
    run_state_machine_as_test(TableMachine, settings=settings(max_examples=150))
