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


def check_scores_file(path: Path) -> None:
    """Checks that scores can be written to a path, before they are computed.

    Args:
        path: A CSV file, or a folder for a file per assay, which is made if it is missing.

    Raises:
        UserError: The path cannot be written.
    """
    if path.suffix:
        check_writable(path)
        return
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made: {error.strerror or error}") from error
    check_writable(path / "scores.csv")


def check_scan_file(path: Path, proteins: Sequence[str]) -> None:
    """Checks that a scan can be written to a file, before it is computed.

    Args:
        path: A file that ends in ``.csv``, ``.npz`` or ``.h5``.
        proteins: Names of the proteins.

    Raises:
        UserError: The ending is another, the file cannot be written, or two proteins have one name.
    """
    if path.suffix == ".csv":
        check_writable(path)
    else:
        check_matrices(path, list(proteins))


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
    if path.suffix == ".csv":
        if len(assays) > 1:
            for assay, table in zip(assays, tables, strict=True):
                table.insert(0, "assay", assay.name)
        _write_csv(path, pd.concat(tables))
        return [path]
    files = [path / f"{assay.name}.csv" for assay in assays]
    for file, table in zip(files, tables, strict=True):
        _write_csv(file, table)
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
        low, high = each.scores["spearman"].low, each.scores["spearman"].high
        rows.append(
            {"assay": each.assay, "protein": each.protein, "selection": each.selection, "mutants": each.mutants}
            | {name: each.scores[name].value if name in each.scores else None for name in METRICS}
            | {"spearman_low": low, "spearman_high": high}
        )
    file = path.with_suffix(".metrics.csv") if path.suffix else path / "metrics.csv"
    _write_csv(file, pd.DataFrame(rows))
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
        _write_csv(path, pd.concat(tables))
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


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    try:
        with replacing(path) as partial:
            table.to_csv(partial, index=False)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
