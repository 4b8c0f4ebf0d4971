"""Who plays what: every vendor is on the stage, and what it does not play is known, with the reason."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import brokers

from .scenario import ELSEWHERE, SCENARIOS, STAGES, not_played
from .stage import Ability

for path in sorted(Path(__file__).parent.glob("test_*.py")):
    if path.stem != Path(__file__).stem:
        import_module(f"{__package__}.{path.stem}")

NOT_PLAYED = {
    "acme": {
        "test_already_expired",
        "test_caller_canceled_while_held_back",
        "test_canceled_in_parts",
        "test_expired",
        "test_expired_by_its_age",
        "test_gateway_closed_while_held_back",
        "test_held_back_until_it_is_not_too_early",
        "test_partly_filled",
        "test_partly_filled_in_the_race",
        "test_too_early",
        "test_too_early_for_the_vendor",
    },
    "ripio": {
        "test_already_expired",
        "test_caller_canceled_while_held_back",
        "test_expired",
        "test_expired_by_its_age",
        "test_gateway_closed_while_held_back",
        "test_held_back_until_it_is_not_too_early",
        "test_too_early",
        "test_too_early_for_the_vendor",
        "test_too_many_requests_with_retry_after",
    },
    "sms4sats": {
        "test_canceled_in_parts",
        "test_canceled_with_amounts",
        "test_partly_filled",
        "test_partly_filled_in_the_race",
    },
    "tronsave": {
        "test_caller_canceled_while_held_back",
        "test_canceled_in_parts",
        "test_gateway_closed_while_held_back",
        "test_held_back_until_it_is_not_too_early",
        "test_partly_filled",
        "test_partly_filled_in_the_race",
        "test_too_early",
        "test_too_early_for_the_vendor",
    },
}
"""By vendor, the scenarios that it does not play."""


def test_every_vendor_is_on_the_stage() -> None:
    """A vendor's package without a stage would pass by not being looked at."""
    packages = {module.name for module in iter_modules(brokers.__path__) if module.ispkg}
    venues = [stage.venue for stage in STAGES]
    assert packages <= set(venues)
    assert len(venues) == len(set(venues))


def test_what_is_not_played_is_known() -> None:
    """Nothing is left out that is not in the list above, and every reason is given."""
    found: dict[str, set[str]] = {}
    for (name, venue), reason in not_played().items():
        assert reason
        found.setdefault(venue, set()).add(name)
    strangers = {stage.venue for stage in STAGES if stage.__module__ in ELSEWHERE}
    for stranger in strangers:
        found.pop(stranger, None)
    assert found == {venue: names for venue, names in NOT_PLAYED.items() if venue not in strangers}


@pytest.mark.parametrize("ability", Ability, ids=lambda ability: ability.name)
def test_every_ability_matters(ability: Ability) -> None:
    """Each is needed by a scenario, had by a vendor and missing at another: else it would hide nothing, or all."""
    assert any(ability in needs for needs in SCENARIOS.values())
    assert {ability in stage.lacks for stage in STAGES} == {True, False}
