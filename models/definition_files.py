"""The files of a definition, which a bundle keeps: no git commit may have them.

They are the Python sources in the definition's own folder, or its one module, and those of the catalog's that it
imports by a statement; and of what lies beside them the files that they name, or whose folder, smallest first, up to
`KEPT_BYTES` in all. Left out are hidden files, bytecode, and tables, which are data: the lake has what was ingested of
them, and can forget it.
"""

import ast
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import resolve_name
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from models.errors import DefinitionError

KEPT_BYTES = 4 << 20
"""Of files that are no Python sources."""

_TABLES = (".csv", ".parquet")
_CATALOG = "models.catalog"


class DefinitionFiles(NamedTuple):
    """What a definition consists of."""

    kept: tuple[tuple[str, bytes], ...]
    """Paths within the catalog, in order, and contents."""
    left_out: tuple[tuple[str, Path], ...]
    """What lies beside: paths within the catalog, and where they are."""


def gather(catalogs: Sequence[Path], name: str) -> DefinitionFiles:
    """Read the files of a definition; there are none where no catalog has one of that name.

    Args:
        catalogs: folders of definitions; of two modules with one name that of the earlier folder is meant.
        name: of the definition.

    Raises: `DefinitionError` where one cannot be read.
    """
    try:
        sources, others = _read_sources(catalogs, name)
        small, rest = _divide(others, b"".join(sources.values()))
        kept = sources | {path: others[path].read_bytes() for path in small}
    except OSError as error:
        raise DefinitionError(
            f"the definition of {name} cannot be read: {error.filename}: {error.strerror}; what it does not need "
            "may lie elsewhere"
        ) from error
    return DefinitionFiles(
        kept=tuple((path, kept[path]) for path in sorted(kept, key=PurePosixPath)),
        left_out=tuple((path, others[path]) for path in sorted(rest)),
    )


def pack(kept: tuple[tuple[str, bytes], ...]) -> bytes:
    """Put files into an archive, the same of the same files: not compressed, and of no time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in kept:
            archive.writestr(zipfile.ZipInfo(path), content)
    return buffer.getvalue()


def unpack(content: bytes) -> tuple[tuple[str, bytes], ...]:
    """Give the files of an archive, as they were put there."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return tuple((one.filename, archive.read(one)) for one in archive.infolist())


def unpack_into(content: bytes, catalog: Path) -> None:
    """Write the files of an archive into a folder of definitions; links that are in the way are removed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for path in archive.namelist():
            _remove_link(catalog, path)
        archive.extractall(catalog)


def remove(catalog: Path, path: str) -> None:
    """Remove a file from a folder of definitions, or the link by which it is there."""
    if not _remove_link(catalog, path):
        (catalog / path).unlink()


def _remove_link(catalog: Path, path: str) -> bool:
    """Remove the link that a path leads by, and nothing that lies elsewhere; say whether there was one."""
    parts = PurePosixPath(path).parts
    links = (place for end in range(len(parts)) if (place := catalog.joinpath(*parts[: end + 1])).is_symlink())
    found = next(links, None)
    if found is not None:
        found.unlink()
    return found is not None


def has(catalog: Path, module: str) -> bool:
    """Say whether a folder has what an import of a module finds first there."""
    return any((catalog / path).is_file() for path in (f"{module}/__init__.py", f"{module}.py"))


def _read_sources(catalogs: Sequence[Path], name: str) -> tuple[dict[str, bytes], dict[str, Path]]:
    """Read the Python sources of a definition and of what it imports, and list the other files beside them."""
    sources, others = dict[str, bytes](), dict[str, Path]()
    waiting, seen = [name], set[str]()
    while waiting:
        if (module := waiting.pop()) in seen:
            continue
        seen.add(module)
        for path, place in _paths(_first(catalogs, module), module).items():
            if place.suffix == ".py" and place.is_file():
                sources[path] = place.read_bytes()
                waiting += _imported(sources[path], PurePosixPath(path))
            elif place.is_file() or place.is_symlink():
                others[path] = place
    return sources, others


def _first(catalogs: Sequence[Path], module: str) -> Path:
    """Choose the folder that an import would take a module from: one without `__init__.py` comes after all others."""
    import_it = [catalog for catalog in catalogs if has(catalog, module)]
    have_it = [catalog for catalog in catalogs if (catalog / module).is_dir()]
    return next(iter(import_it or have_it or catalogs))


def _paths(catalog: Path, module: str) -> dict[str, Path]:
    """List what a module of a catalog has, hidden files and bytecode aside."""
    found = {}
    for place in (catalog / f"{module}.py", *(catalog / module).rglob("*")):
        path = place.relative_to(catalog)
        if place.exists() and not any(part.startswith(".") or part == "__pycache__" for part in path.parts):
            found[path.as_posix()] = place
    return found


def _divide(others: Mapping[str, Path], sources: bytes) -> tuple[list[str], list[str]]:
    """Say which files are kept, and which are not."""
    room, kept, left_out = KEPT_BYTES, list[str](), list[str]()
    for size, path in sorted((place.stat().st_size, path) for path, place in others.items()):
        _, *within = PurePosixPath(path).parts
        is_named = any(part.encode() in sources for part in within)
        is_table = PurePosixPath(path).suffix.lower() in _TABLES
        if others[path].is_file() and is_named and not is_table and size <= room:
            kept.append(path)
            room -= size
        else:
            left_out.append(path)
    return kept, left_out


def _imported(source: bytes, path: PurePosixPath) -> Iterator[str]:
    """Name the modules of the catalog that a source imports."""
    package = ".".join((_CATALOG, *path.parent.parts))
    try:
        names = [name for node in ast.walk(ast.parse(source)) for name in _names(node, package)]
    except (SyntaxError, ValueError, ImportError):  # one that lies there and that nobody can import
        return
    for name in names:
        if name.startswith(f"{_CATALOG}."):
            yield name.split(".")[2]


def _names(node: ast.AST, package: str) -> list[str]:
    """Give the full names of what a statement may import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = resolve_name(f"{'.' * node.level}{node.module or ''}", package)
        return [f"{base}.{alias.name}" for alias in node.names]
    return []
