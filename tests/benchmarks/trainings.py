"""What every part of the benchmark of training is given."""

from pathlib import Path
from typing import NamedTuple


class Bench(NamedTuple):
    """Where it works, and how often it measures."""

    home: Path
    """Holds results, and the environments of other products."""
    place: Path
    """Where a part may write."""
    rounds: int
    """How often loops are compared after each start of theirs."""
    times: int
    """How often each model is trained again."""
