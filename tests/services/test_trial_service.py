"""A challenger tried in a deployed service of two workers: a key is one version's, and a promotion loses no answer."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx

from infra import bentos, registry
from infra.assembly import assemble
from infra.lake.transaction import transaction
from infra.serving_process import ServiceProcess
from infra.settings import Settings
from models.bundle import Bundle, bundle_folder
from models.deciding import rollout
from models.deciding.rollout import Rollout, challenge, is_drawn

WITHIN_S = 30.0
VALUE = {"v1": 16.0, "v2": 19.0}
KEYS = [f"customer-{number}" for number in range(15)]
READY = 'okruh_challenger_workers{model="tiny",version="v2"}'
SHADOWED = 'okruh_shadow_rows_total{outcome="ok",version="v2"}'
CHAMPIONS = 'okruh_champion_workers{model="tiny",version="v2"}'


def test_workers_agree_on_keys_shadow_and_promotion(
    settings: Settings, promote: Callable[..., None], make_bundle: Callable[..., Bundle], row: dict[str, Any]
) -> None:
    promote("v1", 2.0)
    register(settings, make_bundle("v2", 3.0))
    settings = settings.model_copy(update={"workers": 2, "journal": "relaxed"})
    with ServiceProcess.start(settings, bentos.build(settings, "tiny").tag) as service:
        a_key_is_one_versions(settings, service.url, row)
        a_shadow_answers_as_well(settings, service.url, row)
        told = a_promotion_loses_nothing(settings, service.url, row)
        assert service.stop() == 0
    journal = assemble(settings).journal("tiny", "main")
    recorded = {one.id: one.version for one in journal.predictions() if one.id.startswith("load-")}
    assert recorded == told
    shadows = [row for batch in journal.shadows.batches(lambda _: False) for row in batch.to_pylist()]
    before = [one for one in shadows if one["id"] not in told]
    assert [(one["served"], one["predicted"]) for one in before] == [(16.0, 19.0)] * len(KEYS)
    assert all(told[one["id"]] == "v1" for one in shadows if one["id"] in told)


def a_key_is_one_versions(settings: Settings, url: str, row: dict[str, Any]) -> None:
    terms = challenge("canary", "v2", datetime.now(UTC), weight=0.5)
    change(settings, Rollout(champion="v1", since=terms.since, challenger=terms))
    until(lambda: counted(url).get(READY) == 2)

    answers = {key: {ask(url, row, {"x-okruh-key": key})[0] for _ in range(4)} for key in KEYS}
    by_bentoml = {
        key: httpx.post(f"{url}/predict", json={"rows": [row]}, headers={"x-okruh-key": key}).json()["version"]
        for key in KEYS
    }

    assert answers == {key: {"v2" if is_drawn(terms, key.encode(), terms.since) else "v1"} for key in KEYS}
    assert answers == {key: {version} for key, version in by_bentoml.items()}


def a_shadow_answers_as_well(settings: Settings, url: str, row: dict[str, Any]) -> None:
    terms = challenge("shadow", "v2", datetime.now(UTC))
    change(settings, Rollout(champion="v1", since=terms.since, challenger=terms))
    until(lambda: all(httpx.get(f"{url}/readyz").json()["challenger"]["mode"] == "shadow" for _ in range(10)))

    assert {ask(url, row, {})[0] for _ in KEYS} == {"v1"}

    until(lambda: counted(url).get(SHADOWED) == len(KEYS))


def a_promotion_loses_nothing(settings: Settings, url: str, row: dict[str, Any]) -> dict[str, str]:
    """Give who has answered each id of the load."""
    with ThreadPoolExecutor(8) as pool:
        asked = {f"load-{number}": pool.submit(ask, url, {**row, "id": f"load-{number}"}, {}) for number in range(150)}
        change(settings, Rollout(champion="v2", since=datetime.now(UTC), previous="v1"))
        answers = {name: answer.result() for name, answer in asked.items()}
    until(lambda: counted(url).get(CHAMPIONS) == 2)
    assert all(value == VALUE[version] for version, value in answers.values())
    assert {ask(url, row, {})[0] for _ in range(10)} == {"v2"}
    return {name: version for name, (version, _) in answers.items()}


def register(settings: Settings, bundle: Bundle) -> None:
    with transaction(assemble(settings).lake("tiny"), "main", "register", {}) as work:
        for name, content in bundle.files().items():
            work.put(f"{bundle_folder(bundle.card.version)}/{name}", content)


def change(settings: Settings, wanted: Rollout) -> None:
    lake = assemble(settings).lake("tiny")
    present = registry.read_rollout(lake, "main")
    assert present is not None
    registry.change_rollout(lake, "main", present, wanted, "rollout", {"path": rollout.PATH})


def ask(url: str, row: dict[str, Any], headers: dict[str, str]) -> tuple[str, float]:
    """Ask by a connection of its own, so that either worker may answer."""
    answer = httpx.post(f"{url}/v1/predict", json={"rows": [row]}, headers=headers, timeout=WITHIN_S)
    assert answer.status_code == 200
    return answer.json()["version"], answer.json()["predictions"][0]["value"]


def counted(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics").raise_for_status().text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
