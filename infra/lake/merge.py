"""Three-way merging of manifests, path by path. Pure.

A path that one side changed takes that side; a path that both changed alike is settled; a path that both changed
differently is a clash. Costs one pass over the larger manifest.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from infra.lake.history import Lookup, best_common_ancestors
from infra.lake.protocol import Change, Entry

Manifest = Mapping[str, Entry]
"""Entries by path."""

_UNSETTLED = Entry("", "", -1)
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
    manifest = dict(ours)
    taken, clashes = [], []
    for path in _differing(base, theirs):
        wanted, present = theirs.get(path), ours.get(path)
        if wanted == present:
            continue
        if present != base.get(path):
            clashes.append(path)
            continue
        taken.append(path)
        if wanted is None:
            del manifest[path]
        else:
            manifest[path] = wanted
    return Merged(manifest, taken, clashes)


def ancestor_manifest(
    left: Sequence[str], right: Sequence[str], lookup: Lookup, manifest_of: Callable[[str], Manifest]
) -> Manifest:
    """Give the manifest that two sides are compared with.

    After criss-cross merges there are several best common ancestors; they are merged themselves, as git does. Taking
    any one of them would report changes as clashes that a merge has settled already, or undo them.
    """
    bases = best_common_ancestors(left, right, lookup)
    if not bases:
        return {}
    manifest = manifest_of(bases[0])
    for position, other in enumerate(bases[1:], start=1):
        earlier = ancestor_manifest(bases[:position], [other], lookup, manifest_of)
        merged = three_way(earlier, manifest, manifest_of(other))
        manifest = {**merged.manifest, **dict.fromkeys(merged.clashes, _UNSETTLED)}
    return manifest


def compare(before: Manifest, after: Manifest) -> list[Change]:
    """List how two manifests differ, sorted by path."""
    return [
        Change(path, "added" if path not in before else "removed" if path not in after else "changed")
        for path in _differing(before, after)
    ]


def _differing(before: Manifest, after: Manifest) -> list[str]:
    if before is after:
        return []
    present = [path for path, entry in after.items() if before.get(path) != entry]
    return sorted(present + [path for path in before if path not in after])
