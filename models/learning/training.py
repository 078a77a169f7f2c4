"""One training, from three spans of a table to what a bundle holds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from models.bundle import Computed, Parity, Provided
from models.contract.answers import losses
from models.contract.columns import Contract
from models.contract.table import time_part, to_columns
from models.errors import BundleError, DefinitionError, OkruhError, ParityFailed
from models.evaluating.evaluation import Answered, evaluate
from models.evaluating.measures import measure
from models.figures import Epoch, Evaluation
from models.inference import GraphInputs, Predictor, Runtime
from models.learning import checks, export, export_faults, loop, variants
from models.learning.devices import choose_device, describe, repeatable
from models.learning.examples import Examples, HeldRows, to_examples
from models.learning.export import Traced, check_parity, try_providers
from models.learning.loop import Checkpoints, Fitted, Report
from models.learning.material import TABLE_ROWS, Material
from models.learning.objectives import answering, objective
from models.learning.preprocessing import Prepared, prepare
from models.learning.settings import Setting, TrainingSettings
from models.learning.world import current
from models.watching import profile

if TYPE_CHECKING:
    from models.model import Model

PARITY_ROWS = TABLE_ROWS
"""Parity is proved on at least this many rows (or all): everything held out, and the newest ones trained on, or, where
rows have no time, any."""

CALIBRATION_ROWS = 2_000
"""The scales of variants with eight bits are made of so many of these as well."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training yields; a flow adds where it comes from and registers it as a bundle."""

    onnx: bytes
    profile: bytes
    state: bytes
    metrics: dict[str, float]
    evaluation: Evaluation
    parity: Parity
    providers: tuple[Provided, ...]
    variants: variants.Made
    computed: Computed
    fitted: Fitted


def train(
    model: "Model",
    material: Material,
    settings: TrainingSettings,
    *,
    device: str,
    threads: int,
    network_settings: Mapping[str, Setting] | None = None,
    warm_start: bytes | None = None,
    report: Report = loop.unheard,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Trace, train, write the graph, prove parity, evaluate.

    Args:
        material: three parts of the accepted rows; only the validation part may be empty.
        device: `auto`, `cpu`, `cuda` or `mps`.
        network_settings: those that are others than the definition's; it may have all.
        warm_start: the champion's `state.safetensors`, to train on from.
        report: takes how far it has come.
        checkpoints: of a training with the same arguments.

    Raises: `TrainingDiverged`, `ParityFailed`, `ExportFailed`, `DefinitionError` when the network does not answer row
        by row, `BundleError` when the warm state does not fit it.
    """
    contract = model.contract
    learned, validation, test = material.train.table, material.validation, material.test
    naive = model.naive_answers(material.train.whole(), test)  # what is wrong with it is better said before training
    with repeatable(settings.seed, threads):
        chosen = choose_device(device)
        made = make_network(model, material, network_settings or {}, warm_start)
        traced = trace(model, made, material)
        fitted = fit(model, made, material, settings, chosen, report, checkpoints)
        network = answering(fitted.network, contract.target)
        onnx = traced.graph(network)
        columns, answered = _answered(contract, network, learned, validation, test)
        parity = check_parity(onnx, contract, columns, answered, model.parity_tolerance)
        providers = try_providers(onnx, contract, columns, answered, parity)
    stopped, tested = _held_out(contract, answered, validation, test)
    test_columns = {name: values[len(answered) - len(test) :] for name, values in columns.items()}
    calibration = to_columns(contract, learned.tail(CALIBRATION_ROWS)) if model.variants else {}
    smaller = variants.make(model, onnx, calibration, test_columns, tested.answers, tested.truth)
    return Trained(
        onnx=onnx,
        profile=profile.encode(_profile(model, test_columns, tested)),
        state=save(_each_its_own(fitted.network.state_dict())),
        metrics=measure(contract.target, tested.answers, tested.truth),
        evaluation=evaluate(
            contract,
            tested,
            test_columns,
            stopped,
            naive,
            Predictor(onnx, contract, Runtime(threads=threads)).predict,
            _epochs(fitted),
            settings.seed,
        ),
        parity=parity,
        providers=providers,
        variants=smaller,
        computed=describe(chosen, threads, current().size),
        fitted=fitted,
    )


def _answered(
    contract: Contract, network: nn.Module, learned: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame
) -> tuple[GraphInputs, npt.NDArray[np.float32]]:
    """Give the rows that parity is proved on, the test rows last, as a graph takes them, and the network's answers."""
    judged = pd.concat([learned, validation, test], ignore_index=True).tail(
        max(len(validation) + len(test), PARITY_ROWS)
    )
    columns = to_columns(contract, judged)
    prepared = prepare(contract, columns)
    _check_time_parts(contract, judged, prepared)
    return columns, loop.predict(network, prepared)


def _held_out(contract: Contract, answered: npt.NDArray[np.float32], *parts: pd.DataFrame) -> Iterator[Answered]:
    """Give each held-out part with its answers, which are the last of all, in the parts' order."""
    start = len(answered) - sum(map(len, parts))
    for part in parts:
        yield Answered(answered[start : start + len(part)], part[contract.target.name].tolist())
        start += len(part)


def _epochs(fitted: Fitted) -> list[Epoch]:
    return [Epoch(train_loss=one["train_loss"], validation_error=one.get("validation_error")) for one in fitted.epochs]


def take_part(
    model: "Model",
    material: Material,
    settings: TrainingSettings,
    *,
    device: str,
    threads: int,
    network_settings: Mapping[str, Setting],
    warm_start: bytes | None,
) -> None:
    """Do this process's part of a training that another one leads, by `train` with the same arguments."""
    with repeatable(settings.seed, threads):
        network = make_network(model, material, network_settings, warm_start)
        fit(model, network, material, settings, choose_device(device))


def fit(
    model: "Model",
    network: nn.Module,
    material: Material,
    settings: TrainingSettings,
    device: torch.device,
    report: Report = loop.unheard,
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Train a model's network, together with whoever else does. Call inside `repeatable`.

    Raises: `TrainingDiverged`, `DefinitionError`.
    """
    held_out = material.validation
    validation = HeldRows(to_examples(model.contract, held_out), device) if len(held_out) else None
    aim = objective(settings, model.contract.target, torch.from_numpy(material.train.class_counts), device)
    rows, world = material.train.rows(device), current()
    checks.rehearse(model, network.to(device), material.train.sample, aim, device)
    return loop.fit(
        network, rows, validation, aim, settings, device, report=report, checkpoints=checkpoints, world=world
    )


def make_network(
    model: "Model", material: Material, network_settings: Mapping[str, Setting], warm_start: bytes | None = None
) -> nn.Module:
    """Make a model's network, on the CPU and in evaluation mode. Call inside `repeatable`.

    Raises: `DefinitionError` when it does not answer row by row, or cannot be made with what is set; `BundleError` when
        the warm state does not fit it.
    """
    sample, of = material.train.sample, model.network_with(network_settings)
    network = checks.check_answers(model, _made(model, sample, of), sample.inputs[: checks.TRIED_ROWS])
    if warm_start is not None:
        _load_state(network, warm_start)
    return network


def trace(model: "Model", network: nn.Module, material: Material) -> Traced:
    """Trace a model's network before it learns. Raises: `ExportFailed` where it cannot be written as a graph."""
    example = _example(material.train.sample.inputs)
    return export.trace(answering(network, model.contract.target), model.contract, example)


def _made(model: "Model", examples: Examples, settings: dict[str, Setting]) -> object:
    """Make an untrained network. Raises: `DefinitionError` where it cannot be made."""
    changed = [f"network.{name}={value}" for name, value in settings.items() if value != model.network_settings[name]]
    try:
        return model.network(examples, **settings)
    except OkruhError:
        raise
    except checks.THEIRS as error:
        with_changes = f" with {', '.join(changed)}" if changed else ""
        place = export_faults.line_of(error)
        raise DefinitionError(
            f"model {model.name}: the network cannot be made{with_changes}: {checks.said(error)}"
            f"{f', in {place}' if place else ''}"
        ) from error


def _example(rows: Prepared) -> Prepared:
    """Give rows to trace a network with: the first ones, again and again where there are few."""

    def first(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.resize(array, (checks.TRIED_ROWS, *array.shape[1:]))

    return Prepared(*map(first, rows.arrays()))


def _each_its_own(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Have what a network shares under two names written under both, which the format wants."""
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}


def _load_state(network: nn.Module, state: bytes) -> None:
    try:
        network.load_state_dict(load(state))
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(
            "warm start: the champion's weights do not fit the network; train from scratch after changing a network"
        ) from error


def _profile(model: "Model", columns: GraphInputs, tested: Answered) -> profile.Profile:
    loss_N = losses(model.contract.target, tested.answers, tested.truth)
    return profile.Profile(
        columns=profile.describe_columns(model.contract, columns),
        loss=profile.describe_loss(loss_N, model.ceiling),
    )


def _check_time_parts(contract: Contract, table: pd.DataFrame, prepared: Prepared) -> None:
    if contract.time is None:
        return
    times = table[contract.time.name]
    for place, part in enumerate(contract.time.parts):
        wrong = int((prepared.time_parts_NP[:, place] != time_part(times, part)).sum())
        if wrong:
            raise ParityFailed(
                f"parity: time part {part} of {contract.time.name} is wrong on {wrong} of {len(table)} rows"
            )
