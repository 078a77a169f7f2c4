"""Random operations on a lake and on a dictionary agree."""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from infra.errors import Conflict, NotFound
from infra.lake.protocol import MAIN, Lake

NAMES = st.sampled_from([MAIN, "left", "right"])
PATHS = st.sampled_from(["a", "a/b", "b", "c"])
CONTENTS = st.sampled_from([b"", b"1", b"2"])
REFS = st.one_of(NAMES, st.integers(0, 30))
"""A name, or the number of a commit."""

State = dict[str, bytes]


class LakeModel(RuleBasedStateMachine):
    """A lake beside what it should hold."""

    def __init__(self, new_lake: Callable[[], Lake]) -> None:
        super().__init__()
        self.lake = new_lake()
        start = self.lake.resolve(MAIN)
        self.states: dict[str, State] = {start: {}}
        self.parents: dict[str, tuple[str, ...]] = {start: ()}
        self.heads = {MAIN: start}
        self.visible: dict[str, State] = {MAIN: {}}
        self.tags: dict[str, str] = {}

    @rule(name=NAMES, source=REFS)
    def create_branch(self, name: str, source: str | int) -> None:
        ref = self._ref(source)
        if ref not in self.heads and ref not in self.states:
            self._refused(NotFound, lambda: self.lake.create_branch(name, ref))
        elif name in self.heads:
            self._refused(Conflict, lambda: self.lake.create_branch(name, ref))
        else:
            head = self._commit_of(ref)
            assert self.lake.create_branch(name, ref) == head
            self.heads[name], self.visible[name] = head, dict(self.states[head])

    @rule(name=st.sampled_from(["left", "right"]))
    def delete_branch(self, name: str) -> None:
        if self._is_missing(name, lambda: self.lake.delete_branch(name)):
            return
        self.lake.delete_branch(name)
        del self.heads[name], self.visible[name]

    @rule(name=NAMES, path=PATHS, content=CONTENTS)
    def put(self, name: str, path: str, content: bytes) -> None:
        if self._is_missing(name, lambda: self.lake.put(name, path, content)):
            return
        self.lake.put(name, path, content)
        self.visible[name][path] = content

    @rule(name=NAMES, path=PATHS)
    def delete(self, name: str, path: str) -> None:
        if path not in self.visible.get(name, {}):
            self._refused(NotFound, lambda: self.lake.delete(name, path))
            return
        self.lake.delete(name, path)
        del self.visible[name][path]

    @rule(name=NAMES)
    def commit(self, name: str) -> None:
        if self._is_missing(name, lambda: self.lake.commit(name, "change", {})):
            return
        head = self.heads[name]
        if self.visible[name] == self.states[head]:
            self._refused(Conflict, lambda: self.lake.commit(name, "change", {}))
            return
        made = self.lake.commit(name, "change", {})
        assert made.parents == (head,)
        self._record(name, made.id, made.parents, self.visible[name])

    @rule(source=REFS, into=NAMES)
    def merge(self, source: str | int, into: str) -> None:
        ref = self._ref(source)
        merge = partial(self.lake.merge, ref, into, "merge", {})
        if self._is_missing(into, merge) or self._is_missing(ref, merge):
            return
        ours, theirs = self.heads[into], self._commit_of(ref)
        bases = self._best_common_ancestors(ours, theirs)
        if len(bases) > 1:
            return
        merged = _three_way(self.states[bases[0]], self.states[ours], self.states[theirs])
        if self.visible[into] != self.states[ours] or merged is None or self.states[theirs] == self.states[bases[0]]:
            self._refused(Conflict, merge)
            return
        made = merge()
        assert made.parents == (ours, theirs)
        self._record(into, made.id, made.parents, merged)

    @rule(name=NAMES)
    def reset(self, name: str) -> None:
        if self._is_missing(name, lambda: self.lake.reset(name)):
            return
        self.lake.reset(name)
        self.visible[name] = dict(self.states[self.heads[name]])

    @rule(name=NAMES, source=REFS)
    def revert(self, name: str, source: str | int) -> None:
        ref = self._ref(source)
        revert = partial(self.lake.revert, name, ref, "undo", {})
        if self._is_missing(name, revert) or self._is_missing(ref, revert):
            return
        head, undone = self.heads[name], self._commit_of(ref)
        before = self.states[self.parents[undone][0]] if self.parents[undone] else self.states[undone]
        reverted = _three_way(self.states[undone], self.states[head], before)
        if self.visible[name] != self.states[head] or reverted in (None, self.states[head]):
            self._refused(Conflict, revert)
            return
        made = revert()
        assert made.parents == (head,)
        self._record(name, made.id, made.parents, reverted or {})

    @rule(name=st.sampled_from(["v1", "v2"]), source=REFS)
    def tag(self, name: str, source: str | int) -> None:
        ref = self._ref(source)
        if self._is_missing(ref, lambda: self.lake.tag(name, ref)):
            return
        commit_id = self._commit_of(ref)
        if self.tags.setdefault(name, commit_id) != commit_id:
            self._refused(Conflict, lambda: self.lake.tag(name, ref))
        else:
            self.lake.tag(name, ref)

    @rule(before=REFS, after=REFS)
    def diff(self, before: str | int, after: str | int) -> None:
        refs = self._ref(before), self._ref(after)
        if any(self._is_missing(ref, lambda: self.lake.diff(*refs)) for ref in refs):
            return
        old, new = (self.visible.get(ref, self.states.get(ref, {})) for ref in refs)
        differing = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
        assert [change.path for change in self.lake.diff(*refs)] == differing

    @rule(name=NAMES)
    def log(self, name: str) -> None:
        if self._is_missing(name, lambda: self.lake.log(name)):
            return
        order = [found.id for found in self.lake.log(name)]
        assert sorted(order) == sorted(self._ancestors(self.heads[name]))
        place = {commit_id: position for position, commit_id in enumerate(order)}
        assert all(place[child] < place[parent] for child in order for parent in self.parents[child])

    @invariant()
    def agrees(self) -> None:
        assert self.lake.branches() == self.heads
        assert self.lake.tags() == self.tags
        for name, state in self.visible.items():
            assert {entry.path: self.lake.get(name, entry.path) for entry in self.lake.list(name)} == state
        newest = next(reversed(self.states))
        assert {entry.path for entry in self.lake.list(newest)} == self.states[newest].keys()

    def _ref(self, source: str | int) -> str:
        return source if isinstance(source, str) else list(self.states)[source % len(self.states)]

    def _commit_of(self, ref: str) -> str:
        return self.heads.get(ref, ref)

    def _is_missing(self, ref: str, ask: Callable[[], object]) -> bool:
        if ref in self.heads or ref in self.states:
            return False
        self._refused(NotFound, ask)
        return True

    def _refused(self, error: type[Exception], ask: Callable[[], object]) -> None:
        with pytest.raises(error):
            ask()

    def _record(self, name: str, commit_id: str, parents: tuple[str, ...], state: State) -> None:
        self.states[commit_id], self.parents[commit_id] = dict(state), parents
        self.heads[name], self.visible[name] = commit_id, dict(state)

    def _ancestors(self, commit_id: str) -> set[str]:
        found, waiting = set[str](), [commit_id]
        while waiting:
            current = waiting.pop()
            if current not in found:
                found.add(current)
                waiting += self.parents[current]
        return found

    def _best_common_ancestors(self, left: str, right: str) -> list[str]:
        common = self._ancestors(left) & self._ancestors(right)
        dominated = set().union(*(self._ancestors(commit_id) - {commit_id} for commit_id in common))
        return sorted(common - dominated)


def _three_way(base: State, ours: State, theirs: State) -> State | None:
    """Merge, or None for a conflict."""
    merged = {}
    for path in base.keys() | ours.keys() | theirs.keys():
        was, mine, other = base.get(path), ours.get(path), theirs.get(path)
        if mine not in (was, other) and other != was:
            return None
        kept = mine if other == was else other
        if kept is not None:
            merged[path] = kept
    return merged


@pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.proof)])
def test_agrees_with_a_dictionary(new_lake: Callable[[], Lake], examples: int) -> None:
    run_state_machine_as_test(
        partial(LakeModel, new_lake),  # type: ignore[arg-type]  # any callable that makes one will do
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
