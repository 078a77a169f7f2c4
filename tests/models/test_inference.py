"""Inference: a graph answers its contract's columns, and any other graph is refused when it is loaded."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from models.bundle import Bundle
from models.contract.columns import MISSING_CODE, Category, Contract, Number, Time
from models.errors import BundleError
from models.inference import Columns, Predictor, input_type

BundleMaker = Callable[..., Bundle]


def columns(distance: list[float], weight: list[float], kind: list[str]) -> Columns:
    return {
        "starts_at": np.zeros(len(distance), np.int64),
        "distance": np.array(distance, np.float32),
        "weight": np.array(weight, np.float32),
        "kind": np.array(kind, object),
        "zone": np.full(len(distance), MISSING_CODE, np.int64),
    }


@pytest.fixture
def predictor(make_bundle: BundleMaker, tiny_contract: Contract) -> Predictor:
    """Answers 2 x distance + weight (0 for null) + 10 for a car."""
    return Predictor(make_bundle().onnx, tiny_contract)


def test_answers_each_row(predictor: Predictor) -> None:
    answered_N = predictor.predict(columns([1, 2, 3], [0.5, np.nan, 0], ["bike", "car", "car"]))

    assert answered_N.dtype == np.float32
    assert answered_N.tolist() == [2.5, 14.0, 16.0]


def test_answers_no_rows_with_none(predictor: Predictor) -> None:
    assert predictor.predict(columns([], [], [])).shape == (0,)


def test_threads_share_one_predictor(predictor: Predictor) -> None:
    def answer(number: int) -> list[float]:
        answered: list[float] = predictor.predict(
            columns([number] * (number + 1), [0] * (number + 1), ["bike"] * (number + 1))
        ).tolist()
        return answered

    with ThreadPoolExecutor(4) as pool:
        answered = list(pool.map(answer, range(200)))

    assert answered == [[2.0 * number] * (number + 1) for number in range(200)]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (Time(name="at", zone=None, parts=()), "tensor(int64)"),
        (Number(name="size", unit="m", minimum=0, maximum=1), "tensor(float)"),
        (Category(name="zone", values=(1, 2)), "tensor(int64)"),
        (Category(name="kind", values=("a", "b")), "tensor(string)"),
    ],
)
def test_each_kind_of_column_has_its_tensor_type(column: Time | Number | Category, kind: str) -> None:
    assert input_type(column) == kind


def with_features(contract: Contract, *features: Number | Category) -> Contract:
    return msgspec.structs.replace(contract, features=features)


def test_refuses_a_graph_without_a_column_of_the_contract(make_bundle: BundleMaker, tiny_contract: Contract) -> None:
    extra = Number(name="height", unit="m", minimum=0, maximum=9)

    with pytest.raises(BundleError, match=r"model\.onnx takes .*, its contract declares .*'height': 'tensor\(float\)'"):
        Predictor(make_bundle().onnx, with_features(tiny_contract, *tiny_contract.features, extra))


def test_refuses_a_graph_that_wants_more_than_the_contract(make_bundle: BundleMaker, tiny_contract: Contract) -> None:
    with pytest.raises(BundleError, match=r"takes .*'zone': 'tensor\(int64\)'.*, its contract declares"):
        Predictor(make_bundle().onnx, with_features(tiny_contract, *tiny_contract.features[:-1]))


def test_refuses_a_graph_that_takes_a_column_as_another_type(make_bundle: BundleMaker, tiny_contract: Contract) -> None:
    as_text = Category(name="zone", values=("1", "2"))

    with pytest.raises(BundleError, match=r"its contract declares .*'zone': 'tensor\(string\)'"):
        Predictor(make_bundle().onnx, with_features(tiny_contract, *tiny_contract.features[:-1], as_text))


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    model = onnx.load_from_string(content)
    change(model.graph)
    return bytes(model.SerializeToString())


def rename_the_answer(graph: onnx.GraphProto) -> None:
    graph.output[0].name = graph.node[-1].output[0] = "minutes"


def answer_twice(graph: onnx.GraphProto) -> None:
    graph.output.append(onnx.helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N"]))


@pytest.mark.parametrize("change", [rename_the_answer, answer_twice])
def test_refuses_a_graph_that_gives_something_else(
    make_bundle: BundleMaker, tiny_contract: Contract, change: Callable[[Any], None]
) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx gives .*, it should give 'value', a tensor\(float\)"):
        Predictor(changed(make_bundle().onnx, change), tiny_contract)


def break_an_operator(graph: onnx.GraphProto) -> None:
    graph.node[0].op_type = "Guess"


def forget_a_constant(graph: onnx.GraphProto) -> None:
    del graph.initializer[0]


@pytest.mark.parametrize("change", [break_an_operator, forget_a_constant])
def test_refuses_a_graph_that_cannot_run(
    make_bundle: BundleMaker, tiny_contract: Contract, change: Callable[[Any], None]
) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx cannot be loaded: "):
        Predictor(changed(make_bundle().onnx, change), tiny_contract)


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x00" * 100])
def test_refuses_bytes_that_are_no_graph_in_one_line(tiny_contract: Contract, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx cannot be loaded: ") as caught:
        Predictor(content, tiny_contract)
    assert "\n" not in str(caught.value)


def test_refuses_a_graph_that_was_cut_off(make_bundle: BundleMaker, tiny_contract: Contract) -> None:
    whole = make_bundle().onnx

    with pytest.raises(BundleError):
        Predictor(whole[: len(whole) // 2], tiny_contract)
