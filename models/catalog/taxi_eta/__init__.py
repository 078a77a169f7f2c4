"""`taxi_eta`: how many minutes a yellow-cab trip in New York will take, told when it starts.

Data: New York City Taxi & Limousine Commission trip records, a sample of 10,000 trips a month, 2018 to 2020, as
published with great-expectations 1.24.1 (Apache-2.0). The sample's distance is the driven one, known only at the end of
a trip; a real service would send the routed distance.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from models.contract.columns import Category, Contract, Number, Slice, Time, TimePart
from models.deciding.promotion import GateSettings
from models.deciding.retraining import RetrainingSettings
from models.learning.search import Choice, Floats, Integers
from models.learning.settings import TrainingSettings
from models.model import Model, MonthlySample
from models.watching.alarms import WatchSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from torch import nn

    from models.learning.examples import Examples

ZONES = tuple(range(1, 266))
NO_ZONE = 0
"""Stands for a missing zone in tables, so that its row is set apart as an unknown category."""

CONTRACT = Contract(
    time=Time(
        name="pickup_at",
        zone="America/New_York",
        parts=(TimePart.MINUTE_OF_DAY, TimePart.WEEKDAY, TimePart.MONTH),
        description="when the trip starts",
    ),
    features=(
        Category(name="pickup_zone", values=ZONES, description="TLC taxi zone where the trip starts"),
        Category(name="dropoff_zone", values=ZONES, description="TLC taxi zone where it will end"),
        Number(name="trip_miles", unit="miles", minimum=0.1, maximum=50, description="distance of the trip"),
        Number(name="passengers", unit="people", minimum=0, maximum=9, nullable=True),
    ),
    target=Number(name="trip_minutes", unit="minutes", minimum=1, maximum=120, description="from pickup to dropoff"),
    known="dropoff_at",
    checks=(Number(name="fare_usd", unit="USD", minimum=2.5, maximum=250, description="an odd fare is an odd trip"),),
    unique=("pickup_at", "dropoff_at", "pickup_zone", "dropoff_zone", "trip_miles", "fare_usd"),
    minimum_rows=1_000,
    maximum_refused=0.2,
    maximum_gap_days=5,
    slices=(
        Slice(column="pickup_at", part=TimePart.HOUR, edges=(6, 10, 16, 20)),
        Slice(column="trip_miles", edges=(1, 3, 8)),
    ),
)


def prepare(raw: "pd.DataFrame") -> "pd.DataFrame":
    """Rename the commission's columns and compute the minutes.

    They are minutes of the wall clock: the few trips a year during which clocks change are an hour off.
    """
    import pandas as pd

    pickup, dropoff = raw["pickup_datetime"], raw["dropoff_datetime"]
    return pd.DataFrame(
        {
            "pickup_at": pickup,
            "pickup_zone": raw["pickup_location_id"].fillna(NO_ZONE).astype("int64"),
            "dropoff_zone": raw["dropoff_location_id"].fillna(NO_ZONE).astype("int64"),
            "trip_miles": raw["trip_distance"].astype("float64").round(3),
            "passengers": raw["passenger_count"].astype("float64"),
            "trip_minutes": (dropoff - pickup).dt.total_seconds() / 60,
            "dropoff_at": dropoff,
            "fare_usd": raw["fare_amount"].astype("float64").round(2),
        }
    )


def make_network(train: "Examples", **settings: int) -> "nn.Module":
    """Make the network; its distance bins are quantiles of the training rows."""
    import torch

    from models.catalog.taxi_eta.network import EtaNetwork

    return EtaNetwork(torch.from_numpy(train.inputs.numbers_NF), torch.from_numpy(train.target_N), **settings)


def naive(train: "pd.DataFrame", rows: "pd.DataFrame") -> "npt.NDArray[np.float32]":
    """Mean speed by hour and distance: what one would compute without learning."""
    import numpy as np
    import pandas as pd

    edges = [0, 1, 2, 3, 5, 8, 12, 20, 51]

    def groups(table: "pd.DataFrame") -> "pd.DataFrame":
        return pd.DataFrame({"hour": table["pickup_at"].dt.hour, "miles": np.digitize(table["trip_miles"], edges)})

    sums = train[["trip_miles", "trip_minutes"]].groupby([groups(train)["hour"], groups(train)["miles"]]).sum()
    speed = (sums["trip_miles"] / sums["trip_minutes"]).rename("speed").reset_index()
    typical = train["trip_miles"].sum() / train["trip_minutes"].sum()
    found = groups(rows).merge(speed, how="left", on=["hour", "miles"])["speed"].fillna(typical)
    return np.asarray(rows["trip_miles"].to_numpy() / found.to_numpy(), dtype=np.float32)


MODEL = Model(
    name="taxi_eta",
    description="Minutes that a yellow-cab trip in New York will take, told when it starts.",
    contract=CONTRACT,
    table="trips",
    raw_columns={
        "pickup_datetime": "time",
        "dropoff_datetime": "time",
        "pickup_location_id": "integer",
        "dropoff_location_id": "integer",
        "trip_distance": "number",
        "passenger_count": "number",
        "fare_amount": "number",
    },
    prepare=prepare,
    network=make_network,
    # A row of the hidden layer's inputs has 112 numbers: processors multiply rows of 111 a quarter slower
    network_settings={"zone_size": 32, "hour_size": 24, "month_size": 5, "width": 160, "bins": 16, "heads": 2},
    search={
        "training.learning_rate": Floats(2e-3, 3e-2, log=True),
        "training.batch_rows": Choice((512, 1024, 2048)),
        "training.weight_decay": Floats(1e-4, 0.3, log=True),
        "training.embedding_rate": Floats(0.5, 8.0, log=True),
        "network.width": Integers(64, 512, step=32),
        "network.zone_size": Choice((16, 32, 64)),
        "network.bins": Integers(8, 48, step=8),
    },
    naive=naive,
    sample=MonthlySample(
        folder=Path(__file__).parent / "trips",
        file_name="trips_{month}.parquet",
        history_from="2018-01",
        play_from="2020-03",
        play_to="2020-12",
        caveat="The sample's distance is the driven one, known at the end of a trip; a real service would send the "
        "routed one.",
    ),
    training=TrainingSettings(epochs=12, weight_decay=0.05),
    gate=GateSettings(),
    watch=WatchSettings(ceiling=30),
    retraining=RetrainingSettings(),
)
