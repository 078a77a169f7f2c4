"""What is kept of a definition: its sources and what they name, and neither data nor what merely lies beside."""

import shutil
from pathlib import Path

import pytest

from models import definition_files
from models.definition_files import DefinitionFiles, gather, pack, remove, unpack, unpack_into
from models.errors import DefinitionError


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A folder with a definition `rides`."""
    write(tmp_path, "rides/__init__.py", "MODEL = 1\n")
    return tmp_path


def write(catalog: Path, path: str, text: str) -> Path:
    file = catalog / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def kept(catalog: Path, name: str = "rides") -> list[str]:
    return [path for path, _ in gather([catalog], name).kept]


def test_keeps_the_definitions_folder_in_order_but_no_tables_hidden_files_or_bytecode(catalog: Path) -> None:
    write(catalog, "rides/network.py", "ZONES, ICONS = 'zones.json', __file__ + '/../icons'\n")
    for path in ("rides/parts/zones.json", "rides/icons/a.png", "others/__init__.py", "notes.txt"):
        write(catalog, path, "1\n")
    write(catalog, "rides/token.json", "nothing names it\n")
    for path in ("rides/.env", "rides/.git/config.py", "rides/__pycache__/network.pyc"):
        write(catalog, path, "1\n")
    for path in ("rides/raw/a.CSV", "rides/b.parquet"):
        write(catalog, path, "1\n")

    assert gather([catalog], "rides") == DefinitionFiles(
        kept=(
            ("rides/__init__.py", b"MODEL = 1\n"),
            ("rides/icons/a.png", b"1\n"),
            ("rides/network.py", b"ZONES, ICONS = 'zones.json', __file__ + '/../icons'\n"),
            ("rides/parts/zones.json", b"1\n"),
        ),
        left_out=tuple((path, catalog / path) for path in ("rides/b.parquet", "rides/raw/a.CSV", "rides/token.json")),
    )


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("rides/__init__.py", "from models.catalog.widths import WIDTH"),
        ("rides/__init__.py", "from models.catalog import numbers, widths"),
        ("rides/__init__.py", "import models.catalog.widths as named"),
        ("rides/__init__.py", "from ..widths import WIDTH"),
        ("rides/__init__.py", "from .. import widths"),
        ("rides/parts/layers.py", "def later():\n    from ...widths import WIDTH"),
    ],
)
def test_keeps_what_a_definition_imports_of_its_catalog_and_what_that_does(
    catalog: Path, file: str, statement: str
) -> None:
    write(catalog, file, f"{statement}\n")
    write(catalog, "widths.py", "from models.catalog.numbers import TWO\n")
    write(catalog, "numbers/__init__.py", "import math\nfrom models.catalog import rides\nTWO = 2\n")
    write(catalog, "taxi_eta/__init__.py", "nobody = 'needs it'\n")

    assert set(kept(catalog)) == {"rides/__init__.py", file, "widths.py", "numbers/__init__.py"}


def test_of_two_modules_with_one_name_the_earlier_folders_is_kept_and_what_only_another_has_as_well(
    catalog: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    write(catalog, "rides/__init__.py", "from ..taxi_eta import MODEL\nfrom ..widths import WIDTH\n")
    write(catalog, "widths.py", "WIDTH = 1\n")
    write(catalog, "taxi_eta/__init__.py", "MODEL = 'hidden'\n")
    write(catalog, "taxi_eta/network.py", "hidden = 'as well'\n")
    write(first, "taxi_eta/__init__.py", "MODEL = 1\n")
    write(first, "rides/__pycache__/__init__.pyc", "of one that was removed")
    write(first, "rides/raw.csv", "of one that was moved")
    write(first, "widths/notes.txt", "no module, as an import finds it")

    assert dict(gather([first, catalog], "rides").kept) == {
        "rides/__init__.py": (catalog / "rides" / "__init__.py").read_bytes(),
        "taxi_eta/__init__.py": b"MODEL = 1\n",
        "widths.py": b"WIDTH = 1\n",
    }


def test_a_definition_may_be_one_module(catalog: Path) -> None:
    write(catalog, "trips.py", "from .rides import MODEL\n")

    assert kept(catalog, "trips") == ["rides/__init__.py", "trips.py"]
    assert kept(catalog, "nobody") == []


def test_a_source_that_nobody_can_import_names_nothing(catalog: Path) -> None:
    write(catalog, "rides/scratch.py", "from models.catalog.widths import\n")
    write(catalog, "rides/moved.py", "from .....widths import WIDTH\n")
    write(catalog, "widths.py", "WIDTH = 1\n")

    assert kept(catalog) == ["rides/__init__.py", "rides/moved.py", "rides/scratch.py"]


def test_keeps_all_sources_and_of_other_files_the_smallest(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition_files, "KEPT_BYTES", 30)
    named = ("b.json", "c.json", "a.json", "weights.bin")
    for path, size in zip(("long.py", *named), (100, 15, 15, 20, 31), strict=True):
        write(catalog, f"rides/{path}", "#" * size)
    write(catalog, "rides/__init__.py", f"FILES = {named}\n")

    found = gather([catalog], "rides")

    assert [path for path, _ in found.kept] == ["rides/__init__.py", "rides/b.json", "rides/c.json", "rides/long.py"]
    assert [path for path, _ in found.left_out] == ["rides/a.json", "rides/weights.bin"]


def test_names_folders_that_are_linked_and_follows_linked_files(catalog: Path, tmp_path: Path) -> None:
    aside = write(tmp_path / "aside", "zones.json", "1")
    (catalog / "rides" / "zones.json").symlink_to(aside)
    (catalog / "rides" / "images").symlink_to(aside.parent)
    (catalog / "rides" / "gone").symlink_to(tmp_path / "nothing")
    write(catalog, "rides/__init__.py", "ZONES, IMAGES, GONE = 'zones.json', 'images', 'gone'\n")

    found = gather([catalog], "rides")

    assert [path for path, _ in found.kept] == ["rides/__init__.py", "rides/zones.json"]
    assert found.left_out == (("rides/images", catalog / "rides" / "images"),)


def test_a_file_that_cannot_be_read_is_named(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(catalog, "rides/notes.txt", "1")
    write(catalog, "rides/__init__.py", "NOTES = 'notes.txt'\n")
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)

    with pytest.raises(DefinitionError, match=r"of rides cannot be read: .*/rides/notes\.txt: Permission denied; what"):
        gather([catalog], "rides")


@pytest.mark.parametrize("link", ["rides", "rides/parts", "rides/__init__.py"])
def test_what_a_link_leads_to_is_neither_written_to_nor_removed(catalog: Path, tmp_path: Path, link: str) -> None:
    write(catalog, "rides/parts/layers.py", "LAYERS = 1\n")
    archive = pack(gather([catalog], "rides").kept)
    elsewhere, there = tmp_path / "elsewhere", tmp_path / "there"
    write(there, "rides/later.py", "of later\n")
    (there / link).parent.mkdir(exist_ok=True)
    target = write(elsewhere, "a.py", "theirs\n") if link.endswith(".py") else elsewhere
    write(elsewhere, "layers.py", "theirs\n")
    write(elsewhere, "__init__.py", "theirs\n")
    if link == "rides":
        shutil.rmtree(there / "rides")
    (there / link).symlink_to(target)
    before = {file: file.read_text() for file in elsewhere.iterdir()}

    if link == "rides":
        remove(there, "rides/layers.py")
        (there / link).symlink_to(target)
    unpack_into(archive, there)

    assert {file: file.read_text() for file in elsewhere.iterdir()} == before
    assert unpack(pack(gather([there], "rides").kept))[0] == ("rides/__init__.py", b"MODEL = 1\n")
    assert not any(place.is_symlink() for place in there.rglob("*"))


def test_an_archive_of_the_same_files_is_the_same_and_gives_them_back(catalog: Path, tmp_path: Path) -> None:
    write(catalog, "rides/parts/zones.json", "1\n")
    write(catalog, "rides/__init__.py", "ZONES = 'zones.json'\n")
    files = gather([catalog], "rides").kept
    first = pack(files)
    (catalog / "rides" / "__init__.py").touch()

    unpack_into(first, tmp_path / "again")

    assert first == pack(gather([catalog], "rides").kept)
    assert unpack(first) == files == gather([tmp_path / "again"], "rides").kept
