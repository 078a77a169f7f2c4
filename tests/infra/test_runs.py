"""The index of trainings: nothing is lost by a kill, and nothing grows without bound."""

import math
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from infra.assembly import assemble
from infra.errors import Unavailable
from infra.provenance import ROOT
from infra.runs import REPORTS, Begun, Ended, RunIndex, decode, new_id, of_card, registered
from infra.settings import Settings
from models.bundle import Bundle
from tests.conftest import BundleMaker

AT = datetime(2020, 3, 1, tzinfo=UTC)
BEGUN = Begun(
    id="20200301-000000-beef",
    model="tiny",
    branch="main",
    at=AT,
    as_of=AT,
    settings={"epochs": 2, "clip_norm": None},
    changed=("epochs",),
    data_commit="c",
    code_commit="g",
    source_digest="s",
    environment_digest="e",
    device="cpu",
    flow_run="none",
    tracker_run="",
)
FINISHED = Ended(at=AT + timedelta(seconds=90), status="finished", version="v1", metrics={"mae": 1.5, "bias": math.nan})


@pytest.fixture
def index(tmp_path: Path) -> RunIndex:
    return RunIndex(tmp_path / "runs")


def test_gives_back_what_was_recorded(index: RunIndex) -> None:
    record = index.begin(BEGUN)
    record.add(10, {"train_loss": 2.0, "epoch": 1.0}, milestone=False)
    record.add(20, {"train_loss": math.inf, "validation_error": 1.0}, milestone=True)
    whole = record.whole(FINISHED)
    record.end(FINISHED)

    (run,) = index.all()

    assert (run.id, run.status, run.version, run.seconds) == (BEGUN.id, "finished", "v1", 90.0)
    assert (run.begun, run.metrics) == (BEGUN, {"mae": 1.5, "bias": None})
    assert [point.step for point in run.curve] == [10, 20]
    assert run.curve[1].figures == {"train_loss": None, "validation_error": 1.0}
    assert decode(whole) == run


def test_a_run_goes_on_as_long_as_its_process_does(index: RunIndex, tmp_path: Path) -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import msgspec, sys\nfrom pathlib import Path\nfrom infra.runs import Begun, RunIndex\n"
            "run = RunIndex(Path(sys.argv[1])).begin(msgspec.json.decode(sys.argv[2], type=Begun))\n"
            "run.add(7, {'train_loss': 0.5}, False)\nprint(flush=True)\ninput()",
            str(tmp_path / "runs"),
            msgspec.json.encode(BEGUN).decode(),
        ],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()

        (going_on,) = index.all()
        child.kill()
        child.wait()
        (killed,) = index.all()

    assert (going_on.status, killed.status) == ("running", "broken off")
    assert killed.curve == going_on.curve
    assert killed.curve[0].figures == {"train_loss": 0.5}


@pytest.mark.parametrize("torn", [b"", b'{"type":"poi', b'{"type":"ended","at":"2020-03-0', b"\x00\xff"])
def test_a_line_that_was_torn_by_a_kill_is_left_out(index: RunIndex, tmp_path: Path, torn: bytes) -> None:
    record = index.begin(BEGUN)
    record.add(7, {"train_loss": 0.5}, milestone=False)
    with (tmp_path / "runs" / f"{BEGUN.id}.jsonl").open("ab") as file:
        file.write(torn)

    (run,) = index.all()

    assert [point.step for point in run.curve] == [7]


def test_a_record_without_its_beginning_is_none(index: RunIndex, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "empty.jsonl").write_bytes(b"")
    (tmp_path / "runs" / "torn.jsonl").write_bytes(msgspec.json.encode(BEGUN)[:50])

    assert index.all() == []


def test_very_many_reports_are_thinned_and_the_ends_of_epochs_are_not(index: RunIndex) -> None:
    record = index.begin(BEGUN)
    for step in range(1, 100_001):
        record.add(step, {"train_loss": 1.0}, milestone=False)
        if step % 10_000 == 0:
            record.add(step, {"validation_error": 1.0}, milestone=True)
    record.end(FINISHED)

    (run,) = index.all()

    epochs = [point.step for point in run.curve if "validation_error" in point.figures]
    others = [point.step for point in run.curve if "train_loss" in point.figures]
    assert epochs == list(range(10_000, 100_001, 10_000))
    assert others[:1000] == list(range(1, 1001))
    assert len(others) < 5_000
    assert others[-1] > 99_000


def test_a_disk_that_is_full_costs_the_curve_and_not_the_training(
    index: RunIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = index.begin(BEGUN)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, record._file)
    os.close(full)

    record.add(1, {"train_loss": 1.0}, milestone=False)
    record.add(2, {"train_loss": 1.0}, milestone=False)
    record.end(FINISHED)

    assert [one.getMessage() for one in caplog.records] == [
        "nothing more is recorded of this run: [Errno 28] No space left on device"
    ]
    assert index.all()[0].status == "broken off"


def test_says_where_a_run_cannot_be_recorded(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")

    with pytest.raises(Unavailable, match="a run cannot be recorded in "):
        RunIndex(tmp_path / "runs").begin(BEGUN)


def test_names_of_runs_sort_by_time() -> None:
    names = [new_id(AT + timedelta(hours=hours)) for hours in range(48)]

    assert names == sorted(names)


def test_a_bundle_that_came_from_elsewhere_has_the_record_that_came_with_it_or_what_its_card_tells(
    settings: Settings, make_bundle: BundleMaker
) -> None:
    lake = assemble(settings).unprotected_lake("tiny")
    bundle: Bundle = make_bundle("v1")

    assert registered(lake, "main", "v1", bundle.card) == of_card(bundle.card, "main")

    content = b"\n".join(msgspec.json.encode(line) for line in (BEGUN, FINISHED))
    lake.put("main", f"{REPORTS}v1.jsonl", content)
    assert registered(lake, "main", "v1", bundle.card) == decode(content)
    assert of_card(bundle.card, "main").metrics == {"mae": 1.5}
