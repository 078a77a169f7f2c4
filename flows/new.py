"""New: a table that nobody has described yet becomes a definition that people read, edit and train."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
import msgspec
import pyarrow as pa

from flows import catalog, definition
from flows.sync import RAW_SUFFIXES, raw_files
from infra import tables
from infra.errors import Conflict, Misconfigured, NotFound, Unavailable
from models.bundle import check_name
from models.contract.columns import Task
from models.contract.draft import draft
from models.errors import ContractError, first_line
from models.model import RESERVED

_SPAN = re.compile(r"([0-9]+)([mhd])")
_HOURS = {"m": 1 / 60, "h": 1, "d": 24}


class Drafted(msgspec.Struct, frozen=True, kw_only=True):
    """A definition that was written."""

    model: str
    task: Task
    rows: int
    file: str
    """Where it is."""
    columns: dict[str, str]
    """What each column of the contract holds in the table."""
    left_out: dict[str, str]
    """Columns that it does not have, and why."""


def new(
    name: str,
    table: str,
    target: str,
    time: str | None = None,
    task: Task | None = None,
    lags: Sequence[str] = (),
    by: Sequence[str] = (),
) -> Drafted:
    """Write `NAME/__init__.py` into the catalog, from what a table holds.

    Args:
        name: of the model.
        table: CSV or Parquet: a file, a folder of files, or an address that fsspec reads (`s3://...`).
        target: the column to predict.
        time: the column that says what moment a row is about.
        task: what is asked; without it, what the target suggests.
        lags: how long before a row the target shall be looked up, each as 15m, 24h or 7d.
        by: columns whose values tell series apart.

    Raises: `Conflict` where there is a model of that name, `ContractError`, `DefinitionError`, `NotFound`,
        `Misconfigured`, `Unavailable`.
    """
    check_name(name)
    folder = catalog.new_folder(name)
    if name in catalog.names() or folder.exists():
        way_out = f", or remove {folder}" if folder.exists() else ""
        raise Conflict(f"there is a model {name} already; choose another name{way_out}")
    before = {f"{target}_{span.strip()}": _hours(span.strip()) for span in lags}
    apart = tuple(dict.fromkeys(column.strip() for column in by))
    found = draft(_read(table), target, time, task, RESERVED, before, apart)
    file = _written(name, folder, definition.source(name, table, found))
    return Drafted(
        model=name, task=found.task, rows=found.rows, file=str(file), columns=found.seen, left_out=found.left_out
    )


def _written(name: str, folder: Path, source: str) -> Path:
    """Write a definition that can be loaded; leave no folder where that fails."""
    file = folder / "__init__.py"
    try:
        folder.mkdir(parents=True)
        with ExitStack() as undone:
            undone.callback(shutil.rmtree, folder)
            file.write_text(source, encoding="utf-8")
            catalog.load(name)
            undone.pop_all()
    except OSError as error:
        raise Unavailable(
            f"{file} cannot be written: {error.strerror}; set OKRUH_CATALOG to a folder of yours"
        ) from error
    return file


def _read(table: str) -> pa.Table:
    if not Path(table).is_dir():
        return _read_file(table)
    found = [_read_file(str(file)) for file in raw_files(Path(table))]
    try:
        return pa.concat_tables(found, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ContractError(f"the files of {table} do not fit together: {str(error).splitlines()[0]}") from error


def _read_file(table: str) -> pa.Table:
    suffix = Path(table.partition("?")[0]).suffix.lower()
    if suffix not in RAW_SUFFIXES:
        raise Misconfigured(f"{table}: a {' or '.join(RAW_SUFFIXES)} file is read")
    with _opened(table) as file:
        return tables.read_csv(table, file) if suffix == ".csv" else tables.read_parquet(table, file)


@contextmanager
def _opened(table: str) -> Iterator[IO[bytes]]:
    try:
        opened: Any = fsspec.open(table, "rb")
        file = opened.open()
    except FileNotFoundError as error:
        said: BaseException = error
        while said.__cause__ is not None:  # fsspec makes such an error of whatever a server has said
            said = said.__cause__
        if said is not error:
            raise Unavailable(f"{table} cannot be read: {first_line(said)}") from error
        raise NotFound(f"{table} does not exist; name a CSV or Parquet file") from error
    except (OSError, ImportError, ValueError) as error:  # what fsspec's many file systems raise
        raise Unavailable(f"{table} cannot be read: {error}") from error
    with file:
        yield file


def _hours(span: str) -> float:
    if (match := _SPAN.fullmatch(span)) is None or not int(match[1]):
        raise Misconfigured(f"--lags {span}: say how long before, in minutes, hours or days: 15m, 24h, 7d")
    return int(match[1]) * _HOURS[match[2]]
