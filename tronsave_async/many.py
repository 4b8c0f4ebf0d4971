"""The cases of one ``cancel_many``."""

from __future__ import annotations

import asyncio
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from tronsave_async.outcomes import NotSent
from tronsave_async.settlement import Step
from tronsave_async.tasks import clock, guarded, start

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from tronsave_async.cancels import Cancels, Opening
    from tronsave_async.coalescing import Delivery, Ticket
    from tronsave_async.orders import OrderRef
    from tronsave_async.outcomes import CancelOutcome
    from tronsave_async.settlement import Case, Verdict

__all__ = ["CancelMany"]


class CancelMany:
    """The orders of one ``cancel_many``: a case for an order only where its first request did not simply cancel it, and
    a task only where it did not settle it."""

    def __init__(
        self,
        cancels: Cancels,
        orders: Sequence[OrderRef],
        on_outcome: Callable[[CancelOutcome], object] | None,
    ) -> None:
        self._cancels = cancels
        self._orders = orders
        self._started = clock()
        self._outcomes: list[CancelOutcome | None] = [None] * len(orders)
        self._cases: dict[int, Case] = {}
        self._on_outcome = on_outcome
        self._tickets: dict[int, Ticket[str, Verdict]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._left = len(orders)
        self._reason = "its task was canceled"
        """Why a case ends that is not settled yet."""
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(
        self,
        unusable: Callable[[OrderRef], str | None],
        opening: Callable[[OrderRef], Opening],
        deadline: float | None,
    ) -> None:
        """Until every case has its end."""
        for index, order in enumerate(self._orders):
            if (reason := unusable(order)) is not None:
                self._give_up(index, reason)
                continue
            begins = opening(order)
            if begins.step is Step.SEND and begins.not_before is None:
                self._join(index)
            else:
                self._start(index, self._cancels.begin(self._case(index), begins, deadline))
        if self._left:
            await self._done

    async def withdraw(self, reason: str) -> None:
        """Leave whatever is not ended, because of ``reason``. Every case has its outcome afterwards."""
        self._reason = reason
        # A list, and not the first each time: what is gone from a dict's front is counted off again.
        for index in list(self._tickets):
            if index in self._tickets:  # whom it concerns may make others leave
                self._leave(index, reason)
        tasks = set(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def outcomes(self) -> list[CancelOutcome]:
        """One outcome per case, in order.

        Raises:
            GatewayError: the account's error, if it is all that happened: no order was reached.
        """
        errors = [(index, case.error) for index, case in self._cases.items() if case.error]
        rejected = {index for index, _ in errors}
        if errors and all(
            index in rejected or isinstance(outcome, NotSent)
            for index, outcome in enumerate(self._outcomes)
        ):
            first = errors[0][1]
            raise copy(first) from first.__cause__
        for index, _ in errors:
            self._conclude(index)
        return [outcome for outcome in self._outcomes if outcome is not None]

    def _case(self, index: int) -> Case:
        case = self._cases.get(index)
        if case is None:
            case = self._cancels.open_case(self._orders[index], self._started)
            self._cases[index] = case
        return case

    def _join(self, index: int) -> None:
        # A partial of a bound method would be one object more for each order that waits.
        deliver = partial(CancelMany._deliver, self, index)
        ticket = self._cancels.join(self._orders[index], deliver, self._started)
        if ticket.is_open:  # else it was delivered to in this step
            self._tickets[index] = ticket

    def _deliver(self, index: int, delivery: Delivery[Verdict]) -> None:
        self._tickets.pop(index, None)
        step = Step.DONE
        try:
            outcome = self._cancels.success(self._orders[index], delivery, self._started)
            if outcome is None:
                step = self._cancels.digest(self._case(index), delivery, self._started)
        except Exception:
            # A fault of ours must not leave the caller waiting: the case ends with what was proved.
            self._case(index).left_queue(delivery.reached, tried=True)
            self._give_up(index, "an internal error")
            raise
        if outcome is not None:
            self._tell(index, outcome)
            self._count_one()
        elif step is Step.DONE:
            self._finish(index)
        else:
            self._start(index, self._cancels.settle(self._case(index), step))

    def _leave(self, index: int, reason: str) -> None:
        self._cancels.leave(self._case(index), self._tickets.pop(index), None)
        self._give_up(index, reason)

    def _give_up(self, index: int, reason: str) -> None:
        self._case(index).give_up(reason, clock())
        self._finish(index)

    def _start(self, index: int, settling: Coroutine[Any, Any, None]) -> None:
        """Not one of the gateway's background tasks: closing the gateway ends a case, and does not cancel it."""
        task = self._tasks[index] = start(settling)
        task.add_done_callback(partial(self._recovered, index))

    def _recovered(self, index: int, task: asyncio.Task[None]) -> None:
        """However the task of a case ended: the case has its outcome."""
        del self._tasks[index]
        self._give_up(index, self._reason)

    def _finish(self, index: int) -> None:
        """A case has ended."""
        if self._cases[index].error is not None:
            self._spare_the_rest()
        else:
            self._conclude(index)
        self._count_one()

    def _count_one(self) -> None:
        """The only place where an order is counted as ended."""
        self._left -= 1
        if not self._left and not self._done.done():
            self._done.set_result(None)

    def _spare_the_rest(self) -> None:
        """The account is rejected: what has not been sent stays unsent."""
        for index, ticket in list(self._tickets.items()):
            # One's end may make others leave, or be sent.
            if index in self._tickets and not ticket.taken:
                self._leave(index, "not sent: the account was rejected")

    def _conclude(self, index: int) -> None:
        self._tell(index, self._cancels.report(self._cases[index]))

    def _tell(self, index: int, outcome: CancelOutcome) -> None:
        self._outcomes[index] = outcome
        if self._on_outcome is not None:
            guarded(self._on_outcome, outcome, "on_outcome")
