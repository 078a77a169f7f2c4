"""Errors of `taxi_eta` beside those of HistGradientBoosting on the same rows and columns.

`okruh loop` trains it on 2018 and 2019, and retrains it, warm-started, as 2020 changes; every bundle's card says which
rows were learned from and which ones judge it. The trees get what the network gets (the contract's numbers, categories
and parts of the time), learn the same absolute error, and stop by the same validation rows.

Of several settings of the trees those count that do best: on the validation rows for the first training; on the test
rows themselves, which favours them, for the retrainings, which have no validation rows. A retraining's trees learn from
all rows that its chain of trainings has learned from, the first champion's validation rows among them: in one go, those
since the change weighing as much as all older ones; or in two, first the older ones, then those since the change, with
what the first trees answer as one more column. Trees that know only the rows since the change are looked at as well.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor

from infra import registry
from infra.assembly import assemble
from infra.dataset import known_rows
from infra.lake.protocol import Lake
from infra.settings import load_settings
from models import definitions
from models.bundle import Bundle
from models.contract.table import to_columns
from models.inference import Predictor
from models.learning.examples import to_examples
from models.learning.splits import Split, split_in_time
from models.model import Model
from tests.benchmarks.figures import Figure
from tests.benchmarks.homes import OKRUH
from tests.benchmarks.trainings import Bench

MODEL = "taxi_eta"

_MOST_TREES, _PATIENCE = 2000, 20
_MOST_VALUES = 254
"""Of a category with more, HistGradientBoosting takes so many; the rarest ones are missing values to it."""
_DEFAULT = "defaults, categories as numbers"
_SETTINGS: Mapping[str, dict[str, float]] = {
    _DEFAULT: {},
    "31 leaves": {},
    "127 leaves": {"max_leaf_nodes": 127},
    "255 leaves, rate 0.05": {"max_leaf_nodes": 255, "learning_rate": 0.05, "min_samples_leaf": 50},
    "511 leaves, rate 0.05": {"max_leaf_nodes": 511, "learning_rate": 0.05},
}
_ALL = {"max_leaf_nodes": 127, "max_iter": 150}
_FEW = {"max_iter": 300}
"""For the rows since a change: of 15 to 31 leaves and rates of 0.05 and 0.1 none is better on all retrainings."""


@dataclass(frozen=True)
class Training:
    """One training of ours."""

    version: str
    warm_start: str | None
    split: Split
    error: float
    """Mean absolute error on its test rows."""


class Trees:
    """HistGradientBoosting on the columns of a model's network."""

    def __init__(self, definition: Model, known: pd.DataFrame, *, native: bool = True) -> None:
        """Take the rows whose values of categories are known; `native`: categories are told as such."""
        self.definition = definition
        self._native = native
        names = [column.name for column in definition.contract.categories] if native else []
        raw = self._columns(known)
        self._values = {name: sorted(raw[name].value_counts().index[:_MOST_VALUES]) for name in names}

    def fit(
        self,
        rows: pd.DataFrame,
        settings: Mapping[str, float],
        *,
        weight_N: npt.NDArray[np.float64] | None = None,
        validation: pd.DataFrame | None = None,
        before: "Fitted | None" = None,
    ) -> "Fitted":
        """Learn.

        Args:
            validation: rows that say when to stop.
            before: trees whose answers are one more column.
        """
        stop = {"early_stopping": True, "max_iter": _MOST_TREES, "n_iter_no_change": _PATIENCE}
        trees = HistGradientBoostingRegressor(
            loss="absolute_error",
            random_state=0,
            categorical_features="from_dtype",
            **({**stop, **settings} if validation is not None else {"early_stopping": False, **settings}),
        )
        held_out = {}
        if validation is not None:
            held_out = {"X_val": self.columns(validation, before), "y_val": self._target(validation)}
        trees.fit(self.columns(rows, before), self._target(rows), sample_weight=weight_N, **held_out)
        return Fitted(self, trees, before)

    def columns(self, rows: pd.DataFrame, before: "Fitted | None" = None) -> pd.DataFrame:
        """Give what the network learns from."""
        found = self._columns(rows)
        for name, values in self._values.items():
            found[name] = pd.Categorical(found[name].where(found[name].isin(values)), categories=values)
        return found if before is None else found.assign(before=before.predict(rows))

    def _columns(self, rows: pd.DataFrame) -> pd.DataFrame:
        contract, inputs = self.definition.contract, to_examples(self.definition.contract, rows).inputs
        names = [column.name for column in contract.numbers] + [column.name for column in contract.categories]
        parts = [inputs.numbers_NF, inputs.categories_NC, inputs.time_parts_NP]
        return pd.DataFrame(np.column_stack(parts), columns=[*names, *map(str, contract.time_parts)])

    def _target(self, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
        return rows[self.definition.contract.target.name].to_numpy(np.float64)


@dataclass(frozen=True)
class Fitted:
    """Trees that have learned."""

    trees: Trees
    fitted: HistGradientBoostingRegressor
    before: "Fitted | None"

    def predict(self, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Answer."""
        answer_N: npt.NDArray[np.float64] = self.fitted.predict(self.trees.columns(rows, self.before))
        return answer_N

    def error(self, rows: pd.DataFrame) -> float:
        """Give the mean absolute error."""
        return mean_error(self.trees.definition, self.predict(rows), rows)


def mean_error(definition: Model, answered_N: npt.NDArray[np.floating], rows: pd.DataFrame) -> float:
    """Give the mean absolute error of answers to rows, in the target's unit."""
    return float(np.abs(answered_N - rows[definition.contract.target.name].to_numpy()).mean())


def figures(bench: Bench) -> list[Figure]:
    """Compare errors on the test rows of each training."""
    definition = definitions.load(MODEL)
    trainings = {one.version: one for one in _trainings(definition, bench.place / "home")}
    first, *retrained = trainings.values()
    trees, figure = _first(definition, first)
    return [figure, compare_retrained(definition, retrained, trainings, trees)]


def _trainings(definition: Model, home: Path) -> Iterator[Training]:
    """Play 2020, and give all trainings in their order."""
    command = [*OKRUH, "loop", MODEL, "--json"]
    done = subprocess.run(command, env={**os.environ, "OKRUH_HOME": str(home)}, stdout=subprocess.PIPE, check=True)
    lake = assemble(load_settings(home=home)).lake(MODEL)
    commit = lake.resolve(json.loads(done.stdout)["branch"])
    for version in registry.versions(lake, commit):
        bundle = registry.load_bundle(lake, commit, version)
        split = _split(definition, lake, bundle)
        answered_N = Predictor(bundle.onnx, definition.contract).predict(to_columns(definition.contract, split.test))
        error = mean_error(definition, answered_N, split.test)
        yield Training(version, bundle.card.warm_start, split, error)


def _split(definition: Model, lake: Lake, bundle: Bundle) -> Split:
    """Read and cut the rows of a bundle once more."""
    card, data = bundle.card, bundle.card.data
    assert data.validation_from is not None
    assert data.test_from is not None
    rows = known_rows(definition, lake, data.commit, card.as_of, data.learn_from).whole()
    split = split_in_time(rows, rows["known_at"], data.validation_from, data.test_from)
    found = tuple(map(len, (split.train, split.validation, split.test)))
    assert found == (data.rows_train, data.rows_validation, data.rows_test), found
    return split


def _first(definition: Model, training: Training) -> tuple[Fitted, Figure]:
    split = training.split
    found = {
        name: Trees(definition, split.train, native=name != _DEFAULT).fit(
            split.train, settings, validation=split.validation
        )
        for name, settings in _SETTINGS.items()
    }
    best = min(found, key=lambda name: found[name].error(split.validation))
    errors = {name: trees.error(split.test) for name, trees in found.items()}
    return found[best], Figure(
        name=f"{MODEL} / HistGradientBoosting's best by validation ({best}), error on the test rows",
        value=training.error / errors[best],
        unit="ratio",
        bound="<= 0.99",
        compared_with={"ours": training.error} | errors | _counts(split),
    )


def _counts(split: Split) -> dict[str, float]:
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return {f"rows to {name}": float(len(rows)) for name, rows in parts.items()}


def compare_retrained(
    definition: Model, retrained: Sequence[Training], trainings: Mapping[str, Training], first: Fitted
) -> Figure:
    """Compare the errors of all retrainings, promoted or not, over all their test rows together."""
    ours, tested, since = 0.0, 0, 0
    theirs: dict[str, float] = {}
    for training in retrained:
        test = training.split.test
        older, changed = chain(training, trainings)
        ours, tested, since = ours + training.error * len(test), tested + len(test), max(since, len(changed))
        for name, trees in _after_a_change(definition, older, changed, first).items():
            theirs[name] = theirs.get(name, 0.0) + trees.error(test) * len(test)
    errors = {name: total / tested for name, total in theirs.items()}
    best = min(errors, key=lambda name: errors[name])
    return Figure(
        name=f"{MODEL} retrained, warm-started / HistGradientBoosting's best ({best}), error on the test rows",
        value=ours / tested / errors[best],
        unit="ratio",
        bound="<= 0.99",
        compared_with={"ours": ours / tested}
        | errors
        | {
            "retrainings": float(len(retrained)),
            "rows to test": float(tested),
            "most rows since the change": float(since),
        },
    )


def chain(training: Training, trainings: Mapping[str, Training]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give the rows of the first training in a retraining's chain, and those that came since; each row once."""
    since = [training.split.train]
    before = training
    while before.warm_start is not None:
        before = trainings[before.warm_start]
        since.append(before.split.train)
    since.pop()
    return pd.concat([before.split.train, before.split.validation]), pd.concat(since).drop_duplicates()


def _after_a_change(definition: Model, older: pd.DataFrame, changed: pd.DataFrame, first: Fitted) -> dict[str, Fitted]:
    weight_N = np.repeat([1.0, len(older) / len(changed)], [len(older), len(changed)])
    both = pd.concat([older, changed])
    return {
        "all rows at once": Trees(definition, both).fit(both, _ALL, weight_N=weight_N),
        "the first trees' answers as a column": Trees(definition, older).fit(changed, _FEW, before=first),
        "rows since the change alone": Trees(definition, changed).fit(changed, _FEW),
    }
