"""Which code and environment are running: the same while nothing changes, another when something does."""

import hashlib
import sys
from importlib import metadata
from pathlib import Path

import pytest

from infra import provenance
from tests.checkouts import git, make_checkout, nobodys_git

__all__ = ["nobodys_git"]  # a fixture


def test_says_the_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    commit = git(checkout, "rev-parse", "HEAD")

    clean = provenance.code_commit(root=checkout)
    (checkout / "models" / "a.py").write_text("a = 2\n")
    provenance.code_commit.cache_clear()

    assert clean == commit
    assert provenance.code_commit(root=checkout) == f"{commit}+dirty"


def test_a_file_that_is_not_tracked_leaves_a_checkout_clean(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    (checkout / "notes.txt").write_text("remember\n")

    assert provenance.code_commit(root=checkout) == git(checkout, "rev-parse", "HEAD")


def test_a_source_that_is_not_tracked_makes_a_checkout_dirty(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    (checkout / "models" / "contract").mkdir()
    (checkout / "models" / "contract" / "mine.py").write_text("a = 3\n")

    assert provenance.code_commit(root=checkout) == f"{git(checkout, 'rev-parse', 'HEAD')}+dirty"


def test_definitions_that_are_changed_or_not_tracked_leave_a_checkout_clean_for_bundles_keep_them(
    tmp_path: Path,
) -> None:
    checkout = make_checkout(tmp_path)
    definition = checkout / "models" / "catalog" / "theirs" / "__init__.py"
    definition.parent.mkdir(parents=True)
    definition.write_text("a = 1\n")
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "a definition")
    definition.write_text("a = 2\n")
    (checkout / "models" / "catalog" / "mine.py").write_text("a = 3\n")

    assert provenance.code_commit(root=checkout) == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("path", ["models/catalog/theirs/zones.csv", "models/catalog/__init__.py"])
def test_what_no_bundle_keeps_of_a_definition_makes_a_checkout_dirty(tmp_path: Path, path: str) -> None:
    checkout = make_checkout(tmp_path)
    file = checkout / path
    file.parent.mkdir(parents=True)
    file.write_text("1\n")
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "a table")
    file.write_text("2\n")
    commit = git(checkout, "rev-parse", "HEAD")

    assert provenance.code_commit(frozenset([file]), checkout) == f"{commit}+dirty"
    if path.endswith(".csv"):  # which is another model's
        assert provenance.code_commit(frozenset([file.with_name("other.csv")]), checkout) == commit


def test_a_checkout_may_hold_more_than_the_sources(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "project" / "okruh")
    (checkout / ".git").rename(tmp_path / "project" / ".git")
    git(tmp_path / "project", "add", "--all")
    git(tmp_path / "project", "commit", "--quiet", "--message", "move")

    assert provenance.code_commit(root=checkout) == git(checkout, "rev-parse", "HEAD")


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path) -> None:
    assert provenance.code_commit(root=tmp_path) == "unknown"


def test_before_the_first_commit_it_is_unknown(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")

    assert provenance.code_commit(root=tmp_path) == "unknown"


def test_what_is_installed_within_another_checkout_is_not_of_its_commit(tmp_path: Path) -> None:
    installed = make_checkout(tmp_path) / "venv" / "site-packages"
    (installed / "models").mkdir(parents=True)
    (installed / "models" / "a.py").write_text("a = 1\n")

    assert provenance.code_commit(root=installed) == "unknown"


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = make_checkout(tmp_path)
    monkeypatch.setenv("PATH", "")

    assert provenance.code_commit(root=checkout) == "unknown"


def test_the_sources_digest_follows_names_and_contents(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    digests = [provenance.source_digest(root=checkout)]
    (checkout / "models" / "a.py").write_text("a = 2\n")
    provenance.source_digest.cache_clear()
    digests.append(provenance.source_digest(root=checkout))
    (checkout / "models" / "a.py").rename(checkout / "models" / "b.py")
    provenance.source_digest.cache_clear()
    digests.append(provenance.source_digest(root=checkout))

    assert len(set(digests)) == 3
    assert all(len(digest) == 16 for digest in digests)


@pytest.mark.parametrize(
    "file", ["services/a.py", "tests/a.py", "models/trips/a.parquet", "models/__pycache__/a.pyc", "models/catalog/a.py"]
)
def test_the_sources_digest_leaves_out_what_decides_no_steps_result(tmp_path: Path, file: str) -> None:
    checkout = make_checkout(tmp_path)
    before = provenance.source_digest(root=checkout)
    (checkout / file).parent.mkdir(parents=True, exist_ok=True)
    (checkout / file).write_text("a = 1\n")
    provenance.source_digest.cache_clear()

    assert provenance.source_digest(root=checkout) == before


def digest_with(folder: Path, installed: str, version: str | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Digest of the environment and one more distribution; without a version, one whose installation was broken off."""
    note = folder / f"{installed}.dist-info"
    note.mkdir(parents=True)
    if version:
        (note / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {installed}\nVersion: {version}\n")
    with monkeypatch.context() as changed:
        changed.setattr(sys, "path", [*sys.path, str(folder)])
        provenance.distributions.cache_clear()
        digest = provenance.environment_digest()
    provenance.distributions.cache_clear()
    return digest


def test_the_environments_digest_follows_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = provenance.environment_digest()
    first = digest_with(tmp_path / "first", "more", "1.0", monkeypatch)
    same = digest_with(tmp_path / "same", "More", "1.0", monkeypatch)
    other = digest_with(tmp_path / "other", "more", "1.1", monkeypatch)

    assert len({bare, first, other}) == 3
    assert same == first
    assert provenance.environment_digest() == bare


def test_an_installation_that_was_broken_off_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = provenance.environment_digest()

    assert digest_with(tmp_path, "more", None, monkeypatch) == bare


def test_says_which_distributions_are_others() -> None:
    then = ("numpy==2.2.0", "pandas==3.0.1", "setuptools==70.0", "setuptools==80.0", "torch==2.13.0")
    now = ("numpy==2.3.1", "pandas==3.0.1", "setuptools==80.0", "torch==2.13.0", "zstd==1.0")

    assert provenance.changes(then, now) == (
        "numpy 2.2.0 then, 2.3.1 now",
        "setuptools 70.0 and 80.0 then, 80.0 now",
        "zstd absent then, 1.0 now",
    )
    assert provenance.changes(now, now) == ()


def test_the_environments_digest_is_of_its_distributions() -> None:
    listed = provenance.distributions()

    assert f"torch=={metadata.version('torch')}" in listed
    assert provenance.environment_digest() == hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]


def test_copies_that_a_package_brings_for_itself_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    provenance.distributions.cache_clear()
    before = provenance.distributions()
    vendored = Path(str(metadata.distribution("setuptools").locate_file("setuptools/_vendor")))
    assert list(vendored.glob("*.dist-info"))

    monkeypatch.syspath_prepend(str(vendored))
    provenance.distributions.cache_clear()

    assert provenance.distributions() == before
