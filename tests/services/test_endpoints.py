"""The service's paths, from bytes to bytes."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from infra.errors import NotFound
from infra.journal.journal import Counts, Journal
from infra.keys import KeyFile
from infra.settings import Settings
from services.access import Access
from services.endpoints import Endpoints


def rows_of(*rows: object) -> dict[str, object]:
    return {"rows": rows}


def test_answers_each_row_and_records_it_first(client: Any, journal: Journal, row: dict[str, Any]) -> None:
    answer = client.post("/v1/predict", json=rows_of({**row, "id": "a"}, {**row, "kind": "bike", "weight": 1.5}))

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    named, unnamed = answer.json()["predictions"]
    assert answer.json() | {"predictions": None} == {"model": "tiny", "version": "v1", "predictions": None}
    assert named == {"id": "a", "value": 16.0}
    assert unnamed["value"] == 7.5
    recorded = journal.find("a")
    assert (recorded.version, recorded.value, msgspec.to_builtins(recorded.row)) == ("v1", 16.0, row)
    assert journal.find(unnamed["id"]).value == 7.5


def test_answers_a_repeated_id_again_and_records_it_once(client: Any, journal: Journal, row: dict[str, Any]) -> None:
    first = client.post("/v1/predict", json=rows_of({**row, "id": "a"}))
    second = client.post("/v1/predict", json=rows_of({**row, "id": "a"}, {**row, "id": "b"}))

    assert [one["value"] for one in (*first.json()["predictions"], *second.json()["predictions"])] == [16.0] * 3
    assert [(one.id, one.value) for one in journal.predictions()] == [("a", 16.0), ("b", 16.0)]


def test_names_an_id_that_stands_for_another_row(client: Any, journal: Journal, row: dict[str, Any]) -> None:
    client.post("/v1/predict", json=rows_of({**row, "id": "a"}))

    answer = client.post("/v1/predict", json=rows_of({**row, "id": "b"}, {**row, "id": "a", "distance": 4.0}))

    error = answer.json()["error"]
    assert (answer.status_code, error["conflicting"]) == (409, ["a"])
    assert [(one["row"], one["field"]) for one in error["violations"]] == [(1, "id")]
    assert "row 1: 'a'" in error["message"]
    assert [(one.id, one.value) for one in journal.predictions()] == [("a", 16.0), ("b", 16.0)]


def test_answers_ten_thousand_rows_in_order(client: Any, journal: Journal, row: dict[str, Any]) -> None:
    rows = [{**row, "distance": index / 100} for index in range(10_000)]

    answer = client.post("/v1/predict", json=rows_of(*rows))

    values = [one["value"] for one in answer.json()["predictions"]]
    assert values == pytest.approx([index / 50 + 10 for index in range(10_000)], rel=1e-6)
    assert journal.counts() == Counts(10_000, 0)


ARROW = "application/vnd.apache.arrow.stream"


def stream(*rows: dict[str, Any]) -> bytes:
    kinds = {"starts_at": pa.timestamp("us"), "weight": pa.float64()}
    rows = tuple(one | {"starts_at": datetime.fromisoformat(one["starts_at"])} for one in rows)
    table = pa.table({name: pa.array([one[name] for one in rows], kinds.get(name)) for name in rows[0]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def test_answers_an_arrow_stream_by_one_and_records_it(client: Any, journal: Journal, row: dict[str, Any]) -> None:
    content = stream({**row, "id": "a"}, {**row, "id": None})

    answer = client.post("/v1/predict", content=content, headers={"content-type": ARROW})

    with pa.ipc.open_stream(answer.content) as answered:
        table = answered.read_all()
    assert (answer.status_code, answer.headers["content-type"]) == (200, ARROW)
    assert table.schema.metadata == {b"model": b"tiny", b"version": b"v1"}
    assert table["value"].to_pylist() == [16.0, 16.0]
    assert [one.id for one in journal.predictions()] == table["id"].to_pylist()
    assert table["id"][0].as_py() == "a"


def test_answers_ten_thousand_rows_of_arrow_as_those_of_json(
    client: Any, journal: Journal, row: dict[str, Any]
) -> None:
    rows = [{**row, "distance": number / 200} for number in range(10_000)]

    of_json = client.post("/v1/predict", json=rows_of(*rows)).json()["predictions"]
    answer = client.post("/v1/predict", content=stream(*rows), headers={"content-type": ARROW})

    with pa.ipc.open_stream(answer.content) as answered:
        assert answered.read_all()["value"].to_pylist() == [one["value"] for one in of_json]
    assert journal.counts() == Counts(20_000, 0)


@pytest.mark.parametrize(("content", "status"), [(b"{}", 400), (b"", 400)])
def test_refuses_what_is_called_arrow_and_is_none(client: Any, content: bytes, status: int) -> None:
    answer = client.post("/v1/predict", content=content, headers={"content-type": ARROW})

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert "no Arrow stream" in answer.json()["error"]["message"]


def test_refuses_an_arrow_stream_for_one_wrong_row(client: Any, journal: Journal, row: dict[str, Any]) -> None:
    content = stream(row, {**row, "kind": "boat"})

    answer = client.post("/v1/predict", content=content, headers={"content-type": ARROW})

    (violation,) = answer.json()["error"]["violations"]
    assert (answer.status_code, violation["row"], violation["field"]) == (422, 1, "kind")
    assert journal.counts() == Counts(0, 0)


@pytest.mark.parametrize(
    ("content", "status", "violations"),
    [
        (b"{", 400, []),
        (b"", 400, []),
        (b'{"rows":[]}', 422, [(None, "rows")]),
        (
            b'{"rows":[{"colour":1}]}',
            422,
            [(0, name) for name in ("colour", "starts_at", "distance", "weight", "kind")],
        ),
        (b"[%s]" % (b" " * (16 << 20)), 413, []),
        (b" " * 20_000_000, 413, []),
    ],
)
def test_refuses_bad_requests_and_records_nothing(
    client: Any, journal: Journal, content: bytes, status: int, violations: list[tuple[int | None, str]]
) -> None:
    answer = client.post("/v1/predict", content=content)

    error = answer.json()["error"]
    assert answer.status_code == status
    assert [(one["row"], one["field"]) for one in error.get("violations", [])] == violations
    assert error["message"]
    assert journal.counts() == Counts(0, 0)
    assert client.get("/livez").status_code == 200


def test_refuses_a_whole_request_for_one_wrong_row(client: Any, journal: Journal, row: dict[str, Any]) -> None:
    answer = client.post("/v1/predict", json=rows_of(row, {**row, "kind": "boat"}))

    (violation,) = answer.json()["error"]["violations"]
    assert (answer.status_code, violation["row"], violation["field"]) == (422, 1, "kind")
    assert journal.counts() == Counts(0, 0)


def test_refuses_one_id_twice_in_a_request(client: Any, journal: Journal, row: dict[str, Any]) -> None:
    answer = client.post("/v1/predict", json=rows_of({**row, "id": "a"}, {**row, "id": "a"}))

    assert (answer.status_code, journal.counts()) == (422, Counts(0, 0))


def test_refuses_ten_thousand_and_one_rows(client: Any, journal: Journal, row: dict[str, Any]) -> None:
    answer = client.post("/v1/predict", json=rows_of(*[row] * 10_001))

    assert (answer.status_code, journal.counts()) == (413, Counts(0, 0))
    assert "10001" in answer.json()["error"]["message"]


def test_keeps_labels_and_names_those_it_cannot(client: Any, journal: Journal, row: dict[str, Any]) -> None:
    client.post("/v1/predict", json=rows_of(*({**row, "id": name} for name in "abc")))

    kept = client.post("/v1/feedback", json={"labels": [{"id": "a", "value": 12.5, "at": "2020-03-01T10:00:00+01:00"}]})
    again = client.post("/v1/feedback", json={"labels": [{"id": "a", "value": 12.5}]})
    unknown = client.post("/v1/feedback", json={"labels": [{"id": "x", "value": 1}, {"id": "b", "value": 2}]})
    conflict = client.post("/v1/feedback", json={"labels": [{"id": "a", "value": 99}, {"id": "c", "value": 3}]})

    assert [one.status_code for one in (kept, again, unknown, conflict)] == [200, 200, 404, 409]
    assert kept.json() == again.json() == {"kept": 1}
    assert unknown.json()["error"] | {"message": ""} == {"message": "", "unknown": ["x"], "kept": 1}
    assert conflict.json()["error"] | {"message": ""} == {"message": "", "conflicting": ["a"], "kept": 1}
    assert [(one.id, one.value) for one in journal.labels()] == [("a", 12.5), ("b", 2.0), ("c", 3.0)]
    assert journal.labels()[0].known_at.isoformat() == "2020-03-01T09:00:00+00:00"


@pytest.mark.parametrize(
    ("content", "status", "field"),
    [
        (b'{"labels":[{"id":"a","value":1e999}]}', 422, "value"),
        (b'{"labels":[{"id":"a","value":"much"}]}', 422, "value"),
        (b'{"labels":[{"id":"a","value":null}]}', 422, "value"),
        (b'{"labels":[{"id":"a"}]}', 422, "labels"),
        (b'{"labels":[{"id":"a","value":1,"at":"2020-03-01T08:15:00"}]}', 422, "at"),
        (b'{"labels":[{"id":"a","value":1,"at":"0001-01-01T00:00:00+05:00"}]}', 422, "at"),
        (b'{"labels":[{"id":"a","value":1,"at":"2100-01-01T00:00:00Z"}]}', 422, "at"),
        (b'{"labels":[]}', 422, "labels"),
        (b"{}", 422, "labels"),
        (b'{"labels":', 400, None),
        (b'{"labels":[{"id":"a","value":NaN}]}', 400, None),
    ],
)
def test_refuses_bad_feedback(
    client: Any, journal: Journal, row: dict[str, Any], content: bytes, status: int, field: str | None
) -> None:
    client.post("/v1/predict", json=rows_of({**row, "id": "a"}))

    answer = client.post("/v1/feedback", content=content)

    assert answer.status_code == status
    assert [one["field"] for one in answer.json()["error"].get("violations", [])] == ([field] if field else [])
    assert journal.counts().labels == 0


def test_refuses_more_labels_than_a_request_may_carry(client: Any) -> None:
    labels = [{"id": str(index), "value": 1} for index in range(10_001)]

    assert client.post("/v1/feedback", json={"labels": labels}).status_code == 413


def test_answers_nothing_that_it_cannot_record_and_recovers(
    client: Any, journal: Journal, row: dict[str, Any], settings: Settings
) -> None:
    in_the_way = Path(settings.home / "journal")
    in_the_way.parent.mkdir()
    in_the_way.write_text("a file where the folder belongs")

    refused = client.post("/v1/predict", json=rows_of({**row, "id": "a"}))
    feedback = client.post("/v1/feedback", json={"labels": [{"id": "a", "value": 1}]})
    while_broken = client.get("/readyz"), client.get("/v2/health/ready")
    in_the_way.unlink()
    mended = client.get("/readyz"), client.get("/v2/models/tiny/ready")  # nobody has asked for a prediction
    answered = client.post("/v1/predict", json=rows_of({**row, "id": "b"}))

    assert (refused.status_code, refused.headers["retry-after"], feedback.status_code) == (503, "1", 503)
    assert [(one.status_code, one.json()["ready"]) for one in (*while_broken, *mended)] == [(503, False)] * 2 + [
        (200, True)
    ] * 2
    assert "Not a directory" in while_broken[0].json()["journal"]
    assert mended[0].json()["journal"] is None
    assert answered.status_code == 200
    with pytest.raises(NotFound):
        journal.find("a")


def test_only_who_has_a_key_is_told_where_the_journal_and_the_lake_are(
    endpoints: Endpoints, client: Any, keys: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints.access = Access(keys)
    bearer = {"authorization": f"Bearer {keys.add('monitor', ['admin'])}"}
    monkeypatch.setattr(endpoints._following, "lake_failure", "lake /srv/lake cannot be read")

    told = [client.request("GET", "/readyz", headers=headers).json()["lake"] for headers in ({}, bearer)]

    assert told == ["the log says what, and this to whoever sends a key", "lake /srv/lake cannot be read"]


def test_says_what_answers(client: Any) -> None:
    model = client.get("/v1/model").json()
    readiness = client.get("/readyz")

    assert (model["model"], model["version"], model["since"]) == ("tiny", "v1", None)
    assert [column["name"] for column in model["inputs"]] == ["starts_at", "distance", "weight", "kind", "zone"]
    assert model["metrics"] == {"mae": 1.5}
    assert (len(model["digest"]), model["variant"]) == (64, "float32")
    assert model["runs_on"] == {"provider": "cpu", "nodes": {"cpu": 6}, "missed": None, "replayed": False}
    assert readiness.status_code == 200
    assert readiness.json() == {
        "ready": True,
        "model": "tiny",
        "version": "v1",
        "following": False,
        "provider": None,
        "lake": None,
        "journal": None,
        "refused": None,
        "challenger": None,
        "challenger_refused": None,
        "challenger_aborted": None,
        "keys": None,
    }


def test_describes_itself_by_the_contract(client: Any, row: dict[str, Any]) -> None:
    document = client.get("/docs.json").json()

    schemas = document["components"]["schemas"]
    request = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert document["openapi"].startswith("3.")
    assert request["schema"] == {"$ref": "#/components/schemas/PredictRequest"}
    assert set(schemas["Row"]["properties"]) == {*row, "id"}
    assert client.post("/v1/predict", json=request["example"]).status_code == 200
    references = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert references == schemas.keys()
