"""Smaller graphs in the circuit: asked for by a definition, kept in the bundle, served where a setting says so."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from flows import screens
from flows.build import build
from flows.ingest import ingest
from flows.promote import promote
from flows.train import Registered, train
from infra import registry
from models.bundle import DEFINITION, FILES, PAGE, bundle_folder
from models.errors import BundleError
from models.inference import Predictor
from tests.flows.drafting import QUICK, edit, lake, rides


def train_with(definition: Path, variants: str) -> Registered:
    """Train what asks for variants and takes any cost."""
    edit(definition, ("    network=make_network,\n", f"    network=make_network,\n{variants}"))
    return train("rides", overrides=QUICK)


def test_variants_that_are_asked_for_later_come_with_another_version_of_the_same_graph(
    drafted: Path,
    file: Callable[[pd.DataFrame], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ingest("rides", file(rides()))
    plain = train("rides", overrides=QUICK).version
    assert promote("rides", plain).allowed

    made = train_with(drafted, '    variants=("fp16", "int8"),\n    variant_cost=5.0,\n')

    bundle = registry.load_bundle(lake(), "main", made.version)
    kept = {entry.path.rsplit("/", 1)[1] for entry in lake().list("main", f"{bundle_folder(made.version)}/")}
    assert made.version != plain
    assert bundle.card.onnx_digest == registry.load_card(lake(), "main", plain).onnx_digest
    assert kept == {*FILES, "model.fp16.onnx", "model.int8.onnx", DEFINITION, PAGE}
    assert bundle.card.providers[0].provider == "cpu"
    for graph in bundle.variants.values():
        Predictor(graph, bundle.card.contract)
    screens.registered("rides", made)
    said = capsys.readouterr().out
    assert f"bytes instead of {len(bundle.onnx):,}; mae" in " ".join(said.split())
    monkeypatch.setenv("OKRUH_VARIANT", "int8")
    with pytest.raises(BundleError, match=f"{plain} has no int8 variant: rides did not declare it in `variants`"):
        build("rides")


def test_a_variant_that_costs_too_much_is_told_and_the_bundle_is_registered_without_it(
    drafted: Path, file: Callable[[pd.DataFrame], str], capsys: pytest.CaptureFixture[str]
) -> None:
    ingest("rides", file(rides()))

    made = train_with(drafted, '    variants=("fp16",),\n    variant_cost=0.0,\n')

    (record,) = registry.load_card(lake(), "main", made.version).variants
    assert record.loss_more is not None
    assert (record.refused is None) == (record.loss_more <= 0)
    screens.registered("rides", made)
    assert ("refused: fp16 costs too much" in " ".join(capsys.readouterr().out.split())) == (record.loss_more > 0)
