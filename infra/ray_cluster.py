"""Ray: trials of a search on several cores or machines, and what they and the search tell each other.

The search itself stays where it was started: it draws settings, judges how trials go, and keeps the records. A trial
tells it how far it is through one small actor on the cluster, and waits at each epoch's end to hear whether it shall
stop.

Without an address a cluster is started on this machine and ends with this process; all that it writes is below one
folder. Ray's sockets have long names in there, of which Linux allows a hundred letters: the folder is named by the
handle that this process has on it, which is short wherever the folder lies.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from infra.checkout import own_folder
from infra.errors import Misconfigured, Unavailable

NEEDED = "`--on ray` wants Ray, which is not installed: pip install -c constraints.txt -e '.[ray]'"

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Nothing is reported to Ray's makers."""


def check_installed() -> None:
    """Raise `Misconfigured` where the extra is missing."""
    if any(find_spec(name) is None for name in ("ray", "prefect_ray")):
        raise Misconfigured(NEEDED)


class Mailbox:
    """Passes on what trials say, and what is answered; an actor."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[tuple[int, Any, bool]] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[bool]] = {}

    async def say(self, number: int, progress: Any) -> None:
        """Take how far a trial is."""
        await self._said.put((number, progress, False))

    async def ask(self, number: int, progress: Any) -> bool:
        """Take how far a trial is, and give the answer whether it shall stop."""
        answer: asyncio.Future[bool]
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._said.put((number, progress, True))
        return await answer

    async def listen(self) -> tuple[int, Any, bool]:
        """Give what was said next: by which trial, what, and whether it waits for an answer."""
        return await self._said.get()

    async def answer(self, number: int, *, stop: bool) -> None:
        """Answer a trial."""
        self._answers.pop(number).set_result(stop)


class Messenger:
    """A trial's end of the line; travels to it."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def hear(self, number: int, progress: Any) -> bool:
        """Pass on how far a trial is; at an epoch's end, wait to hear whether it shall stop."""
        import ray

        if not progress.ends_epoch:
            self._mailbox.say.remote(number, progress)
            return False
        stops: bool = ray.get(self._mailbox.ask.remote(number, progress))
        return stops


class Line:
    """The search's end of the line."""

    def __init__(self, mailbox: Any, device: str, room: int) -> None:
        self._mailbox = mailbox
        self._next: Any = None
        self.device = device
        """Where trials are trained."""
        self.room = room
        """Trials that the cluster can run at a time."""
        self.messenger = Messenger(mailbox)

    def wait(self, running: Iterable[Any]) -> tuple[int, Any, bool] | Any:
        """Give what a trial says next, `(number, progress, whether it waits)`, or the reference of one that has ended.

        Args:
            running: references of what trials will give.
        """
        import ray

        self._next = self._next or self._mailbox.listen.remote()
        ready, _ = ray.wait([self._next, *running], num_returns=1)
        if ready[0] != self._next:
            return ready[0]
        said, self._next = ray.get(self._next), None
        return said

    def answer(self, number: int, *, stop: bool) -> None:
        """Answer a trial that waits."""
        self._mailbox.answer.remote(number, stop=stop)

    def is_lost(self, error: BaseException) -> bool:
        """Say whether it is the process of a trial, or its machine, that has gone."""
        import ray

        gone = ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError
        return isinstance(error, gone)


@contextmanager
def joined(
    address: str | None, folder: Path, variables: Mapping[str, str], *, threads: int, device: str
) -> Iterator[Line]:
    """Join a cluster, or start one on this machine, for as long as the block runs.

    Args:
        address: of a cluster; None: one is started.
        folder: where a started one keeps its files; it is removed afterwards, or the next time.
        variables: what processes of trials find in their environment.
        threads: cores that a trial takes.
        device: where it is trained; `auto`: on a GPU where the cluster has any.

    Raises: `Misconfigured` where no trial has room, `Unavailable` where the cluster does not answer.
    """
    check_installed()
    os.environ.update(_QUIET)
    if address is None:  # its ports are open to other machines, which without the token can run nothing there
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray  # which reads these variables once

    common = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": {**_QUIET, **variables}}}
    with _place(folder) as place, redirect_stdout(sys.stderr):  # Ray prints there what befalls trials
        try:
            ray.init(
                **common, **({"address": address} if address else {"include_dashboard": False, "_temp_dir": place})
            )
        except (ConnectionError, OSError, RuntimeError, TimeoutError) as error:
            where = f"at {address}" if address else f"on this machine, in {folder}"
            raise Unavailable(f"Ray does not answer {where}: {str(error).splitlines()[0]}") from error
        try:
            has = ray.cluster_resources()
            if device == "auto":
                device = "cuda" if has.get("GPU", 0) else "cpu"
            room = _room(has, threads, gpus_of(device))
            yield Line(ray.remote(num_cpus=0)(Mailbox).remote(), device, room)
        finally:
            ray.shutdown()


def gpus_of(device: str) -> int:
    """Say how many GPUs a trial takes."""
    return int(device == "cuda")


def _room(resources: Mapping[str, float], threads: int, gpus: int) -> int:
    """Say how many trials fit beside each other. Raises: `Misconfigured` where none does."""
    wants = {"CPU": threads, "GPU": gpus}
    room = [int(resources.get(name, 0) // wanted) for name, wanted in wants.items() if wanted]
    if not min(room):
        has = ", ".join(f"{resources.get(name, 0):g} {name}" for name in wants)
        wanted = ", ".join(f"{wanted} {name}" for name, wanted in wants.items() if wanted)
        raise Misconfigured(
            f"no trial has room on the Ray cluster: it has {has}, and a trial wants {wanted}; change "
            "OKRUH_TRAIN_THREADS or OKRUH_DEVICE, or add machines"
        )
    return min(room)


@contextmanager
def _place(parent: Path) -> Iterator[str]:
    """Give a short name of a folder of our own, good for as long as the block runs."""
    with own_folder(parent, "ray") as folder:
        if sys.platform != "linux":
            yield str(folder)
            return
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/{os.getpid()}/fd/{handle}"
        finally:
            os.close(handle)
