"""Tables of sequences, targets and splits, as FLIP, PEER and others have them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.shards.inputs.tables import TableFiles

IntArray = npt.NDArray[np.int64]
SPLIT_COLUMNS = ("set", "split", "stage")
"""Columns that are looked for if none is named."""
VALIDATION_COLUMN = "validation"
"""FLIP's column that takes training rows for validation."""
_SPLITS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_TRUE, _FALSE = ("true", "1", "1.0", "yes", "val"), ("false", "0", "0.0", "no", "")
_EMPTY = ("", "nan", "none", "null")
_ROWS = 65536


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Proteins with targets.

    Args:
        kind: ``regression``, ``classes`` or ``residues``.
        rows: Row of each protein in its table, from 1 for the first below the header, shape (proteins,).
        sequences: Residues of each protein, upper case.
        targets: For each protein a number, a class, or a letter for each residue.
        train: Indices of the training proteins.
        validation: Indices of the proteins that choose the penalty; empty for cross-validation.
        test: Indices of the test proteins.
        left_out: Number of rows without a target or split.
        cleaned: Number of sequences from which signs other than letters were taken.
    """

    kind: str
    rows: IntArray
    sequences: list[str]
    targets: list[float] | list[str]
    train: IntArray
    validation: IntArray
    test: IntArray
    left_out: int = 0
    cleaned: int = 0


def read_probe_table(
    path: Path,
    target: str,
    *,
    kind: str | None = None,
    sequence: str = "sequence",
    split: str | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
) -> ProbeData:
    """Reads a table: CSV, TSV, parquet or JSON lines, perhaps compressed.

    Args:
        path: The file.
        target: Column of the targets.
        kind: Kind of the targets; None to tell it from them.
        sequence: Column of the sequences.
        split: Column of the splits, whose values are such as ``train``, ``valid`` and ``test``; None for the first of
            ``SPLIT_COLUMNS`` that there is. A column ``validation`` takes training rows for validation, as in FLIP.
        train_limit: Largest number of training proteins, and of validation proteins, drawn at random; None for all.
        test_limit: Largest number of test proteins, drawn at random; None for all.

    Raises:
        UserError: The file cannot be read, a column is missing, a value is none that is known, a split is empty, or the
            kind cannot be told.
    """
    table = TableFiles([path])
    names = table.column_names
    split = split or next((name for name in SPLIT_COLUMNS if name in names), None)
    if split is None:
        raise UserError(f"{path}: has no column {', '.join(SPLIT_COLUMNS)}; name the column of splits with --split")

    def column(name: str) -> list[Any]:
        return [value for batch in table.batches(name, _ROWS) for value in batch]

    texts, raw, splits = column(sequence), column(target), [_text(value).lower() for value in column(split)]
    flags = (
        column(VALIDATION_COLUMN) if VALIDATION_COLUMN in names and split != VALIDATION_COLUMN else [""] * len(texts)
    )
    kept = [row for row in range(len(texts)) if _text(raw[row]).lower() not in _EMPTY and splits[row] not in _EMPTY]
    parts = np.array([_part_of(splits[row], flags[row], f"{path}, row {row + 1}") for row in kept])
    targets = [_text(raw[row]) for row in kept]
    sequences = [_text(texts[row]).upper() for row in kept]
    kind = kind or _kind_of(targets, sequences, path)
    if kind not in KINDS:
        raise UserError(f"--kind is {kind!r}; it must be {', '.join(KINDS)}")
    letters = [re.sub("[^A-Z]", "", text) for text in sequences]
    places = [f"{path}, row {row + 1}" for row in kept]
    if empty := next((place for place, text in zip(places, letters, strict=True) if not text), None):
        raise UserError(f"{empty}: the column {sequence!r} holds no sequence")
    checked = KINDS[kind](targets, sequences, places)
    limits = {"train": train_limit, "validation": train_limit, "test": test_limit}
    chosen = {part: _draw(np.flatnonzero(parts == part), limit) for part, limit in limits.items()}
    for part in ("train", "test"):
        if not len(chosen[part]):
            raise UserError(f"{path}: the column {split!r} has no row of the split {part}")
    return ProbeData(
        kind=kind,
        rows=np.array(kept) + 1,
        sequences=letters,
        targets=checked,
        **chosen,
        left_out=len(texts) - len(kept),
        cleaned=sum(before != after for before, after in zip(sequences, letters, strict=True)),
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _part_of(split: str, flag: Any, place: str) -> str:
    if split not in _SPLITS:
        raise UserError(f"{place}: the split {split!r} is none of {', '.join(_SPLITS)}")
    is_validation = _text(flag).lower()
    if is_validation not in _TRUE + _FALSE + _EMPTY:
        raise UserError(f"{place}: the column {VALIDATION_COLUMN!r} has {flag!r}; it must be True or False")
    return "validation" if _SPLITS[split] == "train" and is_validation in _TRUE else _SPLITS[split]


def _kind_of(targets: Sequence[str], sequences: Sequence[str], path: Path) -> str:
    numbers = {_number(target) for target in targets}
    if None in numbers:
        same_length = all(len(target) == len(sequence) for target, sequence in zip(targets, sequences, strict=True))
        return "residues" if same_length else "classes"
    if numbers <= {0.0, 1.0}:
        return "classes"
    if any(number is not None and not number.is_integer() for number in numbers):
        return "regression"
    raise UserError(f"{path}: the targets are whole numbers; say --kind regression or --kind classes")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _numbers(targets: Sequence[str], sequences: Sequence[str], places: Sequence[str]) -> list[float]:
    found = []
    for target, place in zip(targets, places, strict=True):
        number = _number(target)
        if number is None:
            raise UserError(f"{place}: the target {target!r} is not a number; say --kind classes, or correct it")
        found.append(number)
    return found


def _classes(targets: Sequence[str], sequences: Sequence[str], places: Sequence[str]) -> list[str]:
    return list(targets)


def _letters(targets: Sequence[str], sequences: Sequence[str], places: Sequence[str]) -> list[str]:
    for target, sequence, place in zip(targets, sequences, places, strict=True):
        if len(target) != len(sequence):
            raise UserError(f"{place}: the target has {len(target)} letters and the sequence {len(sequence)}")
        if not re.fullmatch("[A-Z]+", sequence):
            raise UserError(f"{place}: the sequence holds signs other than letters, and each has a target")
    return list(targets)


KINDS: Mapping[str, Callable[[Sequence[str], Sequence[str], Sequence[str]], list[float] | list[str]]] = {
    "regression": _numbers,
    "classes": _classes,
    "residues": _letters,
}
"""Kinds of targets: numbers, classes, or a class for each residue, written as a letter; each checks the targets."""


def _draw(indices: IntArray, limit: int | None) -> IntArray:
    if limit is None or len(indices) <= limit:
        return indices
    return np.sort(np.random.default_rng(0).choice(indices, limit, replace=False))
