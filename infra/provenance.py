"""Which code and which environment are running: what ties a bundle to them."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "infra", "flows")
"""Folders of the sources that decide a step's result."""

_CATALOG = Path("models", "catalog")
"""What lies there, its own `__init__.py` aside, decides the results of one model alone, whose bundles keep it."""


@cache
def source_digest(definition: tuple[tuple[str, bytes], ...] = (), root: Path = ROOT) -> str:
    """Digest of the Python sources that decide a step's result (16 hexadecimal digits).

    Args:
        definition: paths and contents of the files of a model's definition.
        root: where the sources are.
    """
    digest = hashlib.sha256()
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    paths = [path for path in (file.relative_to(root) for file in files) if not _is_of_one_model(path)]
    own = ((path.as_posix(), (root / path).read_bytes()) for path in paths)
    for path, content in chain(own, definition):
        digest.update(path.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()[:16]


@cache
def distributions() -> tuple[str, ...]:
    """List the installed distributions, `name==version` each, in order."""
    # What a package brings for itself is installed nowhere: `torch.compile` has setuptools put its copies on the path
    places = [place for place in sys.path if Path(place).name != "_vendor"]
    notes = [found.metadata for found in metadata.distributions(path=places)]
    # An installation that was broken off leaves a folder that names nothing
    return tuple(sorted({f"{note['Name'].lower()}=={note['Version']}" for note in notes if "Name" in note}))


def environment_digest() -> str:
    """Digest of the installed distributions and their versions (16 hexadecimal digits)."""
    return hashlib.sha256("\n".join(distributions()).encode()).hexdigest()[:16]


def changes(then: Sequence[str], now: Sequence[str]) -> tuple[str, ...]:
    """Say, a line each, which distributions are there in another version, or in one of two environments alone."""
    before, after = _by_name(then), _by_name(now)
    return tuple(
        f"{name} {before.get(name, 'absent')} then, {after.get(name, 'absent')} now"
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    )


def _by_name(installed: Sequence[str]) -> dict[str, str]:
    """Give versions by name; of a name that is installed twice, both."""
    found: dict[str, str] = {}
    for one in installed:
        name, _, version = one.partition("==")
        found[name] = f"{found[name]} and {version}" if name in found else version
    return found


@cache
def code_commit(beside: frozenset[Path] = frozenset(), root: Path = ROOT) -> str:
    """git commit of the checkout, `+dirty` when files differ or sources are untracked; `unknown` outside a checkout.

    Definitions do not count, for bundles keep them, committed or not; what bundles keep no part of does: `beside`, the
    files that a model's definition consists of as well. Sources that are installed somewhere within another project's
    checkout are not part of it.
    """
    try:
        if not git(root, "ls-files", *PACKAGES):
            return "unknown"
        commit = git(root, "rev-parse", "HEAD")
        changed = git(root, "diff", "--name-only", "-z", "--relative", "HEAD")
        sources = (f"{name}/*.py" for name in PACKAGES)
        untracked = git(root, "ls-files", "--others", "--exclude-standard", "-z", *sources)
        paths = map(Path, filter(None, f"{changed}\0{untracked}".split("\0")))
        dirty = any(not _is_of_one_model(path) or root / path in beside for path in paths)
        return f"{commit}+dirty" if dirty else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _is_of_one_model(path: Path) -> bool:
    return path.is_relative_to(_CATALOG) and path != _CATALOG / "__init__.py"


def git(root: Path, *arguments: str, **variables: str) -> str:
    """Run git on a checkout and give what it prints. Raises: `OSError`, `CalledProcessError`."""
    done = subprocess.run(  # noqa: S603
        ["git", "-C", str(root), *arguments],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )
    return done.stdout.strip()
