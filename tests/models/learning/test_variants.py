"""Smaller graphs: made the same again, of the network alone, with what they cost, or a reason why there is none."""

import logging
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from models.bundle import VariantName
from models.contract.table import to_columns
from models.errors import DefinitionError
from models.evaluating.measures import measure
from models.inference import GraphInputs, Predictor
from models.learning import training, variants
from models.learning.material import Material, gather
from models.learning.settings import TrainingSettings
from models.learning.splits import Split
from models.learning.training import Trained, train
from models.model import Model

BOTH: tuple[VariantName, ...] = ("fp16", "int8")
SETTINGS = TrainingSettings(epochs=6, batch_rows=32, learning_rate=0.05)


@pytest.fixture(scope="module")
def split(make_rides: Callable[..., pd.DataFrame]) -> Split:
    """1,200, 100 and 200 rows."""
    rides = make_rides(1500)
    return Split(rides[:1200], rides[1200:1300], rides[1300:])


@pytest.fixture(scope="module")
def trained(ride_model: Model, split: Split) -> Trained:
    """A training with both variants, which may cost what they like."""
    model = replace(ride_model, variants=BOTH, variant_cost=10.0)
    return train(model, material(model, split), SETTINGS, device="cpu", threads=1)


def material(model: Model, split: Split) -> Material:
    """Give a training the three frames of a split."""
    return gather(model.contract, [split], SETTINGS.memory_mb)


@pytest.fixture(scope="module")
def tested(ride_model: Model, split: Split) -> GraphInputs:
    """Raw columns of the test rows."""
    return to_columns(ride_model.contract, split.test)


def test_each_variant_takes_and_gives_what_the_graph_does_with_smaller_weights(
    ride_model: Model, trained: Trained
) -> None:
    whole = onnx.load_from_string(trained.onnx)

    for name, kind in (("fp16", TensorProto.FLOAT16), ("int8", TensorProto.INT8)):
        part = onnx.load_from_string(trained.variants.graphs[name])
        assert list(part.graph.input) == list(whole.graph.input)
        assert list(part.graph.output) == list(whole.graph.output)
        assert prepared(part) == prepared(whole)
        assert (weights(whole, kind), weights(part, kind) > 100) == (0, True)
        assert weights(part, TensorProto.FLOAT) < weights(whole, TensorProto.FLOAT) - 100


def prepared(model: onnx.ModelProto) -> list[bytes]:
    """Give the nodes before the network's part."""
    return sorted(node.SerializeToString() for node in model.graph.node if node.output[0].startswith("prepared/"))


def weights(model: onnx.ModelProto, kind: int) -> int:
    return sum(int(np.prod(one.dims)) for one in model.graph.initializer if one.data_type == kind)


def test_the_same_graph_and_rows_give_the_same_bytes_and_nothing_is_left_behind(
    ride_model: Model,
    split: Split,
    trained: Trained,
    tested: GraphInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = replace(ride_model, variants=BOTH, variant_cost=10.0)
    calibration = to_columns(model.contract, split.train.tail(training.CALIBRATION_ROWS))
    answered = Predictor(trained.onnx, model.contract).predict(tested)
    path, handlers = list(sys.path), list(logging.getLogger().handlers)

    again = variants.make(model, trained.onnx, calibration, tested, answered, split.test["minutes"].tolist())

    assert again.graphs == trained.variants.graphs
    assert not any(str(tmp_path).encode() in graph for graph in again.graphs.values())
    assert list(tmp_path.iterdir()) == []
    assert (sys.path, logging.getLogger().handlers) == (path, handlers)


def test_what_a_variant_costs_is_what_it_answers_on_the_test_rows(
    ride_model: Model, split: Split, trained: Trained, tested: GraphInputs
) -> None:
    target, truth = ride_model.contract.target, split.test["minutes"].tolist()
    own = Predictor(trained.onnx, ride_model.contract).predict(tested)

    assert [record.name for record in trained.variants.records] == list(BOTH)
    for record in trained.variants.records:
        graph = trained.variants.graphs[record.name]
        answered = Predictor(graph, ride_model.contract).predict(tested)
        assert record.metrics == measure(target, answered, truth)
        assert record.loss_more == pytest.approx(record.metrics["mae"] - trained.metrics["mae"])
        assert record.largest_difference == pytest.approx(np.abs(answered - own).max(), abs=1e-3)
        assert (record.bytes, record.refused) == (len(graph), None)


@pytest.mark.parametrize("name", BOTH)
def test_a_row_is_answered_alike_whatever_else_is_in_its_batch(
    ride_model: Model, trained: Trained, tested: GraphInputs, name: VariantName
) -> None:
    predictor = Predictor(trained.variants.graphs[name], ride_model.contract)
    together = predictor.predict(tested)

    for start in range(0, 192, 16):
        part = {column: values[start : start + 16] for column, values in tested.items()}
        assert predictor.predict(part).tolist() == together[start : start + 16].tolist()


class Coarse(nn.Module):
    """Adds a small number to a large one by weights: eight bits for both leave nothing of the small one."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = nn.Linear(2, 1, bias=False)
        nn.init.ones_(self.sum.weight)

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        small = numbers[:, :1]
        large = torch.where(small > 15, 1e5, -1e5)
        answer: Tensor = self.sum(torch.cat([small, large], dim=1))
        return answer.squeeze(1) - large.squeeze(1) + small.squeeze(1) + 45


class NoMatrix(nn.Module):
    """Has one learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        return numbers[:, 0] * self.factor


@pytest.mark.parametrize(
    ("network", "name", "said"),
    [
        (Coarse, "int8", r"int8 costs too much: mae \S+ min instead of \S+ min on 200 test rows, at most 1\.00% more"),
        (NoMatrix, "int8", "int8 cannot be had of this network: it has no matrix product or convolution"),
        (NoMatrix, "fp16", "fp16 cannot be had of this network: it has no learned matrix"),
    ],
)
def test_a_variant_that_costs_too_much_or_cannot_be_had_is_no_failed_training(
    ride_model: Model, split: Split, network: type[nn.Module], name: VariantName, said: str
) -> None:
    settings = TrainingSettings(epochs=1, batch_rows=256, learning_rate=1e-6)
    model = replace(ride_model, variants=(name,), network=lambda _: network(), parity_tolerance=0.1)

    made = train(model, material(model, split), settings, device="cpu", threads=1).variants

    (record,) = made.records
    assert (made.graphs, record.digest) == ({}, None)
    assert re.match(said, record.refused or "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": ("int4",)}, "variants are some of fp16, int8, each once, not"),
        ({"variants": ("int8", "int8")}, "variants are some of fp16, int8, each once, not"),
        ({"variant_cost": -0.1}, "variant_cost must be a share from 0 on, not -0.1"),
        ({"variant_cost": float("nan")}, "variant_cost must be a share from 0 on, not nan"),
    ],
)
def test_refuses_variants_that_there_are_not(ride_model: Model, changes: dict[str, object], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        replace(ride_model, **changes)  # type: ignore[arg-type]
