"""Requests that come together are predicted together, and each gets what belongs to its own rows."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.catalog.taxi_eta import CONTRACT
from models.contract.rows import Array, Columns, Rows
from models.inference import Predictor, Runtime, batch_rows
from services import batching
from services.batching import MAXIMUM_BATCH_ROWS, Batcher, Overloaded, Part, Predict
from tests.models.learning import export_taxi

AT_ONCE, LONG = 0.0, 1.0


class Doubling:
    """Answers twice the row, and remembers the sizes of batches; a row of None cannot be predicted."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.began = threading.Event()

    def __call__(self, parts: Sequence[Rows]) -> tuple[Columns, Array]:
        rows = [row for part in parts for row in part.one_by_one or ()]
        self.sizes.append(len(rows))
        self.began.set()
        assert self.may_go.wait(30)
        return {"row": np.array(rows)}, np.array([2.0 * row for row in rows])


class Asked:
    """A batcher of numbers."""

    def __init__(self, predict: Predict, seconds: float = AT_ONCE) -> None:
        self._batcher = Batcher(predict, lambda _: seconds)

    async def predict(self, rows: Sequence[Any], size: int) -> list[float]:
        part = await self._batcher.predict(Rows(len(rows), one_by_one=list(rows)), size)
        values: list[float] = part.batch.values[part.start : part.stop].tolist()
        return values


@pytest.mark.parametrize("seconds", [AT_ONCE, LONG])
def test_what_comes_in_one_turn_is_one_batch(seconds: float) -> None:
    doubling = Doubling()

    async def ask() -> list[list[float]]:
        asked = Asked(doubling, seconds)
        return await asyncio.gather(*(asked.predict([number] * (number % 3 + 1), 1) for number in range(64)))

    answers = asyncio.run(ask())

    assert answers == [[2.0 * number] * (number % 3 + 1) for number in range(64)]
    assert doubling.sizes == [sum(number % 3 + 1 for number in range(64))]


def test_what_comes_during_a_run_is_the_next_batch() -> None:
    doubling = Doubling()
    doubling.may_go.clear()

    async def ask() -> list[list[float]]:
        asked = Asked(doubling, LONG)
        first = asyncio.create_task(asked.predict([1], 1))
        await asyncio.to_thread(doubling.began.wait, 30)
        others = [asyncio.create_task(asked.predict([number], 1)) for number in (2, 3, 4)]
        await asyncio.sleep(0)
        doubling.may_go.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(ask()) == [[2.0], [4.0], [6.0], [8.0]]
    assert doubling.sizes == [1, 3]


def test_those_who_ask_again_at_once_come_together() -> None:
    doubling = Doubling()
    doubling.may_go.clear()

    async def ask() -> None:
        asked = Asked(doubling, LONG)

        async def ask_again() -> None:
            while len(doubling.sizes) < 3:
                await asked.predict([1], 1)
                for _ in range(3):  # turns of the loop, in which the answer is on its way
                    await asyncio.sleep(0)

        first = [asyncio.create_task(ask_again()) for _ in range(2)]
        await asyncio.to_thread(doubling.began.wait, 30)
        others = [asyncio.create_task(ask_again()) for _ in range(3)]
        await asyncio.sleep(0)
        doubling.may_go.set()
        await asyncio.gather(*first, *others)

    asyncio.run(ask())

    assert doubling.sizes[:3] == [2, 5, 5]


@pytest.mark.parametrize("seconds", [AT_ONCE, LONG])
def test_those_who_ask_without_end_keep_nobody_waiting(seconds: float) -> None:
    """In each turn of the loop somebody else asks, until the one who asked first after a batch is answered."""

    async def ask() -> None:
        asked = Asked(Doubling(), seconds)
        await asked.predict([1], 1)
        others = list[asyncio.Task[list[float]]]()
        first = asyncio.create_task(asked.predict([1], 1))
        while not first.done():
            others.append(asyncio.create_task(asked.predict([1], 1)))
            await asyncio.sleep(0)
        await asyncio.gather(*others)

    async def ask_for_a_while() -> None:
        async with asyncio.timeout(30):
            await ask()

    asyncio.run(ask_for_a_while())


@pytest.mark.parametrize("seconds", [AT_ONCE, LONG])
def test_a_row_that_cannot_be_predicted_fails_alone(seconds: float) -> None:
    async def ask() -> list[Any]:
        asked = Asked(Doubling(), seconds)
        rows: list[list[Any]] = [[1], [None, 1], [3]]
        return await asyncio.gather(*(asked.predict(one, 1) for one in rows), return_exceptions=True)

    first, second, third = asyncio.run(ask())

    assert (first, third) == ([2.0], [6.0])
    assert isinstance(second, TypeError)


def test_whoever_has_gone_is_in_nobodys_way_and_not_predicted() -> None:
    doubling = Doubling()

    async def ask() -> list[float]:
        asked = Asked(doubling)
        gone = asyncio.create_task(asked.predict([1], 1))
        stays = asyncio.create_task(asked.predict([2], 1))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(ask()) == [4.0]
    assert doubling.sizes == [1]


def test_does_nothing_where_all_have_gone_and_goes_on() -> None:
    doubling = Doubling()

    async def ask() -> list[float]:
        asked = Asked(doubling)
        gone = [asyncio.create_task(asked.predict([1, 1], 1)) for _ in range(3)]
        await asyncio.sleep(0)
        for one in gone:
            one.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        return await asked.predict([2], 1)

    assert asyncio.run(ask()) == [4.0]
    assert doubling.sizes == [1]


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_rows_of_whoever_has_gone_are_in_nobodys_batch(gone: int) -> None:
    """A batch is recorded whole."""
    started, end = threading.Event(), threading.Event()

    def predict(parts: Sequence[Rows]) -> tuple[Columns, Array]:
        numbers = np.array([number for part in parts for number in part.one_by_one or ()], np.float32)
        started.set()
        end.wait(10)
        return {"number": numbers}, 2 * numbers

    async def ask() -> list[Part]:
        batcher = Batcher(predict, lambda _: LONG)
        asked = [
            batcher.predict(Rows(2, one_by_one=[number, -number], ids=[f"{number}", None]), 1) for number in (1, 2, 3)
        ]
        await asyncio.to_thread(started.wait)
        asked.pop(gone).cancel()
        end.set()
        return await asyncio.gather(*asked)

    parts = asyncio.run(ask())

    stays = [number for number in (1, 2, 3) if number != gone + 1]
    (batch,) = {part.batch for part in parts}
    assert batch.columns["number"].tolist() == [value for number in stays for value in (number, -number)]
    assert batch.values.tolist() == (2 * batch.columns["number"]).tolist()
    assert batch.given == {0: str(stays[0]), 2: str(stays[1])}
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 4)]


def test_a_burst_after_quiet_loses_none() -> None:
    doubling = Doubling()

    async def ask() -> list[list[float]]:
        asked = Asked(doubling, LONG)
        for number in range(3):
            await asked.predict([number], 1)
        return await asyncio.gather(*(asked.predict([number], 1) for number in range(256)))

    assert asyncio.run(ask()) == [[2.0 * number] for number in range(256)]


def test_a_batch_has_bounds() -> None:
    doubling = Doubling()

    async def ask() -> None:
        asked = Asked(doubling)
        large = [0] * (MAXIMUM_BATCH_ROWS + 5)
        await asyncio.gather(*(asked.predict(rows, 1) for rows in ([1] * 1000, [2] * 20, [3] * 20, large, [4])))

    asyncio.run(ask())

    assert doubling.sizes == [1020, 20, MAXIMUM_BATCH_ROWS + 5, 1]


@pytest.mark.parametrize("bound", ["MAXIMUM_WAITING_ROWS", "MAXIMUM_WAITING_BYTES"])
def test_refuses_more_than_shall_wait_and_answers_the_rest(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, bound, 10)
    doubling = Doubling()
    doubling.may_go.clear()

    async def ask() -> list[Any]:
        asked = Asked(doubling, LONG)
        first = asyncio.create_task(asked.predict([0], 1))
        await asyncio.to_thread(doubling.began.wait, 30)
        others = [asyncio.create_task(asked.predict([number], 1)) for number in range(12)]
        await asyncio.sleep(0)
        doubling.may_go.set()
        done = await asyncio.gather(first, *others, return_exceptions=True)
        return [*done, await asked.predict([9], 1)]

    answers = asyncio.run(ask())

    assert answers[:11] == [[0.0], *([2.0 * number] for number in range(10))]
    assert all(isinstance(one, Overloaded) for one in answers[11:13])
    assert answers[13] == [18.0]


@hypothesis_settings(deadline=None, max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    seconds=st.sampled_from([AT_ONCE, LONG]),
    threads=st.integers(1, 3),
)
def test_a_row_has_the_same_answer_alone_and_in_any_batch(sizes: list[int], seconds: float, threads: int) -> None:
    predictor, columns = Predictor(GRAPH, CONTRACT, Runtime(threads=threads)), export_taxi.columns(sum(sizes))

    def predict(parts: Sequence[Rows]) -> tuple[Columns, Array]:
        rows = [row for part in parts for row in part.one_by_one or ()]
        places = rows + rows[-1:] * (batch_rows(len(rows), "cpu") - len(rows))
        return {}, predictor.predict({name: values[places] for name, values in columns.items()})[: len(rows)]

    async def ask() -> list[list[float]]:
        asked, starts = Asked(predict, seconds), np.cumsum([0, *sizes]).tolist()
        requests = [range(start, start + size) for start, size in zip(starts, sizes, strict=False)]
        return await asyncio.gather(*(asked.predict(list(one), 1) for one in requests))

    together = [value for answer in asyncio.run(ask()) for value in answer]

    alone = [predict([Rows(1, one_by_one=[row])])[1].item() for row in range(sum(sizes))]
    assert together == alone  # bit by bit


GRAPH = export_taxi.exported()
