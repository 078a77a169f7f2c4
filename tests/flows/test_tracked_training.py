"""Whatever becomes of the tracker, a training yields the same weights, and ends."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import psutil
import pytest

from flows.progress import Training, trainings_shown_by
from flows.train import train
from infra import registry
from infra.assembly import assemble
from infra.settings import load_settings
from tests.flows.conftest import AS_OF, EPOCHS, lake
from tests.infra.tracking.wandb_server import WandbServer, serving

SETTINGS = EPOCHS | {"seed": 5}


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with serving() as made:
        yield made


def kill_the_product(_: Training) -> None:
    """Kill the product's own process, once it runs, in the middle of a training."""
    for _look in range(1200):
        if found := [one for one in psutil.Process().children(recursive=True) if one.name() == "wandb-core"]:
            found[0].kill()
            return
        Event().wait(0.05)
    raise AssertionError("the product does not run within a minute")


def suspend_the_recorder(_: Training) -> None:
    """Have the process hang that records."""
    for one in psutil.Process().children():
        if "infra.tracking.recorder" in one.cmdline():
            one.suspend()


def unseen(_: Training) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("behaviour", "do"),
    [
        ("takes", unseen),
        ("stalls", unseen),
        ("refuses", unseen),
        ("takes", kill_the_product),
        ("takes", suspend_the_recorder),
    ],
)
def test_a_tracker_changes_nothing_about_a_training(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: WandbServer,
    behaviour: str,
    do: Callable[[Training], None],
) -> None:
    lake().create_branch("tracked", "main")
    untracked = train("taxi_eta", AS_OF, overrides=SETTINGS)  # the state folder's own setting is `disabled`
    server.behaviour = behaviour
    for name, value in (server.environment | {"OKRUH_TRACKING_WAIT_S": "5"}).items():
        monkeypatch.setenv(name, value)

    remaining = [do]  # at the first report, and no further one: what was killed does not come again

    with trainings_shown_by(lambda training: remaining.pop()(training) if remaining else None):
        tracked = train("taxi_eta", AS_OF, "tracked", overrides=SETTINGS)

    first, second = (
        registry.load_bundle(lake(), branch, one.version) for branch, one in (("main", untracked), ("tracked", tracked))
    )
    assert not tracked.cached
    if do is unseen:  # what is killed or hangs may have kept nothing yet
        assert second.card.origin.tracker_run != ""
    assert (second.onnx, second.state, second.card.metrics) == (first.onnx, first.state, first.card.metrics)
    assert not [one for one in psutil.Process().children() if "infra.tracking.recorder" in one.cmdline()]


@pytest.mark.parametrize("product", ["raise ImportError('broken')", "import signal\nsignal.pause()"])
def test_a_run_of_which_the_tracker_keeps_nothing_is_named_nowhere(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, product: str
) -> None:
    (tmp_path / "wandb.py").write_text(product)
    monkeypatch.setenv("OKRUH_TRACKING_WAIT_S", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OKRUH_TRACKING", "offline")

    made = train("taxi_eta", AS_OF, overrides=SETTINGS)

    assert registry.load_card(lake(), "main", made.version).origin.tracker_run == ""
    run = assemble(load_settings()).runs("taxi_eta").all()[-1]
    assert (run.begun.tracker_run, run.tracker_run) == (f"okruh-taxi_eta/{run.id}", "")
