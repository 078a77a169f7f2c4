"""What every store must do to be a lake."""

import io
import random
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from infra.errors import Conflict, Misconfigured, NotFound, Unavailable
from infra.lake.protocol import MAIN, Change, Entry, Lake

NO_COMMIT = "0" * 64


def commit(lake: Lake, branch: str, **contents: bytes | None) -> str:
    """Commit contents by path (`__` stands for `/`); None removes."""
    for name, content in contents.items():
        path = name.replace("__", "/")
        if content is None:
            lake.delete(branch, path)
        else:
            lake.put(branch, path, content)
    return lake.commit(branch, "change", {}).id


def paths(lake: Lake, ref: str, prefix: str = "") -> list[str]:
    return [entry.path for entry in lake.list(ref, prefix)]


def test_starts_with_an_empty_main(lake: Lake) -> None:
    assert list(lake.branches()) == [MAIN]
    assert lake.list(MAIN) == []
    assert [found.id for found in lake.log(MAIN)] == [lake.resolve(MAIN)]


def test_reads_what_was_put(lake: Lake) -> None:
    entry = lake.put(MAIN, "data/a.bin", b"content")

    assert entry == Entry("data/a.bin", sha256(b"content").hexdigest(), 7)
    assert lake.get(MAIN, "data/a.bin") == b"content"
    assert lake.stat(MAIN, "data/a.bin") == entry


@pytest.mark.parametrize("size", [0, 1, 4 * 2**20, 4 * 2**20 + 1, 9 * 2**20 + 5])
def test_stores_a_file_like_its_bytes(lake: Lake, tmp_path: Path, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    source = tmp_path / "source"
    source.write_bytes(content[:size])

    from_file = lake.put(MAIN, "file", source)
    from_bytes = lake.put(MAIN, "bytes", content[:size])

    assert (from_file.digest, from_file.size) == (from_bytes.digest, from_bytes.size)
    assert lake.get(MAIN, "file") == content[:size]


@pytest.mark.parametrize("size", [0, 1, 128 * 2**10, 128 * 2**10 + 1, 3 * 2**20 + 5])
def test_reads_in_parts(lake: Lake, size: int) -> None:
    content = random.Random(size).randbytes(size)
    lake.put(MAIN, "a", content)

    with lake.open(MAIN, "a") as file:
        assert file.size() == size
        assert bytes(file.read()) == content
        for start, end in ((0, 0), (size // 3, size // 2), (size - 1, size + 9), (size + 1, size + 2)):
            file.seek(max(start, 0))
            assert bytes(file.read(end - start)) == content[max(start, 0) : max(start, 0) + end - start]
        file.seek(-(size // 4), io.SEEK_END)
        assert file.readall() == content[size - size // 4 :]
        assert file.tell() == size


@pytest.mark.parametrize("size", [0, 1, 9 * 2**20 + 5])
def test_copies_an_object_into_a_file(lake: Lake, tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    entry = lake.put(MAIN, "a", content)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "target"
    target.write_bytes(b"was there")

    assert lake.fetch(MAIN, "a", target) == entry

    assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(Unavailable, match="cannot be written"):
        lake.fetch(MAIN, "a", tmp_path / "absent" / "target")


def test_stores_several_contents_at_a_time(lake: Lake, tmp_path: Path) -> None:
    commit(lake, MAIN, same=b"1")
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    contents: dict[str, bytes | Path] = {f"data/{number}": bytes([number]) for number in range(40)}
    contents |= {"file": source, "same": b"1", "again": b"from a file"}

    entries = lake.put_all(MAIN, contents)

    assert [entry.path for entry in entries] == list(contents)
    assert all(lake.stat(MAIN, entry.path) == entry for entry in entries)
    assert lake.get(MAIN, "file") == lake.get(MAIN, "again") == b"from a file"
    lake.commit(MAIN, "change", {})
    assert [change.path for change in lake.diff(next(lake.log(MAIN)).parents[0], MAIN)] == sorted(
        contents.keys() - {"same"}
    )
    assert lake.put_all(MAIN, {}) == []


def test_stores_several_contents_or_none(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="absent"):
        lake.put_all(MAIN, {"a": b"1", "b": tmp_path / "absent", "c": b"3"})
    with pytest.raises(Misconfigured):
        lake.put_all(MAIN, {"a": b"1", "../b": b"2"})

    assert lake.list(MAIN) == []


def test_refuses_a_source_that_is_no_file(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="absent"):
        lake.put(MAIN, "a", tmp_path / "absent")
    with pytest.raises(NotFound, match="cannot be read"):
        lake.put(MAIN, "a", tmp_path)
    assert lake.list(MAIN) == []


def test_shows_uncommitted_changes_through_the_branch_name_only(lake: Lake) -> None:
    before = commit(lake, MAIN, kept=b"1", removed=b"2")
    lake.tag("seen", MAIN)

    lake.put(MAIN, "added", b"3")
    lake.delete(MAIN, "removed")

    assert paths(lake, MAIN) == ["added", "kept"]
    assert paths(lake, before) == paths(lake, "seen") == ["kept", "removed"]
    assert lake.resolve(MAIN) == before
    with pytest.raises(NotFound):
        lake.get(MAIN, "removed")
    with pytest.raises(NotFound):
        lake.get(before, "added")


def test_gives_a_commit_as_it_was_made(lake: Lake) -> None:
    parent = lake.resolve(MAIN)
    lake.put(MAIN, "a", b"1")

    made = lake.commit(MAIN, "first: ž", {"kind": "ingest", "code": "abc"})

    assert made.parents == (parent,)
    assert made.message == "first: ž"
    assert made.metadata == {"kind": "ingest", "code": "abc"}
    assert made.created_at.utcoffset() is not None
    assert lake.resolve(MAIN) == lake.resolve(made.id) == made.id
    assert next(lake.log(MAIN)) == made


def test_has_nothing_to_commit_where_nothing_changed(lake: Lake) -> None:
    head = commit(lake, MAIN, a=b"1")
    lake.put(MAIN, "a", b"1")
    lake.put(MAIN, "b", b"2")
    lake.delete(MAIN, "b")
    lake.put(MAIN, "a", b"other")
    lake.put(MAIN, "a", b"1")

    with pytest.raises(Conflict, match="nothing to commit"):
        lake.commit(MAIN, "nothing", {})
    assert lake.resolve(MAIN) == head


def test_puts_a_removed_path_back(lake: Lake) -> None:
    commit(lake, MAIN, a=b"1")
    lake.delete(MAIN, "a")
    lake.put(MAIN, "a", b"2")
    assert lake.get(MAIN, "a") == b"2"


def test_lists_by_prefix_in_the_order_of_paths(lake: Lake) -> None:
    for path in ("b", "a/z", "a-b", "a/ž", "a", "a/b/c"):
        lake.put(MAIN, path, b"")
    assert paths(lake, MAIN) == ["a", "a-b", "a/b/c", "a/z", "a/ž", "b"]
    assert paths(lake, MAIN, "a/") == ["a/b/c", "a/z", "a/ž"]
    assert paths(lake, MAIN, "a/b") == ["a/b/c"]
    assert paths(lake, MAIN, "c") == []


def test_starts_a_branch_without_uncommitted_changes(lake: Lake) -> None:
    head = commit(lake, MAIN, a=b"1")
    lake.put(MAIN, "b", b"2")

    assert lake.create_branch("work", MAIN) == head
    assert paths(lake, "work") == ["a"]
    assert lake.branches() == {MAIN: head, "work": head}


def test_drops_a_branch_and_its_uncommitted_changes_but_no_commit(lake: Lake) -> None:
    lake.create_branch("work", MAIN)
    made = commit(lake, "work", a=b"1")
    lake.put("work", "b", b"2")

    lake.delete_branch("work")

    with pytest.raises(NotFound):
        lake.resolve("work")
    assert lake.get(made, "a") == b"1"
    lake.create_branch("work", MAIN)
    assert lake.list("work") == []


def test_never_drops_main(lake: Lake) -> None:
    with pytest.raises(Misconfigured, match="main"):
        lake.delete_branch(MAIN)


def test_refuses_a_name_that_is_taken(lake: Lake) -> None:
    first = lake.resolve(MAIN)
    lake.create_branch("work", MAIN)
    lake.tag("v1", MAIN)
    commit(lake, MAIN, a=b"1")

    for taken in ("work", "v1"):
        with pytest.raises(Conflict, match=taken):
            lake.create_branch(taken, MAIN)
        with pytest.raises(Conflict, match=taken):
            lake.tag(taken, MAIN)
    lake.tag("v1", first)
    assert lake.tags() == {"v1": first}


def test_merges_changes_of_both_sides(lake: Lake) -> None:
    commit(lake, MAIN, kept=b"0", ours=b"0", theirs=b"0", gone=b"0", alike=b"0")
    lake.create_branch("work", MAIN)
    theirs = commit(lake, "work", theirs=b"1", gone=None, added=b"1", alike=b"1")
    ours = commit(lake, MAIN, ours=b"1", alike=b"1")

    made = lake.merge("work", MAIN, "merge", {"flow": "train"})

    assert made.parents == (ours, theirs)
    assert made.metadata == {"flow": "train"}
    assert lake.resolve(MAIN) == made.id
    contents = {path: lake.get(MAIN, path) for path in paths(lake, MAIN)}
    assert contents == {"added": b"1", "alike": b"1", "kept": b"0", "ours": b"1", "theirs": b"1"}


def test_makes_a_merge_commit_where_main_stood_still(lake: Lake) -> None:
    before = lake.resolve(MAIN)
    lake.create_branch("work", MAIN)
    theirs = commit(lake, "work", a=b"1")
    assert lake.merge("work", MAIN, "merge", {}).parents == (before, theirs)


def test_merges_commits_only(lake: Lake) -> None:
    lake.create_branch("work", MAIN)
    commit(lake, "work", a=b"1")
    lake.put("work", "b", b"2")

    lake.merge("work", MAIN, "merge", {})

    assert paths(lake, MAIN) == ["a"]
    assert paths(lake, "work") == ["a", "b"]


def test_merges_again_what_came_later(lake: Lake) -> None:
    lake.create_branch("work", MAIN)
    commit(lake, "work", a=b"1")
    lake.merge("work", MAIN, "merge", {})
    commit(lake, "work", a=b"2")
    lake.merge("work", MAIN, "merge", {})
    assert lake.get(MAIN, "a") == b"2"


def test_names_at_most_five_paths_that_both_sides_changed(lake: Lake) -> None:
    lake.create_branch("work", MAIN)
    names = [f"data__{number}" for number in range(7)]
    commit(lake, "work", **dict.fromkeys(names, b"theirs"))
    ours = commit(lake, MAIN, **dict.fromkeys(names, b"ours"))

    with pytest.raises(Conflict) as refused:
        lake.merge("work", MAIN, "merge", {})

    assert all(f"data/{number}" in str(refused.value) for number in range(5))
    assert "data/5" not in str(refused.value)
    assert "2 more" in str(refused.value)
    assert lake.resolve(MAIN) == ours
    assert lake.get(MAIN, "data/0") == b"ours"


def test_takes_removing_and_changing_a_path_for_a_conflict(lake: Lake) -> None:
    commit(lake, MAIN, a=b"0")
    lake.create_branch("work", MAIN)
    commit(lake, "work", a=None)
    commit(lake, MAIN, a=b"1")
    with pytest.raises(Conflict, match="a"):
        lake.merge("work", MAIN, "merge", {})


def test_has_nothing_to_merge_from_behind(lake: Lake) -> None:
    lake.create_branch("work", MAIN)
    head = commit(lake, MAIN, a=b"1")
    for source in ("work", MAIN, head):
        with pytest.raises(Conflict, match="nothing to merge"):
            lake.merge(source, MAIN, "merge", {})
    assert lake.resolve(MAIN) == head


def test_does_not_merge_into_uncommitted_changes(lake: Lake) -> None:
    lake.create_branch("work", MAIN)
    commit(lake, "work", a=b"1")
    lake.put(MAIN, "b", b"2")
    with pytest.raises(Conflict, match="uncommitted"):
        lake.merge("work", MAIN, "merge", {})
    assert paths(lake, MAIN) == ["b"]


def test_a_protected_branch_changes_by_merges_alone(lake: Lake) -> None:
    head = commit(lake, MAIN, a=b"1")
    lake.create_branch("work", MAIN)
    commit(lake, "work", b=b"2")

    lake.protect(MAIN)
    lake.protect(MAIN)

    writes: list[Callable[[], object]] = [
        lambda: lake.put(MAIN, "a", b"2"),
        lambda: lake.delete(MAIN, "a"),
        lambda: lake.commit(MAIN, "change", {}),
        lambda: lake.reset(MAIN),
        lambda: lake.revert(MAIN, head, "undo", {}),
    ]
    for write in writes:
        with pytest.raises(Misconfigured, match="'main' is protected: write to a branch of your own and merge it"):
            write()
    assert (lake.resolve(MAIN), paths(lake, MAIN)) == (head, ["a"])
    assert lake.protected() == {MAIN}
    lake.merge("work", MAIN, "merge", {})
    assert paths(lake, MAIN) == ["a", "b"]


def test_protects_no_uncommitted_changes(lake: Lake) -> None:
    lake.put(MAIN, "a", b"1")

    with pytest.raises(Conflict, match="uncommitted changes: a"):
        lake.protect(MAIN)

    assert lake.protected() == set()


def test_a_branch_of_a_dropped_ones_name_is_not_protected(lake: Lake) -> None:
    lake.create_branch("work", MAIN)
    lake.protect("work")
    lake.delete_branch("work")
    lake.create_branch("work", MAIN)

    assert lake.protected() == set()


def test_drops_uncommitted_changes(lake: Lake) -> None:
    head = commit(lake, MAIN, a=b"1", b=b"1")
    lake.put(MAIN, "a", b"2")
    lake.put(MAIN, "c", b"2")
    lake.delete(MAIN, "b")

    lake.reset(MAIN)
    lake.reset(MAIN)

    assert {path: lake.get(MAIN, path) for path in paths(lake, MAIN)} == {"a": b"1", "b": b"1"}
    assert lake.resolve(MAIN) == head


def test_undoes_what_a_commit_changed_and_nothing_else(lake: Lake) -> None:
    commit(lake, MAIN, changed=b"0", removed=b"0")
    wrong = commit(lake, MAIN, changed=b"1", removed=None, added=b"1")
    head = commit(lake, MAIN, later=b"2")

    made = lake.revert(MAIN, wrong, "undo", {"why": "wrong file"})

    assert (made.parents, made.message, made.metadata) == ((head,), "undo", {"why": "wrong file"})
    contents = {path: lake.get(MAIN, path) for path in paths(lake, MAIN)}
    assert contents == {"changed": b"0", "removed": b"0", "later": b"2"}
    assert lake.resolve(MAIN) == made.id
    with pytest.raises(Conflict, match="nothing to undo"):
        lake.revert(MAIN, wrong, "undo", {})


def test_undoes_a_merge_relative_to_its_first_parent(lake: Lake) -> None:
    lake.create_branch("work", MAIN)
    commit(lake, "work", theirs=b"1")
    commit(lake, MAIN, ours=b"1")
    merged = lake.merge("work", MAIN, "merge", {}).id

    lake.revert(MAIN, merged, "undo", {})

    assert paths(lake, MAIN) == ["ours"]


def test_undoes_nothing_that_was_changed_since(lake: Lake) -> None:
    start = lake.resolve(MAIN)
    wrong = commit(lake, MAIN, a=b"1", b=b"1")
    head = commit(lake, MAIN, a=b"2")

    with pytest.raises(Conflict, match=f"'main' has changed since '{wrong}': a"):
        lake.revert(MAIN, wrong, "undo", {})
    with pytest.raises(Conflict, match="nothing to undo"):
        lake.revert(MAIN, start, "undo", {})
    lake.put(MAIN, "c", b"3")
    with pytest.raises(Conflict, match="uncommitted changes: c"):
        lake.revert(MAIN, head, "undo", {})
    assert lake.resolve(MAIN) == head


def test_logs_newest_first_each_commit_once(lake: Lake) -> None:
    start = lake.resolve(MAIN)
    lake.create_branch("work", MAIN)
    first = commit(lake, "work", a=b"1")
    second = commit(lake, MAIN, b=b"2")
    merged = lake.merge("work", MAIN, "merge", {}).id
    last = commit(lake, MAIN, c=b"3")

    assert [found.id for found in lake.log(MAIN)] == [last, merged, second, first, start]
    assert [found.id for found in lake.log(first)] == [first, start]


def test_logs_what_changed_a_prefix_relative_to_the_first_parent(lake: Lake) -> None:
    data = commit(lake, MAIN, data__a=b"1", data__b=b"1")
    commit(lake, MAIN, database=b"1", reports__a=b"1")
    lake.create_branch("work", MAIN)
    removal = commit(lake, "work", data__b=None)
    report = commit(lake, MAIN, reports__a=b"2")
    merged = lake.merge("work", MAIN, "merge", {}).id

    assert [found.id for found in lake.log(MAIN, "data/")] == [merged, removal, data]
    assert [found.id for found in lake.log(MAIN, "data/a")] == [data]
    assert report in [found.id for found in lake.log(MAIN, "reports/")]
    assert list(lake.log(MAIN, "elsewhere/")) == []


def test_compares_refs_path_by_path(lake: Lake) -> None:
    before = commit(lake, MAIN, data__a=b"1", data__b=b"1", other=b"1")
    after = commit(lake, MAIN, data__a=b"2", data__b=None, data__c=b"1", other=b"2")
    lake.put(MAIN, "data/d", b"1")

    assert lake.diff(before, after, "data/") == [
        Change("data/a", "changed"),
        Change("data/b", "removed"),
        Change("data/c", "added"),
    ]
    assert lake.diff(after, MAIN) == [Change("data/d", "added")]
    assert lake.diff(after, after) == []


@pytest.mark.parametrize("ref", ["absent", NO_COMMIT])
def test_names_a_ref_that_does_not_exist(lake: Lake, ref: str) -> None:
    asked: list[Callable[[], object]] = [
        lambda: lake.resolve(ref),
        lambda: lake.create_branch("work", ref),
        lambda: lake.get(ref, "a"),
        lambda: lake.open(ref, "a"),
        lambda: lake.fetch(ref, "a", Path("never")),
        lambda: lake.stat(ref, "a"),
        lambda: lake.list(ref),
        lambda: lake.merge(ref, MAIN, "merge", {}),
        lambda: lake.tag("v1", ref),
        lambda: lake.log(ref),
        lambda: lake.diff(MAIN, ref),
        lambda: lake.revert(MAIN, ref, "undo", {}),
    ]
    for ask in asked:
        with pytest.raises(NotFound, match=ref):
            ask()


def test_writes_to_branches_only(lake: Lake) -> None:
    lake.tag("v1", MAIN)
    for ref in ("absent", "v1"):
        written: list[Callable[[], object]] = [
            partial(lake.put, ref, "a", b""),
            partial(lake.delete, ref, "a"),
            partial(lake.commit, ref, "change", {}),
            partial(lake.merge, MAIN, ref, "merge", {}),
            partial(lake.delete_branch, ref),
            partial(lake.reset, ref),
            partial(lake.revert, ref, MAIN, "undo", {}),
            partial(lake.protect, ref),
        ]
        for write in written:
            with pytest.raises(NotFound, match=ref):
                write()


def test_names_a_path_that_does_not_exist(lake: Lake) -> None:
    asked: list[Callable[[str, str], object]] = [lake.get, lake.open, lake.stat, lake.delete]
    for ask in asked:
        with pytest.raises(NotFound, match="data/absent"):
            ask(MAIN, "data/absent")


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a b", "a.b", "ž", "a\n", "a" * 64, "../a"])
def test_refuses_names_that_not_every_store_takes(lake: Lake, name: str) -> None:
    with pytest.raises(Misconfigured):
        lake.create_branch(name, MAIN)
    with pytest.raises(Misconfigured):
        lake.tag(name, MAIN)


BAD_PATHS = ["", "/a", "a/", "a//b", "../a", "a/../b", "a/..", "./a", "a\nb", "a\x00", "a\x7f", "a\ud800", "ž" * 513]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_refuses_paths_that_leave_the_lake_or_do_not_fit(lake: Lake, path: str) -> None:
    with pytest.raises(Misconfigured):
        lake.put(MAIN, path, b"")
    asked: list[Callable[[str, str], object]] = [lake.get, lake.open, lake.stat, lake.delete]
    for ask in asked:
        with pytest.raises(Misconfigured):
            ask(MAIN, path)
    assert lake.list(MAIN) == []


def test_takes_the_longest_path(lake: Lake) -> None:
    lake.put(MAIN, "ž" * 512, b"1")
    assert lake.get(MAIN, "ž" * 512) == b"1"


@pytest.mark.parametrize("prefix", ["/a", "../", "a//", "a\nb"])
def test_refuses_prefixes_that_no_path_can_have(lake: Lake, prefix: str) -> None:
    with pytest.raises(Misconfigured):
        lake.list(MAIN, prefix)
    with pytest.raises(Misconfigured):
        lake.log(MAIN, prefix)
    with pytest.raises(Misconfigured):
        lake.diff(MAIN, MAIN, prefix)


def test_refuses_metadata_that_is_no_text(lake: Lake) -> None:
    lake.put(MAIN, "a", b"1")
    with pytest.raises(Misconfigured, match="text"):
        lake.commit(MAIN, "change", {"rows": 3})  # type: ignore[dict-item]
    with pytest.raises(Misconfigured, match="text"):
        lake.commit(MAIN, "change \ud800", {})
