"""Monitor: journalled answers and labels reach the lake, and each whole window of them is judged."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import numpy as np

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
from models import model as definitions
from models.deciding.rollout import Rollout
from models.deciding.verdict import PromotionReport
from models.model import Model
from models.watching import alarms, profile
from models.watching.alarms import Alarm, DetectorState
from models.watching.profile import LossProfile, Profile
from models.watching.windows import WindowReport, windows

if TYPE_CHECKING:
    import pandas as pd

ALARM_EVENT = "okruh.alarm"


class Monitored(msgspec.Struct, frozen=True, kw_only=True):
    """What one look has found."""

    archived_predictions: int
    archived_labels: int
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
    definition, settings = definitions.load(model), load_settings()
    branch, as_of = branch or settings.branch, as_of or datetime.now(UTC)
    platform = assemble(settings)
    lake = platform.lake(model)
    if registry.read_rollout(lake, branch) is None:
        raise NotFound(f"{model} has no champion on branch {branch!r} to monitor; run `okruh promote {model}` first")
    archived = archive(model, branch, as_of)
    judged, raised = judge(model, branch, as_of)
    alarm, verdict = retraining_verdict(definition, lake, lake.resolve(branch), as_of)
    if announce and alarm is not None and verdict.allowed:
        emit(ALARM_EVENT, model, {"alarm": alarm.id, "detail": alarm.detail, "reasons": list(verdict.reasons)})
    return Monitored(
        archived_predictions=archived.predictions,
        archived_labels=archived.labels,
        windows=judged,
        alarms=raised,
        retraining_due=verdict.allowed,
        reasons=verdict.reasons,
    )


@task("judge windows")
def judge(model: str, branch: str, as_of: datetime) -> tuple[list[WindowReport], list[Alarm]]:
    """Judge the champion's windows since the last judged one; reports and alarms are one commit."""
    definition, lake = definitions.load(model), assemble(load_settings()).lake(model)
    commit = lake.resolve(branch)
    serving = registry.read_rollout(lake, commit)
    assert serving is not None
    reference = profile.decode(registry.load_bundle(lake, commit, serving.champion).profile)
    loss, since = _watched_against(lake, commit, serving, reference)
    known = registry.read_reports(lake, commit, registry.WINDOWS, WindowReport)
    past = [window for window in known if window.version == serving.champion and window.end > since]
    state = past[-1].state if past else alarms.start(loss, definition.watch)
    quiet = any(window.alarm for window in past)
    spans = windows(past[-1].end if past else since, as_of, definition.watch.window_days, definition.contract.time.zone)
    rows, _ = labelled_predictions(definition.contract, lake, commit)
    judged, raised = [], []
    for start, end in spans:
        of_window = _rows_of(rows, serving.champion, start, end)
        report, alarm = _judge_window(definition, reference, loss, state, of_window, serving.champion, (start, end))
        if alarm is not None and quiet:
            report, alarm = msgspec.structs.replace(report, alarm=None), None
        judged.append(report)
        if alarm is not None:
            raised.append(alarm)
            quiet = True
        state = report.state
    _record(lake, branch, judged, raised)
    return judged, raised


def _watched_against(lake: Lake, commit: str, serving: Rollout, reference: Profile) -> tuple[LossProfile, datetime]:
    """Give the champion's reference loss, and from when on it counts.

    It is the loss on the rows that judged the champion; once a later candidate has lost on a large test, the champion's
    loss on that test: this is how good it gets in the changed world.
    """
    verdicts = registry.read_reports(lake, commit, registry.VERDICTS, PromotionReport)
    for verdict in reversed(verdicts):
        if verdict.ends_episode and verdict.incumbent == serving.champion and verdict.at >= serving.since:
            return verdict.incumbent_loss, verdict.at
    return reference.loss, serving.since


def _rows_of(rows: "pd.DataFrame", version: str, start: datetime, end: datetime) -> "pd.DataFrame":
    if rows.empty:
        return rows
    chosen = rows[(rows["version"] == version) & (rows["known_at"] >= start) & (rows["known_at"] < end)]
    return chosen.iloc[alarms.watching_order(chosen["id"].tolist())]


def _judge_window(
    definition: Model,
    reference: Profile,
    loss: LossProfile,
    state: DetectorState,
    rows: "pd.DataFrame",
    version: str,
    span: tuple[datetime, datetime],
) -> tuple[WindowReport, Alarm | None]:
    from models.contract.table import to_columns

    contract, watch = definition.contract, definition.watch
    start, end = span
    error_N = (
        np.abs(rows["predicted"].to_numpy(np.float64) - rows[contract.target.name].to_numpy(np.float64))
        if len(rows)
        else np.zeros(0)
    )
    following, reached = alarms.update(state, start, np.minimum(error_N, watch.ceiling) / watch.ceiling, watch)
    mean = float(error_N.mean()) if len(error_N) else None
    alarm = None
    if len(error_N) and alarms.raised(reached, watch):
        alarm = alarms.describe(
            following,
            reached,
            watch,
            version,
            span,
            labels=len(error_N),
            mean_error=float(error_N.mean()),
            reference_error=loss.mean,
            unit=contract.target.unit,
        )
    report = WindowReport(
        start=start,
        end=end,
        version=version,
        labels=len(error_N),
        mean_error=mean,
        reference_error=loss.mean,
        statistic=reached / float(np.log(10)),
        drift=profile.drift(contract, reference, to_columns(contract, rows)) if len(rows) else {},
        alarm=alarm.id if alarm else None,
        state=following,
    )
    return report, alarm


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
