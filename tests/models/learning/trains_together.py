"""One of several processes that `torchrun` starts to train a network together.

Argument: a folder, for checkpoints and for what comes of it. In its first life the last process kills itself. Each
would measure another validation error, as of a network with running means.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from models.learning.devices import repeatable
from models.learning.examples import HeldRows
from models.learning.loop import NoCheckpoints, Progress, fit
from models.learning.world import joined
from tests.models.learning.together import AIM, CPU, SETTINGS, examples, network


class InFolder(NoCheckpoints):
    """Keeps one after each window."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkpoint"

    def load(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def due(self) -> bool:
        return True

    def save(self, content: bytes) -> None:
        self.path.with_suffix(".new").write_bytes(content)
        self.path.with_suffix(".new").replace(self.path)


def main(folder: Path) -> None:
    """Train; the leading process writes down how."""
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    with joined(CPU) as world, repeatable(SETTINGS.seed, threads=1):
        rows, held_out = HeldRows(examples(), CPU), HeldRows(examples()[50 * world.rank :][:50], CPU)

        def report(progress: Progress) -> None:
            if first_life and progress.step == 20 and world.rank == world.size - 1:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoints = InFolder(folder) if world.leads else NoCheckpoints()
        fitted = fit(network(), rows, held_out, AIM, SETTINGS, CPU, report=report, checkpoints=checkpoints, world=world)
        (folder / f"errors-{world.rank}.json").write_text(
            json.dumps([one["validation_error"] for one in fitted.epochs])
        )
        if world.leads:
            done = {"epochs": fitted.epochs, "resumed_at": fitted.resumed_at, "size": world.size}
            (folder / "done.json").write_text(json.dumps(done))
            torch.save(fitted.network.state_dict(), folder / "weights")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
