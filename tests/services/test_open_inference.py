"""The Open Inference Protocol, as a client of another product speaks it, and what no client should send."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from infra.connection import MAXIMUM_BODY_BYTES
from infra.journal.journal import Counts, Journal
from infra.keys import KeyFile
from models.contract.columns import MISSING_CODE
from services.access import DEADLINE, Access
from services.app import Edge
from tests.infra.lake.lakefs.server import running
from tests.services.conftest import Caller

SECONDS = 1_583_050_500
"""2020-03-01T08:15:00, read off a wall."""


@pytest.fixture
def triton(edge: Edge) -> Iterator[InferenceServerClient]:
    with running(edge) as address:
        client = InferenceServerClient(address.removeprefix("http://"))
        yield client
        client.close()


def tensors(binary: bool = True, **changes: Any) -> list[InferInput]:
    columns: dict[str, Any] = {
        "starts_at": np.array([SECONDS, SECONDS], np.int64),
        "distance": np.array([3, 4], np.float32),
        "weight": np.array([np.nan, 1.5], np.float32),
        "kind": np.array([b"car", b"bike"], np.object_),
        "zone": np.array([2, MISSING_CODE], np.int64),
        **changes,
    }
    kinds = {"f": "FP32", "i": "INT64", "O": "BYTES"}
    found = []
    for name, values in columns.items():
        tensor = InferInput(name, list(values.shape), kinds[values.dtype.kind])
        tensor.set_data_from_numpy(values, binary_data=binary)
        found.append(tensor)
    return found


def test_says_what_it_is(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("tiny")
    assert triton.is_model_ready("tiny", "v1")
    assert triton.get_server_metadata() == {"name": "okruh", "version": "v1", "extensions": ["binary_tensor_data"]}
    about = triton.get_model_metadata("tiny", "v1")
    assert (about["name"], about["versions"]) == ("tiny", ["v1"])
    assert {one["name"]: one["datatype"] for one in about["inputs"]} == {
        "starts_at": "INT64",
        "distance": "FP32",
        "weight": "FP32",
        "kind": "BYTES",
        "zone": "INT64",
        "id": "BYTES",
    }


@pytest.mark.parametrize("version", ["", "v1"])
@pytest.mark.parametrize("binary", [True, False])
def test_answers_rows_and_records_them(
    triton: InferenceServerClient, journal: Journal, binary: bool, version: str
) -> None:
    names = np.array([b"a", b"b"], np.object_)
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in ("id", "value")]
    weight = {} if binary else {"weight": np.array([1.0, 1.5], np.float32)}  # JSON has no NaN

    asked = tensors(binary, id=names, **weight)
    result = triton.infer("tiny", asked, model_version=version, outputs=outputs, request_id="7")

    first = 16.0 if binary else 17.0
    assert result.get_response()["id"] == "7"
    assert result.as_numpy("value").tolist() == [first, 9.5]
    assert result.as_numpy("id").tolist() == ([b"a", b"b"] if binary else ["a", "b"])
    recorded = [(one.id, msgspec.to_builtins(one.row)) for one in journal.predictions()]
    assert [name for name, _ in recorded] == ["a", "b"]
    assert recorded[1][1] == {
        "starts_at": "2020-03-01T08:15:00",
        "distance": 4.0,
        "weight": 1.5,
        "kind": "bike",
        "zone": None,
    }


def test_gives_everything_where_nothing_is_asked_for(triton: InferenceServerClient, journal: Journal) -> None:
    result = triton.infer("tiny", tensors())

    assert result.as_numpy("value").tolist() == [16.0, 9.5]
    assert [one.decode() for one in result.as_numpy("id").tolist()] == [one.id for one in journal.predictions()]


@pytest.mark.parametrize(
    ("model", "version", "changes", "reason"),
    [
        ("other", "", {}, "other v1 is not served here: this is tiny v1"),
        ("tiny", "v9", {}, "tiny v9 is not served here"),
        ("tiny", "", {"distance": np.array([3, 999], np.float32)}, "distance"),
        ("tiny", "", {"distance": np.array([3, np.nan], np.float32)}, "distance"),
        ("tiny", "", {"kind": np.array([b"car", b"boat"], np.object_)}, "unknown category"),
        ("tiny", "", {"colour": np.array([1, 2], np.int64)}, "unknown column"),
        ("tiny", "", {"distance": np.array([3], np.float32)}, "different lengths"),
        ("tiny", "", {"distance": np.ones((2, 2), np.float32)}, "its shape is"),
        ("tiny", "", {"starts_at": np.array([2**62, 0], np.int64)}, "no moment of the calendar"),
        ("tiny", "", {"kind": np.array([b"car", b"\xff"], np.object_)}, "no UTF-8"),
    ],
)
def test_says_what_is_wrong_as_the_protocol_does(
    triton: InferenceServerClient, journal: Journal, model: str, version: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InferenceServerException, match=reason):
        triton.infer(model, tensors(**changes), model_version=version)

    assert journal.counts() == Counts(0, 0)


def plain(**changes: Any) -> dict[str, Any]:
    columns: dict[str, tuple[str, Any]] = {
        "starts_at": ("BYTES", ["2020-03-01T08:15:00"]),
        "distance": ("FP64", [3]),
        "weight": ("FP32", [None]),
        "kind": ("BYTES", ["car"]),
        "zone": ("INT32", [2]),
    }
    inputs = [
        {"name": name, "shape": [1, 1], "datatype": kind, "data": [data]} for name, (kind, data) in columns.items()
    ]
    return {"inputs": inputs, **changes}


def infer(client: Caller, content: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = client.post("/v2/models/tiny/infer", content=body, headers=headers)
    return answer.status_code, answer.json()


def test_takes_plain_json_with_nulls_nested_data_and_text_for_times(client: Caller) -> None:
    status, answer = infer(client, plain())

    assert status == 200
    assert answer["outputs"][0] == {"name": "value", "datatype": "FP32", "shape": [1], "data": [16.0]}


@pytest.mark.parametrize(
    ("content", "headers", "status", "reason"),
    [
        (b"{", {}, 400, "not JSON"),
        ({}, {}, 422, "inputs"),
        ({"inputs": []}, {}, 422, "inputs"),
        (plain(outputs=[{"name": "odds"}]), {}, 422, "no output 'odds'"),
        (plain(inputs=plain()["inputs"] * 2), {}, 422, "there twice"),
        (plain(inputs=[{"name": "a", "shape": [-1], "datatype": "FP32", "data": []}]), {}, 422, "shape"),
        (plain(inputs=[{"name": "a", "shape": [2], "datatype": "FP32", "data": [1]}]), {}, 422, "says 2 values"),
        (plain(inputs=[{"name": "a", "shape": [1], "datatype": "FP31", "data": [1]}]), {}, 422, "no datatype 'FP31'"),
        (plain(inputs=[{"name": "a", "shape": [10_001], "datatype": "FP32", "data": [1]}]), {}, 413, "at most 10000"),
        (plain(), {"Inference-Header-Content-Length": "99999"}, 422, "no length within"),
        (plain(), {"Inference-Header-Content-Length": "-1"}, 422, "no length within"),
        (
            plain(inputs=[{"name": "a", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]),
            {},
            422,
            "binary_data_size is 4, of which 0 bytes are there",
        ),
    ],
)
def test_refuses_what_is_no_request(
    client: Caller, journal: Journal, content: Any, headers: dict[str, str], status: int, reason: str
) -> None:
    found, answer = infer(client, content, **headers)

    assert found == status
    assert reason in answer["error"]
    assert journal.counts() == Counts(0, 0)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2/models/tiny/infer", 405),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/tiny/versions/v2/ready", 404),
        ("GET", "/v2/models/tiny/stats", 418),
        ("GET", "/v2/elsewhere", 418),
    ],
)
def test_knows_its_paths(client: Caller, method: str, path: str, status: int) -> None:
    assert client.request(method, path).status_code == status


def test_every_refusal_is_said_as_the_protocol_says_it(client: Caller, edge: Edge, keys: KeyFile) -> None:
    answers = [
        client.get("/v2/models/other"),
        client.get("/v2/models/tiny/infer"),
        client.post("/v2/models/tiny/infer", content=b"x" * (MAXIMUM_BODY_BYTES + 1)),
        client.post("/v2/models/tiny/infer", content=b"N.", headers={"content-type": "application/x-pickle"}),
        client.post("/v2/models/tiny/infer", json=plain(), headers={DEADLINE.decode(): "0"}),
    ]
    edge._most = 0
    answers.append(client.post("/v2/models/tiny/infer", content=b"{}"))
    edge.access = Access(keys)
    answers.append(client.post("/v2/models/tiny/infer", content=b"{}"))

    assert [one.status_code for one in answers] == [404, 405, 413, 415, 504, 429, 401]
    assert all(list(one.json()) == ["error"] and isinstance(one.json()["error"], str) for one in answers)


values = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.floats(allow_nan=False))


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    name=st.sampled_from(["starts_at", "distance", "kind", "zone", "x"]),
    shape=st.lists(st.integers(-1, 3), max_size=3),
    datatype=st.sampled_from(["FP32", "INT64", "BYTES", "BOOL", ""]),
    size=st.none() | st.integers(-1, 40) | st.text(max_size=2),
    data=st.none()
    | st.lists(st.none() | st.integers() | st.text(max_size=3) | st.lists(st.floats(allow_nan=False)), max_size=3),
    binary=st.binary(max_size=40),
)
def test_nothing_breaks_it(
    client: Caller, name: str, shape: list[int], datatype: str, size: Any, data: Any, binary: bytes
) -> None:
    tensor = {"name": name, "shape": shape, "datatype": datatype, "data": data}
    tensor |= {} if size is None else {"parameters": {"binary_data_size": size}}
    inputs = [one for one in plain()["inputs"] if one["name"] != name]
    head = json.dumps({"inputs": [*inputs, tensor]}).encode()

    status, _ = infer(client, head + binary, **{"Inference-Header-Content-Length": str(len(head))})

    assert status in {200, 400, 413, 422}
