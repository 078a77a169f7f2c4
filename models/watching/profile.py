"""The reference profile: what a bundle's columns and errors looked like on the rows that judged it.

The bins come from the contract (categories) and from the reference rows (numbers: equally full bins). Of an image two
numbers are looked at: how bright it is, and its contrast. Drift is the Jensen-Shannon distance (base 2, 0..1) between
binned shares; Lin, "Divergence measures based on the Shannon entropy", 1991. It describes a window; alarms rest on
errors (`models.watching.alarms`). Cost: one histogram a column.
"""

from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from models.contract.columns import Category, Contract, Image
from models.errors import BundleError
from models.inference import GraphInputs

BINS = 20


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of a column's values: missing first, then by bin or by category."""

    edges: tuple[float, ...] = ()
    """Inner bin edges of a number; empty for a category."""
    shares: tuple[float, ...]


class LossProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The losses of a bundle on its test rows (`models.contract.answers`)."""

    rows: int
    mean: float
    scaled_mean: float
    """Mean of min(loss, ceiling) / ceiling, which alarms watch."""
    scaled_deviation: float
    """Its standard deviation."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a served bundle's windows are compared with."""

    columns: dict[str, ColumnProfile]
    loss: LossProfile


def encode(profile: Profile) -> bytes:
    """Write `profile.json`."""
    return msgspec.json.encode(profile)


def decode(content: bytes) -> Profile:
    """Read `profile.json`. Raises: `BundleError`."""
    try:
        return msgspec.json.decode(content, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"profile.json is not a profile: {error}") from error


def describe_columns(contract: Contract, columns: GraphInputs) -> dict[str, ColumnProfile]:
    """Bin the reference rows, column by column."""
    described = {}
    for name, category, values in _looked_at(contract, columns):
        edges = () if category else _edges(values)
        described[name] = ColumnProfile(edges=edges, shares=tuple(_shares(category, values, edges).tolist()))
    return described


def _looked_at(
    contract: Contract, columns: GraphInputs
) -> Iterator[tuple[str, Category | None, npt.NDArray[np.generic]]]:
    """Give what is binned: each feature, and of an image its mean and deviation; no column has a `/` in its name."""
    for column in contract.features:
        values = columns[column.name]
        if isinstance(column, Image):
            whole_ND = values.reshape(len(values), -1)
            yield f"{column.name}/mean", None, whole_ND.mean(axis=1)
            yield f"{column.name}/deviation", None, whole_ND.std(axis=1, dtype=np.float32)
        else:
            yield column.name, column if isinstance(column, Category) else None, values


def describe_loss(loss_N: npt.NDArray[np.float64], ceiling: float) -> LossProfile:
    """Summarise losses; `ceiling` bounds the scaled ones, and stands for a loss that is not finite."""
    loss_N = np.where(np.isfinite(loss_N), loss_N, ceiling)
    scaled_N = scaled_loss(loss_N, ceiling)
    largest = 0.5  # of anything in 0..1: what one row alone leaves possible
    return LossProfile(
        rows=len(loss_N),
        mean=float(loss_N.mean()),
        scaled_mean=float(scaled_N.mean()),
        scaled_deviation=float(scaled_N.std(ddof=1)) if len(loss_N) > 1 else largest,
    )


def scaled_loss(loss_N: npt.NDArray[np.float64], ceiling: float) -> npt.NDArray[np.float64]:
    """Give what alarms watch, in 0..1."""
    return np.minimum(loss_N, ceiling) / ceiling


def drift(contract: Contract, profile: Profile, columns: GraphInputs) -> dict[str, float]:
    """Give each feature's Jensen-Shannon distance between the profile and other rows."""
    distances = {}
    for name, category, values in _looked_at(contract, columns):
        reference = profile.columns[name]
        found = _shares(category, values, reference.edges)
        distances[name] = _jensen_shannon(np.asarray(reference.shares), found)
    return distances


def _edges(values: npt.NDArray[np.generic]) -> tuple[float, ...]:
    present = _present(values)
    if not len(present):
        return ()
    inner = np.quantile(present, np.linspace(0, 1, BINS + 1)[1:-1])
    return tuple(float(edge) for edge in np.unique(inner))


def _present(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    numbers = values.astype(np.float64)
    return numbers[~np.isnan(numbers)]


def _shares(
    column: Category | None, values: npt.NDArray[np.generic], edges: tuple[float, ...]
) -> npt.NDArray[np.float64]:
    if column is not None:
        place = {value: position for position, value in enumerate(column.values, start=1)}
        found, counted = np.unique(values, return_counts=True)
        counts = np.zeros(len(place) + 1)
        for value, count in zip(found.tolist(), counted, strict=True):
            counts[place.get(value, 0)] += count
    else:
        present = _present(values)
        binned = np.bincount(np.searchsorted(edges, present, side="right"), minlength=len(edges) + 1)
        counts = np.concatenate([[len(values) - len(present)], binned]).astype(np.float64)
    shares: npt.NDArray[np.float64] = counts / max(counts.sum(), 1.0)
    return shares


def _jensen_shannon(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    middle = (left + right) / 2

    def divergence(shares: npt.NDArray[np.float64]) -> float:
        positive = shares > 0
        return float((shares[positive] * np.log2(shares[positive] / middle[positive])).sum())

    return float(np.sqrt(max((divergence(left) + divergence(right)) / 2, 0.0)))
