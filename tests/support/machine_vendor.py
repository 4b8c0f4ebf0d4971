"""A vendor as a model: its orders, and all that ever happened to them, in order. The judge of what a client says."""

from __future__ import annotations

import enum
from decimal import Decimal
from typing import Final, NamedTuple

from tronsave_async import OrderState

__all__ = ["TOTAL", "Life", "ModelVendor", "Said", "Word"]

TOTAL: Final = Decimal(4)
"""The amount of every order."""


class Life(NamedTuple):
    """What an order is from some moment on."""

    since: int
    state: OrderState
    executed: Decimal

    @property
    def remaining(self) -> Decimal:
        """What will never be filled, or is not filled yet."""
        return TOTAL - self.executed


class Said(enum.Enum):
    """What the vendor says about one order."""

    CANCELED = "canceled"
    CLOSED = "closed"
    NOT_FOUND = "not found"
    REFUSED = "refused"
    IS = "is"
    """Nothing but what it is."""


class Word(NamedTuple):
    """What the vendor says about one order, and what it was then."""

    said: Said
    life: Life | None


class ModelVendor:
    """Orders that are open, filled in part or whole, or canceled; whatever was never placed is unknown.

    Every event has its moment, a number of its own: time alone does not tell what came first.
    """

    def __init__(self) -> None:
        self.moment = 0
        self.lives: dict[str, list[Life]] = {}
        self.created: list[str] = []
        """What was created by request, each time that it was."""

    def tick(self) -> int:
        """The next moment."""
        self.moment += 1
        return self.moment

    def life(self, name: str, moment: int | None = None) -> Life | None:
        """What an order is, or was at a moment; None if there is no such order."""
        known = [
            life for life in self.lives.get(name, ()) if moment is None or life.since <= moment
        ]
        return known[-1] if known else None

    def lives_within(self, name: str, begin: int, end: int) -> list[Life | None]:
        """All that an order was between two moments."""
        later = [life for life in self.lives.get(name, ()) if begin < life.since <= end]
        return [self.life(name, begin), *later]

    def place(self, name: str) -> None:
        """Place an open order; whatever had the name before has it no more."""
        self._become(name, OrderState.OPEN, Decimal(0))

    def fill(self, name: str, *, whole: bool) -> None:
        """Fill an open order, a bit or whole."""
        life = self.life(name)
        if life is None or not life.state.is_open:
            return
        executed = TOTAL if whole else life.executed + 1
        is_filled = executed >= TOTAL
        state = OrderState.FILLED if is_filled else OrderState.PARTIALLY_FILLED
        self._become(name, state, min(executed, TOTAL))

    def cancel(self, name: str) -> Word:
        """Somebody asks for the order to be canceled."""
        life = self.life(name)
        if life is None:
            return Word(Said.NOT_FOUND, None)
        if life.state.is_closed:
            return Word(Said.CLOSED, life)
        self._become(name, OrderState.CANCELED, life.executed)
        return Word(Said.CANCELED, self.life(name))

    def refuse(self, name: str) -> Word:
        """Somebody asks, and the vendor says no; of an order that is not open it says what it is."""
        life = self.life(name)
        return (
            self.cancel(name) if life is None or life.state.is_closed else Word(Said.REFUSED, life)
        )

    def read(self, name: str) -> Word:
        """Somebody looks at the order."""
        life = self.life(name)
        return Word(Said.NOT_FOUND if life is None else Said.IS, life)

    def create(self, name: str) -> Word:
        """Somebody creates an order."""
        self.created.append(name)
        return Word(Said.IS, None)

    def _become(self, name: str, state: OrderState, executed: Decimal) -> None:
        self.lives.setdefault(name, []).append(Life(self.tick(), state, executed))
