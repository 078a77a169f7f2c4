"""What a training is given: every row once, whole or as a sample of all, in whatever parts the table comes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save

from models.contract.columns import Category
from models.learning.devices import repeatable
from models.learning.examples import HeldRows, StreamedRows, to_examples
from models.learning.loop import Fitted
from models.learning.material import TABLE_ROWS, Material, gather
from models.learning.settings import TrainingSettings
from models.learning.splits import Split
from models.learning.training import fit, make_network
from models.model import Model

CPU = torch.device("cpu")
SIZES = (40, 0, 25, 1, 60)
"""Rows to learn from in each part."""
HELD_OUT = (3, 2, 0, 0, 5)
"""Rows that stop, and half as many that judge."""
ROW_BYTES = 2 * 4 + 2 + 2 * 2 + 4
"""Two numbers, a category, two parts of a time, and the target."""
ALL_MB = sum(SIZES) * ROW_BYTES / 1e6
SETTINGS = TrainingSettings(epochs=3, batch_rows=16, learning_rate=0.05)


@pytest.fixture(scope="module")
def parts(make_rides: Callable[..., pd.DataFrame]) -> list[Split]:
    """Five, one of which has nothing to learn from."""
    rides, cut, start = make_rides(200), [], 0
    for train_rows, held_out in zip(SIZES, HELD_OUT, strict=True):
        ends = np.cumsum([start, train_rows, held_out, held_out // 2])
        cut.append(Split(*(rides[first:end] for first, end in pairwise(ends))))
        start = int(ends[-1])
    return cut


def learned(parts: Sequence[Split]) -> pd.DataFrame:
    return pd.concat([part.train for part in parts], ignore_index=True)


def part_of(rides: pd.DataFrame) -> Split:
    """Hold nothing out."""
    return Split(rides, rides[:0], rides[:0])


def seen(material: Material, batch: int = 1) -> list[float]:
    """Give the targets that one epoch learns from."""
    rows = material.train.rows(CPU)
    return sorted(value for window in rows.windows(batch, seed=0, epoch=1) for value in window[-1].tolist())


@pytest.mark.parametrize("share", [1.0, 0.99, 0.25, 0.01])
def test_an_epoch_learns_from_every_row_however_little_is_kept(
    ride_model: Model, parts: list[Split], share: float
) -> None:
    material = gather(ride_model.contract, parts, ALL_MB * share)

    assert isinstance(material.train.rows(CPU), HeldRows if share == 1.0 else StreamedRows)
    assert len(material.train) == sum(SIZES)
    assert seen(material) == sorted(learned(parts)["minutes"].to_numpy(np.float32).tolist())


@pytest.mark.parametrize(("share", "stride"), [(0.99, 8), (0.5, 16), (0.25, 32), (0.02, 128)])
def test_of_what_is_not_kept_a_sample_is_at_even_distances(
    ride_model: Model, parts: list[Split], share: float, stride: int
) -> None:
    sample = gather(ride_model.contract, parts, ALL_MB * share).train.sample

    expected = to_examples(ride_model.contract, learned(parts)).every(stride)
    assert sample.nbytes <= max(ALL_MB * share * 1e6 / 4, ROW_BYTES)
    for found, wanted in zip(sample.tensors(), expected.tensors(), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted.numpy())


def test_what_stops_and_what_judges_are_tables_of_all_parts(ride_model: Model, parts: list[Split]) -> None:
    material = gather(ride_model.contract, parts, ALL_MB / 4)

    for name in ("validation", "test"):
        wanted = pd.concat([getattr(part, name) for part in parts], ignore_index=True)
        pd.testing.assert_frame_equal(getattr(material, name), wanted)


def test_knows_the_span_of_targets_and_keeps_the_newest_rows_wherever_they_lie(
    ride_model: Model, parts: list[Split], make_rides: Callable[..., pd.DataFrame]
) -> None:
    few = gather(ride_model.contract, parts, ALL_MB).train
    rides = make_rides(TABLE_ROWS + 500)
    many = gather(ride_model.contract, [part_of(rides[:4_000]), part_of(rides[8_000:]), part_of(rides[4_000:8_000])], 9)

    minutes = learned(parts)["minutes"].astype("float32")
    assert few.targets == (minutes.min(), minutes.max())
    pd.testing.assert_frame_equal(few.table, learned(parts))
    pd.testing.assert_frame_equal(many.train.table.reset_index(drop=True), rides[500:].reset_index(drop=True))


@pytest.mark.parametrize("rows", [900, 3 * TABLE_ROWS])
def test_without_a_time_it_keeps_rows_of_everywhere_in_no_order(
    ride_model: Model, make_rides: Callable[..., pd.DataFrame], rows: int
) -> None:
    sorted_by_target = make_rides(rows).sort_values("minutes", ignore_index=True)
    pieces = [part_of(sorted_by_target[: rows // 3]), part_of(sorted_by_target[rows // 3 :])]

    timeless = msgspec.structs.replace(ride_model.contract, time=None, known=None)

    found, again = (gather(timeless, pieces, 9).train.table for _ in range(2))

    pd.testing.assert_frame_equal(found, again)
    assert len(found) == min(rows, TABLE_ROWS)
    assert not found["starts_at"].duplicated().any()
    typical, spread = sorted_by_target["minutes"].mean(), sorted_by_target["minutes"].std()
    assert found["minutes"].tail(300).mean() == pytest.approx(typical, abs=spread / 5)


def test_reads_all_rows_once_more_where_a_table_of_them_is_no_more_than_may_be_kept(
    ride_model: Model, make_rides: Callable[..., pd.DataFrame]
) -> None:
    rides = make_rides(TABLE_ROWS + 500)
    pieces = [part_of(rides[:4_000]), part_of(rides[4_000:])]

    whole = gather(ride_model.contract, pieces, 90).train.whole()
    pd.testing.assert_frame_equal(whole, rides)
    for memory_mb in (3, 0.1):  # a table of them takes more, and so do they as they are learned from
        assert len(gather(ride_model.contract, pieces, memory_mb).train.whole()) == TABLE_ROWS


def test_counts_each_value_of_a_category(ride_model: Model, parts: list[Split]) -> None:
    contract = msgspec.structs.replace(ride_model.contract, target=Category(name="minutes", values=(5, 6, 7)))
    coded = [replace(part, train=part.train.assign(minutes=5 + np.arange(len(part.train)) % 2)) for part in parts]
    empty = [replace(part, validation=part.train[:0], test=part.train[:0]) for part in coded]

    found = gather(contract, empty, ALL_MB / 4).train

    assert found.class_counts.tolist() == [20 + 13 + 1 + 30, 20 + 12 + 30, 0]
    assert found.targets == (0.0, 1.0)


def test_nothing_to_learn_from_is_no_error_yet(ride_model: Model, parts: list[Split]) -> None:
    empty = Split(parts[0].train[:0], parts[0].validation, parts[0].test)

    material = gather(ride_model.contract, [empty], ALL_MB)

    assert (len(material.train), len(material.validation), len(material.test)) == (0, 3, 1)
    assert np.isnan(material.train.targets).all()


def fitted(model: Model, material: Material, checkpoints: "Kept | None" = None) -> tuple[Fitted, bytes]:
    """Train, and give the weights as well."""
    with repeatable(SETTINGS.seed, threads=1):
        network = make_network(model, material, {})
        found = fit(model, network, material, SETTINGS, CPU, checkpoints=checkpoints)
    return found, save(found.network.state_dict())


def test_the_same_parts_train_the_same_network_and_another_than_all_kept(ride_model: Model, parts: list[Split]) -> None:
    def fit_on(memory_mb: float) -> tuple[Fitted, bytes]:
        return fitted(ride_model, gather(ride_model.contract, parts, memory_mb))

    first, again, kept = fit_on(ALL_MB / 4), fit_on(ALL_MB / 4), fit_on(ALL_MB)

    assert first[1] == again[1]
    assert first[1] != kept[1]
    errors = [one.epochs[-1]["validation_error"] for one, _ in (first, kept)]
    assert errors[0] == pytest.approx(errors[1], rel=0.5)


class Interrupted(Exception):
    """A kill."""


class Kept:
    """Keeps checkpoints in memory, one for every window, and dies at one."""

    def __init__(self, dies_at: int) -> None:
        self.content: bytes | None = None
        self._left = dies_at

    def load(self) -> bytes | None:
        return self.content

    def due(self) -> bool:
        return True

    def save(self, content: bytes) -> None:
        if not self._left:
            raise Interrupted
        self._left -= 1
        self.content = content


def test_a_streamed_training_that_was_killed_goes_on_as_if_nothing_had_been(
    ride_model: Model, parts: list[Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.learning.examples.WINDOW_BYTES", 1)  # so that each batch is a window
    material = gather(ride_model.contract, parts, ALL_MB / 4)

    _, undisturbed = fitted(ride_model, material)
    for dies_at in (1, 8, 15):
        kept = Kept(dies_at)
        with pytest.raises(Interrupted):
            fitted(ride_model, material, kept)
        kept._left = 1000
        went_on, weights = fitted(ride_model, material, kept)
        assert went_on.resumed_at == dies_at
        assert weights == undisturbed
