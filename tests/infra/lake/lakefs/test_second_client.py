"""The server of the tests, driven by another client than the adapter's; and objects that the adapter did not store."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from lakefs_sdk.client import LakeFSClient
from lakefs_sdk.configuration import Configuration
from lakefs_sdk.exceptions import ApiException
from lakefs_sdk.models import BranchCreation, CommitCreation, RevertCreation

from infra.lake.protocol import MAIN, Change, Entry
from tests.infra.lake.lakefs.conftest import Broken
from tests.infra.lake.lakefs.server import KEY_ID, SECRET


@pytest.fixture
def other(broken: Broken) -> Iterator[LakeFSClient]:
    """lakefs-sdk, on the same server."""
    configuration = Configuration(host=f"{broken.server.address}/api/v1", username=KEY_ID, password=SECRET)
    client = LakeFSClient(configuration)
    yield client
    client._api.rest_client.pool_manager.clear()


def test_sees_what_the_adapter_stored(broken: Broken, other: LakeFSClient) -> None:
    content, repository = b"content" * 100_000, broken.lake.repository
    broken.lake.create_branch("work", MAIN)
    entry = broken.lake.put("work", "data/a", content)
    made = broken.lake.commit("work", "add a", {"kind": "test"})
    merged = broken.lake.merge("work", MAIN, "merge", {})
    broken.lake.tag("v1", MAIN)

    stats = other.objects_api.stat_object(repository, "v1", "data/a")
    log = other.refs_api.log_commits(repository, "main").results

    assert bytes(other.objects_api.get_object(repository, MAIN, "data/a")) == content
    assert (stats.size_bytes, stats.metadata["okruh-sha256"]) == (len(content), entry.digest)
    assert [commit.id for commit in log][:2] == [merged.id, made.id]
    assert log[1].metadata == {"kind": "test"}
    assert other.tags_api.get_tag(repository, "v1").commit_id == merged.id
    assert {branch.id for branch in other.branches_api.list_branches(repository).results} == {MAIN, "work"}
    assert other.repositories_api.get_repository(repository).default_branch == MAIN
    assert [one.path for one in other.refs_api.diff_refs(repository, log[-1].id, MAIN).results] == ["data/a"]


def test_the_adapter_reads_what_others_stored(broken: Broken, other: LakeFSClient, tmp_path: Path) -> None:
    content, repository = bytes(range(256)) * 1000, broken.lake.repository
    other.branches_api.create_branch(repository, BranchCreation(name="work", source=MAIN))
    other.objects_api.upload_object(repository, "work", "data/a", content=content)

    entry = Entry("data/a", sha256(content).hexdigest(), len(content))

    assert broken.lake.stat("work", "data/a") == entry
    broken.server.sent = 0
    assert broken.lake.list("work") == broken.lake.list("work") == [entry]
    assert broken.server.sent == 0  # it was read when it was described
    assert broken.lake.get("work", "data/a") == content
    assert broken.lake.fetch("work", "data/a", tmp_path / "fetched") == entry
    with broken.lake.open("work", "data/a") as file:
        file.seek(1000)
        assert bytes(file.read(5)) == content[1000:1005]
    assert broken.lake.diff(MAIN, "work") == [Change("data/a", "added")]
    broken.lake.put("work", "data/a", content)  # nothing to do
    commit = broken.lake.commit("work", "add", {}).id
    assert broken.lake.verify() == []
    assert broken.lake.get(commit, "data/a") == content


def test_answers_have_the_status_that_lakefs_gives(broken: Broken, other: LakeFSClient) -> None:
    repository = broken.lake.repository
    broken.lake.create_branch("work", MAIN)
    broken.lake.put("work", "a", b"1")
    broken.lake.commit("work", "a", {})
    broken.lake.protect(MAIN)
    merge = other.refs_api.merge_into_branch
    branches, commit = other.branches_api, CommitCreation(message="change")
    asked: list[tuple[int, Callable[[], object]]] = [
        (404, lambda: branches.get_branch(repository, "absent")),
        (404, lambda: other.repositories_api.get_repository("absent")),
        (404, lambda: other.objects_api.stat_object(repository, MAIN, "absent")),
        (409, lambda: branches.create_branch(repository, BranchCreation(name="work", source=MAIN))),
        (400, lambda: branches.create_branch(repository, BranchCreation(name="a/b", source=MAIN))),
        (403, lambda: branches.delete_branch(repository, MAIN)),
        (403, lambda: other.objects_api.upload_object(repository, MAIN, "a", content=b"1")),
        (403, lambda: other.commits_api.commit(repository, MAIN, commit)),
        (400, lambda: other.commits_api.commit(repository, "work", commit)),
        (400, lambda: merge(repository, MAIN, "work")),
        (416, lambda: other.objects_api.get_object(repository, "work", "a", range="bytes=7-9")),
    ]
    for status, ask in asked:
        with pytest.raises(ApiException) as refused:
            ask()
        assert refused.value.status == status
    other.objects_api.upload_object(repository, "work", "b", content=b"1")
    undo = RevertCreation(ref="work", parent_number=0)
    dirty = [lambda: merge(repository, MAIN, "work"), lambda: branches.revert_branch(repository, "work", undo)]
    for ask in dirty:
        with pytest.raises(ApiException, match="dirty") as refused:
            ask()
        assert refused.value.status == 400
