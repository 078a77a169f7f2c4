"""A lakeFS server that a test may break, sign for and look into."""

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from infra.lake.lakefs.server import Server
from infra.lake.lakefs.store import LakeFSLake
from tests.infra.lake.lakefs.faults import Faulty
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, LakeFSServer, running


@dataclass
class Broken:
    """A lake, its server, and what lies between."""

    lake: LakeFSLake
    server: LakeFSServer
    network: Faulty

    def sign(self, multipart: bool = False) -> None:
        """Have the server sign URLs from now on."""
        self.server.presign, self.server.multipart = True, multipart
        vars(self.lake.server).pop("storage", None)  # it was asked for already


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LakeFSServer, Faulty]]:
    """A server, and the network before it; tests get them by `broken`."""
    with closing(LakeFSServer(tmp_path_factory.mktemp("lakefs"))) as server:
        network = Faulty(server.app)
        with running(network) as server.address:
            yield server, network


@pytest.fixture
def broken(faulty: tuple[LakeFSServer, Faulty]) -> Iterator[Broken]:
    """An empty repository, of which nothing is broken yet."""
    server, network = faulty
    server.reset()
    network.reset()
    connections = Server(server.address, KEY_ID, SECRET, first_pause_s=0.001)
    with closing(LakeFSLake(connections, f"okruh-{secrets.token_hex(4)}")) as lake:
        lake.create()
        yield Broken(lake, server, network)
