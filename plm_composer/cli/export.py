"""``plm export``: a folder that ``transformers`` or ``fair-esm`` loads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from plm_composer.cli.options import AsJson, Model, Trust, print_result


def export(
    checkpoint: Model,
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    data: Annotated[str | None, typer.Option(help="Score the model on these proteins for its card.")] = None,
    format_name: Annotated[str, typer.Option("--format", help="huggingface or fair-esm.")] = "huggingface",
    contacts: Annotated[
        Path | None, typer.Option(help="Give it this contact head: what plm contacts --save-regression wrote.")
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Write a folder that `transformers` or `fair-esm` loads, with a model card."""
    from plm_composer.evaluation.evaluate import evaluate as run_evaluation
    from plm_composer.evaluation.evaluate import read_proteins
    from plm_composer.inference.export import check_export, export_model
    from plm_composer.inference.export_formats import find_format
    from plm_composer.inference.load import load_trained

    form = find_format(format_name)
    check_export(out, form)
    loaded = load_trained(checkpoint, trust)
    form.check(loaded.model.config)
    if contacts is not None:
        from plm_composer.evaluation.contacts.attention import load_regression, put_regression

        put_regression(loaded.model, load_regression(contacts))
    scores: dict[str, Any] = {}
    if data is not None:
        evaluation = dataclasses.asdict(run_evaluation(loaded.model, read_proteins(data), progress=True))
        scores = {key: value for key, value in evaluation.items() if isinstance(value, int | float)}
    export_model(loaded.model, out, loaded.run, scores, form)
    print_result({"model": str(loaded.source), "export": str(out), **scores}, as_json)
