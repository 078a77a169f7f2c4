"""Several processes that train one network: each takes its part of every batch (PyTorch's DistributedDataParallel).

`torchrun` starts them and says by environment variables who is who. They see the same batches as one process would, so
that the loss falls alike; sums are added in another order, which shows in the last digits.
"""

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from models.errors import DefinitionError


@dataclass(frozen=True, slots=True)
class World:
    """How many train together, and which one this is."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process reports and keeps what comes of it."""
        return self.rank == 0

    def share_of(self, batch: int, rows: int) -> int:
        """Say how many rows of a batch each takes, of so many rows in all. Raises: `DefinitionError`."""
        if batch % self.size:
            most = rows // self.size * self.size
            multiple = f"set training.batch_rows to a multiple of {self.size}, {most} at most, or " if most else ""
            raise DefinitionError(
                f"a batch has {batch} of the {rows} rows to learn from, which {self.size} processes cannot share "
                f"evenly: {multiple}start fewer"
            )
        return batch // self.size

    def wrap(self, network: nn.Module) -> nn.Module:
        """Have gradients averaged over all processes."""
        return nn.parallel.DistributedDataParallel(network) if self.size > 1 else network

    def mean(self, value: Tensor) -> Tensor:
        """Average a number over all processes."""
        if self.size > 1:
            distributed.all_reduce(value)
            value /= self.size
        return value

    def gather(self, value: Any) -> list[Any]:
        """Give every process's value, in their order."""
        found = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(found, value)
        return found

    def tell(self, value: Any) -> Any:
        """Give what the leading process has."""
        told = [value]
        if self.size > 1:
            distributed.broadcast_object_list(told)
        return told[0]


ALONE = World()


def current() -> World:
    """Say with whom this process trains."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
    return World(distributed.get_rank(), distributed.get_world_size())


def life(environment: Mapping[str, str]) -> str:
    """Name this start of the processes among their restarts.

    torchrun keeps one store over all restarts (PyTorch issue 135712); without a name of their own, processes that are
    started again look for each other at the addresses of those that have died. Restarts are counted by each machine
    for itself.
    """
    shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and environment.get("GROUP_WORLD_SIZE", "1") != "1" and environment["TORCHELASTIC_MAX_RESTARTS"] != "0":
        raise DefinitionError(
            "processes on several machines cannot be restarted with a store that torchrun shares among restarts; "
            "start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on each, or with --max-restarts 0"
        )
    return f"life {environment.get('TORCHELASTIC_RESTART_COUNT', '0')}" if shared else "life"


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join those that `torchrun` has started with this process.

    Raises: `DefinitionError` where several machines share a store in which an earlier life's addresses stand.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://"))
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=PrefixStore(life(os.environ), store), rank=rank, world_size=size)
    try:
        yield current()
    finally:
        # A replica that waits in a cycle to be collected keeps the group's threads until the process ends, which then
        # aborts now and then (PyTorch issue 190489).
        gc.collect()
        distributed.destroy_process_group()
