"""Smaller graphs beside a bundle's own, made from it by ONNX Runtime's own tools, with what they cost.

- `fp16`: what lies between the first and the last learned matrix is computed in half precision. What is before and
  after it works on raw numbers and answers, which may be beyond half precision's range (65,504), and stays float32.
- `int8`: matrix products and convolutions by learned weights take weights and inputs of eight bits, whose scales are
  fixed by training rows. Fixed, so that no row's answer depends on what else is in its batch, as it would where scales
  are made of each batch (by up to 0.4 minutes of `taxi_eta`'s answers).

Preprocessing, inputs and outputs are the same as in the bundle's own graph. The same graph and rows give the same
bytes. Made in a tenth of a second each for small networks, in a temporary folder that is removed.
"""

import hashlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.bundle import Variant, VariantName
from models.contract.answers import Answers, differences, mean_loss, shown
from models.contract.columns import Contract, Number
from models.errors import OkruhError, first_line
from models.evaluating.measures import measure
from models.inference import GraphInputs, Predictor, in_parts
from models.learning.export import NETWORK, PARITY_BATCHES, serialize

if TYPE_CHECKING:
    from models.model import Model

_BY_WEIGHTS = ("MatMul", "Gemm", "Conv")
_HALF = f"{NETWORK}half/"
_TOGETHER = 1 << 16
"""Rows that are answered at once at most."""


class _NotMade(OkruhError):
    """A variant cannot be made of a graph, or does not run."""


@dataclass(frozen=True, slots=True)
class Made:
    """What became of the variants that a definition asks for."""

    graphs: dict[str, bytes]
    """Those that there are, by name."""
    records: tuple[Variant, ...]
    """All of them."""


def make(
    model: "Model",
    graph: bytes,
    calibration: GraphInputs,
    tested: GraphInputs,
    answered: Answers,
    truth: Sequence[object],
) -> Made:
    """Make the variants that a definition asks for, and measure what each costs; one that costs too much is refused.

    Args:
        graph: the bundle's own, proved to answer as the network does.
        calibration: raw columns of training rows.
        tested: raw columns of the test rows.
        answered: what the network answers to these.
        truth: what turned out to be true.
    """
    metrics = measure(model.contract.target, answered, truth)
    graphs, records = dict[str, bytes](), list[Variant]()
    for name in model.variants:
        try:
            content = _make(name, graph, calibration)
            found = _answers(content, model.contract, tested, len(answered))
        except _NotMade as error:
            records.append(Variant(name=name, refused=f"{name} cannot be had of this network: {error}"))
            continue
        records.append(_measured(model, name, content, metrics, found, answered, truth))
        if records[-1].refused is None:
            graphs[name] = content
    return Made(graphs, tuple(records))


def _make(name: VariantName, graph: bytes, calibration: GraphInputs) -> bytes:
    """Give a variant. Raises: `_NotMade`."""
    model = onnx.load_from_string(graph)
    versions = {
        one.domain: one.version for one in model.opset_import
    }  # each stands there twice, which the tools refuse
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    try:
        return serialize(_in_half_precision(model) if name == "fp16" else _in_eight_bits(model, calibration))
    except Exception as error:  # the tools raise what they like for a graph that they do not know
        raise _NotMade(first_line(error)) from error


def _answers(content: bytes, contract: Contract, tested: GraphInputs, rows: int) -> Answers:
    """Run a variant on the test rows, and in several sizes of batch. Raises: `_NotMade`."""
    try:
        predictor = Predictor(content, contract)
        found = np.concatenate([predictor.predict(part) for part in _parts(tested, rows, _TOGETHER)])
        given = [len(predictor.predict(next(_parts(tested, rows, size)))) for size in PARITY_BATCHES]
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise _NotMade(first_line(error)) from error
    if (len(found), *given) != (rows, *(min(size, rows) for size in PARITY_BATCHES)):
        raise _NotMade("it does not answer row by row")
    return found


def _measured(
    model: "Model",
    name: VariantName,
    content: bytes,
    metrics: Mapping[str, float],
    found: Answers,
    answered: Answers,
    truth: Sequence[object],
) -> Variant:
    """Say what a variant costs; refuse it where that is too much."""
    target, costs = model.contract.target, measure(model.contract.target, found, truth)
    loss = mean_loss(target)
    more, refused = costs[loss] - metrics[loss], None
    if not more <= model.variant_cost * metrics[loss]:  # also where it is no number
        unit = target.unit if isinstance(target, Number) else ""
        refused = (
            f"{name} costs too much: {loss} {shown(costs[loss], unit)} instead of {shown(metrics[loss], unit)} on "
            f"{len(found)} test rows, at most {model.variant_cost:.2%} more is allowed (`variant_cost`)"
        )
    return Variant(
        name=name,
        refused=refused,
        digest=None if refused else hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        metrics={what: value for what, value in costs.items() if np.isfinite(value)},
        loss_more=float(more) if np.isfinite(more) else None,
        largest_difference=_largest(differences(target, found, answered)),
        batch_sizes=PARITY_BATCHES,
    )


def _largest(apart: Answers) -> float | None:
    largest = float(apart.max(initial=0.0))
    return largest if np.isfinite(largest) else None


def _parts(columns: GraphInputs, rows: int, size: int) -> Iterator[GraphInputs]:
    for start in range(0, rows, size):
        yield {name: values[start : start + size] for name, values in columns.items()}


def _in_eight_bits(model: onnx.ModelProto, calibration: GraphInputs) -> onnx.ModelProto:
    """Have matrix products and convolutions by learned weights computed with eight bits."""
    weights = {one.name for one in model.graph.initializer}
    wanted = [
        node.name
        for node in model.graph.node
        if node.name.startswith(NETWORK) and node.op_type in _BY_WEIGHTS and node.input[1] in weights
    ]
    if not wanted:
        raise _NotMade("it has no matrix product or convolution by learned weights")
    # Without this mark the tool advises, through the root logger, what export has done already
    model.metadata_props.append(onnx.StringStringEntryProto(key="onnx.quant.pre_process", value="onnxruntime.quant"))
    with tempfile.TemporaryDirectory(prefix="okruh-int8-") as folder, _tools():
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        file = Path(folder) / "model.onnx"
        quantize_static(
            model,
            file,
            _Once(in_parts(calibration) if any(values.ndim > 1 for values in calibration.values()) else [calibration]),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # 7 bits of weights, whose products no processor saturates: the same on each
            op_types_to_quantize=list(_BY_WEIGHTS),
            nodes_to_quantize=wanted,
        )
        return onnx.load(file)


class _Once:
    """Gives rows as the tool asks for them: some, the next, then none."""

    def __init__(self, parts: Iterable[GraphInputs]) -> None:
        self._parts = iter(parts)

    def get_next(self) -> dict[str, object] | None:
        """Give what there is."""
        rows = next(self._parts, None)
        return None if rows is None else dict(rows)


def _in_half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Have what lies between the first and the last learned matrix computed in half precision."""
    graph = model.graph
    if branching := next((node for node in graph.node if any(one.HasField("g") for one in node.attribute)), None):
        raise _NotMade(f"its operator {branching.op_type} holds graphs of its own")
    inner = _between_matrices(graph)
    if not inner:
        raise _NotMade("it has no learned matrix")
    outer = [node for place, node in enumerate(graph.node) if place not in inner]
    part = _cut_out(model, [graph.node[place] for place in sorted(inner)], outer)
    with _tools():
        from onnxruntime.transformers.float16 import convert_float_to_float16

        half = convert_float_to_float16(part, keep_io_types=True).graph
    _rename(half, {one.name for one in (*part.graph.input, *part.graph.output)})
    _put_back(graph, outer, half)
    return model


def _between_matrices(graph: onnx.GraphProto) -> set[int]:
    """Give the places of the network's nodes that take a learned matrix, or lie between those that do."""
    matrices = {one.name for one in graph.initializer if one.data_type == TensorProto.FLOAT and len(one.dims) > 1}
    ours = [(place, node) for place, node in enumerate(graph.node) if node.name.startswith(NETWORK)]
    after, before = set(matrices), set[str]()
    behind = {place for place, node in ours if _reaches(node.input, node.output, after)}
    ahead = set[int]()
    for place, node in reversed(ours):
        if matrices.intersection(node.input) or before.intersection(node.output):
            before |= set(node.input)
            ahead.add(place)
    return behind & ahead


def _reaches(inputs: Sequence[str], outputs: Sequence[str], reached: set[str]) -> bool:
    found = not reached.isdisjoint(inputs)
    if found:
        reached |= set(outputs)
    return found


def _cut_out(model: onnx.ModelProto, nodes: list[onnx.NodeProto], outer: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Make a model of its own of some nodes."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    typed = {one.name: one for one in (*graph.value_info, *graph.input, *graph.output)}
    held = {one.name: one for one in graph.initializer}
    given = {name for node in nodes for name in node.output}
    asked = dict.fromkeys(name for node in nodes for name in node.input if name)
    wanted = {name for node in outer for name in node.input} | {one.name for one in graph.output}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "half",
            [typed[name] for name in asked if name not in given and name not in held],
            [typed[name] for node in nodes for name in node.output if name in wanted],
            [held[name] for name in asked if name in held],
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )


def _rename(half: onnx.GraphProto, kept: set[str]) -> None:
    """Give all that is inside names of its own, which the whole graph has not."""

    def name(found: str) -> str:
        return found if found in kept or not found else f"{_HALF}{found.removeprefix(NETWORK)}"

    for tensor in half.initializer:
        tensor.name = name(tensor.name)
    for node in half.node:
        node.name = name(node.name)
        node.input[:] = [name(one) for one in node.input]
        node.output[:] = [name(one) for one in node.output]


def _put_back(graph: onnx.GraphProto, outer: list[onnx.NodeProto], half: onnx.GraphProto) -> None:
    """Put nodes back among the others, each behind what it takes from."""
    waiting = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*outer, *half.node)]
    asked = {name for node in waiting for name in node.input}
    tensors = [one for one in (*graph.initializer, *half.initializer) if one.name in asked]
    known = {one.name for one in (*tensors, *graph.input)} | {""}
    del graph.node[:], graph.value_info[:]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise _NotMade(f"the converted {waiting[0].op_type} takes from what nothing gives")
        waiting = [node for node in waiting if not known.issuperset(node.input)]
        known |= {name for node in ready for name in node.output}
        graph.node.extend(ready)


@contextmanager
def _tools() -> Iterator[None]:
    """Have ONNX Runtime's tools at hand, whose scripts import each other by bare names, and not for longer."""
    import onnxruntime  # after models.inference, which says before that it shall write nowhere

    before = list(sys.path)
    sys.path.append(str(Path(onnxruntime.__file__).with_name("transformers")))
    try:
        yield
    finally:
        sys.path[:] = before
