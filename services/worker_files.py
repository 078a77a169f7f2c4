"""The files in which `prometheus_client` counts, one set a worker.

They lie in a folder of the service's own: BentoML's is one for all services of a `BENTOML_HOME`, and emptied whenever
one of them starts. A worker that starts goes on with the counts of one that is dead, so that no count is lost and a
scrape reads no more files however often workers die; the gauges of the dead are removed.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_COUNTS = ("counter", "histogram", "summary")


def prepare() -> Path | None:
    """Make this worker's place ready, before it counts anything; None where there are no other workers."""
    given = os.environ.get(_VARIABLE)
    if given is None:
        return None
    services = Path(given).with_name("okruh_metrics")
    folder = services / str(os.getppid())
    folder.mkdir(parents=True, exist_ok=True)
    for other in services.iterdir():
        if other != folder and not _alive(int(other.name)):
            shutil.rmtree(other, ignore_errors=True)  # its other workers may do the same
    inherit(folder, os.getpid())
    os.environ[_VARIABLE] = str(folder)
    return folder


def inherit(folder: Path, heir: int) -> None:
    """Remove the gauges of dead workers, and have `heir` go on with the counts of one of them."""
    files = {path: int(path.stem.rpartition("_")[2]) for path in folder.glob("*.db")}
    left = [path for path, worker in files.items() if worker == heir or not _alive(worker)]
    for path in left:
        kind = path.stem.partition("_")[0]
        mine = path.with_name(f"{kind}_{heir}.db")
        with suppress(FileNotFoundError):  # another worker that starts was faster
            if path.name.startswith("gauge_live"):
                path.unlink()
            elif kind in _COUNTS and not mine.exists():
                path.rename(mine)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
