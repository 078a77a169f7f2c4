"""Arrow requests: what JSON accepts they accept, what it refuses they refuse, and nothing that comes is trusted."""

import math
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.contract import arrow
from models.contract.arrow import NotArrow
from models.contract.columns import MISSING_CODE, Category, Contract, Time
from models.contract.rows import MAXIMUM_ROWS, RowDecoder, TooManyRows
from models.errors import ContractError

AT = datetime(2020, 3, 1, 8, 15)
ROW: dict[str, Any] = {"starts_at": AT, "distance": 3.5, "weight": None, "kind": "car", "zone": 2}


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def table(*rows: dict[str, Any]) -> pa.Table:
    kinds = {"starts_at": pa.timestamp("us"), "weight": pa.float64(), "zone": pa.int64()}
    return pa.table({name: pa.array([row[name] for row in rows], kinds.get(name)) for name in rows[0]})


def test_turns_columns_into_the_same_as_json(tiny_contract: Contract) -> None:
    rows = [ROW, ROW | {"distance": 4, "weight": 2.5, "kind": "bike", "zone": None}]

    decoded = arrow.decode(tiny_contract, stream(table(*rows)))

    decoder = RowDecoder(tiny_contract)
    of_json = decoder.together([decoder.decode(msgspec.json.encode({"rows": rows}))])
    assert (decoded.count, decoded.ids) == (2, None)
    for name, values in decoder.together([decoded]).items():
        np.testing.assert_array_equal(values, of_json[name])
        assert values.dtype == of_json[name].dtype


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("starts_at", pa.array([AT, AT], pa.timestamp("s"))),
        ("starts_at", pa.array([AT, AT], pa.timestamp("ns"))),
        ("distance", pa.array([3, 4], pa.int8())),
        ("distance", pa.array([3, 4], pa.float32())),
        ("weight", pa.array([math.nan, None], pa.float64())),
        ("kind", pa.array(["car", "bike"], pa.large_string())),
        ("kind", pa.array(["car", "bike"]).dictionary_encode()),
        ("zone", pa.array([1, 3], pa.uint8())),
        ("zone", pa.array([1, None], pa.int32()).dictionary_encode()),
    ],
)
def test_takes_every_type_that_can_be_meant(tiny_contract: Contract, name: str, values: pa.Array) -> None:
    found = table(ROW, ROW)
    found = found.set_column(found.schema.get_field_index(name), name, values)

    decoded = arrow.decode(tiny_contract, stream(found))

    assert decoded.columns is not None
    wanted = [MISSING_CODE if value is None and name == "zone" else value for value in values.to_pylist()]
    got = decoded.columns[name].tolist()
    if name == "starts_at":
        assert got == [1_583_050_500_000_000] * 2
    elif name == "weight":
        assert all(map(math.isnan, got))
    else:
        assert got == wanted


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"colour": "red"}, "colour", "unknown column"),
        ({"distance": "far"}, "distance", "wrong type: expected a number from 0 to 100 (km), got string"),
        ({"distance": True}, "distance", "wrong type"),
        ({"distance": 100.1}, "distance", "out of range: expected a number from 0 to 100 (km), got 100.1"),
        ({"distance": math.inf}, "distance", "out of range"),
        ({"distance": None}, "distance", "null"),
        ({"distance": math.nan}, "distance", "null"),
        ({"weight": 51.0}, "weight", "(kg) or null"),
        ({"kind": "boat"}, "kind", "unknown category: expected one of 'bike', 'car', got 'boat'"),
        ({"kind": 1}, "kind", "wrong type"),
        ({"kind": None}, "kind", "null"),
        ({"zone": 4}, "zone", "unknown category"),
        ({"zone": MISSING_CODE}, "zone", "unknown category"),
        ({"zone": 2.5}, "zone", "wrong type"),
        ({"starts_at": datetime(2020, 3, 1, tzinfo=UTC)}, "starts_at", "without an offset"),
        ({"starts_at": date(2020, 3, 1)}, "starts_at", "wrong type"),
        ({"starts_at": datetime(9999, 12, 31, 23)}, "starts_at", "wrong time"),
        ({"starts_at": None}, "starts_at", "null"),
        ({"id": ""}, "id", "1 to 200 characters"),
        ({"id": "x" * 201}, "id", "1 to 200 characters"),
        ({"id": 7}, "id", "wrong type: expected text"),
    ],
)
def test_names_the_row_field_and_rule_of_a_wrong_value(
    tiny_contract: Contract, change: dict[str, Any], field: str, rule: str
) -> None:
    (name, value) = next(iter(change.items()))
    good = ROW.get(name)
    kind = pa.array([value]).type if value is not None and value == value else table(ROW).schema.field(name).type
    first = good if good is None or pa.array([good]).type == kind else value
    column = pa.array([first, value], kind)
    found = table(ROW, ROW)
    found = found.drop_columns([name]).append_column(name, column) if name in ROW else found.append_column(name, column)

    with pytest.raises(ContractError) as refused:
        arrow.decode(tiny_contract, stream(found))

    violation = refused.value.violations[-1]
    assert violation.field == field
    assert rule in violation.rule
    assert violation.row in (1, None)


@pytest.mark.parametrize("values", [(1, 3, 9), (-5, 7), (0, 2**40), (-(2**62), 2**63 - 1)])
@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int64(), pa.uint64()])
def test_knows_integers_near_and_far_apart(tiny_contract: Contract, values: tuple[int, ...], kind: pa.DataType) -> None:
    contract = msgspec.structs.replace(tiny_contract, features=(Category(name="zone", values=values),))
    limits = np.iinfo(kind.to_pandas_dtype())
    asked = {0, 1, 2, 9, limits.min, limits.max, *(value for value in values if limits.min <= value <= limits.max)}

    for value in sorted(asked):
        times = pa.array([AT], pa.timestamp("us"))
        body = stream(pa.table({"starts_at": times, "zone": pa.array([value], kind)}))
        if value in values:
            decoded = arrow.decode(contract, body)
            assert decoded.columns is not None
            assert decoded.columns["zone"].tolist() == [value]
        else:
            with pytest.raises(ContractError, match="unknown category"):
                arrow.decode(contract, body)


def test_refuses_missing_and_repeated_columns(tiny_contract: Contract) -> None:
    found = table(ROW)
    repeated = found.append_column("kind", pa.array(["car"]))

    with pytest.raises(ContractError, match="field 'zone': missing column"):
        arrow.decode(tiny_contract, stream(found.drop_columns(["zone"])))
    with pytest.raises(ContractError, match="field 'kind': the column is there twice"):
        arrow.decode(tiny_contract, stream(repeated))


def test_takes_ids_and_refuses_one_for_two_rows(tiny_contract: Contract) -> None:
    found = table(ROW, ROW, ROW)
    named = found.append_column("id", pa.array(["a", None, "b"]))
    twice = found.append_column("id", pa.array(["a", None, "a"]).dictionary_encode())

    assert arrow.decode(tiny_contract, stream(named)).ids == ["a", None, "b"]
    with pytest.raises(ContractError, match="row 2, field 'id'"):
        arrow.decode(tiny_contract, stream(twice))


def test_demands_a_zone_of_an_instant(tiny_contract: Contract) -> None:
    contract = msgspec.structs.replace(tiny_contract, time=Time(name="starts_at", zone=None, parts=()))
    found = table(ROW)
    aware = found.set_column(0, "starts_at", pa.array([AT.replace(tzinfo=UTC)], pa.timestamp("us", "Asia/Tokyo")))

    decoded = arrow.decode(contract, stream(aware))

    assert decoded.columns is not None
    assert arrow.event_at(None, decoded.columns[contract.time_column.name]).to_pylist() == [AT.replace(tzinfo=UTC)]
    with pytest.raises(ContractError, match="with its offset"):
        arrow.decode(contract, stream(found))


def test_takes_ten_thousand_rows_in_any_batches_and_not_one_more(tiny_contract: Contract) -> None:
    found = table(*[ROW] * MAXIMUM_ROWS)
    parts = pa.Table.from_batches(found.to_batches(max_chunksize=999))

    assert arrow.decode(tiny_contract, stream(parts)).count == MAXIMUM_ROWS
    with pytest.raises(TooManyRows):
        arrow.decode(tiny_contract, stream(pa.concat_tables([found, table(ROW)])))
    with pytest.raises(ContractError, match="got none"):
        arrow.decode(tiny_contract, stream(found.slice(0, 0)))


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_refuses_what_is_compressed(tiny_contract: Contract, codec: str, dictionary: bool) -> None:
    found = table(*[ROW] * 100)
    if dictionary:
        found = found.set_column(3, "kind", found["kind"].combine_chunks().dictionary_encode())

    with pytest.raises(NotArrow, match="compressed"):
        arrow.decode(tiny_contract, stream(found, compression=codec))


@pytest.mark.parametrize("name", ["id", "kind"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_writes_out_no_dictionary_that_becomes_a_thousand_times_its_size(
    tiny_contract: Contract, name: str, kind: pa.DataType
) -> None:
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int8()), pa.array(["x" * 100_000], kind))
    found = table(*[ROW] * 1000)
    found = found.drop_columns([name]) if name in ROW else found

    with pytest.raises(NotArrow, match="100000 bytes"):
        arrow.decode(tiny_contract, stream(found.append_column(name, long)))


def test_refuses_a_dictionary_that_does_not_have_what_rows_say(tiny_contract: Contract) -> None:
    kinds = pa.DictionaryArray.from_arrays(pa.array([7], pa.int8()), pa.array(["car"]), safe=False)

    with pytest.raises(NotArrow):
        arrow.decode(tiny_contract, stream(table(ROW).set_column(3, "kind", kinds)))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, stream(table(ROW))[:-200], stream(table(ROW))[8:]])
def test_tells_what_is_no_arrow(tiny_contract: Contract, content: bytes) -> None:
    with pytest.raises(NotArrow):
        arrow.decode(tiny_contract, content)


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 5, 58, 255])
@pytest.mark.parametrize("moved", [0, 3, 7, 64])
def test_what_is_no_schema_is_not_taken_for_one(tiny_contract: Contract, kind: int, moved: int) -> None:
    """Of a message that says it is of an unknown kind nothing is verified: whoever reads it as a schema all the same
    follows its references to anywhere, and the process ends."""
    content = bytearray(stream(table(ROW)))
    said = content.index(b"\x01\x04\x00")  # MessageHeader.Schema, MetadataVersion.V5
    content[said] = kind
    content[said + 127 : said + 127] = bytes(moved)

    with pytest.raises(NotArrow):
        arrow.decode(tiny_contract, bytes(content))


def test_a_stream_without_its_schema_is_none(tiny_contract: Contract) -> None:
    content = stream(table(ROW))
    after_schema = 8 + int.from_bytes(content[4:8], "little")

    with pytest.raises(NotArrow):
        arrow.decode(tiny_contract, content[after_schema:])


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(place=st.integers(0, 5000), byte=st.integers(0, 255), cut=st.none() | st.integers(0, 3000))
def test_spoilt_streams_are_refused_or_read_and_never_fail_otherwise(
    tiny_contract: Contract, place: int, byte: int, cut: int | None
) -> None:
    content = bytearray(stream(table(*[ROW] * 30).append_column("id", pa.array([f"n{at}" for at in range(30)]))))
    content[place % len(content)] = byte

    try:
        decoded = arrow.decode(tiny_contract, bytes(content[:cut]))
    except ContractError:
        return
    assert decoded.count >= 1


rows = st.lists(
    st.fixed_dictionaries(
        {
            "starts_at": st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
            "distance": st.floats(0, 100),
            "weight": st.none() | st.floats(0, 50),
            "kind": st.sampled_from(["bike", "car"]),
            "zone": st.none() | st.sampled_from([1, 2, 3]),
        }
    ),
    min_size=1,
    max_size=5,
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=rows, unit=st.sampled_from(["us", "ns"]))
def test_gives_back_every_value(tiny_contract: Contract, rows: list[dict[str, Any]], unit: str) -> None:
    found = table(*rows)
    place = found.schema.get_field_index("starts_at")
    found = found.set_column(place, "starts_at", found["starts_at"].cast(pa.timestamp(unit)))

    decoded = arrow.decode(tiny_contract, stream(found))

    assert decoded.columns is not None
    kept = pa.RecordBatch.from_arrays(arrow.arrays(tiny_contract, decoded.columns), schema=arrow.schema(tiny_contract))
    assert kept.to_pylist() == rows


def test_finds_every_row_that_it_would_refuse(tiny_contract: Contract) -> None:
    good, far, odd = ROW, ROW | {"distance": 101.0}, ROW | {"distance": -1.0, "kind": "boat"}

    found = arrow.refused(tiny_contract, pa.concat_tables([table(far, good), table(*[odd] * 10, good)]))

    places = [(one.row, one.field) for one in found]
    assert places == [(0, "distance"), *((row, name) for row in range(2, 12) for name in ("distance", "kind"))]
    with pytest.raises(ContractError) as raised:
        arrow.decode(tiny_contract, stream(table(far)))
    assert found[0] == raised.value.violations[0]
    assert arrow.refused(tiny_contract, table(good).slice(1)) == []
