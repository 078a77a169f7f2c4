"""Train a registered version once more, in a process of its own.

    python -m flows.train_again MODEL VERSION REF FOLDER

`okruh reproduce` starts this, of the code that the version's card names, and may itself be of a much later commit: the
arguments, the lines of JSON on standard output that say how far it has come, and the bundle's files in FOLDER stay what
they are. Lake, device and threads are those of the settings; nothing else is read, and nothing else is written.
"""

import sys
from contextlib import redirect_stdout
from pathlib import Path

import msgspec

from flows.together import in_company
from flows.train import train_again
from models.errors import OkruhError


def main(model: str, version: str, ref: str, folder: str) -> None:
    """Train, and write what comes of it; several processes that `torchrun` has started write once."""
    told = sys.stdout
    with redirect_stdout(sys.stderr):  # what a network prints is no progress
        bundle = in_company(
            lambda: train_again(
                model,
                version,
                ref,
                lambda progress: print(msgspec.json.encode(progress).decode(), file=told, flush=True),
            )
        )
    if bundle is not None:
        for name, content in bundle.files().items():
            (Path(folder) / name).write_bytes(content)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OkruhError as error:
        print(f"okruh: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
