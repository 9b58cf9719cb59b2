"""``plm perplexity``: pseudo-perplexity of proteins."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated

import typer

from plm_composer.cli.options import (
    AsJson,
    BatchTokens,
    Device,
    Model,
    Precision,
    Trust,
    keep_result,
    place_of,
    print_result,
)
from plm_composer.errors import UserError


def perplexity(
    model: Model,
    fasta: Annotated[str, typer.Argument(help="Proteins, perhaps compressed; - reads stdin.")],
    out: Annotated[Path | None, typer.Option(help="A .csv file for the perplexities of each protein.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only this many proteins, the first ones.")] = None,
    one_pass: Annotated[
        bool, typer.Option("--one-pass", help="Only the estimates from one forward pass a protein.")
    ] = False,
    window: Annotated[str, typer.Option(help="For long proteins: optimal, sliding or none.")] = "optimal",
    window_tokens: Annotated[int, typer.Option(help="Tokens of a window.")] = 1024,
    batch_tokens: BatchTokens = 16384,
    device: Device = None,
    precision: Precision = "fp32",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Compute exact pseudo-perplexity (one mask a position), and two estimates from a single pass."""
    import pandas as pd

    from plm_composer.evaluation.pseudo_perplexity import compute_perplexities, pool_perplexities
    from plm_composer.evaluation.results import Result, Score
    from plm_composer.evaluation.variants.tables import write_csv
    from plm_composer.evaluation.windows import make_windowing
    from plm_composer.files.atomic import check_writable
    from plm_composer.inference.load import load_trained
    from plm_composer.model.predict import Place, prepared
    from plm_composer.shards.inputs.fasta import read_fasta

    windowing = make_windowing(window, window_tokens)
    if out is not None:
        if out.suffix != ".csv":
            raise UserError(f"{out}: the file must end in .csv")
        check_writable(out)
    place = Place(**place_of(device, precision), batch_tokens=batch_tokens, progress=True)
    records = list(itertools.islice(read_fasta(fasta), limit))
    if not records:
        raise UserError(f"{fasta}: holds no proteins")
    names, proteins = zip(*records, strict=True)
    loaded = load_trained(model, trust)
    with prepared(loaded.model, place):
        found = compute_perplexities(loaded.model, proteins, place, exact=not one_pass, windowing=windowing)
    if out is not None:
        rows = [{"protein": name, **dataclasses.asdict(each)} for name, each in zip(names, found, strict=True)]
        write_csv(out, pd.DataFrame(rows).dropna(axis=1, how="all"))
    pooled = {key: value for key, value in dataclasses.asdict(pool_perplexities(found)).items() if value is not None}
    scores = {name: Score(float(value)) for name, value in pooled.items() if name != "residues"}
    settings = {"proteins": len(found), "residues": pooled["residues"]}
    keep_result(model, Result("perplexity", Path(fasta).name, scores, settings))
    print_result({"model": str(loaded.source), "proteins": len(found), **pooled}, as_json)
