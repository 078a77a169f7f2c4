"""The only place that picks classes: settings in, a platform out.

Nothing is opened here; what a command does not use it does not import.
"""

import re
from dataclasses import dataclass

from infra.errors import Misconfigured, NotFound
from infra.journal import Journal
from infra.lake.embedded import EmbeddedLake
from infra.lake.protocol import MAIN, Lake
from infra.settings import Settings
from infra.tracking import Tracker, make_tracker
from models.bundle import MODEL_NAME

_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Platform:
    """What flows and services stand on, as the settings say."""

    settings: Settings

    def lake(self, model: str) -> Lake:
        """Give a model's repository; made where it does not exist, with `main` protected.

        Raises: `Misconfigured`, `Unavailable`.
        """
        lake = EmbeddedLake(self.settings.home / "lake" / repository(model))
        if MAIN not in lake.protected():
            lake.protect(MAIN)
        return lake

    def existing_lake(self, model: str) -> Lake:
        """Give a model's repository. Raises: `NotFound` where it does not exist yet, `Misconfigured`, `Unavailable`."""
        if not self.has_lake(model):
            raise NotFound(f"{model} has no lake yet; run `okruh ingest {model}` first")
        return self.lake(model)

    def has_lake(self, model: str) -> bool:
        """Say whether a model's repository exists, making nothing. Raises: `Misconfigured`."""
        return (self.settings.home / "lake" / repository(model)).is_dir()

    def journal(self, model: str, branch: str) -> Journal:
        """Give a model's record on a branch; made at its first write. Raises: `Misconfigured`."""
        if not _BRANCH.fullmatch(branch):
            raise Misconfigured(f"branch {branch!r}: a name is letters, digits, '.', '_' and '-'")
        return Journal(self.settings.home / "journal" / repository(model) / f"{branch}.sqlite")

    def tracker(self) -> Tracker:
        """Give the experiment tracker. Raises: `Misconfigured`."""
        return make_tracker(self.settings)


def assemble(settings: Settings) -> Platform:
    """Pick what the settings ask for."""
    return Platform(settings)


def repository(model: str) -> str:
    """Give the name of a model outside Python, where no underscore is allowed. Raises: `Misconfigured`."""
    if not MODEL_NAME.fullmatch(model):
        raise Misconfigured(f"model {model!r}: a name is a small letter, then 2 to 39 small letters, digits and '_'")
    return model.replace("_", "-")
