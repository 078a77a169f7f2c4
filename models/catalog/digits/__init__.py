"""`digits`: which digit an image of 8 x 8 pixels shows.

Data: "Optical recognition of handwritten digits" (E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998, CC BY
4.0), the 1,797 images of its test set as scikit-learn 1.7 bundles them. A pixel says how many of 4 x 4 dots are inked.
Images have no moment: rows are held out by what they hold.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from models.contract.columns import Category, Contract, Image
from models.learning.search import Choice, Floats, Integers
from models.learning.settings import TrainingSettings
from models.model import Model, Sample

if TYPE_CHECKING:
    from torch import nn

    from models.learning.examples import Examples

CONTRACT = Contract(
    features=(Image(name="image", height=8, width=8, minimum=0, maximum=16, unit="dots"),),
    target=Category(name="digit", values=tuple(range(10)), description="the digit that was written"),
    minimum_rows=100,
)


def make_network(train: "Examples", *, channels: int, dropout: float) -> "nn.Module":
    """Make a small convolutional network."""
    from models.learning.networks import ImageNetwork

    return ImageNetwork(CONTRACT, train, channels=channels, dropout=dropout)


MODEL = Model(
    name="digits",
    description="Which digit a small image shows.",
    contract=CONTRACT,
    table="images",
    network=make_network,
    network_settings={"channels": 32, "dropout": 0.2},
    search={
        "training.learning_rate": Floats(2e-4, 1e-2, log=True),
        "training.batch_rows": Choice((32, 64, 128)),
        "training.weight_decay": Floats(1e-4, 0.3, log=True),
        "network.channels": Integers(8, 64, step=8),
        "network.dropout": Floats(0.0, 0.5),
    },
    sample=Sample(folder=Path(__file__).parent / "images"),
    training=TrainingSettings(epochs=30, batch_rows=64, learning_rate=2e-3, patience=5),
)
