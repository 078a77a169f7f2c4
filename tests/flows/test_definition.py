"""A drafted contract as Python: loaded, it is the contract, whatever texts a table holds."""

import ast
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.definition import source
from models.contract.columns import Category, Contract, Number, Slice, Time, TimePart
from models.contract.draft import Draft
from models.model import RESERVED

CITIES = (
    "Colorado Springs",
    "El Paso",
    "Fort Worth",
    "Kansas City",
    "Las Vegas",
    "Long Beach",
    "Los Angeles",
    "New York",
    "Oklahoma City",
    "San Antonio",
    "San Diego",
    "San Jose",
    "Virginia Beach",
)

texts = st.text(min_size=1, max_size=40) | st.sampled_from(
    ["two words", "a\n1 / 0 #", '"', "'", '"""', "\\", '\\"', "\u2028", "\u2029", "\x85", "\x0c", "\r", "\ufeff", " "]
)
names = texts.filter(lambda name: "/" not in name and name not in RESERVED)


def drafted(
    values: tuple[int | str, ...] = ("a", "b"),
    name: str = "kind",
    target: str = "price",
    time: str = "at",
    seen: str = "something",
    left_out: dict[str, str] | None = None,
) -> Draft:
    contract = Contract(
        time=Time(name=time, zone="UTC", parts=(TimePart.HOUR,)),
        features=(Category(name=name, values=values, nullable=True),),
        target=Number(name=target, unit="", minimum=-1.5, maximum=2e9),
        partition="file",
        slices=(Slice(column=time, part=TimePart.HOUR, edges=(6,)), Slice(column=name)),
    )
    return Draft(contract, "regression", 100, 30.0, {name: seen, target: seen, time: seen}, left_out or {})


def loaded(text: str) -> dict[str, Any]:
    module: dict[str, Any] = {"__name__": "drafted"}
    exec(text, module)
    return module


@hypothesis_settings(deadline=None)
@given(
    values=st.lists(texts, min_size=1, max_size=30, unique=True),
    columns=st.lists(names, min_size=4, max_size=4, unique=True),
    seen=texts,
    table=texts,
)
def test_any_texts_are_what_they_were(values: list[str], columns: list[str], seen: str, table: str) -> None:
    name, target, time, other = columns
    found = drafted(tuple(values), name, target, time, seen, {other: seen})

    text = source("rides", table, found)

    module = loaded(text)
    assert module["CONTRACT"] == found.contract
    assert (module["MODEL"].contract, module["MODEL"].description) == (found.contract, f"Predicts {target}.")
    assert list(map(type, ast.parse(text).body)) == list(map(type, ast.parse(source("rides", "t", drafted())).body))
    assert all(line.isprintable() for line in text.split("\n"))


@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=50, unique=True))
def test_any_whole_numbers_are_what_they_were(values: list[int]) -> None:
    found = drafted(tuple(values))

    assert loaded(source("rides", "rides.csv", found))["CONTRACT"] == found.contract


def test_lines_end_between_values() -> None:
    lines = source("rides", "rides.csv", drafted(CITIES, seen="many " * 100)).splitlines()

    assert max(map(len, lines)) <= 120
    assert all(any(f'"{city}"' in line for line in lines) for city in CITIES)
