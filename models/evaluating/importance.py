"""What a model loses without a column: by how much worse it answers where the column's values are shuffled.

On the exported graph, so that a column is what a request has: a time is shuffled whole, an image as well (Breiman,
"Random forests", 2001; as a property of any model Fisher, Rudin, Dominici, "All models are wrong, but many are useful",
2019). Shuffled rows may be such as never come: where columns say much the same, each seems to matter little, and odd
pairs may seem to matter much (Hooker, Mentch, Zhou, "Unrestricted permutation forces extrapolation", 2021).

Cost: the graph answers at most `MOST_ROWS` rows, and at most about `MOST_ANSWERS` in all.
"""

from collections.abc import Callable, Sequence

import numpy as np

from models.contract.answers import Answers, losses
from models.contract.columns import Contract
from models.evaluating.bootstrap import Floats, Places, Resamples
from models.figures import Importance
from models.inference import GraphInputs

REPEATS = 5
MOST_ROWS = 20_000
MOST_ANSWERS = 1_000_000
MOST_NUMBERS = 1 << 22
"""Of images; they cost more than columns do."""
_LEAST_ROWS = 500
_TOGETHER = 1 << 14
"""Rows that are answered at once, so that what is computed on the way takes little memory."""

Predict = Callable[[GraphInputs], Answers]


def looked_at(rows: int, inputs: int, image_size: int = 1) -> Places:
    """Choose among N rows those to look at, evenly."""
    affordable = min(MOST_ANSWERS // (REPEATS * inputs), MOST_NUMBERS // image_size)
    most = min(MOST_ROWS, max(_LEAST_ROWS, affordable))
    return np.arange(rows) if rows <= most else np.linspace(0, rows - 1, most).astype(np.int64)


def importance(
    contract: Contract,
    predict: Predict,
    columns: GraphInputs,
    truth: Sequence[object],
    block_N: Places,
    seed: int = 0,
) -> dict[str, Importance]:
    """Shuffle each input in turn, `REPEATS` times; intervals are of the rows' mean over the repeats.

    Args:
        predict: answers rows, as the exported graph does.
        columns: N rows.
        truth: what turned out to be true of them.
        block_N: each row's block (`models.evaluating.bootstrap`).
    """
    draw = np.random.default_rng(seed)
    orders = [draw.permutation(len(truth)) for _ in range(REPEATS)]
    resamples = Resamples(np.unique(block_N, return_inverse=True)[1].astype(np.int64), seed)
    usual_N = _losses(contract, predict, columns, truth)
    found = {}
    for column in contract.inputs:
        values_N = columns[column.name]
        worse_N = np.zeros(len(truth))
        for order_N in orders:
            shuffled = {**columns, column.name: values_N[order_N]}
            worse_N += (_losses(contract, predict, shuffled, truth) - usual_N) / REPEATS
        found[column.name] = Importance(loss_increase=float(worse_N.mean()), interval=resamples.mean(worse_N))
    return found


def _losses(contract: Contract, predict: Predict, columns: GraphInputs, truth: Sequence[object]) -> Floats:
    parts = [
        predict({name: values[start : start + _TOGETHER] for name, values in columns.items()})
        for start in range(0, len(truth), _TOGETHER)
    ]
    return losses(contract.target, np.concatenate(parts), truth)
