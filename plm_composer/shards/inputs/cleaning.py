"""Record rules: cleans raw text to upper-case residues, and says why a record is dropped.

The records of a block are one byte string and the length of each record, so that every step is vectorised.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.tokenizer import STANDARD_RESIDUES

Lengths = npt.NDArray[np.int64]

KEPT = "kept"
OUTCOMES = (
    KEPT,
    "empty",
    "invalid_character",
    "stop_codon_inside",
    "too_short",
    "too_long",
    "too_many_unknown",
)
"""Outcomes of a record; one with several faults is counted under the first in this order."""

_TO_UPPER = bytes.maketrans(string.ascii_lowercase.encode(), string.ascii_uppercase.encode())
_REMOVED = string.whitespace.encode() + b"-.~"
_UNKNOWN_LETTERS = bytes(sorted(set(string.ascii_uppercase.encode()) - set(STANDARD_RESIDUES.encode())))
_LETTERS_BUT_ONE = ord("Z") - ord("A")
_STANDARD, _UNKNOWN, _STOP, _INVALID = range(4)


def _kinds_of_bytes() -> npt.NDArray[np.uint8]:
    kinds = np.full(256, _INVALID, dtype=np.uint8)
    kinds[list(string.ascii_uppercase.encode())] = _UNKNOWN
    kinds[list(STANDARD_RESIDUES.encode())] = _STANDARD
    kinds[ord("*")] = _STOP
    return kinds


_KINDS = _kinds_of_bytes()
_IS_REMOVED = np.isin(np.arange(256), list(_REMOVED))


@dataclass(frozen=True)
class Rules:
    """Which records are kept.

    Attributes:
        min_length: Smallest number of residues, at least 1.
        max_length: Largest number of residues; None for no limit.
        max_unknown: Largest share of letters other than the 20 standard residues, 0 to 1.
        invalid: On a character that is not a letter, ``error`` stops the conversion and ``drop`` drops the record.
    """

    min_length: int = 1
    max_length: int | None = None
    max_unknown: float = 0.5
    invalid: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        if self.min_length < 1:
            raise UserError(f"--min-length {self.min_length}: must be 1 or more")
        if self.max_length is not None and self.max_length < self.min_length:
            raise UserError(f"--max-length {self.max_length}: must not be below --min-length {self.min_length}")
        if not 0 <= self.max_unknown <= 1:
            raise UserError(f"--max-unknown {self.max_unknown}: must be between 0 and 1")


def clean(text: bytes, lengths: Lengths) -> tuple[bytes, Lengths]:
    """Removes white space, gaps (``-``, ``.``, ``~``) and stops (``*``) at the end, and converts to upper case.

    Args:
        text: Raw text of all records, one after the other.
        lengths: Number of bytes of each record, shape (records,).

    Returns:
        Residues of all records, one after the other, and the number of residues of each, shape (records,).
    """
    letters = np.frombuffer(text, dtype=np.uint8)
    odd = np.flatnonzero(_is_no_capital(letters))
    characters = letters[odd]
    removed = odd[_IS_REMOVED[characters]]
    only_line_ends = (characters == ord("\n")).all()  # the usual case, in a third of the time
    residues = text.replace(b"\n", b"") if only_line_ends else text.translate(_TO_UPPER, _REMOVED)
    ends = _ends_without(np.cumsum(lengths), removed)
    if b"*" in residues:
        residues, ends = _strip_stops(residues, ends)
    return residues, np.diff(ends, prepend=0)


def _is_no_capital(letters: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return letters - np.uint8(ord("A")) > _LETTERS_BUT_ONE  # bytes below A wrap around to large values


def _ends_without(ends: Lengths, removed: npt.NDArray[np.intp]) -> Lengths:
    """The ends of records after the bytes at the (ascending) positions ``removed`` are deleted."""
    return ends - np.searchsorted(removed, ends)


def _strip_stops(residues: bytes, ends: Lengths) -> tuple[bytes, Lengths]:
    letters = np.frombuffer(residues, dtype=np.uint8)
    stops = np.flatnonzero(letters == ord("*"))
    owners = np.searchsorted(ends, stops, side="right")
    # A stop is at the end if only stops follow it: as many stops as letters up to the end of its record.
    stops_to_end = np.searchsorted(owners, owners, side="right") - np.arange(len(stops))
    at_end = stops[stops_to_end == ends[owners] - stops]
    return np.delete(letters, at_end).tobytes(), _ends_without(ends, at_end)


def judge(residues: bytes, lengths: Lengths, rules: Rules) -> npt.NDArray[np.uint8]:
    """Applies the rules to cleaned proteins.

    Args:
        residues: Residues of all proteins, one after the other, as ``clean`` leaves them.
        lengths: Number of residues of each protein, shape (proteins,).
        rules: The rules.

    Returns:
        Each protein's index into ``OUTCOMES``, shape (proteins,).
    """
    letters = np.frombuffer(residues, dtype=np.uint8)
    suspect = _is_no_capital(letters)
    for letter in _UNKNOWN_LETTERS:
        if letter in residues:
            suspect |= letters == letter
    positions = np.flatnonzero(suspect)  # few positions
    kinds = _KINDS[letters[positions]]
    owners = np.searchsorted(np.cumsum(lengths), positions, side="right")

    def count(kind: int) -> npt.NDArray[np.int64]:
        return np.bincount(owners[kinds == kind], minlength=len(lengths))

    max_length = np.inf if rules.max_length is None else rules.max_length
    faults = {
        "empty": lengths == 0,
        "invalid_character": count(_INVALID) > 0,
        "stop_codon_inside": count(_STOP) > 0,
        "too_short": lengths < rules.min_length,
        "too_long": lengths > max_length,
        "too_many_unknown": count(_UNKNOWN) > rules.max_unknown * lengths,
    }
    outcomes = np.zeros(len(lengths), dtype=np.uint8)
    for outcome in reversed(OUTCOMES[1:]):
        outcomes[faults[outcome]] = OUTCOMES.index(outcome)
    return outcomes


def first_invalid(text: bytes) -> bytes:
    """The first character of raw sequence text that no rule accepts; empty if there is none."""
    return text.translate(None, _REMOVED + string.ascii_letters.encode() + b"*")[:1]


def cut(run: bytes, lengths: Lengths) -> list[bytes]:
    """Cuts a byte string into pieces of the given lengths, shape (pieces,)."""
    ends = np.cumsum(lengths)
    return [run[start:end] for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]
