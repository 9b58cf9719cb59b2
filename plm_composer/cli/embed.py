"""``plm embed``: embeddings of proteins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plm_composer.cli.options import AsJson, BatchTokens, Device, Model, Precision, Trust, place_of, print_result
from plm_composer.errors import UserError


def embed(
    checkpoint: Model,
    fasta: Annotated[str, typer.Argument(help="Proteins, perhaps compressed; - reads stdin.")],
    out: Annotated[Path, typer.Option(help="File to write: .npz or .safetensors.")],
    per_residue: Annotated[
        bool, typer.Option("--per-residue", help="A vector for each residue, not the mean.")
    ] = False,
    batch_tokens: BatchTokens = 16384,
    device: Device = None,
    precision: Precision = "fp32",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Write the last layer's embeddings of proteins, in the order of the FASTA."""
    from plm_composer.inference.embed import check_output, check_space, save_embeddings
    from plm_composer.inference.embed import embed as run_embedding
    from plm_composer.inference.load import load_trained
    from plm_composer.shards.inputs.fasta import read_fasta

    check_output(out)
    place = place_of(device, precision)
    records = list(read_fasta(fasta))
    if not records:
        raise UserError(f"{fasta}: holds no proteins")
    names, proteins = zip(*records, strict=True)
    loaded = load_trained(checkpoint, trust, head_required=False)
    check_space(out, names, list(map(len, proteins)), loaded.model.config.hidden_size, per_residue)
    embeddings = run_embedding(
        loaded.model,
        proteins,
        per_residue=per_residue,
        batch_tokens=batch_tokens,
        progress=True,
        **place,
    )
    save_embeddings(out, names, embeddings)
    width = loaded.model.config.hidden_size
    print_result(
        {"model": str(loaded.source), "out": str(out), "proteins": len(records), "hidden_size": width}, as_json
    )
