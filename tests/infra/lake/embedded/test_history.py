"""Ancestors and merges on small graphs, drawn in each test: time runs from left to right."""

from datetime import UTC, datetime, timedelta

from infra.lake.embedded.history import Record, best_common_ancestors, next_moment, walk
from infra.lake.embedded.manifests import Manifest
from infra.lake.embedded.merge import ancestor_manifest, three_way
from infra.lake.protocol import Entry

START = datetime(2020, 1, 1, tzinfo=UTC)


class Graph:
    """Commits by letter, each newer than the one named before."""

    def __init__(self, **parents: str) -> None:
        self.records = {
            name: Record(
                created_at=START + timedelta(seconds=age),
                manifest=name,
                message="",
                metadata={},
                parents=tuple(above),
            )
            for age, (name, above) in enumerate(parents.items())
        }

    def best(self, left: str, right: str) -> list[str]:
        return sorted(best_common_ancestors([left], [right], self.records.__getitem__))


def manifest(**digests: str) -> Manifest:
    return Manifest.of({path: Entry(path, digest * 64, 1) for path, digest in digests.items()})


def test_a_commit_behind_is_its_own_ancestor() -> None:
    graph = Graph(a="", b="a", c="b")
    assert graph.best("c", "b") == graph.best("b", "c") == ["b"]
    assert graph.best("c", "c") == ["c"]


def test_takes_the_youngest_fork() -> None:
    #  a - b - d
    #   \    \- e     c is a side line
    graph = Graph(a="", c="a", b="a", d="b", e="bc")
    assert graph.best("d", "e") == ["b"]
    assert graph.best("d", "c") == ["a"]


def test_leaves_out_ancestors_of_a_better_one() -> None:
    #  c was merged into both sides, and a is above it
    graph = Graph(a="", b="a", c="a", d="bc", e="c")
    assert graph.best("d", "e") == ["c"]


def test_finds_both_ancestors_of_a_criss_cross() -> None:
    #  a - b - d
    #   \    X
    #    - c - e
    graph = Graph(a="", b="a", c="a", d="bc", e="cb")
    assert graph.best("d", "e") == ["b", "c"]


def test_finds_nothing_between_strangers() -> None:
    assert Graph(a="", b="").best("a", "b") == []


def test_walks_every_commit_once_before_its_parents() -> None:
    graph = Graph(a="", b="a", c="a", d="bc", e="d")
    assert [name for name, _ in walk(["e", "d"], graph.records.__getitem__)] == list("edcba")


def test_merges_the_ancestors_of_a_criss_cross() -> None:
    graph = Graph(a="", b="a", c="a", d="bc", e="cb", f="d")
    manifests = {
        "a": manifest(left="0", right="0", kept="0"),
        "b": manifest(left="1", right="0", kept="0"),
        "c": manifest(left="0", right="1", kept="0"),
        "d": manifest(left="1", right="1", kept="0"),
        "e": manifest(left="1", right="1", kept="0"),
        "f": manifest(left="2", right="1", kept="0"),
    }
    base = ancestor_manifest(["f"], ["e"], graph.records.__getitem__, manifests.__getitem__)
    assert base == manifests["d"]
    merged = three_way(base, manifests["e"], manifests["f"])
    assert (merged.manifest, merged.taken, merged.clashes) == (manifests["f"], ["left"], [])


def test_counts_a_clash_of_ancestors_as_changed_by_every_side() -> None:
    graph = Graph(a="", b="a", c="a", d="bc", e="cb")
    manifests = {
        "a": manifest(path="0"),
        "b": manifest(path="1"),
        "c": manifest(path="2"),
        "d": manifest(path="1"),
        "e": manifest(path="2"),
    }
    base = ancestor_manifest(["d"], ["e"], graph.records.__getitem__, manifests.__getitem__)
    assert three_way(base, manifests["d"], manifests["e"]).clashes == ["path"]
    assert three_way(base, manifests["d"], manifests["d"]).clashes == []


def test_strangers_clash_only_where_they_differ() -> None:
    merged = three_way(manifest(), manifest(a="1", b="1"), manifest(a="1", b="2", c="3"))
    assert (merged.taken, merged.clashes) == (["c"], ["b"])


def test_a_commit_is_newer_than_its_parents_when_the_clock_went_back() -> None:
    ahead = Record(created_at=datetime.now(UTC) + timedelta(days=1), manifest="", message="", metadata={}, parents=())
    assert next_moment([ahead]) == ahead.created_at + timedelta(microseconds=1)
    assert next_moment([Graph(a="").records["a"]]) > START + timedelta(days=365)
