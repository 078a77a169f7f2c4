"""Search spaces: what they hold, and what none may hold."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import nn

from models import definitions
from models.errors import DefinitionError
from models.learning.search import Axis, Choice, Floats, Integers, usual
from models.learning.settings import TrainingSettings
from models.model import Model


@pytest.mark.parametrize(
    ("axis", "within", "beyond"),
    [
        (Floats(0.1, 0.5), (0.1, 0.3, 0.5), (0.09, 0.51, "0.3", None)),
        (Integers(8, 32, step=8), (8, 16, 32), (9, 40, 16.5, None)),
        (Choice((None, 1.0, "plain")), (None, 1.0, "plain"), (2.0, "other")),
    ],
)
def test_an_axis_holds_what_it_says(axis: Axis, within: tuple[object, ...], beyond: tuple[object, ...]) -> None:
    assert all(value in axis for value in within)
    assert not any(value in axis for value in beyond)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Floats(1.0, 1.0), "a range goes from a number to a larger one, not from 1.0 to 1.0"),
        (lambda: Floats(0.0, float("inf")), "a range goes from a number to a larger one"),
        (lambda: Floats(0.0, 1.0, log=True), "a range with log begins above 0, not at 0.0"),
        (lambda: Integers(1, 9, step=0), "a step is a whole number from 1 on"),
        (lambda: Integers(1, 9, step=2, log=True), "a step is a whole number from 1 on, and 1 with log"),
        (lambda: Choice(("one",)), "a choice is between two values or more"),
    ],
)
def test_refuses_an_axis_that_holds_nothing_to_choose_from(make: Callable[[], Axis], said: str) -> None:
    with pytest.raises(DefinitionError, match=f"^search: {said}"):
        make()


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"training.colour": Floats(0.1, 1.0)}, "no training setting is called colour"),
        ({"network.colour": Floats(0.1, 1.0)}, "no network setting is called colour; there are width"),
        ({"learning_rate": Floats(0.1, 1.0)}, "no setting is called learning_rate; a name is training.NAME or"),
        ({"training.epochs": Floats(1.5, 3.0)}, "training.epochs must be a whole number, not 1.5"),
        ({"training.warm_up": Floats(0.1, 1.0)}, "training.warm_up must lie between 0 and 1, not 1.0"),
        ({"network.width": Choice((8, "wide"))}, "network.width must be a whole number, not 'wide'"),
        ({"training.seed": Integers(0, 9)}, "training.seed decides what is compared, and cannot be searched"),
        ({"training.test_days": Floats(1, 9)}, "training.test_days decides what is compared"),
        ({"training.loss": Choice(("absolute", "squared"))}, "training.loss decides what is compared"),
    ],
)
def test_refuses_a_space_with_something_that_cannot_be_a_setting(
    ride_model: Model, search: dict[str, Axis], said: str
) -> None:
    with pytest.raises(DefinitionError, match=said):
        replace(ride_model, network=_sized, network_settings={"width": 8}, search=search)


def _sized(rows: object, *, width: int) -> nn.Module:
    raise NotImplementedError


@pytest.mark.parametrize("embeds", [True, False])
@pytest.mark.parametrize("rows", [1, 64, 1024])
def test_without_a_space_of_its_own_a_definition_is_searched_around_its_settings(rows: int, embeds: bool) -> None:
    training = TrainingSettings(batch_rows=rows, learning_rate=3e-3)

    space = usual(training, embeds=embeds)

    assert all(training.flat()[name.removeprefix("training.")] in axis for name, axis in space.items())
    assert ("training.embedding_rate" in space) == embeds


@pytest.mark.parametrize("name", definitions.names())
def test_the_catalog_s_spaces_hold_what_its_definitions_begin_from(name: str) -> None:
    model = definitions.load(name)

    for full, axis in model.space.items():
        kind, _, setting = full.partition(".")
        assert (model.training.flat() if kind == "training" else model.network_settings)[setting] in axis, full
