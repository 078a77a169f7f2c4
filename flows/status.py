"""Status: who serves, who is tried, how old it is, what it was trained on, the last alarm, the traffic. Reads only."""

from datetime import UTC, datetime

import msgspec

from flows import catalog
from infra import registry
from infra.assembly import Platform, assemble
from infra.errors import NotFound
from infra.lake import copying
from infra.lake.protocol import Lake
from infra.settings import load_settings
from models.contract.answers import mean_loss
from models.deciding.rollout import Challenger, Compared, Rollout, weight_at
from models.deciding.verdict import PromotionReport
from models.watching.alarms import Alarm
from models.watching.windows import WindowReport


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one branch that serves or has served."""

    branch: str
    champion: str
    since: datetime
    previous: str | None
    challenger: Challenger | None
    weight_now: float | None
    """The challenger's share of the keys."""
    shadow: Compared | None
    """What the challenger answered in the shadow, beside the champion's answers."""
    trained_as_of: datetime
    trained_on_commit: str
    trained_rows: int
    test_error: float
    """Mean loss on the bundle's test rows (`models.contract.answers`)."""
    last_window_end: datetime | None
    last_window_error: float | None
    last_alarm: str | None
    last_verdict: str | None
    predictions: int
    labels: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A branch's rollout, and what was done about it where something was."""

    model: str
    branch: str
    champion: str
    since: datetime
    previous: str | None
    challenger: Challenger | None
    weight_now: float | None
    """The challenger's share of the keys."""
    ended_trial: str | None = None
    """The challenger whose trial was ended."""
    shadow: Compared | None = None
    """What the challenger answered in the shadow, beside the champion's answers, where it was asked for."""
    verdict: PromotionReport | None = None
    """What let it become champion."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A model's lines: the settings' branch first, then replays, the newest first."""

    model: str
    unit: str
    bundles: int
    lines: list[Line]


def status(model: str, branch: str | None = None) -> Status:
    """Read a model's state; of every branch with a champion, or of one."""
    definition, settings = catalog.load(model), load_settings()
    platform = assemble(settings)
    unit = definition.contract.error_unit
    if not platform.has_lake(model):
        return Status(model=model, unit=unit, bundles=0, lines=[])
    lake = platform.lake(model)
    names = [branch] if branch else registry.branches_to_search(lake, settings.branch)
    lines = [line for name in names if (line := _line(platform, lake, model, name)) is not None]
    bundles = len({version for name in names for version in registry.versions(lake, name)})
    return Status(model=model, unit=unit, bundles=bundles, lines=lines)


def standing(model: str, branch: str | None = None) -> Standing:
    """Read who serves and who is tried. Raises: `NotFound` without a champion."""
    catalog.load(model)
    settings = load_settings()
    branch, platform = branch or settings.branch, assemble(settings)
    lake = platform.lake(model) if platform.has_lake(model) else None
    serving = registry.read_rollout(lake, branch) if lake is not None else None
    if lake is None or serving is None:
        raise NotFound(f"{model} has no champion on branch {branch!r} yet; run `okruh promote {model}` first")
    shadow = _shadow(platform, lake, model, branch, serving)
    return msgspec.structs.replace(standing_of(model, branch, serving, datetime.now(UTC)), shadow=shadow)


def standing_of(model: str, branch: str, serving: Rollout, at: datetime) -> Standing:
    """Say what a rollout means at a moment."""
    return Standing(
        model=model,
        branch=branch,
        champion=serving.champion,
        since=serving.since,
        previous=serving.previous,
        challenger=serving.challenger,
        weight_now=_weight(serving, at),
    )


def _weight(serving: Rollout, at: datetime) -> float | None:
    return weight_at(serving.challenger, at) if serving.challenger else None


def _shadow(platform: Platform, lake: Lake, model: str, branch: str, serving: Rollout) -> Compared | None:
    if serving.challenger is None:
        return None
    from infra.comparison import compare  # which imports pandas: a second, that only a trial costs

    commit = lake.resolve(branch)
    contract = registry.load_card(lake, commit, serving.champion).contract
    journal = platform.journal(model, branch)
    return compare(lake, commit, journal, serving.champion, serving.challenger.version, contract)


def _line(platform: Platform, lake: Lake, model: str, branch: str) -> Line | None:
    commit = lake.resolve(branch)
    serving = registry.read_rollout(lake, commit)
    if serving is None:
        return None
    card = registry.load_card(lake, commit, serving.champion)
    windows = registry.read_reports(lake, commit, registry.WINDOWS, WindowReport)
    alarms = registry.read_reports(lake, commit, registry.ALARMS, Alarm)
    verdicts = registry.read_reports(lake, commit, registry.VERDICTS, PromotionReport)
    counts = platform.journal(model, branch).counts()
    return Line(
        branch=branch,
        champion=serving.champion,
        since=serving.since,
        previous=serving.previous,
        challenger=serving.challenger,
        weight_now=_weight(serving, datetime.now(UTC)),
        shadow=_shadow(platform, lake, model, branch, serving),
        trained_as_of=card.as_of,
        trained_on_commit=copying.known_as(lake, card.data.commit),
        trained_rows=card.data.rows_train,
        test_error=card.metrics[mean_loss(card.contract.target)],
        last_window_end=windows[-1].end if windows else None,
        last_window_error=windows[-1].mean_error if windows else None,
        last_alarm=f"{alarms[-1].at:%Y-%m-%d}: {alarms[-1].detail}" if alarms else None,
        last_verdict=(
            f"{verdicts[-1].at:%Y-%m-%d}: {verdicts[-1].version} "
            f"{'promoted' if verdicts[-1].allowed else 'not promoted'}: {verdicts[-1].reasons[0]}"
            if verdicts
            else None
        ),
        predictions=counts.predictions,
        labels=counts.labels,
    )
