"""Where a recorded exchange can be cut: the phases of its bytes, plain and under TLS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from support.cutter import Direction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.cutter import Link

__all__ = ["ENCRYPTED", "HANDSHAKE", "Point", "Span", "points", "records", "requests_left", "spans"]

TO_VENDOR, TO_CLIENT = Direction.TO_VENDOR, Direction.TO_CLIENT

HANDSHAKE: Final = "TLS handshake"
"""The phase of a TLS handshake."""
ENCRYPTED: Final = 23
"""The outer content type of TLS records after the first messages."""
ALERT: Final = 19
"""Bytes of an encrypted alert: two, their type, and the tag."""
CONTROL: Final = 8 + 17
"""Bytes of an encrypted WebSocket close frame of a client without a reason, the longest that is no message."""
BLANK: Final = b"\r\n\r\n"


@dataclass(frozen=True)
class Span:
    """The bytes of one direction, from ``start`` up to ``end``, that make one phase."""

    phase: str
    direction: Direction
    start: int
    end: int


@dataclass(frozen=True)
class Point:
    """Where a connection is cut: as soon as the bytes before have passed or (``lazy``) when one more comes.

    Attributes:
        phase: what is under way there.
        direction: whose bytes are counted.
        at: how many bytes of the connection pass before.
        fresh: the same place in the first exchange of another connection.
    """

    phase: str
    direction: Direction
    at: int
    lazy: bool
    fresh: int


class Record(NamedTuple):
    """A TLS record in a stream, as far as it came.

    Attributes:
        start: its first byte, that of its head.
        kind: its outer content type.
        length: what its head says of the length of the rest; None where the head has not come.
        came: how much of it came, the head included.
    """

    start: int
    kind: int
    length: int | None
    came: int


def records(stream: bytes | bytearray) -> Iterator[Record]:
    """The TLS records of a stream, the last of which may be cut off."""
    start = 0
    while start < len(stream):
        head = stream[start : start + 5]
        length = int.from_bytes(head[3:]) if len(head) == 5 else None
        whole = 5 + (length or 0)
        yield Record(start, head[0], length, min(whole, len(stream) - start))
        start += whole


def spans(
    link: Link, *, secure: bool, socket: bool, welcome: int, since: Mapping[Direction, int]
) -> list[Span]:
    """The phases of a clean exchange.

    Args:
        link: what was recorded.
        secure: it is under TLS.
        socket: it is a WebSocket.
        welcome: how many encrypted records the server's side of a TLS handshake has, session tickets included.
        since: how many bytes of an earlier exchange on the connection are not looked at.
    """
    asked, told = bytes(link.came[TO_VENDOR]), bytes(link.came[TO_CLIENT])
    first = not any(since.values())
    names = ["request", "reply"]
    marks: dict[Direction, list[tuple[str, int]]] = {TO_VENDOR: [], TO_CLIENT: []}
    if first and secure:
        marks[TO_VENDOR].append((HANDSHAKE, _after_records(asked, 1)))
        marks[TO_CLIENT].append((HANDSHAKE, _after_records(told, welcome)))
    if first and socket:
        upgraded_at = (
            (_after_records(asked, 2), _after_records(told, welcome + 1))
            if secure
            else (asked.index(BLANK) + 4, told.index(BLANK) + 4)
        )
        marks[TO_VENDOR].append(("upgrade request", upgraded_at[0]))
        marks[TO_CLIENT].append(("upgrade reply", upgraded_at[1]))
    for direction, stream, name in zip(Direction, (asked, told), names, strict=True):
        if not secure and not socket:
            head = stream.index(BLANK, since[direction]) + 4
            marks[direction].append((f"{name} head", head))
            if head < len(stream):
                marks[direction].append((f"{name} body", len(stream)))
        else:
            marks[direction].append((name, len(stream)))
    found: list[Span] = []
    for direction, ends in marks.items():
        start = since[direction]
        for phase, end in ends:
            found.append(Span(phase, direction, start, end))
            start = end
    return found


def points(found: list[Span], first: list[Span]) -> list[Point]:
    """Every byte of the phases: before it, and after the last of a direction.

    On the way to the vendor a connection is cut as soon as the bytes before have passed: the vendor has read none of
    the last piece. On the way to the client it is cut when the next byte comes: the vendor has done its work.

    Args:
        found: the phases of the exchange that is cut.
        first: those of the first exchange of the connection, the same one or an earlier one of the same kind.
    """
    every: list[Point] = []
    for direction in Direction:
        lazy = direction is TO_CLIENT
        own, fresh = ([s for s in each if s.direction is direction] for each in (found, first))
        shift = fresh[-1].end - own[-1].end
        for span in own:
            ats = range(span.start, span.end)
            every += (Point(span.phase, direction, at, lazy, at + shift) for at in ats)
        end = own[-1].end
        every.append(Point(own[-1].phase, direction, end, lazy=False, fresh=end + shift))
    return every


def requests_left(link: Link, *, secure: bool, socket: bool) -> int:
    """How many bytes of requests a client has sent on a connection, whether they passed the cutter or not: what came
    but for TLS handshake and alerts, the WebSocket's upgrade and its control frames."""
    stream = bytes(link.came[TO_VENDOR])
    if secure:
        sealed = [record for record in records(stream) if record.kind == ENCRYPTED]
        # The first ends the handshake, the second of a WebSocket asks for the upgrade.
        own, control = sealed[2 if socket else 1 :], CONTROL if socket else ALERT
        return sum(each.came for each in own if each.length is None or each.length > control)
    if not socket:
        return len(stream)
    return sum(_messages(stream.partition(BLANK)[2]))


def _messages(stream: bytes) -> Iterator[int]:
    """The lengths of a client's WebSocket messages in a stream, as far as they came."""
    start = 0
    while start < len(stream):
        head = stream[start : start + 4]
        length = head[1] & 127 if len(head) > 1 else 0
        size = 6 + length
        if length == 126:
            size = 8 + int.from_bytes(head[2:4])
        assert length < 127, "no message of this suite has more than 64 KiB"
        if head[0] & 15 < 8:
            yield min(size, len(stream) - start)
        start += size


def _after_records(stream: bytes, number: int) -> int:
    """Where the first so many encrypted records of a stream end."""
    sealed = [record for record in records(stream) if record.kind == ENCRYPTED]
    last = sealed[number - 1]
    assert last.length is not None, "a clean exchange has whole records"
    return last.start + 5 + last.length
