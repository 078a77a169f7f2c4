"""Rows that come again under another file's name: which of a file's rows other partitions of its table have.

What a partition spans in time is noted in its footer, so that one of another time costs no more than that, once a
process. Of one that overlaps, the columns in question are read and hashed: some seconds for a million rows of ten.
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
from models.contract.columns import Contract
from models.model import Model

Repeated = npt.NDArray[np.bool_]
"""[N]: whether a row is another's again."""

_spanned: dict[tuple[str, str], tuple[Any, Any] | None] = {}
"""By digest and column: while a thousand files are ingested, the footers would be opened half a million times."""


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
    asked = _keys(contract, pa.Table.from_pandas(rows[columns], preserve_index=False))
    for entry in lake.list(commit, table_prefix(model)):
        if entry.path == partition_path(model, partition):
            continue
        if (known := (entry.digest, time)) not in _spanned:
            _spanned[known] = tables.spanned(lake, commit, entry.path, time)
        span = _spanned[known]
        if span is None or (span[0].tzinfo is None) != (first.tzinfo is None) or span[1] < first or last < span[0]:
            continue
        with tables.opened(lake, commit, entry.path) as file:
            if not set(columns) <= set(file.schema_arrow.names):
                continue
            others = file.read(columns).select(columns)
        again = _in_common(asked, _keys(contract, others))
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


def _in_common(rows: pa.Table, others: pa.Table) -> Repeated:
    """Say which rows are among others of the same columns; null is null, and what is of another kind differs."""
    try:
        both = pa.concat_tables([others, rows], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return np.zeros(len(rows), bool)
    # 64 bits: two rows of a million by a million others are taken for one with odds of 1 to 20 million
    hashes = pd.util.hash_pandas_object(both.to_pandas(), index=False).to_numpy()
    return np.isin(hashes[len(others) :], hashes[: len(others)])
