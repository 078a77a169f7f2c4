"""Predict: rows of a file answered by a service, and written beside each other. Reads only; starts nothing.

Files are read and answers written in parts, so that neither has to fit into memory. Columns are the contract's, which
the service says: in CSV empty is null, a wall time has no offset and an instant has one. Rows are counted from 0,
without a header. A file of answers is complete or it is not there.
"""

import csv
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from infra.client import PROBABILITIES, Client, Predictions, answered_columns
from infra.errors import Misconfigured, NotFound, Unavailable
from models.contract import arrow
from models.contract.columns import Category, Contract, Number
from models.contract.rows import MAXIMUM_ROWS
from models.errors import ContractError, Violation

if TYPE_CHECKING:
    from flows.lags import Lags

STANDARD = "-"
"""Standard input, standard output."""

_PARQUET = {".parquet", ".parq", ".pq"}
_LINES = {".ndjson", ".jsonl"}
_BLOCK_BYTES = 1 << 20

Write = Callable[[pa.Table], None]
Tell = Callable[[int, int | None], None]
"""Called with the rows that are done, and how many there are where that is known."""


class RefusedRow(msgspec.Struct, frozen=True):
    """One broken rule."""

    row: int | None
    field: str
    rule: str


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """What was done."""

    model: str
    rows: int
    """Rows that were answered."""
    versions: dict[str, int]
    """How many rows each version answered."""
    refused: list[RefusedRow]
    out: str
    unknown_lags: dict[str, int]
    """Of lags that the rows lacked, for how many rows they were not known in the lake either."""


def predict(
    model: str,
    rows: str,
    url: str,
    out: str = STANDARD,
    key: str | None = None,
    *,
    skip_refused: bool = False,
    tell: Tell = lambda *_: None,
) -> Predicted:
    """Have a service that serves `model` answer a file's rows, and write row, id, value and version of each.

    Lags that rows lack are computed from what the lake knows.

    Raises: `ContractError` with file, row and rule, unless refused rows are skipped; `Unavailable` where another model
        is served, or nothing answers; `NotFound`, `Misconfigured`, `Conflict`.
    """
    with _opened(rows) as (total, batches), Client(url, key) as client:
        served = client.model()
        if served.model != model:
            raise Unavailable(f"{url} serves {served.model}, not {model}; name another address by --url")
        lags = _lags(model, served.contract)
        with _written(out, served.target) as write:
            answers = client.predict_iter(lags.added(batches) if lags else batches, skip_refused=skip_refused)
            count, versions, refused = _copy(answers, write, lambda done: tell(done, total))
    found = [RefusedRow(one.row, one.field, one.rule) for one in refused]
    unknown = dict(lags.unknown) if lags else {}
    return Predicted(model=model, rows=count, versions=versions, refused=found, out=out, unknown_lags=unknown)


def _lags(model: str, contract: Contract) -> "Lags | None":
    if not contract.lags:
        return None
    from flows.lags import Lags  # and pandas

    return Lags(model, contract)


def read_key(variable: str | None, file: Path | None) -> str | None:
    """Read a key from where it is said to be; None where it is said nowhere. Raises: `Misconfigured`, `NotFound`."""
    if variable and file:
        raise Misconfigured("name the key by --key-env or by --key-file, not by both")
    if variable:
        if not (key := os.environ.get(variable, "").strip()):
            raise Misconfigured(f"--key-env {variable}: this variable is not set")
        return key
    if file:
        try:
            return file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NotFound(
                f"--key-file {file} cannot be read: {getattr(error, 'strerror', 'it is no text')}"
            ) from error
    return None


def _copy(
    answers: Iterable[Predictions], write: Write, tell: Callable[[int], None]
) -> tuple[int, dict[str, int], list[Violation]]:
    done, refused, versions = 0, list[Violation](), Counter[str]()
    for part in answers:
        write(part.table)
        done += len(part)
        refused += part.refused
        versions.update(part.versions)
        tell(done)
    if not done and not refused:
        raise ContractError("there are no rows")
    return done, dict(versions), refused


@contextmanager
def _opened(rows: str) -> Iterator[tuple[int | None, Iterable[Any]]]:
    """Give how many rows there are, and tables or lists of them; name the file in what is wrong."""
    shown = "standard input" if rows == STANDARD else rows
    try:
        if rows == STANDARD:
            stream = sys.stdin.buffer
            assert isinstance(stream, BufferedReader)
            is_lines = stream.peek(1)[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
            yield None, (_of_lines if is_lines else _of_csv)(stream)
        elif (place := _file(rows)).suffix.lower() in _PARQUET:
            with pq.ParquetFile(place) as file:
                yield file.metadata.num_rows, file.iter_batches(MAXIMUM_ROWS)
        else:
            with place.open("rb") as stream:
                yield None, (_of_lines if place.suffix.lower() in _LINES else _of_csv)(stream)
    except ContractError as error:
        raise ContractError(f"{shown}: {error}", error.violations) from error
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise ContractError(f"{shown} cannot be read: {' '.join(str(error).split())}") from error


def _file(rows: str) -> Path:
    place = Path(rows)
    if place.suffix.lower() not in {".csv", *_LINES, *_PARQUET}:
        raise Misconfigured(f"--rows {rows}: a .csv, .parquet or .ndjson file is read, or - for standard input")
    if not place.is_file():
        raise NotFound(f"--rows {rows}: there is no such file")
    return place


def _of_csv(stream: BufferedReader) -> Iterator[pa.RecordBatch]:
    """Give tables in which all is text."""
    header = next(csv.reader([stream.readline().decode("utf-8-sig")]), [])
    if len(set(header)) < len(header):
        raise ContractError(f"a column is there twice: {', '.join(header)}")
    if not stream.peek(1):
        return
    all_text = dict.fromkeys(header, pa.string())
    yield from arrow_csv.open_csv(
        stream,
        arrow_csv.ReadOptions(column_names=header, block_size=_BLOCK_BYTES, use_threads=False),
        arrow_csv.ParseOptions(newlines_in_values=True),
        arrow_csv.ConvertOptions(column_types=all_text, null_values=[""], strings_can_be_null=True),
    )


def _of_lines(stream: BufferedReader) -> Iterator[list[Any]]:
    """Give lists of rows, of which each is a line of JSON."""
    lines = (line for line in stream if line.strip())
    first, decode = 0, msgspec.json.Decoder().decode
    while some := list(islice(lines, MAXIMUM_ROWS)):
        found = []
        for line in some:
            try:
                found.append(decode(line))
            except msgspec.DecodeError as error:
                raise ContractError(f"row {first + len(found)} is not JSON: {error}") from error
        yield found
        first += len(found)


@contextmanager
def _written(out: str, target: Number | Category) -> Iterator[Write]:
    """Give what writes answers: as CSV, or as Parquet where the name says so."""
    if out == STANDARD:
        yield _csv_writer(sys.stdout.buffer, target)
        sys.stdout.flush()
        return
    place = Path(out)
    if place.suffix.lower() not in {".csv", *_PARQUET}:
        raise Misconfigured(f"--out {out}: a .csv or .parquet file is written, or - for standard output")
    if place.is_dir() or not place.parent.is_dir():
        what = "is a folder" if place.is_dir() else f"there is no folder {place.parent}"
        raise Misconfigured(f"--out {out}: {what}; name a file in a folder that is there")
    unfinished = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as sink:
            if place.suffix.lower() == ".csv":
                yield _csv_writer(sink, target)
            else:
                with pq.ParquetWriter(sink, answered_columns(target)) as writer:
                    yield writer.write_table
        unfinished.replace(place)
    finally:
        unfinished.unlink(missing_ok=True)


def _csv_writer(sink: Any, target: Number | Category) -> Write:
    def write(table: pa.Table, *, header: bool = False) -> None:
        if isinstance(target, Category):
            table = _flat(table, target)
        buffer = pa.BufferOutputStream()
        arrow_csv.write_csv(table, buffer, arrow_csv.WriteOptions(include_header=header, quoting_style="needed"))
        sink.write(buffer.getvalue())

    write(answered_columns(target).empty_table(), header=True)
    return write


def _flat(table: pa.Table, target: Category) -> pa.Table:
    """Give each value's probability a column of its own."""
    place = table.schema.get_field_index(PROBABILITIES)
    together = table.column(place).combine_chunks()
    flat, count = together.flatten().to_numpy(), len(target.values)
    table = table.remove_column(place)
    for number, value in enumerate(target.values):
        shares = arrow.numbers(pa.float32(), flat[number::count])
        table = table.add_column(place + number, f"probability_{value}", shares)
    return table
