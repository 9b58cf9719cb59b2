"""``plm sample``: proteins drawn from a causal model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from plm_composer.cli.options import Device, Model, Precision, Trust, place_of


def sample(
    model: Model,
    count: Annotated[int, typer.Option(min=1, help="Number of proteins.")] = 10,
    out: Annotated[Path | None, typer.Option(help="A FASTA file; default: print it.")] = None,
    prompt: Annotated[str, typer.Option(help="The first residues of each protein.")] = "",
    temperature: Annotated[float, typer.Option(help="Below 1: likely residues become likelier.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens with this probability together.")] = 1.0,
    max_residues: Annotated[int, typer.Option(help="Most residues of a protein.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 17,
    batch_size: Annotated[int, typer.Option(help="Proteins that are drawn at a time.")] = 64,
    device: Device = None,
    precision: Precision = "fp32",
    trust: Trust = False,
) -> None:
    """Draw proteins from a model that was trained with objective=causal."""
    from plm_composer.files.atomic import check_writable, replacing
    from plm_composer.inference.load import load_trained
    from plm_composer.inference.sampling import Sampling, sample_proteins
    from plm_composer.model.predict import Place
    from plm_composer.terminal.progress import ProgressBar

    sampling = Sampling(prompt.upper(), temperature, top_p, max_residues, seed, batch_size)
    if out is not None:
        check_writable(out)
    place = Place(**place_of(device, precision))
    drawn = sample_proteins(load_trained(model, trust).model, count, sampling, place)
    records = []
    with ProgressBar(total=count, desc="sample", unit=" proteins", disable=False) as bar:
        for number, each in enumerate(drawn, start=1):
            nats = -each.log_likelihood / max(1, len(each.residues) - len(sampling.prompt) + each.ended)
            cut = "" if each.ended else " cut"
            header = f">sample{number} {len(each.residues)} residues, {nats:.3f} nats a token{cut}"
            records.append(f"{header}\n{each.residues}\n")
            bar.update(1)
    if out is None:
        sys.stdout.write("".join(records))
        return
    with replacing(out) as partial:
        partial.write_text("".join(records))
