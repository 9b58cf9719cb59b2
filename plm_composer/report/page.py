"""The page of a report: everything in one file of HTML, which loads nothing."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from plm_composer.errors import UserError
from plm_composer.files.atomic import replacing
from plm_composer.plotting import COLOURS
from plm_composer.report.charts import CLOCKS, MEASURES, Chart, draw_losses, draw_measure
from plm_composer.report.configuration import compare_settings, list_settings
from plm_composer.report.evaluations import make_panels
from plm_composer.report.quantities import show_count, show_number, show_seconds, show_share
from plm_composer.report.runs import Run, read_runs
from plm_composer.report.series import CLOCK

_TEMPLATE = "report.html.jinja"
_MARK = '<meta name="generator" content="plm-composer">'
"""Stands in the first lines of every report: only a file that has it is replaced."""
DASHES = ("", "6 4", "2 3", "8 3 2 3")
"""Of the lines in legends, as ``LINE_STYLES`` has them in charts."""
_LINES = 200
"""Most validations that a table lists."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A number that the page shows of each run.

    Args:
        title: Its name.
        key: Its key in ``Run.final``.
        show: Makes it text.
        unit: Stands behind it, smaller.
        best: Says which is the best of several; None where none is.
    """

    title: str
    key: str
    show: Callable[[float | None], str]
    unit: str = ""
    best: Callable[[Sequence[float]], float] | None = None


COLUMNS = (
    Column("Validation loss", "loss", lambda value: show_number(value, 4), "nats", min),
    Column("Perplexity", "perplexity", lambda value: show_number(value, 2), best=min),
    Column("Accuracy", "accuracy", lambda value: "" if value is None else f"{value:.1%}".replace("%", " %"), best=max),
    Column("Tokens", "tokens", show_count),
    Column("Training time", "seconds", show_seconds),
    Column("Tokens/s, mean", "tokens_per_second", show_count, best=max),
    Column("MFU, mean", "mfu", show_share, best=max),
    Column("Compute", "flops", lambda value: show_count(value, "FLOP")),
    Column("Peak memory", "memory", lambda value: show_count(value, "B")),
)


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Writes the report of a run, or one that compares several.

    Args:
        folders: The run folders, at least one.
        out: The file; an earlier report is replaced, any other file is not.

    Returns:
        The file.

    Raises:
        UserError: A folder is not one of a run, a file in it cannot be read, or the report cannot be written.
    """
    _check_output(out)
    page = make_page(read_runs(list(folders)))
    try:
        with replacing(out) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def make_page(runs: Sequence[Run]) -> str:
    """Makes the page.

    Args:
        runs: The runs; the page of several compares them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    losses = [draw_losses(runs, clock) for clock in CLOCKS]
    measures = {measure.title: draw_measure(runs, measure) for measure in MEASURES}
    return environment.get_template(_TEMPLATE).render(
        version=version("plm-composer"),
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared",
        runs=runs,
        final=[_final(run, runs) for run in runs],
        columns=COLUMNS,
        dashes=[DASHES[index // len(COLOURS) % len(DASHES)] for index in range(len(runs))],
        losses=[chart for chart in losses if chart],
        measures=[chart for chart in measures.values() if chart],
        missing=_missing(runs, losses, measures),
        validations=[_validations(run) for run in runs],
        times=[_times(run) for run in runs],
        panels=make_panels(runs),
        settings=[list_settings(run) for run in runs],
        differences=compare_settings(runs) if len(runs) > 1 else [],
    )


def _check_output(out: Path) -> None:
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file")
    if out.is_file() and not is_report(out):
        raise UserError(f"{out}: is there already and no report, so it is not replaced; name another file")


def is_report(path: Path) -> bool:
    """Whether a file is a report, which another may replace."""
    try:
        with path.open("rb") as file:
            return _MARK.encode() in file.read(1000)
    except OSError:
        return False


def _final(run: Run, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The final numbers of a run as text, in the order of ``COLUMNS``, and which of them are the best of all runs."""
    cells = []
    for column in COLUMNS:
        value = run.final[column.key]
        others = [number for other in runs if (number := other.final[column.key]) is not None]
        best = column.best is not None and len(others) > 1 and value == column.best(others)
        cells.append({"text": column.show(value), "missing": value is None, "best": best})
    return cells


def _missing(runs: Sequence[Run], losses: Sequence[Chart | None], measures: Mapping[str, Chart | None]) -> list[str]:
    """Says what is not drawn, and why."""
    notes = []
    if not any(losses):
        notes.append("No loss has been logged yet.")
    notes += [
        f"Loss against {clock.title} is not drawn: the metrics have no FLOPs, which callbacks.speed_monitor logs."
        for clock, chart in zip(CLOCKS, losses, strict=True)
        if chart is None and any(losses)
    ]
    notes += [f"{title} is not drawn: it was not logged." for title, chart in measures.items() if chart is None]
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        notes += [prefix + note for note in run.notes]
        if not run.metrics.has(run.metrics.loss_name("eval")):
            notes.append(f"{prefix}There was no validation.")
        if len(runs) > 1:
            lacking = [measure.title for measure in MEASURES if measures[measure.title] and not measure.names(run)]
            notes += [f"{prefix}{title} was not logged." for title in lacking]
    return notes


def _validations(run: Run) -> list[tuple[str, ...]]:
    """The latest validations: batch, tokens, time, FLOPs, loss, perplexity, accuracy."""
    metrics = run.metrics
    loss = metrics.loss_name("eval")
    names = (*CLOCK, loss, "metrics/eval/perplexity", "metrics/eval/accuracy")
    values = {name: metrics.column(name) for name in names} | {"flops": metrics.flops}
    return [
        (
            f"{values['batch'][row]:,.0f}",
            show_count(values["tokens"][row]),
            show_seconds(values["seconds"][row]),
            show_count(values["flops"][row], "FLOP"),
            show_number(values[loss][row], 4),
            show_number(values["metrics/eval/perplexity"][row], 2),
            show_share(values["metrics/eval/accuracy"][row]),
        )
        for row in np.flatnonzero(np.isfinite(values[loss]))[-_LINES:]
    ]


def _times(run: Run) -> dict[str, Any] | None:
    """Where the time of a run went: by its ledger, or else by Composer's clock, which knows two kinds."""
    if run.ledger is not None:
        entries, budget = run.ledger.entries, run.ledger.budget
    else:
        hours = {"training": run.metrics.last("time/train"), "evaluation": run.metrics.last("time/val")}
        entries, budget = {name: 3600 * value for name, value in hours.items() if value is not None}, None
    total = sum(entries.values())
    if not total:
        return None
    parts = [
        {"name": name, "seconds": show_seconds(seconds), "share": show_share(share), "width": round(100 * share, 3)}
        for name, seconds in entries.items()
        if (share := seconds / total) and seconds >= 0.05
    ]  # fmt: skip
    return {
        "parts": parts,
        "total": show_seconds(total),
        "budget": None if budget is None else show_seconds(budget),
        "used": None if budget is None else show_share(total / budget),
    }
