"""Is it time to train again, and on what?

An alarm opens an episode: something changed at a dated moment and is now being learned. Labels of the changed world
come slowly, so one training is not the end of it. Within an episode a training is due when the labels since the change
have grown by `growth` since the last one (so that their number grows with the logarithm of the labels), sooner by
`retry_growth` when the last candidate lost. The episode ends when a candidate loses on a large enough test: there is
nothing more to gain. A second alarm about the same change starts nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.deciding.verdict import Verdict
from models.errors import DefinitionError
from models.learning.settings import Setting, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class RetrainingSettings:
    """When a changed world is learned again, and from how much of it."""

    minimum_labels: int = 200
    """Labels since the change below which a training is not worth trying."""
    growth: float = 2.0
    """Factor by which labels since the change must grow between two trainings."""
    retry_growth: float = 1.3
    """The same, after a candidate that lost."""
    test_share: float = 0.2
    """Newest share of the labels since the change that judges the candidate and is not trained on; of models with a
    time column. Without one, the champion's `training.test_share` of them does, by what they hold."""
    test_rows: int = 4000
    """At most this many of them."""
    closing_rows: int = 1000
    """A candidate that loses on at least this many test rows ends the episode."""
    training: Mapping[str, Setting] = field(
        default_factory=lambda: {
            "epochs": 8,
            "batch_rows": 256,
            "learning_rate": 2e-3,
            "embedding_rate": 0.5,
            "weight_decay": 0.3,
        }
    )
    """Training settings, by name, that are others than the champion was trained by. Labels of a changed world are few
    at first, and those with one of a category's values fewer: its tables learn slowly, and more decays."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot decide, or train. Raises: `DefinitionError` naming the option."""
        if not isinstance(self.training, Mapping):
            raise DefinitionError('retraining.training must be a mapping of names to values, such as {"epochs": 8}')
        TrainingSettings().with_changes(self.training)
        if self.growth <= 1 or self.retry_growth <= 1:
            raise DefinitionError("retraining.growth and retraining.retry_growth must be greater than 1")
        if not 0 < self.test_share < 1:
            raise DefinitionError(f"retraining.test_share must lie between 0 and 1, not {self.test_share!r}")
        if self.minimum_labels * self.test_share < 1 or self.test_rows < 1:
            raise DefinitionError("retraining.minimum_labels, test_share and test_rows leave no label to judge with")
        if not 1 <= self.closing_rows <= self.test_rows:
            raise DefinitionError(
                f"retraining.closing_rows must lie in 1..test_rows ({self.test_rows}), not {self.closing_rows!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A change that is being learned."""

    alarm: str
    labels_now: int
    """Labels since the change."""
    labels_trained: int
    """The same at the last training; 0 before the first."""
    last_lost: bool
    """Whether the last candidate lost."""
    ended: bool
    """Whether a candidate lost on a test large enough to end it."""


def due(episode: Episode | None, settings: RetrainingSettings) -> Verdict:
    """Decide whether to train now."""
    if episode is None:
        return Verdict.no("no alarm is open")
    if episode.ended:
        return Verdict.no(f"alarm {episode.alarm} is answered: its last candidate lost on a large test")
    if episode.labels_now < settings.minimum_labels:
        return Verdict.no(f"{episode.labels_now} labels since the change, {settings.minimum_labels} are needed")
    if not episode.labels_trained:
        return Verdict(allowed=True, reasons=(f"alarm {episode.alarm} is open and nothing was trained on it yet",))
    factor = settings.retry_growth if episode.last_lost else settings.growth
    grown = episode.labels_now / episode.labels_trained
    reason = f"labels since the change grew {grown:.2f}-fold since the last training, {factor:g} is asked"
    return Verdict(grown >= factor, (reason,))
