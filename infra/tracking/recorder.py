"""The process that records one run in Weights & Biases, apart from the training, which it can neither hold up nor end.

It is told what to record on its standard input (`infra.tracking.messages`), and says on standard output, a line each,
what went wrong. Nothing of the product runs in the training's process: where the product hangs, this one is killed.

Every run is recorded offline, into a folder that is whole whatever the network does. Online, a further process sends
it meanwhile (`wandb beta sync --live`), some seconds late; what it has not sent at the end, `wandb sync` sends later.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.tracking.messages import Figures, Finish, Outcome, Score, Start, read

_STATISTICS_S = 5.0
"""Seconds between looks at the machine."""
_LOOK_S = 0.5
STARTED, FINISHED = "started", "finished"
"""What is said when the product has taken the run, and when it has ended it; all else is trouble."""


class _Recording:
    """One run in the product."""

    def __init__(self, start: Start, say: Callable[[str], None]) -> None:
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            quiet=True,
            x_disable_meta=True,
            save_code=False,
            disable_git=True,
            x_stats_pid=start.watched,
            x_stats_sampling_interval=_STATISTICS_S,
        )
        self._wandb = wandb
        self._start, self._say = start, say
        self._run: Any = wandb.init(
            project=start.project,
            id=start.id,
            name=start.name,
            config=start.config,
            group=start.group,
            job_type="training" if start.group is None else "trial",
            dir=start.folder,
            mode="offline",
            settings=settings,
        )
        self._place = Path(self._run.dir).parent
        self._sending = _send(self._place) if start.mode == "online" else None

    def log(self, message: Figures) -> None:
        self._run.log(message.figures, step=message.step)

    def finish(self, outcome: Outcome | Score | None) -> None:
        """End the run; what cannot be kept of the outcome costs neither the rest nor the figures."""
        if outcome is not None:
            self._run.summary.update(outcome.summary)
        if isinstance(outcome, Outcome):
            self._try("the bundle is not kept", self._keep, outcome)
            self._try("plots are not kept", self._plot, outcome)
        self._run.finish(exit_code=int(outcome is None))
        if self._sending is not None:
            self._sending.wait()
            if not list(self._place.glob("*.wandb.synced")):
                self._say(f"the run is not sent whole; `wandb sync {self._place}` sends it")
            elif isinstance(outcome, Outcome) and outcome.warm_start is not None:
                self._try("the warm start is not linked", self._use, outcome)

    def _try(self, otherwise: str, part: Callable[[Outcome], None], outcome: Outcome) -> None:
        try:
            part(outcome)
        except Exception as error:  # noqa: BLE001 - the product may raise anything
            self._say(f"{otherwise}: {_reason(error)}")

    def _keep(self, outcome: Outcome) -> None:
        artifact = self._wandb.Artifact(outcome.model, type="model", metadata={"version": outcome.version})
        for name, content in outcome.files.items():
            with artifact.new_file(name, mode="wb") as file:
                file.write(content)
        for name, uri in outcome.references.items():
            artifact.add_reference(uri, name=f"lake/{name}", checksum=False)
        self._run.log_artifact(artifact, aliases=["latest", outcome.version])

    def _plot(self, outcome: Outcome) -> None:
        for title, bars in outcome.plots.items():
            table = self._wandb.Table(columns=["value", title], data=[list(bar) for bar in bars.items()])
            self._run.log({title: self._wandb.plot.bar(table, "value", title, title=title)})

    def _use(self, outcome: Outcome) -> None:
        """Say which artifact the run started from; the product takes that online alone, and of a run that it has."""
        api, start = self._wandb.Api(), self._start
        used = api.artifact(f"{start.project}/{outcome.model}:{outcome.warm_start}")
        api.run(f"{start.project}/{start.id}").use_artifact(used)


def _send(place: Path) -> "subprocess.Popen[bytes]":
    """Send a run while it is recorded, until its end."""
    return subprocess.Popen(  # noqa: S603 (the product's own command)
        [sys.executable, "-P", "-m", "wandb", "beta", "sync", "--live", str(place)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class _Pipes:
    """What is told and said, out of the product's reach: its own processes would keep both pipes open."""

    def __init__(self) -> None:
        self.told, self._said = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w")
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(nothing, number)

    def say(self, line: str) -> None:
        """Tell the training, where it has not gone."""
        with suppress(BrokenPipeError):
            print(line, file=self._said, flush=True)


def record() -> None:
    """Record what standard input tells."""
    pipes = _Pipes()
    messages = read(pipes.told)
    start = next(messages, None)
    if not isinstance(start, Start):
        return
    threading.Thread(target=_end_after, args=(start,), daemon=True).start()
    try:
        recording = _Recording(start, pipes.say)
        pipes.say(STARTED)
        for message in messages:
            if isinstance(message, Figures):
                recording.log(message)
            elif isinstance(message, Finish):
                recording.finish(message.outcome)
                break
        else:
            recording.finish(None)  # the training was broken off
        pipes.say(FINISHED)
    except Exception as error:  # noqa: BLE001 - the product may raise anything
        pipes.say(f"nothing more is recorded of this run: {_reason(error)}")
        os._exit(1)  # what the product would do at exit may hang as well


def _end_after(start: Start) -> None:
    """End this process, and the one that sends, some time after the training's one, wherever the product hangs."""
    while os.getppid() == start.watched:
        time.sleep(_LOOK_S)
    time.sleep(start.wait_s)
    os.killpg(0, signal.SIGKILL)


def _reason(error: Exception) -> str:
    return " ".join((str(error).splitlines() or [type(error).__name__])[0].split())


def environment(folder: Path) -> dict[str, str]:
    """Give the variables that keep what the product writes below a folder, and have it be quiet.

    Its temporary files lie in the working directory: by a longer name its sockets could not be opened (a hundred
    letters or so), and the use of the machine would not be recorded.
    """
    places = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR")
    quiet = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_CONSOLE": "off"}
    return {place: str(folder) for place in places} | {"TMPDIR": "."} | quiet


if __name__ == "__main__":
    record()
