"""``plm ablate``: variants over seeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from plm_composer.cli.options import AsJson
from plm_composer.errors import UserError


def ablate(
    study: Annotated[Path, typer.Argument(help="A study file: variants, seeds, what is common to them.")],
    only: Annotated[list[str] | None, typer.Option(help="Run only this variant; can be repeated.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Run only these seeds, such as 1,2.")] = None,
    rerun: Annotated[list[str] | None, typer.Option(help="Run this variant again; can be repeated.")] = None,
    target: Annotated[float | None, typer.Option(help="Also tell when this validation loss was reached.")] = None,
    summarize: Annotated[bool, typer.Option("--summarize", help="Run nothing, summarise what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run variants of a recipe over several seeds, one after another; write a table and a plot."""
    if summarize and (only or seeds or rerun):
        raise UserError("--summarize runs nothing; leave out --only, --seeds and --rerun")
    from plm_composer.studies.ablation import run_study, summarise_study

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    try:
        report = (
            summarise_study(study, say, target)
            if summarize
            else run_study(
                study, say, only=only or (), seeds=_numbers(seeds, "--seeds"), rerun=rerun or (), target=target
            )
        )
    except KeyboardInterrupt:
        say("interrupted; the same command continues the study")
        raise typer.Exit(130) from None
    print(json.dumps(report.to_mapping()) if as_json else report.text)
    say(f"written: {', '.join(map(str, report.files))}")
    for failure in report.failures if not summarize else ():
        say(f"error: {failure.variant}, seed {failure.seed} failed: {failure.reason}; see {failure.log}")
    if report.failures and not summarize:
        raise typer.Exit(1)


def _numbers(text: str | None, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise UserError(f"{option} is {text!r}; write numbers joined by commas") from error
