"""The service as it is deployed: a built Bento, served by `bentoml serve` in its own process, over a real lake."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra import bentos
from infra.assembly import assemble
from infra.errors import Unavailable
from infra.serving_process import ServiceProcess
from infra.settings import Settings
from models.bundle import Bundle
from tests.services.conftest import promote_bundle

WITHIN_S = 30.0


@pytest.fixture
def promote(settings: Settings, make_bundle: Callable[..., Bundle]) -> Callable[..., None]:
    """Register a bundle and make it champion."""

    return lambda version, factor: promote_bundle(settings, make_bundle(version, factor))


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
        refuses_bad_input(client, service.url, row, journal.counts)
        swaps_without_a_failed_request(client, row, lambda: promote("v2", 3.0))
        counts_its_requests(client)
        built = bentos.build(settings, "tiny")
        assert (built.fresh, bentos.build(settings, "tiny").fresh) == (True, False)
        assert built.tag.startswith("okruh_tiny:v2-")

    assert service.stop() == 0
    with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", httpx.URL(service.url).port or 0)):
        pass


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


def test_a_bento_without_a_lake_serves_what_it_contains(
    settings: Settings, promote: Callable[..., None], row: dict[str, Any]
) -> None:
    promote("v1", 2.0)
    tag = bentos.build(settings, "tiny").tag
    (settings.home / "lake").rename(settings.home / "lake-elsewhere")

    with ServiceProcess.start(settings, tag) as service:
        answer = httpx.post(f"{service.url}/v1/predict", json={"rows": [row]})
        model = httpx.get(f"{service.url}/v1/model").json()

    assert answer.json()["predictions"][0]["value"] == 16.0
    assert (model["version"], model["following"]) == ("v1", False)


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


def test_plain_bentoml_build_builds_the_champion(settings: Settings, promote: Callable[..., None]) -> None:
    promote("v1", 2.0)

    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", str(bentos.SOURCES), "--output", "tag"],
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
    assert "onnxruntime==" in (built / "env" / "python" / "requirements.txt").read_text()
    assert not (built / "src" / "models" / "learning").exists()


def test_a_spoilt_store_is_one_clear_line(settings: Settings, promote: Callable[..., None]) -> None:
    promote("v1", 2.0)
    tag = bentos.build(settings, "tiny").tag
    (settings.bentos / "models" / "okruh_tiny" / "v1" / "model.onnx").write_bytes(b"spoilt")

    with pytest.raises(Unavailable, match=r"cannot start: .*model\.onnx has digest"):
        ServiceProcess.start(settings, tag)
