"""The client against the real edge on a loopback port."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from infra import client as client_module
from infra.client import Client, Feedback, IdsTaken, Label
from infra.errors import InfraError, Misconfigured, NotFound, Unavailable
from infra.keys import KeyFile
from infra.serving_process import free_port
from infra.settings import Settings
from models.bundle import Bundle
from models.contract.columns import Contract
from models.errors import ContractError
from services import access
from tests.serving import Service, losing, serving, turning_away

ROW = {"starts_at": "2020-03-01T08:15:00", "distance": 3.0, "weight": None, "kind": "car", "zone": 2}
BUSY = (b"retry-after", b"0")


@pytest.fixture
def service(settings: Settings, make_bundle: Callable[..., Bundle]) -> Iterator[Service]:
    """A service that answers 2 x distance + weight + 10 for a car."""
    with serving(settings, make_bundle()) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    """A client of the service."""
    with Client(service.url) as client:
        yield client


def table(count: int, **changes: Any) -> pa.Table:
    """Rows of which each has another distance, for which the service answers its double."""
    columns = {
        "starts_at": pa.array([datetime(2020, 3, 1, 8, 15)] * count, pa.timestamp("us")),
        "distance": np.arange(count) % 100 / 1.0,
        "weight": pa.nulls(count, pa.float64()),
        "kind": ["bike"] * count,
        "zone": pa.array([1] * count, pa.int64()),
    }
    return pa.table(columns | changes)


def doubled(count: int) -> list[float]:
    return [2.0 * (place % 100) for place in range(count)]


def spoilt(count: int, *rows: int) -> pa.Table:
    distances = np.arange(count) % 100 / 1.0
    distances[[*rows]] = 1000.0
    return table(count, distance=distances)


def test_answers_rows_in_their_order_over_several_parts(service: Service, client: Client) -> None:
    answered = client.predict(table(10_500))

    assert answered.values.tolist() == doubled(10_500)
    assert answered.table["row"].to_pylist() == list(range(10_500))
    assert answered.versions == {"v1": 10_500}
    assert len(set(answered.ids)) == 10_500
    assert service.predictions == 2
    assert service.recorded == 10_500


@pytest.mark.parametrize(
    "rows",
    [
        [ROW, ROW | {"id": "mine"}],
        iter([ROW, ROW | {"id": "mine", "starts_at": datetime(2020, 3, 1, 8, 15)}]),
        pd.DataFrame([ROW | {"id": None}, ROW | {"id": "mine"}], index=[7, 9]),
        pd.DataFrame([ROW, ROW | {"zone": None}]).assign(
            id=pd.Series([None, "mine"]), starts_at=datetime(2020, 3, 1, 8, 15)
        ),
        pa.table({name: [str(value or "")] * 2 for name, value in ROW.items()} | {"id": [None, "mine"]}),
    ],
    ids=["mappings", "iterator", "pandas", "pandas with a gap", "text"],
)
def test_takes_what_has_columns_or_rows_and_keeps_given_ids(client: Client, rows: Any) -> None:
    answered = client.predict(rows)

    frame = answered.to_pandas()
    assert frame["value"].tolist() == [16.0, 16.0]
    assert frame["id"][1] == "mine"
    assert len(frame["id"][0]) == 36


def test_answers_nothing_for_no_rows(service: Service, client: Client) -> None:
    assert len(client.predict([])) == len(client.predict(table(0))) == service.predictions == 0


def test_has_no_more_under_way_than_it_was_told_and_reads_no_further_ahead(service: Service) -> None:
    read = []
    batches = (read.append(number) or table(10) for number in range(20))  # type: ignore[func-returns-value]

    with Client(service.url, in_flight=3) as client:
        parts = client.predict_iter(batches)
        first = next(parts)
        ahead = len(read)
        rest = list(parts)

    assert ahead == 4
    assert service.at_a_time <= 3
    assert [part.table["row"][0].as_py() for part in [first, *rest]] == list(range(0, 200, 10))


def test_sends_parts_that_the_service_holds(service: Service, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAXIMUM_BODY_BYTES", 20_000)

    answered = client.predict(table(1000))

    assert answered.values.tolist() == doubled(1000)
    assert service.predictions > 4


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_asks_again_where_a_service_is_busy(service: Service, client: Client, status: int) -> None:
    service.disturbances += [turning_away(status, "busy", BUSY)] * 2

    answered = client.predict(table(3))

    assert answered.values.tolist() == doubled(3)
    assert service.predictions == 3
    assert service.recorded == 3


def test_records_once_what_it_asks_again_because_the_answer_was_lost(service: Service, client: Client) -> None:
    service.disturbances += [losing, losing]

    answered = client.predict(table(10))

    assert answered.values.tolist() == doubled(10)
    assert service.predictions == 3
    assert service.recorded == 10


def test_records_twice_where_rows_shall_have_no_names(service: Service) -> None:
    service.disturbances.append(losing)

    with Client(service.url, name_rows=False) as client:
        answered = client.predict(table(10))

    assert answered.values.tolist() == doubled(10)
    assert service.recorded == 20


def test_gives_up_after_the_retries_that_it_was_told(service: Service) -> None:
    service.disturbances += [turning_away(503, "too much waits", BUSY)] * 9

    with Client(service.url, retries=1) as client, pytest.raises(Unavailable, match=r"too much waits.*asked 2 times"):
        client.predict(table(3))


@pytest.mark.parametrize("asked", [b"60", b"Wed, 01 Jan 2200 00:00:00 GMT"])
def test_does_not_wait_for_what_comes_after_the_deadline(service: Service, asked: bytes) -> None:
    service.disturbances.append(turning_away(503, "too much waits", (b"retry-after", asked)))

    with Client(service.url, timeout_s=30) as client, pytest.raises(Unavailable, match="asked 1 times"):
        client.predict(table(3))


def test_tells_the_service_how_long_it_waits(service: Service) -> None:
    with Client(service.url, timeout_s=7) as client:
        client.predict(table(3))

    assert 0 < int(service.headers[access.DEADLINE]) <= 7000


def test_says_where_nobody_answers() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    with Client(url, retries=1) as client, pytest.raises(Unavailable, match=f"{url} does not answer.*refused"):
        client.predict(table(3))


def test_names_rows_that_break_the_contract_by_the_callers_numbers(client: Client) -> None:
    with pytest.raises(ContractError, match="row 10345, field 'distance': out of range") as raised:
        client.predict(spoilt(10_500, 10_345))

    assert [one.row for one in raised.value.violations] == [10_345]


@pytest.mark.parametrize("as_rows", [False, True])
def test_answers_the_others_where_refused_rows_are_skipped(service: Service, client: Client, as_rows: bool) -> None:
    spoilt_rows = spoilt(10_100, 5, 10_050)

    answered = client.predict(spoilt_rows.to_pylist() if as_rows else spoilt_rows, skip_refused=True)

    assert [one.row for one in answered.refused] == [5, 10_050]
    kept = [place for place in range(10_100) if place not in {5, 10_050}]
    assert answered.table["row"].to_pylist() == kept
    assert answered.values.tolist() == np.array(doubled(10_100))[kept].tolist()
    assert service.recorded == 10_098


def test_skips_what_cannot_be_read_as_well(client: Client) -> None:
    rows = [*pa.table({name: [str(value or "")] for name, value in ROW.items()}).to_pylist()] * 3
    text = pa.Table.from_pylist(rows).set_column(1, "distance", [["far", "3", "1000"]])

    answered = client.predict(text, skip_refused=True)

    assert answered.values.tolist() == [16.0]
    assert [(one.row, one.rule.partition(":")[0]) for one in answered.refused] == [
        (0, "wrong type"),
        (2, "out of range"),
    ]


def test_names_ids_that_are_there_twice_by_the_callers_numbers(client: Client) -> None:
    rows = [ROW] * 10_000 + [ROW | {"id": "same"}] * 2

    with pytest.raises(ContractError, match="row 10001, field 'id'"):
        client.predict(rows)


def test_cuts_lists_of_rows_and_takes_streams_of_arrow(client: Client) -> None:
    many, stream = [ROW] * 10_001, table(5).to_reader(2)

    parts = list(client.predict_iter([many, stream]))

    assert [len(part) for part in parts] == [10_000, 1, 5]
    assert parts[-1].table["row"].to_pylist() == list(range(10_001, 10_006))


def test_refuses_columns_that_the_model_does_not_take(client: Client) -> None:
    with pytest.raises(ContractError, match="'colour': unknown column"):
        client.predict(table(3, colour=["red"] * 3))


def test_refuses_ids_that_stand_for_other_rows_by_the_callers_numbers(client: Client) -> None:
    client.predict([ROW | {"id": "taken"}])
    ids = pa.array([None] * 10_500 + ["taken"], pa.string())

    with pytest.raises(IdsTaken, match="row 10500, field 'id'") as raised:
        client.predict(table(10_501, id=ids))

    assert raised.value.ids == ("taken",)


def test_brings_its_key_and_is_told_when_it_is_wrong(service: Service, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    key = keys.add("app", ["predict"])
    service.ask_for(keys)

    with Client(service.url, key) as client:
        assert len(client.predict(table(3))) == 3
        with pytest.raises(Misconfigured, match="it wants the scope feedback"):
            client.feedback([Label("trip-1", 1.0)])
    with Client(service.url, "okruh_other") as client, pytest.raises(Misconfigured, match="not known") as raised:
        client.predict(table(3))

    assert "okruh_other" not in str(raised.value)
    assert service.predictions == 1


@pytest.mark.parametrize("url", ["127.0.0.1:3000", "ftp://host", "http://", "http://user:secret@host"])
def test_refuses_what_is_no_address(url: str) -> None:
    with pytest.raises(Misconfigured, match="address is like") as raised:
        Client(url)

    assert "secret" not in str(raised.value)


def test_refuses_a_key_that_would_be_another_header() -> None:
    with pytest.raises(Misconfigured) as raised:
        Client("http://127.0.0.1:3000", "secret\r\nhost: other")

    assert "secret" not in str(raised.value)


def test_tells_an_address_that_is_not_the_services(service: Service) -> None:
    with Client(f"{service.url}/elsewhere") as client, pytest.raises(NotFound, match="address of a service of Okruh"):
        client.model()


def test_follows_no_redirection(service: Service, client: Client) -> None:
    service.disturbances.append(turning_away(307, "elsewhere", (b"location", b"http://127.0.0.1:9/")))

    with pytest.raises(InfraError, match="elsewhere"):
        client.predict(table(3))


def test_says_what_the_service_answers_with(client: Client, tiny_contract: Contract) -> None:
    served = client.model()

    assert (served.model, served.version) == ("tiny", "v1")
    assert served.contract.inputs == tiny_contract.inputs


def test_keeps_labels_and_names_those_that_cannot_be(client: Client) -> None:
    first, second = client.predict([ROW, ROW]).ids
    at = datetime(2020, 3, 1, tzinfo=UTC)

    assert client.feedback([Label(first, 11.5, at), Label(second, 12.0)]) == Feedback(2)
    assert client.feedback(iter([Label(first, 11.5)])) == Feedback(1)
    assert client.feedback([Label(first, 99.0), Label("nobody", 1.0), Label(second, 12.0)]) == Feedback(
        1, unknown=("nobody",), conflicting=(first,)
    )


def test_names_labels_that_are_none_by_the_callers_numbers(client: Client) -> None:
    known = client.predict([ROW]).ids[0]
    labels = [Label(known, 11.5)] * 10_000 + [Label("", 1.0)]

    with pytest.raises(ContractError, match="row 10000"):
        client.feedback(labels)
