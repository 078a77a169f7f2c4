"""What a network must hold to, tried on a few rows before it learns from all: hours later is too late.

What is wrong with it is said by the line of the definition that does it, and what to write there instead.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.contract.answers import shape
from models.contract.columns import Contract, Image, Number
from models.errors import DefinitionError, first_line
from models.learning.devices import random_state, set_random_state
from models.learning.examples import Examples, as_learned
from models.learning.export import as_tensors
from models.learning.export_faults import line_of
from models.learning.loop import restore, state_of
from models.learning.objectives import Objective
from models.learning.preprocessing import CATEGORIES, IMAGES, NUMBERS, TIME_PARTS, Prepared

if TYPE_CHECKING:
    from models.model import Model

THEIRS = (Exception, SystemExit)
"""Whatever a definition's code raises."""

TRIED_ROWS = 8
"""Rows that a network is tried with: layers may need some at once, so that they come again where there are fewer."""


def check_answers(model: "Model", network: object, first: Prepared) -> nn.Module:
    """Refuse a network that does not answer row by row, every category and null included.

    The loss would stretch another shape silently, and a category that comes rarely would fail late.

    Returns:
        It, in evaluation mode.

    Raises: `DefinitionError`.
    """
    if not isinstance(network, nn.Module):
        raise DefinitionError(f"model {model.name}: `network` gave a {type(network).__name__}, not a torch.nn.Module")
    if hasattr(network, "_orig_mod"):
        raise DefinitionError(
            f"model {model.name}: `network` gave what torch.compile makes, which cannot be written as a graph; give "
            "the network itself, and have it compiled by training.compiled=yes"
        )
    probe = _with_extremes(model.contract, first)
    given = as_tensors(probe)
    _check_arguments(model, network, len(given))
    with torch.no_grad():  # and in evaluation mode, so that the random state and running means stay as they are
        try:
            answer = _called(model, network.eval(), given)
        except IndexError as error:
            raise DefinitionError(
                f"model {model.name}: the network looks something up beyond its table: an embedding needs n + 1 rows "
                f"for a category with n values ({_sizes(model.contract)}), and one for each value of a time part"
            ) from error
        except DefinitionError:
            raise
        except THEIRS as error:
            place = line_of(error)
            raise DefinitionError(
                f"model {model.name}: {place or 'the network'} fails on the first rows: {said(error)}"
            ) from error
    wanted, target = shape(model.contract.target, len(probe)), model.contract.target
    got = f"{answer.dtype} of shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
    if not isinstance(answer, Tensor) or tuple(answer.shape) != wanted or answer.dtype != torch.float32:
        last = "`.squeeze(-1)` of a last layer of one" if isinstance(target, Number) else "a last layer of one a value"
        raise DefinitionError(
            f"model {model.name}: the network answers {len(probe)} rows with {got}; its forward must give float32 of "
            f"shape {wanted}, such as {last}"
        )
    if not torch.isfinite(answer).all():
        raise DefinitionError(
            f"model {model.name}: the untrained network gives no finite number for some rows; null numbers reach it as "
            "NaN: replace them (models.learning.blocks.replace_missing)"
        )
    return network


def rehearse(model: "Model", network: nn.Module, sample: Examples, aim: Objective, device: torch.device) -> None:
    """Refuse a network that fails, or from which nothing is learned, as soon as it shall learn.

    It answers twice, and takes one step of which nothing remains; random numbers are left as they are.

    Args:
        network: on the device; left in evaluation mode.
        sample: rows to learn from, one at least; the first are taken.

    Raises: `DefinitionError`.
    """
    order = torch.arange(TRIED_ROWS) % len(sample)
    *inputs, target_N = (as_learned(part[order]).to(device) for part in sample.tensors())
    state = {name: value.clone() for name, value in state_of(network).items()}
    drawn = random_state(device)
    try:
        with torch.no_grad():
            answers = [_called(model, network.eval(), inputs) for _ in range(2)]
        if not torch.equal(*answers):
            raise DefinitionError(
                f"model {model.name}: the network answers the same rows otherwise the second time, while a version "
                "answers them alike: what it draws or keeps between calls it may while it learns alone, "
                "by `if self.training`"
            )
        answer = _called(model, network.train(), inputs)
        _check_learned(model, network, answer)
        aim(answer, target_N).backward()  # type: ignore[no-untyped-call]
    except DefinitionError:
        raise
    except THEIRS as error:
        place = line_of(error)
        raise DefinitionError(
            f"model {model.name}: {place or 'the network'} fails as soon as it learns: {said(error)}"
        ) from error
    finally:
        network.zero_grad(set_to_none=True)
        restore(network.eval(), state)
        set_random_state(drawn, device)


def said(error: BaseException) -> str:
    """Say what went wrong, in one line."""
    return "SystemExit" if isinstance(error, SystemExit) else first_line(error)


def _called(model: "Model", network: nn.Module, given: Sequence[Tensor]) -> Any:
    """Have a network answer. Raises: `DefinitionError` where it changes what it is given."""
    before = [part.clone() for part in given]
    answer = network(*given)
    names = (NUMBERS, CATEGORIES, TIME_PARTS, IMAGES)
    changed = [
        name
        for name, was, now in zip(names, before, given, strict=False)
        if not np.array_equal(was.numpy(force=True), now.numpy(force=True), equal_nan=was.is_floating_point())
    ]
    if changed:
        raise DefinitionError(
            f"model {model.name}: the network changes the {', '.join(changed)} that it is given, which are the rows "
            "themselves: have it work on a copy (.clone())"
        )
    return answer


def _check_learned(model: "Model", network: nn.Module, answer: object) -> None:
    """Refuse an answer that no loss fits, or by which no weight can be learned."""
    wanted = shape(model.contract.target, TRIED_ROWS)
    if not isinstance(answer, Tensor) or tuple(answer.shape[-len(wanted) :]) != wanted:
        got = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise DefinitionError(
            f"model {model.name}: while it learns, the network answers {TRIED_ROWS} rows with {got}; it must be of "
            f"shape {wanted}, or have several answers to each row before that"
        )
    if not answer.requires_grad and any(parameter.requires_grad for parameter in network.parameters()):
        raise DefinitionError(
            f"model {model.name}: no gradient leads from the network's answer to its parameters: they are left out by "
            ".detach(), .data, .item(), torch.no_grad or numpy on the way"
        )


def _check_arguments(model: "Model", network: nn.Module, count: int) -> None:
    """Refuse a network that takes other arguments than it is given."""
    try:
        inspect.signature(network.forward).bind(*range(count))
    except ValueError:  # of one that is not written in Python nothing is known before it is called
        return
    except TypeError as error:
        wanted = ", ".join((NUMBERS, CATEGORIES, TIME_PARTS, IMAGES)[:count])
        raise DefinitionError(
            f"model {model.name}: the network's forward must take ({wanted}), as its contract says; {error}"
        ) from error


def _with_extremes(contract: Contract, first: Prepared) -> Prepared:
    """Add a bright row with the last value of each category, and a dark one with null wherever it is allowed."""
    last, null = first[:1], first[:1]
    nullable = [column.nullable for column in contract.numbers]
    unknown = [column.nullable for column in contract.categories]
    codes = np.asarray([[len(column.values) for column in contract.categories]], dtype=np.int64)
    bright, dark = (_one_colour(contract.image, first.images_NKHW, end) for end in ("maximum", "minimum"))
    rows = (
        first,
        Prepared(last.numbers_NF, codes, last.time_parts_NP, bright),
        Prepared(
            np.where(nullable, np.float32(np.nan), null.numbers_NF).astype(np.float32),
            np.where(unknown, 0, null.categories_NC).astype(np.int64),
            null.time_parts_NP,
            dark,
        ),
    )
    return Prepared(*(np.concatenate(alike) for alike in zip(*(one.arrays() for one in rows), strict=True)))


def _one_colour(
    image: Image | None, images_NKHW: npt.NDArray[Any] | None, bound: Literal["minimum", "maximum"]
) -> npt.NDArray[Any] | None:
    """Give an image that is as dark, or as bright, as it may be."""
    return None if image is None or images_NKHW is None else np.full_like(images_NKHW[:1], getattr(image, bound))


def _sizes(contract: Contract) -> str:
    return ", ".join(f"{column.name}: {len(column.values) + 1}" for column in contract.categories) or "there are none"
