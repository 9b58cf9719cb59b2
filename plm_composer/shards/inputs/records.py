"""Blocks of raw records to cleaned proteins, split into training and validation, and encoded as samples."""

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


class NamedBlock(Block, Protocol):
    """A block whose records have names, by which a list of clusters knows them."""

    def names(self) -> list[bytes]:
        """The name of each record."""

    def locate(self, record: int) -> str:
        """Where a record starts, such as ``x.fasta, line 3``."""


@dataclass(frozen=True)
class Records:
    """Cleaned proteins.

    Attributes:
        samples: All proteins, one after the other, as a shard holds them: the number of residues, then the residues.
        lengths: Residues in each protein, shape (proteins,).
        digests: 64-bit hash of each protein's residues, shape (proteins,).
        membership: The cluster of each, if there are clusters.
    """

    samples: bytes
    lengths: Lengths
    digests: npt.NDArray[np.uint64]
    membership: Membership | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, mask: npt.NDArray[np.bool_]) -> Records:
        """The proteins for which ``mask``, shape (proteins,), is true; ``self`` when that is all of them."""
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


def parse_block(block: Block, rules: Rules, val_threshold: int, clusters: ClusterTable | None = None) -> ParsedBlock:
    """Cleans, filters and splits the records of a block.

    A protein of a training source goes to validation if the xxh3 64-bit hash of its residues, or of the name of its
    cluster, is below ``val_threshold``: where it goes depends on nothing else, neither on order nor on the other
    proteins.

    Args:
        block: The records; with ``clusters``, a ``NamedBlock``.
        rules: What to keep.
        val_threshold: Share of the training sources that goes to validation, times 2^64.
        clusters: The clusters that must not be torn apart.

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

    if block.split == TRAIN and val_threshold:
        to_val = (digests if membership is None else membership.keys) < np.uint64(val_threshold)
        by_split = {TRAIN: records(~to_val), VAL: records(to_val)}
    else:
        by_split = {block.split: Records(encode_samples(proteins, lengths), lengths, digests, membership)}
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
            f"{block.locate(int(np.flatnonzero(kept)[first]))}: '{name}' is in no cluster of {clusters.path}; mend the "
            "list, or treat such proteins as clusters of their own with --unlisted alone"
        )
    return found
