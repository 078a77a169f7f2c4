"""Monitor: journalled answers and labels reach the lake, and each whole window of them is judged."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from flows import catalog
from flows.archive import archive
from flows.orchestration import emit, flow, task
from flows.retrain import retraining_verdict
from infra import registry
from infra.assembly import assemble
from infra.dataset import labelled_predictions
from infra.errors import NotFound
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.settings import load_settings
from models.contract.answers import losses, recorded
from models.contract.table import to_columns
from models.deciding.rollout import Rollout
from models.deciding.verdict import PromotionReport
from models.model import Model
from models.watching import alarms, profile
from models.watching.alarms import Alarm
from models.watching.windows import Watched, WindowReport, judge_window, windows

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from models.inference import GraphInputs

ALARM_EVENT = "okruh.alarm"


class Monitored(msgspec.Struct, frozen=True, kw_only=True):
    """What one look has found."""

    archived_predictions: int
    archived_labels: int
    champion_since: datetime
    """Event time of its promotion."""
    known_before: int
    """Labels of its answers that became known before the window of its promotion; they are never judged."""
    windows: list[WindowReport]
    """Windows judged now; each is judged once."""
    alarms: list[Alarm]
    """Alarms raised now."""
    retraining_due: bool
    reasons: tuple[str, ...]


@flow("monitor")
def monitor(model: str, as_of: datetime | None = None, branch: str | None = None, announce: bool = True) -> Monitored:
    """Move the journal into the lake, judge every whole window that was not judged yet, and raise alarms.

    An alarm says that the champion's error has changed; it is sent as the event `okruh.alarm`, from which an automation
    starts retraining, and sent again for as long as the retraining policy wants another training on the same change.

    Args:
        model: name in the catalog.
        as_of: judge windows that ended by this moment; without it, now.
        branch: lake branch; without it, OKRUH_BRANCH.
        announce: send the event; `okruh loop`, which retrains by itself, keeps it to itself.
    """
    definition, settings = catalog.load(model), load_settings()
    branch, as_of = branch or settings.branch, as_of or datetime.now(UTC)
    platform = assemble(settings)
    lake = platform.lake(model)
    serving = registry.read_rollout(lake, branch)
    if serving is None:
        raise NotFound(f"{model} has no champion on branch {branch!r} to monitor; run `okruh promote {model}` first")
    archived = archive(model, branch)
    judged, raised, known_before = judge(model, branch, as_of)
    alarm, verdict = retraining_verdict(definition, lake, lake.resolve(branch), as_of)
    if announce and alarm is not None and verdict.allowed:
        emit(
            ALARM_EVENT,
            model,
            {"branch": branch, "alarm": alarm.id, "detail": alarm.detail, "reasons": list(verdict.reasons)},
        )
    return Monitored(
        archived_predictions=archived.predictions,
        archived_labels=archived.labels,
        champion_since=serving.since,
        known_before=known_before,
        windows=judged,
        alarms=raised,
        retraining_due=verdict.allowed,
        reasons=verdict.reasons,
    )


@task("judge windows")
def judge(model: str, branch: str, as_of: datetime) -> tuple[list[WindowReport], list[Alarm], int]:
    """Judge the champion's windows since the last judged one; reports and alarms are one commit.

    Returns:
        Reports, alarms, and how many labels became known before the window of the champion's promotion.
    """
    definition, lake = catalog.load(model), assemble(load_settings()).lake(model)
    commit = lake.resolve(branch)
    serving = registry.read_rollout(lake, commit)
    assert serving is not None
    watched, since = _watched(definition, lake, commit, serving)
    known = registry.read_reports(lake, commit, registry.WINDOWS, WindowReport)
    past = [window for window in known if window.version == watched.version and window.end > since]
    state = past[-1].state if past else alarms.start(watched.loss, definition.watch)
    quiet = any(window.alarm for window in past)
    after = past[-1].end if past else since
    rows, _ = labelled_predictions(definition.contract, lake, commit)
    judged, raised = [], []
    for span in windows(after, as_of, definition.watch.window_days, definition.contract.zone):
        loss_N, columns = _answers_of(watched, rows, span)
        report, alarm = judge_window(watched, definition.watch, state, span, loss_N, columns, quiet=quiet)
        judged.append(report)
        if alarm is not None:
            raised.append(alarm)
            quiet = True
        state = report.state
    _record(lake, branch, judged, raised)
    return judged, raised, _known_before(definition, serving, rows)


def _known_before(definition: Model, serving: Rollout, rows: "pd.DataFrame") -> int:
    days, zone = definition.watch.window_days, definition.contract.zone
    first, _ = next(windows(serving.since, datetime.max.replace(tzinfo=UTC), days, zone))
    return 0 if rows.empty else int(((rows["version"] == serving.champion) & (rows["known_at"] < first)).sum())


def _watched(definition: Model, lake: Lake, commit: str, serving: Rollout) -> tuple[Watched, datetime]:
    """Give the champion, what its windows are compared with, and from when on.

    Its reference is the loss on the rows that judged it; once a later candidate has lost on a large test, its loss on
    that test: this is how good it gets in the changed world.
    """
    bundle = registry.load_bundle(lake, commit, serving.champion)
    reference = profile.decode(bundle.profile)
    loss, since = reference.loss, serving.since
    for verdict in registry.read_reports(lake, commit, registry.VERDICTS, PromotionReport):
        if verdict.ends_episode and verdict.incumbent == serving.champion and verdict.at >= serving.since:
            loss, since = verdict.incumbent_loss, verdict.at
    contract = bundle.card.contract
    watched = Watched(
        version=serving.champion, contract=contract, profile=reference, loss=loss, ceiling=definition.ceiling
    )
    return watched, since


def _answers_of(
    watched: Watched, rows: "pd.DataFrame", span: tuple[datetime, datetime]
) -> "tuple[npt.NDArray[np.float64], GraphInputs]":
    """Give losses and inputs of the answers whose labels became known in a span, in the order that alarms watch."""
    if rows.empty:
        return np.zeros(0), {}
    start, end = span
    chosen = rows[(rows["version"] == watched.version) & (rows["known_at"] >= start) & (rows["known_at"] < end)]
    chosen = chosen.iloc[alarms.watching_order(chosen["id"].tolist())]
    target = watched.contract.target
    loss_N = losses(target, recorded(target, chosen["predicted"].tolist()), chosen[target.name].tolist())
    return loss_N, to_columns(watched.contract, chosen)


def _record(lake: Lake, branch: str, judged: list[WindowReport], raised: list[Alarm]) -> None:
    if not judged:
        return
    note = {"kind": "monitor", "windows": str(len(judged)), "alarms": str(len(raised))}
    with transaction(lake, branch, f"judge {len(judged)} windows", note) as work:
        for window in judged:
            work.put(
                f"{registry.WINDOWS}{window.end:%Y%m%dT%H%M%SZ}-{window.version}.json", registry.encode_report(window)
            )
        for alarm in raised:
            work.put(f"{registry.ALARMS}{alarm.id}.json", registry.encode_report(alarm))
