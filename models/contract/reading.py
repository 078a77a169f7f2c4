"""Tables as people have them, in the types of a contract: text as CSV has it, whole numbers that gaps made floats.

Nothing is bent until it fits: a value that is none of its column's kind is named by its row, and whether a value is
allowed is not asked here. Columns that have a fitting type stay as they are, and images, which no text is. Empty text
is null. A wall time has no offset, an instant has one; a date alone is its midnight. Cost: half a microsecond for a
value of text.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.contract.arrow import flags, schema, without_empty
from models.contract.columns import Category, Contract, Image, Input
from models.contract.rows import ID, broken_rule
from models.errors import Violation

_WHOLE = r"^\+?(-?[0-9]+)(?:\.0*)?$"  # also as tables that have gaps are exported
_OFFSET = "(Z|[+-][0-9]{2}:?[0-9]{2})$"
_QUOTED = re.compile("'(.*)'", re.DOTALL)
_SHOWN = 40
"""Characters of a text that are shown in a message."""
_NO_WHOLE = r"^(?:.*[^-0-9].*|)$"


class Typed(NamedTuple):
    """What was read."""

    table: pa.Table
    """Null where something could not be read."""
    unread: list[Violation]
    """Each value that could not be."""


def read(contract: Contract, table: pa.Table) -> Typed:
    """Bring the contract's columns and `id` to fitting types, as far as they are text or floats; leave others alone."""
    kinds: Mapping[str, pa.DataType] = {field.name: field.type for field in schema(contract)}
    columns = {column.name: column for column in contract.inputs}
    unread: list[Violation] = []
    for place, name in enumerate(table.column_names):
        found = table.column(place)
        if name == ID:
            table = table.set_column(place, name, found.cast(pa.string()) if _names(found.type) else found)
        elif (column := columns.get(name)) is not None and _needs_reading(column, found.type):
            plain = _plain(found)
            values, broken = _read(plain, kinds[name])
            unread += [Violation(name, broken_rule(column, plain[row].as_py()), row) for row in broken]
            table = table.set_column(place, name, values)
    return Typed(table, sorted(unread, key=lambda one: one.row or 0))


def odd_moment(values: pa.ChunkedArray) -> str:
    """Say of a column of text which is no moment, or none with an offset as most are, and where; nothing of others."""
    if not _is_text(values.type):
        return ""
    zoned = pc.mean(pc.match_substring_regex(values, _OFFSET)).as_py() or 0
    try:
        values.cast(pa.timestamp("us", "UTC" if zoned > 0.5 else None))
    except pa.ArrowInvalid as error:
        if (said := _QUOTED.search(str(error))) and (place := pc.index(values, said[1]).as_py()) >= 0:
            wrong = "no moment" if zoned in (0, 1) else "no moment, or not as most are, with an offset or without one"
            return f"{said[1][:_SHOWN]!r} in row {place + 1}, not counting the header, is {wrong}"
    return ""


def _names(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return _is_text(plain) or bool(pa.types.is_integer(plain))


def _needs_reading(column: Input, kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if isinstance(column, Image):
        return False
    if _is_text(plain):
        return True
    return isinstance(column, Category) and not column.is_text and pa.types.is_floating(plain)


def _is_text(kind: pa.DataType) -> bool:
    """Whether values are text, or there is none that could be anything else."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _plain(found: pa.ChunkedArray) -> pa.Array:
    """Give a column in one piece, of strings or floats, null where it is empty or NaN."""
    values = found.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return without_empty(values.cast(pa.string()))


def _read(values: pa.Array, kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """Give values in another type, and the places of those that are none of it."""
    if pa.types.is_integer(kind) and not pa.types.is_floating(values.type):
        values = _whole(values)
    try:
        return values.cast(kind), []
    except pa.ArrowInvalid:
        broken = _broken(values, kind, 0)
    mask = np.zeros(len(values), bool)
    mask[broken] = True
    return pc.if_else(flags(mask), pa.scalar(None, values.type), values).cast(kind), broken


def _whole(values: pa.Array) -> pa.Array:
    """Give whole numbers as digits alone; what is none, as text that no number is read from."""
    if pc.all(pc.utf8_is_decimal(values)).as_py():
        return values
    digits = pc.replace_substring_regex(values, _WHOLE, r"\1")
    return pc.if_else(pc.match_substring_regex(digits, _NO_WHOLE), pa.scalar("-", values.type), digits)


def _broken(values: pa.Array, kind: pa.DataType, first: int) -> list[int]:
    """Find the places that cannot be cast, by halves."""
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        if len(values) == 1:
            return [first]
        half = len(values) // 2
        return _broken(values[:half], kind, first) + _broken(values[half:], kind, first + half)
    return []
