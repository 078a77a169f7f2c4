"""CUDA graphs: what a batch has a GPU do is recorded once for each of few sizes, and replayed from then on.

A small network is some hundred kernels, each of which takes longer to launch than to run; replayed, they are one
launch. What is recorded reads and writes the same memory each time, so each size has buffers of its own, to which its
inputs are copied. Recording fails where anything else uses the GPU in the same process; therefore runs wait for one
another, and sizes are recorded when a model is warmed, not while it answers.
"""

import threading
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

RUNS = 3
"""The first run takes memory, the second is recorded, the third replayed."""

_alone = threading.Lock()


class _Buffers(NamedTuple):
    """Of one size of batch."""

    inputs: dict[str, onnxruntime.OrtValue]
    value: onnxruntime.OrtValue
    binding: onnxruntime.IOBinding
    options: onnxruntime.RunOptions


class Replaying:
    """Runs a graph, some sizes of batch by replaying. Thread-safe: one at a time, of all that there are.

    Args:
        session: with CUDA graphs switched on, where there are sizes; its one output is float32, [N] or [N, K].
        sizes: rows of a batch; others are run as without recording.
        device: where the buffers are.
    """

    def __init__(self, session: onnxruntime.InferenceSession, sizes: Collection[int], device: str = "cuda") -> None:
        self._session = session
        output = session.get_outputs()[0]
        self._output, self._row_shape = output.name, output.shape[1:]
        self._sizes = frozenset(sizes)
        self._device = device
        self._buffers = dict[int, _Buffers]()

    def run(self, columns: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
        """Predict N rows. Raises: whatever onnxruntime does."""
        rows = len(next(iter(columns.values())))
        with _alone:
            if rows not in self._sizes:
                (value,) = self._session.run([self._output], dict(columns), _recorded_as(-1))
                return value  # type: ignore[no-any-return]  # a float32 array, as the graph was checked to give
            buffers = self._buffers.get(rows) or self._prepare(rows, columns)
            for name, values in columns.items():
                buffers.inputs[name].update_inplace(np.ascontiguousarray(values))
            self._session.run_with_iobinding(buffers.binding, buffers.options)
            return np.array(buffers.value.numpy())  # the next run writes there

    def _prepare(self, rows: int, columns: Mapping[str, npt.NDArray[np.generic]]) -> _Buffers:
        inputs = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.array(values), self._device, 0)  # on the CPU no copy
            for name, values in columns.items()
        }
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type([rows, *self._row_shape], np.float32, self._device, 0)
        binding = self._session.io_binding()
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer)
        binding.bind_ortvalue_output(self._output, value)
        made = self._buffers[rows] = _Buffers(inputs, value, binding, _recorded_as(rows))
        return made


def _recorded_as(number: int) -> onnxruntime.RunOptions:
    """Say which recording a run makes or replays; of -1 none."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options
