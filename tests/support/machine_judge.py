"""The judge of a gateway to the model vendor: it knows the orders and the requests, and compares what callers are told.

It knows nothing of what goes on inside the gateway. Moments are the vendor's: see `ModelVendor`.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from support.machine_gateway import CANCELABLE_AFTER, Desk, Policy
from support.machine_network import Mishap, Network, Packet
from support.machine_vendor import Life, ModelVendor, Said
from tronsave_async import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    Evidence,
    NotFound,
    NotSent,
    OrderRef,
    OrderSnapshot,
    OrderState,
    OutcomeUnknown,
    Refused,
    TooEarly,
    Unknown,
    Wire,
)
from tronsave_async.errors import (
    AuthenticationRejected,
    GatewayClosed,
    GatewayError,
    OrderNotFound,
)
from tronsave_async.telemetry import Answered, Lost, OutcomeReached

if TYPE_CHECKING:
    from collections.abc import Callable

    from tronsave_async import Event, RateLimiter, RetryPolicy

__all__ = ["Errand", "Judge"]

ROUNDING = 1e-6
UNDONE = frozenset({400, 401, 429, 498})
"""Statuses that say that nothing was done."""


class Errand:
    """What one caller wants for one order, and what it was told."""

    def __init__(self, order: OrderRef) -> None:
        self.order = order
        self.name = order.id or ""
        self.is_alone = False
        """It is a call of its own."""
        self.timeout: float | None = None
        self.gateway = 0
        self.begun = 0
        self.started = 0.0
        self.ended: int | None = None
        self.ended_at = 0.0
        """The same by the loop's time."""
        self.outcome: CancelOutcome | None = None
        self.cleared = 0
        """When the trouble that was before it had ended."""

    def is_open_at(self, moment: int) -> bool:
        """Somebody waited for it then."""
        return 0 < self.begun <= moment and (self.ended is None or self.ended > moment)


class Judge:
    """What was promised to everybody, and whether it was kept."""

    def __init__(self, vendor: ModelVendor, network: Network) -> None:
        self.vendor = vendor
        self.network = network
        self.network.watch = self._asked
        self.lies: list[AssertionError] = []
        self.outcomes: Counter[str] = Counter()
        self.policy: Policy
        self.retry: RetryPolicy
        self.gateway = 0
        self.is_closing = False
        self.is_choked: Callable[[], bool] = lambda: False
        """The system takes no bytes for the socket: a trouble that lasts."""
        self._has_quota = False
        self._errands: dict[str, list[Errand]] = {}
        self._told = self._reached = 0
        self._trouble: dict[str, int] = {}
        self._trouble_for_all = 0
        self._proofs: dict[str, list[int]] = {}
        """When an order was proved dead, or its name was given to another."""
        self._penalties: list[tuple[str, float, float]] = []
        self._not_created: list[str] = []

    # -- what happens ---------------------------------------------------------------------------------------------

    def opens(self, policy: Policy, retry: RetryPolicy, *, has_quota: bool) -> None:
        """A vendor of this kind."""
        self.policy, self.retry, self._has_quota = policy, retry, has_quota

    def opens_gateway(self) -> int:
        """A new gateway: it knows nothing of the troubles of the one before."""
        self.gateway += 1
        self.is_closing = False
        self.network.gateway = self.gateway
        self._trouble.clear()
        self._trouble_for_all = 0
        return self.gateway

    def trouble(self, name: str | None = None) -> None:
        """From now on not everything can be known about an order, or about all."""
        if name is None:
            self._trouble_for_all = self.vendor.tick()
        else:
            self._trouble[name] = self.vendor.tick()

    def replaces(self, name: str) -> None:
        """The name is another order's now."""
        self._proofs.setdefault(name, []).append(self.vendor.tick())

    def penalized(self, until: float) -> None:
        """Nothing gets a permit before."""
        now = self.network.loop.time()
        self._penalties += [("", now, until)]

    def open_errands(self, name: str) -> list[Errand]:
        """Who waits for an order now."""
        return [e for e in self._errands.get(name, ()) if e.is_open_at(self.vendor.moment)]

    def begins(self, errand: Errand, timeout: float | None, now: float, *, alone: bool) -> None:
        """A caller comes."""
        errand.timeout, errand.started, errand.is_alone = timeout, now, alone
        errand.gateway = self.gateway
        errand.cleared = max(self._proofs.get(errand.name, [0]))
        errand.begun = self.vendor.tick()
        self._errands.setdefault(errand.name, []).append(errand)

    def ends(self, errand: Errand) -> None:
        """A caller goes."""
        if errand.ended is None:
            errand.ended, errand.ended_at = self.vendor.tick(), self.network.loop.time()
            self.outcomes["its own cancellation"] += 1

    def hear(self, gateway: int, event: Event) -> None:
        """The telemetry hook."""
        if isinstance(event, OutcomeReached):
            self._reached += 1
        elif isinstance(event, Answered | Lost):
            packet = self.network.of_exchange.get((gateway, event.request))
            if packet is not None:
                self._ended(packet, turns=3)

    def _ended(self, packet: Packet, turns: int) -> None:
        """A request ended: whoever waits for it is told in one of the next turns of the loop."""
        if turns:
            self.network.loop.call_soon(self._ended, packet, turns - 1)
        else:
            packet.ended = self.vendor.tick()

    def _asked(self, packet: Packet) -> None:
        """A request has its permit: was it time for it, and what is in store for it?"""
        scope = self._scope(packet.call)
        for its, since, until in self._penalties:
            if its in ("", scope):
                in_time = packet.asked_at <= since or packet.asked_at >= until - ROUNDING
                assert in_time, "a scope is closed while the vendor wants it"
        for other in self.network.packets:
            if other.heard is not None and self._scope(other.call) == scope and other is not packet:
                self._judge_penalty(other, packet)
        fate = packet.fate
        is_slow = self.policy.has_socket and fate.travel + fate.back > 2.0
        if fate.mishap is not Mishap.NONE or fate.interrupt is not None or is_slow:
            for name in packet.names:
                self.trouble(name)
            if self.policy.has_socket:
                self.trouble()

    def _judge_penalty(self, refused: Packet, packet: Packet) -> None:
        if refused.fate.mishap in (Mishap.TOO_MANY_FOR, Mishap.BUSY):
            waited = packet.asked_at - refused.heard_at
            assert waited <= 0 or waited >= 3.0 - ROUNDING, "Retry-After is for all users"

    def _scope(self, call: str) -> str:
        return "all" if self.policy.shared else call

    # -- what callers are told ------------------------------------------------------------------------------------

    def told(self, errand: Errand, outcome: CancelOutcome) -> None:
        """A caller has its outcome: judge it."""
        assert errand.outcome is None, "told once"
        now = self.network.loop.time()
        errand.outcome, errand.ended, errand.ended_at = outcome, self.vendor.tick(), now
        self._told += 1
        self.outcomes[type(outcome).__name__] += 1
        claims = {
            "the order": outcome.order is errand.order,
            "what became of it": self._is_borne_out(errand, outcome),
            "who proved it": _is_evidence(outcome),
            "how far it got": self._is_wire(errand, outcome.wire),
            "how often it was tried": self._is_number(errand, outcome.attempts),
            "how long it took": self._is_time(errand, outcome.elapsed, now),
            "what could be known": self._is_exact(errand, outcome, now),
        }
        false = [claim for claim, is_so in claims.items() if not is_so]
        assert not false, f"wrong about {', '.join(false)}: {outcome}, {self._facts(errand)}"
        if outcome.closed:
            self._proofs.setdefault(errand.name, []).append(self.vendor.tick())

    def raised(self, errand: Errand, error: GatewayError) -> None:
        """A caller has an error: the account's, where nothing is in doubt."""
        errand.ended, errand.ended_at = self.vendor.tick(), self.network.loop.time()
        self.outcomes[type(error).__name__] += 1
        if isinstance(error, GatewayClosed):
            assert self.is_closing, error
            return
        assert isinstance(error, AuthenticationRejected), error
        rejected = [packet for packet in self._cancels(errand) if _rejects_the_account(packet)]
        assert rejected, "the vendor did not say so"
        assert not self._doubtful(errand), f"{error} instead of doubt: {self._facts(errand)}"

    def read(self, name: str, snapshot: OrderSnapshot | None, since: int) -> None:
        """A caller was told what an order is: it was so, after it asked."""
        self.outcomes["read"] += 1
        lives = self.vendor.lives_within(name, since, self.vendor.moment)
        if snapshot is None:
            assert None in lives or self._is_troubled(name, 0), "an order is known"
            return
        was = [life for life in lives if life is not None and life.state is snapshot.state]
        assert any(
            (life.executed, life.remaining) == (snapshot.executed, snapshot.remaining)
            for life in was
        ), f"{snapshot} was never so: {lives}"

    def could_not_read(self, name: str, error: GatewayError) -> None:
        """A caller was not told."""
        self.outcomes[type(error).__name__] += 1
        if isinstance(error, OrderNotFound):
            assert self.vendor.life(name) is None, "an order is known"

    def created(self, label: str) -> None:
        """A caller was told that an order was created."""
        self.outcomes["created"] += 1
        assert self.vendor.created.count(label) == 1

    def could_not_create(self, label: str, error: GatewayError) -> None:
        """A caller was told that it was not, or perhaps."""
        self.outcomes[type(error).__name__] += 1
        packets = [packet for packet in self.network.packets if packet.names == (label,)]
        if isinstance(error, OutcomeUnknown):
            assert packets, "nothing was sent"
            assert packets[-1].claimed is not None, "nothing was sent"
        else:
            self._not_created.append(label)

    # -- at the end -----------------------------------------------------------------------------------------------

    def check(self, reports: list[str]) -> None:
        """Nothing was reported to the event loop, and no judgment was lost in a callback."""
        for lie in self.lies:
            raise lie
        assert reports == []

    def is_closed(self, desk: Desk, limiter: RateLimiter) -> None:
        """A gateway was closed: all its tables are empty, and no permit is missing."""
        dispatcher = desk.dispatcher
        assert not dispatcher.lifetime._tasks
        assert not dispatcher.calls._exchanges
        assert not dispatcher.calls._admissions
        assert not len(dispatcher.cancels._deadlines)
        assert not len(dispatcher.cancels.creations)
        for batcher in (desk.cancels, desk.reads):
            assert (batcher.waiting, batcher.under_way) == (0, 0)
            tables = (batcher._under_way, batcher._batches, batcher._flushers)
            assert not any(tables), tables
        if desk.socket is not None:
            assert (desk.socket.in_flight, len(desk.socket._outbox)) == (0, 0)
        for scope, seen in limiter.statistics().items():
            calls = {call for call, its in desk.scopes.items() if its == scope}
            spent = [p for p in self.network.packets if p.call in calls and p.claimed is not None]
            assert (seen.in_hand, sum(seen.waiting.values())) == (0, 0)
            assert seen.granted == len(spent), f"{seen.granted} permits for {spent}"

    def judge_the_end(self) -> None:
        """What was dead stayed dead, what was not created was not created later, and no window was overdrawn."""
        for errands in self._errands.values():
            for errand in errands:
                if errand.outcome is not None:
                    self._judge_at_the_end(errand, errand.outcome)
        created = Counter(self.vendor.created)
        assert all(number == 1 for number in created.values()), "a create was repeated"
        assert not [label for label in self._not_created if created[label]]
        assert self._reached == self._told, "every outcome is told to the hook, once"
        for scope in {self._scope(packet.call) for packet in self.network.packets}:
            left = [
                packet.departed_at
                for packet in self.network.packets
                if packet.departed is not None and self._scope(packet.call) == scope
            ]
            self._judge_windows(left)

    def _judge_at_the_end(self, errand: Errand, outcome: CancelOutcome) -> None:
        if outcome.closed:
            assert self._is_borne_out(errand, outcome)
        if outcome.wire is Wire.NOT_SENT:
            left = [p for p in self._first_for(errand) if p.departed is not None]
            assert not left, f"what was not sent left later: {outcome}, {self._facts(errand)}"

    def _judge_windows(self, left: list[float]) -> None:
        limit = self.policy.limit
        for end in left:
            within = [at for at in left if end - limit.span + ROUNDING < at <= end]
            assert len(within) <= limit.requests, "never more than the limit in any window"

    # -- inside ---------------------------------------------------------------------------------------------------

    def _is_borne_out(self, errand: Errand, outcome: CancelOutcome) -> bool:
        life = self.vendor.life(errand.name, errand.ended)
        match outcome:
            case Canceled(executed=executed, remaining=remaining):
                is_dead = life is not None and life.state is OrderState.CANCELED
                return is_dead and _amounts(life, executed, remaining)
            case AlreadyClosed(state=state, executed=executed):
                told_how = state is not OrderState.CLOSED or not self.policy.tells_how
                is_so = life is not None and life.state.is_closed
                is_so = is_so and life is not None and state in (life.state, OrderState.CLOSED)
                return told_how and is_so and _amounts(life, executed, None)
            case NotFound():
                return life is None and not self._doubtful(errand)
            case Refused():
                return self._was_refused(errand) and not self._doubtful(errand)
            case TooEarly(retry_at=retry_at):
                created_at = errand.order.created_at
                assert created_at is not None, "its age is known"
                late = abs(retry_at - created_at - CANCELABLE_AFTER)
                in_time = late < timedelta(seconds=1) and errand.timeout is not None
                return in_time and not self._sent_for(errand) and not self._doubtful(errand)
            case NotSent():
                return not self._sent_for(errand) and not self._doubtful(errand)
            case Unknown():
                return not outcome.closed

    def _was_refused(self, errand: Errand) -> bool:
        """The caller heard a no of the vendor's, and the order was open when the vendor said it."""
        refused = [
            packet
            for packet in self._cancels(errand)
            if packet.heard is not None and errand.begun < packet.heard < self._end(errand)
            if (word := packet.word(errand.name)) is None or word.said is Said.REFUSED
        ]
        lives = [
            life
            for packet in refused
            for life in self.vendor.lives_within(
                errand.name, packet.asked, packet.heard or packet.asked
            )
        ]
        return any(life is not None and life.state.is_open for life in lives)

    def _is_wire(self, errand: Errand, wire: Wire) -> bool:
        end = self._end(errand)
        sent = self._sent_for(errand)
        cancels = self._cancels(errand)
        heard = [packet for packet in cancels if packet.heard is not None and packet.heard < end]
        match wire:
            case Wire.NOT_SENT:
                return not sent
            case Wire.ANSWERED:
                return bool(heard) and all(packet in heard for packet in sent)
            case Wire.MAYBE_SENT:
                # It left unanswered, or is about to leave with a request that others wait for; or the answer came in
                # the moment in which the caller went.
                before = [packet for packet in heard if packet.heard_at < errand.ended_at]
                return len(cancels) > len(before) or any(map(self.open_errands, self._errands))

    def _is_number(self, errand: Errand, attempts: int) -> bool:
        most = self.retry.attempts if self.policy.maximum == 1 else 100
        return len(self._sent_for(errand)) <= attempts <= most

    def _is_time(self, errand: Errand, elapsed: float, now: float) -> bool:
        took = now - errand.started
        return (
            abs(elapsed - took) < ROUNDING if errand.is_alone else 0 <= elapsed <= took + ROUNDING
        )

    def _is_exact(self, errand: Errand, outcome: CancelOutcome, now: float) -> bool:
        """Where nothing went wrong, everything is known."""
        in_time = errand.timeout is None or now - errand.started < errand.timeout - ROUNDING
        if self._has_quota or not in_time or self._is_troubled(errand.name, errand.cleared):
            return True
        if isinstance(outcome, TooEarly) or self._was_spared(errand, outcome):
            return True
        if self.vendor.life(errand.name) is None:
            return isinstance(outcome, NotFound)
        return outcome.closed

    def _was_spared(self, errand: Errand, outcome: CancelOutcome) -> bool:
        """One of several that was not sent, since the account was rejected meanwhile for another."""
        return isinstance(outcome, NotSent) and any(
            packet.gateway == errand.gateway and (packet.heard or 0) > errand.begun
            for packet in self.network.packets
            if _rejects_the_account(packet)
        )

    def _is_troubled(self, name: str, cleared: int) -> bool:
        return self.is_choked() or max(self._trouble.get(name, 0), self._trouble_for_all) > cleared

    def _cancels(self, errand: Errand) -> list[Packet]:
        """The cancels of the order by the same gateway."""
        return [
            packet
            for packet in self.network.packets
            if packet.call == "cancel"
            and packet.gateway == errand.gateway
            and errand.name in packet.names
        ]

    def _sent_for(self, errand: Errand) -> list[Packet]:
        """The cancels that certainly left for this caller: the first since it came, unless there was one under way for
        it to share, and all while nobody else waited. Callers whose order has a known age may wait first."""
        first = self._first_for(errand)
        return [
            packet
            for packet in self._cancels(errand)
            if packet.asked > errand.begun
            and packet.departed is not None
            and packet.claimed is not None
            and packet.departed < self._end(errand)
            and (packet in first or self._waited_alone(errand, packet.asked_at, packet.claimed))
        ]

    def _first_for(self, errand: Errand) -> list[Packet]:
        """The cancel that was the first to get a permit while this caller waited for one; none if that is not sure."""
        cancels = self._cancels(errand)
        earlier = [packet for packet in cancels if packet.asked < errand.begun]
        shares = [packet for packet in earlier if (packet.ended or errand.begun) >= errand.begun]
        if shares or errand.order.created_at is not None:
            return []
        return [p for p in cancels if errand.begun < p.asked < self._end(errand)][:1]

    def _waited_alone(self, errand: Errand, asked_at: float, moment: int) -> bool:
        """Whether nobody else wanted its order with a request of then. Whoever goes after a request of several took the
        order leaves it behind, and that may be a turn of the loop before the request is seen to be asked."""
        return not [
            other
            for other in self._errands[errand.name]
            if other is not errand
            and 0 < other.begun <= moment
            and (other.ended is None or other.ended > moment or other.ended_at >= asked_at)
        ]

    def _doubtful(self, errand: Errand) -> list[Packet]:
        """The cancels that may have been carried out although nobody was told, and nothing was proved since."""
        return [
            packet
            for packet in self._cancels(errand)
            if packet.departed is not None
            and packet.departed < self._end(errand)
            and not self._says(packet, errand.name, self._end(errand))
            and not self._is_proved_since(packet.departed, errand)
            and (
                (packet.ended is not None and packet.ended < self._end(errand))
                or self._was_deserted(packet, errand)
            )
        ]

    def _says(self, packet: Packet, name: str, moment: int) -> bool:
        """The client heard what a request did about an order."""
        heard = [m for m in (packet.heard, packet.heard_late) if m is not None and m < moment]
        if not heard or packet.reply is None:
            return False
        return packet.word(name) is not None or packet.reply.status in UNDONE

    def _is_proved_since(self, moment: int, errand: Errand) -> bool:
        """The order was proved dead to somebody."""
        told = [proof for proof in self._proofs.get(errand.name, ()) if proof > moment]
        heard = [
            packet
            for packet in self._cancels(errand)
            if (word := packet.word(errand.name)) is not None
            and word.said is Said.CANCELED
            and moment < (packet.heard or packet.heard_late or 0) < self._end(errand)
        ]
        return bool(told or heard)

    def _was_deserted(self, packet: Packet, errand: Errand) -> bool:
        """At some moment since it left, and before this caller came, nobody waited for the order."""
        moment = packet.departed or 0
        while moment < errand.begun:
            others = [
                e for e in self._errands[errand.name] if e is not errand and e.is_open_at(moment)
            ]
            if not others:
                return True
            moment = max(errand.begun if e.ended is None else e.ended for e in others)
        return False

    def _end(self, errand: Errand) -> int:
        return self.vendor.moment if errand.ended is None else errand.ended

    def _facts(self, errand: Errand) -> str:
        """All that is known, for whoever has to understand a lie."""
        packets = [
            (
                p,
                f"asked {p.asked} departed {p.departed} processed {p.processed} heard {p.heard}/{p.heard_late}",
            )
            for p in self.network.packets
            if errand.name in p.names
        ]
        others = [(e.begun, e.ended) for e in self._errands[errand.name]]
        lives = self.vendor.lives.get(errand.name)
        return f"waited {errand.begun} to {errand.ended}; {lives}; {packets}; callers {others}"


def _amounts(life: Life | None, executed: object, remaining: object) -> bool:
    if life is None:
        return False
    return executed in (None, life.executed) and remaining in (None, life.remaining)


def _rejects_the_account(packet: Packet) -> bool:
    return (
        packet.heard is not None and packet.reply is not None and packet.reply.status in (401, 498)
    )


def _is_evidence(outcome: CancelOutcome) -> bool:
    proved = not isinstance(outcome, NotSent | Unknown | TooEarly)
    return (outcome.evidence is not Evidence.NONE) == proved
