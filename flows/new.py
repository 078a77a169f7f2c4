"""New: a table that nobody has described yet becomes a definition that people read, edit and train."""

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
import msgspec
import pyarrow as pa

from flows import catalog
from flows.sync import RAW_SUFFIXES, raw_files
from infra import tables
from infra.errors import Conflict, Misconfigured, NotFound, Unavailable
from models.bundle import check_name
from models.contract.columns import Category, Image, Lag, Number, Slice, Task, Time
from models.contract.draft import Draft, draft
from models.errors import ContractError
from models.model import RESERVED

_SMALL_ROWS = 20_000
_LINE = 120
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
        raise Conflict(f"there is a model {name} already; choose another name, or remove {folder}")
    before = {f"{target}_{span.strip()}": _hours(span.strip()) for span in lags}
    found = draft(_read(table), target, time, task, RESERVED, before, by)
    file = folder / "__init__.py"
    try:
        folder.mkdir(parents=True)
        file.write_text(_source(name, table, found))
    except OSError as error:
        raise Unavailable(
            f"{file} cannot be written: {error.strerror}; set OKRUH_CATALOG to a folder of yours"
        ) from error
    catalog.load(name)
    return Drafted(
        model=name, task=found.task, rows=found.rows, file=str(file), columns=found.seen, left_out=found.left_out
    )


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
        raise NotFound(f"{table} does not exist; name a CSV or Parquet file") from error
    except (OSError, ImportError, ValueError) as error:  # what fsspec's many file systems raise
        raise Unavailable(f"{table} cannot be read: {error}") from error
    with file:
        yield file


def _hours(span: str) -> float:
    if (match := _SPAN.fullmatch(span)) is None or not int(match[1]):
        raise Misconfigured(f"--lags {span}: say how long before, in minutes, hours or days: 15m, 24h, 7d")
    return int(match[1]) * _HOURS[match[2]]


def _source(name: str, table: str, found: Draft) -> str:
    """Write the definition as a person would."""
    contract, time, target = found.contract, found.contract.time, found.contract.target
    drafted = [column for column in contract.features if not isinstance(column, Image)]  # of which there is none
    kinds = {type(column).__name__ for column in (*contract.features, target)} | {"Contract"}
    kinds |= ({"Time", "TimePart"} if time.parts else {"Time"}) if time else set()
    kinds |= {"Slice"} if contract.slices else set()
    features = [line for column in drafted for line in _column(column, found.seen[column.name], 8)]
    return "\n".join(
        (
            f'"""`{name}`: what is predicted, and from what.',
            "",
            f"Drafted from {found.rows:,} rows of {Path(table).name}. Ranges are those of the rows,",
            "with a tenth of their span on either side; units are left to fill in. Rows that break the",
            "contract are set apart at ingestion.",
            '"""',
            "",
            "from typing import TYPE_CHECKING, Any",
            "",
            f"from models.contract.columns import {', '.join(sorted(kinds))}",
            "from models.learning.search import Choice, Floats, Integers",
            "from models.learning.settings import TrainingSettings",
            "from models.model import Model",
            "",
            "if TYPE_CHECKING:",
            "    from torch import nn",
            "",
            "    from models.learning.examples import Examples",
            "",
            "CONTRACT = Contract(",
            *([f"    time={_time(time)},"] if time else []),
            "    features=(" if features else "    features=(),",
            *features,
            *(["    ),"] if features else []),
            *_column(target, found.seen[target.name], 4, "target="),
            *(['    partition="file",'] if time else []),
            "    # Groups whose error is reported one by one; a number is cut as well: Slice(column=..., edges=(1, 3))",
            *_slices(contract.slices or ()),
            ")",
            *(line for column, why in found.left_out.items() for line in _comment(f"Left out: {column}, {why}")),
            "",
            "",
            'def make_network(train: "Examples", **settings: Any) -> "nn.Module":',
            '    """Make an untrained network."""',
            "    from models.learning.networks import TabularNetwork",
            "",
            "    return TabularNetwork(CONTRACT, train, **settings)",
            "",
            "",
            "MODEL = Model(",
            f'    name="{name}",',
            f"    description={_text(f'Predicts {target.name}.')},",
            "    contract=CONTRACT,",
            "    network=make_network,",
            '    network_settings={"width": 192, "layers": 2, "dropout": 0.1, "numbers": "piecewise_linear"},',
            "    training=TrainingSettings(",
            *(f"        {setting}={value}," for setting, value in _training(found).items()),
            "    ),",
            *_search(found),
            ")",
            "",
        )
    )


def _time(time: Time) -> str:
    parts = ", ".join(f"TimePart.{part.name}" for part in time.parts) + ("," if len(time.parts) == 1 else "")
    zone = "None" if time.zone is None else _text(time.zone)
    return f"Time(name={_text(time.name)}, zone={zone}, parts=({parts}))"


def _column(column: Number | Category, seen: str, indent: int, before: str = "") -> list[str]:
    """Write a column, with what was seen of it above."""
    space = " " * indent
    more = {"nullable": "True"} if column.nullable and not isinstance(column, Lag) else {}
    if isinstance(column, Lag):
        by = ", ".join(map(_text, column.by)) + ("," if len(column.by) == 1 else "")
        more = {"of": _text(column.of), "hours": _in_hours(column)} | ({"by": f"({by})"} if by else {})
    if isinstance(column, Number):
        bounds = {"minimum": f"{column.minimum:.12g}", "maximum": f"{column.maximum:.12g}"}
        said = {"name": _text(column.name), "unit": _text(column.unit), **bounds, **more}
    else:
        values = ", ".join(_text(value) if isinstance(value, str) else str(value) for value in column.values)
        said = {"name": _text(column.name), "values": f"({values}{',' if len(column.values) == 1 else ''})", **more}
    arguments = [f"{key}={value}" for key, value in said.items()]
    one_line = f"{space}{before}{type(column).__name__}({', '.join(arguments)}),"
    seen_line = f"{space}# {seen}"
    if len(one_line) <= _LINE:
        return [seen_line, one_line]
    lines = [line for argument in arguments for line in _wrapped(f"{argument},", space + "    ")]
    return [seen_line, f"{space}{before}{type(column).__name__}(", *lines, f"{space}),"]


def _in_hours(lag: Lag) -> str:
    return f"{lag.seconds // 60} / 60" if lag.seconds % 3600 else f"{lag.seconds // 3600}"


def _slices(slices: Sequence[Slice]) -> list[str]:
    lines = []
    for one in slices:
        said = {"column": _text(one.column)}
        said |= {"part": f"TimePart.{one.part.name}"} if one.part else {}
        edges = ", ".join(f"{edge:g}" for edge in one.edges) + ("," if len(one.edges) == 1 else "")
        said |= {"edges": f"({edges})"} if edges else {}
        lines.append(f"        Slice({', '.join(f'{name}={value}' for name, value in said.items())}),")
    return ["    slices=(", *lines, "    ),"] if lines else ["    slices=(),"]


def _wrapped(text: str, space: str) -> list[str]:
    return textwrap.wrap(
        text,
        _LINE,
        initial_indent=space,
        subsequent_indent=f"{space}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _LINE, initial_indent="# ", subsequent_indent="# ")


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _search(found: Draft) -> list[str]:
    """Say what `okruh tune` tries."""
    rows = (32, 64, 128) if found.rows < _SMALL_ROWS else (512, 1024, 2048)
    return [
        "    search={",
        '        "training.learning_rate": Floats(2e-4, 2e-2, log=True),',
        f'        "training.batch_rows": Choice({rows}),',
        '        "training.weight_decay": Floats(1e-4, 0.3, log=True),',
        '        "network.width": Integers(32, 384, step=32),',
        '        "network.layers": Integers(1, 4),',
        '        "network.dropout": Floats(0.0, 0.5),',
        '        "network.numbers": Choice(("piecewise_linear", "periodic", "plain")),',
        "    },",
    ]


def _training(found: Draft) -> dict[str, str]:
    """Say how to train, by how many rows there are, and what to hold out of their span."""
    small = found.rows < _SMALL_ROWS
    settings = {"epochs": "30" if small else "10", "batch_rows": "64" if small else "1024", "learning_rate": "2e-3"}
    if found.span_days is not None:
        held_out = {"validation_days": found.span_days / 10, "test_days": found.span_days / 6}
        settings |= {name: f"{days:.2g}" for name, days in held_out.items()}
    return settings | {"patience": "4"}
