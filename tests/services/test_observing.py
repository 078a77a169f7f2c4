"""The access log: which requests, and what a line says."""

import json
import logging
from collections.abc import Callable, Iterator, MutableMapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from infra.errors import Misconfigured
from infra.journal.journal import Journal
from infra.settings import load_settings
from models.bundle import Bundle
from services.app import Edge
from services.champion import load
from services.endpoints import Endpoints
from services.following import Following
from services.observing import Observer, note
from services.predictions import Predictions
from tests.services.conftest import Caller, teapot

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def read(self) -> list[dict[str, Any]]:
        return [json.loads(record.getMessage()) for record in self.records]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The lines of the access log."""
    lines, logger = Lines(), logging.getLogger("okruh.access")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)


@pytest.fixture
def served(journal: Journal, make_bundle: Callable[..., Bundle]) -> Callable[[float], Caller]:
    """Make a caller of a service that logs such a share."""

    def served(rate: float) -> Caller:
        edge = Edge(teapot, observer=Observer(rate))
        following = Following(load(make_bundle().files()), None, "main", 1.0)
        edge.find = Endpoints(following, journal, Predictions(journal)).find
        return Caller(edge)

    return served


def test_a_line_says_what_was_asked_and_answered_and_nothing_of_the_body(
    served: Callable[[float], Caller], lines: Lines, row: dict[str, Any]
) -> None:
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-00"}

    served(1.0).post("/v1/predict?key=secret", json={"rows": [row, row]}, headers=headers)

    (line,) = lines.read
    assert datetime.fromisoformat(line.pop("time")).utcoffset() == timedelta(0)
    assert line.pop("ms") > 0
    assert line == {
        "method": "POST",
        "path": "/v1/predict",
        "status": 200,
        "model": "tiny",
        "version": "v1",
        "rows": 2,
        "trace": TRACE,
    }
    assert "\n" not in lines.records[0].getMessage()


def test_a_line_is_written_as_it_is(served: Callable[[float], Caller], capsys: pytest.CaptureFixture[str]) -> None:
    served(1.0).post("/other%0A{}")

    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["path"] == "/other\n{}"
    assert json.loads(line)["status"] == 418


def test_logs_nothing_where_nothing_is_asked_for(
    served: Callable[[float], Caller], lines: Lines, row: dict[str, Any]
) -> None:
    client = served(0.0)

    statuses = [client.post("/v1/predict", json={"rows": [one]}).status_code for one in (row, {**row, "kind": "boat"})]

    assert statuses == [200, 422]
    assert lines.records == []


def test_logs_the_share_that_is_asked_for(
    served: Callable[[float], Caller], lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, chances = served(0.25), iter([0.1, 0.3, 0.24, 0.25])
    monkeypatch.setattr("random.random", lambda: next(chances))

    for path in ("/livez", "/readyz", "/v1/model", "/docs.json"):
        client.get(path)

    assert [line["path"] for line in lines.read] == ["/livez", "/v1/model"]


def test_logs_every_failure(lines: Lines) -> None:
    async def fails(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    Caller(Edge(fails)).get("/")

    assert [(line["status"], line["trace"]) for line in lines.read] == [(503, None)]
    assert [record.levelno for record in lines.records] == [logging.ERROR]


def test_what_is_told_of_one_request_is_not_told_of_the_next(lines: Lines) -> None:
    async def answers(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/first":
            note(key="somebody")
        await teapot(scope, receive, send)

    client = Caller(Edge(answers, observer=Observer(1.0)))

    for path in ("/first", "/second"):
        client.get(path)
    note(key="nobody's request")

    assert [line.get("key") for line in lines.read] == ["somebody", None]


@pytest.mark.parametrize("rate", [-0.1, 1.1, "some"])
def test_refuses_a_share_that_is_none(rate: Any) -> None:
    with pytest.raises(Misconfigured, match="OKRUH_ACCESS_LOG_RATE"):
        load_settings(access_log_rate=rate)
