"""How settings are called where those of the training and those of the network stand together."""

from collections.abc import Mapping
from typing import TypeVar

from models.errors import DefinitionError

V = TypeVar("V")

TRAINING, NETWORK = "training.", "network."
"""How their names begin, as in `--set training.epochs=2`."""


def together(training: Mapping[str, V], network: Mapping[str, V]) -> dict[str, V]:
    """Give both kinds as one mapping; records of before there were network settings call the others by name alone."""
    return {**training, **{f"{NETWORK}{name}": value for name, value in network.items()}}


def apart(settings: Mapping[str, V]) -> tuple[dict[str, V], dict[str, V]]:
    """Give those of the training and those of the network, without beginnings. Raises: `DefinitionError`."""
    found: dict[str, dict[str, V]] = {TRAINING: {}, NETWORK: {}}
    for name, value in settings.items():
        kind = next((kind for kind in found if name.startswith(kind)), None)
        if kind is None or name == kind:
            raise DefinitionError(f"no setting is called {name}; a name is {TRAINING}NAME or {NETWORK}NAME")
        found[kind][name.removeprefix(kind)] = value
    return found[TRAINING], found[NETWORK]
