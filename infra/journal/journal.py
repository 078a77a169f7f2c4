"""The durable record of answered predictions and of labels that came later.

A folder a model and branch. Predictions are columns in segments (`infra.journal.segments`), of which each process
writes one at a time; an index (`infra.journal.index`) has the labels, and the rows that callers named. What `append`
was given is on disk before its future resolves, so that whoever waits for it before answering never answers what is
not recorded. One thread writes: whatever arrives during a write becomes the next one, so that a disk's flush is paid
once for all that wait for it. A name is recorded once, a label once; the first one stays, and whoever brings another is
told.

Where names are among them, the rows are durable before the names are: what a kill leaves between the two has no name
that stands for it, and is left out when the segment is archived, unless nobody has used the name since.

A write that fails (disk full, folder not writable) fails the futures that waited for it and nothing else: what it left
in segments is taken back, and the next one starts afresh. Several processes may write and read one journal at a time.
"""

import fcntl
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import Misconfigured, NotFound, Unavailable
from infra.folders import make_folder, sync_folder
from infra.journal import index, segments
from infra.journal.answers import NAMED, Answers, Kept, Prediction, batch_of, named_in, prediction, read, row_digest
from infra.journal.ids import KEY_BYTES, SLOTS, Mint, given_out_at
from infra.journal.index import Index, Label, LabelOutcome, Named
from infra.journal.segments import SEGMENT_BYTES, SEGMENT_S, Sealed, Writer
from infra.journal.shadows import Shadows

_MEASURE_S = 1.0
_TRIED_BYTES = 64 << 10


class Counts(NamedTuple):
    """How much is recorded, archived or not."""

    predictions: int
    labels: int


Recorded = Mapping[str, bytes]
"""What names that came again stand for (`row_digest`)."""


class _Group:
    """What is written next, and who waits for it."""

    def __init__(self) -> None:
        self.answers: list[Answers] = []
        self.labels: list[tuple[Sequence[Label], Future[list[LabelOutcome]]]] = []
        self.done: Future[Recorded] = _uncancellable()
        self.awaited = False
        """Whether somebody waits for it."""

    def refuse(self, error: Unavailable) -> None:
        """Leave the answers out; the labels stay."""
        self.done.set_exception(error)
        self.answers = []

    def fail(self, error: Unavailable) -> None:
        """Tell everybody who waits."""
        if not self.done.done():
            self.done.set_exception(error)
        for _, outcomes in self.labels:
            outcomes.set_exception(error)


class Journal:
    """One model's record on one branch. Thread-safe; made at the first use.

    Args:
        folder: where it is.
        keep_days: how long after an answer its label is taken.
        maximum_bytes: with more in its segments than this, a journal counts as full.
    """

    def __init__(self, folder: Path, keep_days: float = 365.0, maximum_bytes: int = 16 << 30) -> None:
        self.folder = folder
        self.failure: str | None = None
        """Why the last write failed; None when it did not."""
        self._keep_days = keep_days
        self._maximum_bytes = maximum_bytes
        self._index_path = folder / "index.sqlite"
        self._segments = folder / "segments"
        self.shadows = Shadows(folder / "shadows", maximum_bytes)
        """What challengers answered as well."""
        self._wake = threading.Condition()
        self._group = _Group()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._measured_s = -_MEASURE_S
        self._slots: list[int] = []

    def mint(self) -> Mint:
        """Give what makes ids for this process; its slot is held until this is closed. Raises: `Unavailable`."""
        try:
            with self._translated("written"):
                self._make()
                number, lock = _claim_slot(self.folder / "slots")
                self._slots.append(lock)
                return Mint(self._key(), number)
        except Unavailable as error:
            self.failure = str(error)
            raise

    def append(self, answers: Sequence[Answers]) -> Future[Recorded]:
        """Record answers; the future resolves when they are durable, or with `Unavailable`.

        Everything that one write makes durable shares one future; it cannot be cancelled. It gives what every name that
        was there before stands for: where that is another row, the new one was not recorded.

        Where nothing is given, nothing is written, unless the last write failed: then the disk is tried, so that
        whoever waits for better times hears of them.
        """
        with self._next_group() as group:
            group.answers.extend(answers)
            return group.done

    def append_labels(self, labels: Sequence[Label]) -> Future[list[LabelOutcome]]:
        """Record labels; the future gives each one's outcome when the kept ones are durable, or `Unavailable`."""
        outcomes: Future[list[LabelOutcome]] = _uncancellable()
        with self._next_group() as group:
            group.labels.append((labels, outcomes))
        return outcomes

    def close(self) -> None:
        """Write what waits and stop; later appends are `Unavailable`."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        while self._slots:
            os.close(self._slots.pop())

    def counts(self) -> Counts:
        """Count predictions and labels. Raises: `Unavailable`."""
        (archived,) = index.look(self._index_path, "SELECT total(rows) FROM archived") or [(0,)]
        here = sum(batch.num_rows for batch in self._batches())
        return Counts(int(archived[0]) + here, self.last_label())

    def last_label(self) -> int:
        """Say how far the labels reach; what lies up to there never changes. Raises: `Unavailable`."""
        found = index.look(self._index_path, "SELECT seq FROM sqlite_sequence WHERE name = 'labels'")
        return int(found[0][0]) if found else 0

    def predictions(self) -> Iterator[Prediction]:
        """Read what is not archived yet. Raises: `Unavailable`."""
        for batch in self._batches():
            yield from map(prediction, batch.drop_columns([NAMED]).to_pylist())

    def identity(self) -> str:
        """Give what tells this journal from others; nothing where it was never written."""
        return hashlib.sha256(self._key()).hexdigest()[:12] if self._key_path.exists() else ""

    def labels(self, after: int = 0, until: int | None = None) -> list[Label]:
        """Read the labels with sequence numbers in (after, until], in order. Raises: `Unavailable`."""
        return index.labels(self._index_path, after, until)

    def seal(self) -> list[Sealed]:
        """Complete every segment that has rows, whoever writes it, and list what is complete. Raises: `Unavailable`."""
        with self._translated("written"):
            for path in segments.open_segments(self._segments):
                segments.seal(path)
            return segments.sealed_segments(self._segments)

    def table(self, sealed: Sealed) -> pa.Table:
        """Read a segment, less the rows whose names stand for rows of others. Raises: `NotFound`, `Unavailable`."""
        with self._translated("read"):
            batches = list(read(sealed.path))
        if not batches:
            raise NotFound(f"segment {sealed.path} has gone")
        table = pa.Table.from_batches(batches)
        named = np.flatnonzero(table[NAMED].to_numpy())
        names = table["id"].take(pa.array(named)).to_pylist() if len(named) else []
        own = segments.name_of(batches[0])
        with self._open_index() as opened:
            placed = opened.place(names)
            if unplaced := [
                named_in(table, at) for at, name in zip(named.tolist(), names, strict=True) if name not in placed
            ]:
                with opened.transaction():  # whoever writes waits for as little as this
                    meanwhile = opened.place([one.id for one in unplaced])
                    opened.name([one for one in unplaced if one.id not in meanwhile], own)
                placed |= meanwhile
        rest = [at for at, name in zip(named.tolist(), names, strict=True) if placed.get(name, own) != own]
        kept = np.ones(table.num_rows, bool)
        kept[rest] = False
        return table.filter(pa.array(kept)).drop_columns([NAMED]).replace_schema_metadata(None)

    def archived(self, rows: Mapping[Sealed, int], labels_until: int) -> None:
        """Remove segments that are kept elsewhere by now, and forget what is too old. Raises: `Unavailable`."""
        with self._translated("written"):
            if not self.folder.exists():
                return
            with self._open_index() as opened, opened.transaction():
                opened.archived({sealed.digest: count for sealed, count in rows.items()})
                opened.forget(index.remembered_since(self._keep_days), labels_until)
            for sealed in rows:
                sealed.path.unlink(missing_ok=True)

    def answered_at(self, name: str) -> datetime | None:
        """Say when a prediction was answered; None where its id is not known. Raises: `Unavailable`."""
        found = index.look(self._index_path, "SELECT answered_at FROM names WHERE id = ?", name)
        if found:
            return datetime.fromisoformat(found[0][0])
        return given_out_at(self._key(), name) if self._key_path.exists() else None

    def find(self, name: str) -> Prediction:
        """Read one prediction that is not archived yet. Raises: `NotFound`, `Unavailable`."""
        answered_at = self.answered_at(name)
        if answered_at is not None:
            sealed = [
                one.path for one in segments.sealed_segments(self._segments) if one.first <= answered_at <= one.last
            ]
            for path in [*segments.open_segments(self._segments), *sealed]:
                for batch in read(path):
                    if (place := pc.index(batch["id"], name).as_py()) >= 0:
                        return prediction(batch.slice(place, 1).drop_columns([NAMED]).to_pylist()[0])
        raise NotFound(f"no prediction has the id {name!r} in journal {self.folder.name}")

    def label(self, name: str) -> Label | None:
        """Read one prediction's label; None where there is none, or it is not remembered. Raises: `Unavailable`."""
        query = "SELECT id, value, known_at FROM labels WHERE id = ?"
        found = index.look(self._index_path, query, name)
        return Label(id=name, value=found[0][1], known_at=datetime.fromisoformat(found[0][2])) if found else None

    @property
    def _key_path(self) -> Path:
        return self.folder / "key"

    def _batches(self) -> Iterator[pa.RecordBatch]:
        sealed = [one.path for one in segments.sealed_segments(self._segments)]
        for path in [*sealed, *segments.open_segments(self._segments)]:
            yield from read(path)

    def _make(self) -> None:
        """Make the folders and the key, where they are missing. Raises: `OSError`, `Misconfigured`."""
        old = self.folder.with_suffix(".sqlite")
        if old.exists():
            raise Misconfigured(f"{old} is a journal of an earlier version: archive it with that, then move it away")
        for folder in (self._segments, self.folder / "slots"):
            make_folder(folder)
        if not self._key_path.exists():
            made = self.folder / f"key-{os.getpid()}-{threading.get_ident()}"
            with made.open("wb") as file:
                file.write(os.urandom(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(made, self._key_path)  # whoever comes first has made it, whole
            made.unlink()
            sync_folder(self.folder)

    def _key(self) -> bytes:
        return self._key_path.read_bytes()

    @contextmanager
    def _open_index(self) -> Iterator[Index]:
        self._make()
        opened = Index(self._index_path, self._key())
        try:
            yield opened
        finally:
            opened.close()

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"journal {self.folder} cannot be {what}: {error}") from error

    @contextmanager
    def _next_group(self) -> Iterator[_Group]:
        with self._wake:
            if self._closing:
                raise Unavailable(f"journal {self.folder} is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_groups, name="journal", daemon=True)
                self._thread.start()
            self._group.awaited = True
            yield self._group
            self._wake.notify()

    def _write_groups(self) -> None:
        opened: Index | None = None
        writer = Writer(self._segments, SEGMENT_BYTES, SEGMENT_S)
        while group := self._take_group():
            try:
                if opened is None:
                    self._make()
                    opened = Index(self._index_path, self._key())
                if self.failure is not None and not group.answers and not group.labels:
                    _try_out(self.folder)
                full = self._full()
                if full is not None and group.answers:
                    group.refuse(Unavailable(full))
                recorded, outcomes = _write(opened, writer, group, self._keep_days)
            except Exception as error:  # noqa: BLE001 (whoever waits must be told, or waits for ever)
                self.failure = str(error)
                with suppress(OSError):  # then rows stay that are refused: who asks again is recorded twice, not lost
                    writer.take_back()
                group.fail(self._unwritable(error))
                _close(opened)
                opened = None
                continue
            writer.keep()
            self.failure = full
            if not group.done.done():
                group.done.set_result(recorded)
            for (_, waiting), outcome in zip(group.labels, outcomes, strict=True):
                waiting.set_result(outcome)
        writer.close()
        _close(opened)

    def _full(self) -> str | None:
        """Say that too much waits to be archived; None where it does not."""
        now = time.monotonic()
        if now < self._measured_s + _MEASURE_S:
            return None
        used = segments.size_of(self._segments)
        if used > self._maximum_bytes:
            waits = f"{used >> 20} MiB wait to be archived, at most {self._maximum_bytes >> 20} shall"
            return f"{waits}: run `okruh monitor`, which archives, or set OKRUH_JOURNAL_MIB"
        self._measured_s = now
        return None

    def _take_group(self) -> _Group | None:
        """Wait for something to write; None when there is nothing left and the journal closes."""
        with self._wake:
            while not self._group.awaited:
                if self._closing:
                    return None
                self._wake.wait()
            group, self._group = self._group, _Group()
            return group

    def _unwritable(self, error: Exception) -> Unavailable:
        failure = Unavailable(f"journal {self.folder} cannot be written ({error}): free space or check its permissions")
        failure.__cause__ = error
        return failure


def _write(opened: Index, writer: Writer, group: _Group, keep_days: float) -> tuple[Recorded, list[list[LabelOutcome]]]:
    """Make a group durable; give what its repeated names stand for, and the outcomes of its labels."""
    if not group.labels and not any(one.ids.given for one in group.answers):
        _append(writer, [Kept(one) for one in group.answers])
        return {}, []
    with opened.transaction():
        repeated, kept = _new(opened, group.answers)
        for segment, written in _append(writer, kept):
            opened.name([name for one in written for name in one.names], segment)
        since = index.remembered_since(keep_days)
        return repeated, [opened.label(labels, since) for labels, _ in group.labels]


def _new(opened: Index, answers: Sequence[Answers]) -> tuple[Recorded, list[Kept]]:
    """Give what names stand for that came again, and what is to be recorded."""
    known = opened.recorded([name for one in answers for name in one.ids.given.values()])
    repeated, kept = dict[str, bytes](), list[Kept]()
    for one in answers:
        mask, names = np.ones(len(one.ids), bool), list[Named]()
        for place, name in one.ids.given.items():
            if name in known:
                repeated[name] = known[name]
                mask[place] = False
            else:
                known[name] = row_digest(one.columns, place)
                names.append(Named(name, known[name], one.answered_at(place)))
        kept.append(Kept(one, mask, names))
    return repeated, kept


def _append(writer: Writer, kept: Sequence[Kept]) -> list[tuple[str, list[Kept]]]:
    """Make answers durable; give the names of the segments, and what is in each."""
    done, rest = [], list(kept)
    while rest:
        contract = rest[0].answers.contract
        some = [one for one in rest if one.answers.contract.inputs == contract.inputs]
        rest = [one for one in rest if one.answers.contract.inputs != contract.inputs]
        batch = batch_of(contract, some)
        if batch.num_rows:
            writer.prepare(batch.schema)
            while not writer.append(batch):
                writer.prepare(batch.schema)
            done.append((writer.name, some))
    return done


def _try_out(folder: Path) -> None:
    """Write something and remove it. Raises: `OSError`."""
    with TemporaryFile(dir=folder) as file:
        file.write(bytes(_TRIED_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _claim_slot(folder: Path) -> tuple[int, int]:
    """Take a number that nobody else has, and give it with the descriptor of its lock. Raises: `OSError`."""
    for number in range(SLOTS):
        file = os.open(folder / f"{number}.lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            return number, file
    raise OSError(f"{SLOTS} processes write {folder.parent}")


def _close(opened: Index | None) -> None:
    """Close what may be broken; the next write opens another."""
    if opened is not None:
        with suppress(sqlite3.Error):
            opened.close()


def _uncancellable() -> Future[Any]:
    """Make a future that many may wait for, so that none of them may cancel it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
