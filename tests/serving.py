"""A served tiny model on a loopback port: the real edge, which tests can have turn requests away or lose answers."""

import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import uvicorn

from infra.assembly import assemble
from infra.journal.journal import Journal
from infra.keys import KeyFile
from infra.settings import Settings
from models.bundle import Bundle
from services.access import Access
from services.app import Edge
from services.champion import load
from services.endpoints import Endpoints
from services.following import Following
from services.messages import ErrorAnswer, Fault, encode
from services.predictions import Predictions

App = Callable[[Any, Any, Any], Awaitable[None]]
Disturb = Callable[[App], App]


class Service:
    """What answers, and what became of its requests."""

    def __init__(self, edge: Edge, journal: Journal) -> None:
        self.url = ""
        self.disturbances: deque[Disturb] = deque()
        """What happens to the next predictions, one each."""
        self.predictions = 0
        """How many requests for predictions came."""
        self.at_a_time = 0
        """Most that were under way together."""
        self.headers: dict[bytes, bytes] = {}
        """Of the last request."""
        self._under_way = 0
        self._edge = edge
        self._journal = journal

    @property
    def recorded(self) -> int:
        """Predictions in the journal."""
        return self._journal.counts().predictions

    def ask_for(self, keys: KeyFile) -> None:
        """Let only those in who have a key."""
        self._edge.access = Access(keys)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        self.headers = dict(scope["headers"])
        app: App = self._edge
        if scope["path"] == "/v1/predict":
            self.predictions += 1
            if self.disturbances:
                app = self.disturbances.popleft()(app)
        self._under_way += 1
        self.at_a_time = max(self.at_a_time, self._under_way)
        await app(scope, receive, send)
        self._under_way -= 1


def turning_away(status: int, message: str, *headers: tuple[bytes, bytes]) -> Disturb:
    """Answer instead of the service."""

    async def turned_away(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": encode(ErrorAnswer(Fault(message)))})

    return lambda _: turned_away


def losing(app: App) -> App:
    """Have the service answer, and cut the connection within its answer."""

    async def lost(scope: Any, receive: Any, send: Any) -> None:
        async def send_head(message: Any) -> None:
            if message["type"] == "http.response.start":
                await send(message)

        await app(scope, receive, send_head)

    return lost


@contextmanager
def serving(settings: Settings, bundle: Bundle) -> Iterator[Service]:
    """Serve a bundle without a lake; what is not the service's answers 404."""
    with closing(assemble(settings).journal(bundle.card.model, "main")) as journal:
        following = Following(load(bundle.files()), None, "main", 1.0)
        edge, predictions = Edge(turning_away(404, "Not Found")(_nobody)), Predictions(journal)
        edge.find = Endpoints(following, journal, predictions).find
        service = Service(edge, journal)
        with _listening(service) as service.url:
            yield service


@contextmanager
def _listening(app: App) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("asked")
