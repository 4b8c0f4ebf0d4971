"""Gateways to the model vendor: the dispatcher, plugged together as the vendors' gateways do it."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from support.machine_network import VENUE, MemoryHttp, MemorySocket, Network, Packet, Reply
from support.machine_vendor import Said, Word
from tronsave_async import OrderRef, OrderSnapshot, RateLimit
from tronsave_async.admission import Meter
from tronsave_async.cancels import AT_ONCE, Opening
from tronsave_async.coalescing import Batch, Delivery, Divide
from tronsave_async.dispatch import Dispatcher
from tronsave_async.errors import (
    AuthenticationRejected,
    BadReply,
    GatewayError,
    InvalidRequest,
    OrderNotFound,
    RateLimited,
    VendorFailure,
)
from tronsave_async.limiter import Lane, Scope
from tronsave_async.outcomes import Wire
from tronsave_async.posting import Posted
from tronsave_async.retry import Repeatable
from tronsave_async.settlement import Meaning, Step, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from tronsave_async import Event, RateLimiter, RetryPolicy
    from tronsave_async.exchange import Exchange
    from tronsave_async.quota import DailyQuota

__all__ = ["CANCELABLE_AFTER", "ENDS_AFTER", "Desk", "Policy"]

CANCELABLE_AFTER: Final = timedelta(minutes=2)
"""The age from which an order can be canceled, where the policy has such a rule."""
ENDS_AFTER: Final = timedelta(minutes=20)
"""The age from which an order is looked at first, where the policy has such a rule."""

CALLS: Final = ("cancel", "read", "create")

MEANINGS: Final = {
    400: Meaning.UNPROVED,
    401: Meaning.ACCOUNT,
    429: Meaning.NOT_PROCESSED,
    498: Meaning.STALE,
    500: Meaning.AMBIGUOUS,
    503: Meaning.AMBIGUOUS,
}


class Policy(NamedTuple):
    """In what the vendors' gateways differ.

    Attributes:
        name: whose gateway is built like this.
        limit: of the vendor.
        shared: all calls count against one limit.
        maximum: orders in one request.
        read_first: after a lost reply the order is looked at before its cancel is repeated.
        has_socket: cancels and creates go over a socket, which hears late replies.
        sees_departures: the moment is known in which a connection stands.
        tells_how: what was closed before is said to be filled, or canceled.
        has_ages: an order must have some age to be canceled, and ends at another.
    """

    name: str
    limit: RateLimit
    shared: bool
    maximum: int
    read_first: bool
    has_socket: bool
    sees_departures: bool
    tells_how: bool
    has_ages: bool


class Desk:
    """One gateway.

    Args:
        policy: how it is built.
        network: what it sends over.
        limiter: shared with the gateways before it.
        retry: how often and how long to try again.
        quota: of the vendor's day, or None.
        listen: the telemetry hook.
        now: the wall clock.
    """

    def __init__(
        self,
        policy: Policy,
        network: Network,
        *,
        limiter: RateLimiter,
        retry: RetryPolicy,
        quota: DailyQuota | None,
        listen: Callable[[Event], None],
        now: Callable[[], datetime],
    ) -> None:
        self.policy = policy
        self.network = network
        self.now = now
        self.http = MemoryHttp(network, seen=policy.sees_departures)
        self.socket: MemorySocket | None = None
        if policy.has_socket:
            self.socket = MemorySocket(network, retry=retry, max_in_flight=4)
        self.scopes = {
            call: Scope(VENUE, "account", "all" if policy.shared else call) for call in CALLS
        }
        self.dispatcher = Dispatcher(
            VENUE,
            meters={call: Meter(scope, policy.limit, quota) for call, scope in self.scopes.items()},
            transports=(self.http,) if self.socket is None else (self.socket, self.http),
            limiter=limiter,
            retry=retry,
            telemetry=listen,
        )
        self.cancels = self.dispatcher.batcher(
            "cancel",
            maximum=policy.maximum,
            send=self._send_cancels,
            join_departed=True,
            post=None if self.socket is None else self._post_cancel,
        )
        self.reads = self.dispatcher.batcher(
            "read", maximum=policy.maximum, send=self._send_reads, join_departed=False
        )
        self.dispatcher.settle_with(
            self.cancels,
            self._read_back,
            _key,
            read_first=policy.read_first,
            opening=self._opening if policy.has_ages else lambda order: AT_ONCE,
        )

    async def create(self, name: str, timeout: float | None) -> None:
        """A call that must not be repeated."""

        async def attempt(exchange: Exchange) -> None:
            reply = await self._ask(exchange, [name])
            if (error := error_of("create", reply)) is not None:
                raise error

        await self.dispatcher.calls.call(
            "create",
            attempt,
            lane=Lane.CREATE,
            repeatable=Repeatable.UNLESS_SENT,
            timeout=timeout,
        )

    def verdicts(self, names: Sequence[str], reply: Reply) -> dict[str, Verdict]:
        """What the reply to a cancel means for each order that it mentions.

        Raises:
            Divide: it was refused as a whole.
        """
        if reply.words is None:
            if reply.status == 400 and len(names) > 1:
                raise Divide
            return dict.fromkeys(names, self._verdict_of_status(reply))
        told: dict[str, Verdict] = {}
        for name, word in reply.words:
            said = self._verdict_of_word(word)
            if told.setdefault(name, said) != said:
                told[name] = Verdict(meaning=Meaning.AMBIGUOUS, message="contradicts itself")
        return told

    def _verdict_of_status(self, reply: Reply) -> Verdict:
        meaning = MEANINGS.get(reply.status, Meaning.AMBIGUOUS)
        return Verdict(
            meaning=meaning, message=f"status {reply.status}", error=error_of("cancel", reply)
        )

    def _verdict_of_word(self, word: Word) -> Verdict:
        said, life = word
        if said is Said.CANCELED and life is not None:
            return Verdict(
                meaning=Meaning.CANCELED, executed=life.executed, remaining=life.remaining
            )
        if said is Said.CLOSED and life is not None:
            if self.policy.tells_how:
                return Verdict(
                    meaning=Meaning.ALREADY_CLOSED, state=life.state, executed=life.executed
                )
            # A batch says only that it did not cancel; the others, that there is nothing to cancel any more.
            batch = self.policy.maximum > 1
            return Verdict(meaning=Meaning.UNPROVED if batch else Meaning.ALREADY_CLOSED)
        if said is Said.NOT_FOUND:
            return Verdict(meaning=Meaning.NOT_FOUND, message="no such order")
        tells = said is Said.REFUSED and self.policy.tells_how
        return Verdict(meaning=Meaning.REFUSED if tells else Meaning.UNPROVED, message="no")

    # -- how it is sent -------------------------------------------------------------------------------------------

    async def _ask(self, exchange: Exchange, names: Sequence[str]) -> Reply:
        """Send one admitted request."""
        if self.socket is None or exchange.endpoint == "read":
            packet = self.network.packet(exchange.endpoint, names, exchange, self.http)
            sending = self.http.send(packet, exchange.depart)
            return await self.dispatcher.admission.carry(exchange, sending)
        packet = self.network.packet(exchange.endpoint, names, exchange, self.socket)
        asking = self.socket.request(
            exchange.endpoint, partial(self.departing, packet), partial(self.hear_late, packet)
        )
        return await self.dispatcher.admission.carry(exchange, self._heard(packet, asking))

    async def _heard(self, packet: Packet, asking: Awaitable[Reply]) -> Reply:
        reply = await asking
        self.network.hear(packet)
        return reply

    def departing(self, packet: Packet, key: str) -> bytes:
        """A socket takes the request."""
        packet.exchange.depart()
        packet.claimed = self.network.vendor.tick()
        packet.key = key
        return str(packet.number).encode()

    async def _send_cancels(
        self, names: Sequence[str], exchange: Exchange
    ) -> Mapping[str, Verdict]:
        reply = await self._ask(exchange, names)
        told = self.verdicts(names, reply)
        if self.socket is not None:
            self.resolve(exchange, told)
        return told

    def _post_cancel(self, name: str, batch: Batch[str, Verdict]) -> None:
        assert self.socket is not None, "this is how it is plugged in"
        packet = self.network.packet("cancel", [name], batch.exchange, self.socket)
        cancel = _Cancel(self, packet, batch)
        batch.withdraw = partial(self.socket.leave, cancel)
        self.socket.post(cancel)

    def hear_late(self, packet: Packet, reply: Reply) -> None:
        """The reply came when nobody waited for it any more."""
        assert packet.heard is None, "it was heard in time"
        assert packet.heard_late is None, "it is evidence once"
        packet.heard_late = self.network.vendor.tick()
        if packet.call == "cancel":
            self.resolve(packet.exchange, self.verdicts(packet.names, reply))

    def resolve(self, exchange: Exchange, told: Mapping[str, Verdict]) -> None:
        """Whoever is in doubt about these orders is told."""
        for name, verdict in told.items():
            self.dispatcher.cancels.resolve((name, None), verdict, exchange)

    async def _send_reads(self, names: Sequence[str], exchange: Exchange) -> Mapping[str, Word]:
        reply = await self._ask(exchange, names)
        if reply.words is None and reply.status == 400 and len(names) > 1:
            raise Divide
        if (error := error_of("read", reply)) is not None:
            raise error
        told = dict(reply.words or ())
        if self.policy.maximum == 1 and told.get(names[0]) == Word(Said.NOT_FOUND, None):
            raise OrderNotFound(VENUE, "read", status=404)
        return {name: word for name, word in told.items() if word.life is not None}

    async def _read_back(self, order: OrderRef, lane: Lane) -> Delivery[OrderSnapshot]:
        told = await self.dispatcher.calls.fetch(self.reads, _key(order), lane)
        snapshot = None
        if told.value is not None and (life := told.value.life) is not None:
            snapshot = OrderSnapshot(
                order=order,
                venue=VENUE,
                state=life.state,
                executed=life.executed,
                remaining=life.remaining,
            )
        return Delivery(told.exchange, snapshot, told.failure)

    def _opening(self, order: OrderRef) -> Opening:
        if order.created_at is None:
            return Opening()
        now = self.now()
        age = max(now - order.created_at, timedelta(0))
        if age >= ENDS_AFTER:
            return Opening(Step.READ_BACK)
        if age >= CANCELABLE_AFTER:
            return Opening()
        return Opening(not_before=now + (CANCELABLE_AFTER - age))


class _Cancel(Posted[Reply, Verdict]):
    """A cancel that is sent without a task."""

    __slots__ = ("_desk", "_packet")

    def __init__(self, desk: Desk, packet: Packet, batch: Batch[str, Verdict]) -> None:
        super().__init__(desk.dispatcher.admission, batch)
        self._desk = desk
        self._packet = packet

    def departing(self, key: str) -> bytes:
        """It leaves."""
        return self._desk.departing(self._packet, key)

    def read(self, reply: Reply) -> Verdict:
        """What the vendor says."""
        packet = self._packet
        self._desk.network.hear(packet)
        told = self._desk.verdicts(packet.names, reply)
        self._desk.resolve(packet.exchange, told)
        return told.get(packet.names[0], SILENCE)

    def late(self, reply: Reply) -> None:
        """What it says to those in doubt."""
        self._desk.hear_late(self._packet, reply)


SILENCE: Final = Verdict(meaning=Meaning.AMBIGUOUS, message="the reply does not mention the order")


def error_of(call: str, reply: Reply) -> GatewayError | None:
    """The error in a reply, or None."""
    match reply.status:
        case 400:
            return InvalidRequest(VENUE, call, status=400)
        case 401 | 498:
            return AuthenticationRejected(VENUE, call, status=reply.status)
        case 429:
            return RateLimited(VENUE, call, status=429, retry_after=reply.retry_after())
        case status if status >= 500:
            return VendorFailure(VENUE, call, status=status)
        case _ if reply.words is None:
            return BadReply(VENUE, call, "not the vendor's", wire=Wire.ANSWERED, status=200)
        case _:
            return None


def _key(order: OrderRef) -> str:
    assert order.id is not None, "orders are named by their ids here"
    return order.id
