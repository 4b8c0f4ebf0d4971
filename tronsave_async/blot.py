"""Secrets taken out of what vendors say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from tronsave_async.credentials import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Blot"]

_ESCAPE: Final = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|(.))")


def _character(escape: re.Match[bytes]) -> bytes:
    """The character that an escape stands for; what is no JSON afterwards is not read."""
    code, plain = escape.groups()
    return plain if code is None else chr(int(code, 16)).encode(errors="replace")


class Blot:
    """Takes secrets out of what a vendor says: no reply may echo them into logs, errors or outcomes.

    Args:
        secrets: the texts.
    """

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Iterable[str]) -> None:
        # As it is, and as JSON writes it: a quote or a backslash in it has a backslash before it.
        self._secrets: Final = [
            Secret.masked_bytes(form)
            for text in secrets
            for form in {text, msgspec.json.encode(str.__str__(text)).decode()[1:-1]}
        ]

    def __call__(self, content: bytes) -> bytes:
        """The content without secrets, also where JSON's escapes hide them."""
        if b"\\" in content:
            content = self._unescaped(content)
        for secret in self._secrets:
            if secret in content:
                content = content.replace(secret, b"***")
        return content

    def _unescaped(self, content: bytes) -> bytes:
        try:
            plain = msgspec.json.encode(msgspec.json.decode(content))
        except (ValueError, RecursionError):
            plain = _ESCAPE.sub(_character, content)
        return plain if any(secret in plain for secret in self._secrets) else content
