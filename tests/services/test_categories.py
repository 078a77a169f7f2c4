"""A model whose target is a category: each way to ask gives the likeliest value and its probabilities."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from tritonclient.http import InferenceServerClient, InferRequestedOutput

from flows.predict import predict
from infra.client import Client, Label
from infra.comparison import compare
from infra.journal.index import Label as JournalLabel
from infra.journal.journal import Journal
from infra.journal.shadows import batch_of
from infra.lake.embedded.store import EmbeddedLake
from infra.settings import Settings
from models.bundle import Bundle
from models.contract.columns import Contract
from services.app import Edge
from services.champion import load
from services.endpoints import Endpoints
from services.following import Following
from services.openapi import document
from services.page import page
from services.predictions import Predictions
from tests.infra.journal.answers import AT, answers
from tests.infra.lake.lakefs.server import running
from tests.services.conftest import ROW, Caller, teapot
from tests.services.test_open_inference import tensors
from tests.serving import serving

VALUES = ["slow", "fair", "fast"]


def shares(x: float) -> npt.NDArray[np.float64]:
    """Give what `make_classifier`'s graph says."""
    powers = np.exp(np.array([0.1, 0.05, 0.0]) * x)
    found: npt.NDArray[np.float64] = powers / powers.sum()
    return found


@pytest.fixture
def endpoints(journal: Journal, make_classifier: Callable[..., Bundle]) -> Endpoints:
    following = Following(load(make_classifier().files()), None, "main", 1.0)
    return Endpoints(following, journal, Predictions(journal))


@pytest.fixture
def client(endpoints: Endpoints) -> Caller:
    edge = Edge(teapot)
    edge.find = endpoints.find
    return Caller(edge)


def test_answers_by_the_likeliest_value_and_all_probabilities_and_records_these(
    client: Caller, journal: Journal
) -> None:
    answer = client.post("/v1/predict", json={"rows": [{**ROW, "id": "a"}]})

    (found,) = answer.json()["predictions"]
    assert (found["id"], found["value"]) == ("a", "slow")
    assert found["probabilities"] == pytest.approx(shares(16), rel=1e-5)
    assert journal.find("a").value == pytest.approx(shares(16), rel=1e-5)
    assert client.get("/v1/model").json()["target"]["values"] == VALUES


def test_answers_lines_as_well(client: Caller) -> None:
    lines = "".join(json.dumps({**ROW, "id": name}) + "\n" for name in "ab")

    answer = client.post("/v1/predict", content=lines, headers={"content-type": "application/x-ndjson"})

    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [(one["id"], one["value"], one["version"]) for one in found] == [("a", "slow", "v1"), ("b", "slow", "v1")]
    assert found[0]["probabilities"] == pytest.approx(shares(16), rel=1e-5)


def test_keeps_labels_that_are_text_and_refuses_numbers(client: Caller, journal: Journal) -> None:
    client.post("/v1/predict", json={"rows": [{**ROW, "id": "a"}]})

    refused = client.post("/v1/feedback", json={"labels": [{"id": "a", "value": 1.5}]})
    kept = client.post("/v1/feedback", json={"labels": [{"id": "a", "value": "fair"}]})

    assert (refused.status_code, kept.status_code) == (422, 200)
    assert refused.json()["error"]["violations"] == [{"field": "value", "rule": "pace is text", "row": 0}]
    assert [(one.id, one.value) for one in journal.labels()] == [("a", "fair")]


def test_the_open_inference_protocol_has_both_outputs(client: Caller) -> None:
    edge = client.app
    with running(edge) as address:
        triton = InferenceServerClient(address.removeprefix("http://"))
        with closing(triton):
            described = triton.get_model_metadata("tiny")["outputs"]
            no_nan = np.array([0, 1.5], np.float32)
            wanted = [InferRequestedOutput("probabilities", binary_data=True), InferRequestedOutput("value")]
            answered = triton.infer("tiny", tensors(), outputs=wanted)
            as_json = triton.infer(
                "tiny",
                tensors(binary=False, weight=no_nan),
                outputs=[InferRequestedOutput("probabilities", binary_data=False)],
            )

    assert [(one["name"], one["datatype"], one["shape"]) for one in described] == [
        ("value", "BYTES", [-1]),
        ("probabilities", "FP32", [-1, 3]),
        ("id", "BYTES", [-1]),
    ]
    probabilities = answered.as_numpy("probabilities")
    assert probabilities.shape == (2, 3)
    assert probabilities[0] == pytest.approx(shares(16), rel=1e-5)
    assert answered.as_numpy("value").tolist() == [b"slow", b"slow"]
    assert as_json.as_numpy("probabilities") == pytest.approx(probabilities)


def test_the_document_and_the_page_are_those_of_a_category(make_classifier: Callable[..., Bundle]) -> None:
    champion = load(make_classifier().files())

    described = document(champion.card, champion.decoder, asks_for_keys=False)

    answer = described["paths"]["/v1/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/ClassifyAnswer"}
    feedback = described["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert feedback["labels"][0]["value"] == "slow"
    shown = page(champion.card).decode()
    assert "Predicts <strong>pace</strong>. Version" in shown
    assert '<th scope="row">Brier score</th><td>1.50</td>' in shown


@pytest.fixture
def service_url(settings: Settings, make_classifier: Callable[..., Bundle]) -> Iterator[str]:
    with serving(settings, make_classifier()) as service:
        yield service.url


def test_a_client_has_values_and_probabilities_and_tells_labels(service_url: str) -> None:
    with Client(service_url) as client:
        answered = client.predict([ROW, {**ROW, "distance": 0.0, "kind": "bike"}])
        nothing = client.predict([])
        told = client.feedback([Label(answered.ids[0], "fast")])

    assert answered.values.tolist() == ["slow", "slow"]
    assert answered.probabilities is not None
    assert answered.probabilities == pytest.approx(np.stack([shares(16), shares(0)]), rel=1e-5)
    assert nothing.table.schema == answered.table.schema
    assert told.kept == 1


def test_a_file_gets_a_column_for_each_probability(service_url: str, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "answers.csv"
    rows.write_text("starts_at,distance,weight,kind,zone\n2020-03-01T08:15:00,3,,car,2\n")

    predict("tiny", str(rows), service_url, str(out))
    predict("tiny", str(rows), service_url, str(out.with_suffix(".parquet")))

    header, line = out.read_text().splitlines()
    assert header == '"row","id","value","probability_slow","probability_fair","probability_fast","version"'
    assert [float(one) for one in line.split(",")[3:6]] == pytest.approx(shares(16), rel=1e-5)
    kept = pq.read_table(out.with_suffix(".parquet"))
    assert kept["probabilities"].to_pylist()[0] == pytest.approx(shares(16), rel=1e-5)


def test_what_a_shadow_answers_is_compared_by_the_brier_score(
    journal: Journal, classifying_contract: Contract, tmp_path: Path
) -> None:
    served = answers("a", "b", "c", contract=classifying_contract, value=shares(16))
    journal.append([served]).result()
    other = np.array([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [np.nan] * 3], np.float32)
    journal.shadows.append([batch_of("v2", [served], other, [()])])
    labels = [JournalLabel(id=name, value=value, known_at=AT) for name, value in (("a", "fair"), ("b", "none of them"))]
    journal.append_labels(labels).result()

    with closing(EmbeddedLake(tmp_path / "tiny")) as lake:
        found = compare(lake, lake.resolve("main"), journal, "v1", "v2", classifying_contract)

    apart = [np.abs(shares(16) - row).sum() / 2 for row in other[:2]]
    assert (found.unit, found.rows, found.failed, found.labels) == ("", 3, 1, 1)
    assert found.mean_difference == pytest.approx(np.mean(apart), rel=1e-4)
    assert found.challenger_error == 0
    assert found.champion_error == pytest.approx(np.square(shares(16) - [0, 1, 0]).sum() / 2, rel=1e-4)
