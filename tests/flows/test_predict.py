"""`okruh predict` against the real edge on a loopback port."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from flows.cli import DONE, FAILED, REFUSED, WRONG_USE, app
from infra.keys import KeyFile
from infra.serving_process import free_port
from infra.settings import Settings
from models.bundle import Bundle
from tests.serving import Service, serving

HEADER = "starts_at,distance,weight,kind,zone,id"
GOOD = "2020-03-01 08:15:00,3,,car,2.0,trip-1"
OTHER = "2020-03-01T08:15:00,1.5,0.5,bike,,trip-2"
FAR = "2020-03-01 08:15:00,1000,,car,2,trip-3"
ODD = "2020-03-01 08:15:00,3,,car,two,trip-4"
ANSWERS = [(0, "trip-1", 16.0, "v1"), (1, "trip-2", 3.5, "v1")]
AT = '"starts_at": "2020-03-01T08:15:00"'
LINES = (
    f'{{{AT}, "distance": 3, "weight": null, "kind": "car", "zone": 2, "id": "trip-1"}}',
    f'{{{AT}, "distance": 1.5, "weight": 0.5, "kind": "bike", "zone": null, "id": "trip-2"}}',
)


@pytest.fixture
def service(settings: Settings, make_bundle: Callable[..., Bundle]) -> Iterator[Service]:
    """A service that answers 2 x distance + weight + 10 for a car."""
    with serving(settings, make_bundle()) as service:
        yield service


def okruh(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, words)])


def written(place: Path, name: str, *lines: str) -> Path:
    file = place / name
    file.write_text("\n".join(lines) + "\n")
    return file


def answers(file: Path) -> list[tuple[Any, ...]]:
    frame = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    assert list(frame.columns) == ["row", "id", "value", "version"]
    return [tuple(row) for row in frame.to_numpy().tolist()]


@pytest.mark.parametrize("out", ["answers.csv", "answers.parquet"])
def test_writes_the_answer_of_each_row_of_a_csv_file(service: Service, tmp_path: Path, out: str) -> None:
    rows = written(tmp_path, "rows.csv", HEADER, GOOD, OTHER)

    ended = okruh("tiny", "--rows", rows, "--url", service.url, "--out", tmp_path / out)

    assert ended.exit_code == DONE, ended.output
    assert answers(tmp_path / out) == ANSWERS
    assert {one.name for one in tmp_path.iterdir() if one.is_file()} == {"rows.csv", out}


def test_reads_parquet_and_lines_of_json(service: Service, tmp_path: Path) -> None:
    at = datetime(2020, 3, 1, 8, 15)
    frame = pd.DataFrame([json.loads(line) | {"starts_at": at} for line in LINES])
    frame.to_parquet(tmp_path / "rows.parquet")
    written(tmp_path, "rows.ndjson", *LINES)

    for name in ("rows.parquet", "rows.ndjson"):
        ended = okruh("tiny", "--rows", tmp_path / name, "--url", service.url, "--out", tmp_path / "out.csv")
        assert ended.exit_code == DONE, ended.output
        assert answers(tmp_path / "out.csv") == ANSWERS


@pytest.mark.parametrize("lines", [(HEADER, GOOD, OTHER), ("", *LINES)], ids=["csv", "ndjson"])
def test_goes_from_standard_input_to_standard_output_without_torch_and_prefect(
    service: Service, lines: tuple[str, ...]
) -> None:
    command = (sys.executable, "-X", "importtime", "-m", "flows.cli", "predict", "tiny", "--rows", "-")

    ended = subprocess.run(
        [*command, "--url", service.url],
        input="\n".join(lines[lines[0] == "" :]),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )

    assert ended.returncode == DONE, ended.stderr
    header, *found = ended.stdout.replace('"', "").splitlines()
    assert header == "row,id,value,version"
    assert found == ["0,trip-1,16,v1", "1,trip-2,3.5,v1"]
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time")}
    assert not {"torch", "prefect", "bentoml", "onnxruntime"} & imported


def test_names_file_row_and_rule_and_leaves_no_file(service: Service, tmp_path: Path) -> None:
    rows = written(tmp_path, "rows.csv", HEADER, GOOD, FAR)

    ended = okruh("tiny", "--rows", rows, "--url", service.url, "--out", tmp_path / "out.csv")

    assert ended.exit_code == FAILED
    assert f"{rows}: row 1, field 'distance': out of range" in ended.output
    assert list(tmp_path.glob("*out*")) == []


def test_skips_refused_rows_and_exits_3(service: Service, tmp_path: Path) -> None:
    rows = written(tmp_path, "rows.csv", HEADER, FAR, GOOD, ODD)
    out = tmp_path / "out.csv"

    ended = okruh("tiny", "--rows", rows, "--url", service.url, "--out", out, "--skip-refused", "--json")

    assert ended.exit_code == REFUSED
    told = json.loads(ended.stdout)
    assert [(one["row"], one["field"]) for one in told["refused"]] == [(0, "distance"), (2, "zone")]
    assert (told["model"], told["rows"], told["versions"]) == ("tiny", 1, {"v1": 1})
    assert answers(out) == [(1, "trip-1", 16.0, "v1")]


def test_lists_refused_rows_for_people(service: Service, tmp_path: Path) -> None:
    rows = written(tmp_path, "rows.csv", HEADER, *[FAR] * 30)

    ended = okruh("tiny", "--rows", rows, "--url", service.url, "--skip-refused")

    assert ended.exit_code == REFUSED
    assert ended.stdout.splitlines() == ['"row","id","value","version"']
    assert "row 19, distance: out of range" in ended.stderr
    assert "row 20" not in ended.stderr
    assert "have no answer: 30" in ended.stderr


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([HEADER.replace("kind", "sort"), GOOD], "'sort': unknown column"),
        (
            [HEADER.removesuffix(",id"), GOOD.removesuffix(",trip-1"), "2020-03-01 08:15:00,3"],
            "Expected 5 columns, got 2",
        ),
        ([f"{HEADER},id", f"{GOOD},trip-1"], "a column is there twice"),
        ([HEADER], "there are no rows"),
        ([HEADER, GOOD, GOOD], "names an earlier row"),
    ],
)
def test_says_what_is_wrong_with_a_file(service: Service, tmp_path: Path, lines: list[str], said: str) -> None:
    rows = written(tmp_path, "rows.csv", *lines)

    ended = okruh("tiny", "--rows", rows, "--url", service.url)

    assert ended.exit_code == FAILED
    assert str(rows) in ended.stderr
    assert said in ended.stderr


def test_names_the_line_that_is_not_json(service: Service, tmp_path: Path) -> None:
    ended = okruh("tiny", "--rows", written(tmp_path, "rows.jsonl", LINES[0], "{"), "--url", service.url)

    assert ended.exit_code == FAILED
    assert "row 1 is not JSON" in ended.stderr


def test_says_that_a_file_is_no_parquet(service: Service, tmp_path: Path) -> None:
    ended = okruh("tiny", "--rows", written(tmp_path, "rows.parquet", HEADER), "--url", service.url)

    assert ended.exit_code == FAILED
    assert "rows.parquet cannot be read" in ended.stderr


def test_asks_no_service_of_another_model(service: Service, tmp_path: Path) -> None:
    rows = written(tmp_path, "rows.csv", HEADER, GOOD)

    ended = okruh("huge", "--rows", rows, "--url", service.url)

    assert ended.exit_code == FAILED
    assert f"{service.url} serves tiny, not huge" in ended.stderr
    assert service.predictions == 0


def test_says_so_where_nobody_answers(tmp_path: Path) -> None:
    rows, port = written(tmp_path, "rows.csv", HEADER, GOOD), free_port()

    ended = okruh("tiny", "--rows", rows, "--url", f"http://127.0.0.1:{port}")

    assert ended.exit_code == FAILED
    assert f"127.0.0.1:{port} does not answer" in ended.stderr


@pytest.mark.parametrize(("out", "what"), [("missing/out.csv", "there is no folder"), ("there.csv", "is a folder")])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_asked(
    service: Service, tmp_path: Path, out: str, what: str
) -> None:
    (tmp_path / "there.csv").mkdir()
    rows = written(tmp_path, "rows.csv", HEADER, GOOD)

    ended = okruh("tiny", "--rows", rows, "--url", service.url, "--out", str(tmp_path / out))

    assert ended.exit_code == WRONG_USE
    assert what in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("source", ["--key-env", "--key-file"])
def test_brings_the_key_that_it_is_pointed_to(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    key = keys.add("app", ["predict"])
    service.ask_for(keys)
    rows = written(tmp_path, "rows.csv", HEADER, GOOD)
    monkeypatch.setenv("ETA_KEY", key)
    place = "ETA_KEY" if source == "--key-env" else written(tmp_path, "key", key)

    with_key = okruh("tiny", "--rows", rows, "--url", service.url, source, place)
    without = okruh("tiny", "--rows", rows, "--url", service.url)

    assert with_key.exit_code == DONE, with_key.output
    assert without.exit_code == WRONG_USE
    assert "send your key" in without.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rows", "rows.xlsx"), "a .csv, .parquet or .ndjson file is read"),
        (("--rows", "nothing.csv"), "there is no such file"),
        (("--rows", "rows.csv", "--json"), "name a file for the answers by --out"),
        (("--rows", "rows.csv", "--out", "out.txt"), "a .csv or .parquet file is written"),
        (("--rows", "rows.csv", "--key-env", "NOT_SET_ANYWHERE"), "this variable is not set"),
        (("--rows", "rows.csv", "--key-file", "no-key"), "--key-file no-key cannot be read"),
        (("--rows", "rows.csv", "--key-file", "key", "--key-env", "KEY"), "not by both"),
        (("--rows", "rows.csv", "--url", "localhost"), "a service's address is like"),
    ],
)
def test_refuses_wrong_use(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "rows.csv", HEADER, GOOD)

    ended = okruh("tiny", *(words if "--url" in words else (*words, "--url", service.url)))

    assert ended.exit_code == WRONG_USE
    assert said in ended.stderr
    assert service.predictions == 0
