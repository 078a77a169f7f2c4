"""Which raw files are in the lake already: found out by size and times, without reading them and without Prefect.

A file is taken for ingested where it looks as it did then (see `infra.seen_files`), contract, sources and lake are the
ones of then, and the branch still has the digests of its accepted and its refused rows, and of the partitions in which
some of its rows were found. Cost: one look at each file, and two listings of the lake a run.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Self

import msgspec

from flows import catalog
from infra.assembly import assemble
from infra.dataset import partition_path, table_prefix
from infra.errors import NotFound
from infra.seen_files import Look, look_at
from infra.settings import load_settings
from models.errors import DefinitionError
from models.model import Fetched, Model, Sample

RAW_SUFFIXES = (".parquet", ".csv")


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one raw file."""

    file: str
    partition: str
    rows: int
    refused: int
    reasons: dict[str, int]
    """How many refused rows broke each rule, the most frequent first."""
    quarantine: str | None
    """Where in the lake the refused rows are; None where there are none."""
    commit: str
    """The commit that made the partition as it is now."""
    digest: str
    """sha256 of the partition's accepted rows."""
    refused_digest: str | None
    """sha256 of its refused rows; None where there are none."""
    repeated_rows: int = 0
    """How many accepted rows other partitions of the table have as well: they count again. Looked for where partitions
    are files with a time, and the contract says nothing of what is unique."""
    shared_with: dict[str, str] = {}
    """In which other partitions rows of the file were found, accepted or refused: by path, sha256 of each as it was
    then. As long as all are as they were, the file need not be read again."""
    cached: bool = False


def found_again(model: str, source: str | None = None, branch: str | None = None) -> list[Ingested] | None:
    """Give what `ingest` would where it has nothing to read and nothing to do; otherwise None."""
    definition, settings = catalog.load(model), load_settings()
    files = files_to_ingest(definition, source)
    if not assemble(settings).has_lake(model):
        return None
    found = []
    with Sync(definition, branch or settings.branch) as sync:
        for file in files:
            try:
                again = sync.recall(file, look_at(file))
            except OSError:
                return None
            if again is None:
                return None
            found.append(again)
    return found


def files_to_ingest(definition: Model, source: str | None) -> list[Path]:
    """List what to ingest, by name; without a source, the model's sample.

    Raises: `NotFound`, `DefinitionError`, `SourceUnavailable`.
    """
    if source is not None:
        return raw_files(Path(source))
    if isinstance(definition.sample, Sample):
        return raw_files(definition.sample.folder)
    if definition.sample is not None:
        return raw_files(_fetched(definition.name, definition.sample))
    raise DefinitionError(f"model {definition.name} has no sample data; name a file or folder to ingest")


def _fetched(model: str, sample: Fetched) -> Path:
    """Give the folder of a model's files, which are fetched once. Raises: `SourceUnavailable`."""
    folder = load_settings().home / "fetched" / model
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{model}-", dir=folder.parent) as place:
            whole = Path(place) / model
            whole.mkdir()
            sample.fetch(whole)
            try:
                whole.rename(folder)
            except OSError:
                if not folder.exists():  # unless another process was faster
                    raise
    return folder


def raw_files(place: Path) -> list[Path]:
    """List a file, or a folder's files, by name. Raises: `NotFound`."""
    if place.is_file():
        return [place]
    if not place.exists():
        raise NotFound(f"{place} does not exist; name a Parquet or CSV file or a folder of them")
    found = (file for file in place.iterdir() if file.suffix.lower() in RAW_SUFFIXES)
    files = sorted(found, key=lambda file: file.name)  # paths themselves compare slowly
    if not files:
        raise NotFound(f"{place} holds no {' or '.join(RAW_SUFFIXES)} file")
    return files


def contract_digest(definition: Model) -> str:
    """Digest what a model asks of its rows."""
    return hashlib.sha256(msgspec.json.encode(definition.contract)).hexdigest()


def quarantine_path(definition: Model, partition: str) -> str:
    """Where a partition's refused rows are."""
    return f"{_quarantine_prefix(definition)}{partition}.parquet"


class Sync:
    """One run: what is remembered of files, and what the lake holds, which is listed once and then kept up."""

    def __init__(self, definition: Model, branch: str) -> None:
        settings = load_settings()
        platform = assemble(settings)
        basis = f"{settings.lake} {contract_digest(definition)} {catalog.sources(definition.name)}"
        self._definition = definition
        self._branch = branch
        self._lake = platform.lake(definition.name)
        self._seen = platform.seen_files(definition.name, branch, basis)
        self._held: dict[str, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.close()

    def recall(self, file: Path, look: Look) -> Ingested | None:
        """Give what became of a file that looks as it did when it was ingested, where the lake still has it."""
        found = self._seen.recall(file, look)
        if found is None:
            return None
        ingested = msgspec.structs.replace(msgspec.json.decode(found, type=Ingested), cached=True)
        return ingested if self.holds(ingested) else None

    def holds(self, found: Ingested) -> bool:
        """Say whether the lake has what became of a file, and nothing has changed for which rows were refused."""
        return self._has(found) and self._has_shared(found)

    def is_outdated(self, found: Ingested) -> bool:
        """Say whether the lake has what became of a file, but no more the partitions in which its rows were found."""
        return self._has(found) and not self._has_shared(found)

    def _has(self, found: Ingested) -> bool:
        held = self._listed()
        accepted, refused = self._places(found)
        return (held.get(accepted), held.get(refused)) == (found.digest, found.refused_digest)

    def _has_shared(self, found: Ingested) -> bool:
        return found.shared_with.items() <= self._listed().items()

    def _listed(self) -> dict[str, str]:
        if self._held is None:
            commit = self._lake.resolve(self._branch)
            folders = (table_prefix(self._definition), _quarantine_prefix(self._definition))
            self._held = {entry.path: entry.digest for folder in folders for entry in self._lake.list(commit, folder)}
        return self._held

    def remember(self, file: Path, look: Look, ingested: Ingested) -> None:
        """Take note of what became of a file; files that made its partition before do not hold any more."""
        if not ingested.cached:
            self._seen.forget(ingested.partition)
            if self._held is not None:
                digests = (ingested.digest, ingested.refused_digest)
                for place, digest in zip(self._places(ingested), digests, strict=True):
                    self._held.pop(place, None)
                    if digest:
                        self._held[place] = digest
        self._seen.remember(file, look, ingested.partition, msgspec.json.encode(ingested))

    def _places(self, found: Ingested) -> tuple[str, str]:
        return partition_path(self._definition, found.partition), quarantine_path(self._definition, found.partition)


def _quarantine_prefix(definition: Model) -> str:
    return f"quarantine/{definition.table}/"
