"""The contract: what can be meant is kept, what cannot is refused when it is written."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from models.contract.columns import MISSING_CODE, Category, Contract, Lag, Number, Slice, Time, TimePart
from models.contract.rows import RowDecoder
from models.errors import DefinitionError

TIME = Time(name="at", zone=None, parts=(TimePart.HOUR,))
NUMBER = Number(name="size", unit="m", minimum=0, maximum=1)
TARGET = Number(name="price", unit="EUR", minimum=0, maximum=9)
NUMBER_ALONE = Contract(time=TIME, features=(NUMBER,), target=TARGET)


@dataclass
class Changed:
    """Parts of a contract that is right otherwise."""

    features: tuple[Number | Category, ...] = (NUMBER,)
    target: Number = TARGET
    known: str | None = None
    unique: tuple[str, ...] = ()

    def contract(self) -> Contract:
        return Contract(time=TIME, features=self.features, target=self.target, known=self.known, unique=self.unique)


def category(*values: int | str) -> Changed:
    return Changed(features=(Category(name="kind", values=values),))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (Changed(features=(NUMBER, NUMBER)), "'size'.*more than once"),
        (Changed(target=Number(name="size", unit="m", minimum=0, maximum=1)), "'size'.*more than once"),
        (Changed(known="size"), "'size'.*more than once"),
        (Changed(features=(Number(name="size", unit="m", minimum=1, maximum=1),)), "'size' needs minimum < maximum"),
        (Changed(target=Number(name="price", unit="EUR", minimum=2, maximum=1)), "'price' needs minimum < maximum"),
        (Changed(target=msgspec.structs.replace(TARGET, nullable=True)), "'price' may not be nullable"),
        (Changed(features=(Number(name="a/b", unit="m", minimum=0, maximum=1),)), r"\['a/b'\] need names"),
        (Changed(unique=("size", "weight")), r"unique names \['weight'\]"),
        (category(), "'kind' has no values"),
        (category(1, "a"), "'kind' mixes kinds"),
        (category(*[True, False]), "'kind' mixes kinds"),
        (category("a", "a"), "'kind' has a value twice"),
        (category("a", ""), "'kind' has the value that stands for null"),
        (category(1, MISSING_CODE), "'kind' has the value that stands for null"),
    ],
)
def test_refuses_a_contract_that_cannot_be_meant(changed: Changed, reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        changed.contract()


def test_survives_its_json_form(tiny_contract: Contract) -> None:
    assert msgspec.json.decode(msgspec.json.encode(tiny_contract), type=Contract) == tiny_contract


def test_groups_inputs_in_the_order_of_the_contract(tiny_contract: Contract) -> None:
    assert [column.name for column in tiny_contract.inputs] == ["starts_at", "distance", "weight", "kind", "zone"]
    assert [column.name for column in tiny_contract.numbers] == ["distance", "weight"]
    assert [column.name for column in tiny_contract.categories] == ["kind", "zone"]


def test_signature_changes_with_what_a_request_carries_only(tiny_contract: Contract) -> None:
    other_target = msgspec.structs.replace(tiny_contract, target=TARGET, minimum_rows=7)
    fewer_features = msgspec.structs.replace(tiny_contract, features=tiny_contract.features[1:])

    assert other_target.signature == tiny_contract.signature
    assert fewer_features.signature != tiny_contract.signature


KIND = Category(name="kind", values=("a", "b"))
LAG = Lag(name="price_1d", of="price", hours=24, by=("kind",), unit="EUR", minimum=0, maximum=9)


def lagged(
    time: Time | None = TIME, features: tuple[Number | Category, ...] = (NUMBER, KIND), **changes: Any
) -> Contract:
    return Contract(time=time, features=(*features, msgspec.structs.replace(LAG, **changes)), target=TARGET)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"time": None}, "lag 'price_1d' needs a time column"),
        ({"of": "cost"}, "'price_1d' is of 'cost', neither a feature nor the target; name a number: size, price"),
        ({"of": "kind"}, "'price_1d' is of 'kind', a category; name a number: size, price"),
        ({"of": "price_1d"}, "'price_1d' is of 'price_1d', a lag itself; name a number"),
        ({"by": ("colour",)}, "'price_1d' is by 'colour'; name features that are categories: kind"),
        ({"by": ("size",)}, "'price_1d' is by 'size'; name features that are categories: kind"),
        ({"hours": 0}, "'price_1d' lies 0 hours before; it must be some time before"),
        ({"hours": -24}, "'price_1d' lies -24 hours before"),
        ({"hours": float("nan")}, "'price_1d' lies nan hours before"),
        ({"tolerance_minutes": -1}, "'price_1d' has tolerance_minutes -1; use 0 or more"),
        ({"nullable": False}, "'price_1d' must be nullable: the first rows of a series have none"),
        ({"maximum": 8}, "'price_1d' allows 0 to 8; allow what 'price' may be, 0 to 9"),
        (
            {
                "features": tuple(Category(name=f"k{at}", values=tuple(range(300))) for at in range(3)),
                "by": ("k0", "k1", "k2"),
            },
            "'price_1d' tells 27,000,000 series apart, of k0 and k1 and k2; at most 10,000,000",
        ),
    ],
)
def test_refuses_a_lag_that_cannot_be_computed(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        lagged(**changes)


def test_refuses_a_lag_where_tables_would_have_to_keep_it() -> None:
    other = msgspec.structs.replace(LAG, by=())

    with pytest.raises(DefinitionError, match="'price_1d' is a lag; only features may be"):
        Contract(time=TIME, features=(NUMBER,), target=TARGET, checks=(other,))
    with pytest.raises(DefinitionError, match=r"unique names \['price_1d'\], lags, which tables do not have"):
        msgspec.structs.replace(lagged(), unique=("at", "price_1d"))


def test_a_lag_is_a_number_to_whoever_asks_and_no_column_of_a_table() -> None:
    contract = lagged()

    assert [column.name for column in contract.numbers] == ["size", "price_1d"]
    assert contract.without_lags == Contract(time=TIME, features=(NUMBER, KIND), target=TARGET)
    assert NUMBER_ALONE.without_lags is NUMBER_ALONE
    assert msgspec.json.decode(msgspec.json.encode(contract), type=Contract) == contract
    assert contract.signature != lagged(hours=48).signature


@pytest.mark.parametrize(
    ("changes", "meaning"),
    [
        ({}, "price of the same kind 24 hours before; null where that was not known yet"),
        ({"hours": 168, "by": ()}, "price 7 days before; null"),
        ({"hours": 1}, "price of the same kind 1 hour before; null"),
        ({"hours": 0.25}, "price of the same kind 15 minutes before; null"),
        ({"hours": 1 / 3600}, "price of the same kind 1 second before; null"),
        (
            {"hours": 36, "tolerance_minutes": 90},
            "price of the same kind 36 hours before, or up to 90 minutes earlier; null",
        ),
        ({"description": "what it cost"}, "what it cost"),
    ],
)
def test_requests_are_told_what_a_lag_is(changes: dict[str, Any], meaning: str) -> None:
    contract = lagged(**changes)

    schemas = msgspec.json.schema(RowDecoder(contract).request)["$defs"]

    assert schemas["Row"]["properties"]["price_1d"]["anyOf"][0]["description"].startswith(meaning)


SLICED = Contract(
    time=Time(name="at", zone=None, parts=()),
    features=(Number(name="size", unit="m", minimum=0, maximum=9), Category(name="kind", values=("a", "b"))),
    target=Number(name="minutes", unit="min", minimum=0, maximum=90),
)


def test_slices_change_nothing_that_is_asked_or_answered() -> None:
    sliced = replace(SLICED, slices=(Slice(column="size", edges=(1, 3)), Slice(column="at", part=TimePart.HOUR)))

    assert sliced.signature == SLICED.signature
    assert msgspec.json.decode(msgspec.json.encode(sliced), type=Contract) == sliced


def test_a_contract_of_before_slices_were_declared_is_read() -> None:
    older = msgspec.to_builtins(SLICED)
    del older["slices"]

    assert msgspec.convert(older, Contract, strict=False) == SLICED


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ((Slice(column="minutes"),), "a slice is of 'minutes', which is no input"),
        ((Slice(column="kind"), Slice(column="kind")), r"slices \['kind'\] are declared more than once"),
        ((Slice(column="at"),), "the slice of 'at' needs a part, such as TimePart.HOUR"),
        ((Slice(column="size", part=TimePart.HOUR),), "the slice of 'size' has no parts: only a time has"),
        ((Slice(column="at", part=TimePart.DAY_OF_YEAR),), "the slice of day_of_year needs edges"),
        ((Slice(column="kind", edges=(1,)),), "the slice of 'kind' has edges, and the column is no number"),
        ((Slice(column="size", edges=(1, 1)),), "the edges of the slice of 'size' must rise"),
    ],
)
def test_refuses_slices_that_cannot_be_meant(slices: tuple[Slice, ...], said: str) -> None:
    with pytest.raises(DefinitionError, match=f"^contract: {said}"):
        replace(SLICED, slices=slices)
