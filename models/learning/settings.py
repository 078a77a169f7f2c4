"""How a network is trained. Apart from the loop, so that reading a definition does not import torch."""

from dataclasses import dataclass, fields, replace

from models.errors import DefinitionError


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that, with the rows and the seed, determines the weights."""

    epochs: int = 6
    """Passes over the training rows, at most."""
    batch_rows: int = 1024
    """Rows a step."""
    learning_rate: float = 8e-3
    """Peak of a one-cycle schedule (Smith and Topin, "Super-convergence", 2019)."""
    embedding_rate: float = 2.0
    """Learning rate of embedding tables relative to `learning_rate`; their rows get gradients less often."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay."""
    warm_up: float = 0.2
    """Share of all steps in which the rate rises."""
    patience: int = 3
    """Epochs without a better validation error after which training stops; the best epoch is kept."""
    seed: int = 0
    """Seed of the first weights and of the row order."""
    validation_days: float = 31.0
    """Span before the test span that stops the training."""
    test_days: float = 29.0
    """Newest span; judges the network, never seen in training."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot train. Raises: `DefinitionError` naming the option."""
        counts = ("epochs", "batch_rows", "patience")
        for name in (*counts, "learning_rate", "embedding_rate", "validation_days", "test_days"):
            if not getattr(self, name) > 0:
                raise DefinitionError(f"training.{name} must be greater than 0, not {getattr(self, name)!r}")
        if not 0 < self.warm_up < 1:
            raise DefinitionError(f"training.warm_up must lie between 0 and 1, not {self.warm_up!r}")

    def flat(self) -> dict[str, float | int | str | bool | None]:
        """Give the settings as one plain mapping."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def with_changes(self, **changes: float) -> "TrainingSettings":
        """Give a copy with some fields changed. Raises: `DefinitionError`."""
        known = self.flat()
        if unknown := sorted(changes.keys() - known.keys()):
            raise DefinitionError(f"no training setting is called {', '.join(unknown)}; there are {', '.join(known)}")
        return replace(self, **changes)  # type: ignore[arg-type]
