"""A process that writes to an embedded lake and prints the id of each acknowledged commit.

Arguments: root of the lake, name of the writer, number of transactions. Prints `ready` before it opens the lake.
"""

import secrets
import sys
from contextlib import closing
from pathlib import Path

from infra.lake.embedded.store import EmbeddedLake
from infra.lake.protocol import MAIN
from infra.lake.transaction import transaction


def write(root: Path, name: str, count: int) -> None:
    """Make transactions of a content of their own and of one that changes each time."""
    _say("ready")
    with closing(EmbeddedLake(root)) as lake:
        for number in range(count):
            with transaction(lake, MAIN, "change", {"writer": name}) as work:
                work.put(f"data/{name}/{number}", secrets.token_bytes(2000))
                work.put(f"rollout/{name}", secrets.token_bytes(20))
            assert work.committed is not None
            _say(work.committed.id)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
