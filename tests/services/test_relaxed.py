"""A relaxed journal: answers leave before their records are durable, and no record is lost silently."""

import asyncio
import fcntl
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from infra.errors import Unavailable
from infra.journal.journal import Counts, Journal
from infra.journal.segments import open_segments
from models.bundle import Bundle
from services import metrics
from services import predictions as module
from services.champion import Champion, load
from services.predictions import Answered, Predictions


@pytest.fixture
def champion(make_bundle: Callable[..., Bundle]) -> Champion:
    return load(make_bundle().files())


@pytest.fixture
def relaxed(journal: Journal) -> Predictions:
    return Predictions(journal, strict=False)


def ask(relaxed: Predictions, champion: Champion, *rows: object) -> Coroutine[Any, Any, Answered]:
    body = json.dumps({"rows": rows}).encode()
    return relaxed.answer(champion, champion.decoder.decode(body), len(body))


def test_answers_before_the_record_is_durable(
    relaxed: Predictions, champion: Champion, journal: Journal, row: dict[str, Any]
) -> None:
    asyncio.run(ask(relaxed, champion, row))
    relaxed.close()
    journal.append([]).result(30)
    (segment,) = open_segments(journal.folder / "segments")

    async def burst() -> list[Answered]:
        return list(await asyncio.gather(*(ask(relaxed, champion, row) for _ in range(50))))

    with segment.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # nobody else can write until this is over
        assert {tuple(answer.values()) for answer in asyncio.run(burst())} == {(16.0,)}
        assert journal.counts() == Counts(1, 0)
    relaxed.close()
    journal.close()

    assert journal.counts() == Counts(51, 0)


def test_hands_over_by_itself(relaxed: Predictions, champion: Champion, journal: Journal, row: dict[str, Any]) -> None:
    async def wait() -> None:
        await ask(relaxed, champion, row, row)
        assert relaxed._durable is not None
        await relaxed._durable

    asyncio.run(wait())

    assert journal.counts() == Counts(2, 0)


def test_waits_where_the_journal_falls_behind(
    relaxed: Predictions, champion: Champion, journal: Journal, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RELAXED_ROWS", 1)

    assert asyncio.run(ask(relaxed, champion, row, row)).values() == [16.0, 16.0]

    assert journal.counts() == Counts(2, 0)


def broken(journal: Journal) -> None:
    """Have no further write succeed."""
    for path in (journal.folder / "segments").iterdir():
        path.unlink()
    (journal.folder / "segments").rmdir()
    (journal.folder / "segments").write_text("a file where the folder belongs")


async def written(predictions: Predictions) -> None:
    """Wait until what is answered is recorded, or not."""
    if predictions._durable is not None:
        await asyncio.wait([predictions._durable])


def lost() -> float:
    count: float = metrics.LOST._value.get()
    return count


def test_counts_what_could_not_be_recorded_and_stops_then(
    relaxed: Predictions, champion: Champion, journal: Journal, row: dict[str, Any]
) -> None:
    async def wait() -> list[float]:
        await ask(relaxed, champion, row)
        assert relaxed._durable is not None
        await relaxed._durable
        broken(journal)
        answer = await ask(relaxed, champion, row, row)
        await asyncio.wait([relaxed._durable])
        with pytest.raises(Unavailable, match="cannot be written"):
            await ask(relaxed, champion, row)
        return answer.values()

    before = lost()

    assert asyncio.run(wait()) == [16.0, 16.0]
    assert lost() == before + 2
    assert journal.failure


@pytest.mark.parametrize("strict", [True, False])
def test_what_is_named_by_nobody_is_not_recorded(
    champion: Champion, journal: Journal, row: dict[str, Any], strict: bool
) -> None:
    journal.folder.parent.mkdir(parents=True, exist_ok=True)
    journal.folder.write_text("a file where the folder belongs")
    stops, goes_on = (Predictions(journal, strict=strict, goes_on=goes_on) for goes_on in (False, True))

    async def both() -> Answered:
        with pytest.raises(Unavailable, match="cannot be written"):
            await ask(stops, champion, row)
        answered = await ask(goes_on, champion, row)
        journal.folder.unlink()  # from now on it can be written
        await ask(goes_on, champion, row, row)
        await written(goes_on)
        return answered

    before = lost()
    answered = asyncio.run(both())

    assert answered.values() == [16.0]
    assert lost() == before + 1
    recorded = {one.id for one in journal.predictions()}
    assert len(recorded) == 2
    assert not recorded & set(answered.ids())
    assert all(journal.find(name).id == name for name in recorded)


def test_counts_and_says_what_an_end_leaves_unrecorded(
    relaxed: Predictions,
    champion: Champion,
    journal: Journal,
    row: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def end() -> None:
        await ask(relaxed, champion, row)
        await written(relaxed)
        await ask(relaxed, champion, row, row)
        broken(journal)
        relaxed.close()
        journal.close()
        for _ in range(3):  # turns of the loop, in which what was to be handed over would be
            await asyncio.sleep(0)

    monkeypatch.setattr(module, "_RELAXED_S", 0.0)
    before = lost()
    asyncio.run(end())

    assert lost() == before + 2
    assert "2 rows are not recorded, of which 2 are answered: journal" in caplog.text


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_goes_on_without_a_record_where_it_shall(
    champion: Champion, journal: Journal, row: dict[str, Any], strict: bool, from_the_start: bool
) -> None:
    goes_on = Predictions(journal, strict=strict, goes_on=True)
    if from_the_start:
        journal.folder.parent.mkdir(parents=True)
        journal.folder.write_text("a file where the folder belongs")

    async def wait() -> list[Answered]:
        first = await ask(goes_on, champion, row)
        if not from_the_start:
            await written(goes_on)
            broken(journal)
        answers = [first, *[await ask(goes_on, champion, {**row, "id": "a"}, row) for _ in range(2)]]
        await written(goes_on)
        return answers

    before = lost()
    _, second, third = asyncio.run(wait())

    assert [second.values(), third.values()] == [[16.0, 16.0]] * 2
    assert second.ids()[0] == "a"
    assert lost() == before + 4 + from_the_start
    assert journal.failure
