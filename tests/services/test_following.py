"""Champion and challenger: follow the rollout; the champion goes on whatever is wrong with another one."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime
import pytest
from prometheus_client import REGISTRY

from infra.errors import Unavailable
from infra.journal.journal import Journal
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.lakefs.server import Server
from infra.lake.lakefs.store import LakeFSLake
from infra.lake.protocol import Lake
from infra.lake.transaction import transaction
from models.bundle import Bundle, bundle_folder
from models.contract.columns import Contract
from models.deciding import rollout
from models.deciding.rollout import Challenger, Rollout, challenge
from models.inference import Runtime
from services import metrics
from services.champion import load
from services.endpoints import Endpoints
from services.following import Following
from services.messages import Refusal, Request
from services.predictions import Predictions
from tests.conftest import with_int8
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, LakeFSServer

CANARY = challenge("canary", "v2", datetime(2020, 3, 1, 9, tzinfo=UTC))
SHADOW = challenge("shadow", "v2", datetime(2020, 3, 1, 9, tzinfo=UTC))


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


def change(lake: Lake, champion: str, challenger: Challenger | None = None, day: int = 1) -> None:
    """Commit a rollout; services look at nothing else."""
    serving = Rollout(champion=champion, since=datetime(2020, 3, day, tzinfo=UTC), challenger=challenger)
    with transaction(lake, "main", "rollout", {}) as work:
        work.put(rollout.PATH, rollout.encode(serving))


def follow(lake: Lake, bundle: Bundle) -> Following:
    return Following(load(bundle.files()), lambda: lake, "main", 60.0)


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


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, lake: Lake) -> list[str]:
    """Names of the files that are read from the lake."""
    get, read = type(lake).get, list[str]()

    def get_and_note(of: Lake, ref: str, path: str) -> bytes:
        read.append(path.rpartition("/")[2])
        content: bytes = get(of, ref, path)
        return content

    monkeypatch.setattr(type(lake), "get", get_and_note)
    return read


@pytest.mark.parametrize("same", [True, False])
def test_keeps_the_one_before_for_a_rollback(
    lake: Lake, make_bundle: Callable[..., Bundle], same: bool, reads: list[str]
) -> None:
    following = follow(lake, make_bundle("v1"))
    before = following.champion
    promote(lake, "v2", day=2)
    following.look()
    if not same:
        register(lake, make_bundle("v1", factor=5.0).files(), "v1")
    reads.clear()
    promote(lake, "v1", day=3)
    following.look()

    assert following.champion.card.version == "v1"
    assert following.champion.since == datetime(2020, 3, 3, tzinfo=UTC)
    assert ("model.onnx" not in reads) == (following.champion.batcher is before.batcher) == same


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


@pytest.mark.skipif("OpenVINOExecutionProvider" in onnxruntime.get_available_providers(), reason="it can be used here")
def test_refuses_a_bundle_that_cannot_run_where_it_shall(lake: Lake, make_bundle: Callable[..., Bundle]) -> None:
    served = load(make_bundle("v1").files())
    following = Following(served, lambda: lake, "main", 60.0, Runtime(provider="openvino"))

    promote(lake, "v2", day=2)
    following.look()

    assert following.champion.card.version == "v1"
    assert following.refused is not None
    assert "openvino cannot be used" in following.refused.reason


def test_follows_by_the_variant_that_is_set_and_refuses_a_bundle_without_it(
    lake: Lake, make_bundle: Callable[..., Bundle]
) -> None:
    runtime = Runtime(variant="int8")
    smaller = with_int8(make_bundle("v3"), make_bundle("v3", factor=5.0).onnx)
    register(lake, smaller.files(), "v3")
    register(lake, with_int8(make_bundle("v4"), make_bundle("v4", factor=7.0).onnx).files(), "v4")
    promote(lake, "v3", day=1)
    following = Following(load(smaller.files(), runtime), lambda: lake, "main", 60.0, runtime)

    promote(lake, "v4", day=2)
    following.look()
    taken, answered = following.champion, answer(following)
    promote(lake, "v2", day=3)
    following.look()

    assert (taken.card.version, taken.variant, taken.digest) == ("v4", "int8", taken.card.digest("int8"))
    assert answered == 7.0 * 2
    assert following.champion is taken
    assert following.refused == Refusal(
        "v2",
        "bundle v2 has no int8 variant: tiny did not declare it in `variants`; train one that has it, or set "
        "OKRUH_VARIANT=float32",
    )


def answer(following: Following) -> float:
    """Ask for a distance of 2 with nothing else that counts."""
    row = {"starts_at": "2020-03-01T08:00:00", "distance": 2.0, "weight": None, "kind": "bike", "zone": 1}
    champion = following.champion
    _, values = champion.predict([champion.decoder.decode(msgspec.json.encode({"rows": [row]}))])
    return float(values[0])


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

    following = Following(load(make_bundle("v1").files()), open_lake, "main", 60.0)
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
    following = Following(load(make_bundle("v1").files()), None, "main", 60.0)
    following.start()
    following.stop()

    assert not following.active
    assert following.lake_failure is None


def trying(lake: Lake, make_bundle: Callable[..., Bundle], terms: Challenger = CANARY) -> Following:
    """Follow a rollout with a challenger."""
    change(lake, "v1", terms)
    return follow(lake, make_bundle("v1"))


def tried(following: Following) -> tuple[str, Challenger] | None:
    """Say whose model is ready beside the champion, and on which terms."""
    found = following.serving.challenger
    return (found.model.card.version, found.terms) if found else None


@pytest.fixture
def gauges() -> None:
    """Gauges that no other test has set."""
    metrics.CHAMPION.clear()
    metrics.CHALLENGER.clear()


def workers_with(version: str) -> list[float | None]:
    """Read the gauges of champion and challenger."""
    labels = {"model": "tiny", "version": version}
    return [REGISTRY.get_sample_value(f"okruh_{role}_workers", labels) for role in ("champion", "challenger")]


def refusals() -> float:
    """Count the challengers that were refused in this process."""
    return REGISTRY.get_sample_value("okruh_challenger_refusals_total") or 0.0


@pytest.mark.usefixtures("gauges")
def test_takes_the_challenger_in_beside_the_champion(lake: Lake, make_bundle: Callable[..., Bundle]) -> None:
    following = follow(lake, make_bundle("v1"))
    before = following.serving

    change(lake, "v1", SHADOW)
    following.look()

    assert (before.challenger, tried(following)) == (None, ("v2", SHADOW))
    assert following.champion is before.champion
    assert (workers_with("v1"), workers_with("v2")) == ([1, None], [None, 1])


def test_other_terms_load_nothing(lake: Lake, make_bundle: Callable[..., Bundle], reads: list[str]) -> None:
    following = trying(lake, make_bundle, SHADOW)
    before = following.serving.challenger
    reads.clear()

    change(lake, "v1", CANARY)
    following.look()

    assert before is not None
    assert following.serving.challenger is not None
    assert following.serving.challenger.model is before.model
    assert (tried(following), reads) == (("v2", CANARY), ["rollout.json"])


@pytest.mark.usefixtures("gauges")
def test_drops_the_challenger_when_the_rollout_does(lake: Lake, make_bundle: Callable[..., Bundle]) -> None:
    following = trying(lake, make_bundle)

    change(lake, "v1")
    following.look()

    assert (following.champion.card.version, tried(following)) == ("v1", None)
    assert workers_with("v2") == [None, 0]


@pytest.mark.usefixtures("gauges")
def test_a_challenger_that_becomes_champion_is_ready_and_so_is_the_one_before(
    lake: Lake, make_bundle: Callable[..., Bundle], reads: list[str]
) -> None:
    following = trying(lake, make_bundle)
    before = following.serving
    reads.clear()

    change(lake, "v2", day=2)
    following.look()
    after = following.serving
    change(lake, "v1", day=3)
    following.look()

    assert before.challenger is not None
    assert after.champion.batcher is before.challenger.model.batcher
    assert (after.champion.since, after.challenger) == (datetime(2020, 3, 2, tzinfo=UTC), None)
    assert following.champion.batcher is before.champion.batcher
    assert "model.onnx" not in reads
    assert (workers_with("v1"), workers_with("v2")) == ([1, None], [0, 0])


def test_the_champion_before_can_be_tried_without_loading_it(
    lake: Lake, make_bundle: Callable[..., Bundle], reads: list[str]
) -> None:
    following = trying(lake, make_bundle)
    change(lake, "v2", day=2)
    following.look()
    reads.clear()

    first_again = msgspec.structs.replace(CANARY, version="v1")
    change(lake, "v2", first_again, day=2)
    following.look()

    assert (following.champion.card.version, tried(following)) == ("v2", ("v1", first_again))
    assert "model.onnx" not in reads


def test_a_swap_of_the_champion_leaves_the_challenger_of_both_rollouts_alone(
    lake: Lake, make_bundle: Callable[..., Bundle]
) -> None:
    register(lake, make_bundle("v3").files(), "v3")
    following = trying(lake, make_bundle)
    before = following.serving.challenger

    change(lake, "v3", SHADOW, day=2)
    following.look()

    assert before is not None
    assert following.serving.challenger is not None
    assert following.serving.challenger.model is before.model
    assert (following.champion.card.version, tried(following)) == ("v3", ("v2", SHADOW))


def other_inputs(make_bundle: Callable[..., Bundle], contract: Contract) -> dict[str, bytes]:
    return make_bundle("v3", contract=msgspec.structs.replace(contract, features=contract.features[:-1])).files()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda make, contract: corrupt(make("v3").files(), contract), "digest"),
        (lambda make, contract: truncated(make("v3").files(), contract), "card.json"),
        (lambda make, contract: incomplete(make("v3").files(), contract), "model.onnx"),
        (lambda make, _: make("v3", factor=float("nan")).files(), "no finite number"),
        (other_inputs, "build a Bento for it"),
    ],
)
def test_refuses_a_challenger_once_and_the_champion_goes_on_alone(
    lake: Lake,
    make_bundle: Callable[..., Bundle],
    tiny_contract: Contract,
    spoil: Callable[[Callable[..., Bundle], Contract], dict[str, bytes]],
    reason: str,
    reads: list[str],
) -> None:
    register(lake, spoil(make_bundle, tiny_contract), "v3")
    following = trying(lake, make_bundle)
    before = refusals()

    change(lake, "v1", msgspec.structs.replace(CANARY, version="v3"))
    following.look()
    reads.clear()
    with transaction(lake, "main", "data", {}) as work:
        work.put("data/more", b"1")
    following.look()

    refused = following.challenger_refused
    assert (following.champion.card.version, tried(following), following.refused) == ("v1", None, None)
    assert refused is not None
    assert (refused.version, reason in refused.reason) == ("v3", True)
    assert refusals() == before + 1
    assert reads == ["rollout.json"]


def test_a_refusal_is_forgotten_with_the_trial_and_a_new_one_tries_again(
    lake: Lake, make_bundle: Callable[..., Bundle]
) -> None:
    following = trying(lake, make_bundle, msgspec.structs.replace(CANARY, version="v3"))
    refused = following.challenger_refused
    change(lake, "v1")
    following.look()
    after_abort = following.challenger_refused
    register(lake, make_bundle("v3").files(), "v3")
    again = challenge("canary", "v3", datetime(2020, 3, 2, tzinfo=UTC))
    change(lake, "v1", again)
    following.look()

    assert refused is not None
    assert after_abort is None
    assert (tried(following), following.challenger_refused) == (("v3", again), None)


def test_nobody_is_tried_beside_a_champion_that_is_refused(lake: Lake, make_bundle: Callable[..., Bundle]) -> None:
    following = trying(lake, make_bundle)

    change(lake, "v3", CANARY, day=2)
    following.look()
    refused = (following.refused and following.refused.version, following.challenger_refused)
    change(lake, "v3", day=2)
    following.look()

    assert refused == ("v3", Refusal("v2", "it is tried beside v3, which is refused"))
    assert (following.champion.card.version, tried(following)) == ("v1", None)
    assert (following.refused and following.refused.version, following.challenger_refused) == ("v3", None)


def test_a_lake_that_fails_between_the_two_is_asked_again(
    lake: Lake, make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(lake, make_bundle("v3").files(), "v3")
    following = follow(lake, make_bundle("v1"))
    change(lake, "v3", CANARY, day=2)
    get = type(lake).get

    def get_no_challenger(of: Lake, ref: str, path: str) -> bytes:
        if path.startswith(bundle_folder("v2")):
            raise Unavailable("the lake does not answer")
        content: bytes = get(of, ref, path)
        return content

    with monkeypatch.context() as broken:
        broken.setattr(type(lake), "get", get_no_challenger)
        following.look()
    between = (following.champion.card.version, tried(following), following.lake_failure)
    following.look()

    assert between == ("v3", None, "the lake does not answer")
    assert (tried(following), following.lake_failure) == (("v2", CANARY), None)


def test_what_a_request_took_is_of_one_moment(lake: Lake, make_bundle: Callable[..., Bundle]) -> None:
    following = trying(lake, make_bundle)
    taken = following.serving

    change(lake, "v2", day=2)
    following.look()

    assert (taken.champion.card.version, taken.challenger and taken.challenger.terms) == ("v1", CANARY)


def test_the_paths_tell_of_challenger_and_refusal(
    lake: Lake, make_bundle: Callable[..., Bundle], journal: Journal
) -> None:
    following = trying(lake, make_bundle, challenge("canary", "v2", CANARY.since, ramp="0.5@1d"))
    endpoints = Endpoints(following, journal, Predictions(journal))

    def told() -> list[dict[str, Any]]:
        answers = [asyncio.run(path(Request(b""))) for path in (endpoints.model, endpoints.readyz)]
        return [msgspec.json.decode(answer.body) for answer in answers]

    with_challenger = told()
    change(lake, "v1", msgspec.structs.replace(CANARY, version="v3"))
    following.look()
    without = told()

    digest = make_bundle("v2", factor=3.0).card.onnx_digest
    trial = {"version": "v2", "mode": "canary", "since": "2020-03-01T09:00:00Z", "weight": 0.5, "digest": digest}
    assert [(one["challenger"], one["challenger_refused"]) for one in with_challenger] == [(trial, None)] * 2
    assert [(one["version"], one["challenger"]) for one in without] == [("v1", None)] * 2
    assert [one["challenger_refused"]["version"] for one in without] == ["v3"] * 2
