"""The model that answers and the one that is tried: loaded, warmed, and replaced when the lake's rollout says so.

Both are one immutable object; a request takes it once and uses it to its end, so that a swap is the assignment of one
reference. The champion before is kept, loaded and warm, for a rollback, and a challenger that becomes champion is
already both. Whatever is wrong with a new one (unreadable, corrupt, other inputs, no finite answer) is refused and
reported, and the old champion goes on, as it does while the lake does not answer. One daemon thread looks, every
`rollout_poll_s`: the cost of an uneventful look is one `resolve`.

A trial that its own answers have ended (`Tally.ended`) ends here as well: the challenger goes at the next look, and the
lake is told, where nobody else has told it; while that fails, the challenger stays off here and each look tries again.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from infra import registry
from infra.errors import Unavailable
from infra.lake.protocol import Lake
from models.bundle import Bundle, Card, bundle_folder, decode_card
from models.contract.rows import Array, Columns, RowDecoder, Rows, example_row, graph_inputs
from models.deciding import rollout
from models.deciding.rollout import Challenger, Rollout
from models.errors import BundleError, OkruhError
from models.inference import ON_THE_CPU, Placement, Predictor, Runtime, batch_rows, warm_sizes
from services import metrics
from services.batching import MAXIMUM_BATCH_ROWS, Batcher, Predict
from services.messages import Refusal
from services.tally import Tally

logger = logging.getLogger("bentoml.okruh.champion")  # BentoML shows what is logged under its name

FILES = ("model.onnx", "card.json")
"""What serving needs of a bundle."""

_WARM_RUNS = 3
_FILLING_S = 1e-3


@dataclass(frozen=True)
class Champion:
    """One model, ready to answer; a challenger's is one as well."""

    card: Card
    decoder: RowDecoder
    batcher: Batcher
    predict: Predict
    """What the batcher does, at once and in any thread; a value may be no finite number."""
    placement: Placement
    since: datetime | None = None
    """Event time of its promotion, where the lake's rollout says it."""


@dataclass(frozen=True)
class Tried:
    """A challenger, ready to answer, and the terms on which it is tried."""

    model: Champion
    terms: Challenger
    tally: Tally = field(default_factory=Tally)
    """Of its answers on these terms."""


@dataclass(frozen=True)
class Serving:
    """Who answers, and who is tried beside it, at one moment."""

    champion: Champion
    challenger: Tried | None = None

    @property
    def models(self) -> tuple[Champion, Champion | None]:
        """The champion's and the challenger's."""
        return self.champion, self.challenger.model if self.challenger else None


def load(files: Mapping[str, bytes], runtime: Runtime = ON_THE_CPU) -> Champion:
    """Load and warm a champion from `FILES`. Raises: `BundleError`, `DefinitionError`, `ProviderUnavailable`."""
    if missing := [name for name in FILES if name not in files]:
        raise BundleError(f"bundle lacks {', '.join(missing)}")
    bundle = Bundle(card=decode_card(files["card.json"]), onnx=files["model.onnx"], profile=b"", state=b"")
    contract = bundle.card.contract
    decoder, predictor = RowDecoder(contract), Predictor(bundle.onnx, contract, runtime)
    placement = predictor.placement
    _tell(bundle.card, placement)

    inputs, pace = graph_inputs(contract), _warm(bundle.card, decoder, predictor)

    def predict(parts: Sequence[Rows]) -> tuple[Columns, Array]:
        count = sum(part.count for part in parts)
        columns = decoder.together(parts, batch_rows(count, placement.provider) if pace.fills else count)
        values = _predicted(predictor, inputs(columns))[:count]
        return {name: array[:count] for name, array in columns.items()}, values

    def predict_finite(parts: Sequence[Rows]) -> tuple[Columns, Array]:
        columns, values = predict(parts)
        if not np.isfinite(values).all():
            version = bundle.card.version
            raise BundleError(f"model {version} gave no finite number for an accepted row; nothing was recorded")
        return columns, values

    return Champion(bundle.card, decoder, Batcher(predict_finite, pace.seconds), predict, placement)


def _predicted(predictor: Predictor, columns: Mapping[str, Array]) -> npt.NDArray[np.float32]:
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
    """Run the sizes that batches are filled up to, so that the first request of each costs no more than the next."""
    example = decoder.decode(msgspec.json.encode({"rows": [example_row(card.contract)]}))
    inputs, sizes = graph_inputs(card.contract), warm_sizes(predictor.placement.provider)
    seconds = dict.fromkeys((1, *sizes), math.inf)
    for size in seconds:
        for _ in range(_WARM_RUNS):
            began = time.perf_counter()
            try:
                values = predictor.predict(inputs(decoder.together([example], size)))
            except Exception as error:  # onnxruntime raises a dozen unrelated classes
                raise BundleError(f"bundle {card.version} cannot predict {size} rows: {error}") from error
            seconds[size] = min(seconds[size], time.perf_counter() - began)
        if values.shape != (size,) or not np.isfinite(values).all():
            raise BundleError(f"bundle {card.version} gives no finite number a row for {size} example rows")
    fills = predictor.placement.provider != "cpu" or seconds[sizes[0]] - seconds[1] <= _FILLING_S
    fewest, most = sizes[0] if fills else 1, sizes[-1]
    a_row = max(0.0, (seconds[most] - seconds[fewest]) / (most - fewest))
    return Pace(lambda count: seconds[fewest] + a_row * max(0, count - fewest), fills)


class Following:
    """Champion and challenger of now, and the thread that follows the rollout."""

    def __init__(
        self,
        champion: Champion,
        lake: Callable[[], Lake] | None,
        branch: str,
        poll_s: float,
        runtime: Runtime = ON_THE_CPU,
    ) -> None:
        """Start from a loaded champion; take over the rollout's at once where there is a lake and it answers.

        `lake` opens it, at the first look and again at each one until it succeeds; None: there is none to follow.
        """
        self.serving = Serving(champion)
        """Take it once a request."""
        self._before: Champion | None = None
        """The champion that was replaced last, for a rollback."""
        self.refused: Refusal | None = None
        self.challenger_refused: Refusal | None = None
        self.aborted: Refusal | None = None
        """Whose answers have ended its trial here, and why; None once another trial has begun."""
        self.abort_failure: str | None = None
        """Why the lake could not be told of it; None when it could, or somebody else has told it."""
        self.lake_failure: str | None = None
        """Why the last look at the lake failed; None when it did not."""
        self._open_lake = lake
        self._lake: Lake | None = None
        self._branch = branch
        self._poll_s = poll_s
        self._runtime = runtime
        self._seen: str | None = None
        self._refused_champion: tuple[str, datetime] | None = None
        self._refused_terms: Challenger | None = None
        self._untold: tuple[Challenger, str] | None = None
        """The trial that has ended here, and why, until the lake says so."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._take(self.serving)
        self.look()

    @property
    def champion(self) -> Champion:
        """Who answers now; a request that asks for the challenger as well takes `serving`."""
        return self.serving.champion

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
        """Read the rollout and swap where it names others. Never raises what a lake or bundle can cause."""
        if self._open_lake is None:
            return
        self._end_trial()
        try:
            self._lake = self._lake or self._open_lake()
            self._tell_of_end(self._lake)
            commit = self._lake.resolve(self._branch)
            if commit != self._seen:
                self._follow(self._lake, commit)
            self._seen = commit
            self._lake_answers(None)
        except (OkruhError, OSError) as error:
            self._lake_answers(str(error))

    def _end_trial(self) -> None:
        """Let a challenger go whose answers have ended its trial."""
        tried = self.serving.challenger
        if tried is None or tried.tally.ended is None:
            return
        why, version = tried.tally.ended, tried.terms.version
        self._take(replace(self.serving, challenger=None))
        self.aborted, self._untold = Refusal(version, why), (tried.terms, why)
        self._refused_terms = tried.terms  # until the lake's are others
        logger.error("the trial of challenger %s is ended, the champion answers alone: %s", version, why)

    def _tell_of_end(self, lake: Lake) -> None:
        """Commit the end of a trial, unless it has ended there already or goes on on other terms."""
        if self._untold is None:
            return
        terms, why = self._untold
        try:
            present = registry.read_rollout(lake, self._branch)
            if present is not None and present.challenger == terms:
                note = {"kind": "abort", "version": terms.version, "champion": present.champion}
                alone = msgspec.structs.replace(present, challenger=None)
                note |= {"by": "service", "why": why}
                registry.change_rollout(lake, self._branch, present, alone, f"abort: {terms.version}", note)
        except OkruhError as error:
            if self.abort_failure is None:
                logger.warning("the lake cannot be told that the trial of %s is ended: %s", terms.version, error)
            self.abort_failure = str(error)
        else:
            self._untold = self.abort_failure = None

    def _poll(self) -> None:
        while not self._stop.wait(self._poll_s):
            try:
                self.look()
            except Exception:
                logger.exception("looking at the rollout failed; the next look tries again")

    def _follow(self, lake: Lake, commit: str) -> None:
        wanted = rollout.decode(lake.get(commit, rollout.PATH))
        if self._follow_champion(lake, commit, wanted):
            self._follow_challenger(lake, commit, wanted)
        elif wanted.challenger is None:
            self._drop_challenger()
        else:  # what it answers would be compared with another champion's answers
            self._refuse_challenger(wanted.challenger, f"it is tried beside {wanted.champion}, which is refused")

    def _follow_champion(self, lake: Lake, commit: str, wanted: Rollout) -> bool:
        """Say whether the rollout's champion answers now."""
        if wanted.champion == self.champion.card.version:
            self._same_version(wanted)
            return True
        if (wanted.champion, wanted.since) == self._refused_champion:
            return False
        try:
            champion = self._model(lake, commit, wanted.champion)
        except Unavailable:
            raise
        except OkruhError as error:
            self._refuse(wanted, str(error))
            return False
        self._swap(replace(champion, since=wanted.since), wanted)
        return True

    def _follow_challenger(self, lake: Lake, commit: str, wanted: Rollout) -> None:
        terms, tried = wanted.challenger, self.serving.challenger
        if terms is None:
            self._drop_challenger()
        elif tried is not None and tried.terms.version == terms.version:
            if tried.terms != terms:
                self._try(Tried(tried.model, terms))
        elif terms != self._refused_terms:
            try:
                self._try(Tried(replace(self._model(lake, commit, terms.version), since=None), terms))
            except Unavailable:
                raise
            except OkruhError as error:
                self._refuse_challenger(terms, str(error))
                self._refused_terms = terms

    def _model(self, lake: Lake, commit: str, version: str) -> Champion:
        """Give a version ready to answer. Raises: `OkruhError` for whatever keeps it from serving here."""
        return self._kept(lake, commit, version) or self._fetch(lake, commit, version)

    def _kept(self, lake: Lake, commit: str, version: str) -> Champion | None:
        """Give the challenger or the champion before, loaded and warm, where it is meant and still the same."""
        folder = bundle_folder(version)
        for kept in (self._before, *self.serving.models):
            if kept is not None and kept.card.version == version:
                same = decode_card(lake.get(commit, f"{folder}/card.json")) == kept.card
                if same and lake.stat(commit, f"{folder}/model.onnx").digest == kept.card.onnx_digest:
                    return kept
        return None

    def _fetch(self, lake: Lake, commit: str, version: str) -> Champion:
        folder = bundle_folder(version)
        files = {name: lake.get(commit, f"{folder}/{name}") for name in FILES}
        card = decode_card(files["card.json"])
        served = self.champion.card
        if (card.model, card.contract.signature) != (served.model, served.contract.signature):
            raise BundleError(
                f"bundle {card.version} takes other inputs than {served.version}, for which this service was built; "
                "build a Bento for it"
            )
        return load(files, self._runtime)

    def _same_version(self, wanted: Rollout) -> None:
        if self.champion.since != wanted.since:
            self._take(replace(self.serving, champion=replace(self.champion, since=wanted.since)))
        self._forget_refusal()

    def _swap(self, champion: Champion, wanted: Rollout) -> None:
        before, tried, terms = self.serving.champion, self.serving.challenger, wanted.challenger
        goes_on = tried is not None and terms is not None and tried.terms.version == terms.version
        self._take(Serving(champion, tried if goes_on else None))
        self._before = before
        self._forget_refusal()
        metrics.SWAPS.inc()
        logger.info("champion is now %s, before it %s", champion.card.version, before.card.version)

    def _try(self, tried: Tried | None) -> None:
        """Have this challenger beside the champion, or none."""
        self._take(replace(self.serving, challenger=tried))
        self.challenger_refused = self._refused_terms = None
        if tried is not None:
            self.aborted = None
            logger.info("challenger is now %s, %s", tried.terms.version, tried.terms.mode)

    def _take(self, serving: Serving) -> None:
        """Let others serve, and have the gauges say so."""
        before, self.serving = self.serving, serving
        for gauge, *models in zip((metrics.CHAMPION, metrics.CHALLENGER), before.models, serving.models, strict=True):
            for model, value in zip(models, (0, 1), strict=True):
                if model is not None:
                    gauge.labels(model.card.model, model.card.version).set(value)

    def _drop_challenger(self) -> None:
        if self.serving.challenger is not None or self.challenger_refused is not None:
            self._try(None)

    def _refuse_challenger(self, terms: Challenger, reason: str) -> None:
        refusal = Refusal(terms.version, reason)
        if refusal != self.challenger_refused:
            self._try(None)
            self.challenger_refused = refusal
            metrics.CHALLENGER_REFUSALS.inc()
            logger.error("challenger %s is refused, the champion answers alone: %s", terms.version, reason)

    def _refuse(self, wanted: Rollout, reason: str) -> None:
        self._refused_champion = (wanted.champion, wanted.since)
        self.refused = Refusal(wanted.champion, reason)
        metrics.REFUSALS.inc()
        logger.error("champion %s is refused, %s goes on: %s", wanted.champion, self.champion.card.version, reason)

    def _forget_refusal(self) -> None:
        self._refused_champion = None
        self.refused = None

    def _lake_answers(self, failure: str | None) -> None:
        metrics.LAKE_REACHABLE.set(failure is None)
        if failure is not None and failure != self.lake_failure:
            logger.warning("the lake cannot be followed, %s goes on: %s", self.champion.card.version, failure)
        self.lake_failure = failure
