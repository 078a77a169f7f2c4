"""Train: the same data, settings and code give the same bundle; only what was known is read; nothing bad registers."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.ingest import ingest
from flows.train import train
from infra import registry
from infra.errors import NotFound
from infra.provenance import environment_digest, source_digest
from models.errors import ContractError, Refused
from tests.flows.conftest import AS_OF, MonthMaker, lake

OVERRIDES: dict[str, int | float] = {"epochs": 2}


def test_the_same_again_is_found_and_changes_nothing(trained: Path) -> None:
    before = lake().resolve("main")
    (version,) = registry.versions(lake(), "main")

    again = train("taxi_eta", AS_OF, overrides=OVERRIDES)

    assert (again.version, again.cached) == (version, True)
    assert lake().resolve("main") == before


def test_a_bundle_names_code_data_environment_and_runs(trained: Path) -> None:
    (version,) = registry.versions(lake(), "main")
    card = registry.load_card(lake(), "main", version)

    assert card.data.paths == tuple(f"data/trips/{month}.parquet" for month in ("2019-12", "2020-01", "2020-02"))
    assert [entry.path for entry in lake().list(card.data.commit, "data/")] == list(card.data.paths)
    assert (card.origin.source_digest, card.origin.environment_digest) == (source_digest(), environment_digest())
    assert card.origin.tracker_run.startswith("okruh-taxi_eta/")
    assert card.origin.flow_run != "none"
    assert card.origin.code_commit
    assert (card.as_of, card.seed, card.settings["epochs"]) == (AS_OF, 0, 2)
    assert card.parity.largest_difference <= card.parity.tolerance
    assert card.metrics["rows"] == card.data.rows_test > 1500
    assert set(card.slices) == {"hour", "miles"}


def test_what_becomes_known_later_does_not_change_the_model(trained: Path, make_month: MonthMaker) -> None:
    (version,) = registry.versions(lake(), "main")
    ingest("taxi_eta", str(make_month("2020-03")))

    again = train("taxi_eta", AS_OF, overrides=OVERRIDES)

    assert (again.version, again.cached) == (version, False)


def test_learns_from_the_moment_that_it_is_told(trained: Path) -> None:
    learn_from = datetime(2019, 12, 20, 5, tzinfo=UTC)

    made = train("taxi_eta", AS_OF, learn_from=learn_from, overrides=OVERRIDES)

    rows = {one: registry.load_card(lake(), "main", one).data.rows_train for one in registry.versions(lake(), "main")}
    assert registry.load_card(lake(), "main", made.version).data.learn_from == learn_from
    assert 500 < rows[made.version] == min(rows.values()) < max(rows.values())


def test_a_training_that_diverges_registers_nothing(trained: Path) -> None:
    before = lake().resolve("main")

    with pytest.raises(Refused, match=r"lower training\.learning_rate"):
        train("taxi_eta", AS_OF, overrides={"epochs": 1, "learning_rate": 1e30})

    assert lake().resolve("main") == before


def test_says_when_there_is_nothing_to_learn_from(home: Path) -> None:
    with pytest.raises(NotFound, match="run `okruh ingest taxi_eta` first"):
        train("taxi_eta")


def test_says_when_a_span_is_empty(trained: Path) -> None:
    with pytest.raises(ContractError, match="no rows to train on"):
        train("taxi_eta", datetime(2020, 1, 20, tzinfo=UTC))
