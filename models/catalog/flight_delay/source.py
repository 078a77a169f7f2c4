"""Where the flights come from: the npm package vega-datasets 3.2.1 (BSD-3-Clause), file data/flights-3m.parquet.

They are those of the United States from January to June 2001, of the Bureau of Transportation Statistics' record of
on-time performance: 3,000,000 of them. npm caches, and writes, nothing outside the folder that it is given.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from models.errors import SourceUnavailable

PACKAGE = "vega-datasets@3.2.1"
_FILE = "package/data/flights-3m.parquet"
_DIGEST = "dbeb920c90f59b6ccaff823dcc3d08f25a97fa1ce128d93f40be4e931f5900b0"
_SECONDS = 600
_FIRST, _LAST = "2001-01", "2001-06"


def fetch(folder: Path) -> None:
    """Fill a folder with a file for each month: `flights_2001-01.parquet` and so on.

    Raises: `SourceUnavailable`.
    """
    import pandas as pd

    instead = "or name a folder that has the files: `okruh ingest flight_delay FOLDER`"
    npm = shutil.which("npm")
    if npm is None:
        raise SourceUnavailable(
            f"flight_delay: its rows are in the npm package {PACKAGE}, and there is no npm: install Node.js, {instead}"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        place = Path(work)
        command = [npm, "pack", PACKAGE, "--ignore-scripts", "--pack-destination", work, "--cache", f"{work}/cache"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
        except subprocess.TimeoutExpired as error:
            raise SourceUnavailable(f"flight_delay: npm fetched no {PACKAGE} in {_SECONDS} s; {instead}") from error
        if done.returncode:
            said = " ".join(line for line in done.stderr.splitlines() if line.startswith("npm error"))[:300]
            raise SourceUnavailable(f"flight_delay: npm cannot fetch {PACKAGE} ({said}): try again, {instead}")
        (archive,) = place.glob("*.tgz")
        with tarfile.open(archive) as packed:
            if _FILE not in packed.getnames():
                raise SourceUnavailable(f"flight_delay: {PACKAGE} came without flights-3m.parquet; {instead}")
            packed.extract(_FILE, place, filter="data")
        file = place / _FILE
        if (digest := hashlib.sha256(file.read_bytes()).hexdigest()) != _DIGEST:
            raise SourceUnavailable(
                f"flight_delay: {PACKAGE} came with other flights (sha256 {digest[:12]}, not {_DIGEST[:12]}); {instead}"
            )
        table = pd.read_parquet(file)
    for month in pd.period_range(_FIRST, _LAST, freq="M"):
        flights = table[(table["date"] >= month.start_time) & (table["date"] <= month.end_time)]
        flights.to_parquet(folder / f"flights_{month}.parquet", index=False)
