"""What a request for predictions comes as, and what goes back: JSON, or an Arrow stream.

The request's content type says which; whatever is not called Arrow is JSON. Answers are of the request's kind, errors
always JSON. (`services.streaming` is for NDJSON, `services.open_inference` for the Open Inference Protocol.)
"""

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from models.contract import arrow
from models.contract.rows import Rows
from services.champion import Champion
from services.messages import Answer, Classified, ClassifyAnswer, PredictAnswer, Predicted, Request, encode
from services.predictions import INLINE_BYTES, Answered


class Format(NamedTuple):
    """How rows are read and answers written."""

    decode: Callable[[Champion, bytes], Rows]
    """Raises: `ContractError`."""
    encode: Callable[[Answered], Answer]
    inline_bytes: int
    """Bodies up to this are decoded, and their answers encoded, in the event loop, which they keep for a millisecond at
    most: handing them to a thread and back costs more (of 10,000 rows of Arrow, a fiftieth of the request)."""


def format_of(request: Request) -> Format:
    """Give the format of a request."""
    return ARROW if request.media_type == _ARROW else JSON


def _from_json(champion: Champion, body: bytes) -> Rows:
    return champion.decoder.decode(body)


def _to_json(answered: Answered) -> Answer:
    card, probabilities = answered.model.card, answered.probabilities()
    if probabilities is None:
        predictions = list(map(Predicted, answered.ids(), answered.values()))
        return Answer(200, encode(PredictAnswer(card.model, card.version, predictions)))
    classified = list(map(Classified, answered.ids(), answered.values(), probabilities))
    return Answer(200, encode(ClassifyAnswer(card.model, card.version, classified)))


def _from_arrow(champion: Champion, body: bytes) -> Rows:
    return arrow.decode(champion.card.contract, body)


def _to_arrow(answered: Answered) -> Answer:
    about = {"model": answered.model.card.model, "version": answered.model.card.version}
    batch = answered.arrow().replace_schema_metadata(about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return Answer(200, sink.getvalue().to_pybytes(), content_type=_ARROW)


_ARROW = arrow.MEDIA_TYPE.encode()

JSON = Format(_from_json, _to_json, INLINE_BYTES)
ARROW = Format(_from_arrow, _to_arrow, 8 * INLINE_BYTES)
