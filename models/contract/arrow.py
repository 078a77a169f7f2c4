"""Rows as Arrow: columns that were accepted, as tables keep them, and requests that come as an Arrow stream.

A request is checked as one of JSON is, column by column instead of row by row: 10,000 rows cost a millisecond. What
comes is not trusted: types are compared before anything is read, everything is validated by Arrow, and compressed
streams are refused, since they can hold a thousand times their size.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.contract import images
from models.contract.clock import EARLIEST, LATEST, SECOND, Microseconds, moments
from models.contract.columns import MISSING_CODE, Category, Contract, Image, Input, Lag, Number, Time
from models.contract.rows import (
    ID,
    LONGEST_ID,
    MAXIMUM_ROWS,
    SHOWN,
    Array,
    Columns,
    Rows,
    TooManyRows,
    broken_contract,
    broken_rule,
    expected,
    refuse_repeated,
)
from models.errors import ContractError, Violation

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

_LOOKED_UP = 1 << 16
_WRITTEN_OUT_BYTES = 16 << 20
_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

Mask = npt.NDArray[np.bool_]


class NotArrow(ContractError):
    """The body is no Arrow stream that is read."""


def schema(contract: Contract) -> pa.Schema:
    """Give the types that a contract's inputs have in tables."""
    return pa.schema([(column.name, _type(column)) for column in contract.inputs])


def arrays(contract: Contract, columns: Columns) -> list[pa.Array]:
    """Give columns in the types of `schema`, nulls as nulls; nothing is copied but text."""
    return [_array(column, columns[column.name]) for column in contract.inputs]


def event_at(zone: str | None, times_us: Any) -> pa.Array:
    """Give what a time column says as moments, aware, UTC; `zone` is that of its wall clock, None where it has none."""
    return _timestamps(times_us if zone is None else moments(zone, times_us), "UTC")


def text(values: Sequence[str]) -> pa.Array:
    """Give strings as Arrow; `pa.array` does so as well, but imports pandas where there is one."""
    encoded = [value.encode() for value in values]
    ends = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum(list(map(len, encoded)), out=ends[1:])
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def without_empty(texts: pa.Array) -> pa.Array:
    """Give strings, null where they are empty."""
    return pc.if_else(pc.equal(texts, pa.scalar("", texts.type)), pa.scalar(None, texts.type), texts)


def repeated(value: str, count: int) -> pa.Array:
    """Give one string so many times as Arrow."""
    content = value.encode()
    ends = np.arange(count + 1, dtype=np.int32) * np.int32(len(content))
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(content * count))


def numbers(kind: pa.DataType, values: Array, null: Mask | None = None) -> pa.Array:
    """Give an array of numbers as Arrow, without a copy."""
    values = np.ascontiguousarray(values)
    valid = None if null is None or not null.any() else pa.py_buffer(np.packbits(~null, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(values)])


def answers(values: Array, null: Mask | None = None) -> pa.Array:
    """Give answers (`models.contract.answers`) as Arrow: numbers in 64 bits, or lists of K probabilities in 32."""
    if values.ndim == 1:
        return numbers(pa.float64(), values.astype(np.float64), null)
    flat = numbers(pa.float32(), values.astype(np.float32).reshape(-1))
    mask = None if null is None else flags(null)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def labels(target: Category, places: Array) -> pa.Array:
    """Give values of a category, by their places, as Arrow."""
    if target.is_text:
        return text(target.values).take(numbers(pa.int64(), places))  # type: ignore[arg-type]  # all are text
    return numbers(pa.int64(), np.array(target.values, np.int64)[places])


def label_type(target: Number | Category) -> pa.DataType:
    """Give the type of what turns out to be true."""
    return _type(target)


def flags(values: Mask) -> pa.Array:
    """Give an array of truth values as Arrow."""
    packed = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, packed])


def _timestamps(moments_us: Microseconds, zone: str | None) -> pa.Array:
    return numbers(pa.timestamp("us", zone), moments_us)


def _type(column: Input) -> pa.DataType:
    if isinstance(column, Time):
        return pa.timestamp("us", None if column.zone else "UTC")
    if isinstance(column, Number):
        return pa.float64()
    if isinstance(column, Image):
        return pa.list_(pa.uint8() if column.whole else pa.float32(), column.size)
    return pa.string() if column.is_text else pa.int64()


def _array(column: Input, values: Any) -> pa.Array:
    kind = _type(column)
    if isinstance(column, Number):
        return numbers(kind, values, np.isnan(values))
    if isinstance(column, Time):
        return numbers(kind, values)
    if isinstance(column, Image):
        return pa.FixedSizeListArray.from_arrays(numbers(kind.value_type, values.reshape(-1)), type=kind)
    if not column.is_text:
        return numbers(kind, values, values == MISSING_CODE)
    found = text(values)
    return without_empty(found) if column.nullable else found


class _Read(NamedTuple):
    """A column of a request as an array of `Columns`, and which rows break its rule."""

    values: Array
    broken: Mask


def decode(contract: Contract, body: bytes) -> Rows:
    """Decode a request: an Arrow stream with a column for each of the contract's inputs and, if wanted, `id`.

    Numbers are of any numeric type, NaN or null for null; categories of any integer or text type, dictionaries too;
    times are timestamps of any unit, with a zone if and only if the contract's are instants. Images are lists of any
    numeric type, of all numbers row by row, or of lists.

    Raises: `NotArrow`, `TooManyRows`, and otherwise `ContractError` with at most five violations.
    """
    found = _read(contract, body)
    read, broken = _compared(contract, found)
    if broken.any():
        rows = np.flatnonzero(broken)[:SHOWN].tolist()
        raise broken_contract([one for row in rows for one in _violations(contract, found, read, row)][:SHOWN])
    columns = {name: one.values for name, one in read.items()}
    return Rows(len(broken), _ids(found), columns=columns)


def refused(contract: Contract, table: pa.Table) -> list[Violation]:
    """Give every rule that `decode` would find broken, in the order of the rows; but of ids.

    Raises: `ContractError` where columns are missing, unknown or of a wrong type.
    """
    _check(contract, table.schema)
    found = {column.name: table.column(column.name).combine_chunks() for column in contract.inputs}
    read, broken = _compared(contract, found)
    return [one for row in np.flatnonzero(broken).tolist() for one in _violations(contract, found, read, row)]


def _compared(contract: Contract, found: Mapping[str, pa.Array]) -> tuple[dict[str, _Read], Mask]:
    """Read each column; say which rows break a rule."""
    read = {column.name: _READ[type(column)](column, found[column.name]) for column in contract.inputs}
    broken: Mask = np.logical_or.reduce([one.broken for one in read.values()])
    return read, broken


def _violations(
    contract: Contract, found: Mapping[str, pa.Array], read: Mapping[str, _Read], row: int
) -> Iterator[Violation]:
    for column in contract.inputs:
        if read[column.name].broken[row]:
            value = found[column.name][row]
            is_time = isinstance(column, Time) and value.is_valid
            shown = f"{value.value} {value.type.unit} since 1970" if is_time else value.as_py()
            if isinstance(column, Image):
                shown = images.as_lists(column, shown)
            yield Violation(column.name, broken_rule(column, None if shown != shown else shown), row)  # NaN


def _read(contract: Contract, body: bytes) -> dict[str, pa.Array]:
    """Read the columns of a stream. Raises: `NotArrow`, `TooManyRows`, `ContractError`."""
    try:
        batches, rows = [], 0
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            declared = stream.schema  # pa.ipc.read_schema takes any message for one, and the process ends
            _check(contract, declared)
            messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
            messages.read_next_message()
            if any(map(_is_compressed, messages)):
                raise NotArrow("the Arrow stream is compressed, which is not read: send it as it is")
            for batch in stream:
                rows += batch.num_rows
                if rows > MAXIMUM_ROWS:
                    raise TooManyRows(f"a request carries at most {MAXIMUM_ROWS} rows, this one more; send it in parts")
                batches.append(batch)
        table = pa.Table.from_batches(batches, declared)
        table.validate(full=True)
        columns = {name: table.column(name).combine_chunks() for name in declared.names}
    except (pa.ArrowException, OSError, StopIteration, struct.error, UnicodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise NotArrow(f"the body is no Arrow stream: {reason}") from error
    if not rows:
        raise broken_contract([Violation("rows", f"expected 1 to {MAXIMUM_ROWS} rows, got none")])
    return columns


def _check(contract: Contract, declared: pa.Schema) -> None:
    """Compare a stream's columns and their types with the contract. Raises: `ContractError`."""
    wanted = {column.name: column for column in contract.inputs}
    found = []
    for name in sorted(set(declared.names)):
        if declared.names.count(name) > 1:
            found.append(Violation(name, "the column is there twice"))
        elif name not in wanted and name != ID:
            found.append(Violation(name, f"unknown column: the model takes {', '.join(wanted)}"))
    for name, column in wanted.items():
        if name not in declared.names:
            found.append(Violation(name, f"missing column: expected {expected(column)}"))
    if not found:
        kinds = {name: field.type for name, field in zip(declared.names, declared, strict=True)}
        tests = {name: (_FITS[type(column)](column), expected(column)) for name, column in wanted.items()}
        tests[ID] = (_is_text, "text")
        for name, kind in kinds.items():
            fits, what = tests[name]
            if not fits(kind):
                found.append(Violation(name, f"wrong type: expected {what}, got {kind}"))
    if found:
        raise broken_contract(found[:SHOWN])


def _is_compressed(message: pa.Message) -> bool:
    """Say whether a message's body is compressed; its metadata are a flatbuffer (Arrow's format/Message.fbs)."""
    metadata = message.metadata.to_pybytes()
    batch = _table(metadata, _field(metadata, _table(metadata, 0), 2))  # Message.header
    if message.type == "dictionary":
        batch = _table(metadata, _field(metadata, batch, 1))  # DictionaryBatch.data
    return bool(_field(metadata, batch, 3))  # RecordBatch.compression


def _table(metadata: bytes, place: int) -> int:
    """Follow a flatbuffer's reference to a table."""
    return place + int(struct.unpack_from("<I", metadata, place)[0])


def _field(metadata: bytes, table: int, number: int) -> int:
    """Give where a flatbuffer's table has a field; 0 where it has none."""
    names = table - int(struct.unpack_from("<i", metadata, table)[0])
    (length,) = struct.unpack_from("<H", metadata, names)
    if 4 + 2 * number >= length:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, names + 4 + 2 * number)
    return table + int(offset) if offset else 0


def _ids(found: Mapping[str, pa.Array]) -> list[str | None] | None:
    if ID not in found or found[ID].null_count == len(found[ID]):
        return None
    plain = _plain(found[ID])
    lengths = pc.fill_null(pc.utf8_length(plain), 1).to_numpy()
    if wrong := np.flatnonzero((lengths < 1) | (lengths > LONGEST_ID))[:SHOWN].tolist():
        rule = f"expected a string of 1 to {LONGEST_ID} characters"
        raise broken_contract([Violation(ID, rule, row) for row in wrong])
    ids: list[str | None] = plain.to_pylist()
    refuse_repeated(ids)
    return ids


def _plain(values: pa.Array) -> pa.Array:
    """Write a dictionary out. Raises: `NotArrow` where that can be much more than what came."""
    if not pa.types.is_dictionary(values.type):
        return values
    if _is_text(values.type):
        longest = pc.max(pc.binary_length(values.dictionary)).as_py() or 0
        if longest * len(values) > _WRITTEN_OUT_BYTES:
            raise NotArrow(f"a dictionary has a text of {longest} bytes: send it as it is")
    return values.dictionary_decode()


def _nulls(values: pa.Array) -> Mask:
    found: Mask = values.is_null().to_numpy(zero_copy_only=False)
    return found


def _numbers(column: Number, found: pa.Array) -> _Read:
    values = found.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    null = np.isnan(values)
    outside = ~((values >= column.minimum) & (values <= column.maximum))
    return _Read(values, outside & ~null if column.nullable else outside)


def _categories(column: Category, found: pa.Array) -> _Read:
    plain = _plain(found)
    null = _nulls(plain) if plain.null_count else np.zeros(len(plain), bool)
    known = _known_texts(column, plain) if column.is_text else _known_integers(column, plain)
    broken = ~known & ~null if column.nullable else ~known | null
    if broken.any():
        return _Read(np.empty(0), broken)
    kind, filler = (pa.string(), "") if column.is_text else (pa.int64(), MISSING_CODE)
    values = plain.cast(kind)
    return _Read((pc.fill_null(values, filler) if plain.null_count else values).to_numpy(zero_copy_only=False), broken)


def _known_texts(column: Category, found: pa.Array) -> Mask:
    values = text([str(value) for value in column.values]).cast(found.type)
    known: Mask = pc.is_in(found, value_set=values).to_numpy(zero_copy_only=False)
    return known


def _known_integers(column: Category, found: pa.Array) -> Mask:
    values: Any = (pc.fill_null(found, 0) if found.null_count else found).to_numpy()
    lowest, known = _lookup(column.values)
    if len(known):
        inside = (values >= lowest) & (values < lowest + len(known))
        looked_up: Mask = inside & known[np.where(inside, values.astype(np.int64), lowest) - lowest]
        return looked_up
    return np.isin(values, np.array(column.values))


@lru_cache(maxsize=256)
def _lookup(values: tuple[int, ...]) -> tuple[int, Mask]:
    """Give the lowest value, and which of those from it on are there; nothing where they lie too far apart."""
    lowest, span = min(values), max(values) - min(values) + 1
    if span > _LOOKED_UP:
        return lowest, np.zeros(0, bool)
    known = np.zeros(span, bool)
    known[np.array(values) - lowest] = True
    return lowest, known


def _times(_: Time, found: pa.Array) -> _Read:
    a_second = _A_SECOND[found.type.unit]
    raw, null = found.cast(pa.int64()), np.zeros(len(found), bool)
    if found.null_count:
        raw, null = pc.fill_null(raw, 0), _nulls(found)
    raw = raw.to_numpy(zero_copy_only=False)
    if a_second == SECOND:  # nothing is to be divided
        return _Read(raw, null | (raw < EARLIEST) | (raw >= LATEST))
    seconds, rest = np.divmod(raw, a_second)
    outside = (seconds < EARLIEST // SECOND) | (seconds >= LATEST // SECOND)
    values = np.where(outside, 0, seconds) * SECOND + rest * SECOND // a_second
    return _Read(values, null | outside)


def _images(column: Image, found: pa.Array) -> _Read:
    """Go from the outermost lists in, with those rows alone whose lists have the right lengths."""
    rows, level, broken = np.arange(len(found)), found, np.ones(len(found), bool)
    lists = 1  # that a row has where they are all there
    for length in _list_lengths(column, found.type):
        lengths = pc.fill_null(pc.list_value_length(level), -1).to_numpy(zero_copy_only=False)
        fits = (lengths == length).reshape(len(rows), lists).all(axis=1)
        if not fits.all():
            level, rows = level.filter(flags(np.repeat(fits, lists))), rows[fits]
        level, lists = level.flatten(), lists * length
    exact = pa.types.is_uint8(level.type) and not level.null_count
    plain = level if exact else level.cast(pa.float32(), safe=False)
    values = plain.to_numpy(zero_copy_only=False).reshape(len(rows), column.size)
    least, most = np.float32(column.minimum), np.float32(column.maximum)
    allowed = ((values >= least) & (values <= most)).all(axis=1)
    if column.whole and not exact:
        allowed &= (np.floor(values) == values).all(axis=1)
    broken[rows[allowed]] = False
    if broken.any():
        return _Read(np.empty(0), broken)
    return _Read(values.astype(images.kept_as(column), copy=False), broken)


_READ: Mapping[type, Callable[[Any, pa.Array], _Read]] = {
    Number: _numbers,
    Lag: _numbers,
    Category: _categories,
    Time: _times,
    Image: _images,
}


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain))


def _is_integer(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind.value_type if pa.types.is_dictionary(kind) else kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _list_lengths(image: Image, kind: pa.DataType) -> tuple[int, ...]:
    """Say how long lists of a type must be, from the outermost in; nothing where it is none of numbers, or too deep."""
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    if not _is_number(kind):
        return ()
    return {1: (image.size,), len(image.lists): image.lists, len(image.shape): image.shape}.get(depth, ())


_FITS: Mapping[type, Callable[[Any], Callable[[pa.DataType], bool]]] = {
    Number: lambda _: _is_number,
    Lag: lambda _: _is_number,
    Category: lambda column: _is_text if column.is_text else _is_integer,
    Image: lambda column: lambda kind: bool(_list_lengths(column, kind)),
    Time: lambda column: lambda kind: bool(pa.types.is_timestamp(kind) and (kind.tz is None) == bool(column.zone)),
}
