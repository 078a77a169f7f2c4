"""What the command shows to people: one function a result."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from flows.ingest import Ingested
    from flows.lineage import Lineage
    from flows.monitor import Monitored
    from flows.retrain import Retrained
    from flows.status import Line, Status
    from flows.story import Story
    from flows.train import Registered
    from infra.bentos import Built
    from models.deciding.rollout import Rollout
    from models.deciding.verdict import PromotionReport

_console = Console(highlight=False, soft_wrap=False)


def ingested(results: "list[Ingested]") -> None:
    """Show what became of each file."""
    table = Table("file", "partition", "rows", "in quarantine", "commit", "", box=None)
    for one in results:
        cached = "cached" if one.cached else ""
        table.add_row(one.file, one.partition, f"{one.rows:,}", f"{one.refused:,}", one.commit[:12], cached)
    _console.print(table)


def registered(result: "Registered") -> None:
    """Show a new bundle."""
    _console.print(f"{result.version} registered{' (cached)' if result.cached else ''}")
    for name, value in result.metrics.items():
        _console.print(f"  {name:<24}{value:,.3f}")


def judged(report: "PromotionReport") -> None:
    """Show a verdict."""
    _console.print(f"{report.version} {'promoted' if report.allowed else 'not promoted'}")
    for reason in report.reasons:
        _console.print(f"  {reason}")


def built(result: "Built") -> None:
    """Show a Bento's tag."""
    _console.print(f"{result.tag}{'' if result.fresh else ' (cached)'}")


def monitored(result: "Monitored") -> None:
    """Show what one look has found."""
    _console.print(f"archived {result.archived_predictions:,} predictions, {result.archived_labels:,} labels")
    table = Table("window", "version", "labels", "error", "reference", "log10 M", "alarm", box=None)
    for window in result.windows:
        error = "" if window.mean_error is None else f"{window.mean_error:.2f}"
        span = f"{window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}"
        reference, statistic = f"{window.reference_error:.2f}", f"{window.statistic:.1f}"
        table.add_row(span, window.version, f"{window.labels:,}", error, reference, statistic, window.alarm or "")
    _console.print(table if result.windows else "no window has ended since the last look")
    for alarm in result.alarms:
        _console.print(f"alarm: {alarm.detail}")
    _console.print(f"retraining {'is due' if result.retraining_due else 'is not due'}: {'; '.join(result.reasons)}")


def retrained(result: "Retrained") -> None:
    """Show what became of a wish to train again."""
    if result.verdict is None:
        _console.print(f"nothing trained: {'; '.join(result.reasons)}")
    else:
        judged(result.verdict)


def rolled_back(result: "Rollout") -> None:
    """Show who serves now."""
    _console.print(f"{result.champion} serves again, instead of {result.previous}")


def status(result: "Status") -> None:
    """Show each line of a model."""
    if not result.lines:
        _console.print(f"{result.model} has {result.bundles} bundles and no champion")
    for line in result.lines:
        _console.print(_status_table(line, result.unit))


def _status_table(line: "Line", unit: str) -> Table:
    table = Table(box=None, show_header=False, title=f"branch {line.branch}", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    window = "none yet"
    if line.last_window_end is not None:
        error = "no labels" if line.last_window_error is None else f"error {line.last_window_error:.2f} {unit}"
        window = f"until {line.last_window_end:%Y-%m-%d}: {error}"
    before = f", before it {line.previous}" if line.previous else ""
    rows = {
        "champion": f"{line.champion} since {line.since:%Y-%m-%d %H:%M} UTC{before}",
        "trained on": f"{line.trained_rows:,} rows known at {line.trained_as_of:%Y-%m-%d}, "
        f"lake commit {line.trained_on_commit[:12]}",
        "test error": f"{line.test_error:.2f} {unit}",
        "last window": window,
        "last alarm": line.last_alarm or "none",
        "last verdict": line.last_verdict or "none",
        "traffic": f"{line.predictions:,} predictions, {line.labels:,} labels",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def lineage(result: "Lineage") -> None:
    """Show a chain, from the answer to its origins."""
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if result.prediction is not None:
        found = result.prediction
        label = (
            "no label yet"
            if found.label is None
            else f"label {found.label:.2f}, known {found.label_known_at:%Y-%m-%d %H:%M} UTC"
        )
        table.add_row("prediction", f"{found.id}: {found.value:.2f}, {label}")
        table.add_row("row", bytes(found.row).decode())
    partitions = result.partitions
    table.add_row("version", f"{result.version} on branch {result.branch}, warm start {result.warm_start or 'none'}")
    table.add_row("model.onnx", f"sha256 {result.onnx_digest}")
    table.add_row("registered by", f"lake commit {result.registered_by}")
    table.add_row("data", f"lake commit {result.data_commit}, known at {result.as_of:%Y-%m-%d %H:%M} UTC")
    table.add_row("partitions", f"{len(partitions)}: {partitions[0]} to {partitions[-1]}")
    table.add_row("code", f"git commit {result.code_commit}, sources {result.source_digest}, seed {result.seed}")
    table.add_row("environment", result.environment_digest)
    table.add_row("runs", f"flow run {result.flow_run}, tracker run {result.tracker_run or 'none'}")
    if result.promoted_at is not None:
        table.add_row("promoted", f"{result.promoted_at:%Y-%m-%d %H:%M} UTC: {'; '.join(result.promoted_because)}")
    _console.print(table)


def story(result: "Story") -> None:
    """Show a played period month by month, then what happened in it."""
    table = Table("month", "trips", "first model", "served", "versions", box=None)
    for column in (1, 2, 3):
        table.columns[column].justify = "right"
    for month in result.months:
        first, served = f"{month.mae_first_model:.2f}", f"{month.mae_served:.2f}"
        table.add_row(month.month, f"{month.trips:,}", first, served, ", ".join(month.versions))
    _console.print(table)
    for alarm in result.alarms:
        _console.print(f"\n[bold]{alarm.at:%Y-%m-%d} alarm[/bold]  {alarm.detail}")
    _console.print()
    for verdict in result.verdicts:
        answer = "[green]promoted[/green]" if verdict.allowed else "[red]not promoted[/red]"
        _console.print(f"{verdict.at:%Y-%m-%d} {verdict.version} {answer}: {'; '.join(verdict.reasons)}")
    requests, labels = result.requests, result.labels
    _console.print(
        f"\n{requests.sent:,} requests: {requests.refused:,} refused by the contract, {requests.failed} failed; "
        f"{labels.sent:,} labels sent, {labels.joined:,} joined; {result.seconds:.0f} s\n"
        f"report: {result.report}\n"
        f"look further: okruh status {result.model}; okruh lineage {result.model} {result.versions[-1]}"
    )
