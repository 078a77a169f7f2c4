"""What every part of the benchmark of training is given."""

from pathlib import Path
from typing import NamedTuple


class Bench(NamedTuple):
    """Where it works, and how often it measures."""

    home: Path
    """Holds results, and the environments of other products."""
    place: Path
    """Where a part may write."""
    starts: int
    """How often loops are started, since one start of the same program differs from the next."""
    rounds: int
    """How often they are compared after each."""
    times: int
    """How often each model is trained again."""
