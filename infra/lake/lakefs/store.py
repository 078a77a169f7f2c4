"""The lake on a lakeFS server: its repositories, branches, commits and tags, as the protocol wants them.

Where lakeFS does not do what the protocol says, this makes up for it:

- Its difference of refs compares commits: uncommitted changes are laid over it here.
- Storing what is there already would count as a change, and make a branch that nothing can be merged into: such content
  is not sent, and an earlier change of it is taken back.
- Its log of what changed a prefix leaves out merges: commits are looked at here, some at a time.
- A merge that clashes is refused without saying where: the difference from the common ancestor says it.
- Branches and tags may share a name: here, both are looked at before one is made.

Content is visible on its branch as soon as it is stored, so that a failure half-way through `put_all` leaves some of it
as uncommitted changes. Commits are as old as whole seconds tell. `collect` is the server's own work.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from infra.errors import Conflict, Corrupt, InfraError, Misconfigured, NotFound, Unavailable
from infra.lake.blocks import VerifiedFile
from infra.lake.erasures import Record, recorded, refused
from infra.lake.lakefs.server import Refusal, Server
from infra.lake.lakefs.transfer import Outgoing, Stored, content_of, upload
from infra.lake.names import check_name, check_note, check_path, check_prefix, is_commit_id, is_name, some
from infra.lake.protocol import MAIN, Change, Collected, Commit, Entry, Erasure
from infra.lake.reach import reachable
from infra.lake.transaction import is_private

_AT_A_TIME = 16
_PLACE = re.compile(r"(s3|gs|https?|mem|local|transient)://")
_THEIR_METADATA = ".lakefs."

_KINDS: dict[str, Literal["added", "removed", "changed"]] = {
    "added": "added",
    "removed": "removed",
    "changed": "changed",
}


class LakeFSLake:
    """A `Lake` that is a repository of a lakeFS server. Raises as the protocol says."""

    def __init__(self, server: Server, repository: str) -> None:
        self.server = server
        self._client = server.client
        self.repository = repository
        self._records: dict[Entry, Record] = {}
        """Of what was erased, as far as they were read."""

    def close(self) -> None:
        """Close the connections; using the lake again opens them again."""
        self.server.close()

    def exists(self) -> bool:
        """Say whether the repository is there."""
        try:
            self.server.ask(self._client.repositories_api.get_repository, self.repository)
        except Refusal as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:
                return False
            raise self._error(refusal, f"repository {self.repository!r}") from refusal
        return True

    def create(self, storage: str | None = None) -> None:
        """Make the repository, unless somebody has.

        Args:
            storage: where the server shall keep the objects of repositories, such as `s3://bucket/okruh`; without it,
                where the server keeps them by default.

        Raises: `Misconfigured` where neither is known or the server cannot use it.
        """
        place = storage or self.server.storage.get("default_namespace_prefix")
        if not place:
            raise Misconfigured(
                f"lakeFS at {self.server.host} has no default place for a new repository: "
                "set OKRUH_LAKEFS_STORAGE, to s3://bucket/okruh for example"
            )
        if not _PLACE.match(place):
            raise Misconfigured(
                f"lakeFS keeps nothing in {place!r}: OKRUH_LAKEFS_STORAGE is like s3://bucket/okruh, "
                "or gs://, https:// (Azure), local://"
            )
        wanted = self.server.models.RepositoryCreation(
            name=self.repository, storage_namespace=f"{place.rstrip('/')}/{self.repository}", default_branch=MAIN
        )
        try:
            self.server.ask(self._client.repositories_api.create_repository, wanted)
        except Refusal as refusal:
            if refusal.status != HTTPStatus.CONFLICT or not self.exists():
                raise self._error(refusal, f"repository {self.repository!r} in {place}") from refusal

    def resolve(self, ref: str) -> str:
        """Give the commit id that a branch, tag or commit id stands for now."""
        return self._commit_at(ref).id

    def branches(self) -> dict[str, str]:
        """Give each branch's head commit id, by name."""
        found = self._pages("branches", self._client.branches_api.list_branches)
        return {one.id: one.commit_id for one in found}

    def create_branch(self, name: str, source: str) -> str:
        """Start a branch at the commit of `source`."""
        check_name(name)
        head = self.resolve(source)
        if self._tagged(name):
            raise Conflict(f"{name!r} is a tag already")
        try:
            wanted = self.server.models.BranchCreation(name=name, source=head)
            self.server.ask(self._client.branches_api.create_branch, self.repository, wanted)
        except Refusal as refusal:
            if refusal.status == HTTPStatus.CONFLICT:
                raise Conflict(f"branch {name!r} exists already") from refusal
            raise self._error(refusal, f"branch {name!r}") from refusal
        return head

    def delete_branch(self, name: str) -> None:
        """Drop a branch, its uncommitted changes, and its own protection."""
        if name == MAIN:
            raise Misconfigured(f"branch {MAIN!r} is the truth and cannot be deleted")
        self._branch_head(name)
        if not is_private(name):  # nobody protects those, and a writer may not see the rules
            self._change_rules(lambda patterns: [one for one in patterns if one != name])
        self._call(f"branch {name!r}", self._client.branches_api.delete_branch, name)

    def protect(self, branch: str) -> None:
        """Have a branch changed by merges alone."""
        self._branch_head(branch)
        self._check_clean(branch)
        self._change_rules(lambda patterns: patterns if branch in patterns else [*patterns, branch])

    def protected(self) -> set[str]:
        """Name the protected branches."""
        patterns = [pattern.replace("[", "[[]") for pattern in self._rules()[0]]
        if not patterns:
            return set()
        return {name for name in self.branches() if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}

    def put(self, branch: str, path: str, content: bytes | Path) -> Entry:
        """Store content under a path of a branch, uncommitted."""
        return self.put_all(branch, {path: content})[0]

    def put_all(self, branch: str, contents: Mapping[str, bytes | Path]) -> Sequence[Entry]:
        """Store several contents by path, several at a time."""
        for path in contents:
            check_path(path)
        head = self._branch_head(branch)
        with ThreadPoolExecutor(_AT_A_TIME) as threads:
            outgoing = list(threads.map(Outgoing, contents.values()))
            self._check_not_erased({path: one.content.digest for path, one in zip(contents, outgoing, strict=True)})
            pending = self._uncommitted(branch, next(iter(contents)) if len(contents) == 1 else "")

            def put(path: str, one: Outgoing) -> Entry:
                return self._put(branch, head if path in pending else None, path, one)

            return list(threads.map(put, contents, outgoing))

    def delete(self, branch: str, path: str) -> None:
        """Remove a path from a branch, uncommitted."""
        check_path(path)
        head = self._branch_head(branch)
        self.stat(branch, path)
        if self._known(head, path) is None:
            self._unstage(branch, path)
        else:
            try:
                self.server.ask(self._client.objects_api.delete_object, self.repository, branch, path)
            except Refusal as refusal:
                raise self._write_error(refusal, branch) from refusal

    def get(self, ref: str, path: str) -> bytes:
        """Read an object; its digest is verified."""
        return self._stored(ref, path).read()

    def open(self, ref: str, path: str) -> VerifiedFile:
        """Open an object for reading in parts, by requests of ranges."""
        return self._stored(ref, path).open()

    def fetch(self, ref: str, path: str, target: Path) -> Entry:
        """Copy an object into a file, in constant memory."""
        return self._stored(ref, path).fetch(target)

    def stat(self, ref: str, path: str) -> Entry:
        """Describe an object without reading it, unless somebody else stored it."""
        return self._stored(ref, path, presign=False).entry()

    def commit(self, branch: str, message: str, metadata: Mapping[str, str]) -> Commit:
        """Make a branch's uncommitted changes a commit."""
        note = check_note(message, metadata)
        self._branch_head(branch)
        wanted = self.server.models.CommitCreation(message=message, metadata=note)
        try:
            made = self.server.ask(self._client.commits_api.commit, self.repository, branch, wanted)
        except Refusal as refusal:
            raise self._write_error(refusal, branch, f"nothing to commit on branch {branch!r}") from refusal
        return _described(made)

    def reset(self, branch: str) -> None:
        """Drop a branch's uncommitted changes."""
        self._branch_head(branch)
        self._reset(branch, type="reset")

    def revert(self, branch: str, ref: str, message: str, metadata: Mapping[str, str]) -> Commit:
        """Undo on a branch, by a new commit, what a commit changed relative to its first parent."""
        note = check_note(message, metadata)
        models, head = self.server.models, self._branch_head(branch)
        undone = self._commit_at(ref)
        if not undone.parents:
            raise Conflict(f"nothing to undo: {ref!r} is the start of the lake")
        wanted = models.RevertCreation(
            ref=undone.id,
            parent_number=1 if len(undone.parents) > 1 else 0,
            commit_overrides=models.CommitOverrides(message=message, metadata=note),
        )
        try:
            self.server.ask(self._client.branches_api.revert_branch, self.repository, branch, wanted)
        except Refusal as refusal:
            if refusal.status == HTTPStatus.CONFLICT:
                clashes = self._changed_since(undone, head)
                raise Conflict(f"{branch!r} has changed since {ref!r}: {some(clashes)}") from refusal
            nothing = f"nothing to undo: {branch!r} has no change of {ref!r}"
            raise self._write_error(refusal, branch, nothing) from refusal
        return self._commit_at(branch)

    def merge(self, source: str, into: str, message: str, metadata: Mapping[str, str]) -> Commit:
        """Merge a ref's commits into a branch, path by path; always by a merge commit."""
        note = check_note(message, metadata)
        head, theirs = self._branch_head(into), self.resolve(source)
        wanted = self.server.models.Merge(message=message, metadata=note)
        merge = self._client.refs_api.merge_into_branch
        try:
            made = self.server.ask(merge, self.repository, theirs, into, merge=wanted)
        except Refusal as refusal:
            if refusal.status == HTTPStatus.CONFLICT:
                clashes = self._clashes(head, theirs)
                raise Conflict(f"{source!r} and {into!r} both changed {some(clashes)}") from refusal
            nothing = f"nothing to merge: {source!r} has no changes that {into!r} lacks"
            raise self._write_error(refusal, into, nothing) from refusal
        return self._commit_at(made.reference)

    def tag(self, name: str, ref: str) -> None:
        """Name a commit for good."""
        check_name(name)
        commit_id = self.resolve(ref)
        if self._branched(name):
            raise Conflict(f"{name!r} is a branch already")
        try:
            wanted = self.server.models.TagCreation(id=name, ref=commit_id)
            self.server.ask(self._client.tags_api.create_tag, self.repository, wanted)
        except Refusal as refusal:
            if refusal.status != HTTPStatus.CONFLICT:
                raise self._error(refusal, f"tag {name!r}") from refusal
            if (present := self._tagged(name)) != commit_id:
                raise Conflict(f"tag {name!r} names commit {present} already") from refusal

    def tags(self) -> dict[str, str]:
        """Give each tag's commit id, by name."""
        return {one.id: one.commit_id for one in self._pages("tags", self._client.tags_api.list_tags)}

    def log(self, ref: str, prefix: str | None = None) -> Iterator[Commit]:
        """Walk history from newest to oldest, each commit once."""
        check_prefix(prefix or "")
        commits = self._walk(self.resolve(ref))
        return commits if prefix is None else self._touching(commits, prefix)

    def diff(self, before: str, after: str, prefix: str = "") -> list[Change]:
        """Compare two refs path by path, sorted by path."""
        check_prefix(prefix)
        old, new = self._uncommitted(before, prefix), self._uncommitted(after, prefix)
        left, right = self.resolve(before), self.resolve(after)
        changes = {one.path: one for one in self._committed_changes(left, right, prefix)}
        for path in old.keys() | new.keys():
            if path in old or path in changes:
                change = _change(path, self._known(before, path), self._known(after, path))
            else:
                change = new[path]
            if change is None:
                changes.pop(path, None)
            else:
                changes[path] = change
        return [changes[path] for path in sorted(changes)]

    def verify(self) -> list[str]:
        """Read every object that a commit of a branch or tag has, or a branch shows, and compare it with its digest.

        What was erased, and removed by the server's garbage collection, is no problem.
        Costs a difference of each commit from its first parent, and one read of each content.
        """
        found, verified = list[str](), set[str]()
        for commit in reachable(self):
            found += self._problems(commit.id, self._brought(commit), verified)
        for name in self.branches():
            brought = [one.path for one in self._uncommitted(name).values() if one.kind != "removed"]
            found += self._problems(name, brought, verified)
        return found

    def erase(self, erasures: Sequence[Erasure]) -> Sequence[str]:
        """Give the addresses of content: the API has no way to remove what commits name.

        The server's garbage collection removes what no branch shows any more, once the repository's rules let it;
        reading a commit that names it is then a `Corrupt`.
        """
        stored = (self._stored(one.ref, one.path, presign=False) for one in erasures)
        return list(dict.fromkeys(one.address for one in stored))

    @property
    def collects(self) -> bool:
        """No: the server does, by the rules of the repository."""
        return False

    def collect(self, grace: timedelta) -> Collected:  # noqa: ARG002
        """Raises: `Misconfigured`, for lakeFS collects garbage by rules of its own."""
        raise Misconfigured(
            f"lakeFS at {self.server.host} collects garbage itself: set the rules of the repository there"
        )

    # Last of the public ones, because below it `list` would name this method and not the type.
    def list(self, ref: str, prefix: str = "") -> list[Entry]:
        """List objects by path prefix, sorted by path."""
        check_prefix(prefix)
        _check_ref(ref)
        found = self._pages(f"ref {ref!r}", self._client.objects_api.list_objects, ref, prefix=prefix)
        return [entry for stats in found if (entry := self._entry(ref, stats))]

    def _entry(self, ref: str, stats: Any) -> Entry | None:
        """Describe what a listing has; None where it was erased, and somebody else had stored it: nothing is known."""
        if content := content_of(stats):
            return Entry(stats.path, content.digest, content.size)
        try:
            return self.stat(ref, stats.path)
        except Corrupt:
            if not self._was_erased(stats):
                raise
            return None

    def _was_erased(self, stats: Any) -> bool:
        content, erased = content_of(stats), recorded(self, self._records)
        return any(stats.path == path and (content is None or content.digest == digest) for path, digest in erased)

    def _check_not_erased(self, digests: Mapping[str, str]) -> None:
        """Refuse content that was erased. Raises: `Misconfigured`."""
        erased = {digest for _, digest in recorded(self, self._records)}
        for path, digest in digests.items():
            if digest in erased:
                raise refused(path)

    def _put(self, branch: str, head: str | None, path: str, outgoing: Outgoing) -> Entry:
        """Store content; `head` where the path has an uncommitted change, which may have to be taken back."""
        entry = Entry(path, outgoing.content.digest, outgoing.content.size)
        if self._known(branch, path) == entry:
            return entry
        if head is not None and self._known(head, path) == entry:
            self._unstage(branch, path)
        else:
            try:
                upload(self.server, self.repository, branch, path, outgoing)
            except Refusal as refusal:
                raise self._write_error(refusal, branch) from refusal
        return entry

    def _stored(self, ref: str, path: str, presign: bool = True) -> Stored:
        check_path(path)
        _check_ref(ref)
        return Stored(self.server, self.repository, ref, path, presign)

    def _known(self, ref: str, path: str) -> Entry | None:
        try:
            return self.stat(ref, path)
        except NotFound:
            return None

    def _unstage(self, branch: str, path: str) -> None:
        self._reset(branch, type="object", path=path)

    def _reset(self, branch: str, **what: str) -> None:
        wanted = self.server.models.ResetCreation(**what)
        try:
            self.server.ask(self._client.branches_api.reset_branch, self.repository, branch, wanted)
        except Refusal as refusal:
            raise self._write_error(refusal, branch) from refusal

    def _branch_head(self, name: str) -> str:
        head = self._branched(name)
        if head is None:
            raise NotFound(f"no branch {name!r}")
        return head

    def _branched(self, name: str) -> str | None:
        return self._named(name, self._client.branches_api.get_branch)

    def _tagged(self, name: str) -> str | None:
        return self._named(name, self._client.tags_api.get_tag)

    def _named(self, name: str, ask: Callable[..., Any]) -> str | None:
        if not is_name(name):
            return None
        try:
            commit_id: str = self.server.ask(ask, self.repository, name).commit_id
        except Refusal as refusal:
            if refusal.status != HTTPStatus.NOT_FOUND:
                raise self._error(refusal, repr(name)) from refusal
            self._check_repository()
            return None
        return commit_id

    def _check_repository(self) -> None:
        if not self.exists():
            raise NotFound(f"no repository {self.repository!r} at {self.server.host}")

    def _commit_at(self, ref: str) -> Commit:
        _check_ref(ref)
        ask = self._client.refs_api.log_commits
        found = self._call(f"ref {ref!r}", ask, ref, amount=1, limit=True).results
        if not found:
            raise Unavailable(f"lakeFS at {self.server.host} names no commit of {ref!r}: try again")
        return _described(found[0])

    def _walk(self, commit_id: str) -> Iterator[Commit]:
        found = self._pages(f"commit {commit_id}", self._client.refs_api.log_commits, commit_id)
        return (_described(commit) for commit in found)

    def _touching(self, commits: Iterator[Commit], prefix: str) -> Iterator[Commit]:
        # Whoever wants the newest only asks a little; whoever wants all does not wait for each
        size = 1
        with ThreadPoolExecutor(_AT_A_TIME) as threads:
            while some_commits := list(islice(commits, size)):
                touched = threads.map(lambda commit: self._touches(commit, prefix), some_commits)
                yield from (commit for commit, yes in zip(some_commits, touched, strict=True) if yes)
                size = min(2 * size, 4 * _AT_A_TIME)

    def _touches(self, commit: Commit, prefix: str) -> bool:
        return any(True for _ in islice(self._changes_of(commit, prefix), 1))

    def _changes_of(self, commit: Commit, prefix: str = "") -> Iterable[Change]:
        if not commit.parents:
            return (Change(entry.path, "added") for entry in self.list(commit.id, prefix))
        return self._committed_changes(commit.parents[0], commit.id, prefix)

    def _brought(self, commit: Commit) -> Iterator[str]:
        return (change.path for change in self._changes_of(commit) if change.kind != "removed")

    def _committed_changes(self, before: str, after: str, prefix: str = "") -> Iterator[Change]:
        ask = self._client.refs_api.diff_refs
        found = self._pages(f"ref {before!r} or {after!r}", ask, before, after, type="two_dot", prefix=prefix)
        return (Change(one.path, _KINDS[one.type]) for one in found)

    def _uncommitted(self, ref: str, prefix: str = "") -> dict[str, Change]:
        if self._branched(ref) is None:
            return {}
        found = self._pages(f"branch {ref!r}", self._client.branches_api.diff_branch, ref, prefix=prefix)
        return {one.path: Change(one.path, _KINDS[one.type]) for one in found}

    def _check_clean(self, branch: str) -> None:
        if pending := sorted(self._uncommitted(branch)):
            raise Conflict(f"branch {branch!r} has uncommitted changes: {some(pending)}")

    def _clashes(self, head: str, theirs: str) -> Sequence[str]:
        ask = self._client.refs_api.diff_refs
        found = self._pages(f"commit {head} or {theirs}", ask, head, theirs, type="three_dot")
        return [one.path for one in found if one.type == "conflict"]

    def _changed_since(self, undone: Commit, head: str) -> Sequence[str]:
        changed = {change.path for change in self._changes_of(undone)}
        for state in (undone.parents[0], undone.id):
            changed &= {change.path for change in self._committed_changes(state, head)}
        return sorted(changed)

    def _problems(self, ref: str, paths: Iterable[str], verified: set[str]) -> Iterator[str]:
        for path in paths:
            try:
                stored = self._stored(ref, path)
                if stored.content is None or stored.content.digest not in verified:
                    verified.add(stored.verify())
            except (Corrupt, NotFound) as error:
                found = self._pages(f"ref {ref!r}", self._client.objects_api.list_objects, ref, prefix=path)
                if not any(stats.path == path and self._was_erased(stats) for stats in found):
                    yield str(error)

    def _rules(self) -> tuple[Sequence[str], str]:
        ask = self._client.repositories_api.get_branch_protection_rules
        rules, _, headers = self._call("branch protection", ask, _return_http_data_only=False)
        return [rule.pattern for rule in rules], headers.get("ETag", "")

    def _change_rules(self, change: Callable[[Sequence[str]], Sequence[str]]) -> None:
        while True:
            patterns, etag = self._rules()
            if (wanted := change(patterns)) == patterns:
                return
            rules = [self.server.models.BranchProtectionRule(pattern=pattern) for pattern in wanted]
            set_rules = self._client.repositories_api.set_branch_protection_rules
            try:
                self.server.ask(set_rules, self.repository, rules, **({"if_match": etag} if etag else {}))
            except Refusal as refusal:
                if refusal.status != HTTPStatus.PRECONDITION_FAILED:
                    raise self._error(refusal, "branch protection") from refusal
                continue  # somebody else changed the rules: look again
            return

    def _pages(self, what: str, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self.server.pages(what, operation, self.repository, *args, **kwargs)

    def _call(self, what: str, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.server.call(what, operation, self.repository, *args, **kwargs)

    def _error(self, refusal: Refusal, what: str) -> InfraError:
        return self.server.error(refusal, what)

    def _write_error(self, refusal: Refusal, branch: str, nothing: str = "nothing to do") -> InfraError:
        if refusal.status == HTTPStatus.FORBIDDEN and "protected" in refusal.message:
            return Misconfigured(f"branch {branch!r} is protected: write to a branch of your own and merge it")
        if refusal.status == HTTPStatus.BAD_REQUEST and "no changes" in refusal.message:
            return Conflict(nothing)
        if refusal.status == HTTPStatus.BAD_REQUEST and "uncommitted changes" in refusal.message:
            return Conflict(f"branch {branch!r} has uncommitted changes: {some(sorted(self._uncommitted(branch)))}")
        return self._error(refusal, f"branch {branch!r}")


def _check_ref(ref: str) -> None:
    """Refuse what lakeFS would take and no other store has, such as `main~1`. Raises: `NotFound`."""
    if not is_name(ref) and not is_commit_id(ref):
        raise NotFound(f"no branch, tag or commit {ref!r}")


def _described(commit: Any) -> Commit:
    metadata = commit.get("metadata") or {}
    return Commit(
        id=commit.id,
        parents=tuple(commit.parents),
        message=commit.message,
        created_at=datetime.fromtimestamp(commit.creation_date, UTC),
        metadata={name: value for name, value in metadata.items() if not name.startswith(_THEIR_METADATA)},
    )


def _change(path: str, before: Entry | None, after: Entry | None) -> Change | None:
    if before == after:
        return None
    return Change(path, "added" if before is None else "removed" if after is None else "changed")
