"""Networks for any table and for images: they learn, export, take nulls, and answer a row alike in any batch."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from models.contract.columns import Category, Contract, Number, Time, TimePart
from models.contract.examples import example_columns
from models.contract.table import to_columns
from models.errors import DefinitionError
from models.inference import Predictor
from models.learning.devices import repeatable
from models.learning.examples import Examples, HeldRows, to_examples
from models.learning.export import check_parity
from models.learning.loop import fit, predict
from models.learning.networks import TabularNetwork
from models.learning.objectives import answering, objective
from models.learning.preprocessing import prepare
from models.learning.settings import TrainingSettings
from tests.models.learning.export_taxi import graph_of

CPU = torch.device("cpu")
NUMBER = Number(name="price", unit="EUR", minimum=0, maximum=1000)
KIND = Category(name="kind", values=("a", "b", "c"))
FEATURES = (
    Number(name="size", unit="m", minimum=0, maximum=10, nullable=True),
    Number(name="never", unit="m", minimum=0, maximum=10, nullable=True),
    Category(name="shape", values=("round", "flat"), nullable=True),
)
TIME = Time(name="at", zone=None, parts=tuple(TimePart))


def contract(target: Number | Category, **changes: Any) -> Contract:
    return Contract(**{"time": TIME, "features": FEATURES, "target": target, **changes})


def table(rows: int = 2000) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    size = draw.uniform(0, 10, rows)
    size[::9] = np.nan
    shape = draw.choice(["round", "flat"], rows)
    score = np.nan_to_num(size, nan=5) + 4 * (shape == "flat")
    return pd.DataFrame(
        {
            "at": pd.date_range("2020-01-01", periods=rows, freq="h", tz="UTC"),
            "size": size,
            "never": np.nan,
            "shape": pd.Series(shape, dtype=object),
            "price": 100 + 10 * score + draw.normal(0, 1, rows),
            "kind": np.select([score < 4, score < 9], ["a", "b"], "c"),
        }
    )


def learned(
    of: Contract, numbers: Literal["piecewise_linear", "periodic", "plain"]
) -> tuple[torch.nn.Module, Examples]:
    settings = TrainingSettings(epochs=8, batch_rows=64, learning_rate=5e-3)
    examples = to_examples(of, table())
    with repeatable(0, threads=1):
        network = TabularNetwork(of, examples, width=32, numbers=numbers, bins=8)
        aim = objective(settings, of.target, torch.zeros(0), CPU)
        return answering(fit(network, HeldRows(examples, CPU), None, aim, settings, CPU).network, of.target), examples


@pytest.mark.parametrize("numbers", ["piecewise_linear", "periodic", "plain"])
@pytest.mark.parametrize("target", [NUMBER, KIND])
def test_learns_a_table_and_exports_what_it_learned(
    target: Number | Category, numbers: Literal["piecewise_linear", "periodic", "plain"]
) -> None:
    of = contract(target)
    network, examples = learned(of, numbers)

    answers = predict(network, examples.inputs)
    if isinstance(target, Number):
        assert (
            np.abs(answers - examples.target_N).mean()
            < 0.15 * np.abs(examples.target_N - examples.target_N.mean()).mean()
        )
    else:
        assert answers.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert (answers.argmax(axis=1) == examples.target_N).mean() > 0.95
    graph = graph_of(network, of, examples.inputs[:8])
    columns = example_columns(of, 500)  # nulls, and every category
    parity = check_parity(graph, of, columns, predict(network, prepare(of, columns)), 1e-3)
    assert parity.rows == 500


def test_a_row_is_answered_alike_whoever_is_asked_with_it() -> None:
    of = contract(KIND)
    network, examples = learned(of, "piecewise_linear")
    predictor = Predictor(graph_of(network, of, examples.inputs[:8]), of)
    columns = to_columns(of, table())

    def ask(rows: slice) -> npt.NDArray[np.float32]:
        return predictor.predict({name: values[rows] for name, values in columns.items()})

    assert ask(slice(5, 6))[0] == pytest.approx(ask(slice(0, 64))[5], abs=1e-6)


@pytest.mark.parametrize("sizes", [{"width": 0}, {"layers": -3}, {"bins": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_sizes_that_no_network_has_are_refused(sizes: dict[str, Any]) -> None:
    of = contract(NUMBER)

    with pytest.raises(
        DefinitionError, match="width, layers and bins must be at least 1 and dropout at least 0 and bel"
    ):
        TabularNetwork(of, to_examples(of, table()), **sizes)


def test_a_table_of_nothing_but_a_time_without_parts_is_refused() -> None:
    of = contract(NUMBER, features=(), time=Time(name="at", zone=None, parts=()))

    with pytest.raises(DefinitionError, match="the contract has no number, category or part of a time to learn from"):
        TabularNetwork(of, to_examples(of, table()))
