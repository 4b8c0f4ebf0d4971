"""Vendors by name: adapters announce themselves through the entry point group ``tronsave_async.gateways``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tronsave_async.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from tronsave_async.gateway import OrderGateway

__all__ = ["available_gateways", "entry_points", "open_gateway"]

GROUP: Final = "tronsave_async.gateways"


def available_gateways() -> list[str]:
    """The names of the installed vendors, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def open_gateway(vendor: str, **options: Any) -> OrderGateway:
    """Construct a vendor's gateway; use it as an async context manager, or close it with `aclose`.

    Args:
        vendor: a name out of `available_gateways`.
        options: the arguments of the gateway's ``from_env``: those of its constructor. Credentials that are left out
            come from the environment.

    Raises:
        UsageError: no installed package provides this vendor.
        CredentialsMissing: neither the options nor the environment have the credentials.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == vendor]
    if not points:
        known = ", ".join(available_gateways()) or "none"
        raise UsageError(f"no gateway named {vendor!r} is installed (available: {known})")
    gateway: OrderGateway = points[0].load().from_env(**options)
    return gateway


def entry_points(*, group: str) -> EntryPoints:
    """What installed packages announce in a group."""
    # Imported on use: a sixth of the time that importing the package would take.
    from importlib import metadata

    return metadata.entry_points(group=group)
