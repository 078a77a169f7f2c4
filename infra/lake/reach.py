"""What the branches and tags of a lake reach."""

from collections.abc import Iterable, Iterator

from infra.lake.protocol import MAIN, Commit, Lake


def reachable(lake: Lake, heads: Iterable[str] | None = None) -> Iterator[Commit]:
    """Walk all commits that some commits reach, each once, from newest to oldest.

    Costs a walk from the first, and one from each other that none of the walks before has come by.

    Args:
        heads: where to begin; without it, at all branches and tags, main first.
    """
    if heads is None:
        branches = lake.branches()
        heads = [branches[MAIN], *branches.values(), *lake.tags().values()]
    seen = set[str]()
    for head in heads:
        if head not in seen:  # else all its ancestors have been, too
            for commit in lake.log(head):
                if commit.id not in seen:
                    seen.add(commit.id)
                    yield commit
