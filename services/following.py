"""Following the lake's rollout: who answers and who is tried is swapped when it says so.

Both are one immutable object; a request takes it once and uses it to its end, so that a swap is the assignment of one
reference. The champion before is kept, loaded and warm, for a rollback, and a challenger that becomes champion is
already both. Whatever is wrong with a new one (unreadable, corrupt, other inputs, no finite answer) is refused and
reported, and the old champion goes on, as it does while the lake does not answer. One daemon thread looks, every
`rollout_poll_s`: the cost of an uneventful look is one `resolve`.

A trial that its own answers have ended (`Tally.ended`) ends here as well: the challenger goes at the next look, and the
lake is told, where nobody else has told it; while that fails, the challenger stays off here and each look tries again.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from infra import registry
from infra.errors import Unavailable
from infra.lake.protocol import Lake
from models.bundle import bundle_folder, decode_card, graph_file
from models.deciding import rollout
from models.deciding.rollout import Challenger, Rollout
from models.errors import BundleError, OkruhError
from models.inference import ON_THE_CPU, Runtime
from services import metrics
from services.champion import Champion, files_of, load
from services.messages import Refusal
from services.trial import Tried

_STOP_S = 1.0

logger = logging.getLogger("bentoml.okruh.champion")  # BentoML shows what is logged under its name


@dataclass(frozen=True)
class Serving:
    """Who answers, and who is tried beside it, at one moment."""

    champion: Champion
    challenger: Tried | None = None

    @property
    def models(self) -> tuple[Champion, Champion | None]:
        """The champion's and the challenger's."""
        return self.champion, self.challenger.model if self.challenger else None


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
        """Stop following; the champion stays. A look that is under way is waited for a second, and ends with us."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

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
                if same and lake.stat(commit, f"{folder}/{graph_file(kept.variant)}").digest == kept.digest:
                    return kept
        return None

    def _fetch(self, lake: Lake, commit: str, version: str) -> Champion:
        folder = bundle_folder(version)
        card = decode_card(lake.get(commit, f"{folder}/card.json"))
        card.digest(self._runtime.variant)  # which may not be there, and says why
        files = {name: lake.get(commit, f"{folder}/{name}") for name in files_of(self._runtime)}
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
