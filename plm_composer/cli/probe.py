"""``plm probe``: properties of proteins from frozen embeddings."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plm_composer.cli.options import (
    AsJson,
    BatchTokens,
    Device,
    Model,
    Precision,
    Trust,
    place_of,
    print_evaluation,
)
from plm_composer.errors import UserError

if TYPE_CHECKING:
    from plm_composer.evaluation.probes.evaluate import ProbeOutcome
    from plm_composer.evaluation.probes.tables import ProbeData


def probe(
    model: Model,
    table: Annotated[Path, typer.Argument(help="Sequences, targets and splits: .csv, .tsv, .parquet or .json.")],
    target: Annotated[str, typer.Option(help="Column of the targets.")],
    kind: Annotated[
        str | None,
        typer.Option(help="regression, classes, or residues (a letter a residue); default: told from the targets."),
    ] = None,
    sequence: Annotated[str, typer.Option(help="Column of the sequences.")] = "sequence",
    split: Annotated[
        str | None, typer.Option(help="Column of train, valid and test; default: set, split or stage.")
    ] = None,
    layer: Annotated[int, typer.Option(help="Layer of the hidden states: 0 is the embedding, -1 the last.")] = -1,
    train_limit: Annotated[int | None, typer.Option(min=5, help="Most training proteins, drawn at random.")] = None,
    test_limit: Annotated[int | None, typer.Option(min=1, help="Most test proteins, drawn at random.")] = None,
    train_residues: Annotated[
        int, typer.Option(min=100, help="Most training residues, for targets a residue.")
    ] = 50_000,
    out: Annotated[Path | None, typer.Option(help="CSV of predictions beside the targets of the test set.")] = None,
    batch_tokens: BatchTokens = 16384,
    device: Device = None,
    precision: Precision = "fp32",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Predict properties of proteins from frozen embeddings by a linear model, beside a baseline without them."""
    from plm_composer.evaluation.probes.evaluate import run_probe
    from plm_composer.evaluation.probes.tables import read_probe_table
    from plm_composer.files.atomic import check_writable
    from plm_composer.inference.load import load_trained
    from plm_composer.model.predict import Place

    if out is not None:
        check_writable(out)
    place = Place(**place_of(device, precision), batch_tokens=batch_tokens, progress=True)
    data = read_probe_table(
        table, target, kind=kind, sequence=sequence, split=split, train_limit=train_limit, test_limit=test_limit
    )
    loaded = load_trained(model, trust, head_required=False).model
    name = f"{table.name.split('.')[0]} {target}"
    outcome = run_probe(loaded, data, name=name, layer=layer, train_residues=train_residues, place=place)
    if out is not None:
        _write_predictions(out, data, outcome)
    print_evaluation(model, outcome.result, as_json)


def _write_predictions(path: Path, data: ProbeData, outcome: ProbeOutcome) -> None:
    from plm_composer.files.atomic import replacing

    try:
        with replacing(path) as partial, partial.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["row", "sequence", "target", "prediction", "baseline"])
            for at, *predicted in zip(data.test, outcome.predictions, outcome.baseline, strict=True):
                rows.writerow([data.rows[at], data.sequences[at], data.targets[at], *predicted])
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
