"""Archive: what the journal has recorded becomes tables of the lake, exactly once."""

from typing import TYPE_CHECKING

import msgspec

from flows.orchestration import task
from infra import tables
from infra.assembly import assemble
from infra.dataset import LABELS, PREDICTIONS
from infra.errors import Conflict, NotFound
from infra.journal import Label, Position, Prediction
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.settings import load_settings
from models import definitions
from models.contract.columns import Contract, Number, Time

if TYPE_CHECKING:
    import pandas as pd

POSITION = "journal/position.json"


@task("archive the journal")
def archive(model: str, branch: str) -> Position:
    """Commit what the journal has beyond the last archive; data and position are one commit, so nothing is twice.

    Returns:
        How many predictions and labels were added.

    Raises: `Conflict` when another archive came first. Tables are named by the positions that they reach to, so that
        two which add the same at once add it once.
    """
    platform = assemble(load_settings())
    contract, lake, journal = definitions.load(model).contract, platform.lake(model), platform.journal(model, branch)
    before, last = _position(lake, branch), journal.last()
    predictions = journal.predictions(before.predictions, last.predictions)
    labels = journal.labels(before.labels, last.labels)
    if not predictions and not labels:
        return Position(0, 0)
    name = f"{last.predictions:012}-{last.labels:012}.parquet"
    note = {"kind": "journal", "predictions": str(len(predictions)), "labels": str(len(labels))}
    with transaction(lake, branch, "archive the journal", note) as work:
        if _position(lake, work.base) != before:
            raise Conflict(f"the journal of {model} on branch {branch!r} is being archived by another run; try again")
        if predictions:
            work.put(PREDICTIONS + name, tables.encode(_predictions_table(contract, predictions)))
        if labels:
            work.put(LABELS + name, tables.encode(_labels_table(labels)))
        work.put(POSITION, msgspec.json.encode(last))
    return Position(len(predictions), len(labels))


def _position(lake: Lake, branch: str) -> Position:
    try:
        return msgspec.json.decode(lake.get(branch, POSITION), type=Position)
    except NotFound:
        return Position(0, 0)


def _predictions_table(contract: Contract, predictions: list[Prediction]) -> "pd.DataFrame":
    """Order by moment and id, not by arrival, so that the same requests give the same table."""
    import pandas as pd

    rows = msgspec.json.decode(b"[" + b",".join(prediction.row for prediction in predictions) + b"]")
    table = pd.DataFrame(rows, columns=[column.name for column in contract.inputs])
    for column in contract.inputs:
        if isinstance(column, Time):
            utc = column.zone is None
            moments = pd.to_datetime(table[column.name], format="ISO8601", utc=utc)  # with and without fractions
            table[column.name] = moments.dt.as_unit("us")
        elif isinstance(column, Number):
            table[column.name] = table[column.name].astype("float64")
    table["id"] = [prediction.id for prediction in predictions]
    table["version"] = [prediction.version for prediction in predictions]
    table["predicted"] = [prediction.value for prediction in predictions]
    table["event_at"] = pd.to_datetime([prediction.event_at for prediction in predictions], utc=True).as_unit("us")
    return table.sort_values(["event_at", "id"], ignore_index=True)


def _labels_table(labels: list[Label]) -> "pd.DataFrame":
    import pandas as pd

    table = pd.DataFrame({"id": [label.id for label in labels], "value": [label.value for label in labels]})
    table["known_at"] = pd.to_datetime([label.known_at for label in labels], utc=True).as_unit("us")
    return table.sort_values(["known_at", "id"], ignore_index=True)
