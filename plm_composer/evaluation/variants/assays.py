"""Assays of mutants: ProteinGym's own files and other CSVs, with their targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from plm_composer.errors import UserError, first_line
from plm_composer.evaluation.variants.mutations import Variant, compare, find_offset, find_target, parse_mutant
from plm_composer.evaluation.variants.mutations import place_mutant as place
from plm_composer.tokenizer import UNK_ID, encode

MUTANT, MEASURED, BINARY = "mutant", "DMS_score", "DMS_score_bin"
SEQUENCE_COLUMNS = ("mutated_sequence", "sequence")
_CUTOFF = "DMS_binarization_cutoff"
_TARGET_NAMES = ("wt", "wildtype")
_FIRST_LINE = 2
"""Line of a CSV's first row, below the header."""


@dataclasses.dataclass(frozen=True)
class Assay:
    """Mutants of one target, with what was measured of them.

    Args:
        name: Its name: the file's, without the ending.
        table: The file's rows, all values as they were written.
        target: Residues of the target; None if unknown.
        variants: The mutants, one a row.
        measured: Measured values, NaN where missing, shape (rows,); None if the file has none.
        binary: Whether each mutant counts as fit, 0 or 1, NaN if unknown, shape (rows,); None if nothing was measured.
        protein: UniProt name of the target; the assay's name if unknown.
        selection: Coarse selection type; ``unknown`` if unknown.
    """

    name: str
    table: pd.DataFrame
    target: str | None
    variants: list[Variant]
    measured: npt.NDArray[np.float64] | None = None
    binary: npt.NDArray[np.float64] | None = None
    protein: str = ""
    selection: str = "unknown"

    def take(self, rows: npt.NDArray[np.int64]) -> Assay:
        """Some of the rows, as an assay.

        Args:
            rows: Indices of rows, shape (taken,).
        """
        return dataclasses.replace(
            self,
            table=self.table.iloc[rows],
            variants=[self.variants[row] for row in rows],
            measured=None if self.measured is None else self.measured[rows],
            binary=None if self.binary is None else self.binary[rows],
        )


def find_assays(paths: Iterable[Path]) -> list[Path]:
    """Lists the CSVs that paths name: files as they are, folders as their ``*.csv``, sorted.

    Args:
        paths: Files and folders.

    Raises:
        UserError: A path is missing, or a folder has no CSV.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob("*.csv"))
            if not inside:
                raise UserError(f"{path}: the folder has no *.csv; name assays, or a folder of them")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{path}: there is no such assay")
    return found


def read_reference(path: Path) -> dict[str, dict[str, Any]]:
    """Reads ProteinGym's reference file, such as ``DMS_substitutions.csv``.

    Args:
        path: The file.

    Returns:
        Its rows, by the name of the assay's file.

    Raises:
        UserError: The file cannot be read, or has no ``DMS_filename`` or no ``target_seq``.
    """
    table = _read_csv(path)
    for column in ("DMS_filename", "target_seq"):
        if column not in table:
            raise UserError(f"{path}: has no column {column}; give ProteinGym's reference file of assays")
    return {str(row["DMS_filename"]): dict(row) for row in table.to_dict("records")}


def read_assay(
    path: Path,
    reference: Mapping[str, Mapping[str, Any]] | None = None,
    target: str | None = None,
    offset: int | None = None,
) -> Assay:
    """Reads an assay.

    The target is the one that is given, else the reference's, else what is left when the mutations of rows that have
    both ``mutant`` and a sequence are undone.

    Args:
        path: A CSV with ``mutant`` or ``mutated_sequence`` (or ``sequence``), or both; ``DMS_score`` and
            ``DMS_score_bin`` if they were measured. ``mutant`` may hold whole sequences, as ProteinGym's files of
            insertions and deletions have it, and be empty in rows that have a sequence.
        reference: Rows of the reference by file name, from ``read_reference``.
        target: Residues of the target; None to find them.
        offset: Number of the target's first residue in ``mutant``; None for the reference's ``start_idx``, or 1.

    Raises:
        UserError: The file cannot be read, has no mutants, or a mutant does not fit the target.
    """
    table = _read_csv(path)
    row = (reference or {}).get(path.name, {})
    if not len(table):
        raise UserError(f"{path}: has no rows")
    sequences = next((table[column].str.upper() for column in SEQUENCE_COLUMNS if column in table), None)
    if MUTANT not in table and sequences is None:
        raise UserError(f"{path}: has no column {MUTANT}, {' or '.join(SEQUENCE_COLUMNS)}; it has {', '.join(table)}")
    target = target or str(row.get("target_seq") or "").upper() or None
    if offset is None:
        offset = _whole_number(row.get("start_idx") or 1, f"the reference's start_idx of {path.name}")
    has_mutants = MUTANT in table
    if has_mutants and sequences is None and all(len(each) > 1 and each.isalpha() for each in table[MUTANT]):
        has_mutants, sequences = all(each.lower() in _TARGET_NAMES for each in table[MUTANT]), table[MUTANT].str.upper()
    if has_mutants:
        variants, target = _from_mutants(path, table[MUTANT], sequences, target, offset)
    else:
        assert sequences is not None
        _check_residues(path, sequences)
        variants = [compare(target, each) if target else Variant(each, None) for each in sequences]
    measured = _numbers(path, table, MEASURED)
    return Assay(
        name=path.stem,
        table=table,
        target=target,
        variants=variants,
        measured=measured,
        binary=_binary(path, table, measured, row),
        protein=str(row.get("UniProt_ID") or path.stem),
        selection=str(row.get("coarse_selection_type") or "unknown"),
    )


def _from_mutants(
    path: Path, mutants: pd.Series, sequences: pd.Series | None, target: str | None, offset: int
) -> tuple[list[Variant], str]:
    lines = [f"{path} line {line}" for line in range(_FIRST_LINE, len(mutants) + _FIRST_LINE)]
    given = [""] * len(mutants) if sequences is None else list(sequences)
    _check_residues(path, [each for each in given if each])
    whole = [not text.strip() and bool(sequence) for text, sequence in zip(mutants, given, strict=True)]
    parsed = [[] if skip else parse_mutant(*each) for skip, *each in zip(whole, mutants, lines, strict=True)]
    if target is None:
        known = [row for row, sequence in enumerate(given) if sequence and not whole[row]]
        target = find_target([parsed[row] for row in known], [given[row] for row in known], offset)
    if target is None:
        raise UserError(
            f"{path}: the target is unknown; give --reference, --sequence, or whole mutants in a column "
            f"{SEQUENCE_COLUMNS[0]}"
        )
    try:
        variants = [
            compare(target, sequence) if is_whole else place(target, each, offset, line)
            for is_whole, sequence, each, line in zip(whole, given, parsed, lines, strict=True)
        ]
    except UserError as error:
        other = find_offset(target, parsed)
        hint = "" if other in (None, offset) else f"; all mutants fit with --offset {other}"
        raise UserError(f"{error}{hint}") from error
    for variant, line, sequence in zip(variants, lines, given, strict=True):
        if sequence and sequence != variant.sequence:
            raise UserError(f"{line}: the sequence is not the target with the mutations of this row")
    return variants, target


def _check_residues(path: Path, sequences: Sequence[str]) -> None:
    for line, sequence in enumerate(sequences, _FIRST_LINE):
        if not sequence.isalpha() or not sequence.isascii() or UNK_ID in encode(sequence.encode()):
            raise UserError(f"{path} line {line}: {sequence[:20]!r} is no sequence of residues that ESM2 knows")


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        header = pd.read_csv(path, dtype=str, keep_default_na=False, header=None, nrows=1).iloc[0]
        if not header.is_unique:
            raise UserError(f"{path}: has two columns {header[header.duplicated()].iloc[0]!r}; remove or rename one")
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: cannot be read as CSV: {first_line(error)}") from error


def _numbers(path: Path, table: pd.DataFrame, column: str) -> npt.NDArray[np.float64] | None:
    if column not in table:
        return None
    text = table[column].str.strip()
    values = pd.to_numeric(text.where(text != "", "nan"), errors="coerce").to_numpy(dtype=np.float64)
    for line, (value, written) in enumerate(zip(values, text, strict=True), _FIRST_LINE):
        if np.isnan(value) and written.lower() not in ("", "nan", "na"):
            raise UserError(f"{path} line {line}: {column} is {written!r}; write a number, or nothing")
    return values


def _binary(
    path: Path, table: pd.DataFrame, measured: npt.NDArray[np.float64] | None, row: Mapping[str, Any]
) -> npt.NDArray[np.float64] | None:
    """The file's own classes, or those of the reference's cutoff, or of the median, as ProteinGym's default is."""
    given = _numbers(path, table, BINARY)
    if given is not None:
        for line, value in enumerate(given, _FIRST_LINE):
            if value not in (0, 1) and not np.isnan(value):
                raise UserError(f"{path} line {line}: {BINARY} is {value:g}; it must be 0 or 1, or empty")
        return given
    if measured is None:
        return None
    cutoff = _numbers(path, pd.DataFrame({_CUTOFF: [str(row.get(_CUTOFF, ""))]}), _CUTOFF)
    assert cutoff is not None
    threshold = np.nanmedian(measured) if np.isnan(cutoff[0]) else cutoff[0]
    return np.where(np.isnan(measured), np.nan, measured >= threshold)


def _whole_number(value: Any, name: str) -> int:
    try:
        return int(float(value))
    except ValueError as error:
        raise UserError(f"{name} is {value!r}; it must be a whole number") from error
