"""Where torch computes, and that it computes the same again."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import deterministic

from models.bundle import Computed
from models.errors import DefinitionError


def choose_device(wanted: str) -> torch.device:
    """Turn `auto|cpu|cuda|mps` into a device; of several GPUs `torchrun` gives each process one.

    Raises: `DefinitionError` when it is asked for and not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available.get(wanted, False):
        raise DefinitionError(f"device {wanted!r} is asked for and not there; set OKRUH_DEVICE=auto or cpu")
    if wanted == "cuda" and (place := os.environ.get("LOCAL_RANK")):
        if int(place) >= torch.cuda.device_count():
            raise DefinitionError(
                f"{torch.cuda.device_count()} GPUs are here, and torchrun has started more processes than that; "
                "start as many by --nproc-per-node"
            )
        return torch.device("cuda", int(place))
    return torch.device(wanted)


def is_full(error: RuntimeError) -> bool:
    """Say whether it is for want of a GPU's memory that something has failed."""
    return isinstance(error, torch.OutOfMemoryError)


def describe(device: torch.device, threads: int, processes: int) -> Computed:
    """Name all of what computes that weights depend on."""
    capability = torch.backends.cpu.get_cpu_capability()
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu()}, {capability}"
    return Computed(
        device=device.type,
        processor=processor,
        threads=threads,
        processes=processes,
        torch=str(torch.__version__),  # of a class of its own, which no card can keep
        python=platform.python_version(),
    )


def _cpu() -> str:
    """Name this machine's processor; its kind alone where the system gives no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


@contextmanager
def repeatable(seed: int, threads: int) -> Iterator[None]:
    """Seed torch and fix its thread count inside the block; both are as before after it."""
    threads_before, strict_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    # Without a workspace of fixed size cuBLAS may add up in any order, and torch refuses it then (NVIDIA, "cuBLAS
    # Library", section 2.1.4); it is read when the first matrices are multiplied
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    devices = range(torch.cuda.device_count()) if _uses_cuda() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(mode=True)
        # Filling would hide what reads memory that nothing was written to, at some ten microseconds a step
        filling_before = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # torch makes it so late
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            deterministic.fill_uninitialized_memory = filling_before  # type: ignore[attr-defined]
            torch.set_num_threads(threads_before)
            torch.use_deterministic_algorithms(strict_before)


def _uses_cuda() -> bool:
    """Say whether CUDA has been started, without starting it."""
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return started


def random_state(device: torch.device) -> list[Tensor]:
    """Give the state of the random numbers that a training on a device draws."""
    states = [torch.get_rng_state()]
    return [*states, torch.get_device_module(device).get_rng_state()] if device.type != "cpu" else states


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Go on with what `random_state` gave."""
    torch.set_rng_state(states[0].cpu())
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1].cpu())
