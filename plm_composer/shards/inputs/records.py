"""Turns blocks of raw records into cleaned proteins, split into training and validation and encoded as samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import compress
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import xxhash

from plm_composer.errors import UserError
from plm_composer.files.mds import SIZE_BYTES, encode_samples
from plm_composer.shards.inputs.cleaning import KEPT, OUTCOMES, Lengths, Rules, clean, cut, judge
from plm_composer.shards.inputs.clusters import ClusterTable, Membership
from plm_composer.shards.inputs.split import TRAIN, VAL, validation_mask


class Block(Protocol):
    """Consecutive whole records of one source; a block is small, since several are in memory at once."""

    @property
    def split(self) -> str:
        """``train`` or ``val``."""

    def sequences(self) -> tuple[bytes, Lengths]:
        """Raw text of all records, without headers, and the number of bytes of each, shape (records,)."""

    def locate_invalid(self) -> tuple[str, bytes]:
        """File and line of the first character that no rule accepts, and the character."""


class NamedBlock(Block, Protocol):
    """A block whose records have names, which a list of clusters uses."""

    def names(self) -> list[bytes]:
        """The name of each record."""

    def locate(self, record: int) -> str:
        """File and line where a record starts, such as ``x.fasta, line 3``."""


@dataclass(frozen=True)
class Records:
    """Cleaned proteins.

    Attributes:
        samples: All proteins, one after the other, as a shard holds them: the number of residues, then the residues.
        lengths: Number of residues of each protein, shape (proteins,).
        digests: 64-bit hash of each protein's residues, shape (proteins,).
        membership: Clusters of the proteins; None without clusters.
    """

    samples: bytes
    lengths: Lengths
    digests: npt.NDArray[np.uint64]
    membership: Membership | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, mask: npt.NDArray[np.bool_]) -> Records:
        """The proteins for which ``mask``, shape (proteins,), is true; ``self`` if all are."""
        if mask.all():
            return self
        samples = cut(self.samples, self.lengths + SIZE_BYTES)
        membership = None if self.membership is None else self.membership.select(mask)
        return Records(b"".join(compress(samples, mask.tolist())), self.lengths[mask], self.digests[mask], membership)


@dataclass(frozen=True)
class ParsedBlock:
    """The proteins of a block by split, and how many records were dropped for which reason."""

    records: dict[str, Records]
    dropped: Counter[str]


def judge_block(block: Block, rules: Rules) -> tuple[list[bytes], npt.NDArray[np.uint8]]:
    """Cleans the records of a block and applies the rules.

    Returns:
        The residues of each record, dropped ones included, and each record's index into ``OUTCOMES``.

    Raises:
        UserError: A character that no rule accepts, unless ``rules.invalid`` is ``drop``.
    """
    residues, lengths = clean(*block.sequences())
    outcomes = judge(residues, lengths, rules)
    if rules.invalid == "error" and (outcomes == OUTCOMES.index("invalid_character")).any():
        place, character = block.locate_invalid()
        raise UserError(
            f"{place}: character {ascii(character)[1:]} in a sequence; fix the file, or "
            "drop such records with --invalid drop"
        )
    return cut(residues, lengths), outcomes


def parse_block(block: Block, rules: Rules, val_fraction: float, clusters: ClusterTable | None = None) -> ParsedBlock:
    """Cleans, filters and splits the records of a block.

    Args:
        block: The records; with ``clusters``, a ``NamedBlock``.
        rules: Which records are kept.
        val_fraction: Share of the training sources that goes to validation, 0 to below 1.
        clusters: The clusters that the split keeps whole.

    Raises:
        UserError: A character that no rule accepts, unless ``rules.invalid`` is ``drop``; or a protein that
            ``clusters`` does not list, unless it allows that.
    """
    proteins, outcomes = judge_block(block, rules)
    kept = outcomes == 0
    if not kept.all():
        proteins = list(compress(proteins, kept.tolist()))
    lengths = np.fromiter(map(len, proteins), dtype=np.int64, count=len(proteins))
    digests = np.fromiter(map(xxhash.xxh3_64_intdigest, proteins), dtype=np.uint64, count=len(proteins))

    membership = None if clusters is None else _find_clusters(cast(NamedBlock, block), kept, digests, clusters)

    def records(chosen: npt.NDArray[np.bool_]) -> Records:
        samples = proteins if chosen.all() else compress(proteins, chosen.tolist())
        members = None if membership is None else membership.select(chosen)
        return Records(encode_samples(samples, lengths[chosen]), lengths[chosen], digests[chosen], members)

    to_val = validation_mask(block.split, digests, membership, val_fraction)
    if to_val is None:
        by_split = {block.split: Records(encode_samples(proteins, lengths), lengths, digests, membership)}
    else:
        by_split = {TRAIN: records(~to_val), VAL: records(to_val)}
    counts = np.bincount(outcomes, minlength=len(OUTCOMES)).tolist()
    dropped = Counter({name: n for name, n in zip(OUTCOMES, counts, strict=True) if n and name != KEPT})
    return ParsedBlock(by_split, dropped)


def _find_clusters(
    block: NamedBlock, kept: npt.NDArray[np.bool_], digests: npt.NDArray[np.uint64], clusters: ClusterTable
) -> Membership:
    names = list(compress(block.names(), kept.tolist()))
    found = clusters.membership(names, digests)
    if clusters.unlisted == "error" and not found.listed.all():
        first = int(found.listed.argmin())
        name = names[first].decode("utf-8", "replace")[:60]
        raise UserError(
            f"{block.locate(int(np.flatnonzero(kept)[first]))}: '{name}' is in no cluster of {clusters.path}; fix the "
            "list, or treat such proteins as clusters of their own with --unlisted alone"
        )
    return found
