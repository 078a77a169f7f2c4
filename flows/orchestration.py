"""Prefect, set up for Okruh: the one module through which flows reach it.

Without a Prefect server's address in PREFECT_API_URL, flows run on Prefect's temporary server, whose database lies in
`OKRUH_HOME/prefect`. Importing this module sets the products' folders under OKRUH_HOME, so that nothing is written
elsewhere, and must therefore come before any import of them. It costs about 2 s; the temporary server 5 to 10 s, once a
process.

Steps are tasks whose results are kept and found again by a key that names everything they depend on: a digest of what
they read, of their settings, and of the package's sources. Keys are small strings: Prefect would hash whole tables.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import msgspec

from infra.errors import Unavailable
from infra.provenance import source_digest
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
    if not os.environ.get("PREFECT_API_URL"):
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # the caller gets the error itself
    try:
        (settings.home / "tmp").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{settings.home} cannot be written: {error}; set OKRUH_HOME to a folder that can") from error


_set_environment(load_settings())

import prefect  # noqa: E402
from prefect import Flow, State, Task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: E402

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


def step_key(step: str, *parts: str) -> str:
    """Name a step's result by everything it depends on, the package's sources included."""
    digest = hashlib.sha256("\0".join((*parts, source_digest())).encode()).hexdigest()
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


@contextmanager
def on_a_laptop() -> Iterator[None]:
    """Spare flow runs their heartbeats where only a temporary server would hear them; each costs its run a second."""
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
