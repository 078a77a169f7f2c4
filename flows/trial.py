"""A trial of a search: one training by settings that it is told, of which nothing is kept but how it goes.

It learns from the rows that `okruh train` would learn from and is measured on those that would stop that; the rows that
judge a version are left alone. A process reads its rows once for all trials of a search.
"""

import platform
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from flows import catalog, recipes
from flows.orchestration import as_json, task
from flows.recipes import Task
from infra.assembly import assemble
from infra.errors import Misconfigured, NotFound
from infra.settings import EMBEDDED, load_settings
from models.errors import ContractError, DefinitionError, TrainingDiverged, first_line
from models.learning.settings import TrainingSettings

if TYPE_CHECKING:
    from models.learning.loop import Progress
    from models.learning.material import Material


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial is told."""

    number: int
    task: Task
    device: str
    """Where it is trained: `auto`, `cpu`, `cuda` or `mps`."""
    sources: str
    """Digest of the sources by which it shall be trained."""


class Came(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a trial."""

    status: Literal["finished", "pruned", "failed"]
    reason: str | None = None


class Referee(Protocol):
    """Hears how trials go."""

    def hear(self, number: int, progress: "Progress") -> bool:
        """Take how far a trial is, and say whether it shall stop."""
        ...


class _Stopped(Exception):
    """The referee has seen enough."""


@task("trial")
def trial(order: dict[str, Any], referee: Referee) -> dict[str, Any]:
    """Train by the settings of an order, until the end or until it is told to stop."""
    told = msgspec.convert(order, Order)
    if (here := catalog.sources(told.task.model)) != told.sources:
        raise Misconfigured(
            f"trials shall be trained by sources of digest {told.sources}, and those on this machine have {here}; "
            "install the same on each"
        )
    try:
        _fit(told, referee)
    except _Stopped:
        return as_json(Came(status="pruned"))
    except (TrainingDiverged, DefinitionError) as error:
        return as_json(Came(status="failed", reason=first_line(error)))
    except RuntimeError as error:
        from models.learning.devices import is_full

        if not is_full(error):
            raise
        return as_json(Came(status="failed", reason=first_line(error)))
    return as_json(Came(status="finished"))


def _fit(order: Order, referee: Referee) -> None:
    from models.learning import training
    from models.learning.devices import choose_device, repeatable

    settings, definition, plan = load_settings(), catalog.load(order.task.model), order.task.recipe

    def report(progress: "Progress") -> None:
        if referee.hear(order.number, progress):
            raise _Stopped

    device, material = choose_device(order.device), rows_of(order.task)
    how = msgspec.convert(plan.settings, TrainingSettings)
    with repeatable(how.seed, settings.train_threads):
        network = training.make_network(definition, material, plan.network)
        if order.number == 0:  # better said before a search than after it
            training.trace(definition, network, material)
        training.fit(definition, network, material, how, device, report)


def rows_of(task: Task) -> "Material":
    """Give the rows of a search's trials. Raises: `ContractError` where none can measure it, `NotFound`."""
    plan, settings = task.recipe, load_settings()
    whole = msgspec.convert(plan.settings, TrainingSettings).flat()
    deciding = {name: whole[name] for name in ("validation_share", "test_share", "memory_mb")}
    plain = msgspec.structs.replace(task, recipe=msgspec.structs.replace(plan, settings=deciding, network={}))
    return _read(settings.lake, settings.home, msgspec.json.encode(plain))


@lru_cache(maxsize=1)
def _read(_lake: str, home: Path, content: bytes) -> "Material":
    """Read rows; what a lake of another address or home has is not the same."""
    task, settings = msgspec.json.decode(content, type=Task), load_settings()
    try:
        lake = assemble(settings).existing_lake(task.model)
    except NotFound as error:
        if settings.lake != EMBEDDED:
            raise
        raise Misconfigured(
            f"{platform.node()} sees no lake of {task.model} in {home}: give all machines of the cluster one folder as "
            "OKRUH_HOME, or keep the lake on a server (OKRUH_LAKE)"
        ) from error
    _, material, _ = recipes.read(catalog.load(task.model), lake, task.commit, task.recipe)
    if material.validation.empty:
        raise ContractError(
            "a search is measured on validation rows, and there are none; give training.validation_days or "
            "training.validation_share a larger value"
        )
    return material
