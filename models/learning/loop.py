"""The training loop: windows of shuffled batches, checkpoints on the way; the best epoch's weights are kept.

Given rows, settings, seed, thread count, torch build and kind of processor, the weights are the same bit by bit, also
where a training was killed and goes on from a checkpoint. Progress goes to a callback, checkpoints to whoever keeps
them; the loop knows neither tracker, lake nor clock.
"""

import copy
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.errors import DefinitionError, TrainingDiverged
from models.learning.devices import random_state, set_random_state
from models.learning.examples import HeldRows, Rows, answered_rows
from models.learning.export import as_tensors
from models.learning.objectives import Objective
from models.learning.preprocessing import Prepared
from models.learning.schedule import rate
from models.learning.settings import TrainingSettings
from models.learning.world import ALONE, World


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come."""

    epoch: int
    """The first is 1."""
    epochs: int
    step: int
    """Steps taken in all."""
    steps: int
    """Steps that all epochs have together; a training may stop earlier."""
    batch_rows: int
    """Rows that a step learns from, of all processes together."""
    learning_rate: float
    train_loss: float
    """Mean since the last report; at the end of an epoch, over it."""
    ends_epoch: bool = False
    validation_error: float | None = None
    """Mean loss on the validation rows, if there are any, at the end of an epoch."""
    resumed_at: int = 0
    """The step after which it went on from a checkpoint; 0: from the start."""

    def figures(self) -> dict[str, float]:
        """Give what a tracker keeps."""
        shown = {"epoch": float(self.epoch), "train_loss": self.train_loss, "learning_rate": self.learning_rate}
        return shown if self.validation_error is None else {**shown, "validation_error": self.validation_error}


Report = Callable[[Progress], None]
"""Takes how far a training has come, after some steps and at the end of each epoch."""


class Checkpoints(Protocol):
    """Keeps what a training needs to go on after a kill."""

    def load(self) -> bytes | None:
        """Give the newest that was kept."""
        ...

    def due(self) -> bool:
        """Say whether it is time for another."""
        ...

    def save(self, content: bytes) -> None:
        """Keep one in the place of the last, all or nothing."""
        ...


class NoCheckpoints:
    """Keeps nothing."""

    def load(self) -> bytes | None:
        """Have nothing."""
        return None

    def due(self) -> bool:
        """Want nothing."""
        return False

    def save(self, content: bytes) -> None:
        """Keep nothing."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network, on the CPU and in evaluation mode, and how it came about."""

    network: nn.Module
    best_epoch: int
    epochs: list[dict[str, float]]
    """Each one's figures: `epoch`, `train_loss`, `learning_rate`, and `validation_error` where there are such rows."""
    resumed_at: int = 0
    """The step after which it went on from a checkpoint; 0: from the start."""


def unheard(progress: Progress) -> None:
    """Report to nobody."""


def fit(
    network: nn.Module,
    train: Rows,
    validation: HeldRows | None,
    objective: Objective,
    settings: TrainingSettings,
    device: torch.device,
    *,
    report: Report = unheard,
    checkpoints: Checkpoints | None = None,
    world: World = ALONE,
) -> Fitted:
    """Train, keep the epoch with the smallest validation error.

    Without validation rows every epoch is run and the last one kept. Call inside `repeatable`.

    Args:
        network: takes inputs as `Rows` give them.
        objective: what is made small, on validation rows as well.
        report: takes how far it has come, after each window and at the end of each epoch.
        checkpoints: of this training and no other; of several processes those of the leading one count.
        world: who trains with this process.

    Raises: `TrainingDiverged`; `DefinitionError` where the settings cannot be met here.
    """
    training = _Training(network.to(device).train(), train, validation, objective, settings, device, world)
    if world.rank:
        torch.manual_seed(settings.seed + world.rank)  # so that dropout leaves out others than in the first process
    kept = checkpoints or NoCheckpoints()
    if (content := world.tell(kept.load())) is not None:
        training.go_on(content)
    while not training.over:
        training.run_epoch(report, kept)
    return Fitted(training.best_network(), training.best_epoch, training.history, training.resumed_at)


def predict(network: nn.Module, inputs: Prepared) -> npt.NDArray[np.float32]:
    """Answer N rows by the network itself, on the CPU."""
    step = answered_rows(inputs.arrays())
    starts = range(0, max(1, len(inputs)), step)
    with torch.inference_mode():
        return np.concatenate([network(*as_tensors(inputs[start : start + step])).numpy() for start in starts])


class _Training:
    """One training on its way; all that a checkpoint holds, and what can be made again of the arguments."""

    def __init__(
        self,
        network: nn.Module,
        train: Rows,
        validation: HeldRows | None,
        objective: Objective,
        settings: TrainingSettings,
        device: torch.device,
        world: World,
    ) -> None:
        self._network = network
        self._train = train
        self._validation = validation
        self._settings = settings
        self._device = device
        self._world = world
        self._batch = min(settings.batch_rows, len(train))
        self._share = world.share_of(self._batch, len(train))
        self._epoch_steps = len(train) // self._batch
        self._steps = self._epoch_steps * settings.epochs
        self._objective = objective
        self._optimizer = _optimizer(network, settings)
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._learning = _compiled(world.wrap(network), settings, device)
        self._loss_sum = torch.zeros((), device=device)
        """Of the epoch's steps."""
        self._best_state = copy.deepcopy(state_of(network))
        self._best_error = math.inf
        self.step = self.resumed_at = 0
        self.best_epoch = 0
        self.history: list[dict[str, float]] = []

    @property
    def over(self) -> bool:
        """Whether all epochs are run, or enough of them without a better one."""
        done = len(self.history)
        waited = self._validation is not None and done - self.best_epoch >= self._settings.patience
        return done == self._settings.epochs or (done > 0 and waited)

    def run_epoch(self, report: Report, kept: Checkpoints) -> None:
        """Take an epoch's steps, or those that are left of it, and look how good it is."""
        epoch = len(self.history) + 1
        taken = self.step - (epoch - 1) * self._epoch_steps
        for window in self._train.windows(self._batch, self._settings.seed, epoch, taken):
            sum_before, step_before = self._loss_sum.clone(), self.step
            self._learn(window)
            steps = self.step - step_before
            mean = float(self._world.mean((self._loss_sum - sum_before) / steps))
            report(self._progress(epoch, mean))
            self._check(mean, f"the loss is {mean} by step {self.step} of {self._steps}")
            if self._world.tell(kept.due()):
                kept.save(self.state())
        loss = float(self._world.mean(self._loss_sum / self._epoch_steps))
        error: float | None = self._world.tell(self._mean_error())
        ended = replace(self._progress(epoch, loss), ends_epoch=True, validation_error=error)
        self.history.append(ended.figures())
        report(ended)
        if error is not None:
            self._check(error, f"the loss is {error} on validation rows after epoch {epoch}")
        if not all(torch.isfinite(value).all() for value in self._network.parameters()):
            self._check(math.nan, f"weights are no finite numbers after step {self.step}")
        if error is None or error < self._best_error:
            self._best_error, self.best_epoch = math.inf if error is None else error, epoch
            self._best_state = copy.deepcopy(state_of(self._network))
        self._loss_sum.zero_()

    def _check(self, figure: float, said: str) -> None:
        """Refuse to go on where nothing can be learned any more, before a checkpoint keeps it."""
        if not math.isfinite(figure):
            raise TrainingDiverged(
                f"training: {said}; lower the learning_rate, {self._settings.learning_rate:g} now "
                "(training.learning_rate)"
            )

    def best_network(self) -> nn.Module:
        """Give the network as the best epoch left it, on the CPU."""
        restore(self._network, self._best_state)
        return self._network.cpu().eval()

    def _learn(self, window: list[Tensor]) -> None:
        """Take a step for each batch of a window."""
        settings, device, optimizer = self._settings, self._device.type, self._optimizer
        first, clip, reduced = self._world.rank * self._share, settings.clip_norm, settings.precision == "bf16"
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for start in range(first, len(window[-1]), self._batch):
            *inputs, target_N = (part[start : start + self._share] for part in window)
            share = rate(settings.schedule, self.step, self._steps, settings.warm_up)
            for group, peak in zip(optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * share
            if reduced:
                with torch.autocast(device, torch.bfloat16):
                    answer_N = self._learning(*inputs)
            else:
                answer_N = self._learning(*inputs)
            loss = self._objective(answer_N, target_N)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            self._loss_sum += loss.detach()
            self.step += 1

    def _mean_error(self) -> float | None:
        """Measure on the validation rows, if there are any; the leading process does so for all.

        Running means, which each has of its own rows, would have them stop at different epochs.
        """
        if self._validation is None or not self._world.leads:
            return None
        self._network.eval()
        total = torch.zeros((), dtype=torch.float64, device="cpu")
        with torch.no_grad():
            for *inputs, target_N in self._validation.in_order():
                total += self._objective(self._network(*inputs), target_N).cpu() * len(target_N)
        self._network.train()
        return float(total) / len(self._validation)

    def _progress(self, epoch: int, loss: float) -> Progress:
        now = self._optimizer.param_groups[0]["lr"]
        epochs, resumed_at = self._settings.epochs, self.resumed_at
        return Progress(epoch, epochs, self.step, self._steps, self._batch, now, loss, resumed_at=resumed_at)

    def state(self) -> bytes:
        """Write down where the training is; every process takes part."""
        state = {
            "network": state_of(self._network),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_error": self._best_error,
            "best_state": self._best_state,
            "loss_sum": self._world.gather(self._loss_sum.cpu()),
            "random": self._world.gather(random_state(self._device)),
        }
        content = io.BytesIO()
        torch.save(state, content)
        return content.getvalue()

    def go_on(self, content: bytes) -> None:
        """Be where a training of the same rows and settings was."""
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=self._device, weights_only=True)
        restore(self._network, state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.history = state["step"], state["history"]
        self.resumed_at = self.step
        self.best_epoch, self._best_error = state["best_epoch"], state["best_error"]
        self._best_state = state["best_state"]
        self._loss_sum.copy_(state["loss_sum"][self._world.rank])
        set_random_state(state["random"][self._world.rank], self._device)


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Give what a network has learned, with buffers that are not persistent: they may change while it learns."""
    state = network.state_dict()
    for name, value in network.named_buffers():
        state.setdefault(name, value)
    return state


def restore(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Have a network be what it was."""
    for name, value in network.named_buffers():
        kept = state.get(name, value)
        if kept.shape != value.shape:
            owner, _, own = name.rpartition(".")
            setattr(network.get_submodule(owner), own, kept.clone())
        elif not torch.equal(kept, value):  # in place, as who trains with this process holds on to it
            value.copy_(kept)
    network.load_state_dict(state, strict=False)  # which takes no buffers that are not persistent


def _optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise DefinitionError("the network has no parameter that a gradient is asked of: there is nothing to learn")
    if sparse := [name for name, module in network.named_modules() if getattr(module, "sparse", False) is True]:
        raise DefinitionError(
            f"the network's {', '.join(sparse)} has sparse gradients, which AdamW cannot use: sparse=False"
        )
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


def _compiled(network: nn.Module, settings: TrainingSettings, device: torch.device) -> Callable[..., Tensor]:
    if settings.compiled == "no":
        return network
    if settings.compiled == "yes":
        return torch.compile(network)
    if device.type != "cuda":
        raise DefinitionError(f"training.compiled=cuda_graphs needs a CUDA device, and this is {device.type}: use yes")
    return torch.compile(network, mode="reduce-overhead")
