"""From a trained network to the one ONNX file of a bundle, proved to answer as the network does.

The file holds preprocessing and network, has no external data, and no metadata, so that the same weights give the same
bytes from any folder. Exporting costs about 2 s, the first one of a process 4 s more.
"""

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import compose, helper
from torch import nn

from models.bundle import Parity
from models.contract.answers import output_name
from models.contract.columns import Contract
from models.errors import ParityFailed
from models.inference import GraphInputs, Predictor
from models.learning import preprocessing
from models.learning.preprocessing import CATEGORIES, NUMBERS, PREFIX, TIME_PARTS, Prepared

PARITY_BATCHES = (1, 2, 7, 64)

_TOGETHER = 1 << 13
"""Rows that are compared at once at most."""

NETWORK = "network/"
"""How the names of the network's part begin, so that none of them is a column's."""


def export(network: nn.Module, contract: Contract, example: Prepared) -> bytes:
    """Write preprocessing and network as one ONNX graph.

    Args:
        network: answers as `models.contract.answers` says.
        example: at least two rows to trace with; a single one would be taken for the only batch size.

    Raises: `ParityFailed` for a network that cannot be written as a graph for any number of rows.
    """
    output = output_name(contract.target)
    core = _export_core(network, example, output)
    front = preprocessing.build(contract)
    names = [name for name in (NUMBERS, CATEGORIES, TIME_PARTS) if name in {node.name for node in core.graph.input}]
    io_map = [(PREFIX + name, NETWORK + name) for name in names]
    whole = compose.merge_models(front, compose.add_prefix(core, NETWORK), io_map=io_map, outputs=[NETWORK + output])
    _rename_output(whole.graph, NETWORK + output, output)
    del whole.metadata_props[:]
    whole.producer_name, whole.producer_version, whole.doc_string = "okruh", "", ""
    whole.graph.name = "model"
    for part in (*whole.graph.node, *whole.graph.value_info, *whole.graph.input, *whole.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    del whole.graph.metadata_props[:]
    del whole.graph.value_info[:]
    onnx.checker.check_model(whole, full_check=True)
    return bytes(whole.SerializeToString(deterministic=True))


def _rename_output(graph: onnx.GraphProto, name: str, wanted: str) -> None:
    for output in graph.output:
        output.name = wanted if output.name == name else output.name
    for node in graph.node:
        node.output[:] = [wanted if found == name else found for found in node.output]
        node.input[:] = [wanted if found == name else found for found in node.input]


def _export_core(network: nn.Module, example: Prepared, output: str) -> onnx.ModelProto:
    rows = torch.export.Dim("N")
    dynamic = {name: {0: rows} for name in (NUMBERS, CATEGORIES, TIME_PARTS)}
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            program = torch.onnx.export(
                network,
                as_tensors(example),
                input_names=[NUMBERS, CATEGORIES, TIME_PARTS],
                output_names=[output],
                opset_version=preprocessing.OPSET,
                dynamo=True,
                external_data=False,
                dynamic_shapes=dynamic,
                optimize=True,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ParityFailed(f"export: the network cannot be written as a graph ({_cause(error)})") from error
    finally:
        noisy.setLevel(level)
    assert program is not None
    core = program.model_proto
    core.ir_version = preprocessing.IR_VERSION
    core.opset_import.append(helper.make_opsetid("ai.onnx.ml", preprocessing.ML_OPSET))
    return core


def _cause(error: BaseException) -> str:
    """Give the first line of what the exporter's report was caused by."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def as_tensors(prepared: Prepared) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give a network's three arguments."""
    return (
        torch.from_numpy(prepared.numbers_NF),
        torch.from_numpy(prepared.categories_NC).to(torch.int64),
        torch.from_numpy(prepared.time_parts_NP).to(torch.int64),
    )


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
    spans = [slice(start, start + _TOGETHER) for start in range(0, rows, _TOGETHER)]
    spans += [slice(start, start + size) for size in batch_sizes for start in range(0, min(rows, 4 * size), size)]
    try:
        differences = [
            _difference(predictor.predict({name: values[span] for name, values in columns.items()}), expected[span])
            for span in spans
        ]
    except Exception as error:  # onnxruntime raises a dozen unrelated classes for a graph that does not run
        raise ParityFailed(f"parity: the exported graph does not run on real rows ({_cause(error)})") from error
    largest = float(np.max(differences))  # unlike `max`, keeps a NaN
    if not largest <= tolerance:
        raise ParityFailed(
            f"parity: the exported graph differs from the network by up to {largest:.3g} on {rows} rows "
            f"(allowed: {tolerance:.3g}); the network uses an operation that does not export faithfully"
        )
    return Parity(rows=rows, batch_sizes=tuple(batch_sizes), largest_difference=largest, tolerance=tolerance)


def _difference(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))
