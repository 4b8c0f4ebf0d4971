"""A vendor's sandbox and a gateway at it, whose every outcome is judged."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from support.canary import sightings
from tronsave_async import OrderRef, RateLimiter

from .judge import lie
from .stage import QUICK, UNMETERED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tronsave_async import CancelOutcome, Event, OrderGateway

    from .stage import Stage

__all__ = ["Play", "playing", "until"]


class Play:
    """One stage with one gateway at it.

    Every outcome that comes out of it is judged when it comes, and those that say something for good (the order is
    dead, nothing was sent) once more at the end.

    Attributes:
        stage: the vendor.
        gateway: the gateway, bare: for what is not a cancel.
        events: what it told the telemetry hook.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.gateway: OrderGateway
        self.events: list[Event] = []
        self._open: dict[str, int] = {}
        """Calls under way by order."""
        self._before: dict[str, int] = {}
        """Cancels that had arrived when they began."""
        self._last: dict[str, CancelOutcome] = {}

    def hear(self, event: Event, /) -> None:
        """The telemetry hook."""
        self.events.append(event)
        sightings.event(event)

    def number_of(self, kind: type[Event], call: str) -> int:
        """How many events of a kind were about a call."""
        return sum(
            isinstance(e, kind) and getattr(e, "endpoint", call) == call for e in self.events
        )

    async def cancel(
        self,
        order: OrderRef | str,
        *,
        timeout: float | None = 30.0,
        gateway: OrderGateway | None = None,
    ) -> CancelOutcome:
        """Cancel one order, by another gateway if one is given."""
        order_id = _id_of(order)
        self._begin(order_id)
        try:
            outcome = await (gateway or self.gateway).cancel(order, timeout=timeout)
        finally:
            self._open[order_id] -= 1
        self._judge(order_id, outcome)
        return outcome

    async def cancel_many(
        self,
        orders: Sequence[OrderRef | str],
        *,
        timeout: float | None = None,
        on_outcome: Callable[[CancelOutcome], object] | None = None,
    ) -> list[CancelOutcome]:
        """Cancel many orders."""
        ids = [_id_of(order) for order in orders]
        for order_id in ids:
            self._begin(order_id)
        try:
            outcomes = await self.gateway.cancel_many(
                orders, timeout=timeout, on_outcome=on_outcome
            )
        finally:
            for order_id in ids:
                self._open[order_id] -= 1
        assert len(outcomes) == len(ids)
        for order_id, outcome in zip(ids, outcomes, strict=True):
            self._judge(order_id, outcome)
        return outcomes

    def begin(
        self, order: OrderRef | str, *, timeout: float | None = None, many: bool = False
    ) -> asyncio.Task[CancelOutcome]:
        """Start to cancel one order, by `cancel` or as the only one of `cancel_many`."""

        async def alone() -> CancelOutcome:
            [outcome] = await self.cancel_many([order], timeout=timeout)
            return outcome

        return asyncio.create_task(alone() if many else self.cancel(order, timeout=timeout))

    def arrived(self, order_id: str) -> int:
        """How many cancels for an order have arrived."""
        return len(self.stage.cancels(order_id))

    def judge_at_the_end(self) -> None:
        """What was dead stays dead, and what was not sent never came."""
        for order_id, outcome in self._last.items():
            if outcome.closed or outcome.attempts == 0:
                self._judge(order_id, outcome)

    def _begin(self, order_id: str) -> None:
        if not self._open.get(order_id):
            self._before[order_id] = self.arrived(order_id)
        self._open[order_id] = self._open.get(order_id, 0) + 1

    def _judge(self, order_id: str, outcome: CancelOutcome) -> None:
        self._last[order_id] = outcome
        assert outcome.order.id == order_id
        found = lie(self.stage, outcome, self.arrived(order_id) - self._before[order_id])
        assert found is None, found


@asynccontextmanager
async def playing(
    kind: type[Stage], *, limit: tuple[int, float] | None = None, **options: Any
) -> AsyncIterator[Play]:
    """Open a vendor that meters nothing and a quick gateway at it; ``limit`` and the options say otherwise."""
    stage = kind(limit)
    play = Play(stage)
    usual: dict[str, Any] = {
        "limiter": RateLimiter(),
        "rate_limit": UNMETERED,
        "retry": QUICK,
        "telemetry": play.hear,
    }
    await stage.sandbox.start()
    try:
        async with stage.gateway(**(usual | options)) as gateway:
            play.gateway = gateway
            yield play
        play.judge_at_the_end()
    finally:
        await stage.sandbox.aclose()


async def until(condition: Callable[[], object], turns: int = 200_000) -> None:
    """Let the loop turn until something is so. No time passes on a clock that jumps."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to be so")


def _id_of(order: OrderRef | str) -> str:
    name = order if isinstance(order, str) else order.id
    assert name is not None, "scenarios name orders by the vendor's id"
    return name
