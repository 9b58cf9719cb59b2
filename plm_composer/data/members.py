"""Records that hold a whole cluster: one member is seen in an epoch, as ESM2 samples UniRef50 and its members.

Lin et al., "Evolutionary-scale prediction of atomic-level protein structure with a language model", Science 2023:
draw a UniRef50 cluster, then one of its UniRef90 members.
"""

from __future__ import annotations

from plm_composer.data.randomness import Purpose, sample_keys, uniform
from plm_composer.files.mds import MEMBER_SEPARATOR


def draw_member(record: bytes, seed: int, epoch: int, sample_id: int) -> bytes:
    """Draws a member, each with the same chance: a pure function of (seed, epoch, sample_id).

    Args:
        record: What a shard holds: the residues of one protein, or of several with ``MEMBER_SEPARATOR`` between.
        seed: The run's seed.
        epoch: Epoch in which the record is seen.
        sample_id: Its index in the dataset.

    Returns:
        The residues of one protein.
    """
    if MEMBER_SEPARATOR not in record:
        return record
    members = record.split(MEMBER_SEPARATOR)
    return members[int(uniform(sample_keys(seed, epoch, sample_id), Purpose.MEMBER)[0] * len(members))]


def first_member(record: bytes) -> bytes:
    """The representative of a cluster, which the converter puts first; a single protein itself."""
    return record.partition(MEMBER_SEPARATOR)[0]
