"""Build: a Bento for each champion, once."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.build import build
from infra.errors import Misconfigured
from models.errors import DefinitionError
from tests.flows.conftest import add_scaled, champion, enthrone, lake


def test_builds_a_champion_once_and_another_one_anew(trained: Path) -> None:
    first, again = build("taxi_eta"), build("taxi_eta")
    lake().create_branch("trial", "main")
    enthrone(add_scaled("second", 1.1), datetime(2020, 3, 2, tzinfo=UTC))
    on_a_gpu = build("taxi_eta", gpu=True)
    second, of_the_branch = build("taxi_eta"), build("taxi_eta", branch="trial")

    assert champion() == "second"
    assert (first.fresh, again) == (True, first._replace(fresh=False))
    assert on_a_gpu == (f"{second.tag}-gpu", True)
    assert second.tag.startswith("okruh_taxi_eta:second-")
    assert (second.fresh, of_the_branch) == (True, again)


def test_says_when_there_is_no_champion_to_build(home: Path) -> None:
    with pytest.raises(Misconfigured, match="run `okruh train taxi_eta` and `okruh promote taxi_eta` first"):
        build("taxi_eta")

    assert not (home / "lake").exists()


def test_says_when_there_is_no_such_model(home: Path) -> None:
    with pytest.raises(DefinitionError, match="no model 'pizza_eta'; the catalog has digits, flight_delay, taxi_eta"):
        build("pizza_eta")
