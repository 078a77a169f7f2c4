"""From a trained network to the one ONNX file of a bundle, proved to answer as the network does.

The file holds preprocessing and network, has no external data, and no metadata, so that the same weights give the same
bytes from any folder. A network is traced before it learns: that it cannot be written as a graph is better said before
hours of training. Tracing costs 1 to 2 s, the first time in a process 3 s more; filling in the weights, a tenth of a
second.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import compose, helper
from torch import nn

from models.bundle import Parity, Provided
from models.contract.answers import output_name
from models.contract.columns import Contract
from models.contract.examples import example_columns
from models.errors import ParityFailed, ProviderUnavailable
from models.inference import GraphInputs, Predictor, Provider, Run, Runtime, offered, open_session, operators_on
from models.learning import export_faults, preprocessing
from models.learning.preprocessing import CATEGORIES, IMAGES, NUMBERS, PREFIX, TIME_PARTS, Prepared

PARITY_BATCHES = (1, 2, 7, 64)

_TOGETHER = 1 << 13
"""Rows that are compared at once at most."""

_OTHERS = ([1, 2, 3, 4, 5, 6, 7], [7, 5], [3])
"""Places of rows that a graph is run on; one row last, which some operators stretch to any number."""
_APART, _SUMS_APART = 0.01, 1e-4
"""Two answers differ by more than the order of sums makes: shares of the answers' span, and of the largest."""

NETWORK = "network/"
"""How the names of the network's part begin, so that none of them is a column's."""


class Traced:
    """A network as a graph, in which weights can still be others."""

    def __init__(self, program: torch.onnx.ONNXProgram, contract: Contract) -> None:
        self._program = program
        self._contract = contract

    def graph(self, network: nn.Module) -> bytes:
        """Write preprocessing and the network that was traced, with the weights it has now, as one ONNX graph.

        Call it once: where constants are folded, no place for other weights is left.
        """
        program, state = self._program, dict(network.named_buffers()) | network.state_dict()
        program.apply_weights({name: state[name] for name in program.model.graph.initializers if name in state})
        program.optimize()
        core, output = _core(program), output_name(self._contract.target)
        front = preprocessing.build(self._contract)
        taken = {node.name for node in core.graph.input}
        names = [name for name in preprocessing.arguments(self._contract) if name in taken]
        io_map = [(PREFIX + name, NETWORK + name) for name in names]
        whole = compose.merge_models(
            front, compose.add_prefix(core, NETWORK), io_map=io_map, outputs=[NETWORK + output]
        )
        _rename_output(whole.graph, NETWORK + output, output)
        return serialize(whole)


def trace(network: nn.Module, contract: Contract, example: Prepared) -> Traced:
    """Follow a network, which may have learned nothing yet; random numbers are left as they are.

    Args:
        network: answers as `models.contract.answers` says.
        example: at least two rows to trace with; a single one would be taken for the only batch size.

    Raises: `ExportFailed` for a network that cannot be written as a graph for any number of rows, or is random.
    """
    with torch.random.fork_rng(devices=[]):
        program = _followed(network, example, output_name(contract.target))
    core = _core(program)
    export_faults.check_repeats(core)
    _check_any_rows(core, example)
    return Traced(program, contract)


def serialize(model: onnx.ModelProto) -> bytes:
    """Write a graph without what says where and by what it was made, so that the same weights give the same bytes."""
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string = "okruh", "", ""
    model.graph.name = "model"
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _rename_output(graph: onnx.GraphProto, name: str, wanted: str) -> None:
    for output in graph.output:
        output.name = wanted if output.name == name else output.name
    for node in graph.node:
        node.output[:] = [wanted if found == name else found for found in node.output]
        node.input[:] = [wanted if found == name else found for found in node.input]


def _followed(network: nn.Module, example: Prepared, output: str) -> torch.onnx.ONNXProgram:
    rows = torch.export.Dim("N")
    given = as_tensors(example)
    inputs = (NUMBERS, CATEGORIES, TIME_PARTS, IMAGES)[: len(given)]
    try:
        with export_faults.quietly():
            program = torch.onnx.export(
                network,
                given,
                input_names=inputs,
                output_names=[output],
                opset_version=preprocessing.OPSET,
                dynamo=True,
                external_data=False,
                dynamic_shapes=tuple({0: rows} for _ in inputs),  # in place, for arguments may be called anything
                optimize=False,  # which would fold weights that are still to be learned
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise export_faults.of_exporter(error) from error
    assert program is not None
    return program


def _core(program: torch.onnx.ONNXProgram) -> onnx.ModelProto:
    core = program.model_proto
    core.ir_version = preprocessing.IR_VERSION
    core.opset_import.append(helper.make_opsetid("ai.onnx.ml", preprocessing.ML_OPSET))
    return core


def _check_any_rows(core: onnx.ModelProto, example: Prepared) -> None:
    """Run the network's part on numbers of rows it was not traced with; a row's answer is the same among any others.

    Raises: `ExportFailed`.
    """
    unbound = onnx.ModelProto()
    unbound.CopyFrom(core)
    for node in (*unbound.graph.input, *unbound.graph.output):
        node.type.tensor_type.shape.dim[0].dim_param = "N"  # as behind the preprocessing, which gives any number
    run = open_session(unbound.SerializeToString()).session
    taken = {node.name for node in run.get_inputs()}
    traced, among_most = len(example), np.empty(0)
    for places in _OTHERS:
        rows, given = len(places), as_tensors(example[[place % traced for place in places]])
        arrays = zip((NUMBERS, CATEGORIES, TIME_PARTS, IMAGES)[: len(given)], given, strict=True)
        try:
            (found,) = run.run(None, {name: array.numpy() for name, array in arrays if name in taken})
        except Exception as error:  # onnxruntime raises a dozen unrelated classes for a graph that does not run
            raise export_faults.of_runtime(error, core, rows, traced) from error
        if len(found) != rows:
            raise export_faults.fixed_rows(f"its answer of {len(found)} rows", rows, traced)
        among_most = among_most if len(among_most) else found
        wanted = among_most[[_OTHERS[0].index(place) for place in places]]
        finite = among_most[np.isfinite(among_most)]
        apart = _APART * np.ptp(finite) + _SUMS_APART * np.abs(finite).max() if len(finite) else 0.0
        if not np.allclose(found, wanted, rtol=0, atol=apart, equal_nan=True):
            raise export_faults.mixed_rows(rows, len(among_most))


def as_tensors(prepared: Prepared) -> tuple[torch.Tensor, ...]:
    """Give a network's three arguments, or, with images, four."""
    numbers_NF, *codes = map(torch.from_numpy, (prepared.numbers_NF, prepared.categories_NC, prepared.time_parts_NP))
    three = (numbers_NF, *(code.to(torch.int64) for code in codes))
    return three if prepared.images_NKHW is None else (*three, torch.from_numpy(prepared.images_NKHW).to(torch.float32))


def check_parity(
    onnx_bytes: bytes,
    contract: Contract,
    columns: GraphInputs,
    expected: npt.NDArray[np.float32],
    tolerance: float,
    batch_sizes: Sequence[int] = PARITY_BATCHES,
) -> Parity:
    """Compare the graph with the network on every row, and in each batch size on the first rows.

    Args:
        columns: raw columns of N real rows.
        expected: what the network answers for them.
        tolerance: largest accepted difference, in the target's unit.

    Raises: `ParityFailed`.
    """
    predictor = Predictor(onnx_bytes, contract)
    rows = len(expected)
    try:
        largest = _largest_difference(predictor.predict, columns, expected, batch_sizes)
    except Exception as error:  # onnxruntime raises a dozen unrelated classes for a graph that does not run
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ParityFailed(f"parity: the exported graph does not run on real rows ({reason})") from error
    if not largest <= tolerance:
        raise ParityFailed(
            f"parity: the exported graph differs from the network by up to {largest:.3g} on {rows} rows "
            f"(allowed: {tolerance:.3g}); the network uses an operation that does not export "
            "faithfully, or answers a row by the others that come with it"
        )
    return Parity(rows=rows, batch_sizes=tuple(batch_sizes), largest_difference=largest, tolerance=tolerance)


def try_providers(
    onnx_bytes: bytes, contract: Contract, columns: GraphInputs, expected: npt.NDArray[np.float32], parity: Parity
) -> tuple[Provided, ...]:
    """Compare the graph with the network on each execution provider that the installed onnxruntime has.

    Not on TensorRT, which builds an engine for each size of batch. What a provider lacks or gives otherwise is told and
    is no error: the graph is proved on the CPU, and services refuse such a provider by themselves.

    Args:
        parity: what was proved on the CPU, by the same rows.
    """
    providers = [provider for provider in offered() if provider not in ("cpu", "tensorrt")]
    on_cpu = open_session(onnx_bytes).placement.nodes
    proved = Provided(provider="cpu", largest_difference=parity.largest_difference, nodes=on_cpu)
    return proved, *(_tried(one, onnx_bytes, contract, columns, expected, parity) for one in providers)


def _tried(
    provider: Provider,
    onnx_bytes: bytes,
    contract: Contract,
    columns: GraphInputs,
    expected: npt.NDArray[np.float32],
    parity: Parity,
) -> Provided:
    trial = example_columns(contract, max(parity.batch_sizes))
    try:
        session, run, placement = open_session(onnx_bytes, Runtime(provider), trial)
        largest = _ran(provider, lambda: _largest_difference(run, columns, expected, parity.batch_sizes))
    except ProviderUnavailable as error:
        return Provided(provider=provider, missed=str(error))
    allowed = f"it differs from the network by up to {largest:.3g} (allowed: {parity.tolerance:.3g})"
    return Provided(
        provider=provider,
        largest_difference=largest if np.isfinite(largest) else None,
        nodes=placement.nodes,
        left_to_cpu=operators_on(session, "cpu"),
        missed=None if largest <= parity.tolerance else allowed,
    )


def _ran(provider: Provider, measure: Callable[[], float]) -> float:
    try:
        return measure()
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise ProviderUnavailable(f"{provider} fails on real rows: {str(error).splitlines()[0]}") from error


def _largest_difference(
    run: Run, columns: GraphInputs, expected: npt.NDArray[np.float32], batch_sizes: Sequence[int]
) -> float:
    """Give the largest difference on all rows, and in each batch size on the first ones; NaN where one is."""
    rows = len(expected)
    spans = [slice(start, start + _TOGETHER) for start in range(0, rows, _TOGETHER)]
    spans += [slice(start, start + size) for size in batch_sizes for start in range(0, min(rows, 4 * size), size)]
    differences = [
        _difference(run({name: values[span] for name, values in columns.items()}), expected[span]) for span in spans
    ]
    return float(np.max(differences))  # unlike `max`, keeps a NaN


def _difference(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))
