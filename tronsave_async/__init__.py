"""An asyncio SDK over vendors' order-cancel APIs that never lies about an order.

`OrderGateway` is the contract, `CancelOutcome` what a cancel ends in, `GatewayError` the root of what is raised. The
vendors' gateways are in the package ``brokers``, or come from `open_gateway` by name.
"""

from tronsave_async.credentials import Secret
from tronsave_async.errors import (
    AuthenticationRejected,
    BadReply,
    BusinessRefusal,
    ConnectFailed,
    ConnectionLost,
    CredentialsMissing,
    GatewayClosed,
    GatewayError,
    InvalidRequest,
    OrderNotFound,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    RequestFailed,
    RequestTimeout,
    UsageError,
    VendorError,
    VendorFailure,
    WrongEndpoint,
)
from tronsave_async.gateway import OrderGateway
from tronsave_async.limiter import (
    Lane,
    Permit,
    RateLimit,
    RateLimiter,
    Scope,
    ScopeStatistics,
    shared_limiter,
)
from tronsave_async.orders import BearerRef, OrderRef, OrderSnapshot, OrderState
from tronsave_async.outcomes import (
    AlreadyClosed,
    Canceled,
    CancelOutcome,
    Evidence,
    NotFound,
    NotSent,
    Refused,
    TooEarly,
    Unknown,
    Wire,
)
from tronsave_async.registry import available_gateways, open_gateway
from tronsave_async.retry import RetryPolicy
from tronsave_async.telemetry import (
    Answered,
    Connected,
    Disconnected,
    Event,
    LoggingHook,
    Lost,
    OutcomeReached,
    Penalized,
    Queued,
    Retried,
    Sent,
    Stray,
    TelemetryHook,
)

__version__ = "0.1.0"

__all__ = [
    # outcomes
    "AlreadyClosed",
    # telemetry
    "Answered",
    # errors
    "AuthenticationRejected",
    "BadReply",
    "BearerRef",
    "BusinessRefusal",
    "CancelOutcome",
    "Canceled",
    "ConnectFailed",
    "Connected",
    "ConnectionLost",
    "CredentialsMissing",
    "Disconnected",
    "Event",
    "Evidence",
    "GatewayClosed",
    "GatewayError",
    "InvalidRequest",
    # limiter
    "Lane",
    "LoggingHook",
    "Lost",
    "NotFound",
    "NotSent",
    # gateway, orders
    "OrderGateway",
    "OrderNotFound",
    "OrderRef",
    "OrderSnapshot",
    "OrderState",
    "OutcomeReached",
    "OutcomeUnknown",
    "Penalized",
    "PermissionDenied",
    "Permit",
    "Queued",
    "QuotaExhausted",
    "RateLimit",
    "RateLimited",
    "RateLimiter",
    "Refused",
    "RequestFailed",
    "RequestTimeout",
    "Retried",
    # retry
    "RetryPolicy",
    "Scope",
    "ScopeStatistics",
    # credentials
    "Secret",
    "Sent",
    "Stray",
    "TelemetryHook",
    "TooEarly",
    "Unknown",
    "UsageError",
    "VendorError",
    "VendorFailure",
    "Wire",
    "WrongEndpoint",
    # registry
    "available_gateways",
    "open_gateway",
    "shared_limiter",
]
