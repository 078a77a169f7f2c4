"""Answers as a service gives them to a journal."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from infra.journal.answers import Answers
from infra.journal.ids import Ids
from infra.journal.journal import Journal
from models.contract.columns import Category, Contract, Number, Time
from models.contract.rows import RowDecoder

CONTRACT = Contract(
    time=Time(name="starts_at", zone="America/New_York", parts=()),
    features=(
        Number(name="distance", unit="km", minimum=0, maximum=100),
        Number(name="weight", unit="kg", minimum=0, maximum=50, nullable=True),
        Category(name="kind", values=("bike", "car"), nullable=True),
        Category(name="zone", values=(1, 2, 3), nullable=True),
    ),
    target=Number(name="minutes", unit="minutes", minimum=0, maximum=600),
)
ROW: dict[str, Any] = {"starts_at": "2020-03-01T08:15:00", "distance": 3.5, "weight": None, "kind": "car", "zone": 2}
AT = datetime(2020, 3, 1, 13, 15, tzinfo=UTC)


def answers(
    *names: str | None, journal: Journal | None = None, contract: Contract = CONTRACT, **changes: object
) -> Answers:
    """Make one batch with a row a name; unnamed ones get ids of a journal's own."""
    version, value = changes.pop("version", "v1"), np.asarray(changes.pop("value", 1.5))
    decoder, rows = RowDecoder(contract), [ROW | changes] * len(names)
    decoded = decoder.decode(msgspec.json.encode({"rows": rows}))
    count = len(names)
    minted, at_ms = journal.mint().mint(count) if journal else (b"-" * 36 * count, round(AT.timestamp() * 1000))
    ids = Ids(minted, {place: name for place, name in enumerate(names) if name is not None})
    values, answered_ms = np.full((count, *np.shape(value)), value, np.float32), np.full(count, at_ms)
    return Answers(contract, str(version), ids, decoder.together([decoded]), values, answered_ms)


def milliseconds(at: datetime, count: int) -> npt.NDArray[np.int64]:
    """Say for so many rows that they were answered at a moment."""
    return np.full(count, round(at.timestamp() * 1000))
