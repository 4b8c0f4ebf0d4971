"""
Malformed and hostile input: JSON values that are none or too much, every mutation of a literal message, and replies
that break HTTP and WebSockets.

A mutant is made of the vendor's own words, so that it gets as far as possible. What it still says plainly is for the
strictest reader there is to say: `plain`.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import math
import re
import struct
import zlib
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from websockets.frames import Opcode
from websockets.utils import accept_key

from support.raw_server import RawServer, http
from support.socket_server import closing, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "BODIES",
    "DEEP",
    "DOOR_FLOODS",
    "FLOODS",
    "FRAMES",
    "FRAME_FLOODS",
    "REPLIES",
    "VALUES",
    "Flood",
    "Mutant",
    "Rude",
    "SocketFlood",
    "encoded",
    "mutants",
    "plain",
]

DEEP: Final = 100_000
"""Brackets: far more than any stack holds."""

Path = tuple[str | int, ...]

VALUES: Final[Mapping[str, bytes]] = {
    "null": b"null",
    "true": b"true",
    "false": b"false",
    "zero": b"0",
    "one": b"1",
    "minus zero": b"-0",
    "minus zero point": b"-0.0",
    "negative": b"-1",
    "fraction": b"0.5",
    "beyond 64 bits": b"18446744073709551616",
    "beyond float": b"1e400",
    "below float": b"1e-400",
    "beyond memory": b"1e999999999",
    "beyond memory, negative": b"-1e999999999",
    "beyond decimal": b"1e9999999999999999999999",
    "4,000 digits": b"9" * 4_000,
    "10,000 digits": b"9" * 10_000,
    "10,000 decimals": b"0." + b"3" * 10_000,
    "leading zero": b"01",
    "plus": b"+1",
    "hexadecimal": b"0x10",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "minus Infinity": b"-Infinity",
    "empty text": b'""',
    "blank text": b'" "',
    "true as text": b'"true"',
    "one as text": b'"1"',
    "minus one as text": b'"-1"',
    "NaN as text": b'"NaN"',
    "sNaN as text": b'"sNaN123"',
    "Infinity as text": b'"Infinity"',
    "beyond memory as text": b'"1e999999999"',
    "beyond decimal as text": b'"1e9999999999999999999999"',
    "10,000 digits as text": b'"' + b"9" * 10_000 + b'"',
    "long text": b'"' + b"x" * 100_000 + b'"',
    "null character": b'"\\u0000"',
    "lone surrogate": b'"\\ud800"',
    "lone surrogate, other half": b'"\\udc00x"',
    "raw surrogate": b'"\xed\xa0\x80"',
    "not UTF-8": b'"\xff\xfe"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "raw control character": b'"\x01"',
    "unfinished escape": b'"\\u12"',
    "year 99999": b'"99999-01-01T00:00:00Z"',
    "year 9999, west": b'"9999-12-31T23:59:59-23:59"',
    "year 1, east": b'"0001-01-01T00:00:00+23:59"',
    "milliseconds of 31,700 years": b"1000000000000000",
    "milliseconds of the universe": b"1000000000000000000",
    "canceled": b'"canceled"',
    "OK": b'"OK"',
    "empty list": b"[]",
    "empty object": b"{}",
    "list of null": b"[null]",
    "object without a name": b'{"":0}',
    "nested": b'[{"a":[{"a":[{}]}]}]',
    "nested 900 deep": b"[" * 900 + b"]" * 900,
    "lists without end": b"[" * DEEP,
    "objects without end": b'{"a":' * DEEP,
    "lists, closed": b"[" * DEEP + b"]" * DEEP,
    "objects, closed": b'{"a":' * DEEP + b"0" + b"}" * DEEP,
    "nothing": b"",
}
"""What can stand in the place of a value: JSON, and what only resembles it."""

_HTML = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"

BODIES: Final[Mapping[str, bytes]] = {
    **{f"only {name}": value for name, value in VALUES.items()},
    "blank": b" \r\n\t",
    "html": _HTML,
    "byte order mark alone": b"\xef\xbb\xbf",
    "null bytes": b"\x00" * 1000,
    "two values": b"{}{}",
    "line of values": b"{}\n{}",
    "comment": b"/* */{}",
    "single quotes": b"{'status':'OK'}",
    "many commas": b"[" + b"," * 100_000 + b"]",
    "many values": b"[" + b"0," * 300_000 + b"0]",
    "many objects": b"[" + b"{}," * 20_000 + b"{}]",
    "many names": b"{" + b",".join(b'"%d":0' % number for number in range(30_000)) + b"}",
    "one name many times": b"{" + b",".join([b'"status":"OK"'] * 30_000) + b"}",
    "many backslashes": b"\\" * 300_000,
    "many escapes": b'"' + b"\\u0041" * 100_000 + b'"',
    "many quotes": b'"' * 300_000,
    "ten megabytes of text": b'{"padding":"' + b"x" * 10_000_000 + b'"}',
    "ten megabytes of blanks": b" " * 10_000_000,
    "gzip of nothing": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00",
}
"""Bodies that are nobody's."""


class Mutant(NamedTuple):
    """A message with something wrong: what, and how to make it."""

    name: str
    make: Callable[[], bytes]

    @property
    def body(self) -> bytes:
        """The bytes, made anew each time: all of them at once are too many."""
        return self.make()


class _Pairs(list[tuple[bytes, Any]]):
    """An object as its names, quoted, and values, in order; a name may come twice."""


def encoded(value: object) -> bytes:
    """Return a value as compact JSON; bytes are put in as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        value = _pairs(value)
    if isinstance(value, _Pairs):
        return b"{" + b",".join(name + b":" + encoded(item) for name, item in value) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(encoded, value)) + b"]"
    return json.dumps(value, ensure_ascii=False).encode()


def mutants(message: Any) -> list[Mutant]:
    """Return every mutation of a message that there is here, the same in every run."""
    return list(_mutants(message))


def _mutants(message: Any) -> Iterator[Mutant]:
    for path in _places(message):
        for name, value in VALUES.items():
            yield _mutant(name, message, path, partial(_instead, value))
        yield _mutant("in a list", message, path, lambda item: [item])
        yield _mutant("in an object", message, path, lambda item: {"value": item})
        yield _mutant("as text", message, path, lambda item: json.dumps(encoded(item).decode()))
    for path, names in _objects(message):
        yield _mutant("another field", message, path, lambda item: item | {"x-new": {"y": [1]}})
        for name in names:
            yield from _of_a_name(message, path, name)
    yield from _of_bytes(encoded(message))


def plain(body: bytes, passed_over: frozenset[str] = frozenset()) -> Any:
    """Return what a body says to a reader who lets nothing pass but bad letters and numbers beyond all bounds: by
    RFC 8259, with no mark before it, and no name twice in an object.

    Args:
        body: a text.
        passed_over: names that may come twice all the same, since nothing is decided by them.

    Raises:
        ValueError: it says nothing plainly.
    """
    try:
        return json.loads(
            body.decode(errors="replace"),
            object_pairs_hook=lambda pairs: _once(pairs, passed_over),
            parse_constant=_refused,
            parse_int=lambda digits: int(digits) if len(digits) < 100 else math.inf,
        )
    except RecursionError:
        raise ValueError("nested without end") from None


def _of_a_name(message: Any, path: Path, name: str) -> Iterator[Mutant]:
    """Yield what can be wrong with one name of one object."""
    where = (*path, name)

    def renamed(new: bytes) -> Callable[[Any], Any]:
        return lambda item: _Pairs((new if n == _quoted(name) else n, v) for n, v in _pairs(item))

    yield _mutant(
        "missing", message, path, lambda item: {n: item[n] for n in item if n != name}, name
    )
    spellings = {
        "in capitals": _quoted(name.upper()),
        "with a space": _quoted(f"{name} "),
        "escaped": b'"' + b"".join(b"\\u%04x" % ord(letter) for letter in name) + b'"',
        "not quoted": name.encode(),
    }
    for spelling, quoted in spellings.items():
        yield _mutant(f"name {spelling}", message, path, renamed(quoted), name)
    escaped = spellings["escaped"]
    for number, other in enumerate(_contradictions(_at(message, where))):
        for says, first, quoted in (
            ("before", True, _quoted(name)),
            ("after", False, _quoted(name)),
            ("escaped before", True, escaped),
            ("escaped after", False, escaped),
        ):

            def twice(item: Any, other: Any = other, first: bool = first, n: bytes = quoted) -> Any:
                pairs, more = _pairs(item), _Pairs([(n, other)])
                return _Pairs([*more, *pairs] if first else [*pairs, *more])

            yield _mutant(f"twice, {says}, {number}", message, path, twice, name)


def _of_bytes(whole: bytes) -> Iterator[Mutant]:
    """Yield what can be wrong with a text as a whole."""
    for length in range(len(whole)):
        yield Mutant(f"cut at byte {length}", partial(_beginning, whole, length))
    text = whole.decode()
    others = {
        "byte order mark": b"\xef\xbb\xbf" + whole,
        "UTF-16": text.encode("utf-16"),
        "UTF-16 without a mark": text.encode("utf-16-le"),
        "UTF-32": text.encode("utf-32"),
        "twice": whole * 2,
        "in a list": b"[" + whole + b"]",
        "as text": encoded(text),
        "in HTML": _HTML.replace(b"502 Bad Gateway", whole),
        "as JSONP": b"callback(" + whole + b")",
        "behind a guard": b")]}',\n" + whole,
        "null byte behind": whole + b"\x00",
        "comma behind": whole[:-1] + b"," + whole[-1:],
        "single quotes": whole.replace(b'"', b"'"),
        "blanks before": b" " * 500_000 + whole,
    }
    for name, body in others.items():
        yield Mutant(name, partial(bytes, body))


def _contradictions(value: Any) -> list[Any]:
    """Return values of the same kind that say something else, and values of another kind."""
    others: list[Any] = [None, [], {}, "x"]
    match value:
        case bool():
            others += [not value, int(value)]
        case int() | float():
            others += [value + 1, -1, str(value)]
        case str():
            others += [value.swapcase(), f"{value} ", "canceled", "OK", "error", 200]
        case None:
            others += [True, {"error_code": 40401, "message": "Order not found."}]
        case list():
            others += [[*value, *value]]
        case dict():
            others += [value | {"status": "canceled"}]
        case _:
            raise AssertionError("JSON has no other values")
    return [other for other in others if other != value or type(other) is not type(value)]


def _places(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from _places(item, (*path, key))


def _objects(message: Any) -> Iterator[tuple[Path, list[str]]]:
    for path in _places(message):
        if isinstance(found := _at(message, path), dict):
            yield path, list(found)


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _mutant(
    name: str, message: Any, path: Path, change: Callable[[Any], Any], field: str = ""
) -> Mutant:
    where = ".".join(map(str, (*path, field) if field else path)) or "all"
    return Mutant(f"{where}: {name}", lambda: encoded(_changed(message, path, change)))


def _beginning(whole: bytes, length: int) -> bytes:
    return whole[:length]


def _instead(new: bytes, _: object) -> bytes:
    return new


def _changed(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """Return a copy with something else in one place."""
    if not path:
        return change(value)
    key, *rest = path
    copy = value.copy()
    copy[key] = _changed(value[key], tuple(rest), change)
    return copy


def _pairs(value: dict[str, Any]) -> _Pairs:
    return _Pairs((_quoted(name), item) for name, item in value.items())


def _quoted(name: str) -> bytes:
    return json.dumps(name, ensure_ascii=False).encode()


def _once(pairs: list[tuple[str, Any]], passed_over: frozenset[str]) -> dict[str, Any]:
    for name, number in Counter(name for name, _ in pairs).items():
        if number > 1 and name not in passed_over:
            raise ValueError(f"{name} comes twice")
    return dict(pairs)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


# -- HTTP ----------------------------------------------------------------------------------------------------------


class Rude(RawServer):
    """A server that does not mind when its client hangs up."""

    async def _act(self, writer: asyncio.StreamWriter) -> bool:
        try:
            return await super()._act(writer)
        except ConnectionError:
            return False


def _with(*headers: bytes, body: bytes = b"{}") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"", body])


def _sized(*headers: bytes) -> bytes:
    return _with(*headers, b"Content-Length: 2")


def _chunked(body: bytes, *headers: bytes) -> bytes:
    return _with(b"Transfer-Encoding: chunked", *headers, body=body)


def _status(line: bytes) -> bytes:
    return line + b"\r\nContent-Length: 2\r\n\r\n{}"


_BOMB: Final = gzip.compress(b" " * 20_000_000, compresslevel=1, mtime=0)
"""A tenth of a megabyte that becomes twenty."""

REPLIES: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    # how long it is
    "length of 100 megabytes": lambda good: _with(b"Content-Length: 100000000", body=good),
    "length below nothing": lambda good: _with(b"Content-Length: -1", body=good),
    "length of no number": lambda good: _with(b"Content-Length: many", body=good),
    "length of 500 digits": lambda good: _with(b"Content-Length: " + b"9" * 500, body=good),
    "two lengths": lambda good: _with(b"Content-Length: 2", b"Content-Length: 3", body=good),
    "a length too long": lambda good: http(body=good, length=len(good) + 10),
    "a length too short": lambda good: http(body=good, length=len(good) - 1),
    "a length and chunks": lambda good: _chunked(b"0\r\n\r\n", b"Content-Length: 2") + good,
    "no length": lambda good: _with(body=good),
    # chunks
    "a chunk without a size": lambda _: _chunked(b"zz\r\n"),
    "a chunk below nothing": lambda _: _chunked(b"-5\r\n{}"),
    "a chunk of 50 digits": lambda _: _chunked(b"f" * 50 + b"\r\n{}"),
    "a chunk of 8 exbibytes": lambda _: _chunked(b"7fffffffffffffff\r\n{}"),
    "a chunk that is longer": lambda _: _chunked(b"2\r\n{}}\r\n0\r\n\r\n"),
    "a chunk with a long word": lambda _: _chunked(b"2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n"),
    "many trailers": lambda _: _chunked(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"),
    "another transfer coding": lambda good: _with(b"Transfer-Encoding: gzip", body=good),
    # encodings that nobody asked for
    "gzip": lambda good: http(200, gzip.compress(good), "Content-Encoding: gzip"),
    "gzip, cut": lambda good: http(200, gzip.compress(good)[:-9], "Content-Encoding: gzip"),
    "gzip, broken": lambda good: http(200, good, "Content-Encoding: gzip"),
    "gzip, twice": lambda good: http(
        200, gzip.compress(gzip.compress(good)), "Content-Encoding: gzip, gzip"
    ),
    "gzip, a bomb": lambda _: http(200, _BOMB, "Content-Encoding: gzip"),
    "gzip, a bomb in chunks": lambda _: _chunked(
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(_BOMB), _BOMB), b"Content-Encoding: gzip"
    ),
    "deflate": lambda good: http(200, zlib.compress(good), "Content-Encoding: deflate"),
    "deflate, a bomb": lambda _: http(
        200, zlib.compress(b" " * 5_000_000, 1), "Content-Encoding: deflate"
    ),
    "brotli": lambda good: http(200, good, "Content-Encoding: br"),
    "zstandard": lambda good: http(200, good, "Content-Encoding: zstd"),
    "an unknown encoding": lambda good: http(200, good, "Content-Encoding: rot13"),
    # headers
    "a long header": lambda _: _sized(b"X: " + b"x" * 100_000),
    "a long name": lambda _: _sized(b"x" * 100_000 + b": x"),
    "many headers": lambda _: _sized(*[b"X-%d: y" % number for number in range(5_000)]),
    "a header without a colon": lambda _: _sized(b"nonsense"),
    "a header without a name": lambda _: _sized(b": x"),
    "a header with a null": lambda _: _sized(b"X: a\x00b"),
    "a header with a bare return": lambda _: _sized(b"X: a\rb"),
    "headers of other letters": lambda _: _sized(
        b"X: \xff\xfe", b"Retry-After: \xff", b"Date: \xff", b"Age: \xff"
    ),
    "a folded header": lambda _: _sized(b"X: a", b" b"),
    "cookies": lambda _: _sized(b'Set-Cookie: =;;;\xff"\\', b"Set-Cookie: " + b"a=b;" * 1_000),
    "another type": lambda _: _sized(b"Content-Type: text/html; charset=utf-7; charset=\xff"),
    # the first line
    "status 999": lambda _: _status(b"HTTP/1.1 999 X"),
    "status 000": lambda _: _status(b"HTTP/1.1 000 X"),
    "status 99999": lambda _: _status(b"HTTP/1.1 99999 X"),
    "status -200": lambda _: _status(b"HTTP/1.1 -200 X"),
    "status OK": lambda _: _status(b"HTTP/1.1 OK OK"),
    "no status": lambda _: _status(b"HTTP/1.1"),
    "HTTP/9.9": lambda _: _status(b"HTTP/9.9 200 X"),
    "a long reason": lambda _: _status(b"HTTP/1.1 200 " + b"x" * 100_000),
    "only lines": lambda good: http(body=good).replace(b"\r\n", b"\n"),
    "empty lines first": lambda good: b"\r\n\r\n" + http(body=good),
    "no HTTP": lambda good: good,
    "HTTP/2": lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a frame of HTTP/2": lambda _: b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "an alert of TLS": lambda _: b"\x15\x03\x01\x00\x02\x02\x28",
    "zeros": lambda _: bytes(10_000),
    # replies that are none
    "100 before it": lambda good: b"HTTP/1.1 100 Continue\r\n\r\n" + http(body=good),
    "100 many times": lambda good: b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000 + http(body=good),
    "103 before it": lambda good: b"HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n" + http(body=good),
    "101": lambda _: (
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x02{}"
    ),
    "204 with a body": lambda _: b"HTTP/1.1 204 X\r\nContent-Length: 2\r\n\r\n{}",
    "205": lambda _: b"HTTP/1.1 205 X\r\nContent-Length: 0\r\n\r\n",
    "304": lambda _: b"HTTP/1.1 304 X\r\nContent-Length: 2\r\n\r\n",
    "two replies": lambda good: http(body=good) * 2,
    "ten megabytes": lambda good: http(body=good + b" " * 10_000_000),
    "ten megabytes without a length": lambda good: _with(body=good + b" " * 10_000_000),
}
"""Whole replies by HTTP, made of a good body. The connection is closed after each."""


class Flood:
    """A TCP server that answers whatever comes with a beginning, and then with the same bytes until its client goes.

    Args:
        beginning: written once.
        drops: written over and over.
        most: bytes after which it stops, and hangs up.
    """

    def __init__(self, beginning: bytes, drops: bytes, most: int = 32_000_000) -> None:
        self._beginning = beginning
        self._drops = drops
        self._most = most
        self.sent = 0
        """The most that was sent on one connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            await self._greet(reader, writer)
            writer.write(self._beginning)
            for sent in itertools.count(len(self._drops), len(self._drops)):
                writer.write(self._drops)
                await writer.drain()
                self.sent = max(self.sent, sent)
                if sent > self._most:
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass  # how it went is of no interest here, and must not be reported as overlooked

    async def _greet(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> bytes:
        return await reader.readuntil(b"\r\n\r\n")


class SocketFlood(Flood):
    """The same over a WebSocket: it comes in place of the first reply."""

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        request = await super()._greet(reader, writer)
        [key] = re.findall(rb"(?i)^Sec-WebSocket-Key: (.*)\r$", request, re.MULTILINE)
        headers = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_key(key.decode())}",
        ]
        writer.write("\r\n".join([*headers, "", ""]).encode())
        return await reader.read(65_536)


_DROPS: Final = b"x" * 50_000

FLOODS: Final[Mapping[str, tuple[bytes, bytes]]] = {
    "a body without a length": (_with(body=b""), _DROPS),
    "a body of 100 megabytes": (_with(b"Content-Length: 100000000", body=b""), _DROPS),
    "a body in chunks": (_chunked(b""), b"c350\r\n%s\r\n" % _DROPS),
    "a body in small chunks": (_chunked(b""), b"20\r\n%s\r\n" % (b" " * 32) * 1_000),
    "a bomb after a bomb": (
        _chunked(b"", b"Content-Encoding: gzip"),
        b"%x\r\n%s\r\n" % (len(_BOMB), _BOMB),
    ),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Header: something\r\n" * 2_000),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", _DROPS),
    "a first line": (b"HTTP/1.1 200 ", _DROPS),
    "trailers": (_chunked(b"2\r\n{}\r\n0\r\n"), b"X-Trailer: something\r\n" * 2_000),
    "a chunk's size": (_chunked(b""), b"0" * 50_000),
}
"""What never ends: a beginning, and what is repeated."""

DOOR_FLOODS: Final[Mapping[str, tuple[bytes, bytes]]] = {
    "a first line": (b"HTTP/1.1 101 ", _DROPS),
    "headers": (b"HTTP/1.1 101 X\r\n", b"X-Header: something\r\n" * 2_000),
    "a header": (b"HTTP/1.1 101 X\r\nX: ", _DROPS),
    "a body": (b"HTTP/1.1 200 X\r\n\r\n", _DROPS),
    "100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
}
"""The same in answer to an upgrade."""

FRAME_FLOODS: Final[Mapping[str, tuple[bytes, bytes]]] = {
    "small parts": (frame(b"{", fin=False), frame(b"", Opcode.CONT, fin=False) * 500),
    "parts": (frame(b"{", fin=False), frame(b" " * 50, Opcode.CONT, fin=False) * 500),
    "a frame of a megabyte": (b"\x81\x7f" + struct.pack("!Q", 1 << 20), b"{" * 50_000),
    "a frame of 8 exbibytes": (b"\x81\x7f" + struct.pack("!Q", 2**63 - 1), b"{" * 50_000),
    "pings": (b"", frame(b"x" * 125, Opcode.PING) * 200),
}
"""The same in place of a message."""

# -- WebSockets ----------------------------------------------------------------------------------------------------


def _declared(length: int, beginning: bytes = b"") -> bytes:
    """A text frame of a length that need not come."""
    return b"\x81\x7f" + struct.pack("!Q", length) + beginning


def _reserved(bits: int, good: bytes) -> bytes:
    """A text frame with reserved bits."""
    return bytes([0x81 | bits << 4]) + frame(good)[1:]


def _in_parts(good: bytes, size: int) -> bytes:
    """A text in frames of some bytes each."""
    parts = [good[at : at + size] for at in range(0, len(good), size)]
    opcodes = itertools.chain([Opcode.TEXT], itertools.repeat(Opcode.CONT))
    last = len(parts) - 1
    return b"".join(
        frame(part, opcode, fin=number == last)
        for number, (part, opcode) in enumerate(zip(parts, opcodes, strict=False))
    )


def _endless(part: bytes, count: int) -> bytes:
    """A text that begins, and goes on."""
    return frame(b"{", fin=False) + frame(part, Opcode.CONT, fin=False) * count


FRAMES: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    # texts in parts
    "in parts of one byte": lambda good: _in_parts(good, 1),
    "empty parts before it": lambda good: (
        frame(b"", fin=False)
        + frame(b"", Opcode.CONT, fin=False) * 4_000
        + frame(good, Opcode.CONT)
    ),
    "parts without end": lambda _: _endless(b" ", 5_000),
    "two megabytes of parts": lambda _: _endless(b" " * 10_000, 200),
    "a part of nothing": lambda good: frame(good, Opcode.CONT),
    "a text within a text": lambda good: frame(b"{", fin=False) + frame(good),
    "a binary in parts": lambda good: (
        frame(good[:9], Opcode.BINARY, fin=False) + frame(good[9:], Opcode.CONT)
    ),
    # lengths
    "2**63 - 1 bytes": lambda good: _declared(2**63 - 1, good),
    "2**63 bytes": lambda good: _declared(2**63, good),
    "2**64 - 1 bytes": lambda good: _declared(2**64 - 1, good),
    "a megabyte that does not come": lambda good: _declared(1 << 20, good),
    "a length in more bytes than it takes": lambda good: _declared(len(good), good),
    "half a header": lambda _: b"\x81",
    "a megabyte": lambda good: frame(good.rjust(1 << 20)),
    "more than a megabyte": lambda good: frame(good.rjust((1 << 20) + 1)),
    # bits and codes
    "compressed": lambda good: _reserved(4, zlib.compress(good)),
    "second reserved bit": lambda good: _reserved(2, good),
    "third reserved bit": lambda good: _reserved(1, good),
    "masked": lambda good: frame(good, masked=True),
    **{f"opcode {code}": partial(frame, opcode=code) for code in (3, 7, 11, 15)},
    "binary": lambda good: frame(good, Opcode.BINARY),
    # control frames
    "a ping of 126 bytes": lambda _: frame(b"x" * 126, Opcode.PING),
    "a ping in parts": lambda _: frame(b"x", Opcode.PING, fin=False),
    "pings": lambda good: frame(b"x" * 125, Opcode.PING) * 2_000 + frame(good),
    "pongs": lambda good: frame(b"x" * 125, Opcode.PONG) * 2_000 + frame(good),
    "pings within a text": lambda good: (
        frame(good[:9], fin=False) + frame(b"", Opcode.PING) * 100 + frame(good[9:], Opcode.CONT)
    ),
    **{
        f"closed with {code}": partial(lambda _, code: closing(code), code=code)
        for code in (0, 999, 1000, 1004, 1005, 1006, 1011, 1015, 2999, 4999, 5000, 65535)
    },
    "closed with one byte": lambda _: frame(b"x", Opcode.CLOSE),
    "closed with 126 bytes": lambda _: closing(1000, "x" * 124),
    "closed in bad letters": lambda _: frame(b"\x03\xe8\xff\xfe", Opcode.CLOSE),
    "closed, then the reply": lambda good: closing(1000) + frame(good),
    "the reply, then closed": lambda good: frame(good) + closing(1000),
    # texts
    "bad letters": lambda good: frame(good[:-2] + b"\xff\xff"),
    "a mark before it": lambda good: frame(b"\xef\xbb\xbf" + good),
    "empty texts before it": lambda good: frame(b"") * 2_000 + frame(good),
    "strangers before it": lambda good: frame(b'{"id":"x","status":200}') * 2_000 + frame(good),
    "deep before it": lambda good: frame(b"[" * DEEP) + frame(good),
    "the reply twice": lambda good: frame(good) * 2,
    "two replies in a text": lambda good: frame(good * 2),
    # what is no frame
    "zeros": lambda _: bytes(1_000),
    "ones": lambda _: b"\xff" * 1_000,
    "HTTP": lambda _: http(400),
    "nothing": lambda _: b"",
}
"""What comes over a socket in place of a good text."""
