"""What a network does wrong is said before it learns, by its own line, and what is right is left as it was."""

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from models.errors import DefinitionError
from models.learning import checks
from models.learning.loop import Progress
from models.learning.material import Material, gather
from models.learning.objectives import objective
from models.learning.settings import TrainingSettings
from models.learning.splits import Split
from models.learning.training import make_network, train
from models.model import Model

SETTINGS = TrainingSettings(epochs=1, batch_rows=32)
Forward = Callable[[nn.Module, Tensor, Tensor], Any]


class Own(nn.Module):
    """One linear layer, around which a definition does what it likes."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.calls = 0
        self.does = forward

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Any:
        self.calls += 1
        return self.does(self, numbers, categories)

    def answer(self, numbers: Tensor) -> Tensor:
        answers: Tensor = self.layer(numbers.nan_to_num()).squeeze(1)
        return answers


@pytest.fixture(scope="module")
def material(ride_model: Model, make_rides: Callable[..., pd.DataFrame]) -> Material:
    """60, 20 and 20 rows."""
    rides = make_rides(100)
    return gather(ride_model.contract, [Split(rides[:60], rides[60:80], rides[80:])], 100.0)


def fails(network: Own, *_: Tensor) -> Tensor:
    raise OSError("no such luck")


def ends(network: Own, *_: Tensor) -> Tensor:
    sys.exit(0)


def fails_late(network: Own, numbers: Tensor, _: Tensor) -> Tensor:
    if network.training:
        raise ArithmeticError("no such luck")
    return network.answer(numbers)


def halves(network: Own, numbers: Tensor, _: Tensor) -> Tensor:
    numbers[:, 0] /= 2
    return network.answer(numbers)


def counts_on(network: Own, numbers: Tensor, categories: Tensor) -> Tensor:
    categories += 1
    return network.answer(numbers)


def halves_late(network: Own, numbers: Tensor, _: Tensor) -> Tensor:
    return network.answer(numbers.div_(2) if network.training else numbers)


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda *_: None, r"answers 10 rows with NoneType; its forward must give float32 of shape \(10,\)"),
        (lambda own, numbers, _: {"answer": own.answer(numbers)}, "answers 10 rows with dict; its forward must give"),
        (fails, r"line \d+ of test_checks\.py, `raise OSError\(.*\)` fails on the first rows: no such luck"),
        (ends, r"line \d+ of test_checks\.py, `sys\.exit\(0\)` fails on the first rows: SystemExit"),
        (fails_late, r"line \d+ of test_checks\.py, `raise .*` fails as soon as it learns: no such luck"),
        (halves, r"the network changes the numbers that it is given, which are the rows themselves: .* copy \(\.clone"),
        (counts_on, "the network changes the categories that it is given"),
        (halves_late, "the network changes the numbers that it is given"),
        (lambda own, numbers, _: own.answer(numbers) * 0.5**own.calls, "answers the same rows otherwise the second"),
        (lambda own, numbers, _: own.answer(numbers) * random.random(), "answers the same rows otherwise the second"),
        (lambda own, numbers, _: own.answer(numbers).detach(), "no gradient leads from the network's answer to its"),
        (
            lambda own, numbers, _: own.answer(numbers)[:, None] if own.training else own.answer(numbers),
            r"while it learns, the network answers 8 rows with shape \(8, 1\); it must be of shape \(8,\)",
        ),
    ],
)
def test_refuses_what_goes_wrong_before_an_epoch_is_learned(
    ride_model: Model, material: Material, forward: Forward, said: str
) -> None:
    heard = list[Progress]()
    model = replace(ride_model, network=lambda _: Own(forward))

    with pytest.raises(DefinitionError, match=f"^model rides: .*{said}"):
        train(model, material, SETTINGS, device="cpu", threads=1, report=heard.append)

    assert heard == []


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_refuses_a_network_that_is_compiled_already(ride_model: Model, material: Material) -> None:
    def make(_: Any) -> nn.Module:
        compiled: nn.Module = torch.compile(Noisy())  # type: ignore[assignment]
        return compiled

    with pytest.raises(DefinitionError, match=r"give the network itself, .* training\.compiled=yes"):
        make_network(replace(ride_model, network=make), material, {})


def test_a_network_that_cannot_be_made_is_told_by_its_line(ride_model: Model, material: Material) -> None:
    def make(_: Any) -> nn.Module:
        return nn.Linear(2, [1])  # type: ignore[arg-type]

    with pytest.raises(DefinitionError, match=r"cannot be made: .*, in line \d+ of test_checks\.py, `return nn\.Li"):
        make_network(replace(ride_model, network=make), material, {})


class Noisy(nn.Module):
    """Draws numbers, and keeps means, while it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1))

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        answers: Tensor = self.layers(numbers.nan_to_num()).squeeze(1)
        return answers


@pytest.mark.parametrize("rows", [1, 5, 60])
def test_nothing_remains_of_a_rehearsal(ride_model: Model, material: Material, rows: int) -> None:
    network, cpu = Noisy().train(), torch.device("cpu")
    few = material.train.sample[:rows]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = [array.copy() for array in few.inputs.arrays()]
    drawn = torch.get_rng_state()

    checks.rehearse(ride_model, network, few, objective(SETTINGS, ride_model.contract.target, torch.zeros(0), cpu), cpu)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(
        np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        for one, other in zip(inputs, few.inputs.arrays(), strict=True)
    )
