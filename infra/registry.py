"""Bundles, the rollout and reports as objects of the lake.

The lake is the registry: a bundle is registered when its files are merged into the branch, and serves when
`rollout.json` names it. Reports (windows, alarms, verdicts) are small JSON files beside them, so that every
decision can be read back with what it rested on.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from infra.errors import Conflict, NotFound
from infra.lake.protocol import Commit, Lake
from infra.lake.transaction import transaction
from models.bundle import Bundle, Card, bundle_folder, decode_card
from models.deciding import rollout
from models.deciding.rollout import Rollout
from models.deciding.verdict import PromotionReport

T = TypeVar("T")

REPLAY = "loop-"
"""How the branches begin that `okruh loop` plays on; a number follows."""
WINDOWS, ALARMS, VERDICTS = "reports/windows/", "reports/alarms/", "reports/verdicts/"


def load_bundle(lake: Lake, ref: str, version: str) -> Bundle:
    """Read a registered bundle. Raises: `NotFound`, `BundleError`, `Corrupt`."""
    folder, card = bundle_folder(version), load_card(lake, ref, version)
    return Bundle.from_files({name: _get(lake, ref, f"{folder}/{name}", version) for name in card.files})


def load_card(lake: Lake, ref: str, version: str) -> Card:
    """Read a registered bundle's card. Raises: `NotFound`, `BundleError`."""
    return decode_card(_get(lake, ref, f"{bundle_folder(version)}/card.json", version))


def _get(lake: Lake, ref: str, path: str, version: str) -> bytes:
    try:
        return lake.get(ref, path)
    except NotFound as error:
        known = ", ".join(versions(lake, ref)[-5:]) or "none"
        raise NotFound(f"no bundle {version!r} here; the newest registered versions: {known}") from error


def versions(lake: Lake, ref: str) -> list[str]:
    """List registered versions, oldest `as_of` first."""
    return sorted({entry.path.split("/")[1] for entry in lake.list(ref, "bundles/")})


def newest(lake: Lake, ref: str) -> str | None:
    """Name the version that was made last, whatever its `as_of`; None where there is none. Reads every card."""
    return max(versions(lake, ref), key=lambda version: load_card(lake, ref, version).created_at, default=None)


def read_rollout(lake: Lake, ref: str) -> Rollout | None:
    """Read who serves; None before the first promotion. Raises: `NotFound` for a ref that nothing bears."""
    commit = lake.resolve(ref)
    try:
        content = lake.get(commit, rollout.PATH)
    except NotFound:
        return None
    return rollout.decode(content)


def rollout_history(lake: Lake, ref: str) -> Iterator[tuple[Commit, Rollout]]:
    """Walk the commits that changed the rollout, newest first."""
    for commit in lake.log(ref, rollout.PATH):
        found = read_rollout(lake, commit.id)
        if found is not None:
            yield commit, found


def change_rollout(
    lake: Lake, branch: str, present: Rollout, wanted: Rollout, message: str, note: Mapping[str, str]
) -> None:
    """Commit another rollout in place of the one that was read. Raises: `Conflict` where it has changed meanwhile."""
    with transaction(lake, branch, message, note) as work:
        if read_rollout(lake, work.base) != present:
            raise Conflict("the rollout has changed meanwhile; see who serves, and do it again")
        work.put(rollout.PATH, rollout.encode(wanted))


def read_reports(lake: Lake, ref: str, prefix: str, kind: type[T]) -> list[T]:
    """Read all reports of a kind, in path order, which is the order of their moments."""
    return [msgspec.json.decode(lake.get(ref, entry.path), type=kind) for entry in lake.list(ref, prefix)]


def promotion_of(lake: Lake, ref: str, version: str) -> PromotionReport | None:
    """Find the latest verdict that made a version champion."""
    reports = read_reports(lake, ref, VERDICTS, PromotionReport)
    return next((report for report in reversed(reports) if report.version == version and report.allowed), None)


def branches_to_search(lake: Lake, first: str) -> list[str]:
    """List the branches that a reader may mean: the settings' one, then the replays of `okruh loop`, newest first."""
    suffixes = [name.removeprefix(REPLAY) for name in lake.branches() if name.startswith(REPLAY)]
    numbers = [int(suffix) for suffix in suffixes if suffix.isdigit()]
    return [first, *(f"{REPLAY}{number}" for number in sorted(numbers, reverse=True))]


def encode_report(report: msgspec.Struct) -> bytes:
    """Write a report for people and programs."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2)
