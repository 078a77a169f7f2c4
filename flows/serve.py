"""Serve: the champion behind HTTP, until it is told to stop."""

from pathlib import Path

from flows.build import build
from flows.orchestration import flow
from infra.serving_process import LOOPBACK, Certificate, ServiceProcess, check_free
from infra.settings import load_settings


@flow("serve")
def serve(
    model: str,
    port: int = 3000,
    branch: str | None = None,
    host: str = LOOPBACK,
    ssl_certfile: Path | None = None,
    ssl_keyfile: Path | None = None,
) -> int:
    """Build the champion where that was not done yet, and serve it on this machine until it is stopped.

    The service follows the lake: a promotion or a rollback reaches it within OKRUH_ROLLOUT_POLL_S. Where other machines
    reach it, callers need a key (`okruh keys add`), unless OKRUH_ACCESS says otherwise.

    Args:
        model: name in the catalog.
        port: where to listen.
        branch: lake branch; without it, OKRUH_BRANCH.
        host: the address at which to listen; 0.0.0.0 is every one of this machine.
        ssl_certfile: certificate, for https.
        ssl_keyfile: its private key.
    """
    settings = load_settings(**({"branch": branch} if branch else {}))
    certificate = Certificate.of(ssl_certfile, ssl_keyfile)
    check_free(port, host)
    built = build(model, branch=branch)
    with ServiceProcess.start(settings, built.tag, port, host=host, certificate=certificate) as service:
        print(f"{built.tag} answers at {service.url} (try {service.url}/docs.json); Ctrl-C stops it", flush=True)  # noqa: T201
        return service.wait()
