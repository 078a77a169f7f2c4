"""Runs: every training of a model, also those that failed, beside each other. Reads only; no flow."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from flows import catalog
from infra import registry
from infra.assembly import Platform, assemble
from infra.errors import Misconfigured, NotFound
from infra.runs import Point, Run, Status, registered
from infra.settings import load_settings

MOST_POINTS = 1_000
"""Of a curve, for people and programs; the index keeps more."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """A figure by step."""

    steps: list[int]
    values: list[float | None]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One training."""

    id: str
    status: Status
    reason: str | None
    """Why it has yielded nothing."""
    version: str | None
    branch: str
    began_at: datetime
    seconds: float | None
    """How long it took, where that is known."""
    as_of: datetime
    learn_from: datetime | None
    settings: dict[str, float | int | str | bool | None]
    changed: tuple[str, ...]
    """Settings that are others than the definition's."""
    warm_start: str | None
    device: str
    data_commit: str
    data_digest: str
    """Of what was read there, which other commits may hold as well."""
    code_commit: str
    source_digest: str
    environment_digest: str
    flow_run: str
    tracker_run: str
    study: str | None
    """The search of which it is a trial."""
    trial: int | None
    metrics: dict[str, float | None]
    curves: dict[str, Curve]
    """Where runs are chosen, or they are asked for."""


class Runs(msgspec.Struct, frozen=True, kw_only=True):
    """Trainings, the newest first."""

    model: str
    runs: list[Line]
    chosen: bool
    """Whether by name."""
    differing: list[str]
    """What is not the same in all of them: settings and origins, by name."""
    page: Path | None = None


def runs(model: str, names: Sequence[str] = (), most: int | None = None, curves: bool = False) -> Runs:
    """Read the trainings of a model: of this machine, and those whose bundles are in the lake.

    Args:
        model: name in the catalog.
        names: runs to compare, each by its id, its beginning, or the version that it has yielded, or all trials of a
            search by the search's name; without it, all.
        most: how many, without names.
        curves: whether to give them also without names.

    Raises: `NotFound` for a name that no run bears, `Misconfigured` for one that several do, `Unavailable`.
    """
    catalog.check(model)
    settings = load_settings()
    found = sorted(_all(assemble(settings), model, settings.branch), key=lambda run: run.begun.at, reverse=True)
    picked = [run for name in dict.fromkeys(names) for run in _named(found, name)] if names else found[:most]
    lines = [_line(run, with_curves=bool(names) or curves) for run in picked]
    return Runs(model=model, runs=lines, chosen=bool(names), differing=differing(lines))


def _all(platform: Platform, model: str, branch: str) -> Iterator[Run]:
    known = set[str]()
    for run in platform.runs(model).all():
        known |= {run.version} if run.version else set()
        yield run
    if not platform.has_lake(model):
        return
    lake = platform.lake(model)
    for name in registry.branches_to_search(lake, branch):
        for version in registry.versions(lake, name):
            if version not in known:
                known.add(version)
                yield registered(lake, name, version, registry.load_card(lake, name, version))


def _named(found: Sequence[Run], name: str) -> list[Run]:
    if trials := [run for run in reversed(found) if run.begun.study == name]:
        return trials
    exact = [run for run in found if name in (run.id, run.version)]
    alike = exact[:1] or [run for run in found if run.id.startswith(name)]
    if not alike:
        raise NotFound(f"no run is called {name!r}; `okruh runs` without a name lists them")
    if len(alike) > 1:
        raise Misconfigured(f"{len(alike)} runs begin with {name!r}, such as {alike[0].id}; write more of its id")
    return alike[:1]


def _line(run: Run, with_curves: bool) -> Line:
    begun = run.begun
    return Line(
        id=run.id,
        status=run.status,
        reason=run.ended.reason if run.ended else None,
        version=run.version,
        branch=begun.branch,
        began_at=begun.at,
        seconds=run.seconds,
        as_of=begun.as_of,
        learn_from=begun.learn_from,
        settings=begun.settings,
        changed=begun.changed,
        warm_start=begun.warm_start,
        device=begun.device,
        data_commit=begun.data_commit,
        data_digest=begun.data_digest,
        code_commit=begun.code_commit,
        source_digest=begun.source_digest,
        environment_digest=begun.environment_digest,
        flow_run=begun.flow_run,
        tracker_run=run.tracker_run,
        study=begun.study,
        trial=begun.trial,
        metrics=run.metrics,
        curves=_curves(run.curve) if with_curves else {},
    )


def _curves(points: Sequence[Point]) -> dict[str, Curve]:
    """Give each figure by step, thinned evenly where there are very many."""
    names = dict.fromkeys(name for point in points for name in point.figures if name != "epoch")
    curves = {}
    for name in names:
        having = [point for point in points if name in point.figures]
        kept = having[:: -(-len(having) // MOST_POINTS)]
        curves[name] = Curve(steps=[one.step for one in kept], values=[one.figures[name] for one in kept])
    return curves


def parameters(line: Line) -> dict[str, object]:
    """Give what decides what a training yields: settings, data, code, environment."""
    return {
        **line.settings,
        "as_of": line.as_of,
        "learn_from": line.learn_from,
        "warm_start": line.warm_start,
        "device": line.device,
        "data_digest": line.data_digest or f"of {line.data_commit}",
        "code_commit": line.code_commit,
        "source_digest": line.source_digest,
        "environment_digest": line.environment_digest,
    }


def differing(lines: Sequence[Line]) -> list[str]:
    """Name the parameters that are not the same in all."""
    told = [parameters(line) for line in lines]
    names = dict.fromkeys(name for one in told for name in one)
    return [name for name in names if len({repr(one.get(name)) for one in told}) > 1]


def shown(value: object) -> str:
    """Write a parameter for people."""
    match value:
        case None | "":
            return "none"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def figure(value: float | None) -> str:
    """Write a metric for people."""
    return "" if value is None else f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"


def yielded(line: Line) -> str:
    """Name what a run has yielded: a version, or as a trial an answer to a search."""
    return line.version or (f"trial {line.trial} of {line.study}" if line.study else "")


def took(seconds: float | None) -> str:
    """Write a duration for people."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"


def changes(line: Line) -> str:
    """Name the settings that are others than the definition's, with their values."""
    return " ".join(f"{name}={shown(line.settings[name])}" for name in line.changed if name in line.settings)


def metric_names(lines: Sequence[Line]) -> list[str]:
    """Name the metrics of any of them, in their order."""
    return list(dict.fromkeys(name for line in lines for name in line.metrics))
