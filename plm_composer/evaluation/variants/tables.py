"""Writes scores of mutants: beside the rows of their assays, their metrics, and scans as matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from tabulate import tabulate

from plm_composer.errors import UserError
from plm_composer.evaluation.results import Score
from plm_composer.evaluation.variants.assays import Assay
from plm_composer.evaluation.variants.scan import RESIDUES
from plm_composer.evaluation.variants.summary import METRICS, AssayScores, Summary
from plm_composer.files.atomic import check_writable, replacing
from plm_composer.files.matrices import check_matrices, writing_matrices

FloatArray = npt.NDArray[np.float64]
_HEADERS = ("Spearman", "AUC", "MCC", "NDCG", "top-10 % recall")


def check_scores_file(path: Path, assays: Sequence[Assay], inputs: Sequence[Path]) -> None:
    """Checks that scores can be written to a path, before they are computed, and that nothing is lost by it.

    Args:
        path: A ``.csv`` file; or a folder for a file per assay, which is made if it is missing.
        assays: The assays.
        inputs: Their files.

    Raises:
        UserError: The path cannot be written, an input would be replaced, two assays have the same name, or a file has
            a column already that is to be added.
    """
    added = ["score", "assay"] if len(assays) > 1 and not _is_folder(path) else ["score"]
    for assay, source in zip(assays, inputs, strict=True):
        if taken := [name for name in added if name in assay.table]:
            raise UserError(f"{source}: has a column {taken[0]!r} already; rename it")
    if _is_folder(path):
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be made: {error.strerror or error}") from error
    elif path.suffix != ".csv":
        raise UserError(f"{path}: name a file that ends in .csv, or a folder")
    outputs = [*_score_files(path, assays), _metrics_file(path)]
    for output in outputs:
        check_writable(output)
        if output.exists() and any(output.samefile(source) for source in inputs):
            raise UserError(f"{output} is an input, and is not replaced; choose another --out")
    if len(set(outputs)) < len(outputs):
        raise UserError(
            f"{path}: two files would have the name {max(outputs, key=outputs.count).name}; rename an assay"
        )


def check_scan_file(path: Path, proteins: Sequence[str]) -> None:
    """Checks that a scan can be written to a file, before it is computed.

    Args:
        path: A file that ends in ``.csv``, ``.npz`` or ``.h5``.
        proteins: Names of the proteins.

    Raises:
        UserError: The ending is another, the file cannot be written, or two proteins have one name.
    """
    if path.suffix != ".csv":
        check_matrices(path, list(proteins))
        return
    check_writable(path)
    if len(set(proteins)) < len(proteins):
        twice = max(proteins, key=list(proteins).count)
        raise UserError(f"{path}: two proteins are named {twice!r}; rename one")


def write_scores(path: Path, assays: Sequence[Assay], scores: Sequence[FloatArray]) -> list[Path]:
    """Writes the rows of assays, in their order and with their columns, and a column ``score`` beside them.

    Args:
        path: A ``.csv`` file, in which several assays follow one another under a first column ``assay``; or a folder,
            which gets a file per assay.
        assays: The assays.
        scores: Scores of each, shape (rows,).

    Returns:
        The files.

    Raises:
        UserError: A file cannot be written.
    """
    tables = [assay.table.assign(score=values) for assay, values in zip(assays, scores, strict=True)]
    files = _score_files(path, assays)
    if not _is_folder(path):
        if len(assays) > 1:
            for assay, table in zip(assays, tables, strict=True):
                table.insert(0, "assay", assay.name)
        tables = [pd.concat(tables)]
    for file, table in zip(files, tables, strict=True):
        write_csv(file, table)
    return files


def write_metrics(path: Path, assays: Sequence[AssayScores]) -> Path:
    """Writes the metrics of assays beside their scores: ``NAME.metrics.csv``, or ``metrics.csv`` in a folder.

    Args:
        path: As for ``write_scores``.
        assays: The metrics of each assay.

    Returns:
        The file.
    """
    rows = []
    for each in assays:
        correlation = each.scores.get("spearman", Score(float("nan")))
        rows.append(
            {"assay": each.assay, "protein": each.protein, "selection": each.selection, "mutants": each.mutants}
            | {name: each.scores[name].value if name in each.scores else None for name in METRICS}
            | {"spearman_low": correlation.low, "spearman_high": correlation.high}
        )
    file = _metrics_file(path)
    write_csv(file, pd.DataFrame(rows))
    return file


def write_scan(path: Path, scans: Sequence[tuple[str, str, FloatArray]]) -> None:
    """Writes scans.

    Args:
        path: A ``.csv`` file, with a row per position (protein, position from 1, residue, then a column per amino
            acid), or a file of ``files/matrices.py`` with a matrix per protein, columns in the order of ``RESIDUES``.
        scans: Name, sequence and matrix, (residues, 20), of each protein.

    Raises:
        UserError: The file cannot be written.
    """
    if path.suffix == ".csv":
        tables = []
        for name, protein, matrix in scans:
            table = pd.DataFrame(matrix, columns=list(RESIDUES))
            positions = pd.DataFrame(
                {"protein": name, "position": range(1, len(protein) + 1), "residue": list(protein)}
            )
            tables.append(pd.concat([positions, table], axis=1))
        write_csv(path, pd.concat(tables))
        return
    with writing_matrices(path) as write:
        for name, _, matrix in scans:
            write(name, matrix)


def describe_metrics(assays: Sequence[AssayScores], summary: Summary) -> str:
    """A table of the metrics of each assay, of each selection type, and of all.

    Args:
        assays: The metrics of each assay, at least one.
        summary: Their averages.
    """
    rows = [[each.assay, f"{each.mutants:,}", *map(_show, _in_order(each.scores))] for each in assays]
    if len(assays) > 1:
        for kind, means in sorted(summary.by_selection.items()):
            rows.append([f"mean of {kind}", "", *(_show(_score_of(means, name)) for name in METRICS)])
        rows.append(["average over types", "", *map(_show, _in_order(summary.average))])
    return tabulate(rows, headers=["assay", "mutants", *_HEADERS], disable_numparse=True)


def _in_order(scores: Mapping[str, Score]) -> list[Score | None]:
    return [scores.get(name) for name in METRICS]


def _score_of(means: Mapping[str, float], name: str) -> Score | None:
    return Score(means[name]) if name in means else None


def _show(score: Score | None) -> str:
    if score is None:
        return "-"
    interval = "" if score.low is None else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{score.value:.3f}{interval}"


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Writes a table as CSV, whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with replacing(path) as partial:
            table.to_csv(partial, index=False)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _score_files(path: Path, assays: Sequence[Assay]) -> list[Path]:
    return [path / f"{assay.name}.csv" for assay in assays] if _is_folder(path) else [path]


def _metrics_file(path: Path) -> Path:
    return path / "metrics.csv" if _is_folder(path) else path.with_suffix(".metrics.csv")
