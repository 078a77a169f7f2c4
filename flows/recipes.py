"""Recipes: what a training reads, how it is cut in three, and by which settings it is learned from."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, overload

import msgspec

from infra import registry
from infra.assembly import assemble
from infra.dataset import LABELS, PREDICTIONS, KnownRows, known_rows, table_prefix
from infra.errors import NotFound
from infra.lake.protocol import Lake
from infra.settings import load_settings
from models.bundle import Card
from models.errors import ContractError, DefinitionError
from models.learning.settings import Setting, TrainingSettings
from models.model import Model

if TYPE_CHECKING:
    from models.learning.material import Material
    from models.learning.splits import Split

logger = logging.getLogger(__name__)


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What to train on and how, beside the definition."""

    as_of: datetime
    """Only what was known then is read."""
    learn_from: datetime | None = None
    """Rows about earlier moments are left out."""
    validation_from: datetime | None = None
    """Rows known before it are learned from. None: rows are held out by what they hold."""
    test_from: datetime | None = None
    """Rows known from it on judge; in between they stop the training."""
    settings: dict[str, Setting]
    network: dict[str, Setting] = {}
    """Network settings; those that it lacks are the definition's."""
    warm_start: str | None = None
    """Version whose weights the training starts from."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What the processes of one training are told."""

    model: str
    recipe: Recipe
    commit: str


def recipe_from_scratch(
    definition: Model,
    branch: str,
    as_of: datetime | None,
    learn_from: datetime | None,
    overrides: Mapping[str, Setting] | None,
    network: Mapping[str, Setting] | None,
) -> Recipe:
    """Say how a network is trained on everything known; see `train`. Raises: `DefinitionError`, `NotFound`."""
    check_device()
    settings = definition.training.with_changes(overrides or {})
    _refuse_unheeded(definition, overrides or {})
    lake = assemble(load_settings()).lake(definition.name)
    as_of = as_of or _newest_moment(definition, lake, lake.resolve(branch))
    recipe = Recipe(
        as_of=as_of,
        learn_from=learn_from,
        settings=settings.flat(),
        network=definition.network_with(network or {}),
    )
    if definition.contract.time is None:
        return recipe
    try:
        test_from = as_of - timedelta(days=settings.test_days)
        validation_from = test_from - timedelta(days=settings.validation_days)
    except OverflowError as error:
        raise DefinitionError(f"nothing comes before {as_of.date()}, to learn from; look at a later moment") from error
    return msgspec.structs.replace(recipe, validation_from=validation_from, test_from=test_from)


def check_device() -> None:
    """Refuse a device that is asked for and not there, before anything is read. Raises: `DefinitionError`."""
    if (wanted := load_settings().device) not in ("auto", "cpu"):
        from models.learning.devices import choose_device

        choose_device(wanted)


def _refuse_unheeded(definition: Model, overrides: Mapping[str, Setting]) -> None:
    """Refuse to hold rows out in a way that the model does not. Raises: `DefinitionError`."""
    ways = ("validation_share", "test_share"), ("validation_days", "test_days")
    unheeded, heeded = ways if definition.contract.time is not None else reversed(ways)
    if wrong := sorted(set(unheeded) & overrides.keys()):
        has = "a" if definition.contract.time is not None else "no"
        raise DefinitionError(
            f"{definition.name} has {has} time column: training.{wrong[0]} means nothing to it; set "
            f"{' and '.join(heeded)}"
        )


def _newest_moment(definition: Model, lake: Lake, commit: str) -> datetime:
    """Give the moment by which all was known that is known by now.

    Not what lies in the future: one such row would be all that judges.
    """
    name, now = definition.name, datetime.now(UTC)
    newest, later = known_rows(definition, lake, commit, now).newest()
    if newest is None and later:
        raise NotFound(
            f"all {later:,} rows of {name} are of after {now:%Y-%m-%d %H:%M} UTC, which is now: none is known yet; "
            "look at their times, or say by `--as-of` from when to look at them"
        )
    if newest is None:
        raise NotFound(f"{name} has no data yet; run `okruh ingest {name}` first")
    if later:
        logger.warning(
            "%s: %d rows are of after now, not known yet, and left out; `--as-of` says from when to look at them",
            name,
            later,
        )
    moment: datetime = newest.to_pydatetime()
    return moment.replace(microsecond=0) + timedelta(seconds=1)


def recipe_of(card: Card) -> Recipe:
    """Give the recipe that a bundle was trained by."""
    return Recipe(
        as_of=card.as_of,
        learn_from=card.data.learn_from,
        validation_from=card.data.validation_from,
        test_from=card.data.test_from,
        settings=card.settings,
        network=card.network_settings,
        warm_start=card.warm_start,
    )


def data_digest(definition: Model, lake: Lake, commit: str) -> str:
    """Digest everything that a training reads; other than the commit it stays where only something else changes."""
    listing = [lake.list(commit, prefix) for prefix in (table_prefix(definition), PREDICTIONS, LABELS)]
    return hashlib.sha256(msgspec.json.encode(listing)).hexdigest()


def read(definition: Model, lake: Lake, commit: str, plan: Recipe) -> "tuple[KnownRows, Material, bytes | None]":
    """Read what a training is given: rows, the three parts of them, and the weights that it starts from.

    Raises: see `cut`.
    """
    rows = known_rows(definition, lake, commit, plan.as_of, plan.learn_from)
    warm = registry.load_bundle(lake, commit, plan.warm_start).state if plan.warm_start else None
    return rows, cut(definition, rows, plan), warm


def cut(definition: Model, rows: KnownRows, plan: Recipe) -> "Material":
    """Cut what was known into the recipe's three parts. Raises: `ContractError` where too little is in one."""
    from models.learning.material import gather

    splits = _Splits(definition, rows, plan)
    material = gather(definition.contract, splits, msgspec.convert(plan.settings, TrainingSettings).memory_mb)
    if plan.validation_from is not None and plan.test_from is not None:
        parts = {
            "train": f"became known before {plan.validation_from:%Y-%m-%d %H:%M}",
            "test": f"became known from {plan.test_from:%Y-%m-%d %H:%M} on",
        }
        way_out = "learn from an earlier moment, or shorten training.validation_days and training.test_days"
    else:
        parts = {"train": "is among those to learn from", "test": "is among those that judge"}
        way_out = "or change training.validation_share and training.test_share"
    counts = {"train": len(material.train), "validation": len(material.validation), "test": len(material.test)}
    for name, part in parts.items():
        if not counts[name]:
            since = f" about moments from {plan.learn_from:%Y-%m-%d %H:%M} on" if plan.learn_from else ""
            raise ContractError(
                f"no rows to {name} on: {sum(counts.values())} rows{since} were known at "
                f"{plan.as_of:%Y-%m-%d %H:%M}, and none {part}; ingest more, {way_out}"
            )
    if plan.warm_start is None:  # what has come since an alarm may well be alike, and is judged all the same
        _refuse_one_value(definition, material)
    return material


class _Splits(Sequence["Split"]):
    """Parts of a table, each cut in the recipe's three when it is asked for."""

    def __init__(self, definition: Model, rows: KnownRows, plan: Recipe) -> None:
        self._contract, self._rows, self._plan = definition.contract, rows, plan
        self._settings = msgspec.convert(plan.settings, TrainingSettings)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> "Split": ...
    @overload
    def __getitem__(self, place: slice) -> "list[Split]": ...
    def __getitem__(self, place: int | slice) -> "Split | list[Split]":
        from models.learning.splits import split_by_content, split_in_time

        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        part, plan, shares = self._rows[place], self._plan, self._settings
        if plan.validation_from is not None and plan.test_from is not None:
            return split_in_time(part, part["known_at"], plan.validation_from, plan.test_from)
        return split_by_content(self._contract, part, shares.validation_share, shares.test_share)


def _refuse_one_value(definition: Model, material: "Material") -> None:
    """Refuse a target that never changes: nothing can be learned, or judged. Raises: `ContractError`."""
    target = definition.contract.target
    tested = material.test[target.name]
    alike = {"train": material.train.targets[0] == material.train.targets[1], "test": tested.nunique() == 1}
    for name, rows in {"train": len(material.train), "test": len(tested)}.items():
        if rows > 1 and alike[name]:
            value = material.train.table[target.name].iloc[0] if name == "train" else tested.iloc[0]
            raise ContractError(
                f"all {rows} rows to {name} on have the same {target.name}, {value}: nothing can be told "
                "apart; ingest rows with other values, hold other rows out (training.test_days, training.test_share), "
                "or choose another target"
            )
