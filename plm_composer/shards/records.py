"""Blocks of raw records to cleaned proteins, split into training and validation, and encoded as samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from plm_composer.errors import UserError
from plm_composer.shards.cleaning import KEPT, OUTCOMES, Lengths, Rules, clean, cut, judge
from plm_composer.shards.mds import SIZE_BYTES, encode_samples

TRAIN, VAL = "train", "val"
SPLITS = (TRAIN, VAL)


class Block(Protocol):
    """A run of whole records of one source, small enough for a handful of them to be in memory at once."""

    @property
    def split(self) -> str:
        """``train`` or ``val``."""

    def sequences(self) -> tuple[bytes, Lengths]:
        """The raw text of all records, headers excluded, and the bytes of each, shape (records,)."""

    def locate_invalid(self) -> tuple[str, bytes]:
        """The first character that no rule accepts, and where it is, such as ``x.fasta, line 3``."""


@dataclass(frozen=True)
class Records:
    """Cleaned proteins.

    Attributes:
        samples: All proteins, one after the other, as a shard holds them: the number of residues, then the residues.
        lengths: Residues in each protein, shape (proteins,).
        digests: 64-bit hash of each protein's residues, shape (proteins,).
    """

    samples: bytes
    lengths: Lengths
    digests: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, mask: npt.NDArray[np.bool_]) -> Records:
        """The proteins for which ``mask``, shape (proteins,), is true; ``self`` when that is all of them."""
        if mask.all():
            return self
        samples = cut(self.samples, self.lengths + SIZE_BYTES)
        return Records(b"".join(compress(samples, mask.tolist())), self.lengths[mask], self.digests[mask])


@dataclass(frozen=True)
class ParsedBlock:
    """The proteins of a block by split, and how many records were dropped for which reason."""

    records: dict[str, Records]
    dropped: Counter[str]


def judge_block(block: Block, rules: Rules) -> tuple[list[bytes], npt.NDArray[np.uint8]]:
    """Cleans the records of a block and applies the rules.

    Returns:
        The residues of each record, dropped ones included, and for each an index into ``OUTCOMES``.

    Raises:
        UserError: A character that no rule accepts, unless ``rules.invalid`` is ``drop``.
    """
    residues, lengths = clean(*block.sequences())
    outcomes = judge(residues, lengths, rules)
    if rules.invalid == "error" and (outcomes == OUTCOMES.index("invalid_character")).any():
        place, character = block.locate_invalid()
        raise UserError(
            f"{place}: character {ascii(character)[1:]} in a sequence; mend the file, "
            "or leave such records out with --invalid drop"
        )
    return cut(residues, lengths), outcomes


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
        proteins = list(compress(proteins, (outcomes == 0).tolist()))
    lengths = np.fromiter(map(len, proteins), dtype=np.int64, count=len(proteins))
    digests = np.fromiter(map(xxhash.xxh3_64_intdigest, proteins), dtype=np.uint64, count=len(proteins))

    def records(chosen: npt.NDArray[np.bool_]) -> Records:
        samples = proteins if chosen.all() else compress(proteins, chosen.tolist())
        return _encoded(samples, lengths[chosen], digests[chosen])

    if block.split == TRAIN and val_threshold:
        to_val = digests < np.uint64(val_threshold)
        by_split = {TRAIN: records(~to_val), VAL: records(to_val)}
    else:
        by_split = {block.split: _encoded(proteins, lengths, digests)}
    counts = np.bincount(outcomes, minlength=len(OUTCOMES)).tolist()
    dropped = Counter({name: n for name, n in zip(OUTCOMES, counts, strict=True) if n and name != KEPT})
    return ParsedBlock(by_split, dropped)


def _encoded(proteins: Iterable[bytes], lengths: Lengths, digests: npt.NDArray[np.uint64]) -> Records:
    return Records(encode_samples(proteins, lengths), lengths, digests)
