"""Several processes that train one network: each takes its part of every batch (PyTorch's DistributedDataParallel).

`torchrun` starts them and says by environment variables who is who. They see the same batches as one process would, so
that the loss falls alike; sums are added in another order, which shows in the last digits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

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

    def share_of(self, batch: int) -> int:
        """Say how many rows of a batch each takes. Raises: `DefinitionError`."""
        if batch % self.size:
            raise DefinitionError(
                f"training.batch_rows: {batch} rows cannot be shared evenly by {self.size} processes; "
                f"choose a multiple of {self.size}"
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


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join those that `torchrun` has started with this process."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield current()
    finally:
        distributed.destroy_process_group()
