"""Settings of a training: numbers that cannot train are refused by name, before anything is read."""

import math

import pytest

from models.errors import DefinitionError
from models.learning.settings import Setting, TrainingSettings

ABOVE_0 = (
    *("epochs", "batch_rows", "patience", "learning_rate", "embedding_rate", "clip_norm", "memory_mb"),
    *("validation_days", "test_days"),
)
WHOLE = ("epochs", "batch_rows", "patience", "seed")
SHARES = ("validation_share", "test_share", "warm_up")
USUAL = TrainingSettings()


def refuses(name: str, value: Setting, reason: str) -> None:
    with pytest.raises(DefinitionError, match=rf"training\.{name} {reason}"):
        USUAL.with_changes({name: value})


@pytest.mark.parametrize("name", ABOVE_0)
def test_refuses_what_must_be_greater_than_0(name: str) -> None:
    refuses(name, 0, "must be greater than 0, not 0")
    refuses(name, -1, "must be greater than 0, not -1")


@pytest.mark.parametrize("name", ["seed", "weight_decay"])
def test_refuses_what_must_be_0_or_greater(name: str) -> None:
    refuses(name, -1, "must be 0 or greater, not -1")
    assert USUAL.with_changes({name: 0}).flat()[name] == 0


@pytest.mark.parametrize("name", [*sorted({*ABOVE_0, *SHARES, "weight_decay"} - {*WHOLE})])
def test_refuses_numbers_that_are_none_or_have_no_end(name: str) -> None:
    refuses(name, math.nan, "must be .*, not nan")
    refuses(name, "inf", "must be finite, not inf")


@pytest.mark.parametrize("name", WHOLE)
def test_refuses_whole_numbers_that_torch_does_not_have(name: str) -> None:
    assert USUAL.with_changes({name: 2**63 - 1}).flat()[name] == 2**63 - 1
    refuses(name, 2**63, "must be at most 9223372036854775807, not 9223372036854775808")


@pytest.mark.parametrize("name", ["validation_days", "test_days"])
def test_refuses_spans_that_no_moment_lies_before(name: str) -> None:
    refuses(name, 1e6, "must be at most 36525, a century, not 1000000.0")
