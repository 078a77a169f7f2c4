"""The order in which rows are seen: every row once an epoch, from the seed alone, from any step on."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from models.learning import examples
from models.learning.examples import Examples, HeldRows, Rows, StreamedRows
from models.learning.preprocessing import Prepared

CPU = torch.device("cpu")
BATCH = 8
COUNTS = (30, 7, 41, 1, 20, 0, 26)
RowsMaker = Callable[[], Rows]


def numbered(start: int, stop: int) -> Examples:
    """Rows that hold their own number in each group of inputs."""
    number_N = np.arange(start, stop)
    return Examples(
        Prepared(
            number_N[:, None].astype(np.float32),
            number_N[:, None].astype(np.int16),
            np.stack([number_N, number_N], axis=1).astype(np.int16),
        ),
        number_N.astype(np.float32),
    )


def held() -> Rows:
    return HeldRows(numbered(0, sum(COUNTS)), CPU)


def streamed() -> Rows:
    ends = np.cumsum(COUNTS)
    return StreamedRows(COUNTS, lambda part: numbered(ends[part] - COUNTS[part], ends[part]), CPU, together=2)


@pytest.fixture(params=[held, streamed])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """125 rows; a window is of two batches."""
    monkeypatch.setattr(examples, "WINDOW_BYTES", 2 * BATCH * len(numbered(0, 1).tensors()) * 8)
    monkeypatch.setattr(examples, "_row_bytes", lambda parts: len(parts) * 8)
    made: Rows = request.param()
    return made


def targets(windows: Iterator[list[Tensor]]) -> list[float]:
    return [value for window in windows for value in window[-1].tolist()]


def test_an_epoch_sees_each_row_at_most_once_and_leaves_out_less_than_a_batch(rows: Rows) -> None:
    seen = targets(rows.windows(BATCH, 0, 1))

    assert len(seen) == len(set(seen)) == len(rows) // BATCH * BATCH == 120
    assert set(seen) <= set(range(125))


def test_parts_of_a_row_stay_together_and_codes_are_what_networks_take(rows: Rows) -> None:
    for numbers_N1, categories_N1, parts_N2, target_N in rows.windows(BATCH, 0, 1):
        assert torch.equal(numbers_N1[:, 0], target_N)
        assert torch.equal(categories_N1[:, 0], target_N.long())
        assert torch.equal(parts_N2, torch.stack([target_N.long()] * 2, dim=1))


def test_windows_are_whole_batches(rows: Rows) -> None:
    lengths = [len(window[-1]) for window in rows.windows(BATCH, 0, 1)]

    assert {length % BATCH for length in lengths} == {0}
    assert max(lengths) == 2 * BATCH


def test_the_order_follows_from_seed_and_epoch(rows: Rows) -> None:
    orders = {targets_of: tuple(targets(rows.windows(BATCH, *targets_of))) for targets_of in ((0, 1), (0, 2), (1, 1))}

    assert len(set(orders.values())) == 3
    assert orders[0, 1] == tuple(targets(rows.windows(BATCH, 0, 1)))
    assert list(orders[0, 1]) != sorted(orders[0, 1])


@pytest.mark.parametrize("step", range(16))
def test_goes_on_from_any_step(rows: Rows, step: int) -> None:
    assert targets(rows.windows(BATCH, 3, 2, step)) == targets(rows.windows(BATCH, 3, 2))[step * BATCH :]


def test_rows_of_a_stream_are_shuffled_within_the_parts_that_are_read_together() -> None:
    ends = np.cumsum(COUNTS)
    seen = np.array(targets(streamed().windows(1, 0, 1)), dtype=int)
    part_N = np.searchsorted(ends, seen, side="right")

    changes = int((np.diff(part_N) != 0).sum())
    assert sorted(seen) == list(range(125))
    assert changes > len(COUNTS)  # or parts would come one after the other


def test_an_error_of_the_reader_is_raised_where_rows_are_wanted() -> None:
    def read(part: int) -> Examples:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        next(StreamedRows(COUNTS, read, CPU, together=2).windows(BATCH, 0, 1))


def test_reads_no_part_that_is_skipped_and_one_group_ahead_at_most() -> None:
    read: list[int] = []
    ends = np.cumsum(COUNTS)

    def reading(part: int) -> Examples:
        read.append(part)
        return numbered(ends[part] - COUNTS[part], ends[part])

    windows = StreamedRows(COUNTS, reading, CPU, together=2).windows(BATCH, 0, 1)
    next(windows)
    windows.close()  # type: ignore[attr-defined]
    assert len(read) <= 4
    read.clear()

    list(StreamedRows(COUNTS, reading, CPU, together=2).windows(BATCH, 0, 1, step=14))

    assert 1 <= len(read) < len(COUNTS)


def test_all_rows_come_in_order() -> None:
    rows = HeldRows(numbered(0, 125), CPU)

    assert targets(rows.in_order()) == list(range(125))
