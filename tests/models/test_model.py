"""Definitions: found by name in the catalog, and refused by name where they cannot work."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from torch import nn

import models.catalog
from models import definitions
from models.contract.columns import Contract, Lag, Number, Time
from models.errors import DefinitionError
from models.learning.examples import Examples
from models.model import RESERVED, Model, MonthlySample


def test_refuses_network_settings_that_the_network_does_not_take_or_whose_kind_nobody_knows(ride_model: Model) -> None:
    def make(rows: Examples, *, width: int) -> nn.Module:
        raise NotImplementedError

    with pytest.raises(DefinitionError, match="`network` does not take the rows and width, depth: got an unexpected"):
        replace(ride_model, network=make, network_settings={"width": 1, "depth": 2})
    with pytest.raises(DefinitionError, match="network_settings must have a value for width, which says of what kind"):
        replace(ride_model, network=make, network_settings={"width": None})


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that belongs to the catalog for one test."""
    monkeypatch.setattr(models.catalog, "__path__", [*models.catalog.__path__, str(tmp_path)])
    return tmp_path


def define(catalog: Path, name: str, source: str) -> None:
    (catalog / name).mkdir()
    (catalog / name / "__init__.py").write_text(source)


@pytest.mark.parametrize("name", definitions.names())
def test_every_model_of_the_catalog_loads_under_its_name(name: str) -> None:
    assert definitions.load(name).name == name


def test_lists_the_catalog() -> None:
    assert "taxi_eta" in definitions.names()


@pytest.mark.parametrize("name", ["taxi", "", "taxi_eta.network", "../taxi_eta", "errors"])
def test_refuses_an_unknown_name_and_lists_the_known_ones(name: str) -> None:
    with pytest.raises(DefinitionError, match=r"no model .*; the catalog has .*taxi_eta"):
        definitions.load(name)


@pytest.mark.parametrize(("name", "source"), [("hollow", ""), ("half_done", "MODEL = 'soon'")])
def test_refuses_a_folder_without_a_model(catalog: Path, name: str, source: str) -> None:
    define(catalog, name, source)

    with pytest.raises(DefinitionError, match=rf"models/catalog/{name}/__init__\.py must define MODEL"):
        definitions.load(name)


def test_refuses_a_copy_that_kept_its_name(catalog: Path) -> None:
    define(catalog, "taxi_copy", "from models.catalog.taxi_eta import MODEL")

    with pytest.raises(DefinitionError, match="models/catalog/taxi_copy defines the model 'taxi_eta'"):
        definitions.load("taxi_copy")


@pytest.mark.parametrize("name", ["eta", "taxi_eta", "eta2", "a" * 40])
def test_takes_a_name_that_can_be_a_folder(ride_model: Model, name: str) -> None:
    assert replace(ride_model, name=name).name == name


@pytest.mark.parametrize(
    "name", ["", "ab", "Taxi", "taxi-eta", "2taxi", "_taxi", "taxi eta", "taxi/eta", "žluťák", "a" * 41]
)
def test_refuses_a_name_that_cannot_be_a_folder(ride_model: Model, name: str) -> None:
    with pytest.raises(DefinitionError, match="use a small letter"):
        replace(ride_model, name=name)


def with_feature(contract: Contract, name: str) -> Contract:
    return msgspec.structs.replace(contract, features=(Number(name=name, unit="m", minimum=0, maximum=1),))


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_refuses_a_column_whose_name_is_taken(ride_model: Model, name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"model rides: columns \['{name}'\] are taken"):
        replace(ride_model, contract=with_feature(ride_model.contract, name))


def test_refuses_a_target_and_a_time_whose_names_are_taken(ride_model: Model) -> None:
    contract = ride_model.contract
    time = msgspec.structs.replace(contract.time_column, name="event_at")
    target = msgspec.structs.replace(contract.target, name="predicted")

    with pytest.raises(DefinitionError, match=r"columns \['event_at', 'predicted'\] are taken"):
        replace(ride_model, contract=msgspec.structs.replace(contract, time=time, target=target))


def test_refuses_a_check_and_a_known_time_whose_names_are_taken(ride_model: Model) -> None:
    checks = (Number(name="value", unit="EUR", minimum=0, maximum=1),)

    with pytest.raises(DefinitionError, match=r"columns \['known_at', 'value'\] are taken"):
        replace(ride_model, contract=msgspec.structs.replace(ride_model.contract, known="known_at", checks=checks))


def test_refuses_a_kind_of_raw_column_that_there_is_not(ride_model: Model) -> None:
    with pytest.raises(DefinitionError, match=r"kinds \['int'\]; there are time, integer, number, text"):
        replace(ride_model, raw_columns={"minutes": "int", "at": "time"})  # type: ignore[dict-item]


@pytest.mark.parametrize(("prepare", "gave"), [(lambda raw: raw.iloc[1:], "9 rows"), (lambda raw: None, "a NoneType")])
def test_refuses_to_prepare_other_rows_than_it_was_given(
    ride_model: Model, make_rides: Callable[..., pd.DataFrame], prepare: Callable[..., Any], gave: str
) -> None:
    with pytest.raises(DefinitionError, match=f"`prepare` must give a table of as many rows .*, 10; it gave {gave}"):
        replace(ride_model, prepare=prepare).prepared(make_rides(10))


def test_a_sample_has_one_file_a_month(tmp_path: Path) -> None:
    sample = MonthlySample(
        folder=tmp_path,
        file_name="rides_{month}.parquet",
        history_from="2020-01",
        play_from="2020-02",
        play_to="2020-03",
    )

    assert sample.file("2020-02") == tmp_path / "rides_2020-02.parquet"


def test_what_was_true_last_has_to_be_beaten_where_it_is_asked_for() -> None:
    load = Number(name="load", unit="MW", minimum=0, maximum=100)
    heat = Number(name="heat", unit="C", minimum=-50, maximum=50)
    lags = [
        Lag(name=f"{of.name}_{hours}h", of=of.name, hours=hours, unit=of.unit, minimum=of.minimum, maximum=of.maximum)
        for of, hours in ((load, 24), (load, 2), (heat, 1))
    ]
    contract = Contract(time=Time(name="at", zone=None, parts=()), features=(heat, *lags), target=load)
    model = Model(name="load", description="", contract=contract, network=lambda _: pytest.fail("nothing is trained"))
    rows = pd.DataFrame({"load_24h": [1.0, 2.0], "load_2h": [3.0, None], "heat_1h": [5.0, 6.0]})

    assert model.naive_answers(pd.DataFrame({"load": [7.0, 8.0, 30.0]}), rows).tolist() == [3.0, 8.0]
    assert dict(model.raw_kinds) == {"at": "time", "heat": "number", "load": "number"}
