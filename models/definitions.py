"""Finding definitions by name in the catalog."""

import importlib
import pkgutil
import sys
from functools import cache
from pathlib import Path

import models.catalog
from models.definition_files import DefinitionFiles, gather
from models.errors import DefinitionError, OkruhError
from models.model import Model

CATALOG = Path(models.catalog.__path__[0])


def look_in(folder: Path | None) -> None:
    """Have the catalog hold a folder's definitions as well; None: nothing but its own."""
    wanted = [str(CATALOG), *([str(folder)] if folder is not None else [])]
    if wanted == list(models.catalog.__path__):
        return
    models.catalog.__path__[:] = wanted
    for name in [name for name in sys.modules if name.startswith("models.catalog.")]:
        if not Path(sys.modules[name].__file__ or "").is_relative_to(CATALOG):
            del sys.modules[name]  # one of that name may be another's now; its own go before all others
    files.cache_clear()
    importlib.invalidate_caches()


def names() -> list[str]:
    """List the catalog."""
    return sorted(module.name for module in pkgutil.iter_modules(models.catalog.__path__))


@cache
def files(name: str) -> DefinitionFiles:
    """Read what a definition consists of, once, as it is imported once.

    Raises: `DefinitionError` where a file cannot be read.
    """
    return gather([Path(folder) for folder in models.catalog.__path__], name)


def load(name: str) -> Model:
    """Import a definition from the catalog. Raises: `DefinitionError`."""
    if name not in names():
        raise DefinitionError(f"no model {name!r}; the catalog has {', '.join(names())}")
    try:
        definition = getattr(importlib.import_module(f"models.catalog.{name}"), "MODEL", None)
    except OkruhError:
        raise
    except Exception as error:  # whatever a definition's code raises
        raise DefinitionError(f"the definition of {name} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(definition, Model):
        raise DefinitionError(f"models/catalog/{name}/__init__.py must define MODEL, a models.model.Model")
    if definition.name != name:
        raise DefinitionError(f"models/catalog/{name} defines the model {definition.name!r}; its name must be {name!r}")
    return definition
