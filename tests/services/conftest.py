"""A served tiny model, in process: the real edge over the real endpoints, champion and journal."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from infra.assembly import assemble
from infra.journal.journal import Journal
from infra.keys import KeyFile
from infra.lake.transaction import transaction
from infra.settings import Settings
from models.bundle import Bundle, bundle_folder
from models.deciding import rollout
from models.deciding.rollout import Rollout
from services.app import ASGIApp, Edge
from services.champion import load
from services.connections import BoundedProtocol
from services.endpoints import Endpoints
from services.following import Following
from services.predictions import Predictions

ROW = {"starts_at": "2020-03-01T08:15:00", "distance": 3.0, "weight": None, "kind": "car", "zone": 2}


class Caller:
    """Sends one request after the other to an ASGI application."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._transport = httpx.ASGITransport(app)

    def request(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Send a request and read its answer."""

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://service") as client:
                return await client.request(method, path, **content)

        return asyncio.run(send())

    def get(self, path: str) -> httpx.Response:
        """Send a GET request."""
        return self.request("GET", path)

    def post(self, path: str, **content: Any) -> httpx.Response:
        """Send a POST request."""
        return self.request("POST", path, **content)


@pytest.fixture
def row() -> dict[str, Any]:
    """A row for which `v1` answers 16."""
    return dict(ROW)


@pytest.fixture
def journal(settings: Settings) -> Iterator[Journal]:
    """The journal that the served model writes."""
    journal = assemble(settings).journal("tiny", "main")
    yield journal
    journal.close()


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    """A file of keys, of which there are none yet."""
    return KeyFile(tmp_path / "keys.json")


@pytest.fixture
def endpoints(journal: Journal, make_bundle: Callable[..., Bundle]) -> Endpoints:
    """What each path of ours does, without a lake."""
    following = Following(load(make_bundle().files()), None, "main", 1.0)
    return Endpoints(following, journal, Predictions(journal))


@pytest.fixture
def edge(endpoints: Endpoints) -> Edge:
    """A service; paths that are not ours answer 418 with the body's length."""
    edge = Edge(teapot)
    edge.find = endpoints.find
    return edge


@pytest.fixture
def client(edge: Edge) -> Caller:
    """A caller of the service."""
    return Caller(edge)


@pytest.fixture
def promote(settings: Settings, make_bundle: Callable[..., Bundle]) -> Callable[..., None]:
    """Register a bundle and make it champion."""
    return lambda version, factor: promote_bundle(settings, make_bundle(version, factor))


@pytest.fixture
def url(edge: Edge) -> Iterator[str]:
    """The service on a loopback port."""
    with listening(edge) as port:
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def listening(app: ASGIApp, protocol: type[BoundedProtocol] = BoundedProtocol, **options: Any) -> Iterator[int]:
    """Serve an application in a thread; gives its port."""
    options = {"lifespan": "off", "log_level": "error", "timeout_graceful_shutdown": 1, **options}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=protocol, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def promote_bundle(settings: Settings, bundle: Bundle) -> None:
    """Register a bundle and make it champion."""
    version = bundle.card.version
    with transaction(assemble(settings).lake("tiny"), "main", f"promote {version}", {}) as work:
        for name, content in bundle.files().items():
            work.put(f"{bundle_folder(version)}/{name}", content)
        since = datetime(2020, 3, 1, tzinfo=UTC)
        work.put(rollout.PATH, rollout.encode(Rollout(champion=version, since=since)))


async def teapot(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    length, more = 0, scope["method"] == "POST"
    while more:
        message = await receive()
        length, more = length + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})
