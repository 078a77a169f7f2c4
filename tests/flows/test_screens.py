"""Screens as they are read: on a terminal of 80 columns, and in a file."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import msgspec
import numpy as np
import pytest

from flows import screens
from flows.lineage import Answered, Lineage
from flows.reproduce import Code, Environment, Reproduced
from flows.rollback import RolledBack
from flows.status import Line, Standing, Status
from flows.sync import Ingested
from models.bundle import Computed
from models.deciding.reproduction import Difference, Part
from models.deciding.rollout import Compared, challenge
from models.deciding.verdict import PromotionReport
from models.watching.profile import describe_loss

COMMIT, DIGEST = "c0" * 32, "d1" * 32
COMPUTED = Computed(
    device="cpu", processor="AMD EPYC, AVX512", threads=1, processes=1, torch="2.13.0+cpu", python="3.11.7"
)
REASON = "error 2.944 against 3.379 of naive (12.9% smaller) on 3404 rows not trained on; gain beyond 0.5% is certain"


def line(since: datetime) -> Line:
    return Line(
        branch="main",
        champion="20180301-d2176e30",
        since=since,
        previous=None,
        challenger=None,
        weight_now=None,
        shadow=None,
        trained_as_of=datetime(2018, 3, 1, 4, 54, tzinfo=UTC),
        trained_on_commit=COMMIT,
        trained_rows=12_767,
        test_error=2.944,
        last_window_end=datetime(2018, 3, 12, tzinfo=UTC),
        last_window_error=None,
        last_alarm=None,
        last_verdict=f"2018-03-01: 20180301-d2176e30 promoted: {REASON}",
        predictions=12_345,
        labels=1,
    )


def chain(prediction: Answered | None, partitions: tuple[str, ...]) -> Lineage:
    return Lineage(
        model="taxi_eta",
        branch="main",
        prediction=prediction,
        version="20180301-d2176e30",
        warm_start=None,
        onnx_digest=DIGEST,
        registered_by="e2" * 32,
        data_commit=COMMIT,
        partitions=partitions,
        as_of=datetime(2018, 3, 1, tzinfo=UTC),
        seed=0,
        code_commit="unknown",
        source_digest="cea2e2aff283be3c",
        environment_digest="cbe22a0759a723ee",
        computed=COMPUTED,
        flow_run="inventive-chihuahua 57177dc5-194c-4e23-af16-cd2d06aaf7f0",
        tracker_run="",
        promoted_at=datetime(2018, 3, 1, 5, tzinfo=UTC),
        promoted_because=(REASON,),
    )


def ingested(file: str) -> Ingested:
    return Ingested(
        file=file,
        partition="2018-01",
        rows=9_888,
        refused=112,
        reasons={"miles: outside 0 to 50": 100, "zone: unknown category": 13},
        quarantine="quarantine/trips/2018-01.parquet",
        commit=COMMIT,
        digest=DIGEST,
        refused_digest=DIGEST,
    )


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """A terminal of 80 columns without colours."""
    shown = StringIO()
    console = type(screens._console)(  # the screens' own kind of console
        file=shown, width=80, force_terminal=True, no_color=True, color_system=None, highlight=False, markup=False
    )
    monkeypatch.setattr(screens, "_console", console)
    return shown


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (timedelta(minutes=-5), "0 minutes"),
        (timedelta(seconds=59), "0 minutes"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(minutes=119), "119 minutes"),
        (timedelta(hours=2), "2 hours"),
        (timedelta(hours=47, minutes=59), "47 hours"),
        (timedelta(days=2), "2 days"),
        (timedelta(days=1_234), "1,234 days"),
    ],
)
def test_says_an_age_in_the_largest_unit_of_which_there_are_two(age: timedelta, said: str) -> None:
    assert screens._age(age) == said


def test_status_names_champion_age_data_window_alarm_and_traffic(capsys: pytest.CaptureFixture[str]) -> None:
    since = datetime.now(UTC) - timedelta(days=3, hours=1)

    screens.status(Status(model="taxi_eta", unit="minutes", bundles=1, lines=[line(since)]))

    assert capsys.readouterr().out.splitlines() == [
        "taxi_eta on branch main",
        "champion      20180301-d2176e30",
        f"serves        for 3 days, since {since:%Y-%m-%d %H:%M} UTC",
        "before it     none",
        "challenger    none",
        "trained on    12,767 rows known at 2018-03-01 04:54 UTC",
        f"lake commit   {COMMIT}",
        "test error    2.94 minutes",
        "last window   until 2018-03-12: no labels",
        "last alarm    none",
        f"last verdict  2018-03-01: 20180301-d2176e30 promoted: {REASON}",
        "traffic       12,345 predictions, 1 label",
    ]


@pytest.mark.parametrize(
    ("bundles", "said"),
    [
        (0, "taxi_eta has 0 bundles and no champion; run `okruh ingest taxi_eta` and train next\n"),
        (1, "taxi_eta has 1 bundle and no champion; run `okruh promote taxi_eta`\n"),
    ],
)
def test_status_says_what_to_do_without_a_champion(bundles: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    screens.status(Status(model="taxi_eta", unit="minutes", bundles=bundles, lines=[]))

    assert capsys.readouterr().out == said


def test_a_narrow_terminal_wraps_prose_between_words_and_breaks_no_id(terminal: StringIO) -> None:
    screens.status(Status(model="taxi_eta", unit="minutes", bundles=1, lines=[line(datetime.now(UTC))]))
    screens.lineage(chain(None, ("data/trips/2018-01.parquet", "data/trips/2018-02.parquet")))

    shown = terminal.getvalue().splitlines()
    words = {word for row in shown for word in row.split()}
    assert {COMMIT, DIGEST, "57177dc5-194c-4e23-af16-cd2d06aaf7f0", "20180301-d2176e30"} <= words
    assert [row for row in shown if len(row) > 80 and COMMIT not in row and DIGEST not in row] == []
    after = shown[next(at for at, row in enumerate(shown) if row.startswith("last verdict")) + 1]
    assert after.startswith(" " * 14)
    assert after[14] != " "


def test_a_table_in_a_narrow_terminal_has_one_line_a_file_and_in_a_file_its_commits_too(
    terminal: StringIO, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a file with a long name [bold] and more than eighty columns of it, all of which a user must read.parquet"
    one = ingested(name)

    screens.ingested([one])
    narrow = terminal.getvalue().splitlines()
    monkeypatch.undo()
    screens.ingested([one, msgspec.structs.replace(one, cached=True)])
    head, first, second, *reasons = capsys.readouterr().out.splitlines()

    assert [len(narrow), name in narrow[1], COMMIT in narrow[1]] == [5, True, False]
    assert [line.split(maxsplit=1) for line in reasons[:2]] == [
        ["200", "miles: outside 0 to 50"],
        ["26", "zone: unknown category"],
    ]
    assert reasons[2] == "refused rows, each with its reason, are in the lake under quarantine/trips/"
    assert head.split() == ["file", "partition", "rows", "in", "quarantine", "commit"]
    assert first.split()[-5:] == ["2018-01", "9,888", "112", "new", COMMIT]
    assert second.split()[-2:] == ["cached", COMMIT]


def test_of_many_files_counts_those_that_were_found_again(capsys: pytest.CaptureFixture[str]) -> None:
    one = ingested("2018-01.parquet")
    again = msgspec.structs.replace(one, cached=True)

    screens.ingested([again] * 60 + [one])
    mixed = capsys.readouterr().out.splitlines()
    screens.ingested([again] * 1_234)
    unchanged = capsys.readouterr().out.splitlines()

    assert [mixed[1].split()[0], *mixed[2:4]] == [
        "2018-01.parquet",
        "60 files more are in the lake already",
        "      6,100 miles: outside 0 to 50",
    ]
    assert unchanged[0] == "1,234 files are in the lake already"


@pytest.mark.parametrize("steers", ["\x1b[2J", "\x07", "\x9b5m", "\u202e"])
def test_what_stands_in_a_table_steers_no_terminal(steers: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = msgspec.structs.replace(ingested(f"a{steers}.csv"), reasons={f"{steers}x: unknown": 1})

    screens.ingested([found])
    screens.lineage(chain(None, (f"data/{steers}.parquet",)))

    shown, written = capsys.readouterr().out, steers.encode("unicode_escape").decode()
    assert steers not in shown
    for seen in (f"a{written}.csv", f"{written}x: unknown", f"data/{written}.parquet"):
        assert seen in shown


@pytest.mark.parametrize("breaks", ["\n", "\r", "\t", "\u2028"])
def test_a_break_in_a_value_breaks_no_line_of_a_table(breaks: str, capsys: pytest.CaptureFixture[str]) -> None:
    screens.ingested([ingested(f"a{breaks}b.csv")])

    shown, written = capsys.readouterr().out.splitlines(), breaks.encode("unicode_escape").decode()
    assert shown[1].startswith(f"a{written}b.csv  2018-01 ")


def test_lineage_begins_with_the_answer_and_prints_its_row_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    row = b'{"note":"[red]not markup[/red] :smile:"}'
    at = datetime(2018, 3, 2, tzinfo=UTC)
    answered = Answered(id="a-b", event_at=at, row=msgspec.Raw(row), value=16.0, label=12.5, label_known_at=at)

    screens.lineage(chain(answered, ("data/trips/2018-01.parquet",)))

    shown = capsys.readouterr().out.splitlines()
    assert shown[:4] == [
        "prediction    a-b",
        "answered      16.00",
        "label         12.50, known 2018-03-02 00:00 UTC",
        f"row           {row.decode()}",
    ]
    assert "partitions    1: data/trips/2018-01.parquet" in shown
    assert "computed on   cpu (AMD EPYC, AVX512), 1 thread, torch 2.13.0+cpu, Python 3.11.7" in shown


def test_rollback_names_both_versions(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2020, 1, 1, tzinfo=UTC)
    screens.rolled_back(RolledBack(champion="v1", since=at, previous="v2", ended_trial=None))
    screens.rolled_back(RolledBack(champion="v1", since=at, previous="v2", ended_trial="v3"))

    alone = "v1 serves again, instead of v2\n"
    assert capsys.readouterr().out == alone + alone + "the trial of v3 has ended\n"


def test_a_rollout_names_who_serves_who_is_tried_and_on_which_terms(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2020, 3, 2, 8, tzinfo=UTC)
    tried = challenge("canary", "v3", at, weight=0.05, ramp="0.25@30m,1@2h")
    alone = Standing(model="m", branch="main", champion="v2", since=at, previous="v1", challenger=None, weight_now=None)

    compared = Compared(
        unit="minutes",
        rows=1200,
        failed=3,
        mean_difference=0.12345,
        largest_difference=4.0,
        labels=1000,
        champion_error=2.5,
        challenger_error=2.25,
    )

    screens.standing(msgspec.structs.replace(alone, challenger=tried, weight_now=0.25, shadow=compared))
    shown = capsys.readouterr().out.splitlines()
    screens.standing(msgspec.structs.replace(alone, ended_trial="v3"))
    ended = capsys.readouterr().out.splitlines()

    assert shown == [
        "champion      v2, since 2020-03-02 08:00 UTC",
        "before it     v1",
        "challenger    v3, canary since 2020-03-02 08:00 UTC, now for 0.25 of the keys",
        "in the shadow 1,200 rows, 3 failed; differs by 0.1235 minutes in the mean, 4 at most; error 2.25, the "
        "champion's 2.5, by 1,000 labels",
        "ramp          0.05 at first, 0.25 from 2020-03-02 08:30 UTC, 1 from 2020-03-02 10:00 UTC",
        "ends itself   when more than 0.01 of its answers fail, or their 99th percentile is above 100 ms",
    ]
    assert ended == ["the trial of v3 has ended", *shown[:2], "challenger    none"]


def test_a_promotion_says_whose_trial_it_ended_and_later_that_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    loss = describe_loss(np.array([1.0, 2.0]), 30.0)
    report = PromotionReport(
        at=datetime(2020, 3, 2, tzinfo=UTC),
        version="v4",
        incumbent="v2",
        allowed=True,
        reasons=("it is better",),
        test_rows=2,
        incumbent_loss=loss,
        candidate_loss=loss,
        alarm=None,
        labels_since_change=0,
        ends_episode=False,
        ended_trial="v3",
    )

    screens.judged(report)
    screens.judged(msgspec.structs.replace(report, serves_already=True))

    assert capsys.readouterr().out == (
        "v4 promoted\n  it is better\nthe trial of v3 has ended\n"
        "v4 serves already, nothing was changed; promoted 2020-03-02 00:00 UTC\n  it is better\n"
    )


def reproduced(**changes: Any) -> Reproduced:
    same = Part(name="data", likeness="identical", compared=5, differing=0, first=None, largest_share=None)
    found = Reproduced(
        at=datetime(2018, 4, 1, tzinfo=UTC),
        model="taxi_eta",
        branch="main",
        version="20180301-d2176e30",
        verdict="identical",
        tolerance=1e-3,
        parts=(same,),
        code=Code(recorded=COMMIT, used=f"git commit {COMMIT}", same_sources=True),
        environment=Environment(same_distributions=True, distributions=(), computed=(), computed_now=COMPUTED),
        seconds=12.6,
    )
    return msgspec.structs.replace(found, **changes)


def test_an_identical_reproduction_says_by_what_and_on_what_it_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    screens.reproduced(reproduced())

    assert [row.rstrip() for row in capsys.readouterr().out.splitlines()] == [
        "20180301-d2176e30 trained again is identical",
        f"code          git commit {COMMIT}",
        "environment   as recorded",
        "computed on   cpu (AMD EPYC, AVX512), 1 thread, torch 2.13.0+cpu, Python 3.11.7: as recorded",
        "",
        "part  verdict    differ  of  largest share",
        "data  identical       0   5",
        "took 13 s",
    ]


def test_a_reproduction_that_differs_says_where_first_and_what_else_is_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    weight = Difference(what="hidden.weight", then="0.5 at [1, 2]", now="0.4", share=0.2)
    node = Difference(what="node 3", then="a = Mul(b)", now="a = Div(b)", share=None)
    parts = (
        Part(name="weights", likeness="different", compared=11, differing=1, first=weight, largest_share=0.2),
        Part(name="graph", likeness="different", compared=1_203, differing=2, first=node, largest_share=None),
    )
    environment = Environment(
        same_distributions=False,
        distributions=("numpy 2.2 then, 2.3 now",),
        computed=("threads 2 then, 1 now",),
        computed_now=msgspec.structs.replace(COMPUTED, threads=2, processes=4),
    )
    code = Code(recorded=f"{COMMIT}+dirty", used=f"git commit {DIGEST}", same_sources=False)

    screens.reproduced(
        reproduced(verdict="different", parts=parts, environment=environment, code=code, report="reports/r.json")
    )

    assert [row.rstrip() for row in capsys.readouterr().out.splitlines()] == [
        "20180301-d2176e30 trained again is different: something differs by more than 0.001 of its size, or in kind",
        f"code          git commit {DIGEST} (recorded: {COMMIT}+dirty); its sources are not those recorded",
        "environment   numpy 2.2 then, 2.3 now",
        "computed on   cpu (AMD EPYC, AVX512), 2 threads, 4 processes, torch 2.13.0+cpu, Python 3.11.7: "
        "threads 2 then, 1 now",
        "",
        "part     verdict    differ     of  largest share",
        "weights  different       1     11            0.2",
        "graph    different       2  1,203",
        "first of weights: hidden.weight: 0.5 at [1, 2] then, 0.4 now, 0.2 of its size",
        "first of graph: node 3: a = Mul(b) then, a = Div(b) now",
        "took 13 s",
        "kept as reports/r.json on branch main",
    ]


def test_an_equal_reproduction_states_its_tolerance(capsys: pytest.CaptureFixture[str]) -> None:
    screens.reproduced(reproduced(verdict="equal", tolerance=0.02))

    first = capsys.readouterr().out.splitlines()[0]
    assert first == "20180301-d2176e30 trained again is equal: nothing differs by more than 0.02 of its size"
