"""A small table, the definition that `okruh new` drafts of it, and how a person edits that."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from infra.assembly import assemble
from infra.lake.protocol import Lake
from infra.settings import load_settings
from models import definitions

ROWS = 2000
MODULE = "models.catalog.rides"
QUICK: dict[str, int | float] = {"epochs": 2}


def rides(rows: int = ROWS) -> pd.DataFrame:
    """Ninety days of rows: y is told by x and by whether the kind is a."""
    draw = np.random.default_rng(0)
    seconds = pd.to_timedelta(np.sort(draw.integers(0, 90 * 86_400, rows)), unit="s")
    x, kind = draw.normal(size=rows), draw.choice(["a", "b", "c"], rows)
    y = 3 * x + (kind == "a") + draw.normal(size=rows)
    z = draw.uniform(0, 10, rows)
    return pd.DataFrame({"at": pd.Timestamp("2024-01-01") + seconds, "x": x, "z": z, "kind": kind, "y": y})


def edit(definition: Path, *changes: tuple[str, str]) -> None:
    """Change a definition as a person would."""
    text = definition.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    definition.write_text(text)
    sys.modules.pop(MODULE, None)  # as the next command would find it
    definitions.files.cache_clear()


def lake() -> Lake:
    """Give the lake of the drafted model, of the state folder that is set now."""
    return assemble(load_settings()).lake("rides")
