"""One epoch over the flights of a lake, in a process of its own: how long it takes and what memory it needs.

    python -m tests.benchmarks.flights_epoch MEMORY_MB

The lake is that of OKRUH_HOME. Printed is JSON: rows, seconds and bytes. Reading, cutting, preparing and learning
count, and the network's answers to the rows that stop the training; what is imported does not.
"""

import gc
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import torch

from flows.recipes import Recipe, cut
from infra.assembly import assemble
from infra.dataset import known_rows, table_prefix
from infra.lake.protocol import Lake
from infra.settings import load_settings
from infra.tables import opened
from models import definitions
from models.learning.devices import repeatable
from models.learning.settings import TrainingSettings
from models.learning.training import fit, make_network
from models.model import Model

MODEL = "flight_delay"

_END = datetime(2001, 7, 1, 4, tzinfo=UTC)


class Epoch(msgspec.Struct, frozen=True):
    """What was measured."""

    rows: int
    """That are learned from."""
    seconds: float
    read_seconds: float
    """Of these, until the first step."""
    peak: int
    """Bytes that were added to the process's own at most."""
    columns: int
    """Bytes of all rows' columns that are read, as Arrow holds them."""


def main(memory_mb: float) -> None:
    """Measure."""
    definition, settings = definitions.load(MODEL), load_settings()
    lake = assemble(settings).existing_lake(MODEL)
    training = definition.training.with_changes({"epochs": 1, "memory_mb": memory_mb})
    _learn(definition, lake, training, _END - timedelta(days=16))  # so that all is imported, and threads are there
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    before, began = _status("VmRSS"), time.perf_counter()
    rows, read = _learn(definition, lake, training, None)
    seconds = time.perf_counter() - began
    peak = _status("VmHWM") - before
    found = Epoch(rows, seconds, read - began, peak, _columns(definition, lake))
    sys.stdout.write(msgspec.json.encode(found).decode())


def _learn(definition: Model, lake: Lake, training: TrainingSettings, learn_from: datetime | None) -> tuple[int, float]:
    test_from = _END - timedelta(days=training.test_days)
    plan = Recipe(
        as_of=_END,
        learn_from=learn_from,
        validation_from=test_from - timedelta(days=training.validation_days) if learn_from is None else test_from,
        test_from=test_from,
        settings=training.flat(),
    )
    with repeatable(training.seed, load_settings().train_threads):
        material = cut(definition, known_rows(definition, lake, "main", _END, learn_from), plan)
        read = time.perf_counter()
        network = make_network(definition, material, {})
        fit(definition, network, material, training, torch.device("cpu"))
    return len(material.train), read


def _columns(definition: Model, lake: Lake) -> int:
    names = [column.name for column in (*definition.contract.inputs, definition.contract.target)]
    total = 0
    for entry in lake.list("main", table_prefix(definition)):
        with opened(lake, "main", entry.path) as file:
            total += file.read(names).nbytes
    return total


def _status(name: str) -> int:
    """Read one of the process's figures, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(float(sys.argv[1]))
