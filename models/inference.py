"""From a bundle and rows to predictions, by ONNX Runtime; no torch.

The graph takes one named input a column, shape [N]: numbers float32 (NaN for null), integer categories int64
(`MISSING_CODE` for null), text categories string (empty for null), times int64 seconds; it gives `value`, float32 [N].
"""

import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from models.contract.columns import Category, Contract, Number, Time
from models.errors import BundleError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import; otherwise a folder appears under ~/.cache
import onnxruntime

OUTPUT = "value"

Columns = Mapping[str, npt.NDArray[np.generic]]
"""One array a column, all of length N."""


class Predictor:
    """One loaded graph. Thread-safe; a run of one small batch takes tens of microseconds."""

    def __init__(self, onnx: bytes, contract: Contract, threads: int = 1) -> None:
        """Load a graph and check that it takes the contract's columns. Raises: `BundleError`."""
        try:
            self._session = open_session(onnx, threads)
        except Exception as error:  # onnxruntime raises a dozen unrelated classes for a bad graph
            raise BundleError(f"model.onnx cannot be loaded: {str(error).splitlines()[0]}") from error
        wanted = {column.name: input_type(column) for column in contract.inputs}
        found = {node.name: node.type for node in self._session.get_inputs()}
        if found != wanted:
            raise BundleError(f"model.onnx takes {found}, its contract declares {wanted}")
        given = {node.name: node.type for node in self._session.get_outputs()}
        if given != {OUTPUT: "tensor(float)"}:
            raise BundleError(f"model.onnx gives {given}, it should give {OUTPUT!r}, a tensor(float)")

    def predict(self, columns: Columns) -> npt.NDArray[np.float32]:
        """Predict N rows; the answer is float32 [N] in the target's unit."""
        (value,) = self._session.run([OUTPUT], dict(columns))
        answer: npt.NDArray[np.float32] = value
        return answer


def open_session(onnx: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU; its threads sleep when they have nothing to do."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def input_type(column: Time | Number | Category) -> str:
    """Give ONNX Runtime's name of the tensor type that a column is."""
    if isinstance(column, Number):
        return "tensor(float)"
    if isinstance(column, Category) and column.is_text:
        return "tensor(string)"
    return "tensor(int64)"
