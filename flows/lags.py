"""Lags for rows of a file that has none, from what the lake knows now: what an application does from its own past.

Rows are looked at a part at a time; the past is read once, where a part lacks a lag. No flow, and nothing of Prefect.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from flows import catalog
from infra.assembly import assemble
from infra.dataset import known_rows
from infra.errors import NotFound
from infra.settings import load_settings
from models.contract import reading
from models.contract.columns import Contract
from models.contract.lags import History


class Lags:
    """Adds the lags that rows lack."""

    def __init__(self, model: str, contract: Contract) -> None:
        """Prepare; nothing is read yet.

        Args:
            contract: what is asked of rows.
        """
        self._model = model
        self._contract = contract
        self._history: History | None = None
        self.unknown: Counter[str] = Counter()
        """By its name, for how many rows a lag that they lacked was not known."""

    def added(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Give tables, or lists of rows, with all lags; those that they have stay as they are.

        Raises: `NotFound` where there is no past, `ContractError`, `DefinitionError`.
        """
        for batch in batches:
            yield self._with_rows(batch) if isinstance(batch, list) else self._with_table(pa.table(batch))

    def _with_table(self, table: pa.Table) -> pa.Table:
        for name, values in self._computed(table, table.column_names).items():
            table = table.append_column(name, values)
        return table

    def _with_rows(self, rows: Sequence[Any]) -> Sequence[Any]:
        if not all(isinstance(row, dict) for row in rows):
            return rows  # which is said where they are sent
        names = dict.fromkeys(name for row in rows for name in row)
        texts = {name: [_text(row.get(name)) for row in rows] for name in names if name in self._asked}
        found = {name: values.to_pylist() for name, values in self._computed(pa.table(texts), names).items()}
        return [row | {name: values[place] for name, values in found.items()} for place, row in enumerate(rows)]

    @property
    def _asked(self) -> list[str]:
        """What tells of a row when and of which series it is."""
        return [self._contract.time_column.name, *dict.fromkeys(name for lag in self._contract.lags for name in lag.by)]

    def _computed(self, table: pa.Table, has: Collection[str]) -> Mapping[str, pa.Array]:
        """Compute the lags that rows lack, where they have what is needed for it."""
        lacking = [lag.name for lag in self._contract.lags if lag.name not in has]
        if not lacking or not set(self._asked) <= set(has):
            return {}
        typed = reading.read(self._contract, table.select(self._asked)).table.to_pandas()
        found = self._past().with_lags(typed)
        self.unknown.update({name: int(found[name].isna().sum()) for name in lacking})
        return {name: pa.array(found[name], from_pandas=True) for name in lacking}

    def _past(self) -> History:
        if self._history is None:
            definition = catalog.load(self._model)
            settings = load_settings()
            platform = assemble(settings)
            if not platform.has_lake(self._model):
                names = ", ".join(lag.name for lag in self._contract.lags)
                raise NotFound(
                    f"{self._model} asks for lags ({names}), which the rows lack, and has no lake here from which they "
                    "could be computed; add them to the rows"
                )
            lake = platform.lake(self._model)
            known = known_rows(definition, lake, lake.resolve(settings.branch), datetime.max.replace(tzinfo=UTC))
            if not len(known):
                raise NotFound(
                    f"{self._model} has no data yet to compute lags from; run `okruh ingest {self._model}` first"
                )
            self._history = known.past(self._contract)
        return self._history


def _text(value: object) -> str | None:
    return None if value is None else str(value)
