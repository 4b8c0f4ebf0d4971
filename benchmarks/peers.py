"""The libraries that users would pick instead, each pointed at the local server.

Each entry opens a client and gives the call that cancels one order. A library that has no such call for these vendors
is measured on its nearest one, and says so. Limiters of the libraries are switched off where requests are measured, as
is the SDK's: limiters are compared with each other. Nothing here is imported before it is needed: a library that is not
installed, or that fails, is reported as not measured.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from measure import Kind

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

Cancel = Callable[[int], Awaitable[object]]
"""Cancels the order with this number."""

SYMBOL = "BTCUSDT"
MARKET = {
    "id": SYMBOL,
    "symbol": "BTC/USDT",
    "base": "BTC",
    "quote": "USDT",
    "baseId": "BTC",
    "quoteId": "USDT",
    "type": "spot",
    "spot": True,
    "active": True,
    "precision": {"amount": 5, "price": 2},
    "limits": {},
}


class Peer(NamedTuple):
    """How to open one library's client."""

    name: str
    kind: Kind
    note: str
    open: Callable[[AsyncExitStack, int], Awaitable[Cancel]]


async def open_all(
    peers: Sequence[Peer], stack: AsyncExitStack, port: int, remarks: list[str]
) -> list[tuple[Peer, Cancel]]:
    """Open every peer and try it once; what cannot be measured is remarked."""
    opened: list[tuple[Peer, Cancel]] = []
    for peer in peers:
        try:
            async with asyncio.timeout(10):
                cancel = await peer.open(stack, port)
                await cancel(1)
        except Exception as error:  # noqa: BLE001 - whatever a foreign library raises is the reason
            remarks.append(f"{peer.name}: not measured: {reason(error)}")
        else:
            opened.append((peer, cancel))
    return opened


def reason(error: Exception) -> str:
    """Why something could not be measured."""
    if isinstance(error, ModuleNotFoundError):
        return "not installed"
    return f"{type(error).__name__}: {error}"[:200]


def ensure(condition: object, said: object) -> None:
    """Fail where a client did not get what a cancel promises."""
    if not condition:
        raise AssertionError(f"no cancel: {said!r}")


# -- over WebSocket ----------------------------------------------------------------------------------------------------


async def binance_socket(stack: AsyncExitStack, port: int) -> Cancel:
    """python-binance: `ws_cancel_order`."""
    binance = import_module("binance")
    client = binance.AsyncClient("key", "secret")
    stack.push_async_callback(client.close_connection)
    client.ws_api._url = f"ws://127.0.0.1:{port}/ws-api/v3"

    async def cancel(order: int) -> object:
        return await client.ws_cancel_order(symbol=SYMBOL, orderId=order)

    said = await client.ws_cancel_order(symbol=SYMBOL, orderId=7)
    ensure(said["status"] == "CANCELED" and said["orderId"] == 7, said)
    return cancel


async def pybotters_socket(stack: AsyncExitStack, port: int) -> Cancel:
    """pybotters: sends Binance's cancel, which it signs, with `send_json`; matching replies is left to its user."""
    pybotters = import_module("pybotters")
    ws = import_module("pybotters.ws")
    ws.MessageSignHosts.items["127.0.0.1"] = ws.MessageSignHosts.items["ws-api.binance.com"]
    client = await stack.enter_async_context(pybotters.Client(apis={"binance": ["key", "secret"]}))
    pending: dict[str, asyncio.Future[Any]] = {}
    numbers = itertools.count(1)
    loop = asyncio.get_running_loop()

    def settle(message: Any, _: object) -> None:
        pending.pop(message["id"]).set_result(message)

    application = await client.ws_connect(f"ws://127.0.0.1:{port}/ws-api/v3", hdlr_json=settle)
    stack.callback(application._task.cancel)

    async def cancel(order: int) -> Any:
        key = str(next(numbers))
        future = pending[key] = loop.create_future()
        params = {"symbol": SYMBOL, "orderId": order}
        socket = application.current_ws
        await socket.send_json({"id": key, "method": "order.cancel", "params": params})
        return await future

    said = await cancel(7)
    ensure(said["status"] == 200 and said["result"]["orderId"] == 7, said)
    return cancel


async def ccxt_socket(stack: AsyncExitStack, port: int) -> Cancel:
    """ccxt.pro: `cancel_order_ws` of its Binance."""
    pro = import_module("ccxt.pro")
    client = pro.binance({"apiKey": "key", "secret": "secret", "enableRateLimit": False})
    stack.push_async_callback(client.close)
    client.set_markets([client.safe_market_structure(MARKET)])
    client.urls["api"]["ws"]["ws-api"]["spot"] = f"ws://127.0.0.1:{port}/ws-api/v3"

    async def cancel(order: int) -> object:
        return await client.cancel_order_ws(str(order), "BTC/USDT")

    said = await client.cancel_order_ws("7", "BTC/USDT")
    ensure(said["status"] == "canceled" and said["id"] == "7", said)
    return cancel


SOCKETS = (
    Peer("python-binance", Kind.PEER, "ws_cancel_order: Binance's cancel", binance_socket),
    Peer("ccxt.pro", Kind.PEER, "binance.cancel_order_ws: Binance's cancel", ccxt_socket),
    Peer(
        "pybotters",
        Kind.NEAREST,
        "has no cancel: send_json of Binance's, signed by it; replies are matched by code of ours",
        pybotters_socket,
    ),
)


# -- over HTTP ---------------------------------------------------------------------------------------------------------

TRONSAVE_CANCEL = "/v0/fast-charge-order-cancel"
TRONSAVE_HEADERS = {"apikey": "key", "Content-Type": "application/json"}


def tronsave_id(order: int) -> str:
    """An order's id as TronSave's are."""
    return f"673c17a3129f1881{order:08x}"


def tronsave_body(order: int) -> str:
    """TronSave's cancel of one order."""
    return json.dumps({"order_ids": [tronsave_id(order)]})


async def pybotters_http(stack: AsyncExitStack, port: int) -> Cancel:
    """pybotters: a POST of TronSave's cancel."""
    pybotters = import_module("pybotters")
    base = f"http://127.0.0.1:{port}"
    client = await stack.enter_async_context(pybotters.Client(base_url=base))

    async def cancel(order: int) -> Any:
        body = tronsave_body(order)
        async with client.post(TRONSAVE_CANCEL, data=body, headers=TRONSAVE_HEADERS) as response:
            return await response.json()

    said = await cancel(7)
    ensure(said["cancel_results"][0]["is_success"] is True, said)
    return cancel


async def httpx_http(stack: AsyncExitStack, port: int) -> Cancel:
    """httpx: a POST of TronSave's cancel."""
    httpx = import_module("httpx")
    client = await stack.enter_async_context(
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=TRONSAVE_HEADERS)
    )

    async def cancel(order: int) -> Any:
        return (await client.post(TRONSAVE_CANCEL, content=tronsave_body(order))).json()

    said = await cancel(7)
    ensure(said["cancel_results"][0]["is_success"] is True, said)
    return cancel


async def binance_http(stack: AsyncExitStack, port: int) -> Cancel:
    """python-binance: `cancel_order`."""
    binance = import_module("binance")
    client = binance.AsyncClient("key", "secret")
    stack.push_async_callback(client.close_connection)
    client.API_URL = f"http://127.0.0.1:{port}/api"

    async def cancel(order: int) -> object:
        return await client.cancel_order(symbol=SYMBOL, orderId=order)

    said = await client.cancel_order(symbol=SYMBOL, orderId=7)
    ensure(said["status"] == "CANCELED" and said["orderId"] == 7, said)
    return cancel


async def ccxt_client(stack: AsyncExitStack, port: int) -> Any:
    """ccxt's Binance, at the local server."""
    ccxt = import_module("ccxt.async_support")
    client = ccxt.binance({"apiKey": "key", "secret": "secret", "enableRateLimit": False})
    stack.push_async_callback(client.close)
    client.set_markets([client.safe_market_structure(MARKET)])
    client.urls["api"]["private"] = f"http://127.0.0.1:{port}/api/v3"
    return client


async def ccxt_http(stack: AsyncExitStack, port: int) -> Cancel:
    """ccxt: `cancel_order` of its Binance."""
    client = await ccxt_client(stack, port)

    async def cancel(order: int) -> object:
        return await client.cancel_order(str(order), "BTC/USDT")

    said = await client.cancel_order("7", "BTC/USDT")
    ensure(said["status"] == "canceled" and said["id"] == "7", said)
    return cancel


def official_read(stack: AsyncExitStack, port: int) -> Callable[[int], object]:
    """tronsave, the vendor's SDK: it has no cancel, and it blocks; `get_order` reads one order."""
    tronsave = import_module("tronsave")
    limits: Any = import_module("tronsave._rate_limit")
    limits.rate_limit_for = lambda path: (1e9, 1000.0)
    client = tronsave.TronsaveClient("key", base_url=f"http://127.0.0.1:{port}")
    stack.callback(client._http._client.close)
    said = client.get_order(tronsave_id(7))
    ensure(said.id == tronsave_id(7) and said.status == "Pending", said)
    return lambda order: client.get_order(tronsave_id(order))


async def official_blocking(stack: AsyncExitStack, port: int) -> Cancel:
    """The vendor's SDK as it is: nothing else runs meanwhile."""
    read = official_read(stack, port)

    async def blocking(order: int) -> object:
        return read(order)

    return blocking


async def official_threads(stack: AsyncExitStack, port: int) -> Cancel:
    """The vendor's SDK in threads, as an event loop must call it."""
    read = official_read(stack, port)

    async def in_thread(order: int) -> object:
        return await asyncio.to_thread(read, order)

    return in_thread


SEQUENTIAL_HTTP = Peer(
    "tronsave (official)",
    Kind.NEAREST,
    "has no cancel: get_order; it blocks the event loop",
    official_blocking,
)
CONCURRENT_HTTP = Peer(
    "tronsave (official)",
    Kind.NEAREST,
    "has no cancel: get_order, in threads",
    official_threads,
)
HTTP = (
    Peer("pybotters", Kind.PEER, "client.post of TronSave's cancel", pybotters_http),
    Peer("httpx", Kind.PEER, "AsyncClient.post of TronSave's cancel", httpx_http),
    Peer("python-binance", Kind.NEAREST, "cancel_order: Binance's, signed", binance_http),
    Peer("ccxt", Kind.NEAREST, "binance.cancel_order: Binance's, signed", ccxt_http),
)
