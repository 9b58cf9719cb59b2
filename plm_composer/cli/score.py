"""``plm score``: zero-shot effects of mutations."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
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
    keep_result,
    place_of,
    print_result,
)
from plm_composer.errors import UserError

if TYPE_CHECKING:
    from plm_composer.evaluation.variants.methods import Scorer


def score(
    model: Model,
    assays: Annotated[
        list[Path] | None, typer.Argument(help="CSVs of mutants, as ProteinGym has them, or folders of them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A .csv file, or a folder for a file per assay.")] = None,
    method: Annotated[
        str,
        typer.Option(help="masked-marginals, wt-marginals, mutant-marginals or pll; likelihood for a causal model."),
    ] = "masked-marginals",
    reference: Annotated[
        Path | None, typer.Option(help="ProteinGym's file of assays, such as DMS_substitutions.csv.")
    ] = None,
    sequence: Annotated[str | None, typer.Option(help="The target: residues, or a FASTA of one protein.")] = None,
    offset: Annotated[int | None, typer.Option(help="Number of the target's first residue; default 1.")] = None,
    scan: Annotated[
        str | None, typer.Option(metavar="FASTA", help="Score every substitution at every position instead.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="For long proteins: optimal, sliding, preceding or none; default: optimal, or preceding."),
    ] = None,
    window_tokens: Annotated[int, typer.Option(help="Tokens of a window.")] = 1024,
    mask_together: Annotated[
        bool, typer.Option("--mask-together", help="Mask all positions of a multiple mutant at once.")
    ] = False,
    batch_tokens: BatchTokens = 16384,
    device: Device = None,
    precision: Precision = "fp32",
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Score mutants without training on them, and compare with measured effects as ProteinGym does."""
    from plm_composer.evaluation.variants.methods import METHODS, Scorer, default_window
    from plm_composer.evaluation.windows import make_windowing
    from plm_composer.inference.load import load_trained
    from plm_composer.model.predict import Place

    if (scan is None) == (not assays):
        raise UserError("name assays to score, or a FASTA with --scan; not both")
    if scan is not None and (reference or sequence or offset is not None):
        raise UserError("--reference, --sequence and --offset belong to assays; leave them out with --scan")
    if scan is not None and out is None:
        raise UserError("--scan needs --out, a file that ends in .csv, .npz or .h5")
    if method not in METHODS:
        raise UserError(f"--method is {method!r}; choose from {', '.join(METHODS)}")
    if mask_together and method != "masked-marginals":
        raise UserError("--mask-together belongs to --method masked-marginals")
    window = window or default_window(method)
    windowing = make_windowing(window, window_tokens)
    place = Place(**place_of(device, precision), batch_tokens=batch_tokens, progress=True)

    def make_scorer() -> Scorer:
        return Scorer(load_trained(model, trust).model, place, windowing, mask_together)

    if scan is not None:
        assert out is not None
        _scan(make_scorer, method, scan, out, model, as_json)
    else:
        settings = {"method": method, "window": window, "precision": precision}
        if mask_together:
            settings["masks"] = "together"
        _score(make_scorer, settings, assays or [], reference, sequence, offset, out, model, as_json)


def _score(
    make_scorer: Callable[[], Scorer],
    settings: dict[str, str],
    paths: list[Path],
    reference: Path | None,
    sequence: str | None,
    offset: int | None,
    out: Path | None,
    model: str,
    as_json: bool,
) -> None:
    from plm_composer.evaluation.variants.assays import find_assays, read_assay, read_reference
    from plm_composer.evaluation.variants.evaluate import compare_assay, score_assay, to_results
    from plm_composer.evaluation.variants.methods import check_method
    from plm_composer.evaluation.variants.summary import summarise
    from plm_composer.evaluation.variants.tables import (
        check_scores_file,
        describe_metrics,
        write_metrics,
        write_scores,
    )
    from plm_composer.model.predict import prepared

    method = settings["method"]
    known = None if reference is None else read_reference(reference)
    target = None if sequence is None else _read_target(sequence)
    # All are read before the first is scored, so that a mistake in the last one costs nothing.
    files = find_assays(paths)
    assays = [read_assay(path, known, target, offset) for path in files]
    for path, assay in zip(files, assays, strict=True):
        check_method(method, assay.target, assay.variants, str(path))
    names = [assay.name for assay in assays]
    if len(set(names)) < len(names):
        raise UserError(f"two assays are named {max(names, key=names.count)}; rename one, or score them apart")
    if out is not None:
        check_scores_file(out, assays, files)
    elif all(assay.measured is None for assay in assays):
        raise UserError("no assay has a column DMS_score to compare scores with; write the scores with --out")
    if known is not None:
        for assay in assays:
            if f"{assay.name}.csv" not in known:
                print(f"{assay.name}.csv is not in {reference}; its protein and selection are unknown", file=sys.stderr)
    scorer = make_scorer()
    with prepared(scorer.model, scorer.place):
        scores = [score_assay(scorer, method, assay) for assay in assays]
    written = [] if out is None else write_scores(out, assays, scores)
    compared = [compare_assay(assay, values) for assay, values in zip(assays, scores, strict=True)]
    measured = [each for each in compared if each is not None]
    for assay, each in zip(assays, compared, strict=True):
        if assay.measured is not None and each is None:
            print(f"{assay.name}: fewer than three measured mutants; left out of the metrics", file=sys.stderr)
    if not measured:
        print_result({"model": model, "method": method, "mutants": sum(map(len, scores)), "out": str(out)}, as_json)
        return
    summary = summarise(measured)
    if out is not None:
        written.append(write_metrics(out, measured))
    for kept in to_results(", ".join(settings.values()), measured, summary, settings):
        keep_result(model, kept)
    if as_json:
        result = {"model": model, "method": method, "files": [str(path) for path in written]}
        print(
            json.dumps(
                {**result, "assays": [dataclasses.asdict(each) for each in measured], **dataclasses.asdict(summary)}
            )
        )
        return
    print(describe_metrics(measured, summary))
    for path in written:
        print(f"written: {path}", file=sys.stderr)


def _scan(make_scorer: Callable[[], Scorer], method: str, fasta: str, out: Path, model: str, as_json: bool) -> None:
    from plm_composer.evaluation.variants.scan import scan_protein
    from plm_composer.evaluation.variants.tables import check_scan_file, write_scan
    from plm_composer.model.predict import prepared
    from plm_composer.shards.inputs.fasta import read_fasta

    records = [((name.split() or [""])[0], residues.decode()) for name, residues in read_fasta(fasta)]
    check_scan_file(out, [name for name, _ in records])
    if not records:
        raise UserError(f"{fasta}: holds no proteins")
    scorer = make_scorer()
    with prepared(scorer.model, scorer.place):
        scans = [(name, protein, scan_protein(scorer, method, protein)) for name, protein in records]
    write_scan(out, scans)
    print_result({"model": model, "method": method, "proteins": len(records), "out": str(out)}, as_json)


def _read_target(sequence: str) -> str:
    """Reads ``--sequence``: residues as they are, or a FASTA of one protein."""
    from plm_composer.shards.inputs.fasta import read_fasta

    if sequence.isalpha() and sequence.isascii():
        return sequence.upper()
    if not os.path.isfile(sequence):  # noqa: PTH113 - pathlib fails for a text that is too long for a name
        raise UserError(f"--sequence {sequence!r}: neither residues nor a file; name a FASTA of one protein")
    proteins = [residues.decode() for _, residues in read_fasta(sequence)]
    if len(proteins) != 1:
        raise UserError(f"{sequence}: holds {len(proteins)} proteins; --sequence needs one")
    return proteins[0]
