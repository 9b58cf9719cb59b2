"""``plm report``: a page that shows a run, or compares several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from plm_composer.cli.options import AsJson


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are compared.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Write a page of HTML with the curves, scores, times and config of runs, also of one that is still training."""
    from plm_composer.report.page import write_report

    written = write_report(runs, out)
    print(json.dumps({"out": str(written), "runs": [str(run) for run in runs]}) if as_json else written)
