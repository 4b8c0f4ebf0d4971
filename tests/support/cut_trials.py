"""Calls over connections that are cut, judged by what the vendor has recorded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contract.judge import lie
from support.canary import sightings
from support.cut_cases import SETTLING, Act, After, Case
from tronsave_async import AuthenticationRejected, GatewayError, OutcomeUnknown, Refused, Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support.cut_scene import Scene
    from support.cutter import Cut, Link
    from tronsave_async import CancelOutcome, OrderGateway

__all__ = ["CREATE", "Creation", "Trial"]

PATIENCE: Final = 300.0
"""Seconds for a call that is to reach its end: four attempts and four read-backs of 15 seconds each, and some."""
IMPATIENCE: Final = 20.0
"""Seconds for a call over a line that stays broken: they end in the second attempt, where that hangs."""
TOLERANCE: Final = 0.001
"""Seconds by which a call may miss its deadline."""
CLOSING: Final = 1.5
"""Seconds that closing a gateway may take: a second for a WebSocket whose peer does not answer, and some."""


class Progress(NamedTuple):
    """How far requests have come.

    Attributes:
        arrived: how many cancels have arrived, by order.
        left: how many bytes of requests have left the client.
    """

    arrived: dict[str, int]
    left: int


@dataclass
class Said:
    """What a caller was told.

    Attributes:
        outcome: the outcome.
        since: what was when the call began.
        until: what was when the next call began; None: what is now.
    """

    outcome: CancelOutcome
    since: Progress
    until: Progress | None = None


class Trial:
    """One order, or several of one call, canceled over a connection that is cut.

    Args:
        scene: the vendor.
        act: which exchange is cut.
        case: how, and what happens meanwhile.
        number: orders of the call.

    Attributes:
        was_cut: the cut has happened.
    """

    def __init__(self, scene: Scene, act: Act, case: Case, number: int = 1) -> None:
        self.was_cut = False
        self._scene = scene
        self._act = act
        self._case = case
        self._orders = [scene.stage.place() for _ in range(number)]
        self._said: list[Said] = []

    async def run(self) -> list[str]:
        """Run it, and judge it; return what the call with the cut ended in."""
        scene, case = self._scene, self._case
        for cutter in scene.cutters:
            cutter.when_cut = self._when_cut
        async with scene.gateway() as gateway:
            await self._act.prepare(scene, gateway)
            case.life.before(scene, self._orders[0])
            if case.after is After.SAME:
                self._act.cutter(scene).always(case.again)
            await self._act.arm(scene, case.cut)
            passes = case.after is After.PASS
            ends = await self._call(gateway, PATIENCE if passes else IMPATIENCE)
            if passes and case.life.decides and self._said:
                self._check("what could be known is known", self._knows)
            if not case.goes:
                await self._once_more(gateway)
            closing = asyncio.get_running_loop().time()
        closed = asyncio.get_running_loop().time()
        self._check("the gateway closes soon", closed - closing <= CLOSING)
        await asyncio.sleep(SETTLING)
        self._check("the client has gone", scene.clients_left)
        await scene.heal()
        await asyncio.sleep(SETTLING)
        self._judge()
        scene.forget()
        return ends

    async def _once_more(self, gateway: OrderGateway) -> None:
        """Mend the line; what was held on it arrives. If the order is not proved dead, cancel it again."""
        await self._scene.heal()
        await asyncio.sleep(SETTLING)
        self._judge()
        if not self._knows:
            await self._call(gateway, PATIENCE)
            self._check("in the end it is known", self._knows)

    @property
    def _knows(self) -> bool:
        """Whether the latest outcomes prove the orders dead."""
        latest = self._said[-len(self._orders) :]
        return bool(latest) and all(said.outcome.closed for said in latest)

    async def _call(self, gateway: OrderGateway, timeout: float) -> list[str]:
        """Cancel, and judge what is said; return what it ended in."""
        scene, loop = self._scene, asyncio.get_running_loop()
        since = self._progress()
        # What lived then may be killed by this call.
        self._said = [said for said in self._said if not isinstance(said.outcome, Refused)]
        for said in self._said:
            said.until = since
        scene.settled.clear()
        began = loop.time()
        try:
            outcomes = await self._cancel(gateway, timeout)
        except AuthenticationRejected:
            self._check("only the clock lets the account be rejected", self._act is Act.SERVER_TIME)
            return ["AuthenticationRejected"]
        finally:
            self._check("one deadline", loop.time() - began <= timeout + TOLERANCE)
        self._check("one outcome each", [o.order.id for o in outcomes] == self._orders)
        self._check("told once each", scene.settled == dict.fromkeys(self._orders, 1))
        for outcome in outcomes:
            self._check("it knows how long it took", outcome.elapsed <= timeout + TOLERANCE)
            sightings.value(outcome)
            self._said.append(Said(outcome, since))
        self._judge()
        return [type(outcome).__name__ for outcome in outcomes]

    async def _cancel(self, gateway: OrderGateway, timeout: float) -> list[CancelOutcome]:
        if len(self._orders) == 1:
            return [await gateway.cancel(self._orders[0], timeout=timeout)]
        return await gateway.cancel_many(self._orders, timeout=timeout)

    def _judge(self) -> None:
        """Judge everything that was said, by what the vendor knows now."""
        now = self._progress()
        for said in self._said:
            order, until = said.outcome.order.id or "", said.until or now
            arrived = until.arrived[order] - said.since.arrived[order]
            found = lie(self._scene.stage, said.outcome, arrived)
            assert found is None, f"{self._case}: {found}"
            if said.outcome.wire is Wire.NOT_SENT:
                self._check("not a byte has left", until.left == said.since.left)

    def _progress(self) -> Progress:
        arrived = {order: len(self._scene.stage.cancels(order)) for order in self._orders}
        return Progress(arrived, sum(self._scene.requests_left))

    def _when_cut(self, link: Link, cut: Cut) -> None:
        """The first cut happens."""
        if self.was_cut:
            return
        self.was_cut = True
        self._case.life.at_cut(self._scene, self._orders[0])
        if self._case.after is After.REFUSED:
            for cutter in self._scene.cutters:
                cutter.refuse()

    def _check(self, claim: str, is_so: bool) -> None:
        said = "\n".join(map(repr, self._said))
        assert is_so, f"{self._case}: it is not so that {claim}\n{said}"


async def create_at_ripio(gateway: Any, name: str | None, timeout: float) -> list[str]:
    """Create one order."""
    order = await gateway.create(
        pair="BTC_BRL",
        side="buy",
        type="limit",
        amount=Decimal("0.001"),
        price=Decimal(100_000),
        external_id=name,
        timeout=timeout,
    )
    return [order.id]


async def create_at_sms4sats(gateway: Any, name: str | None, timeout: float) -> list[str]:
    """Create one prepaid order: what is not prepaid costs nothing, and may be created again."""
    order = await gateway.createorder(country=187, service="vk", immediate=True, timeout=timeout)
    return [order.order_id]


async def create_at_tronsave(gateway: Any, name: str | None, timeout: float) -> list[str]:
    """Create two orders with one request."""
    ids: list[str] = await gateway.create(
        receivers=["TQk2eKHE9ZfCdVmyPnh8DfRMUF0123456", "TQk2eKHE9ZfCdVmyPnh8DfRMUF0123457"],
        amount=65_000,
        max_price_accept=70,
        duration_sec=900,
        deadline=300,
        timeout=timeout,
    )
    return ids


CREATE: Final[dict[str, Callable[[Any, str | None, float], Awaitable[list[str]]]]] = {
    "ripio": create_at_ripio,
    "sms4sats": create_at_sms4sats,
    "tronsave": create_at_tronsave,
}


@dataclass
class Creation:
    """A creation over a connection that is cut.

    Attributes:
        scene: the vendor.
        case: where and how.
        name: the external id, for those who know such.
        was_cut: the cut has happened.
    """

    scene: Scene
    case: Case
    name: str | None
    was_cut: bool = False

    async def run(self) -> str:
        """Run it, and judge it; return what it ended in."""
        scene, case = self.scene, self.case
        sandbox: Any = scene.stage.sandbox
        before, asked = set(sandbox.orders), len(sandbox.requests_to("create"))
        scene.cutter.when_cut = self._when_cut
        if case.after is After.SAME:
            scene.cutter.always(case.again)
        scene.cutter.next(case.cut)
        patience = PATIENCE if case.after is After.PASS else IMPATIENCE
        ids: set[str] | None = None
        error: GatewayError | None = None
        loop = asyncio.get_running_loop()
        async with scene.gateway() as gateway:
            began = loop.time()
            try:
                ids = set(await CREATE[scene.venue](gateway, self.name, patience))
            except GatewayError as failure:
                sightings.error(failure)
                error = failure
            self._check("one deadline", loop.time() - began <= patience + TOLERANCE)
        known = set(sandbox.orders) - before
        await scene.heal()
        await asyncio.sleep(SETTLING)
        created = set(sandbox.orders) - before
        spent = sum(requests > 0 for requests in scene.requests_left)
        scene.forget()
        self._check("it was sent once", len(sandbox.requests_to("create")) <= asked + 1)
        self._check("it has left once", spent <= 1)
        if ids is not None:
            self._check("what was told was created", ids == created)
            return "created"
        assert error is not None
        if not isinstance(error, OutcomeUnknown):
            self._check(f"nothing was created: {error!r}", not created)
            self._check(f"nothing has left: {error!r}", spent == 0)
        elif self.name is not None and case.after is After.PASS:
            self._check("what could be found was found", not known)
        return type(error).__name__

    def _when_cut(self, link: Link, cut: Cut) -> None:
        self.was_cut = True
        if self.case.after is After.REFUSED:
            for cutter in self.scene.cutters:
                cutter.refuse()

    def _check(self, claim: str, is_so: bool) -> None:
        assert is_so, f"{self.case}: it is not so that {claim}"
