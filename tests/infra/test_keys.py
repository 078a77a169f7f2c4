"""The file of keys: what it keeps, who may read it, and what becomes of it when many write."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import Misconfigured, NotFound, Unavailable
from infra.keys import KeyFile, digest


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    """No file yet, in no folder yet."""
    return KeyFile(tmp_path / "home" / "keys.json")


def test_keeps_a_digest_and_never_the_key(file: KeyFile) -> None:
    made = file.add("app", ["predict", "feedback", "predict"], 100)

    (key,) = file.read()
    assert (key.name, key.scopes, key.rate) == ("app", ("predict", "feedback"), 100)
    assert key.digest == digest(made.encode()).hex()
    assert made not in file.path.read_text()


def test_makes_keys_that_differ_and_carry_256_bits(file: KeyFile) -> None:
    made = {file.add("app", ["predict"]) for _ in range(20)}

    assert len(made) == 20
    assert {len(key.removeprefix("okruh_")) for key in made} == {43}  # of 6 bits each


def test_is_its_owners_alone(file: KeyFile) -> None:
    file.add("app", ["predict"])

    assert file.path.stat().st_mode & 0o777 == 0o600
    assert list(file.path.parent.iterdir()) == [file.path]


def test_changes_its_stamp_with_every_change(file: KeyFile) -> None:
    stamps = [file.stamp()]
    for change in (lambda: file.add("a", ["predict"]), lambda: file.add("b", ["predict"]), lambda: file.revoke("a")):
        change()
        stamps.append(file.stamp())

    assert stamps[0] is None
    assert len(set(stamps)) == 4


@pytest.mark.parametrize(
    ("name", "scopes", "rate"),
    [
        ("", ["predict"], None),
        ("a b", ["predict"], None),
        ("app", [], None),
        ("app", ["everything"], None),
        ("app", ["predict"], 0),
        ("app", ["predict"], float("inf")),
        ("app", ["predict"], float("nan")),
    ],
)
def test_makes_no_key_that_means_nothing(file: KeyFile, name: str, scopes: list[str], rate: float | None) -> None:
    with pytest.raises(Misconfigured, match="no such key can be made"):
        file.add(name, scopes, rate)

    assert file.read() == []


def test_revokes_all_keys_of_a_name_or_all_but_the_newest(file: KeyFile) -> None:
    file.add("other", ["admin"])
    for _ in range(3):
        newest = file.add("app", ["predict"])

    assert len(file.revoke("app", older=True)) == 2
    assert [key.digest for key in file.read() if key.name == "app"] == [digest(newest.encode()).hex()]
    assert len(file.revoke("app")) == 1
    assert [key.name for key in file.read()] == ["other"]


def test_names_those_there_are_where_a_name_has_no_key(file: KeyFile) -> None:
    file.add("app", ["predict"])

    with pytest.raises(NotFound, match=r"no key is called 'ap' in .*; there are app"):
        file.revoke("ap")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"keys":[{"name":"app"}]}',
        '{"keys":[{"name":"app","digest":"00","scopes":["predict"],"created_at":"2026-01-01T00:00:00Z"}]}',
        '{"keys":[],"more":1}',
    ],
)
def test_takes_no_other_file_for_keys_and_leaves_it_alone(file: KeyFile, content: str) -> None:
    file.path.parent.mkdir()
    file.path.write_text(content)

    for touch in (file.read, lambda: file.add("app", ["predict"]), lambda: file.revoke("app")):
        with pytest.raises(Misconfigured, match="no file of keys"):
            touch()
    assert file.path.read_text() == content


def test_says_so_where_it_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below_a_file = KeyFile(tmp_path / "file" / "keys.json")

    attempts: list[Callable[[], object]] = [
        below_a_file.read,
        below_a_file.stamp,
        lambda: below_a_file.add("app", ["predict"]),
    ]
    for attempt in attempts:
        with pytest.raises(Unavailable, match=r"keys\.json cannot be"):
            attempt()


def test_loses_no_key_where_many_are_made_at_once(file: KeyFile) -> None:
    threads = [threading.Thread(target=file.add, args=(f"app-{number}", ["predict"])) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {key.name for key in file.read()} == {f"app-{number}" for number in range(8)}
