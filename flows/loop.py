"""Loop: the whole circuit on a model's sample data, from raw files to a retrained model that is served.

The past is ingested and learned from on the branch that settings name; the period after it is played against a real
service on a fresh branch, so that every run tells the same story and gives the same numbers. Here the loop itself
retrains; deployed, the automation does (`prefect.yaml`).
"""

import time
from datetime import datetime

import msgspec

from flows import catalog, play
from flows.build import build
from flows.ingest import ingest
from flows.monitor import monitor
from flows.orchestration import flow
from flows.progress import Progress
from flows.promote import promote
from flows.report import write_report
from flows.retrain import retrain
from flows.story import Story, tell
from flows.train import train
from infra import registry
from infra.assembly import assemble
from infra.dataset import partition_path, table_prefix
from infra.errors import Misconfigured
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.serving_process import ServiceProcess
from infra.settings import Settings, load_settings
from infra.traffic import Traffic, traffic_to
from models.deciding import rollout
from models.errors import Refused
from models.model import Model
from models.pages.words import counted
from models.watching.windows import windows


@flow("loop")
def loop(
    model: str,
    history_from: str | None = None,
    play_from: str | None = None,
    play_to: str | None = None,
    show_progress: bool = False,
) -> Story:
    """Ingest, train, promote, build and serve a model, then let the world change under it and see it recover.

    Args:
        model: name in the catalog; its definition needs a `sample`.
        history_from: first month to learn from, `YYYY-MM`; without it, the sample's own.
        play_from: first month to play against the service.
        play_to: last month to play.
        show_progress: draw a progress display on standard error.
    """
    began = time.monotonic()
    definition, settings = catalog.load(model), load_settings()
    sample = play.sample_of(definition)
    history_from, play_from = history_from or sample.history_from, play_from or sample.play_from
    play_to = play_to or sample.play_to
    play.sample_files(definition, history_from, play_to)  # before it trains and builds, not after
    play.months(play_from, play_to)
    if history_from >= play_from:
        raise Misconfigured(f"nothing is learned from: the history must begin before the play, before {play_from}")
    starts_at = play.month_start(definition.contract, play_from)
    with Progress(show_progress) as progress:
        branch = _prepare(definition, settings, history_from, play_from, starts_at, progress)
        with progress.step("build"):
            built = build(model, branch=branch)
            progress.note("cached" if not built.fresh else built.tag)
        following = load_settings(branch=branch)
        period = play.load(definition, play_from, play_to)
        with progress.step("serve"):
            service = ServiceProcess.start(following, built.tag)
            progress.note(f"{built.tag} at {service.url}")
        swaps: dict[str, float] = {}
        with service, traffic_to(service.url) as traffic:
            _play(definition, branch, period, traffic, swaps, progress)
        with progress.step("report"):
            told = tell(definition, assemble(settings).lake(model), branch, traffic.counts, swaps)
            path = write_report(definition, told, settings.home / "reports" / f"{model}-{branch}.html")
            progress.note(str(path))
    return msgspec.structs.replace(told.story, report=str(path), seconds=round(time.monotonic() - began, 1))


def _prepare(
    definition: Model, settings: Settings, history_from: str, play_from: str, starts_at: datetime, progress: Progress
) -> str:
    """Do what comes before the play, or find it done, and give the fresh branch to play on."""
    sample = play.sample_of(definition)
    before = play.months(history_from, play_from)[:-1]
    with progress.step("ingest", total=len(before)):
        results = []
        for month in before:
            results += ingest(definition.name, str(sample.file(month)))
            progress.advance()
        rows, refused = sum(result.rows for result in results), sum(result.refused for result in results)
        cached = " (cached)" if all(result.cached for result in results) else ""
        progress.note(f"{counted(rows, 'row')} of {counted(len(before), 'month')}, {refused:,} in quarantine{cached}")
    with progress.step("train"):
        learn_from = play.month_start(definition.contract, history_from)
        trained = train(definition.name, as_of=starts_at, learn_from=learn_from)
        progress.note(f"{trained.version}{' (cached)' if trained.cached else ''}")
    lake = assemble(settings).lake(definition.name)
    with progress.step("promote"):
        if registry.read_rollout(lake, settings.branch) is None:
            progress.note(_promote(definition, trained.version, starts_at, settings.branch))
        else:
            progress.note("cached")
        branch = _fresh_branch(definition, lake, settings.branch, trained.version, before)
        if registry.read_rollout(lake, branch) is None:
            progress.note(_promote(definition, trained.version, starts_at, branch))
    return branch


def _promote(definition: Model, version: str, at: datetime, branch: str) -> str:
    report = promote(definition.name, version=version, as_of=at, branch=branch)
    if not report.allowed:
        raise Refused(f"{version} is not promoted: {'; '.join(report.reasons)}")
    return report.reasons[0]


def _fresh_branch(definition: Model, lake: Lake, source: str, version: str, known: list[str]) -> str:
    """Start a branch where `version` became the first champion of `source` and nothing but `known` months is known.

    Where another version did (its network or settings were changed since), the branch starts at the newest commit, with
    everything taken away that came of serving.
    """
    newest = registry.branches_to_search(lake, source)[1:2]
    number = int(newest[0].removeprefix(registry.REPLAY)) + 1 if newest else 1
    branch = f"{registry.REPLAY}{number}"
    commit, first = list(registry.rollout_history(lake, source))[-1]
    starts_there = first.champion == version
    lake.create_branch(branch, commit.id if starts_there else source)
    kept = {partition_path(definition, month) for month in known}
    later = () if starts_there else (rollout.PATH, "reports/", "journal/")
    with transaction(lake, branch, "start a period", {"kind": "loop"}) as work:
        for entry in lake.list(work.base):
            unknown = entry.path.startswith(table_prefix(definition)) and entry.path not in kept
            if unknown or entry.path.startswith(later):
                work.delete(entry.path)
    return branch


def _play(
    definition: Model,
    branch: str,
    period: play.Play,
    traffic: Traffic,
    swaps: dict[str, float],
    progress: Progress,
) -> None:
    """Send the period's events week by week; at each week's end monitor, and retrain where the policy says so."""
    zone, days = definition.contract.zone, definition.watch.window_days
    ends = [end for _, end in windows(period.starts_at, period.ends_at, days, zone)]
    if not ends or ends[-1] < period.ends_at:
        ends.append(period.ends_at)
    with progress.step("play", total=len(period.events)):
        sent = 0
        for end in ends:
            first = sent
            while sent < len(period.events) and period.events[sent].at_s < end.timestamp():
                sent += 1
            traffic.play(period.events[first:sent])
            progress.advance(sent - first)
            progress.say(f"{end:%Y-%m-%d}")
            _turn(definition, branch, end, traffic, swaps, progress)


def _turn(
    definition: Model, branch: str, end: datetime, traffic: Traffic, swaps: dict[str, float], progress: Progress
) -> None:
    found = monitor(definition.name, as_of=end, branch=branch, announce=False)
    for alarm in found.alarms:
        progress.event(f"{end:%Y-%m-%d} alarm: {alarm.detail}")
    if not found.retraining_due:
        return
    done = retrain(definition.name, as_of=end, branch=branch)
    if done.verdict is None:
        return
    answer = "promoted" if done.verdict.allowed else "not promoted"
    progress.event(f"{end:%Y-%m-%d} {done.verdict.version} {answer}: {done.verdict.reasons[0]}")
    if done.verdict.allowed:
        swaps[done.verdict.version] = _swap(definition, branch, done.verdict.version, traffic)


def _swap(definition: Model, branch: str, version: str, traffic: Traffic) -> float:
    """Keep asking while the service swaps; give the seconds from promotion to the new champion's first answer."""
    promoted_at = next(assemble(load_settings()).lake(definition.name).log(branch, rollout.PATH)).created_at
    traffic.until_answered_by(version)
    return (datetime.now(promoted_at.tzinfo) - promoted_at).total_seconds()
