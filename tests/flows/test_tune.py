"""Tune: trials are runs, the best settings make a candidate, and what is broken off goes on as if nothing had been."""

import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pandas as pd
import psutil
import pytest
from prefect.server.api.server import SubprocessASGIServer
from typer.testing import CliRunner

from flows import cli
from flows.ingest import ingest
from flows.progress import Training, trainings_shown_by
from flows.recipes import recipe_from_scratch
from flows.runs import runs
from flows.trial import Came
from flows.tune import Tuned, _Search, study_name, tune
from infra import registry
from infra.assembly import assemble
from infra.errors import Misconfigured, Unavailable
from infra.provenance import ROOT, distributions
from infra.settings import load_settings
from infra.studies import LOSSES, Studies, Trial
from infra.tracking.ending import ending_beside
from infra.tracking.tracker import SilentTracker
from models.catalog.digits import MODEL
from models.errors import ContractError, DefinitionError, TrainingDiverged
from models.learning.loop import Progress
from models.model import Sample

AS_OF = datetime(2100, 1, 1, tzinfo=UTC)
FEW = {"epochs": 4}
TRIALS = 7
WILD = """
from dataclasses import replace

from models.catalog.digits import MODEL as DIGITS
from models.learning.search import Choice

MODEL = replace(DIGITS, name="digits_wild", search={"training.learning_rate": Choice((1e-3, 1e30))})
"""
SEARCH = """
from flows.tune import tune

tune("digits", 2, overrides={"epochs": 6})
"""


@pytest.fixture
def images(home: Path) -> Path:
    """A state folder with `digits` in its lake."""
    ingest("digits")
    return home


def settled(trials: list[Trial]) -> dict[int, tuple[object, ...]]:
    """Give what came of the trials that count, in their order."""
    counting = sorted((one for one in trials if one.counts), key=lambda one: one.number)
    return {place: (one.status, one.settings, one.error, one.epochs) for place, one in enumerate(counting)}


@pytest.fixture(scope="module")
def searched(orchestrated: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tuned]:
    """A state folder with a short search, to be copied and not changed, and what it has found."""
    folder = tmp_path_factory.mktemp("searched") / ".okruh"
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("OKRUH_HOME", str(folder))
        changed.setenv("OKRUH_TRACKING", "disabled")
        ingest("digits")
        return folder, tune("digits", TRIALS, overrides=FEW)


@pytest.fixture
def tuned(searched: tuple[Path, Tuned], home: Path) -> Tuned:
    """What was found in a copy of `searched`."""
    folder, found = searched
    shutil.copytree(folder, home)
    return found


def test_the_best_settings_make_a_candidate_that_does_not_serve(tuned: Tuned) -> None:
    best, lake = tuned.trials[0], assemble(load_settings()).lake("digits")

    card = registry.load_card(lake, "main", tuned.registered.version)
    assert {**card.settings, **{f"network.{name}": value for name, value in card.network_settings.items()}} == {
        **MODEL.training.with_changes(FEW).flat(),
        **{f"network.{name}": value for name, value in MODEL.network_settings.items()},
        **{name.removeprefix("training."): value for name, value in best.settings.items()},
    }
    assert registry.read_rollout(lake, "main") is None
    assert registry.versions(lake, "main") == [tuned.registered.version]
    (curve,) = (run.curves["validation_error"] for run in runs("digits", [tuned.registered.version]).runs)
    assert min(value for value in curve.values if value is not None) == best.error


def test_trials_begin_with_the_definition_s_settings_and_stop_where_they_are_worse(tuned: Tuned) -> None:
    first = next(one for one in tuned.trials if one.number == 0)

    assert set(first.settings) == set(MODEL.space)
    assert first.settings["network.channels"] == MODEL.network_settings["channels"]
    assert (len(tuned.trials), tuned.taken_up, tuned.usual_error) == (TRIALS, 0, first.error)
    finished = [one.error for one in tuned.trials if one.status == "finished"]
    assert finished == sorted(finished, key=lambda error: error or 0)
    stopped = [one for one in tuned.trials if one.status == "pruned"]
    assert stopped
    assert all(1 < one.epochs < FEW["epochs"] for one in stopped)


def test_every_trial_is_a_run_with_its_settings_and_curve(tuned: Tuned) -> None:
    found = runs("digits", [tuned.study]).runs

    by_number = {one.number: one for one in tuned.trials}
    assert [line.trial for line in found] == list(range(TRIALS))
    for line in found:
        assert line.trial is not None
        one = by_number[line.trial]
        assert (line.id, line.status, line.study, line.version) == (one.run, one.status, tuned.study, None)
        assert line.metrics == {"validation_error": one.error}
        assert len(line.curves["validation_error"].values) == one.epochs
        assert all(line.settings[name.removeprefix("training.")] == value for name, value in one.settings.items())
    assert len(runs("digits").runs) == TRIALS + 1


def test_a_search_that_is_asked_again_goes_on_and_finds_its_candidate(tuned: Tuned) -> None:
    again, more = (tune("digits", count, overrides=FEW) for count in (TRIALS, TRIALS + 1))

    assert (again.study, again.trials, again.registered.cached) == (tuned.study, tuned.trials, True)
    assert len(more.trials) == TRIALS + 1
    assert {one.number: one for one in tuned.trials}.items() <= {one.number: one for one in more.trials}.items()


def test_the_same_search_anywhere_tries_the_same(tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKRUH_HOME", str(tmp_path / "elsewhere"))
    ingest("digits")

    there = tune("digits", TRIALS, overrides=FEW)

    assert settled(there.trials) == settled(tuned.trials)
    assert there.registered.version.split("-")[1] == tuned.registered.version.split("-")[1]


def test_what_is_set_is_not_searched_and_other_settings_are_another_search(tuned: Tuned) -> None:
    other = tune("digits", 1, overrides=FEW | {"batch_rows": 32}, network={"channels": 8})

    assert other.study != tuned.study
    assert set(MODEL.space) - set(other.trials[0].settings) == {"training.batch_rows", "network.channels"}
    (line,) = runs("digits", [other.study]).runs
    assert (line.settings["batch_rows"], line.settings["network.channels"]) == (32, 8)


@pytest.mark.parametrize(("name", "value"), [("OKRUH_DEVICE", "cpu"), ("OKRUH_TRAIN_THREADS", "2")])
def test_another_device_or_number_of_threads_is_another_search(
    images: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    before = named()
    assert named() == before

    monkeypatch.setenv(name, value)

    assert named() != before


def test_other_installed_packages_are_another_search(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = named()
    note = tmp_path / "more" / "more-1.0.dist-info" / "METADATA"
    note.parent.mkdir(parents=True)
    note.write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")

    with monkeypatch.context() as changed:
        changed.setattr(sys, "path", [*sys.path, str(tmp_path / "more")])
        distributions.cache_clear()
        after = named()
    distributions.cache_clear()

    assert named() == before != after


def named() -> str:
    """Name a search by what is set and installed now."""
    recipe = recipe_from_scratch(MODEL, "main", AS_OF, None, None, None)
    return study_name(MODEL, recipe, MODEL.space, "data")


def test_the_rows_that_judge_a_version_are_not_looked_at(
    tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(MODEL.sample, Sample)
    (file,) = MODEL.sample.folder.iterdir()
    rows = pd.read_parquet(file)
    judged = judges(rows)
    assert 300 < judged.sum() < 450
    monkeypatch.setenv("OKRUH_HOME", str(tmp_path / "elsewhere"))
    # Half of them go; those that are left stay where they are, for what they hold
    rows.drop(rows.index[judged][::2]).to_parquet(tmp_path / "digits.parquet")
    ingest("digits", str(tmp_path / "digits.parquet"))

    there = tune("digits", 3, overrides=FEW)

    assert there.study != tuned.study
    assert {place: settled(tuned.trials)[place] for place in range(3)} == settled(there.trials)


def judges(rows: pd.DataFrame) -> Any:
    """Say of each row whether it is among those that judge."""
    from models.learning.splits import split_by_content

    test = split_by_content(MODEL.contract, rows, MODEL.training.validation_share, MODEL.training.test_share).test
    return rows.index.isin(test.index)


@pytest.fixture
def wild(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model half of whose space cannot be trained."""
    folder = tmp_path / "catalog" / "digits_wild"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(WILD)
    monkeypatch.setenv("OKRUH_CATALOG", str(folder.parent))
    ingest("digits_wild")
    return folder.name


def test_trials_that_diverge_end_nothing(wild: str, caplog: pytest.LogCaptureFixture) -> None:
    found = tune(wild, 6, overrides={"epochs": 1})

    by_rate = {rate: {one.status for one in found.trials if one.settings == {RATE: rate}} for rate in (1e-3, 1e30)}
    assert by_rate == {1e-3: {"finished"}, 1e30: {"failed"}}
    failed = [line for line in runs(wild, [found.study]).runs if line.status == "failed"]
    assert all(line.reason is not None and "lower the learning_rate" in line.reason for line in failed)
    assert found.usual_error is None
    (said,) = [record.getMessage() for record in caplog.records if record.name == "flows.tune"]
    assert said.startswith(f"{wild}: the definition's own {RATE}=0.002 lies outside what is searched: the first trial")


RATE = "training.learning_rate"


def test_a_search_of_which_nothing_comes_to_its_end_registers_nothing(images: Path) -> None:
    with pytest.raises(TrainingDiverged, match="none of 2 trials came to its end: training: the loss is"):
        tune("digits", 2, overrides={"epochs": 1, "learning_rate": 1e30})

    assert registry.versions(assemble(load_settings()).lake("digits"), "main") == []


def test_refuses_what_cannot_be_searched(images: Path) -> None:
    with pytest.raises(ContractError, match="a search is measured on validation rows, and there are none"):
        tune("digits", 1, overrides={"validation_share": 0.0})
    training = {"learning_rate": 1e-3, "batch_rows": 32, "weight_decay": 0.1}
    with pytest.raises(DefinitionError, match="all that its search tries is set by --set"):
        tune("digits", 1, overrides=training, network={"channels": 8, "dropout": 0.1})
    with pytest.raises(Misconfigured, match="several trials at a time run on Ray"):
        tune("digits", 1, jobs=2)


def test_a_trial_that_is_interrupted_is_run_again(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hear, heard = _Search.hear, list[int]()

    def interrupt(search: Any, number: int, progress: Any) -> bool:
        heard.append(number)
        if len(heard) == 4:
            raise KeyboardInterrupt
        return hear(search, number, progress)

    monkeypatch.setattr(_Search, "hear", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tune("digits", 2, overrides={"epochs": 2})
    monkeypatch.setattr(_Search, "hear", hear)

    went_on = tune("digits", 2, overrides={"epochs": 2})

    assert [one.status for one in went_on.trials] == ["finished", "finished", "broken off"]
    statuses = {line.trial: line.status for line in runs("digits", [went_on.study]).runs}
    assert sorted(statuses.values()) == ["broken off", "finished", "finished"]


def test_a_trial_that_cannot_begin_is_no_trial_s_fault(images: Path) -> None:
    in_the_way = images / "runs" / "digits"
    in_the_way.parent.mkdir()
    in_the_way.write_text("no folder")
    for _ in range(LOSSES):
        with pytest.raises(Unavailable, match="a run cannot be recorded in "):
            tune("digits", 1, overrides={"epochs": 1})
    in_the_way.unlink()

    found = tune("digits", 1, overrides={"epochs": 1})

    assert [one.status for one in found.trials if one.counts] == ["finished"]
    assert found.trials[0].settings["training.learning_rate"] == MODEL.training.learning_rate


def test_what_a_trial_has_said_before_its_end_and_is_heard_after_it_is_dropped(images: Path) -> None:
    recipe = recipe_from_scratch(MODEL, "main", AS_OF, None, FEW, None)
    commit = assemble(load_settings()).lake("digits").resolve("main")
    late = Progress(
        epoch=1,
        epochs=4,
        step=9,
        steps=36,
        batch_rows=32,
        learning_rate=0.1,
        train_loss=1.0,
        ends_epoch=True,
        validation_error=0.5,
    )
    with (
        ending_beside(SilentTracker()) as tracker,
        Studies(images / "studies", None).open("one", MODEL.space, 0) as study,
    ):
        search = _Search(study, tracker, "one", MODEL, recipe, commit, "main", 2)
        gone, other = search.next().number, search.next().number
        search.end(gone, Came(status="failed", reason="its loss is no number"))

        stops = search.hear(gone, late), search.hear(other, late)

        assert stops == (True, False)
        assert [one.epochs for one in study.trials()] == [0, 1]


@pytest.mark.proof
def test_a_search_that_is_killed_goes_on_to_what_it_would_have_found(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"OKRUH_HOME": str(images), "PREFECT_API_URL": SubprocessASGIServer().api_url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SEARCH]
    with subprocess.Popen(command, env={**os.environ, **variables}, start_new_session=True) as process:
        while reported(images, trial=1) < 2 and process.poll() is None:
            Event().wait(0.01)
        os.killpg(process.pid, signal.SIGKILL)

    went_on = tune("digits", 2, overrides={"epochs": 6})
    monkeypatch.setenv("OKRUH_HOME", str(tmp_path / "elsewhere"))
    ingest("digits")
    undisturbed = tune("digits", 2, overrides={"epochs": 6})

    assert went_on.taken_up == 1
    assert [one.number for one in went_on.trials if one.status == "broken off"] == [1]
    assert settled(went_on.trials) == settled(undisturbed.trials)


def reported(home: Path, trial: int) -> int:
    """Count what the index has of a trial."""
    files = (file.read_bytes() for file in (home / "runs" / "digits").glob("*.jsonl"))
    return sum(content.count(b"\n") for content in files if f'"trial":{trial}'.encode() in content)


def test_a_tracker_keeps_the_trials_of_a_search_together(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKRUH_TRACKING", "offline")

    found = tune("digits", 1, overrides={"epochs": 1})

    (line,) = runs("digits", [found.study]).runs
    assert line.tracker_run == f"okruh-digits/{line.id}"
    (recorded,) = (images / "wandb").glob(f"wandb/offline-run-*/run-{line.id}.wandb")
    content = recorded.read_bytes()
    assert found.study.encode() in content
    assert b"network.channels" in content


def test_no_trial_waits_for_another_s_tracker(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKRUH_TRACKING", "offline")
    monkeypatch.setenv("OKRUH_TRACKING_WAIT_S", "60")
    stalled: list[psutil.Process] = []
    at_work: list[int] = []

    def hold_the_first_up(_: Training) -> None:
        if 2 in at_work:
            return
        recorders = [one for one in psutil.Process().children() if "infra.tracking.recorder" in one.cmdline()]
        at_work.append(len(recorders))
        if not stalled:
            stalled.extend(recorders)
            stalled[0].suspend()
        elif len(recorders) == 2:
            stalled[0].resume()

    with trainings_shown_by(hold_the_first_up):
        found = tune("digits", 2, overrides={"epochs": 1})

    assert (at_work[0], max(at_work)) == (1, 2)
    for line in runs("digits", [found.study]).runs:
        assert list((images / "wandb").glob(f"wandb/offline-run-*/run-{line.id}.wandb"))
    assert not [one for one in psutil.Process().children() if "infra.tracking.recorder" in one.cmdline()]


@pytest.mark.parametrize("hidden", ["ray", "prefect_ray"])
def test_says_what_to_install_where_ray_is_missing(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setitem(sys.modules, hidden, None)

    done = CliRunner().invoke(cli.app, ["tune", "digits", "--on", "ray"])

    assert done.exit_code == cli.WRONG_USE
    assert "wants Ray, which is not installed: pip install -c constraints.txt -e '.[ray]'" in done.stderr


def test_shows_the_trials_what_decides_and_the_way_on(tuned: Tuned, capsys: pytest.CaptureFixture[str]) -> None:
    from flows import screens

    screens.tuned(tuned)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["trial", "status", "error", "epochs", "took", "settings"]
    assert [line.split()[0] for line in lines[1 : TRIALS + 1]] == [str(one.number) for one in tuned.trials]
    version = tuned.registered.version
    assert f"{version} registered; `okruh promote digits {version}` lets it serve if it wins" in lines
    assert f"okruh runs digits {tuned.study} compares the trials; add --html for their curves" in lines
