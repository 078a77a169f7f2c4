"""Rows that come again under another file's name: which of a file's rows other partitions of its table have.

What a partition spans in time is noted in its footer, so that one of another time costs no more than that, once a
process. Of one that overlaps, the columns in question are read and hashed, once a process as well: some seconds for
a million rows of ten, and 8 bytes a row from then on. Hashes are compared with those of each partition that overlaps:
N files of one time cost N² / 2 comparisons, of some 2 ms for ten thousand rows and a second for a million. Where each
file is ingested by a process of its own, all that overlap it are read each time.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from infra import tables
from infra.dataset import partition_path, table_prefix
from infra.lake.protocol import Entry, Lake
from models.contract import images
from models.contract.columns import Contract, Image
from models.model import Model

Hashes = npt.NDArray[np.uint64]
"""[N]: 64 bits a row. Two files of a million rows are taken to have one in common with odds of 1 to 20 million."""

Repeated = npt.NDArray[np.bool_]
"""[N]: whether a row is another's again."""

_spanned: dict[tuple[str, str], tuple[Any, Any] | None] = {}
"""By digest and column: while a thousand files are ingested, the footers would be opened half a million times."""

_hashed: dict[tuple[str, tuple[str, ...], Image | None], Hashes] = {}
"""By digest, columns and how images are read: none where a file lacks any of the columns."""

_NULL = np.iinfo(np.uint64).max  # 0 is what 0 is hashed to


def rows_elsewhere(model: Model, lake: Lake, commit: str, partition: str, rows: pd.DataFrame) -> dict[Entry, Repeated]:
    """Find the rows that other partitions of the table have already: equal in what `unique` names, or else in all.

    A partition without these columns, or with others of their names, is of an older contract and has none of the rows.

    Args:
        partition: the one that the rows shall be, which does not count.
        rows: accepted by the contract, which has a time.

    Returns:
        For each partition that has any: which of the rows.

    Raises: `ContractError`, `Corrupt`.
    """
    contract, found = model.contract, dict[Entry, Repeated]()
    time, columns = contract.time_column.name, list(contract.unique or rows.columns)
    first, last = rows[time].min(), rows[time].max()
    asked = _hashes(_keys(contract, pa.Table.from_pandas(rows[columns], preserve_index=False)))
    for entry in lake.list(commit, table_prefix(model)):
        if entry.path == partition_path(model, partition):
            continue
        if (known := (entry.digest, time)) not in _spanned:
            _spanned[known] = tables.spanned(lake, commit, entry.path, time)
        span = _spanned[known]
        if span is None or (span[0].tzinfo is None) != (first.tzinfo is None) or span[1] < first or last < span[0]:
            continue
        if (key := (entry.digest, tuple(columns), contract.image)) not in _hashed:
            with tables.opened(lake, commit, entry.path) as file:
                has_all = set(columns) <= set(file.schema_arrow.names)
                others = _keys(contract, file.read(columns).select(columns)) if has_all else None
            _hashed[key] = np.zeros(0, np.uint64) if others is None else _hashes(others)
        again = np.isin(asked, _hashed[key])
        if again.any():
            found[entry] = again
    return found


def _keys(contract: Contract, rows: pa.Table) -> pa.Table:
    """Have digests stand for images, as lists can be no keys."""
    image = contract.image
    if image is None or image.name not in rows.column_names:
        return rows
    digests = images.digests(image, rows[image.name].to_pandas())
    return rows.set_column(rows.column_names.index(image.name), image.name, pa.array(digests))


def _hashes(rows: pa.Table) -> Hashes:
    """Hash rows, of each value what it is and not the kind of its column: 1 is 1.0, and null is null."""
    columns = {name: _hashes_of_values(rows[name]) for name in rows.column_names}
    hashes: npt.NDArray[Any] = pd.util.hash_pandas_object(pd.DataFrame(columns), index=False).to_numpy()
    return hashes


def _hashes_of_values(column: pa.ChunkedArray) -> Hashes:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    if pa.types.is_integer(column.type):
        hashes = pd.util.hash_array(column.fill_null(0).to_numpy().astype(np.int64))
    elif pa.types.is_floating(column.type):
        values = column.fill_null(0).to_numpy().astype(np.float64)
        with np.errstate(invalid="ignore"):
            whole = values.astype(np.int64)
        hashes = np.where(whole == values, pd.util.hash_array(whole), pd.util.hash_array(values))
    else:
        hashes = pd.util.hash_array(column.to_pandas().to_numpy(object))
    return np.where(column.is_null().to_numpy(), _NULL, hashes)
