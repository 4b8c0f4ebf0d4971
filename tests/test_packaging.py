"""The distribution: what is tested is what gets installed."""

from __future__ import annotations

import os
import re
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

import brokers
import tronsave_async

ROOT = Path(__file__).parent.parent
DISTRIBUTION = metadata.distribution("tronsave-async")
PACKAGES = [tronsave_async, brokers]


@pytest.mark.skipif(
    "TOX_ENV_NAME" not in os.environ, reason="an editable installation is fine outside the runner"
)
@pytest.mark.parametrize("package", PACKAGES, ids=["tronsave_async", "brokers"])
def test_the_installed_wheel_is_tested(package: object) -> None:
    """Under the project's runner, packages come from site-packages and not from the checkout."""
    location = Path(getattr(package, "__file__", "")).resolve()
    assert location.is_relative_to(Path(sysconfig.get_path("purelib")).resolve())
    assert not location.is_relative_to(ROOT / location.parent.name)


def test_the_runtime_dependencies_are_these_four() -> None:
    """The wheel requires four packages and nothing else, outside its extras."""
    required = [line for line in DISTRIBUTION.requires or [] if "extra ==" not in line]
    names = [re.split(r"[<>=!~;\[ ]", line)[0] for line in required]
    assert sorted(names) == ["aiohttp", "anyio", "msgspec", "websockets"]


@pytest.mark.parametrize("package", PACKAGES, ids=["tronsave_async", "brokers"])
def test_types_are_shipped(package: object) -> None:
    """Type checkers find the marker that says that the package is typed."""
    assert (Path(getattr(package, "__file__", "")).parent / "py.typed").is_file()


def test_the_version_is_the_same_everywhere() -> None:
    """The package, its metadata and the changelog speak of the same version."""
    version = tronsave_async.__version__
    assert version == DISTRIBUTION.version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?(Unreleased|{re.escape(version)})\b", changelog, flags=re.MULTILINE)


def test_every_entry_point_resolves() -> None:
    """Gateways and the console script are importable under the names that were published."""
    published = [point for point in DISTRIBUTION.entry_points if point.load()]
    assert {"tronsave"} <= {p.name for p in published if p.group == "tronsave_async.gateways"}
    assert [p.name for p in published if p.group == "console_scripts"] == ["tronsave-async"]
