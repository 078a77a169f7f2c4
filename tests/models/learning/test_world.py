"""Several processes train as one does, and go on after one of them is killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.errors import DefinitionError
from models.learning.devices import repeatable
from models.learning.examples import HeldRows
from models.learning.loop import fit
from models.learning.world import World, life
from tests.models.learning.together import AIM, CPU, SETTINGS, examples, network

ROOT = Path(__file__).parents[3]
TOLERANCE = 1e-4
"""Sums are added in another order, and what differs in the last digit differs more after some steps."""


def test_two_processes_of_which_one_is_killed_train_as_one_does(tmp_path: Path) -> None:
    module = "tests.models.learning.trains_together"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

    subprocess.run([*torchrun, "--max-restarts", "1", "-m", module, str(tmp_path)], cwd=ROOT, check=True, timeout=300)

    together = json.loads((tmp_path / "done.json").read_text())
    with repeatable(SETTINGS.seed, threads=1):
        alone = fit(network(), HeldRows(examples(), CPU), HeldRows(examples()[:50], CPU), AIM, SETTINGS, CPU)
    assert (together["size"], together["resumed_at"]) == (2, 10)
    assert len(together["epochs"]) == len(alone.epochs)
    for theirs, ours in zip(together["epochs"], alone.epochs, strict=True):
        assert theirs == pytest.approx(ours, rel=TOLERANCE)
    errors = [json.loads((tmp_path / f"errors-{rank}.json").read_text()) for rank in range(2)]
    assert errors[0] == errors[1] == [one["validation_error"] for one in together["epochs"]]
    weights = torch.load(tmp_path / "weights", weights_only=True)
    for name, value in alone.network.state_dict().items():
        assert torch.allclose(weights[name], value, rtol=0, atol=1e-2), name


@pytest.mark.parametrize(
    ("batch", "rows", "said"),
    [
        (1000, 5000, "a batch has 1000 of the 5000 .* 3 processes .* to a multiple of 3, 4998 at most, or start fewer"),
        (7, 7, "a batch has 7 of the 7 rows .* 3 processes .* to a multiple of 3, 6 at most, or start fewer"),
        (2, 2, "a batch has 2 of the 2 rows to learn from, which 3 processes cannot share evenly: start fewer"),
    ],
)
def test_a_batch_that_cannot_be_shared_evenly_is_refused(batch: int, rows: int, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        World(0, 3).share_of(batch, rows)


def test_several_machines_that_may_restart_need_a_store_for_each_start() -> None:
    shared = {"TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "1"}

    with pytest.raises(DefinitionError, match="start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        life(shared | {"TORCHELASTIC_MAX_RESTARTS": "3"})
    assert life(shared | {"TORCHELASTIC_MAX_RESTARTS": "0"})
    assert life({"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"})


def test_each_start_of_the_same_processes_has_a_name_of_its_own() -> None:
    shared = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_MAX_RESTARTS": "1"}

    assert life(shared | {"TORCHELASTIC_RESTART_COUNT": "0"}) != life(shared | {"TORCHELASTIC_RESTART_COUNT": "1"})
