"""A lake is copied with its history, from and to either store, and a copy that was killed goes on."""

import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import pytest

from infra.errors import Conflict, NotFound, Unavailable
from infra.lake import copying
from infra.lake import transaction as transactions
from infra.lake.copying import Copied
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.lakefs.server import Server
from infra.lake.lakefs.store import LakeFSLake
from infra.lake.protocol import MAIN, Commit, Lake
from infra.lake.transaction import sweep, transaction
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, LakeFSServer

LARGE = secrets.token_bytes(5 * 2**20)


@pytest.fixture(params=["embedded to lakefs", "lakefs to embedded", "embedded to embedded"])
def lakes(request: pytest.FixtureRequest, lakefs: LakeFSServer, tmp_path: Path) -> Iterator[tuple[Lake, Lake]]:
    """A lake and one to copy it into, both empty."""
    with ExitStack() as opened:

        def embedded(name: str) -> Lake:
            return opened.enter_context(closing(EmbeddedLake(tmp_path / name)))

        def on_lakefs(_: str) -> Lake:
            server = Server(lakefs.address, KEY_ID, SECRET, first_pause_s=0.001)
            lake = opened.enter_context(closing(LakeFSLake(server, f"okruh-{secrets.token_hex(4)}")))
            lake.create()
            return lake

        make: dict[str, Callable[[str], Lake]] = {"embedded": embedded, "lakefs": on_lakefs}
        source, target = request.param.split(" to ")
        yield make[source]("source"), make[target]("target")


def fill(lake: Lake) -> None:
    """Give a lake a history with merges, a removal, a branch that was never merged, and tags."""
    for number in range(3):
        with transaction(lake, MAIN, f"ingest {number}", {"kind": "ingest", "number": str(number)}) as work:
            work.put(f"data/{number}", f"content {number}".encode())
            work.put("rollout.json", str(number).encode())
    lake.tag("v1", MAIN)
    lake.create_branch("work", MAIN)
    lake.put("work", "large", LARGE)
    lake.delete("work", "data/0")
    lake.commit("work", "on work: ž", {"who": "me"})
    with transaction(lake, MAIN, "after", {}) as work:
        work.put("data/3", b"3")
    lake.merge("work", MAIN, "merge work", {})
    lake.put("work", "data/5", b"5")
    lake.commit("work", "more", {})
    lake.create_branch("behind", "v1")
    lake.put("work", "uncommitted", b"1")


def shape(lake: Lake, ref: str) -> dict[str, object]:
    """Give what a copy must keep of a ref: by content, for ids differ."""
    known: dict[str, object] = {}
    for commit in reversed(list(lake.log(ref))):
        content = [(entry.path, entry.digest) for entry in lake.list(commit.id)]
        own = {name: value for name, value in commit.metadata.items() if not name.startswith("copied-")}
        parents = [known[parent] for parent in commit.parents]
        known[commit.id] = (commit.message if parents else "", own, content, parents)
    return {"tip": known[lake.resolve(ref)], "commits": len(known)}


def copy(source: Lake, target: Lake, tell: Callable[[int, int], None] | None = None) -> Copied:
    with tempfile.TemporaryDirectory() as scratch:
        done = copying.copy(source, target, Path(scratch), tell)
        assert list(Path(scratch).iterdir()) == []
    return done


def assert_copied(source: Lake, target: Lake) -> None:
    assert target.branches().keys() == source.branches().keys()
    assert target.tags().keys() == source.tags().keys()
    for ref in [*source.branches(), *source.tags()]:
        assert shape(target, ref) == shape(source, ref)


def test_copies_history_branches_and_tags(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)

    done = copy(source, target)

    assert_copied(source, target)
    assert (done.already, done.left_out) == (0, ["work"])
    assert (done.branches, done.tags) == (["behind", MAIN, "work"], ["v1"])
    assert done.commits == len({one.id for ref in ("work", MAIN) for one in source.log(ref)}) - 1
    assert target.get(MAIN, "large") == LARGE
    assert target.verify() == []


def test_names_what_a_commit_is_a_copy_of(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    copy(source, target)

    for commit in source.log("v1"):
        if commit.parents:
            (found,) = (one for one in target.log("v1") if one.id == copying.at(target, commit.id))
            assert found.metadata["copied-created-at"] == commit.created_at.isoformat()
            assert found.message == commit.message
    assert copying.at(source, source.resolve("v1")) == source.resolve("v1")
    with pytest.raises(NotFound, match="0000"):
        copying.at(target, "0" * 64)


def test_brings_later_what_came_later(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    first = copy(source, target)
    target.protect(MAIN)
    again = copy(source, target)
    with transaction(source, MAIN, "later", {}) as work:
        work.put("data/9", b"9")
    source.commit("work", "was uncommitted", {})
    source.tag("v2", "work")

    last = copy(source, target)

    assert (again.commits, again.already, again.objects) == (0, first.commits, 0)
    assert (last.commits, last.already, last.left_out) == (3, first.commits, [])
    assert_copied(source, target)


@pytest.mark.parametrize("operation", ["put_all", "commit", "merge", "create_branch", "delete_branch", "tag"])
def test_goes_on_where_it_was_cut_off(
    lakes: tuple[Lake, Lake], operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = lakes
    fill(source)
    real, calls = getattr(target, operation), 0
    for allowed in range(100):
        calls = 0

        def cut(*args: object, allowed: int = allowed) -> object:
            nonlocal calls
            calls += 1
            if calls > allowed:
                raise Unavailable("cut off")
            return real(*args)

        monkeypatch.setattr(target, operation, cut)
        try:
            copy(source, target)
            break
        except Unavailable:
            continue
        finally:
            monkeypatch.setattr(target, operation, real)

    assert_copied(source, target)
    assert target.verify() == []
    made = {one.id for ref in [*target.branches(), *target.tags()] for one in target.log(ref)}
    assert len(made) == len({one.id for ref in [*source.branches(), *source.tags()] for one in source.log(ref)})


def test_what_a_killed_copy_left_is_swept(lakes: tuple[Lake, Lake], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = lakes
    fill(source)

    def cut(*_: object) -> None:
        raise Unavailable("cut off")

    with monkeypatch.context() as changed:
        changed.setattr(target, "merge", cut)
        with pytest.raises(Unavailable):
            copy(source, target)
    assert [name for name in target.branches() if "-copy-" in name]
    sweep(target)
    assert [name for name in target.branches() if "-copy-" in name]  # it may be at work still
    monkeypatch.setattr(transactions, "_ABANDONED_AFTER", timedelta(seconds=-1))

    sweep(target)

    assert set(target.branches()) == {MAIN}
    copy(source, target)
    assert_copied(source, target)


def test_copies_merges_that_paths_do_not_explain(lakes: tuple[Lake, Lake], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = lakes
    fill(source)
    clash = next(commit for commit in source.log(MAIN) if commit.message == "merge work")
    real = target.merge

    def merge(ref: str, into: str, message: str, metadata: dict[str, str]) -> Commit:
        if message == "merge work":
            raise Conflict("as if the paths clashed")
        return real(ref, into, message, metadata)

    monkeypatch.setattr(target, "merge", merge)

    copy(source, target)

    assert target.list(MAIN) == source.list(MAIN)
    copied = next(commit for commit in target.log(MAIN) if commit.message == "merge work")
    assert copied.metadata[copying.MERGED] == clash.parents[1]
    assert len(copied.parents) == 1


def test_does_not_mix_with_another_history(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    with transaction(target, MAIN, "own", {}) as work:
        work.put("own", b"1")
    before = target.branches()

    with pytest.raises(Conflict, match="history of its own, on main: copy into an empty repository"):
        copy(source, target)

    assert target.branches() == before


def test_does_not_drop_work_on_a_copy(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    copy(source, target)
    target.put("work", "own", b"1")
    own = target.commit("work", "own", {}).id

    with pytest.raises(Conflict, match="on work"):
        copy(source, target)

    assert target.resolve("work") == own


def test_goes_there_and_back_and_on(lakes: tuple[Lake, Lake]) -> None:
    laptop, server = lakes
    fill(laptop)
    laptop.commit("work", "was uncommitted", {})
    old = laptop.resolve("v1")
    copy(laptop, server)
    with transaction(server, MAIN, "on the server", {}) as work:
        work.put("data/server", b"1")

    back = copy(server, laptop)
    with transaction(laptop, MAIN, "on the laptop", {}) as work:
        work.put("data/laptop", b"1")
    there = copy(laptop, server)

    assert (back.commits, there.commits) == (2, 2)
    assert_copied(laptop, server)
    assert laptop.resolve("v1") == old
    assert laptop.get(MAIN, "data/server") == server.get(MAIN, "data/laptop") == b"1"


def test_brings_plain_commits_into_a_protected_main(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    copy(source, target)
    target.protect(MAIN)
    source.put(MAIN, "plain", b"1")
    source.commit(MAIN, "plain", {"kind": "by hand"})

    copy(source, target)
    again = copy(source, target)

    assert again.commits == 0
    assert target.list(MAIN) == source.list(MAIN)
    assert next(target.log(MAIN)).metadata["kind"] == "by hand"


def test_finds_a_commit_after_two_moves(lakes: tuple[Lake, Lake], tmp_path: Path) -> None:
    source, target = lakes
    fill(source)
    copy(source, target)
    with closing(EmbeddedLake(tmp_path / "third")) as third:
        copy(target, third)

        assert third.list(copying.at(third, source.resolve("v1"))) == source.list("v1")


def test_refuses_the_copy_of_another_lake_and_leaves_it_alone(lakes: tuple[Lake, Lake], tmp_path: Path) -> None:
    source, target = lakes
    fill(source)
    copy(source, target)
    with closing(EmbeddedLake(tmp_path / "other")) as other:
        fill(other)
        before = target.branches()

        with pytest.raises(Conflict, match="history of its own"):
            copy(other, target)

        assert target.branches() == before
    assert copy(source, target).commits == 0


@pytest.mark.parametrize("branch", [MAIN, "work"])
@pytest.mark.parametrize("committed", [True, False])
def test_drops_nothing_that_came_into_the_target_meanwhile(
    lakes: tuple[Lake, Lake], branch: str, committed: bool
) -> None:
    source, target = lakes
    fill(source)
    copy(source, target)
    source.commit("work", "was uncommitted", {})
    source.merge("work", MAIN, "merge work again", {})
    again = False

    def interfere(done: int, _: int) -> None:
        nonlocal again
        if done == 1 and not again:
            again = True
            target.put(branch, "mine", b"1")
            if committed:
                target.commit(branch, "mine", {})

    with pytest.raises(Conflict, match=rf"somebody else changed '{branch}'|branch '{branch}' has uncommitted changes"):
        copy(source, target, interfere)

    assert target.get(branch, "mine") == b"1"


def test_resets_what_a_killed_copy_had_stored_and_nothing_else(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    for number in range(3):
        source.put(MAIN, f"data/{number}", b"%d" % number)
    source.commit(MAIN, "three", {})
    target.put(MAIN, "data/1", b"1")  # as a copy that was killed after a part
    target.put(MAIN, "mine", b"mine")

    with pytest.raises(Conflict, match="'main' of the target has uncommitted changes"):
        copy(source, target)
    assert target.get(MAIN, "mine") == b"mine"
    target.delete(MAIN, "mine")

    copy(source, target)

    assert_copied(source, target)


@pytest.mark.parametrize("committed", [True, False])
def test_a_copy_that_is_overtaken_says_so_for_good(
    lakes: tuple[Lake, Lake], committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = lakes
    for number in range(2):
        source.put(MAIN, f"data/{number}", b"%d" % number)
        source.commit(MAIN, f"put {number}", {})
    put_all, came = target.put_all, False

    def put_and_come_between(branch: str, contents: Mapping[str, bytes | Path]) -> object:
        nonlocal came
        if not came:
            came = True
            target.create_branch("other", MAIN)
            target.put("other", "theirs", b"1")
            target.commit("other", "theirs", {})
            if committed:
                target.merge("other", MAIN, "theirs", {})
                return put_all(branch, contents)
            done = put_all(branch, contents)
            target.reset(MAIN)  # as another copy does that takes it for left
            return done
        return put_all(branch, contents)

    monkeypatch.setattr(target, "put_all", put_and_come_between)

    with pytest.raises(Conflict, match="somebody else changed 'main' of the target meanwhile"):
        copy(source, target)
    if not committed:
        copy(source, target)
        assert shape(target, MAIN) == shape(source, MAIN)
        return
    with pytest.raises(Conflict, match="a history of its own, on main"):
        copy(source, target)
    assert target.get(MAIN, "theirs") == b"1"


def test_names_what_the_target_alone_has(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    copy(source, target)
    source.delete_branch("behind")
    target.tag("theirs", MAIN)

    done = copy(source, target)

    assert done.only_there == ["behind", "theirs"]
    assert {"behind"} <= target.branches().keys()


def test_branches_of_people_are_no_writers(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    for name in ("tx-1", "tx-2025-tariffs"):
        source.create_branch(name, "work")
    sweep(source)

    copy(source, target)

    assert {"tx-1", "tx-2025-tariffs"} <= target.branches().keys()


def test_finds_another_tag_before_it_begins(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    target.tag("v1", MAIN)

    with pytest.raises(Conflict, match="tag 'v1' of the target names another commit"):
        copy(source, target)

    assert len(list(target.log(MAIN))) == 1


def test_copies_a_branch_that_is_dropped_meanwhile(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    source.reset("work")

    def drop(done: int, total: int) -> None:
        if done == total:
            source.delete_branch("behind")

    copy(source, target, drop)

    assert shape(target, "behind") == shape(source, "v1")


@pytest.mark.parametrize("branch", [MAIN, "work"])
def test_drops_no_uncommitted_changes_of_the_target(lakes: tuple[Lake, Lake], branch: str) -> None:
    source, target = lakes
    fill(source)
    copy(source, target)
    target.put(branch, "mine", b"1")

    with pytest.raises(Conflict, match=f"branch '{branch}' of the target has uncommitted changes"):
        copy(source, target)

    assert target.get(branch, "mine") == b"1"


def test_keeps_what_is_protected_in_the_target(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    copy(source, target)
    target.protect("work")
    source.commit("work", "was uncommitted", {})

    copy(source, target)

    assert target.protected() == {"work"}
    assert_copied(source, target)


def test_tells_how_far_it_is(lakes: tuple[Lake, Lake]) -> None:
    source, target = lakes
    fill(source)
    told: list[tuple[int, int]] = []

    done = copy(source, target, lambda number, total: told.append((number, total)))

    assert told == [(number, done.commits + 1) for number in range(1, done.commits + 2)]
