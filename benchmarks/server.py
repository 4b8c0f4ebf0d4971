"""The local server: the right bytes for every client that is measured, as cheaply as Python can send them.

It answers cancels over WebSocket and HTTP as their vendors do, on one port, in a process of its own. What it reads, it
reads properly (frames are unmasked, requests decoded and checked): a client that sends nonsense is not answered, and
its benchmark fails. Everything that arrived in one read is answered in one write.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from base64 import b64encode
from hashlib import sha1
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
KEY = re.compile(rb"\r\nsec-websocket-key: *(\S+)", re.IGNORECASE)
TRONSAVE_ID = re.compile(rb'"([0-9a-f]{24})"')
BINANCE_ID = re.compile(rb"orderId=(\d+)")


class Params(msgspec.Struct):
    """The parameters of a cancel: Ripio's, or Binance's."""

    signature: str
    timestamp: int
    id: str | None = None
    orderId: int | str | None = None


class Request(msgspec.Struct):
    """A request over a socket."""

    id: str
    method: str
    params: Params


decode = msgspec.json.Decoder(Request).decode

RIPIO_ORDER = (
    b'{"id":"%b","create_date":"2024-03-27T13:27:19.853Z",'
    b'"update_date":"2024-03-27T13:30:45.123Z","executed_amount":0,"remaining_amount":0.001,"remaining_value":100,'
    b'"requested_amount":0.001,"requested_value":100,"total_value":100,"status":"canceled","type":"limit",'
    b'"price":100000,"pair":"BTC_BRL","external_id":"my-order-123"}'
)
BINANCE_ORDER = (
    b'{"symbol":"BTCUSDT","origClientOrderId":"4d96324ff9d44481926157","orderId":%b,"orderListId":-1,'
    b'"clientOrderId":"91fe37ce9e69c90d6358c0","transactTime":1684804350068,"price":"23416.10000000",'
    b'"origQty":"0.00847000","executedQty":"0.00001000","cummulativeQuoteQty":"0.23416100","status":"CANCELED",'
    b'"timeInForce":"GTC","type":"LIMIT","side":"SELL","selfTradePreventionMode":"NONE"}'
)
BOUGHT_ORDER = (
    b'{"error":false,"message":"Success","data":{"id":"%b","requester":"TLoE6dE6EaEfeH6pbWHrtcTfMLtk111111",'
    b'"receiver":"TQk2eKHE9ZfCdVmyPnh8DfRMUF1111111","resourceAmount":65000,"resourceType":"ENERGY",'
    b'"remainAmount":65000,"price":69,"durationSec":900,"orderType":"NORMAL","allowPartialFill":false,'
    b'"payoutAmount":4485000,"fulfilledPercent":0,"delegates":[],"status":"Pending"}}'
)
UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)
HTTP_REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b"
CANCELED = b'{"order_id":"%b","is_success":true,"fail_reason":null}'


class Lost(Exception):
    """The request is processed, and its reply gets lost: the connection is closed."""


class Weather:
    """What the server was told to do with replies to cancels, and how many cancels it processed."""

    drops = False
    cancels = 0


def weather(path: bytes) -> int:
    """Lose replies from now on, or not; the cancels processed since the last change."""
    processed = Weather.cancels
    if path != b"/weather/now":
        Weather.drops, Weather.cancels = path == b"/weather/bad", 0
    return processed


def count_cancel() -> None:
    """A cancel is processed."""
    Weather.cancels += 1
    if Weather.drops:
        raise Lost


def socket_reply(message: bytes) -> bytes:
    """Answer a signed request of either vendor; both name it alike. What is created here, is canceled."""
    request = decode(message)
    params = request.params
    if not params.signature or not params.timestamp:
        raise ValueError(message)
    if request.method == "order.cancel":
        count_cancel()
    elif request.method != "order.create":
        raise ValueError(message)
    if params.id is not None or request.method == "order.create":
        result = RIPIO_ORDER % (params.id or "7155ED34-9EC4-4733-8B32-1E4319CB662F").encode()
    elif params.orderId is not None:
        result = BINANCE_ORDER % str(params.orderId).encode()
    else:
        raise ValueError(message)
    return b'{"id":"%b","status":200,"result":%b}' % (request.id.encode(), result)


def http_body(method: bytes, path: bytes, body: bytes) -> bytes:
    """Answer an HTTP request with its vendor's JSON."""
    bare, _, query = path.partition(b"?")
    if bare.startswith(b"/weather/"):
        return b"%d" % weather(bare)
    if b"cancel" in bare or method == b"DELETE":
        count_cancel()
    if bare == b"/v0/fast-charge-order-cancel" and method == b"POST":
        ids = TRONSAVE_ID.findall(body)
        return b'{"cancel_results":[%b]}' % b",".join([CANCELED % each for each in ids])
    if bare == b"/api/v3/order" and method == b"DELETE":
        found = BINANCE_ID.search(body) or BINANCE_ID.search(query)
        if found is None or b"signature=" not in body + query:
            raise ValueError(path)
        return BINANCE_ORDER % found[1]
    if bare.startswith(b"/v2/order/") and method == b"GET":
        return BOUGHT_ORDER % bare.rpartition(b"/")[2]
    if bare == b"/trade/public/server-time":
        return b'{"data":{"timestamp":%d}}' % (time.time() * 1000)
    if bare.startswith(b"/trade/orders/") and method == b"GET":
        return b'{"data":%b}' % (RIPIO_ORDER % bare.rpartition(b"/")[2])
    raise ValueError(path)


def unmask(data: bytes, mask: bytes) -> bytes:
    """Take the mask off a client's payload."""
    size = len(data)
    long_mask = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(long_mask, "big")).to_bytes(size, "big")


try:  # the C function that comes with websockets
    from websockets.speedups import apply_mask as unmask
except ImportError:
    pass


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A whole frame as servers send them: not masked."""
    size = len(payload)
    if size < 126:
        return bytes([0x80 | opcode, size]) + payload
    return bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big") + payload


class Connection(asyncio.Protocol):
    """Speaks HTTP until it is asked to speak WebSocket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is of another class
        self.received = b""
        self.upgraded = False

    def data_received(self, data: bytes) -> None:
        """Answer all that is whole, in one write."""
        received = self.received + data if self.received else data
        answers: list[bytes] = []
        taken = 0
        try:
            while True:
                answer, end = self.take(received, taken)
                if end == taken:
                    break
                answers.append(answer)
                taken = end
        except Lost:
            self.transport.close()
            return
        self.received = received[taken:]
        if answers:
            self.transport.write(b"".join(answers))

    def take(self, received: bytes, start: int) -> tuple[bytes, int]:
        """The answer to what begins at ``start``, and where that ends; it ends where it begins if it is not whole."""
        return (
            self.take_frame(received, start)
            if self.upgraded
            else self.take_request(received, start)
        )

    def take_request(self, received: bytes, start: int) -> tuple[bytes, int]:
        """One HTTP request."""
        end = received.find(b"\r\n\r\n", start)
        if end < 0:
            return b"", start
        head = received[start:end]
        if (key := KEY.search(head)) is not None:
            self.upgraded = True
            return UPGRADE % b64encode(sha1(key[1] + GUID).digest()), end + 4
        length = LENGTH.search(head)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(received) < whole:
            return b"", start
        method, path, _ = head.split(b"\r\n", 1)[0].split(b" ")
        reply = http_body(method, path, received[end + 4 : whole])
        return HTTP_REPLY % (len(reply), reply), whole

    def take_frame(self, received: bytes, start: int) -> tuple[bytes, int]:
        """One WebSocket frame."""
        if len(received) < start + 6:
            return b"", start
        opcode, size, payload_at = received[start] & 0x0F, received[start + 1] & 0x7F, start + 6
        if size == 126:
            size, payload_at = int.from_bytes(received[start + 2 : start + 4], "big"), start + 8
        if size == 127 or received[start + 1] < 0x80 or received[start] < 0x80:
            raise ValueError("not a frame that clients send here")
        end = payload_at + size
        if len(received) < end:
            return b"", start
        payload = bytes(unmask(received[payload_at:end], received[payload_at - 4 : payload_at]))
        if opcode == 8:  # close
            self.transport.write(frame(payload, opcode=8))
            self.transport.close()
            return b"", end
        return frame(payload, opcode=10) if opcode == 9 else frame(socket_reply(payload)), end


async def serve() -> None:
    """Print the port, and serve until standard input ends."""
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="serve until standard input ends")
    if not parser.parse_args().serve:
        parser.print_help()
        return
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if find_spec("uvloop") is not None:  # nothing is measured here: whatever is cheapest
        factory = import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
