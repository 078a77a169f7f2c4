"""The stores that the contract is checked on: one parameter each.

`live` is a real lakeFS server: LAKEFS_ENDPOINT (`https://host`), LAKEFS_ACCESS_KEY_ID, LAKEFS_SECRET_ACCESS_KEY, and
LAKEFS_STORAGE where the server has no default place for repositories. Its repositories are removed afterwards.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path

import pytest

from infra.lake.embedded.store import EmbeddedLake
from infra.lake.lakefs.server import Server
from infra.lake.lakefs.store import LakeFSLake
from infra.lake.protocol import Lake
from tests.infra.lake.lakefs.server import KEY_ID, SECRET

NewLake = Callable[[], Lake]


@pytest.fixture(params=["embedded", "lakefs", "signing_lakefs", "live"])
def new_lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewLake]:
    """Makes empty lakes of one store; a further store is a further parameter."""
    with ExitStack() as opened:
        make = {"embedded": _embedded, "live": _live}.get(request.param, _lakefs)
        yield make(request, opened)


def _embedded(request: pytest.FixtureRequest, opened: ExitStack) -> NewLake:
    folder, numbers = request.getfixturevalue("tmp_path"), count()
    return lambda: opened.enter_context(closing(EmbeddedLake(folder / f"lake-{next(numbers)}")))


def _lakefs(request: pytest.FixtureRequest, opened: ExitStack) -> NewLake:
    server = Server(request.getfixturevalue(request.param).address, KEY_ID, SECRET, first_pause_s=0.001)
    opened.callback(server.close)
    return lambda: opened.enter_context(_repository(server, None))


def _live(request: pytest.FixtureRequest, opened: ExitStack) -> NewLake:
    if not (endpoint := os.environ.get("LAKEFS_ENDPOINT")):
        pytest.skip("LAKEFS_ENDPOINT names no lakeFS server")
    server = Server(endpoint, os.environ["LAKEFS_ACCESS_KEY_ID"], os.environ["LAKEFS_SECRET_ACCESS_KEY"])
    opened.callback(server.close)
    return lambda: opened.enter_context(_repository(server, os.environ.get("LAKEFS_STORAGE")))


@contextmanager
def _repository(server: Server, storage: str | None) -> Iterator[LakeFSLake]:
    name = f"okruh-test-{secrets.token_hex(8)}"
    lake = LakeFSLake(server, name)
    lake.create(storage)
    yield lake
    server.call(f"repository {name}", server.client.repositories_api.delete_repository, name)


@pytest.fixture
def lake(new_lake: NewLake) -> Lake:
    """An empty lake."""
    return new_lake()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedLake]:
    """An empty embedded lake, for what only this store promises."""
    with closing(EmbeddedLake(tmp_path / "embedded")) as lake:
        yield lake
