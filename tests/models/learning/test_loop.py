"""The training loop: repeatable bit by bit, keeps the best epoch, refuses what cannot be trained."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from models.errors import DefinitionError, TrainingDiverged
from models.learning.loop import Examples, Fitted, choose_device, fit, predict, repeatable
from models.learning.settings import TrainingSettings
from models.learning.training import to_examples
from models.model import Model

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(epochs=2, batch_rows=32)


@pytest.fixture
def examples(ride_model: Model, make_rides: Callable[..., pd.DataFrame]) -> Examples:
    """320 rows: 10 steps an epoch."""
    return to_examples(ride_model.contract, make_rides(320))


def few(examples: Examples, rows: int) -> Examples:
    return Examples(examples.inputs[:rows], examples.target_N[:rows])


def train(
    model: Model,
    examples: Examples,
    validation: Examples | None = None,
    device: torch.device = CPU,
    **changes: float,
) -> Fitted:
    settings = SETTINGS.with_changes(**changes)
    with repeatable(settings.seed, threads=1):
        return fit(model.network(examples), examples, validation or few(examples, 0), settings, device)


class WithDropout(nn.Module):
    """Draws random numbers on the device, which has a state of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.dropout = nn.Dropout(0.5)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.inner(self.dropout(numbers), categories, parts)
        return answer


def weights(fitted: Fitted) -> bytes:
    return b"".join(value.numpy().tobytes() for value in fitted.network.state_dict().values())


def test_twenty_steps_reach_the_golden_loss(ride_model: Model, examples: Examples, device: torch.device) -> None:
    draw = np.random.default_rng(0)  # unlike torch's normal numbers, the same on every processor
    network = ride_model.network(examples)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.from_numpy(draw.normal(0, 0.1, parameter.shape)))

    with repeatable(0, threads=1):
        fitted = fit(network, examples, few(examples, 0), SETTINGS.with_changes(learning_rate=0.05), device)

    assert [figures["epoch"] for figures in fitted.epochs] == [1.0, 2.0]
    assert [figures["train_loss"] for figures in fitted.epochs] == pytest.approx([73.87, 66.45], rel=2e-3)


def test_a_seed_determines_the_weights_bit_by_bit(ride_model: Model, examples: Examples, device: torch.device) -> None:
    first, again, other = (weights(train(ride_model, examples, device=device, seed=seed)) for seed in (0, 0, 1))

    assert first == again
    assert first != other


def test_what_ran_before_does_not_change_the_weights(
    ride_model: Model, examples: Examples, device: torch.device
) -> None:
    noisy = replace(ride_model, network=lambda rows: WithDropout(ride_model.network(rows)))
    first = weights(train(noisy, examples, device=device))
    torch.rand(7, device=device)
    assert weights(train(noisy, examples, device=device)) == first


def test_leaves_the_random_numbers_of_a_device_as_they_were(device: torch.device) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3, device=device)
    torch.manual_seed(5)

    with repeatable(seed=0, threads=1):
        torch.rand(3, device=device)

    assert torch.equal(torch.rand(3, device=device), expected)


def test_leaves_torch_as_it_was() -> None:
    torch.manual_seed(5)
    state, threads, strict = (
        torch.get_rng_state(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )

    def fail_within() -> None:
        with repeatable(seed=0, threads=threads + 1):
            torch.rand(3)
            assert torch.get_num_threads() == threads + 1
            assert torch.are_deterministic_algorithms_enabled()
            raise TrainingDiverged

    with pytest.raises(TrainingDiverged):
        fail_within()

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() == strict


def test_refuses_a_training_that_diverges(ride_model: Model, examples: Examples) -> None:
    with pytest.raises(TrainingDiverged, match=r"epoch \d+ gave loss .*lower the learning_rate, 1e\+30 now"):
        train(ride_model, examples, learning_rate=1e30, epochs=4)


def test_refuses_a_network_whose_validation_error_is_no_number(ride_model: Model, examples: Examples) -> None:
    validation = replace(few(examples, 9), target_N=np.full(9, np.nan, np.float32))
    with pytest.raises(TrainingDiverged, match="validation error nan"):
        train(ride_model, examples, validation)


def test_stops_early_and_keeps_the_best_epoch(ride_model: Model, examples: Examples) -> None:
    opposite = replace(examples, target_N=-examples.target_N)

    fitted = train(ride_model, examples, opposite, epochs=20, patience=3)

    errors = [figures["validation_error"] for figures in fitted.epochs]
    assert fitted.best_epoch == 1 + int(np.argmin(errors))
    assert len(errors) == fitted.best_epoch + 3
    answered_N = predict(fitted.network, opposite.inputs)
    assert np.abs(answered_N - opposite.target_N).mean() == pytest.approx(min(errors), rel=1e-5)


def test_without_validation_rows_the_last_epoch_is_kept(ride_model: Model, examples: Examples) -> None:
    fitted = train(ride_model, examples, epochs=5, patience=1)

    assert fitted.best_epoch == len(fitted.epochs) == 5


def test_reports_each_epoch_as_it_ends(ride_model: Model, examples: Examples) -> None:
    heard: list[dict[str, float]] = []
    with repeatable(0, threads=1):
        fitted = fit(ride_model.network(examples), examples, few(examples, 9), SETTINGS, CPU, heard.append)

    assert heard == fitted.epochs
    assert set(heard[0]) == {"epoch", "train_loss", "validation_error"}


def test_hands_back_a_network_that_answers_and_does_not_learn(
    ride_model: Model, examples: Examples, device: torch.device
) -> None:
    fitted = train(ride_model, examples, few(examples, 9), device)

    assert not any(module.training for module in fitted.network.modules())
    assert {parameter.device for parameter in fitted.network.parameters()} == {CPU}


@pytest.mark.parametrize("epochs", [1, 2, 5, 10])
def test_trains_for_any_number_of_steps(ride_model: Model, examples: Examples, epochs: int) -> None:
    fitted = train(ride_model, few(examples, 20), epochs=epochs, warm_up=0.2)  # one step an epoch

    assert len(fitted.epochs) == epochs


def test_trains_networks_without_embeddings(examples: Examples) -> None:
    class Straight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(1, 1)

        def forward(self, numbers: torch.Tensor, categories: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.line(numbers[:, :1]).squeeze(1)
            return answer

    with repeatable(0, threads=1):
        fitted = fit(Straight(), examples, few(examples, 9), SETTINGS, CPU)
    assert fitted.epochs[-1]["train_loss"] < fitted.epochs[0]["train_loss"]


@pytest.mark.parametrize("wanted", ["cuda", "mps", "tpu"])
def test_a_device_that_is_asked_for_and_absent_is_an_error(wanted: str) -> None:
    if {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(wanted):
        pytest.skip(f"this machine has {wanted}")
    with pytest.raises(DefinitionError, match=f"'{wanted}' is asked for and not there; set OKRUH_DEVICE"):
        choose_device(wanted)


def test_without_a_wish_some_device_is_found() -> None:
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epochs": 0}, "training.epochs must be greater than 0"),
        ({"learning_rate": -1.0}, "training.learning_rate must be greater than 0"),
        ({"learning_rate": float("nan")}, "training.learning_rate must be greater than 0"),
        ({"warm_up": 1.0}, "training.warm_up must lie between 0 and 1"),
    ],
)
def test_refuses_settings_that_cannot_train(changes: dict[str, float], reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        SETTINGS.with_changes(**changes)
