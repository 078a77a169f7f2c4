"""Manifests in ranges: equal states are equal blocks, and a few changes write a few of them."""

import sqlite3
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import Corrupt
from infra.lake.embedded.manifests import Manifest, Manifests
from infra.lake.protocol import Entry

NAMES = [f"data/{table}/{number:03}.parquet" for table in ("rides", "trips") for number in range(400)]
Content = dict[str, int]

contents = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=len(NAMES))
whole = st.sampled_from([dict.fromkeys(NAMES, 1), dict.fromkeys(NAMES[::2], 2), {}])
changes = st.dictionaries(st.sampled_from(NAMES), st.none() | st.integers(0, 3), max_size=60)


def entry(path: str, content: int) -> Entry:
    return Entry(path, sha256(bytes([content])).hexdigest(), content)


def entries(content: Content) -> dict[str, Entry]:
    return {path: entry(path, value) for path, value in content.items()}


def changed(content: Content, by: dict[str, int | None]) -> Content:
    return {path: value for path, value in (content | by).items() if value is not None}


@pytest.fixture
def connection() -> sqlite3.Connection:
    """A table for blocks."""
    made = sqlite3.connect(":memory:")
    made.execute("CREATE TABLE manifests (digest TEXT PRIMARY KEY, content BLOB NOT NULL)")
    return made


@given(whole | contents, changes)
def test_a_changed_manifest_is_the_one_made_of_what_it_holds(before: Content, by: dict[str, int | None]) -> None:
    after = Manifest.of(entries(before)).with_changes(
        {path: entry(path, v) if v is not None else None for path, v in by.items()}
    )

    expected = entries(changed(before, by))
    assert after == Manifest.of(expected)
    assert after.blocks() == Manifest.of(expected).blocks()
    assert list(after.entries()) == [expected[path] for path in sorted(expected)]
    assert len(after) == len(expected)
    assert all(after.get(path) == expected.get(path) for path in NAMES)


@given(whole | contents, whole | contents)
def test_finds_what_differs(left: Content, right: Content) -> None:
    ours, theirs = entries(left), entries(right)

    found = list(Manifest.of(ours).differing(Manifest.of(theirs)))

    paths = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    assert found == [(path, ours.get(path), theirs.get(path)) for path in paths]


@pytest.mark.parametrize(
    ("prefix", "count"), [("", 800), ("data/r", 400), ("data/rides/39", 10), ("data/s", 0), ("z", 0)]
)
def test_goes_through_what_is_under_a_prefix(prefix: str, count: int) -> None:
    found = [one.path for one in Manifest.of(entries(dict.fromkeys(NAMES, 1))).entries(prefix)]

    assert found == [name for name in NAMES if name.startswith(prefix)]
    assert len(found) == count


def test_a_change_writes_one_range_and_the_root(connection: sqlite3.Connection) -> None:
    manifests = Manifests()
    first = manifests.store(connection, Manifest.of(entries(dict.fromkeys(NAMES, 1))))
    stored = connection.total_changes

    second = manifests.store(
        connection, manifests.load(connection, first).with_changes({NAMES[70]: entry(NAMES[70], 2)})
    )

    assert connection.total_changes - stored == 2
    assert [path for path, _, _ in manifests.load(connection, first).differing(manifests.load(connection, second))] == [
        NAMES[70]
    ]
    assert manifests.load(connection, second).get(NAMES[70]) == entry(NAMES[70], 2)


@pytest.mark.parametrize("damaged", [b"", b"\x93\xc4\x01a\xc4\x01b\x90"])
def test_names_a_damaged_block(connection: sqlite3.Connection, damaged: bytes) -> None:
    digest = Manifests().store(connection, Manifest.of(entries({"a": 1})))
    connection.execute("UPDATE manifests SET content = ?", (damaged,))

    with pytest.raises(Corrupt, match=f"manifest {digest} differs from its digest"):
        Manifests().load(connection, digest)
