"""Build: a Bento that contains the champion."""

from flows import catalog
from flows.orchestration import flow
from infra import bentos
from infra.bentos import Built
from infra.settings import load_settings


@flow("build")
def build(model: str, branch: str | None = None, gpu: bool = False) -> Built:
    """Build the champion into a Bento, in the store under OKRUH_HOME; the same champion and code build nothing anew.

    Args:
        model: name in the catalog.
        branch: lake branch; without it, OKRUH_BRANCH.
        gpu: for an image with CUDA, whose service runs on an NVIDIA GPU.
    """
    catalog.load(model)
    settings = load_settings(**({"branch": branch} if branch else {}))
    return bentos.build(settings, model, gpu)
