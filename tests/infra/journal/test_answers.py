"""Sheets: answers that are put together as they come."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from infra.journal.answers import Answers, Sheet
from tests.infra.journal.answers import AT, CONTRACT, answers, milliseconds


def batch(place: int, count: int) -> Answers:
    """Make a batch that differs from all others."""
    made = answers(*[None] * count, distance=float(place), value=float(place))
    return made._replace(answered_ms=milliseconds(AT, len(made.ids)) + place)


def put(sheet: Sheet, one: Answers) -> None:
    sheet.add(one.ids, one.columns, one.values, int(one.answered_ms[0]))


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), data=st.data())
def test_a_sheet_has_what_was_put_to_it_row_by_row(sizes: list[int], data: st.DataObject) -> None:
    batches, sheet = [batch(place, size) for place, size in enumerate(sizes)], Sheet(CONTRACT, "v1")

    for one in batches:
        put(sheet, one)

    rows = sum(sizes)
    bounds = sorted(data.draw(st.sets(st.integers(0, rows))))
    parts = list(zip(bounds[::2], bounds[1::2], strict=False))
    its = np.concatenate([np.arange(*part) for part in [(0, 0), *parts]])
    names = [name for one in batches for name in one.ids.texts()]
    for found, places in ((sheet.answers(), np.arange(rows)), (sheet.answers(parts), its)):
        assert found.ids.texts() == [names[place] for place in places.tolist()]
        assert found.values.tolist() == np.concatenate([one.values for one in batches])[places].tolist()
        assert found.answered_ms.tolist() == np.concatenate([one.answered_ms for one in batches])[places].tolist()
        for name, array in found.columns.items():
            expected = np.concatenate([one.columns[name] for one in batches])[places]
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == expected.dtype
    assert len(sheet) == rows


def test_what_comes_later_changes_neither_the_first_batch_nor_what_was_given_before() -> None:
    first, sheet = batch(1, 2), Sheet(CONTRACT, "v1")
    put(sheet, first)
    before = sheet.answers()
    assert before.values is not first.values
    assert np.shares_memory(before.values, first.values)  # one batch alone is not copied

    put(sheet, batch(2, 3))

    assert [before.values.tolist(), first.values.tolist(), len(before.ids)] == [[1.0, 1.0], [1.0, 1.0], 2]
    assert sheet.answers().values.tolist() == [1.0, 1.0, 2.0, 2.0, 2.0]


def test_has_room_for_some_thousand_rows() -> None:
    sheet = Sheet(CONTRACT, "v1")
    put(sheet, batch(1, 2047))

    assert (sheet.has_room(1), sheet.has_room(2)) == (True, False)
    put(sheet, batch(2, 1))
    assert not sheet.has_room(1)
    assert len(sheet.answers().ids) == 2048


def test_rows_that_callers_named_keep_their_names() -> None:
    sheet = Sheet(CONTRACT, "v1")
    put(sheet, answers("a", None, "c"))

    assert [sheet.answers([part]).ids.given for part in ((0, 3), (1, 3), (1, 2))] == [{0: "a", 2: "c"}, {1: "c"}, {}]
