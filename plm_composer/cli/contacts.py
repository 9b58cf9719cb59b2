"""``plm contacts``: contacts between residues, predicted, or scored against structures."""

from __future__ import annotations

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
    print_result,
)
from plm_composer.errors import UserError

if TYPE_CHECKING:
    from plm_composer.evaluation.contacts.attention import Regression
    from plm_composer.evaluation.contacts.structures import Structure

_PATHS = "PDB, mmCIF or BinaryCIF files, perhaps .gz, or folders of them; can be repeated."


def contacts(
    model: Model,
    fasta: Annotated[str | None, typer.Argument(help="Proteins to predict, perhaps compressed; - reads stdin.")] = None,
    out: Annotated[Path | None, typer.Option(help="File of a matrix a protein: .npz, .h5 or .hdf5.")] = None,
    structures: Annotated[list[Path] | None, typer.Option(help=f"Score against these: {_PATHS}")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="attention (a regression on attention maps), head (the model's own) or jacobian; default: attention "
            "if there is a regression or something to fit it on, else head."
        ),
    ] = None,
    train_structures: Annotated[list[Path] | None, typer.Option(help=f"Fit the regression on these: {_PATHS}")] = None,
    train_limit: Annotated[int, typer.Option(min=1, help="Fit it on this many, the first ones.")] = 20,
    regression: Annotated[Path | None, typer.Option(help="A regression that --save-regression wrote.")] = None,
    save_regression: Annotated[Path | None, typer.Option(help="Write the fitted regression to this file.")] = None,
    chain: Annotated[str | None, typer.Option(help="Chain of each structure; default: its first protein.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only this many structures, the first ones.")] = None,
    batch_tokens: BatchTokens = 16384,
    device: Device = None,
    precision: Precision = "fp32",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Predict contacts between residues, or score them against structures (precision at L, L/2 and L/5)."""
    _check_options(fasta, out, structures, method, train_structures, regression, save_regression)
    from plm_composer.evaluation.contacts import attention
    from plm_composer.evaluation.contacts.evaluate import (
        check_apart,
        find_regression,
        predict_contacts,
        score_structures,
        summarise,
    )
    from plm_composer.files.atomic import check_writable
    from plm_composer.files.matrices import check_matrices, writing_matrices
    from plm_composer.inference.load import load_trained
    from plm_composer.model.predict import Place
    from plm_composer.shards.inputs.fasta import read_fasta

    place = Place(**place_of(device, precision), batch_tokens=batch_tokens, progress=True)
    train = _read(train_structures, chain, train_limit)
    chains = _read(structures, chain, limit)
    check_apart(chains, train)
    records = [((name.split() or [""])[0], protein) for name, protein in read_fasta(fasta)] if fasta else []
    if fasta and not records:
        raise UserError(f"{fasta}: holds no proteins")
    if out:
        check_matrices(out, [name for name, _ in records] or [each.name for each in chains])
    if save_regression:
        check_writable(save_regression)
    loaded = load_trained(model, trust, head_required=method == "jacobian").model
    method = method or ("attention" if train or regression else "head")
    fitted: Regression | None
    if regression:
        fitted = attention.load_regression(regression)
        attention.check_fit(loaded, fitted, str(regression))
    else:
        fitted = find_regression(loaded, method, train, place)
    if fitted and save_regression:
        attention.save_regression(save_regression, fitted)

    summary = {"model": model, "method": method, "train_structures": len(train)}
    if records and out:
        with writing_matrices(out) as write:
            for index, matrix in predict_contacts(loaded, [protein for _, protein in records], fitted, place):
                write(records[index][0], matrix)
        print_result({**summary, "out": str(out), "proteins": len(records)}, as_json)
    elif chains:
        if out:
            with writing_matrices(out) as write:
                found = score_structures(loaded, chains, fitted, place, write)
        else:
            found = score_structures(loaded, chains, fitted, place)
        name = (structures or [Path()])[0].resolve().name
        result = summarise(name, method, chains, found, fitted)
        each = [
            {"name": chain.name, "length": len(chain.sequence), "unresolved": chain.unresolved, **scores}
            for chain, scores in zip(chains, found, strict=True)
        ]
        print_evaluation(model, result, as_json, proteins=each)
    else:
        print_result({**summary, "regression": str(save_regression)}, as_json)


def _check_options(
    fasta: str | None,
    out: Path | None,
    structures: list[Path] | None,
    method: str | None,
    train: list[Path] | None,
    regression: Path | None,
    save: Path | None,
) -> None:
    methods = ("attention", "head", "jacobian")
    refused = {
        f"--method is {method!r}; it must be {', '.join(methods)}": method not in (None, *methods),
        "give a FASTA to predict or --structures to score against, not both": bool(fasta and structures),
        "nothing to do: give a FASTA and --out, --structures, or --train-structures and --save-regression": (
            not (fasta or structures or (train and save))
        ),
        "--out FILE says where the predicted matrices go": bool(fasta) and out is None,
        "give --regression or --train-structures, not both": bool(regression and train),
        "--save-regression needs --train-structures to fit on": bool(save) and not train,
        f"--method {method} fits no regression; leave out --regression and --train-structures": (
            method in ("head", "jacobian") and bool(regression or train)
        ),
        "--method attention needs --train-structures to fit its regression on, or --regression FILE": (
            method == "attention" and not (regression or train)
        ),
    }
    for message, holds in refused.items():
        if holds:
            raise UserError(message)


def _read(paths: list[Path] | None, chain: str | None, limit: int | None) -> list[Structure]:
    from plm_composer.evaluation.contacts.structures import find_structure_files, read_structure

    return [read_structure(path, chain) for path in find_structure_files(paths or ())[:limit]]
