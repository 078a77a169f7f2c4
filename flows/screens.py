"""What the command shows to people: one function a result.

Ids are never cut or broken, so that they can be copied: where a line is too long it is the terminal that wraps it.
Prose is wrapped between words on a terminal and not at all in a file or a pipe, where a line is a record. Text is
printed as it is; brackets in it are no markup.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.lake.names import some
from models.contract.answers import shown
from models.pages import words

if TYPE_CHECKING:
    from flows.card import Found
    from flows.data_diff import DataDifference
    from flows.forget import Forgotten
    from flows.keys import Listed, Made, Revoked
    from flows.lineage import Lineage
    from flows.monitor import Monitored
    from flows.new import Drafted
    from flows.predict import Predicted
    from flows.reproduce import Environment, Reproduced
    from flows.retrain import Retrained
    from flows.rollback import RolledBack
    from flows.runs import Line as RunLine
    from flows.runs import Runs
    from flows.status import Line, Standing, Status
    from flows.story import Story
    from flows.sync import Ingested
    from flows.train import Registered
    from flows.tune import Tuned
    from flows.upkeep import History, Verified
    from infra.bentos import Built
    from infra.lake.copying import Copied
    from infra.lake.protocol import Collected
    from models.bundle import Computed
    from models.deciding.reproduction import Difference
    from models.deciding.rollout import Challenger, Compared
    from models.deciding.verdict import PromotionReport
    from models.figures import Evaluation, Interval

_UNLIMITED = 10_000
_INDENT = 14
_FILES_SHOWN = 50
_ROWS_SHOWN = 20
_METRICS_SHOWN = 3
_COLUMNS_SHOWN = 8


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command to say that nobody reads any more."""
        raise BrokenPipeError

    def render_str(self, text: str, **how: Any) -> Text:
        """Make text of a string; what comes of a table steers no terminal."""
        return super().render_str(words.plain(text), **how)


_console = _Screen(highlight=False, markup=False, emoji=False)


def drafted(result: "Drafted") -> None:
    """Show what a drafted definition holds, and what is next."""
    table = _table("column", "in the table")
    for name, seen in result.columns.items():
        table.add_row(name, seen)
    for name, why in result.left_out.items():
        table.add_row(Text(name, style="dim"), Text(f"left out: {why}", style="bold red" if "LEAK" in why else "dim"))
    _print_table(table)
    _print(f"{result.file} written: {result.task} on {words.counted(result.rows, 'row')}. Read it, fill in units, then")
    _print(f"`okruh ingest {result.model} FILE`, `okruh train {result.model}`, `okruh promote {result.model}`")


def ingested(results: "list[Ingested]") -> None:
    """Show what became of each file; commits where there is room for them (`--json` always has them).

    Of many files, those that were found again are counted.
    """
    shown = results if len(results) <= _FILES_SHOWN else [one for one in results if not one.cached]
    if shown:
        _print_files(shown)
    if found_again := len(results) - len(shown):
        found = f"{words.counted(found_again, 'file')}{' more' if shown else ''}"
        _print(f"{found} {'is' if found_again == 1 else 'are'} in the lake already")
    reasons: Counter[str] = Counter()
    for one in results:
        reasons.update(one.reasons)
    for reason, count in reasons.most_common(8):
        _print(f"  {count:>9,} {reason}")
    if again := sum(one.repeated_rows for one in results):
        others = sorted({path for one in results if one.repeated_rows for path in one.shared_with})
        is_, counts, it = ("is", "counts", "it") if again == 1 else ("are", "count", "them")
        _print(
            f"{words.counted(again, 'row')} {is_} in {some(others)} already and {counts} again; columns that the "
            f"contract's `unique` names have {it} refused. Leave out a file whose rows another has: `okruh lake "
            "forget MODEL --object PATH --by NAME --why TEXT` erases what the lake has of it"
        )
    if reasons:
        _print(f"refused rows, each with its reason, are in the lake under {_folder(results)}")


def _print_files(results: "list[Ingested]") -> None:
    with_commits = _width() >= max(len(one.file) for one in results) + 115
    columns = ["file", "partition", "rows", "in quarantine", "", *(["commit"] if with_commits else [])]
    table = _table(*columns, numbers=("rows", "in quarantine"))
    for one in results:
        cells = [one.file, one.partition, f"{one.rows:,}", f"{one.refused:,}", "cached" if one.cached else "new"]
        table.add_row(*cells, *([one.commit] if with_commits else []))
    _print_table(table)


def _folder(results: "list[Ingested]") -> str:
    """Name the folder of the quarantine."""
    return next(one.quarantine.rpartition("/")[0] for one in results if one.quarantine) + "/"


def registered(model: str, result: "Registered") -> None:
    """Show a bundle of a model."""
    found = " (cached)" if result.cached else ""
    _print(f"{result.version} registered{found}; `okruh promote {model} {result.version}` lets it serve if it wins")
    for name, value in result.metrics.items():
        _print(f"  {name:<24}{value:,.{0 if value.is_integer() else 3}f}")
    for name, became in result.variants.items():
        _print_prose(f"  {name:<24}", became)


def tuned(result: "Tuned") -> None:
    """Show the trials of a search, the best first, what decides, and the candidate."""
    from flows.runs import figure, shown, took

    names = list(dict.fromkeys(name for one in result.trials for name in one.settings))
    numbers = ("trial", "error", "epochs", "took")
    table = _table("trial", "status", "error", "epochs", "took", "settings", numbers=numbers)
    for one in result.trials:
        settings = " ".join(f"{name}={shown(one.settings[name])}" for name in names if name in one.settings)
        cells = [str(one.number), one.status, figure(one.error), str(one.epochs), took(one.seconds)]
        table.add_row(*cells, settings)
    _print_table(table)
    for one in result.trials:
        if one.reason is not None:
            _print_prose(f"trial {one.number} {one.status}: ", one.reason, indent=2)
    if result.taken_up:
        _print(f"{words.counted(result.taken_up, 'trial')} of before had been broken off")
    if result.importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result.importances.items())
        _print_prose("what decides: ", shares, style="bold", indent=2)
    best = result.trials[0]
    if result.usual_error and best.error is not None:
        less = f"{1 - best.error / result.usual_error:.1%} less than the {figure(result.usual_error)} it began from"
        gain = less if best.error < result.usual_error else "the definition's own settings; nothing better was found"
        _print_prose("", f"trial {best.number} has the smallest validation error: {figure(best.error)}, {gain}")
    _print(f"okruh runs {result.model} {result.study} compares the trials; add --html for their curves")
    registered(result.model, result.registered)


def judged(report: "PromotionReport") -> None:
    """Show a verdict."""
    if report.serves_already:
        _print(f"{report.version} serves already, nothing was changed; promoted {_minute(report.at)}")
    else:
        _print(f"{report.version} {'promoted' if report.allowed else 'not promoted'}")
    for reason in report.reasons:
        _print_prose("  ", reason)
    if not report.serves_already:
        _print_end_of_trial(report.ended_trial)


def built(result: "Built") -> None:
    """Show a Bento's tag."""
    _print(f"{result.tag}{'' if result.fresh else ' (cached)'}")


def predicted(result: "Predicted") -> None:
    """Show how many rows were answered and which were not; on standard error where the answers are on the other."""
    screen = _Screen(highlight=False, markup=False, emoji=False, stderr=result.out == "-")
    by = ", ".join(result.versions) or "nobody"
    if result.out != "-":
        _print(f"{words.counted(result.rows, 'row')} answered by {by}, in {result.out}")
    for one in result.refused[:_ROWS_SHOWN]:
        screen.print(f"  row {one.row}, {one.field}: {one.rule}", soft_wrap=True)
    if (more := len(result.refused) - _ROWS_SHOWN) > 0:
        screen.print(f"  and {more:,} more (--json lists all)", soft_wrap=True)
    for name, count in result.unknown_lags.items():
        if count:
            screen.print(f"{name} was not known for {count:,} of the rows, and sent as null")
    if result.refused:
        count = len({one.row for one in result.refused})
        screen.print(f"rows that break the contract and have no answer: {count:,}")


def monitored(result: "Monitored") -> None:
    """Show what one look has found."""
    _print(f"archived {_traffic(result.archived_predictions, result.archived_labels)}")
    numbers = ("labels", "error", "reference", "log10 M")
    table = _table("window", "version", *numbers, "alarm", numbers=numbers)
    for window in result.windows:
        error = "" if window.mean_error is None else shown(window.mean_error)
        span = f"{window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}"
        reference, statistic = (
            shown(window.reference_error),
            "" if window.statistic is None else f"{window.statistic:.1f}",
        )
        table.add_row(span, window.version, f"{window.labels:,}", error, reference, statistic, window.alarm or "")
    if result.windows:
        _print_table(table)
    else:
        _print("no further window has ended")
    if result.known_before:
        since = f"{result.champion_since:%Y-%m-%d %H:%M} UTC"
        _print_prose(
            "",
            f"{words.counted(result.known_before, 'label')} became known before the champion's promotion ({since}), "
            "too early to be judged",
        )
    for alarm in result.alarms:
        _print_prose("alarm: ", alarm.detail)
    due = "is due" if result.retraining_due else "is not due"
    _print_prose(f"retraining {due}: ", "; ".join(result.reasons), indent=2)


def retrained(result: "Retrained") -> None:
    """Show what became of a wish to train again."""
    if result.verdict is None:
        _print_prose("nothing trained: ", "; ".join(result.reasons), indent=2)
    else:
        judged(result.verdict)


def rolled_back(result: "RolledBack") -> None:
    """Show who serves now."""
    _print(f"{result.champion} serves again, instead of {result.previous}")
    _print_end_of_trial(result.ended_trial)


def standing(result: "Standing") -> None:
    """Show who serves and who is tried, after what was done about it."""
    if result.verdict is not None:
        judged(result.verdict)
    else:
        _print_end_of_trial(result.ended_trial)
    fields = {
        "champion": f"{result.champion}, since {_minute(result.since)}",
        "before it": result.previous or "none",
        "challenger": _of_challenger(result.challenger, result.weight_now),
        **_of_shadow(result.shadow),
    }
    if (tried := result.challenger) is not None:
        later = [
            f"{step.weight:.4g} from {_minute(tried.since + timedelta(seconds=step.after_s))}" for step in tried.ramp
        ]
        fields["ramp"] = ", ".join((f"{tried.weight:.4g} at first", *later))
        fields["ends itself"] = (
            f"when more than {tried.abort.error_rate:.4g} of its answers fail, or their 99th percentile is above "
            f"{tried.abort.p99_ms:g} ms"
        )
    _print_fields(fields)


def _of_challenger(tried: "Challenger | None", weight_now: float | None) -> str:
    if tried is None:
        return "none"
    return f"{tried.version}, {tried.mode} since {_minute(tried.since)}, now for {weight_now:.4g} of the keys"


def _of_shadow(found: "Compared | None") -> dict[str, str]:
    if found is None or not found.rows:
        return {}
    said = f"{words.counted(found.rows, 'row')}, {found.failed:,} failed"
    if found.mean_difference is not None:
        said += (
            f"; differs by {found.mean_difference:.4g} {found.unit} in the mean, {found.largest_difference:.4g} at most"
        )
    if found.challenger_error is not None:
        said += f"; error {found.challenger_error:.4g}, the champion's {found.champion_error:.4g}"
        said += f", by {words.counted(found.labels, 'label')}"
    return {"in the shadow": said}


def _print_end_of_trial(version: str | None) -> None:
    if version is not None:
        _print(f"the trial of {version} has ended")


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def verified(result: "Verified") -> None:
    """Show what is not as it should be."""
    for problem in result.problems:
        _print(problem)
    if not result.problems:
        _print(f"the lake of {result.model} is whole")
    else:
        _print_prose(
            "", "what to do: restore the files from a backup, or store the same content again; then verify again"
        )


def history(result: "History") -> None:
    """Show a commit a line."""
    for commit in result.commits:
        _print(f"{commit.id}  {commit.created_at:%Y-%m-%d %H:%M}  {commit.message}")
    if not result.commits:
        _print(f"no commit of {result.ref} changed it")


def collected(result: "Collected") -> None:
    """Show what was removed."""
    commits, objects = words.counted(result.commits, "commit"), words.counted(result.objects, "object")
    _print(f"removed {commits} and {objects} of {result.bytes / 1e6:,.1f} MB")


def copied(result: "Copied") -> None:
    """Show what was copied, and what stayed behind."""
    commits, objects = words.counted(result.commits, "commit"), words.counted(result.objects, "object")
    _print(f"copied {commits} with {objects} of {result.bytes / 1e6:,.1f} MB")
    if result.already:
        _print(f"{words.counted(result.already, 'commit')} had been copied before")
    _print(f"branches {', '.join(result.branches)}; tags {', '.join(result.tags) or 'none'}")
    for branch in result.left_out:
        _print(f"uncommitted changes of branch {branch} stayed behind")
    for name in result.only_there:
        _print(f"{name} is in the target alone, and was left as it is")


def forgotten(result: "Forgotten") -> None:
    """Show what was erased, or would be, and what is left to do."""
    if not result.paths:
        _print(f"nothing in the lake of {result.model} is what was asked for")
    else:
        what = [words.counted(result.rows, "row")] if result.rows else []
        what += [f"{words.counted(result.objects, 'version')} of whole objects"] if result.objects else []
        _print(f"{'would erase' if result.dry_run else 'erased'} {' and '.join(what)}: {some(result.paths)}")
        if result.names_nothing:
            _print_prose("", f"these name no row: {', '.join(result.names_nothing)}")
    for record in result.records:
        _print(f"the record is {record} on main")
    if result.trained_on:
        _print_prose("", f"trained on them, and kept: {', '.join(result.trained_on)}")
    for address in result.still_at:
        _print(f"the server keeps it until its garbage collection has run: {address}")
    for branch in result.still_on:
        _print(f"branch {branch} of a writer still has it, and is dropped a day after a kill: do this again then")


def key_made(result: "Made") -> None:
    """Show a key, the only time: alone on standard output, for `KEY=$(okruh keys add ...)`."""
    _print(result.key)
    note = f"the key of {result.name}, shown once: {result.file} keeps its digest alone"
    _Screen(stderr=True, highlight=False, markup=False, emoji=False).print(note, soft_wrap=True)


def keys(result: "Listed") -> None:
    """Show whose keys there are."""
    if not result.keys:
        _print(f"there is no key in {result.file}")
        return
    table = _table("name", "scopes", "rate", "created", numbers=("rate",))
    for key in result.keys:
        rate = "" if key.rate is None else f"{key.rate:g}/s"
        table.add_row(key.name, ", ".join(key.scopes), rate, f"{key.created_at:%Y-%m-%d %H:%M}")
    _print_table(table)


def keys_revoked(result: "Revoked") -> None:
    """Show what was removed."""
    _print(f"revoked {words.counted(result.revoked, 'key')} of {result.name}")


def data_difference(result: "DataDifference") -> None:
    """Show two states of a table side by side."""
    from flows.data_diff import HEADS, lines_of

    for change in result.partitions:
        _print(f"{change.kind:<9}{change.path}")
    rows = result.rows
    if not result.partitions:
        _print(f"no partition of {result.model} differs")
    named = f"rows are named by {', '.join(rows.key)}" if rows.key else "whole rows are compared"
    counts = f"{rows.added:,} added, {rows.removed:,} removed, {rows.changed:,} changed, {rows.unchanged:,} unchanged"
    _print_prose(
        "", f"{words.counted(result.rows_before, 'row')} before, {result.rows_after:,} after: {counts} ({named})"
    )
    for example in rows.examples:
        _print_prose("  ", example)
    table = _table(*HEADS, numbers=HEADS[3:9])
    for column in result.columns:
        for line in lines_of(column):
            table.add_row(*line)
    _print("")
    _print_table(table)


def status(result: "Status") -> None:
    """Show each line of a model."""
    if not result.lines:
        bundles = words.counted(result.bundles, "bundle")
        first = f"`okruh promote {result.model}`" if result.bundles else f"`okruh ingest {result.model}` and train next"
        _print(f"{result.model} has {bundles} and no champion; run {first}")
    for number, line in enumerate(result.lines):
        if number:
            _print("")
        _print(f"{result.model} on branch {line.branch}", style="bold")
        _print_fields(_of_line(line, result.unit, datetime.now(UTC)))


def _of_line(line: "Line", unit: str, now: datetime) -> Mapping[str, str]:
    window = "none yet"
    if line.last_window_end is not None:
        error = "no labels" if line.last_window_error is None else f"error {shown(line.last_window_error, unit)}"
        window = f"until {line.last_window_end:%Y-%m-%d}: {error}"
    return {
        "champion": line.champion,
        "serves": f"for {_age(now - line.since)}, since {line.since:%Y-%m-%d %H:%M} UTC",
        "before it": line.previous or "none",
        "challenger": _of_challenger(line.challenger, line.weight_now),
        **_of_shadow(line.shadow),
        "trained on": f"{words.counted(line.trained_rows, 'row')} known at {line.trained_as_of:%Y-%m-%d %H:%M} UTC",
        "lake commit": line.trained_on_commit,
        "test error": shown(line.test_error, unit),
        "last window": window,
        "last alarm": line.last_alarm or "none",
        "last verdict": line.last_verdict or "none",
        "traffic": _traffic(line.predictions, line.labels),
    }


def _traffic(predictions: int, labels: int) -> str:
    return f"{words.counted(predictions, 'prediction')}, {words.counted(labels, 'label')}"


def _age(span: timedelta) -> str:
    """Say how long, in the largest unit of which there are two."""
    minutes = max(0, int(span.total_seconds() // 60))
    for unit, size in (("days", 24 * 60), ("hours", 60)):
        if minutes >= 2 * size:
            return f"{minutes // size:,} {unit}"
    return words.counted(minutes, "minute")


def lineage(result: "Lineage") -> None:
    """Show a chain, from the answer to its origins."""
    _print_fields(_of_answer(result) | _of_origin(result))


def _of_answer(result: "Lineage") -> dict[str, str]:
    found = result.prediction
    if found is None:
        return {}
    label = "none yet"
    if found.label is not None:
        label = f"{_of_value(found.label)}, known {found.label_known_at:%Y-%m-%d %H:%M} UTC"
    row = _shortened(bytes(found.row))
    return {"prediction": found.id, "answered": _of_value(found.value), "label": label, "row": row}


def _shortened(row: bytes) -> str:
    """Show a row without the numbers of an image."""
    values = msgspec.json.decode(row)
    long = {
        name: f"<{words.counted(len(value), 'number')}>" for name, value in values.items() if isinstance(value, list)
    }
    return msgspec.json.encode(values | long).decode() if long else row.decode()


def _of_value(value: float | int | str) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _of_origin(result: "Lineage") -> dict[str, str]:
    paths = result.partitions
    fields = {
        "version": result.version,
        "on branch": f"{result.branch}, warm start {result.warm_start or 'none'}",
        "model.onnx": f"sha256 {result.onnx_digest}",
        "registered": f"lake commit {result.registered_by}",
        "data": f"lake commit {result.data_commit}",
        "partitions": _tables(paths),
        "known at": f"{result.as_of:%Y-%m-%d %H:%M} UTC",
        "code": f"git commit {result.code_commit}",
        "sources": result.source_digest,
        "environment": result.environment_digest,
        "computed on": _of_computed(result.computed) if result.computed else "not known",
        "seed": str(result.seed),
        "flow run": result.flow_run,
        "tracker run": result.tracker_run or "none",
    }
    if result.promoted_at is not None:
        fields["promoted"] = f"{result.promoted_at:%Y-%m-%d %H:%M} UTC: {'; '.join(result.promoted_because)}"
    return fields


def reproduced(result: "Reproduced") -> None:
    """Show a verdict, the conditions that it was come to under, and of each part where it first differs."""
    verdict, style = {
        "identical": ("identical", "green"),
        "equal": (f"equal: nothing differs by more than {result.tolerance:g} of its size", "green"),
        "different": (f"different: something differs by more than {result.tolerance:g} of its size, or in kind", "red"),
    }[result.verdict]
    _print_prose(f"{result.version} trained again is ", verdict, style=style, indent=2)
    recorded = "" if result.code.recorded in result.code.used else f" (recorded: {result.code.recorded})"
    sources = "" if result.code.same_sources else "; its sources are not those recorded"
    definition = {"definition": result.code.definition} if result.code.definition else {}
    code = {"code": f"{result.code.used}{recorded}{sources}"} | definition
    _print_fields(code | _of_environment(result.environment))
    _print("")
    table = _table("part", "verdict", "differ", "of", "largest share", numbers=("differ", "of", "largest share"))
    for part in result.parts:
        share = "" if part.largest_share is None else f"{part.largest_share:.3g}"
        table.add_row(part.name, part.likeness, f"{part.differing:,}", f"{part.compared:,}", share)
    _print_table(table)
    for part in result.parts:
        if part.first is not None:
            _print_prose(f"first of {part.name}: ", _of_difference(part.first), style="bold", indent=2)
    _print(f"took {result.seconds:.0f} s")
    if result.report:
        _print(f"kept as {result.report} on branch {result.branch}")


def _of_environment(found: "Environment") -> dict[str, str]:
    installed = "as recorded" if found.same_distributions else some(found.distributions)
    on = _of_computed(found.computed_now) if found.computed_now else "not known"
    return {"environment": installed, "computed on": f"{on}: {'; '.join(found.computed) or 'as recorded'}"}


def _of_computed(one: "Computed") -> str:
    threads = words.counted(one.threads, "thread")
    processes = f", {one.processes} processes" if one.processes > 1 else ""
    return f"{one.device} ({one.processor}), {threads}{processes}, torch {one.torch}, Python {one.python}"


def _of_difference(first: "Difference") -> str:
    share = "" if first.share is None else f", {first.share:.3g} of its size"
    return f"{first.what}: {first.then} then, {first.now} now{share}"


def _tables(paths: Sequence[str]) -> str:
    """Name the first and the last table, and count what the journal gave."""
    tables = [path for path in paths if path.startswith("data/")]
    shown = f"{len(tables)}: {' to '.join(dict.fromkeys((*tables[:1], *tables[-1:])))}" if tables else "none"
    journalled = len(paths) - len(tables)
    return f"{shown}, and {journalled} of the journal" if journalled else shown


def card(result: "Found") -> None:
    """Show the main figures of a card, with their intervals."""
    one, found = result.card, result.card.evaluation
    contract = one.contract
    _print(f"{one.model} {one.version} on branch {result.branch}", style="bold")
    _print_prose("", one.description)
    table = _table(
        "", contract.error_unit, "95% interval", "rows", numbers=(contract.error_unit, "95% interval", "rows")
    )
    for name, value in one.metrics.items():
        if name != words.COUNT:
            interval = _of_interval(found.intervals.get(name)) if found else ""
            table.add_row(words.METRICS.get(name, name), words.number(value), interval, f"{one.data.rows_test:,}")
    if found is not None:
        naive = (words.number(found.naive_loss), _of_interval(found.naive_interval), f"{one.data.rows_test:,}")
        table.add_row(f"{contract.error_name} without learning", *naive)
        for name, groups in found.slices.items():
            for group, of in groups.items():
                cells = (words.number(of.loss), _of_interval(of.interval), f"{of.rows:,}")
                table.add_row(f"{contract.error_name}, {name} {group}", *cells)
    _print_table(table)
    if found is None:
        _print("its card is of before more than that was kept; train again for intervals, calibration and importance")
    else:
        _print_fields(_of_evaluation(found, contract.error_unit))
    if one.caveat:
        _print_prose("bear in mind: ", one.caveat)
    _print(f"page: {result.page}")


def _of_interval(interval: "Interval | None") -> str:
    return "" if interval is None else words.span(interval.low, interval.high)


def _of_evaluation(found: "Evaluation", unit: str) -> dict[str, str]:
    fields = {}
    if (calibration := found.calibration) is not None:
        fields["calibration"] = (
            f"told and found are {calibration.expected_error:.1%} apart in the mean; by chance "
            f"{calibration.error_by_chance:.1%} (that {calibration.event})"
        )
    if (made := found.prediction_intervals) is not None:
        fields["intervals"] = "; ".join(
            f"of {one.share:.0%} held {one.coverage:.1%}, mean width {words.with_unit(one.mean_width, unit)}"
            for one in made.levels
        )
    elif found.no_prediction_intervals:
        fields["intervals"] = f"none: {found.no_prediction_intervals}"
    ranked = sorted(found.importance.items(), key=lambda one: -one[1].loss_increase)
    fields["rests on"] = ", ".join(f"{name} {one.loss_increase:+.3g}" for name, one in ranked[:_COLUMNS_SHOWN])
    return fields


def runs(result: "Runs") -> None:
    """Show a run a line; chosen ones a column each, with what differs marked."""
    if not result.runs:
        _print(f"{result.model} has not been trained yet; run `okruh train {result.model}`")
    elif result.chosen:
        _print_compared(result)
    else:
        _print_runs(result.runs)
    if result.page is not None:
        _print(f"page: {result.page}")


def _print_runs(lines: "Sequence[RunLine]") -> None:
    from flows.runs import changes, figure, metric_names, took, yielded

    metrics = metric_names(lines)[:_METRICS_SHOWN]
    table = _table("run", "status", "version", "began", "took", *metrics, "settings", numbers=("took", *metrics))
    for line in lines:
        figures = [figure(line.metrics.get(name)) for name in metrics]
        began = f"{line.began_at:%Y-%m-%d %H:%M}"
        table.add_row(line.id, line.status, yielded(line), began, took(line.seconds), *figures, changes(line))
    _print_table(table)
    for line in lines:
        if line.reason is not None:
            _print_prose(f"{line.id} {line.status}: ", line.reason, indent=2)


def _print_compared(result: "Runs") -> None:
    from flows.runs import figure, metric_names, parameters, shown, took, yielded

    lines = result.runs
    table = _table("", "", *(line.id for line in lines))
    rows: dict[str, list[str]] = {
        "status": [line.status for line in lines],
        "version": [yielded(line) for line in lines],
        "began": [f"{line.began_at:%Y-%m-%d %H:%M}" for line in lines],
        "took": [took(line.seconds) for line in lines],
        "tracker run": [line.tracker_run or "none" for line in lines],
        "data commit": [line.data_commit for line in lines],
    }
    for name, cells in rows.items():
        table.add_row("", name, *cells)
    told = [parameters(line) for line in lines]
    for name in dict.fromkeys(name for one in told for name in one):
        differs = name in result.differing
        table.add_row("*" if differs else "", name, *(shown(one.get(name)) for one in told), style="bold" * differs)
    for name in metric_names(lines):
        table.add_row("", name, *(figure(line.metrics.get(name)) for line in lines))
    _print_table(table)
    if len(lines) > 1:
        _print(f"* not the same in all: {', '.join(result.differing) or 'nothing'}")


def story(result: "Story") -> None:
    """Show a played period month by month, then what happened in it."""
    numbers = ("trips", "first model", "served")
    table = _table("month", *numbers, "versions", numbers=numbers)
    for month in result.months:
        first, served = shown(month.error_first_model), shown(month.error_served)
        table.add_row(month.month, f"{month.trips:,}", first, served, ", ".join(month.versions))
    _print_table(table)
    _print("")
    for alarm in result.alarms:
        _print_prose(f"{alarm.at:%Y-%m-%d} alarm: ", alarm.detail, style="bold", indent=2)
    _print("")
    for verdict in result.verdicts:
        answer, style = ("promoted", "green") if verdict.allowed else ("not promoted", "red")
        said = f"{verdict.at:%Y-%m-%d} {verdict.version} {answer}: "
        _print_prose(said, "; ".join(verdict.reasons), style=style, indent=2)
    requests, labels = result.requests, result.labels
    sent = f"{words.counted(requests.sent, 'request')}: {requests.refused:,} refused by the contract"
    counts = f"{sent}, {requests.failed} failed; "
    _print("")
    _print_prose(
        "", f"{counts}{words.counted(labels.sent, 'label')} sent, {labels.joined:,} joined; {result.seconds:.0f} s"
    )
    _print(f"report: {result.report}")
    _print(f"look further: okruh status {result.model}; okruh lineage {result.model} {result.versions[-1]}")


def _width() -> int:
    return _console.width if _console.is_terminal else _UNLIMITED


def _print(text: str, style: str | None = None) -> None:
    _console.print(text, style=style, soft_wrap=True)


def _print_fields(fields: Mapping[str, str]) -> None:
    for name, value in fields.items():
        _print_prose(f"{name:<{_INDENT}}", value, style="bold")


def _print_prose(begin: str, text: str, style: str = "", indent: int | None = None) -> None:
    """Print text after a beginning; what does not fit is indented as far as the beginning reaches, or by `indent`."""
    hanging = " " * (len(begin) if indent is None else indent)
    lines = textwrap.wrap(
        words.plain(" ".join(text.split())),
        max(_width(), 40),
        initial_indent=begin,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    whole = "\n".join(lines) if lines else begin.rstrip()
    _console.print(Text.assemble((whole[: len(begin)], style), whole[len(begin) :]), soft_wrap=True)


def _table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if column in numbers else "left")
    return table


def _print_table(table: Table) -> None:
    table.width = _console.measure(table, options=_console.options.update(max_width=_UNLIMITED)).maximum
    _console.print(table, soft_wrap=True)
