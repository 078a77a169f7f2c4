"""Reproduction: the same is the same, a difference is named and measured, and the first one is the cause's."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save

from models.bundle import Bundle
from models.deciding.reproduction import Difference, Part, compare, judge
from models.figures import Epoch, Evaluation, Group, Importance, Interval
from tests.conftest import BundleMaker

GraphChange = Callable[[onnx.ModelProto], None]
WEIGHTS = {"hidden.weight": torch.tensor([[1.0, 2.0], [3.0, -4.0]]), "zones": torch.tensor([1, 2, 3])}


@pytest.fixture
def then(make_bundle: BundleMaker) -> Bundle:
    """A bundle with two tensors, two figures and a slice."""
    bundle = make_bundle()
    card = msgspec.structs.replace(
        bundle.card, metrics={"mae": 2.0, "rows": 200.0}, slices={"hour": {"8": 2.5}, "empty": {"9": float("nan")}}
    )
    return msgspec.structs.replace(bundle, card=card, state=save(WEIGHTS), profile=b'{"loss":{"mean":2.0},"bins":[1]}')


def with_weights(bundle: Bundle, **changes: torch.Tensor) -> Bundle:
    return msgspec.structs.replace(bundle, state=save(WEIGHTS | changes))


def with_card(bundle: Bundle, **changes: object) -> Bundle:
    return msgspec.structs.replace(bundle, card=msgspec.structs.replace(bundle.card, **changes))


def with_graph(bundle: Bundle, change: GraphChange) -> Bundle:
    model = onnx.load_from_string(bundle.onnx)
    change(model)
    content = model.SerializeToString(deterministic=True)
    card = msgspec.structs.replace(bundle.card, onnx_digest=hashlib.sha256(content).hexdigest())
    return Bundle(card=card, onnx=content, profile=bundle.profile, state=bundle.state)


def part_of(then: Bundle, now: Bundle, name: str, tolerance: float = 1e-3) -> Part:
    return next(part for part in compare(then, now, tolerance) if part.name == name)


def first_of(then: Bundle, now: Bundle, name: str) -> Difference:
    found = part_of(then, now, name).first
    assert found is not None
    return found


def test_the_same_bundle_is_identical_in_every_part(then: Bundle) -> None:
    again = with_card(then, created_at=then.card.as_of.replace(year=2021))

    parts = compare(then, again)

    assert [(part.name, part.likeness, part.compared) for part in parts] == [
        ("data", "identical", 3),
        ("weights", "identical", 2),
        ("graph", "identical", 18),
        ("metrics", "identical", 4),
        ("evaluation", "identical", 0),
        ("profile", "identical", 2),
    ]
    assert all((part.differing, part.first, part.largest_share) == (0, None, None) for part in parts)
    assert judge(parts) == "identical"


def test_a_weight_that_differs_is_named_with_its_place_and_both_values(then: Bundle) -> None:
    again = with_weights(then, **{"hidden.weight": torch.tensor([[1.0, 2.0], [3.0, -4.001]])})

    part = part_of(then, again, "weights")

    assert part.first is not None
    assert part.first.what == "hidden.weight"
    assert (part.first.then, part.first.now) == ("-4 at [1, 1]", "-4.00099993")
    assert (part.differing, part.compared) == (1, 2)
    assert part.largest_share == pytest.approx(0.001 / 30.008**0.5, rel=1e-3)


def test_the_tolerance_says_what_is_still_equal(then: Bundle) -> None:
    again = with_weights(then, **{"hidden.weight": torch.tensor([[1.0, 2.0], [3.0, -4.004]])})

    likeness = {tolerance: judge(compare(then, again, tolerance)) for tolerance in (1e-3, 7.4e-4, 7.2e-4, 0.0)}

    assert likeness == {1e-3: "equal", 7.4e-4: "equal", 7.2e-4: "different", 0.0: "different"}


def test_the_place_that_is_named_is_that_of_the_largest_difference(then: Bundle) -> None:
    again = with_weights(then, **{"hidden.weight": torch.tensor([[1.1, 2.0], [3.5, -4.0]])})

    found = first_of(then, again, "weights")

    assert (found.then, found.now) == ("3 at [1, 0]", "3.5")
    assert found.share == pytest.approx((0.26 / 33.46) ** 0.5)


def test_the_first_tensor_is_the_first_by_name(then: Bundle) -> None:
    names = [f"layer{place}" for place in range(9)]
    one, other = (with_weights(then, **{name: torch.full((1,), value) for name in names}) for value in (1.0, 2.0))

    assert {first_of(one, other, "weights").what for _ in range(5)} == {"layer0"}


def test_a_zero_of_another_sign_is_equal_and_not_identical(then: Bundle) -> None:
    plus, minus = (with_weights(then, bias=torch.tensor([sign * 0.0])) for sign in (1, -1))

    part = part_of(plus, minus, "weights", tolerance=0.0)

    assert (part.likeness, part.largest_share) == ("equal", 0.0)


@pytest.mark.parametrize(
    ("before", "after", "then_said", "now_said"),
    [
        (torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4]), "3 at [2]", "4"),
        (torch.tensor([True]), torch.tensor([False]), "True at [0]", "False"),
        (torch.tensor(5), torch.tensor(6), "5", "6"),
        (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, 2.0]), "inf at [1]", "2"),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")]), "2 at [1]", "nan"),
        (torch.zeros(2), torch.zeros(3), "float32 of shape (2,)", "float32 of shape (3,)"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), "float32 of shape (2,)", "float64 of shape (2,)"),
    ],
)
def test_what_has_no_size_is_different_whatever_the_tolerance(
    then: Bundle, before: torch.Tensor, after: torch.Tensor, then_said: str, now_said: str
) -> None:
    one, other = (with_weights(then, more=value) for value in (before, after))

    part = part_of(one, other, "weights", tolerance=1e9)

    assert part.likeness == "different"
    assert part.first == Difference(what="more", then=then_said, now=now_said, share=None)
    assert part.largest_share is None


def test_the_same_number_that_is_none_is_the_same(then: Bundle) -> None:
    one, other = (with_weights(then, more=torch.tensor([float("nan"), value])) for value in (2.0, 1.0))

    assert first_of(one, other, "weights").share == 0.5


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_every_kind_of_float_is_measured(then: Bundle, kind: torch.dtype) -> None:
    one, other = (with_weights(then, more=torch.tensor([8.0, value], dtype=kind)) for value in (4.0, 2.0))

    found = first_of(one, other, "weights")

    assert (found.then, found.now) == ("4 at [1]", "2")
    assert found.share == pytest.approx(2 / 80**0.5)


def test_a_kind_that_numpy_lacks_is_compared_as_bytes(then: Bundle) -> None:
    one, other = (with_weights(then, more=torch.tensor([value]).to(torch.float8_e4m3fn)) for value in (1.0, 2.0))

    assert part_of(one, one, "weights").likeness == "identical"
    assert first_of(one, other, "weights").share is None


@pytest.mark.parametrize("absent_now", [True, False])
def test_a_tensor_of_one_bundle_alone_is_named(then: Bundle, absent_now: bool) -> None:
    more = with_weights(then, more=torch.zeros(2))

    found = first_of(more, then, "weights") if absent_now else first_of(then, more, "weights")

    assert found.what == "more"
    assert (found.now if absent_now else found.then) == "absent"
    assert found.share is None


def test_rows_that_are_gone_are_named_before_what_they_change(then: Bundle) -> None:
    data = msgspec.structs.replace(then.card.data, rows_train=1_234, paths=("data/a.parquet",))
    again = with_card(then, data=msgspec.structs.replace(data, rows_train=1_200, paths=()), metrics={"mae": 9.0})

    parts = compare(with_card(then, data=data), again, tolerance=1.0)

    assert [part.name for part in parts if part.likeness == "different"] == ["data", "metrics"]
    assert parts[0].first == Difference(what="rows to train on", then="1,234", now="1,200", share=None)
    assert parts[0].differing == 2


def test_metrics_are_compared_whichever_there_are(then: Bundle) -> None:
    again = with_card(then, metrics={"mae": 2.001, "log_loss": 0.5}, slices={"hour": {"8": 5.0}})

    part = part_of(then, again, "metrics")

    assert part.first is not None
    assert part.first.share == pytest.approx(0.001 / 2.001)
    assert (part.first.what, part.first.then, part.first.now) == ("mae", "2", "2.001")
    assert (part.differing, part.likeness) == (5, "different")  # rows, hour 8, empty 9 and log_loss as well


def test_a_figure_of_a_slice_is_named_by_its_path(then: Bundle) -> None:
    again = with_card(then, slices={"hour": {"8": 5.0}, "empty": {"9": float("nan")}})

    assert first_of(then, again, "metrics") == Difference(what="slices.hour.8", then="2.5", now="5", share=0.5)


def an_evaluation(**importance: float) -> Evaluation:
    return Evaluation(
        blocks=30,
        naive_loss=3.5,
        naive_interval=Interval(low=3.25, high=3.75),
        intervals={"mae": Interval(low=1.5, high=2.5)},
        slices={"hour": {"8": Group(loss=2.5, rows=100, interval=None)}},
        importance={name: Importance(loss_increase=value, interval=None) for name, value in importance.items()},
        importance_rows=200,
        over_time=(),
        epochs=(Epoch(train_loss=3.0, validation_error=None),),
    )


def test_figures_of_one_sort_are_measured_together(then: Bundle) -> None:
    before = with_card(then, evaluation=an_evaluation(distance=8.0, noise=0.0001))
    after = with_card(then, evaluation=an_evaluation(distance=8.0, noise=-0.0002))

    part = part_of(before, after, "evaluation", tolerance=1e-4)

    assert part.likeness == "equal"  # noise for noise; of its own size it would be three times as much
    assert part.first is not None
    assert part.first.what == "importance: loss_increase"
    assert part.first.share == pytest.approx(0.0003 / 8.0)
    assert part_of(before, before, "evaluation").likeness == "identical"


def test_what_an_evaluation_tells_of_is_compared_as_well(then: Bundle) -> None:
    before = with_card(then, evaluation=an_evaluation(distance=8.0))
    after = with_card(then, evaluation=an_evaluation(distances=8.0))

    part = part_of(before, after, "evaluation", tolerance=0.5)

    assert part.likeness == "different"
    assert part.first is not None
    assert part.first.what == "importance.distance.interval"


def test_of_a_card_of_before_evaluations_none_is_compared(then: Bundle) -> None:
    again = with_card(then, evaluation=an_evaluation(distance=8.0))

    part = part_of(then, again, "evaluation")

    assert (part.likeness, part.compared) == ("identical", 0)


def test_a_profile_is_compared_figure_by_figure(then: Bundle) -> None:
    again = msgspec.structs.replace(then, profile=b'{"loss":{"mean":2.0},"bins":[1.0001]}')

    part = part_of(then, again, "profile")

    assert part.first is not None
    assert (part.first.what, part.likeness) == ("bins[0]", "equal")


def test_an_initializer_of_the_graph_is_named(then: Bundle) -> None:
    def grow(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(2.5, dtype=np.float32), "factor"))

    found = first_of(then, with_graph(then, grow), "graph")

    assert found == Difference(what="initializer factor", then="2", now="2.5", share=0.2)


def replace_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Div"


def change_answer_of_a_lookup(model: onnx.ModelProto) -> None:
    model.graph.node[3].attribute[1].floats[1] = 11.0


def change_key_of_a_lookup(model: onnx.ModelProto) -> None:
    model.graph.node[3].attribute[0].strings[1] = b"cab"


def add_a_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Neg", ["value"], ["more"]))


def ask_another_version(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 19


def fix_the_batch(model: onnx.ModelProto) -> None:
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 8


@pytest.mark.parametrize(
    ("change", "what", "then_said", "now_said"),
    [
        (replace_operator, "node 0", "scaled = Mul(distance, factor)", "scaled = Div(distance, factor)"),
        (change_answer_of_a_lookup, "node 3, ai.onnx.ml.LabelEncoder, attribute values_floats", "10 at [1]", "11"),
        (
            change_key_of_a_lookup,
            "node 3, ai.onnx.ml.LabelEncoder, attribute keys_strings",
            "[b'bike', b'car']",
            "[b'bike', b'cab']",
        ),
        (add_a_node, "node 6", "absent", "more = Neg(value)"),
        (ask_another_version, "operators", "ai.onnx 18, ai.onnx.ml 3, IR 9", "ai.onnx 19, ai.onnx.ml 3, IR 9"),
        (fix_the_batch, "input distance", "%distance[FLOAT, N]", "%distance[FLOAT, 8]"),
    ],
)
def test_what_a_graph_does_otherwise_is_named(
    then: Bundle, change: GraphChange, what: str, then_said: str, now_said: str
) -> None:
    found = first_of(then, with_graph(then, change), "graph")

    assert (found.what, found.then, found.now) == (what, then_said, now_said)


def test_a_text_is_shown_from_where_it_parts(then: Bundle) -> None:
    def with_names(last: str) -> Bundle:
        def change(model: onnx.ModelProto) -> None:
            model.graph.node[0].output[0] = f"{'x' * 100}{last}"

        return with_graph(then, change)

    found = first_of(with_names("y" * 80), with_names("z"), "graph")

    assert found.then == f"...{'x' * 30}{'y' * 30}..."
    assert found.now == f"...{'x' * 30}z = Mul(distance, factor)"


def test_a_tensor_within_a_node_is_measured(then: Bundle) -> None:
    def with_constant(value: float) -> Bundle:
        def change(model: onnx.ModelProto) -> None:
            tensor = numpy_helper.from_array(np.asarray([value, 4.0], dtype=np.float32))
            model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))

        return with_graph(then, change)

    found = first_of(with_constant(1.0), with_constant(2.0), "graph")

    assert (found.what, found.then, found.now) == ("node 6, Constant, attribute value", "1 at [0]", "2")
    assert found.share == pytest.approx(1 / 20**0.5)


def test_texts_and_half_floats_of_a_graph_are_compared(then: Bundle) -> None:
    def with_initializer(kind: int, value: Any) -> Bundle:
        tensor = helper.make_tensor("more", kind, [2], value)
        return with_graph(then, lambda model: model.graph.initializer.append(tensor))

    def first(kind: int, before: list[Any], after: list[Any]) -> Difference:
        return first_of(with_initializer(kind, before), with_initializer(kind, after), "graph")

    text, half = first(TensorProto.STRING, ["a", "b"], ["a", "c"]), first(TensorProto.BFLOAT16, [4.0, 2.0], [4.0, 1.0])

    assert (text.then, text.now, text.share) == ("b at [1]", "c", None)
    assert (half.then, half.now) == ("2 at [1]", "1")
    assert half.share == pytest.approx(1 / 20**0.5)


def test_bytes_that_decide_nothing_are_equal_and_not_identical(then: Bundle) -> None:
    def sign(model: onnx.ModelProto) -> None:
        model.producer_name = "somebody"

    part = part_of(then, with_graph(then, sign), "graph", tolerance=0.0)

    assert part.first is not None
    assert (part.likeness, part.first.what) == ("equal", "what decides nothing")
    assert part.first.then.startswith("sha256 ")
    assert part.first.then != part.first.now
