"""Images that were ingested, and those that were answered and labelled, as what is learned from."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from infra import tables
from infra.dataset import LABELS, PREDICTIONS, known_rows, partition_path
from infra.journal.answers import Answers
from infra.journal.ids import Ids
from infra.journal.journal import Journal
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.transaction import transaction
from models.contract.columns import Contract, Image, Number, Time
from models.contract.rows import RowDecoder
from models.contract.table import to_columns, validate
from models.errors import ContractError
from models.learning.preprocessing import prepare
from models.model import Model

FAR = datetime(2030, 1, 1, tzinfo=UTC)
AT = datetime(2020, 3, 1, 8, 15, tzinfo=UTC)


def model(image: Image) -> Model:
    contract = Contract(
        time=Time(name="at", zone=None, parts=()),
        features=(image,),
        target=Number(name="price", unit="EUR", minimum=0, maximum=99),
    )
    return Model(name="seen", description="", contract=contract, network=lambda _: None)  # type: ignore[arg-type,return-value]


BYTES = model(Image(name="image", height=2, width=2, maximum=16))
FLOATS = model(Image(name="image", height=2, width=2, minimum=-1, maximum=1, whole=False))


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[EmbeddedLake]:
    """An empty one."""
    made = EmbeddedLake(tmp_path / "lake")
    yield made
    made.close()


def images(of: Model, count: int) -> list[list[list[float]]]:
    draw = np.random.default_rng(0)
    shape = (count, 2, 2)
    drawn = draw.integers(0, 17, shape) if of is BYTES else draw.uniform(-1, 1, shape).astype(np.float32).astype(float)
    found: list[list[list[float]]] = drawn.tolist()
    return found


def rows(of: Model, count: int, first: int = 0) -> pd.DataFrame:
    """Accepted rows, a minute apart."""
    found = images(of, first + count)[first:]
    raw = pd.DataFrame(
        {
            "at": [AT + timedelta(minutes=first + place) for place in range(count)],
            "image": pd.Series(found, dtype=object),
            "price": np.arange(first, first + count, dtype=float),
        }
    )
    return validate(of.contract, raw, "seen.parquet").accepted


def put(lake: EmbeddedLake, **objects: bytes) -> None:
    with transaction(lake, "main", "put", {}) as work:
        for path, content in objects.items():
            work.put(path, content)


def answered(of: Model, folder: Path, count: int, first: int = 0) -> bytes:
    """Have a journal record answers to the rows of `rows`, and give their table as it is archived."""
    decoder = RowDecoder(of.contract)
    asked = [
        {"at": (AT + timedelta(minutes=first + place)).isoformat(), "image": image}
        for place, image in enumerate(images(of, first + count)[first:])
    ]
    columns = decoder.together([decoder.decode(msgspec.json.encode({"rows": asked}))])
    ids = Ids(b"-" * 36 * count, {place: f"row-{first + place}" for place in range(count)})
    answered_ms = np.full(count, round(AT.timestamp() * 1000))
    with closing(Journal(folder)) as journal:
        journal.append([Answers(of.contract, "v1", ids, columns, np.ones(count, np.float32), answered_ms)]).result()
        (sealed,) = journal.seal()
        return tables.encode_arrow(journal.table(sealed))


def labels(count: int, first: int = 0) -> bytes:
    at = [AT + timedelta(days=1, minutes=first + place) for place in range(count)]
    names = [f"row-{first + place}" for place in range(count)]
    known_at = pd.Series(at).dt.as_unit("us")
    return tables.encode(pd.DataFrame({"id": names, "value": np.arange(count) + float(first), "known_at": known_at}))


@pytest.mark.parametrize("of", [BYTES, FLOATS], ids=["bytes", "floats"])
def test_what_was_answered_is_learned_from_as_what_was_ingested(of: Model, lake: EmbeddedLake, tmp_path: Path) -> None:
    put(lake, **{partition_path(of, "2020-03"): tables.encode(rows(of, 6))})
    tabled = known_rows(of, lake, "main", FAR).whole()
    put(lake, **{PREDICTIONS + "1-2-a.parquet": answered(of, tmp_path, 4, first=6), LABELS + "1.parquet": labels(4, 6)})

    known = known_rows(of, lake, "main", FAR).whole()

    assert known["price"].tolist() == [float(price) for price in range(10)]
    sent = np.array(images(of, 10), np.float32)
    kept = np.uint8 if of is BYTES else np.float32
    assert {one.dtype for one in known["image"]} == {np.dtype(kept)}
    np.testing.assert_array_equal(np.stack(known["image"].tolist()), sent.reshape(10, 4))
    assert tabled["price"].tolist() == known["price"].tolist()[:6]
    prepared = prepare(of.contract, to_columns(of.contract, known)).images_NKHW
    assert prepared is not None
    np.testing.assert_array_equal(prepared, sent.reshape(10, 1, 2, 2))


@pytest.mark.parametrize("of", [BYTES, FLOATS], ids=["bytes", "floats"])
def test_an_event_in_table_and_journal_counts_once(of: Model, lake: EmbeddedLake, tmp_path: Path) -> None:
    put(
        lake,
        **{
            partition_path(of, "2020-03"): tables.encode(rows(of, 6)),
            PREDICTIONS + "1-2-a.parquet": answered(of, tmp_path, 3, first=4),
            LABELS + "1.parquet": labels(3, 4),
        },
    )

    known = known_rows(of, lake, "main", FAR).whole()

    assert sorted(known["price"]) == [float(price) for price in range(7)]


def test_rows_have_one_order_whatever_order_they_came_in(lake: EmbeddedLake) -> None:
    together = rows(BYTES, 40).assign(at=pd.Timestamp(AT).as_unit("us"), price=1.0)
    put(lake, **{partition_path(BYTES, "2020-03"): tables.encode(together)})
    one = known_rows(BYTES, lake, "main", FAR).whole()
    put(lake, **{partition_path(BYTES, "2020-03"): tables.encode(together.iloc[::-1])})

    other = known_rows(BYTES, lake, "main", FAR).whole()

    assert [image.tolist() for image in one["image"]] == [image.tolist() for image in other["image"]]
    assert sorted(image.tolist() for image in one["image"]) == sorted(image.tolist() for image in together["image"])


def test_images_that_an_edited_contract_does_not_allow_are_named(lake: EmbeddedLake, tmp_path: Path) -> None:
    put(lake, **{partition_path(BYTES, "2020-03"): tables.encode(rows(BYTES, 6))})
    put(
        lake,
        **{PREDICTIONS + "1-2-a.parquet": answered(BYTES, tmp_path, 2, first=8), LABELS + "1.parquet": labels(2, 8)},
    )
    wider = model(Image(name="image", height=4, width=2, maximum=16))
    darker = model(Image(name="image", height=2, width=2, maximum=1))

    with pytest.raises(ContractError, match=r"of an older contract .*image: 4 numbers, not 4 x 2 \(6 rows\); ingest"):
        known_rows(wider, lake, "main", FAR).whole()
    with pytest.raises(ContractError, match=r"image: outside 0 to 1 \([1-6] rows\)"):
        known_rows(darker, lake, "main", FAR).whole()
    assert len(known_rows(wider, lake, "main", FAR)) == 1  # answers that would be refused now are left out
