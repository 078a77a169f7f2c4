"""The BentoML service. `bentoml build`, `bentoml serve` and Bento clients work; the HTTP paths are `services.app`'s.

Importing this module says which model it is for: inside a Bento the contained one, in a checkout the champion of
`OKRUH_MODEL`, which is put into BentoML's model store if it is not there.
"""

import math
import os
from pathlib import Path
from typing import Any, TypeVar

import bentoml
import msgspec
from bentoml._internal.configuration.containers import BentoMLContainer
from starlette.responses import Response

from infra.assembly import assemble
from infra.bento_image import image
from infra.bentos import champion_tag
from infra.errors import Misconfigured
from infra.settings import load_settings
from models.contract.rows import NotJSON
from services.app import ASGIApp, Edge, answered, error_answer
from services.champion import FILES, Following, load
from services.connections import bound
from services.endpoints import Endpoints
from services.messages import Request
from services.predictions import Predictions

T = TypeVar("T")

_SETTINGS = load_settings()


class DirectService(bentoml.Service[T]):  # type: ignore[misc]  # BentoML's classes are untyped to callers
    """A BentoML service whose own paths are answered before BentoML's middleware."""

    _edge: Edge | None = None

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Put the edge in front of BentoML's application, under the same bounds. Raises: `Misconfigured` for CORS."""
        application = super().to_asgi(is_main)  # which reads the configuration
        if BentoMLContainer.http.cors.enabled.get():
            raise Misconfigured(
                "BentoML's CORS is switched on, and not kept on the paths that are answered before its middleware: "
                "switch it off, and set headers in a proxy"
            )
        bound()
        configured = BentoMLContainer.config.services.get()[self.name]
        workers = configured.get("workers") or 1
        most = configured["traffic"].get("max_concurrency")
        share = math.ceil(most / (workers if isinstance(workers, int) else os.cpu_count() or 1)) if most else None
        self._edge = Edge(application, configured["traffic"].get("timeout"), share)
        return self._edge

    def __call__(self) -> T:
        """Make the instance and let the edge answer for it."""
        instance: T = super().__call__()
        if self._edge is not None and isinstance(instance, Served):
            self._edge.find = instance.endpoints.find
        return instance


class Served:
    """One worker's champion, journal and endpoints."""

    champion = bentoml.models.BentoModel(champion_tag(_SETTINGS))

    def __init__(self) -> None:
        platform = assemble(_SETTINGS)
        champion = load(
            {name: (Path(self.champion.path) / name).read_bytes() for name in FILES}, _SETTINGS.serve_threads
        )
        model = champion.card.model
        lake = platform.followed_lake(model)
        self._journal = platform.journal(model, _SETTINGS.branch)
        self._following = Following(champion, lake, _SETTINGS.branch, _SETTINGS.rollout_poll_s, _SETTINGS.serve_threads)
        self._following.start()
        self._predictions = Predictions(self._journal, strict=_SETTINGS.journal == "strict")
        self.endpoints = Endpoints(self._following, self._journal, self._predictions)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Predict rows, as `POST /v1/predict` does: the same checks, answer and record."""
        try:
            answer = await answered(self.endpoints.predict, Request(msgspec.json.encode({"rows": rows})))
        except (UnicodeEncodeError, RecursionError, OverflowError) as error:
            answer = error_answer(NotJSON(f"the rows cannot be written as JSON: {error}"))
        headers = {name.decode(): value.decode() for name, value in answer.headers}
        response: Any = Response(answer.body, answer.status, headers, "application/json")
        return response  # type: ignore[no-any-return]  # BentoML sends a response as it is

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Write what waits for the journal and stop following."""
        self._following.stop()
        self._predictions.close()
        self._journal.close()


Prediction = bentoml.service(
    name="prediction",
    service_class=DirectService,
    image=image(),
    workers=1,
    logging={"access": {"enabled": False}},
)(Served)
