"""Example rows: what a graph is tried on is what its contract allows."""

import numpy as np

from models.contract.columns import MISSING_CODE, Contract
from models.contract.examples import example_columns


def test_draws_what_the_contract_allows(tiny_contract: Contract) -> None:
    columns = example_columns(tiny_contract, 100)

    assert [*columns] == ["starts_at", "distance", "weight", "kind", "zone"]
    assert {len(values) for values in columns.values()} == {100}
    assert {str(values.dtype) for values in columns.values()} == {"int64", "float32", "object"}
    assert 0 <= columns["distance"].min() < columns["distance"].max() <= 100
    assert set(columns["kind"]) == {"bike", "car"}
    assert set(columns["zone"]) == {1, 2, 3, MISSING_CODE}


def test_leaves_out_what_may_be_null_and_nothing_else(tiny_contract: Contract) -> None:
    columns = example_columns(tiny_contract, 70)

    assert np.isnan(columns["weight"]).sum() == 10
    assert not np.isnan(columns["distance"]).any()


def test_draws_the_same_each_time(tiny_contract: Contract) -> None:
    first, again = example_columns(tiny_contract, 50), example_columns(tiny_contract, 50)

    assert all(np.array_equal(values, again[name], equal_nan=name == "weight") for name, values in first.items())
