"""Tune: settings are tried one after another, or several at a time on Ray; the best ones make a candidate."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flows import catalog
from flows.orchestration import as_json, flow, steps_on_ray, worker_environment
from flows.progress import searches_shown
from flows.recipes import Recipe, Task, data_digest, recipe_from_scratch
from flows.telling import Told
from flows.train import Registered, run_recipe
from flows.trial import Came, Order, rows_of, trial
from infra.assembly import assemble, repository
from infra.errors import Misconfigured, Unavailable
from infra.provenance import environment_digest
from infra.settings import load_settings
from infra.studies import Asked, Studies, Study, Trial, best_first, name_of
from infra.tracking.ending import EndingBeside, ending_beside
from models.errors import DefinitionError, TrainingDiverged, first_line
from models.learning.search import Space
from models.learning.settings import Setting, TrainingSettings
from models.model import Model
from models.setting_names import NETWORK, TRAINING, apart

if TYPE_CHECKING:
    from infra.ray_cluster import Line
    from models.learning.loop import Progress

logger = logging.getLogger(__name__)

Where = Literal["ray"]


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What a search has found."""

    model: str
    study: str
    """Its name; see `study_name`."""
    trials: list[Trial]
    """All so far, the best first."""
    taken_up: int
    """Trials that an earlier process was at when it was killed, and that were run again."""
    importances: dict[str, float]
    """Of each setting, the share that it has in whether a trial is good; empty where too few have finished."""
    usual_error: float | None
    """The error by the settings that the search began from, the definition's; None where they did not finish."""
    registered: Registered
    """The candidate that the best settings have yielded."""


@flow("tune")
def tune(
    model: str,
    trials: int = 20,
    as_of: datetime | None = None,
    branch: str | None = None,
    learn_from: datetime | None = None,
    overrides: Mapping[str, Setting] | None = None,
    network: Mapping[str, Setting] | None = None,
    on: Where | None = None,
    jobs: int | None = None,
) -> Tuned:
    """Try settings, and train and register a candidate by the best ones; nothing is promoted.

    A trial is measured by its smallest error on the validation rows, which stop a training; the rows that judge a
    version are not looked at. Trials that are worse at an epoch than half of the others were are stopped there. Asked
    again, the search goes on where it was, also where it was killed.

    Args:
        model: name in the catalog.
        trials: how many there shall be in all; those of before count.
        as_of: only rows whose target was known at this moment are read; without it, all that is known by now.
        branch: lake branch; without it, OKRUH_BRANCH.
        learn_from: rows about earlier moments are left out; without it, none are.
        overrides: training settings that all trials have, by name; they are not searched.
        network: network settings that all trials have, by name.
        on: `ray` runs several trials at a time on a Ray cluster.
        jobs: how many at a time, on Ray; without it, as many as the cluster has room for.
    """
    if trials < 1 or (jobs is not None and jobs < 1):
        raise Misconfigured("a search wants one trial or more, and one at a time or more")
    if jobs is not None and on is None:
        raise Misconfigured("several trials at a time run on Ray: add --on ray, or leave --jobs out")
    definition, settings = catalog.load(model), load_settings()
    branch = branch or settings.branch
    recipe = recipe_from_scratch(definition, branch, as_of, learn_from, overrides, network)
    space = _space(definition, overrides or {}, network or {})
    usual = {name: value for name, value in _usual(recipe).items() if name in space}
    if outside := [f"{name}={value}" for name, value in usual.items() if value not in space[name]]:
        logger.warning(
            "%s: the definition's own %s lies outside what is searched: the first trial has another value there, and "
            "no trial says how good the definition's settings are",
            model,
            ", ".join(outside),
        )
    platform = assemble(settings)
    lake = platform.lake(model)
    commit = lake.resolve(branch)
    name = study_name(definition, recipe, space, data_digest(definition, lake, commit))
    rows_of(Task(model=model, recipe=recipe, commit=commit))
    address = settings.studies.get_secret_value() if settings.studies else None
    studies = Studies(settings.home / "studies" / repository(model), address)
    with (
        ending_beside(platform.tracker()) as tracker,
        studies.open(name, space, seed=int(recipe.settings["seed"] or 0)) as study,
    ):
        taken_up = study.begin(usual, space)
        search = _Search(study, tracker, name, definition, recipe, commit, branch, trials)
        if on is None:
            search.run_one_by_one()
        else:
            search.run_on_ray(jobs)
        found, importances = best_first(study.trials()), study.importances()
    best = found[0]
    if best.status != "finished":
        reasons = [one.reason for one in found if one.reason]
        raise TrainingDiverged(
            f"none of {len(found)} trials came to its end: {reasons[0] if reasons else 'all were stopped'}"
        )
    by_usual = (one.error for one in found if one.status == "finished" and one.settings == usual)
    return Tuned(
        model=model,
        study=name,
        trials=found,
        taken_up=taken_up,
        importances=importances,
        usual_error=next(by_usual, None),
        registered=run_recipe(definition, _with(definition, recipe, best.settings), branch),
    )


def study_name(definition: Model, recipe: Recipe, space: Space, data: str) -> str:
    """Name a search by all that its trials' errors follow from: data, code, recipe, space, environment, and on what.

    Args:
        data: digest of what they read.
    """
    settings = load_settings()
    how, tried = msgspec.json.encode(recipe).decode(), repr(sorted(space.items()))
    where = f"{settings.device} {settings.train_threads}"
    sources = catalog.sources(definition.name)
    return name_of(definition.name, data, how, tried, sources, environment_digest(), where)


def _space(definition: Model, overrides: Mapping[str, Setting], network: Mapping[str, Setting]) -> Space:
    """Give what is searched: what the definition says, without what is set. Raises: `DefinitionError`."""
    taken = {f"{TRAINING}{name}" for name in overrides} | {f"{NETWORK}{name}" for name in network}
    space = {name: axis for name, axis in definition.space.items() if name not in taken}
    if not space:
        raise DefinitionError(f"{definition.name}: all that its search tries is set by --set; leave something out")
    return space


def _usual(recipe: Recipe) -> dict[str, Setting]:
    training = {f"{TRAINING}{name}": value for name, value in recipe.settings.items()}
    return training | {f"{NETWORK}{name}": value for name, value in recipe.network.items()}


def _with(definition: Model, recipe: Recipe, changes: Mapping[str, Setting]) -> Recipe:
    """Give the recipe of a trial."""
    training, network = apart(changes)
    settings = msgspec.convert(recipe.settings, TrainingSettings).with_changes(training).flat()
    whole = definition.network_with({**recipe.network, **network})
    return msgspec.structs.replace(recipe, settings=settings, network=whole)


class _Search:
    """A search on its way: asks for trials, hears how they go, and keeps what comes of them."""

    def __init__(
        self,
        study: Study,
        tracker: EndingBeside,
        name: str,
        definition: Model,
        recipe: Recipe,
        commit: str,
        branch: str,
        wanted: int,
    ) -> None:
        from models.learning.devices import choose_device

        self._study = study
        self._tracker = tracker
        self._name = name
        self._definition = definition
        self._recipe = recipe
        self._commit = commit
        self._branch = branch
        self._wanted = wanted
        self._told: dict[int, Told] = {}
        self._best: dict[int, float] = {}
        """The smallest error of each trial that runs."""
        self._device = choose_device(load_settings().device).type
        self._show = searches_shown()

    def run_one_by_one(self) -> None:
        """Run trials in this process until there are as many as wanted."""
        with self._all_given_back():
            while self.lacks():
                order = self.next()
                self.end(order.number, msgspec.convert(trial(as_json(order), self), Came))

    def run_on_ray(self, jobs: int | None) -> None:
        """Run trials on a Ray cluster, several at a time, until there are as many as wanted."""
        from infra.ray_cluster import gpus_of, joined

        settings = load_settings()
        running: dict[Any, tuple[int, Any]] = {}
        threads, folder = settings.train_threads, settings.home / "tmp"
        with (
            joined(settings.ray_address, folder, worker_environment(), threads=threads, device=settings.device) as line,
            steps_on_ray(threads, gpus_of(line.device)) as submit,
            self._all_given_back(),
        ):
            self._device = line.device
            while True:
                while len(running) < (jobs or line.room) and self.lacks():
                    if running and not self._tracker.has_room():
                        break  # those that run are heard meanwhile
                    order = self.next()
                    future = submit(trial, order=as_json(order), referee=line.messenger)
                    running[future.wrapped_future] = order.number, future
                if not running:
                    return
                heard = line.wait(running)
                if isinstance(heard, tuple):
                    number, progress, waits = heard
                    stop = self.hear(number, progress)
                    if waits:
                        line.answer(number, stop=stop)
                else:
                    number, future = running.pop(heard)
                    self._end(number, future, line)

    def _end(self, number: int, future: Any, line: "Line") -> None:
        """Keep what has become of a trial on Ray; one whose process has gone is run again, once."""
        try:
            came = msgspec.convert(future.result(), Came)
        except Exception as error:  # Ray raises what a trial did, or that its process has gone
            if not line.is_lost(error):
                raise
            self._told.pop(number).fail(error)
            self._best.pop(number, None)
            self._study.lose(number, first_line(error))
        else:
            self.end(number, came)

    def lacks(self) -> bool:
        """Say whether another trial is wanted."""
        trials = self._study.trials()
        done = [one for one in trials if one.counts]
        errors = [one.error for one in done if one.error is not None]
        self._show(len(done), self._wanted, f"best {min(errors):.4g}" if errors else "")
        return len(done) + len(self._told) < self._wanted

    def next(self) -> Order:
        """Begin a trial, as soon as the trackers of earlier ones leave room for its own."""
        self._tracker.wait_for_room()
        asked: Asked = self._study.ask()
        recipe = _with(self._definition, self._recipe, asked.settings)
        told = Told(
            assemble(load_settings()),
            self._definition,
            recipe,
            self._commit,
            self._branch,
            self._device,
            self._name,
            asked.number,
            self._tracker,
        )
        self._told[asked.number] = told
        self._study.begun(asked.number, told.begun.id)
        task = Task(model=self._definition.name, recipe=recipe, commit=self._commit)
        return Order(number=asked.number, task=task, device=self._device, sources=catalog.sources(task.model))

    def hear(self, number: int, progress: "Progress") -> bool:
        """Take how far a trial is, and say whether it shall stop.

        Of a trial whose process has gone, or that has failed, words may come after its end: nobody needs them.
        """
        if number not in self._told:
            return True
        self._told[number].report(progress)
        error = progress.validation_error
        if error is None or not math.isfinite(error):
            return False
        self._best[number] = min(error, self._best.get(number, math.inf))
        stops = self._study.report(number, progress.epoch, error)
        return stops and progress.epoch < progress.epochs

    def end(self, number: int, came: Came) -> None:
        """Keep what has become of a trial."""
        told, error = self._told.pop(number), self._best.pop(number, math.inf)
        if came.status == "failed":
            told.fail(TrainingDiverged(came.reason or ""))
            self._study.fail(number, came.reason or "")
        elif came.status == "pruned":
            told.end_trial("pruned", error)
            self._study.prune(number)
        else:
            told.end_trial("finished", error)
            self._study.finish(number, error)

    @contextmanager
    def _all_given_back(self) -> Iterator[None]:
        """Have trials be run another time that are interrupted, or that the machine fails."""
        try:
            yield
        except BaseException as error:
            for told in self._told.values():
                told.fail(error)
            with suppress(Unavailable):  # it is said already what fails
                self._study.give_back()
            raise
