"""Prefect, set up for Okruh: the one module through which flows reach it.

Without a Prefect server's address in PREFECT_API_URL, flows run on Prefect's temporary server, whose database lies in
`OKRUH_HOME/prefect`. Importing this module sets the products' folders under OKRUH_HOME, so that nothing is written
elsewhere, and must therefore come before any import of them. It costs about 2 s; the temporary server 5 to 10 s, once a
process.

Steps are tasks whose results are kept and found again by a key that names everything they depend on: a digest of what
they read, of their settings, and of the package's sources. Keys are small strings: Prefect would hash whole tables.
"""

import atexit
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import msgspec
from pydantic import SecretStr

from flows import catalog
from infra.errors import Unavailable
from infra.guard import Guard
from infra.settings import Settings, load_settings


def _environment(settings: Settings) -> dict[str, str]:
    home = settings.home
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "BENTOML_DO_NOT_TRACK": "True",
    }


def _set_environment(settings: Settings) -> None:
    for name, value in _environment(settings).items():
        os.environ.setdefault(name, value)
    os.environ["BENTOML_HOME"] = str(settings.bentos)
    os.environ["TMPDIR"] = tempfile.tempdir = str(settings.home / "tmp")
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)  # it would say that it is still at work
    if not os.environ.get("PREFECT_API_URL"):
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # the caller gets the error itself
        os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    try:
        (settings.home / "tmp").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{settings.home} cannot be written: {error}; set OKRUH_HOME to a folder that can") from error
    if not os.access(settings.home, os.W_OK):  # Prefect's server would say so in 200 lines
        raise Unavailable(
            f"{settings.home} cannot be written: see its permissions, and whether its disk can only be read; or set "
            "OKRUH_HOME to a folder that can"
        )


_set_environment(load_settings())

import prefect  # noqa: E402
from prefect import Flow, State, Task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.settings import (  # noqa: E402
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    get_current_settings,
    temporary_settings,
)

_SERVER = (
    *("-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent), "--factory"),
    *("prefect.server.api.server:create_app", "--log-level", "error", "--lifespan", "on"),
)
_SERVER_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
"""As `SubprocessASGIServer` has them."""

P = ParamSpec("P")
R = TypeVar("R")


def flow(name: str) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Make a flow of a function; its result is its caller's and is kept nowhere."""
    return prefect.flow(name=name, persist_result=False)


def task(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a step that always runs."""
    return prefect.task(name=name, cache_policy=NO_CACHE, persist_result=False)


def cached_step(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a step that is found again by its argument `key` (see `step_key`); it gives plain JSON values."""
    return prefect.task(name=name, cache_key_fn=_key_of, persist_result=True, result_serializer="json")


def _key_of(_: object, parameters: dict[str, Any]) -> str:
    key: str = parameters["key"]
    return key


def step_key(step: str, model: str, *parts: str) -> str:
    """Name a step's result by everything it depends on, the package's sources and the model's included."""
    digest = hashlib.sha256("\0".join((model, *parts, catalog.sources(model))).encode()).hexdigest()
    return f"{step}-{digest}"


def run_cached(
    step: Task[..., dict[str, Any]], key: str, still_holds: Callable[[dict[str, Any]], bool], **arguments: object
) -> tuple[dict[str, Any], bool]:
    """Run a cached step, or find its result.

    A found result is a claim about the lake; `still_holds` checks it there, and a step whose result is gone (replaced
    by another, or the lake made anew) is run again.

    Returns:
        Its result, and whether it was found rather than computed.
    """
    state: State[dict[str, Any]] = step(key=key, **arguments, return_state=True)  # type: ignore[assignment]
    result = state.result()
    if state.name != "Cached":
        return result, False
    if still_holds(result):
        return result, True
    return step.with_options(refresh_cache=True)(key=key, **arguments), False


def as_json(result: msgspec.Struct) -> dict[str, Any]:
    """Give a record as the plain values that travel between steps."""
    plain: dict[str, Any] = msgspec.to_builtins(result)
    return plain


def flow_run_name() -> str:
    """Name the running flow, or `none` outside of one."""
    from prefect.runtime import flow_run

    return f"{flow_run.name} {flow_run.id}" if flow_run.id else "none"


def emit(event: str, model: str, payload: dict[str, Any]) -> None:
    """Send an event that automations can start from."""
    from prefect.events import emit_event

    emit_event(event=event, resource={"prefect.resource.id": f"okruh.model.{model}"}, payload=payload)


def worker_environment() -> dict[str, str]:
    """Give what processes of other machines need to find in their environment: our settings, without secrets.

    Secrets are not sent: a machine that wants the lake's keys has them in its own environment.
    """
    settings = load_settings()
    hidden = {f"OKRUH_{name.upper()}" for name, value in settings if isinstance(value, SecretStr)}
    ours = {name: value for name, value in settings.environment().items() if name not in hidden}
    return _environment(settings) | ours | {"PREFECT_API_URL": _server(), "PREFECT_LOGGING_LEVEL": "CRITICAL"}


def _server() -> str:
    """Give the address of Prefect's server, the temporary one included."""
    from prefect.server.api.server import SubprocessASGIServer

    return os.environ.get("PREFECT_API_URL") or SubprocessASGIServer().api_url


@contextmanager
def steps_on_ray(threads: int, gpus: int) -> Iterator[Callable[..., Any]]:
    """Give what runs a step on the Ray cluster that this process has joined: it takes the step and its arguments.

    What it gives has a `result()`, and the reference that Ray knows it by as `wrapped_future`. A step whose process has
    gone is not run again by itself.

    Args:
        threads: cores that a step takes.
        gpus: GPUs that it takes.
    """
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    with (
        temporary_settings({PREFECT_API_URL: _server()}),  # steps take our settings along
        remote_options(num_cpus=threads, num_gpus=gpus, max_retries=0),
        RayTaskRunner() as runner,
    ):
        yield lambda step, **arguments: runner.submit(step, arguments)


@contextmanager
def on_a_laptop() -> Iterator[None]:
    """Have a temporary server where no other is named, with what only a shared server needs switched off.

    Heartbeats would cost each flow run a second. A server of our own that is gone does not come back, so that waiting
    for it as long as for a shared one (a minute) is in vain. Raises: `Unavailable` where it does not start.
    """
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    _start_server()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_CLIENT_MAX_RETRIES: 2}):
        yield


def _start_server() -> None:
    """Start the temporary server: out of reach of signals to our group, for flows end first, and not to outlive us.

    A terminal sends Ctrl-C to every process of a group, and so does who ends a job. Prefect starts its server in ours.
    """
    from prefect.server.api.server import SubprocessASGIServer

    guards: list[Guard] = []
    atexit.register(_release, guards)  # registered before the server's own end, so that it comes after it
    server = SubprocessASGIServer()

    def run_apart() -> subprocess.Popen[Any]:
        process = subprocess.Popen(  # noqa: S603 (what Prefect runs)
            [sys.executable, *_SERVER, "--host", "127.0.0.1", "--port", str(server.port)],
            env={
                **os.environ,
                **_SERVER_ENVIRONMENT,
                **get_current_settings().to_environment_variables(exclude_unset=True),
            },
            start_new_session=True,
        )
        guards.append(Guard.of_process(process.pid))  # from its first moment: it takes seconds to come up
        return process

    server._run_uvicorn_command = run_apart  # type: ignore[method-assign]
    try:
        server.start()
    except Exception as error:
        raise Unavailable(
            f"Prefect's temporary server does not start ({str(error).strip()}): check space and permissions of "
            f"{os.environ['PREFECT_HOME']}, or set PREFECT_API_URL to a server that runs"
        ) from error


def _release(guards: list[Guard]) -> None:
    for guard in guards:
        guard.release()
