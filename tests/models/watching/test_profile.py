"""The reference profile: shares and distances are exact, and nothing that a lake can hold breaks it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from models.contract.columns import MISSING_CODE, Category, Contract, Number, Time
from models.errors import BundleError
from models.inference import GraphInputs
from models.watching import profile
from models.watching.profile import BINS, ColumnProfile, LossProfile, Profile

LOSS = LossProfile(rows=1, mean=0, scaled_mean=0, scaled_deviation=0)


def contract(feature: Number | Category) -> Contract:
    target = Number(name="price", unit="EUR", minimum=0, maximum=9)
    return Contract(time=Time(name="at", zone=None, parts=()), features=(feature,), target=target)


SIZES = contract(Number(name="size", unit="m", minimum=0, maximum=100, nullable=True))
KINDS = contract(Category(name="kind", values=("bike", "car", "tram"), nullable=True))
ZONES = contract(Category(name="zone", values=(7, 8), nullable=True))


def sizes(*values: float) -> GraphInputs:
    return {"size": np.asarray(values, dtype=np.float32)}


def kinds(*values: str) -> GraphInputs:
    return {"kind": np.asarray(values, dtype=object)}


def drift(contract: Contract, reference: GraphInputs, found: GraphInputs) -> float:
    described = Profile(columns=profile.describe_columns(contract, reference), loss=LOSS)
    (distance,) = profile.drift(contract, described, found).values()
    return distance


def test_bins_of_a_number_hold_equally_many_reference_rows() -> None:
    described = profile.describe_columns(SIZES, sizes(*range(20)))

    assert described["size"].edges == pytest.approx([0.95 * edge for edge in range(1, BINS)])
    assert described["size"].shares == (0.0, *[0.05] * BINS)


@pytest.mark.parametrize(
    ("values", "edges", "shares"),
    [
        ((3, 3, 3, math.nan), (3.0,), (0.25, 0.0, 0.75)),
        ((math.nan, math.nan), (), (1.0, 0.0)),
        ((), (), (0.0, 0.0)),
    ],
)
def test_describes_a_number_of_few_values(
    values: tuple[float, ...], edges: tuple[float, ...], shares: tuple[float, ...]
) -> None:
    assert profile.describe_columns(SIZES, sizes(*values))["size"] == ColumnProfile(edges=edges, shares=shares)


def test_describes_a_category_by_its_values_with_null_and_unknown_first() -> None:
    of_text = profile.describe_columns(KINDS, kinds("car", "car", "bike", ""))
    of_integers = profile.describe_columns(ZONES, {"zone": np.array([8, MISSING_CODE, 9, 8], dtype=np.int64)})

    assert of_text["kind"] == ColumnProfile(shares=(0.25, 0.25, 0.5, 0.0))
    assert of_integers["zone"] == ColumnProfile(shares=(0.5, 0.0, 0.5))


@pytest.mark.parametrize(
    ("reference", "found", "distance"),
    [
        (("bike", "car"), ("car", "bike", "bike", "car"), 0.0),
        (("bike",), ("car", "tram"), 1.0),
        (("bike",), ("",), 1.0),
        (("bike",), ("bike", "car"), math.sqrt(0.75 * math.log2(4 / 3) + 0.25 * math.log2(4) - 0.5 * math.log2(2))),
    ],
)
def test_gives_the_jensen_shannon_distance(reference: tuple[str, ...], found: tuple[str, ...], distance: float) -> None:
    assert drift(KINDS, kinds(*reference), kinds(*found)) == pytest.approx(distance)


@given(*[st.lists(st.sampled_from(["", "bike", "car", "tram"]), min_size=1)] * 2)
def test_gives_the_distance_of_scipy(reference: list[str], found: list[str]) -> None:
    shares = [
        [values.count(value) / len(values) for value in ("", "bike", "car", "tram")] for values in (reference, found)
    ]

    distance = drift(KINDS, kinds(*reference), kinds(*found))

    assert distance == pytest.approx(jensenshannon(*shares, base=2), abs=1e-6)
    assert distance == pytest.approx(drift(KINDS, kinds(*found), kinds(*reference)))


@given(st.lists(st.floats(0, 100, width=32) | st.just(math.nan), min_size=1))
def test_rows_do_not_drift_from_themselves(values: list[float]) -> None:
    described = profile.describe_columns(SIZES, sizes(*values))["size"]

    assert sum(described.shares) == pytest.approx(1)
    assert drift(SIZES, sizes(*values), sizes(*values)) == 0


def test_a_number_beyond_all_reference_rows_drifts() -> None:
    assert drift(SIZES, sizes(*range(20)), sizes(*[50] * 20)) == pytest.approx(
        jensenshannon([0.05] * 20, [0] * 19 + [1], base=2)
    )


def test_summarises_errors_with_the_scaled_loss_cut_at_the_ceiling() -> None:
    described = profile.describe_loss(np.array([3.0, 60.0, 15.0]), ceiling=30)

    assert (described.rows, described.mean) == (3, 26)
    assert described.scaled_mean == pytest.approx((0.1 + 1 + 0.5) / 3)
    assert described.scaled_deviation == pytest.approx(np.std([0.1, 1, 0.5], ddof=1))


def test_one_row_leaves_the_largest_deviation_possible() -> None:
    assert profile.describe_loss(np.array([15.0]), ceiling=30).scaled_deviation == 0.5


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_error_that_is_not_finite_counts_as_the_ceiling(broken: float) -> None:
    described = profile.describe_loss(np.array([broken, 10.0]), ceiling=30)

    assert described == profile.describe_loss(np.array([30.0, 10.0]), ceiling=30)


def test_a_profile_survives_its_file() -> None:
    columns = profile.describe_columns(SIZES, sizes(0.1, 0.2, 7, math.nan))
    loss = profile.describe_loss(np.array([math.nan, 10.0, 0.1]), ceiling=30)
    described = Profile(columns=columns, loss=loss)

    assert profile.decode(profile.encode(described)) == described


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"columns": {"\xff": 1}}'])
def test_refuses_a_file_that_is_no_profile(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"profile\.json is not a profile"):
        profile.decode(content)
