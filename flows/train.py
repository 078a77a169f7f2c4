"""Train: rows that were known at a moment become a registered bundle."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, overload

import msgspec

from flows import catalog
from flows.orchestration import as_json, cached_step, flow, flow_run_name, run_cached, step_key
from flows.progress import trainings_shown
from infra import registry
from infra.assembly import Platform, assemble
from infra.dataset import LABELS, PREDICTIONS, KnownRows, known_rows, table_prefix
from infra.errors import NotFound, Unavailable
from infra.lake import copying
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.provenance import code_commit, distributions, environment_digest
from infra.runs import REPORTS, Begun, Ended, new_id
from infra.settings import load_settings
from infra.tracking.messages import Outcome, Score
from models.bundle import Bundle, Card, DataReference, Origin, Variant, bundle_folder
from models.contract.answers import mean_loss, shown
from models.contract.columns import Contract
from models.errors import ContractError, DefinitionError
from models.learning.settings import Setting, TrainingSettings
from models.model import Model
from models.setting_names import together

if TYPE_CHECKING:
    from models.learning.loop import Checkpoints, Progress, Report
    from models.learning.material import Material
    from models.learning.splits import Split
    from models.learning.training import Trained


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that a training registered."""

    version: str
    metrics: dict[str, float]
    commit: str
    """The lake commit that registered it."""
    cached: bool = False
    variants: dict[str, str] = {}
    """What became of each smaller graph that the definition asks for."""


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


@flow("train")
def train(
    model: str,
    as_of: datetime | None = None,
    branch: str | None = None,
    learn_from: datetime | None = None,
    overrides: Mapping[str, Setting] | None = None,
    network: Mapping[str, Setting] | None = None,
) -> Registered:
    """Train a network from scratch on everything known and register it as a bundle; it does not serve yet.

    The newest days judge it and the days before them stop it (`training.test_days`, `training.validation_days`).
    Unchanged data, settings and code give the registered bundle again at no cost.

    Args:
        model: name in the catalog.
        as_of: only rows whose target was known at this moment are read; without it, all.
        branch: lake branch; without it, OKRUH_BRANCH.
        learn_from: rows about earlier moments are left out; without it, none are.
        overrides: training settings to change, by name.
        network: network settings to change, by name.
    """
    definition = catalog.load(model)
    branch = branch or load_settings().branch
    return run_recipe(
        definition, recipe_from_scratch(definition, branch, as_of, learn_from, overrides, network), branch
    )


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
    test_from = as_of - timedelta(days=settings.test_days)
    validation_from = test_from - timedelta(days=settings.validation_days)
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


def run_recipe(definition: Model, recipe: Recipe, branch: str) -> Registered:
    """Train by a recipe, or find the bundle that the same recipe gave before."""
    settings = load_settings()
    platform = assemble(settings)
    platform.tracker()  # a tracker that cannot be had is an error where the training is found, too
    lake = platform.lake(definition.name)
    commit = lake.resolve(branch)
    read = data_digest(definition, lake, commit)
    wanted = hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()
    where = f"{settings.device} {settings.train_threads}"
    key = step_key("train", definition.name, branch, read, wanted, environment_digest(), where)
    result, cached = run_cached(
        train_network,
        key,
        lambda found: found["version"] in registry.versions(lake, commit),
        model=definition.name,
        recipe=as_json(recipe),
        commit=commit,
        branch=branch,
    )
    return msgspec.convert({**result, "cached": cached}, Registered)


def data_digest(definition: Model, lake: Lake, commit: str) -> str:
    """Digest everything that a training reads; other than the commit it stays where only something else changes."""
    listing = [lake.list(commit, prefix) for prefix in (table_prefix(definition), PREDICTIONS, LABELS)]
    return hashlib.sha256(msgspec.json.encode(listing)).hexdigest()


def _newest_moment(definition: Model, lake: Lake, commit: str) -> datetime:
    newest = known_rows(definition, lake, commit, datetime.max.replace(tzinfo=UTC)).newest()
    if newest is None:
        raise NotFound(f"{definition.name} has no data yet; run `okruh ingest {definition.name}` first")
    moment: datetime = newest.to_pydatetime()
    return moment.replace(microsecond=0) + timedelta(seconds=1)


@cached_step("train a network")
def train_network(model: str, recipe: dict[str, Any], commit: str, branch: str, key: str) -> dict[str, Any]:
    """Train, export, prove parity, evaluate, and register the bundle.

    A training that was broken off goes on from its last checkpoint.
    """
    from models.learning.devices import choose_device
    from models.learning.world import current

    settings, definition = load_settings(), catalog.load(model)
    platform = assemble(settings)
    lake = platform.lake(model)
    plan = msgspec.convert(recipe, Recipe)
    device = choose_device(settings.device).type
    current().tell(as_json(Task(model=model, recipe=plan, commit=commit)))
    told = Told(platform, definition, plan, commit, branch, _named(device, current().size))
    checkpoints = platform.checkpoints(model, key)
    try:
        rows, material, warm = _read(definition, lake, commit, plan)
        trained = _learn(definition, material, plan, warm, told.report, checkpoints)
        made = _bundle(definition, plan, rows.paths, material, trained, commit, told.begun.tracker_run)
        bundle = _named_apart(lake, branch, made)
        ended = told.ended(bundle)
        registered = register(lake, branch, bundle, told.record.whole(ended))
    except BaseException as error:
        told.fail(error)
        raise
    checkpoints.remove()
    told.finish(ended, bundle, registered)
    variants: dict[str, str] = {one.name: _became(one, bundle) for one in bundle.card.variants}
    return as_json(
        Registered(version=bundle.card.version, metrics=trained.metrics, commit=registered, variants=variants)
    )


def _became(variant: Variant, bundle: Bundle) -> str:
    if variant.refused is not None:
        return f"refused: {variant.refused}"
    loss = mean_loss(bundle.card.contract.target)
    return (
        f"{variant.bytes:,} bytes instead of {len(bundle.onnx):,}; {loss} {shown(variant.metrics[loss])} instead of "
        f"{shown(bundle.card.metrics[loss])}; answers differ by at most {variant.largest_difference:.3g}"
    )


def _named(device: str, processes: int) -> str:
    return device if processes == 1 else f"{processes} x {device}"


def first_line(error: BaseException) -> str:
    """Say what an error says first, or of what kind it is."""
    return (str(error).splitlines() or [type(error).__name__])[0]


_DIGITS = 16
_CONFIG = (
    *("as_of", "learn_from", "branch", "data_commit", "data_digest", "code_commit", "source_digest"),
    *("environment_digest", "warm_start", "device", "flow_run"),
)
"""What a tracker is told of a run's beginning, beside its settings."""


class Told:
    """Who hears of a training: the index of runs, the tracker, and whoever looks."""

    def __init__(
        self,
        platform: Platform,
        definition: Model,
        plan: Recipe,
        commit: str,
        branch: str,
        device: str,
        study: str | None = None,
        trial: int | None = None,
    ) -> None:
        training = (definition.retraining.training if plan.warm_start else definition.training).flat()
        usual = together(training, definition.network_settings)
        settings = together(plan.settings, definition.network_with(plan.network))
        at = datetime.now(UTC)
        begun = Begun(
            id=new_id(at),
            model=definition.name,
            branch=branch,
            at=at,
            as_of=plan.as_of,
            learn_from=plan.learn_from,
            settings=settings,
            changed=tuple(name for name, value in settings.items() if value != usual[name]),
            data_commit=commit,
            data_digest=data_digest(definition, platform.lake(definition.name), commit)[:_DIGITS],
            code_commit=code_commit(),
            source_digest=catalog.sources(),
            environment_digest=environment_digest(),
            warm_start=plan.warm_start,
            device=device,
            flow_run=flow_run_name(),
            tracker_run="",
            study=study,
            trial=trial,
        )
        told = as_json(begun)
        config = {name: told[name] for name in _CONFIG} | settings
        self._platform = platform
        name = f"{plan.as_of:%Y-%m-%d}" if trial is None else f"trial {trial}"
        self._tracked = platform.tracker().start(f"okruh-{begun.model}", begun.id, name, config, study)
        self.begun = msgspec.structs.replace(begun, tracker_run=self._tracked.reference)
        try:
            self.record = platform.runs(begun.model).begin(self.begun)
        except Unavailable:
            self._tracked.finish(None)
            raise
        self._show = trainings_shown()

    def report(self, progress: "Progress") -> None:
        """Tell how far it has come."""
        self._tracked.log(progress.figures(), progress.step)
        self.record.add(progress.step, progress.figures(), milestone=progress.validation_error is not None)
        self._show(progress)

    def ended(self, bundle: Bundle) -> Ended:
        """Say what it has yielded."""
        card = bundle.card
        return Ended(at=datetime.now(UTC), status="finished", version=card.version, metrics=dict(card.metrics))

    def end_trial(self, status: Literal["finished", "pruned"], error: float) -> None:
        """Tell how far a trial has come: its smallest validation error."""
        metrics: dict[str, float | None] = {"validation_error": error}
        self.record.end(Ended(at=datetime.now(UTC), status=status, metrics=metrics))
        self._tracked.finish(Score(summary={"validation_error": error}))

    def fail(self, error: BaseException) -> None:
        """Tell that it has yielded nothing."""
        reason = first_line(error)
        status: Literal["failed", "broken off"] = "failed" if isinstance(error, Exception) else "broken off"
        self.record.end(Ended(at=datetime.now(UTC), status=status, reason=reason))
        self._tracked.finish(None)

    def finish(self, ended: Ended, bundle: Bundle, registered: str) -> None:
        """Tell that the bundle is registered, by which commit."""
        self.record.end(ended)
        card, address = bundle.card, self._platform.address
        files = bundle.files()
        folder = bundle_folder(card.version)
        references = {name: address(card.model, registered, f"{folder}/{name}") for name in files}
        references |= {path: address(card.model, card.data.commit, path) for path in card.data.paths}
        self._tracked.finish(
            Outcome(
                model=card.model,
                version=card.version,
                summary=card.metrics | (card.evaluation.summary() if card.evaluation else {}),
                files=files,
                references=references,
                warm_start=card.warm_start,
                plots=_plots(card),
            )
        )


def _plots(card: Card) -> dict[str, dict[str, float]]:
    """Give what a tracker draws of a card."""
    plots = {f"error by {name}": bars for name, bars in card.slices.items()}
    found = card.evaluation
    if found is not None:
        plots["rise of the error without"] = {name: one.loss_increase for name, one in found.importance.items()}
        if found.calibration is not None:
            plots["came, by what was told"] = {f"{one.told:.3f}": one.came for one in found.calibration.bins}
    return plots


def take_part(task: dict[str, Any]) -> None:
    """Do this process's part of a training that the leading one of several runs."""
    from models.learning import training

    settings, one = load_settings(), msgspec.convert(task, Task)
    definition = catalog.load(one.model)
    _, material, warm = _read(definition, assemble(settings).lake(one.model), one.commit, one.recipe)
    training.take_part(
        definition,
        material,
        msgspec.convert(one.recipe.settings, TrainingSettings),
        device=settings.device,
        threads=settings.train_threads,
        network_settings=one.recipe.network,
        warm_start=warm,
    )


def train_again(model: str, version: str, ref: str, report: "Report") -> Bundle:
    """Train a registered version once more, by its card alone; nothing is registered, tracked or kept.

    Args:
        ref: where in the lake the version is.
        report: takes how far it has come.
    """
    from models.learning.world import current

    settings, definition = load_settings(), catalog.load(model)
    lake = assemble(settings).existing_lake(model)
    card = registry.load_card(lake, ref, version)
    plan, commit = recipe_of(card), copying.known_as(lake, card.data.commit)
    current().tell(as_json(Task(model=model, recipe=plan, commit=commit)))
    rows, material, warm = _read(definition, lake, commit, plan)
    trained = _learn(definition, material, plan, warm, report)
    return _bundle(definition, plan, rows.paths, material, trained, commit, "")


def _learn(
    definition: Model,
    material: "Material",
    plan: Recipe,
    warm: bytes | None,
    report: "Report",
    checkpoints: "Checkpoints | None" = None,
) -> "Trained":
    """Train as the recipe and our settings say."""
    from models.learning import training

    settings = load_settings()
    return training.train(
        definition,
        material,
        msgspec.convert(plan.settings, TrainingSettings),
        device=settings.device,
        threads=settings.train_threads,
        network_settings=plan.network,
        warm_start=warm,
        report=report,
        checkpoints=checkpoints,
    )


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


def _read(definition: Model, lake: Lake, commit: str, plan: Recipe) -> "tuple[KnownRows, Material, bytes | None]":
    """Read what a training is given: rows, what is made of them, and the weights that it starts from."""
    rows = known_rows(definition, lake, commit, plan.as_of, plan.learn_from)
    warm = registry.load_bundle(lake, commit, plan.warm_start).state if plan.warm_start else None
    return rows, cut(definition, rows, plan), warm


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


def read_material(definition: Model, lake: Lake, commit: str, plan: Recipe) -> "Material":
    """Read the rows of a recipe, cut into its three parts. Raises: see `cut`."""
    return cut(definition, known_rows(definition, lake, commit, plan.as_of, plan.learn_from), plan)


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


def _refuse_one_value(definition: Model, material: "Material") -> None:
    """Refuse a target that never changes: nothing can be learned, or judged. Raises: `ContractError`."""
    target = definition.contract.target
    tested = material.test[target.name]
    alike = {"train": material.train.targets[0] == material.train.targets[1], "test": tested.nunique() == 1}
    for name, rows in {"train": len(material.train), "test": len(tested)}.items():
        if rows > 1 and alike[name]:
            value = material.train.newest[target.name].iloc[0] if name == "train" else tested.iloc[0]
            raise ContractError(
                f"all {rows} rows to {name} on have the same {target.name}, {value}: nothing can be told "
                "apart; ingest rows with other values, hold other rows out (training.test_days, training.test_share), "
                "or choose another target"
            )


def register(lake: Lake, branch: str, bundle: Bundle, run: bytes | None = None) -> str:
    """Merge a bundle into the branch, whole; one that is registered already stays as it is. Gives the commit.

    Args:
        run: the record of the training that has yielded it.
    """
    version = bundle.card.version
    folder = bundle_folder(version)
    note = {"kind": "train", "version": version, "flow_run": bundle.card.origin.flow_run}
    note |= {"code_commit": bundle.card.origin.code_commit, "tracker_run": bundle.card.origin.tracker_run}
    with transaction(lake, branch, f"register {version}", note) as work:
        if version not in registry.versions(lake, work.base):
            record = {} if run is None else {f"{REPORTS}{version}.jsonl": run}
            work.put_all({f"{folder}/{name}": content for name, content in bundle.files().items()} | record)
    return work.committed.id if work.committed else next(lake.log(branch, folder)).id


def _named_apart(lake: Lake, branch: str, bundle: Bundle) -> Bundle:
    """Give a bundle another version where its own is the same graph's of another contract, or with other variants."""
    card = bundle.card
    if card.version not in registry.versions(lake, head := lake.resolve(branch)):
        return bundle
    there = registry.load_card(lake, head, card.version)
    if _beside_graph(there) == _beside_graph(card):
        return bundle
    digest = hashlib.sha256(card.onnx_digest.encode() + msgspec.json.encode(_beside_graph(card))).hexdigest()
    version = f"{card.as_of:%Y%m%d}-{digest[:8]}"
    return msgspec.structs.replace(bundle, card=msgspec.structs.replace(card, version=version))


def _beside_graph(card: Card) -> tuple[Contract, list[tuple[str, str | None]]]:
    return card.contract, [(one.name, one.digest) for one in card.variants]


def _bundle(
    definition: Model,
    plan: Recipe,
    paths: tuple[str, ...],
    material: "Material",
    trained: "Trained",
    commit: str,
    tracker_run: str,
) -> Bundle:
    digest = hashlib.sha256(trained.onnx).hexdigest()
    card = Card(
        model=definition.name,
        version=f"{plan.as_of:%Y%m%d}-{digest[:8]}",
        contract=definition.contract,
        as_of=plan.as_of,
        created_at=datetime.now(UTC),
        seed=int(plan.settings["seed"] or 0),
        settings=plan.settings,
        network_settings=definition.network_with(plan.network),
        warm_start=plan.warm_start,
        data=DataReference(
            commit=commit,
            paths=paths,
            rows_train=len(material.train),
            rows_validation=len(material.validation),
            rows_test=len(material.test),
            learn_from=plan.learn_from,
            validation_from=plan.validation_from,
            test_from=plan.test_from,
        ),
        origin=Origin(
            code_commit=code_commit(),
            source_digest=catalog.sources(),
            environment_digest=environment_digest(),
            flow_run=flow_run_name(),
            tracker_run=tracker_run,
            distributions=distributions(),
            computed=trained.computed,
        ),
        metrics=trained.metrics,
        slices=trained.evaluation.mean_losses(),
        parity=trained.parity,
        onnx_digest=digest,
        description=definition.description,
        caveat=definition.sample.caveat if definition.sample else "",
        evaluation=trained.evaluation,
        variants=trained.variants.records,
        providers=trained.providers,
    )
    return Bundle(
        card=card,
        onnx=trained.onnx,
        profile=trained.profile,
        state=trained.state,
        variants=trained.variants.graphs,
    )
