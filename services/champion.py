"""The model that answers: loaded, warmed, and replaced when the lake's rollout names another.

A champion is one immutable object; a request takes it once and uses it to its end, so that a swap is the assignment of
one reference. The one before is kept, loaded and warm, for a rollback. Whatever is wrong with the new one (unreadable,
corrupt, other inputs, no finite answer) is refused and reported, and the old one goes on, as it does while the lake
does not answer. One daemon thread looks, every `rollout_poll_s`: the cost of an uneventful look is one `resolve`.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec
import numpy as np
import numpy.typing as npt

from infra.errors import Unavailable
from infra.lake.protocol import Lake
from models.bundle import Bundle, Card, bundle_folder, decode_card
from models.contract.rows import Array, Columns, RowDecoder, Rows, example_row, graph_inputs
from models.deciding import rollout
from models.deciding.rollout import Rollout
from models.errors import BundleError, OkruhError
from models.inference import Predictor
from services import metrics
from services.batching import MAXIMUM_BATCH_ROWS, Batcher
from services.messages import Refusal

logger = logging.getLogger("bentoml.okruh.champion")  # BentoML shows what is logged under its name

FILES = ("model.onnx", "card.json")
"""What serving needs of a bundle."""

_VECTOR = 16
"""Values of four bytes that a processor takes at once, at most (AVX-512)."""

_WARM_BATCHES = (_VECTOR, 2 * _VECTOR, 4 * _VECTOR)
_WARM_RUNS = 3


@dataclass(frozen=True)
class Champion:
    """One model, ready to answer."""

    card: Card
    decoder: RowDecoder
    batcher: Batcher
    since: datetime | None = None
    """Event time of its promotion, where the lake's rollout says it."""


def load(files: Mapping[str, bytes], threads: int, since: datetime | None = None) -> Champion:
    """Load and warm a champion from `FILES`. Raises: `BundleError`, `DefinitionError`."""
    if missing := [name for name in FILES if name not in files]:
        raise BundleError(f"bundle lacks {', '.join(missing)}")
    bundle = Bundle(card=decode_card(files["card.json"]), onnx=files["model.onnx"], profile=b"", state=b"")
    contract = bundle.card.contract
    decoder, predictor = RowDecoder(contract), Predictor(bundle.onnx, contract, threads)

    inputs = graph_inputs(contract)

    def predict(parts: Sequence[Rows]) -> tuple[Columns, Array]:
        count = sum(part.count for part in parts)
        columns = decoder.together(parts, filled(count))
        values = _predicted(predictor, inputs(columns))[:count]
        if not np.isfinite(values).all():
            version = bundle.card.version
            raise BundleError(f"model {version} gave no finite number for an accepted row; nothing was recorded")
        return {name: array[:count] for name, array in columns.items()}, values

    return Champion(bundle.card, decoder, Batcher(predict, _warm(bundle.card, decoder, predictor)), since)


def _predicted(predictor: Predictor, columns: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """Predict as many rows at a time as the processor's caches hold best."""
    rows = len(next(iter(columns.values())))
    parts = [
        predictor.predict({name: values[start : start + MAXIMUM_BATCH_ROWS] for name, values in columns.items()})
        for start in range(0, rows, MAXIMUM_BATCH_ROWS)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def filled(rows: int) -> int:
    """Give the multiple of 16 that a batch is filled up to, so that a row has the same bits in every batch.

    Kernels treat what is left of a vector of the processor otherwise: a logarithm differs there in its last bit.
    """
    return -(-rows // _VECTOR) * _VECTOR


def _warm(card: Card, decoder: RowDecoder, predictor: Predictor) -> Callable[[int], float]:
    """Run the batch sizes that batches are filled up to, so that the first request of each costs no more than the next.

    Gives how many seconds so many rows take, as if each took the same beside what a batch takes anyway.
    """
    example = decoder.decode(msgspec.json.encode({"rows": [example_row(card.contract)]}))
    inputs, seconds = graph_inputs(card.contract), dict.fromkeys(_WARM_BATCHES, math.inf)
    for size in _WARM_BATCHES:
        for _ in range(_WARM_RUNS):
            began = time.perf_counter()
            try:
                values = predictor.predict(inputs(decoder.together([example], size)))
            except Exception as error:  # onnxruntime raises a dozen unrelated classes
                raise BundleError(f"bundle {card.version} cannot predict {size} rows: {error}") from error
            seconds[size] = min(seconds[size], time.perf_counter() - began)
        if values.shape != (size,) or not np.isfinite(values).all():
            raise BundleError(f"bundle {card.version} gives no finite number a row for {size} example rows")
    fewest, most = _WARM_BATCHES[0], _WARM_BATCHES[-1]
    a_row = max(0.0, (seconds[most] - seconds[fewest]) / (most - fewest))
    return lambda count: seconds[fewest] + a_row * max(0, count - fewest)


class Following:
    """The champion of now, and the thread that follows the rollout."""

    def __init__(
        self, champion: Champion, lake: Callable[[], Lake] | None, branch: str, poll_s: float, threads: int
    ) -> None:
        """Start from a loaded champion; take over the rollout's at once where there is a lake and it answers.

        `lake` opens it, at the first look and again at each one until it succeeds; None: there is none to follow.
        """
        self.champion = champion
        """Take it once a request."""
        self._before: Champion | None = None
        """The one that was replaced last, for a rollback."""
        self.refused: Refusal | None = None
        self.lake_failure: str | None = None
        """Why the last look at the lake failed; None when it did not."""
        self._open_lake = lake
        self._lake: Lake | None = None
        self._branch = branch
        self._poll_s = poll_s
        self._threads = threads
        self._seen: str | None = None
        self._refused_rollout: Rollout | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        metrics.CHAMPION.labels(champion.card.model, champion.card.version).set(1)
        self.look()

    @property
    def active(self) -> bool:
        """Whether there is a lake to follow."""
        return self._open_lake is not None

    def start(self) -> None:
        """Follow from now on."""
        if self.active:
            self._thread = threading.Thread(target=self._poll, name="rollout", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop following; the champion stays."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Read the rollout and swap where it names another champion. Never raises what a lake or bundle can cause."""
        if self._open_lake is None:
            return
        try:
            self._lake = self._lake or self._open_lake()
            commit = self._lake.resolve(self._branch)
            if commit != self._seen:
                self._follow(self._lake, commit)
            self._seen = commit
            self._lake_answers(None)
        except (OkruhError, OSError) as error:
            self._lake_answers(str(error))

    def _poll(self) -> None:
        while not self._stop.wait(self._poll_s):
            try:
                self.look()
            except Exception:
                logger.exception("looking at the rollout failed; the next look tries again")

    def _follow(self, lake: Lake, commit: str) -> None:
        wanted = rollout.decode(lake.get(commit, rollout.PATH))
        if wanted.champion == self.champion.card.version:
            self._same_version(wanted)
            return
        if wanted == self._refused_rollout:
            return
        try:
            self._swap(self._kept(lake, commit, wanted) or self._fetch(lake, commit, wanted))
        except Unavailable:
            raise
        except OkruhError as error:
            self._refuse(wanted, str(error))

    def _kept(self, lake: Lake, commit: str, wanted: Rollout) -> Champion | None:
        """Give the champion before this one, loaded and warm, where the rollout names it again and it is the same."""
        before, folder = self._before, bundle_folder(wanted.champion)
        if before is None or before.card.version != wanted.champion:
            return None
        same = decode_card(lake.get(commit, f"{folder}/card.json")) == before.card
        same = same and lake.stat(commit, f"{folder}/model.onnx").digest == before.card.onnx_digest
        return replace(before, since=wanted.since) if same else None

    def _fetch(self, lake: Lake, commit: str, wanted: Rollout) -> Champion:
        """Load the rollout's champion. Raises: `OkruhError` for whatever keeps it from serving here."""
        folder = bundle_folder(wanted.champion)
        files = {name: lake.get(commit, f"{folder}/{name}") for name in FILES}
        card = decode_card(files["card.json"])
        served = self.champion.card
        if (card.model, card.contract.signature) != (served.model, served.contract.signature):
            raise BundleError(
                f"bundle {card.version} takes other inputs than {served.version}, for which this service was built; "
                "build a Bento for it"
            )
        return load(files, self._threads, wanted.since)

    def _same_version(self, wanted: Rollout) -> None:
        if self.champion.since != wanted.since:
            self.champion = replace(self.champion, since=wanted.since)
        self._forget_refusal()

    def _swap(self, champion: Champion) -> None:
        before = self.champion.card
        self._before, self.champion = self.champion, champion
        self._forget_refusal()
        metrics.CHAMPION.labels(before.model, before.version).set(0)
        metrics.CHAMPION.labels(champion.card.model, champion.card.version).set(1)
        metrics.SWAPS.inc()
        logger.info("champion is now %s, before it %s", champion.card.version, before.version)

    def _refuse(self, wanted: Rollout, reason: str) -> None:
        self._refused_rollout = wanted
        self.refused = Refusal(wanted.champion, reason)
        metrics.REFUSALS.inc()
        logger.error("champion %s is refused, %s goes on: %s", wanted.champion, self.champion.card.version, reason)

    def _forget_refusal(self) -> None:
        self._refused_rollout = None
        self.refused = None

    def _lake_answers(self, failure: str | None) -> None:
        metrics.LAKE_REACHABLE.set(failure is None)
        if failure is not None and failure != self.lake_failure:
            logger.warning("the lake cannot be followed, %s goes on: %s", self.champion.card.version, failure)
        self.lake_failure = failure
