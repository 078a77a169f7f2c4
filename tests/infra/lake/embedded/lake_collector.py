"""A process that collects garbage of an embedded lake again and again, without any grace.

Argument: root of the lake. Prints a line after each round.
"""

import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from infra.lake.embedded.store import EmbeddedLake

if __name__ == "__main__":
    with closing(EmbeddedLake(Path(sys.argv[1]))) as lake:
        while True:
            sys.stdout.write(f"{lake.collect(timedelta(0)).objects}\n")
            sys.stdout.flush()
