"""What a played period amounts to: errors by month, alarms, verdicts, promotions, counts, all read from the lake."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from infra import registry, tables
from infra.dataset import LABELS, PREDICTIONS, labelled_predictions
from infra.errors import NotFound
from infra.lake.protocol import Lake
from infra.traffic import Counts
from models.contract.answers import differences, losses, recorded
from models.contract.table import to_columns
from models.deciding.verdict import PromotionReport
from models.inference import Predictor
from models.model import Model
from models.watching.alarms import Alarm
from models.watching.windows import WindowReport

NEXT_MONTH = timedelta(days=30)


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """One calendar month of the contract's clock; errors over labels within the target's range."""

    month: str
    trips: int
    error_first_model: float
    error_served: float
    versions: tuple[str, ...]


class AlarmLine(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm."""

    at: datetime
    window: tuple[datetime, datetime]
    statistic: float
    """log10."""
    detail: str


class VerdictLine(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict."""

    at: datetime
    version: str
    allowed: bool
    reasons: tuple[str, ...]


class PromotionLine(msgspec.Struct, frozen=True, kw_only=True):
    """A promotion, and how it turned out in the 30 days after it."""

    at: datetime
    version: str
    error_next_month: float | None
    """None where no label came."""
    error_previous_champion: float | None
    """What the champion before it would have had on the same rows; None for the first, and where no label came."""
    seconds_to_first_answer: float | None
    """From the promotion's commit to the first answer of the running service; None for the first."""


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """Prediction requests."""

    sent: int
    refused: int
    """By the contract, with reasons."""
    failed: int
    during_swaps: int
    """Repeated requests that were answered while the service took a new champion over; not counted as sent."""
    refusals: dict[str, int]


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    """Feedback."""

    sent: int
    joined: int


class JournalCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Every journalled prediction, scored again in one batch by the version that answered it."""

    rows: int
    largest_difference: float
    """In the target's unit."""


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one loop."""

    model: str
    branch: str
    data_commit: str
    """Lake commit of the data that the first model was trained on."""
    versions: tuple[str, ...]
    months: tuple[Month, ...]
    alarms: tuple[AlarmLine, ...]
    verdicts: tuple[VerdictLine, ...]
    promotions: tuple[PromotionLine, ...]
    requests: Requests
    labels: Labels
    journal: JournalCheck
    report: str = ""
    seconds: float = 0.0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A story and what its pictures need beside it."""

    story: Story
    windows: list[WindowReport]


def tell(definition: Model, lake: Lake, branch: str, counts: Counts, swaps: Mapping[str, float]) -> Told:
    """Read a branch's story.

    Args:
        counts: what the traffic counted.
        swaps: seconds from a version's promotion to its first answer.

    Raises: `NotFound` where no answer got its label.
    """
    commit = lake.resolve(branch)
    verdicts = registry.read_reports(lake, commit, registry.VERDICTS, PromotionReport)
    promotions = [verdict for verdict in verdicts if verdict.allowed]
    champions = [verdict.version for verdict in promotions]
    rows, _ = labelled_predictions(definition.contract, lake, commit)
    if rows.empty:
        raise NotFound(f"no label has come for {definition.name} on branch {branch!r}: there is no error to tell of")
    scorer = _Scorer(definition, lake, commit, rows)
    story = Story(
        model=definition.name,
        branch=branch,
        data_commit=registry.load_card(lake, commit, champions[0]).data.commit,
        versions=tuple(dict.fromkeys(champions)),
        months=_months(definition, rows, scorer.errors(champions[0])),
        alarms=tuple(
            AlarmLine(
                at=alarm.at, window=(alarm.window_start, alarm.at), statistic=alarm.statistic, detail=alarm.detail
            )
            for alarm in registry.read_reports(lake, commit, registry.ALARMS, Alarm)
        ),
        verdicts=tuple(
            VerdictLine(at=verdict.at, version=verdict.version, allowed=verdict.allowed, reasons=verdict.reasons)
            for verdict in verdicts
        ),
        promotions=tuple(
            _promotion(rows, scorer, verdict, verdict.incumbent if place else None, swaps.get(verdict.version))
            for place, verdict in enumerate(promotions)
        ),
        requests=Requests(
            sent=counts.sent,
            refused=counts.refused,
            failed=counts.failed + counts.labels_failed,
            during_swaps=counts.during_swaps,
            refusals=dict(sorted(counts.refusals.items(), key=lambda item: -item[1])),
        ),
        labels=Labels(sent=counts.labels_sent, joined=_joined(lake, commit)),
        journal=_check_journal(definition, lake, commit),
    )
    return Told(story=story, windows=registry.read_reports(lake, commit, registry.WINDOWS, WindowReport))


class _Scorer:
    """Scores the labelled rows by any version, once each."""

    def __init__(self, definition: Model, lake: Lake, commit: str, rows: pd.DataFrame) -> None:
        self._lake, self._commit = lake, commit
        self._columns = to_columns(definition.contract, rows)
        self._target = definition.contract.target
        self._truth = rows[self._target.name].tolist()
        self._known: dict[str, npt.NDArray[np.float64]] = {}

    def errors(self, version: str) -> npt.NDArray[np.float64]:
        """Give the losses of all rows."""
        if version not in self._known:
            bundle = registry.load_bundle(self._lake, self._commit, version)
            answers = Predictor(bundle.onnx, bundle.card.contract).predict(self._columns)
            self._known[version] = losses(self._target, answers, self._truth)
        return self._known[version]

    def mean_error(self, version: str, chosen: npt.NDArray[np.bool_]) -> float | None:
        """Give the mean loss of the chosen rows; None where none is chosen."""
        return float(self.errors(version)[chosen].mean()) if chosen.any() else None


def _months(definition: Model, rows: pd.DataFrame, first_errors_N: npt.NDArray[np.float64]) -> tuple[Month, ...]:
    target, time = definition.contract.target, definition.contract.time_column.name
    frame = pd.DataFrame(
        {
            "month": rows[time].dt.strftime("%Y-%m"),
            "first": first_errors_N,
            "served": losses(target, recorded(target, rows["predicted"].tolist()), rows[target.name].tolist()),
            "version": rows["version"],
        }
    )
    return tuple(
        Month(
            month=str(month),
            trips=len(group),
            error_first_model=float(group["first"].mean()),
            error_served=float(group["served"].mean()),
            versions=tuple(group["version"].unique()),
        )
        for month, group in frame.groupby("month")
    )


def _promotion(
    rows: pd.DataFrame, scorer: _Scorer, verdict: PromotionReport, previous: str | None, seconds: float | None
) -> PromotionLine:
    following = (rows["event_at"] >= verdict.at) & (rows["event_at"] < verdict.at + NEXT_MONTH)
    after = following.to_numpy()
    return PromotionLine(
        at=verdict.at,
        version=verdict.version,
        error_next_month=scorer.mean_error(verdict.version, after),
        error_previous_champion=scorer.mean_error(previous, after) if previous else None,
        seconds_to_first_answer=round(seconds, 3) if seconds is not None else None,
    )


def _joined(lake: Lake, commit: str) -> int:
    predictions, _ = tables.read_all(lake, commit, PREDICTIONS)
    labels, _ = tables.read_all(lake, commit, LABELS)
    return int(labels["id"].isin(predictions["id"]).sum()) if len(labels) else 0


def _check_journal(definition: Model, lake: Lake, commit: str) -> JournalCheck:
    predictions, _ = tables.read_all(lake, commit, PREDICTIONS)
    largest = 0.0
    for version, group in predictions.groupby("version"):
        bundle = registry.load_bundle(lake, commit, str(version))
        target, columns = bundle.card.contract.target, to_columns(definition.contract, group)
        scored = Predictor(bundle.onnx, bundle.card.contract).predict(columns)
        apart_N = differences(target, scored, recorded(target, group["predicted"].tolist()))
        largest = max(largest, float(apart_N.max()))
    return JournalCheck(rows=len(predictions), largest_difference=largest)
