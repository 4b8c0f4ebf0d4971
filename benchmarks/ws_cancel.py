"""CPU per cancel over one WebSocket, sequential and with many in flight, against a hand-written client.

The ideal has the same sans-I/O core under an `asyncio.Protocol`, the same signer and the same decoder, one write per
tick, a future for each request, and nothing else. The server runs in another process.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from websockets.asyncio.server import serve
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.uri import parse_uri

from brokers.ripio import RipioGateway, wire
from brokers.ripio.auth import Signer, business_json
from tronsave_async import RateLimit, RateLimiter, Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from websockets.asyncio.server import ServerConnection

ORDER = "7155ED34-9EC4-4733-8B32-1E4319CB662F"
RESULT = (
    '{"id":"7155ED34-9EC4-4733-8B32-1E4319CB662F","create_date":"2024-03-27T13:27:19.853Z",'
    '"update_date":"2024-03-27T13:30:45.123Z","executed_amount":0,"remaining_amount":0.001,"remaining_value":100,'
    '"requested_amount":0.001,"requested_value":100,"total_value":100,"status":"canceled","type":"limit",'
    '"price":100000,"pair":"BTC_BRL","external_id":"my-order-123"}'
)
REQUEST_ID = re.compile('"id":"([^"]*)"')
ROUNDS = 24


async def answer(connection: ServerConnection) -> None:
    """Answer every request with a success."""
    async for message in connection:
        assert isinstance(message, str)
        match = REQUEST_ID.search(message)
        assert match is not None
        order = message.rpartition('"id":"')[2].partition('"')[0]
        result = RESULT.replace(ORDER, order)
        await connection.send('{"id":"' + match[1] + '","status":200,"result":' + result + "}")


async def run_server() -> None:
    """Print the port and serve until standard input ends."""
    async with serve(answer, "127.0.0.1", 0, compression=None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class Ideal(asyncio.Protocol):
    """The least that sends a signed cancel and awaits its reply."""

    def __init__(self, url: str) -> None:
        self.core = ClientProtocol(parse_uri(url), max_size=1 << 20)
        self.signer = Signer(Secret("token"), Secret("secret"))
        self.pending: dict[str, asyncio.Future[wire.Frame]] = {}
        self.numbers = itertools.count(1)
        self.loop = asyncio.get_running_loop()
        self.opened = self.loop.create_future()
        self.corked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.core.send_request(self.core.connect())
        self.write()

    def data_received(self, data: bytes) -> None:
        """Settle what is answered."""
        self.core.receive_data(data)
        for event in self.core.events_received():
            if isinstance(event, Frame):
                read = wire.read_message(event.data)
                assert isinstance(read, tuple)
                self.pending.pop(read[0]).set_result(read[1])
            else:
                self.opened.set_result(None)

    def write(self) -> None:
        """Write once per tick."""
        self.corked = False
        self.transport.write(b"".join(self.core.data_to_send()))

    async def cancel(self, order: str) -> wire.Frame:
        """Cancel one order."""
        key = str(next(self.numbers))
        future: asyncio.Future[wire.Frame] = self.loop.create_future()
        self.pending[key] = future
        business = business_json({"id": order})
        stamp = int(time.time() * 1000)
        self.core.send_text(self.signer.frame(key, "order.cancel", business, stamp))
        if not self.corked:
            self.corked = True
            self.loop.call_soon(self.write)
        return await future


async def block(cancel: Callable[[str], Awaitable[object]], at_once: int, total: int) -> float:
    """Return microseconds of CPU per cancel in one block."""

    async def worker(orders: list[str]) -> None:
        for order in orders:
            await cancel(order)

    shares = [
        [f"{n:08X}-0000-0000-0000-{k:012X}" for k in range(total // at_once)]
        for n in range(at_once)
    ]
    started = time.process_time()
    if at_once == 1:
        await worker(shares[0])
    else:
        await asyncio.gather(*map(worker, shares))
    return (time.process_time() - started) / total * 1e6


async def compare(port: int) -> None:
    """Alternate both arms, and print their medians and ratios."""
    url = f"ws://127.0.0.1:{port}/"
    loop = asyncio.get_running_loop()
    _, ideal = await loop.create_connection(lambda: Ideal(url), "127.0.0.1", port)
    await ideal.opened
    gateway = RipioGateway(
        "token",
        "secret",
        ws_url=url,
        rest_url=f"http://127.0.0.1:{port}/trade",
        limiter=RateLimiter(),
        rate_limit=RateLimit(10_000_000, per=1.0, margin=0.0),
    )
    async with gateway:
        for at_once, total in ((1, 200), (100, 1000), (1000, 2000)):
            arms: dict[str, list[float]] = {"ideal": [], "gateway.cancel": []}
            for _ in range(ROUNDS):
                arms["ideal"].append(await block(ideal.cancel, at_once, total))
                arms["gateway.cancel"].append(await block(gateway.cancel, at_once, total))
            ratios = [b / a for a, b in zip(*arms.values(), strict=True)][2:]
            shown = "  ".join(
                f"{name} {statistics.median(v[2:]):6.1f} us" for name, v in arms.items()
            )
            print(f"{at_once:>5} in flight: {shown}  ratio {statistics.median(ratios):.2f}")
    ideal.transport.close()


def main() -> None:
    """Start the server in another process, and compare."""
    if "--serve" in sys.argv:
        asyncio.run(run_server())
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
