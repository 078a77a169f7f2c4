"""Inference: a graph answers its contract's columns, any other is refused, and it runs where it shall or not at all.

What is said of providers is tried on each one that the installed onnxruntime offers and that this machine can use.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models import inference
from models.bundle import Bundle
from models.contract.columns import MISSING_CODE, Category, Contract, Feature, Number, Time
from models.errors import BundleError, ProviderUnavailable
from models.inference import (
    WARM_SIZES,
    GraphInputs,
    Predictor,
    Provider,
    Runtime,
    batch_rows,
    check_alike,
    input_type,
    open_session,
)

BundleMaker = Callable[..., Bundle]

PROVIDERS: tuple[Provider, ...] = get_args(Provider)
HERE = [one for one in PROVIDERS if one == "cuda" or inference.NAMES[one] in onnxruntime.get_available_providers()]
WITHIN = 2e-5
"""How far a provider's answer may be from the CPU's, as a share of it; TF32 would miss it by a factor of fifty."""


def columns(distance: list[float], weight: list[float], kind: list[str]) -> GraphInputs:
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


def with_features(contract: Contract, *features: Feature) -> Contract:
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


def numeric_contract() -> Contract:
    return Contract(
        time=Time(name="at", zone=None, parts=()),
        features=(Number(name="size", unit="m", minimum=0, maximum=9), Category(name="zone", values=(1, 2))),
        target=Number(name="minutes", unit="min", minimum=0, maximum=1000),
    )


def numeric_graph(scale: float = 1.0) -> bytes:
    """Give a small network of three columns that are numbers, and its answers times `scale`."""
    draw = np.random.default_rng(0)
    first_3H, last_H1 = draw.normal(size=(3, 256)), scale * draw.normal(size=(256, 1))
    nodes = [
        helper.make_node("Mod", ["at", "day"], ["second"]),
        helper.make_node("Cast", ["second"], ["of_day"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["of_day", "seconds"], ["part"]),
        helper.make_node("Cast", ["zone"], ["place"], to=TensorProto.FLOAT),
        *(helper.make_node("Unsqueeze", [name, "axis"], [f"{name}_N1"]) for name in ("part", "size", "place")),
        helper.make_node("Concat", ["part_N1", "size_N1", "place_N1"], ["inputs"], axis=1),
        helper.make_node("MatMul", ["inputs", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "last"], ["value_N1"]),
        helper.make_node("Squeeze", ["value_N1", "axis"], ["value"]),
    ]
    constants = {
        "day": np.array(86_400),
        "seconds": np.array(86_400, np.float32),
        "axis": np.array([1]),
        "first": first_3H.astype(np.float32),
        "last": last_H1.astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "numeric",
        [
            helper.make_tensor_value_info("at", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("size", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("zone", TensorProto.INT64, ["N"]),
        ],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def numeric_columns(rows: int, seed: int = 0) -> GraphInputs:
    draw = np.random.default_rng(seed)
    return {
        "at": draw.integers(1_500_000_000, 1_700_000_000, rows),
        "size": draw.uniform(0, 9, rows).astype(np.float32),
        "zone": draw.integers(1, 3, rows),
    }


WAYS = [Runtime(provider) for provider in HERE] + [Runtime("cuda", cuda_graphs=True)]


@pytest.fixture(params=WAYS, ids=[f"{one.provider}{', replayed' * one.cuda_graphs}" for one in WAYS])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """A runtime for each provider that can be used here."""
    runtime: Runtime = request.param
    try:
        Predictor(numeric_graph(), numeric_contract(), runtime)
    except ProviderUnavailable as error:
        pytest.skip(str(error))
    return runtime


def on_the_cpu(columns: GraphInputs) -> npt.NDArray[np.float32]:
    return Predictor(numeric_graph(), numeric_contract()).predict(columns)


@pytest.mark.parametrize("rows", [1, 16, 100, 1_024, 3_000])
def test_every_provider_answers_as_the_cpu_does(runtime: Runtime, rows: int) -> None:
    predictor, columns = Predictor(numeric_graph(), numeric_contract(), runtime), numeric_columns(rows)

    answered_N = predictor.predict(columns)

    assert answered_N.dtype == np.float32
    assert answered_N.shape == (rows,)
    np.testing.assert_allclose(answered_N, on_the_cpu(columns), rtol=WITHIN, atol=WITHIN)


def test_text_is_answered_on_every_provider(
    runtime: Runtime, make_bundle: BundleMaker, tiny_contract: Contract
) -> None:
    predictor = Predictor(make_bundle().onnx, tiny_contract, replace(runtime, fallback=True))

    answered = predictor.predict(columns([1.0] * 16, [0.5] * 16, ["car"] * 16))

    assert answered.tolist() == [12.5] * 16
    assert predictor.placement.provider == runtime.provider
    assert not predictor.placement.replayed  # the CPU looks text up


def test_says_where_the_nodes_run(runtime: Runtime) -> None:
    placement = Predictor(numeric_graph(), numeric_contract(), runtime).placement

    assert (placement.provider, placement.missed) == (runtime.provider, None)
    assert placement.replayed == runtime.cuda_graphs
    assert placement.nodes[placement.provider] > 0
    assert set(placement.nodes) <= {placement.provider, "cuda", "cpu"}


def test_every_size_that_is_warmed_is_answered(runtime: Runtime) -> None:
    predictor = Predictor(numeric_graph(), numeric_contract(), runtime)

    for size in WARM_SIZES:
        columns = numeric_columns(size, seed=size)
        np.testing.assert_allclose(predictor.predict(columns), on_the_cpu(columns), rtol=WITHIN, atol=WITHIN)


def not_offered() -> Provider:
    """Give a provider that no wheel of this machine's kind has beside the installed one."""
    offered = onnxruntime.get_available_providers()
    return "openvino" if "OpenVINOExecutionProvider" not in offered else "cuda"


def test_a_provider_that_is_not_offered_is_an_error_that_says_what_to_install() -> None:
    wanted = not_offered()

    with pytest.raises(ProviderUnavailable, match=f"{wanted} cannot be used: .* offers cpu.*; .* install onnxruntime-"):
        Predictor(numeric_graph(), numeric_contract(), Runtime(provider=wanted))


def test_the_cpu_answers_where_that_is_allowed_and_it_is_said() -> None:
    wanted, columns = not_offered(), numeric_columns(50)

    predictor = Predictor(numeric_graph(), numeric_contract(), Runtime(provider=wanted, fallback=True))

    assert predictor.placement.provider == "cpu"
    assert f"{wanted} cannot be used" in (predictor.placement.missed or "")
    assert predictor.predict(columns).tolist() == on_the_cpu(columns).tolist()


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
@pytest.mark.parametrize("fallback", [False, True])
def test_notices_that_the_runtime_went_on_without_a_provider(fallback: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = [*onnxruntime.get_available_providers(), "VitisAIExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    monkeypatch.setitem(inference.NAMES, "coreml", "VitisAIExecutionProvider")
    runtime = Runtime(provider="coreml", fallback=fallback)

    if fallback:
        assert "did not load it" in (open_session(numeric_graph(), runtime).placement.missed or "")
    else:
        with pytest.raises(ProviderUnavailable, match=r"coreml cannot be used: onnxruntime .* did not load it"):
            open_session(numeric_graph(), runtime)


@pytest.mark.skipif(
    "AzureExecutionProvider" not in onnxruntime.get_available_providers(), reason="this wheel has no idle provider"
)
def test_a_provider_that_runs_no_node_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inference.NAMES, "coreml", "AzureExecutionProvider")

    best = open_session(numeric_graph(), Runtime(provider="auto")).placement

    assert best.provider == "cpu"
    assert best.missed == "coreml cannot be used: it runs none of the graph's nodes"


def test_a_bad_graph_is_the_bundles_fault_and_no_providers(runtime: Runtime, tiny_contract: Contract) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx cannot be loaded"):
        Predictor(b"no graph", tiny_contract, runtime)


def test_a_provider_that_answers_otherwise_is_not_used() -> None:
    on_the_cpu, elsewhere = (open_session(numeric_graph(scale)).run for scale in (1.0, 1.001))
    trial = numeric_columns(50)

    check_alike("coreml", on_the_cpu, on_the_cpu, trial)
    with pytest.raises(ProviderUnavailable, match="coreml cannot be used: it answers example rows otherwise than the"):
        check_alike("coreml", elsewhere, on_the_cpu, trial)


def test_a_provider_that_fails_later_is_not_used() -> None:
    on_the_cpu, answers = open_session(numeric_graph()).run, iter([None])

    def once(columns: GraphInputs) -> npt.NDArray[np.float32]:
        if next(answers, "no more") == "no more":
            raise RuntimeError("capture failed\nat a stream")
        return on_the_cpu(columns)

    with pytest.raises(ProviderUnavailable, match=r"cuda cannot be used: it fails: capture failed$"):
        check_alike("cuda", once, on_the_cpu, numeric_columns(50))


def test_cuda_graphs_are_tried_first_and_left_out_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )

    def ways(**runtime: Any) -> list[tuple[str, bool]]:
        return [(way.provider, way.replayed) for way in inference._ways(Runtime(cuda_graphs=True, **runtime))]

    assert ways(provider="auto") == [("cuda", True), ("cuda", False), ("cpu", False)]
    assert ways(provider="cuda", fallback=True) == [("cuda", True), ("cuda", False), ("cpu", False)]
    assert ways(provider="cuda") == [("cuda", True)]
    assert ways(provider="cpu") == [("cpu", False)]


@given(rows=st.integers(1, 20_000), provider=st.sampled_from(PROVIDERS))
def test_a_batch_is_filled_up_to_a_size_that_stays(rows: int, provider: Provider) -> None:
    size = batch_rows(rows, provider)

    assert rows <= size == batch_rows(size, provider)
    assert size % 16 == 0
    assert size - rows < (16 if provider == "cpu" else max(16, min(rows, 1_024)))
    assert batch_rows(rows + 1, provider) >= size


@given(rows=st.integers(1, 1_024), provider=st.sampled_from([name for name in PROVIDERS if name != "cpu"]))
def test_all_but_large_batches_have_a_size_that_is_warmed(rows: int, provider: Provider) -> None:
    assert batch_rows(rows, provider) in WARM_SIZES


@pytest.mark.parametrize("provider", PROVIDERS)
def test_sizes_that_are_warmed_are_sizes_of_batches_and_rise(provider: Provider) -> None:
    assert all(smaller < larger for smaller, larger in pairwise(WARM_SIZES))
    assert all(batch_rows(size, provider) == size for size in WARM_SIZES)
