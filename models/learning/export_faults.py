"""Why a network cannot be written as a graph, in one line: which operator or line of Python, and what to do.

The exporter says it in forty lines of its own workings, and prints some of them; the line that is at fault stands in
the traceback, and of a node that does not run in what the exporter notes beside it.
"""

import io
import linecache
import logging
import re
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import onnx
import torch

from models.errors import ExportFailed

_STACK_TRACE = "pkg.torch.onnx.stack_trace"
"""Where the exporter notes the lines of Python that a node comes from."""

_OPERATOR = re.compile(r"OpOverload\(op='([^']+)'")
_NODE = re.compile(r"running (\w+) node\. Name:'([^']+)'")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_NOT_THEIRS = (str(Path(torch.__file__).parent), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
_OURS = str(Path(__file__).with_name("export"))
_NOISY = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx.experimental.symbolic_shapes")

_RANDOM = (
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
"""Operators that give other numbers each time; of a network in evaluation mode, no Dropout is left that does not."""

_NO_CHOICE = (
    "asks what the rows hold, while a graph goes one way for all: choose row by row, by torch.where, clamp or "
    "nan_to_num, and take what is fixed from __init__"
)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what the exporter tells of its own workings from who waits for a training."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # it prints as well
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def of_exporter(error: BaseException) -> ExportFailed:
    """Say why the exporter has failed."""
    cause = _root(error)
    place, told = line_of(cause), str(cause).strip().partition("\n")[0]
    if operator := _OPERATOR.search(told):
        reason = f"operator {operator[1]} has no counterpart in a graph: write it by others, or compute it in `prepare`"
    elif "data-dependent" in told or "Dynamic control flow" in told:
        reason = f"{place or 'its forward'} {_NO_CHOICE}"
    else:
        reason = f"{place or 'its forward'} fails on it: {told}; use torch's operators on tensors, and nothing else"
    return ExportFailed(f"the network cannot be written as a graph: {reason}")


def of_runtime(error: BaseException, core: onnx.ModelProto, rows: int, traced: int) -> ExportFailed:
    """Say why a graph does not run on a number of rows, though it was traced with another."""
    told = _NODE.search(str(error))
    where = f"operator {told[1]} ({_line_of_node(core, told[2]) or told[2]})" if told else str(error).splitlines()[0]
    return fixed_rows(where, rows, traced)


def check_repeats(core: onnx.ModelProto) -> None:
    """Refuse a graph that answers the same rows otherwise each time. Raises: `ExportFailed`."""
    random = next((node for node in core.graph.node if node.op_type in _RANDOM), None)
    if random is not None:
        raise ExportFailed(
            f"the network cannot be written as a graph: operator {random.op_type} "
            f"({_line_of_node(core, random.name) or random.name}) gives other numbers each time, and a version answers "
            "the same rows alike: have it while it learns alone, by `if self.training` or "
            "F.dropout(..., training=self.training)"
        )


def fixed_rows(where: str, rows: int, traced: int) -> ExportFailed:
    """Say that a graph answers no other number of rows than it was traced with."""
    return ExportFailed(
        f"the network cannot be written as a graph for any number of rows: {where} fails on {rows} of them, as it "
        f"holds on to the {traced} that it was traced with; take no number of rows into Python: use -1 in view and "
        "reshape, new_zeros(numbers.shape[0], ...) for what has one, and batch_first=True where rows go in turn"
    )


def mixed_rows(rows: int, most: int) -> ExportFailed:
    """Say that a row's answer depends on which others come with it."""
    return ExportFailed(
        f"the network answers a row otherwise among {rows} rows than among {most}, while a service answers whatever "
        "comes together: compute over a row's own numbers (dim=1, batch_first=True), and what all rows say in __init__ "
        "or nn.BatchNorm1d"
    )


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def line_of(error: BaseException) -> str:
    """Give the innermost line of the network's own code; empty where none is in the traceback."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    return _innermost(frames)


def _line_of_node(core: onnx.ModelProto, name: str) -> str:
    noted = next((node.metadata_props for node in core.graph.node if node.name == name), ())
    frames = [(file, int(line)) for one in noted if one.key == _STACK_TRACE for file, line in _FRAME.findall(one.value)]
    return _innermost(frames)


def _innermost(frames: list[tuple[str, int]]) -> str:
    theirs = [(file, line) for file, line in frames if not file.startswith((*_NOT_THEIRS, _OURS))]
    if not theirs:
        return ""
    file, line = theirs[-1]
    return f"line {line} of {Path(file).name}, `{linecache.getline(file, line).strip()}`"
