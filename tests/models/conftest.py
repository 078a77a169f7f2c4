"""What the tests of models share: a definition that trains in a blink, and rows for it."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from models.contract.columns import Category, Contract, Number, Time, TimePart
from models.learning.blocks import replace_missing
from models.learning.examples import Examples
from models.learning.settings import TrainingSettings
from models.model import Model

RideMaker = Callable[..., pd.DataFrame]


class RideNetwork(nn.Module):
    """Takes every group of inputs, and no more than that."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = nn.Embedding(3, 4)
        self.hour = nn.Embedding(24, 4)
        self.hidden = nn.Linear(10, 16)
        self.answer = nn.Linear(16, 1)

    def forward(self, numbers: Tensor, categories: Tensor, time_parts: Tensor) -> Tensor:
        embedded = [self.kind(categories[:, 0]), self.hour(time_parts[:, 0])]
        row = torch.cat([replace_missing(numbers, 0.0) / 10.0, *embedded], dim=1)
        minutes: Tensor = self.answer(torch.relu(self.hidden(row))).squeeze(1)
        return minutes


def _network(train: Examples) -> nn.Module:
    return RideNetwork()


def _naive(train: pd.DataFrame, rows: pd.DataFrame) -> npt.NDArray[np.float32]:
    return np.full(len(rows), train["minutes"].mean(), dtype=np.float32)


@pytest.fixture(scope="session")
def ride_model() -> Model:
    """Minutes of a ride from its distance, load, kind and hour."""
    return Model(
        name="rides",
        description="Minutes that a ride takes.",
        contract=Contract(
            time=Time(name="starts_at", zone="America/New_York", parts=(TimePart.HOUR, TimePart.WEEKDAY)),
            features=(
                Number(name="distance", unit="km", minimum=0, maximum=100),
                Number(name="weight", unit="kg", minimum=0, maximum=50, nullable=True),
                Category(name="kind", values=("bike", "car")),
            ),
            target=Number(name="minutes", unit="min", minimum=0, maximum=1000),
            known="ends_at",
        ),
        table="rides",
        raw_columns={},
        prepare=lambda raw: raw,
        network=_network,
        naive=_naive,
        training=TrainingSettings(epochs=2, batch_rows=32),
    )


@pytest.fixture(scope="session")
def make_rides() -> RideMaker:
    """Make accepted rows: 2 x distance + weight (0 for null) + 10 for a car, with some noise."""

    def make(rows: int, seed: int = 0, start: str = "2020-01-01") -> pd.DataFrame:
        draw = np.random.default_rng(seed)
        distance, weight = draw.uniform(0, 30, rows), draw.uniform(0, 20, rows)
        weight[::5] = np.nan
        kind = draw.choice(["bike", "car"], rows)
        minutes = 2 * distance + np.nan_to_num(weight) + 10 * (kind == "car") + draw.normal(30, 1, rows)
        starts_at = pd.Series(pd.Timestamp(start) + pd.to_timedelta(np.arange(rows) * 17, unit="min")).dt.as_unit("us")
        return pd.DataFrame(
            {
                "starts_at": starts_at,
                "distance": distance,
                "weight": weight,
                "kind": kind.astype(object),
                "minutes": minutes,
                "ends_at": (starts_at + pd.to_timedelta(minutes, unit="min")).dt.as_unit("us"),
            }
        )

    return make
