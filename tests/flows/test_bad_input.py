"""What comes in wrong: a table, a contract, a network or a device, each with one line that says what to do."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from flows import catalog
from flows.ingest import ingest
from flows.new import new
from flows.promote import judge, promote
from flows.retrain import retrain
from flows.train import train
from infra import registry
from infra.assembly import assemble
from infra.runs import Ended
from infra.settings import load_settings
from models.bundle import Card
from models.deciding.verdict import PromotionReport
from models.errors import BundleError, ContractError, DefinitionError, ExportFailed
from tests.flows.drafting import QUICK, ROWS, edit, lake, rides

LATER = datetime(2025, 1, 1, tzinfo=UTC)


def card(version: str) -> Card:
    return registry.load_card(lake(), "main", version)


def test_an_order_of_rows_means_nothing(drafted: Path, file: Callable[[pd.DataFrame], str]) -> None:
    source = file(rides())
    ingest("rides", source)
    in_order = train("rides", overrides=QUICK).version

    file(rides().sample(frac=1, random_state=1))
    ingest("rides", source)
    out_of_order = train("rides", overrides=QUICK).version

    assert out_of_order == in_order


def test_moments_may_be_there_twice(drafted: Path, file: Callable[[pd.DataFrame], str]) -> None:
    twice = rides()
    twice.loc[1::2, "at"] = twice["at"].iloc[::2].to_numpy()

    (ingested,) = ingest("rides", file(twice))

    assert (ingested.rows, ingested.refused) == (ROWS, 0)
    assert card(train("rides", overrides=QUICK).version).data.rows_train > ROWS / 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda rows: rows.drop(columns="y"),
            r"rides\.csv: column 'y' is missing; give the file its columns in the fir",
        ),
        (lambda rows: rows.iloc[:0], r"rides\.csv: the table has no rows; nothing to ingest"),
        (
            lambda rows: rows.assign(kind="new"),
            r"100% of 2000 rows break the contract, .* kind: unknown category \(2000",
        ),
        (lambda rows: rows.assign(x=np.inf), r"100% of 2000 rows break the contract, .* x: outside .* \(2000 rows\)"),
        (
            lambda rows: rows.assign(y=np.nan),
            r"100% of 2000 rows break the contract, .* y: may not be null \(2000 rows\)",
        ),
    ],
)
def test_a_table_that_is_wrong_as_a_whole_is_refused_and_the_lake_stays_as_it_was(
    drafted: Path, file: Callable[[pd.DataFrame], str], change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    ingest("rides", file(rides()))
    before = lake().resolve("main")

    with pytest.raises(ContractError, match=said):
        ingest("rides", file(change(rides())))

    assert lake().resolve("main") == before


def test_rows_with_what_is_infinite_or_never_seen_are_set_apart_and_said(
    drafted: Path, file: Callable[[pd.DataFrame], str]
) -> None:
    odd = rides()
    odd.loc[:3, "x"], odd.loc[4:6, "y"], odd.loc[7:8, "kind"] = np.inf, -np.inf, "new"

    (ingested,) = ingest("rides", file(odd))

    assert (ingested.rows, ingested.refused) == (ROWS - 9, 9)
    assert [reason.partition(":")[0] for reason in ingested.reasons] == ["x", "y", "kind"]
    assert train("rides", overrides=QUICK).metrics["mae"] < 2


@pytest.mark.filterwarnings("error")
def test_what_is_infinite_is_no_range_of_a_draft(own: Path, file: Callable[[pd.DataFrame], str]) -> None:
    odd = rides()
    odd.loc[:3, ["x", "y"]] = np.inf

    drafted = new("rides", file(odd), "y", "at")

    assert drafted.columns["x"].endswith(", 4 infinite")
    assert drafted.columns["y"].endswith(", 4 infinite")
    assert "inf" not in Path(drafted.file).read_text().replace("infinite", "")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            rides().assign(y=1.0),
            "have the same y, 1.0: nothing can be told apart; ingest rows with other values, hold othe",
        ),
        (
            rides(1),
            r"no rows to .* ingest more, learn from an earlier moment, or shorten training\.validation_days and",
        ),
    ],
)
def test_too_little_to_learn_from_is_said_before_anything_is_trained(
    drafted: Path, file: Callable[[pd.DataFrame], str], rows: pd.DataFrame, said: str
) -> None:
    ingest("rides", file(rows))

    with pytest.raises(ContractError, match=said):
        train("rides")

    assert registry.versions(lake(), "main") == []


def test_a_span_with_one_class_only_is_refused(own: Path, file: Callable[[pd.DataFrame], str]) -> None:
    label = np.where(np.arange(ROWS) < ROWS - 600, "no", "yes")
    source = file(rides().drop(columns="y").assign(label=label))
    new("rides", source, "label", "at")
    ingest("rides", source)

    with pytest.raises(
        ContractError, match=r"rows to test on have the same label, yes: .*hold other rows out \(training"
    ):
        train("rides")


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (
            "return self.last(numbers).squeeze(-1) if numbers.sum() > 0 else numbers[:, 0]",
            r"line \d+ of __init__.py, `return self.last.*` asks what the rows hold, .* choose row by row, by torch",
        ),
        (
            "return torch.special.bessel_j0(self.last(numbers).squeeze(-1))",
            r"operator prims.bessel_j0 has no counterpart in a graph: write it by others",
        ),
        (
            "return self.last(numbers).view(-1) + torch.zeros(int(numbers.shape[0]))",
            r"for any number of rows: operator \w+ \(line \d+ of __init__.py, .*\) fails on 7 of them",
        ),
        (
            "return self.last(numbers).squeeze(-1) - self.last(numbers).mean()",
            r"answers a row otherwise among 2 rows than among 7, .* compute over a row's own numbers \(dim=1,",
        ),
    ],
)
def test_a_network_that_cannot_be_exported_registers_nothing_and_its_run_has_failed(
    drafted: Path, file: Callable[[pd.DataFrame], str], forward: str, said: str
) -> None:
    network = (
        "    import torch\n\n"
        "    class Own(torch.nn.Module):\n"
        "        def __init__(self):\n"
        "            super().__init__()\n"
        "            self.last = torch.nn.Linear(2, 1)\n\n"
        "        def forward(self, numbers, categories, time_parts):\n"
        f"            {forward}\n\n"
        "    return Own()"
    )
    usual = next(line for line in drafted.read_text().splitlines() if "return TabularNetwork(" in line)
    edit(drafted, (usual, network))
    ingest("rides", file(rides()))

    with pytest.raises(ExportFailed, match=said) as failed:
        train("rides", overrides=QUICK)

    assert registry.versions(lake(), "main") == []
    (run,) = assemble(load_settings()).runs("rides").all()
    assert isinstance(run.ended, Ended)
    assert (run.ended.status, run.ended.reason) == ("failed", str(failed.value))


@pytest.mark.parametrize("flow", [train, retrain])
def test_a_gpu_that_is_asked_for_and_not_there_is_an_error_before_anything_is_read(
    drafted: Path, monkeypatch: pytest.MonkeyPatch, flow: Callable[[str], object]
) -> None:
    monkeypatch.setenv("OKRUH_DEVICE", "mps" if torch.cuda.is_available() else "cuda")

    with pytest.raises(DefinitionError, match="is asked for and not there; set OKRUH_DEVICE=auto or cpu"):
        flow("rides")  # whose lake is empty, which is not said

    assert not (load_settings().home / "lake").exists()


def test_where_a_device_is_set_is_said(drafted: Path) -> None:
    with pytest.raises(
        DefinitionError, match=r"no training setting is called device; .*; where networks are trained, OKRU"
    ):
        train("rides", overrides={"device": "tpu"})


KIND = 'values=("a", "b", "c")'


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            KIND,
            'values=("a", "b")',
            r"kind: unknown category \(\d+ rows\); ingest its file again, which sets such rows",
        ),
        ("minimum=0, maximum=11", "minimum=0, maximum=5", r"z: outside 0 to 5 \(\d+ rows\); ingest its file again"),
        (
            f'Category(name="kind", {KIND})',
            'Number(name="kind", unit="", minimum=0, maximum=1)',
            "kind: should be a numb",
        ),
        (
            'Number(name="z", unit="", minimum=0, maximum=11)',
            'Category(name="z", values=("1", "2"))',
            "z: should be text",
        ),
        ('zone="UTC"', "zone=None", r"at: should be a moment with an offset \(2000 rows\)"),
        (
            "features=(",
            'features=(Number(name="w", unit="", minimum=0, maximum=1),',
            r"lacks columns \['w'\], which the con",
        ),
    ],
)
def test_an_edited_contract_that_the_rows_of_the_lake_break_is_an_error_and_who_serves_goes_on(
    drafted: Path, file: Callable[[pd.DataFrame], str], before: str, after: str, said: str
) -> None:
    ingest("rides", file(rides()))
    champion = train("rides", overrides=QUICK).version
    assert promote("rides", champion).allowed
    edit(drafted, (before, after))

    with pytest.raises(ContractError, match=said):
        train("rides", overrides=QUICK)

    serving = registry.read_rollout(lake(), "main")
    assert serving is not None
    assert serving.champion == champion


def test_rows_that_an_edited_contract_does_not_allow_are_set_apart_when_their_file_comes_again(
    drafted: Path, file: Callable[[pd.DataFrame], str]
) -> None:
    source = file(rides())
    ingest("rides", source)
    partition = '    partition="file",\n'
    edit(drafted, (KIND, 'values=("a", "b")'), (partition, f"{partition}    maximum_refused=0.5,\n"))

    (again,) = ingest("rides", source)

    assert again.reasons == {"kind: unknown category": again.refused}
    assert card(train("rides", overrides=QUICK).version).data.rows_train < ROWS * 2 / 3


def test_the_same_graph_under_another_contract_is_another_version(
    drafted: Path, file: Callable[[pd.DataFrame], str]
) -> None:
    ingest("rides", file(rides()))
    narrow = train("rides", overrides=QUICK).version
    edit(drafted, ("minimum=0, maximum=11", "minimum=0, maximum=12"))

    wide, again = train("rides", overrides=QUICK), train("rides", overrides=QUICK)

    assert card(wide.version).onnx_digest == card(narrow).onnx_digest
    assert (wide.version == narrow, again.version) == (False, wide.version)
    assert [column.maximum for column in card(wide.version).contract.numbers][1] == 12


def test_a_column_that_the_contract_has_no_more_is_read_for_who_serves_until_the_data_has_it_no_more(
    drafted: Path, file: Callable[[pd.DataFrame], str]
) -> None:
    source = file(rides())
    ingest("rides", source)
    champion = train("rides", overrides=QUICK).version
    assert promote("rides", champion).allowed
    line = next(line for line in drafted.read_text().splitlines() if 'name="z"' in line)
    edit(drafted, (f"{line}\n", ""))
    candidate = train("rides", overrides=QUICK).version

    as_the_lake_is = judge_now(candidate)
    ingest("rides", source)
    with pytest.raises(
        BundleError, match=rf"bundle {champion} needs columns \['z'\], which the data has no more; keep "
    ):
        judge_now(candidate)
    partition = '    partition="file",\n'
    checked = 'checks=(Number(name="z", unit="", minimum=0, maximum=11),),'
    edit(drafted, (partition, f"{partition}    {checked}\n"))
    ingest("rides", source)
    as_it_is_checked = judge_now(candidate)

    assert as_the_lake_is.incumbent == champion
    assert as_the_lake_is.test_rows == card(candidate).data.rows_test
    assert as_it_is_checked == as_the_lake_is


def judge_now(candidate: str) -> PromotionReport:
    """Compare a candidate with who serves, and keep nothing of it."""
    definition, commit = catalog.load("rides"), lake().resolve("main")
    return judge(definition, lake(), commit, candidate, registry.read_rollout(lake(), commit), LATER)


def test_a_target_that_is_another_one_now_is_compared_with_nothing(
    drafted: Path, file: Callable[[pd.DataFrame], str]
) -> None:
    source = file(rides())
    ingest("rides", source)
    assert promote("rides", train("rides", overrides=QUICK).version).allowed
    text = drafted.read_text()
    feature = next(line for line in text.splitlines() if 'name="x"' in line)
    target = next(line for line in text.splitlines() if 'target=Number(name="y"' in line)
    swapped = {feature: feature.replace('"x"', '"y"').replace("minimum=-3.82, maximum=3.59", "minimum=-99, maximum=99")}
    swapped |= {target: target.replace('"y"', '"x"')}
    edit(drafted, *swapped.items())
    ingest("rides", source)

    with pytest.raises(
        BundleError, match=r"knows \['y'\] as something else than the contract does by now: nothing can be"
    ):
        promote("rides", train("rides", overrides=QUICK).version)
