"""A first contract: kinds, ranges and categories of a table, and what looks wrong in it."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.contract.columns import Category, Lag, Number, Task, TimePart
from models.contract.draft import draft
from models.errors import ContractError

ROWS = 400
DRAW = np.random.default_rng(0)
COUNT, KIND = DRAW.integers(1, 9, ROWS), DRAW.choice(["car", "bike"], ROWS)
PRICE = 5 * COUNT + DRAW.gamma(2, 30, ROWS)


def table(**changes: Any) -> pa.Table:
    columns = {
        "at": pa.array(np.arange("2020-01-01", "2021-02-04", dtype="M8[D]")[:ROWS].astype("M8[s]") + 3600),
        "price": PRICE,
        "count": COUNT,
        "kind": KIND,
        "new": DRAW.random(ROWS) < 0.5,
    }
    return pa.table({name: values for name, values in (columns | changes).items() if values is not None})


def test_describes_each_kind_of_column() -> None:
    found = draft(table(), "price", "at")

    contract = found.contract
    assert (found.task, found.rows, contract.partition) == ("regression", ROWS, "file")
    assert contract.time is not None
    assert (contract.time.zone, contract.time.parts) == ("UTC", (TimePart.HOUR, TimePart.WEEKDAY, TimePart.MONTH))
    count, kind, new = contract.features
    assert count == Number(name="count", unit="", minimum=0, maximum=9)
    assert (kind, new) == (Category(name="kind", values=("bike", "car")), Category(name="new", values=(0, 1)))
    assert isinstance(contract.target, Number)
    assert contract.target.minimum <= PRICE.min() < PRICE.max() < contract.target.maximum
    assert found.seen["count"] == "1 to 8, 5 in the middle"
    assert found.left_out == {}


def test_says_from_when_to_when_rows_are_and_for_which_clock_moments_without_an_offset_are_taken() -> None:
    found = table()
    aware = found.set_column(0, "at", found["at"].cast(pa.timestamp("us", "Europe/Prague")))
    days = found.set_column(0, "at", found["at"].cast(pa.date32(), safe=False))

    assert draft(aware, "price", "at").seen["at"] == "2020-01-01 01:00:00 to 2021-02-03 01:00:00 UTC"
    for naive, first, last in ((found, "2020-01-01 01:00:00", "2021-02-03 01:00:00"), (days, "2020-01-01 00", "2021")):
        said = draft(naive, "price", "at").seen["at"]
        assert said.startswith(first)
        assert f" to {last}" in said
        assert said.endswith(", taken for UTC as they have no offset: name their own by `zone`")


@pytest.mark.parametrize(
    "odd", ["05.12.2020", "5/12/20", "05.12.20", "2020-12-05T08:00", "Dec 5, 2020", "5. December 2020"]
)
def test_leaves_out_dates_that_are_text_and_says_so_however_few_or_many_they_are(odd: str) -> None:
    few = np.where(np.arange(ROWS) % 20, odd.replace("12", "11"), odd)
    many = np.array([f"{1 + row // 28 % 12}/{1 + row % 28}/{1990 + row // 336}" for row in range(ROWS)])
    many[7] = "unknown"
    other = np.where(np.arange(ROWS) % 2, "1.2.34", "May be")

    found = draft(table(odd=few, many=many, version=other), "price")

    what = "which no feature is: let `prepare` make numbers of them"
    assert set(found.left_out) == {"odd", "many", "at"}
    assert found.left_out["odd"] == f"dates, such as {odd!r}, {what}"
    assert found.left_out["many"] == f"dates, such as '1/1/1990', {what}"


def test_a_column_of_durations_is_called_no_moment() -> None:
    found = draft(table(odd=pa.array(np.arange(ROWS).astype("m8[s]"))), "price")

    assert found.left_out["odd"].startswith("duration[s], which is neither number nor text: let `prepare` make")


def test_shows_no_digits_that_a_column_does_not_have() -> None:
    few = np.resize(np.array([0.1, 57.6, 1.36], np.float32), ROWS)

    assert draft(table(few=few), "price").seen["few"] == "0.1 to 57.6, 1.36 in the middle"


@pytest.mark.parametrize("odd", [1.7e308, -1e300, 1e-320])
def test_leaves_out_numbers_that_networks_cannot_compute_with(odd: float) -> None:
    values = np.where(np.arange(ROWS) == 7, odd, 0.0)

    assert "is no number that 32 bits hold" in draft(table(odd=values), "price").left_out["odd"]
    with pytest.raises(ContractError, match=r"target 'odd': .* remove such rows"):
        draft(table(odd=values), "odd", task="regression")


def test_without_a_time_there_is_none() -> None:
    found = draft(table(at=None), "price")

    assert (found.contract.time, found.span_days) == (None, None)


def test_suggests_groups_to_report_errors_for() -> None:
    slices = draft(table(), "price", "at").contract.slices

    assert slices is not None
    assert [one.name for one in slices] == ["hour", "weekday", "kind", "new"]
    without = draft(table(at=None), "price").contract.slices
    assert without is not None
    assert [one.name for one in without] == ["kind", "new"]


def test_gaps_make_a_column_nullable_and_are_told() -> None:
    gaps = [None if place % 4 == 0 else value for place, value in enumerate(KIND.tolist())]
    numbers = np.where(np.arange(ROWS) % 8 == 0, np.nan, DRAW.normal(-5, 1, ROWS))

    found = draft(table(kind=gaps, depth=numbers), "price", "at")

    by_name = {column.name: column for column in found.contract.features}
    assert isinstance(kind := by_name["kind"], Category)
    assert isinstance(depth := by_name["depth"], Number)
    assert kind.nullable
    assert depth.nullable
    assert depth.minimum < np.nanmin(numbers) < np.nanmax(numbers) < depth.maximum
    assert found.seen["kind"].endswith("25.0% missing")
    assert found.seen["depth"].endswith("12.5% missing")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["x"] * ROWS, "'x' in each row"),
        ([None] * ROWS, "empty in each row"),
        ([None, 5] * (ROWS // 2), "5 in each row, or empty"),
        ([float("nan")] * ROWS, "no finite number in any row"),
        (list(range(ROWS)), "another value in each row, as an id has"),
        ([f"name {place}" for place in range(ROWS)], "another value in each row, as an id has"),
        ((PRICE * 1.21).tolist(), "LEAK: says the target"),
        (np.arange("2020-01-01", "2021-02-04", dtype="M8[D]")[:ROWS], "a moment, which no feature is: let `prepare`"),
        ([["a"]] * ROWS, "list<"),
        ([[1], [1, 2]] * (ROWS // 2), "list<"),
        ([[[0, 9]] * 3] * ROWS, "lists of 3 x 2 numbers each; where they are images, declare an Image"),
    ],
)
def test_leaves_out_what_nothing_or_too_much_is_learned_from(values: Any, why: str) -> None:
    odd = values if isinstance(values, np.ndarray) else pa.array(values)

    found = draft(table(odd=odd), "price", "at")

    assert found.left_out["odd"].startswith(why)
    assert "odd" not in {column.name for column in found.contract.features}


def test_a_column_that_says_a_category_is_a_leak() -> None:
    found = draft(table(code=np.where(KIND == "car", "C", "B")), "kind")

    assert found.left_out["code"] == "LEAK: says the target"


MANY = 200_000
ORDER = np.arange(MANY)
NOISE = DRAW.normal(size=MANY)


@pytest.mark.parametrize("target", [ORDER >= MANY * 0.9, ORDER % 2 == 0], ids=["sorted", "in turn"])
def test_a_leak_is_found_wherever_in_the_table_it_shows(target: Any) -> None:
    found = draft(pa.table({"target": target, "copy": np.where(target, 7, 3), "noise": NOISE}), "target")

    assert found.left_out == {"copy": "LEAK: says the target"}


SKEWED = DRAW.lognormal(0, 2, ROWS)
CENTS = pa.array((100 * PRICE).astype(int)).cast(pa.decimal128(21, 2))


@pytest.mark.parametrize(
    ("target", "odd"),
    [
        (SKEWED, np.log(SKEWED)),
        (SKEWED, -(SKEWED**3)),
        (SKEWED, np.where(np.arange(ROWS) % 10 == 0, np.inf, SKEWED)),
        (np.round(SKEWED), np.sqrt(np.round(SKEWED))),
        (COUNT, COUNT * 2.5),
        (2**60 + np.arange(ROWS) % 300, 2**60 + np.arange(ROWS) % 300 * 9),
        (CENTS, CENTS),
    ],
    ids=["logarithm", "falling", "gaps", "ties", "few values", "large", "decimal"],
)
def test_a_column_with_the_order_of_a_number_is_a_leak(target: Any, odd: Any) -> None:
    found = draft(table(price=target, odd=odd), "price", task="regression")

    assert found.left_out["odd"] == "LEAK: says the target"


def test_a_column_with_nearly_the_order_of_a_number_is_learned_from() -> None:
    blurred = np.exp(np.log(SKEWED) + DRAW.normal(0, 0.1, ROWS))

    assert draft(table(price=SKEWED, odd=blurred), "price", "at").left_out == {}


def test_an_order_of_a_few_rows_says_nothing() -> None:
    few = [None] * (ROWS - 5) + [1.0, 2.0, 3.0, 4.0, 5.0]

    assert draft(table(price=np.arange(ROWS) ** 1.5, odd=pa.array(few)), "price", "at").left_out == {}


CLASS = DRAW.integers(0, 5, ROWS)


@pytest.mark.parametrize(
    ("odd", "leaks"),
    [
        (np.array([30, 10, 50, 20, 40])[CLASS], True),
        (np.array([0.3, 0.1, 0.5, 0.2, 0.4])[CLASS], True),
        (np.array(list("cabed"))[CLASS], True),
        (pa.array(np.array(list("cabed"))[CLASS]).dictionary_encode(), True),
        (np.array([1, 1, 2, 3, 4])[CLASS], False),
        (5 * (np.arange(ROWS) % 2) + CLASS, False),
    ],
    ids=["numbers", "fractions", "text", "dictionary", "two of one", "one of two"],
)
def test_a_column_with_one_value_for_each_class_is_a_leak(odd: Any, leaks: bool) -> None:
    found = draft(table(kind=CLASS, odd=odd), "kind", "at")

    assert found.task == "multiclass"
    assert found.left_out == ({"odd": "LEAK: says the target"} if leaks else {})


SHOP, MIDDLE, HIGH = DRAW.integers(0, 20, ROWS), np.median(PRICE), np.sort(PRICE)[-4]


@pytest.mark.parametrize(
    ("target", "odd", "says"),
    [
        (PRICE > MIDDLE, PRICE, True),
        (np.select([PRICE < 60, PRICE < 90], ["cheap", "fair"], "dear"), PRICE, True),
        (np.floor(PRICE / 40), PRICE, True),
        (SHOP % 3, np.array(list("abcdefghijklmnopqrst"))[SHOP], True),
        (SHOP * 7 % 20 * 1.5, SHOP, True),
        (PRICE > MIDDLE, PRICE + DRAW.normal(0, 1, ROWS), False),
        (PRICE > HIGH, PRICE, False),
        (KIND, DRAW.normal(size=ROWS), False),
        (KIND, np.arange(ROWS) // 2 + 0.5 * (KIND == "car"), False),
        (PRICE, SHOP, False),
        (PRICE, DRAW.normal(size=ROWS), False),
    ],
    ids=["cut", "cuts", "number", "code", "code of a number", "noise", "rare", "other", "names", "no code", "numbers"],
)
def test_a_column_from_which_the_target_follows_is_told_and_learned_from(target: Any, odd: Any, says: bool) -> None:
    found = draft(pa.table({"target": target, "odd": odd, "noise": DRAW.normal(size=ROWS)}), "target")

    assert found.left_out == {}
    assert ("SAYS THE TARGET? target follows from it in each of 400 rows" in found.seen["odd"]) == says
    assert "SAYS" not in found.seen["noise"]


@pytest.mark.parametrize(
    "values",
    [
        1_000_000 + np.arange(ROWS) % 11,
        1e6 + np.linspace(0, 1e-3, ROWS),
        -2e9 + np.linspace(0, 30, ROWS),
        np.linspace(-8e36, 8e36, ROWS),
        2**60 + np.arange(ROWS) % 300,
        np.linspace(3, 7, ROWS),
    ],
)
def test_a_range_is_a_tenth_of_what_was_seen_wider_however_large_the_numbers(values: Any) -> None:
    number = draft(table(odd=values), "price").contract.numbers[-1]

    least, most = float(values.min()), float(values.max())
    margin = max(0.12 * (most - least), 1 if values.dtype.kind == "i" else 0, 2 * np.spacing(most))
    assert least - margin <= number.minimum <= least <= most <= number.maximum <= most + margin


def test_categories_of_pandas_are_columns_as_others_are() -> None:
    found = draft(table(kind=pa.array(KIND).dictionary_encode()), "price")

    assert found.contract.categories[0] == Category(name="kind", values=("bike", "car"))


def test_names_that_are_taken_are_left_out() -> None:
    assert draft(table(value=COUNT * 2 + KIND.astype("S1").view("u1")), "price", taken={"value"}).left_out["value"] == (
        "no column may be called so; rename it"
    )


@pytest.mark.parametrize(
    ("target", "values", "task"),
    [
        ("flag", DRAW.random(ROWS) < 0.5, "binary"),
        ("flag", DRAW.integers(0, 2, ROWS), "binary"),
        ("flag", DRAW.choice([0.0, 1.0], ROWS), "binary"),
        ("flag", DRAW.choice(["no", "yes"], ROWS), "binary"),
        ("digit", DRAW.integers(0, 10, ROWS), "multiclass"),
        ("word", DRAW.choice(["a", "b", "c"], ROWS), "multiclass"),
        ("many", DRAW.integers(0, 90, ROWS), "regression"),
        ("some", DRAW.choice([0.0, 1.0, 2.0], ROWS), "regression"),
        ("real", DRAW.normal(0, 1, ROWS), "regression"),
    ],
)
def test_a_target_suggests_what_is_asked_of_it(target: str, values: Any, task: Task) -> None:
    found = draft(table(**{target: values}), target)

    assert found.task == task
    assert isinstance(found.contract.target, Number) == (task == "regression")


def test_what_is_asked_may_be_said() -> None:
    stars = DRAW.integers(1, 6, ROWS)

    assert isinstance(draft(table(stars=stars), "stars", task="regression").contract.target, Number)
    assert draft(table(stars=stars), "stars", task="multiclass").contract.target == Category(
        name="stars", values=(1, 2, 3, 4, 5)
    )


@pytest.mark.parametrize(
    ("changes", "target", "time", "task", "reason"),
    [
        ({}, "cost", None, None, "there is no column 'cost'; the table has at, price, count, kind, new"),
        ({}, "price", "then", None, "there is no column 'then'"),
        ({}, "price", "price", None, "is named as target and as time"),
        ({}, "price", "kind", None, "time 'kind' is string, not a moment"),
        (
            {"at": [np.datetime64("2020-01-01", "s")] * ROWS},
            "price",
            "at",
            None,
            "time 'at' is 2020-01-01T00:00:00 in n",
        ),
        ({}, "kind", None, "regression", "target 'kind' is string, no number: use --task binary"),
        ({"odd": [str(place) for place in range(ROWS)]}, "odd", None, "regression", "no number: choose another target"),
        ({"odd": [str(place) for place in range(ROWS)]}, "odd", None, None, "whole numbers or text; choose another t"),
        ({}, "price", None, "binary", "400 values, of double: one that is a category has at most 100.*; use --task r"),
        ({}, "count", None, "binary", "target 'count' has 8 values; --task binary wants two"),
        ({"price": [1.5] * ROWS}, "price", None, None, "target 'price' is 1.5 in each row: nothing can be learned"),
        ({"price": pa.nulls(ROWS, pa.float64())}, "price", None, None, "target 'price' is empty in each row"),
        ({"at": None, "count": None, "kind": None, "new": None}, "price", None, None, "no column is left"),
        ({"odd": pa.array([[1]] * ROWS)}, "odd", "at", None, "a target is one value a row"),
    ],
)
def test_refuses_what_cannot_be_a_target_or_a_time(
    changes: dict[str, Any], target: str, time: str | None, task: Task | None, reason: str
) -> None:
    with pytest.raises(ContractError, match=reason):
        draft(table(**changes), target, time, task)


AT = np.arange("2020-01-01", "2020-02-01", dtype="M8[h]")[: ROWS // 2].astype("M8[s]").repeat(2)
SITE = np.tile([7, 9], ROWS // 2)


def test_declares_the_lags_that_are_asked_for_and_tells_how_many_rows_have_them() -> None:
    series = table(at=pa.array(AT), site=SITE)

    found = draft(series, "price", "at", lags={"price_1h": 1, "price_1d": 24}, by=["site"])

    target = found.contract.target
    assert isinstance(target, Number)
    assert found.contract.features[-3] == Category(name="site", values=(7, 9))  # whole numbers that name a series
    assert found.contract.features[-1] == Lag(
        name="price_1d", of="price", hours=24, by=("site",), unit="", minimum=target.minimum, maximum=target.maximum
    )
    assert found.seen["price_1h"] == "price of the same site 1 hour before, 0.5% missing"
    assert found.seen["price_1d"] == "price of the same site 24 hours before, 12.0% missing"


def test_tells_of_rows_that_seem_to_be_of_several_series() -> None:
    found = draft(table(at=pa.array(AT), site=SITE), "price", "at", lags={"price_1h": 1})

    assert found.seen["price_1h"].endswith("0.5% missing; SEVERAL SERIES? 50.0% of rows have the moment of another")


def test_tells_plain_repeats_from_rows_of_several_series() -> None:
    series, one = table(at=pa.array(AT), site=SITE), table()
    twice = pa.concat_tables([series, series[:40]])

    found = draft(twice, "price", "at", lags={"price_1h": 1}, by=["site"])
    crowded = draft(twice, "price", "at", lags={"price_1h": 1})

    assert found.seen["at"].endswith("; REPEATS? 9.1% of rows are another row again")
    assert "SERIES" not in found.seen["price_1h"]
    assert crowded.seen["price_1h"].endswith("SEVERAL SERIES? 45.5% of rows have the moment of another")
    assert (
        draft(pa.concat_tables([one, one[:40]]), "price", "at")
        .seen["at"]
        .endswith("REPEATS? 9.1% of rows are another row again")
    )
    assert "REPEATS" not in draft(series, "price", "at").seen["at"]


def test_a_series_of_days_has_lags_of_days() -> None:
    days = np.arange("2020-01-01", "2021-02-04", dtype="M8[D]")[:ROWS]

    assert draft(table(at=days), "price", "at", lags={"price_7d": 168}).seen["price_7d"].endswith("1.8% missing")


@pytest.mark.parametrize(
    ("changes", "target", "time", "by", "reason"),
    [
        ({}, "price", None, [], "lags need a time column"),
        ({}, "kind", "at", [], "lags are of numbers, and 'kind' is a category"),
        ({"lag": COUNT}, "price", "at", [], "there is a column 'lag' already, as a lag would be called"),
        ({}, "price", "at", ["site"], "there is no column 'site'; the table has at, price"),
        ({}, "price", "at", ["price"], "other columns than the target and the time"),
        ({"site": ["x"] * ROWS}, "price", "at", ["site"], "'site' tells no series apart: 'x' in each row"),
        ({"site": PRICE}, "price", "at", ["site"], "'site' tells no series apart: LEAK"),
        ({"site": COUNT + 0.5}, "price", "at", ["site"], "'site' tells no series apart: it is double; a category is"),
        ({}, "price", "at", [], "no row has a price 1 hour before, to the second: choose other lags"),
    ],
)
def test_refuses_lags_that_cannot_be(
    changes: dict[str, Any], target: str, time: str | None, by: list[str], reason: str
) -> None:
    with pytest.raises(ContractError, match=reason):
        draft(table(**changes), target, time, lags={"lag": 1}, by=by)
