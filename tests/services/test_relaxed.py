"""A relaxed journal: answers leave before their records are durable, and no record is lost silently."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from infra.journal import Journal, Position
from infra.settings import Settings
from models.bundle import Bundle
from services import metrics
from services import predictions as module
from services.champion import Champion, load
from services.predictions import Answered, Predictions


@pytest.fixture
def champion(make_bundle: Callable[..., Bundle]) -> Champion:
    return load(make_bundle().files(), threads=1)


@pytest.fixture
def relaxed(journal: Journal) -> Predictions:
    return Predictions(journal, strict=False)


def ask(relaxed: Predictions, champion: Champion, *rows: object) -> Coroutine[Any, Any, Answered]:
    body = json.dumps({"rows": rows}).encode()
    return relaxed.answer(champion, champion.decoder.decode(body), len(body))


def test_answers_before_the_record_is_durable(
    relaxed: Predictions, champion: Champion, journal: Journal, row: dict[str, Any]
) -> None:
    journal.append([]).result(30)

    async def burst() -> list[Answered]:
        return list(await asyncio.gather(*(ask(relaxed, champion, row) for _ in range(50))))

    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else can write until this is over
        assert {tuple(answer.values) for answer in asyncio.run(burst())} == {(16.0,)}
        assert journal.counts() == Position(0, 0)
        other.execute("ROLLBACK")
    relaxed.close()
    journal.close()

    assert journal.counts() == Position(50, 0)


def test_hands_over_by_itself(relaxed: Predictions, champion: Champion, journal: Journal, row: dict[str, Any]) -> None:
    async def wait() -> None:
        await ask(relaxed, champion, row, row)
        assert relaxed._durable is not None
        await relaxed._durable

    asyncio.run(wait())

    assert journal.counts() == Position(2, 0)


def test_waits_where_the_journal_falls_behind(
    relaxed: Predictions, champion: Champion, journal: Journal, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RELAXED_ROWS", 1)

    assert asyncio.run(ask(relaxed, champion, row, row)).values == [16.0, 16.0]

    assert journal.counts() == Position(2, 0)


def test_counts_what_could_not_be_recorded(
    relaxed: Predictions, champion: Champion, journal: Journal, row: dict[str, Any], settings: Settings
) -> None:
    in_the_way = Path(settings.home / "journal")
    in_the_way.parent.mkdir()
    in_the_way.write_text("a file where the folder belongs")
    before = metrics.LOST._value.get()

    async def wait() -> Answered:
        answer = await ask(relaxed, champion, row, row)
        assert relaxed._durable is not None
        await asyncio.wait([relaxed._durable])
        return answer

    assert asyncio.run(wait()).values == [16.0, 16.0]
    assert metrics.LOST._value.get() == before + 2
    assert journal.failure
