"""Train: the same data, settings and code give the same bundle; only what was known is read; nothing bad registers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import torch

from flows import catalog
from flows.ingest import ingest
from flows.progress import Training, trainings_shown_by
from flows.recipes import Recipe, recipe_from_scratch
from flows.telling import Told
from flows.train import train
from infra import registry
from infra.checkpoints import FileCheckpoints
from infra.dataset import known_rows
from infra.errors import NotFound
from infra.provenance import distributions, environment_digest
from models.bundle import DEFINITION, FILES, PAGE
from models.catalog.taxi_eta import MODEL
from models.errors import ContractError, TrainingDiverged
from models.learning import training
from models.learning.material import gather
from models.learning.settings import Setting
from models.learning.splits import split_in_time
from models.learning.training import Trained
from tests.flows.conftest import AS_OF, EPOCHS, HISTORY, MonthMaker, lake
from tests.flows.drafting import rides


def test_the_same_again_is_found_and_changes_nothing(trained: Path) -> None:
    before = lake().resolve("main")
    (version,) = registry.versions(lake(), "main")

    again = train("taxi_eta", AS_OF, overrides=EPOCHS)

    assert (again.version, again.cached) == (version, True)
    assert lake().resolve("main") == before


def test_a_bundle_names_code_data_environment_and_runs(trained: Path) -> None:
    (version,) = registry.versions(lake(), "main")
    card = registry.load_card(lake(), "main", version)

    assert card.data.paths == tuple(f"data/trips/{month}.parquet" for month in HISTORY)
    assert [entry.path for entry in lake().list(card.data.commit, "data/")] == list(card.data.paths)
    assert (card.origin.source_digest, card.origin.environment_digest) == (
        catalog.sources("taxi_eta"),
        environment_digest(),
    )
    assert card.origin.code_commit == catalog.commit("taxi_eta")
    assert card.origin.distributions == distributions()
    assert card.origin.computed is not None
    assert (card.origin.computed.threads, card.origin.computed.torch) == (1, torch.__version__)
    assert card.origin.flow_run != "none"
    project, _, run = card.origin.tracker_run.partition("/")
    assert project == "okruh-taxi_eta"
    assert len(list((trained / "wandb").glob(f"wandb/offline-run-*/run-{run}.wandb"))) == 1
    assert (card.as_of, card.seed, card.settings["epochs"]) == (AS_OF, 0, 2)
    assert card.parity.largest_difference <= card.parity.tolerance
    assert card.metrics["rows"] == card.data.rows_test > 1500
    assert set(card.slices) == {"hour", "trip_miles"}


def test_a_bundle_is_one_commit_that_names_what_it_comes_from(trained: Path) -> None:
    (version,) = registry.versions(lake(), "main")
    card = registry.load_card(lake(), "main", version)

    commit = next(lake().log("main", f"bundles/{version}"))

    changed = {change.path for change in lake().diff(commit.parents[0], commit.id)}
    assert changed == {f"bundles/{version}/{name}" for name in (*FILES, DEFINITION, PAGE)} | {
        f"reports/runs/{version}.jsonl"
    }
    assert commit.metadata == {
        "kind": "train",
        "version": version,
        "code_commit": card.origin.code_commit,
        "flow_run": card.origin.flow_run,
        "tracker_run": card.origin.tracker_run,
    }


def test_another_setting_is_another_training_and_without_as_of_all_that_is_known_is_read(trained: Path) -> None:
    newest = (
        known_rows(MODEL, lake(), lake().resolve("main"), datetime.max.replace(tzinfo=UTC)).whole()["known_at"].max()
    )

    made = train("taxi_eta", overrides=EPOCHS | {"seed": 1})

    card = registry.load_card(lake(), "main", made.version)
    assert (made.cached, card.seed, len(registry.versions(lake(), "main"))) == (False, 1, 2)
    assert newest < card.as_of <= newest + timedelta(seconds=1)
    assert card.data.test_from == card.as_of - timedelta(days=MODEL.training.test_days)
    assert card.data.validation_from == card.data.test_from - timedelta(days=MODEL.training.validation_days)


def of_the_future(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(at=rows["at"] + pd.Timedelta(days=75 * 365))


def recipe_of_rides(as_of: datetime | None = None) -> Recipe:
    return recipe_from_scratch(catalog.load("rides"), "main", as_of, None, None, None)


def test_rows_of_the_future_are_left_out_and_said_so(
    drafted: Path, file: Callable[[pd.DataFrame], str], caplog: pytest.LogCaptureFixture
) -> None:
    table = rides()
    ingest("rides", file(pd.concat([table, of_the_future(table.tail(2))], ignore_index=True)))

    recipe = recipe_of_rides()

    assert table["at"].max() == pd.Timestamp(recipe.as_of - timedelta(seconds=1)).tz_localize(None)
    assert [record.getMessage() for record in caplog.records if record.name == "flows.recipes"] == [
        "rides: 2 rows are of after now, not known yet, and left out; `--as-of` says from when to look at them"
    ]
    far = datetime(2199, 1, 1, tzinfo=UTC)
    assert recipe_of_rides(far).as_of == far


def test_of_rows_of_the_future_alone_nothing_is_learned(drafted: Path, file: Callable[[pd.DataFrame], str]) -> None:
    ingest("rides", file(of_the_future(rides())))

    with pytest.raises(NotFound, match=r"all 2,000 rows of rides are of after .*: none is known yet; look at their"):
        recipe_of_rides()


def test_what_becomes_known_later_does_not_change_the_model(trained: Path, make_month: MonthMaker) -> None:
    (version,) = registry.versions(lake(), "main")
    ingest("taxi_eta", str(make_month("2020-03")))

    again = train("taxi_eta", AS_OF, overrides=EPOCHS)

    assert (again.version, again.cached) == (version, False)


def test_learns_from_the_moment_that_it_is_told(trained: Path) -> None:
    learn_from = datetime(2019, 12, 20, 5, tzinfo=UTC)

    made = train("taxi_eta", AS_OF, learn_from=learn_from, overrides=EPOCHS)

    rows = {one: registry.load_card(lake(), "main", one).data.rows_train for one in registry.versions(lake(), "main")}
    assert registry.load_card(lake(), "main", made.version).data.learn_from == learn_from
    assert 500 < rows[made.version] == min(rows.values()) < max(rows.values())


def test_a_training_that_diverges_registers_nothing(trained: Path) -> None:
    before = lake().resolve("main")

    with pytest.raises(TrainingDiverged, match=r"lower the learning_rate, 1e\+30 now"):
        train("taxi_eta", AS_OF, overrides={"epochs": 1, "learning_rate": 1e30})

    assert lake().resolve("main") == before
    with pytest.raises(TrainingDiverged):  # nor is a refusal kept and found again as a result
        train("taxi_eta", AS_OF, overrides={"epochs": 1, "learning_rate": 1e30})


def test_a_batch_of_more_rows_than_there_are_is_said(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TrainingDiverged, match="on validation rows after epoch 1"):
        train("taxi_eta", AS_OF, overrides={"epochs": 1, "learning_rate": 1e30, "batch_rows": 1_000_000})

    (said,) = [record.getMessage() for record in caplog.records if record.name == "flows.train"]
    (version,) = registry.versions(lake(), "main")
    rows = registry.load_card(lake(), "main", version).data.rows_train
    assert said.startswith(f"taxi_eta: training.batch_rows is 1000000, and there are {rows} rows to learn from")


def test_fewer_rows_to_judge_by_than_promoting_wants_are_said(
    trained: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate, retraining = replace(MODEL.gate, minimum_rows=3000), replace(MODEL.retraining, minimum_labels=100_000)
    monkeypatch.setattr(catalog, "load", lambda _: replace(MODEL, gate=gate, retraining=retraining))

    version = train("taxi_eta", AS_OF, overrides={"epochs": 1, "test_days": 2}).version

    (said,) = [record.getMessage() for record in caplog.records if record.name == "flows.train"]
    rows = registry.load_card(lake(), "main", version).data.rows_test
    assert said.startswith(f"taxi_eta: {rows} rows judge this version, and `okruh promote` wants 3000 (gate.minimum")


def test_a_training_that_was_broken_off_goes_on_from_its_checkpoint_to_the_same_bundle(
    trained: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OKRUH_TRAIN_CHECKPOINT_S", "1e-9")
    settings = EPOCHS | {"seed": 3}
    loads, saves = list[bytes | None](), list[bytes]()
    load, save = FileCheckpoints.load, FileCheckpoints.save

    def load_and_tell(kept: FileCheckpoints) -> bytes | None:
        loads.append(load(kept))
        return loads[-1]

    def save_and_die(kept: FileCheckpoints, content: bytes) -> None:
        save(kept, content)
        saves.append(content)
        raise KeyboardInterrupt

    monkeypatch.setattr(FileCheckpoints, "load", load_and_tell)
    monkeypatch.setattr(FileCheckpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train("taxi_eta", AS_OF, overrides=settings)
    monkeypatch.setattr(FileCheckpoints, "save", save)
    (checkpoint,) = (trained / "checkpoints").rglob("train-*")
    assert checkpoint.name.endswith("-cpu-1")  # another device, or more processes, would not come to the same weights

    went_on = train("taxi_eta", AS_OF, overrides=settings)

    assert loads == [None, *saves]
    (said,) = [record.getMessage() for record in caplog.records if record.name == "flows.telling"]
    assert re.fullmatch(r"taxi_eta: the training goes on from epoch 1, step [1-9]\d* of its checkpoint", said)
    assert list((trained / "checkpoints").rglob("train-*")) == []
    registered, undisturbed = registry.load_bundle(lake(), "main", went_on.version), training_of(settings)
    assert (registered.onnx, registered.state) == (undisturbed.onnx, undisturbed.state)


def test_a_wait_for_the_tracker_that_is_broken_off_costs_no_learning(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OKRUH_TRAIN_CHECKPOINT_S", "1e-9")
    settings = EPOCHS | {"seed": 4}

    def wait_in_vain(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(Told, "finish", wait_in_vain)
        with pytest.raises(KeyboardInterrupt):
            train("taxi_eta", AS_OF, overrides=settings)
    registered = set(registry.versions(lake(), "main"))

    heard = list[Training]()
    with trainings_shown_by(heard.append):
        again = train("taxi_eta", AS_OF, overrides=settings)

    assert not again.cached
    assert again.version in registered
    assert [training.step for training in heard] == [heard[0].steps]


def training_of(settings: Mapping[str, Setting]) -> Trained:
    """Train once more, without a flow."""
    plan = MODEL.training.with_changes(settings)
    test_from = AS_OF - timedelta(days=plan.test_days)
    validation_from = test_from - timedelta(days=plan.validation_days)
    rows = known_rows(MODEL, lake(), lake().resolve("main"), AS_OF)
    splits = [split_in_time(part, part["known_at"], validation_from, test_from) for part in rows]
    material = gather(MODEL.contract, splits, plan.memory_mb)
    return training.train(MODEL, material, plan, device="cpu", threads=1)


def test_says_when_there_is_nothing_to_learn_from(home: Path) -> None:
    with pytest.raises(NotFound, match="run `okruh ingest taxi_eta` first"):
        train("taxi_eta")


def test_says_when_a_span_is_empty(trained: Path) -> None:
    with pytest.raises(ContractError, match="no rows to train on"):
        train("taxi_eta", datetime(2020, 1, 20, tzinfo=UTC))
