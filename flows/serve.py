"""Serve: the champion behind HTTP, until it is told to stop."""

from flows.build import build
from flows.orchestration import flow
from infra.serving_process import ServiceProcess, check_free
from infra.settings import load_settings


@flow("serve")
def serve(model: str, port: int = 3000, branch: str | None = None) -> int:
    """Build the champion where that was not done yet, and serve it on this machine until it is stopped.

    The service follows the lake: a promotion or a rollback reaches it within OKRUH_ROLLOUT_POLL_S.

    Args:
        model: name in the catalog.
        port: loopback port.
        branch: lake branch; without it, OKRUH_BRANCH.
    """
    settings = load_settings(**({"branch": branch} if branch else {}))
    check_free(port)
    built = build(model, branch=branch)
    with ServiceProcess.start(settings, built.tag, port) as service:
        print(f"{built.tag} answers at {service.url} (try {service.url}/docs.json); Ctrl-C stops it", flush=True)  # noqa: T201
        return service.wait()
