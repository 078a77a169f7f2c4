"""The request decoder: what it accepts becomes arrays, what it refuses is named."""

import json
import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.contract import arrow
from models.contract.columns import MISSING_CODE, Category, Contract, Number, Time
from models.contract.rows import MAXIMUM_ROWS, Columns, NotJSON, RowDecoder, TooManyRows, example_row, graph_inputs
from models.errors import ContractError, DefinitionError

ROW = {"starts_at": "2020-03-01T08:15:00", "distance": 3.5, "weight": None, "kind": "car", "zone": 2}


def moments(contract: Contract, columns: Columns) -> pa.Array:
    return arrow.event_at(contract.time_column.zone, columns[contract.time_column.name])


def body(*rows: object) -> bytes:
    return json.dumps({"rows": rows}).encode()


def test_turns_rows_into_the_arrays_that_the_graph_takes(tiny_contract: Contract) -> None:
    other = {"starts_at": "2020-03-01T08:15:00.9", "distance": 4, "weight": 2.5, "kind": "bike", "zone": None}

    decoder = RowDecoder(tiny_contract)
    rows = decoder.decode(body({**ROW, "id": "a"}, other))
    kept = decoder.together([rows])
    columns = graph_inputs(tiny_contract)(kept)

    assert rows.ids == ["a", None]
    assert columns["starts_at"].tolist() == [1_583_050_500, 1_583_050_500]
    assert columns["distance"].tolist() == [3.5, 4.0]
    assert math.isnan(columns["weight"][0])
    assert columns["kind"].tolist() == ["car", "bike"]
    assert columns["zone"].tolist() == [2, MISSING_CODE]
    assert [array.dtype for array in columns.values()] == [np.int64, np.float32, np.float32, np.object_, np.int64]
    assert kept["starts_at"].tolist() == [1_583_050_500_000_000, 1_583_050_500_900_000]
    assert moments(tiny_contract, kept)[0].as_py() == datetime(2020, 3, 1, 13, 15, tzinfo=UTC)
    (first, _) = pa.RecordBatch.from_arrays(arrow.arrays(tiny_contract, kept), list(kept)).to_pylist()
    assert msgspec.to_builtins(first) == ROW


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"colour": "red"}, "colour", "unknown column"),
        ({"distance": "far"}, "distance", "wrong type: expected a number from 0 to 100 (km), got 'far'"),
        ({"distance": True}, "distance", "wrong type"),
        ({"distance": 100.1}, "distance", "out of range: expected a number from 0 to 100 (km), got 100.1"),
        ({"distance": -1}, "distance", "out of range"),
        ({"distance": None}, "distance", "null: expected a number"),
        ({"distance": {"km": 3}}, "distance", "wrong type"),
        ({"weight": 51}, "weight", "(kg) or null"),
        ({"kind": "boat"}, "kind", "unknown category: expected one of 'bike', 'car', got 'boat'"),
        ({"kind": 1}, "kind", "wrong type"),
        ({"kind": None}, "kind", "null"),
        ({"zone": 4}, "zone", "unknown category"),
        ({"zone": 2.5}, "zone", "wrong type"),
        ({"zone": "2"}, "zone", "wrong type"),
        ({"zone": 10**30}, "zone", "unknown category"),
        ({"starts_at": "2020-03-01T08:15:00Z"}, "starts_at", "without an offset"),
        ({"starts_at": "2020-03-01"}, "starts_at", "wrong time"),
        ({"starts_at": "9999-12-31T23:59:00"}, "starts_at", "wrong time"),
        ({"starts_at": 1_583_050_500}, "starts_at", "wrong type"),
        ({"id": ""}, "id", "1 to 200 characters"),
        ({"id": 7}, "id", "1 to 200 characters"),
    ],
)
def test_names_the_row_field_and_rule_of_a_wrong_value(
    tiny_contract: Contract, change: dict[str, object], field: str, rule: str
) -> None:
    with pytest.raises(ContractError) as refused:
        RowDecoder(tiny_contract).decode(body(ROW, {**ROW, **change}))

    (violation,) = refused.value.violations
    assert (violation.row, violation.field) == (1, field)
    assert rule in violation.rule
    assert str(violation) in str(refused.value)


@pytest.mark.parametrize(
    ("content", "field", "rule"),
    [
        (b"{}", "rows", "missing"),
        (b'{"rows": []}', "rows", "got an empty list"),
        (b'{"rows": 3}', "rows", "got 3"),
        (b"[]", "rows", "expected an object"),
        (b'{"rows": [3]}', "rows", "expected an object with a value a column"),
        (body(ROW)[:-1] + b', "more": 1}', "more", "unknown field"),
        (body(ROW).replace(b"3.5", b"1e999"), "distance", "out of range"),
    ],
)
def test_names_what_is_wrong_with_a_whole_request(
    tiny_contract: Contract, content: bytes, field: str, rule: str
) -> None:
    with pytest.raises(ContractError) as refused:
        RowDecoder(tiny_contract).decode(content)

    assert refused.value.violations[0].field == field
    assert rule in refused.value.violations[0].rule


@pytest.mark.parametrize("column", ["starts_at", "distance", "weight", "kind", "zone"])
def test_refuses_a_missing_column_even_where_null_is_allowed(tiny_contract: Contract, column: str) -> None:
    row = {name: value for name, value in ROW.items() if name != column}

    with pytest.raises(ContractError, match=f"row 0, field '{column}': missing column"):
        RowDecoder(tiny_contract).decode(body(row))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b'{"rows": [{"kind": "\xff"}]}', b"[" * 100_000, b'{"rows": NaN}']
)
def test_tells_broken_json_from_a_broken_contract(tiny_contract: Contract, content: bytes) -> None:
    with pytest.raises(NotJSON):
        RowDecoder(tiny_contract).decode(content)


def test_takes_ten_thousand_rows_and_not_one_more(tiny_contract: Contract) -> None:
    decoder = RowDecoder(tiny_contract)

    assert decoder.decode(body(*[ROW] * MAXIMUM_ROWS)).count == MAXIMUM_ROWS
    with pytest.raises(TooManyRows, match="10001"):
        decoder.decode(body(*[ROW] * (MAXIMUM_ROWS + 1)))


def test_shows_at_most_five_violations(tiny_contract: Contract) -> None:
    with pytest.raises(ContractError) as refused:
        RowDecoder(tiny_contract).decode(body(*[{**ROW, "zone": 9}] * 50))

    assert [violation.row for violation in refused.value.violations] == [0, 1, 2, 3, 4]


def test_names_the_place_in_a_body_too_large_to_be_looked_at_twice(tiny_contract: Contract) -> None:
    large = body(*[ROW] * 20_000, {**ROW, "zone": 9})

    with pytest.raises(ContractError) as refused:
        RowDecoder(tiny_contract).decode(large)

    assert (refused.value.violations[0].row, refused.value.violations[0].field) == (20_000, "zone")


def test_refuses_one_id_for_two_rows(tiny_contract: Contract) -> None:
    with pytest.raises(ContractError, match="row 2, field 'id'"):
        RowDecoder(tiny_contract).decode(body({**ROW, "id": "a"}, ROW, {**ROW, "id": "a"}))


def test_demands_an_offset_of_an_instant(tiny_contract: Contract) -> None:
    contract = msgspec.structs.replace(tiny_contract, time=Time(name="starts_at", zone=None, parts=()))
    decoder = RowDecoder(contract)

    rows = decoder.decode(body({**ROW, "starts_at": "2020-03-01T08:15:00-05:00"}))

    kept = decoder.together([rows])
    assert moments(contract, kept).to_pylist() == [datetime(2020, 3, 1, 13, 15, tzinfo=UTC)]
    assert graph_inputs(contract)(kept)["starts_at"].tolist() == [1_583_068_500]
    with pytest.raises(ContractError, match="with its offset"):
        decoder.decode(body(ROW))


def test_refuses_a_column_called_id(tiny_contract: Contract) -> None:
    column = Number(name="id", unit="1", minimum=0, maximum=1)

    with pytest.raises(DefinitionError, match="'id'"):
        RowDecoder(msgspec.structs.replace(tiny_contract, features=(column,)))


def test_columns_may_have_any_name() -> None:
    contract = Contract(
        time=Time(name="pick-up at", zone="UTC", parts=()),
        features=(Category(name="class", values=("a",)), Number(name="c0", unit="1", minimum=0, maximum=1)),
        target=Number(name="y", unit="1", minimum=0, maximum=1),
    )

    decoder = RowDecoder(contract)
    rows = decoder.decode(body(example_row(contract)))

    assert list(decoder.together([rows])) == ["pick-up at", "class", "c0"]


def test_its_json_schema_states_the_contract(tiny_contract: Contract) -> None:
    _, schemas = msgspec.json.schema_components([RowDecoder(tiny_contract).request])

    row = schemas["Row"]
    assert row["additionalProperties"] is False
    assert row["required"] == list(ROW)
    assert row["properties"]["distance"] == {"type": "number", "minimum": 0.0, "maximum": 100.0, "x-unit": "km"}
    assert row["properties"]["kind"] == {"enum": ["bike", "car"]}
    assert row["properties"]["starts_at"]["x-zone"] == "America/New_York"
    assert schemas["PredictRequest"]["properties"]["rows"]["maxItems"] == MAXIMUM_ROWS


accepted_rows = st.fixed_dictionaries(
    {
        "starts_at": st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).map(datetime.isoformat),
        "distance": st.floats(0, 100) | st.integers(0, 100),
        "weight": st.none() | st.floats(0, 50),
        "kind": st.sampled_from(["bike", "car"]),
        "zone": st.none() | st.sampled_from([1, 2, 3]),
    }
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(accepted_rows, min_size=1, max_size=5))
def test_keeps_every_value_of_accepted_rows(tiny_contract: Contract, rows: list[dict[str, Any]]) -> None:
    decoder = RowDecoder(tiny_contract)

    decoded = decoder.decode(body(*rows))
    kept = decoder.together([decoded])
    columns, event_at = graph_inputs(tiny_contract)(kept), moments(tiny_contract, kept).to_pylist()
    tabled = pa.RecordBatch.from_arrays(arrow.arrays(tiny_contract, kept), schema=arrow.schema(tiny_contract))

    for index, row in enumerate(rows):
        starts_at = datetime.fromisoformat(str(row["starts_at"]))
        wall_s = (starts_at.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
        assert columns["starts_at"][index] == wall_s
        assert event_at[index] == starts_at.replace(tzinfo=ZoneInfo("America/New_York")).astimezone(UTC)
        assert columns["distance"][index] == np.float32(row["distance"])
        weight = np.float32(np.nan if row["weight"] is None else row["weight"])
        assert np.array_equal(columns["weight"][index], weight, equal_nan=True)
        assert columns["zone"][index] == (MISSING_CODE if row["zone"] is None else row["zone"])
        assert tabled.slice(index, 1).to_pylist() == [{**row, "starts_at": starts_at}]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.sampled_from([*ROW, "id", "other"]), value=json_values)
def test_refuses_or_accepts_and_never_fails_otherwise(tiny_contract: Contract, name: str, value: object) -> None:
    try:
        content = msgspec.json.encode({"rows": [{**ROW, name: value}]})
    except UnicodeEncodeError:  # lone surrogates are not text
        return

    with suppress(ContractError):
        RowDecoder(tiny_contract).decode(content)
