"""What breaks between a lake and its server: nothing acknowledged is lost, nothing half-written is visible."""

import random
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from infra.errors import Conflict, Corrupt, InfraError, Misconfigured, NotFound, Unavailable
from infra.lake.lakefs import server as lakefs_server
from infra.lake.lakefs.server import Server
from infra.lake.lakefs.store import LakeFSLake
from infra.lake.lakefs.transfer import Outgoing, upload
from infra.lake.protocol import MAIN, Lake
from infra.lake.transaction import transaction
from tests.infra.lake.lakefs.conftest import Broken
from tests.infra.lake.lakefs.faults import Fault, answer, cut_answer, cut_request, hold
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, running

PATIENCE = [(429, "too many requests"), (503, "slow down"), (500, "branch is currently locked, try again later")]
LARGE = random.Random(0).randbytes(20 * 2**20)

Do = Callable[[LakeFSLake], object]
OPERATIONS: dict[str, tuple[str, str, Do]] = {
    "put": ("POST", "/branches/work/objects", lambda lake: lake.put("work", "new", b"1")),
    "get": ("GET", "/refs/work/objects", lambda lake: lake.get("work", "kept")),
    "stat": ("GET", "/objects/stat", lambda lake: lake.stat("work", "kept")),
    "list": ("GET", "/objects/ls", lambda lake: lake.list("work")),
    "delete": ("DELETE", "/branches/work/objects", lambda lake: lake.delete("work", "kept")),
    "commit": ("POST", "/branches/work/commits", lambda lake: lake.commit("work", "change", {})),
    "merge": ("POST", "/merge/main", lambda lake: lake.merge("work", MAIN, "merge", {})),
    "revert": ("POST", "/branches/clean/revert", lambda lake: lake.revert("clean", "clean", "undo", {})),
    "reset": ("PUT", "/branches/work", lambda lake: lake.reset("work")),
    "branch": ("POST", "/branches", lambda lake: lake.create_branch("new", MAIN)),
    "drop": ("DELETE", "/branches/work", lambda lake: lake.delete_branch("work")),
    "tag": ("POST", "/tags", lambda lake: lake.tag("v1", MAIN)),
    "log": ("GET", "/commits", lambda lake: list(lake.log("work"))),
    "diff": ("GET", "/diff/", lambda lake: lake.diff(MAIN, "clean")),
}


@pytest.fixture
def filled(broken: Broken) -> Broken:
    """Branches `clean` and `work` with a commit, and an uncommitted change on `work`."""
    for branch in ("clean", "work"):
        broken.lake.create_branch(branch, MAIN)
        broken.lake.put(branch, "kept", b"kept")
        broken.lake.commit(branch, "kept", {})
    broken.lake.put("work", "uncommitted", b"1")
    broken.network.seen.clear()
    return broken


def _end(filled: Broken, operation: str) -> tuple[str, str, Do]:
    method, end, do = OPERATIONS[operation]
    return method, end if end != "/diff/" else f"/diff/{filled.lake.resolve('clean')}", do


@pytest.mark.parametrize(("status", "message"), PATIENCE)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_tries_again_where_the_server_asks_for_patience(
    filled: Broken, operation: str, status: int, message: str
) -> None:
    method, end, do = _end(filled, operation)
    filled.network.plan(method, end, *[answer(status, message)] * 3)

    do(filled.lake)

    assert filled.network.asked(method, end) >= 4


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gives_up_after_some_tries(filled: Broken, operation: str) -> None:
    method, end, do = _end(filled, operation)
    filled.network.plan(method, end, *[answer(503, "slow down")] * 20)
    filled.network.seen.clear()

    with pytest.raises(Unavailable, match=r"503.*slow down.*try again"):
        do(filled.lake)

    assert filled.network.asked(method, end) == 6


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Misconfigured),
        (401, Misconfigured),
        (403, Misconfigured),
        (410, Corrupt),
        (412, Misconfigured),
        (500, Unavailable),
        (501, Misconfigured),
        (502, Unavailable),
    ],
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_translates_every_other_answer_once(
    filled: Broken, operation: str, status: int, error: type[InfraError]
) -> None:
    method, end, do = _end(filled, operation)
    filled.network.plan(method, end, answer(status, "the reason"))
    filled.network.seen.clear()

    with pytest.raises(error) as raised:
        do(filled.lake)

    assert filled.network.asked(method, end) == 1
    assert status == 410 or "the reason" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fault", [cut_request, cut_answer])
@pytest.mark.parametrize("ways", ["through the server", "signed", "signed, in parts"])
def test_an_upload_that_breaks_off_is_not_visible_or_whole(broken: Broken, fault: Fault, ways: str) -> None:
    if ways != "through the server":
        broken.sign(multipart=ways == "signed, in parts")
    sent = {"through the server": ("POST", "/branches/main/objects"), "signed": ("PUT", "")}.get(ways, ("PUT", ".2"))
    broken.network.plan(*sent, fault)

    with suppress(Unavailable):  # an answer without a body does not break off
        broken.lake.put(MAIN, "large", LARGE)

    seen = {entry.path: broken.lake.get(MAIN, entry.path) for entry in broken.lake.list(MAIN)}
    assert seen in ({}, {"large": LARGE})
    assert broken.server.unfinished == []
    broken.lake.put(MAIN, "large", LARGE)
    assert broken.lake.get(MAIN, "large") == LARGE


def test_a_broken_upload_says_so_and_leaves_nothing(broken: Broken) -> None:
    broken.network.plan("POST", "/objects", cut_request)

    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ does not answer \(the connection broke\)"):
        broken.lake.put(MAIN, "large", LARGE)

    assert broken.lake.list(MAIN) == []
    with pytest.raises(Conflict, match="nothing to commit"):
        broken.lake.commit(MAIN, "change", {})


@pytest.mark.parametrize("presign", [False, True])
def test_a_download_that_breaks_off_gives_nothing(broken: Broken, tmp_path: Path, presign: bool) -> None:
    if presign:
        broken.sign()
    broken.lake.put(MAIN, "large", LARGE)
    content = ("GET", "") if presign else ("GET", "/refs/main/objects")

    def broken_off(read: Callable[[], object]) -> None:
        if presign:
            (key,) = (key for key in broken.server.stored if key.startswith("signed/"))
            broken.network.plan("GET", f"/store/{key}", cut_answer)
        else:
            broken.network.plan(*content, cut_answer)
        with pytest.raises(Unavailable, match="the connection broke"):
            read()

    broken_off(lambda: broken.lake.get(MAIN, "large"))
    broken_off(lambda: broken.lake.fetch(MAIN, "large", tmp_path / "fetched"))
    assert list(tmp_path.glob("*fetched*")) == []
    with broken.lake.open(MAIN, "large") as file:
        broken_off(lambda: file.read(5_000_000))
        assert file.tell() == 0
        assert bytes(file.read(5_000_000)) == LARGE[:5_000_000]
    assert broken.lake.get(MAIN, "large") == LARGE


def test_waits_no_longer_than_it_should(broken: Broken) -> None:
    released = threading.Event()
    broken.network.plan("GET", "/branches", hold(released))
    with closing(Server(broken.server.address, KEY_ID, SECRET, answer_s=0.1)) as impatient:
        try:
            with pytest.raises(Unavailable, match="it took too long"):
                LakeFSLake(impatient, broken.lake.repository).branches()
        finally:
            released.set()


def test_a_merge_that_was_not_acknowledged_is_whole_or_not_there(broken: Broken) -> None:
    broken.network.plan("POST", "/merge/main", cut_answer)

    with pytest.raises(Unavailable), transaction(broken.lake, MAIN, "change", {}) as work:
        work.put_all({"a": b"1", "b": b"2"})

    assert {entry.path for entry in broken.lake.list(MAIN)} in (set(), {"a", "b"})
    assert list(broken.lake.branches()) == [MAIN]
    with transaction(broken.lake, MAIN, "change", {}) as work:
        work.put("a", b"3")
    assert broken.lake.get(MAIN, "a") == b"3"


def test_writers_beside_each_other_lose_nothing_while_the_server_falters(broken: Broken) -> None:
    for status, message in PATIENCE:
        broken.network.plan("POST", "/objects", *[answer(status, message)] * 5)
        broken.network.plan("POST", "/merge/main", *[answer(status, message)] * 5)
        broken.network.plan("POST", "/objects", cut_request, cut_answer)

    def write(number: int) -> list[str]:
        done = []
        for again in range(6):
            path = f"data/{number}-{again}"
            with suppress(Unavailable), transaction(broken.lake, MAIN, path, {}) as work:
                work.put(path, path.encode())
            done += [path] if work.committed else []
        return done

    with ThreadPoolExecutor(4) as threads:
        acknowledged = [path for paths in threads.map(write, range(4)) for path in paths]

    assert acknowledged
    there = {entry.path for entry in broken.lake.list(MAIN)}
    assert there.issuperset(acknowledged)
    assert all(broken.lake.get(MAIN, path) == path.encode() for path in there)
    assert broken.lake.verify() == []


@pytest.mark.parametrize("multipart", [False, True])
def test_goes_on_where_a_signature_has_expired(broken: Broken, tmp_path: Path, multipart: bool) -> None:
    broken.sign(multipart)

    broken.server.expired = 10**6  # as where it takes longer than signatures last
    broken.lake.put(MAIN, "large", LARGE)
    assert broken.server.unfinished == []

    broken.server.expired = 1
    assert broken.lake.get(MAIN, "large") == LARGE
    broken.server.expired = 1
    broken.lake.fetch(MAIN, "large", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == LARGE
    broken.server.expired = 1
    with broken.lake.open(MAIN, "large") as file:
        file.seek(7_000_000)
        assert bytes(file.read(100)) == LARGE[7_000_000:7_000_100]


@pytest.mark.parametrize("multipart", [False, True])
def test_says_so_where_no_signature_is_good(broken: Broken, multipart: bool) -> None:
    broken.sign(multipart)
    broken.lake.put(MAIN, "large", LARGE)
    broken.server.expired = 10**6

    with pytest.raises(Misconfigured, match="no access to large at main") as refused:
        broken.lake.get(MAIN, "large")

    assert "signature" not in str(refused.value)


def test_needs_a_url_for_each_part(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    broken.sign(multipart=True)
    broken.server.withheld = 1

    with pytest.raises(Unavailable, match="signs 1 parts of large where 2 are needed"):
        broken.lake.put(MAIN, "large", LARGE)

    assert broken.lake.list(MAIN) == []


@pytest.mark.parametrize("presign", [False, True])
def test_finds_a_flipped_byte_and_names_it(broken: Broken, tmp_path: Path, presign: bool) -> None:
    if presign:
        broken.sign()
    broken.lake.put(MAIN, "data/large", LARGE)
    commit = broken.lake.commit(MAIN, "large", {}).id
    (file,) = (broken.server.root / "store" / key for key in broken.server.stored)
    damaged = bytearray(LARGE)
    damaged[9_000_000] ^= 1
    file.write_bytes(damaged)

    reads: list[Callable[[], object]] = [
        lambda: broken.lake.get(commit, "data/large"),
        lambda: broken.lake.fetch(commit, "data/large", tmp_path / "fetched"),
        lambda: broken.lake.open(commit, "data/large").read(),
    ]
    for read in reads:
        with pytest.raises(Corrupt, match=f"data/large at {commit}"):
            read()
    assert list(tmp_path.glob("*fetched*")) == []
    with broken.lake.open(commit, "data/large") as opened:
        assert bytes(opened.read(100)) == LARGE[:100]
    (problem,) = broken.lake.verify()
    assert f"data/large at {commit} differs from its digest" in problem

    file.unlink()
    with pytest.raises(Corrupt, match=r"data/large at .* garbage collection"):
        broken.lake.get(commit, "data/large")
    assert len(broken.lake.verify()) == 1


def test_a_file_that_changes_while_it_is_sent_is_not_stored(broken: Broken, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(LARGE)
    outgoing = Outgoing(source)
    for changed in (LARGE[:-1] + b"!", LARGE[:-1]):
        source.write_bytes(changed)
        with pytest.raises(Unavailable, match="changed while it was stored"):
            upload(broken.lake.server, broken.lake.repository, MAIN, "a", outgoing)
    assert broken.lake.list(MAIN) == []


def test_an_object_replaced_while_it_is_read_is_a_conflict(broken: Broken) -> None:
    broken.lake.put(MAIN, "a", LARGE)
    with broken.lake.open(MAIN, "a") as file:
        file.read(10)
        broken.lake.put(MAIN, "a", LARGE[::-1])
        file.seek(10_000_000)
        with pytest.raises(Conflict, match="a at main was replaced while it was read: read a commit"):
            file.read(10)


def test_changes_of_the_protection_by_somebody_else_are_kept(broken: Broken) -> None:
    repository = broken.server.repositories[broken.lake.repository]
    repository.patterns = ["release-*"]
    broken.network.plan("PUT", "/settings/branch_protection", answer(412, "Precondition failed"))
    broken.lake.create_branch("release-1", MAIN)

    broken.lake.protect(MAIN)

    assert repository.patterns == ["release-*", MAIN]
    assert broken.lake.protected() == {MAIN, "release-1"}


def test_a_protected_branch_is_not_sent_content_twice(broken: Broken) -> None:
    broken.sign()
    broken.lake.protect(MAIN)

    with pytest.raises(Misconfigured, match="'main' is protected"):
        broken.lake.put(MAIN, "large", LARGE)

    assert len([one for one in broken.network.seen if one.startswith("PUT /store/")]) == 1


def test_reads_all_pages(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lakefs_server, "PAGE", 3)
    paths = [f"data/{number:02}" for number in range(10)]
    broken.lake.put_all(MAIN, dict.fromkeys(paths, b"1"))
    assert [change.path for change in broken.lake.diff(broken.lake.resolve(MAIN), MAIN)] == paths
    head = broken.lake.commit(MAIN, "ten", {}).id
    for number in range(7):
        broken.lake.put(MAIN, f"more/{number}", b"1")
        broken.lake.commit(MAIN, str(number), {})
        broken.lake.create_branch(f"b{number}", MAIN)
        broken.lake.tag(f"t{number}", MAIN)

    assert [entry.path for entry in broken.lake.list(head)] == paths
    assert [commit.message for commit in broken.lake.log(MAIN)][:-1] == ["6", "5", "4", "3", "2", "1", "0", "ten"]
    assert len(broken.lake.branches()) == 8
    assert len(broken.lake.tags()) == 7
    assert [change.path for change in broken.lake.diff(head, MAIN)] == [f"more/{number}" for number in range(7)]


def test_names_a_repository_that_is_not_there(broken: Broken) -> None:
    lake = LakeFSLake(broken.lake.server, "absent")
    asked: list[Callable[[], object]] = [
        lambda: lake.resolve(MAIN),
        lake.branches,
        lake.tags,
        lambda: lake.get(MAIN, "a"),
        lambda: lake.put(MAIN, "a", b""),
        lambda: lake.create_branch("work", MAIN),
        lambda: lake.log(MAIN),
        lambda: lake.commit(MAIN, "change", {}),
    ]
    for ask in asked:
        with pytest.raises(NotFound, match="repository"):
            ask()
    assert not lake.exists()


@pytest.mark.parametrize(("key_id", "secret"), [(KEY_ID, "wrong"), ("wrong", SECRET)])
def test_wrong_keys_are_an_error_that_shows_none(broken: Broken, key_id: str, secret: str) -> None:
    lake: Lake = LakeFSLake(Server(broken.server.address, key_id, secret), broken.lake.repository)
    with pytest.raises(Misconfigured, match="OKRUH_LAKEFS_ACCESS_KEY_ID, OKRUH_LAKEFS_SECRET_ACCESS_KEY") as refused:
        lake.branches()
    assert "wrong" not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    lake = LakeFSLake(Server(f"http://127.0.0.1:{port}", KEY_ID, SECRET), "absent")
    with pytest.raises(
        Unavailable, match=rf"127\.0\.0\.1:{port} does not answer \(nothing listens there\): check OKRUH_LAKE"
    ):
        lake.branches()
    nowhere = LakeFSLake(Server("http://lakefs.invalid", KEY_ID, SECRET), "absent")
    with pytest.raises(Unavailable, match=r"lakefs\.invalid does not answer"):
        nowhere.put(MAIN, "a", b"1")


def test_a_server_that_speaks_no_tls_is_an_error(broken: Broken) -> None:
    lake = LakeFSLake(Server(broken.server.address.replace("http:", "https:"), KEY_ID, SECRET), "absent")
    with pytest.raises(Unavailable, match="TLS"):
        lake.branches()


@pytest.mark.parametrize("content", [b"Not Found", b'{"detail": "Not Found"}', b"<html>log in</html>"])
def test_another_server_is_no_empty_lake(content: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(content, 404)(scope, receive, send)

    with running(app) as address:
        lake = LakeFSLake(Server(address, KEY_ID, SECRET), "absent")
        for ask in (lake.exists, lake.branches, lambda: lake.put(MAIN, "a", b"1")):
            with pytest.raises(
                Misconfigured, match=r"what answers at 127\.0\.0\.1:\d+ is no lakeFS server: check OKRUH_LAKE"
            ):
                ask()


def test_a_failure_of_the_block_adapter_is_not_tried_again(filled: Broken) -> None:
    filled.network.plan("POST", "/branches/work/commits", answer(500, "block adapter: write metarange failed"))

    with pytest.raises(Unavailable, match="block adapter"):
        filled.lake.commit("work", "change", {})

    assert filled.network.asked("POST", "/branches/work/commits") == 1


def test_needs_a_place_for_a_new_repository(broken: Broken) -> None:
    broken.server.default_namespace = None
    server = Server(broken.server.address, KEY_ID, SECRET)
    lake = LakeFSLake(server, "okruh-new")

    with pytest.raises(Misconfigured, match="OKRUH_LAKEFS_STORAGE"):
        lake.create()
    with pytest.raises(Misconfigured, match="keeps nothing in 'nonsense'"):
        lake.create("nonsense")
    assert not lake.exists()
    lake.create("s3://bucket/okruh/")
    lake.create("s3://bucket/okruh/")

    assert broken.server.repositories["okruh-new"].namespace == "s3://bucket/okruh/okruh-new"
