"""Vendors by name."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from tronsave_async import (
    CredentialsMissing,
    UsageError,
    available_gateways,
    open_gateway,
)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce one vendor, whether or not a wheel is installed."""
    group = "tronsave_async.gateways"
    points = [metadata.EntryPoint("tronsave", "brokers.tronsave:TronSaveGateway", group)]

    def entry_points(*, group: str) -> metadata.EntryPoints:
        return metadata.EntryPoints(point for point in points if point.group == group)

    monkeypatch.setattr(metadata, "entry_points", entry_points)


@pytest.mark.parametrize("options", [{}, {"base_url": "https://api-dev.tronsave.io"}])
def test_credentials_come_from_the_environment(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vendor opens by name, with or without options, with the environment's credentials."""
    monkeypatch.setenv("TRONSAVE_API_KEY", "key")
    assert open_gateway("tronsave", **options).venue == "tronsave"


def test_credentials_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given credentials need no environment; without either it says which variable is missing."""
    monkeypatch.delenv("TRONSAVE_API_KEY", raising=False)
    assert open_gateway("tronsave", api_key="key").venue == "tronsave"
    with pytest.raises(CredentialsMissing, match="TRONSAVE_API_KEY"):
        open_gateway("tronsave")


def test_unknown_vendor() -> None:
    """A name that nobody announced is a usage error that names those there are."""
    assert available_gateways() == ["tronsave"]
    with pytest.raises(UsageError, match=r"'nobody' is installed \(available: tronsave\)"):
        open_gateway("nobody")
