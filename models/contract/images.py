"""Images as arrays: read from lists and from tables' cells, with what is wrong with each, and told apart.

One is kept as a flat array, row by row, of a byte a number or of four (`Image.whole`). No torch and no pandas.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract.columns import Image
from models.errors import ContractError

Pixels = npt.NDArray[Any]
"""Of N images of D numbers, [N, D], uint8 or float32."""


def kept_as(image: Image) -> type[np.uint8 | np.float32]:
    """Say what each number is kept in."""
    return np.uint8 if image.whole else np.float32


def shown_size(image: Image) -> str:
    """Say how large an image is, such as `28 x 28`."""
    return " x ".join(map(str, image.lists))


def from_lists(image: Image, values: Sequence[Any]) -> Pixels:
    """Give images of lists within lists, which keep the contract."""
    return np.array(values, kept_as(image)).reshape(len(values), image.size)


def from_cells(image: Image, cells: Iterable[Any]) -> Pixels:
    """Give images of arrays that were accepted. Raises: `ContractError` where those were other images than now."""
    found = list(cells)
    if other := {len(one) for one in found} - {image.size}:
        raise ContractError(
            f"column {image.name!r} has images of {min(other):,} numbers, and of {image.size:,} by the contract now: "
            "ingest its files again"
        )
    whole = np.concatenate(found) if found else np.empty(0)
    return whole.astype(kept_as(image), copy=False).reshape(len(found), image.size)


def in_rows(image: Image, pixels_ND: Pixels) -> Pixels:
    """Give images as the graph takes them, [N, height, width, channels]; nothing is copied."""
    return pixels_ND.reshape(-1, *image.shape)


def as_lists(image: Image, value: object) -> object:
    """Give lists within lists for those that tables may have instead: one flat list, one more for a single channel."""
    try:
        found = np.array(value, object)
    except ValueError:  # of different lengths
        return value
    return found.reshape(image.lists).tolist() if found.shape in _shapes(image) else value


def digests(image: Image, cells: Iterable[Any]) -> npt.NDArray[np.uint64]:
    """Give what images have in common when they are the same."""
    kind = kept_as(image)
    content = (np.ascontiguousarray(cell, kind).tobytes() for cell in cells)
    return np.array([int.from_bytes(hashlib.blake2b(one, digest_size=8).digest()) for one in content], np.uint64)


def expected(image: Image) -> str:
    """Say what an image is, in a message."""
    numbers = "whole numbers" if image.whole else "numbers"
    bounds = f"{image.minimum:.12g} to {image.maximum:.12g}" + (f" ({image.unit})" if image.unit else "")
    return f"an image of {shown_size(image)} {numbers} from {bounds}, in lists of lists"


def fault(image: Image, value: object) -> tuple[str, str] | None:
    """Find the first thing that is wrong with lists within lists: which rule it breaks, and what is there."""
    return _fault(image, value, image.lists, "")


def _fault(image: Image, value: object, lists: tuple[int, ...], place: str) -> tuple[str, str] | None:
    at = f" at {place}" if place else ""
    if value is None:
        return "null", f"null{at}"
    if lists:
        if not isinstance(value, list):
            return "wrong type" if not place else "wrong shape", f"{type(value).__name__} {value!r:.40}{at}"
        if len(value) != lists[0]:
            return "wrong shape", f"a list of {len(value)}{at}"
        inner = (_fault(image, one, lists[1:], f"{place}[{number}]") for number, one in enumerate(value))
        return next((found for found in inner if found), None)
    if isinstance(value, list):
        return "wrong shape", f"a list of {len(value)}{at}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "wrong type", f"{value!r:.40}{at}"
    if not image.minimum <= value <= image.maximum:
        return "out of range", f"{value!r:.40}{at}"
    if image.whole and value % 1:
        return "not whole", f"{value!r:.40}{at}"
    return None


def read_cells(image: Image, cells: Sequence[object]) -> tuple[Pixels, dict[int, str]]:
    """Read a table's values: arrays or lists, flat or as the image is shaped, of whole numbers or floats.

    Returns:
        [N, D], zeros where a value is no image; and why it is none, by its place.
    """
    pixels_ND, reasons = np.zeros((len(cells), image.size), kept_as(image)), dict[int, str]()
    for place, cell in enumerate(cells):
        found = dense(cell)
        if reason := found if isinstance(found, str) else _broken(image, found):
            reasons[place] = reason
        else:
            pixels_ND[place] = np.ravel(found)
    return pixels_ND, reasons


def dense(cell: object) -> npt.NDArray[Any] | str:
    """Give a cell's numbers in their shape, NaN for null, or say why it has none."""
    if isinstance(cell, np.ndarray) and cell.dtype != object:
        found = cell
    elif isinstance(cell, np.ndarray | list | tuple):
        try:
            found = np.array([*map(_plain, cell)])
        except ValueError:
            return "lists of different lengths"
    else:
        return "may not be null" if cell is None or cell != cell else "no list of numbers"
    if found.dtype == object and all(one is None or type(one) in (int, float) for one in found.flat):
        found = found.astype(np.float64)  # None becomes NaN
    return found if found.dtype.kind in "iuf" else "no list of numbers"


def _plain(value: object) -> object:
    """Give arrays that hold arrays as lists."""
    if isinstance(value, np.ndarray):
        return [*map(_plain, value)] if value.dtype == object else value.tolist()
    return value


def _shapes(image: Image) -> tuple[tuple[int, ...], ...]:
    """Name the shapes that a table's values may have."""
    return (image.size,), image.lists, image.shape


def _broken(image: Image, found: npt.NDArray[Any]) -> str:
    """Say which rule a cell's numbers break; nothing where they keep all."""
    if found.shape not in _shapes(image):
        return f"{' x '.join(map(str, found.shape))} numbers, not {shown_size(image)}"
    if found.dtype.kind == "f" and np.isnan(found).any():
        return "a null among its numbers"
    if found.min() < image.minimum or found.max() > image.maximum:
        return f"outside {image.minimum:.12g} to {image.maximum:.12g} {image.unit}".rstrip()
    if image.whole and found.dtype.kind == "f" and (found % 1).any():
        return "not whole numbers, without whole=False"
    return ""
