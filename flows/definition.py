"""A drafted contract as a definition in Python, such as a person would write.

Texts of a table (names, values, what was seen) are data: whatever they hold, they end no comment and no literal.
"""

import ast
import textwrap
from collections.abc import Sequence
from pathlib import Path

from models.contract.columns import Category, Contract, Image, Lag, Number, Slice, Time
from models.contract.draft import Draft

_SMALL_ROWS = 20_000
_LINE = 120


def source(name: str, table: str, found: Draft) -> str:
    """Write a definition.

    Args:
        name: of the model.
        table: where the rows were read.
        found: the contract, and what was seen on the way to it.
    """
    parts = (
        _docstring(name, table, found),
        _imports(found.contract),
        [*_contract(found), *_left_out(found), "", ""],
        _network(),
        _model(name, found),
    )
    text = "\n".join(line for part in parts for line in part) + "\n"
    ast.parse(text)  # a fault in here shall not become a file
    return text


def _docstring(name: str, table: str, found: Draft) -> list[str]:
    address = table.partition("?")[0] if "://" in table else table  # what a link is signed by stays out
    file = _text(Path(address).name)[1:-1]
    said = (
        f"Drafted from {found.rows:,} rows of {file}. Ranges are those of the rows, with a tenth of their span on "
        "either side; units are left to fill in. Rows that break the contract are set apart at ingestion."
    )
    lines = textwrap.wrap(said, _LINE, break_long_words=False, break_on_hyphens=False)
    return [f'"""`{name}`: what is predicted, and from what.', "", *lines, '"""', ""]


def _imports(contract: Contract) -> list[str]:
    kinds = {type(column).__name__ for column in (*contract.features, contract.target)} | {"Contract"}
    kinds |= {"Time"} if contract.time else set()
    kinds |= {"TimePart"} if contract.time_parts else set()
    kinds |= {"Slice"} if contract.slices else set()
    return [
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
    ]


def _contract(found: Draft) -> list[str]:
    contract, time, target = found.contract, found.contract.time, found.contract.target
    drafted = [column for column in contract.features if not isinstance(column, Image)]  # of which there is none
    features = [line for column in drafted for line in _column(column, found.seen[column.name], 8)]
    return [
        "CONTRACT = Contract(",
        *([*_comment(found.seen[time.name], " " * 4), f"    time={_time(time)},"] if time else []),
        *(["    features=(", *features, "    ),"] if features else ["    features=(),"]),
        *_column(target, found.seen[target.name], 4, "target="),
        *(['    partition="file",'] if time else []),
        "    # Groups whose error is reported one by one; a number is cut as well: Slice(column=..., edges=(1, 3))",
        *_slices(contract.slices or ()),
        ")",
    ]


def _left_out(found: Draft) -> list[str]:
    return [line for column, why in found.left_out.items() for line in _comment(f"Left out: {column}, {why}")]


def _network() -> list[str]:
    return [
        'def make_network(train: "Examples", **settings: Any) -> "nn.Module":',
        '    """Make an untrained network."""',
        "    from models.learning.networks import TabularNetwork",
        "",
        "    return TabularNetwork(CONTRACT, train, **settings)",
        "",
        "",
    ]


def _model(name: str, found: Draft) -> list[str]:
    return [
        "MODEL = Model(",
        f"    name={_text(name)},",
        f"    description={_text(f'Predicts {found.contract.target.name}.')},",
        "    contract=CONTRACT,",
        "    network=make_network,",
        '    network_settings={"width": 192, "layers": 2, "dropout": 0.1, "numbers": "piecewise_linear"},',
        "    training=TrainingSettings(",
        *(f"        {setting}={value}," for setting, value in _training(found).items()),
        "    ),",
        *_search(found),
        ")",
    ]


def _time(time: Time) -> str:
    parts = " ".join(_tuple([f"TimePart.{part.name}" for part in time.parts]))
    zone = "None" if time.zone is None else _text(time.zone)
    return f"Time(name={_text(time.name)}, zone={zone}, parts={parts})"


def _column(column: Number | Category, seen: str, indent: int, before: str = "") -> list[str]:
    """Write a column, with what was seen of it above."""
    space = " " * indent
    arguments = [[*pieces[:-1], f"{pieces[-1]},"] for pieces in _arguments(column)]
    begin = f"{space}{before}{type(column).__name__}("
    one_line = f"{begin}{' '.join(piece for pieces in arguments for piece in pieces)[:-1]}),"
    comment = _comment(seen, space)
    if len(one_line) <= _LINE:
        return [*comment, one_line]
    lines = [line for pieces in arguments for line in _packed(pieces, f"{space}    ")]
    return [*comment, begin, *lines, f"{space}),"]


def _arguments(column: Number | Category) -> list[list[str]]:
    """Write what a column is made of: each argument in pieces, between which a line may end."""
    said = [[f"name={_text(column.name)}"]]
    if isinstance(column, Number):
        said += [[f"unit={_text(column.unit)}"]]
        said += [[f"minimum={_exactly(column.minimum)}"], [f"maximum={_exactly(column.maximum)}"]]
    else:
        values = [_text(value) if isinstance(value, str) else str(value) for value in column.values]
        said.append(_named("values", _tuple(values)))
    if isinstance(column, Lag):
        said += [[f"of={_text(column.of)}"], [f"hours={_in_hours(column)}"]]
        said += [_named("by", _tuple([_text(name) for name in column.by]))] if column.by else []
    elif column.nullable:
        said.append(["nullable=True"])
    return said


def _exactly(bound: float) -> str:
    return repr(float(bound)).removesuffix(".0")


def _in_hours(lag: Lag) -> str:
    return f"{lag.seconds // 60} / 60" if lag.seconds % 3600 else f"{lag.seconds // 3600}"


def _slices(slices: Sequence[Slice]) -> list[str]:
    lines = []
    for one in slices:
        said = {"column": _text(one.column)}
        said |= {"part": f"TimePart.{one.part.name}"} if one.part else {}
        said |= {"edges": " ".join(_tuple([f"{edge:g}" for edge in one.edges]))} if one.edges else {}
        lines.append(f"        Slice({', '.join(f'{name}={value}' for name, value in said.items())}),")
    return ["    slices=(", *lines, "    ),"] if lines else ["    slices=(),"]


def _tuple(items: Sequence[str]) -> list[str]:
    """Write a tuple in pieces, an item each."""
    if len(items) < 2:
        return [f"({items[0]},)"] if items else ["()"]
    first, *middle, last = items
    return [f"({first},", *(f"{item}," for item in middle), f"{last})"]


def _named(name: str, pieces: Sequence[str]) -> list[str]:
    return [f"{name}={pieces[0]}", *pieces[1:]]


def _packed(pieces: Sequence[str], space: str) -> list[str]:
    """Put as many pieces into a line as there is room for; a piece is never broken."""
    lines = [f"{space}{pieces[0]}"]
    for piece in pieces[1:]:
        if len(lines[-1]) + len(piece) < _LINE:
            lines[-1] += f" {piece}"
        else:
            lines.append(f"{space}    {piece}")
    return lines


def _comment(text: str, space: str = "") -> list[str]:
    return textwrap.wrap(_printable(text), _LINE, initial_indent=f"{space}# ", subsequent_indent=f"{space}# ")


def _text(value: str) -> str:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_printable(quoted)}"'


def _printable(text: str) -> str:
    """Escape what would end a line, or not be seen."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


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
        settings |= {name: f"{days:.0f}" if days >= 10 else f"{days:.2g}" for name, days in held_out.items()}
    return settings | {"patience": "4"}
