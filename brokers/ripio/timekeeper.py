"""Keeps the vendor's clock for one gateway: what is learned from replies, and when the vendor is asked for its time."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from tronsave_async.errors import BadReply, GatewayError
from tronsave_async.limiter import Lane
from tronsave_async.outcomes import Wire
from tronsave_async.tasks import clock

from . import config, verdict
from .clock import VendorClock, shared_clock
from .config import VENUE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tronsave_async.dispatch import Dispatcher
    from tronsave_async.exchange import Exchange
    from tronsave_async.http import HttpTransport

__all__ = ["Timekeeper"]

TRIES: Final = 2
"""How often the vendor is asked for its time after a rejection: so many fit into the time for which signers wait."""


class Timekeeper:
    """Tells with which time to sign.

    Args:
        dispatcher: the gateway's.
        http: asks for the server's time.
        account: names the account and the host; all gateways on it share one clock.
    """

    def __init__(self, dispatcher: Dispatcher, http: HttpTransport, account: str) -> None:
        self._dispatch = dispatcher
        self._http = http
        self._account = account
        self._clock: VendorClock | None = None
        self._has_heard = False
        self._trusts_replies = True
        """The time in replies has not misled a signature yet."""
        self._trusts_dates = True
        """Nor has the moment at which a cached answer was made."""
        self._went_by_date = False
        """The estimate in force is such a moment's."""
        self._renewed_at = -math.inf
        self._renewal: asyncio.Task[None] | None = None
        self._renewal_began = -math.inf

    def timestamp(self, text: bytes) -> int:
        """The vendor's time in milliseconds, for signing ``text``; see `VendorClock.timestamp`."""
        if self._clock is None:
            self._clock = shared_clock(self._account)
        return self._clock.timestamp(text)

    def hear(self, exchange: Exchange, stamp: int | None) -> None:
        """A reply to a signed request may carry the vendor's time, which is never cached."""
        if stamp is None or exchange.departed_at is None or exchange.ended_at is None:
            return
        if not self._trusts_replies:
            return
        assert self._clock is not None, "it made the signature"
        self._has_heard = True
        before = self._clock.offset
        self._clock.heard(stamp, exchange.departed_at, exchange.ended_at)
        self._went_by_date = False
        if abs(self._clock.offset - before) > config.CORRECTION:
            self._renewed_at = exchange.ended_at

    def rejected(self, exchange: Exchange) -> None:
        """A signature's time was rejected: estimate the vendor's clock anew, once for all who were rejected by it.
        Whoever signs next waits for it, for a moment."""
        assert exchange.departed_at is not None, "it was answered"
        if not self.may_sign() or self._renewed_at >= exchange.departed_at:
            return
        # The estimate that was rejected agrees with what the replies say: then they tell no time to sign with.
        self._trusts_replies = self._trusts_replies and not self._has_heard
        self._trusts_dates = self._trusts_dates and not self._went_by_date
        self._renewal_began = clock()
        self._renewal = self.ask(rejected=True)

    def may_sign(self) -> bool:
        """No estimate of the vendor's clock has to be waited for."""
        return self._renewal is None

    async def is_right(self) -> None:
        """Wait for the estimate that is under way, if there is one; it must not hold up what the old one may do."""
        left = self._renewal_began + config.CLOCK_PATIENCE - clock()
        if self._renewal is not None and left > 0.0:
            await asyncio.wait([self._renewal], timeout=left)

    def ask(self, *, rejected: bool) -> asyncio.Task[None]:
        """Ask the vendor for its time, in the background. Without an answer the estimate stays."""
        return self._dispatch.lifetime.spawn(self._ask(rejected))

    async def fetch(self, exchange: Exchange, *, rejected: bool = False) -> datetime:
        """One attempt to read the server's time (page: server-time), and to learn from it.

        Raises:
            VendorError, RequestFailed, BadReply.
        """
        sending = self._http.send(
            "server_time",
            "GET",
            config.PATHS["server_time"],
            departing=partial(_unsigned, exchange),
        )
        reply = await self._dispatch.admission.carry(exchange, sending)
        stamp = verdict.server_time(reply.status, reply.body, reply.retry_after())
        moment = _time_of(stamp)
        assert exchange.departed_at is not None
        assert exchange.ended_at is not None
        self.timestamp(b"")
        assert self._clock is not None, "just made"
        dated = _freshest(stamp, reply.date()) if self._trusts_dates else stamp
        self._clock.told(dated, exchange.departed_at, exchange.ended_at, rejected=rejected)
        self._went_by_date = dated != stamp
        if rejected:
            self._renewed_at = exchange.ended_at
        return moment

    async def _ask(self, rejected: bool) -> None:
        try:
            async with asyncio.timeout(config.CLOCK_PATIENCE):
                for _ in range(TRIES if rejected else 1):
                    if await self._was_told(rejected):
                        return
        except TimeoutError:
            pass
        finally:
            if rejected:
                self._renewal = None

    async def _was_told(self, rejected: bool) -> bool:
        exchange = self._dispatch.admission.open_exchange("server_time", 0)
        attempt = partial(self.fetch, rejected=rejected)
        try:
            await self._dispatch.calls.admitted(exchange, Lane.CANCEL, attempt)
        except GatewayError:
            return False
        return True


def _unsigned(exchange: Exchange, seen: bool) -> Mapping[str, str]:
    exchange.depart(seen)
    return {"Cache-Control": "no-cache"}


def _freshest(stamp: int, sent: datetime | None) -> int:
    """The vendor's time in milliseconds, by the answer or, where that came out of a cache, by the moment in which the
    reply was made, which is told in whole seconds."""
    if sent is None:
        return stamp
    made = int(sent.timestamp() * 1000)
    return stamp if made - stamp < 1500 else made + 500


def _time_of(stamp: int) -> datetime:
    try:
        return datetime.fromtimestamp(stamp / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        reason = "the reply's time is out of all calendars"
        raise BadReply(VENUE, "server_time", reason, wire=Wire.ANSWERED) from None
