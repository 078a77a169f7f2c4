"""What a training makes small, for numbers and for categories."""

import pytest
import torch
from torch.nn import functional

from models.contract.columns import Category, Number
from models.errors import DefinitionError
from models.learning.objectives import answering, objective
from models.learning.settings import Setting, TrainingSettings
from tests.models.learning.together import CPU, network

NUMBER = Number(name="price", unit="EUR", minimum=0, maximum=9)
KIND = Category(name="kind", values=("a", "b", "c"))
LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
PLACES = torch.tensor([0, 1, 0, 0])
COUNTS = torch.tensor([3, 1, 0])


def test_a_category_is_learned_by_the_cross_entropy_of_its_values() -> None:
    aim = objective(TrainingSettings(), KIND, COUNTS, CPU)

    assert aim(LOGITS, PLACES) == pytest.approx(functional.cross_entropy(LOGITS, PLACES).item())


@pytest.mark.parametrize("settings", [TrainingSettings(), TrainingSettings(class_weights="balanced")])
def test_of_several_answers_to_a_category_each_is_judged_by_itself(settings: TrainingSettings) -> None:
    aim = objective(settings, KIND, COUNTS, CPU)

    several = aim(torch.stack([LOGITS, -LOGITS]), PLACES)

    assert several == pytest.approx(((aim(LOGITS, PLACES) + aim(-LOGITS, PLACES)) / 2).item())


@pytest.mark.parametrize("loss", ["absolute", "squared"])
def test_of_several_answers_to_a_number_each_is_judged_by_itself(loss: str) -> None:
    aim = objective(TrainingSettings().with_changes({"loss": loss}), NUMBER, torch.zeros(0), CPU)
    truth = torch.tensor([1.0, 2.0, 4.0])

    assert aim(torch.stack([truth + 1, truth - 3]), truth) == {"absolute": 2.0, "squared": 5.0}[loss]


def test_balanced_values_weigh_the_same_together_and_the_mean_weight_is_1() -> None:
    aim = objective(TrainingSettings(class_weights="balanced"), KIND, COUNTS, CPU)

    each = functional.cross_entropy(LOGITS, PLACES, reduction="none")
    weights = torch.tensor([4 / (2 * 3), 4 / (2 * 1), 4 / (2 * 3), 4 / (2 * 3)])
    assert weights.mean() == 1
    assert aim(LOGITS, PLACES) == pytest.approx((each * weights).mean().item())


@pytest.mark.parametrize(
    ("target", "changes", "reason"),
    [
        (NUMBER, {"loss": "cross_entropy"}, "are for categories; 'price' is a number"),
        (NUMBER, {"class_weights": "balanced"}, "are for categories; 'price' is a number"),
        (KIND, {"loss": "absolute"}, "training.loss=absolute is for numbers; 'kind' is a category"),
    ],
)
def test_settings_that_do_not_fit_the_target_are_refused(
    target: Number | Category, changes: dict[str, Setting], reason: str
) -> None:
    with pytest.raises(DefinitionError, match=reason):
        objective(TrainingSettings().with_changes(changes), target, COUNTS, CPU)


def test_a_number_is_answered_by_the_network_itself() -> None:
    trained = network()

    assert answering(trained, NUMBER) is trained
