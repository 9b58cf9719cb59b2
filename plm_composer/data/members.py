"""Draws one member per epoch from a record that holds a whole cluster, as ESM2 samples the members of UniRef50.

Lin et al., "Evolutionary-scale prediction of atomic-level protein structure with a language model", Science 2023,
draw a UniRef50 cluster, then one of its UniRef90 members.
"""

from __future__ import annotations

from plm_composer.data.randomness import Purpose, sample_keys, uniform
from plm_composer.files.mds import MEMBER_SEPARATOR


def draw_member(record: bytes, seed: int, epoch: int, sample_id: int) -> bytes:
    """Draws a member, each with the same probability: a pure function of (seed, epoch, sample_id).

    Args:
        record: A sample of a shard: the residues of one protein, or of several with ``MEMBER_SEPARATOR`` between.
        seed: The run's seed, at least 0.
        epoch: Epoch in which the record is seen, from 0.
        sample_id: Index of the record in the dataset, from 0.

    Returns:
        The residues of one protein.
    """
    if MEMBER_SEPARATOR not in record:
        return record
    members = record.split(MEMBER_SEPARATOR)
    return members[int(uniform(sample_keys(seed, epoch, sample_id), Purpose.MEMBER)[0] * len(members))]


def first_member(record: bytes) -> bytes:
    """The representative of a cluster, which the converter puts first; a record of one protein is returned as it is."""
    return record.partition(MEMBER_SEPARATOR)[0]
