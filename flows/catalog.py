"""The definitions of this checkout, and those of the folder that OKRUH_CATALOG names."""

from pathlib import Path

from infra.provenance import source_digest
from infra.settings import load_settings
from models import definitions
from models.model import Model


def names() -> list[str]:
    """List what can be named."""
    definitions.look_in(load_settings().catalog)
    return definitions.names()


def load(name: str) -> Model:
    """Import a definition. Raises: `DefinitionError`, `Misconfigured`."""
    definitions.look_in(load_settings().catalog)
    return definitions.load(name)


def sources() -> str:
    """Digest the sources that decide a step's result, definitions among them."""
    return source_digest(load_settings().catalog)


def new_folder(name: str) -> Path:
    """Say where a new definition goes."""
    return (load_settings().catalog or definitions.CATALOG) / name
