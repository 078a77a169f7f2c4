"""Card: what a version is, how good, and how surely, as figures and as a page. Reads only; no flow."""

from pathlib import Path

import msgspec

from flows import catalog
from infra import registry
from infra.assembly import assemble
from infra.errors import NotFound
from infra.folders import write_report
from infra.lake.protocol import Lake
from infra.settings import load_settings
from models.bundle import Card
from models.pages.card import card_page


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A card, and where it is."""

    card: Card
    branch: str
    page: Path | None = None


def card(model: str, version: str | None = None, branch: str | None = None) -> Found:
    """Read a card; on the settings' branch first, then on replays, the newest first.

    Args:
        model: name in the catalog.
        version: without it, the champion, or before the first the newest bundle.
        branch: lake branch.

    Raises: `NotFound`.
    """
    catalog.check(model)
    settings = load_settings()
    platform = assemble(settings)
    if not platform.has_lake(model):
        raise NotFound(f"{model} has no version yet; run `okruh train {model}` first")
    lake = platform.lake(model)
    for name in [branch] if branch else registry.branches_to_search(lake, settings.branch):
        found = version or _shown(lake, name)
        if found is not None and found in registry.versions(lake, name):
            return Found(card=registry.load_card(lake, name, found), branch=name)
    if version is None:
        raise NotFound(f"{model} has no version yet; run `okruh train {model}` first")
    raise NotFound(f"no version {version!r} of {model}; `okruh runs {model}` lists them")


def _shown(lake: Lake, branch: str) -> str | None:
    """Choose a version of a branch."""
    rollout = registry.read_rollout(lake, branch)
    return rollout.champion if rollout else registry.newest(lake, branch)


def with_page(found: Found) -> Found:
    """Write the card's page below OKRUH_HOME/reports. Raises: `Unavailable`."""
    path = load_settings().home / "reports" / f"{found.card.model}-card-{found.card.version}.html"
    return msgspec.structs.replace(found, page=write_report(path, card_page(found.card)))
