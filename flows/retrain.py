"""Retrain: after an alarm, the champion is trained on with what the changed world has shown."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from flows import catalog
from flows.orchestration import flow
from flows.promote import promote
from flows.recipes import Recipe, check_device
from flows.train import Registered, run_recipe
from infra import registry
from infra.assembly import assemble
from infra.dataset import known_rows
from infra.errors import NotFound
from infra.lake.protocol import Lake
from infra.settings import load_settings
from models.deciding import retraining
from models.deciding.retraining import Episode, RetrainingSettings
from models.deciding.rollout import Rollout
from models.deciding.verdict import PromotionReport, Verdict
from models.learning.settings import TrainingSettings
from models.model import Model
from models.watching.alarms import Alarm

if TYPE_CHECKING:
    import pandas as pd


class Retrained(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one wish to train again."""

    trained: Registered | None
    """None where the policy said no."""
    verdict: PromotionReport | None
    reasons: tuple[str, ...]


@flow("retrain")
def retrain(model: str, as_of: datetime | None = None, branch: str | None = None) -> Retrained:
    """Train the champion on with the labels since the alarm's change, and promote the candidate if it wins.

    Does nothing when no alarm is open, when the alarm is answered, or when too few new labels have come since the last
    training: a second alarm about the same change starts nothing.

    Args:
        model: name in the catalog.
        as_of: only labels that had arrived by this moment are read; without it, now.
        branch: lake branch; without it, OKRUH_BRANCH.
    """
    check_device()
    definition = catalog.load(model)
    branch, as_of = branch or load_settings().branch, as_of or datetime.now(UTC)
    lake = assemble(load_settings()).lake(model)
    commit = lake.resolve(branch)
    alarm, verdict = retraining_verdict(definition, lake, commit, as_of)
    if alarm is None or not verdict.allowed:
        return Retrained(trained=None, verdict=None, reasons=verdict.reasons)
    rows = known_rows(definition, lake, commit, as_of, alarm.changed_at).whole()
    has_time = definition.contract.time is not None
    test_from = _test_from(definition.retraining, rows["known_at"]) if has_time else None
    if has_time and test_from is None:
        reason = f"all {len(rows)} labels since the change became known at once: none can be held out to judge"
        return Retrained(trained=None, verdict=None, reasons=(reason,))
    registered = run_recipe(definition, _recipe(definition, lake, commit, alarm, test_from, as_of), branch)
    report = promote(
        model,
        version=registered.version,
        as_of=as_of,
        branch=branch,
        alarm=alarm.id,
        labels_since_change=len(rows),
    )
    return Retrained(trained=registered, verdict=report, reasons=verdict.reasons)


def retraining_verdict(definition: Model, lake: Lake, commit: str, as_of: datetime) -> tuple[Alarm | None, Verdict]:
    """Ask the retraining policy, from what the lake keeps of alarms and verdicts."""
    alarms = [alarm for alarm in registry.read_reports(lake, commit, registry.ALARMS, Alarm) if alarm.at <= as_of]
    if not alarms:
        return None, retraining.due(None, definition.retraining)
    alarm = alarms[-1]
    verdicts = registry.read_reports(lake, commit, registry.VERDICTS, PromotionReport)
    serving = registry.read_rollout(lake, commit)
    if serving is not None and serving.since > alarm.at and not _promoted(serving, verdicts):
        return alarm, Verdict.no(f"{serving.champion} was rolled back to since alarm {alarm.id}")
    answers = [verdict for verdict in verdicts if verdict.alarm == alarm.id and verdict.at <= as_of]
    episode = Episode(
        alarm=alarm.id,
        labels_now=len(known_rows(definition, lake, commit, as_of, alarm.changed_at).whole()),
        labels_trained=answers[-1].labels_since_change if answers else 0,
        last_lost=bool(answers) and not answers[-1].allowed,
        ended=any(verdict.ends_episode for verdict in answers),
    )
    return alarm, retraining.due(episode, definition.retraining)


def _promoted(serving: Rollout, verdicts: list[PromotionReport]) -> bool:
    """Say whether who serves does so by a verdict; otherwise by a rollback."""
    return any(one.allowed and (one.version, one.at) == (serving.champion, serving.since) for one in verdicts)


def _test_from(policy: RetrainingSettings, known_at: "pd.Series[pd.Timestamp]") -> datetime | None:
    """Say from when on labels are held out: the newest share, or less where its oldest arrived with all before them.

    None where there is nothing older to train on.
    """
    held_out = min(int(len(known_at) * policy.test_share), policy.test_rows)
    later = known_at[known_at > known_at.iloc[0]]
    if later.empty:
        return None
    found: datetime = max(known_at.iloc[-held_out], later.iloc[0]).to_pydatetime()
    return found


def _recipe(
    definition: Model, lake: Lake, commit: str, alarm: Alarm, test_from: datetime | None, as_of: datetime
) -> Recipe:
    """Hold the newest share of the changed world's labels out, and train the champion on with the rest.

    Without a time column, those are held out that judged the champion or would have: by what they hold.
    """
    policy = definition.retraining
    serving = registry.read_rollout(lake, commit)
    if serving is None:
        raise NotFound(f"{definition.name} has no champion to train on; run `okruh train {definition.name}` first")
    card = registry.load_card(lake, commit, serving.champion)
    settings = msgspec.convert(card.settings, TrainingSettings).with_changes(policy.training).flat()
    if test_from is None:
        settings |= {"validation_share": 0.0, "test_share": card.settings["test_share"]}
    return Recipe(
        as_of=as_of,
        learn_from=alarm.changed_at,
        validation_from=test_from,
        test_from=test_from,
        settings=settings,
        network=card.network_settings,
        warm_start=serving.champion,
    )
