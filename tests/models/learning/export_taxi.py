"""Exports an untrained network of `taxi_eta`: run as a program, it writes the graph to the path that it is given."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.catalog.taxi_eta import CONTRACT
from models.catalog.taxi_eta.network import EtaNetwork
from models.contract.columns import Contract
from models.inference import GraphInputs
from models.learning.export import trace
from models.learning.preprocessing import Prepared, prepare


def columns(rows: int) -> GraphInputs:
    """Make raw columns that the contract allows."""
    draw = np.random.default_rng(0)
    passengers = draw.integers(0, 9, rows).astype(np.float32)
    passengers[::3] = np.nan
    return {
        "pickup_at": draw.integers(1_500_000_000, 1_700_000_000, rows),
        "pickup_zone": draw.integers(1, 266, rows),
        "dropoff_zone": draw.integers(1, 266, rows),
        "trip_miles": draw.uniform(0.1, 50, rows).astype(np.float32),
        "passengers": passengers,
    }


def network() -> EtaNetwork:
    """Make the same weights each time, correction included."""
    torch.manual_seed(0)
    numbers_N2 = torch.rand(200, 2) * 10 + 0.1
    sizes = {"zone_size": 32, "hour_size": 24, "month_size": 4, "width": 256, "bins": 16, "heads": 2}
    made = EtaNetwork(numbers_N2, numbers_N2[:, 0] * 5, **sizes)
    torch.nn.init.normal_(made.weight, std=0.1)
    return made.eval()


def graph_of(network: nn.Module, contract: Contract, example: Prepared) -> bytes:
    """Trace a network and write it."""
    return trace(network, contract, example).graph(network)


def exported() -> bytes:
    """Export it."""
    return graph_of(network(), CONTRACT, prepare(CONTRACT, columns(8)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1]).write_bytes(exported())
