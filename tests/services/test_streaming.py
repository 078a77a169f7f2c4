"""NDJSON: a line each, in order, as long as lines come; a wrong line fails no other."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from prometheus_client import REGISTRY

from infra.journal.journal import Counts, Journal
from models.contract.rows import Array, Columns, Rows
from services import streaming
from services.access import DEADLINE
from services.app import Edge
from services.batching import Batcher, Overloaded
from services.endpoints import Endpoints
from tests.services.conftest import Caller

LINES = {"content-type": "application/x-ndjson; charset=utf-8"}


def ask(client: Caller, *lines: object, end: str = "\n") -> list[dict[str, Any]]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end
    answer = client.post("/v1/predict", content=text.encode(), headers=LINES)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_answers_each_line_in_order_and_records_it(
    client: Caller, journal: Journal, row: dict[str, Any], end: str
) -> None:
    answers = ask(client, {**row, "id": "a"}, "", {**row, "distance": 0.0}, {**row, "id": "c"}, end=end)

    assert [one["value"] for one in answers] == [16.0, answers[1]["value"], 16.0]
    assert {one["version"] for one in answers} == {"v1"}
    assert [one["id"] for one in answers] == ["a", answers[1]["id"], "c"] == [one.id for one in journal.predictions()]


def test_a_wrong_line_is_answered_by_its_error_and_fails_no_other(
    client: Caller, journal: Journal, row: dict[str, Any]
) -> None:
    wrong = [{**row, "kind": "boat"}, "{", "[]", json.dumps(row) + "," + json.dumps(row), {**row, "id": "a", "zone": 9}]

    answers = ask(client, row, *wrong, {**row, "id": "a"}, {**row, "id": "a", "distance": 9}, row)

    assert ["error" in one for one in answers] == [False, True, True, True, True, True, False, True, False]
    assert answers[1]["error"]["violations"][0] | {"rule": ""} == {"field": "kind", "rule": "", "row": 1}
    assert answers[2]["error"]["message"].startswith("row 2, field 'line': the body is not JSON")
    assert answers[5]["error"]["message"].startswith("row 5, field 'zone': unknown category")
    assert answers[7]["error"]["conflicting"] == ["a"]
    assert journal.counts() == Counts(3, 0)


def test_the_good_lines_beside_a_wrong_one_are_predicted_together(
    client: Caller, endpoints: Endpoints, row: dict[str, Any]
) -> None:
    batcher, sizes = endpoints._following.champion.batcher, list[int]()
    predict = batcher._predict

    def noted(parts: Sequence[Rows]) -> tuple[Columns, Array]:
        sizes.append(sum(part.count for part in parts))
        return predict(parts)

    batcher._predict = noted

    answers = ask(client, *[row] * 200, "{", *[row] * 200)

    assert ["error" in one for one in answers].index(True) == 200
    assert sum("error" in one for one in answers) == 1
    assert sum(sizes) == 400
    assert len(sizes) < 10


def test_what_is_refused_is_counted_and_told(
    client: Caller, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> Any:
        raise Overloaded("7 rows wait to be predicted: try again")

    def counted(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    of_path = {"path": "/v1/predict", "status": "500"}
    before = counted("okruh_overloads_total"), counted("okruh_requests_total", **of_path)
    monkeypatch.setattr(Batcher, "predict", full)
    (refused,) = ask(client, row)
    monkeypatch.setattr(Batcher, "predict", None)
    (failed,) = ask(client, row)

    after = counted("okruh_overloads_total"), counted("okruh_requests_total", **of_path)
    assert refused["error"]["message"].startswith("7 rows wait")
    assert failed["error"]["message"] == "the service failed; its log says why"
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)


def test_a_name_that_is_taken_fails_its_line_and_repeats_no_other(
    client: Caller, journal: Journal, row: dict[str, Any]
) -> None:
    ask(client, {**row, "id": "a"})

    answers = ask(client, row, {**row, "id": "a", "distance": 9}, {**row, "id": "b"}, row)

    assert ["error" in one for one in answers] == [False, True, False, False]
    assert answers[1]["error"]["violations"][0]["row"] == 1
    given = [one["id"] for one in answers if "id" in one]
    assert [one.id for one in journal.predictions()] == ["a", *given]


def test_answers_more_lines_than_a_request_may_have_rows(client: Caller, journal: Journal, row: dict[str, Any]) -> None:
    answers = ask(client, *[row] * 12_000)

    assert {one["value"] for one in answers} == {16.0}
    assert len({one["id"] for one in answers}) == 12_000 == journal.counts().predictions


def test_answers_what_has_come_before_the_rest_comes(edge: Edge, row: dict[str, Any]) -> None:
    """The second line is sent when the first one's answer is there."""
    sent, received = list[bytes](), list[None]()
    first = asyncio.Event()

    async def receive() -> dict[str, Any]:
        received.append(None)
        if len(received) == 1:
            return {"type": "http.request", "body": json.dumps(row).encode() + b"\n{", "more_body": True}
        await first.wait()
        return {"type": "http.request", "body": b"}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if b"value" in sent[-1]:
            first.set()

    async def run() -> None:
        async with asyncio.timeout(30):
            await edge(scope(), receive, send)

    asyncio.run(run())

    answers = [json.loads(line) for line in b"".join(sent).splitlines()]
    assert [list(one) for one in answers] == [["id", "value", "version"], ["error"]]


def test_ends_where_a_line_does_not(client: Caller, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LINE_BYTES", 1000)

    answers = ask(client, row, "x" * 2000, end="")

    assert [list(one) for one in answers] == [["id", "value", "version"], ["error"]]
    assert answers[1]["error"]["message"].startswith("a line holds at most")


def test_stops_where_the_caller_has_gone(edge: Edge, journal: Journal, row: dict[str, Any]) -> None:
    came: Iterator[dict[str, Any]] = iter(
        [
            {"type": "http.request", "body": json.dumps(row).encode() + b"\n", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(came)

    async def send(message: Any) -> None:
        assert message["type"].startswith("http.response")

    asyncio.run(edge(scope(), receive, send))

    assert journal.counts() == Counts(1, 0)


@pytest.mark.parametrize(
    ("most_s", "asked", "said"),
    [(0.01, None, "0.01 s"), (0.01, b"60000", "0.01 s"), (60.0, b"10", "0.01 s"), (None, b"10", "0.01 s")],
)
def test_what_is_late_ends_with_a_line_that_says_so(
    row: dict[str, Any], edge: Edge, most_s: float | None, asked: bytes | None, said: str
) -> None:
    edge._timeout_s = most_s
    came, sent = iter([json.dumps(row).encode() + b"\n"]), list[Any]()
    before = count(504)

    async def receive() -> dict[str, Any]:
        for body in came:
            return {"type": "http.request", "body": body, "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        async with asyncio.timeout(30):
            await edge(scope(*([] if asked is None else [(DEADLINE, asked)])), receive, send)

    asyncio.run(run())

    lines = [json.loads(line) for message in sent for line in message.get("body", b"").splitlines()]
    assert lines[-1] == {"error": {"message": f"not answered within {said}"}}
    assert [message.get("more_body") for message in sent][-1] is False
    assert (edge._running, count(504)) == (0, before + 1)


def test_a_callers_deadline_is_one_for_the_whole_answer(row: dict[str, Any], edge: Edge) -> None:
    """Each line comes long before the service's own bound, and no line is the last."""
    edge._timeout_s, sent = 60.0, list[bytes]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(row).encode() + b"\n", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def run() -> None:
        async with asyncio.timeout(30):
            await edge(scope((DEADLINE, b"200")), receive, send)

    asyncio.run(run())

    assert b"not answered within 0.2 s" in sent[-1]
    assert any(b"value" in part for part in sent)


def count(status: int) -> float:
    labels = {"path": "/v1/predict", "status": str(status)}
    return REGISTRY.get_sample_value("okruh_requests_total", labels) or 0.0


async def chunks(*content: bytes) -> AsyncIterator[bytes]:
    for one in content:
        yield one


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_are_the_same_however_they_are_cut(size: int) -> None:
    content = b'{"a":1}\n\n{"b":2}\r\nlast'

    async def read() -> list[bytes]:
        cut = chunks(*(content[start : start + size] for start in range(0, len(content), size)))
        return [line async for lines in streaming._lines(cut) for line in lines]

    assert asyncio.run(read()) == [b'{"a":1}', b'{"b":2}\r', b"last"]


def scope(*more: tuple[bytes, bytes]) -> dict[str, Any]:
    headers = [(b"content-type", b"application/x-ndjson"), *more]
    return {"type": "http", "method": "POST", "path": "/v1/predict", "headers": headers}
