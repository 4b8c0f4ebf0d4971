"""CPU to encode and sign one order.cancel, against json + hmac.new: the same bytes from both."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import statistics
import time
from typing import TYPE_CHECKING

from brokers.ripio.auth import Signer, business_json
from brokers.ripio.clock import VendorClock
from tronsave_async import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN, KEY = "t" * 64, "k" * 64
NOW = 1634567890000
ORDERS = [f"7155ED34-9EC4-4733-8B32-{number:012X}" for number in range(10_000)]
ROUNDS = 25
GOAL = 3.5
"""Microseconds."""

SIGNER = Signer(Secret(TOKEN), Secret(KEY))
CLOCK = VendorClock()


def spliced(order: str) -> bytes:
    """Build a frame with the SDK's signer."""
    return SIGNER.frame("req-003", "order.cancel", business_json({"id": order}), NOW)


def with_clock(order: str) -> bytes:
    """Build a frame as a gateway does: the timestamp is asked for too."""
    business = business_json({"id": order})
    return SIGNER.frame("req-003", "order.cancel", business, CLOCK.timestamp(business))


def plain(order: str) -> bytes:
    """Build the same frame as the vendor's examples do."""
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


def cost(build: Callable[[str], bytes]) -> float:
    """Return microseconds of CPU for one frame."""
    started = time.process_time()
    for order in ORDERS:
        build(order)
    return (time.process_time() - started) / len(ORDERS) * 1e6


def median(values: list[float]) -> str:
    """Return the median with its quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:7.2f} us  (quartiles {low:.2f} .. {high:.2f})"


def main() -> None:
    """Interleave the arms and print them."""
    assert spliced(ORDERS[0]) == plain(ORDERS[0])
    arms: dict[str, tuple[Callable[[str], bytes], list[float]]] = {
        "encode and sign": (spliced, []),
        "with the vendor's clock": (with_clock, []),
        "json + hmac.new": (plain, []),
    }
    for _ in range(ROUNDS):
        for build, costs in arms.values():
            costs.append(cost(build))
    floor = statistics.median(arms["json + hmac.new"][1])
    print(f"{'arm':<26} CPU per order.cancel; the goal for the first is {GOAL} us")
    for name, (_, costs) in arms.items():
        print(f"{name:<26} {median(costs)}   ratio {statistics.median(costs) / floor:.2f}")


if __name__ == "__main__":
    main()
