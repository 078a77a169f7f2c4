"""A process that does one step of the circuit, to be killed in the middle of it.

Arguments: `train` or `promote`. It ingests what the step needs, prints `ready`, does the step and prints `done`.
"""

import sys
from datetime import UTC, datetime

from flows.ingest import ingest
from flows.orchestration import on_a_laptop
from flows.promote import promote
from flows.train import train
from models.catalog.taxi_eta import MODEL
from models.model import MonthlySample

MONTHS = ("2019-12", "2020-01", "2020-02")
LEARN_FROM = datetime(2019, 12, 1, 5, tzinfo=UTC)
AS_OF = datetime(2020, 3, 1, 5, tzinfo=UTC)
"""The moments at which these months begin and end in New York: what `okruh loop` learns from when it plays 2020-03."""


def main(step: str) -> None:
    """Do one step."""
    assert isinstance(MODEL.sample, MonthlySample)
    for month in MONTHS:
        ingest(MODEL.name, str(MODEL.sample.file(month)))
    if step == "promote":
        version = train(MODEL.name, AS_OF, learn_from=LEARN_FROM).version
        _say("ready")
        promote(MODEL.name, version, AS_OF)
    else:
        _say("ready")
        train(MODEL.name, AS_OF, learn_from=LEARN_FROM)
    _say("done")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with on_a_laptop():
        main(sys.argv[1])
