"""Card: the version that is meant is shown, as figures and as a page, also one of before a page was kept."""

from pathlib import Path

import msgspec
import pytest

from flows.card import card, with_page
from infra import registry
from infra.assembly import assemble
from infra.errors import NotFound
from infra.lake.transaction import transaction
from infra.settings import load_settings
from models.bundle import PAGE, bundle_folder
from models.catalog.taxi_eta import MODEL
from models.deciding import rollout
from models.pages.card import card_page
from tests.flows.conftest import add_scaled, champion, lake

NAME = MODEL.name


def test_the_champion_is_shown_as_it_was_registered(trained: Path) -> None:
    found = with_page(card(NAME))

    assert (found.card.version, found.branch) == (champion(), "main")
    assert found.page == trained / "reports" / f"{NAME}-card-{champion()}.html"
    assert found.page.read_bytes() == lake().get("main", f"{bundle_folder(champion())}/{PAGE}")


def test_before_the_first_champion_the_version_that_was_made_last_is_shown(trained: Path) -> None:
    made_last = add_scaled("00000101-made-last", 1.5)
    with transaction(lake(), "main", "withdraw", {}) as work:
        work.delete(rollout.PATH)

    assert card(NAME).card.version == made_last


def test_a_real_model_is_judged_whole(trained: Path) -> None:
    evaluation = card(NAME).card.evaluation

    assert evaluation is not None
    assert evaluation.blocks >= 25  # days of February
    assert set(evaluation.slices) == {"hour", "trip_miles"}
    ranked = sorted(evaluation.importance, key=lambda name: -evaluation.importance[name].loss_increase)
    assert ranked[0] == "trip_miles"
    assert set(ranked) == {column.name for column in MODEL.contract.inputs}
    assert evaluation.prediction_intervals is not None
    for level in evaluation.prediction_intervals.levels:
        assert level.coverage == pytest.approx(level.share, abs=0.05)
        assert len(level.half_widths) == 10
        assert level.half_widths[-1] > 2 * level.half_widths[0]
    assert len(evaluation.epochs) == 2
    assert MODEL.sample is not None
    assert card(NAME).card.caveat == MODEL.sample.caveat


def test_a_bundle_of_before_a_page_was_kept_is_shown_and_loads(trained: Path) -> None:
    folder = bundle_folder(champion())
    older = msgspec.to_builtins(registry.load_card(lake(), "main", champion()))
    del older["evaluation"], older["description"], older["caveat"], older["contract"]["slices"]
    with transaction(lake(), "main", "as it was", {}) as work:
        work.delete(f"{folder}/{PAGE}")
        work.put(f"{folder}/card.json", msgspec.json.encode(older))

    found = with_page(card(NAME, champion()))

    assert found.card.evaluation is None
    assert found.page is not None
    assert found.page.read_bytes() == card_page(found.card)
    assert registry.load_bundle(lake(), "main", champion()).card == found.card


def test_a_version_that_is_nowhere_is_not_found(trained: Path) -> None:
    with pytest.raises(NotFound, match=f"no version 'none' of {NAME}; `okruh runs {NAME}` lists them"):
        card(NAME, "none")


def test_without_a_version_there_is_nothing_to_show(home: Path) -> None:
    with pytest.raises(NotFound, match="has no version yet"):
        card(NAME)
    assert not assemble(load_settings()).has_lake(NAME)
