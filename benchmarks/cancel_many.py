"""CPU and requests per order of `cancel_many` for N = 1 ... 10,000. The network is replaced by a ready reply."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from brokers.tronsave import TronSaveGateway
from tronsave_async import RateLimit, RateLimiter
from tronsave_async.http import HttpReply, HttpTransport

MAXIMUM = 100
ROUNDS = 9


class ReadyVendor:
    """Answers every cancel at once, without a socket."""

    def __init__(self) -> None:
        self.requests = 0

    async def send(
        self, _transport: HttpTransport, *_: Any, departing: Any, body: bytes, **__: Any
    ) -> HttpReply:
        """Say that every order was canceled."""
        departing()
        self.requests += 1
        ids = msgspec.json.decode(body)["order_ids"]
        items = [{"order_id": i, "is_success": True, "fail_reason": None} for i in ids]
        reply = msgspec.json.encode({"cancel_results": items})
        return HttpReply(200, reply, CIMultiDictProxy(CIMultiDict()))


async def measure(count: int) -> tuple[float, int]:
    """Return microseconds of CPU per order, and the requests it took."""
    vendor = ReadyVendor()
    gateway = TronSaveGateway(
        "key",
        limiter=RateLimiter(),
        rate_limit=RateLimit(1_000_000, per=1.0, margin=0.0),
        max_ids=MAXIMUM,
    )
    ids = [f"673c17a3129f1881{index:08x}" for index in range(count)]
    original, HttpTransport.send = HttpTransport.send, vendor.send.__get__(vendor)  # type: ignore[method-assign]
    try:
        started = time.process_time()
        outcomes = await gateway.cancel_many(ids)
        spent = time.process_time() - started
    finally:
        HttpTransport.send = original  # type: ignore[method-assign]
        await gateway.aclose()
    assert all(outcome.closed for outcome in outcomes)
    return spent / count * 1e6, vendor.requests


async def main() -> None:
    """Print a line for each N."""
    print(f"{'N':>6} {'requests':>9} {'CPU per order':>14}   (maximum {MAXIMUM} per request)")
    for count in (1, 10, 100, 1_000, 10_000):
        runs = [await measure(count) for _ in range(ROUNDS)]
        spent = statistics.median(run[0] for run in runs)
        print(f"{count:>6} {runs[0][1]:>9} {spent:>11.2f} us")


if __name__ == "__main__":
    asyncio.run(main())
