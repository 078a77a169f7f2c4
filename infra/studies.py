"""Searches: which settings are tried next, which trial is stopped early, what came of each. Optuna, kept in a database.

A study is named by all that makes its trials comparable, and lasts: a process that is killed leaves in it what was told
so far, and the trial that it was at. What is drawn follows from the seed, from the trials before and from how many of
them count, so that a search that was broken off and goes on, one trial at a time, tries what it would have tried.

Without a database's address everything is in a file of SQLite, and one process at a time is at a study of a home. In a
shared database trials that another home left running are let be: they may be at work. So is what was begun there and
has no home yet.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from infra.errors import Conflict, Misconfigured, Unavailable
from models.learning.search import Axis, Floats, Integers, Space

Value = float | int | str | bool | None
Status = Literal["running", "finished", "pruned", "failed", "broken off"]

FIRST_AT_RANDOM = 8
"""Trials that are drawn evenly before earlier ones say where to look."""
JUDGED_FROM, JUDGED_BY = 2, 4
"""The epoch from which on a trial may be stopped, and how many finished ones there must be to judge it by."""
LOSSES = 2
"""A trial that was broken off so often has failed: it may be what breaks."""

_BUSY_S = 60
_STATUS, _REASON, _HOME, _RUN, _LOSSES, _AGAIN = (
    f"okruh:{name}" for name in ("status", "reason", "home", "run", "losses", "again_of")
)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What was tried, and what came of it."""

    number: int
    status: Status
    settings: dict[str, Value]
    """Those that are searched, by their whole names."""
    error: float | None
    """The smallest validation error so far."""
    epochs: int
    seconds: float | None
    run: str | None
    """Its record in the index of runs."""
    reason: str | None
    """Why it has failed."""

    @property
    def counts(self) -> bool:
        """Whether it is one of those that were asked for."""
        return self.status in ("finished", "pruned", "failed")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A trial to be run."""

    number: int
    settings: dict[str, Value]


class Study:
    """One search, of which this process alone takes trials in this home."""

    def __init__(self, study: optuna.Study, home: str, alone: bool, space: Space, seed: int) -> None:
        """Prepare to take trials. `alone`: whether no other home does."""
        self._study = study
        self._home = home
        # A kill may come between a trial's beginning and its home's name
        self._ours = (home, None) if alone else (home,)
        self._seed = seed
        self._axes = {name: _distribution(axis) for name, axis in space.items()}
        self._running: dict[int, optuna.Trial] = {}

    def begin(self, usual: Mapping[str, Value], space: Space) -> int:
        """Start, or go on where a kill broke off: trials that ran then are told as failed, and wait to be run again.

        Args:
            usual: what is tried first.
            space: what of that can be: the rest is drawn.

        Returns:
            How many were broken off.
        """
        with _translated():
            trials = self._study.get_trials(deepcopy=False)
            if not trials:
                self._study.enqueue_trial(
                    {name: value for name, value in usual.items() if name in space and value in space[name]}
                )
            left = [
                one for one in trials if one.state == TrialState.RUNNING and one.user_attrs.get(_HOME) in self._ours
            ]
            for one in left:
                self._break_off(one, 1)
        return len(left)

    def lose(self, number: int, reason: str) -> None:
        """Take a trial back whose process is gone; it is run again, but where that came before."""
        with _translated():
            self._break_off(self._let_go(number), 1, reason)

    def give_back(self) -> None:
        """Take all trials back that are interrupted, through no fault of their own; they are run again."""
        with _translated():
            for number in list(self._running):
                self._break_off(self._let_go(number), 0)

    def _let_go(self, number: int) -> FrozenTrial:
        del self._running[number]
        return next(one for one in self._study.get_trials(deepcopy=False) if one.number == number)

    def _break_off(self, one: FrozenTrial, loss: int, reason: str = "") -> None:
        losses = one.user_attrs.get(_LOSSES, 0) + loss
        if losses >= LOSSES:
            self._note(one, _STATUS, "failed")
            self._note(one, _REASON, reason or f"its process was gone {losses} times while it ran")
            self._study.tell(one.number, state=TrialState.PRUNED)
            return
        # First what remains to be done: a kill in between leaves it to be found once more
        queued = {other.user_attrs.get(_AGAIN) for other in self._study.get_trials(deepcopy=False)}
        # What was not drawn whole is drawn again, but for what it was told to be
        params = one.params if one.params.keys() == self._axes.keys() else one.system_attrs.get("fixed_params")
        if one.number not in queued and params:
            self._study.enqueue_trial(params, user_attrs={_AGAIN: one.number, _LOSSES: losses})
        self._note(one, _STATUS, "broken off")
        self._study.tell(one.number, state=TrialState.FAIL)

    def ask(self) -> Asked:
        """Draw a trial; one that waits to be run again comes first."""
        with _translated():
            place = sum(one.counts or one.status == "running" for one in self.trials())
            self._study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=FIRST_AT_RANDOM, seed=_mixed(self._seed, place)
            )
            trial = self._study.ask(self._axes)
            trial.set_user_attr(_HOME, self._home)
            self._running[trial.number] = trial
            return Asked(number=trial.number, settings=dict(trial.params))

    def begun(self, number: int, run: str) -> None:
        """Keep which record is a trial's."""
        with _translated():
            self._running[number].set_user_attr(_RUN, run)

    def report(self, number: int, epoch: int, error: float) -> bool:
        """Keep an epoch's error, and say whether it is worse there than half of those that have finished."""
        with _translated():
            self._running[number].report(error, epoch)
            return self._running[number].should_prune()

    def finish(self, number: int, error: float) -> None:
        """Keep that a trial has come to its end."""
        with _translated():
            self._study.tell(self._running.pop(number), error)

    def prune(self, number: int) -> None:
        """Keep that a trial was stopped."""
        with _translated():
            self._study.tell(self._running.pop(number), state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Keep that a trial could not be trained. Optuna is told that it was stopped, so that it looks elsewhere."""
        with _translated():
            trial = self._running.pop(number)
            trial.set_user_attr(_STATUS, "failed")
            trial.set_user_attr(_REASON, reason)
            self._study.tell(trial, state=TrialState.PRUNED)

    def trials(self) -> list[Trial]:
        """Give all that were begun, in their order."""
        with _translated():
            found = self._study.get_trials(deepcopy=False)
        return [_trial(one) for one in found if one.state != TrialState.WAITING]

    def importances(self) -> dict[str, float]:
        """Say of each setting how much it decides whether a trial is among the best tenth, the largest share first.

        Watanabe, Bansal, Hutter, "PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary subspaces",
        2023. Nothing where too few trials have finished to say so.
        """
        finished = [one for one in self.trials() if one.status == "finished"]
        if len(finished) < FIRST_AT_RANDOM or len({one.error for one in finished}) < 2:
            return {}
        with _translated():
            found: dict[str, float] = optuna.importance.get_param_importances(self._study)
        return found

    def _note(self, one: FrozenTrial, key: str, value: object) -> None:
        self._study._storage.set_trial_user_attr(one._trial_id, key, value)


class Studies:
    """The searches of a model: in a file below a home, or in a database."""

    def __init__(self, folder: Path, address: str | None) -> None:
        """Prepare to open them. `address`: as SQLAlchemy writes it; None: a file in `folder`."""
        self._folder = folder
        self._address = address

    @contextmanager
    def open(self, name: str, space: Space, seed: int) -> Iterator[Study]:
        """Open a study, which nobody else in this home does meanwhile.

        Raises: `Conflict`, `Misconfigured` for an address that is none, `Unavailable`.
        """
        with self._turn(name) as home:
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            with _translated():
                storage = optuna.storages.RDBStorage(self._url(), engine_kwargs=self._options())
                pruner = optuna.pruners.MedianPruner(n_startup_trials=JUDGED_BY, n_warmup_steps=JUDGED_FROM)
                study = optuna.create_study(storage=storage, study_name=name, pruner=pruner, load_if_exists=True)
            try:
                yield Study(study, home, self._address is None, space, seed)
            finally:
                storage.remove_session()
                storage.engine.dispose()

    def _url(self) -> str:
        if self._address is None:
            return f"sqlite:///{self._folder / 'studies.sqlite'}"
        try:
            return make_url(self._address).render_as_string(hide_password=False)
        except (ArgumentError, ValueError) as error:
            raise Misconfigured(
                "OKRUH_STUDIES is no address of a database; write it as postgresql://user:password@host/name"
            ) from error

    def _options(self) -> dict[str, Any]:
        is_file = make_url(self._url()).get_backend_name() == "sqlite"
        return {"connect_args": {"timeout": _BUSY_S}} if is_file else {"pool_pre_ping": True}

    @contextmanager
    def _turn(self, name: str) -> Iterator[str]:
        """Have a study alone, and give the name of this home. Raises: `Conflict`, `Unavailable`."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder / f"{name}.turn", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise Unavailable(f"{self._folder} cannot be written: {error.strerror}; mend that and try again") from error
        with os.fdopen(descriptor, "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(f"another process is at this search ({name}); wait for it, or end it") from error
            home = file.read()
            if not home:
                home = secrets.token_hex(8)
                file.write(home)
                file.flush()
            yield home


def name_of(*parts: str) -> str:
    """Name a study by all that makes its trials comparable."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Order trials: finished ones by their errors, then the others, those that came furthest first."""
    order = ("finished", "running", "pruned", "failed", "broken off")
    inf = float("inf")
    return sorted(
        trials, key=lambda one: (order.index(one.status), inf if one.error is None else one.error, one.number)
    )


def _distribution(axis: Axis) -> BaseDistribution:
    if isinstance(axis, Floats):
        return FloatDistribution(axis.low, axis.high, log=axis.log)
    if isinstance(axis, Integers):
        return IntDistribution(axis.low, axis.high, log=axis.log, step=axis.step)
    return CategoricalDistribution(axis.values)


def _trial(one: FrozenTrial) -> Trial:
    by_state: dict[TrialState, Status] = {
        TrialState.RUNNING: "running",
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "broken off",
    }
    return Trial(
        number=one.number,
        status=one.user_attrs.get(_STATUS, by_state[one.state]),
        settings=dict(one.params),
        error=min(one.intermediate_values.values(), default=None),
        epochs=max(one.intermediate_values, default=0),
        seconds=one.duration.total_seconds() if one.duration else None,
        run=one.user_attrs.get(_RUN),
        reason=one.user_attrs.get(_REASON),
    )


def _mixed(seed: int, place: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {place}".encode()).digest()[:4])


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (NoSuchModuleError, ImportError) as error:
        raise Misconfigured(
            f"OKRUH_STUDIES: what speaks to this kind of database is not installed ({error}); pip install it"
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise Unavailable(f"the database of searches fails ({reason}); see that it is there, and try again") from error
