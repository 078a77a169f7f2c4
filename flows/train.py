"""Train: rows that were known at a moment become a registered bundle."""

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from flows import catalog, recipes
from flows.orchestration import as_json, cached_step, flow, flow_run_name, run_cached, step_key
from flows.recipes import Recipe, Task, data_digest, recipe_from_scratch, recipe_of
from flows.telling import Told
from infra import registry
from infra.assembly import assemble
from infra.lake import copying
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.provenance import distributions, environment_digest
from infra.runs import REPORTS
from infra.settings import load_settings
from models.bundle import Bundle, Card, DataReference, Origin, Variant, bundle_folder
from models.contract.answers import mean_loss, shown
from models.contract.columns import Contract
from models.definition_files import pack
from models.learning.settings import Setting, TrainingSettings
from models.model import Model

if TYPE_CHECKING:
    from models.learning.loop import Checkpoints, Report
    from models.learning.material import Material
    from models.learning.training import Trained


logger = logging.getLogger(__name__)


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that a training registered."""

    version: str
    metrics: dict[str, float]
    commit: str
    """The lake commit that registered it."""
    cached: bool = False
    variants: dict[str, str] = {}
    """What became of each smaller graph that the definition asks for."""


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
        as_of: only rows whose target was known at this moment are read; without it, all that is known by now.
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


@cached_step("train a network")
def train_network(model: str, recipe: dict[str, Any], commit: str, branch: str, key: str) -> dict[str, Any]:
    """Train, export, prove parity, evaluate, and register the bundle.

    A training that was broken off goes on from its last checkpoint, by as many processes and on the same kind of
    device: by others its weights would be those of no undisturbed one.
    """
    from models.learning.devices import choose_device
    from models.learning.world import current

    settings, definition = load_settings(), catalog.load(model)
    platform = assemble(settings)
    lake = platform.lake(model)
    plan = msgspec.convert(recipe, Recipe)
    device, processes = choose_device(settings.device).type, current().size
    current().tell(as_json(Task(model=model, recipe=plan, commit=commit)))
    told = Told(platform, definition, plan, commit, branch, _named(device, processes))
    checkpoints = platform.checkpoints(model, f"{key}-{device}-{processes}")
    try:
        rows, material, warm = recipes.read(definition, lake, commit, plan)
        _warn_of_few(definition, plan, material)
        trained = _learn(definition, material, plan, warm, told.report, checkpoints)
        made = _bundle(definition, plan, rows.paths, material, trained, commit, told.tracker_run())
        bundle = _named_apart(lake, branch, made)
        ended = told.ended(bundle)
        registered = register(lake, branch, bundle, told.record.whole(ended))
    except BaseException as error:
        told.fail(error)
        raise
    told.finish(ended, bundle, registered)
    checkpoints.remove()  # after the wait for the tracker: who breaks it off has learned nothing in vain
    variants: dict[str, str] = {one.name: _became(one, bundle) for one in bundle.card.variants}
    return as_json(
        Registered(version=bundle.card.version, metrics=trained.metrics, commit=registered, variants=variants)
    )


def _warn_of_few(definition: Model, plan: Recipe, material: "Material") -> None:
    """Warn of what rows are too few for: for steps as large as they are set, and for a verdict."""
    if (most := len(material.train)) < (batch := int(plan.settings["batch_rows"] or 0)):
        logger.warning(
            "%s: training.batch_rows is %d, and there are %d rows to learn from: a step learns from all of them, and "
            "an epoch is one step; set it to less for more steps",
            definition.name,
            batch,
            most,
        )
    if (held_out := len(material.test)) < (least := definition.gate.minimum_rows):
        logger.warning(
            "%s: %d rows judge this version, and `okruh promote` wants %d (gate.minimum_rows): ingest more, or hold "
            "more out",
            definition.name,
            held_out,
            least,
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


def take_part(task: dict[str, Any]) -> None:
    """Do this process's part of a training that the leading one of several runs."""
    from models.learning import training

    settings, one = load_settings(), msgspec.convert(task, Task)
    definition = catalog.load(one.model)
    _, material, warm = recipes.read(definition, assemble(settings).lake(one.model), one.commit, one.recipe)
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
    rows, material, warm = recipes.read(definition, lake, commit, plan)
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
    archive = pack(catalog.files(definition.name).kept)
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
            code_commit=catalog.commit(definition.name),
            source_digest=catalog.sources(definition.name),
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
        definition_digest=hashlib.sha256(archive).hexdigest(),
    )
    return Bundle(
        card=card,
        onnx=trained.onnx,
        profile=trained.profile,
        state=trained.state,
        variants=trained.variants.graphs,
        definition=archive,
    )
