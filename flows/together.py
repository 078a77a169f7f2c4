"""Training by several processes, on one machine or more, that `torchrun` has started: one leads, the others take part.

The leading process runs the flow, and what it trains is trained by all. Where it finds a training that was done before,
or ends, so do they. If one fails or is killed, `torchrun` ends them all, and starts them again where it was told to
(`--max-restarts`); they go on from the leading process's last checkpoint.
"""

import os
from collections.abc import Callable
from typing import TypeVar

from infra.errors import Misconfigured

R = TypeVar("R")


def processes() -> int:
    """Say how many processes `torchrun` has started. Raises: `Misconfigured`."""
    said = os.environ.get("WORLD_SIZE", "1")
    if not (said.isascii() and said.isdigit() and int(said)):
        raise Misconfigured(
            f"WORLD_SIZE is {said!r}, which is no number of processes; leave it to `torchrun` to set it"
        )
    return int(said)


def in_company(run: Callable[[], R]) -> R | None:
    """Run a flow, in the leading process where there are more; the others take part, and give None."""
    if (count := processes()) == 1:
        return run()
    _check_told(count)
    from flows.train import take_part
    from infra.settings import load_settings
    from models.learning.devices import choose_device
    from models.learning.world import joined

    with joined(choose_device(load_settings().device)) as world:
        if world.leads:
            done = run()
            world.tell(None)
            return done
        while (task := world.tell(None)) is not None:
            take_part(task)
    return None


def _check_told(count: int) -> None:
    """Refuse to be one of several without what `torchrun` tells each. Raises: `Misconfigured`."""
    below = {"RANK": count, "LOCAL_RANK": count, "MASTER_PORT": 2**16}
    for name in (*below, "MASTER_ADDR"):
        said = os.environ.get(name, "")
        is_number = said.isascii() and said.isdigit()
        if not said or (name in below and not (is_number and int(said) < below[name])):
            raise Misconfigured(
                f"WORLD_SIZE says that {count} processes train together, but {name} is "
                f"{repr(said) if said else 'not set'}; have `torchrun` start them, which tells each all of that"
            )
