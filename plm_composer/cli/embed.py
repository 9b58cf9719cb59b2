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
    out: Annotated[Path, typer.Option(help="File to write: .npz, .safetensors, .h5 or .parquet.")],
    per_residue: Annotated[
        bool, typer.Option("--per-residue", help="A vector for each residue, not the mean.")
    ] = False,
    cls: Annotated[bool, typer.Option("--cls", help="The vector of <cls>, not the mean.")] = False,
    layers: Annotated[
        str, typer.Option(help="Numbers of layers, such as 0,3,6: 0 is the embedding, -1 the last layer.")
    ] = "-1",
    dtype: Annotated[str, typer.Option(help="Of the file: float32 or float16.")] = "float32",
    window: Annotated[
        int, typer.Option(min=0, help="Most residues that the model sees at once; 0 for no limit.")
    ] = 1022,
    batch_tokens: BatchTokens = 16384,
    device: Device = None,
    precision: Precision = "fp32",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Write embeddings of proteins, in the order of the FASTA; the same command continues an interrupted one."""
    from plm_composer.hardware.processes import joined_team
    from plm_composer.inference.embedding.formats import check_output
    from plm_composer.inference.embedding.proteome import embed_fasta
    from plm_composer.inference.embedding.request import Request, kind_of
    from plm_composer.inference.load import load_trained
    from plm_composer.model.predict import Place

    check_output(out)
    request = Request(kind_of(per_residue, cls), _parse_layers(layers), dtype, window)
    where = place_of(device, precision)
    with joined_team() as team:
        if where["device"] == "cuda":
            where["device"] = f"cuda:{team.local_rank}"
        else:
            team.share_cores()
        place = Place(**where, batch_tokens=batch_tokens, progress=True)
        loaded = load_trained(checkpoint, trust, head_required=False)
        done = embed_fasta(loaded.model, fasta, out, request, place, team)
    if done is not None:
        summary = {"proteins": done.proteins, "hidden_size": done.hidden_size, "vectors": done.rows}
        print_result({"model": str(loaded.source), "out": str(out), **summary}, as_json)


def _parse_layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--layers is {text!r}; give numbers with commas between them, such as 0,3,6 or -1") from None
