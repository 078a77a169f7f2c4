"""The files in which `prometheus_client` counts, one set a worker.

They lie in a folder of the service's own: BentoML's is one for all services of a `BENTOML_HOME`, and emptied whenever
one of them starts. A worker that starts goes on with the counts of one that is dead, so that no count is lost and a
scrape reads no more files however often workers die. What gauges say of the dead is removed.
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
        if other != folder and other.name.isdigit() and not _alive(int(other.name)):
            shutil.rmtree(other, ignore_errors=True)  # its other workers may do the same
    inherit(folder, os.getpid())
    forget_the_dead(folder, os.getpid())
    os.environ[_VARIABLE] = str(folder)
    return folder


def inherit(folder: Path, heir: int) -> None:
    """Have a worker that has not counted yet go on with the counts of a dead one, if there is one."""
    for kind in _COUNTS:
        mine = folder / f"{kind}_{heir}.db"
        for path in folder.glob(f"{kind}_*.db"):
            if not mine.exists() and not _alive(_worker(path)):
                with suppress(FileNotFoundError):  # another worker that starts was faster
                    path.rename(mine)


def forget_the_dead(folder: Path, newborn: int | None = None) -> None:
    """Remove the gauges of dead workers, and of one that had the id of a worker that has not counted yet."""
    for path in folder.glob("gauge_live*.db"):
        if _worker(path) == newborn or not _alive(_worker(path)):
            path.unlink(missing_ok=True)


def _worker(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True
