"""Images in a contract: what is declared, what each form of rows and tables may hold, and what is wrong with others."""

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.tables import encode, read_raw
from models.contract import arrow
from models.contract.columns import Category, Contract, Image, Lag, Number, Slice, Time
from models.contract.difference import compare_columns, compare_rows, means_of_lists
from models.contract.examples import example_columns
from models.contract.rows import RowDecoder, Rows, example_row, graph_inputs
from models.contract.table import REASON, to_columns, validate
from models.errors import ContractError, DefinitionError
from models.learning.splits import split_by_content

WEIGHT = Number(name="weight", unit="g", minimum=0, maximum=9)
KIND = Category(name="kind", values=("a", "b"))
GREY = Image(name="image", height=2, width=3, maximum=16, unit="dots")
COLOUR = Image(name="image", height=2, width=1, channels=3)
FLOATS = Image(name="image", height=1, width=2, minimum=-0.1, maximum=0.1, whole=False)
EXPECTED = "expected an image of 2 x 3 whole numbers from 0 to 16 (dots), in lists of lists"


def contract(image: Image = GREY, **changes: Any) -> Contract:
    return Contract(**{"features": (WEIGHT, image), "target": KIND, **changes})


OF_GREY = contract()


def stream(**columns: Any) -> bytes:
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def of_json(of: Contract, *images: Any) -> Rows:
    return RowDecoder(of).decode(msgspec.json.encode({"rows": [{"weight": 1, "image": image} for image in images]}))


def pixels(of: Contract, rows: Rows) -> npt.NDArray[np.generic]:
    return RowDecoder(of).together([rows])["image"]


# What is declared


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"target": GREY, "features": (WEIGHT,)}, "'image' is an image; only a feature may be one"),
        ({"checks": (msgspec.structs.replace(GREY, name="other"),)}, "'other' is an image; only a feature may be one"),
        (
            {"features": (GREY, msgspec.structs.replace(GREY, name="other"))},
            "'image' and 'other' are images; a contract has one at most",
        ),
        ({"unique": ("image",)}, "image 'image' is named by unique"),
        ({"slices": (Slice(column="image"),)}, "a slice is of 'image', an image"),
        ({"features": (msgspec.structs.replace(GREY, height=0),)}, "has height 0, width 3 and channels 1; each is 1"),
        ({"features": (msgspec.structs.replace(GREY, height=9999, width=999),)}, "has 9,989,001 numbers; at most"),
        ({"features": (msgspec.structs.replace(GREY, minimum=-1.0),)}, "allows -1 to 16; a byte holds whole numbers"),
        ({"features": (msgspec.structs.replace(GREY, maximum=1.5),)}, "allows 0 to 1.5; .* or say whole=False"),
        ({"features": (msgspec.structs.replace(GREY, maximum=0.0),)}, "'image' needs minimum < maximum"),
        ({"features": (msgspec.structs.replace(FLOATS, maximum=float("inf")),)}, "needs bounds that are finite"),
    ],
)
def test_refuses_what_no_image_can_be(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        contract(**changes)


def test_is_no_series_and_tells_none_apart() -> None:
    lag = Lag(name="before", of="image", hours=1, unit="g", minimum=0, maximum=9)
    time = Time(name="at", zone=None, parts=())

    with pytest.raises(DefinitionError, match="is of 'image', an image; name a number: weight"):
        contract(time=time, features=(WEIGHT, GREY, lag))
    of_weight = msgspec.structs.replace(lag, of="weight", by=("image",))
    with pytest.raises(DefinitionError, match="is by 'image'; name features that are categories"):
        contract(time=time, features=(WEIGHT, GREY, of_weight))


def test_travels_in_a_card_and_counts_for_what_is_asked() -> None:
    again = msgspec.json.decode(msgspec.json.encode(OF_GREY), type=Contract)

    assert again == OF_GREY
    assert again.image == GREY
    assert contract(msgspec.structs.replace(GREY, width=4)).signature != OF_GREY.signature
    assert Contract(features=(WEIGHT,), target=KIND).image is None


# Rows


@pytest.mark.parametrize(
    ("image", "sent", "kept"),
    [
        (GREY, [[0, 1, 2], [3.0, 4, 16]], [0, 1, 2, 3, 4, 16]),
        (COLOUR, [[[1, 2, 3]], [[4, 5, 255]]], [1, 2, 3, 4, 5, 255]),
        (FLOATS, [[-0.1, 0.1]], np.array([-0.1, 0.1], np.float32).tolist()),
    ],
)
def test_reads_lists_of_lists_row_by_row(image: Image, sent: Any, kept: list[float]) -> None:
    of = contract(image)

    found = pixels(of, of_json(of, sent, sent))

    assert found.tolist() == [kept, kept]
    assert found.dtype == (np.uint8 if image.whole else np.float32)
    inputs = graph_inputs(of)(RowDecoder(of).together([of_json(of, sent)]))
    assert inputs["image"].shape == (1, *image.shape)
    assert inputs["image"].ravel().tolist() == kept


GOOD = [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (None, f"null: {EXPECTED}, got null"),
        ("x", f"wrong type: {EXPECTED}, got str 'x'"),
        ([0] * 6, f"wrong shape: {EXPECTED}, got a list of 6"),
        ([[0, 0, 0]], f"wrong shape: {EXPECTED}, got a list of 1"),
        ([[0, 0, 0], [0, 0]], rf"wrong shape: {EXPECTED}, got a list of 2 at [1]"),
        ([[0, 0, 0], 7], rf"wrong shape: {EXPECTED}, got int 7 at [1]"),
        ([[0, 0, 0], [0, [0], 0]], rf"wrong shape: {EXPECTED}, got a list of 1 at [1][1]"),
        ([[0, 0, 0], [0, None, 0]], rf"null: {EXPECTED}, got null at [1][1]"),
        ([[0, 0, 0], [0, True, 0]], rf"wrong type: {EXPECTED}, got True at [1][1]"),
        ([[0, 0, 0], [0, 0, 17]], rf"out of range: {EXPECTED}, got 17 at [1][2]"),
        ([[0, 0.5, 0], [0, 0, 0]], rf"not whole: {EXPECTED}, got 0.5 at [0][1]"),
    ],
)
def test_names_row_field_and_place_of_what_is_wrong(sent: Any, why: str) -> None:
    with pytest.raises(ContractError) as refused:
        of_json(OF_GREY, GOOD, sent)

    (violation,) = refused.value.violations
    assert (violation.row, violation.field, violation.rule) == (1, "image", why)
    with pytest.raises(ContractError, match="row 0, field 'image'"):
        RowDecoder(OF_GREY).decode_lines([msgspec.json.encode({"weight": 1, "image": sent})])


def test_names_the_place_in_a_body_too_large_to_be_looked_at_twice() -> None:
    large = contract(Image(name="image", height=600, width=600, maximum=9))
    sent = np.zeros((600, 600), int)
    sent[599, 2] = 10

    with pytest.raises(ContractError) as refused:
        of_json(large, np.zeros((600, 600), int).tolist(), sent.tolist())

    (violation,) = refused.value.violations
    assert (violation.row, violation.field) == (1, "image")
    assert violation.rule == "Expected `float` <= 9.0 at [599][2]"


def test_is_described_by_json_schema_with_its_shape() -> None:
    (schema,), definitions = msgspec.json.schema_components([RowDecoder(OF_GREY).request])

    number = {"type": "number", "minimum": 0, "maximum": 16, "multipleOf": 1, "x-unit": "dots"}
    row = {"type": "array", "items": number, "minItems": 3, "maxItems": 3}
    assert definitions["Row"]["properties"]["image"] == {"type": "array", "items": row, "minItems": 2, "maxItems": 2}
    assert schema == {"$ref": "#/$defs/PredictRequest"}


@pytest.mark.parametrize("image", [GREY, COLOUR, FLOATS])
def test_examples_keep_the_contract(image: Image) -> None:
    of = contract(image)

    RowDecoder(of).convert([example_row(of)])
    drawn = example_columns(of, 5)["image"]

    assert drawn.shape == (5, *image.shape)
    for one in drawn:
        of_json(of, one.astype(float).reshape(image.lists).clip(image.minimum, image.maximum).tolist())


# Arrow

NESTED = pa.list_(pa.list_(pa.uint8()))


@pytest.mark.parametrize(
    "sent",
    [
        pa.array([[1, 2, 3, 4, 5, 16], [0] * 6], pa.list_(pa.uint8(), 6)),
        pa.array([[1, 2, 3, 4, 5, 16], [0] * 6], pa.list_(pa.float64())),
        pa.array([[[1, 2, 3], [4, 5, 16]], [[0] * 3] * 2], NESTED),
        pa.array([[[1, 2, 3], [4, 5, 16]], [[0] * 3] * 2], pa.large_list(pa.list_(pa.int64(), 3))),
        pa.array([[[[1], [2], [3]], [[4], [5], [16]]], [[[0]] * 3] * 2], pa.list_(NESTED)),
        pa.array([[[9] * 3] * 2, [[1, 2, 3], [4, 5, 16]], [[0] * 3] * 2], NESTED)[1:],
    ],
)
def test_reads_lists_of_any_numbers_from_arrow(sent: pa.Array) -> None:
    found = pixels(OF_GREY, arrow.decode(OF_GREY, stream(weight=[1.0, 2.0], image=sent)))

    assert found.tolist() == [[1, 2, 3, 4, 5, 16], [0] * 6]
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("kind", "sent", "got"),
    [
        (NESTED, None, "null: {}, got null"),
        (NESTED, [[0, 0, 0]], "wrong shape: {}, got a list of 1"),
        (NESTED, [[0, 0, 0], [0, 0]], "wrong shape: {}, got a list of 2 at [1]"),
        (NESTED, [[0, 0, 0], None], "null: {}, got null at [1]"),
        (NESTED, [[0, 0, 0], [0, None, 0]], "null: {}, got null at [1][1]"),
        (pa.list_(pa.int64()), [0, 0, 0, 0, 0, 17], "out of range: {}, got 17 at [1][2]"),
        (pa.list_(pa.int64()), [0] * 5, "wrong shape: {}, got a list of 5"),
        (pa.list_(pa.float32()), [0.5, 0, 0, 0, 0, 0], "not whole: {}, got 0.5 at [0][0]"),
        (pa.list_(pa.float32()), [float("nan"), 0, 0, 0, 0, 0], "out of range: {}, got nan at [0][0]"),
    ],
)
def test_names_the_same_of_arrow(kind: pa.DataType, sent: Any, got: str) -> None:
    good = [0] * 6 if kind.value_type != pa.list_(pa.uint8()) else GOOD
    with pytest.raises(ContractError) as refused:
        arrow.decode(OF_GREY, stream(weight=[1.0, 2.0, 3.0], image=pa.array([good, sent, good], kind)))

    (violation,) = refused.value.violations
    assert (violation.row, violation.field, violation.rule) == (1, "image", got.format(EXPECTED))


@pytest.mark.parametrize(
    "sent", [pa.array(["[[0]]"]), pa.array([1.0]), pa.array([["a"]]), pa.array([[[[[0]]]]]), pa.array([None])]
)
def test_refuses_other_types_of_arrow(sent: pa.Array) -> None:
    with pytest.raises(ContractError, match=r"field 'image': wrong type: expected an image of 2 x 3 .*, got "):
        arrow.decode(OF_GREY, stream(weight=[1.0], image=sent))


@given(
    st.lists(
        st.lists(st.lists(st.one_of(st.integers(-1, 17), st.none(), st.just(2.5)), max_size=4), max_size=3), min_size=1
    )
)
def test_arrow_accepts_what_json_accepts(sent: list[Any]) -> None:
    def outcome(decode: Any) -> Any:
        try:
            return pixels(OF_GREY, decode()).tolist()
        except ContractError as error:
            return sorted({violation.row for violation in error.violations if violation.row is not None})

    body = stream(weight=[1.0] * len(sent), image=pa.array(sent, pa.list_(pa.list_(pa.float64()))))

    assert outcome(lambda: arrow.decode(OF_GREY, body)) == outcome(lambda: of_json(OF_GREY, *sent))


def test_what_was_accepted_is_written_as_lists_of_one_length() -> None:
    columns = RowDecoder(OF_GREY).together([of_json(OF_GREY, [[1, 2, 3], [4, 5, 6]], GOOD)])

    _, written = arrow.arrays(OF_GREY, columns)

    assert written.type == pa.list_(pa.uint8(), 6)
    assert written.to_pylist() == [[1, 2, 3, 4, 5, 6], [0] * 6]
    assert arrow.schema(contract(FLOATS)).field("image").type == pa.list_(pa.float32(), 2)


# Tables


def table(*cells: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "weight": 1.0,
            "image": pd.Series(list(cells), dtype=object),
            "kind": pd.Series(["a"] * len(cells), dtype=object),
        }
    )


def test_accepts_arrays_and_lists_however_they_are_nested() -> None:
    flat = [1, 2, 3, 4, 5, 16]
    nested = np.array([np.array([1, 2, 3]), np.array([4, 5, 16])])
    of_parquet = np.empty(2, object)
    of_parquet[:] = [np.array([1, 2, 3]), np.array([4, 5, 16])]
    cells = [flat, np.array(flat, float), nested, nested[..., None], [[1, 2, 3], [4, 5, 16]], tuple(flat), of_parquet]

    checked = validate(OF_GREY, table(*cells), "images.parquet")

    assert checked.refused.empty
    assert [one.tolist() for one in checked.accepted["image"]] == [flat] * len(cells)
    assert {one.dtype for one in checked.accepted["image"]} == {np.dtype(np.uint8)}
    columns = to_columns(OF_GREY, checked.accepted)
    assert columns["image"].shape == (len(cells), 2, 3, 1)
    sent = graph_inputs(OF_GREY)(RowDecoder(OF_GREY).together([of_json(OF_GREY, [[1, 2, 3], [4, 5, 16]])]))
    np.testing.assert_array_equal(columns["image"][:1], sent["image"])


@pytest.mark.parametrize(
    ("cell", "why", "kept"),
    [
        (None, "image: may not be null", None),
        (float("nan"), "image: may not be null", None),
        (7, "image: no list of numbers", None),
        ("0 0", "image: no list of numbers", None),
        (["0"] * 6, "image: no list of numbers", None),
        ([True] * 6, "image: no list of numbers", None),
        ([0] * 5, "image: 5 numbers, not 2 x 3", [0.0] * 5),
        ([[0, 0], [0, 0], [0, 0]], "image: 3 x 2 numbers, not 2 x 3", [0.0] * 6),
        ([[0, 0, 0], [0, 0]], "image: lists of different lengths", None),
        ([[0, 0, 0], [0, None, 0]], "image: a null among its numbers", [0.0] * 4 + [None, 0.0]),
        ([0, 0, 0, 0, 0, 17], "image: outside 0 to 16 dots", [0.0] * 5 + [17.0]),
        ([0, 0, 0, 0, 0, -1], "image: outside 0 to 16 dots", [0.0] * 5 + [-1.0]),
        ([0, 0, 0, 0, 0, 0.5], "image: not whole numbers, without whole=False", [0.0] * 5 + [0.5]),
    ],
)
def test_sets_rows_apart_whose_image_is_none(cell: Any, why: str, kept: Any) -> None:
    good = [0] * 6

    checked = validate(OF_GREY, table(*[good] * 8, cell), "images.parquet")

    assert len(checked.accepted) == 8
    assert "; ".join(checked.refused[REASON]) == why
    stored = pq.read_table(pa.BufferReader(encode(checked.refused)))
    (found,) = stored["image"].to_pylist()
    assert found == kept or [None if one != one else one for one in found] == kept


def test_says_what_a_column_should_be_that_has_no_lists() -> None:
    with pytest.raises(ContractError, match="field 'image': should be lists of numbers, it is float64"):
        validate(OF_GREY, table([0] * 6).assign(image=1.0), "images.parquet")


def test_raw_files_have_lists_and_csv_has_none() -> None:
    sink = pa.BufferOutputStream()
    kinds = {"image": "image", "kind": "text"}
    pq.write_table(pa.table({"image": pa.array([GOOD], NESTED), "kind": ["a"]}), sink)

    raw = read_raw("a.parquet", sink.getvalue().to_pybytes(), kinds)

    assert validate(OF_GREY, raw.assign(weight=1.0), "a.parquet").accepted["image"][0].tolist() == [0] * 6
    with pytest.raises(
        ContractError, match=r"a\.csv: column 'image' is an image, which no CSV file holds: use Parquet"
    ):
        read_raw("a.csv", b'image,kind\n"[[0]]",a\n', kinds)
    with pytest.raises(ContractError, match=r"a\.parquet: column 'kind' should be lists of numbers, it is string"):
        read_raw("a.parquet", sink.getvalue().to_pybytes(), {"kind": "image"})


def test_a_table_keeps_few_large_images_together() -> None:
    image = Image(name="image", height=600, width=600)
    cells = [np.zeros(image.size, np.uint8)] * 400  # 144 MB

    content = encode(pd.DataFrame({"image": pd.Series(cells, dtype=object)}))

    groups = pq.ParquetFile(pa.BufferReader(content)).metadata
    assert [groups.row_group(place).num_rows for place in range(groups.num_row_groups)] == [*[46] * 8, 32]


def test_images_of_another_size_than_the_contract_has_now_are_named() -> None:
    accepted = validate(OF_GREY, table([0] * 6), "images.parquet").accepted

    with pytest.raises(ContractError, match="has images of 6 numbers, and of 12 by the contract now: ingest"):
        to_columns(contract(msgspec.structs.replace(GREY, width=6)), accepted)


def test_the_same_row_is_held_out_in_whatever_type_it_comes() -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 17, (200, 6))
    accepted = validate(OF_GREY, table(*images), "images.parquet").accepted
    as_lists = accepted.assign(image=pd.Series([one.astype(np.int64) for one in accepted["image"]], dtype=object))

    one, other = (split_by_content(OF_GREY, rows, 0.2, 0.3) for rows in (accepted, as_lists.iloc[::-1]))

    assert 0 < len(one.test) < len(one.train)
    assert sorted(one.test.index) == sorted(other.test.index)
    changed = accepted.assign(image=pd.Series([(one + 1) % 17 for one in accepted["image"]], dtype=object))
    assert sorted(split_by_content(OF_GREY, changed, 0.2, 0.3).test.index) != sorted(one.test.index)


# Differences


def test_tells_which_images_came_and_went() -> None:
    before = validate(OF_GREY, table([0] * 6, [1] * 6, [2] * 6), "a.parquet").accepted
    after = validate(OF_GREY, table([1] * 6, [2] * 6, [16] * 6, [2] * 6), "a.parquet").accepted

    rows = compare_rows(before, after, ())
    found = {column.name: column for column in compare_columns(OF_GREY, before, after)}["image"]

    assert (rows.added, rows.removed, rows.unchanged) == (2, 1, 2)
    assert found.before is not None
    assert found.after is not None
    assert (found.before.distinct, found.before.mean, found.before.maximum) == (3, 1.0, 2.0)
    assert (found.after.distinct, found.after.mean, found.after.maximum) == (3, 5.25, 16.0)
    assert (found.new_values, found.gone_values) == ([], [])
    assert means_of_lists(after["image"]).tolist() == [1.0, 2.0, 16.0, 2.0]
    old, new = (frame.assign(weight=range(len(frame))) for frame in (before, after))
    by_weight = compare_rows(old, new, ("weight",))
    assert (by_weight.changed, len(by_weight.examples)) == (3, 3)
