"""From a bundle and rows to predictions, by ONNX Runtime; no torch.

The graph takes one named input a column, shape [N]: numbers float32 (NaN for null), integer categories int64
(`MISSING_CODE` for null), text categories string (empty for null), times int64 seconds, an image float32 [N, height,
width, channels]; it gives `value`, float32 [N], or `probabilities`, float32 [N, K] (`models.contract.answers`).

ONNX Runtime goes on with the CPU where a provider cannot be loaded, and says so to nobody. Here a provider that is
wanted is used, or it is an error, or, where that is allowed, a reason that is kept beside what is used. Used means
that it is loaded, runs nodes of the graph, and answers example rows as the CPU does, within a ten-thousandth: some
take 64-bit integers for floats, or half precision for whole. A row has the same bits in every batch on the CPU (see
`batch_rows`), where filling it up costs little; elsewhere kernels differ by the size of the batch.
"""

import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from models.bundle import FLOAT32
from models.contract.answers import output_name
from models.contract.columns import Category, Contract, Image, Input, Number
from models.contract.examples import example_columns
from models.errors import BundleError, ProviderUnavailable

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import; otherwise a folder appears under ~/.cache
import onnxruntime

from models import replaying
from models.replaying import Replaying

GraphInputs = Mapping[str, npt.NDArray[np.generic]]
"""One array a column, all of length N; images as they are kept, in bytes or as floats."""

Provider = Literal["cpu", "cuda", "tensorrt", "coreml", "openvino"]
"""What runs a graph's nodes; those that it cannot run are left to the CPU."""

NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}

_OFFERED_BY: Mapping[Provider, str] = {
    "cpu": "onnxruntime",
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu and TensorRT 10",
    "coreml": "onnxruntime for macOS",
    "openvino": "onnxruntime-openvino",
}

_BEST_FIRST: tuple[Provider, ...] = ("cuda", "coreml", "openvino", "cpu")
"""What `auto` tries. Not tensorrt: it builds an engine for each batch size, which takes minutes at every start."""

_CUDA_OPTIONS = {
    "use_tf32": "0",  # on by default, and then answers differ from the CPU's in the third digit
    "cudnn_conv_algo_search": "HEURISTIC",  # the default times all algorithms for each shape: slow, and never the same
    "arena_extend_strategy": "kSameAsRequested",  # the default doubles what it takes; workers share a GPU
}

VECTOR = 16
"""Values of four bytes that a processor takes at once, at most (AVX-512)."""

WARM_SIZES = tuple(VECTOR << step for step in range(7))
"""16 to 1,024: what batches are filled up to where each shape costs a search, an engine or buffers of its own; on the
CPU sizes among others."""

_TRIAL_ROWS = WARM_SIZES[4]
_TOGETHER_NUMBERS = 1 << 18
"""Of images that are answered at once; with 100 channels in a network's first layers, these take 100 MB."""
_ALIKE = 1e-4
"""How far answers may be from the CPU's, as a share of the largest; TF32 and half precision are beyond it."""


@dataclass(frozen=True)
class Runtime:
    """Which of a bundle's graphs is run, and how."""

    provider: Literal["auto"] | Provider = "cpu"
    """`auto`: the best one that the installed wheel offers and that can be used here."""
    fallback: bool = False
    """Whether the CPU may be used where the provider cannot."""
    threads: int = 1
    """CPU threads of one graph; idle ones sleep."""
    gpu_memory_mb: int | None = None
    """MiB of a GPU that one graph may take; None: what there is. The GPU is the first of CUDA_VISIBLE_DEVICES."""
    cuda_graphs: bool = False
    """Whether batches of `WARM_SIZES` are replayed on CUDA (`models.replaying`), which wants all nodes to run there."""
    variant: str = FLOAT32
    """For those who load bundles: the graph that `models.bundle.graph_file` names."""


ON_THE_CPU = Runtime()


@dataclass(frozen=True)
class Placement:
    """Where a graph is run."""

    provider: Provider
    nodes: dict[str, int]
    """How many of the graph's nodes each provider runs, as ONNX Runtime says."""
    missed: str | None
    """Why a better or wanted provider is not used; null where there is none."""
    replayed: bool = False
    """Whether CUDA graphs are used."""


Run = Callable[[GraphInputs], npt.NDArray[np.float32]]
"""Runs a graph."""


class Opened(NamedTuple):
    """A graph that can be run."""

    session: onnxruntime.InferenceSession
    run: Run
    placement: Placement


class _Way(NamedTuple):
    """One in which a graph may be run."""

    provider: Provider
    replayed: bool = False

    def __str__(self) -> str:
        return "cuda with CUDA graphs" if self.replayed else self.provider


_CPU = _Way("cpu")


class Predictor:
    """One loaded graph. Thread-safe; a run of one small batch takes tens of microseconds."""

    def __init__(self, onnx: bytes, contract: Contract, runtime: Runtime = ON_THE_CPU) -> None:
        """Load a graph and check that it takes the contract's columns. Raises: `BundleError`, `ProviderUnavailable`."""
        try:
            trial = example_columns(contract, _TRIAL_ROWS)
            session, self._run, self.placement = open_session(onnx, runtime, trial)
        except ProviderUnavailable:
            raise
        except Exception as error:  # onnxruntime raises a dozen unrelated classes for a bad graph
            raise BundleError(f"model.onnx cannot be loaded: {str(error).splitlines()[0]}") from error
        wanted = {column.name: input_type(column) for column in contract.inputs}
        found = {node.name: node.type for node in session.get_inputs()}
        if found != wanted:
            raise BundleError(f"model.onnx takes {found}, its contract declares {wanted}")
        given = {node.name: node.type for node in session.get_outputs()}
        if given != {output_name(contract.target): "tensor(float)"}:
            raise BundleError(
                f"model.onnx gives {given}, it should give {output_name(contract.target)!r}, a tensor(float)"
            )

    def predict(self, columns: GraphInputs) -> npt.NDArray[np.float32]:
        """Predict N rows; see `models.contract.answers`."""
        return self._run(columns)


def offered() -> tuple[Provider, ...]:
    """Name what the installed onnxruntime can run graphs on, whether it can be used here or not."""
    found = onnxruntime.get_available_providers()
    return tuple(ours for ours, theirs in NAMES.items() if theirs in found)


def in_parts(columns: GraphInputs) -> Iterator[GraphInputs]:
    """Give rows as a graph takes them, images as floats, so many at a time that a network takes little memory."""
    images = {name: values for name, values in columns.items() if values.ndim > 1}
    together, rows = image_rows(columns), len(next(iter(columns.values())))
    for start in range(0, max(1, rows), together):
        part = slice(start, start + together)
        yield {name: values[part] for name, values in columns.items()} | {
            name: values[part].astype(np.float32, copy=False) for name, values in images.items()
        }


def image_rows(columns: GraphInputs) -> int:
    """Say how many rows with images are answered at once: a power of two, so that all parts are whole vectors."""
    numbers = max(math.prod(values.shape[1:]) for values in columns.values())
    return max(VECTOR, 1 << (_TOGETHER_NUMBERS // numbers).bit_length() - 1)


def batch_rows(rows: int, provider: Provider) -> int:
    """Say to how many rows a batch is filled up.

    On the CPU to whole vectors, so that a row has the same bits in every batch: kernels treat what is left of a vector
    otherwise, and a logarithm differs there in its last bit. Elsewhere to few sizes, each of which can be warmed:
    powers of two up to 1,024, then multiples of it.
    """
    if provider == "cpu":
        return rows + -rows % VECTOR
    most = WARM_SIZES[-1]
    return rows + -rows % most if rows > most else max(VECTOR, 1 << (rows - 1).bit_length())


def open_session(onnx: bytes, runtime: Runtime = ON_THE_CPU, trial: GraphInputs | None = None) -> Opened:
    """Open a graph where it shall be run, and make sure that it is.

    Args:
        onnx: the graph.
        runtime: where and how.
        trial: rows that another provider must answer as the CPU does.

    Raises: `ProviderUnavailable`; for a bad graph what onnxruntime raises.
    """
    missed: ProviderUnavailable | None = None
    for way in _ways(runtime):
        try:
            session = _open_on(way, onnx, runtime)
            run = _runner(way, session, runtime)
            if trial is not None and way.provider != "cpu":
                check_alike(way, run, _runner(_CPU, _open_on(_CPU, onnx, runtime), runtime), trial)
            placement = Placement(way.provider, _nodes(session), str(missed) if missed else None, way.replayed)
            return Opened(session, run, placement)
        except ProviderUnavailable as error:
            missed = missed or error
    assert missed is not None
    raise missed


def check_alike(way: object, run: Run, on_cpu: Run, trial: GraphInputs) -> None:
    """Run rows in both ways. Raises: `ProviderUnavailable` where one fails, or answers otherwise than the CPU."""
    wanted_N = on_cpu(trial)
    try:
        for _ in range(replaying.RUNS):
            found_N = run(trial)
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise ProviderUnavailable(f"{way} cannot be used: it fails: {str(error).splitlines()[0]}") from error
    largest = float(np.abs(wanted_N).max())
    if not np.allclose(found_N, wanted_N, rtol=0, atol=_ALIKE * largest, equal_nan=True):
        apart = float(np.abs(found_N - wanted_N).max())
        raise ProviderUnavailable(
            f"{way} cannot be used: it answers example rows otherwise than the CPU, by up to {apart:.2g} "
            f"at answers of up to {largest:.2g}"
        )


def _ways(runtime: Runtime) -> list[_Way]:
    """Name the ways to run a graph, the best first."""
    if runtime.provider == "auto":
        found = offered()
        providers = [provider for provider in _BEST_FIRST if provider in found]
    else:
        providers = list(dict.fromkeys((runtime.provider, "cpu"))) if runtime.fallback else [runtime.provider]
    ways = [_Way(provider) for provider in providers]
    if runtime.cuda_graphs and "cuda" in providers:
        first, plain = providers.index("cuda"), runtime.fallback or runtime.provider == "auto"
        ways[first : first + (not plain)] = [_Way("cuda", replayed=True)]
    return ways


def _runner(way: _Way, session: onnxruntime.InferenceSession, runtime: Runtime) -> Run:
    run = _whole_runner(way, session, runtime)
    if all(len(node.shape) < 4 for node in session.get_inputs()):
        return run
    return lambda columns: np.concatenate([run(part) for part in in_parts(columns)])


def _whole_runner(way: _Way, session: onnxruntime.InferenceSession, runtime: Runtime) -> Run:
    if way.provider == "cuda" and runtime.cuda_graphs:  # one that is not recorded waits for those that are, too
        return Replaying(session, WARM_SIZES if way.replayed else ()).run

    def run(columns: GraphInputs) -> npt.NDArray[np.float32]:
        (answers,) = session.run(None, dict(columns))
        return answers  # type: ignore[no-any-return]  # float32, as the graph says

    return run


def _open_on(way: _Way, onnx: bytes, runtime: Runtime) -> onnxruntime.InferenceSession:
    """Open a graph in one way. Raises: `ProviderUnavailable`; for a bad graph what onnxruntime raises."""
    provider = way.provider
    name, found = NAMES[provider], offered()
    if provider not in found:
        ours = ", ".join(found)
        raise ProviderUnavailable(
            f"{way} cannot be used: the installed onnxruntime {onnxruntime.__version__} offers {ours}; "
            f"uninstall it and install {_OFFERED_BY[provider]}"
        )
    missing = _load_cuda() if provider in ("cuda", "tensorrt") else ""
    try:
        session = onnxruntime.InferenceSession(
            onnx, _session_options(runtime), providers=_chain(way, runtime), enable_fallback=0
        )
    except Exception as error:
        if provider == "cpu":
            raise
        _open_on(_CPU, onnx, runtime)  # where that fails as well, it is the graph
        raise ProviderUnavailable(f"{way} cannot be used: {missing or str(error).splitlines()[0]}") from error
    if session.get_providers()[0] != name:
        needs = f"CUDA {onnxruntime.cuda_version}, cuDNN 9 and a GPU" if provider == "cuda" else "what it stands on"
        reason = missing or f"onnxruntime {onnxruntime.__version__} did not load it; it needs {needs}"
        raise ProviderUnavailable(f"{way} cannot be used: {reason}")
    if not _nodes(session).get(provider):
        raise ProviderUnavailable(f"{way} cannot be used: it runs none of the graph's nodes")
    return session


def _chain(way: _Way, runtime: Runtime) -> list[tuple[str, dict[str, str]]]:
    """Name a provider and those that run what it cannot, with their options."""
    provider = way.provider
    limit = {} if runtime.gpu_memory_mb is None else {"gpu_mem_limit": str(runtime.gpu_memory_mb << 20)}
    openvino = {"CPU": {"INFERENCE_NUM_THREADS": str(runtime.threads), "INFERENCE_PRECISION_HINT": "f32"}}
    options: dict[Provider, dict[str, str]] = {
        "cuda": _CUDA_OPTIONS | limit | ({"enable_cuda_graph": "1"} if way.replayed else {}),
        "coreml": {"ModelFormat": "MLProgram"},  # the default computes in half precision
        "openvino": {"device_type": "CPU", "load_config": json.dumps(openvino)},
    }
    chain: tuple[Provider, ...] = ("tensorrt", "cuda", "cpu") if provider == "tensorrt" else (provider, "cpu")
    return [(NAMES[one], options.get(one, {})) for one in dict.fromkeys(chain)]


def _session_options(runtime: Runtime) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 4  # what fails is raised, and said by whoever catches it
    return options


def _load_cuda() -> str:
    """Load CUDA's libraries where pip has installed them; give what is missing, in one line."""
    with redirect_stdout(io.StringIO()) as said:  # it prints what it misses
        onnxruntime.preload_dlls(directory="")
    return next((line for line in said.getvalue().splitlines() if line.startswith("Failed")), "")


def _nodes(session: onnxruntime.InferenceSession) -> dict[str, int]:
    ours = {theirs: ours for ours, theirs in NAMES.items()}
    assigned = session.get_provider_graph_assignment_info()
    counts = Counter[str]()
    for part in assigned:
        counts[ours.get(part.ep_name, part.ep_name)] += len(part.get_nodes())
    return dict(counts)


def operators_on(session: onnxruntime.InferenceSession, provider: Provider) -> dict[str, int]:
    """Name the operators of the nodes that a provider runs, and count each."""
    assigned = session.get_provider_graph_assignment_info()
    ran = [node.op_type for part in assigned if part.ep_name == NAMES[provider] for node in part.get_nodes()]
    return dict(sorted(Counter(ran).items()))


def input_type(column: Input) -> str:
    """Give ONNX Runtime's name of the tensor type that a column is."""
    if isinstance(column, Number | Image):
        return "tensor(float)"
    if isinstance(column, Category) and column.is_text:
        return "tensor(string)"
    return "tensor(int64)"
