"""Promote: a candidate that wins a paired test becomes champion, by one atomic commit."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from flows import catalog
from flows.orchestration import flow
from infra import registry
from infra.assembly import assemble
from infra.dataset import KnownRows, known_rows
from infra.errors import Conflict, NotFound
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.settings import load_settings
from models.bundle import Bundle, Card
from models.contract.answers import losses
from models.contract.columns import Category, Image, Input, Number
from models.contract.table import to_columns
from models.deciding import promotion, rollout
from models.deciding.rollout import Rollout
from models.deciding.verdict import PromotionReport
from models.errors import BundleError, ContractError
from models.evaluating.bootstrap import blocks
from models.inference import Predictor
from models.learning.splits import learned_from, unseen
from models.model import Model
from models.watching.profile import describe_loss

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

NAIVE = "naive"


@flow("promote")
def promote(
    model: str,
    version: str | None = None,
    as_of: datetime | None = None,
    branch: str | None = None,
    alarm: str | None = None,
    labels_since_change: int = 0,
) -> PromotionReport:
    """Judge a candidate against the champion and let it serve if it wins.

    Both are compared on the newest rows that the candidate was not trained on; without a champion, the candidate must
    beat the model's naive prediction. The verdict is kept in the lake either way, a promotion in the same commit. A
    promotion ends the trial of a challenger, whoever it is. Of the champion itself, the verdict that let it serve is
    given again, and nothing changes.

    Args:
        model: name in the catalog.
        version: the candidate; without it, the newest registered bundle.
        as_of: moment of the promotion; without it, now.
        branch: lake branch; without it, OKRUH_BRANCH.
        alarm: the alarm that asked for the candidate.
        labels_since_change: labels known since that alarm's change.
    """
    definition, settings = catalog.load(model), load_settings()
    branch = branch or settings.branch
    lake = assemble(settings).lake(model)
    commit = lake.resolve(branch)
    serving = registry.read_rollout(lake, commit)
    version = version or registry.newest(lake, commit)
    if version is None:
        raise NotFound(f"{model} has no bundle yet; run `okruh train {model}` first")
    if serving and serving.champion == version and (given := registry.promotion_of(lake, commit, version)):
        return msgspec.structs.replace(given, serves_already=True)
    report = judge(definition, lake, commit, version, serving, as_of or datetime.now(UTC), alarm, labels_since_change)
    return record(lake, branch, report, serving)


def judge(
    definition: Model,
    lake: Lake,
    commit: str,
    version: str,
    serving: Rollout | None,
    at: datetime,
    alarm: str | None = None,
    labels_since_change: int = 0,
) -> PromotionReport:
    """Compare a candidate with who serves. Raises: `NotFound`, `BundleError` where that cannot be done."""
    candidate = registry.load_bundle(lake, commit, version)
    judged = [candidate.card] + ([registry.load_card(lake, commit, serving.champion)] if serving else [])
    test = _test_rows(definition, lake, commit, judged, at)
    if serving is None:
        incumbent, incumbent_answers = NAIVE, _naive_answers(definition, lake, commit, candidate.card, test, at)
    else:
        incumbent = serving.champion
        incumbent_answers = _answers(registry.load_bundle(lake, commit, incumbent), test)
    target = definition.contract.target
    truth = test[target.name].tolist()
    incumbent_loss_N = losses(target, incumbent_answers, truth)
    candidate_loss_N = losses(target, _answers(candidate, test), truth)
    verdict = promotion.judge(incumbent, incumbent_loss_N, candidate_loss_N, definition.gate, _blocks(definition, test))
    return PromotionReport(
        at=at,
        version=version,
        incumbent=incumbent,
        allowed=verdict.allowed,
        reasons=verdict.reasons,
        test_rows=len(test),
        incumbent_loss=describe_loss(incumbent_loss_N, definition.ceiling),
        candidate_loss=describe_loss(candidate_loss_N, definition.ceiling),
        alarm=alarm,
        labels_since_change=labels_since_change,
        ends_episode=not verdict.allowed and len(test) >= definition.retraining.closing_rows,
    )


def _test_rows(definition: Model, lake: Lake, commit: str, judged: list[Card], at: datetime) -> "pd.DataFrame":
    """Read the newest rows that were known at a moment and that neither candidate nor champion was trained on."""
    known, gone = _known_to_all(definition, lake, commit, judged, at)
    rows = known.whole(lambda part: np.all([unseen(card, part) for card in judged], axis=0))
    rows = rows.dropna(subset=gone, ignore_index=True)
    if rows.empty:
        raise NotFound(
            f"no row to judge {judged[0].version} on was known at {at:%Y-%m-%d}; "
            f"{' and '.join(card.version for card in judged)} may be judged on rows {_judged_on(judged)}"
        )
    return rows.tail(definition.gate.test_rows)


def _blocks(definition: Model, test: "pd.DataFrame") -> "npt.NDArray[np.int64]":
    """Part the rows as a card's intervals do, but by days of UTC."""
    if definition.contract.time is None:
        return blocks(len(test), None)
    return blocks(len(test), test["event_at"].dt.tz_localize(None).to_numpy("datetime64[s]").astype(np.int64))


def _known_to_all(
    definition: Model, lake: Lake, commit: str, judged: list[Card], at: datetime
) -> tuple[KnownRows, list[str]]:
    """Find what was known, with columns that one of the judged takes and an edited contract has no more.

    Returns:
        The rows, and which of such columns may not be null.

    Raises: `BundleError` where the data has them no more, either, or has them as something else.
    """
    contract, learn_from = definition.contract, judged[0].data.learn_from
    now = {column.name: column for column in contract.inputs}
    gone = {column.name: column for card in judged for column in card.contract.features if column.name not in now}
    for card in judged:
        other = [one.name for one in card.contract.inputs if one.name in now and _kind(one) != _kind(now[one.name])]
        if other or _answer(card.contract.target) != _answer(contract.target):
            what = other or [card.contract.target.name]
            raise BundleError(
                f"bundle {card.version} knows {what} as something else than the contract does by now: nothing can be "
                "compared with it on the same rows; go on under a new name (`okruh new`)"
            )
    known = known_rows(definition, lake, commit, at, learn_from)
    if not gone:
        return known, []
    checks = tuple(column for column in contract.checks if column.name not in gone)
    wider = msgspec.structs.replace(contract, features=(*contract.features, *gone.values()), checks=checks)
    try:
        known = known_rows(replace(definition, contract=wider), lake, commit, at, learn_from)
    except ContractError as error:
        needing = next(card.version for card in judged if {one.name for one in card.contract.inputs} & gone.keys())
        raise BundleError(
            f"bundle {needing} needs columns {list(gone)}, which the data has no more; keep them in the contract, as "
            "`checks` where no request shall have them, and ingest again, or go on under a new name (`okruh new`)"
        ) from error
    return known, [column.name for column in gone.values() if not column.nullable]


def _kind(column: Input) -> tuple[object, ...]:
    if isinstance(column, Image):
        return Image, column.shape, column.whole
    return type(column), isinstance(column, Category) and column.is_text


def _answer(target: Number | Category) -> tuple[str, tuple[int | str, ...]]:
    return target.name, target.values if isinstance(target, Category) else ()


def _judged_on(judged: list[Card]) -> str:
    moments = [card.data.test_from for card in judged if card.data.test_from is not None]
    since = f"known from {max(moments):%Y-%m-%d} on" if moments else ""
    held_out = "" if len(moments) == len(judged) else "that were held out"
    return " and ".join(filter(None, (since, held_out)))


def _naive_answers(
    definition: Model, lake: Lake, commit: str, card: Card, test: "pd.DataFrame", at: datetime
) -> "npt.NDArray[np.float32]":
    # Not at the card's own moment: without a time column, all rows of a file that came again are known since then only
    known = known_rows(definition, lake, commit, at, card.data.learn_from)
    return definition.naive_answers(known.whole(lambda part: learned_from(card, part)), test)


def _answers(bundle: Bundle, test: "pd.DataFrame") -> "npt.NDArray[np.float32]":
    return Predictor(bundle.onnx, bundle.card.contract).predict(to_columns(bundle.card.contract, test))


def record(
    lake: Lake,
    branch: str,
    report: PromotionReport,
    serving: Rollout | None,
    about: Mapping[str, str] = MappingProxyType({}),
) -> PromotionReport:
    """Commit the verdict and, where it allows, the rollout, together; give the verdict as it was kept.

    Args:
        lake: where to.
        branch: where to.
        report: the verdict.
        serving: the rollout that the candidate was judged against.
        about: what else the commit's metadata says.

    Raises: `Conflict` when the rollout has changed since the candidate was judged against it, or changes meanwhile.
    """
    kind = "promotion" if report.allowed else "verdict"
    note = {"kind": kind, "version": report.version, "incumbent": report.incumbent, "at": report.at.isoformat()}
    if report.allowed and serving and serving.challenger:
        report = msgspec.structs.replace(report, ended_trial=serving.challenger.version)
        note["ended-trial"] = serving.challenger.version
    with transaction(lake, branch, f"{kind}: {report.version}", note | dict(about)) as work:
        path = f"{registry.VERDICTS}{report.at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{report.version}.json"
        work.put(path, registry.encode_report(report))
        if report.allowed:
            if registry.read_rollout(lake, work.base) != serving:
                raise Conflict(f"the rollout changed while {report.version} was judged; promote it again")
            previous = serving.champion if serving else None
            work.put(rollout.PATH, rollout.encode(Rollout(champion=report.version, since=report.at, previous=previous)))
    return report
