"""A champion: loaded, and warm before its first request."""

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from models.bundle import Bundle
from models.errors import BundleError, ProviderUnavailable
from models.inference import WARM_SIZES, GraphInputs, Predictor, Provider, Runtime
from services import champion as module
from services.batching import Part
from services.champion import load


def test_does_not_start_from_a_bundle_that_lacks_a_file(make_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match=r"lacks model\.onnx"):
        load({"card.json": make_bundle().files()["card.json"]})


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """How many rows graphs are run with."""
    sizes, predict = set[int](), Predictor.predict

    def predict_and_note(of: Predictor, columns: GraphInputs) -> Any:
        sizes.add(len(columns["distance"]))
        return predict(of, columns)

    monkeypatch.setattr(Predictor, "predict", predict_and_note)
    return sizes


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_runs_each_size_of_batch_before_it_serves(
    provider: Provider, make_bundle: Callable[..., Bundle], ran: set[int]
) -> None:
    try:
        loaded = load(make_bundle().files(), Runtime(provider=provider))
    except ProviderUnavailable as error:
        pytest.skip(str(error))

    assert loaded.placement.provider == provider
    assert ran == {1, *WARM_SIZES}


def test_runs_no_size_that_takes_long(
    make_bundle: Callable[..., Bundle], ran: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WARM_S", 0.0)

    load(make_bundle().files())

    assert ran == {1, WARM_SIZES[0]}


@pytest.mark.parametrize(("costly", "run"), [(False, 16), (True, 3)])
def test_fills_batches_up_where_that_costs_little(
    make_bundle: Callable[..., Bundle],
    row: dict[str, Any],
    ran: set[int],
    monkeypatch: pytest.MonkeyPatch,
    costly: bool,
    run: int,
) -> None:
    monkeypatch.setattr(module, "_FILLING_S", -math.inf if costly else math.inf)
    champion = load(make_bundle().files())
    ran.clear()
    rows = champion.decoder.decode(json.dumps({"rows": [row] * 3}).encode())

    async def predict() -> Part:
        return await champion.batcher.predict(rows, 1)

    part = asyncio.run(predict())

    assert ran == {run}
    assert part.batch.values.tolist() == [16.0] * 3
