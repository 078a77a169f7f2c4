"""The `okruh` command: one verb a flow.

Results go to standard output, as tables for people or one JSON object (`--json`) for programs; progress and errors to
standard error. Exit codes: 0 done, 1 failed, 2 wrong use, 3 a verdict said no. Flows are imported when their verb runs:
`okruh --help` needs none of them, and verbs that only read do not start Prefect.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
import typer

from flows import screens
from flows.progress import counting, searching, waiting
from flows.together import processes
from infra.errors import Misconfigured, NotFound
from models.contract.columns import Task
from models.errors import DefinitionError, OkruhError, Refused
from models.pages.words import plain

if TYPE_CHECKING:
    from models.deciding.rollout import Act
    from models.learning.settings import Setting

DONE, FAILED, WRONG_USE, REFUSED = 0, 1, 2, 3
BY_SIGNAL = 128

R = TypeVar("R")


class _Verbs(typer.core.TyperGroup):
    """Ends every verb as one line and an exit code, whatever stands in its way."""

    def invoke(self, ctx: Any) -> Any:
        with _errors():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if (count := processes()) > 1 and name != "train":
            raise Misconfigured(
                f"{count} processes run `okruh {name}`, and would do the same {count} times: `torchrun` is for "
                "`okruh train` alone"
            )
        return name, command, rest


def _known(model: str) -> str:
    """Refuse a model that the catalog lacks before anything is started."""
    from flows import catalog

    return catalog.load(model).name


app = typer.Typer(
    cls=_Verbs,
    help="Okruh closes the loop of machine learning in production.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name in models/catalog.", callback=_known)]
PastModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name in models/catalog, or of one that was there.")
]
Branch = Annotated[str | None, typer.Option(help="Lake branch; without it, OKRUH_BRANCH.")]
AsOf = Annotated[str | None, typer.Option(metavar="TIME", help="Only what was known then, ISO 8601; without it, now.")]
LearnFrom = Annotated[str | None, typer.Option(metavar="TIME", help="Only rows about later moments.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting to change, such as training.epochs=2 or network.width=64; repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the model shall be called.")],
    table: Annotated[str, typer.Argument(help="CSV or Parquet: a path, or an address that fsspec reads.")],
    target: Annotated[str, typer.Option(metavar="COLUMN", help="What to predict.")],
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="What moment a row is about.")] = None,
    task: Annotated[Task | None, typer.Option(help="What is asked; without it, what the target suggests.")] = None,
    lags: Annotated[
        str | None, typer.Option(metavar="SPANS", help="Earlier values of the target to learn from: 1h,24h,7d.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="What tells series apart that lags are of, by commas.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a definition for a table: its columns, ranges and categories, to be read and edited."""
    from flows.new import new as run

    with waiting(f"looking at {table}"):
        done = run(name, table, target, time, task, lags.split(",") if lags else (), by.split(",") if by else ())
    _show(done, screens.drafted, as_json)


@app.command()
def ingest(
    model: ModelName,
    source: Annotated[
        str | None, typer.Argument(help="Parquet or CSV file, or folder; without it, the model's sample.")
    ] = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Bring raw files into the lake, validated, a commit each."""
    from flows.sync import found_again

    with waiting(f"looking at files for {model}"):
        done = found_again(model, source, branch)
    if done is None:
        from flows.ingest import ingest as run

        done = _flow(lambda: run(model, source, branch), f"ingesting for {model}")
    _show(done, screens.ingested, as_json)


@app.command()
def train(
    model: ModelName,
    as_of: AsOf = None,
    learn_from: LearnFrom = None,
    changes: Changes = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Train a network and register it as a bundle."""
    moment, first, (overrides, network) = _moment(as_of), _moment(learn_from), _changes(model, changes or [])
    from flows.together import in_company
    from flows.train import train as run

    registered = in_company(
        lambda: _flow(lambda: run(model, moment, branch, first, overrides, network), f"training {model}")
    )
    if registered is not None:
        _show(registered, partial(screens.registered, model), as_json)


@app.command()
def tune(
    model: ModelName,
    trials: Annotated[int, typer.Option(help="How many there shall be in all; those of before count.", min=1)] = 20,
    as_of: AsOf = None,
    learn_from: LearnFrom = None,
    changes: Changes = None,
    on: Annotated[Literal["ray"] | None, typer.Option(help="Run several at a time on a Ray cluster.")] = None,
    jobs: Annotated[int | None, typer.Option(help="How many at a time; without it, what there is room for.")] = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Search good settings, and register a candidate by the best."""
    moment, first, (overrides, network) = _moment(as_of), _moment(learn_from), _changes(model, changes or [])
    if on is not None:
        from infra.ray_cluster import check_installed

        check_installed()
    from flows.tune import tune as run

    with searching(f"tuning {model}"):
        done = _flow(lambda: run(model, trials, moment, branch, first, overrides, network, on, jobs))
    _show(done, screens.tuned, as_json)


@app.command()
def promote(
    model: ModelName,
    version: Annotated[str | None, typer.Argument(help="Candidate; without it, the newest bundle.")] = None,
    as_of: AsOf = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Let a candidate serve if it beats the champion; else exit 3."""
    from flows.promote import promote as run

    report = _flow(lambda: run(model, version, _moment(as_of), branch), f"judging a candidate of {model}")
    _show(report, screens.judged, as_json)
    raise typer.Exit(DONE if report.allowed else REFUSED)


@app.command()
def build(
    model: ModelName,
    branch: Branch = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="For an image with CUDA and onnxruntime-gpu.")] = False,
    as_json: Json = False,
) -> None:
    """Build a Bento that contains the champion."""
    from flows.build import build as run

    _show(_flow(lambda: run(model, branch, gpu), f"building {model}"), screens.built, as_json)


@app.command()
def serve(
    model: ModelName,
    port: Annotated[int, typer.Option(help="Port.", min=1, max=65535)] = 3000,
    branch: Branch = None,
    host: Annotated[str, typer.Option(metavar="IP", help="Address to listen at; 0.0.0.0 is all.")] = "127.0.0.1",
    ssl_certfile: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate, for https.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key.")] = None,
) -> None:
    """Serve the champion over HTTP until Ctrl-C."""
    from infra.serving_process import Certificate, check_free

    Certificate.of(ssl_certfile, ssl_keyfile)  # what cannot be served is said before Prefect is started
    check_free(port, host)
    from flows.serve import serve as run

    raise typer.Exit(_flow(lambda: run(model, port, branch, host, ssl_certfile, ssl_keyfile)))


@app.command()
def monitor(model: ModelName, as_of: AsOf = None, branch: Branch = None, as_json: Json = False) -> None:
    """Judge the windows that ended; raise alarms."""
    from flows.monitor import monitor as run

    _show(_flow(lambda: run(model, _moment(as_of), branch), f"looking at {model}"), screens.monitored, as_json)


@app.command()
def retrain(model: ModelName, as_of: AsOf = None, branch: Branch = None, as_json: Json = False) -> None:
    """Train on after an alarm and promote what wins; else exit 3."""
    from flows.retrain import retrain as run

    done = _flow(lambda: run(model, _moment(as_of), branch), f"retraining {model}")
    _show(done, screens.retrained, as_json)
    raise typer.Exit(DONE if done.verdict is not None and done.verdict.allowed else REFUSED)


@app.command()
def rollback(
    model: ModelName,
    to: Annotated[str | None, typer.Option(metavar="VERSION", help="Former champion; without it, the last.")] = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Let an earlier champion serve again."""
    from flows.rollback import rollback as run

    _show(_flow(lambda: run(model, to, None, branch), f"rolling {model} back"), screens.rolled_back, as_json)


@app.command()
def rollout(
    model: ModelName,
    shadow: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Try it: it answers as well, and nobody gets it.")
    ] = None,
    canary: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Try it: it answers instead, for a share of the keys.")
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Let the challenger serve; the gate's verdict is kept and not needed.")
    ] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Let the challenger go.")] = False,
    weight: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the keys, at first; without it, 1 in shadow, 0.05 else.")
    ] = None,
    ramp: Annotated[
        str | None, typer.Option(metavar="STEPS", help="Later shares, each after so long: 0.25@30m,1@2h (s, m, h, d).")
    ] = None,
    error_rate: Annotated[
        float | None, typer.Option(metavar="SHARE", help="More failed answers end the trial; without it, 0.01.")
    ] = None,
    p99_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="A 99th percentile above it ends the trial; without it, 100.")
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who does it; without it, who is logged in.")] = None,
    why: Annotated[str | None, typer.Option(metavar="TEXT", help="The reason, for the record.")] = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Try a challenger beside the champion, or end its trial; alone: show it."""
    from flows.status import standing

    asked: dict[Act, Any] = {"shadow": shadow, "canary": canary, "promote": promote or None, "abort": abort or None}
    acts = [act for act, value in asked.items() if value is not None]
    terms: dict[str, Any] = {"weight": weight, "ramp": ramp, "error_rate": error_rate, "p99_ms": p99_ms}
    _check_rollout(acts, shadow or canary, terms)
    if not acts:
        _show(standing(model, branch), screens.standing, as_json)
        return
    from flows.rollout import rollout as run

    (act,) = acts
    done = _flow(lambda: run(model, act, shadow or canary, **terms, by=by, why=why, branch=branch), f"{act} of {model}")
    _show(done, screens.standing, as_json)


@app.command()
def loop(
    model: ModelName,
    history_from: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="First month learned from.")] = None,
    play_from: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="First month played.")] = None,
    play_to: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="Last month played.")] = None,
    as_json: Json = False,
) -> None:
    """Run the whole circuit on the model's sample data."""
    from flows.loop import loop as run

    _show(_flow(lambda: run(model, history_from, play_from, play_to, show_progress=True)), screens.story, as_json)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model that the service serves.")],
    rows: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="A .csv, .parquet or .ndjson file; - reads CSV or NDJSON from standard input."
        ),
    ],
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:3000",
    out: Annotated[
        str, typer.Option(metavar="FILE", help="A .csv or .parquet file; - is CSV on standard output.")
    ] = "-",
    key_env: Annotated[str | None, typer.Option(metavar="VARIABLE", help="Environment variable with the key.")] = None,
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the key.")] = None,
    skip_refused: Annotated[
        bool,
        typer.Option("--skip-refused", help="Answer the others where rows break the contract, list these; exit 3."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Have a service answer the rows of a file, counted from 0; with an id each, they are recorded once.

    Lags that the rows lack are computed from the lake.
    """
    from flows.predict import STANDARD, read_key
    from flows.predict import predict as run

    if as_json and out == STANDARD:
        raise Misconfigured("--json prints one object on standard output; name a file for the answers by --out")
    key = read_key(key_env, key_file)
    with counting(f"asking {model}") as tell:
        done = run(model, rows, url, out, key, skip_refused=skip_refused, tell=tell)
    _show(done, screens.predicted, as_json)
    raise typer.Exit(REFUSED if done.refused else DONE)


@app.command()
def status(model: ModelName, branch: Branch = None, as_json: Json = False) -> None:
    """Show who serves, on what data, the last alarm, the traffic."""
    from flows.status import status as run

    _show(run(model, branch), screens.status, as_json)


@app.command()
def lineage(
    model: PastModelName,
    subject: Annotated[str, typer.Argument(metavar="ID|VERSION", help="A prediction id or a version.")],
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Trace an answer back to model, data, code and runs."""
    from flows.lineage import lineage as run

    _show(run(model, subject, branch), screens.lineage, as_json)


@app.command()
def reproduce(
    model: PastModelName,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A registered version.")],
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="By which anything may differ in what is equal; without it, 0.01."),
    ] = None,
    code: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="Train by its code instead of the recorded one.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Train on auto, cpu, cuda or mps instead of as recorded.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Commit the report to the lake.")] = False,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Train a version again by its recorded code, and compare; exit 3 where it is different."""
    from flows.reproduce import reproduce as run
    from models.deciding.reproduction import TOLERANCE

    share = TOLERANCE if tolerance is None else tolerance
    with waiting(f"training {version} again"):
        done = run(model, version, branch, tolerance=share, code=code, device=device, keep=keep)
    _show(done, screens.reproduced, as_json)
    raise typer.Exit(REFUSED if done.verdict == "different" else DONE)


@app.command()
def runs(
    model: PastModelName,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="To compare: ids, their beginnings, or versions; without, all."),
    ] = None,
    most: Annotated[int, typer.Option(help="How many, the newest first.", min=1)] = 20,
    html: Annotated[bool, typer.Option("--html", help="Write a page with curves below OKRUH_HOME/reports.")] = False,
    as_json: Json = False,
) -> None:
    """Compare trainings, also those that failed or go on; times are UTC."""
    from flows.runs import runs as run

    with waiting(f"reading the runs of {model}"):
        found = run(model, names or [], most, curves=html)
    if html:
        from flows.runs_page import with_page

        found = with_page(found)
    _show(found, screens.runs, as_json)


@app.command()
def card(
    model: PastModelName,
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="Without it, the champion, or else the newest.")
    ] = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Show how good a version is, and how surely; writes its card as a page below OKRUH_HOME/reports."""
    from flows.card import card as run
    from flows.card import with_page

    found = run(model, version, branch)
    _show(found.card if as_json else with_page(found), screens.card, as_json)


@app.command("data-diff")
def data_diff(
    model: ModelName,
    before: Annotated[str, typer.Argument(help="Branch, tag or commit.")],
    after: Annotated[str, typer.Argument(help="Branch, tag or commit.")],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with plots.")] = None,
    as_json: Json = False,
) -> None:
    """Show how a model's table differs between two commits: rows, columns, categories."""
    from flows.data_diff import data_diff as run

    with waiting(f"comparing the data of {model}"):
        found = run(model, before, after, html)
    _show(found, screens.data_difference, as_json)


lake = typer.Typer(cls=_Verbs, help="Look after the lake of a model.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(lake, name="lake")


@lake.command("log")
def lake_log(
    model: ModelName,
    ref: Annotated[str | None, typer.Option(help="A branch, tag or commit; without it, OKRUH_BRANCH.")] = None,
    under: Annotated[str | None, typer.Option(metavar="PATH", help="Only what changed this, or below it.")] = None,
    most: Annotated[int, typer.Option(help="How many, the newest first.", min=1)] = 20,
    as_json: Json = False,
) -> None:
    """List the commits of a model, newest first; times are UTC."""
    from flows.upkeep import log as run

    with waiting(f"reading the history of {model}"):
        found = run(model, ref, under, most)
    _show(found, screens.history, as_json)


@lake.command("verify")
def lake_verify(model: ModelName, as_json: Json = False) -> None:
    """Read everything in the lake and compare it with its digests."""
    from flows.upkeep import verify as run

    with waiting(f"reading the lake of {model}"):
        verified = run(model)
    _show(verified, screens.verified, as_json)
    raise typer.Exit(FAILED if verified.problems else DONE)


@lake.command("gc")
def lake_gc(
    model: ModelName,
    grace_days: Annotated[float, typer.Option(help="Spare what was written in the last days.", min=0.05)] = 1.0,
    as_json: Json = False,
) -> None:
    """Remove what no branch or tag reaches any more."""
    from flows.upkeep import collect as run

    with waiting(f"collecting in the lake of {model}"):
        collected = run(model, timedelta(days=grace_days))
    _show(collected, screens.collected, as_json)


@lake.command("forget")
def lake_forget(
    model: ModelName,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who signs it off.")],
    why: Annotated[str, typer.Option(metavar="TEXT", help="The reason, for the record.")],
    objects: Annotated[
        list[str] | None, typer.Option("--object", metavar="PATH", help="An object; repeatable.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="The rows that have this value; repeated: and this."),
    ] = None,
    rows: Annotated[Path | None, typer.Option(metavar="FILE", help="The rows that equal a line of a CSV file.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be erased, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Erase rows or objects from every commit, with a record of what and why."""
    from flows.forget import forget as run
    from infra.selection import Selection

    selection = Selection.read(where or [], rows)
    if not objects and selection is None:
        raise Misconfigured("name what to forget: --object PATH, --where COLUMN=VALUE or --rows FILE")
    with waiting(f"looking through every commit of {model}"):
        forgotten = run(model, objects or [], selection, by, why, dry_run)
    _show(forgotten, screens.forgotten, as_json)
    raise typer.Exit(FAILED if forgotten.still_on else DONE)


@lake.command("copy")
def lake_copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="LAKE/MODEL, such as embedded/taxi_eta.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="As lakefs+https://lakefs.example.com/taxi_eta.")],
    as_json: Json = False,
) -> None:
    """Copy a lake with its history into another; again, to bring what came since."""
    from flows.upkeep import copy as run

    with counting("copying commits") as tell:
        copied = run(source, target, tell)
    _show(copied, screens.copied, as_json)


keys = typer.Typer(
    cls=_Verbs, help="Look after the keys of those who call a service.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(keys, name="keys")


@keys.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who calls; a further key of a name replaces none.")],
    scopes: Annotated[list[str], typer.Option("--scope", help="predict, feedback or admin; repeatable.")],
    rate: Annotated[float | None, typer.Option(help="Requests a second; without it, no bound.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, once; services know it within a second."""
    from flows.keys import add as run

    _show(run(name, scopes, rate), screens.key_made, as_json)


@keys.command("list")
def keys_list(as_json: Json = False) -> None:
    """List whose keys there are; not the keys, which nobody has."""
    from flows.keys import listed as run

    _show(run(), screens.keys, as_json)


@keys.command("revoke")
def keys_revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose keys.")],
    older: Annotated[bool, typer.Option("--older", help="All but the newest one, once that is in use.")] = False,
    as_json: Json = False,
) -> None:
    """Remove the keys of a name; services refuse them within a second."""
    from flows.keys import revoke as run

    _show(run(name, older), screens.keys_revoked, as_json)


def main() -> None:
    """Run the command."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    logging.raiseExceptions = False  # a product whose own log meets a full disk would print a traceback
    app(prog_name="okruh")


_signals: list[int] = []
"""Signals that told this process to end."""


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    """End in order: what was started, Prefect's server or a service, is stopped on the way."""
    _signals.append(number)
    raise KeyboardInterrupt


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OkruhError as error:
        _end(str(error), _exit_code(error))
    except KeyboardInterrupt:
        _end_interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail again at exit
        _end("standard output was closed before everything was written", FAILED)
    except Exception as error:
        if _signals:  # a flow tells Prefect's server that it was interrupted, and that may be gone as well
            _end_interrupted()
        from flows import faults

        if (reason := faults.explain(error)) is None:
            raise
        _end(reason, FAILED)


def _end_interrupted() -> NoReturn:
    _end("interrupted; run the same command again to go on", BY_SIGNAL + (_signals[0] if _signals else signal.SIGINT))


def _end(reason: str, code: int) -> NoReturn:
    print(f"okruh: {plain(' '.join(reason.split()))}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _exit_code(error: OkruhError) -> int:
    match error:
        case Refused():
            return REFUSED
        case DefinitionError() | Misconfigured() | NotFound():
            return WRONG_USE
        case _:
            return FAILED


def _flow(run: Callable[[], R], doing: str = "") -> R:
    from flows import faults
    from flows.orchestration import on_a_laptop
    from infra.settings import load_settings

    faults.check_room(load_settings().home)
    with waiting(doing), on_a_laptop():
        return run()


def _show(result: Any, draw: Callable[[Any], None], as_json: bool) -> None:
    if as_json:
        plain = {"files": result} if isinstance(result, list) else result
        sys.stdout.write(msgspec.json.encode(plain).decode() + "\n")
        sys.stdout.flush()
    else:
        draw(result)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Misconfigured(f"{text!r} is not an ISO 8601 time such as 2020-03-30T00:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _check_rollout(acts: "list[Act]", version: str | None, terms: dict[str, Any]) -> None:
    """Refuse what cannot be meant before anything is started. Raises: `Misconfigured`, `DefinitionError`."""
    from models.deciding.rollout import challenge

    if len(acts) > 1:
        raise Misconfigured(f"one thing at a time: not {' and '.join(f'--{act}' for act in acts)}")
    act = acts[0] if acts else None
    if act == "shadow" or act == "canary":
        challenge(act, version, datetime.now(UTC), **terms)
    elif given := [name for name, value in terms.items() if value is not None]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise Misconfigured(f"{options}: these are terms of a trial, and go with --shadow or --canary")


def _changes(model: str, changes: list[str]) -> "tuple[dict[str, Setting], dict[str, Setting]]":
    """Read `training.name=value` and `network.name=value` pairs, and refuse what could not train.

    Raises: `Misconfigured`, `DefinitionError`.
    """
    from flows import catalog
    from models.setting_names import NETWORK, TRAINING, apart

    texts: dict[str, str] = {}
    for change in changes:
        name, is_pair, text = change.partition("=")
        if not (is_pair and name.startswith((TRAINING, NETWORK))):
            ways = f"{TRAINING}NAME=VALUE or {NETWORK}NAME=VALUE"
            raise Misconfigured(f"--set {change}: write it as {ways}, such as {TRAINING}epochs=2")
        texts[name] = text
    training, network = apart(texts)
    definition = catalog.load(model)
    meant = definition.training.with_changes(training).flat(), definition.network_with(network)
    return {name: meant[0][name] for name in training}, {name: meant[1][name] for name in network}


if __name__ == "__main__":
    main()
