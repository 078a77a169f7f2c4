"""The pool `gpu`: what is trained there asks for a device, of Kubernetes as well."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from prefect.utilities.templating import apply_values

from infra.bentos import SOURCES

TEMPLATE: dict[str, Any] = json.loads((SOURCES / "infra" / "kubernetes" / "gpu-pool.json").read_text())


def deployments(file: str) -> dict[str, dict[str, Any]]:
    """Give a file's deployments by what they run."""
    return {one["entrypoint"]: one for one in yaml.safe_load((SOURCES / file).read_text())["deployments"]}


def test_training_moves_to_the_pool_and_asks_for_cuda_there() -> None:
    everywhere, on_gpus = deployments("prefect.yaml"), deployments("prefect.gpu.yaml")

    assert set(on_gpus) == {"flows/train.py:train", "flows/retrain.py:retrain"}
    for entrypoint, one in on_gpus.items():
        assert one["work_pool"] == {"name": "gpu", "job_variables": {"env": {"OKRUH_DEVICE": "cuda"}}}
        assert everywhere[entrypoint]["work_pool"] == {"name": "cpu"}
        assert {**one, "work_pool": None} == {**everywhere[entrypoint], "work_pool": None}


def test_on_kubernetes_a_run_is_given_a_gpu_and_is_otherwise_what_prefect_makes_of_it() -> None:
    known = files("prefect.server.api.collections_data.views") / "aggregate-worker-metadata.json"
    usual = json.loads(known.read_text())["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]
    variables = TEMPLATE["variables"]["properties"]
    chosen = {name: one.get("default") for name, one in variables.items()} | {"env": {"OKRUH_DEVICE": "cuda"}}

    container(usual)["resources"]["limits"]["nvidia.com/gpu"] = "{{ gpus }}"
    usual["variables"]["properties"]["gpus"] = variables["gpus"]
    made = apply_values(TEMPLATE, chosen)

    assert usual == TEMPLATE
    assert container(made)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container(made)["env"] == {"OKRUH_DEVICE": "cuda"}


def container(template: dict[str, Any]) -> dict[str, Any]:
    """Give the container that a run has."""
    found: dict[str, Any]
    (found,) = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    return found


def test_the_template_is_where_the_deployments_say() -> None:
    named = [word for word in (SOURCES / "prefect.gpu.yaml").read_text().split() if word.endswith(".json")]

    assert named == ["infra/kubernetes/gpu-pool.json"]
    assert all(Path(SOURCES / name).exists() for name in named)
