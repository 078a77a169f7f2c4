"""Reproduce: is a version still what its card says, trained again from the lake by the code that made it?

No flow, and nothing of Prefect: beside the lake only the git checkout is asked. The recorded commit, and the definition
that the bundle keeps, are written into a folder of their own under OKRUH_HOME, which is removed afterwards. They train
there in a fresh process, on the recorded data commit, with the recorded settings, seed, warm start, device, threads and
number of processes; no cache and no checkpoint is read, nothing is registered or tracked. It costs what the training
did, and some ten seconds more.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import msgspec

from flows import catalog
from flows.progress import Training, trainings_shown
from infra import checkout, provenance, registry
from infra.apart import run_apart
from infra.assembly import assemble
from infra.errors import Misconfigured, NotFound
from infra.lake.names import some
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.settings import Settings, load_settings
from models.bundle import Bundle, Card, Computed
from models.deciding.reproduction import TOLERANCE, Likeness, Part, compare, judge
from models.definition_files import gather, has, remove, unpack, unpack_into
from models.errors import BundleError, DefinitionError

ENTRY = "flows/train_again.py"
"""What code needs in order to train a version again."""

REPORTS = "reports/reproductions/"

_PASSED = ("HOME", "LAKE", "LAKEFS_ACCESS_KEY_ID", "LAKEFS_SECRET_ACCESS_KEY")
"""Settings that a fresh process is told, beside how to train; code of an earlier commit refuses those it lacks."""

_OURS = "okruh: "
"""How the line begins by which a command says why it failed."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """How far a training in another process is."""

    epoch: int
    epochs: int
    step: int
    steps: int
    batch_rows: int
    train_loss: float


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """Which code made a version, and which trained it again."""

    recorded: str
    """git commit in the card."""
    used: str
    same_sources: bool
    """Whether the digest of the sources is that in the card."""
    definition: str | None = None
    """Which definition it was; None where it is the code's own."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What was installed, and on what was computed."""

    same_distributions: bool
    """Whether their digest is that in the card."""
    distributions: tuple[str, ...]
    """Those that are others now."""
    computed: tuple[str, ...]
    """What it was computed on that is another now."""
    computed_now: Computed | None
    """None where the code that trained is of before it was kept."""


class Reproduced(msgspec.Struct, frozen=True, kw_only=True):
    """How a version and its second training compare."""

    at: datetime
    model: str
    branch: str
    version: str
    verdict: Likeness
    tolerance: float
    """Share that a difference may have at most in what is called equal."""
    parts: tuple[Part, ...]
    code: Code
    environment: Environment
    seconds: float
    report: str | None = None
    """Where this is kept in the lake."""


def reproduce(
    model: str,
    version: str,
    branch: str | None = None,
    *,
    tolerance: float = TOLERANCE,
    code: str | None = None,
    device: str | None = None,
    keep: bool = False,
) -> Reproduced:
    """Train a version again and compare; on the settings' branch first, then on replays, the newest first.

    Args:
        tolerance: share of its size by which anything may differ in what is called equal.
        code: a commit to train by instead of the recorded one.
        device: `auto`, `cpu`, `cuda` or `mps` instead of the recorded one.
        keep: whether the report is committed to the branch.

    Raises: `NotFound` for a version that is not registered, `BundleError` where its code cannot be had or fails,
        `Misconfigured`, `DefinitionError`.
    """
    if not 0 <= tolerance < 1:
        raise Misconfigured(f"tolerance {tolerance:g}: it is a share, from 0 to below 1")
    catalog.check(model)
    settings = load_settings()
    lake = assemble(settings).existing_lake(model)
    branch, ref = _find(lake, [branch] if branch else registry.branches_to_search(lake, settings.branch), version)
    then, began = registry.load_bundle(lake, ref, version), time.monotonic()
    environment = _environment(settings, then.card, device)
    with checkout.own_folder(settings.home / "tmp", "reproduce") as folder:
        sources, again = folder / "code", folder / "again"
        used = _bring_code(then, sources, code)
        where, definition = _bring_definition(then, sources, of_code=code is not None)
        again.mkdir()
        _train([model, version, ref, str(again)], then.card, sources, environment | where)
        now = Bundle.from_files({file.name: file.read_bytes() for file in again.iterdir()})
    parts = compare(then, now, tolerance)
    done = Reproduced(
        at=datetime.now(UTC),
        model=model,
        branch=branch,
        version=version,
        verdict=judge(parts),
        tolerance=tolerance,
        parts=parts,
        code=Code(
            recorded=then.card.origin.code_commit,
            used=used,
            same_sources=then.card.origin.source_digest == now.card.origin.source_digest,
            definition=definition,
        ),
        environment=_compared(then.card, now.card),
        seconds=time.monotonic() - began,
    )
    return _kept(lake, done) if keep else done


def _find(lake: Lake, branches: Sequence[str], version: str) -> tuple[str, str]:
    """Give a branch that has a version, and its head. Raises: `NotFound`."""
    for name in branches:
        if version in registry.versions(lake, head := lake.resolve(name)):
            return name, head
    known = ", ".join(registry.versions(lake, branches[0])[-5:]) or "none"
    raise NotFound(f"no version {version!r} here; the newest registered on {branches[0]}: {known}")


def _environment(settings: Settings, card: Card, device: str | None) -> dict[str, str]:
    """Give the variables of a process that trains a version again: of our settings the lake, and how to train.

    Raises: `Misconfigured` where the device is not here.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OKRUH_")}
    passed = {name: value for name, value in settings.environment().items() if name.removeprefix("OKRUH_") in _PASSED}
    computed = card.origin.computed
    chosen = device or (computed.device if computed else settings.device)
    if chosen != "cpu":
        _check_device(chosen, card)
    threads = computed.threads if computed else settings.train_threads
    how = {"OKRUH_DEVICE": chosen, "OKRUH_TRAIN_THREADS": str(threads), "OKRUH_TRACKING": "disabled"}
    return inherited | passed | how


def _check_device(wanted: str, card: Card) -> None:
    from models.learning.devices import choose_device

    try:
        choose_device(wanted)
    except DefinitionError as error:
        on = f" was trained on {card.origin.computed.processor}" if card.origin.computed else ""
        raise Misconfigured(
            f"{card.version}{on}, and there is no device {wanted!r} here: reproduce it where there is one, or by "
            "--device cpu, which gives other last digits"
        ) from error


def _bring_code(bundle: Bundle, folder: Path, asked: str | None) -> str:
    """Write the sources to train by into a new folder, and say which they are. Raises: `BundleError`."""
    card = bundle.card
    commit = _commit(card, asked)
    if commit is not None:
        folder.mkdir()
        checkout.check_out(commit, folder)
        used = f"git commit {commit}"
    elif (here := _sources_here(bundle)) == card.origin.source_digest:
        checkout.copy_sources(folder)
        used = f"the sources in {provenance.ROOT}"
    else:
        raise BundleError(
            f"{card.version} cannot be trained again: {_lost(card, here)}, or by other code: --code COMMIT"
        )
    if not (folder / ENTRY).exists():
        first = checkout.first_commit_with(ENTRY)
        since = f", which code has from {first} on" if first else ""
        raise BundleError(
            f"{card.version} cannot be trained again by {used}: it has no {ENTRY} yet{since}; what the present code "
            "makes of it says --code HEAD"
        )
    return used


def _commit(card: Card, asked: str | None) -> str | None:
    """Give the commit to train by; None where the recorded one is not in the checkout. Raises: `Misconfigured`."""
    recorded = card.origin.code_commit
    if asked is None:
        return checkout.find_commit(recorded) if checkout.is_commit_id(recorded) else None
    if (found := checkout.find_commit(asked)) is None:
        raise Misconfigured(f"--code {asked}: git knows no such commit in {provenance.ROOT}")
    return found


def _sources_here(bundle: Bundle) -> str:
    """Digest the sources that run here, with the definition that a bundle keeps, or that of now where it keeps none."""
    if bundle.definition is None:
        return catalog.sources(bundle.card.model)
    return provenance.source_digest(unpack(bundle.definition))


def _bring_definition(bundle: Bundle, sources: Path, of_code: bool) -> tuple[dict[str, str], str | None]:
    """Write the definition that a bundle keeps over that of the sources.

    Args:
        of_code: whether the one that the sources have is preferred.

    Returns:
        The variables that have a process take it, and which it is; None where it is the sources' own.
    """
    model, outside, folder = bundle.card.model, load_settings().catalog, sources / "models" / "catalog"
    if has(folder, model) and (of_code or bundle.definition is None):
        return {}, None
    if bundle.definition is None:
        said = f"the present one in {outside}; bundles of before kept none"
        return ({"OKRUH_CATALOG": str(outside)}, said) if outside else ({}, None)
    unpack_into(bundle.definition, folder)
    brought = {path for path, _ in unpack(bundle.definition)}
    for path, _ in gather([folder], model).kept:
        if path not in brought:
            remove(folder, path)  # it was not there when the version was made
    modules = {PurePosixPath(path).parts[0] for path in brought}
    lent = _lend([one for one in catalog.files(model).left_out if PurePosixPath(one[0]).parts[0] in modules], folder)
    return {}, f"as the bundle keeps it{f', and beside it present files that no bundle keeps: {lent}' if lent else ''}"


def _lend(left_out: Sequence[tuple[str, Path]], folder: Path) -> str:
    """Link what is not in a folder to where it is, and name that."""
    lent = [(path, place) for path, place in left_out if not os.path.lexists(folder / path)]
    for path, place in lent:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(place)
    return some([str(place) for _, place in lent])


def _lost(card: Card, digest: str) -> str:
    """Say why the code that made a version cannot be had, and what to do."""
    commit, here = card.origin.code_commit, provenance.ROOT
    if checkout.is_commit_id(commit):
        return f"commit {commit}, which made it, is not in the checkout {here}; fetch it there"
    also = "" if card.definition_digest else ", with the present definition (bundles of before kept none),"
    made = f"with changes to {commit.removesuffix('+dirty')} that no commit has" if "+" in commit else "in no checkout"
    return (
        f"it was made {made}, by sources of digest {card.origin.source_digest}, and those in {here}{also} have "
        f"{digest}; do it where those sources are"
    )


def _train(arguments: Sequence[str], card: Card, sources: Path, environment: dict[str, str]) -> None:
    """Train in a process of its own. Raises: `BundleError` where it fails."""
    processes = card.origin.computed.processes if card.origin.computed else 1
    together = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    command = [sys.executable, *(together if processes > 1 else ()), "-m", "flows.train_again", *arguments]
    path = os.pathsep.join(filter(None, (str(sources), environment.get("PYTHONPATH"))))
    errors = sources.with_name("errors")
    status = run_apart(command, sources, environment | {"PYTHONPATH": path}, errors, _hearing(trainings_shown()))
    if status:
        raise BundleError(f"{card.version} could not be trained again: {_reason(status, errors)}")


def _hearing(show: Callable[[Training], None]) -> Callable[[str], None]:
    def hear(line: str) -> None:
        try:
            show(msgspec.json.decode(line, type=Told))
        except msgspec.DecodeError:  # what a library of other code's prints
            sys.stderr.write(line)

    return hear


def _reason(status: int, errors: Path) -> str:
    """Say why a process failed: by its own word, or else by the last one, with all that it wrote on our screen."""
    text = errors.read_text(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    said = [line.removeprefix(_OURS) for line in lines if line.startswith(_OURS)]
    if not said:
        sys.stderr.write(text)
    ended = f"its process ended by signal {-status}" if status < 0 else f"its process ended with {status}"
    return next(iter((*said, *lines[-1:])), ended)


def _compared(then: Card, now: Card) -> Environment:
    before, after = then.origin, now.origin
    same = before.environment_digest == after.environment_digest
    known = before.distributions and after.distributions
    lacking = () if same else ("not known which: cards of before listed none",)
    return Environment(
        same_distributions=same,
        distributions=provenance.changes(before.distributions, after.distributions) if known else lacking,
        computed=_other(before.computed, after.computed),
        computed_now=after.computed,
    )


def _other(then: Computed | None, now: Computed | None) -> tuple[str, ...]:
    if then is None or now is None:
        return ("not known: cards of before did not say",)
    before, after = msgspec.to_builtins(then), msgspec.to_builtins(now)
    return tuple(f"{name} {before[name]} then, {after[name]} now" for name in before if before[name] != after[name])


def _kept(lake: Lake, done: Reproduced) -> Reproduced:
    """Commit the report to the branch that has the version."""
    kept = msgspec.structs.replace(done, report=f"{REPORTS}{done.at:%Y%m%dT%H%M%SZ}-{done.version}.json")
    note = {"kind": "reproduce", "version": done.version, "verdict": done.verdict}
    with transaction(lake, done.branch, f"reproduction of {done.version}: {done.verdict}", note) as work:
        work.put(str(kept.report), registry.encode_report(kept))
    return kept
