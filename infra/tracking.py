"""Experiment tracking on Weights & Biases: offline by default, never in the way.

A training reports to a `Tracker` and never asks which one it has. Whatever goes wrong in the product (no network, full
disk, a stalled server) is logged once and tracking ends for that run; it never raises, for the lake and not the tracker
is the registry. Runs live in `OKRUH_HOME/wandb`, bytes of artifacts included; `wandb sync` uploads them later. Starting
a run offline costs about 0.7 s.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from infra.errors import Misconfigured
from infra.settings import Settings

logger = logging.getLogger(__name__)

Config = Mapping[str, object]


class Run(Protocol):
    """One tracked training."""

    @property
    def reference(self) -> str:
        """What finds the run again: the W&B run path, or empty."""
        ...

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add figures of a step; steps do not fall."""
        ...

    def finish(self, summary: Mapping[str, float], files: Mapping[str, bytes], failed: bool = False) -> None:
        """End the run; `files` become one artifact of type `model`."""
        ...


class Tracker(Protocol):
    """Starts runs."""

    def start(self, project: str, name: str, config: Config) -> Run:
        """Start one run; only one at a time in a process."""
        ...


class SilentTracker:
    """Tracks nothing (OKRUH_TRACKING=disabled)."""

    reference = ""

    def start(self, project: str, name: str, config: Config) -> Run:  # noqa: ARG002
        """Give a run that keeps nothing."""
        return self

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Keep nothing."""

    def finish(self, summary: Mapping[str, float], files: Mapping[str, bytes], failed: bool = False) -> None:
        """Keep nothing."""


class WandbTracker:
    """Tracks in Weights & Biases."""

    def __init__(self, folder: Path, mode: Literal["offline", "online"]) -> None:
        self._folder = folder
        self._mode = mode

    def start(self, project: str, name: str, config: Config) -> Run:
        """Start a run; a tracker that cannot start gives a silent one."""
        try:
            return _WandbRun(self._folder, self._mode, project, name, config)
        except Exception as error:  # noqa: BLE001 - an outage of the tracker never stops a training
            logger.warning("tracking is off for this run: %s", str(error).splitlines()[0] if str(error) else error)
            return SilentTracker()


class _WandbRun:
    def __init__(
        self, folder: Path, mode: Literal["offline", "online"], project: str, name: str, config: Config
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for variable in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
            os.environ[variable] = str(folder)
        os.environ.update(WANDB_SILENT="true", WANDB_ERROR_REPORTING="false", WANDB_CONSOLE="off")
        import wandb

        self._wandb = wandb
        settings = wandb.Settings(
            console="off",
            silent=True,
            x_disable_meta=True,
            save_code=False,
            disable_git=True,
            quiet=True,
            init_timeout=30,
            reinit="finish_previous",  # a training that was broken off must not take the next one's figures
        )
        self._run: Any = wandb.init(
            project=project, name=name, config=dict(config), dir=str(folder), mode=mode, settings=settings
        )
        self.reference = f"{project}/{self._run.id}"

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._try(lambda: self._run.log(dict(figures), step=step))

    def finish(self, summary: Mapping[str, float], files: Mapping[str, bytes], failed: bool = False) -> None:
        self._try(lambda: self._write(summary, files))
        self._try(lambda: self._run.finish(exit_code=int(failed)))

    def _write(self, summary: Mapping[str, float], files: Mapping[str, bytes]) -> None:
        self._run.summary.update(dict(summary))
        if not files:
            return
        artifact = self._wandb.Artifact(f"bundle-{self._run.id}", type="model")
        for name, content in files.items():
            with artifact.new_file(name, mode="wb") as file:
                file.write(content)
        self._run.log_artifact(artifact)

    def _try(self, action: Any) -> None:
        if self._run is None:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - an outage of the tracker never stops a training
            logger.warning("tracking stopped: %s", error)
            self._run = None


def make_tracker(settings: Settings) -> Tracker:
    """Choose a tracker. Raises: `Misconfigured` when `online` has no key."""
    if settings.tracking == "disabled":
        return SilentTracker()
    if settings.tracking == "online" and not os.environ.get("WANDB_API_KEY"):
        raise Misconfigured("OKRUH_TRACKING=online needs WANDB_API_KEY; set it, or use offline")
    return WandbTracker(settings.home / "wandb", settings.tracking)
