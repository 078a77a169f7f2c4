"""The definitions of this checkout, and those of the folder that OKRUH_CATALOG names."""

from pathlib import Path

from infra.assembly import assemble
from infra.provenance import code_commit, source_digest
from infra.settings import load_settings
from models import definitions
from models.bundle import check_name
from models.definition_files import DefinitionFiles
from models.model import Model


def names() -> list[str]:
    """List what can be named."""
    definitions.look_in(load_settings().catalog)
    return definitions.names()


def load(name: str) -> Model:
    """Import a definition. Raises: `DefinitionError`, `Misconfigured`."""
    definitions.look_in(load_settings().catalog)
    return definitions.load(name)


def check(name: str) -> None:
    """Refuse a model of which there is neither a definition nor, of one that is gone, a lake.

    Raises: `DefinitionError`, `Misconfigured`.
    """
    check_name(name)
    if not assemble(load_settings()).has_lake(name):
        load(name)  # which says what there is, where it is not that


def files(name: str) -> DefinitionFiles:
    """Read what a definition consists of."""
    definitions.look_in(load_settings().catalog)
    return definitions.files(name)


def sources(name: str) -> str:
    """Digest the sources that decide what comes of a model's steps, its definition among them."""
    return source_digest(files(name).kept)


def commit(name: str) -> str:
    """Give the git commit of the code that decides what comes of a model's steps, `+dirty` where it is not all."""
    return code_commit(frozenset(place for _, place in files(name).left_out))


def new_folder(name: str) -> Path:
    """Say where a new definition goes."""
    return (load_settings().catalog or definitions.CATALOG) / name
