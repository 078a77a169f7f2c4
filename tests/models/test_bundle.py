"""Bundles: four files that belong together, or a refusal that says which does not."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest

from models.bundle import DEFINITION, FILES, PAGE, Bundle, Card, Variant, bundle_folder, decode_card
from models.errors import BundleError
from tests.conftest import with_int8

BundleMaker = Callable[..., Bundle]


def test_a_bundle_survives_its_files(make_bundle: BundleMaker) -> None:
    bundle = make_bundle()

    assert tuple(bundle.files()) == (*FILES, PAGE)
    assert Bundle.from_files(bundle.files()) == bundle


def test_other_files_beside_a_bundle_do_no_harm(make_bundle: BundleMaker) -> None:
    bundle = make_bundle()

    assert Bundle.from_files({**bundle.files(), "README.md": b"hello"}) == bundle


def test_a_card_is_for_people_too(make_bundle: BundleMaker) -> None:
    lines = make_bundle("v7").files()["card.json"].decode().splitlines()

    assert '  "version": "v7",' in lines
    assert '  "as_of": "2020-01-01T00:00:00Z",' in lines


def test_a_card_of_before_network_settings_were_kept_is_read(make_bundle: BundleMaker) -> None:
    card = msgspec.json.decode(make_bundle().files()["card.json"])
    del card["network_settings"]

    assert decode_card(msgspec.json.encode(card)).network_settings == {}


def test_a_card_keeps_moments_and_settings_exactly(make_bundle: BundleMaker) -> None:
    moment = datetime(2020, 3, 1, 8, 15, 0, 123456, tzinfo=UTC)
    card = msgspec.structs.replace(
        make_bundle().card,
        created_at=moment,
        settings={"epochs": 6, "learning_rate": 8e-3, "name": "x", "fast": True, "limit": None},
        slices={"hour": {"0-5": 0.1}},
    )

    assert decode_card(msgspec.json.encode(card)) == card


def test_refuses_a_graph_that_is_not_the_cards(make_bundle: BundleMaker) -> None:
    files = {**make_bundle("v1").files(), "model.onnx": make_bundle(factor=3.0).onnx}

    with pytest.raises(
        BundleError, match=r"bundle v1: model\.onnx has digest [0-9a-f]{12}, its card says [0-9a-f]{12}"
    ):
        Bundle.from_files(files)


@pytest.mark.parametrize("name", FILES)
def test_refuses_a_bundle_without_one_of_its_files(make_bundle: BundleMaker, name: str) -> None:
    files = {path: content for path, content in make_bundle().files().items() if path != name}

    with pytest.raises(BundleError, match=f"bundle lacks {name}"):
        Bundle.from_files(files)


def test_names_every_missing_file() -> None:
    with pytest.raises(BundleError, match=r"lacks model\.onnx, card\.json, profile\.json, state\.safetensors"):
        Bundle.from_files({})


def damaged(card: Card, before: bytes, after: bytes) -> bytes:
    content = msgspec.json.encode(card)
    assert before in content
    return content.replace(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"}", b""),
        (b'"version":"v1"', b'"edition":"v1"'),
        (b'"version":"v1"', b'"version":"\xff"'),
        (b'"version":"v1"', b'"version":1'),
        (b'"maximum":100.0', b'"maximum":-1.0'),
    ],
    ids=["cut off", "a field missing", "no UTF-8", "another type", "a contract that cannot be meant"],
)
def test_refuses_a_card_that_cannot_be_read(make_bundle: BundleMaker, before: bytes, after: bytes) -> None:
    with pytest.raises(BundleError, match=r"card\.json is not a card"):
        decode_card(damaged(make_bundle("v1").card, before, after))


def test_each_version_has_its_folder() -> None:
    assert bundle_folder("v1") == "bundles/v1"


def test_reads_a_card_of_before_the_environments_list_and_the_processor_were_kept(make_bundle: BundleMaker) -> None:
    card = make_bundle().card
    older = msgspec.to_builtins(card)
    del older["origin"]["distributions"], older["origin"]["computed"]

    assert decode_card(msgspec.json.encode(older)) == card
    assert (card.origin.distributions, card.origin.computed) == ((), None)


def test_reads_a_card_of_before_an_evaluation_was_kept(make_bundle: BundleMaker) -> None:
    card = make_bundle().card
    older = msgspec.to_builtins(card)
    del older["evaluation"], older["description"], older["caveat"], older["contract"]["slices"]

    assert decode_card(msgspec.json.encode(older)) == card
    assert card.evaluation is None


def test_a_variant_is_a_file_of_the_bundle(make_bundle: BundleMaker) -> None:
    bundle = with_int8(make_bundle(), b"small")

    files = bundle.files()

    assert (tuple(files), files["model.int8.onnx"]) == ((*FILES, "model.int8.onnx", PAGE), b"small")
    assert bundle.card.files == (*FILES, "model.int8.onnx")
    assert Bundle.from_files(files) == bundle
    assert bundle.card.digest("float32") == bundle.card.onnx_digest != bundle.card.digest("int8")


def test_a_definition_that_git_does_not_have_is_a_file_of_the_bundle(make_bundle: BundleMaker) -> None:
    plain = make_bundle()
    card = msgspec.structs.replace(plain.card, definition_digest=hashlib.sha256(b"sources").hexdigest())
    bundle = msgspec.structs.replace(plain, card=card, definition=b"sources")

    files = bundle.files()

    assert (card.files, plain.card.files) == ((*FILES, DEFINITION), FILES)
    assert Bundle.from_files(files) == bundle
    with pytest.raises(BundleError, match=r"bundle lacks definition\.zip"):
        Bundle.from_files({name: content for name, content in files.items() if name != DEFINITION})
    with pytest.raises(BundleError, match=r"bundle v1: definition\.zip has digest [0-9a-f]{12}, its card says"):
        Bundle.from_files(files | {DEFINITION: b"other"})
    with pytest.raises(BundleError, match=r"its card says none"):
        msgspec.structs.replace(plain, definition=b"sources")


def test_reads_a_card_of_before_definitions_were_kept(make_bundle: BundleMaker) -> None:
    card = make_bundle().card
    older = msgspec.to_builtins(card)
    del older["definition_digest"]

    assert decode_card(msgspec.json.encode(older)) == card


def test_refuses_a_bundle_whose_variant_is_missing_or_not_the_cards(make_bundle: BundleMaker) -> None:
    files = with_int8(make_bundle(), b"small").files()

    with pytest.raises(BundleError, match=r"bundle lacks model\.int8\.onnx"):
        Bundle.from_files({name: content for name, content in files.items() if name != "model.int8.onnx"})
    with pytest.raises(BundleError, match=r"bundle v1: model\.int8\.onnx has digest [0-9a-f]{12}, its card says"):
        Bundle.from_files(files | {"model.int8.onnx": b"other"})


def test_a_variant_that_there_is_not_is_an_error_that_says_why(make_bundle: BundleMaker) -> None:
    variant = Variant(name="int8", refused="int8 costs too much: 3 instead of 2")
    refused = msgspec.structs.replace(make_bundle().card, variants=(variant,))

    with pytest.raises(
        BundleError, match="v1 has no int8 variant: it was refused: int8 costs too much: 3 instead of 2; "
    ):
        refused.digest("int8")
    with pytest.raises(BundleError, match="v1 has no fp16 variant: tiny did not declare it in `variants`; train one"):
        refused.digest("fp16")


def test_a_card_of_before_variants_and_providers_were_kept_is_read(make_bundle: BundleMaker) -> None:
    card = make_bundle().card
    older = msgspec.json.decode(msgspec.json.encode(card))
    del older["variants"], older["providers"]

    assert decode_card(msgspec.json.encode(older)) == card
