"""Which code and environment are running: the same while nothing changes, another when something does."""

import subprocess
from pathlib import Path

from infra import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_checkout(folder: Path) -> Path:
    """A checkout with one source file."""
    (folder / "models").mkdir()
    (folder / "models" / "a.py").write_text("a = 1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_says_the_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    commit = git(checkout, "rev-parse", "HEAD")

    clean = provenance.code_commit(checkout)
    (checkout / "models" / "a.py").write_text("a = 2\n")
    provenance.code_commit.cache_clear()

    assert clean == commit
    assert provenance.code_commit(checkout) == f"{commit}+dirty"


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path) -> None:
    assert provenance.code_commit(tmp_path) == "unknown"


def test_the_sources_digest_follows_names_and_contents(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    digests = [provenance.source_digest(checkout)]
    (checkout / "models" / "a.py").write_text("a = 2\n")
    provenance.source_digest.cache_clear()
    digests.append(provenance.source_digest(checkout))
    (checkout / "models" / "a.py").rename(checkout / "models" / "b.py")
    provenance.source_digest.cache_clear()
    digests.append(provenance.source_digest(checkout))

    assert len(set(digests)) == 3
    assert all(len(digest) == 16 for digest in digests)


def test_the_environments_digest_is_stable() -> None:
    first = provenance.environment_digest()
    provenance.environment_digest.cache_clear()

    assert provenance.environment_digest() == first
