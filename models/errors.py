"""What can go wrong with a definition, its data or its bundle.

OkruhError
├── DefinitionError        a model's definition, or the name of one, is wrong
├── ContractError          rows or a table break the contract
├── Refused                a verdict said no; its reasons are the message
│   └── ParityFailed       the exported graph does not answer as the network does
├── SourceUnavailable      a definition's raw files cannot be had now
├── TrainingDiverged       the loss is no finite number
├── ExportFailed           a network cannot be written as a graph
├── BundleError            a bundle is incomplete, corrupt or does not fit
└── ProviderUnavailable    what a graph shall be run on cannot be used here

The family of what we stand on (network, disk, configuration) is `infra.errors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class OkruhError(Exception):
    """Root of every error that Okruh raises on purpose; its message is one line that says what to do."""


class DefinitionError(OkruhError):
    """A model's definition, or the name of one, is wrong."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: where, and which."""

    field: str
    rule: str
    row: int | None = None

    def __str__(self) -> str:
        place = f"row {self.row}, " if self.row is not None else ""
        return f"{place}field {self.field!r}: {self.rule}"


class ContractError(OkruhError):
    """Rows or a table break the contract; `violations` names field, row and rule."""

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class Refused(OkruhError):
    """A verdict said no; its reasons are the message."""


class ParityFailed(Refused):
    """The exported graph does not answer as the network does."""


class SourceUnavailable(OkruhError):
    """A definition's raw files cannot be had now."""


class TrainingDiverged(OkruhError):
    """The loss is no finite number."""


class ExportFailed(OkruhError):
    """A network cannot be written as a graph that answers any number of rows."""


class BundleError(OkruhError):
    """A bundle is incomplete, corrupt or does not fit."""


class ProviderUnavailable(OkruhError):
    """What a graph shall be run on cannot be used here."""


def first_line(error: BaseException) -> str:
    """Say what an error says first, or of what kind it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
