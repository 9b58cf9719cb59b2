"""Record rules: from the raw text of a record to upper-case residues, or to the reason why it is dropped."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from plm_composer.errors import UserError
from plm_composer.tokenizer import STANDARD_RESIDUES

TRAIN, VAL = "train", "val"
SPLITS = (TRAIN, VAL)

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
"""What can become of a record; a record with several faults is counted under the first in this order."""

_TO_UPPER = bytes.maketrans(string.ascii_lowercase.encode(), string.ascii_uppercase.encode())
_REMOVED = string.whitespace.encode() + b"-.~"
_STANDARD, _UNKNOWN, _STOP, _INVALID = range(4)


def _kinds_of_bytes() -> bytes:
    kinds = np.full(256, _INVALID, dtype=np.uint8)
    kinds[list(string.ascii_uppercase.encode())] = _UNKNOWN
    kinds[list(STANDARD_RESIDUES.encode())] = _STANDARD
    kinds[ord("*")] = _STOP
    return kinds.tobytes()


_KINDS = _kinds_of_bytes()


@dataclass(frozen=True)
class Rules:
    """Which records are kept.

    Attributes:
        min_length: Fewest residues.
        max_length: Most residues; None for no limit.
        max_unknown: Largest share of letters that are not one of the 20 standard residues, 0 to 1.
        invalid: What a character that is no letter does: ``error`` stops the conversion, ``drop`` drops the record.
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


class Block(Protocol):
    """A run of whole records of one source, small enough to be one worker's task."""

    @property
    def split(self) -> str:
        """``train`` or ``val``."""

    def sequences(self) -> list[bytes]:
        """The raw text of each record, header excluded."""

    def locate_invalid(self) -> tuple[str, bytes]:
        """The first character that no rule accepts, and where it is, such as ``x.fasta, line 3``."""


@dataclass(frozen=True)
class Records:
    """Cleaned proteins.

    Attributes:
        residues: The residues of all proteins, one after the other.
        lengths: Residues in each protein, shape (proteins,).
        digests: 64-bit hash of each protein's residues, shape (proteins,).
    """

    residues: bytes
    lengths: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, mask: npt.NDArray[np.bool_]) -> Records:
        """The proteins for which ``mask``, shape (proteins,), is true; ``self`` when that is all of them."""
        if mask.all():
            return self
        letters = np.frombuffer(self.residues, dtype=np.uint8)[np.repeat(mask, self.lengths)]
        return Records(letters.tobytes(), self.lengths[mask], self.digests[mask])


@dataclass(frozen=True)
class ParsedBlock:
    """The proteins of a block by split, and how many records were dropped for which reason."""

    records: dict[str, Records]
    dropped: Counter[str]


def clean(sequence: bytes) -> bytes:
    """Removes white space, gaps (``-``, ``.``, ``~``) and stops (``*``) at the end, and turns to upper case."""
    return sequence.translate(_TO_UPPER, _REMOVED).rstrip(b"*")


def judge(proteins: Sequence[bytes], rules: Rules) -> npt.NDArray[np.uint8]:
    """Applies the rules to cleaned proteins.

    Args:
        proteins: Residues as ``clean`` leaves them.
        rules: What to keep.

    Returns:
        For each protein an index into ``OUTCOMES``, shape (len(proteins),).
    """
    lengths = np.fromiter(map(len, proteins), dtype=np.int64, count=len(proteins))
    kinds = np.frombuffer(b"".join(proteins).translate(_KINDS), dtype=np.uint8)
    positions = np.flatnonzero(kinds != _STANDARD)  # few
    owners = np.searchsorted(np.cumsum(lengths), positions, side="right")

    def count(kind: int) -> npt.NDArray[np.int64]:
        return np.bincount(owners[kinds[positions] == kind], minlength=len(proteins))

    max_length = np.inf if rules.max_length is None else rules.max_length
    faults = {
        "empty": lengths == 0,
        "invalid_character": count(_INVALID) > 0,
        "stop_codon_inside": count(_STOP) > 0,
        "too_short": lengths < rules.min_length,
        "too_long": lengths > max_length,
        "too_many_unknown": count(_UNKNOWN) > rules.max_unknown * lengths,
    }
    outcomes = np.zeros(len(proteins), dtype=np.uint8)
    for outcome in reversed(OUTCOMES[1:]):
        outcomes[faults[outcome]] = OUTCOMES.index(outcome)
    return outcomes


def judge_block(block: Block, rules: Rules) -> tuple[list[bytes], npt.NDArray[np.uint8]]:
    """Cleans the records of a block and applies the rules.

    Returns:
        The cleaned proteins, dropped ones included, and for each an index into ``OUTCOMES``.

    Raises:
        UserError: A character that no rule accepts, unless ``rules.invalid`` is ``drop``.
    """
    proteins = [clean(sequence) for sequence in block.sequences()]
    outcomes = judge(proteins, rules)
    if rules.invalid == "error" and (outcomes == OUTCOMES.index("invalid_character")).any():
        place, character = block.locate_invalid()
        raise UserError(
            f"{place}: character {ascii(character)[1:]} in a sequence; mend the file, "
            "or leave such records out with --invalid drop"
        )
    return proteins, outcomes


def first_invalid(text: bytes) -> bytes:
    """The first character of raw sequence text that no rule accepts; empty when there is none."""
    return text.translate(None, _REMOVED + string.ascii_letters.encode() + b"*")[:1]


def parse_block(block: Block, rules: Rules, val_threshold: int) -> ParsedBlock:
    """Cleans, filters and splits the records of a block.

    A protein of a training source goes to validation if the xxh3 64-bit hash of its residues is below
    ``val_threshold``: where it goes depends on nothing else, neither on order nor on the other proteins.

    Args:
        block: The records.
        rules: What to keep.
        val_threshold: Share of the training sources that goes to validation, times 2^64.

    Raises:
        UserError: A character that no rule accepts, unless ``rules.invalid`` is ``drop``.
    """
    proteins, outcomes = judge_block(block, rules)
    if outcomes.any():
        proteins = [protein for protein, outcome in zip(proteins, outcomes.tolist(), strict=True) if not outcome]
    digests = np.fromiter(map(xxhash.xxh3_64_intdigest, proteins), dtype=np.uint64, count=len(proteins))
    lengths = np.fromiter(map(len, proteins), dtype=np.int64, count=len(proteins))
    kept = Records(b"".join(proteins), lengths, digests)

    records = {block.split: kept}
    if block.split == TRAIN and val_threshold:
        to_val = digests < np.uint64(val_threshold)
        records = {TRAIN: kept.select(~to_val), VAL: kept.select(to_val)}
    counts = np.bincount(outcomes, minlength=len(OUTCOMES)).tolist()
    dropped = Counter({name: n for name, n in zip(OUTCOMES, counts, strict=True) if n and name != KEPT})
    return ParsedBlock(records, dropped)
