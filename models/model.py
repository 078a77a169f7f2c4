"""A model: what a data scientist defines once, in `models/catalog/<name>/`.

Its parts that need torch or the training rows are functions, so that reading a definition stays cheap.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from models.bundle import VariantName, check_name
from models.contract.answers import shape
from models.contract.columns import Category, Contract, Feature, Image, Number
from models.deciding.promotion import GateSettings
from models.deciding.retraining import RetrainingSettings
from models.errors import DefinitionError
from models.learning.search import Space, check_names, usual
from models.learning.settings import Setting, TrainingSettings, changed
from models.setting_names import apart
from models.watching.alarms import WatchSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from torch import nn

RESERVED = frozenset(
    {
        "id",
        "version",
        "predicted",
        "event_at",
        "answered_at",
        "known_at",
        "ingested_at",
        "value",
        "probabilities",
        "named",
    }
)
"""What answered predictions carry beside the contract's columns, and the graph's output."""

RawKind = Literal["time", "integer", "number", "text", "image"]


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Raw files that a definition knows where to get."""

    fetch: Callable[[Path], None]
    """Fills an empty folder with them. Raises: `SourceUnavailable`."""
    caveat: str = ""
    """What a reader of anything that is made of them must know."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Raw files that come with a definition."""

    folder: Path
    caveat: str = ""
    """What a reader of anything that is made of it must know."""


@dataclass(frozen=True, kw_only=True)
class MonthlySample(Sample):
    """One with a file for each month, and the story that `okruh loop` tells with them."""

    file_name: str
    """Name of a month's file, with `{month}` for `YYYY-MM`."""
    history_from: str
    """First month that is ingested, `YYYY-MM`."""
    play_from: str
    """First month that is played against the service; all before it are ingested."""
    play_to: str
    """Last month that is played."""

    def file(self, month: str) -> Path:
        """Give a month's file."""
        return self.folder / self.file_name.format(month=month)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One definition: contract, network, training, gate, watch and retraining settings."""

    name: str
    """Lower-case words joined by `_`."""
    description: str
    contract: Contract
    table: str = "rows"
    """Name of the table in the lake: `data/<table>/<partition>.parquet`."""
    raw_columns: Mapping[str, RawKind] = field(default_factory=dict)
    """Columns that a raw file must have, and of what kind; others are ignored. Without any, those of the contract."""
    prepare: "Callable[[pd.DataFrame], pd.DataFrame] | None" = None
    """Turns a raw table into the contract's columns; pure pandas, drops no row. None: it has them already."""
    network: "Callable[..., nn.Module]"
    """Makes an untrained network of training rows (`models.learning.examples.Examples`), from which it may take scales
    and bins, and of the network settings by name.

    Its forward takes (numbers [N, F] float32 with NaN for null, categories [N, C] int64 with 0 for null and otherwise
    the 1-based place in the contract, time_parts [N, P] int64) and, where the contract has an image, images [N,
    channels, height, width] float32; it gives the target [N], or, where it is a category of K values, [N, K]: the
    logarithm of each one's probability, but for a constant a row. While it learns (`self.training`) it may give M
    answers to each row, [M, N] or [M, N, K], each of which is judged by itself.
    """
    network_settings: Mapping[str, Setting] = field(default_factory=dict)
    """What `network` takes beside the rows, with the values that it usually has; `--set network.NAME=VALUE` changes
    one. A value stays of the kind that it has here: 0.1 is a number, 2 a whole one."""
    search: Space | None = None
    """What `okruh tune` tries, by a setting's whole name, such as `training.learning_rate` or `network.width`. None:
    settings of the training around those here."""
    naive: "Callable[[pd.DataFrame, pd.DataFrame], npt.NDArray[np.float32]] | None" = None
    """Answers the second table from the first without learning a network: what a first champion must beat.

    Its answers are those of `models.contract.answers`. None: the target's shortest lag, and where there is none the
    median of all numbers, or how frequent each value is.
    """
    sample: Sample | Fetched | None = None
    parity_tolerance: float = 1e-3
    """Largest accepted difference between graph and network, in the target's unit, or of a probability."""
    variants: tuple[VariantName, ...] = ()
    """Smaller graphs that lie in the bundle beside its own: `fp16`, `int8` (`models.learning.variants`)."""
    variant_cost: float = 0.01
    """By which share of its loss on the test rows a variant may be worse; one that is worse than that is refused."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    retraining: RetrainingSettings = field(default_factory=RetrainingSettings)

    def __post_init__(self) -> None:
        """Refuse a name that cannot be a folder, a repository and a Bento, and columns whose names are taken.

        Raises: `DefinitionError`.
        """
        check_name(self.name)
        contract = self.contract
        declared = {column.name for column in (*contract.inputs, contract.target, *contract.checks)}
        declared |= {contract.known} if contract.known else set()
        if taken := declared & RESERVED:
            raise DefinitionError(f"model {self.name}: columns {sorted(taken)} are taken; call them otherwise")
        kinds = get_args(RawKind)
        if wrong := sorted({kind for kind in self.raw_columns.values() if kind not in kinds}):
            raise DefinitionError(f"model {self.name}: raw_columns has kinds {wrong}; there are {', '.join(kinds)}")
        self._check_network_settings()
        self._check_search()
        self._check_variants()
        if self.retraining.minimum_labels * self.retraining.test_share < self.gate.minimum_rows:
            raise DefinitionError(
                f"model {self.name}: retraining.minimum_labels x retraining.test_share must reach gate.minimum_rows, "
                "or the first candidate after an alarm cannot win"
            )

    def _check_network_settings(self) -> None:
        if empty := [name for name, value in self.network_settings.items() if value is None]:
            raise DefinitionError(
                f"model {self.name}: network_settings must have a value for {empty[0]}, which says of what kind it is"
            )
        try:
            if self.network_settings:
                inspect.signature(self.network).bind(None, **self.network_settings)
        except TypeError as error:
            raise DefinitionError(
                f"model {self.name}: `network` does not take the rows and {', '.join(self.network_settings)}: {error}"
            ) from error

    def _check_search(self) -> None:
        """Refuse a space with something in it that cannot be a setting. Raises: `DefinitionError`."""
        check_names(self.search or {})
        for name, axis in (self.search or {}).items():
            for value in axis.ends():
                training, network = apart({name: value})
                self.training.with_changes(training)
                self.network_with(network)

    @property
    def space(self) -> Space:
        """Say what `okruh tune` tries."""
        return self.search or usual(self.training, embeds=bool(self.contract.categories or self.contract.time_parts))

    def network_with(self, changes: Mapping[str, Setting]) -> dict[str, Setting]:
        """Give the network settings with some changed; text is taken for what it says. Raises: `DefinitionError`."""
        return changed("network", self.network_settings, changes)

    def _check_variants(self) -> None:
        smaller: tuple[str, ...] = get_args(VariantName)
        if not set(self.variants) <= set(smaller) or len(set(self.variants)) < len(self.variants):
            raise DefinitionError(
                f"model {self.name}: variants are some of {', '.join(smaller)}, each once, not {self.variants}"
            )
        if not 0 <= self.variant_cost < float("inf"):
            raise DefinitionError(
                f"model {self.name}: variant_cost must be a share from 0 on, not {self.variant_cost!r}"
            )

    def prepared(self, raw: "pd.DataFrame") -> "pd.DataFrame":
        """Call `prepare`. Raises: `DefinitionError` where it does not give a table of as many rows."""
        import pandas as pd

        table = self._as_it_is(raw) if self.prepare is None else self.prepare(raw)
        found = f"{len(table):,} rows" if isinstance(table, pd.DataFrame) else f"a {type(table).__name__}"
        if found != f"{len(raw):,} rows":
            raise DefinitionError(
                f"model {self.name}: `prepare` must give a table of as many rows as it is given, {len(raw):,}; it gave "
                f"{found}. Rows that break the contract are set apart after it, with their reasons"
            )
        return table

    def _as_it_is(self, raw: "pd.DataFrame") -> "pd.DataFrame":
        """Have whole numbers be such, which gaps made floats, and truth values 0 and 1; fractions are refused."""
        import pandas as pd

        columns = (*self.contract.categories, self.contract.target, *self.contract.checks)
        whole = [one.name for one in columns if isinstance(one, Category) and not one.is_text]
        odd = [name for name in whole if not pd.api.types.is_integer_dtype(raw[name])]
        floats = {name: pd.to_numeric(raw[name], errors="coerce").astype("float64") for name in odd}
        fitting = {name: found for name, found in floats.items() if (found.isna() | (found % 1 == 0)).all()}
        return raw.assign(**floats | {name: found.astype("Int64") for name, found in fitting.items()})

    def naive_answers(self, train: "pd.DataFrame", rows: "pd.DataFrame") -> "npt.NDArray[np.float32]":
        """Call `naive`. Raises: `DefinitionError` where it does not give finite answers."""
        import numpy as np

        answers = self._typical(train, rows) if self.naive is None else self.naive(train, rows)
        wanted = shape(self.contract.target, len(rows))
        if np.shape(answers) != wanted or not np.isfinite(np.asarray(answers, dtype=np.float64)).all():
            raise DefinitionError(
                f"model {self.name}: `naive` must give finite numbers of shape {wanted} for {len(rows):,} rows; it "
                f"gave an array of shape {np.shape(answers)}, or some that are not finite"
            )
        return answers

    def _typical(self, train: "pd.DataFrame", rows: "pd.DataFrame") -> "npt.NDArray[np.float32]":
        """Answer each row by what was true last, and where that is not known, alike, as well as can be."""
        import numpy as np

        target, truth = self.contract.target, train[self.contract.target.name]
        if isinstance(target, Category):
            shares = truth.value_counts(normalize=True).reindex(list(target.values), fill_value=0.0)
            return np.tile(shares.to_numpy(np.float32), (len(rows), 1))
        lags = sorted((lag for lag in self.contract.lags if lag.of == target.name), key=lambda lag: lag.seconds)
        if lags:
            return rows[lags[0].name].fillna(truth.median()).to_numpy(np.float32)
        return np.full(len(rows), truth.median(), np.float32)

    @property
    def raw_kinds(self) -> Mapping[str, RawKind]:
        """Say which columns a raw file must have, and of what kind."""
        if self.raw_columns:
            return self.raw_columns
        contract = self.contract.without_lags
        kinds: dict[str, RawKind] = {contract.time.name: "time"} if contract.time else {}
        kinds |= {contract.known: "time"} if contract.known else {}
        for column in (*contract.features, contract.target, *contract.checks):
            kinds[column.name] = _raw_kind(column)
        return kinds

    @property
    def ceiling(self) -> float:
        """Losses above this count as this where they are watched; in the target's unit."""
        target = self.contract.target
        if self.watch.ceiling is not None:
            return self.watch.ceiling
        return 1.0 if isinstance(target, Category) else (target.maximum - target.minimum) / 4


def _raw_kind(column: Feature) -> RawKind:
    if isinstance(column, Image):
        return "image"
    return "number" if isinstance(column, Number) else "text" if column.is_text else "integer"
