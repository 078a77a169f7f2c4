"""A model that answers: loaded from its bundle, warmed, and with all that a request needs of it."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from models.bundle import FLOAT32, Card, decode_card, graph_file
from models.contract.answers import shape
from models.contract.rows import Array, Columns, RowDecoder, Rows, example_row, graph_inputs
from models.errors import BundleError
from models.inference import ON_THE_CPU, WARM_SIZES, Placement, Predictor, Runtime, batch_rows
from services import metrics
from services.batching import MAXIMUM_BATCH_ROWS, Batcher, Predict

logger = logging.getLogger("bentoml.okruh.champion")  # BentoML shows what is logged under its name

_WARM_RUNS = 3
_WARM_S = 0.1
_FILLING_S = 1e-3


@dataclass(frozen=True)
class Champion:
    """One model, ready to answer; a challenger is one as well."""

    card: Card
    decoder: RowDecoder
    batcher: Batcher
    predict: Predict
    """What the batcher does, at once and in any thread; a value may be no finite number."""
    placement: Placement
    since: datetime | None = None
    """Event time of its promotion, where the lake's rollout says it."""
    variant: str = FLOAT32
    """Which of the bundle's graphs it is."""

    @property
    def digest(self) -> str:
        """sha256 of its graph."""
        return self.card.digest(self.variant)


def files_of(runtime: Runtime) -> tuple[str, ...]:
    """Name what serving needs of a bundle."""
    return graph_file(runtime.variant), "card.json"


def load(files: Mapping[str, bytes], runtime: Runtime = ON_THE_CPU) -> Champion:
    """Load and warm a champion from what serving needs of a bundle (`files_of`).

    Raises: `BundleError`, `DefinitionError`, `ProviderUnavailable`.
    """
    if missing := [name for name in files_of(runtime) if name not in files]:
        raise BundleError(f"bundle lacks {', '.join(missing)}")
    card, graph = decode_card(files["card.json"]), files[graph_file(runtime.variant)]
    card.check_graph(runtime.variant, graph)
    contract = card.contract
    decoder, predictor = RowDecoder(contract), Predictor(graph, contract, runtime)
    placement = predictor.placement
    _tell(card, placement)

    inputs, pace = graph_inputs(contract), _warm(card, decoder, predictor)

    def predict(parts: Sequence[Rows]) -> tuple[Columns, Array]:
        count = sum(part.count for part in parts)
        columns = decoder.together(parts, batch_rows(count, placement.provider) if pace.fills else count)
        values = _in_parts(predictor, inputs(columns))[:count]
        return {name: array[:count] for name, array in columns.items()}, values

    def predict_finite(parts: Sequence[Rows]) -> tuple[Columns, Array]:
        columns, values = predict(parts)
        if not np.isfinite(values).all():
            raise BundleError(f"model {card.version} gave no finite number for an accepted row; nothing was recorded")
        return columns, values

    return Champion(card, decoder, Batcher(predict_finite, pace.seconds), predict, placement, variant=runtime.variant)


def _in_parts(predictor: Predictor, columns: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """Predict as many rows at a time as the processor's caches hold best."""
    rows = len(next(iter(columns.values())))
    parts = [
        predictor.predict({name: values[start : start + MAXIMUM_BATCH_ROWS] for name, values in columns.items()})
        for start in range(0, rows, MAXIMUM_BATCH_ROWS)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _tell(card: Card, placement: Placement) -> None:
    """Say where a bundle is run, and why not elsewhere."""
    metrics.PROVIDER_MISSED.set(placement.missed is not None)
    nodes = ", ".join(f"{count} on {provider}" for provider, count in placement.nodes.items())
    logger.info("%s runs on %s; nodes of its graph: %s", card.version, placement.provider, nodes)
    if placement.missed is not None:
        logger.warning("%s runs on %s: %s", card.version, placement.provider, placement.missed)


class Pace(NamedTuple):
    """How long a model takes."""

    seconds: Callable[[int], float]
    """For so many rows, as if each took the same beside what a batch takes anyway."""
    fills: bool
    """Whether batches are filled up (`batch_rows`). Not where one row takes a millisecond less than the fewest that a
    batch is filled up to: a row's answer may then differ in its last bits from one size of batch to another."""


def _warm(card: Card, decoder: RowDecoder, predictor: Predictor) -> Pace:
    """Run the sizes that batches have, so that the first request of each costs no more than the next.

    All of them where a shape costs something of its own; on the CPU as far as one takes less than `_WARM_S`.
    """
    example = decoder.decode(msgspec.json.encode({"rows": [example_row(card.contract)]}))
    inputs, on_the_cpu = graph_inputs(card.contract), predictor.placement.provider == "cpu"
    seconds = dict[int, float]()
    for size in (1, *WARM_SIZES):
        if on_the_cpu and size > WARM_SIZES[0] and 2 * seconds[size // 2] > _WARM_S:
            break
        seconds[size] = math.inf
        for _ in range(_WARM_RUNS):
            began = time.perf_counter()
            try:
                values = predictor.predict(inputs(decoder.together([example] * size, size)))
            except Exception as error:  # onnxruntime raises a dozen unrelated classes
                raise BundleError(f"bundle {card.version} cannot predict {size} rows: {error}") from error
            seconds[size] = min(seconds[size], time.perf_counter() - began)
        if values.shape != shape(card.contract.target, size) or not np.isfinite(values).all():
            raise BundleError(f"bundle {card.version} gives no finite number a row for {size} example rows")
    fills = not on_the_cpu or seconds[WARM_SIZES[0]] - seconds[1] <= _FILLING_S
    fewest, most = WARM_SIZES[0] if fills else 1, max(seconds)
    a_row = max(0.0, (seconds[most] - seconds[1]) / (most - 1))
    return Pace(lambda count: seconds[fewest] + a_row * max(0, count - fewest), fills)
