"""Finding definitions by name in the catalog."""

import importlib
import pkgutil

import models.catalog
from models.errors import DefinitionError
from models.model import Model


def names() -> list[str]:
    """List the catalog."""
    return sorted(module.name for module in pkgutil.iter_modules(models.catalog.__path__))


def load(name: str) -> Model:
    """Import a definition from the catalog. Raises: `DefinitionError`."""
    if name not in names():
        raise DefinitionError(f"no model {name!r}; the catalog has {', '.join(names())}")
    definition = getattr(importlib.import_module(f"models.catalog.{name}"), "MODEL", None)
    if not isinstance(definition, Model):
        raise DefinitionError(f"models/catalog/{name}/__init__.py must define MODEL, a models.model.Model")
    if definition.name != name:
        raise DefinitionError(f"models/catalog/{name} defines the model {definition.name!r}; its name must be {name!r}")
    return definition
