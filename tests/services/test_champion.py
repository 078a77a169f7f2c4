"""The champion: follows the rollout, and goes on whatever is wrong with the next one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from infra.errors import Unavailable
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.lakefs.server import Server
from infra.lake.lakefs.store import LakeFSLake
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from models.bundle import Bundle, bundle_folder
from models.contract.columns import Contract
from models.deciding import rollout
from models.deciding.rollout import Rollout
from models.errors import BundleError
from services.champion import Following, load
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, LakeFSServer


@pytest.fixture(params=["embedded", "lakefs"])
def lake(
    request: pytest.FixtureRequest, lakefs: LakeFSServer, tmp_path: Path, make_bundle: Callable[..., Bundle]
) -> Iterator[Lake]:
    with ExitStack() as opened:
        lake: Lake
        if request.param == "embedded":
            lake = opened.enter_context(closing(EmbeddedLake(tmp_path / "tiny")))
        else:
            lake = opened.enter_context(closing(LakeFSLake(Server(lakefs.address, KEY_ID, SECRET), "tiny")))
            lake.create()
            opened.callback(lambda: lakefs.repositories.pop("tiny").lake.close())
        yield filled(lake, make_bundle)


def filled(lake: Lake, make_bundle: Callable[..., Bundle]) -> Lake:
    register(lake, make_bundle("v1").files(), "v1")
    register(lake, make_bundle("v2", factor=3.0).files(), "v2")
    promote(lake, "v1", day=1)
    return lake


def register(lake: Lake, files: dict[str, bytes], version: str) -> None:
    with transaction(lake, "main", f"register {version}", {}) as work:
        for name, content in files.items():
            work.put(f"{bundle_folder(version)}/{name}", content)


def promote(lake: Lake, version: str, day: int) -> None:
    with transaction(lake, "main", f"promote {version}", {}) as work:
        since = datetime(2020, 3, day, tzinfo=UTC)
        work.put(rollout.PATH, rollout.encode(Rollout(champion=version, since=since)))


def follow(lake: Lake, bundle: Bundle) -> Following:
    return Following(load(bundle.files(), threads=1), lambda: lake, "main", 60.0, 1)


def test_takes_over_the_rollouts_champion_at_start(lake: Lake, make_bundle: Callable[..., Bundle]) -> None:
    promote(lake, "v2", day=2)

    following = follow(lake, make_bundle("v1"))

    assert following.champion.card.version == "v2"
    assert following.champion.since == datetime(2020, 3, 2, tzinfo=UTC)


def test_swaps_forth_and_back(lake: Lake, make_bundle: Callable[..., Bundle]) -> None:
    following = follow(lake, make_bundle("v1"))
    before = following.champion

    promote(lake, "v2", day=2)
    following.look()
    after = following.champion
    promote(lake, "v1", day=3)
    following.look()

    assert (before.card.version, after.card.version, following.champion.card.version) == ("v1", "v2", "v1")
    assert following.champion.since == datetime(2020, 3, 3, tzinfo=UTC)
    assert following.refused is None


@pytest.mark.parametrize("same", [True, False])
def test_keeps_the_one_before_for_a_rollback(
    lake: Lake, make_bundle: Callable[..., Bundle], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = follow(lake, make_bundle("v1"))
    before = following.champion
    promote(lake, "v2", day=2)
    following.look()
    if not same:
        register(lake, make_bundle("v1", factor=5.0).files(), "v1")
    get, read = type(lake).get, list[str]()

    def get_and_note(of: Lake, ref: str, path: str) -> bytes:
        read.append(path.rpartition("/")[2])
        content: bytes = get(of, ref, path)
        return content

    monkeypatch.setattr(type(lake), "get", get_and_note)
    promote(lake, "v1", day=3)
    following.look()

    assert following.champion.card.version == "v1"
    assert following.champion.since == datetime(2020, 3, 3, tzinfo=UTC)
    assert ("model.onnx" not in read) == (following.champion.batcher is before.batcher) == same


def corrupt(files: dict[str, bytes], _: Contract) -> dict[str, bytes]:
    return files | {"model.onnx": files["model.onnx"] + b"\0"}


def truncated(files: dict[str, bytes], _: Contract) -> dict[str, bytes]:
    return files | {"card.json": files["card.json"][:100]}


def incomplete(files: dict[str, bytes], _: Contract) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name != "model.onnx"}


@pytest.mark.parametrize(
    ("spoil", "reason"), [(corrupt, "digest"), (truncated, "card.json"), (incomplete, "model.onnx")]
)
def test_refuses_a_spoilt_bundle_and_goes_on(
    lake: Lake,
    make_bundle: Callable[..., Bundle],
    tiny_contract: Contract,
    spoil: Callable[[dict[str, bytes], Contract], dict[str, bytes]],
    reason: str,
) -> None:
    following = follow(lake, make_bundle("v1"))
    register(lake, spoil(make_bundle("v3").files(), tiny_contract), "v3")

    promote(lake, "v3", day=2)
    following.look()

    assert following.champion.card.version == "v1"
    assert following.refused is not None
    assert following.refused.version == "v3"
    assert reason in following.refused.reason
    assert following.lake_failure is None


def test_refuses_a_bundle_that_takes_other_inputs(
    lake: Lake, make_bundle: Callable[..., Bundle], tiny_contract: Contract
) -> None:
    following = follow(lake, make_bundle("v1"))
    other = msgspec.structs.replace(tiny_contract, features=tiny_contract.features[:-1])
    register(lake, make_bundle("v3", contract=other).files(), "v3")

    promote(lake, "v3", day=2)
    following.look()

    assert following.champion.card.version == "v1"
    assert following.refused is not None
    assert "build a Bento for it" in following.refused.reason


def test_refuses_a_bundle_that_gives_no_number(lake: Lake, make_bundle: Callable[..., Bundle]) -> None:
    following = follow(lake, make_bundle("v1"))
    register(lake, make_bundle("v3", factor=float("nan")).files(), "v3")

    promote(lake, "v3", day=2)
    following.look()

    assert following.champion.card.version == "v1"
    assert following.refused is not None
    assert "no finite number" in following.refused.reason


def test_a_refused_bundle_is_forgotten_by_rollback_and_tried_again_when_promoted_again(
    lake: Lake, make_bundle: Callable[..., Bundle]
) -> None:
    following = follow(lake, make_bundle("v1"))
    promote(lake, "v3", day=2)
    following.look()
    refused = following.refused

    promote(lake, "v1", day=3)
    following.look()
    after_rollback = following.refused
    register(lake, make_bundle("v3").files(), "v3")
    promote(lake, "v3", day=4)
    following.look()

    assert refused is not None
    assert after_rollback is None
    assert following.champion.card.version == "v3"


def test_goes_on_without_the_lake_and_follows_once_it_answers(lake: Lake, make_bundle: Callable[..., Bundle]) -> None:
    promote(lake, "v2", day=2)
    answers = False

    def open_lake() -> Lake:
        if not answers:
            raise Unavailable("the lake does not answer")
        return lake

    following = Following(load(make_bundle("v1").files(), threads=1), open_lake, "main", 60.0, 1)
    without = (following.champion.card.version, following.lake_failure)
    answers = True
    following.look()

    assert without == ("v1", "the lake does not answer")
    assert (following.champion.card.version, following.lake_failure) == ("v2", None)


def test_says_that_there_is_no_rollout(lake: Lake, make_bundle: Callable[..., Bundle]) -> None:
    with transaction(lake, "main", "withdraw", {}) as work:
        work.delete(rollout.PATH)

    following = follow(lake, make_bundle("v1"))

    assert following.champion.card.version == "v1"
    assert rollout.PATH in str(following.lake_failure)


def test_serves_what_it_contains_where_there_is_no_lake(make_bundle: Callable[..., Bundle]) -> None:
    following = Following(load(make_bundle("v1").files(), threads=1), None, "main", 60.0, 1)
    following.start()
    following.stop()

    assert not following.active
    assert following.lake_failure is None


def test_does_not_start_from_a_bundle_that_lacks_a_file(make_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match=r"lacks model\.onnx"):
        load({"card.json": make_bundle().files()["card.json"]}, threads=1)
