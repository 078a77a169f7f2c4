"""The BentoML service. `bentoml build`, `bentoml serve` and Bento clients work; the HTTP paths are `services.app`'s.

Importing this module says which model it is for: inside a Bento the contained one, in a checkout the champion of
`OKRUH_MODEL`, which is put into BentoML's model store if it is not there.
"""

import gc
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

import bentoml
import msgspec
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.resource import system_resources
from starlette.responses import Response

from infra.assembly import assemble
from infra.bento_image import image
from infra.bentos import champion_tag
from infra.errors import Misconfigured
from infra.guard import end_with_parent
from infra.settings import load_settings
from models.contract.rows import NotJSON
from models.errors import ProviderUnavailable
from models.inference import Runtime
from services import listener
from services.access import Access
from services.app import ASGIApp, Edge, answered, error_answer
from services.champion import files_of, load
from services.connections import bound
from services.endpoints import Endpoints
from services.following import Following
from services.messages import Request
from services.observing import Observer
from services.predictions import Predictions
from services.trial import KEY, Shadow

T = TypeVar("T")

_TURN_S = 0.5e-3
"""How long a thread, such as the journal's, keeps the interpreter from the event loop; by default it is 5 ms."""

_COLLECTED = 20_000
"""After so many new objects garbage is looked for. By default after 700, while those of a burst are all in use: that
takes a twentieth of the time."""

logger = logging.getLogger("bentoml.okruh.service")

NAME = "prediction"

_SETTINGS = load_settings()


class DirectService(bentoml.Service[T]):  # type: ignore[misc]  # BentoML's classes are untyped to callers
    """A BentoML service whose own paths are answered before BentoML's middleware."""

    _edge: Edge | None = None
    _observer = Observer()
    _shuts: int | None = None
    """The listening socket, where this worker is the only one."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Put the edge in front of BentoML's application, under the same bounds.

        Raises: `Misconfigured` where BentoML's CORS or tracing is switched on.
        """
        application = super().to_asgi(is_main)  # which reads the configuration
        if BentoMLContainer.http.cors.enabled.get():
            raise Misconfigured(
                "BentoML's CORS is switched on, and not kept on the paths that are answered before its middleware: "
                "switch it off, and set headers in a proxy"
            )
        if BentoMLContainer.config.tracing.exporter_type.get():
            raise Misconfigured(
                "BentoML's tracing is switched on (tracing.exporter_type), which sees none of the paths that are "
                "answered before its middleware: leave it out, and set OKRUH_TRACES_ENDPOINT, which tells of all paths"
            )
        if _configured()["logging"]["access"]["enabled"]:
            raise Misconfigured(
                "BentoML's access log is switched on (logging.access), which tells of none of the paths that are "
                "answered before its middleware: leave it out, and set OKRUH_ACCESS_LOG_RATE, which tells of all paths"
            )
        count, traffic = _workers(), _configured()["traffic"]
        most = traffic.get("max_concurrency")
        share = math.ceil(most / count) if most else None
        listening = listener.inherited()
        loopback = listener.is_loopback(listening)
        keys = assemble(_SETTINGS).asked_keys(loopback)
        access = Access(keys, count, loopback=loopback and _SETTINGS.access != "open")
        self._shuts = listening if count == 1 else None
        self._observer = _observer()
        routes = [method.route for method in self.apis.values()]
        bound()
        self._edge = Edge(application, traffic.get("timeout"), share, self._observer, routes, access)
        return self._edge

    def __call__(self) -> T:
        """Make the instance and let the edge answer for it."""
        instance: T = super().__call__()
        if self._edge is not None and isinstance(instance, Served):
            self._edge.find = instance.endpoints.find
            instance.observer = self._observer
            instance.endpoints.access = self._edge.access
            if failure := self._edge.access.failure:
                logger.warning("nobody but those who ask for health is let in: %s", failure)
        if self._shuts is not None:
            listener.refuse_when_ending(self._shuts)
        return instance


def _configured() -> dict[str, Any]:
    """Give BentoML's configuration of the service: the decorator's, with what `bentoml serve` was told."""
    services: dict[str, dict[str, Any]] = BentoMLContainer.config.services.get()
    return services[NAME]


def _workers() -> int:
    workers = _configured().get("workers") or 1
    return workers if isinstance(workers, int) else int(system_resources()["cpu"]) or 1


def runtime() -> Runtime:
    """Say how models are run: with threads of its own for each worker's part of the cores that it may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(allowed, int(system_resources()["cpu"]))  # a container's quota may be less than its cores
    return Runtime(
        provider=_SETTINGS.provider,
        fallback=_SETTINGS.provider_fallback,
        threads=_SETTINGS.serve_threads or max(1, cores // _workers()),
        gpu_memory_mb=_SETTINGS.gpu_memory_mb,
        cuda_graphs=_SETTINGS.cuda_graphs,
        variant=_SETTINGS.variant,
    )


def _contained(file: Path) -> bytes:
    """Read a file of the contained bundle. Raises: `Misconfigured` for the graph of another variant."""
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        others = ", ".join(sorted(one.name for one in file.parent.glob("*.onnx")))
        raise Misconfigured(
            f"OKRUH_VARIANT={_SETTINGS.variant} wants {file.name}, and this Bento contains {others}: build it again "
            "under that setting, or set what it was built with"
        ) from error


class Served:
    """One worker's champion, journal and endpoints."""

    champion = bentoml.models.BentoModel(champion_tag(_SETTINGS))
    observer = Observer()

    def __init__(self) -> None:
        sys.setswitchinterval(_TURN_S)
        if listener.inherited() is not None:
            end_with_parent("bentoml")  # which leaves workers behind where it is killed, on their port
        platform, how = assemble(_SETTINGS), runtime()
        files = {name: _contained(Path(self.champion.path) / name) for name in files_of(how)}
        try:
            champion = load(files, how)
        except ProviderUnavailable as error:
            allow = "OKRUH_PROVIDER_FALLBACK=true serves on the CPU instead"
            raise Misconfigured(f"OKRUH_PROVIDER={_SETTINGS.provider}: {error}; {allow}") from error
        model = champion.card.model
        lake = platform.followed_lake(model)
        self._journal = platform.journal(model, _SETTINGS.branch)
        self._following = Following(champion, lake, _SETTINGS.branch, _SETTINGS.rollout_poll_s, how)
        self._following.start()
        self._shadow = Shadow(self._journal.shadows)
        self._predictions = Predictions(
            self._journal,
            strict=_SETTINGS.journal == "strict",
            goes_on=_SETTINGS.journal_full == "go_on",
            shadow=self._shadow,
        )
        self.endpoints = Endpoints(self._following, self._journal, self._predictions)
        gc.collect()
        gc.freeze()  # what is there now stays: looking at it again and again takes a tenth of a second each time
        gc.set_threshold(_COLLECTED)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, rows: list[dict[str, Any]], context: bentoml.Context) -> dict[str, Any]:
        """Predict rows, as `POST /v1/predict` does: the same checks, answer and record."""
        key = context.request.headers.get(KEY.decode())
        told = () if key is None else ((KEY, key.encode()),)
        try:
            body = msgspec.json.encode({"rows": rows})
            answer = await answered(self.endpoints.predict, Request(body, told))
        except (UnicodeEncodeError, RecursionError, OverflowError) as error:
            answer = error_answer(NotJSON(f"the rows cannot be written as JSON: {error}"))
        context.response.status_code = answer.status  # which BentoML sets whatever it is given
        headers = {name.decode(): value.decode() for name, value in answer.headers}
        response: Any = Response(answer.body, answer.status, headers, "application/json")
        return response  # type: ignore[no-any-return]  # BentoML sends a response as it is

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Write what waits for the journal and stop following."""
        self._predictions.close()
        self._journal.close()
        self._shadow.close()
        self._following.stop()
        self.observer.close()


def _observer() -> Observer:
    """Tell of requests as the settings say."""
    if _SETTINGS.traces_endpoint is None:
        return Observer(_SETTINGS.access_log_rate)
    from services.tracing import Tracing  # a fifth of a second, and memory

    service = champion_tag(_SETTINGS).partition(":")[0]
    return Observer(_SETTINGS.access_log_rate, Tracing(_SETTINGS.traces_endpoint, _SETTINGS.traces_rate, service))


OPTIONS: dict[str, Any] = {
    "name": NAME,
    "service_class": DirectService,
    "workers": _SETTINGS.workers,
    "logging": {"access": {"enabled": False}},
    "metrics": {"enabled": False},  # whose series are named by whatever path is asked for: they have no bound
}
"""What BentoML is told of the service, whichever image it is for."""

Prediction = bentoml.service(image=image(), **OPTIONS)(Served)
