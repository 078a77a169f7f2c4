"""Several processes that torchrun starts run one flow: one registers what all have trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.server.api.server import SubprocessASGIServer

from flows.reproduce import reproduce
from flows.together import in_company
from flows.train import train
from infra import registry
from infra.errors import Misconfigured
from infra.provenance import ROOT
from tests.flows.conftest import AS_OF, EPOCHS, lake

TOLD = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "flows.cli")


NARROW = {"width": 48}


def test_two_processes_train_and_one_registers(trained: Path) -> None:
    settings = EPOCHS | {"seed": 9}
    asked = [f"--set=training.{name}={value}" for name, value in settings.items()] + ["--set=network.width=48"]
    words = ["train", "taxi_eta", "--as-of", AS_OF.isoformat(), *asked, "--json"]
    server = SubprocessASGIServer().api_url  # the session's; another one would take as long as the training
    environment = {**os.environ, "OKRUH_HOME": str(trained), "PREFECT_API_URL": server}

    done = subprocess.run(
        [*TORCHRUN, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=200
    )

    first = json.loads(done.stdout)  # one object: the other process prints nothing
    alone = train("taxi_eta", AS_OF, overrides=settings, network=NARROW)
    assert (first["cached"], alone.cached) == (False, False)
    card = registry.load_card(lake(), "main", first["version"])
    assert (card.seed, card.network_settings["width"]) == (9, 48)
    assert first["metrics"]["mae"] == pytest.approx(alone.metrics["mae"], rel=0.02)
    assert first["metrics"]["rows"] == alone.metrics["rows"]
    again_by_two = reproduce("taxi_eta", first["version"])
    assert again_by_two.environment.computed_now is not None
    assert (again_by_two.verdict, again_by_two.environment.computed_now.processes) == ("identical", 2)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RANK", "x", "RANK is 'x'"),
        ("RANK", "2", "RANK is '2'"),
        ("LOCAL_RANK", "", "LOCAL_RANK is not set"),
        ("MASTER_PORT", "65536", "MASTER_PORT is '65536'"),
        ("MASTER_ADDR", "", "MASTER_ADDR is not set"),
    ],
)
def test_one_of_several_that_torchrun_has_not_told_which_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    for each, usual in (TOLD | {name: value}).items():
        monkeypatch.setenv(each, usual)

    with pytest.raises(Misconfigured, match=f"2 processes train together, but {said}; have `torchrun` start them"):
        in_company(lambda: None)
