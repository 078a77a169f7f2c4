"""A challenger that is tried: whose requests are its, what nobody sees of it, and how its trial ends."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from infra import registry
from infra.errors import Unavailable
from infra.journal.journal import Journal
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from models.bundle import Bundle, bundle_folder
from models.contract.rows import Array, Columns, Rows
from models.deciding import rollout
from models.deciding.rollout import AbortRule, Challenger, Rollout, challenge, is_drawn
from services import metrics, trial
from services.app import Edge
from services.batching import Batcher
from services.champion import load
from services.endpoints import Endpoints
from services.following import Following
from services.predictions import Predictions
from services.tally import LAST, Tally
from services.trial import Drawn, Shadow, Tried
from tests.services.conftest import Caller, teapot

NOW = datetime.now(UTC)
V2 = {"v1": 16.0, "v2": 19.0}
"""What versions answer to the row."""
FAILS = {"distance": 70.0}
"""Of this `v2` has no number."""

Worker = tuple[Caller, Following, Shadow]
MakeWorker = Callable[[], Worker]


@pytest.fixture
def lake(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> Iterator[Lake]:
    """A lake whose champion is `v1`; `v2` fails above 60 km."""
    with closing(EmbeddedLake(tmp_path / "tiny")) as lake:
        with transaction(lake, "main", "register", {}) as work:
            for bundle in (make_bundle("v1"), make_bundle("v2", 3.0, most=60.0)):
                for name, content in bundle.files().items():
                    work.put(f"{bundle_folder(bundle.card.version)}/{name}", content)
        change(lake)
        yield lake


def change(lake: Lake, challenger: Challenger | None = None, champion: str = "v1") -> None:
    with transaction(lake, "main", "rollout", {}) as work:
        work.put(rollout.PATH, rollout.encode(Rollout(champion=champion, since=NOW, challenger=challenger)))


@pytest.fixture
def worker(lake: Lake, journal: Journal, make_bundle: Callable[..., Bundle]) -> Iterator[MakeWorker]:
    """Make workers of a service that follows the lake; they share a journal."""
    shadows = list[Shadow]()

    def make() -> Worker:
        following = Following(load(make_bundle("v1").files()), lambda: lake, "main", 60.0)
        shadow = Shadow(journal.shadows)
        shadows.append(shadow)
        edge = Edge(teapot)
        edge.find = Endpoints(following, journal, Predictions(journal, shadow=shadow)).find
        return Caller(edge), following, shadow

    yield make
    for shadow in shadows:
        shadow.close()


def ask(caller: Caller, *rows: dict[str, Any], key: str | None = None) -> tuple[str, list[float]]:
    headers = {} if key is None else {"x-okruh-key": key}
    answer = caller.post("/v1/predict", json={"rows": rows}, headers=headers)
    assert answer.status_code == 200
    return answer.json()["version"], [one["value"] for one in answer.json()["predictions"]]


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def shown(journal: Journal) -> list[dict[str, Any]]:
    return [row for batch in journal.shadows.batches(lambda _: False) for row in batch.to_pylist()]


def test_all_workers_answer_a_key_by_the_same_version_and_its_share_is_the_weight(
    lake: Lake, worker: MakeWorker, row: dict[str, Any]
) -> None:
    terms = challenge("canary", "v2", NOW, weight=0.25)
    change(lake, terms)
    (first, *_), (second, *_) = worker(), worker()
    keys = [f"customer-{number}" for number in range(200)]

    answers = [ask(first, row, key=key) for key in keys]

    assert answers == [ask(second, row, key=key) for key in keys]
    assert all(values == [V2[version]] for version, values in answers)
    assert [version for version, _ in answers] == ["v2" if is_drawn(terms, key.encode(), NOW) else "v1" for key in keys]
    assert 0.18 < sum(version == "v2" for version, _ in answers) / len(keys) < 0.32


def test_requests_without_a_key_are_drawn_by_chance(lake: Lake, worker: MakeWorker, row: dict[str, Any]) -> None:
    change(lake, challenge("canary", "v2", NOW, weight=0.5))
    caller, *_ = worker()

    answers = [ask(caller, row)[0] for _ in range(200)]

    assert 50 < answers.count("v2") < 150  # beyond it once in 10^12


@pytest.mark.parametrize(("began", "version"), [(timedelta(0), "v1"), (timedelta(hours=-1), "v2")])
def test_a_ramp_goes_on_by_itself(
    lake: Lake, worker: MakeWorker, row: dict[str, Any], began: timedelta, version: str
) -> None:
    change(lake, challenge("canary", "v2", NOW + began, weight=1e-9, ramp="1@30m"))
    caller, *_ = worker()

    assert {ask(caller, row, key=str(number))[0] for number in range(20)} == {version}


def test_what_a_canary_answers_is_recorded_as_its(
    lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any]
) -> None:
    change(lake, challenge("canary", "v2", NOW, weight=1.0))
    caller, *_ = worker()
    before = count("okruh_canary_requests_total", version="v2", outcome="ok")

    assert ask(caller, {**row, "id": "a"}) == ("v2", [19.0])

    assert (journal.find("a").version, journal.find("a").value) == ("v2", 19.0)
    assert count("okruh_canary_requests_total", version="v2", outcome="ok") == before + 1


def test_lines_are_its_too(lake: Lake, worker: MakeWorker, row: dict[str, Any]) -> None:
    change(lake, challenge("canary", "v2", NOW, weight=1.0))
    caller, *_ = worker()
    lines = "".join(f"{json.dumps(one)}\n" for one in (row, {**row, **FAILS}, {**row, "kind": "boat"}))

    answers = caller.post("/v1/predict", content=lines.encode(), headers={"content-type": "application/x-ndjson"})

    told = [json.loads(line) for line in answers.text.splitlines()]
    assert [one.get("version") for one in told] == ["v2", "v1", None]


def test_the_protocol_names_both_and_gives_the_one_that_is_named(
    lake: Lake, worker: MakeWorker, row: dict[str, Any]
) -> None:
    change(lake, challenge("canary", "v2", NOW, weight=1e-9))
    caller, following, _ = worker()
    kinds = {"starts_at": "INT64", "distance": "FP32", "weight": "FP32", "kind": "BYTES", "zone": "INT64"}
    values = {**row, "starts_at": 1583050500, "weight": 0.0}
    inputs = [{"name": name, "shape": [1], "datatype": kind, "data": [values[name]]} for name, kind in kinds.items()]

    def infer(path: str) -> Any:
        return caller.post(f"/v2/models/{path}/infer", json={"inputs": inputs}).json()

    answers = {path: infer(path) for path in ("tiny", "tiny/versions/v1", "tiny/versions/v2")}
    versions = caller.get("/v2/models/tiny").json()["versions"]
    tried = following.serving.challenger
    assert tried is not None
    tried.tally.ended = "for a test"
    gone = infer("tiny/versions/v2")

    assert versions == ["v1", "v2"]
    assert [one["model_version"] for one in answers.values()] == ["v1", "v1", "v2"]
    assert [one["outputs"][0]["data"] for one in answers.values()] == [[16.0], [16.0], [19.0]]
    assert gone["error"] == "tiny v2 is not served here: this is tiny v1"


def test_a_canary_that_fails_fails_no_request_and_is_aborted_in_the_lake(
    lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any]
) -> None:
    change(lake, challenge("canary", "v2", NOW, weight=1.0))
    (caller, following, _), (_, other, _) = worker(), worker()
    aborts = count("okruh_challenger_aborts_total")

    answers = [ask(caller, {**row, **FAILS, "id": name}) for name in "ab"]
    at_once = ask(caller, row), caller.get("/readyz").json()
    following.look()
    other.look()

    assert answers == [("v1", [150.0])] * 2
    assert at_once[0] == ("v1", [16.0])
    assert at_once[1]["challenger"] is None
    why = at_once[1]["challenger_aborted"]["reason"]
    assert why == "2 of 2 answers failed, 1.00% may"
    assert [one.version for one in journal.predictions()] == ["v1"] * 3
    assert count("okruh_challenger_aborts_total") == aborts + 1
    serving = registry.read_rollout(lake, "main")
    assert serving == Rollout(champion="v1", since=NOW)
    note = next(lake.log("main")).metadata
    assert note == note | {"kind": "abort", "version": "v2", "champion": "v1", "by": "service", "why": why}
    assert other.serving.challenger is None
    told = {"version": "v2", "reason": why, "lake": None}
    assert caller.get("/v1/model").json()["challenger_aborted"] == told
    change(lake, challenge("shadow", "v2", NOW))
    following.look()
    assert caller.get("/v1/model").json()["challenger_aborted"] is None


def test_an_abort_that_the_lake_does_not_take_holds_here_and_is_told_later(
    lake: Lake, worker: MakeWorker, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Unavailable("the lake is read only")

    change(lake, challenge("canary", "v2", NOW, weight=1.0))
    caller, following, _ = worker()
    with monkeypatch.context() as patch:
        patch.setattr(registry, "change_rollout", refuse)
        ask(caller, {**row, **FAILS}), ask(caller, {**row, **FAILS})
        following.look()
        following.look()
        refused = caller.get("/readyz").json()
    alone = ask(caller, row)
    following.look()

    assert (refused["challenger"], refused["lake"]) == (None, None)
    assert refused["challenger_aborted"]["lake"] == "the lake is read only"
    assert alone == ("v1", [16.0])
    assert caller.get("/readyz").json()["challenger_aborted"]["lake"] is None
    assert registry.read_rollout(lake, "main") == Rollout(champion="v1", since=NOW)


def test_two_workers_that_end_a_trial_commit_it_once(lake: Lake, worker: MakeWorker, row: dict[str, Any]) -> None:
    change(lake, challenge("canary", "v2", NOW, weight=1.0))
    (first, following, _), (second, other, _) = worker(), worker()
    for caller in (first, second):
        ask(caller, {**row, **FAILS}), ask(caller, {**row, **FAILS})

    following.look()
    told = lake.resolve("main")
    other.look()

    assert lake.resolve("main") == told
    assert other.aborted == following.aborted is not None
    assert other.abort_failure is None


def test_other_terms_begin_anew_and_are_not_aborted_for_the_former(
    lake: Lake, worker: MakeWorker, row: dict[str, Any]
) -> None:
    change(lake, challenge("canary", "v2", NOW, weight=1.0))
    caller, following, _ = worker()
    ask(caller, {**row, **FAILS}), ask(caller, {**row, **FAILS})
    change(lake, again := challenge("canary", "v2", NOW, weight=1.0, error_rate=0.5))

    following.look()

    serving = registry.read_rollout(lake, "main")
    assert serving is not None
    assert serving.challenger == again
    assert ask(caller, row) == ("v2", [19.0])


def hang(following: Following, goes_on: threading.Event) -> Tried:
    """Have the challenger answer nothing before it may go on."""
    challenger = following.serving.challenger
    assert challenger is not None

    def predict(parts: Sequence[Rows]) -> tuple[Columns, Array]:
        goes_on.wait()
        return challenger.model.predict(parts)

    tried = Tried(replace(challenger.model, batcher=Batcher(predict, lambda _: 1.0)), challenger.terms)
    following.serving = replace(following.serving, challenger=tried)
    return tried


def test_a_canary_that_hangs_costs_no_caller_their_answer(lake: Lake, worker: MakeWorker, row: dict[str, Any]) -> None:
    change(lake, challenge("canary", "v2", NOW, weight=1.0, p99_ms=1.0))
    caller, following, _ = worker()
    goes_on = threading.Event()
    tried = hang(following, goes_on)
    before = count("okruh_canary_requests_total", version="v2", outcome="slow")

    answers = [ask(caller, row), ask(caller, row)]
    goes_on.set()

    assert answers == [("v1", [16.0])] * 2
    assert count("okruh_canary_requests_total", version="v2", outcome="slow") == before + 2
    assert tried.tally.ended == "2 of 2 answers took longer than 1 ms, 1.00% may"


def test_a_canary_that_hangs_leaves_the_champion_half_of_the_time_that_a_caller_has(
    lake: Lake, worker: MakeWorker, row: dict[str, Any]
) -> None:
    change(lake, challenge("canary", "v2", NOW, weight=1.0, p99_ms=60_000.0))
    caller, following, _ = worker()
    goes_on = threading.Event()
    tried = hang(following, goes_on)

    answers = [
        caller.post("/v1/predict", json={"rows": [row]}, headers={"x-envoy-expected-rq-timeout-ms": "2000"})
        for _ in range(2)
    ]
    goes_on.set()

    assert [(answer.status_code, answer.json()["version"]) for answer in answers] == [(200, "v1")] * 2
    assert tried.tally.ended == "2 of 2 answers took longer than 60000 ms, 1.00% may"


def test_a_canary_that_is_slow_is_aborted(
    lake: Lake, worker: MakeWorker, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_FEWEST_S", 30.0)
    change(lake, challenge("canary", "v2", NOW, weight=1.0, p99_ms=1e-6))
    caller, following, _ = worker()

    answers = [ask(caller, row) for _ in range(3)]
    following.look()

    assert answers == [("v2", [19.0])] * 2 + [("v1", [16.0])]
    assert following.aborted is not None
    assert following.aborted.reason == "2 of 2 answers took longer than 1e-06 ms, 1.00% may"


def test_a_shadow_answers_what_was_recorded_and_nobody_gets_it(
    lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any]
) -> None:
    change(lake, challenge("shadow", "v2", NOW, error_rate=0.5))
    caller, _, shadow = worker()
    series = {"champion": "v1", "challenger": "v2"}
    before = count("okruh_shadow_difference_share_sum", **series)
    bucket = count("okruh_shadow_difference_share_bucket", **series, le="0.01")

    answers = [ask(caller, {**row, "id": "a"}, row), ask(caller, {**row, **FAILS, "id": "b"})]
    shadow.close()

    assert answers == [("v1", [16.0, 16.0]), ("v1", [150.0])]
    recorded = list(journal.predictions())
    assert {one.version for one in recorded} == {"v1"}
    assert [(one["id"], one["answered_at"]) for one in shown(journal)] == [
        (one.id, one.answered_at) for one in recorded
    ]
    assert [(one["version"], one["champion"], one["served"], one["predicted"]) for one in shown(journal)] == [
        ("v2", "v1", 16.0, 19.0),
        ("v2", "v1", 16.0, 19.0),
        ("v2", "v1", 150.0, None),
    ]
    assert count("okruh_shadow_difference_share_sum", **series) == pytest.approx(before + 2 * 3.0 / 1000)
    assert count("okruh_shadow_difference_share_bucket", **series, le="0.01") == bucket + 2


def test_a_shadow_answers_the_drawn_among_what_is_recorded_together(
    lake: Lake, journal: Journal, make_bundle: Callable[..., Bundle], row: dict[str, Any]
) -> None:
    following = Following(load(make_bundle("v1").files()), lambda: lake, "main", 60.0)
    change(lake, challenge("shadow", "v2", NOW))
    following.look()
    champion, tried = following.serving.champion, following.serving.challenger
    assert tried is not None
    shadow = Shadow(journal.shadows)
    predictions = Predictions(journal, strict=False, shadow=shadow)

    async def one_by_one() -> list[str]:
        """Answer rows of which some are the challenger's, too, and give the ids of these."""
        its = list[str]()
        for place, drawn in enumerate((False, True, True, False, True)):
            body = json.dumps({"rows": [{**row, "distance": float(place)}]}).encode()
            rows = champion.decoder.decode(body)
            answered = await predictions.answer(champion, rows, len(body), Drawn(tried, None) if drawn else None)
            its += answered.ids() if drawn else []
        assert predictions._durable is not None
        await predictions._durable
        return its

    its = asyncio.run(one_by_one())
    shadow.close()

    recorded = {one.id: one for one in journal.predictions()}
    assert len(recorded) == 5
    assert [(one["id"], one["served"]) for one in shown(journal)] == [(name, recorded[name].value) for name in its]
    assert [recorded[name].row["distance"] for name in its] == [1.0, 2.0, 4.0]


def test_a_shadow_leaves_out_what_was_answered_before(
    lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any]
) -> None:
    change(lake, challenge("shadow", "v2", NOW))
    caller, _, shadow = worker()

    ask(caller, {**row, "id": "a"})
    ask(caller, {**row, "id": "a"}, {**row, "id": "b"})
    taken = caller.post("/v1/predict", json={"rows": [{**row, "id": "a", "distance": 4.0}]})
    shadow.close()

    assert taken.status_code == 409
    assert [(one["id"], one["predicted"]) for one in shown(journal)] == [("a", 19.0), ("b", 19.0)]


def test_a_shadow_answers_large_requests_batch_by_batch(
    lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any]
) -> None:
    change(lake, challenge("shadow", "v2", NOW))
    caller, _, shadow = worker()

    ask(caller, *({**row, "distance": number / 100} for number in range(5000)))
    shadow.close()

    assert [one["predicted"] for one in shown(journal)] == pytest.approx(
        [3 * number / 100 + 10 for number in range(5000)], rel=1e-6
    )


def test_a_shadow_that_is_closed_drops_and_counts_what_it_has_no_time_for(
    lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_CLOSE_S", 0.0)
    change(lake, challenge("shadow", "v2", NOW))
    caller, following, shadow = worker()
    before = count("okruh_shadow_dropped_total", why="closing")
    tried, at_once = following.serving.challenger, threading.Event()
    assert tried is not None

    def predict(parts: Sequence[Rows]) -> tuple[Columns, Array]:
        at_once.wait()
        return tried.model.predict(parts)

    following.serving = replace(following.serving, challenger=Tried(replace(tried.model, predict=predict), tried.terms))
    ask(caller, *[row] * 3000)
    closing = threading.Thread(target=shadow.close)
    closing.start()
    assert shadow._closing.wait(30)
    at_once.set()
    closing.join()

    assert count("okruh_shadow_dropped_total", why="closing") + len(shown(journal)) == before + 3000
    assert len(shown(journal)) < 3000


def test_drops_and_counts_what_no_shadow_has_room_for(
    lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "MAXIMUM_WAITING_ROWS", 2)
    change(lake, challenge("shadow", "v2", NOW))
    caller, _, shadow = worker()
    before = count("okruh_shadow_dropped_total", why="full")

    ask(caller, *[row] * 3)
    ask(caller, *[row] * 2)
    shadow.close()

    assert count("okruh_shadow_dropped_total", why="full") == before + 3
    assert len(shown(journal)) == 2


def test_counts_what_could_not_be_journalled_and_goes_on(
    lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any]
) -> None:
    change(lake, challenge("shadow", "v2", NOW))
    caller, _, shadow = worker()
    ask(caller, row)
    (journal.folder / "shadows").write_text("a file where the folder belongs")
    before = count("okruh_shadow_dropped_total", why="unwritten")

    ask(caller, row)
    shadow.close()

    assert count("okruh_shadow_dropped_total", why="unwritten") == before + 2


def test_a_shadow_that_fails_is_aborted(lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any]) -> None:
    change(lake, challenge("shadow", "v2", NOW))
    caller, following, shadow = worker()

    ask(caller, *[{**row, **FAILS}] * 3, *[row] * 97)
    shadow.close()
    following.look()

    assert following.aborted is not None
    assert following.aborted.reason == "3 of 100 answers failed, 1.00% may"
    assert registry.read_rollout(lake, "main") == Rollout(champion="v1", since=NOW)
    assert len(shown(journal)) == 100


def test_no_row_is_a_shadows_before_its_trial_begins(
    lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any]
) -> None:
    change(lake, challenge("shadow", "v2", NOW + timedelta(days=1)))
    caller, _, shadow = worker()

    ask(caller, row)
    shadow.close()

    assert shown(journal) == []


def test_a_promotion_in_the_middle_of_requests_loses_none(
    lake: Lake, worker: MakeWorker, journal: Journal, row: dict[str, Any]
) -> None:
    change(lake, challenge("canary", "v2", NOW, weight=0.5))
    caller, following, _ = worker()

    def promote() -> None:
        change(lake, champion="v2")
        following.look()

    async def load_meanwhile() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(caller.app), base_url="http://service") as client:
            bodies = [{"rows": [{**row, "id": str(number)}]} for number in range(120)]
            asked = [asyncio.create_task(client.post("/v1/predict", json=body)) for body in bodies]
            await asyncio.to_thread(promote)
            return await asyncio.gather(*asked)

    answers = [answer.json() for answer in asyncio.run(load_meanwhile()) if answer.status_code == 200]

    told = {one["predictions"][0]["id"]: (one["version"], one["predictions"][0]["value"]) for one in answers}
    assert len(told) == 120
    assert {one.id: (one.version, one.value) for one in journal.predictions()} == told
    assert all(value == V2[version] for version, value in told.values())
    assert ask(caller, row) == ("v2", [19.0])


def test_a_tally_is_of_the_last_answers() -> None:
    tally, rule = Tally(), AbortRule(error_rate=0.01)
    for _ in range(3 * LAST // 100):  # ten failures among each thousand: as many as may
        tally.add(rule, 99, 0, 0)
        tally.add(rule, 1, 1, 0)
    assert tally.ended is None

    tally.add(rule, 1, 1, 0)

    assert tally.ended == "11 of 1001 answers failed, 1.00% may"


def test_many_values_are_counted_as_one_by_one() -> None:
    values = np.array([0.0, 0.1, 0.10001, 0.25, 0.5, 7.0, 7.0], np.float32)
    made = CollectorRegistry()
    at_once, singly = (Histogram(name, "", buckets=(0.1, 0.25, 1), registry=made) for name in ("a", "b"))

    metrics.observe(at_once, values)
    for value in values.tolist():
        singly.observe(value)

    told = [[sample.value for sample in one.samples if "created" not in sample.name] for one in made.collect()]
    assert told[0] == told[1]
