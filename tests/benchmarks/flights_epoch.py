"""One epoch over the flights of a lake, in a process of its own: how long it takes and what memory it needs.

    python -m tests.benchmarks.flights_epoch MEMORY_MB

The lake is that of OKRUH_HOME. Printed is JSON: rows, seconds and bytes. The seconds are those of reading, cutting and
preparing what is learned from, of learning, and of the network's answers to the rows that stop the training. The bytes
are of the whole training: the graph, its proof and the evaluation as well. What is imported does not count.
"""

import gc
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from flows.recipes import Recipe, cut
from infra.assembly import assemble
from infra.dataset import known_rows, table_prefix
from infra.lake.protocol import Lake
from infra.settings import load_settings
from infra.tables import opened
from models import definitions
from models.learning.loop import NoCheckpoints, Progress
from models.learning.settings import TrainingSettings
from models.learning.training import train
from models.model import Model

MODEL = "flight_delay"

_END = datetime(2001, 7, 1, 4, tzinfo=UTC)


class Epoch(msgspec.Struct, frozen=True):
    """What was measured."""

    rows: int
    """That are learned from."""
    seconds: float
    read_seconds: float
    """Of these, until all is read and prepared."""
    peak: int
    """Bytes that were added to the process's own at most."""
    columns: int
    """Bytes of all rows' columns that are read, as Arrow holds them."""


class _Clock(NoCheckpoints):
    """Notes when a training begins to learn, and when it has."""

    began = ended = 0.0

    def load(self) -> None:
        """Be asked before the first step."""
        self.began = time.perf_counter()

    def report(self, progress: Progress) -> None:
        """Be told of each window, and of the epoch's end last."""
        self.ended = time.perf_counter()


def main(memory_mb: float) -> None:
    """Measure."""
    definition, settings = definitions.load(MODEL), load_settings()
    lake = assemble(settings).existing_lake(MODEL)
    training = definition.training.with_changes({"epochs": 1, "memory_mb": memory_mb})
    _train(definition, lake, training, _END - timedelta(days=16))  # so that all is imported, and threads are there
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    before = _status("VmRSS")
    rows, read_s, learned_s = _train(definition, lake, training, None)
    peak = _status("VmHWM") - before
    found = Epoch(rows, read_s + learned_s, read_s, peak, _columns(definition, lake))
    sys.stdout.write(msgspec.json.encode(found).decode())


def _train(
    definition: Model, lake: Lake, training: TrainingSettings, learn_from: datetime | None
) -> tuple[int, float, float]:
    """Train, and give the rows that are learned from, and the seconds of reading and of learning them."""
    test_from = _END - timedelta(days=training.test_days)
    plan = Recipe(
        as_of=_END,
        learn_from=learn_from,
        validation_from=test_from - timedelta(days=training.validation_days) if learn_from is None else test_from,
        test_from=test_from,
        settings=training.flat(),
    )
    threads, clock, began = load_settings().train_threads, _Clock(), time.perf_counter()
    material = cut(definition, known_rows(definition, lake, "main", _END, learn_from), plan)
    read_s = time.perf_counter() - began
    train(definition, material, training, device="cpu", threads=threads, report=clock.report, checkpoints=clock)
    return len(material.train), read_s, clock.ended - clock.began


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
