"""CPU per sequential cancel over real sockets, against raw aiohttp + msgspec, on a server in another process."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from brokers.tronsave import TronSaveGateway
from brokers.tronsave.wire import CancelReply, OrderIds
from tronsave_async import RateLimit, RateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ORDER = "673c17a3129f1881382e98e3"
BODY = (
    b'{"cancel_results":[{"order_id":"673c17a3129f1881382e98e3",'
    b'"is_success":true,"fail_reason":null}]}'
)
REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: keep-alive\r\n\r\n" % len(BODY)
) + BODY
BLOCKS, BLOCK = 40, 200


class Server(asyncio.Protocol):
    """Answers whatever ends like a cancel's body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Reply to each whole request."""
        self.received += data
        if self.received.endswith(b"]}"):
            self.received = b""
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.write(REPLY)


async def serve() -> None:
    """Print the port and serve until standard input ends."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def block(cancel: Callable[[], Awaitable[object]]) -> float:
    """Return microseconds of CPU per cancel in one block."""
    started = time.process_time()
    for _ in range(BLOCK):
        await cancel()
    return (time.process_time() - started) / BLOCK * 1e6


async def compare(port: int) -> None:
    """Alternate both arms, and print their medians and ratio."""
    url = f"http://127.0.0.1:{port}"
    decode = msgspec.json.Decoder(CancelReply).decode
    gateway = TronSaveGateway(
        "key",
        base_url=url,
        limiter=RateLimiter(),
        rate_limit=RateLimit(1_000_000, per=1.0, margin=0.0),
    )
    async with aiohttp.ClientSession(headers={"apikey": "key"}) as session, gateway:

        async def raw() -> object:
            body = msgspec.json.encode(OrderIds([ORDER]))
            async with session.post(f"{url}/v0/fast-charge-order-cancel", data=body) as response:
                return decode(await response.read())

        async def ours() -> object:
            return await gateway.cancel(ORDER, timeout=10)

        arms: dict[str, list[float]] = {"raw aiohttp + msgspec": [], "gateway.cancel": []}
        for _ in range(BLOCKS):
            arms["raw aiohttp + msgspec"].append(await block(raw))
            arms["gateway.cancel"].append(await block(ours))
    for name, values in arms.items():
        low, middle, high = statistics.quantiles(values[2:], n=4)
        print(f"{name:<24} {middle:7.1f} us  (quartiles {low:.1f} .. {high:.1f})")
    ratios = [b / a for a, b in zip(*arms.values(), strict=True)][2:]
    print(f"{'ratio':<24} {statistics.median(ratios):7.2f}")


def main() -> None:
    """Start the server in another process, and compare."""
    if "--serve" in sys.argv:
        asyncio.run(serve())
        return
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        asyncio.run(compare(int(server.stdout.readline())))
        server.stdin.close()


if __name__ == "__main__":
    main()
