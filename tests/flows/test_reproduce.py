"""Reproduce: a version trained again is the same, and what is not is named, with all that was other about it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load

from flows import catalog, screens
from flows.card import card
from flows.forget import forget
from flows.ingest import ingest
from flows.lineage import lineage
from flows.new import new
from flows.recipes import Recipe
from flows.reproduce import REPORTS, Reproduced, reproduce
from flows.runs import runs
from flows.train import register, run_recipe, train
from infra import registry
from infra.errors import Misconfigured, NotFound
from infra.provenance import ROOT, source_digest
from infra.selection import Selection
from models.bundle import Origin
from models.catalog import taxi_eta
from models.catalog.taxi_eta import MODEL
from models.deciding.reproduction import Part
from models.definition_files import unpack
from models.definitions import files
from models.errors import BundleError, DefinitionError
from tests.checkouts import git, nobodys_git
from tests.flows import drafting
from tests.flows.conftest import AS_OF, EPOCHS, champion, lake
from tests.flows.drafting import QUICK, edit, rides

__all__ = ["nobodys_git"]  # a fixture

LEARN_FROM = datetime(2020, 1, 15, 5, tzinfo=UTC)
NOBODYS = "0" * 40


def changed(version: str, name: str, **changes: object) -> str:
    """Register a version again, under another name and with changes to its card."""
    made = registry.load_bundle(lake(), "main", version)
    card = msgspec.structs.replace(made.card, version=name, **changes)
    register(lake(), "main", msgspec.structs.replace(made, card=card))
    return name


def changed_rides(version: str, name: str, **changes: object) -> str:
    """The same of the drafted model, made in no checkout."""
    made = registry.load_bundle(drafting.lake(), "main", version)
    origin = msgspec.structs.replace(made.card.origin, code_commit="unknown")
    card = msgspec.structs.replace(made.card, version=name, origin=origin, **changes)
    definition = made.definition if card.definition_digest else None
    register(drafting.lake(), "main", msgspec.structs.replace(made, card=card, definition=definition))
    return name


def origin_of(version: str, **changes: object) -> Origin:
    return msgspec.structs.replace(registry.load_card(lake(), "main", version).origin, **changes)


def part_of(done: Reproduced, name: str) -> Part:
    return next(part for part in done.parts if part.name == name)


def nothing_left(home: Path) -> bool:
    return list((home / "tmp").glob("reproduce-*")) == []


def test_a_warm_started_version_of_a_replay_is_identical_from_the_lake_alone(trained: Path) -> None:
    lake().create_branch("loop-1", "main")
    recipe = Recipe(
        as_of=AS_OF,
        learn_from=LEARN_FROM,
        validation_from=datetime(2020, 2, 20, 5, tzinfo=UTC),
        test_from=datetime(2020, 2, 20, 5, tzinfo=UTC),
        settings=MODEL.training.with_changes({**MODEL.retraining.training, **EPOCHS, "seed": 3}).flat(),
        warm_start=champion(),
    )
    version = run_recipe(MODEL, recipe, "loop-1").version
    for folder in trained.iterdir():
        if folder.name != "lake":
            shutil.rmtree(folder)

    done = reproduce("taxi_eta", version, keep=True)

    assert [(part.name, part.likeness, part.differing) for part in done.parts] == [
        (name, "identical", 0) for name in ("data", "weights", "graph", "metrics", "evaluation", "profile")
    ]
    assert (done.verdict, done.branch, done.code.recorded) == ("identical", "loop-1", catalog.commit("taxi_eta"))
    assert done.code.same_sources
    assert done.environment.same_distributions
    assert (done.environment.distributions, done.environment.computed) == ((), ())
    assert done.environment.computed_now == registry.load_card(lake(), "loop-1", version).origin.computed
    assert registry.read_reports(lake(), "loop-1", REPORTS, Reproduced) == [done]
    assert next(lake().log("loop-1")).metadata["verdict"] == "identical"
    assert list(lake().list("main", REPORTS)) == []
    assert {"cache", "checkpoints", "wandb"}.isdisjoint(path.name for path in trained.iterdir())
    assert nothing_left(trained)


def test_a_version_that_came_of_another_seed_is_different_and_the_first_tensor_is_named(trained: Path) -> None:
    other = train("taxi_eta", AS_OF, overrides=EPOCHS | {"seed": 1}).version
    forged = changed(other, "forged", seed=0, settings=registry.load_card(lake(), "main", champion()).settings)
    before = lake().resolve("main")

    done = reproduce("taxi_eta", forged)

    weights, graph, metrics = (part_of(done, name) for name in ("weights", "graph", "metrics"))
    assert (done.verdict, part_of(done, "data").likeness, weights.likeness) == ("different", "identical", "different")
    made, was = registry.load_bundle(lake(), "main", champion()), registry.load_bundle(lake(), "main", other)
    tensors = [load(one.state) for one in (was, made)]
    name = next(one for one in sorted(tensors[0]) if (tensors[0][one] != tensors[1][one]).any())
    before_N, after_N = (one[name].ravel() for one in tensors)
    place = int(np.abs(after_N.astype(np.float64) - before_N).argmax())
    assert weights.first is not None
    assert (weights.first.what, weights.compared) == (name, len(tensors[0]))
    assert weights.first.then.startswith(f"{before_N[place]:.9g} at [")
    assert weights.first.now == f"{after_N[place]:.9g}"
    assert weights.largest_share is not None
    assert weights.largest_share > 0.5
    assert graph.first is not None
    assert graph.first.what.startswith("initializer network/")
    assert metrics.first is not None
    assert (metrics.first.what, metrics.first.then, metrics.first.now) == (
        "mae",
        f"{was.card.metrics['mae']:.9g}",
        f"{made.card.metrics['mae']:.9g}",
    )
    assert done.report is None
    assert lake().resolve("main") == before


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="the processor has one way to compute")
def test_another_processor_and_another_environment_are_named_beside_what_they_change(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "more" / "zstd.dist-info"
    note.mkdir(parents=True)
    (note / "METADATA").write_text("Metadata-Version: 2.1\nName: zstd\nVersion: 1.5\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "more"))
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")

    done = reproduce("taxi_eta", champion(), tolerance=0.0)

    assert done.verdict == part_of(done, "weights").likeness == "different"
    share = part_of(done, "weights").largest_share
    assert share is not None
    assert 0 < share < 1e-2
    assert not done.environment.same_distributions
    assert done.environment.distributions == ("zstd absent then, 1.5 now",)
    (other,) = done.environment.computed
    assert other.startswith("processor ")
    assert other.endswith(", DEFAULT now")


def test_rows_that_were_forgotten_since_are_named_first(trained: Path) -> None:
    gone = registry.load_card(lake(), "main", champion()).data.rows_train
    selection = Selection.read(["pickup_zone=161"], None)
    forget("taxi_eta", [], selection, "somebody", "a request", dry_run=False)

    done = reproduce("taxi_eta", champion())

    data = part_of(done, "data")
    assert (done.verdict, data.likeness) == ("different", "different")
    assert data.first is not None
    assert (data.first.what, data.first.then) == ("rows to train on", f"{gone:,}")
    assert int(data.first.now.replace(",", "")) < gone


def test_a_training_that_fails_says_why(trained: Path) -> None:
    settings = registry.load_card(lake(), "main", champion()).settings | {"learning_rate": 1e30}
    version = changed(champion(), "wild", settings=settings)

    with pytest.raises(BundleError, match=r"wild could not be trained again: .*lower the learning_rate, 1e\+30 now"):
        reproduce("taxi_eta", version)

    assert nothing_left(trained)


def test_a_process_that_ends_without_a_word_is_told_by_its_last_one(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "prefect.py").write_text("raise RuntimeError('no such luck')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(BundleError, match="could not be trained again: RuntimeError: no such luck"):
        reproduce("taxi_eta", champion())

    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("commit", "said"),
    [
        ("unknown", "it was made in no checkout, by sources of digest 0123, and those in "),
        (f"{NOBODYS}+dirty", f"it was made with changes to {NOBODYS} that no commit has, by sources of digest 0123"),
        (NOBODYS, f"commit {NOBODYS}, which made it, is not in the checkout "),
    ],
)
def test_code_that_cannot_be_had_is_an_error_with_the_way_out(trained: Path, commit: str, said: str) -> None:
    lost = changed(champion(), "lost", origin=origin_of(champion(), code_commit=commit, source_digest="0123"))

    with pytest.raises(BundleError, match=f"lost cannot be trained again: {said}".replace("+", r"\+")) as raised:
        reproduce("taxi_eta", lost)

    assert str(raised.value).endswith(", or by other code: --code COMMIT")
    assert nothing_left(trained)


def test_what_nobody_knows_or_has_is_refused_before_anything_is_trained(trained: Path) -> None:
    with pytest.raises(NotFound, match=f"no version 'pizza' here; the newest registered on main: {champion()}"):
        reproduce("taxi_eta", "pizza")
    with pytest.raises(DefinitionError, match="no model 'pizza_eta'"):
        reproduce("pizza_eta", champion())
    with pytest.raises(Misconfigured, match="--code pizza: git knows no such commit"):
        reproduce("taxi_eta", champion(), code="pizza")
    with pytest.raises(Misconfigured, match="there is no device 'abacus' here: reproduce it where there is one"):
        reproduce("taxi_eta", champion(), device="abacus")
    with pytest.raises(Misconfigured, match="tolerance 1: it is a share"):
        reproduce("taxi_eta", champion(), tolerance=1.0)


def test_makes_no_lake_where_there_is_none(home: Path) -> None:
    with pytest.raises(NotFound, match="taxi_eta has no lake yet"):
        reproduce("taxi_eta", "v1")

    assert not (home / "lake").exists()


WIDTH = ('"width": 192', '"width": WIDTH')
IMPORTED = ("from models.model import Model\n", "from models.model import Model\nfrom ..widths import WIDTH\n")


def test_a_definition_outside_the_checkout_is_trained_as_it_was(
    drafted: Path, own: Path, file: Callable[[pd.DataFrame], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "widths.py").write_text("WIDTH = 16\n")
    (drafted.parent / "raw.csv").write_text("x\n1\n")
    edit(drafted, WIDTH, IMPORTED)
    ingest("rides", file(rides()))
    made = train("rides", overrides=QUICK, network={"layers": 1}).version
    in_no_checkout = changed_rides(made, "installed")

    (own / "widths.py").write_text("WIDTH = 32\n")
    edit(drafted, ("    features=(\n", "    features=(  # those of the last year\n"))
    new("others", file(rides()), "y", "at")
    here = reproduce("rides", made)
    shutil.rmtree(own)
    monkeypatch.delenv("OKRUH_CATALOG")
    later = reproduce("rides", in_no_checkout)
    still_told = (
        card("rides", made).card.version,
        lineage("rides", made).version,
        runs("rides", [made]).runs[0].version,
    )

    bundle = registry.load_bundle(drafting.lake(), "main", made)
    assert bundle.card.network_settings["layers"] == 1
    assert still_told == (made, made, made)
    assert bundle.definition is not None
    assert [path for path, _ in unpack(bundle.definition)] == ["rides/__init__.py", "widths.py"]
    assert (here.verdict, later.verdict) == ("identical", "identical")
    assert (here.code.same_sources, later.code.same_sources) == (True, True)
    assert here.code.definition == (
        f"as the bundle keeps it, and beside it present files that no bundle keeps: {own / 'rides' / 'raw.csv'}"
    )
    assert (later.code.used, later.code.definition) == (f"the sources in {ROOT}", "as the bundle keeps it")


@pytest.mark.proof
def test_of_a_version_of_before_definitions_were_kept_the_present_one_is_trained_and_told(
    drafted: Path, own: Path, file: Callable[[pd.DataFrame], str], capsys: pytest.CaptureFixture[str]
) -> None:
    ingest("rides", file(rides()))
    of_before = changed_rides(train("rides", overrides=QUICK).version, "of-before", definition_digest=None)

    done = reproduce("rides", of_before)
    screens.reproduced(done)
    edit(drafted, ('"width": 192', '"width": 16'))
    with pytest.raises(BundleError) as refused:
        reproduce("rides", of_before)

    said = f"the present one in {own}; bundles of before kept none"
    assert (done.verdict, done.code.definition) == ("identical", said)
    assert f"definition {said}" in " ".join(capsys.readouterr().out.split())
    assert ", with the present definition (bundles of before kept none), have " in str(refused.value)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout of our sources at a commit."""
    root = tmp_path / "project"
    for package in ("models", "infra", "flows"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "*.parquet"))
    shutil.copy(ROOT / ".gitignore", root)
    git(tmp_path, "init", "--quiet", str(root))
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "as it was trained")
    return root


def command(project: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Give what runs `okruh reproduce taxi_eta` of a checkout."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        asked = [sys.executable, "-m", "flows.cli", "reproduce", "taxi_eta", *words]
        return subprocess.run(asked, cwd=project, capture_output=True, text=True, timeout=300, check=False)

    return run


def commit(root: Path, file: str, text: str) -> str:
    (root / file).write_text(text)
    git(root, "commit", "--all", "--quiet", "--message", f"change {file}")
    return git(root, "rev-parse", "HEAD")


def test_later_code_trains_by_the_recorded_commit_with_the_bundles_definition_and_by_its_own_where_that_is_asked_for(
    trained: Path, project: Path
) -> None:
    (project / "models" / "catalog" / "taxi_eta" / "later.py").write_text("BROKEN = 1\n")
    git(project, "add", ".")
    recorded = commit(project, "models/catalog/taxi_eta/__init__.py", "BROKEN = 1\n")
    origin = origin_of(champion(), code_commit=recorded)
    assert origin.source_digest == source_digest(files("taxi_eta").kept, project)
    version = changed(champion(), "of-a-commit", origin=origin)
    loop = project / "models" / "learning" / "examples.py"
    for file in Path(taxi_eta.__file__).parent.glob("*.py"):
        shutil.copy(file, project / "models" / "catalog" / "taxi_eta")
    later = commit(project, "models/learning/examples.py", f"{loop.read_text()}\nCHANGED = 1\n")
    okruh = command(project)

    same, missing, by_head = okruh(version, "--json"), okruh("pizza"), okruh(version, "--code", "HEAD", "--json")

    first, by_later = json.loads(same.stdout), json.loads(by_head.stdout)
    assert (same.returncode, first["verdict"], first["code"]["used"]) == (0, "identical", f"git commit {recorded}")
    assert (first["code"]["recorded"], first["code"]["same_sources"]) == (recorded, True)
    assert first["code"]["definition"] == "as the bundle keeps it"
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("okruh: no version 'pizza' here; ")
    assert (by_head.returncode, by_later["code"]["used"]) == (0, f"git commit {later}")
    assert (by_later["code"]["same_sources"], by_later["code"]["definition"]) == (False, None)
    assert git(project, "status", "--porcelain") == ""
    assert nothing_left(trained)


def test_code_of_before_says_since_when_code_can(trained: Path, project: Path) -> None:
    able = git(project, "rev-parse", "HEAD")
    git(project, "rm", "--quiet", "flows/train_again.py")
    git(project, "commit", "--quiet", "--message", "as it was before")
    before = git(project, "rev-parse", "HEAD")
    version = changed(champion(), "of-before", origin=origin_of(champion(), code_commit=before))

    done = command(project)(version)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"okruh: of-before cannot be trained again by git commit {before}: it has no flows/train_again.py yet, which "
        f"code has from {able} on; what the present code makes of it says --code HEAD\n"
    )
