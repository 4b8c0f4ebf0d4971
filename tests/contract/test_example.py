"""`brokers/README.md` beside its code, which plays the whole suite: what it says about publishing holds."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest

from support.canary import CANARY
from tronsave_async import CredentialsMissing, open_gateway, registry
from tronsave_async.registry import GROUP

from .example import MODULES, PACKAGE, README, STAGE, blocks
from .scenario import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable


def published() -> EntryPoint:
    """The entry point of the README's distribution."""
    [(_, text)] = blocks("toml")
    [(name, value)] = tomllib.loads(text)["project"]["entry-points"][GROUP].items()
    return EntryPoint(name, value, GROUP)


def test_it_is_on_the_stage() -> None:
    """The suite's scenarios are played against the example."""
    assert STAGE in STAGES


def test_its_gateway_opens_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the entry point announced, `open_gateway` finds it, with a key or the environment's."""
    point = published()
    entry_points: Callable[..., list[EntryPoint]] = lambda **_: [point]  # noqa: E731
    monkeypatch.setattr(registry, "entry_points", entry_points)
    monkeypatch.delenv("ACME_API_KEY", raising=False)
    with pytest.raises(CredentialsMissing):
        open_gateway(point.name)
    assert open_gateway(point.name, api_key=CANARY).venue == STAGE.venue == point.name
    monkeypatch.setenv("ACME_API_KEY", CANARY)
    assert CANARY not in repr(open_gateway(point.name))


def test_its_table_of_files_is_complete() -> None:
    """Each file of the example is in the table, and each file of the table but the optional one is in the example."""
    named = set(re.findall(r"^\| `(\w+)\.py` \|", README.read_text(encoding="utf-8"), re.MULTILINE))
    built = {name.removeprefix(f"{PACKAGE}.") for name in MODULES} - {PACKAGE, "stage"}
    assert named - {"auth"} == built


def test_it_needs_what_it_says() -> None:
    """The example's package imports what its distribution depends on, and nothing else."""
    [(_, text)] = blocks("toml")
    required = {
        re.split(r"[<>=]", name)[0] for name in tomllib.loads(text)["project"]["dependencies"]
    }
    imported: set[str] = set()
    for _, code in blocks("python"):
        if code.startswith(f"# {PACKAGE}/stage.py"):
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {name.replace("-", "_") for name in required}
