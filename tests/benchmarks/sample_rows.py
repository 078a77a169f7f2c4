"""A model's sample rows as a lake would have them, without a lake."""

import pandas as pd

from infra import tables
from models.contract.table import to_instants, validate
from models.learning.splits import Split, split_in_time
from models.model import Model, MonthlySample


def sample_of(definition: Model) -> MonthlySample:
    """Give the sample of a model that has one a month."""
    assert isinstance(definition.sample, MonthlySample)
    return definition.sample


def split(definition: Model, first: str, validation_from: str, test_from: str, last: str = "2020-02") -> Split:
    """Cut the accepted rows of a month until the last one by the time that the contract names."""
    rows = _accepted(definition, first, last)
    at = to_instants(definition.contract, rows[definition.contract.time_column.name])
    zone = definition.contract.time_column.zone
    return split_in_time(rows, at, pd.Timestamp(validation_from, tz=zone), pd.Timestamp(test_from, tz=zone))


def _accepted(definition: Model, first: str, last: str) -> pd.DataFrame:
    sample, found = sample_of(definition), []
    for month in pd.period_range(first, last, freq="M"):
        file = sample.file(str(month))
        raw = tables.read_raw(file.name, file.read_bytes(), dict(definition.raw_kinds))
        found.append(validate(definition.contract, definition.prepared(raw), file.name).accepted)
    return pd.concat(found, ignore_index=True)
