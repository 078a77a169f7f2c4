"""New: a table becomes a definition that trains as it is, in a catalog of one's own."""

import csv
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import catalog, definition
from flows.ingest import ingest
from flows.new import new
from flows.promote import promote
from flows.train import train
from infra import registry, tables
from infra.assembly import assemble
from infra.errors import Conflict, Misconfigured, NotFound, Unavailable
from infra.provenance import source_digest
from infra.settings import load_settings
from models import definitions
from models.contract.columns import Category
from models.contract.draft import draft
from models.errors import ContractError, DefinitionError
from tests.flows.drafting import edit

ROWS = 1500


@pytest.fixture
def own(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog of one's own, where nothing is yet."""
    folder = tmp_path / "catalog"
    monkeypatch.setenv("OKRUH_CATALOG", str(folder))
    return folder


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a year of orders in one file, as CSV, with gaps: whether one comes back depends on its price and country."""
    draw = np.random.default_rng(0)
    price, country = draw.gamma(2, 30, ROWS).round(2), draw.choice(["CZ", "DE", "AT"], ROWS)
    odds = 0.08 * (price - 60) + 3 * (country == "DE")
    table = pd.DataFrame(
        {
            "order_id": np.arange(ROWS),
            "ordered": pd.date_range("2024-01-01", periods=ROWS, freq="3h"),
            "price": np.where(np.arange(ROWS) % 50 == 0, np.nan, price),
            "items": draw.integers(1, 9, ROWS),
            "country": country,
            "express": draw.random(ROWS) < 0.3,
            "returned": (draw.random(ROWS) < 1 / (1 + np.exp(-odds))).astype(int),
        }
    )
    file = tmp_path_factory.mktemp("orders") / "orders.csv"
    table.to_csv(file, index=False)
    return file


@pytest.mark.parametrize("time", ["ordered", None])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_drafted_model_goes_through_the_circuit_as_it_is(
    own: Path, orders: Path, tmp_path: Path, time: str | None, suffix: str
) -> None:
    file = orders
    if suffix == ".parquet":
        file = tmp_path / "orders.parquet"
        pd.read_csv(orders, parse_dates=["ordered"]).to_parquet(file)

    drafted = new("orders", str(file), "returned", time)

    assert drafted.file == str(own / "orders" / "__init__.py")
    assert (drafted.task, drafted.rows) == ("binary", ROWS)
    assert drafted.left_out["order_id"] == "another value in each row, as an id has"
    loaded = catalog.load("orders")
    assert loaded.contract.target == Category(name="returned", values=(0, 1))
    (ingested,) = ingest("orders", str(file))
    assert (ingested.partition, ingested.rows, ingested.refused) == ("orders", ROWS, 0)
    version = train("orders", overrides={"epochs": 8}).version
    assert promote("orders", version).allowed
    card = registry.load_card(assemble(load_settings()).lake("orders"), "main", version)
    assert card.metrics["roc_auc"] > 0.8
    assert list(card.slices) == [*(["hour", "weekday"] if time else []), "country", "express"]
    assert card.evaluation is not None
    assert card.evaluation.calibration is not None
    assert card.evaluation.calibration.event == "returned is 1"
    assert card.evaluation.importance["price"].loss_increase > 0.02


def test_the_sources_that_decide_a_result_hold_the_definition_and_no_other(own: Path, orders: Path) -> None:
    file = Path(new("orders", str(orders), "returned").file)
    before, taxi = catalog.sources("orders"), catalog.sources("taxi_eta")

    edit(file, ('"width": 192', '"width": 8'))
    after = catalog.sources("orders")
    new("others", str(orders), "returned")
    definitions.files.cache_clear()

    assert len({before, after, taxi, source_digest()}) == 4
    assert (catalog.sources("orders"), catalog.sources("taxi_eta")) == (after, taxi)


def test_a_table_by_an_address_that_fsspec_reads_is_drafted(own: Path, orders: Path) -> None:
    assert new("orders", orders.as_uri(), "price").task == "regression"


def test_a_server_that_refuses_is_not_taken_for_a_file_that_is_not_there(own: Path) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            with pytest.raises(Unavailable, match=r"orders\.csv\?key=secret cannot be read: 403"):
                new("orders", f"http://127.0.0.1:{server.server_port}/orders.csv?key=secret", "price")
        finally:
            server.shutdown()
            serving.join()
    assert not own.exists()


def test_what_a_link_is_signed_by_is_not_written_down(own: Path, orders: Path) -> None:
    table = pd.read_csv(orders)

    written = definition.source("orders", "https://host/orders.csv?key=secret", draft(pa.table(dict(table)), "price"))

    assert "rows of orders.csv. Ranges" in written.replace("\n", " ")
    assert "secret" not in written


def test_decimals_of_a_database_are_numbers_and_only_last_words_say_a_code(own: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    table = pa.table(
        {
            "price": pa.array(draw.integers(1, 10_000, 400)).cast(pa.decimal128(21, 2)),
            "kind": draw.choice(["a", "b"], 400),
            "amount_paid": draw.integers(0, 50, 400),
            "shopId": draw.integers(0, 5, 400),
            "late": draw.integers(0, 2, 400),
        }
    )
    pq.write_table(table, tmp_path / "sales.parquet")

    drafted = new("sales", str(tmp_path / "sales.parquet"), "late")

    contract = catalog.load("sales").contract
    assert drafted.task == "binary"
    assert [type(one).__name__ for one in contract.features] == ["Number", "Category", "Number", "Category"]
    (ingested,) = ingest("sales", str(tmp_path / "sales.parquet"))
    assert (ingested.rows, ingested.refused) == (400, 0)
    assert train("sales", overrides={"epochs": 1}).version


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_gaps_and_fractions_in_whole_numbers_and_empty_text_are_alike_in_each_kind_of_file(
    own: Path, tmp_path: Path, suffix: str
) -> None:
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"zone": draw.integers(0, 9, 100).astype(float), "kind": [*"ab"] * 50, "y": draw.random(100)})
    table.loc[:9, ["zone", "kind"]] = [None, ""]
    file = tmp_path / f"rides{suffix}"

    def write() -> str:
        table.to_csv(file, index=False) if suffix == ".csv" else table.to_parquet(file)
        return str(file)

    edit(
        Path(new("rides", write(), "y").file),
        ('Number(name="zone"', 'Category(name="zone", values=tuple(range(9)), nullable=True), #'),
    )
    assert catalog.load("rides").contract.categories[1] == Category(name="kind", values=("a", "b"), nullable=True)
    (whole,) = ingest("rides", str(file))
    table.loc[20:24, "zone"] = 1.5
    (cut,) = ingest("rides", write())

    assert (whole.rows, whole.refused) == (100, 0)
    assert (cut.rows, cut.reasons) == (95, {"zone: unknown category": 5})
    held = tables.read(assemble(load_settings()).lake("rides"), "main", "quarantine/rows/rides.parquet")
    assert held["zone"].tolist() == [1.5] * 5


def test_nothing_known_yet_is_said_whenever_it_is_asked(own: Path, orders: Path) -> None:
    new("orders", str(orders), "returned", "ordered")

    with pytest.raises(ContractError, match="no data was known then; ingest some, or look at a later moment"):
        train("orders", as_of=datetime(2024, 3, 1, tzinfo=UTC))
    with pytest.raises(DefinitionError, match="nothing comes before 0001-01-01, to learn from"):
        train("orders", as_of=datetime(1, 1, 1, tzinfo=UTC))


def test_refuses_what_is_no_table_and_what_is_there_already(own: Path, orders: Path, tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_text("nothing")

    with pytest.raises(NotFound, match=r"gone\.csv does not exist; name a CSV or Parquet file"):
        new("orders", str(tmp_path / "gone.csv"), "returned")
    with pytest.raises(Misconfigured, match=r"orders\.xlsx: a \.parquet or \.csv file is read"):
        new("orders", "orders.xlsx", "returned")
    with pytest.raises(ContractError, match=r"no\.parquet: not a Parquet file"):
        new("orders", str(tmp_path / "no.parquet"), "returned")
    with pytest.raises(DefinitionError, match="model name 'Orders'"):
        new("Orders", str(orders), "returned")
    with pytest.raises(Conflict, match=r"there is a model taxi_eta already; choose another name$"):
        new("taxi_eta", str(orders), "returned")
    assert not own.exists()
    folder = Path(new("orders", str(orders), "returned").file).parent
    with pytest.raises(Conflict, match=f"there is a model orders already; choose another name, or remove {folder}$"):
        new("orders", str(orders), "returned")


def test_texts_of_a_table_are_no_code(own: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "a\n__import__('sys').stdout.write('EXECUTED\\n'), #"
    odd = [code, 'b"""', "c\\", "d\u2028\x85\r", "New York"]
    draw = np.random.default_rng(0)
    names = {"kind": "kind\n1 % 0 #", "one": '"""one\\', "price": "price\u2029\r'\""}
    table = pd.DataFrame({"kind": draw.choice(odd, 400), "one": code, "price": draw.normal(size=400)})
    file = tmp_path / 'odd """\n1 \\.csv'
    table.rename(columns=names).to_csv(file, index=False, quoting=csv.QUOTE_NONNUMERIC)  # a lone return too

    drafted = new("odd", str(file), names["price"])

    contract = catalog.load("odd").contract
    assert contract.features == (Category(name=names["kind"], values=tuple(sorted(odd))),)
    assert contract.target.name == names["price"]
    assert list(drafted.left_out) == [names["one"]]
    assert "EXECUTED" not in capfd.readouterr().out


@pytest.mark.parametrize("others", [0, 1])
def test_what_cannot_be_drafted_leaves_nothing_behind(own: Path, orders: Path, tmp_path: Path, others: int) -> None:
    at_once = pd.read_csv(orders)
    at_once.loc[others:, "ordered"] = "2024-01-01 00:00:00"
    at_once.to_csv(tmp_path / "at_once.csv", index=False)

    with pytest.raises(
        ContractError, match="time 'ordered' is 2024-01-01T00:00:00 in nearly each row: none came later"
    ):
        new("orders", str(tmp_path / "at_once.csv"), "returned", "ordered")

    assert not own.exists()


def test_what_cannot_be_loaded_leaves_nothing_behind(own: Path, orders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(definition, "source", lambda *_: "import nothing_of_this_name")
        with pytest.raises(DefinitionError, match="the definition of orders cannot be"):
            new("orders", str(orders), "returned", "ordered")

    assert list(own.iterdir()) == []
    assert Path(new("orders", str(orders), "returned", "ordered").file).exists()


def test_a_definition_that_cannot_be_read_is_named(own: Path, orders: Path) -> None:
    file = Path(new("orders", str(orders), "returned").file)
    file.write_text(file.read_text().replace("CONTRACT = ", "CONTRACT == "))
    definitions.look_in(None)  # so that it is read again

    with pytest.raises(DefinitionError, match="the definition of orders cannot be read: NameError"):
        catalog.load("orders")


def test_without_its_catalog_a_model_is_not_known(own: Path, orders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new("orders", str(orders), "returned")
    monkeypatch.delenv("OKRUH_CATALOG")

    assert catalog.names() == ["digits", "flight_delay", "taxi_eta"]
    with pytest.raises(DefinitionError, match="no model 'orders'; the catalog has digits, flight_delay, taxi_eta"):
        catalog.load("orders")
