"""What the commands do with images: `okruh predict`, `okruh new`, `okruh lineage` and `okruh data-diff`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from flows.cli import DONE, FAILED, REFUSED, app
from flows.data_diff import data_diff
from flows.ingest import ingest
from infra.assembly import assemble
from infra.settings import Settings, load_settings
from infra.tables import read
from models.bundle import Bundle
from models.catalog.digits import MODEL
from models.model import Sample
from tests.images import IMAGE, image_bundle
from tests.serving import Service, serving


@pytest.fixture
def service(settings: Settings, make_bundle: Callable[..., Bundle]) -> Iterator[Service]:
    """A service that answers the sum of an image and a weight."""
    with serving(settings, image_bundle(make_bundle())) as service:
        yield service


def test_okruh_predict_reads_parquet_and_lines_and_says_why_no_csv(service: Service, tmp_path: Path) -> None:
    def okruh(file: Path, *more: str) -> Any:
        return CliRunner().invoke(app, ["predict", "tiny", "--rows", str(file), "--url", service.url, *more])

    images = [np.array([1, 2, 3, 4, 5, 16]), np.array([1, 2, 3, 4, 5, 99])]
    frame = pd.DataFrame({"image": pd.Series(images, dtype=object), "weight": [0.0, 0.0]})
    frame.to_parquet(tmp_path / "rows.parquet")
    frame[:1].to_parquet(tmp_path / "good.parquet")
    (tmp_path / "rows.ndjson").write_text(json.dumps({"image": IMAGE, "weight": 2.5}) + "\n")
    (tmp_path / "rows.csv").write_text('image,weight\n"[[1,2,3],[4,5,6]]",1\n')

    good, lines = okruh(tmp_path / "good.parquet"), okruh(tmp_path / "rows.ndjson")
    wrong, skipped = okruh(tmp_path / "rows.parquet"), okruh(tmp_path / "rows.parquet", "--skip-refused")
    csv = okruh(tmp_path / "rows.csv")

    assert (good.exit_code, lines.exit_code, wrong.exit_code, skipped.exit_code) == (DONE, DONE, FAILED, REFUSED)
    assert good.output.splitlines()[1].split(",")[2] == "31"
    assert "row 1, field 'image': out of range" in wrong.output
    assert csv.exit_code == FAILED
    assert "field 'image': wrong type: expected an image of 2 x 3" in csv.output


def test_okruh_new_says_that_an_image_can_be_declared(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OKRUH_CATALOG", str(tmp_path / "catalog"))
    file = tmp_path / "seen.parquet"
    draw = np.random.default_rng(0)
    images = pd.Series([draw.integers(0, 9, 12) for _ in range(50)], dtype=object)
    weight = draw.uniform(0, 1, 50)
    pd.DataFrame({"image": images, "weight": weight, "kind": np.where(weight > 0.5, "a", "b")}).assign(
        other=draw.uniform(0, 1, 50)
    ).to_parquet(file)

    done = CliRunner().invoke(app, ["new", "seen_kind", str(file), "--target", "kind"])

    assert done.exit_code == DONE, done.output
    assert "left out: lists of 12 numbers each; where they are images, declare an Image" in " ".join(
        done.output.split()
    )


def test_rows_with_broken_images_go_to_quarantine_and_states_are_compared(home: Path, tmp_path: Path) -> None:
    assert isinstance(MODEL.sample, Sample)
    (first,) = ingest("digits")
    rows = pd.read_parquet(next(MODEL.sample.folder.iterdir()))
    images = rows["image"].tolist()
    images[5], images[7], images[9] = np.zeros(60, np.uint8), np.full(64, 17, np.uint8), None
    images[11] = np.full(64, 16, np.uint8)
    rows.assign(image=pd.Series(images, dtype=object)).to_parquet(tmp_path / "digits.parquet")

    (again,) = ingest("digits", str(tmp_path / "digits.parquet"))

    assert (again.rows, again.refused) == (1794, 3)
    assert again.reasons == {
        "image: 60 numbers, not 8 x 8": 1,
        "image: outside 0 to 16 dots": 1,
        "image: may not be null": 1,
    }
    lake = assemble(load_settings()).lake("digits")
    kept = read(lake, "main", again.quarantine or "")["image"]
    assert [None if one is None else one.tolist() for one in kept] == [[0.0] * 60, [17.0] * 64, None]
    found = data_diff("digits", first.commit, again.commit, tmp_path / "page.html")
    assert (found.rows_before, found.rows_after) == (1797, 1794)
    (image,) = (column for column in found.columns if column.name == "image")
    assert image.after is not None
    assert (image.after.kind, image.after.minimum, image.after.maximum) == ("lists", 0.0, 16.0)
    assert (tmp_path / "page.html").stat().st_size > 10_000
