"""Graphs with seeded random weights over sixteen numbers and a time, and bundles of them in a lake."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from infra.assembly import assemble
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.settings import Settings
from models.bundle import Bundle, Card, bundle_folder
from models.contract.columns import Contract, Number, Time, TimePart
from models.deciding import rollout
from models.deciding.rollout import Rollout

FEATURES = 16
LARGEST = 1e6
CONTRACT = Contract(
    time=Time(name="at", zone=None, parts=(TimePart.HOUR,)),
    features=tuple(
        Number(name=f"x{number:02}", unit="1", minimum=-LARGEST, maximum=LARGEST) for number in range(FEATURES)
    ),
    target=Number(name="y", unit="1", minimum=-LARGEST, maximum=LARGEST),
)

_SEED = 1
_SIDE = 32
"""Of the convolutional network's images, in pixels."""
_FILTERS = (1, 64, 64, 128)

Weights = npt.NDArray[np.float32]


def wide_mlp(width: int = 4096) -> bytes:
    """Make a network of two wide layers: few rows at a time, and reading its weights is all that it does."""
    sizes = (FEATURES, width, width, 1)
    weights = {f"w{number}": _random(sizes[number], sizes[number + 1]) for number in range(3)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a0"]),
        helper.make_node("Relu", ["a0"], ["b0"]),
        helper.make_node("MatMul", ["b0", "w1"], ["a1"]),
        helper.make_node("Relu", ["a1"], ["b1"]),
        helper.make_node("MatMul", ["b1", "w2"], ["out"]),
    ]
    return _graph(nodes, weights)


def cnn() -> bytes:
    """Make a convolutional network, which takes some milliseconds for a row, however many there are."""
    image = np.array([-1, 1, _SIDE, _SIDE], np.int64)
    weights: dict[str, npt.NDArray[np.generic]] = {"w": _random(FEATURES, _SIDE * _SIDE), "image": image}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["flat"]), helper.make_node("Reshape", ["flat", "image"], ["b0"])]
    for layer, (before, after) in enumerate(pairwise(_FILTERS)):
        weights[f"w{layer}"] = _random(before * 9, after).T.reshape(after, before, 3, 3)
        convolved = helper.make_node("Conv", [f"b{layer}", f"w{layer}"], [f"a{layer}"], pads=[1, 1, 1, 1])
        nodes += [convolved, helper.make_node("Relu", [f"a{layer}"], [f"b{layer + 1}"])]
    nodes += [
        helper.make_node("GlobalAveragePool", [f"b{len(_FILTERS) - 1}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["filters"]),
        helper.make_node("MatMul", ["filters", "last"], ["out"]),
    ]
    return _graph(nodes, {**weights, "last": _random(_FILTERS[-1], 1)})


def multiplying(factor: int) -> bytes:
    """Make a graph that gives `factor` times the sum of the numbers."""
    weights = {"w": np.full((FEATURES, 1), factor, np.float32)}
    return _graph([helper.make_node("MatMul", ["x", "w"], ["out"])], weights)


def row(values: Sequence[float]) -> dict[str, object]:
    """Give a row of sixteen numbers as JSON values."""
    return {"at": "2020-03-01T08:15:00Z"} | {f"x{number:02}": value for number, value in enumerate(values)}


def register(settings: Settings, like: Card, model: str, graphs: Mapping[str, bytes]) -> Lake:
    """Put a bundle of each graph, by version, into a model's lake, and make the first one champion.

    What their cards say of training is said of another's, `like`.
    """
    lake = assemble(settings).lake(model)
    with transaction(lake, "main", "register", {}) as work:
        for version, onnx_ in graphs.items():
            digest = hashlib.sha256(onnx_).hexdigest()
            card = msgspec.structs.replace(
                like, model=model, version=version, contract=CONTRACT, onnx_digest=digest, warm_start=None
            )
            for name, content in Bundle(card=card, onnx=onnx_, profile=b"{}", state=b"").files().items():
                work.put(f"{bundle_folder(version)}/{name}", content)
    promote(lake, next(iter(graphs)))
    return lake


def promote(lake: Lake, version: str) -> None:
    """Make a registered version champion."""
    with transaction(lake, "main", f"promote {version}", {}) as work:
        work.put(rollout.PATH, rollout.encode(Rollout(champion=version, since=datetime.now(UTC))))


def _random(before: int, after: int) -> Weights:
    """Draw weights that keep what goes through them about as large as it is."""
    drawn = np.random.default_rng([_SEED, before, after]).standard_normal((before, after), np.float32)
    return drawn * np.float32(math.sqrt(2 / before))


def _graph(nodes: list[onnx.NodeProto], weights: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """Put the inputs in front of nodes that take `x`, float32 [N, 16], and give `out`, [N, 1]."""
    names = [feature.name for feature in CONTRACT.features]
    own = {"columns": np.array([FEATURES, -1], np.int64), "all": np.array([-1], np.int64)}
    nodes = [
        helper.make_node("Concat", names, ["values"], axis=0),
        helper.make_node("Reshape", ["values", "columns"], ["by_column"]),
        helper.make_node("Transpose", ["by_column"], ["x"], perm=[1, 0]),
        *nodes,
        helper.make_node("Reshape", ["out", "all"], ["value"]),
    ]
    inputs = [helper.make_tensor_value_info(CONTRACT.time_column.name, TensorProto.INT64, ["N"])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in names]
    output = helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N"])
    constants = [numpy_helper.from_array(values, name) for name, values in {**own, **weights}.items()]
    graph = helper.make_graph(nodes, "made", inputs, [output], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString()
    return content
