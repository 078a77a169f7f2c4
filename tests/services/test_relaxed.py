"""A relaxed journal: answers leave before their records are durable, and no record is lost silently."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from infra.journal import Journal, Position
from infra.settings import Settings
from models.bundle import Bundle
from services import endpoints as module
from services import metrics
from services.champion import Following, load
from services.endpoints import Answer, Endpoints


@pytest.fixture
def relaxed(journal: Journal, make_bundle: Callable[..., Bundle]) -> Endpoints:
    return Endpoints(Following(load(make_bundle().files(), threads=1), None, "main", 1.0, 1), journal, strict=False)


def body(*rows: object) -> bytes:
    return json.dumps({"rows": rows}).encode()


def test_answers_before_the_record_is_durable(relaxed: Endpoints, journal: Journal, row: dict[str, Any]) -> None:
    journal.append([]).result(30)

    async def ask() -> list[Answer]:
        return list(await asyncio.gather(*(relaxed.predict(body(row)) for _ in range(50))))

    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody else can write until this is over
        answers = asyncio.run(ask())
        assert {answer.status for answer in answers} == {200}
        assert journal.counts() == Position(0, 0)
        other.execute("ROLLBACK")
    relaxed.close()
    journal.close()

    assert journal.counts() == Position(50, 0)


def test_hands_over_by_itself(relaxed: Endpoints, journal: Journal, row: dict[str, Any]) -> None:
    async def ask() -> None:
        await relaxed.predict(body(row, row))
        assert relaxed._durable is not None
        await relaxed._durable

    asyncio.run(ask())

    assert journal.counts() == Position(2, 0)


def test_waits_where_the_journal_falls_behind(
    relaxed: Endpoints, journal: Journal, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RELAXED_ROWS", 1)

    assert asyncio.run(relaxed.predict(body(row, row))).status == 200

    assert journal.counts() == Position(2, 0)


def test_counts_what_could_not_be_recorded(
    relaxed: Endpoints, journal: Journal, row: dict[str, Any], settings: Settings
) -> None:
    in_the_way = Path(settings.home / "journal")
    in_the_way.parent.mkdir()
    in_the_way.write_text("a file where the folder belongs")
    before = metrics.LOST._value.get()

    async def ask() -> Answer:
        answer = await relaxed.predict(body(row, row))
        assert relaxed._durable is not None
        await asyncio.wait([relaxed._durable])
        return answer

    assert asyncio.run(ask()).status == 200
    assert metrics.LOST._value.get() == before + 2
    assert journal.failure
