"""The training loop: one gather of all rows an epoch, then slices; the best epoch's weights are kept.

Given rows, settings, seed, thread count, torch build and kind of processor, the weights are the same bit by bit.
Progress goes to a callback; the loop knows neither tracker nor lake. A table of N rows is held on the device twice (as
it is, and shuffled).
"""

import copy
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.errors import DefinitionError, TrainingDiverged
from models.learning.export import as_tensors
from models.learning.preprocessing import Prepared
from models.learning.settings import TrainingSettings

Report = Callable[[dict[str, float]], None]
"""Takes one epoch's figures: `epoch`, `train_loss`, `validation_error`."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Prepared rows with their targets."""

    inputs: Prepared
    target_N: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.target_N)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network, on the CPU and in evaluation mode, and how it came about."""

    network: nn.Module
    best_epoch: int
    epochs: list[dict[str, float]]


def choose_device(wanted: str) -> torch.device:
    """Turn `auto|cpu|cuda|mps` into a device. Raises: `DefinitionError` when it is asked for and not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if not available.get(wanted, False):
        raise DefinitionError(f"device {wanted!r} is asked for and not there; set OKRUH_DEVICE=auto or cpu")
    return torch.device(wanted)


def unheard(figures: dict[str, float]) -> None:
    """Report to nobody."""


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
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)
            torch.use_deterministic_algorithms(strict_before)


def _uses_cuda() -> bool:
    """Say whether CUDA has been started, without starting it."""
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return started


def fit(
    network: nn.Module,
    train: Examples,
    validation: Examples,
    settings: TrainingSettings,
    device: torch.device,
    report: Report = unheard,
) -> Fitted:
    """Train on absolute error, keep the epoch with the smallest validation error.

    Without validation rows every epoch is run and the last one kept. Call inside `repeatable`.

    Raises: `TrainingDiverged`.
    """
    network = network.to(device).train()
    rows = _on_device(train, device)
    held_out = _on_device(validation, device) if len(validation) else None
    batch = min(settings.batch_rows, len(train))
    steps = len(train) // batch
    optimizer = _optimizer(network, settings)
    schedule = _one_cycle(optimizer, steps * settings.epochs, settings.warm_up)
    best, best_epoch, best_state, history = math.inf, 0, copy.deepcopy(network.state_dict()), []
    for epoch in range(1, settings.epochs + 1):
        loss = _run_epoch(network, rows, batch, steps, optimizer, schedule)
        error = _mean_error(network, held_out) if held_out else loss
        history.append({"epoch": float(epoch), "train_loss": loss, "validation_error": error})
        report(history[-1])
        if not (math.isfinite(loss) and math.isfinite(error)):
            raise TrainingDiverged(
                f"training: epoch {epoch} gave loss {loss} and validation error {error}; lower the "
                f"learning_rate, {settings.learning_rate:g} now"
            )
        if error < best or held_out is None:
            best, best_epoch, best_state = error, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    network.load_state_dict(best_state)
    return Fitted(network.cpu().eval(), best_epoch, history)


def predict(network: nn.Module, inputs: Prepared) -> npt.NDArray[np.float32]:
    """Answer N rows by the network itself, on the CPU."""
    with torch.inference_mode():
        answer: npt.NDArray[np.float32] = network(*as_tensors(inputs)).numpy()
    return answer


def _on_device(examples: Examples, device: torch.device) -> list[Tensor]:
    return [part.to(device) for part in (*as_tensors(examples.inputs), torch.from_numpy(examples.target_N))]


def _optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    groups = [
        {"params": [p for p in network.parameters() if id(p) not in tables], "lr": settings.learning_rate},
        {
            "params": [p for p in network.parameters() if id(p) in tables],
            "lr": settings.learning_rate * settings.embedding_rate,
        },
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


def _one_cycle(optimizer: torch.optim.Optimizer, steps: int, warm_up: float) -> torch.optim.lr_scheduler.LRScheduler:
    if warm_up * steps == 1:
        warm_up /= 2  # torch divides by zero where the rate rises for exactly one step
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=warm_up,
        cycle_momentum=False,
    )


def _run_epoch(
    network: nn.Module,
    rows: list[Tensor],
    batch: int,
    steps: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    order = torch.randperm(len(rows[-1])).to(rows[-1].device)
    shuffled = [part[order] for part in rows]
    total = torch.zeros((), device=rows[-1].device)
    for start in range(0, steps * batch, batch):
        *inputs, target_N = (part[start : start + batch] for part in shuffled)
        loss = (network(*inputs) - target_N).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach()
    return float(total) / steps


def _mean_error(network: nn.Module, rows: list[Tensor]) -> float:
    *inputs, target_N = rows
    network.eval()
    with torch.no_grad():
        error = float((network(*inputs) - target_N).abs().mean())
    network.train()
    return error
