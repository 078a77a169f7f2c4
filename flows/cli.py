"""The `okruh` command: one verb a flow.

Results go to standard output, as tables for people or one JSON object (`--json`) for programs; progress and errors to
standard error. Exit codes: 0 done, 1 failed, 2 wrong use, 3 a verdict said no. Flows are imported when their verb runs:
`okruh --help` needs none of them, and verbs that only read do not start Prefect.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from flows import screens
from infra.errors import Misconfigured, NotFound
from models.errors import DefinitionError, OkruhError, Refused

DONE, FAILED, WRONG_USE, REFUSED = 0, 1, 2, 3

R = TypeVar("R")

app = typer.Typer(
    help="Okruh closes the loop of machine learning in production.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name in models/catalog.")]
Branch = Annotated[str | None, typer.Option(help="Lake branch; without it, OKRUH_BRANCH.")]
AsOf = Annotated[str | None, typer.Option(metavar="TIME", help="Only what was known then, ISO 8601; without it, now.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def ingest(
    model: ModelName,
    source: Annotated[
        str | None, typer.Argument(help="Parquet file or folder; without it, the model's sample.")
    ] = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Bring raw files into the lake, validated, a commit each."""
    from flows.ingest import ingest as run

    _show(_flow(lambda: run(model, source, branch)), screens.ingested, as_json)


@app.command()
def train(
    model: ModelName,
    as_of: AsOf = None,
    learn_from: Annotated[str | None, typer.Option(metavar="TIME", help="Only rows about later moments.")] = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Train a network and register it as a bundle."""
    from flows.train import train as run

    _show(_flow(lambda: run(model, _moment(as_of), branch, _moment(learn_from))), screens.registered, as_json)


@app.command()
def promote(
    model: ModelName,
    version: Annotated[str | None, typer.Argument(help="Candidate; without it, the newest bundle.")] = None,
    as_of: AsOf = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Let a candidate serve if it beats the champion (exit 3 if it does not)."""
    from flows.promote import promote as run

    report = _flow(lambda: run(model, version, _moment(as_of), branch))
    _show(report, screens.judged, as_json)
    raise typer.Exit(DONE if report.allowed else REFUSED)


@app.command()
def build(model: ModelName, branch: Branch = None, as_json: Json = False) -> None:
    """Build a Bento that contains the champion."""
    from flows.build import build as run

    _show(_flow(lambda: run(model, branch)), screens.built, as_json)


@app.command()
def serve(
    model: ModelName,
    port: Annotated[int, typer.Option(help="Loopback port.", min=1, max=65535)] = 3000,
    branch: Branch = None,
) -> None:
    """Serve the champion over HTTP until Ctrl-C."""
    from flows.serve import serve as run

    raise typer.Exit(_flow(lambda: run(model, port, branch)))


@app.command()
def monitor(model: ModelName, as_of: AsOf = None, branch: Branch = None, as_json: Json = False) -> None:
    """Judge the windows that ended; raise alarms."""
    from flows.monitor import monitor as run

    _show(_flow(lambda: run(model, _moment(as_of), branch)), screens.monitored, as_json)


@app.command()
def retrain(model: ModelName, as_of: AsOf = None, branch: Branch = None, as_json: Json = False) -> None:
    """Train the champion on after an alarm, and promote what wins (exit 3 if nothing does)."""
    from flows.retrain import retrain as run

    done = _flow(lambda: run(model, _moment(as_of), branch))
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

    _show(_flow(lambda: run(model, to, None, branch)), screens.rolled_back, as_json)


@app.command()
def loop(
    model: ModelName,
    history_from: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="First month learned from.")] = None,
    play_from: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="First month played.")] = None,
    play_to: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="Last month played.")] = None,
    as_json: Json = False,
) -> None:
    """Run the whole circuit on the model's sample, from raw files to a retrained service."""
    from flows.loop import loop as run

    _show(_flow(lambda: run(model, history_from, play_from, play_to, show_progress=True)), screens.story, as_json)


@app.command()
def status(model: ModelName, branch: Branch = None, as_json: Json = False) -> None:
    """Show who serves, on what data, the last alarm, the traffic."""
    from flows.status import status as run

    _show(run(model, branch), screens.status, as_json)


@app.command()
def lineage(
    model: ModelName,
    subject: Annotated[str, typer.Argument(metavar="ID|VERSION", help="A prediction id or a version.")],
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Trace an answer back to model, data, code and runs."""
    from flows.lineage import lineage as run

    _show(run(model, subject, branch), screens.lineage, as_json)


def main() -> None:
    """Run the command and turn errors into one line and an exit code."""
    with _errors():
        app(standalone_mode=True)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OkruhError as error:
        print(f"okruh: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(_exit_code(error))
    except KeyboardInterrupt:
        print("okruh: interrupted; run the same command again to go on", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _exit_code(error: OkruhError) -> int:
    match error:
        case Refused():
            return REFUSED
        case DefinitionError() | Misconfigured() | NotFound():
            return WRONG_USE
        case _:
            return FAILED


def _flow(run: Callable[[], R]) -> R:
    from flows.orchestration import on_a_laptop

    with on_a_laptop():
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


if __name__ == "__main__":
    main()
