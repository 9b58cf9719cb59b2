"""``plm evaluate``: the pinned evaluation."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from plm_composer.cli.options import AsJson, BatchTokens, Device, Model, Precision, Trust, place_of, print_result


def evaluate(
    model: Model,
    data: Annotated[str, typer.Option(help="A FASTA file, a folder of shards, or a remote one.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Score only this many proteins, the first ones.")] = None,
    batch_tokens: BatchTokens = 16384,
    device: Device = None,
    precision: Precision = "fp32",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Score a model by the pinned evaluation: 15 % of residues hidden, or a causal model's likelihood, in nats."""
    from plm_composer.evaluation.evaluate import evaluate as run_evaluation
    from plm_composer.evaluation.evaluate import read_proteins
    from plm_composer.inference.load import load_trained

    place = place_of(device, precision)
    loaded = load_trained(model, trust)
    result = run_evaluation(loaded.model, read_proteins(data, limit), batch_tokens=batch_tokens, progress=True, **place)
    print_result({"model": str(loaded.source), "data": data, **dataclasses.asdict(result)}, as_json)
