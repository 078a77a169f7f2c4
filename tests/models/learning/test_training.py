"""One training: what it yields fits together, and the test rows stay unseen."""

import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from models.contract.table import to_columns
from models.errors import BundleError, DefinitionError, ParityFailed
from models.evaluating.measures import measure
from models.inference import Predictor
from models.learning.material import gather
from models.learning.settings import Setting, TrainingSettings
from models.learning.splits import Split
from models.learning.training import PARITY_ROWS, Trained, train
from models.model import Model
from models.watching import profile

SETTINGS = TrainingSettings(epochs=3, batch_rows=32, learning_rate=0.05)


@pytest.fixture(scope="module")
def split(make_rides: Callable[..., pd.DataFrame]) -> Split:
    """600, 100 and 200 rows."""
    rides = make_rides(900)
    return Split(rides[:600], rides[600:700], rides[700:])


def learn(model: Model, split: Split, settings: TrainingSettings, **arguments: Any) -> Trained:
    """Train on the three frames of a split."""
    return train(model, gather(model.contract, [split], settings.memory_mb), settings, **arguments)


@pytest.fixture(scope="module")
def trained(ride_model: Model, split: Split) -> Trained:
    """A training of three epochs."""
    return learn(ride_model, split, SETTINGS, device="cpu", threads=1)


def test_every_device_trains_the_same_network(
    ride_model: Model, split: Split, trained: Trained, device: torch.device
) -> None:
    there = [learn(ride_model, split, SETTINGS, device=device.type, threads=1) for _ in range(2)]

    assert there[0].state == there[1].state
    assert there[0].metrics == pytest.approx(trained.metrics, rel=1e-3)
    assert there[0].parity.largest_difference <= there[0].parity.tolerance


def test_the_graph_alone_gives_the_metrics(ride_model: Model, split: Split, trained: Trained) -> None:
    answered_N = Predictor(trained.onnx, ride_model.contract).predict(to_columns(ride_model.contract, split.test))

    assert trained.metrics == pytest.approx(
        measure(ride_model.contract.target, answered_N, split.test["minutes"].tolist()), rel=1e-4
    )
    assert trained.metrics["rows"] == 200
    assert set(trained.evaluation.slices["kind"]) == {"bike", "car"}


def test_parity_is_proved_on_the_held_out_rows_and_on_a_month_of_those_trained_on(
    split: Split, trained: Trained
) -> None:
    assert trained.parity.rows == sum(map(len, (split.train, split.validation, split.test))) < PARITY_ROWS
    assert trained.parity.largest_difference <= trained.parity.tolerance


def test_the_profile_describes_the_test_rows(ride_model: Model, split: Split, trained: Trained) -> None:
    described = profile.decode(trained.profile)

    assert described.loss.rows == 200
    assert described.loss.mean == pytest.approx(trained.metrics["mae"])
    distances = profile.drift(ride_model.contract, described, to_columns(ride_model.contract, split.test))
    assert distances == pytest.approx(dict.fromkeys(("distance", "weight", "kind"), 0.0))


def test_the_same_training_yields_the_same_bytes(ride_model: Model, split: Split, trained: Trained) -> None:
    again = learn(ride_model, split, SETTINGS, device="cpu", threads=1)

    assert (again.onnx, again.profile, again.state) == (trained.onnx, trained.profile, trained.state)


def test_test_rows_do_not_change_the_network(ride_model: Model, split: Split, trained: Trained) -> None:
    other = replace(split, test=split.test.assign(minutes=1.0))

    assert learn(ride_model, other, SETTINGS, device="cpu", threads=1).state == trained.state


def test_a_warm_start_goes_on_from_the_weights(ride_model: Model, split: Split, trained: Trained) -> None:
    barely = SETTINGS.with_changes({"epochs": 1, "learning_rate": 1e-9})

    warm = learn(ride_model, split, barely, device="cpu", threads=1, warm_start=trained.state)

    before, after = load(trained.state), load(warm.state)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(after[name].numpy(), value.numpy(), atol=1e-6)


class Wrong(nn.Module):
    """A network with one of its author's usual mistakes."""

    def __init__(self, kinds: int = 3, squeezes: bool = True, replaces: bool = True, takes: int = 0) -> None:
        super().__init__()
        self.kind = nn.Embedding(kinds, 1)
        self.squeezes, self.replaces = squeezes, replaces
        self.layer = nn.Linear(takes, 1) if takes else None

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        weight = numbers[:, 1:].nan_to_num() if self.replaces else numbers[:, 1:]
        answer: Tensor = self.kind(categories[:, 0]) + (weight if self.layer is None else self.layer(weight))
        return answer.squeeze(1) if self.squeezes else answer


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Wrong(squeezes=False), r"of shape \(10, 1\); its forward must give float32 of shape \(10,\)"),
        (Wrong(kinds=2), r"an embedding needs n \+ 1 rows for a category with n values \(kind: 3\)"),
        (
            Wrong(takes=5),
            r"line \d+ of test_training\.py, `.*` fails on the first rows: mat1 and mat2 shapes cannot be mu",
        ),
        (Wrong(replaces=False), "null numbers reach it as NaN: replace them"),
        (None, "`network` gave a NoneType, not a torch.nn.Module"),
    ],
)
def test_refuses_a_network_that_does_not_answer_row_by_row(
    ride_model: Model, split: Split, network: Any, said: str
) -> None:
    model = replace(ride_model, network=lambda _: network)

    with pytest.raises(DefinitionError, match=f"^model rides: .*{said}"):
        learn(model, replace(split, train=split.train.assign(weight=1.0)), SETTINGS, device="cpu", threads=1)


def test_a_network_without_mistakes_is_trained(ride_model: Model, split: Split) -> None:
    learn(replace(ride_model, network=lambda _: Wrong()), split, SETTINGS, device="cpu", threads=1)


class Shares(Wrong):
    """Has a weight under two names, a buffer of one number that looks like two, and one that gets another shape."""

    ones: Tensor
    seen: Tensor

    def __init__(self, persistent: bool = False) -> None:
        super().__init__()
        self.again = nn.Embedding(3, 1)
        self.again.weight = self.kind.weight
        self.register_buffer("ones", torch.ones(1).expand(2), persistent=False)
        self.register_buffer("seen", torch.zeros(1), persistent=persistent)

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        if self.training:
            self.seen = torch.zeros(3) + self.seen.max() + 1
        answer: Tensor = (
            super().forward(numbers, categories, time_parts) * self.ones[0] + self.again(categories[:, 0])[:, 0]
        )
        return answer


def test_a_buffer_that_is_kept_may_get_another_shape(ride_model: Model, split: Split) -> None:
    model = replace(ride_model, network=lambda _: Shares(persistent=True))

    trained = learn(model, split, SETTINGS, device="cpu", threads=1)

    assert load(trained.state)["seen"].shape == (3,)


def test_what_a_network_shares_is_kept_under_both_names(ride_model: Model, split: Split) -> None:
    model = replace(ride_model, network=lambda _: Shares())

    first = learn(model, split, SETTINGS, device="cpu", threads=1)
    warm = learn(model, split, SETTINGS, device="cpu", threads=1, warm_start=first.state)

    state = load(first.state)
    assert state.keys() == {"kind.weight", "again.weight"}
    assert torch.equal(state["kind.weight"], state["again.weight"])
    assert isinstance(warm.fitted.network, Shares)
    assert warm.fitted.network.seen.shape == (3,)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (
            {"naive": lambda _, rows: np.full(len(rows), np.nan)},
            "`naive` must give finite numbers of shape .200,. for 200 rows",
        ),
        (
            {"naive": lambda _, rows: np.zeros(len(rows) - 1)},
            "`naive` must give finite numbers of shape .200,. for 200 rows",
        ),
    ],
)
def test_refuses_a_wrong_definition_before_training(
    ride_model: Model, split: Split, mistake: dict[str, Any], said: str
) -> None:
    with pytest.raises(DefinitionError, match=f"^model rides: {said}"):
        learn(replace(ride_model, **mistake), split, SETTINGS, device="cpu", threads=1)


class Sized(nn.Module):
    """Takes its width, and says what it was given."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.given = (width, slope)
        self.layers = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1))

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        answers: Tensor = self.layers(torch.nan_to_num(numbers)).squeeze(1)
        return answers


def sized(model: Model) -> Model:
    return replace(model, network=lambda _, **of: Sized(**of), network_settings={"width": 8, "slope": 0.5})


@pytest.mark.parametrize(("changes", "given"), [({}, (8, 0.5)), ({"width": "3"}, (3, 0.5)), ({"slope": 1}, (8, 1.0))])
def test_a_network_is_made_with_its_settings_each_of_the_kind_that_it_usually_has(
    ride_model: Model, split: Split, changes: dict[str, Setting], given: tuple[int, float]
) -> None:
    trained = learn(sized(ride_model), split, SETTINGS, device="cpu", threads=1, network_settings=changes)

    made = trained.fitted.network
    assert isinstance(made, Sized)
    assert (made.given, type(made.given[1])) == (given, float)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "no network setting is called colour; there are width, slope"),
        ({"width": "2.5"}, "network.width must be a whole number, not '2.5'"),
        ({"slope": "steep"}, "network.slope must be a number, not 'steep'"),
        ({"slope": "nan"}, "network.slope must be finite, not nan"),
        ({"width": -1}, "model rides: the network cannot be made with network.width=-1: Trying to create tensor with"),
    ],
)
def test_refuses_network_settings_that_nothing_can_be_made_with(
    ride_model: Model, split: Split, changes: dict[str, Setting], said: str
) -> None:
    with pytest.raises(DefinitionError, match=f"^{said}"):
        learn(sized(ride_model), split, SETTINGS, device="cpu", threads=1, network_settings=changes)


def test_what_fails_by_the_definition_alone_is_told_by_its_line(ride_model: Model, split: Split) -> None:
    model = replace(sized(ride_model), network_settings={"width": -1, "slope": 0.5})

    with pytest.raises(DefinitionError, match=r"cannot be made: .*negative dimension.*, in line \d+ of test_tr"):
        learn(model, split, SETTINGS, device="cpu", threads=1)


@pytest.mark.parametrize("damaged", [b"", b"not a state", save({})])
def test_refuses_a_warm_start_that_does_not_fit(ride_model: Model, split: Split, damaged: bytes) -> None:
    with pytest.raises(BundleError, match="train from scratch"):
        learn(ride_model, split, SETTINGS, device="cpu", threads=1, warm_start=damaged)


def test_a_span_without_validation_rows_trains_to_the_last_epoch(ride_model: Model, split: Split) -> None:
    trained = learn(ride_model, replace(split, validation=split.validation[:0]), SETTINGS, device="cpu", threads=1)

    assert trained.fitted.best_epoch == SETTINGS.epochs
    assert trained.parity.rows == len(split.train) + len(split.test)


def test_one_test_row_is_enough_to_train(ride_model: Model, split: Split) -> None:
    alone = replace(split, validation=split.validation[:0], test=split.test[:1])

    trained = learn(ride_model, alone, SETTINGS, device="cpu", threads=1)

    assert trained.metrics["rows"] == 1
    assert profile.decode(trained.profile).loss.rows == 1


def test_refuses_a_graph_beyond_the_tolerance(ride_model: Model, split: Split) -> None:
    with pytest.raises(ParityFailed):
        learn(replace(ride_model, parity_tolerance=-1.0), split, SETTINGS, device="cpu", threads=1)


def test_says_what_it_was_computed_on(trained: Trained) -> None:
    computed = trained.computed

    assert (computed.device, computed.threads, computed.processes) == ("cpu", 1, 1)
    assert (computed.torch, computed.python) == (torch.__version__, platform.python_version())
    assert computed.processor.endswith(f", {torch.backends.cpu.get_cpu_capability()}")
