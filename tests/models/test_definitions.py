"""Definitions are found by name, in the catalog and in a folder beside it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import definitions
from models.catalog import taxi_eta


@pytest.fixture(autouse=True)
def only_its_own() -> Iterator[None]:
    """Have the catalog hold nothing else afterwards."""
    yield
    definitions.look_in(None)


def folder(place: Path, said: str) -> Path:
    """Make a folder with a module `rides`."""
    (place / "rides").mkdir(parents=True)
    (place / "rides" / "__init__.py").write_text(f"SAID = {said!r}\n")
    return place


def test_of_two_folders_each_has_its_own_of_a_name(tmp_path: Path) -> None:
    import importlib

    for said in ("first", "second"):
        definitions.look_in(folder(tmp_path / said, said))
        assert said == importlib.import_module("models.catalog.rides").SAID
        assert "rides" in definitions.names()

    definitions.look_in(None)
    assert "rides" not in definitions.names()
    assert "models.catalog.rides" not in sys.modules


def test_what_the_catalog_has_itself_is_imported_once(tmp_path: Path) -> None:
    definitions.look_in(folder(tmp_path, "own"))

    assert sys.modules["models.catalog.taxi_eta"] is taxi_eta
    assert definitions.load("taxi_eta") is taxi_eta.MODEL
