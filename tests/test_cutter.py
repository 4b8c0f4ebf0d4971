"""The cutter itself: what passes, what does not, and when it happens."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from support.cut_scene import tls_contexts
from support.cutter import Cut, Cutter, Direction, How
from support.socket_server import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TO_VENDOR, TO_CLIENT = Direction.TO_VENDOR, Direction.TO_CLIENT
BOTH = pytest.mark.parametrize("direction", Direction, ids=lambda direction: direction.name)

MESSAGE = b"0123456789"


class Peer(asyncio.Protocol):
    """One who talks through the cutter: keeps what it hears, and how that ends."""

    def __init__(self, present: list[Peer]) -> None:
        self.heard = b""
        self.has_ended = False
        """The other side writes no more."""
        self.is_gone = False
        self.error: Exception | None = None
        """Why it is gone."""
        self.transport: asyncio.Transport
        self._present = present

    async def hears(self, data: bytes) -> None:
        """Wait until it has heard this, from the beginning."""
        await until(lambda: self.heard == data)

    async def hears_the_end(self) -> None:
        """Wait until the other side writes no more."""
        await until(lambda: self.has_ended)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self.transport = cast("asyncio.Transport", transport)
        self._present.append(self)

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.heard += data

    def eof_received(self) -> bool:
        """Stay, as far as TLS lets it."""
        self.has_ended = True
        return self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.is_gone = True
        self.error = exc


class Talk:
    """A vendor, a cutter before it, and clients."""

    def __init__(self, cutter: Cutter, vendors: list[Peer]) -> None:
        self.cutter = cutter
        self.vendors = vendors
        self.clients: list[Peer] = []

    async def dial(self, **options: Any) -> Peer:
        """Connect a client."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(
            lambda: Peer(self.clients), "127.0.0.1", self.cutter.port, **options
        )
        return client

    async def both(self) -> dict[Direction, Peer]:
        """Connect a client; return whoever writes in each direction."""
        before = len(self.vendors)
        client = await self.dial()
        await until(lambda: len(self.vendors) > before)
        return {TO_VENDOR: client, TO_CLIENT: self.vendors[-1]}


@asynccontextmanager
async def talking(secure: ssl.SSLContext | None = None) -> AsyncIterator[Talk]:
    """Open a vendor who says nothing by itself, and a cutter before it."""
    vendors: list[Peer] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(vendors), "127.0.0.1", 0, ssl=secure)
    try:
        async with Cutter(server.sockets[0].getsockname()[1]) as cutter:
            talk = Talk(cutter, vendors)
            yield talk
        for each in [*vendors, *talk.clients]:
            each.transport.abort()
        await until(lambda: all(each.is_gone for each in [*vendors, *talk.clients]))
    finally:
        server.close()


def other(direction: Direction) -> Direction:
    """The other direction."""
    return TO_CLIENT if direction is TO_VENDOR else TO_VENDOR


# -- what passes --------------------------------------------------------------------------------------------------


async def test_everything_passes() -> None:
    """Uncut, every byte and every end passes, in order; all of it is counted and kept."""
    async with talking() as talk:
        ends = await talk.both()
        [link] = talk.cutter.links
        for direction, writer in ends.items():
            for piece in (b"first", b"second", b"x" * 300_000):
                writer.transport.write(piece)
            whole = b"firstsecond" + b"x" * 300_000
            reader = ends[other(direction)]
            await reader.hears(whole)
            assert link.came[direction] == whole
            assert link.passed[direction] == len(whole)
            writer.transport.write_eof()
            await reader.hears_the_end()
            assert link.client_left
        await until(link.closed.done)
        assert (talk.cutter.cuts, talk.cutter.open) == (0, 0)


@BOTH
async def test_a_reset_passes(direction: Direction) -> None:
    """Who breaks off breaks it off for the other."""
    async with talking() as talk:
        ends = await talk.both()
        writer, reader = ends[direction], ends[other(direction)]
        reader.transport.write(MESSAGE)
        await writer.hears(MESSAGE)
        writer.transport.pause_reading()
        reader.transport.write(MESSAGE)
        await until(lambda: talk.cutter.links[0].passed[other(direction)] == 2 * len(MESSAGE))
        writer.transport.abort()  # with something unread: RST
        await until(lambda: reader.is_gone)
        assert isinstance(reader.error, ConnectionResetError)


async def test_nobody_behind() -> None:
    """Where the vendor does not listen, the client is reset."""
    async with Cutter(1) as cutter:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Peer([]), "127.0.0.1", cutter.port)
        await until(lambda: client.is_gone)
        assert isinstance(client.error, ConnectionResetError)
        await until(cutter.links[0].closed.done)


# -- the byte -----------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("how", [How.FIN, How.RESET, How.HALF_CLOSE, How.STALL, How.BLACKHOLE])
@pytest.mark.parametrize("size", [10, 4], ids=["at once", "in pieces"])
async def test_every_byte(how: How, direction: Direction, lazy: bool, size: int) -> None:
    """So many bytes pass, and not one more, however they come."""
    async with talking() as talk:
        for at in range(1, len(MESSAGE)):
            talk.cutter.next(Cut(direction, at, how, lazy=lazy))
            ends = await talk.both()
            writer, reader = ends[direction], ends[other(direction)]
            for start in range(0, len(MESSAGE), size):
                writer.transport.write(MESSAGE[start : start + size])
                await asyncio.sleep(0)
            await reader.hears(MESSAGE[:at])
            for _ in range(20):
                await asyncio.sleep(0)
            assert talk.cutter.cuts == at
            assert reader.heard == MESSAGE[:at]
            assert talk.cutter.links[-1].passed[direction] == at
            assert reader.is_gone is (how is How.RESET)
            assert reader.has_ended is (how in (How.FIN, How.HALF_CLOSE))
            assert (writer.has_ended or writer.is_gone) is (how in (How.FIN, How.RESET))
            if how is How.RESET:
                assert isinstance(reader.error, ConnectionResetError)
                assert isinstance(writer.error, ConnectionResetError | BrokenPipeError)


@BOTH
async def test_as_soon_as_it_has_passed(direction: Direction) -> None:
    """An eager cut happens with the last byte before it, a lazy one waits for the next."""
    async with talking() as talk:
        for lazy in (False, True):
            talk.cutter.next(Cut(direction, len(MESSAGE), How.FIN, lazy=lazy))
            ends = await talk.both()
            before = talk.cutter.cuts
            ends[direction].transport.write(MESSAGE)
            reader = ends[other(direction)]
            await reader.hears(MESSAGE)
            await asyncio.sleep(0)
            assert (talk.cutter.cuts > before) is not lazy
            if lazy:
                ends[direction].transport.write(b"x")
            await reader.hears_the_end()
            assert talk.cutter.cuts == before + 1
            assert reader.heard == MESSAGE


@BOTH
async def test_a_lazy_cut_lets_the_end_pass(direction: Direction) -> None:
    """Where no further byte comes, nothing is cut."""
    async with talking() as talk:
        talk.cutter.next(Cut(direction, len(MESSAGE), How.RESET, lazy=True))
        ends = await talk.both()
        ends[direction].transport.write(MESSAGE)
        ends[direction].transport.write_eof()
        await ends[other(direction)].hears_the_end()
        assert ends[other(direction)].heard == MESSAGE
        assert talk.cutter.cuts == 0


@BOTH
async def test_the_moment(direction: Direction) -> None:
    """It is told before the reader has read what has just passed, and before anything is done to the connection."""
    async with talking() as talk:
        told: list[tuple[int, bytes, bool]] = []
        cut = Cut(direction, 4, How.FIN)
        talk.cutter.next(cut)
        ends = await talk.both()
        reader = ends[other(direction)]

        def when_cut(link: object, what: Cut) -> None:
            assert link is talk.cutter.links[0]
            assert what is cut
            passed = talk.cutter.links[0].passed[direction]
            told.append((passed, bytes(reader.heard), reader.has_ended))

        talk.cutter.when_cut = when_cut
        ends[direction].transport.write(MESSAGE)
        await reader.hears_the_end()
        assert told == [(4, b"", False)]


# -- on arrival ---------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("how", [How.FIN, How.RESET, How.BLACKHOLE])
async def test_on_arrival(how: How, direction: Direction) -> None:
    """The vendor never hears of a connection that is cut before the first byte, and the client not of the vendor."""
    async with talking() as talk:
        talk.cutter.next(Cut(direction, 0, how))
        client = await talk.dial()
        await until(lambda: talk.cutter.cuts == 1)
        if not client.transport.is_closing():
            client.transport.write(MESSAGE)
        for _ in range(50):
            await asyncio.sleep(0)
        assert talk.vendors == []
        assert client.heard == b""
        assert client.is_gone is (how is How.RESET)
        assert client.has_ended is (how is How.FIN)


# -- what happens there -------------------------------------------------------------------------------------------


@BOTH
async def test_half_closed(direction: Direction) -> None:
    """One direction ends, the other goes on."""
    async with talking() as talk:
        for at in (0, 4):
            talk.cutter.next(Cut(direction, at, How.HALF_CLOSE))
            ends = await talk.both()
            writer, reader = ends[direction], ends[other(direction)]
            writer.transport.write(MESSAGE)
            await reader.hears_the_end()
            assert reader.heard == MESSAGE[:at]
            reader.transport.write(b"answer")
            await writer.hears(b"answer")
            reader.transport.close()
            await writer.hears_the_end()


@BOTH
@pytest.mark.virtual_time
async def test_stalled(direction: Direction) -> None:
    """One direction stands still for as long as it takes, then all of it arrives, with its end; the other goes on."""
    async with talking() as talk:
        talk.cutter.next(Cut(direction, 4, How.STALL))
        ends = await talk.both()
        writer, reader = ends[direction], ends[other(direction)]
        writer.transport.write(MESSAGE)
        await asyncio.sleep(3600)
        writer.transport.write(b"more")
        writer.transport.write_eof()
        reader.transport.write(b"answer")
        await asyncio.sleep(3600)
        assert writer.heard == b"answer"
        assert (reader.heard, reader.has_ended) == (MESSAGE[:4], False)
        talk.cutter.release()
        await reader.hears_the_end()
        assert reader.heard == MESSAGE + b"more"


@pytest.mark.virtual_time
async def test_stalled_after_all_was_said() -> None:
    """The end waits behind what is held, also where both came before the vendor could be reached."""
    async with talking() as talk:
        talk.cutter.next(Cut(TO_VENDOR, 4, How.STALL))
        client = await talk.dial()
        client.transport.write(MESSAGE)
        client.transport.write_eof()
        await until(lambda: talk.vendors)
        await asyncio.sleep(60)
        assert (talk.vendors[0].heard, talk.vendors[0].has_ended) == (MESSAGE[:4], False)
        talk.cutter.release()
        await talk.vendors[0].hears_the_end()
        assert talk.vendors[0].heard == MESSAGE


@BOTH
@pytest.mark.virtual_time
async def test_released_after_its_sender_has_gone(direction: Direction) -> None:
    """What was on its way arrives although nobody waits for an answer."""
    async with talking() as talk:
        talk.cutter.next(Cut(direction, 0, How.STALL))
        ends = await talk.both()
        ends[direction].transport.write(MESSAGE)
        await asyncio.sleep(1)
        ends[direction].transport.close()
        await asyncio.sleep(1)
        assert ends[other(direction)].heard == b""
        assert not ends[other(direction)].has_ended
        talk.cutter.release()
        await ends[other(direction)].hears_the_end()
        assert ends[other(direction)].heard == MESSAGE


@BOTH
@pytest.mark.virtual_time
async def test_delayed(direction: Direction) -> None:
    """From the byte on, everything comes so much later, and in order."""
    async with talking() as talk:
        talk.cutter.next(Cut(direction, 4, How.DELAY, delay=5.0))
        ends = await talk.both()
        writer, reader = ends[direction], ends[other(direction)]
        writer.transport.write(MESSAGE)
        await asyncio.sleep(3)
        writer.transport.write(b"more")
        writer.transport.write_eof()
        await asyncio.sleep(1.9)
        assert reader.heard == MESSAGE[:4]
        await asyncio.sleep(0.2)
        assert reader.heard == MESSAGE
        await asyncio.sleep(2.8)
        assert not reader.has_ended
        await asyncio.sleep(0.2)
        assert reader.heard == MESSAGE + b"more"
        assert reader.has_ended


@BOTH
@pytest.mark.virtual_time
async def test_swallowed(direction: Direction) -> None:
    """Nothing passes any more, either way, and nobody is told that the other has gone."""
    async with talking() as talk:
        talk.cutter.next(Cut(direction, 4, How.BLACKHOLE))
        ends = await talk.both()
        writer, reader = ends[direction], ends[other(direction)]
        writer.transport.write(MESSAGE)
        await reader.hears(MESSAGE[:4])
        reader.transport.write(b"answer")
        await asyncio.sleep(60)
        talk.cutter.release()
        writer.transport.abort()
        await asyncio.sleep(3600)
        assert (reader.heard, reader.has_ended, reader.is_gone) == (MESSAGE[:4], False, False)
        assert writer.heard == b""
        assert talk.cutter.open == 1


# -- which connections --------------------------------------------------------------------------------------------


async def test_which_connections_are_cut() -> None:
    """Some are spoken for, the others are treated alike, until all are let through; both directions can be cut."""
    async with talking() as talk:
        cutter = talk.cutter
        cutter.next()
        cutter.next(Cut(TO_VENDOR, 2, How.HALF_CLOSE), Cut(TO_CLIENT, 3, How.FIN))
        cutter.always(Cut(TO_VENDOR, 1, How.FIN))
        heard: list[tuple[bytes, bytes]] = []
        for number in range(6):
            if number == 4:
                cutter.heal()
            ends = await talk.both()
            for writer in ends.values():
                writer.transport.write(MESSAGE)
            await asyncio.sleep(0.002)
            heard.append((bytes(ends[TO_CLIENT].heard), bytes(ends[TO_VENDOR].heard)))
        assert heard[0] == heard[4] == heard[5] == (MESSAGE, MESSAGE)
        assert heard[1] == (MESSAGE[:2], MESSAGE[:3])
        assert [vendor for vendor, _ in heard[2:4]] == [MESSAGE[:1]] * 2
        assert cutter.cuts == 4


async def test_a_connection_that_stands() -> None:
    """It can be cut where it is, or further on, and be spared."""
    async with talking() as talk:
        ends = await talk.both()
        [link] = talk.cutter.links
        ends[TO_VENDOR].transport.write(MESSAGE)
        await until(lambda: len(ends[TO_CLIENT].heard) == 10)
        link.cut(Cut(TO_VENDOR, 15, How.FIN))
        talk.cutter.heal()
        ends[TO_VENDOR].transport.write(MESSAGE)
        await until(lambda: len(ends[TO_CLIENT].heard) == 20)
        link.cut(Cut(TO_VENDOR, 25, How.STALL))
        ends[TO_VENDOR].transport.write(MESSAGE)
        await until(lambda: len(ends[TO_CLIENT].heard) == 25)
        assert talk.cutter.cuts == 1
        link.cut(Cut(TO_CLIENT, 0, How.RESET))
        assert talk.cutter.cuts == 2
        await until(lambda: ends[TO_VENDOR].is_gone)


async def test_refused() -> None:
    """Nobody listens, while what stands goes on; then somebody does, on the same port."""
    async with talking() as talk:
        ends = await talk.both()
        port = talk.cutter.port
        talk.cutter.refuse()
        talk.cutter.refuse()
        with pytest.raises(ConnectionRefusedError):
            await talk.dial()
        ends[TO_VENDOR].transport.write(MESSAGE)
        await ends[TO_CLIENT].hears(MESSAGE)
        await talk.cutter.listen()
        await talk.cutter.listen()
        assert talk.cutter.port == port
        ends = await talk.both()
        ends[TO_VENDOR].transport.write(MESSAGE)
        await ends[TO_CLIENT].hears(MESSAGE)


async def test_closed_at_any_time() -> None:
    """Connections that have just come, that are being passed on and that hold something all end."""
    async with talking() as talk:
        talk.cutter.next(Cut(TO_VENDOR, 0, How.STALL))
        await talk.both()
        dialing = [asyncio.create_task(talk.dial()) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await talk.cutter.aclose()
        await asyncio.gather(*dialing, return_exceptions=True)
        assert talk.cutter.open == 0
        await until(lambda: all(client.has_ended or client.is_gone for client in talk.clients))


# -- TLS ----------------------------------------------------------------------------------------------------------


async def test_tls(loop_errors: list[str]) -> None:
    """TLS is bytes like any others: it passes whole, and can be cut anywhere in its handshake and after."""
    serving, trusting = tls_contexts()
    async with talking(serving) as talk:
        client = await talk.dial(ssl=trusting)
        client.transport.write(MESSAGE)
        await until(lambda: talk.vendors and talk.vendors[0].heard == MESSAGE)
        [link] = talk.cutter.links
        assert link.came[TO_VENDOR][:1] == b"\x16"
        assert MESSAGE not in link.came[TO_VENDOR]
        whole = link.passed[TO_VENDOR]
        for how in (How.FIN, How.RESET):
            talk.cutter.next(Cut(TO_CLIENT, 100, how))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await talk.dial(ssl=trusting)
            assert talk.cutter.links[-1].passed[TO_CLIENT] == 100
        # All but the last byte of the record: nothing of it can be read.
        talk.cutter.next(Cut(TO_VENDOR, whole - 1, How.STALL))
        client = await talk.dial(ssl=trusting)
        client.transport.write(MESSAGE)
        await until(lambda: talk.cutter.cuts == 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert talk.vendors[-1].heard == b""
        talk.cutter.release()
        await talk.vendors[-1].hears(MESSAGE)
    # In debug mode the loop reports handshakes that the vendor saw fail.
    assert all("incoming connection" in report for report in loop_errors)
    loop_errors.clear()
