"""Named rows and objects are erased from every commit; what was asked for is not in the record of it."""

import io
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lakefs_sdk.client import LakeFSClient
from lakefs_sdk.configuration import Configuration

from flows import forget as forgetting
from flows.forget import Forgotten, forget
from infra import tables
from infra.dataset import LABELS, PREDICTIONS, SHADOWS
from infra.errors import Conflict, Corrupt, Misconfigured, NotFound
from infra.lake import copying
from infra.lake.embedded.content import ContentFiles
from infra.lake.embedded.store import EmbeddedLake
from infra.lake.lakefs.server import Server
from infra.lake.lakefs.store import LakeFSLake
from infra.lake.protocol import MAIN, Lake
from infra.lake.transaction import private_name, transaction
from infra.search import Hit
from infra.selection import Selection
from models.catalog.taxi_eta import MODEL
from models.errors import ContractError
from tests.flows.conftest import lake
from tests.infra.lake.lakefs.server import KEY_ID, SECRET, LakeFSServer

JUNE, JULY = "data/trips/2020-06.parquet", "data/trips/2020-07.parquet"
STAYS = {"by": "the data protection officer", "why": "asked for on 3 July"}


@pytest.fixture(params=["embedded", "lakefs"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, lakefs: LakeFSServer, monkeypatch: pytest.MonkeyPatch
) -> LakeFSServer | Path:
    """Where the lake is: a home, or a server."""
    monkeypatch.setenv("OKRUH_HOME", str(tmp_path / ".okruh"))
    if request.param == "embedded":
        return tmp_path / ".okruh" / "lake" / "taxi-eta"
    monkeypatch.setenv("OKRUH_LAKE", f"lakefs+{lakefs.address}/team-{secrets.token_hex(4)}")
    monkeypatch.setenv("OKRUH_LAKEFS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("OKRUH_LAKEFS_SECRET_ACCESS_KEY", SECRET)
    return lakefs


def people(*names: str, start: int = 0) -> bytes:
    return tables.encode(
        pd.DataFrame(
            {
                "customer": names,
                "age": range(30 + start, 30 + start + len(names)),
                "at": pd.date_range("2020-06-01", periods=len(names), tz="UTC"),
            }
        )
    )


@pytest.fixture
def filled(store: object) -> Iterator[Lake]:
    """Two versions of June, one of July, a branch that has the first, a tag, and an object that is no table."""
    found = lake()
    for contents in (
        {JUNE: people("olga", "eva"), "reports/a.html": b"<p>olga</p>"},
        {JUNE: people("olga", "eva", "jan")},
        {JULY: people("eva", "olga", start=9), "quarantine/trips/2020-07.parquet": people("jan")},
    ):
        with transaction(found, MAIN, "ingest", {}) as work:
            work.put_all(contents)
        if JULY not in contents and "work" not in found.branches():
            found.create_branch("work", MAIN)
            found.tag("first", MAIN)
    yield found
    if isinstance(found, EmbeddedLake | LakeFSLake):
        found.close()


def ask(where: list[str] | None = None, objects: list[str] | None = None, **changes: Any) -> Forgotten:
    return forget(MODEL.name, objects or [], Selection.read(where or [], None), **(STAYS | changes))


def everywhere(found: Lake) -> str:
    """Give all that any commit or branch shows of all objects, as text."""
    text = []
    for ref in {*found.branches(), *(commit.id for name in found.branches() for commit in found.log(name))}:
        for entry in found.list(ref):
            content = found.get(ref, entry.path)
            if entry.path.endswith(".parquet"):
                text.append(tables.read(found, ref, entry.path).to_csv())
            else:
                text.append(content.decode(errors="replace"))
    return "\n".join(text)


def collect_garbage(server: LakeFSServer, addresses: list[str]) -> None:
    """Do what a server's own collection does."""
    for address in addresses:
        (server.root / "store" / address.removeprefix("s3://bucket/")).unlink()


def test_erases_rows_from_every_commit(filled: Lake, store: LakeFSServer | Path) -> None:
    commits = [commit.id for commit in filled.log(MAIN)]

    done = ask(["customer=olga"])

    assert (done.rows, done.paths) == (3, [JUNE, JULY])
    assert list(tables.read(filled, MAIN, JUNE)["customer"]) == ["eva", "jan"]
    assert list(tables.read(filled, MAIN, JULY)["customer"]) == ["eva"]
    assert list(tables.read(filled, "work", JUNE)["customer"]) == ["eva"]
    assert [commit.id for commit in filled.log(MAIN)][-len(commits) :] == commits  # history stands
    assert filled.get(MAIN, "reports/a.html") == b"<p>olga</p>"  # no table, and not named
    if isinstance(store, LakeFSServer):
        assert len(done.still_at) == 3
        collect_garbage(store, done.still_at)
        with pytest.raises(Corrupt, match="garbage collection"):
            filled.get("first", JUNE)
    else:
        assert done.still_at == []
        assert list(tables.read(filled, "first", JUNE)["customer"]) == ["eva"]
        assert filled.verify() == []
        assert filled.collect(timedelta(0)).commits == 0
        assert filled.verify() == []
        assert everywhere(filled).count("olga") == everywhere(filled).count("<p>olga</p>")
        assert not any(b"olga" in file.read_bytes() for file in (store / "objects").rglob("*/*") if is_table(file))


def is_table(file: Path) -> bool:
    return file.read_bytes()[:4] == b"PAR1"


def test_leaves_a_record_that_does_not_say_what_was_asked_for(filled: Lake) -> None:
    done = ask(["customer=olga", "age=30"])

    content = filled.get(MAIN, done.records[0])
    record = json.loads(content)
    assert {name: record[name] for name in STAYS} == STAYS
    assert (record["columns"], record["lines"]) == (["customer", "age"], 1)
    assert set(record) == {"at", "by", "why", "objects", "columns", "lines", "erased"}
    assert all(set(one) == {"path", "digest", "rows"} for one in record["erased"])
    assert sum(one["rows"] for one in record["erased"]) == done.rows == 2
    assert b"olga" not in content
    assert {"kind": "forget", "record": done.records[0]} in [commit.metadata for commit in filled.log(MAIN)]


def test_erases_objects_by_path(filled: Lake, store: LakeFSServer | Path) -> None:
    done = ask(objects=["reports/a.html", "quarantine/trips/2020-07.parquet"])

    assert (done.rows, len(done.paths)) == (0, 2)
    for ref in (MAIN, "work"):
        assert not {"reports/a.html", "quarantine/trips/2020-07.parquet"} & {entry.path for entry in filled.list(ref)}
    if isinstance(store, LakeFSServer):
        collect_garbage(store, done.still_at)
        with pytest.raises(Corrupt):
            filled.get("first", "reports/a.html")
        return
    with pytest.raises(NotFound, match="it was erased, see erasures/"):
        filled.get("first", "reports/a.html")
    assert "reports/a.html" not in {entry.path for entry in filled.list("first")}
    assert filled.verify() == []
    filled.create_branch("again", MAIN)
    with pytest.raises(Misconfigured, match="erased from the lake, which does not take it again"):
        filled.put("again", "elsewhere.html", b"<p>olga</p>")
    assert filled.diff(MAIN, "again") == []


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (["age=39"], 1),
        (["at=2020-06-01"], 4),
        (["at=2020-06-01T00:00:00Z", "customer=eva"], 1),
        (["customer=olga", "age=31"], 0),
        (["customer=nobody"], 0),
    ],
)
def test_reads_values_as_the_columns_hold_them(filled: Lake, where: list[str], rows: int) -> None:
    done = ask(where)

    assert (done.rows, done.records == []) == (rows, rows == 0)


def test_reads_many_rows_from_a_file(filled: Lake, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("customer,age\nolga,30\njan,32\nolga,40\n")

    done = forget(MODEL.name, [], Selection.read([], file), **STAYS)  # type: ignore[arg-type]

    assert done.rows == 4
    assert list(tables.read(filled, MAIN, JUNE)["customer"]) == ["eva"]


def test_a_dry_run_changes_nothing(filled: Lake) -> None:
    before = filled.branches()

    done = ask(["customer=olga"], dry_run=True)

    assert (done.rows, done.records) == (3, [])
    assert filled.branches() == before
    assert "olga" in list(tables.read(filled, "first", JUNE)["customer"])


def test_forgets_one_person_after_the_other(filled: Lake, store: LakeFSServer | Path, tmp_path: Path) -> None:
    olga = ask(["customer=olga"])
    if isinstance(store, LakeFSServer):
        collect_garbage(store, olga.still_at)

    eva = ask(["customer=eva"])

    if isinstance(store, LakeFSServer):
        collect_garbage(store, [address for address in eva.still_at if address not in olga.still_at])
    for name in ("olga", "eva"):
        tables_shown = [tables.read(filled, MAIN, entry.path) for entry in filled.list(MAIN, "data/")]
        assert not any((table["customer"] == name).any() for table in tables_shown)
        assert name.encode() not in b"".join(filled.get(MAIN, entry.path) for entry in filled.list(MAIN, "erasures/"))
    assert len(filled.list(MAIN, "erasures/")) == 2
    assert filled.verify() == []
    again = ask(["customer=olga"])
    assert (again.rows, again.records, again.paths) == (0, [], [])
    with closing(EmbeddedLake(tmp_path / "copy")) as target:
        copying.copy(filled, target, tmp_path)
        assert "jan" in everywhere(target)
        assert not any(name in everywhere(target).replace("<p>olga</p>", "") for name in ("olga", "eva"))
        assert target.verify() == []


def test_erases_what_only_a_writer_or_nobody_reaches(filled: Lake, store: LakeFSServer | Path) -> None:
    if isinstance(store, LakeFSServer):
        pytest.skip("a server drops what nobody reaches by itself")
    filled.create_branch("gone", MAIN)
    filled.put("gone", "data/trips/2020-08.parquet", people("olga", "ida"))
    gone = filled.commit("gone", "never merged", {}).id
    filled.put("gone", "data/trips/2020-09.parquet", people("olga", "ina"))
    filled.put("gone", "data/trips/2020-09.parquet", people("ina"))
    filled.delete_branch("gone")
    dead = f"tx-{datetime.now(UTC):%Y%m%d%H%M%S}-deadbeef"
    filled.create_branch(dead, MAIN)
    filled.put(dead, "data/trips/2020-10.parquet", people("olga", "uma"))
    filled.commit(dead, "never merged", {})

    done = ask(["customer=olga"])

    assert done.rows == 4
    assert list(tables.read(filled, dead, "data/trips/2020-10.parquet")["customer"]) == ["uma"]
    with pytest.raises(NotFound):
        filled.get(gone, "data/trips/2020-08.parquet")
    assert not any(b"olga" in file.read_bytes() for file in (store / "objects").rglob("*/*") if is_table(file))
    assert filled.verify() == []


def test_branches_go_on_after_an_erasure(filled: Lake) -> None:
    ask(["customer=olga"])
    filled.create_branch("fix", MAIN)
    filled.put("fix", JULY, people("jan"))
    wrong = filled.commit("fix", "wrong", {}).id
    filled.revert("fix", wrong, "undo", {})
    filled.put("fix", "data/trips/2020-08.parquet", people("jan"))
    filled.commit("fix", "August", {})

    filled.merge("fix", MAIN, "merge", {})

    assert list(tables.read(filled, MAIN, JULY)["customer"]) == ["eva"]
    assert list(tables.read(filled, MAIN, JUNE)["customer"]) == ["eva", "jan"]


def test_refuses_an_object_whose_content_another_has(filled: Lake) -> None:
    with transaction(filled, MAIN, "publish", {}) as work:
        work.put("public/a.html", b"<p>olga</p>")
    before = filled.branches()

    with pytest.raises(Conflict, match=r"public/a\.html has the same content as reports/a\.html: name it as well"):
        ask(objects=["reports/a.html"])

    assert filled.branches() == before
    assert ask(objects=["reports/a.html", "public/a.html"]).objects == 2


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("id=9007199254740993", [0, 2, 3]),
        ("born=1980-01-02", [1, 2, 3]),
        ("vip=true", [1, 2, 3]),
        ("kind=car", [1, 3]),
        ("at=2020-01-01T05:00:00+05:00", [1, 2, 3]),
        ("paid=12.50", [0, 1, 3]),
    ],
)
def test_compares_in_the_types_of_the_table(filled: Lake, where: str, left: list[int]) -> None:
    table = pa.table(
        {
            "number": [0, 1, 2, 3],
            "id": pa.array([9007199254740992, 9007199254740993, None, 5], pa.int64()),
            "born": pa.array([date(1980, 1, 2), date(1980, 1, 3), None, date(1990, 1, 2)]),
            "vip": [True, False, False, None],
            "kind": pa.array(["car", "bike", "car", None]).dictionary_encode(),
            "at": pa.array([datetime(2020, 1, 1, tzinfo=UTC), *[datetime(2020, 1, 2, tzinfo=UTC)] * 3]),
            "paid": pa.array([Decimal("1.00"), Decimal("2.00"), Decimal("12.50"), None], pa.decimal128(8, 2)),
        }
    )
    with transaction(filled, MAIN, "put", {}) as work:
        work.put("data/typed.parquet", tables.encode_arrow(table))

    ask([where])

    kept = tables.read_arrow(filled, MAIN, "data/typed.parquet")
    assert kept["number"].to_pylist() == left
    assert kept.schema == table.schema


def test_names_a_table_that_is_none(filled: Lake) -> None:
    with transaction(filled, MAIN, "put", {}) as work:
        work.put("data/trips/2020-08.parquet", b"no table")

    with pytest.raises(ContractError, match=r"data/trips/2020-08\.parquet at .* is no Parquet file"):
        ask(["customer=olga"])


def test_an_erasure_reaches_an_earlier_copy(filled: Lake, store: LakeFSServer | Path, tmp_path: Path) -> None:
    with closing(EmbeddedLake(tmp_path / "copy")) as target:
        copying.copy(filled, target, tmp_path)
        before = target.resolve("first")
        ask(["customer=olga"])

        copying.copy(filled, target, tmp_path)

        assert list(tables.read(target, MAIN, JULY)["customer"]) == ["eva"]
        if isinstance(store, LakeFSServer):
            assert JUNE not in {
                entry.path for entry in target.list("first")
            }  # there it cannot be read any more, either
        else:
            assert list(tables.read(target, "first", JUNE)["customer"]) == ["eva"]
        assert target.resolve("first") == before
        assert len(target.list(MAIN, "erasures/")) == 1
        assert target.verify() == []
        assert copying.copy(filled, target, tmp_path).commits == 0


def test_loses_nobody_elses_rows(filled: Lake) -> None:
    with transaction(filled, MAIN, "put", {}) as work:
        work.put("data/trips/2020-08.parquet", people("eva", "olga"))
        work.put("quarantine/trips/2020-08.parquet", people("eva"))

    ask(["customer=olga"], ["quarantine/trips/2020-08.parquet"])

    assert list(tables.read(filled, MAIN, "data/trips/2020-08.parquet")["customer"]) == ["eva"]
    with transaction(filled, MAIN, "put", {}) as work:
        work.put("data/trips/2020-08.parquet", people("eva", "olga", start=20))
    ask(["customer=olga"])
    assert list(tables.read(filled, MAIN, "data/trips/2020-08.parquet")["customer"]) == ["eva"]


def test_does_not_take_again_what_was_erased(filled: Lake) -> None:
    ask(["customer=olga"])
    before = filled.resolve(MAIN)

    with (
        pytest.raises(Misconfigured, match=f"{JULY} has content that was erased from the lake"),
        transaction(filled, MAIN, "ingest", {}) as work,
    ):
        work.put(JULY, people("eva", "olga", start=9))

    assert filled.resolve(MAIN) == before
    assert list(tables.read(filled, MAIN, JULY)["customer"]) == ["eva"]


def test_objects_of_others_can_be_erased_and_collected(
    filled: Lake, store: LakeFSServer | Path, tmp_path: Path
) -> None:
    if not isinstance(store, LakeFSServer) or not isinstance(filled, LakeFSLake):
        pytest.skip("nobody else writes to an embedded lake")
    other = LakeFSClient(Configuration(host=f"{store.address}/api/v1", username=KEY_ID, password=SECRET))
    filled.create_branch("theirs", MAIN)
    for path in ("data/trips/2020-09.parquet", "reports/b.html"):
        other.objects_api.upload_object(filled.repository, "theirs", path, content=people("eva", "olga", start=40))
    filled.commit("theirs", "as others do", {})
    filled.merge("theirs", MAIN, "merge", {})
    before = filled.resolve(MAIN)
    done = ask(["customer=olga"], ["reports/b.html", "reports/a.html", "data/trips/2020-09.parquet"])
    collect_garbage(store, done.still_at)

    with closing(LakeFSLake(Server(store.address, KEY_ID, SECRET), filled.repository)) as fresh:
        listed = {entry.path for entry in fresh.list(before)}
        assert "data/trips/2020-09.parquet" not in listed  # of which there is no digest
        assert {JUNE, JULY, "quarantine/trips/2020-07.parquet"} <= listed
        assert fresh.verify() == []
        with closing(EmbeddedLake(tmp_path / "copy")) as target:
            copying.copy(fresh, target, tmp_path)
            assert target.verify() == []
        other.objects_api.upload_object(filled.repository, "theirs", "lost.html", content=b"<p>lost</p>")
        lost = other.objects_api.stat_object(filled.repository, "theirs", "lost.html").physical_address
        collect_garbage(store, [lost])
        assert len(fresh.verify()) == 1  # what nobody erased is missed
    other._api.rest_client.pool_manager.clear()


def test_tables_whose_columns_cannot_have_a_value_are_in_nobodys_way(filled: Lake) -> None:
    with transaction(filled, MAIN, "put", {}) as work:
        work.put("data/trips/2020-08.parquet", tables.encode_arrow(pa.table({"customer": pa.nulls(2)})))
        work.put("data/trips/2020-09.parquet", tables.encode_arrow(pa.table({"customer": [4711, 5]})))

    assert ask(["customer=olga"]).rows == 3
    assert ask(["customer=4711"]).rows == 1


def test_a_writer_on_a_server_is_named(filled: Lake, store: LakeFSServer | Path) -> None:
    branch = private_name()
    filled.create_branch(branch, MAIN)
    filled.put(branch, JULY, people("olga", "jan"))
    filled.commit(branch, "July", {})

    done = ask(["customer=olga"])

    assert done.still_on == ([] if isinstance(store, Path) else [branch])
    assert bool(done.still_at) == isinstance(store, LakeFSServer)
    if isinstance(store, Path):
        filled.merge(branch, MAIN, "merge", {})
    else:
        filled.delete_branch(branch)
    assert ask(["customer=olga"]).still_on == []
    assert "olga" not in list(tables.read(filled, MAIN, JULY)["customer"])


def test_a_writer_that_comes_between_brings_nothing_back(filled: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(filled, LakeFSLake):
        pytest.skip("an embedded lake shows it nowhere")
    rewrite, came = forgetting._rewrite, False

    def rewrite_and_write(found: Lake, hits: list[Hit]) -> None:
        nonlocal came
        rewrite(found, hits)
        if not came:
            came = True
            with monkeypatch.context() as late, transaction(found, MAIN, "late", {}) as work:
                late.setattr(
                    LakeFSLake, "_check_not_erased", lambda *_: None
                )  # it was asked before the record was there
                work.put(JULY, people("eva", "olga", start=9))

    monkeypatch.setattr(forgetting, "_rewrite", rewrite_and_write)

    ask(["customer=olga"])

    assert came
    assert list(tables.read(filled, MAIN, JULY)["customer"]) == ["eva"]


def test_keeps_no_value_in_a_dictionary(filled: Lake) -> None:
    names = pa.array(["olga-secret", "eva", None]).dictionary_encode()
    nested = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3]), names)
    with transaction(filled, MAIN, "put", {}) as work:
        work.put(JULY, tables.encode_arrow(pa.table({"customer": names, "names": nested, "n": [1, 2, 3]})))

    ask(["customer=olga-secret"])

    left = tables.read_arrow(filled, MAIN, JULY)
    assert left["customer"].type == names.type
    assert left.select(["customer", "names", "n"]).to_pylist() == [
        {"customer": "eva", "names": ["eva"], "n": 2},
        {"customer": None, "names": [None], "n": 3},
    ]
    with tables.opened(filled, MAIN, JULY) as file:
        plain = io.BytesIO()
        pq.write_table(file.read(), plain, compression="none")
    assert b"secret" not in plain.getvalue()


def test_leaves_the_schema_of_a_table(filled: Lake) -> None:
    d = pa.dictionary(pa.int8(), pa.string(), ordered=True)
    fields = [
        pa.field("customer", pa.string(), nullable=False, metadata={"unit": "name"}),
        pa.field("kind", d),
        pa.field("lasted", pa.list_(pa.duration("s"))),
        pa.field("n", pa.int8()),
        pa.field("n", pa.int16()),
        pa.field("tags", pa.map_(pa.string(), pa.large_string())),
    ]
    values = [["olga", "eva"], ["a", "b"], [[1], None], [1, 2], [3, 4], [[("k", "v")], []]]
    arrays = [pa.array(column, field.type) for column, field in zip(values, fields, strict=True)]
    with transaction(filled, MAIN, "put", {}) as work:
        work.put(JULY, tables.encode_arrow(pa.table(arrays, pa.schema(fields))))

    ask(["customer=olga"])

    left = tables.read_arrow(filled, MAIN, JULY)
    assert left.schema.remove_metadata().equals(pa.schema(fields))
    assert left.schema.field("customer").metadata[b"unit"] == b"name"
    assert [column.to_pylist() for column in left.columns] == [["eva"], ["b"], [None], [2], [4], [[]]]


def test_looks_through_tables_of_any_kind(filled: Lake) -> None:
    with transaction(filled, MAIN, "put", {}) as work:
        work.put(f"{LABELS}odd.parquet", tables.encode_arrow(pa.table({"customer": ["eva"]})))
        work.put(
            f"{PREDICTIONS}odd.parquet", tables.encode_arrow(pa.table({"id": [None, "a"], "customer": ["olga"] * 2}))
        )
        work.put(f"{LABELS}none.parquet", tables.encode_arrow(pa.table({"id": [None, "a", "b"]})))

    ask(["customer=olga"])

    assert tables.read_arrow(filled, MAIN, f"{LABELS}none.parquet")["id"].to_pylist() == [None, "b"]
    assert len(tables.read_arrow(filled, MAIN, f"{LABELS}odd.parquet")) == 1


def test_writers_that_have_not_committed_are_in_nobodys_way(filled: Lake, store: LakeFSServer | Path) -> None:
    branch = private_name()
    filled.create_branch(branch, MAIN)
    filled.put(branch, "data/unrelated.bin", b"1")
    filled.put(branch, JULY, people("olga", "jan"))

    done = ask(["customer=olga"])

    assert done.still_on == ([] if isinstance(store, Path) else [branch])
    assert "olga" not in list(tables.read(filled, MAIN, JULY)["customer"])
    assert filled.get(branch, "data/unrelated.bin") == b"1"


def test_other_objects_beside_the_records_are_none(filled: Lake) -> None:
    with transaction(filled, MAIN, "put", {}) as work:
        work.put("erasures/README.md", b"who may read this?")

    assert ask(["customer=olga"]).rows == 3


def test_erases_labels_and_shadows_with_their_predictions(filled: Lake) -> None:
    predictions = pd.DataFrame({"id": ["trip-1", "trip-2"], "customer": ["olga", "eva"], "predicted": [1.0, 2.0]})
    labels = pd.DataFrame({"id": ["trip-1", "trip-2"], "value": [3.0, 4.0]})
    with transaction(filled, MAIN, "archive", {}) as work:
        work.put(f"{PREDICTIONS}1.parquet", tables.encode(predictions))
        work.put(f"{LABELS}1.parquet", tables.encode(labels))
        work.put(f"{SHADOWS}1.parquet", tables.encode(predictions[["id", "predicted"]]))
        work.put("data/other.parquet", tables.encode(labels[["id"]]))

    assert ask(["customer=olga"]).rows == 6

    for folder in (LABELS, SHADOWS):
        assert list(tables.read(filled, MAIN, f"{folder}1.parquet")["id"]) == ["trip-2"]
    assert len(tables.read(filled, MAIN, "data/other.parquet")) == 2  # ids of something else
    assert ask(["id=trip-2"]).rows == 4


def test_erases_the_same_content_under_other_names(filled: Lake) -> None:
    table = people("olga", "eva", start=60)
    with transaction(filled, MAIN, "put", {}) as work:
        work.put_all({"raw/a.bin": table, "raw/b.PARQUET": table, "raw/c.pq": people("olga", start=70)})

    done = ask(["customer=olga"])

    assert {"raw/a.bin", "raw/b.PARQUET", "raw/c.pq"} <= set(done.paths)
    for path in ("raw/a.bin", "raw/b.PARQUET"):
        assert list(tables.read(filled, MAIN, path)["customer"]) == ["eva"]
    assert filled.verify() == []


def test_leaves_no_content_that_it_refuses(filled: Lake, store: LakeFSServer | Path) -> None:
    if isinstance(store, LakeFSServer):
        pytest.skip("nothing is sent to a server before it is refused")
    ask(["customer=olga"], ["reports/a.html"])
    before = set(store.rglob("objects/*/*"))

    with pytest.raises(Misconfigured, match="was erased"), transaction(filled, MAIN, "put", {}) as work:
        work.put_all({"a": b"<p>olga</p>", "b": people("eva", "olga", start=9)})

    assert set(store.rglob("objects/*/*")) == before


def test_a_copy_on_a_server_says_that_it_cannot_erase(filled: Lake, lakefs: LakeFSServer, tmp_path: Path) -> None:
    for name in ("one", "two"):
        with closing(LakeFSLake(Server(lakefs.address, KEY_ID, SECRET), f"{name}-{secrets.token_hex(4)}")) as target:
            target.create()
            copying.copy(filled, target, tmp_path)
            if name == "one":
                ask(["customer=olga"])
                with pytest.raises(
                    Conflict, match="a server cannot erase it from its commits: copy into a new repository"
                ):
                    copying.copy(filled, target, tmp_path)
            else:
                assert copying.copy(filled, target, tmp_path).commits == 0
                assert "olga" not in list(tables.read(target, MAIN, JULY)["customer"])


def test_copies_again_what_nothing_is_left_of(filled: Lake, tmp_path: Path) -> None:
    with transaction(filled, MAIN, "only this", {}) as work:
        work.put("only.html", b"<p>only olga</p>")
    with transaction(filled, MAIN, "later", {}) as work:
        work.put("later.html", b"<p>later</p>")
    ask(objects=["only.html"])

    with closing(EmbeddedLake(tmp_path / "copy")) as target:
        copying.copy(filled, target, tmp_path)
        again = copying.copy(filled, target, tmp_path)

        assert (again.commits, again.objects) == (0, 0)
        assert "only.html" not in {entry.path for entry in target.list(MAIN)}
        assert target.get(MAIN, "later.html") == b"<p>later</p>"


@pytest.mark.parametrize("objects", [[], ["reports/a.html"]])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", ["record", "erase", "rewrite", "unlink"])
def test_goes_on_where_it_was_cut_off(
    filled: Lake, monkeypatch: pytest.MonkeyPatch, place: str, after: bool, objects: list[str]
) -> None:
    if isinstance(filled, LakeFSLake) and (place == "unlink" or (objects and place != "erase")):
        pytest.skip("a server unlinks nothing here, and its objects go the way of its rows")
    owner, name = {
        "record": (forgetting, "_record"),
        "erase": (type(filled), "erase"),
        "rewrite": (forgetting, "_rewrite"),
        "unlink": (ContentFiles, "erase"),
    }[place]
    real = getattr(owner, name)

    def cut(*args: Any) -> None:
        if after:
            real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(owner, name, cut)
        with pytest.raises(KeyboardInterrupt):
            ask(["customer=olga"], objects)

    ask(["customer=olga"], objects)

    assert list(tables.read(filled, MAIN, JULY)["customer"]) == ["eva"]
    assert ("reports/a.html" in {entry.path for entry in filled.list(MAIN)}) == (not objects)
    assert filled.verify() == []
    if isinstance(filled, EmbeddedLake):
        assert "olga" not in everywhere(filled).replace("<p>olga</p>", "")
        assert not any(b"olga" in file.read_bytes() for file in filled.root.rglob("objects/*/*") if objects)


def test_a_copy_has_what_is_read_instead(filled: Lake, store: LakeFSServer | Path, tmp_path: Path) -> None:
    if isinstance(store, LakeFSServer):
        pytest.skip("a server's old commits show it until its collection has run")
    ask(["customer=olga"])
    ask(objects=["reports/a.html"])

    with closing(EmbeddedLake(tmp_path / "copy")) as target:
        copying.copy(filled, target, tmp_path)

        assert "olga" not in everywhere(target)
        assert list(tables.read(target, "first", JUNE)["customer"]) == ["eva"]


def test_refuses_uncommitted_changes_of_what_shall_be_gone(filled: Lake) -> None:
    filled.put("work", JUNE, people("olga"))

    with pytest.raises(Conflict, match=r"branch 'work' has uncommitted changes of data/trips/2020-06\.parquet"):
        ask(["customer=olga"])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda: ask(["colour=red"]), "no table has all of the columns colour; there are age, at, customer"),
        (lambda: ask(["age=old"]), "in no table can age have the values"),
        (lambda: ask(["age=39.5"]), "in no table can age have the values"),
        (lambda: ask(["customer"]), "COLUMN=VALUE"),
        (lambda: ask(objects=["data/absent"]), "no commit has data/absent"),
        (lambda: ask(objects=["erasures/20200703.json"]), "is a record of what was erased, and stays"),
        (lambda: ask(["customer=olga"], by=" "), "signed off"),
        (lambda: ask(["customer=olga"], why=""), "signed off"),
        (lambda: Selection.read(["a=b"], Path("rows.csv")), "not by both"),
        (lambda: Selection.read([], Path("absent.csv")), "absent.csv cannot be read"),
    ],
)
def test_says_what_is_wrong_and_changes_nothing(filled: Lake, wrong: Callable[[], object], reason: str) -> None:
    before = filled.branches()

    with pytest.raises((NotFound, Misconfigured), match=reason):
        wrong()

    assert filled.branches() == before
