"""What is raised. Errors are for the program and the account; what became of an order is an outcome.

::

    GatewayError
    ├── UsageError (ValueError)         the call itself is wrong: nothing was sent
    ├── GatewayClosed (RuntimeError)    the gateway is closed: nothing was sent by this call
    ├── CredentialsMissing              no key or secret was configured
    ├── RequestFailed                   a request got no usable answer; ``wire`` says how far it got
    │   ├── ConnectFailed               no connection stood: nothing was sent
    │   ├── ConnectionLost              the connection broke: the request may have arrived
    │   ├── RequestTimeout (TimeoutError)  time ran out
    │   ├── QuotaExhausted              the vendor answers nothing before tomorrow: nothing was sent
    │   └── BadReply                    the vendor answered something unreadable
    ├── VendorError                     the vendor answered with an error
    │   ├── AuthenticationRejected      the key, token or signature is not accepted
    │   ├── PermissionDenied            the account may not do this
    │   ├── InvalidRequest              the vendor calls the request malformed
    │   ├── WrongEndpoint               the host or path is not the vendor's API
    │   ├── BusinessRefusal             a rule of the vendor's market or of the account's balance
    │   ├── OrderNotFound               the vendor knows no such order
    │   ├── RateLimited                 too many requests: not processed
    │   └── VendorFailure               5xx: it may or may not have been processed
    └── OutcomeUnknown                  a call that must not be repeated may have taken effect

Every error has typed fields and builds its text from them; no text carries a credential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from tronsave_async.outcomes import Wire

__all__ = [
    "AuthenticationRejected",
    "BadReply",
    "BusinessRefusal",
    "ConnectFailed",
    "ConnectionLost",
    "CredentialsMissing",
    "GatewayClosed",
    "GatewayError",
    "InvalidRequest",
    "OrderNotFound",
    "OutcomeUnknown",
    "PermissionDenied",
    "QuotaExhausted",
    "RateLimited",
    "RequestFailed",
    "RequestTimeout",
    "UsageError",
    "VendorError",
    "VendorFailure",
    "WrongEndpoint",
]


class GatewayError(Exception):
    """The root of everything this SDK raises. It can be copied and pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[GatewayError], args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class UsageError(GatewayError, ValueError):
    """The call itself is wrong (an empty id, a negative timeout, a naive datetime). Nothing was sent."""


class GatewayClosed(GatewayError, RuntimeError):
    """The gateway, or the session it was given, is closed. Nothing was sent by this call."""

    def __init__(self, venue: str) -> None:
        super().__init__(venue)
        self.venue = venue

    def __str__(self) -> str:
        return f"the {self.venue} gateway is closed"


class CredentialsMissing(GatewayError):
    """No credential was configured; ``variable`` names the environment variable that would hold it."""

    def __init__(self, venue: str, variable: str) -> None:
        super().__init__(venue, variable)
        self.venue = venue
        self.variable = variable

    def __str__(self) -> str:
        return f"no credentials for {self.venue}: set {self.variable}"


class RequestFailed(GatewayError):
    """A request got no usable answer.

    Attributes:
        venue: the gateway's name.
        endpoint: the vendor's call.
        reason: what happened, in a few words.
        wire: how far the request got.
    """

    def __init__(self, venue: str, endpoint: str, reason: str, *, wire: Wire) -> None:
        super().__init__(venue, endpoint, reason, wire)
        self.venue = venue
        self.endpoint = endpoint
        self.reason = reason
        self.wire = wire

    def __str__(self) -> str:
        return f"{self.venue} {self.endpoint}: {self.reason} ({self.wire.value.replace('_', ' ')})"


class ConnectFailed(RequestFailed):
    """No connection stood (refused, DNS, TLS, proxy): nothing was sent."""


class ConnectionLost(RequestFailed):
    """The connection broke after the request may have left."""


class RequestTimeout(RequestFailed, TimeoutError):
    """Time ran out; ``wire`` says whether the request may have arrived."""


class QuotaExhausted(RequestFailed):
    """The vendor's quota for the day is used up, and asking on would only be refused: nothing was sent.

    Attributes:
        retry_at: the moment (aware, UTC) from which on requests are sent again.
    """

    def __init__(
        self, venue: str, endpoint: str, reason: str, *, wire: Wire, retry_at: datetime
    ) -> None:
        super().__init__(venue, endpoint, reason, wire=wire)
        self.retry_at = retry_at


class BadReply(RequestFailed):
    """The vendor, or something in front of it, answered with what is not its API.

    Attributes:
        status: the HTTP status, or None.
    """

    def __init__(
        self, venue: str, endpoint: str, reason: str, *, wire: Wire, status: int | None = None
    ) -> None:
        super().__init__(venue, endpoint, reason, wire=wire)
        self.status = status


class VendorError(GatewayError):
    """The vendor answered with an error.

    Attributes:
        venue: the gateway's name.
        endpoint: the vendor's call.
        status: the HTTP (or HTTP-like) status.
        code: the vendor's code, verbatim, or None where it gave none.
        number: the vendor's number for the code, or None.
        text: the vendor's words, verbatim.
        retry_after: seconds to wait, where the vendor said so.
    """

    def __init__(
        self,
        venue: str,
        endpoint: str,
        *,
        status: int,
        code: str | None = None,
        number: int | None = None,
        text: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(venue, endpoint, status, code, number, text)
        self.venue = venue
        self.endpoint = endpoint
        self.status = status
        self.code = code
        self.number = number
        self.text = text
        self.retry_after = retry_after

    @property
    def words(self) -> str:
        """Status, code, number and text in one line, as far as they were given."""
        code = f" {self.code}" if self.code else ""
        number = f" ({self.number})" if self.number is not None else ""
        text = f": {self.text}" if self.text else ""
        return f"HTTP {self.status}{code}{number}{text}"

    def __str__(self) -> str:
        return f"{self.venue} {self.endpoint}: {self.words}"


class AuthenticationRejected(VendorError):
    """The key, token or signature is not accepted. Nothing was done."""


class PermissionDenied(VendorError):
    """The account may not do this. Nothing was done."""


class InvalidRequest(VendorError):
    """The vendor calls the request malformed. Nothing was done."""


class WrongEndpoint(VendorError):
    """The host or path is not the vendor's API (not: an unknown order). Check the base URL."""


class BusinessRefusal(VendorError):
    """A rule of the vendor's market or of the account's balance; ``code`` says which. Nothing was done."""


class OrderNotFound(VendorError):
    """The vendor's own words: it knows no such order."""


class RateLimited(VendorError):
    """Too many requests: this one was not processed."""


class VendorFailure(VendorError):
    """The vendor failed (5xx): the request may or may not have been processed."""


class OutcomeUnknown(GatewayError):
    """A call that must not be repeated may have taken effect, and no answer says whether it did.

    Attributes:
        venue: the gateway's name.
        endpoint: the vendor's call.
        sent_at: UTC time just before the request could leave.
        how_to_check: what to call to learn what happened.
        reason: what came in place of an answer; ``__cause__`` is the error.
    """

    def __init__(
        self,
        venue: str,
        endpoint: str,
        *,
        sent_at: datetime,
        how_to_check: str,
        reason: str = "not answered",
    ) -> None:
        super().__init__(venue, endpoint, sent_at, how_to_check, reason)
        self.venue = venue
        self.endpoint = endpoint
        self.sent_at = sent_at
        self.how_to_check = how_to_check
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.venue} {self.endpoint}: sent at {self.sent_at.isoformat()} and {self.reason}; it may have "
            f"taken effect and was not repeated. {self.how_to_check}"
        )
