"""Images on their way into a network: prepared in bytes, shuffled and streamed with their rows, exported with it."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from models.contract.columns import Category, Contract, Image, Number, Time, TimePart
from models.contract.examples import example_columns
from models.contract.table import to_columns
from models.errors import DefinitionError
from models.inference import Predictor, image_rows
from models.learning.devices import repeatable
from models.learning.examples import Examples, HeldRows, StreamedRows, to_examples
from models.learning.export import check_parity
from models.learning.loop import fit, predict
from models.learning.material import gather
from models.learning.networks import ImageNetwork
from models.learning.objectives import answering, objective
from models.learning.preprocessing import prepare
from models.learning.settings import TrainingSettings
from models.learning.splits import Split, split_by_content
from models.learning.training import train
from models.model import Model
from models.watching import profile
from tests.models.learning.export_taxi import graph_of

CPU = torch.device("cpu")
IMAGE = Image(name="image", height=5, width=4, channels=2, maximum=9)
OTHERS = (
    Number(name="weight", unit="g", minimum=0, maximum=9, nullable=True),
    Category(name="shape", values=("round", "flat"), nullable=True),
)
TIME = Time(name="at", zone=None, parts=(TimePart.HOUR,))
KIND, PRICE = Category(name="kind", values=("left", "right")), Number(name="price", unit="EUR", minimum=0, maximum=99)


def contract(target: Number | Category = KIND, *, image: Image = IMAGE, alone: bool = False) -> Contract:
    if alone:
        return Contract(features=(image,), target=target)
    return Contract(time=TIME, features=(OTHERS[0], image, OTHERS[1]), target=target)


def table(rows: int = 600, image: Image = IMAGE) -> pd.DataFrame:
    """Rows whose image is bright on the left or the right; the price is that of brightness, weight and shape."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 4, (rows, *image.shape))
    is_left, bright = draw.random(rows) < 0.5, draw.integers(3, 6, rows)
    for row in range(rows):
        half = slice(0, image.width // 2) if is_left[row] else slice(image.width // 2, None)
        pixels[row, :, half] += bright[row]
    weight, shape = draw.uniform(0, 9, rows), draw.choice(["round", "flat"], rows)
    weight[::7] = np.nan
    kind = np.float32 if not image.whole else np.uint8
    return pd.DataFrame(
        {
            "at": pd.date_range("2020-01-01", periods=rows, freq="h", tz="UTC"),
            "weight": weight,
            "image": pd.Series([one.astype(kind).ravel() for one in pixels], dtype=object),
            "shape": pd.Series(shape, dtype=object),
            "kind": pd.Series(np.where(is_left, "left", "right"), dtype=object),
            "price": 5.0 * bright + np.nan_to_num(weight, nan=4) + 9 * (shape == "flat"),
        }
    )


def learned(of: Contract, epochs: int = 12) -> tuple[nn.Module, Examples]:
    settings = TrainingSettings(epochs=epochs, batch_rows=32, learning_rate=5e-3)
    examples = to_examples(of, table(image=of.image or IMAGE))
    with repeatable(0, threads=1):
        network = ImageNetwork(of, examples, channels=4)
        aim = objective(settings, of.target, torch.zeros(0), CPU)
        return answering(fit(network, HeldRows(examples, CPU), None, aim, settings, CPU).network, of.target), examples


@pytest.mark.parametrize(("whole", "kind"), [(True, np.uint8), (False, np.float32)])
def test_images_are_prepared_channels_first_and_in_as_little_as_they_need(whole: bool, kind: type[np.generic]) -> None:
    of = contract(image=msgspec.structs.replace(IMAGE, whole=whole))
    rows = table(30, of.image or IMAGE)

    prepared = prepare(of, to_columns(of, rows))

    images_NKHW = prepared.images_NKHW
    assert images_NKHW is not None
    assert images_NKHW.dtype == kind
    assert images_NKHW.shape == (30, 2, 5, 4)
    as_sent = np.stack(rows["image"].tolist()).reshape(30, 5, 4, 2)
    np.testing.assert_array_equal(images_NKHW.transpose(0, 2, 3, 1), as_sent)
    assert prepared[3:5].images_NKHW is not None
    assert len(prepared[3:5]) == 2
    assert prepared.time_parts_NP[:3, 0].tolist() == [0, 1, 2]


def test_rows_keep_their_images_through_windows_and_samples() -> None:
    of = contract(image=msgspec.structs.replace(IMAGE, maximum=255))
    rows = table(200).assign(
        image=pd.Series([np.full(IMAGE.size, place, np.uint8) for place in range(200)], dtype=object),
        price=np.arange(200.0),
    )
    examples = to_examples(msgspec.structs.replace(of, target=msgspec.structs.replace(PRICE, maximum=999)), rows)
    halves = [examples[:90], examples[90:]]
    streamed = StreamedRows([90, 110], lambda place: halves[place], CPU, together=1)

    for given in (HeldRows(examples, CPU), streamed):
        seen = list[float]()
        for *inputs, target_N in given.windows(20, seed=1, epoch=1):
            images_NKHW = inputs[3]
            assert images_NKHW.dtype == torch.float32
            assert torch.equal(images_NKHW, target_N.reshape(-1, 1, 1, 1).expand_as(images_NKHW))
            seen += target_N.tolist()
        assert sorted(seen) == list(range(200))
    some = Examples.joined([examples.every(3), examples.every(3, 1)])
    sampled_NKHW = some.inputs.images_NKHW
    assert sampled_NKHW is not None
    np.testing.assert_array_equal(sampled_NKHW[:, 1, 4, 3], some.target_N)
    assert examples.nbytes >= 200 * IMAGE.size
    assert examples.nbytes < 200 * (IMAGE.size + 32)  # a byte a number


@pytest.mark.parametrize("target", [KIND, PRICE])
@pytest.mark.parametrize("alone", [True, False])
def test_learns_from_the_image_and_what_is_beside_it_and_exports_that(target: Number | Category, alone: bool) -> None:
    of = contract(target, alone=alone)
    network, examples = learned(of)

    answers = predict(network, examples.inputs)

    if isinstance(target, Category):
        assert (answers.argmax(axis=1) == examples.target_N).mean() > 0.95
    else:
        spread = np.abs(examples.target_N - examples.target_N.mean()).mean()
        assert np.abs(answers - examples.target_N).mean() < (0.9 if alone else 0.3) * spread
    graph = graph_of(network, of, examples.inputs[:8])
    columns = example_columns(of, 500)  # nulls, a dark image and a bright one
    parity = check_parity(graph, of, columns, predict(network, prepare(of, columns)), 1e-3)
    assert parity.rows == 500
    (image,) = (node for node in onnx.load_from_string(graph).graph.input if node.name == "image")
    shape = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert (image.type.tensor_type.elem_type, shape) == (onnx.TensorProto.FLOAT, ["N", 5, 4, 2])


def test_a_row_is_answered_alike_whoever_is_asked_with_it() -> None:
    of = contract(alone=True, image=Image(name="image", height=40, width=40, maximum=9))
    network, examples = learned(of, epochs=1)
    predictor = Predictor(graph_of(network, of, examples.inputs[:8]), of)
    columns = to_columns(of, table(image=of.image or IMAGE))
    assert image_rows(columns) == 128  # so that 600 rows are answered in five parts

    together = predictor.predict(columns)

    assert together.shape == (600, 2)
    for start in (0, 112, 592):
        alone = predictor.predict({"image": columns["image"][start : start + 1]})
        assert alone[0] == pytest.approx(together[start], abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (28, 28), (33, 17)])
def test_any_size_of_image_has_a_network(height: int, width: int) -> None:
    image = Image(name="image", height=height, width=width, maximum=9)
    of = contract(alone=True, image=image)
    examples = to_examples(of, table(40, image))

    network = ImageNetwork(of, examples, channels=4).eval()

    assert predict(network, examples.inputs).shape == (40, 2)
    columns = example_columns(of, 40)
    graph = graph_of(answering(network, KIND), of, examples.inputs[:8])
    check_parity(graph, of, columns, predict(answering(network, KIND), prepare(of, columns)), 1e-3)


def test_a_contract_without_an_image_has_no_image_network() -> None:
    of = Contract(features=OTHERS, target=KIND)

    with pytest.raises(DefinitionError, match="the contract has no image; give it one, or use TabularNetwork"):
        ImageNetwork(of, to_examples(of, table(20)))


class Brightness(nn.Module):
    """A network of somebody's own, whose arguments are called otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Linear(1, 1)

    def forward(self, _numbers: Tensor, _codes: Tensor, _parts: Tensor, pixels: Tensor) -> Tensor:
        answer: Tensor = self.answer(pixels.mean(dim=(1, 2, 3)).unsqueeze(1)).squeeze(1)
        return answer


class OfThree(Brightness):
    def forward(self, numbers: Tensor, _codes: Tensor, _parts: Tensor) -> Tensor:  # type: ignore[override]
        answer: Tensor = self.answer(numbers).squeeze(1)
        return answer


def model(network: Any, of: Contract) -> Model:
    return Model(name="bright", description="", contract=of, network=lambda _: network(), training=FAST)


FAST = TrainingSettings(epochs=2, batch_rows=32)


def test_trains_a_network_of_ones_own_on_images_alone() -> None:
    of = contract(PRICE, alone=True)
    split = split_by_content(of, table(), 0.1, 0.2)

    trained = train(model(Brightness, of), gather(of, [split], 100), FAST, device="cpu", threads=1)

    assert trained.parity.largest_difference < 1e-3
    assert set(trained.evaluation.importance) == {"image"}
    described = profile.decode(trained.profile)
    assert set(described.columns) == {"image/mean", "image/deviation"}
    test = to_columns(of, split.test)
    assert profile.drift(of, described, test) == {"image/mean": 0.0, "image/deviation": 0.0}
    darker = {"image": test["image"] // 2}
    drift = profile.drift(of, described, darker)
    assert min(drift.values()) > 0.5


def test_a_streamed_table_of_images_gives_the_same_sample_of_scales() -> None:
    of = contract(PRICE, alone=True)
    parts = [Split(one, one[:0], one[:0]) for one in (table(300), table(300))]

    material = gather(of, parts, 0.01)

    assert material.train.read is not None
    images_NKHW = material.train.sample.inputs.images_NKHW
    assert images_NKHW is not None
    assert 0 < len(images_NKHW) < 600
    (first, *_) = material.train.rows(CPU).windows(32, 0, 1)
    assert first[3].shape[1:] == (2, 5, 4)


def test_a_network_that_takes_no_image_is_refused() -> None:
    of = contract(PRICE, alone=True)
    material = gather(of, [split_by_content(of, table(), 0.1, 0.2)], 100)

    with pytest.raises(
        DefinitionError, match=r"forward must take \(numbers, categories, time_parts, images\), as its contract says"
    ):
        train(model(OfThree, of), material, FAST, device="cpu", threads=1)
    without = replace(model(Brightness, Contract(features=OTHERS, target=PRICE)))
    material = gather(without.contract, [split_by_content(without.contract, table(), 0.1, 0.2)], 100)
    with pytest.raises(DefinitionError, match=r"forward must take \(numbers, categories, time_parts\)"):
        train(without, material, FAST, device="cpu", threads=1)


def test_smaller_graphs_are_made_of_an_image_network_too() -> None:
    of = contract(alone=True)
    asked = replace(model(Brightness, of), network=lambda rows: ImageNetwork(of, rows, channels=4))
    asked = replace(asked, variants=("fp16", "int8"), variant_cost=10.0)
    material = gather(of, [split_by_content(of, table(), 0.1, 0.2)], 100)

    trained = train(asked, material, replace(FAST, epochs=6), device="cpu", threads=1)

    assert [one.refused for one in trained.variants.records] == [None, None]
    columns = to_columns(of, material.test)
    own = Predictor(trained.onnx, of).predict(columns)
    for graph in trained.variants.graphs.values():
        assert np.abs(Predictor(graph, of).predict(columns) - own).mean() < 0.1
