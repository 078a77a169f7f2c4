"""Three-way merging of manifests, path by path. Pure.

A path that one side changed takes that side; a path that both changed alike is settled; a path that both changed
differently is a clash. Costs what it takes to find what `theirs` changed.
"""

from collections.abc import Callable, Sequence

import msgspec

from infra.lake.embedded.history import Lookup, best_common_ancestors
from infra.lake.embedded.manifests import Manifest
from infra.lake.protocol import Change, Entry

_UNSETTLED = Entry("", "0" * 64, -1)
"""Stands for a path on which common ancestors clash: equal to no real entry, so every side counts as a change."""


class Merged(msgspec.Struct, frozen=True):
    """What comes of two sides."""

    manifest: Manifest
    """`ours` with what `theirs` changed; clashing paths stay as in `ours`."""
    taken: list[str]
    """Paths that differ from `ours`, sorted."""
    clashes: list[str]
    """Paths that both sides changed differently, sorted."""


def three_way(base: Manifest, ours: Manifest, theirs: Manifest) -> Merged:
    """Bring what `theirs` changed since `base` into `ours`."""
    taken: dict[str, Entry | None] = {}
    clashes = []
    for path, before, wanted in base.differing(theirs):
        present = ours.get(path)
        if wanted == present:
            continue
        if present == before:
            taken[path] = wanted
        else:
            clashes.append(path)
    return Merged(ours.with_changes(taken), list(taken), clashes)


def ancestor_manifest(
    left: Sequence[str], right: Sequence[str], lookup: Lookup, manifest_of: Callable[[str], Manifest]
) -> Manifest:
    """Give the manifest that two sides are compared with.

    After criss-cross merges there are several best common ancestors; they are merged themselves, as git does. Taking
    any one of them would report changes as clashes that a merge has settled already, or undo them.
    """
    bases = best_common_ancestors(left, right, lookup)
    if not bases:
        return Manifest.of({})
    manifest = manifest_of(bases[0])
    for position, other in enumerate(bases[1:], start=1):
        earlier = ancestor_manifest(bases[:position], [other], lookup, manifest_of)
        merged = three_way(earlier, manifest, manifest_of(other))
        unsettled = {path: msgspec.structs.replace(_UNSETTLED, path=path) for path in merged.clashes}
        manifest = merged.manifest.with_changes(unsettled)
    return manifest


def compare(before: Manifest, after: Manifest, prefix: str = "") -> list[Change]:
    """List how two manifests differ, sorted by path."""
    return [
        Change(path, "added" if old is None else "removed" if new is None else "changed")
        for path, old, new in before.differing(after)
        if path.startswith(prefix)
    ]
