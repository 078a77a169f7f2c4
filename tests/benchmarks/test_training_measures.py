"""What the benchmark of training rests on: loops that train the same, rows of a chain, trees, curves, equal files."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models import definitions
from models.contract.table import to_columns
from models.learning.splits import Split
from tests.benchmarks import train_again, train_loop, train_quality, train_together
from tests.benchmarks.sample_rows import split
from tests.benchmarks.train_quality import Training, Trees


def test_our_loop_and_the_one_by_hand_train_the_same(tmp_path: Path) -> None:
    losses = {}
    for name in (train_loop.OURS, train_loop.BARE):
        with train_loop.running(name, Path(sys.executable), tmp_path, threads=1) as loop:
            first, again = loop.train(2), loop.train(2)
        assert first.rows == again.rows == 200_000 // 1024 * 1024
        assert first.seconds > 0
        losses[name] = first.loss
    assert losses[train_loop.OURS] == pytest.approx(losses[train_loop.BARE], rel=0.03)
    train_loop.check_alike(losses)


def test_loops_that_do_not_train_the_same_are_not_compared() -> None:
    with pytest.raises(SystemExit, match="do not train the same"):
        train_loop.check_alike({"okruh": 0.2, "bare": 0.3})


def test_a_loop_that_dies_is_told_with_its_log(tmp_path: Path) -> None:
    with (
        train_loop.running("nothing", Path(sys.executable), tmp_path, threads=1) as loop,
        pytest.raises(SystemExit, match=r"nothing does not train: see .*nothing.log"),
    ):
        loop.train(2)

    assert "No such file" in (tmp_path / "nothing.log").read_text()


def test_a_chain_has_the_rows_of_all_its_trainings_once() -> None:
    def training(version: str, warm_start: str | None, train: list[int], validation: list[int]) -> Training:
        frames = [pd.DataFrame({"row": rows}, dtype="int64") for rows in (train, validation, [9])]
        return Training(version, warm_start, Split(*frames), error=1.0)

    trainings = [
        training("first", None, [1, 2], [3]),
        training("second", "first", [4, 5], []),
        training("lost", "second", [4, 5, 6], []),
        training("third", "second", [5, 7], []),
    ]

    older, changed = train_quality.chain(trainings[3], {one.version: one for one in trainings})

    assert older["row"].tolist() == [1, 2, 3]
    assert sorted(changed["row"]) == [4, 5, 7]


def test_trees_get_the_columns_of_the_network_and_learn() -> None:
    definition = definitions.load("taxi_eta")
    rows = split(definition, "2020-01", "2020-02", "2020-02").train
    contract = definition.contract
    trees = Trees(definition, rows)
    columns = trees.columns(rows)

    inputs = to_columns(contract, rows)
    assert columns["trip_miles"].tolist() == inputs["trip_miles"].tolist()
    zones = columns["pickup_zone"].astype("float64").to_numpy()
    assert (zones[~np.isnan(zones)] == inputs["pickup_zone"][~np.isnan(zones)]).all()
    assert columns["weekday"].tolist() == rows["pickup_at"].dt.day_of_week.tolist()
    first = trees.fit(rows, {"max_iter": 5})
    more = trees.fit(rows, {"max_iter": 5}, before=first)
    stopped = trees.fit(rows, {"max_iter": 7}, validation=rows[:100])
    middle = (rows["trip_minutes"] - rows["trip_minutes"].median()).abs().mean()
    assert middle > first.error(rows) > more.error(rows)
    assert middle > stopped.error(rows)


def test_of_a_category_with_too_many_values_the_rarest_are_missing_to_trees() -> None:
    definition = definitions.load("taxi_eta")
    rows = split(definition, "2018-01", "2020-02", "2020-02").train
    inputs = Trees(definition, rows).columns(rows)["dropoff_zone"]

    assert rows["dropoff_zone"].nunique() > 254
    assert len(inputs.cat.categories) == 254
    assert 0 < inputs.isna().mean() < 0.001


def test_retrainings_are_compared_over_all_their_test_rows_with_the_trees_that_do_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_quality, "_ALL", {"max_iter": 10})  # as many as it takes to compare them
    monkeypatch.setattr(train_quality, "_FEW", {"max_iter": 10})
    definition = definitions.load("taxi_eta")
    months = split(definition, "2019-12", "2020-01", "2020-02")
    older, newer = months.train[:1500], months.test[:900]
    nothing = older[:0]
    trainings = [
        Training("first", None, Split(older[:1200], older[1200:], newer[:9]), error=1.0),
        Training("lost", "first", Split(newer[:200], nothing, newer[200:300]), error=2.0),
        Training("second", "first", Split(newer[:600], nothing, newer[600:900]), error=4.0),
    ]
    trees = Trees(definition, older).fit(older, {"max_iter": 20})

    figure = train_quality.compare_retrained(definition, trainings[1:], {one.version: one for one in trainings}, trees)

    compared = dict(figure.compared_with)
    assert compared.pop("ours") == pytest.approx((2.0 * 100 + 4.0 * 300) / 400)
    assert (compared.pop("retrainings"), compared.pop("rows to test")) == (2, 400)
    assert compared.pop("most rows since the change") == 600
    assert len(compared) == 3
    assert figure.value == pytest.approx(3.5 / min(compared.values()))
    middle = (newer["trip_minutes"] - newer["trip_minutes"].median()).abs().mean()
    assert all(0 < error < middle for error in compared.values())


@pytest.mark.parametrize("parts", [train_together.perceptron_parts, train_together.taxi_parts])
def test_what_processes_train_together_has_rows_and_a_network(parts: Callable[[], train_together.Parts]) -> None:
    settings, rows, held_out, aim, make = parts()

    *inputs, target_N = next(rows.in_order())
    loss = aim(make().train()(*inputs), target_N)
    assert float(loss.detach()) > 0
    assert len(held_out) > settings.batch_rows


def test_curves_differ_by_their_largest_relative_difference() -> None:
    assert train_together.difference([1.0, 2.2, 3.0], [1.0, 2.0, 4.0]) == pytest.approx(0.25)


def test_equal_files_are_those_that_are_the_commonest() -> None:
    assert train_again.same(["a", "a", "b", "a"]) == 0.75
    assert train_again.same(["a", "a"]) == 1.0
