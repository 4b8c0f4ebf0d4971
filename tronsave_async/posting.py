"""A cancel over a socket without a task of its own: admitted, sent and read in the steps in which that is possible."""

from __future__ import annotations

import abc
import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tronsave_async.admission import Admission, Reply
from tronsave_async.errors import GatewayError
from tronsave_async.websocket import Ask

if TYPE_CHECKING:
    from tronsave_async.coalescing import Batch

__all__ = ["Posted"]

P = TypeVar("P", bound=Reply)
V = TypeVar("V")


class Posted(Ask[P], Generic[P, V]):
    """One request for one key: what the transport tells it becomes the end of its batch.

    Args:
        admission: the gateway's.
        batch: what is waited for.
    """

    __slots__ = ("_admission", "_batch", "exchange")

    def __init__(self, admission: Admission, batch: Batch[Any, V]) -> None:
        exchange = batch.exchange
        self.endpoint = exchange.endpoint
        self.exchange = exchange
        self._admission = admission
        self._batch = batch

    @abc.abstractmethod
    def read(self, reply: P) -> V:
        """What the reply says.

        Raises:
            GatewayError: as the batch's failure.
        """

    def done(self) -> bool:
        """The request was revoked, or its gateway closed."""
        return self.exchange.ended_at is not None

    def set_result(self, reply: P) -> None:
        """The reply is here: all who wait are told in this step."""
        try:
            self._admission.carried(self.exchange, reply)
            self._batch.succeed(self.read(reply))
        except Exception as error:  # noqa: BLE001 - whatever it is: who waits is told, and the connection read on
            self._break(error)

    def set_exception(self, error: Exception) -> None:
        """There is no reply."""
        try:
            self._admission.not_carried(self.exchange, error)
        finally:
            self._break(error)

    def _break(self, error: Exception) -> None:
        if isinstance(error, GatewayError):
            self._batch.fail(error)
            return
        self._batch.break_off()
        context = {"message": "a reply could not be handled", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
