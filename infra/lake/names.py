"""Which names and paths a lake accepts, the same for every store.

Branch and tag names follow lakeFS's rule for branches, `^\\w[-\\w]*$` in ASCII, so that a repository can move between
stores. The API document of lakeFS 1.84 gives a pattern for repositories only (`[a-z0-9][a-z0-9-]{2,62}`); the rule for
branches is the server's own check, and its wider rule for tags is narrowed to the same, as one ref may be either. A
name that looks like a commit id is refused, so that a ref never has two meanings.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from infra.errors import Misconfigured

PATH_BYTES = 1024
"""Longest path, in UTF-8; lakeFS's bound as well."""

_EXAMPLES = 5

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_COMMIT_ID = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def is_commit_id(ref: str) -> bool:
    """Tell whether a ref has the form of a commit id."""
    return _COMMIT_ID.fullmatch(ref) is not None


def is_name(ref: str) -> bool:
    """Tell whether a ref has the form of a branch or tag name."""
    return _NAME.fullmatch(ref) is not None and not is_commit_id(ref)


def check_name(name: str) -> None:
    """Accept a branch or tag name. Raises: `Misconfigured`."""
    if not is_name(name):
        raise Misconfigured(
            f"{name!r} cannot name a branch or tag: use ASCII letters, digits, '_' and '-', "
            "not starting with '-', and nothing that looks like a commit id"
        )


def check_path(path: str) -> None:
    """Accept an object's path. Raises: `Misconfigured` saying which rule it breaks."""
    if broken := _broken_rule(path):
        raise Misconfigured(f"path {_shown(path)} is not allowed: {broken}")


def check_prefix(prefix: str) -> None:
    """Accept a path prefix: empty, a folder ending in '/', or the beginning of a path. Raises: `Misconfigured`."""
    if prefix and (broken := _broken_rule(prefix.removesuffix("/"))):
        raise Misconfigured(f"prefix {_shown(prefix)} is not allowed: {broken}")


def check_note(message: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Accept a commit's message and metadata. Raises: `Misconfigured` for anything but text."""
    try:
        checked = msgspec.convert(dict(metadata), dict[str, str])
        msgspec.json.encode([message, checked])
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise Misconfigured(f"a commit's message and metadata must be text: {error}") from error
    return checked


def some(paths: Sequence[str]) -> str:
    """Name paths in a message: five of them at most, and how many more there are."""
    shown = ", ".join(paths[:_EXAMPLES])
    return f"{shown} and {len(paths) - _EXAMPLES} more" if len(paths) > _EXAMPLES else shown


def _broken_rule(path: str) -> str | None:
    segments = path.split("/")
    if path.startswith("/"):
        return "it must be relative"
    if "" in segments:
        return "it has an empty segment"
    if "." in segments or ".." in segments:
        return "it has a '.' or '..' segment"
    if _CONTROL.search(path):
        return "it has control characters"
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return f"it has {size} bytes, at most {PATH_BYTES} are allowed" if size > PATH_BYTES else None


def _shown(path: str) -> str:
    return ascii(path) if len(path) <= 80 else f"{path[:80]!a}..."
