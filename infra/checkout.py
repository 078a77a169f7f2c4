"""Code of a commit, in a folder of its own, for as long as it is needed."""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from infra.errors import Unavailable
from infra.provenance import PACKAGES, ROOT, git

_COMMIT = re.compile("[0-9a-f]{40}([0-9a-f]{24})?")


@contextmanager
def own_folder(parent: Path, purpose: str) -> Iterator[Path]:
    """Give an empty folder that is removed after the block, and remove those that killed processes have left."""
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with _locked(parent):  # so that nobody takes a folder that is not held yet for one that was left
            for left in parent.glob(f"{purpose}-*"):
                _remove_left(left)
            folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=parent))
            held.enter_context(_locked(folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def _remove_left(folder: Path) -> None:
    with suppress(FileNotFoundError), _locked(folder, wait=False) as is_left:  # its owner may be removing it
        if is_left:
            shutil.rmtree(folder)


@contextmanager
def _locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a folder; without waiting, give whether it is held now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def find_commit(name: str, root: Path = ROOT) -> str | None:
    """Give the id of a commit by its id, or by what else git calls it; None where the checkout knows none."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except (OSError, subprocess.CalledProcessError):
        return None


def is_commit_id(text: str) -> bool:
    """Say whether a text is the whole id of a commit."""
    return _COMMIT.fullmatch(text) is not None


def first_commit_with(file: str, root: Path = ROOT) -> str | None:
    """Give the commit that added a file to what is checked out; None where there is none."""
    try:
        commits = git(root, "log", "--diff-filter=A", "--format=%H", "--", file).split()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commits[-1] if commits else None


def check_out(commit: str, folder: Path, root: Path = ROOT) -> None:
    """Write a commit's files into an empty folder; the checkout itself stays as it is. Raises: `Unavailable`."""
    try:
        # As a checkout does it, eol and filters included, with an index that is not the checkout's own
        top, within = git(root, "rev-parse", "--show-toplevel"), git(root, "rev-parse", "--show-prefix")
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            index = str(Path(beside) / "index")
            git(Path(top), "read-tree", f"{commit}:{within}", GIT_INDEX_FILE=index)
            git(Path(top), "checkout-index", "--all", f"--prefix={folder}/", GIT_INDEX_FILE=index)
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())
        raise Unavailable(f"git cannot check out {commit}: {reason}; see `git -C {root} fsck`") from error


def copy_sources(folder: Path, root: Path = ROOT) -> None:
    """Copy the sources that run here into a folder."""
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
