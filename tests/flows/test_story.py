"""The story of a played period, on a journal so small that every number can be worked out by hand.

The tiny bundles answer `factor` x distance for a bike, and every row is 10 km by bike.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from flows.story import AlarmLine, JournalCheck, Labels, Month, PromotionLine, Requests, Story, VerdictLine, tell
from infra import registry, tables
from infra.dataset import LABELS, PREDICTIONS
from infra.errors import NotFound
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from infra.traffic import Counts
from models.bundle import bundle_folder
from models.contract.columns import Contract
from models.deciding.verdict import PromotionReport
from models.model import Model
from models.watching.alarms import Alarm
from models.watching.profile import LossProfile
from tests.conftest import BundleMaker

ANSWERS = [
    ("a", "2020-03-05T10:00", "first", 20.0),
    ("b", "2020-03-15T10:00", "first", 20.0),
    ("c", "2020-03-25T10:00", "second", 30.0),
    ("d", "2020-04-10T10:00", "second", 30.0),
    ("e", "2020-04-25T10:00", "second", 30.0),
    ("never labelled", "2020-04-26T10:00", "second", 30.5),
]
MINUTES = {"a": 22.0, "b": 24.0, "c": 33.0, "d": 25.0, "e": 31.0}
PROMOTED, LOST, REPLACED = (datetime(2020, 3, day, 5, tzinfo=UTC) for day in (1, 10, 20))
COUNTS = Counts(
    sent=9, refused=3, failed=1, labels_sent=6, labels_failed=1, during_swaps=4, refusals={"rare": 1, "often": 2}
)


@pytest.fixture
def model(tiny_contract: Contract) -> Model:
    """What the tiny bundles are of."""
    return Model(
        name="tiny",
        description="A ride.",
        contract=tiny_contract,
        table="rides",
        raw_columns={},
        prepare=lambda raw: raw,
        network=NotImplemented,
        naive=NotImplemented,
    )


@pytest.fixture
def lake(tmp_path: Path, make_bundle: BundleMaker) -> Lake:
    """A lake of two champions and a candidate that lost between them."""
    lake = EmbeddedLake(tmp_path / "tiny")
    with transaction(lake, "main", "play", {}) as work:
        for version, factor in (("first", 2.0), ("second", 3.0)):
            for name, content in make_bundle(version, factor).files().items():
                work.put(f"{bundle_folder(version)}/{name}", content)
        for verdict in (
            verdict_on("first", "naive", PROMOTED, allowed=True),
            verdict_on("lost", "first", LOST, allowed=False),
            verdict_on("second", "first", REPLACED, allowed=True),
        ):
            path = f"{registry.VERDICTS}{verdict.at:%Y%m%dT%H%M%SZ}-{verdict.version}.json"
            work.put(path, registry.encode_report(verdict))
        work.put(f"{registry.ALARMS}alarm.json", registry.encode_report(ALARM))
        work.put(f"{PREDICTIONS}1.parquet", tables.encode(predictions()))
        work.put(f"{LABELS}1.parquet", tables.encode(labels(MINUTES)))
    return lake


def verdict_on(version: str, incumbent: str, at: datetime, *, allowed: bool) -> PromotionReport:
    loss = LossProfile(rows=1, mean=1.0, scaled_mean=0.1, scaled_deviation=0.1)
    return PromotionReport(
        at=at,
        version=version,
        incumbent=incumbent,
        allowed=allowed,
        reasons=(f"of {version}",),
        test_rows=1,
        incumbent_loss=loss,
        candidate_loss=loss,
        alarm=None,
        labels_since_change=0,
        ends_episode=False,
    )


ALARM = Alarm(
    id="alarm",
    at=REPLACED,
    window_start=LOST,
    version="first",
    statistic=7.5,
    threshold=5.6,
    changed_at=LOST,
    labels=2,
    mean_error=3.0,
    reference_error=1.0,
    detail="the error rose",
)


def predictions() -> pd.DataFrame:
    ids, starts, versions, predicted = zip(*ANSWERS, strict=True)
    starts_at = pd.Series(pd.to_datetime(starts)).dt.as_unit("us")
    return pd.DataFrame(
        {
            "starts_at": starts_at,
            "distance": 10.0,
            "weight": np.nan,
            "kind": "bike",
            "zone": 1,
            "id": ids,
            "version": versions,
            "predicted": predicted,
            "event_at": starts_at.dt.tz_localize("America/New_York").dt.tz_convert("UTC"),
        }
    )


def labels(minutes: dict[str, float]) -> pd.DataFrame:
    known_at = pd.Timestamp("2020-05-01", tz="UTC").as_unit("us")
    return pd.DataFrame({"id": list(minutes), "value": list(minutes.values()), "known_at": known_at})


def test_every_number_is_what_the_journal_holds(model: Model, lake: Lake) -> None:
    story = tell(model, lake, "main", COUNTS, {"second": 0.25}).story

    assert story == Story(
        model="tiny",
        branch="main",
        data_commit="c",
        versions=("first", "second"),
        months=(
            Month(
                month="2020-03",
                trips=3,
                error_first_model=(2 + 4 + 13) / 3,
                error_served=(2 + 4 + 3) / 3,
                versions=("first", "second"),
            ),
            Month(month="2020-04", trips=2, error_first_model=(5 + 11) / 2, error_served=3.0, versions=("second",)),
        ),
        alarms=(AlarmLine(at=REPLACED, window=(LOST, REPLACED), statistic=7.5, detail="the error rose"),),
        verdicts=tuple(
            VerdictLine(at=at, version=version, allowed=allowed, reasons=(f"of {version}",))
            for at, version, allowed in (
                (PROMOTED, "first", True),
                (LOST, "lost", False),
                (REPLACED, "second", True),
            )
        ),
        promotions=(
            PromotionLine(
                at=PROMOTED,
                version="first",
                error_next_month=(2 + 4 + 13) / 3,
                error_previous_champion=None,
                seconds_to_first_answer=None,
            ),
            PromotionLine(
                at=REPLACED,
                version="second",
                error_next_month=(3 + 5) / 2,
                error_previous_champion=(13 + 5) / 2,
                seconds_to_first_answer=0.25,
            ),
        ),
        requests=Requests(sent=9, refused=3, failed=2, during_swaps=4, refusals={"often": 2, "rare": 1}),
        labels=Labels(sent=6, joined=5),
        journal=JournalCheck(rows=6, largest_difference=0.5),
    )
    assert list(story.requests.refusals) == ["often", "rare"]


def test_a_promotion_that_no_label_followed_has_no_error(model: Model, lake: Lake) -> None:
    last = verdict_on("second", "first", datetime(2020, 4, 27, tzinfo=UTC), allowed=True)
    with transaction(lake, "main", "promote at the end", {}) as work:
        work.put(f"{registry.VERDICTS}20200427T000000Z-second.json", registry.encode_report(last))

    story = tell(model, lake, "main", COUNTS, {}).story

    assert (story.promotions[-1].error_next_month, story.promotions[-1].error_previous_champion) == (None, None)
    assert msgspec.json.decode(msgspec.json.encode(story), type=Story) == story


def test_labels_outside_of_the_targets_range_count_as_joined_and_not_as_errors(model: Model, lake: Lake) -> None:
    with transaction(lake, "main", "label", {}) as work:
        work.put(f"{LABELS}2.parquet", tables.encode(labels({"never labelled": 1e6})))

    story = tell(model, lake, "main", COUNTS, {}).story

    assert (story.labels.joined, sum(month.trips for month in story.months)) == (6, 5)


def test_says_when_no_label_has_come(model: Model, lake: Lake) -> None:
    with transaction(lake, "main", "forget", {}) as work:
        work.delete(f"{LABELS}1.parquet")

    with pytest.raises(NotFound, match="no label has come for tiny on branch 'main'"):
        tell(model, lake, "main", COUNTS, {})


def test_the_month_after_a_promotion_is_thirty_days(model: Model, lake: Lake) -> None:
    before_e = datetime(2020, 4, 25, 14, tzinfo=UTC) - timedelta(days=30)
    for at, error in ((before_e, 5.0), (before_e + timedelta(seconds=1), (5 + 1) / 2)):
        verdict = verdict_on("second", "first", at, allowed=True)
        with transaction(lake, "main", "promote", {}) as work:
            work.put(f"{registry.VERDICTS}20200401T000000Z-second.json", registry.encode_report(verdict))

        (*_, line) = tell(model, lake, "main", COUNTS, {}).story.promotions

        assert line.error_next_month == pytest.approx(error)
