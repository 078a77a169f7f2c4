"""Replaying: buffers of each size, on the CPU, where nothing is recorded and all else is the same."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models.inference import open_session
from models.replaying import RUNS, Replaying
from tests.models.test_inference import numeric_columns, numeric_graph

SIZES = (16, 32)


@pytest.fixture
def replaying() -> Replaying:
    return Replaying(open_session(numeric_graph()).session, SIZES, "cpu")


@pytest.mark.parametrize("rows", [*SIZES, 1, 17, 64])
def test_each_run_answers_its_own_rows(replaying: Replaying, rows: int) -> None:
    asked = [numeric_columns(rows, seed) for seed in range(RUNS + 2)]

    answers = [replaying.run(columns) for columns in asked]

    wanted = [open_session(numeric_graph()).run(columns) for columns in asked]
    np.testing.assert_array_equal(answers, wanted)
    assert len({answer.tobytes() for answer in answers}) == len(asked)


def test_takes_columns_that_lie_apart(replaying: Replaying) -> None:
    whole, rows = numeric_columns(32, seed=1), SIZES[0]

    answered = replaying.run({name: values[::2] for name, values in whole.items()})

    wanted = open_session(numeric_graph()).run({name: values[::2].copy() for name, values in whole.items()})
    assert answered.shape == (rows,)
    np.testing.assert_array_equal(answered, wanted)


def test_threads_do_not_meet_in_a_buffer(replaying: Replaying) -> None:
    asked = [numeric_columns(SIZES[seed % 2], seed) for seed in range(64)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(replaying.run, asked))

    run = open_session(numeric_graph()).run
    for columns, answered in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answered, run(columns))
