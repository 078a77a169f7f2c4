"""The training loop: repeatable bit by bit, keeps the best epoch, refuses what cannot be trained."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from models.errors import DefinitionError, TrainingDiverged
from models.learning.devices import choose_device, repeatable
from models.learning.examples import Examples, HeldRows, to_examples
from models.learning.loop import Checkpoints, Fitted, NoCheckpoints, Progress, fit, predict
from models.learning.objectives import objective
from models.learning.settings import Setting, TrainingSettings
from models.model import Model
from tests.models.learning.together import AIM, CPU, NUMBER

SETTINGS = TrainingSettings(epochs=2, batch_rows=32)


@pytest.fixture
def examples(ride_model: Model, make_rides: Callable[..., pd.DataFrame]) -> Examples:
    """320 rows: 10 steps an epoch."""
    return to_examples(ride_model.contract, make_rides(320))


def train(
    model: Model,
    examples: Examples,
    validation: Examples | None = None,
    device: torch.device = CPU,
    **changes: Setting,
) -> Fitted:
    settings = SETTINGS.with_changes(changes)
    held_out = HeldRows(validation, device) if validation else None
    with repeatable(settings.seed, threads=1):
        return fit(model.network(examples), HeldRows(examples, device), held_out, AIM, settings, device)


class WithDropout(nn.Module):
    """Draws random numbers on the device, which has a state of its own, less and less weighed by what is no weight."""

    weighed: torch.Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("weighed", torch.ones(()), persistent=False)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.weighed *= 0.95
        numbers = numbers * self.weighed
        answer: torch.Tensor = self.inner(self.dropout(numbers), categories, parts)
        return answer


def weights(fitted: Fitted) -> bytes:
    learned = (*fitted.network.state_dict().values(), *fitted.network.buffers())
    return b"".join(value.numpy().tobytes() for value in learned)


def test_twenty_steps_reach_the_golden_loss(ride_model: Model, examples: Examples, device: torch.device) -> None:
    draw = np.random.default_rng(0)  # unlike torch's normal numbers, the same on every processor
    network = ride_model.network(examples)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.from_numpy(draw.normal(0, 0.1, parameter.shape)))

    with repeatable(0, threads=1):
        fitted = fit(
            network, HeldRows(examples, device), None, AIM, SETTINGS.with_changes({"learning_rate": 0.05}), device
        )

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
    settings = SETTINGS.with_changes({"learning_rate": 1e30, "epochs": 400})
    kept = KilledAfter(1)  # which it is never asked to be
    with (
        repeatable(0, threads=1),
        pytest.raises(
            TrainingDiverged, match=r"the loss is (inf|nan) by step \d+ of 4000; lower the learning_rate, 1e\+30 now"
        ),
    ):
        fit(ride_model.network(examples), HeldRows(examples, CPU), None, AIM, settings, CPU, checkpoints=kept)
    assert kept.content is None


def test_refuses_weights_that_its_only_step_has_made_infinite(ride_model: Model, examples: Examples) -> None:
    with pytest.raises(
        TrainingDiverged, match="weights are no finite numbers after step 1; lower the learning_rate, 1e\\+30 now"
    ):
        train(ride_model, examples, learning_rate=1e30, weight_decay=1e30, epochs=1, batch_rows=len(examples))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda: nn.Sequential(nn.ReLU()), "has no parameter that a gradient is asked of"),
        (
            lambda: nn.Sequential(nn.Linear(1, 1).requires_grad_(requires_grad=False)),
            "has no parameter that a gradient is asked of",
        ),
        (lambda: nn.Sequential(nn.Embedding(2, 1, sparse=True)), "the network's 0 has sparse gradients"),
    ],
)
def test_refuses_a_network_that_cannot_learn(
    network: Callable[[], nn.Module], said: str, ride_model: Model, examples: Examples
) -> None:
    with pytest.raises(DefinitionError, match=said):
        train(replace(ride_model, network=lambda _: network()), examples)


def test_refuses_a_network_whose_validation_error_is_no_number(ride_model: Model, examples: Examples) -> None:
    validation = replace(examples[:9], target_N=np.full(9, np.nan, np.float32))
    with pytest.raises(TrainingDiverged, match="the loss is nan on validation rows after epoch 1;"):
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
    assert all("validation_error" not in figures for figures in fitted.epochs)


def test_reports_windows_and_the_end_of_each_epoch(
    ride_model: Model, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.learning.examples.WINDOW_BYTES", 1)  # so that each batch is a window
    heard: list[Progress] = []
    held_out = HeldRows(examples[:9], CPU)
    with repeatable(0, threads=1):
        fitted = fit(
            ride_model.network(examples), HeldRows(examples, CPU), held_out, AIM, SETTINGS, CPU, report=heard.append
        )

    ends = [progress for progress in heard if progress.ends_epoch]
    windows = [progress for progress in heard if not progress.ends_epoch]
    assert [progress.figures() for progress in ends] == fitted.epochs
    assert [(one.epoch, one.step) for one in windows] == [(1 + step // 10, 1 + step) for step in range(20)]
    assert {(one.batch_rows, one.epochs, one.steps) for one in heard} == {(32, 2, 20)}
    for epoch, end in enumerate(ends, 1):
        losses = [one.train_loss for one in windows if one.epoch == epoch]
        assert end.train_loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_hands_back_a_network_that_answers_and_does_not_learn(
    ride_model: Model, examples: Examples, device: torch.device
) -> None:
    fitted = train(ride_model, examples, examples[:9], device)

    assert not any(module.training for module in fitted.network.modules())
    assert {parameter.device for parameter in fitted.network.parameters()} == {CPU}


@pytest.mark.parametrize("epochs", [1, 2, 5, 10])
def test_trains_for_any_number_of_steps(ride_model: Model, examples: Examples, epochs: int) -> None:
    fitted = train(ride_model, examples[:20], epochs=epochs, warm_up=0.2)  # one step an epoch

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
        fitted = fit(Straight(), HeldRows(examples, CPU), None, AIM, SETTINGS, CPU)
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
        ({"clip_norm": 0.0}, "training.clip_norm must be greater than 0"),
        ({"epochs": 2.5}, "training.epochs must be a whole number, not 2.5"),
        ({"epochs": "many"}, "training.epochs must be a whole number, not 'many'"),
        ({"epochs": True}, "training.epochs must be a whole number, not True"),
        ({"learning_rate": "none"}, "training.learning_rate must be a number, not 'none'"),
        ({"loss": "huge"}, "training.loss must be one of absolute, squared, cross_entropy or none, not 'huge'"),
        ({"class_weights": None}, "training.class_weights must be one of none, balanced, not None"),
        ({"clip_norm": "much"}, "training.clip_norm must be a number or none, not 'much'"),
        ({"lr": 1.0, "seeds": 2}, "no training setting is called lr, seeds; there are epochs, "),
    ],
)
def test_refuses_settings_that_cannot_train(changes: dict[str, Setting], reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        SETTINGS.with_changes(changes)


def test_text_is_taken_for_what_it_says() -> None:
    texts = {"epochs": "3", "learning_rate": "1e-3", "clip_norm": "2", "loss": "squared", "precision": "bf16"}

    changed = SETTINGS.with_changes(texts)

    assert {name: changed.flat()[name] for name in texts} == {
        "epochs": 3,
        "learning_rate": 1e-3,
        "clip_norm": 2.0,
        "loss": "squared",
        "precision": "bf16",
    }
    assert changed.with_changes({"clip_norm": "none"}).clip_norm is None


class Killed(Exception):
    """The process is gone."""


class KilledAfter:
    """Keeps a checkpoint after so many windows, and then the training is killed."""

    def __init__(self, windows: int) -> None:
        self.left = windows
        self.content: bytes | None = None

    def load(self) -> bytes | None:
        return None

    def due(self) -> bool:
        self.left -= 1
        return self.left == 0

    def save(self, content: bytes) -> None:
        self.content = content
        raise Killed


class Given(NoCheckpoints):
    """Has a checkpoint that another training left."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content

    def load(self) -> bytes | None:
        return self.content


@pytest.mark.parametrize("windows", [1, 7, 10, 11, 29])
def test_goes_on_from_a_checkpoint_to_the_same_weights_bit_by_bit(
    ride_model: Model, examples: Examples, device: torch.device, windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.learning.examples.WINDOW_BYTES", 1)  # so that each batch is a window
    noisy = replace(ride_model, network=lambda rows: WithDropout(ride_model.network(rows)))
    settings = SETTINGS.with_changes({"epochs": 3, "clip_norm": 5.0})

    def run(checkpoints: Checkpoints) -> Fitted:
        rows, held_out = HeldRows(examples, device), HeldRows(examples[:50], device)
        with repeatable(settings.seed, threads=1):
            return fit(noisy.network(examples), rows, held_out, AIM, settings, device, checkpoints=checkpoints)

    undisturbed, kept = run(NoCheckpoints()), KilledAfter(windows)
    with pytest.raises(Killed):
        run(kept)
    went_on = run(Given(kept.content))

    assert weights(went_on) == weights(undisturbed)
    assert (went_on.epochs, went_on.best_epoch) == (undisturbed.epochs, undisturbed.best_epoch)
    assert (undisturbed.resumed_at, went_on.resumed_at) == (0, windows)


def test_long_gradients_are_shortened(ride_model: Model, examples: Examples) -> None:
    free, barely = train(ride_model, examples), train(ride_model, examples, clip_norm=1e-12, weight_decay=0.0)

    start = weights(train(ride_model, examples, learning_rate=1e-30, weight_decay=0.0))
    moved = [
        np.abs(np.frombuffer(weights(one), np.float32) - np.frombuffer(start, np.float32)).max()
        for one in (free, barely)
    ]
    assert moved[1] < moved[0] / 10


def test_the_squared_loss_aims_at_the_mean_and_the_absolute_one_at_the_median(examples: Examples) -> None:
    skewed = replace(examples, target_N=np.where(np.arange(len(examples)) % 4 == 0, 100, 0).astype(np.float32))

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(10.0))

        def forward(self, numbers: torch.Tensor, categories: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
            return self.value.expand(len(numbers))

    found = {}
    for loss in ("absolute", "squared"):
        settings = SETTINGS.with_changes({"loss": loss, "epochs": 40, "learning_rate": 2.0, "weight_decay": 0.0})
        with repeatable(0, threads=1):
            aim = objective(settings, NUMBER, torch.zeros(0), CPU)
            network = fit(Constant(), HeldRows(skewed, CPU), None, aim, settings, CPU).network
        found[loss] = network.get_parameter("value").item()

    assert found["absolute"] == pytest.approx(0.0, abs=2.0)
    assert found["squared"] == pytest.approx(25.0, abs=2.0)


def test_half_precision_learns_about_the_same(ride_model: Model, examples: Examples, device: torch.device) -> None:
    full, half = (
        train(ride_model, examples, device=device, precision=precision, epochs=8, learning_rate=0.05)
        for precision in ("float32", "bf16")
    )

    assert weights(full) != weights(half)
    assert {parameter.dtype for parameter in half.network.parameters()} == {torch.float32}
    assert half.epochs[-1]["train_loss"] == pytest.approx(full.epochs[-1]["train_loss"], rel=0.05)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile wants a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_a_compiled_network_learns_the_same(
    ride_model: Model, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain, compiled = (train(ride_model, examples, compiled=wanted) for wanted in ("no", "yes"))

    assert compiled.epochs[-1] == pytest.approx(plain.epochs[-1], rel=1e-4)
    assert compiled.network.state_dict().keys() == plain.network.state_dict().keys()
    assert list(tmp_path.iterdir())


def test_cuda_graphs_want_cuda(ride_model: Model, examples: Examples) -> None:
    with pytest.raises(DefinitionError, match=r"training.compiled=cuda_graphs needs a CUDA device, and this is cpu"):
        train(ride_model, examples, compiled="cuda_graphs")
