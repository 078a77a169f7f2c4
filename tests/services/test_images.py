"""A served model of images: every form of a request, what is recorded of it, the page, and the documents."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from openapi_core import OpenAPI
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import text_to_be_present_in_element
from selenium.webdriver.support.wait import WebDriverWait
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from infra.client import Client
from infra.journal.journal import Counts, Journal
from infra.settings import Settings
from models.bundle import Bundle
from models.contract.rows import RowDecoder
from models.errors import ContractError
from services.app import Edge
from services.champion import load
from services.endpoints import Endpoints
from services.following import Following
from services.page import page
from services.predictions import Predictions
from tests.images import CONTRACT, IMAGE, image_bundle
from tests.infra.lake.lakefs.server import running
from tests.services.conftest import Caller, teapot
from tests.services.test_page import Read, needs_chromium
from tests.serving import Service, serving

LINES = {"content-type": "application/x-ndjson"}
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    return image_bundle(make_bundle())


@pytest.fixture
def edge(journal: Journal, bundle: Bundle) -> Edge:
    """A service that answers the sum of an image and a weight."""
    following = Following(load(bundle.files()), None, "main", 1.0)
    edge = Edge(teapot)
    edge.find = Endpoints(following, journal, Predictions(journal)).find
    return edge


@pytest.fixture
def triton(edge: Edge) -> Iterator[InferenceServerClient]:
    with running(edge) as address:
        client = InferenceServerClient(address.removeprefix("http://"))
        yield client
        client.close()


def row(**changes: Any) -> dict[str, Any]:
    return {"image": IMAGE, "weight": 2.5, **changes}


def test_answers_and_records_rows_of_json(client: Caller, journal: Journal) -> None:
    answer = client.post("/v1/predict", json={"rows": [row(id="a"), row(image=[[0] * 3] * 2, weight=None)]})

    assert [one["value"] for one in answer.json()["predictions"]] == [33.5, 0.0]
    (first, second) = journal.predictions()
    assert first.row == {"image": [1, 2, 3, 4, 5, 16], "weight": 2.5}
    assert second.row == {"image": [0] * 6, "weight": None}
    assert journal.find("a").value == 33.5


def test_a_name_stands_for_its_image(client: Caller, journal: Journal) -> None:
    assert client.post("/v1/predict", json={"rows": [row(id="a")]}).status_code == 200
    assert client.post("/v1/predict", json={"rows": [row(id="a")]}).status_code == 200
    other = client.post("/v1/predict", json={"rows": [row(id="a", image=[[1, 2, 3], [4, 5, 15]])]})

    assert other.status_code == 409
    assert journal.counts() == Counts(1, 0)


@pytest.mark.parametrize(
    ("image", "rule"),
    [
        ([[1, 2, 3]], "wrong shape: expected an image of 2 x 3 whole numbers from 0 to 16 (dots), in lists of lists, "),
        ([[1, 2, 3], [4, 5, 17]], "out of range: "),
        (None, "null: "),
    ],
)
def test_names_row_field_and_rule_of_a_wrong_image(client: Caller, journal: Journal, image: Any, rule: str) -> None:
    answer = client.post("/v1/predict", json={"rows": [row(), row(image=image)]})

    (violation,) = answer.json()["error"]["violations"]
    assert (answer.status_code, violation["row"], violation["field"]) == (422, 1, "image")
    assert violation["rule"].startswith(rule)
    assert journal.counts() == Counts(0, 0)


def test_answers_lines_and_says_which_is_wrong(client: Caller) -> None:
    lines = [row(), row(image=[[1]]), row(weight=0)]

    answer = client.post("/v1/predict", content="\n".join(map(json.dumps, lines)).encode(), headers=LINES)

    first, wrong, last = map(json.loads, answer.text.splitlines())
    assert (first["value"], last["value"]) == (33.5, 31.0)
    assert wrong["error"]["violations"][0] | {"rule": ""} == {"field": "image", "rule": "", "row": 1}


def test_answers_a_stream_of_arrow(client: Caller, journal: Journal) -> None:
    table = pa.table({"image": pa.array([np.ravel(IMAGE)] * 2, pa.list_(pa.int32())), "weight": [1.0, None]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)

    answer = client.post("/v1/predict", content=sink.getvalue().to_pybytes(), headers=ARROW)

    assert pa.ipc.open_stream(answer.content).read_all()["value"].to_pylist() == [32.0, 31.0]
    assert [one.row["image"] for one in journal.predictions()] == [[1, 2, 3, 4, 5, 16]] * 2


@pytest.mark.parametrize(("kind", "of"), [("UINT8", np.uint8), ("FP32", np.float32), ("INT64", np.int64)])
@pytest.mark.parametrize("binary", [True, False])
def test_speaks_the_open_inference_protocol(
    triton: InferenceServerClient, kind: str, of: type[np.generic], binary: bool
) -> None:
    image, weight = InferInput("image", [2, 2, 3], kind), InferInput("weight", [2], "FP32")
    image.set_data_from_numpy(np.array([IMAGE, np.zeros((2, 3))], of), binary_data=binary)
    weight.set_data_from_numpy(np.array([1.0, np.nan], np.float32))

    found = triton.infer("tiny", [image, weight])

    assert found.as_numpy("value").tolist() == [32.0, 0.0]
    (asked, *_) = triton.get_model_metadata("tiny")["inputs"]
    assert asked == {"name": "image", "datatype": "UINT8", "shape": [-1, 2, 3]}


@pytest.mark.parametrize(
    ("shape", "values", "why"),
    [
        ([1, 6], np.zeros((1, 6)), r"its shape is \[N, 2, 3\], not \[1, 6\]"),
        ([1, 3, 2], np.zeros((1, 3, 2)), r"its shape is \[N, 2, 3\], not \[1, 3, 2\]"),
        ([1], np.zeros(1), r"its shape is \[N, 2, 3\], not \[1\]"),
        ([1, 2, 3], np.full((1, 2, 3), 17), r"out of range: expected an image of 2 x 3 .*, got 17.0 at \[0\]\[0\]"),
        ([1, 2, 3], np.full((1, 2, 3), 0.5), "not whole: expected an image of 2 x 3"),
    ],
)
def test_refuses_tensors_of_other_shapes_and_values(
    triton: InferenceServerClient, shape: list[int], values: Any, why: str
) -> None:
    image, weight = InferInput("image", shape, "FP32"), InferInput("weight", [1], "FP32")
    image.set_data_from_numpy(values.astype(np.float32))
    weight.set_data_from_numpy(np.zeros(1, np.float32))

    with pytest.raises(InferenceServerException, match=why):
        triton.infer("tiny", [image, weight])


def test_tensors_in_json_may_be_flat_and_must_be_whole(client: Caller) -> None:
    def ask(data: Any) -> Any:
        image = {"name": "image", "shape": [1, 2, 3], "datatype": "UINT8", "data": data}
        weight = {"name": "weight", "shape": [1], "datatype": "FP32", "data": [0]}
        return client.post("/v2/models/tiny/infer", json={"inputs": [image, weight]})

    assert ask([1, 2, 3, 4, 5, 16]).json()["outputs"][0]["data"] == [31.0]
    assert ask([IMAGE]).json()["outputs"][0]["data"] == [31.0]
    short = ask([1, 2, 3, 4, 5])
    assert (short.status_code, "its shape says 6 values, there are 5" in short.text) == (422, True)


def test_the_documents_tell_the_shape(client: Caller) -> None:
    document = client.get("/docs.json").json()

    OpenAPI.from_dict(document)
    image = document["components"]["schemas"]["Row"]["properties"]["image"]
    assert (image["minItems"], image["maxItems"], image["items"]["minItems"]) == (2, 2, 3)
    assert image["description"] == "what was seen"
    example = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/v1/predict", json=example).status_code == 200
    infer = document["paths"]["/v2/models/tiny/infer"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/v2/models/tiny/infer", json=infer).status_code == 200
    image, _ = client.get("/v1/model").json()["inputs"]
    assert (image["type"], image["height"], image["width"], image["channels"]) == ("image", 2, 3, 1)


def test_the_page_has_a_field_for_json(bundle: Bundle) -> None:
    read = Read(page(bundle.card))

    image, _ = read.having("data-kind")
    assert (image["name"], image["data-kind"]) == ("image", "image")
    assert ("textarea", "image") in [(tag, attributes.get("name")) for tag, attributes in read.tags]
    assert "[[0, 0, 0], [0, 0, 0]]" in read.text
    assert "an image of 2 x 3 whole numbers from 0 to 16 (dots), in lists of lists, as JSON" in read.text


@needs_chromium
def test_a_person_pastes_an_image(edge: Edge) -> None:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options)
    try:
        with running(edge) as address:
            browser.get(address)
            field = browser.find_element(By.NAME, "image")

            def ask(text: str) -> None:
                field.clear()
                field.send_keys(text)
                browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()

            ask(json.dumps(IMAGE))
            WebDriverWait(browser, 20).until(lambda page: "56" in page.find_element(By.ID, "answer").text)
            fault = f"{field.get_attribute('id')}-error"
            for wrong, there in (("[[1, 2, 3], [4, 5", "wrong type"), ("[[1, 2, 3], [4, 5, 17]]", "got 17 at [1][2]")):
                ask(wrong)
                WebDriverWait(browser, 20).until(text_to_be_present_in_element((By.ID, fault), there))
    finally:
        browser.quit()


@pytest.fixture
def service(settings: Settings, bundle: Bundle) -> Iterator[Service]:
    with serving(settings, bundle) as service:
        yield service


def test_the_client_sends_tables_and_mappings(service: Service) -> None:
    flat = np.array([1, 2, 3, 4, 5, 16])
    with Client(service.url) as client:
        frame = pd.DataFrame({"image": pd.Series([flat, flat // 2], dtype=object), "weight": [1.0, None]})
        assert client.predict(frame).values.tolist() == [32.0, 14.0]
        assert client.predict([row(), row(weight=None)]).values.tolist() == [33.5, 31.0]
        assert client.model().contract.image == CONTRACT.image
        with pytest.raises(ContractError, match="row 1, field 'image': wrong shape"):
            client.predict(frame.assign(image=pd.Series([flat, flat[:5]], dtype=object)))
        skipped = client.predict([row(), row(image=[[1]])], skip_refused=True)
        assert (skipped.values.tolist(), [one.row for one in skipped.refused]) == ([33.5], [1])
    assert service.recorded == 5


def test_a_decoded_image_is_kept_as_an_array(bundle: Bundle) -> None:
    decoded = RowDecoder(bundle.card.contract).decode(json.dumps({"rows": [row()]}).encode())

    assert decoded.one_by_one is None
    assert decoded.columns is not None
    assert decoded.columns["image"].nbytes == 6
