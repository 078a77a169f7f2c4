"""Tables in the lake: Parquet objects, written so that equal tables give equal bytes, in groups of rows.

A reader touches only the columns that it wants, and of a table that is ordered by time only the groups of rows that are
new enough; nothing else is read, verified or, from a server, fetched.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from infra.lake.protocol import Lake
from models.contract.arrow import without_empty
from models.contract.reading import odd_moment
from models.errors import ContractError

GROUP_ROWS = 64 * 1024
"""How many rows are read together: few enough to leave most of a large table alone, enough to compress well."""
_GROUP_BYTES = 16 << 20
"""Of rows that hold lists fewer are, of so many bytes: writing them takes a dozen times that."""

_COUNTED = re.compile(r"Expected \d+ columns, got")
"""What Arrow says of a file whose columns are parted by something else than commas."""


def encode(table: pd.DataFrame) -> bytes:
    """Write a table as Parquet; its index is dropped."""
    return encode_arrow(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None))


def encode_arrow(table: pa.Table) -> bytes:
    """Write a table as Parquet, with the types that it has."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=_group_rows(table))
    return sink.getvalue()


def _group_rows(table: pa.Table) -> int:
    if not any(map(pa.types.is_nested, table.schema.types)):
        return GROUP_ROWS
    fitting: int = _GROUP_BYTES * table.num_rows // max(1, table.nbytes)
    return max(1, min(GROUP_ROWS, fitting))


@contextmanager
def opened(lake: Lake, commit: str, path: str) -> Iterator[pq.ParquetFile]:
    """Open one table, to read of it what is wanted. Raises: `ContractError` where it is no Parquet, `Corrupt`."""
    with lake.open(commit, path) as file:
        try:
            yield pq.ParquetFile(pa.PythonFile(file, mode="r"))
        except pa.ArrowInvalid as error:
            raise ContractError(f"{path} at {commit} is no Parquet file ({str(error).splitlines()[0]})") from error


def read_arrow(lake: Lake, commit: str, path: str) -> pa.Table:
    """Read one table as it is stored. Raises: `ContractError` where it is no Parquet, `Corrupt`."""
    with opened(lake, commit, path) as table:
        return table.read()


def find(lake: Lake, commit: str, path: str, column: str, value: str) -> dict[str, Any] | None:
    """Read the first row that has a value in a column; None where there is none. Raises: `ContractError`, `Corrupt`."""
    with opened(lake, commit, path) as table:
        for group in range(table.num_row_groups):
            values = table.read_row_group(group, columns=[column]).column(column)
            if (place := pc.index(values, value).as_py()) >= 0:
                row: dict[str, Any] = table.read_row_group(group).slice(place, 1).to_pylist()[0]
                return row
    return None


def without_unused(table: pa.Table) -> pa.Table:
    """Drop from a table's dictionaries the values that no row has, which Parquet would keep."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field, _compact(table.column(place)))
        elif (plain := _without_dictionaries(field.type)) != field.type:
            table = table.set_column(place, field.with_type(plain), table.column(place).cast(plain))
    return table


def _compact(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    whole = column.unify_dictionaries().combine_chunks()
    used = pc.unique(whole.indices.drop_null()).sort()
    places = pc.index_in(whole.indices, value_set=used).cast(kind.index_type)
    return pa.chunked_array([pa.DictionaryArray.from_arrays(places, whole.dictionary.take(used), ordered=kind.ordered)])


def _without_dictionaries(kind: pa.DataType) -> pa.DataType:
    """Give the type of the same values, without dictionaries within lists, maps and structures."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_dictionaries(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_without_dictionaries(kind.key_type), _without_dictionaries(kind.item_type))
    lists = (
        (pa.types.is_list, pa.list_),
        (pa.types.is_large_list, pa.large_list),
        (pa.types.is_fixed_size_list, lambda field: pa.list_(field, kind.list_size)),
    )
    for is_kind, make in lists:
        if is_kind(kind):
            return make(kind.value_field.with_type(_without_dictionaries(kind.value_type)))
    return kind


def read_all(lake: Lake, commit: str, prefix: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read every table under a prefix as one; an empty frame where there is none.

    Returns:
        The rows in path order, and the paths read.

    Raises: `ContractError`, `Corrupt`.
    """
    paths = tuple(entry.path for entry in lake.list(commit, prefix))
    tables = [read(lake, commit, path) for path in paths]
    return (pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()), paths


def read(lake: Lake, commit: str, path: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read one table, or the wanted columns of it. Raises: `ContractError`, `Corrupt`."""
    with opened(lake, commit, path) as file:
        table: pd.DataFrame = file.read(None if columns is None else list(columns)).to_pandas()
    return table


def spanned(lake: Lake, commit: str, path: str, column: str) -> tuple[Any, Any] | None:
    """Give the least and the greatest value of a table's column, of which only what Parquet notes is read.

    None where it notes nothing, as where each value is null. Raises: `ContractError`, `Corrupt`.
    """
    with opened(lake, commit, path) as file:
        if column not in file.schema_arrow.names:
            return None
        groups = (file.metadata.row_group(group) for group in range(file.num_row_groups))
        noted = [group.column(file.schema_arrow.names.index(column)).statistics for group in groups]
        known = [one for one in noted if one is not None and one.has_min_max]
    return (min(one.min for one in known), max(one.max for one in known)) if known else None


def groups(
    lake: Lake, commit: str, path: str, columns: Sequence[str], since: tuple[str, datetime] | None = None
) -> list[int]:
    """Give the places of a table's groups of rows.

    Args:
        columns: what will be read of them.
        since: a time column, and the moment before which all rows of a group must lie to be left out; a wall time
            where the column is one.

    Raises: `ContractError` naming the table where it lacks a wanted column, `Corrupt`.
    """
    with opened(lake, commit, path) as file:
        names = file.schema_arrow.names
        if missing := [name for name in columns if name not in names]:
            raise ContractError(f"{path} lacks columns {missing}, which the contract has by now: ingest its file again")
        places = range(file.num_row_groups)
        if since is None:
            return list(places)
        column = names.index(since[0])
        found = [(place, file.metadata.row_group(place).column(column).statistics) for place in places]
        return [place for place, known in found if known is None or not known.has_min_max or known.max >= since[1]]


def read_group(lake: Lake, commit: str, path: str, group: int, columns: Sequence[str]) -> pd.DataFrame:
    """Read the wanted columns of a table's group of rows. Raises: `ContractError`, `Corrupt`."""
    with opened(lake, commit, path) as file:
        table: pd.DataFrame = file.read_row_group(group, columns=list(columns)).to_pandas()
    return table


def read_raw(name: str, content: bytes, wanted: dict[str, str]) -> pd.DataFrame:
    """Read a raw file's wanted columns: CSV where it is called so, and Parquet otherwise.

    Args:
        name: what to call the file in messages.
        wanted: kind by column: `time`, `integer`, `number`, `text` or `image` (lists of numbers, or of lists of them).

    Raises: `ContractError` naming the file when it is neither, is damaged, lacks a column, has one of another kind or
        has it twice.
    """
    source = pa.BufferReader(content)
    found = read_csv(name, source, wanted) if name.lower().endswith(".csv") else read_parquet(name, source, wanted)
    for place, field in enumerate(found.schema):
        if pa.types.is_date(field.type):
            found = found.set_column(place, field.name, found.column(place).cast(pa.timestamp("us")))
    # Without the note that pandas writes beside the columns: it would turn one of them into an index
    table: pd.DataFrame = found.replace_schema_metadata(None).to_pandas()
    return table


def _refuse_images(name: str, wanted: Mapping[str, str]) -> None:
    if images := [column for column, kind in wanted.items() if kind == "image"]:
        raise ContractError(
            f"{name}: column {images[0]!r} is an image, which no CSV file holds: use Parquet, with lists"
        )


def read_csv(name: str, source: Any, wanted: Mapping[str, str] = MappingProxyType({})) -> pa.Table:
    """Read a CSV file with a header: the wanted columns in their kinds, or all as they seem to be; empty is null.

    Raises: `ContractError` naming the file and what is wrong.
    """
    _refuse_images(name, wanted)
    types = {column: _OF_CSV[kind] for column, kind in wanted.items() if kind in _OF_CSV}
    convert = arrow_csv.ConvertOptions(
        column_types=types, include_columns=list(wanted), null_values=[""], strings_can_be_null=True
    )
    try:
        table = arrow_csv.read_csv(
            source,
            arrow_csv.ReadOptions(use_threads=False),
            arrow_csv.ParseOptions(newlines_in_values=True),
            convert,
        )
        names = table.column_names
    except KeyError as error:  # whose text names the column, and no other that there is
        lacks = str(error.args[0]).partition("in include_columns")[0].strip()
        raise ContractError(
            f"{name}: {lacks[:1].lower()}{lacks[1:]} is missing; give the file its columns in the first line"
        ) from error
    except UnicodeDecodeError as error:  # of the header; of a value it is one of Arrow's
        raise ContractError(f"{name}: its header is no UTF-8; save it as CSV in UTF-8") from error
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        way_out = "; columns are parted by commas, and numbers have points" if _COUNTED.search(reason) else ""
        raise ContractError(f"{name}: it cannot be read as CSV ({reason}){way_out}") from error
    if len(names) == 1 and ";" in names[0]:
        raise ContractError(
            f"{name}: its columns are parted by semicolons; save it with commas, and with decimal points"
        )
    if not len(table):
        raise ContractError(f"{name}: the table has no rows; nothing to ingest")
    for column in (column for column, kind in wanted.items() if kind == "time"):
        if odd := odd_moment(table[column]):
            raise ContractError(f"{name}: column {column!r} should be time: {odd}")
    _check_kinds(name, table.schema, wanted)
    return table


def read_parquet(name: str, source: Any, wanted: Mapping[str, str] = MappingProxyType({})) -> pa.Table:
    """Read a Parquet file: the wanted columns, or all; empty text is null, as it is in CSV.

    Raises: `ContractError` naming the file and what is wrong.
    """
    try:
        file = pq.ParquetFile(source)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{name}: not a Parquet file ({str(error).splitlines()[0]})") from error
    _check_kinds(name, schema, wanted)
    try:
        table = file.read(columns=list(wanted)).select(list(wanted)) if wanted else file.read()
        return _without_empty(_without_decimals(table))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{name}: the file is damaged ({str(error).splitlines()[0]})") from error


def _without_decimals(table: pa.Table) -> pa.Table:
    """Have floats for decimals, which a database may write: what computes with rows takes them for texts."""
    for place, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.float64(), safe=False))
    return table


def _without_empty(table: pa.Table) -> pa.Table:
    for place, field in enumerate(table.schema):
        if _is_text(field.type):
            column = table.column(place)
            texts = column.cast(field.type.value_type) if pa.types.is_dictionary(field.type) else column
            if pc.any(pc.equal(texts, "")).as_py():
                table = table.set_column(place, field.name, without_empty(texts))
    return table


def _check_kinds(name: str, schema: pa.Schema, wanted: Mapping[str, str]) -> None:
    names = schema.names
    if missing := [column for column in wanted if column not in names]:
        raise ContractError(f"{name}: columns {missing} are missing; the file has {names}")
    if repeated := [column for column in wanted if names.count(column) > 1]:
        raise ContractError(f"{name}: columns {repeated} are there more than once; the file has {names}")
    for column, kind in wanted.items():
        if not _IS[kind](schema.field(column).type):
            said = "lists of numbers" if kind == "image" else kind
            raise ContractError(f"{name}: column {column!r} should be {said}, it is {schema.field(column).type}")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_moment(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _may_be_whole(kind: pa.DataType) -> bool:
    """Gaps make whole numbers floats, or a column of nothing; a fraction is set apart with its row."""
    return _is_number(kind) or bool(pa.types.is_boolean(kind) or pa.types.is_null(kind))


def _is_image(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    plain = kind.value_type
    return _is_image(plain) or bool(pa.types.is_integer(plain) or pa.types.is_floating(plain))


_IS = {
    "time": _is_moment,
    "integer": _may_be_whole,
    "number": _is_number,
    "text": _is_text,
    "image": _is_image,
}
_OF_CSV = {"number": pa.float64(), "text": pa.string()}
"""The types of others follow from how they are written."""
