"""Who hears of a training: the index of runs, the tracker, and whoever looks."""

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flows import catalog
from flows.orchestration import as_json, flow_run_name
from flows.progress import trainings_shown
from flows.recipes import Recipe, data_digest
from infra.assembly import Platform
from infra.errors import Unavailable
from infra.provenance import environment_digest
from infra.runs import Begun, Ended, new_id
from infra.tracking.messages import Outcome, Score
from infra.tracking.tracker import Tracker
from models.bundle import Bundle, Card, bundle_folder
from models.errors import first_line
from models.model import Model
from models.setting_names import together

if TYPE_CHECKING:
    from models.learning.loop import Progress

logger = logging.getLogger(__name__)

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
        tracker: Tracker | None = None,
    ) -> None:
        """Begin a training's record. `tracker`: without it, the platform's."""
        changes = definition.retraining.training if plan.warm_start else {}
        usual = together(definition.training.with_changes(changes).flat(), definition.network_settings)
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
            code_commit=catalog.commit(definition.name),
            source_digest=catalog.sources(definition.name),
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
        self._tracked = (tracker or platform.tracker()).start(f"okruh-{begun.model}", begun.id, name, config, study)
        self.begun = msgspec.structs.replace(begun, tracker_run=self._tracked.reference)
        try:
            self.record = platform.runs(begun.model).begin(self.begun)
        except Unavailable:
            self._tracked.finish(None)
            raise
        self._show = trainings_shown()
        self._heard = False

    def report(self, progress: "Progress") -> None:
        """Tell how far it has come, and first where it went on, which is seen nowhere but on a terminal otherwise."""
        if progress.resumed_at and not self._heard:
            logger.warning(
                "%s: the training goes on from epoch %d, step %d of its checkpoint",
                self.begun.model,
                progress.epoch,
                progress.resumed_at,
            )
        self._heard = True
        self._tracked.log(progress.figures(), progress.step)
        self.record.add(progress.step, progress.figures(), milestone=progress.ends_epoch)
        self._show(progress)

    def tracker_run(self) -> str:
        """Wait until it is known whether the tracker keeps the run, and give what finds it there, or nothing."""
        self._tracked.settle()
        return self._tracked.reference

    def ended(self, bundle: Bundle) -> Ended:
        """Say what it has yielded."""
        card = bundle.card
        return self._ended("finished", version=card.version, metrics=dict(card.metrics))

    def _ended(self, status: Literal["finished", "pruned", "failed", "broken off"], **what: Any) -> Ended:
        untracked = self.begun.tracker_run != self._tracked.reference
        return Ended(at=datetime.now(UTC), status=status, untracked=untracked, **what)

    def end_trial(self, status: Literal["finished", "pruned"], error: float) -> None:
        """Tell how far a trial has come: its smallest validation error."""
        metrics: dict[str, float | None] = {"validation_error": error}
        self.record.end(self._ended(status, metrics=metrics))
        self._tracked.finish(Score(summary={"validation_error": error}))

    def fail(self, error: BaseException) -> None:
        """Tell that it has yielded nothing."""
        reason = first_line(error)
        status: Literal["failed", "broken off"] = "failed" if isinstance(error, Exception) else "broken off"
        self.record.end(self._ended(status, reason=reason))
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
