"""Secrets that cannot be printed."""

from __future__ import annotations

import os
from typing import Final, NoReturn

from tronsave_async.errors import CredentialsMissing, UsageError

__all__ = ["Secret"]

_MASK: Final = "***"
_PROCESS_KEY: Final = os.urandom(16)


class _Masked(str):
    """The plain value for the wire, whose ``repr`` shows nothing: dumps of headers and locals stay clean."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(_MASK)


class _MaskedBytes(bytes):
    """The same for bytes."""

    def __repr__(self) -> str:
        return repr(_MASK)


class Secret:
    """A key, token or password: printing, formatting, pickling and serializing it shows nothing.

    Args:
        value: the plain text: visible characters without spaces, as a header can carry them.

    Raises:
        UsageError: the value is not text, empty, or has characters that no header can carry.
    """

    __slots__ = ("_value", "account")

    def __init__(self, value: str) -> None:
        given: object = value
        if not isinstance(given, str) or not given:
            raise UsageError("a credential must be a non-empty string")
        value = given = _Masked(value)  # a traceback that shows locals shows nothing
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise UsageError("a credential must be printable ASCII without spaces")
        self._value: Final = _Masked(value)
        from hashlib import blake2b  # on use: a tenth of the time that importing the package takes

        digest = blake2b(value.encode(), key=_PROCESS_KEY, digest_size=6)
        self.account: Final = digest.hexdigest()
        """Names the account inside this process: equal for equal secrets, salted anew in every process."""

    @classmethod
    def of(cls, value: str | Secret) -> Secret:
        """Wrap plain text; pass a secret through."""
        return value if isinstance(value, Secret) else cls(value)

    @classmethod
    def from_env(cls, venue: str, variable: str) -> Secret:
        """Read an environment variable.

        Raises:
            CredentialsMissing: it is not set, or empty.
        """
        value = _Masked(os.environ.get(variable, ""))
        if not value:
            raise CredentialsMissing(venue, variable)
        return cls(value)

    @staticmethod
    def masked(text: str) -> str:
        """The same text, whose ``repr`` shows nothing."""
        return _Masked(text)

    @staticmethod
    def masked_bytes(text: str) -> bytes:
        """The text in UTF-8, whose ``repr`` shows nothing."""
        return _MaskedBytes(text.encode())

    def reveal(self) -> str:
        """The plain text, for the wire and nothing else. Its ``repr`` is masked as well."""
        return self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        from hmac import compare_digest

        return compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self.account)

    def __repr__(self) -> str:
        return f"Secret({_MASK!r})"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, spec: str) -> str:
        return format(_MASK, spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied into another process")
