"""Export: one file, the same bytes everywhere, and proof that the graph answers as the network does."""

import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import models
from models.catalog.taxi_eta import CONTRACT
from models.contract.table import to_columns
from models.errors import ExportFailed, ParityFailed
from models.inference import Predictor, offered
from models.learning.export import PARITY_BATCHES, check_parity, trace, try_providers
from models.learning.loop import predict
from models.learning.preprocessing import prepare
from models.model import Model
from tests.models.learning.export_taxi import columns, exported, graph_of, network

SOURCES = Path(models.__file__).parents[1]
PROGRAM = Path(__file__).with_name("export_taxi.py")


@pytest.fixture(scope="module")
def graph() -> bytes:
    """The exported taxi network."""
    return exported()


def test_the_same_weights_give_the_same_bytes(graph: bytes) -> None:
    assert exported() == graph


class AlikeAtFirst(nn.Module):
    """Parameters that are equal before they learn, one that is used twice, running means, and a constant."""

    constant: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 1)]
        self.layers = nn.Sequential(*layers)
        for layer in (layers[0], layers[2], layers[4]):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        layers[4].weight = layers[2].weight
        self.scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("constant", torch.tensor(2.0), persistent=False)

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        answer: Tensor = self.layers(torch.nan_to_num(numbers)).squeeze(1) * self.scale.exp() * self.constant
        return answer


@pytest.mark.parametrize("make", [network, AlikeAtFirst])
def test_a_graph_that_was_traced_before_its_network_learned_is_what_it_would_be_after(
    make: Callable[[], nn.Module],
) -> None:
    learns, example, random = make().eval(), prepare(CONTRACT, columns(8)), torch.get_rng_state()
    traced = trace(learns, CONTRACT, example)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        for value in (*learns.parameters(), *learns.buffers()):
            value.add_(1 if value.dtype == torch.int64 else torch.rand_like(value) / 10)

    graph = traced.graph(learns)

    assert graph == graph_of(learns, CONTRACT, example)
    raw = columns(300)
    check_parity(graph, CONTRACT, raw, predict(learns, prepare(CONTRACT, raw)), tolerance=1e-3)


def test_bytes_depend_on_no_folder(graph: bytes, tmp_path: Path) -> None:
    checkout = tmp_path / "another" / "checkout"
    shutil.copytree(SOURCES / "models", checkout / "models", ignore=shutil.ignore_patterns("trips", "__pycache__"))
    program = shutil.copy(PROGRAM, tmp_path)

    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run([sys.executable, program, "model.onnx"], cwd=tmp_path, env=environment, check=True)

    assert (tmp_path / "model.onnx").read_bytes() == graph


def test_a_graph_says_nothing_of_the_machine_that_made_it(graph: bytes) -> None:
    for place in (str(SOURCES), str(Path.cwd()), sys.prefix, ".py", "site-packages"):
        assert place.encode() not in graph


def test_a_graph_is_one_file_with_the_columns_of_the_contract(graph: bytes) -> None:
    model = onnx.load_from_string(graph)

    assert [node.name for node in model.graph.input] == [column.name for column in CONTRACT.inputs]
    assert [node.name for node in model.graph.output] == ["value"]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 1000])
def test_the_graph_answers_as_the_network_for_any_number_of_rows(graph: bytes, rows: int) -> None:
    raw = columns(rows)

    answered_N = Predictor(graph, CONTRACT).predict(raw)

    assert answered_N.shape == (rows,)
    np.testing.assert_allclose(answered_N, predict(network(), prepare(CONTRACT, raw)), rtol=1e-5)


def test_parity_says_what_was_compared(graph: bytes) -> None:
    raw = columns(300)
    expected_N = predict(network(), prepare(CONTRACT, raw))

    parity = check_parity(graph, CONTRACT, raw, expected_N, tolerance=1e-3)

    assert (parity.rows, parity.batch_sizes, parity.tolerance) == (300, PARITY_BATCHES, 1e-3)
    assert 0 <= parity.largest_difference < 1e-3


@pytest.mark.parametrize("row", [0, 299])
@pytest.mark.parametrize("wrong", [0.002, np.nan, np.inf])
def test_one_wrong_row_fails_parity(graph: bytes, row: int, wrong: float) -> None:
    raw = columns(300)
    expected_N = predict(network(), prepare(CONTRACT, raw))
    expected_N[row] += np.float32(wrong)

    with pytest.raises(ParityFailed, match=r"differs from the network by up to .* on 300 rows \(allowed: 0.001\)"):
        check_parity(graph, CONTRACT, raw, expected_N, tolerance=1e-3)


class FirstNumber(nn.Module):
    """Answers the first number; its children make one mistake each."""

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return numbers[:, 0]


class MeanOfTheBatch(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return numbers[:, 0] - numbers[:, 0].mean()


class NotANumberAlone(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return numbers[:, 0] + 0 * numbers[:, 0].std()


class LessTheFirst(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return numbers[:, 0] - numbers[:1, 0]


class SumsUp(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return numbers[:, 0].cumsum(0)


class FarFrom0(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return 2000 + numbers[:, 0] - numbers[:, 0].mean()


class CountsItsCalls(FirstNumber):
    calls = 0

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        self.calls += 1
        return numbers[:, 0] * self.calls


class EightRowsOnly(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return numbers[:, 0] + torch.zeros(8)


class AsksTheRows(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return numbers[:, 0] if numbers.sum() > 0 else -numbers[:, 0]


class AddsNoise(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return numbers[:, 0] + torch.randn_like(numbers[:, 0])


class LeavesOutAlways(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return nn.functional.dropout(numbers, 0.1)[:, 0]


class AddsNoiseWhileItLearns(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        noisy_NF = numbers + torch.randn_like(numbers)
        return nn.functional.dropout((noisy_NF if self.training else numbers)[:, 0], 0.1, training=self.training)


def export_and_check(net: nn.Module, model: Model, rides: pd.DataFrame) -> Predictor:
    raw = to_columns(model.contract, rides)
    prepared = prepare(model.contract, raw)
    content = graph_of(net.eval(), model.contract, prepared[:8])
    check_parity(content, model.contract, raw, predict(net, prepared), tolerance=1e-3)
    return Predictor(content, model.contract)


@pytest.mark.parametrize("net", [FirstNumber, AddsNoiseWhileItLearns])
def test_a_network_may_leave_inputs_unused_and_be_random_while_it_learns(
    net: type[nn.Module], ride_model: Model, make_rides: Callable[..., pd.DataFrame]
) -> None:
    predictor = export_and_check(net(), ride_model, make_rides(100))

    answered_N = predictor.predict(to_columns(ride_model.contract, make_rides(3)))

    assert answered_N.tolist() == make_rides(3)["distance"].astype("float32").tolist()


def test_refuses_a_network_that_does_not_export_faithfully(
    ride_model: Model, make_rides: Callable[..., pd.DataFrame]
) -> None:
    with pytest.raises(ParityFailed):
        export_and_check(CountsItsCalls(), ride_model, make_rides(100))


@pytest.mark.parametrize(
    ("net", "rows"), [(MeanOfTheBatch, 2), (LessTheFirst, 2), (SumsUp, 2), (FarFrom0, 2), (NotANumberAlone, 1)]
)
def test_refuses_a_network_that_answers_a_row_by_what_comes_with_it(
    net: type[nn.Module], rows: int, ride_model: Model, make_rides: Callable[..., pd.DataFrame]
) -> None:
    with pytest.raises(ExportFailed, match=f"answers a row otherwise among {rows} rows than among 7"):
        trace(
            net().eval(),
            ride_model.contract,
            prepare(ride_model.contract, to_columns(ride_model.contract, make_rides(8))),
        )


class HoldsItsRows(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return numbers[:, :1].view(8)


class HasNoCounterpart(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        answered: Tensor = torch.special.bessel_j0(numbers[:, 0])
        return answered


class LeavesTorch(FirstNumber):
    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return torch.tensor([float(row[0]) for row in numbers.tolist()])


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (
            AddsNoise,
            "operator RandomNormalLike (line {line} of test_export.py, `return numbers[:, 0] + torch.randn_like("
            "numbers[:, 0])`) gives other numbers each time",
        ),
        (
            LeavesOutAlways,
            "operator Dropout (line {line} of test_export.py, `return nn.functional.dropout(numbers, 0.1)[:, 0]`) giv",
        ),
        (
            AsksTheRows,
            "line {line} of test_export.py, `return numbers[:, 0] if numbers.sum() > 0 else -numbers[:, 0]` asks",
        ),
        (HasNoCounterpart, "operator prims.bessel_j0 has no counterpart in a graph: write it by others"),
        (
            HoldsItsRows,
            "operator Reshape (line {line} of test_export.py, `return numbers[:, :1].view(8)`) fails on 7 of",
        ),
        (
            EightRowsOnly,
            "operator Add (line {line} of test_export.py, `return numbers[:, 0] + torch.zeros(8)`) fails on 7",
        ),
        (
            LeavesTorch,
            "line {line} of test_export.py, `return torch.tensor([float(row[0]) for row in numbers.tolist()])`",
        ),
    ],
)
def test_says_which_operator_or_line_cannot_be_written_as_a_graph_and_nothing_else(
    net: type[nn.Module],
    said: str,
    ride_model: Model,
    make_rides: Callable[..., pd.DataFrame],
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ExportFailed) as failed:
        export_and_check(net(), ride_model, make_rides(100))

    told = str(failed.value)
    line = inspect.getsourcelines(net)[1] + 2
    assert said.format(line=line) in told
    assert "\n" not in told
    assert capfd.readouterr() == ("", "")


class Clamped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clamp(max=20.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class HasItsOwnGradient(FirstNumber):
    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        answered: Tensor = Clamped.apply(first[:, 0])  # type: ignore[no-untyped-call]
        return answered


def test_an_operator_with_a_gradient_of_its_own_is_written_as_what_it_computes_whatever_its_arguments_are_called(
    ride_model: Model, make_rides: Callable[..., pd.DataFrame]
) -> None:
    predictor = export_and_check(HasItsOwnGradient(), ride_model, make_rides(100))

    answered_N = predictor.predict(to_columns(ride_model.contract, make_rides(100)))

    assert answered_N.tolist() == make_rides(100)["distance"].astype("float32").clip(upper=20).tolist()


def test_what_each_provider_gave_is_told(graph: bytes) -> None:
    raw = columns(300)
    expected_N = predict(network(), prepare(CONTRACT, raw))
    parity = check_parity(graph, CONTRACT, raw, expected_N, tolerance=1e-3)

    on_cpu, *others = try_providers(graph, CONTRACT, raw, expected_N, parity)

    assert (on_cpu.provider, on_cpu.largest_difference, on_cpu.missed) == ("cpu", parity.largest_difference, None)
    assert set(on_cpu.nodes) == {"cpu"}
    assert [one.provider for one in others] == [one for one in offered() if one not in ("cpu", "tensorrt")]
    for one in others:
        assert one.missed or one.largest_difference is not None
