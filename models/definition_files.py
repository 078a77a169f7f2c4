"""The files of a definition that lies outside the checkout: what no git commit has, and a bundle therefore keeps.

They are the definition's own folder, or its one module, and those of the same catalog that it imports; of each, all
Python sources, and what else there is, smallest first, up to `KEPT_BYTES` in all. Left out are hidden files, bytecode,
and tables, which are data: the lake has what was ingested of them, and can forget it.
"""

import ast
import io
import zipfile
from collections.abc import Iterator, Set
from importlib.util import resolve_name
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from models.errors import DefinitionError

KEPT_BYTES = 4 << 20
"""Of files that are no Python sources."""

_TABLES = (".csv", ".parquet")
_CATALOG = "models.catalog"


class DefinitionFiles(NamedTuple):
    """What a definition consists of; nothing where git has it."""

    kept: tuple[tuple[str, bytes], ...] = ()
    """Paths within the catalog, in order, and contents."""
    left_out: tuple[str, ...] = ()
    """Paths of tables, of what is too large, and of links to folders."""


def gather(catalog: Path, name: str, own: Set[str]) -> DefinitionFiles:
    """Read the files of a definition.

    Args:
        catalog: the folder outside the checkout.
        name: of the definition.
        own: modules that the checkout's catalog has itself, and which go before those of the folder.

    Raises: `DefinitionError` where one cannot be read.
    """
    try:
        sources, others = _read_sources(catalog, name, own)
        small, large = _divide(others)
        kept = sources | {path: path.read_bytes() for path in small}
    except OSError as error:
        raise DefinitionError(
            f"the definition of {name} cannot be read: {error.filename}: {error.strerror}; what it does not need "
            "may lie elsewhere"
        ) from error
    named = {path.relative_to(catalog).as_posix(): content for path, content in kept.items()}
    return DefinitionFiles(
        kept=tuple((path, named[path]) for path in sorted(named, key=PurePosixPath)),
        left_out=tuple(sorted(path.relative_to(catalog).as_posix() for path in large)),
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


def unpack_into(content: bytes, folder: Path) -> None:
    """Write the files of an archive into a folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)


def _read_sources(catalog: Path, name: str, own: Set[str]) -> tuple[dict[Path, bytes], list[Path]]:
    """Read the Python sources of a definition and of what it imports, and list the other files beside them."""
    sources, others = dict[Path, bytes](), list[Path]()
    waiting, seen = [name], set(own)
    while waiting:
        if (module := waiting.pop()) in seen:
            continue
        seen.add(module)
        for path in _paths(catalog, module):
            if path.suffix == ".py" and path.is_file():
                sources[path] = path.read_bytes()
                waiting += _imported(sources[path], path.relative_to(catalog))
            elif path.is_file() or path.is_symlink():
                others.append(path)
    return sources, others


def _paths(catalog: Path, module: str) -> Iterator[Path]:
    """List what a module of a catalog has, hidden files and bytecode aside."""
    for path in (catalog / f"{module}.py", *(catalog / module).rglob("*")):
        parts = path.relative_to(catalog).parts
        if path.exists() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            yield path


def _divide(others: list[Path]) -> tuple[list[Path], list[Path]]:
    """Say which files are kept, and which are not."""
    room, kept, left_out = KEPT_BYTES, list[Path](), list[Path]()
    for size, path in sorted((path.stat().st_size, path) for path in others):
        if path.is_file() and path.suffix.lower() not in _TABLES and size <= room:
            kept.append(path)
            room -= size
        else:
            left_out.append(path)
    return kept, left_out


def _imported(source: bytes, path: Path) -> Iterator[str]:
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
