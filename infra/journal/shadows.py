"""What challengers answered in the shadow: a record beside the journal's, never among its predictions.

A row has the id of the champion's answer, by which the label that comes later is found; its inputs are in the
champion's record. Segments are those of `infra.journal.segments`, one a process, in a folder of their own. What was not
written yet is lost in a kill; what cannot be written is the caller's to count.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from infra.errors import NotFound, Unavailable
from infra.folders import make_folder
from infra.journal import segments
from infra.journal.answers import Answers
from infra.journal.ids import put_together
from infra.journal.segments import ANSWERED_AT, SEGMENT_BYTES, SEGMENT_S, Sealed, Writer
from models.contract import arrow
from models.contract.answers import are_finite
from models.contract.rows import Array

_COLUMNS = ("id", "version", "champion", "served", "predicted", ANSWERED_AT)
"""The versions of challenger and champion, and what the champion and the challenger answered."""


def batch_of(
    version: str, answers: Sequence[Answers], predicted: Array, repeated: Sequence[Collection[str]]
) -> pa.RecordBatch:
    """Make a batch of what a challenger answered as well as a champion.

    Args:
        version: the challenger's.
        answers: the champion's, of one version; more may be there than were answered.
        predicted: the challenger's, of the first N rows; what is not finite becomes null.
        repeated: of each answers, names that are left out, for they stand for earlier rows.
    """
    count = len(predicted)
    served = np.concatenate([one.values for one in answers])
    answered_ms = np.concatenate([one.answered_ms for one in answers])
    batch = pa.RecordBatch.from_arrays(
        [
            put_together([one.ids for one in answers]).arrow().slice(0, count),
            arrow.repeated(version, count),
            arrow.repeated(answers[0].version, count),
            arrow.answers(served[:count]),
            arrow.answers(predicted, ~are_finite(predicted)),
            arrow.numbers(pa.timestamp("us", "UTC"), answered_ms[:count] * 1000),
        ],
        _COLUMNS,
    )
    if not any(repeated):
        return batch
    kept, start = np.ones(len(answered_ms), bool), 0
    for one, names in zip(answers, repeated, strict=True):
        kept[[start + place for place, name in one.ids.given.items() if name in names]] = False
        start += len(one.ids)
    return batch.filter(arrow.flags(kept[:count]))


class Shadows:
    """The record of one journal's shadows; made at its first write. One thread may append, anyone may read.

    Args:
        folder: where it is.
        maximum_bytes: with more in its segments than this, it counts as full.
    """

    def __init__(self, folder: Path, maximum_bytes: int) -> None:
        self._folder = folder
        self._maximum_bytes = maximum_bytes
        self._writer = Writer(folder, SEGMENT_BYTES, SEGMENT_S)

    def append(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Make batches durable, all or none. Raises: `Unavailable`, where too much waits to be archived as well."""
        batch = pa.Table.from_batches(batches).combine_chunks().to_batches()
        try:
            make_folder(self._folder)
            used = segments.size_of(self._folder)
            if used > self._maximum_bytes:
                raise Unavailable(f"{used >> 20} MiB of shadows wait to be archived: run `okruh monitor`")
            for one in batch:
                self._writer.prepare(one.schema)
                while not self._writer.append(one):
                    self._writer.prepare(one.schema)
            self._writer.keep()
        except OSError as error:
            with suppress(OSError):
                self._writer.take_back()
            raise Unavailable(f"{self._folder} cannot be written: {error}") from error

    def close(self) -> None:
        """Leave the segment to whoever seals it."""
        self._writer.close()

    def seal(self) -> list[Sealed]:
        """Complete every segment that has rows, whoever writes it, and list what is complete. Raises: `Unavailable`."""
        try:
            for path in segments.open_segments(self._folder):
                segments.seal(path)
            return segments.sealed_segments(self._folder)
        except OSError as error:
            raise Unavailable(f"{self._folder} cannot be written: {error}") from error

    def table(self, sealed: Sealed) -> pa.Table:
        """Read a segment. Raises: `NotFound`."""
        batches = list(segments.read(sealed.path))
        if not batches:
            raise NotFound(f"segment {sealed.path} has gone")
        return pa.Table.from_batches(batches).replace_schema_metadata(None)

    def archived(self, sealed: Sequence[Sealed]) -> None:
        """Remove segments that are kept elsewhere by now. Raises: `Unavailable`."""
        try:
            for one in sealed:
                one.path.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"{self._folder} cannot be written: {error}") from error

    def batches(self, is_archived: Callable[[Sealed], bool]) -> Iterator[pa.RecordBatch]:
        """Read what is not archived yet."""
        sealed = [one.path for one in segments.sealed_segments(self._folder) if not is_archived(one)]
        for path in [*sealed, *segments.open_segments(self._folder)]:
            yield from segments.read(path)
