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
    from collections.abc import Callable, Coroutine

    from tronsave_async.coalescing import Delivery, Ticket
    from tronsave_async.dispatch import Dispatcher, Opening
    from tronsave_async.orders import OrderRef
    from tronsave_async.outcomes import CancelOutcome
    from tronsave_async.settlement import Case, Verdict

__all__ = ["CancelMany"]


class CancelMany:
    """The cases of one ``cancel_many``: a task for a case only where the first request did not settle it."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        cases: list[Case],
        on_outcome: Callable[[CancelOutcome], object] | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._cases = cases
        self._on_outcome = on_outcome
        self._tickets: dict[int, Ticket[str, Verdict]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._left = len(cases)
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
        for index, case in enumerate(self._cases):
            if (reason := unusable(case.order)) is not None:
                case.give_up(reason, clock())
                self._finish(index)
                continue
            begins = opening(case.order)
            if begins.step is Step.SEND and begins.not_before is None:
                self._tickets[index] = self._dispatcher.want(case, partial(self._deliver, index))
            else:
                self._start(index, self._dispatcher.begin(case, begins, deadline))
        if self._left:
            await self._done

    async def withdraw(self, reason: str) -> None:
        """Leave whatever is not ended, because of ``reason``. Every case has its outcome afterwards."""
        self._reason = reason
        for index, ticket in list(self._tickets.items()):
            del self._tickets[index]
            self._dispatcher.leave(self._cases[index], ticket, None)
            self._cases[index].give_up(reason, clock())
            self._finish(index)
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
        errors = [case for case in self._cases if case.error is not None]
        if errors and all(case.error or isinstance(case.outcome, NotSent) for case in self._cases):
            assert errors[0].error is not None, "just selected"
            raise copy(errors[0].error) from errors[0].error.__cause__
        for case in errors:
            self._tell(case)
        return [case.outcome for case in self._cases if case.outcome is not None]

    def _deliver(self, index: int, delivery: Delivery[Verdict]) -> None:
        case, ticket = self._cases[index], self._tickets.pop(index)
        try:
            step = self._dispatcher.digest(case, delivery, ticket.joined_at)
        except Exception:
            # A fault of ours must not leave the caller waiting: the case ends with what was proved.
            case.left_queue(delivery.reached, tried=True)
            case.give_up("an internal error", clock())
            self._finish(index)
            raise
        if step is Step.DONE:
            self._finish(index)
        else:
            self._start(index, self._dispatcher.settle(case, step))

    def _start(self, index: int, settling: Coroutine[Any, Any, None]) -> None:
        """Not one of the gateway's background tasks: closing the gateway ends a case, and does not cancel it."""
        task = self._tasks[index] = start(settling)
        task.add_done_callback(partial(self._recovered, index))

    def _recovered(self, index: int, task: asyncio.Task[None]) -> None:
        """However the task of a case ended: the case has its outcome."""
        del self._tasks[index]
        self._cases[index].give_up(self._reason, clock())
        self._finish(index)

    def _finish(self, index: int) -> None:
        """The only place where a case is counted as ended."""
        case = self._cases[index]
        self._left -= 1
        if case.error is not None:
            self._spare_the_rest()
        else:
            self._tell(case)
        if not self._left and not self._done.done():
            self._done.set_result(None)

    def _spare_the_rest(self) -> None:
        """The account is rejected: what has not been sent stays unsent."""
        waiting = [index for index, ticket in self._tickets.items() if not ticket.taken]
        for index in waiting:
            case = self._cases[index]
            self._dispatcher.leave(case, self._tickets.pop(index), None)
            case.give_up("not sent: the account was rejected", clock())
            self._finish(index)

    def _tell(self, case: Case) -> None:
        outcome = self._dispatcher.report(case)
        if self._on_outcome is not None:
            guarded(self._on_outcome, outcome, "on_outcome")
