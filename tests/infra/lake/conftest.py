"""The stores that the contract is checked on: one parameter each."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import pytest

from infra.lake.embedded import EmbeddedLake
from infra.lake.protocol import Lake

NewLake = Callable[[], Lake]


@pytest.fixture(params=["embedded"])
def new_lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewLake]:
    """Makes empty lakes of one store; a further store is a further parameter."""
    assert request.param == "embedded"
    numbers = count()
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(EmbeddedLake(tmp_path / f"lake-{next(numbers)}")))


@pytest.fixture
def lake(new_lake: NewLake) -> Lake:
    """An empty lake."""
    return new_lake()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedLake]:
    """An empty embedded lake, for what only this store promises."""
    with closing(EmbeddedLake(tmp_path / "embedded")) as lake:
        yield lake
