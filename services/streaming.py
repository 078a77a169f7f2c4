"""NDJSON: a row a line comes in, an answer a line goes back, as long as lines come.

There is no bound on the lines of a request, and little is held of it: what has arrived is predicted together, some
thousand rows at a time, and answered before more is read. A line that is wrong is answered by its error, and fails no
other. Lines are answered in their order; each names the version that answered it, since a champion may be replaced
meanwhile.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import msgspec
from msgspec import Struct

from models.contract.rows import broken_contract
from models.errors import BundleError, ContractError, OkruhError, Violation
from services.champion import Champion
from services.following import Serving
from services.messages import ErrorAnswer, Request, fault_of
from services.observing import note
from services.predictions import Answered, IdsTaken, Predictions, count_refusal
from services.trial import Drawn, drawn

MEDIA_TYPE = b"application/x-ndjson"

_LINE_BYTES = 1 << 20
_TOGETHER = 1024


class AnsweredLine(Struct, frozen=True):
    """One row's answer."""

    id: str
    value: float
    version: str


class ClassifiedLine(Struct, frozen=True):
    """One row's answer, where the target is a category."""

    id: str
    value: int | str
    probabilities: list[float]
    version: str


AnyLine = AnsweredLine | ClassifiedLine

_encoder = msgspec.json.Encoder()


class LineTooLong(ContractError):
    """A line exceeds what is held of one."""


async def answer_lines(
    request: Request, chunks: AsyncIterator[bytes], serving: Callable[[], Serving], predictions: Predictions
) -> AsyncGenerator[bytes]:
    """Answer the lines that come in chunks; `serving` gives who answers now."""
    number = 0
    try:
        async for lines in _lines(chunks):
            for start in range(0, len(lines), _TOGETHER):
                some = lines[start : start + _TOGETHER]
                now = serving()
                its = drawn(now.challenger, request)
                yield _encoder.encode_lines(await _answer(some, number, now.champion, its, predictions))
                number += len(some)
                note(model=now.champion.card.model, version=now.champion.card.version, rows=number)
    except LineTooLong as error:
        yield _encoder.encode_lines([ErrorAnswer(fault_of(error))])


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Cut chunks into lines, those that have come together; empty ones are left out. Raises: `LineTooLong`."""
    rest = bytearray()  # so that what comes byte by byte is not copied each time
    async for chunk in chunks:
        if end := chunk.rfind(b"\n") + 1:
            lines = bytes(rest + chunk[:end]).split(b"\n")
            rest = bytearray(chunk[end:])
            if found := [line for line in lines if line.strip()]:
                yield found
        else:
            rest += chunk
        if len(rest) > _LINE_BYTES:
            raise LineTooLong(f"a line holds at most {_LINE_BYTES >> 20} MiB, and ends; nothing after it was read")
    if rest.strip():
        yield [bytes(rest)]


async def _answer(
    lines: Sequence[bytes], first: int, champion: Champion, its: Drawn | None, predictions: Predictions
) -> Sequence[AnyLine | ErrorAnswer]:
    try:
        return await _predict(lines, champion, its, predictions)
    except IdsTaken as error:  # the others are recorded
        answers = _told(error.answered)
        return [_refused(error, first + at) if at in error.places else one for at, one in enumerate(answers)]
    except (ContractError, BundleError) as error:
        if len(lines) == 1:
            return [_refused(error, first)]
    except OkruhError as error:
        count_refusal(error)
        return [_refused(error, first + at) for at in range(len(lines))]
    alone = await asyncio.gather(  # something is wrong with one: each for itself says which, all at once
        *(_answer([line], number, champion, its, predictions) for number, line in enumerate(lines, start=first))
    )
    return [one for answers in alone for one in answers]


async def _predict(
    lines: Sequence[bytes], champion: Champion, its: Drawn | None, predictions: Predictions
) -> Sequence[AnyLine]:
    rows = champion.decoder.decode_lines(lines)
    return _told(await predictions.answer(champion, rows, sum(map(len, lines)), its))


def _told(answered: Answered) -> Sequence[AnyLine]:
    version, probabilities = answered.model.card.version, answered.probabilities()
    pairs = zip(answered.ids(), answered.values(), strict=True)
    if probabilities is None:
        return [AnsweredLine(name, value, version) for name, value in pairs]
    return [
        ClassifiedLine(name, value, shares, version) for (name, value), shares in zip(pairs, probabilities, strict=True)
    ]


def _refused(error: OkruhError, number: int) -> ErrorAnswer:
    """Say what is wrong with a line by its number, from 0."""
    if not isinstance(error, ContractError):
        return ErrorAnswer(fault_of(error))
    found = [Violation(one.field, one.rule, number) for one in error.violations]
    return ErrorAnswer(fault_of(broken_contract(found or [Violation("line", str(error), number)])))
