"""The only place that picks classes: settings in, a platform out.

Nothing is opened here; what a command does not use it does not import.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from infra.checkpoints import FileCheckpoints
from infra.errors import Misconfigured, NotFound
from infra.journal.journal import Journal
from infra.keys import KeyFile
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.lakefs import address
from infra.lake.protocol import MAIN, Lake
from infra.runs import RunIndex
from infra.seen_files import SeenFiles
from infra.settings import EMBEDDED, Settings
from infra.tracking.tracker import Tracker, make_tracker
from models.bundle import check_name

if TYPE_CHECKING:
    from infra.lake.lakefs.server import Server
    from infra.lake.lakefs.store import LakeFSLake

_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Platform:
    """What flows and services stand on, as the settings say."""

    settings: Settings

    def lake(self, model: str) -> Lake:
        """Give a model's repository; made where it does not exist, with `main` protected.

        Raises: `Misconfigured`, `Unavailable`.
        """
        if self.settings.lake != EMBEDDED and self.has_lake(model):
            # Who may change what on a server is for its administrators to say
            return self._repository(repository(model))
        lake = self.unprotected_lake(model)
        if MAIN not in lake.protected():
            lake.protect(MAIN)
        return lake

    def unprotected_lake(self, model: str) -> Lake:
        """Give a model's repository; made where it does not exist, with `main` left as it is.

        Raises: `Misconfigured`, `Unavailable`.
        """
        name = repository(model)
        if self.settings.lake == EMBEDDED:
            return EmbeddedLake(self._folder(name))
        lake = self._repository(name)
        if not lake.exists():
            lake.create(self.settings.lakefs_storage)
        return lake

    def existing_lake(self, model: str) -> Lake:
        """Give a model's repository. Raises: `NotFound` where it does not exist yet, `Misconfigured`, `Unavailable`."""
        if not self.has_lake(model):
            raise NotFound(f"{model} has no lake yet; run `okruh ingest {model}` first")
        return self.lake(model)

    def has_lake(self, model: str) -> bool:
        """Say whether a model's repository exists, making nothing. Raises: `Misconfigured`, `Unavailable`."""
        name = repository(model)
        return self._repository(name).exists() if self.settings.lake != EMBEDDED else self._folder(name).is_dir()

    def followed_lake(self, model: str) -> Callable[[], Lake] | None:
        """Give what opens a model's repository for a service, or None where there is none to follow.

        An embedded lake is there when a service starts, or there is none; a server may answer later, or again.
        """
        if self.settings.lake == EMBEDDED and not self.has_lake(model):
            return None
        return lambda: self.existing_lake(model)

    def address(self, model: str, commit: str, path: str) -> str:
        """Say where the lake has something, as a URI for other products. Raises: `Misconfigured`."""
        name = repository(model)
        if self.settings.lake == EMBEDDED:
            return f"lake://{name}/{commit}/{path}"
        return f"lakefs://{address.parse(self.settings.lake).repository(name)}/{commit}/{path}"

    def journal(self, model: str, branch: str) -> Journal:
        """Give a model's record on a branch; made at its first write. Raises: `Misconfigured`."""
        if not _BRANCH.fullmatch(branch):
            raise Misconfigured(f"branch {branch!r}: a name is letters, digits, '.', '_' and '-'")
        folder = self.settings.home / "journal" / repository(model) / branch
        return Journal(folder, self.settings.journal_keep_days, self.settings.journal_mib << 20)

    def keys(self) -> KeyFile:
        """Give the keys of those who call a service."""
        return KeyFile(self.settings.keys or self.settings.home / "keys.json")

    def asked_keys(self, loopback: bool) -> KeyFile | None:
        """Give the keys that a service asks for; None where it asks for none. `loopback`: only this machine calls."""
        wanted = self.settings.access == "keys" or (self.settings.access == "auto" and not loopback)
        return self.keys() if wanted else None

    def seen_files(self, model: str, branch: str, basis: str) -> SeenFiles:
        """Give what is known of files that were ingested before; a cache. Raises: `Misconfigured`."""
        return SeenFiles(self.settings.home / "cache" / "seen" / f"{repository(model)}.sqlite", branch, basis)

    def checkpoints(self, model: str, training: str) -> FileCheckpoints:
        """Give what keeps the checkpoints of one training, which has a name of its own."""
        path = self.settings.home / "checkpoints" / repository(model) / training
        return FileCheckpoints(path, self.settings.train_checkpoint_s)

    def runs(self, model: str) -> RunIndex:
        """Give the index of a model's trainings on this machine. Raises: `Misconfigured`."""
        return RunIndex(self.settings.home / "runs" / repository(model))

    def tracker(self) -> Tracker:
        """Give the experiment tracker. Raises: `Misconfigured`."""
        return make_tracker(self.settings)

    def _folder(self, name: str) -> Path:
        return self.settings.home / "lake" / name

    def _repository(self, name: str) -> "LakeFSLake":
        from infra.lake.lakefs.store import LakeFSLake

        return LakeFSLake(self._server, address.parse(self.settings.lake).repository(name))

    @cached_property
    def _server(self) -> "Server":
        from infra.lake.lakefs.server import Server

        key_id, secret = self.settings.lakefs_access_key_id, self.settings.lakefs_secret_access_key
        if key_id is None or secret is None:
            raise Misconfigured("a lakeFS server wants OKRUH_LAKEFS_ACCESS_KEY_ID and OKRUH_LAKEFS_SECRET_ACCESS_KEY")
        return Server(address.parse(self.settings.lake).url, key_id, secret.get_secret_value())


def assemble(settings: Settings) -> Platform:
    """Pick what the settings ask for."""
    return Platform(settings)


def repository(model: str) -> str:
    """Give the name of a model outside Python, where no underscore is allowed. Raises: `DefinitionError`."""
    check_name(model)
    return model.replace("_", "-")
