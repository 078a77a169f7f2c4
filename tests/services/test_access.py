"""Who may ask for what: keys and their scopes and rates, deadlines, and pickles, which nobody may send."""

import asyncio
import json
from typing import Any

import pytest

from infra.journal.journal import Counts, Journal
from infra.keys import KeyFile, Scope
from services.access import DEADLINE, Access
from services.app import Edge
from services.endpoints import Endpoints
from services.messages import Answer, Request, Route
from tests.services.conftest import Caller, teapot

PICKLE = "application/vnd.bentoml+pickle"
HEALTH = ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready")


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def locked(edge: Edge, endpoints: Endpoints, keys: KeyFile, clock: Clock) -> Caller:
    """A caller of a service that asks for keys."""
    edge.access = endpoints.access = Access(keys, clock=clock)
    return Caller(edge)


def bearing(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("scope", ["predict", "feedback", "admin"])
def test_a_key_opens_what_its_scope_names_and_nothing_else(
    locked: Caller, keys: KeyFile, row: dict[str, Any], scope: Scope
) -> None:
    infer = "/v2/models/tiny/versions/v1/infer"
    asked: list[tuple[str, str, Scope | None]] = [
        ("POST", "/v1/predict", "predict"),
        ("POST", infer, "predict"),
        ("POST", "/predict", "predict"),
        ("POST", "/v1/feedback", "feedback"),
        ("GET", "/metrics", "admin"),
        ("POST", "/something/of/bentomls", "admin"),
        ("GET", "/prefix/metrics", "admin"),
        ("GET", "/v1/model", None),
        ("GET", "/docs.json", None),
        ("GET", "/schema.json", None),
        ("GET", "/v2", None),
        ("GET", "/v2/models/tiny", None),
    ]
    key = keys.add("app", [scope])

    for method, path, wanted in asked:
        status = locked.request(method, path, headers=bearing(key), json={"rows": [row]}).status_code
        assert (path, status == 403) == (path, wanted not in (scope, None))
        assert status != 401
        assert locked.request(method, path).status_code == 401


def test_whoever_asks_for_health_needs_no_key(locked: Caller) -> None:
    assert {path: locked.get(path).status_code for path in HEALTH} == dict.fromkeys(HEALTH, 200) | {"/healthz": 418}


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x"])
def test_refuses_a_key_that_is_not_known(locked: Caller, keys: KeyFile, sent: str) -> None:
    key = keys.add("app", ["predict"])

    answer = locked.post("/v1/predict", headers={"authorization": sent.format(key=key)}, json={"rows": []})

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert key not in answer.text


def test_takes_the_scheme_in_any_letters(locked: Caller, keys: KeyFile) -> None:
    key = keys.add("app", ["predict"])

    assert locked.request("GET", "/v1/model", headers={"authorization": f"bearer {key}"}).status_code == 200


def test_reads_no_body_of_whoever_has_no_key(locked: Caller, edge: Edge) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("read")

    async def send(message: Any) -> None:
        sent.append(message)

    for headers in ([], [(b"content-length", b"5")], [(b"content-length", b"999999999")]):
        asyncio.run(edge({"type": "http", "method": "POST", "path": "/predict", "headers": headers}, receive, send))

    closed = [(b"connection", b"close") in message["headers"] for message in sent[::2]]
    assert [message["status"] for message in sent[::2]] == [401] * 3
    assert closed == [True, False, True]  # a little is read on, so that the caller can read the answer


def test_says_how_to_make_a_key_where_there_is_none(locked: Caller) -> None:
    answer = locked.get("/v1/model")

    assert answer.status_code == 401
    assert "okruh keys add" in answer.json()["error"]["message"]
    readiness = locked.get("/readyz").json()
    assert readiness["ready"] is True
    assert "okruh keys add" in readiness["keys"]


def test_notices_new_and_revoked_keys_and_lets_two_of_a_name_in(locked: Caller, keys: KeyFile, clock: Clock) -> None:
    def status(key: str) -> int:
        clock.now += 1
        return locked.request("GET", "/v1/model", headers=bearing(key)).status_code

    first = keys.add("app", ["predict"])
    assert status(first) == 200
    second = keys.add("app", ["predict"])
    assert (status(first), status(second)) == (200, 200)
    keys.revoke("app", older=True)
    assert (status(first), status(second)) == (401, 200)
    keys.path.unlink()
    assert status(second) == 401


def test_goes_on_with_the_last_keys_where_the_file_is_broken(
    locked: Caller, keys: KeyFile, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    key = keys.add("app", ["predict"])
    good = keys.path.read_bytes()

    def answered() -> tuple[int, str | None]:
        clock.now += 1
        status = locked.request("GET", "/v1/model", headers=bearing(key)).status_code
        return status, locked.get("/readyz").json()["keys"]

    assert answered() == (200, None)
    keys.path.write_bytes(good[:-20])
    status, reason = answered()
    assert (status, "no file of keys" in (reason or "")) == (200, True)
    assert answered() == (200, reason)
    assert caplog.text.count("keys are as they were") == 1
    keys.path.write_bytes(good)
    assert answered() == (200, None)


def test_looks_at_the_file_twice_a_second_at_most(locked: Caller, keys: KeyFile, clock: Clock) -> None:
    key = keys.add("app", ["predict"])
    assert locked.request("GET", "/v1/model", headers=bearing(key)).status_code == 200
    keys.revoke("app")

    clock.now += 0.4
    assert locked.request("GET", "/v1/model", headers=bearing(key)).status_code == 200
    clock.now += 0.2
    assert locked.request("GET", "/v1/model", headers=bearing(key)).status_code == 401


def test_a_key_may_ask_as_often_as_its_rate_says(keys: KeyFile, clock: Clock, edge: Edge) -> None:
    edge.access = Access(keys, workers=2, clock=clock)  # of which this is one
    caller, key, other = Caller(edge), keys.add("app", ["predict"], rate=8), keys.add("other", ["predict"])

    def burst(key: str) -> list[int]:
        return [caller.request("GET", "/v1/model", headers=bearing(key)).status_code for _ in range(6)]

    assert burst(key) == [200] * 4 + [429] * 2
    refused = caller.request("GET", "/v1/model", headers=bearing(key))
    assert (refused.headers["retry-after"], "connection" in refused.headers) == ("1", False)
    assert burst(other) == [200] * 6
    clock.now += 0.5
    assert burst(key) == [200] * 2 + [429] * 4
    keys.add("third", ["predict"])
    clock.now += 100
    assert burst(key) == [200] * 4 + [429] * 2  # no more than a second's worth is saved up


def test_a_slow_rate_says_when_to_come_back(keys: KeyFile, clock: Clock, edge: Edge) -> None:
    edge.access = Access(keys, clock=clock)
    key = keys.add("app", ["predict"], rate=0.1)

    first, second = (Caller(edge).request("GET", "/v1/model", headers=bearing(key)) for _ in range(2))

    assert (first.status_code, second.status_code, second.headers["retry-after"]) == (200, 429, "10")


def test_another_key_changes_no_rate_that_is_used_up(keys: KeyFile, clock: Clock, edge: Edge) -> None:
    edge.access = Access(keys, clock=clock)
    key = keys.add("app", ["predict"], rate=0.1)
    statuses = []
    for _ in range(3):
        statuses.append(Caller(edge).request("GET", "/v1/model", headers=bearing(key)).status_code)
        keys.add("other", ["predict"])
        clock.now += 1

    assert statuses == [200, 429, 429]


@pytest.mark.parametrize("path", ["/v1/predict", "/predict", "/livez", "/no/such/path"])
@pytest.mark.parametrize(
    "kind",
    [PICKLE, PICKLE.upper(), f"{PICKLE}; v=5", "application/x-pickle", "application/vnd.bentoml.multiple_outputs"],
)
def test_refuses_pickles_on_every_path(client: Caller, journal: Journal, path: str, kind: str) -> None:
    for method in ("POST", "GET", "PUT"):
        answer = client.request(method, path, headers={"content-type": kind}, content=b"\x80\x05N.")
        assert answer.status_code == 415

    assert journal.counts() == Counts(0, 0)


def test_refuses_a_pickle_among_several_content_types(client: Caller) -> None:
    headers = [("content-type", PICKLE), ("content-type", "application/json")]

    assert client.post("/predict", headers=headers, content=b"{}").status_code == 415


@pytest.mark.parametrize(("kind", "status"), [(PICKLE, 415), ("image/png", 418)])
def test_refuses_pickled_parts(client: Caller, kind: str, status: int) -> None:
    parts = {"rows": ("rows", b"\x80\x05N.", kind), "other": (None, json.dumps({"a": 1}), "application/json")}

    assert client.post("/predict", files=parts).status_code == status


@pytest.mark.parametrize("sent", ["", "soon", "-1", "1.5", "1e3", " ", "9" * 5000, "²"])
def test_refuses_a_deadline_that_is_no_number(client: Caller, row: dict[str, Any], sent: str) -> None:
    headers = {DEADLINE: sent.encode()}

    for path in ("/v1/predict", "/predict"):
        answer = client.post(path, headers=headers, json={"rows": [row]})
        assert (answer.status_code, DEADLINE.decode() in answer.text) == (400, True)


def test_what_is_too_late_is_neither_predicted_nor_recorded(
    client: Caller, journal: Journal, row: dict[str, Any]
) -> None:
    late = client.post("/v1/predict", headers={DEADLINE: b"0"}, json={"rows": [row]})
    in_time = client.post("/v1/predict", headers={DEADLINE: b"60000"}, json={"rows": [row]})

    assert (late.status_code, in_time.status_code) == (504, 200)
    assert journal.counts() == Counts(1, 0)


@pytest.mark.parametrize(("sent", "said"), [(b"10", "0.01 s"), (b"60000", "0.02 s")])
def test_a_deadline_tightens_the_configured_one_and_never_widens_it(sent: bytes, said: str) -> None:
    async def unanswered(_: Request) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError("answered")

    edge = Edge(teapot, timeout_s=0.02)
    edge.find = lambda path: Route("POST", unanswered, path)

    answer = Caller(edge).post("/slow", headers={DEADLINE: sent}, content=b"1")

    assert (answer.status_code, answer.json()) == (504, {"error": {"message": f"not answered within {said}"}})


def test_a_deadline_holds_for_what_is_passed_on() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    answer = Caller(Edge(slow)).post("/predict", headers={DEADLINE: b"10"}, content=b"1")

    assert answer.status_code == 504


def test_no_answer_is_kept_or_taken_for_another_type(client: Caller) -> None:
    for path in ("/livez", "/v1/predict", "/passed/on"):
        headers = client.get(path).headers
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://elsewhere.example.com"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://service", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://service:8000", "sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://service"}, 200),
        ({"origin": "https://proxy.example.com", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({}, 200),
    ],
)
def test_a_page_of_another_origin_writes_nothing(
    client: Caller, journal: Journal, row: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    """A browser sends plain text to anybody, without asking first."""
    sent = {"content-type": "text/plain", **headers}
    predicted = client.post("/v1/predict", content=json.dumps({"rows": [{**row, "id": "a"}]}), headers=sent)
    labelled = client.post("/v1/feedback", content=json.dumps({"labels": [{"id": "a", "value": 1}]}), headers=sent)

    assert (predicted.status_code, labelled.status_code) == (status, status)
    assert journal.counts() == (Counts(1, 1) if status == 200 else Counts(0, 0))
    assert client.request("GET", "/v1/model", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:3000", 200),
        ("127.0.0.1:3000", 200),
        ("[::1]:3000", 200),
        ("okruh.localhost", 200),
        ("elsewhere.example.com:3000", 403),
        ("localhost.example.com", 403),
        ("192.0.2.1", 403),
        ("[", 403),
    ],
)
def test_on_loopback_no_name_that_was_made_to_point_here_is_a_pages_own(
    edge: Edge, client: Caller, row: dict[str, Any], host: str, status: int
) -> None:
    edge.access = Access(loopback=True)
    program = {"host": host}
    page = {**program, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}

    answers = [client.post("/v1/predict", json={"rows": [row]}, headers=headers) for headers in (page, program)]

    assert [answer.status_code for answer in answers] == [status, 200]


def test_with_a_key_an_origin_is_no_matter(locked: Caller, keys: KeyFile, row: dict[str, Any]) -> None:
    headers = {"origin": "https://elsewhere.example.com", **bearing(keys.add("app", ["predict"]))}

    assert locked.post("/v1/predict", content=json.dumps({"rows": [row]}), headers=headers).status_code == 200


def test_no_other_origin_is_asked_in(client: Caller) -> None:
    headers = {"origin": "https://elsewhere.example.com", "access-control-request-method": "POST"}

    answer = client.request("OPTIONS", "/v1/predict", headers=headers)

    assert answer.status_code == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_refuses_web_sockets(edge: Edge) -> None:
    sent: list[Any] = []

    async def nothing_to_read() -> Any:
        raise AssertionError("read")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(edge({"type": "websocket", "path": "/", "headers": []}, nothing_to_read, send))

    assert sent == [{"type": "websocket.close"}]


def test_describes_which_key_a_path_wants(locked: Caller, keys: KeyFile, client: Caller, endpoints: Endpoints) -> None:
    key = keys.add("app", ["predict"])
    document = locked.request("GET", "/docs.json", headers=bearing(key)).json()

    security = {
        path: operation.get("security") for path, methods in document["paths"].items() for operation in methods.values()
    }
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert security == {
        "/v1/predict": [{"key": ["predict"]}],
        "/v1/feedback": [{"key": ["feedback"]}],
        "/v1/model": [{"key": []}],
        "/metrics": [{"key": ["admin"]}],
        "/v2": [{"key": []}],
        "/v2/models/tiny": [{"key": []}],
        "/v2/models/tiny/ready": [{"key": []}],
        "/v2/models/tiny/infer": [{"key": ["predict"]}],
        **dict.fromkeys(("/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready")),
    }
    assert {"401", "403", "415", "429", "504"} <= document["paths"]["/v1/predict"]["post"]["responses"].keys()
    endpoints.access = Access()
    assert "security" not in json.dumps(client.request("GET", "/docs.json", headers=bearing(key)).json())
