"""Code of a commit in a folder of its own: what git has of it and no more, and nothing of it stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra import checkout, provenance
from infra.errors import Unavailable
from tests.checkouts import git, make_checkout, nobodys_git

__all__ = ["nobodys_git"]  # a fixture


def commit_change(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", f"change {name}")
    return git(folder, "rev-parse", "HEAD")


def test_checks_an_older_commit_out_and_leaves_the_checkout_as_it_is(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "root")
    first = git(root, "rev-parse", "HEAD")
    commit_change(root, "models/a.py", "a = 2\n")
    (root / "models" / "a.py").write_text("a = 3\n")
    (root / "models" / "b.py").write_text("b = 1\n")
    before = git(root, "status", "--porcelain")
    folder = tmp_path / "own" / "code"
    folder.mkdir(parents=True)

    checkout.check_out(first, folder, root)

    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == {"models/a.py"}
    assert (folder / "models" / "a.py").read_text() == "a = 1\n"
    assert git(root, "status", "--porcelain") == before
    assert [path.name for path in folder.parent.iterdir()] == ["code"]


def test_the_digest_of_sources_that_were_checked_out_is_that_of_the_checkout(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "root")
    (tmp_path / "code").mkdir()

    checkout.check_out(git(root, "rev-parse", "HEAD"), tmp_path / "code", root)

    assert provenance.source_digest(root=tmp_path / "code") == provenance.source_digest(root=root)


def test_of_a_checkout_that_holds_more_the_sources_are_checked_out(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "project" / "okruh")
    (root / ".git").rename(tmp_path / "project" / ".git")
    commit = commit_change(tmp_path / "project", "other.py", "x = 1\n")
    (tmp_path / "code").mkdir()

    checkout.check_out(commit, tmp_path / "code", root)

    assert sorted(path.name for path in (tmp_path / "code").iterdir()) == ["models"]
    assert (tmp_path / "code" / "models" / "a.py").exists()


def test_says_what_git_says_when_it_cannot(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "root")
    commit = git(root, "rev-parse", "HEAD")
    blob = git(root, "rev-parse", "HEAD:models/a.py")
    (root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    (tmp_path / "code").mkdir()

    with pytest.raises(Unavailable, match=f"git cannot check out {commit}: .*{blob}"):
        checkout.check_out(commit, tmp_path / "code", root)


def test_finds_a_commit_by_what_git_calls_it_and_says_what_is_none(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "root")
    first = git(root, "rev-parse", "HEAD")
    git(root, "tag", "v1")
    second = commit_change(root, "models/b.py", "b = 1\n")

    found = {name: checkout.find_commit(name, root) for name in (first, first[:8], "v1", "HEAD", "HEAD~1")}

    assert found == {first: first, first[:8]: first, "v1": first, "HEAD": second, "HEAD~1": first}
    assert [checkout.find_commit(name, root) for name in ("v2", "--all", "0" * 40)] == [None] * 3
    assert checkout.find_commit("HEAD", tmp_path) is None


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("a1" * 20, True), ("a1" * 32, True), ("a1" * 19, False), (f"{'a1' * 20}+dirty", False), ("unknown", False)],
)
def test_knows_a_whole_id(text: str, is_one: bool) -> None:
    assert checkout.is_commit_id(text) is is_one


def test_finds_the_commit_that_added_a_file(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "root")
    added = commit_change(root, "models/b.py", "b = 1\n")
    commit_change(root, "models/b.py", "b = 2\n")

    assert checkout.first_commit_with("models/b.py", root) == added
    assert checkout.first_commit_with("models/c.py", root) is None
    assert checkout.first_commit_with("models/b.py", tmp_path) is None


def test_copies_the_sources_that_run_without_what_was_compiled(tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "root")
    for package in ("infra", "flows", "models/__pycache__"):
        (root / package).mkdir()
        (root / package / "c.py").write_text("c = 1\n")

    checkout.copy_sources(tmp_path / "code", root)

    copied = {path.relative_to(tmp_path / "code").as_posix() for path in (tmp_path / "code").rglob("*.py")}
    assert copied == {"models/a.py", "infra/c.py", "flows/c.py"}


def test_an_own_folder_is_gone_afterwards_whatever_happens_in_it(tmp_path: Path) -> None:
    def work() -> None:
        with checkout.own_folder(tmp_path / "tmp", "try") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "a").write_text("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()

    assert list((tmp_path / "tmp").iterdir()) == []


def test_removes_what_a_killed_process_left_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from infra.checkout import own_folder\n"
        "with own_folder(Path(sys.argv[1]), 'try') as folder: print(folder, flush=True); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    killed = subprocess.run(
        command, cwd=provenance.ROOT, env=os.environ, stdout=subprocess.PIPE, text=True, check=False
    )
    left = Path(killed.stdout.strip())
    (tmp_path / "other").mkdir()
    assert left.is_dir()

    with checkout.own_folder(tmp_path, "try") as first, checkout.own_folder(tmp_path, "try") as second:
        there = set(tmp_path.iterdir())

    assert there == {first, second, tmp_path / "other"}
    assert not left.exists()
