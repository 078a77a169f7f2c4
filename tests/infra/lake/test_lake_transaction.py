"""A transaction is merged whole or not at all."""

from datetime import UTC, datetime, timedelta

import pytest

from infra.errors import Conflict, NotFound, Unavailable
from infra.lake.protocol import MAIN, Commit, Lake
from infra.lake.transaction import transaction


def run(lake: Lake, **contents: bytes) -> Commit | None:
    with transaction(lake, MAIN, "change", {"kind": "test"}) as work:
        for path, content in contents.items():
            work.put(path, content)
    return work.committed


def test_shows_nothing_before_the_merge(lake: Lake) -> None:
    before = lake.resolve(MAIN)

    with transaction(lake, MAIN, "change", {"kind": "test"}) as work:
        work.put("a", b"1")
        assert work.base == lake.resolve(MAIN) == before
        assert lake.list(MAIN) == []

    assert lake.get(MAIN, "a") == b"1"
    assert work.committed is not None
    assert work.committed.id == lake.resolve(MAIN)
    assert work.committed.metadata == {"kind": "test"}
    assert list(lake.branches()) == [MAIN]


def test_commits_nothing_where_nothing_changed(lake: Lake) -> None:
    run(lake, a=b"1")
    before = lake.resolve(MAIN)
    assert run(lake, a=b"1") is None
    assert lake.resolve(MAIN) == before


def test_removes_paths(lake: Lake) -> None:
    run(lake, a=b"1", b=b"2")
    with transaction(lake, MAIN, "change", {}) as work:
        work.delete("a")
    assert [entry.path for entry in lake.list(MAIN)] == ["b"]


def test_drops_everything_when_the_block_fails(lake: Lake) -> None:
    before = lake.resolve(MAIN)

    def fail() -> None:
        with transaction(lake, MAIN, "change", {}) as work:
            work.put("a", b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert lake.branches() == {MAIN: before}


def test_takes_the_changes_of_others_to_other_paths(lake: Lake) -> None:
    with transaction(lake, MAIN, "change", {}) as work:
        work.put("a", b"1")
        run(lake, b=b"2")
    assert [entry.path for entry in lake.list(MAIN)] == ["a", "b"]


def test_gives_way_to_who_changed_the_same_path_first(lake: Lake) -> None:
    def come_second() -> None:
        with transaction(lake, MAIN, "change", {}) as work:
            work.put("rollout", b"mine")
            run(lake, rollout=b"other")

    with pytest.raises(Conflict, match="rollout"):
        come_second()
    assert lake.get(MAIN, "rollout") == b"other"
    assert list(lake.branches()) == [MAIN]


def test_sweeps_branches_that_were_abandoned_a_day_ago(lake: Lake) -> None:
    now = datetime.now(UTC)
    old, young = (f"tx-{now - timedelta(hours=hours):%Y%m%d%H%M%S}-abcdef01" for hours in (25, 23))
    for name in (old, young, "kept"):
        lake.create_branch(name, MAIN)

    run(lake, a=b"1")

    assert sorted(lake.branches()) == sorted([MAIN, young, "kept"])


def test_stands_when_only_dropping_its_branch_fails(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise Unavailable("no answer")

    monkeypatch.setattr(lake, "delete_branch", fail)
    assert run(lake, a=b"1") is not None
    assert lake.get(MAIN, "a") == b"1"


def test_needs_a_branch(lake: Lake) -> None:
    with pytest.raises(NotFound, match="absent"), transaction(lake, "absent", "change", {}):
        pass
