"""`flight_delay`: whether a flight in the United States will arrive 15 minutes late or more, told when it departs.

Data: see `source`. What counts as late is the Bureau of Transportation Statistics' rule. The times in the record are
those at which flights departed, by the clock of their airport; the contract has one clock for all, and takes them for
the Eastern one.
"""

from typing import TYPE_CHECKING

from models.catalog.flight_delay.source import fetch
from models.contract.columns import Category, Contract, Number, Slice, Time, TimePart
from models.learning.search import Choice, Floats, Integers
from models.learning.settings import TrainingSettings
from models.model import Fetched, Model

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from torch import nn

    from models.learning.examples import Examples

LATE_MINUTES = 15

_CODES = """
ABE ABI ABQ ACT ACY ADQ AKN ALB AMA ANC APF ATL AUS AVL AVP AZO BDL BET BFL BGM BGR BHM BIL BIS BMI BNA BOI BOS
BPT BQN BRO BRW BTR BTV BUF BUR BWI BZN CAE CAK CDV CHA CHS CID CLE CLL CLT CMH CMI COS CRP CRW CVG DAB DAL DAY
DBQ DCA DEN DFW DLG DLH DRO DSM DTW DUT EGE ELM ELP ERI EUG EVV EWR EYW FAI FAR FAT FAY FCA FLL FNT FSD FSM FWA
GEG GFK GGG GPT GRB GRR GSO GSP GST GTF GUC HDN HLN HNL HOU HPN HRL HSV IAD IAH ICT ILE ILM IND ISP ITH ITO JAC
JAN JAX JFK JNU KOA KTN LAN LAS LAW LAX LBB LEX LFT LGA LGB LIH LIT LNK LRD LSE LWB MAF MBS MCI MCO MDT MDW MEM
MFE MFR MHT MIA MKE MLB MLI MLU MOB MOT MQT MRY MSN MSO MSP MSY MTJ MYR OAK OGG OKC OMA OME ONT ORD ORF ORH OTZ
PBI PDX PHL PHX PIA PIT PNS PSC PSG PSP PVD PWM RAP RDU RIC RNO ROA ROC RST RSW SAN SAT SAV SBA SBN SBP SCC SDF
SEA SFO SGF SHV SIT SJC SJT SJU SLC SMF SNA SPS SRQ STL STT STX SUX SWF SYR TLH TOL TPA TRI TUL TUS TVC TXK TYR
TYS VPS WRG XNA YAK
"""
AIRPORTS = tuple(_CODES.split())

CONTRACT = Contract(
    time=Time(
        name="departed_at",
        zone="America/New_York",
        parts=(TimePart.MINUTE_OF_DAY, TimePart.WEEKDAY),
        description="when the flight departed, by the airport's clock",
    ),
    features=(
        Category(name="origin", values=AIRPORTS, description="IATA code of the airport it left"),
        Category(name="destination", values=AIRPORTS, description="IATA code of the airport it is bound for"),
        Number(name="distance", unit="miles", minimum=10, maximum=6000, description="between the two"),
    ),
    target=Category(name="late", values=(0, 1), description="1: it arrives 15 minutes after its schedule or later"),
    checks=(Number(name="delay_minutes", unit="minutes", minimum=-180, maximum=1800, description="of the arrival"),),
    minimum_rows=10_000,
    maximum_refused=0.01,
    slices=(
        Slice(column="departed_at", part=TimePart.HOUR, edges=(6, 12, 18)),
        Slice(column="departed_at", part=TimePart.WEEKDAY),
        Slice(column="distance", edges=(250, 500, 1000, 2000)),
        Slice(column="origin"),
    ),
)


def prepare(raw: "pd.DataFrame") -> "pd.DataFrame":
    """Name the record's columns, and say which flights were late."""
    import pandas as pd

    return pd.DataFrame(
        {
            "departed_at": raw["date"],
            "origin": raw["origin"],
            "destination": raw["destination"],
            "distance": raw["distance"].astype("float64"),
            "late": (raw["delay"] >= LATE_MINUTES).astype("int64"),
            "delay_minutes": raw["delay"].astype("float64"),
        }
    )


def make_network(train: "Examples", *, width: int, layers: int, dropout: float) -> "nn.Module":
    """Make a network that embeds airports, the minute of the day and the distance."""
    from models.learning.networks import TabularNetwork

    return TabularNetwork(CONTRACT, train, width=width, layers=layers, dropout=dropout)


def naive(train: "pd.DataFrame", rows: "pd.DataFrame") -> "npt.NDArray[np.float32]":
    """How many were late of those that departed in the same hour: what one would count without learning."""
    import numpy as np

    late = train["late"].groupby(train["departed_at"].dt.hour).mean()
    found = rows["departed_at"].dt.hour.map(late).fillna(train["late"].mean()).to_numpy(np.float32)
    return np.stack([1 - found, found], axis=1)


MODEL = Model(
    name="flight_delay",
    description="Whether a flight will arrive 15 minutes late or more, told when it departs.",
    contract=CONTRACT,
    table="flights",
    raw_columns={
        "date": "time",
        "delay": "integer",
        "distance": "number",
        "origin": "text",
        "destination": "text",
    },
    prepare=prepare,
    network=make_network,
    network_settings={"width": 64, "layers": 2, "dropout": 0.0},
    search={
        "training.learning_rate": Floats(5e-4, 2e-2, log=True),
        "training.batch_rows": Choice((2048, 4096, 8192)),
        "training.weight_decay": Floats(1e-4, 0.3, log=True),
        "training.embedding_rate": Floats(0.5, 8.0, log=True),
        "network.width": Integers(32, 256, step=32),
        "network.layers": Integers(1, 4),
        "network.dropout": Floats(0.0, 0.3),
    },
    naive=naive,
    sample=Fetched(
        fetch=fetch,
        caveat="Departures are by the clock of each airport, and taken for Eastern time.",
    ),
    training=TrainingSettings(
        epochs=3, batch_rows=4096, learning_rate=4e-3, patience=2, validation_days=7, test_days=14
    ),
)
