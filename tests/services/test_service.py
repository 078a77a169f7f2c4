"""The service as it is deployed: a built Bento, served by `bentoml serve` in its own process, over a real lake."""

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from bentoml._internal.resource import system_resources

from infra import bentos
from infra.assembly import assemble
from infra.errors import Misconfigured, Unavailable
from infra.serving_process import Certificate, ServiceProcess
from infra.settings import Settings
from models.errors import BundleError
from tests.conftest import BundleMaker, with_int8
from tests.services.conftest import promote_bundle

WITHIN_S = 30.0


@pytest.fixture
def service(
    settings: Settings, promote: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServiceProcess]:
    """The Bento of `v1`, served with an empty home directory and temporary folder."""
    for name in ("HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    promote("v1", 2.0)
    with ServiceProcess.start(settings, bentos.build(settings, "tiny").tag) as service:
        yield service
    assert [path for name in ("HOME", "TMPDIR") for path in (tmp_path / name).rglob("*")] == []


def test_builds_serves_follows_and_stops(
    settings: Settings, promote: Callable[..., None], service: ServiceProcess, row: dict[str, Any]
) -> None:
    journal = assemble(settings).journal("tiny", "main")

    with httpx.Client(base_url=service.url, timeout=WITHIN_S) as client:
        answers_predictions_and_feedback(client, row)
        answers_bento_clients(service.url, row)
        refuses_pickles(client)
        refuses_bad_input(client, service.url, row, journal.counts)
        swaps_without_a_failed_request(client, row, lambda: promote("v2", 3.0))
        counts_its_requests(client)
        built = bentos.build(settings, "tiny")
        assert (built.fresh, bentos.build(settings, "tiny").fresh) == (True, False)
        assert built.tag.startswith("okruh_tiny:v2-")

    ends_in_order(service, row)
    assert assemble(settings).journal("tiny", "main").find("last").value == 19.0


def ends_in_order(service: ServiceProcess, row: dict[str, Any]) -> None:
    """Tell it to end while a request comes in: that is answered, and no other one is let in."""
    address, body = (
        ("127.0.0.1", httpx.URL(service.url).port or 0),
        json.dumps({"rows": [{**row, "id": "last"}]}).encode(),
    )
    with socket.create_connection(address, WITHIN_S) as under_way:
        under_way.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body[:10])
        becomes(200, lambda: httpx.get(f"{service.url}/livez"))  # and so the request's head has been read
        os.kill(service.pid, signal.SIGTERM)
        deadline = datetime.now(UTC).timestamp() + WITHIN_S
        while not refuses(address):
            assert datetime.now(UTC).timestamp() < deadline
        under_way.sendall(body[10:])
        answer = b"".join(iter(lambda: under_way.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"value":19.0' in answer
    assert service.wait() == 0


def refuses(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, WITHIN_S).close()
    except ConnectionError as error:  # reset, where it comes at that very moment
        return isinstance(error, ConnectionRefusedError)
    return False


def answers_predictions_and_feedback(client: httpx.Client, row: dict[str, Any]) -> None:
    predicted = client.post("/v1/predict", json={"rows": [{**row, "id": "a"}]})
    assert predicted.json() == {"model": "tiny", "version": "v1", "predictions": [{"id": "a", "value": 16.0}]}
    assert client.post("/v1/feedback", json={"labels": [{"id": "a", "value": 12}]}).json() == {"kept": 1}
    assert client.post("/v1/feedback", json={"labels": [{"id": "x", "value": 12}]}).status_code == 404
    assert client.get("/v1/model").json()["following"] is True
    assert client.get("/readyz").json()["lake"] is None
    assert client.get("/docs.json").json()["info"] == {"title": "tiny", "version": "v1"}
    assert client.get("/livez").status_code == client.get("/schema.json").status_code == 200
    assert client.get("/").text.startswith("<!doctype html>")


def answers_bento_clients(url: str, row: dict[str, Any]) -> None:
    import bentoml
    from bentoml.exceptions import BentoMLException

    with bentoml.SyncHTTPClient(url) as client:
        answer = client.predict(rows=[{**row, "id": "native"}])
        assert answer["predictions"] == [{"id": "native", "value": 16.0}]
        with pytest.raises(BentoMLException, match="unknown category") as refused:
            client.predict(rows=[{**row, "kind": "boat"}])
        assert refused.value.error_code == 422


def refuses_pickles(client: httpx.Client) -> None:
    for path in ("/v1/predict", "/predict", "/no/such/path"):
        answer = client.post(path, content=b"N.", headers={"content-type": "application/vnd.bentoml+pickle"})
        assert answer.status_code == 415


def refuses_bad_input(client: httpx.Client, url: str, row: dict[str, Any], counts: Callable[[], Any]) -> None:
    before = counts()
    wrong: list[tuple[bytes, int]] = [
        (json.dumps({"rows": [{**row, "colour": 1}]}).encode(), 422),
        (json.dumps({"rows": [{**row, "distance": "far"}]}).encode(), 422),
        (json.dumps({"rows": [{**row, "distance": 101}]}).encode(), 422),
        (json.dumps({"rows": [{**row, "kind": "boat"}]}).encode(), 422),
        (json.dumps({"rows": [{**row, "kind": None}]}).encode(), 422),
        (json.dumps({"rows": [{}]}).encode(), 422),
        (b'{"rows":[]}', 422),
        (json.dumps({"rows": [row] * 10_001}).encode(), 413),
        (b" " * 20_000_000, 413),
        (b'{"rows":', 400),
    ]
    for content, status in wrong:
        for path in ("/v1/predict", "/predict"):
            answer = client.post(path, content=content, headers={"content-type": "application/json"})
            assert (path, content[:60], answer.status_code) == (path, content[:60], status)
    assert counts() == before
    assert httpx.get(f"{url}/livez").status_code == 200


def swaps_without_a_failed_request(client: httpx.Client, row: dict[str, Any], promote: Callable[[], None]) -> None:
    """Keep asking while the rollout changes, until the new champion has answered a while."""
    value_of = {"v1": 16.0, "v2": 19.0}
    promotion = threading.Thread(target=promote)
    deadline = datetime.now(UTC).timestamp() + WITHIN_S
    versions: list[str] = []
    while versions[-100:] != ["v2"] * 100:
        assert datetime.now(UTC).timestamp() < deadline
        answer = client.post("/v1/predict", json={"rows": [row]})
        assert answer.status_code == 200
        version = answer.json()["version"]
        assert answer.json()["predictions"][0]["value"] == value_of[version]
        versions.append(version)
        if len(versions) == 100:
            promotion.start()
    promotion.join()
    assert versions == sorted(versions)
    assert set(versions) == {"v1", "v2"}


def counts_its_requests(client: httpx.Client) -> None:
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line.startswith("okruh_"))
    assert float(lines['okruh_requests_total{path="/v1/predict",status="422"}']) == 7
    assert float(lines['okruh_champion_workers{model="tiny",version="v2"}']) == 1
    assert float(lines['okruh_champion_workers{model="tiny",version="v1"}']) == 0
    assert float(lines["okruh_champion_swaps_total"]) == 1
    assert float(lines["okruh_lake_reachable"]) == 1


def test_a_bento_without_a_lake_serves_what_it_contains_to_whoever_has_a_key(
    settings: Settings, promote: Callable[..., None], row: dict[str, Any], certificate: Certificate
) -> None:
    promote("v1", 2.0)
    tag = bentos.build(settings, "tiny").tag
    (settings.home / "lake").rename(settings.home / "lake-elsewhere")
    trusted = ssl.create_default_context(cafile=certificate.certfile)

    with (
        ServiceProcess.start(settings, tag, host="0.0.0.0", certificate=certificate) as service,
        httpx.Client(base_url=service.url, verify=trusted, timeout=WITHIN_S) as client,
    ):
        assert service.url.startswith("https://127.0.0.1:")
        key = lets_in_who_has_a_key(settings, client, row)
        model = client.get("/v1/model", headers=bearing(key)).json()
        assert (model["version"], model["following"]) == ("v1", False)


def lets_in_who_has_a_key(settings: Settings, client: httpx.Client, row: dict[str, Any]) -> str:
    """Ask without a key, with a first one, and with a second one while the first is revoked; give the second."""
    file, rows = assemble(settings).keys(), {"rows": [row]}
    refused = client.post("/v1/predict", json=rows)
    assert (refused.status_code, "okruh keys add" in refused.text) == (401, True)
    assert "okruh keys add" in client.get("/readyz").json()["keys"]
    keys = [file.add("app", ["predict"])]
    becomes(200, lambda: client.post("/v1/predict", json=rows, headers=bearing(keys[0])))
    assert client.get("/readyz").json()["keys"] is None
    keys.append(file.add("app", ["predict"]))
    becomes(200, lambda: client.post("/v1/predict", json=rows, headers=bearing(keys[1])))
    file.revoke("app", older=True)
    becomes(401, lambda: client.post("/v1/predict", json=rows, headers=bearing(keys[0])))
    paths = {"/v1/predict": 200, "/predict": 200, "/v1/feedback": 403, "/other": 403}
    assert {path: client.post(path, json=rows, headers=bearing(keys[1])).status_code for path in paths} == paths
    assert client.get("/metrics", headers=bearing(keys[1])).status_code == 403
    assert client.get("/schema.json").status_code == 401
    return keys[1]


def bearing(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def becomes(status: int, ask: Callable[[], httpx.Response]) -> None:
    """Ask until the answer has a status."""
    deadline = datetime.now(UTC).timestamp() + WITHIN_S
    while ask().status_code != status:
        assert datetime.now(UTC).timestamp() < deadline


def test_imports_nothing_of_training_or_orchestration(settings: Settings, promote: Callable[..., None]) -> None:
    promote("v1", 2.0)
    unwanted = "torch prefect wandb pandas pandera models.catalog models.learning"
    code = f"import sys, services.prediction; print(*(name for name in {unwanted.split()!r} if name in sys.modules))"

    imported = subprocess.run(
        [sys.executable, "-c", code],
        cwd=bentos.SOURCES,
        env=bentos.bentoml_environment(settings),
        capture_output=True,
        text=True,
        check=True,
    )

    assert imported.stdout.split() == []


@pytest.mark.parametrize(("workers", "asked"), [(1, None), (64, None), (64, 3)])
def test_threads_are_a_workers_part_of_the_cores_that_it_may_use(
    settings: Settings, promote: Callable[..., None], tmp_path: Path, workers: int, asked: int | None
) -> None:
    promote("v1", 2.0)
    configured = tmp_path / "bentoml.yaml"
    configured.write_text(f"services: {{prediction: {{workers: {workers}}}}}")
    environment = bentos.bentoml_environment(settings.model_copy(update={"serve_threads": asked}))
    code = """if True:
        import os, services.prediction as served
        served.Prediction.inject_config()
        print(served.runtime().threads)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(served.runtime().threads)"""

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=bentos.SOURCES,
        env=environment | {"BENTOML_CONFIG": str(configured)},
        capture_output=True,
        text=True,
        check=True,
    )

    cores = min(len(os.sched_getaffinity(0)), int(system_resources()["cpu"]))
    assert [int(threads) for threads in done.stdout.split()] == [asked or max(1, cores // workers), asked or 1]


@pytest.mark.parametrize("bentofile", ["bentofile.yaml", "bentofile.gpu.yaml"])
def test_plain_bentoml_build_builds_the_champion(
    settings: Settings, promote: Callable[..., None], bentofile: str
) -> None:
    promote("v1", 2.0)

    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", str(bentos.SOURCES), "--bentofile", bentofile, "--output", "tag"],
        cwd=bentos.SOURCES,
        env=bentos.bentoml_environment(settings),
        capture_output=True,
        text=True,
        check=True,
    )

    name, version = done.stdout.strip().removeprefix("__tag__:").split(":")
    built = settings.bentos / "bentos" / name / version
    assert name == "prediction"
    assert "okruh_tiny:v1" in (built / "bento.yaml").read_text()
    assert recipe_of(built) == ("gpu" if "gpu" in bentofile else "cpu")
    assert not (built / "src" / "models" / "learning").exists()


def test_refuses_bentoml_tracing_beside_its_own(
    settings: Settings, promote: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    promote("v1", 2.0)
    tag = bentos.build(settings, "tiny").tag
    wanted = {"exporter_type": "otlp", "otlp.protocol": "http", "otlp.endpoint": "http://127.0.0.1:1"}
    options = " ".join(f"services.prediction.tracing.{name}={value}" for name, value in wanted.items())
    monkeypatch.setenv("BENTOML_CONFIG_OPTIONS", options)

    with pytest.raises(Misconfigured, match=r"cannot start: .*set OKRUH_TRACES_ENDPOINT"):
        ServiceProcess.start(settings, tag)


def test_a_second_service_of_the_same_home_leaves_the_first_its_counts(
    settings: Settings, promote: Callable[..., None]
) -> None:
    promote("v1", 2.0)
    tag = bentos.build(settings, "tiny").tag
    asked = 'okruh_requests_total{path="/v1/model",status="200"} 1.0'

    with ServiceProcess.start(settings, tag) as first:
        httpx.get(f"{first.url}/v1/model")
        with ServiceProcess.start(settings, tag) as second:
            assert asked in httpx.get(f"{first.url}/metrics").text
            assert asked not in httpx.get(f"{second.url}/metrics").text


@pytest.mark.parametrize(("access", "status"), [("auto", 403), ("open", 200)])
def test_where_everybody_is_let_in_a_page_may_know_a_loopback_service_by_any_name(
    settings: Settings, promote: Callable[..., None], row: dict[str, Any], access: Literal["auto", "open"], status: int
) -> None:
    promote("v1", 2.0)
    tag = bentos.build(settings, "tiny").tag
    page = {"host": "okruh.example.com", "origin": "http://okruh.example.com", "sec-fetch-site": "same-origin"}

    with ServiceProcess.start(settings.model_copy(update={"access": access}), tag) as service:
        answer = httpx.post(f"{service.url}/v1/predict", json={"rows": [row]}, headers=page)

    assert answer.status_code == status


def recipe_of(bento: Path) -> str:
    """Say which image a Bento's recipe makes, having looked at all that makes the difference."""
    recipe = (bento / "env" / "docker" / "Dockerfile").read_text().splitlines()
    pinned = (bento / "env" / "python" / "requirements.txt").read_text().splitlines()
    (base,) = (line.split()[1] for line in recipe if line.startswith("FROM "))
    (runtime,) = (line for line in pinned if line.startswith("onnxruntime"))
    wanted = [line for line in recipe if line == "ARG OKRUH_PROVIDER=cuda"]
    installs_uv = [
        line for line in recipe if line.startswith("RUN") and line.endswith("pip install --break-system-packages uv")
    ]
    if base.startswith("python:"):
        assert (runtime.split("==")[0], wanted, installs_uv) == ("onnxruntime", [], [])
        return "cpu"
    assert base.startswith("nvidia/cuda:13.0.")
    assert "-cudnn-runtime-" in base
    assert (runtime.split("==")[0], len(wanted), len(installs_uv)) == ("onnxruntime-gpu", 1, 1)
    return "gpu"


def test_a_bento_for_a_gpu_serves_on_the_cpu_where_that_is_allowed_and_says_so(
    settings: Settings, promote: Callable[..., None], row: dict[str, Any]
) -> None:
    promote("v1", 2.0)
    tag = bentos.build(settings, "tiny", gpu=True).tag
    wanted = settings.model_copy(update={"provider": "cuda"})

    with pytest.raises(Misconfigured, match=r"OKRUH_PROVIDER=cuda: .* OKRUH_PROVIDER_FALLBACK=true"):
        ServiceProcess.start(wanted, tag)
    with ServiceProcess.start(wanted.model_copy(update={"provider_fallback": True}), tag) as service:
        answer = httpx.post(f"{service.url}/v1/predict", json={"rows": [row]}).json()
        runs_on = httpx.get(f"{service.url}/v1/model").json()["runs_on"]
        detail = httpx.get(f"{service.url}/readyz").json()["provider"]
        metrics = httpx.get(f"{service.url}/metrics").text.splitlines()
        log = service.log.read_text()

    assert answer["predictions"][0]["value"] == 16.0
    assert (runs_on["provider"], runs_on["missed"]) == ("cpu", detail)
    assert "install onnxruntime-gpu" in detail
    assert "okruh_provider_missed 1.0" in metrics
    assert f"v1 runs on cpu: {detail}" in log


def test_a_bento_contains_and_serves_the_variant_that_is_set_and_no_other(
    settings: Settings, make_bundle: BundleMaker, row: dict[str, Any]
) -> None:
    wanted = settings.model_copy(update={"variant": "int8"})
    promote_bundle(settings, with_int8(make_bundle("v1"), make_bundle(factor=5.0).onnx))
    tag, own = bentos.build(wanted, "tiny").tag, bentos.build(settings, "tiny").tag
    stored = {folder.name: {file.name for file in folder.glob("*.onnx")} for folder in stored_bundles(settings)}

    with ServiceProcess.start(wanted, tag) as service:
        answer = httpx.post(f"{service.url}/v1/predict", json={"rows": [row]}).json()
        model = httpx.get(f"{service.url}/v1/model").json()
    with pytest.raises(
        Misconfigured, match=r"OKRUH_VARIANT=float32 wants model\.onnx, and this Bento contains model\.int8"
    ):
        ServiceProcess.start(settings, tag)
    promote_bundle(settings, make_bundle("v2"))
    with pytest.raises(BundleError, match="bundle v2 has no int8 variant: tiny did not declare it in `variants`"):
        bentos.build(wanted, "tiny")

    assert tag == f"{own}-int8"
    assert stored == {"v1": {"model.onnx"}, "v1-int8": {"model.int8.onnx"}}
    assert (model["variant"], model["version"]) == ("int8", "v1")
    assert model["digest"] == hashlib.sha256(make_bundle(factor=5.0).onnx).hexdigest()
    assert answer["predictions"][0]["value"] == 5.0 * row["distance"] + (16.0 - 2.0 * row["distance"])


def stored_bundles(settings: Settings) -> list[Path]:
    """List the bundles in BentoML's model store."""
    return [folder for folder in (settings.bentos / "models" / "okruh_tiny").iterdir() if folder.is_dir()]


def test_a_spoilt_store_is_one_clear_line(settings: Settings, promote: Callable[..., None]) -> None:
    promote("v1", 2.0)
    tag = bentos.build(settings, "tiny").tag
    (settings.bentos / "models" / "okruh_tiny" / "v1" / "model.onnx").write_bytes(b"spoilt")

    with pytest.raises(Unavailable, match=r"cannot start: .*model\.onnx has digest"):
        ServiceProcess.start(settings, tag)
