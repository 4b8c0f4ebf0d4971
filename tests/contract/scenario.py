"""Which vendors are on the stage, and which scenarios each of them plays."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .stage import Ability, Stage

__all__ = ["ELSEWHERE", "SCENARIOS", "STAGES", "not_played", "scenario"]

C = TypeVar("C", bound="Callable[..., object]")


ELSEWHERE: Final = os.environ.get("CONTRACT_STAGES", "").split()
"""Modules with a stage that are not of this repository, separated by spaces."""


def _stages() -> list[type[Stage]]:
    """The ``STAGE`` of every module of this folder that has one, by name of the file, and of those of others, which
    take the place of one for the same venue."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    names = [f"{__package__}.{name}" for name in files if _may_be_a_stage(name)]
    modules = [import_module(name) for name in [*names, *ELSEWHERE]]
    stages = [module.STAGE for module in modules if hasattr(module, "STAGE")]
    return list({stage.venue: stage for stage in stages}.values())


def _may_be_a_stage(name: str) -> bool:
    return not name.startswith("test_") and f"{__package__}.{name}" != __name__


STAGES: Final = _stages()

SCENARIOS: Final[dict[str, frozenset[Ability]]] = {}
"""Every scenario by name, with what a vendor needs to play it. Filled as the test modules are imported."""


def scenario(*needs: Ability) -> Callable[[C], C]:
    """Play a test against every vendor that has what it needs; the test takes the vendor as ``kind``."""

    def register(function: C) -> C:
        SCENARIOS[function.__name__] = frozenset(needs)
        able = [stage for stage in STAGES if not stage.lacks.keys() & set(needs)]
        played: C = pytest.mark.parametrize("kind", able, ids=lambda stage: stage.venue)(function)
        return played

    return register


def not_played() -> dict[tuple[str, str], str]:
    """Each scenario and the vendor that cannot play it, with the vendor's reasons."""
    return {
        (name, stage.venue): "; ".join(
            stage.lacks[a] for a in sorted(needs, key=str) if a in stage.lacks
        )
        for name, needs in SCENARIOS.items()
        for stage in STAGES
        if stage.lacks.keys() & needs
    }
