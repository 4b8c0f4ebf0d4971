"""Encoding and signing one ``order.cancel``: the same bytes from ours and from json + hmac.

Ours is the SDK's signer; another line adds the vendor's clock, which a gateway asks for the time. The ideal splices the
bytes and copies two keyed hashes, and knows nothing but this one message. The peers sign Binance's cancel,
which has a symbol more, an uuid for its id in one of them, and a hexadecimal signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import time
from binascii import b2a_base64
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module

import measure
import peers
from measure import Arm, Goal, Kind, Options
from report import Report, finish

from brokers.ripio.auth import Signer, business_json
from brokers.ripio.clock import VendorClock
from tronsave_async import Secret

TOKEN, KEY = "t" * 64, "k" * 64
NOW = 1634567890000
COST = Goal(3.5, "us")
Build = Callable[[str], object]


def named(order: int) -> str:
    """An order's id."""
    return f"7155ED34-9EC4-4733-8B32-{order:012X}"


def signer(_: AsyncExitStack) -> Build:
    """The SDK's."""
    sign = Signer(Secret(TOKEN), Secret(KEY))
    return lambda order: sign.frame("req-003", "order.cancel", business_json({"id": order}), NOW)


def with_clock(_: AsyncExitStack) -> Build:
    """The SDK's, as a gateway does: the timestamp is asked for too."""
    sign, clock = Signer(Secret(TOKEN), Secret(KEY)), VendorClock()

    def build(order: str) -> bytes:
        business = business_json({"id": order})
        return sign.frame("req-003", "order.cancel", business, clock.timestamp(business))

    return build


def by_hand(_: AsyncExitStack) -> Build:
    """Spliced bytes and two keyed hashes."""
    key = KEY.encode()
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))
    token = TOKEN.encode()

    def build(order: str) -> bytes:
        business = b'{"id":"%b"}' % order.encode()
        first, second = inner.copy(), outer.copy()
        first.update(b"%d%b" % (NOW, business))
        second.update(first.digest())
        return (
            b'{"id":"req-003","method":"order.cancel","params":%b,"api_token":"%b","timestamp":%d,"signature":"%b"}}'
            % (business[:-1], token, NOW, b2a_base64(second.digest(), newline=False))
        )

    return build


def as_documented(_: AsyncExitStack) -> Build:
    """json and hmac, as the vendor's examples do."""

    def build(order: str) -> bytes:
        params: dict[str, str | int] = {"id": order}
        text = str(NOW) + json.dumps(params, separators=(",", ":"), ensure_ascii=False)
        digest = hmac.new(KEY.encode(), text.encode(), hashlib.sha256).digest()
        params |= {
            "api_token": TOKEN,
            "timestamp": NOW,
            "signature": base64.b64encode(digest).decode(),
        }
        frame = {"id": "req-003", "method": "order.cancel", "params": params}
        return json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode()

    return build


def python_binance(stack: AsyncExitStack) -> Build:
    """python-binance's signing of a socket request, and its encoder."""
    client = import_module("binance").AsyncClient(TOKEN, KEY)
    stack.push_async_callback(client.close_connection)
    sign, encode = client._generate_ws_api_signature, client.ws_api.json_dumps

    def build(order: str) -> object:
        params = client._sign_ws_params({"symbol": "BTCUSDT", "orderId": order}, sign)
        return encode({"id": client.uuid22(), "method": "order.cancel", "params": params})

    return build


def ccxt(stack: AsyncExitStack) -> Build:
    """ccxt's signing of a socket request, and its encoder."""
    client = import_module("ccxt.pro").binance({"apiKey": TOKEN, "secret": KEY})
    stack.push_async_callback(client.close)
    numbers = itertools.count(1)

    def build(order: str) -> object:
        params = client.sign_params({"symbol": "BTCUSDT", "orderId": order})
        return client.json({"id": str(next(numbers)), "method": "order.cancel", "params": params})

    return build


BUILDERS: tuple[tuple[str, Kind, str, Callable[[AsyncExitStack], Build]], ...] = (
    ("tronsave-async", Kind.OURS, "the time is given", signer),
    ("tronsave-async, with clock", Kind.OURS_TOO, "the vendor's time is asked for", with_clock),
    ("ideal", Kind.IDEAL, "spliced bytes, keyed hashes", by_hand),
    ("json + hmac", Kind.FLOOR, "as the vendor documents it", as_documented),
    ("python-binance", Kind.NEAREST, "Binance's cancel", python_binance),
    ("ccxt", Kind.NEAREST, "Binance's cancel", ccxt),
)


async def block(build: Build, count: int) -> float:
    """CPU per message."""
    orders = [named(order) for order in range(count)]
    started = time.process_time()
    for order in orders:
        build(order)
    return (time.process_time() - started) / count * 1e6


async def compare(given: Options, report: Report) -> None:
    """All builders; those that build the same message build the same bytes."""
    async with AsyncExitStack() as stack:
        same = {make(stack)(named(1)) for make in (signer, by_hand, as_documented)}
        assert len(same) == 1, same
        arms = []
        for name, kind, note, make in BUILDERS:
            try:
                build = make(stack)
                build(named(1))
            except Exception as error:  # noqa: BLE001 - whatever a foreign library raises is the reason
                report.remarks.append(f"{name}: not measured: {peers.reason(error)}")
                continue
            size = given.size(1_000 if kind is Kind.NEAREST else 5_000)
            arms.append(Arm(name, kind, partial(block, build, size), note))
        measure.settle_heap()
        measured = await measure.alternate(arms, given.rounds(20))
    report.add("one order.cancel", "us", arms, measured)
    report.judge_value(
        "Signing and encoding one order.cancel",
        measured["tronsave-async"],
        COST,
        ideal=f"{measure.number(measured['ideal'].median)} us",
        peer=", ".join(
            f"{measure.number(measured[arm.name].median)} us ({arm.name})"
            for arm in arms
            if arm.kind is Kind.NEAREST
        ),
    )


async def profile(given: Options, report: Report) -> None:
    """Write where the time goes."""
    assert given.profile is not None
    async with AsyncExitStack() as stack:
        work = block(with_clock(stack), given.size(50_000))
        report.profiles.append(await measure.profiled(given.profile, "signing", work))


def main(argv: list[str] | None = None) -> None:
    """Measure."""
    given = measure.options(__doc__, argv)
    started = time.perf_counter()
    report = Report("signing", "Signing and encoding", __doc__ or "")
    measure.run_on("asyncio", (profile if given.profile else compare)(given, report))
    finish(report, given, time.perf_counter() - started)


if __name__ == "__main__":
    main()
