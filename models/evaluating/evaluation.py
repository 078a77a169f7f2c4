"""Everything that a card says of how good a model is, from its answers to rows that it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from models.contract.answers import Answers, losses, places
from models.contract.columns import Category, Contract, Number
from models.evaluating import conformal, importance, measures
from models.evaluating.bootstrap import Floats, Places, Resamples, blocks
from models.evaluating.calibration import calibration
from models.evaluating.groups import groups
from models.figures import Epoch, Evaluation, Group, Span, Spread
from models.inference import GraphInputs

_HOUR_S, _DAY_S = 3600, 86_400
_SPANS_S = (_HOUR_S, 3 * _HOUR_S, 6 * _HOUR_S, *(days * _DAY_S for days in (1, 2, 7, 14, 28, 91, 364)))
_MOST_SPANS = 40
_SPREADS = 20
_ROWS_A_SPREAD = 20
_EPOCH = datetime(1970, 1, 1)
_MONDAY_S = -3 * _DAY_S
"""1970 began on a Thursday; weeks begin on Mondays."""


@dataclass(frozen=True, slots=True)
class Answered:
    """N rows with what was answered to them and what turned out to be true."""

    answers: Answers
    truth: Sequence[object]

    def __len__(self) -> int:
        return len(self.truth)


def evaluate(
    contract: Contract,
    test: Answered,
    columns: GraphInputs,
    validation: Answered,
    naive: Answers,
    predict: importance.Predict,
    epochs: Sequence[Epoch] = (),
    seed: int = 0,
) -> Evaluation:
    """Judge a model.

    Args:
        test: rows that the training has not seen, one at least; all answers are finite.
        columns: the test rows as the graph takes them.
        validation: rows that stopped the training; there may be none: intervals are made of earlier test rows then.
        naive: answers to the test rows of what has not learned.
        predict: answers rows, as the exported graph does.
        epochs: how the training went.
        seed: of all that is drawn.
    """
    target, truth = contract.target, test.truth
    seconds_N = columns[contract.time.name].astype(np.int64) if contract.time else None
    block_N = blocks(len(test), seconds_N, seed)
    resamples = Resamples(block_N, seed)
    loss_N, naive_N = (losses(target, answers, truth) for answers in (test.answers, naive))
    image_size = contract.image.size if contract.image else 1
    probed_N = importance.looked_at(len(test), len(contract.inputs), image_size)
    return Evaluation(
        blocks=resamples.blocks,
        naive_loss=float(naive_N.mean()),
        naive_interval=resamples.mean(naive_N),
        intervals=measures.intervals(target, test.answers, truth, resamples),
        slices=_slices(contract, columns, loss_N, resamples),
        importance=importance.importance(
            contract,
            predict,
            {name: values[probed_N] for name, values in columns.items()},
            [truth[row] for row in probed_N.tolist()],
            block_N[probed_N],
            seed,
        ),
        importance_rows=len(probed_N),
        over_time=() if seconds_N is None else _over_time(contract, seconds_N, loss_N, _bias(target, test)),
        epochs=tuple(epochs),
        **_of_kind(target, test, validation, seconds_N, resamples, seed),
    )


def _of_kind(
    target: Number | Category,
    test: Answered,
    validation: Answered,
    seconds_N: Places | None,
    resamples: Resamples,
    seed: int,
) -> dict[str, Any]:
    """Give what only targets of one kind have."""
    if isinstance(target, Category):
        return {"calibration": calibration(target, test.answers, places(target, test.truth), resamples)}
    (told_N, true_N), (told_V, true_V) = _as_numbers(test), _as_numbers(validation)
    spread, least = _spread(told_N, true_N), conformal.least_rows(conformal.SHARES[0])
    made = conformal.prediction_intervals(target, told_V, true_V, told_N, true_N, resamples)
    if made is None:
        order_N = np.arange(len(test)) if seconds_N is None else np.argsort(seconds_N, kind="stable")
        earlier, later = np.split(order_N, [len(test) // 2])
        block_N = blocks(len(later), None if seconds_N is None else seconds_N[later], seed)
        halves = (told_N[earlier], true_N[earlier], told_N[later], true_N[later])
        made = conformal.prediction_intervals(target, *halves, Resamples(block_N, seed))
        made = made and msgspec.structs.replace(made, made_from="test")
    why = f"they want {least} validation rows, or {2 * least} test rows; there are {len(validation)} and {len(test)}"
    return {"prediction_intervals": made, "no_prediction_intervals": "" if made else why, "spread": spread}


def _as_numbers(answered: Answered) -> tuple[Floats, Floats]:
    return answered.answers.astype(np.float64), np.asarray(answered.truth, np.float64)


def _bias(target: Number | Category, test: Answered) -> Floats | None:
    if isinstance(target, Category):
        return None
    told_N, true_N = _as_numbers(test)
    return told_N - true_N


def _slices(
    contract: Contract, columns: GraphInputs, loss_N: Floats, resamples: Resamples
) -> dict[str, dict[str, Group]]:
    found = {}
    for name, one in groups(contract, columns).items():
        rows_G = np.bincount(one.place_N)
        loss_G = np.bincount(one.place_N, loss_N) / rows_G
        intervals = resamples.means(loss_N, one.place_N, len(one.names))
        found[name] = {
            group: Group(loss=float(loss), rows=int(rows), interval=interval)
            for group, loss, rows, interval in zip(one.names, loss_G, rows_G, intervals, strict=True)
        }
    return found


def _over_time(contract: Contract, seconds_N: Places, loss_N: Floats, bias_N: Floats | None) -> tuple[Span, ...]:
    """Cut the test rows into spans of equal length: hours, days, weeks, the shortest that are not too many."""
    span_s = int(np.ptp(seconds_N))
    length_s = next((one for one in _SPANS_S if span_s <= one * (_MOST_SPANS - 1)), span_s // (_MOST_SPANS - 1) + 1)
    starts, place_N, rows_S = np.unique((seconds_N - _MONDAY_S) // length_s, return_inverse=True, return_counts=True)
    loss_S = np.bincount(place_N, loss_N) / rows_S
    bias_S = [None] * len(starts) if bias_N is None else (np.bincount(place_N, bias_N) / rows_S).tolist()
    clock = None if contract.zone else UTC
    return tuple(
        Span(
            start=(_EPOCH + timedelta(seconds=_MONDAY_S + start * length_s)).replace(tzinfo=clock),
            rows=rows,
            loss=loss,
            bias=bias,
        )
        for start, rows, loss, bias in zip(starts.tolist(), rows_S.tolist(), loss_S.tolist(), bias_S, strict=True)
    )


def _spread(told_N: Floats, true_N: Floats) -> tuple[Spread, ...]:
    """Put rows with about the same prediction together, about equally many."""
    order_N = np.argsort(told_N, kind="stable")
    parts = np.array_split(order_N, min(_SPREADS, max(1, len(told_N) // _ROWS_A_SPREAD)))
    found = []
    for rows in parts:
        low, middle, high = np.quantile(true_N[rows], [0.1, 0.5, 0.9]).tolist()
        found.append(Spread(rows=len(rows), predicted=float(told_N[rows].mean()), low=low, middle=middle, high=high))
    return tuple(found)
