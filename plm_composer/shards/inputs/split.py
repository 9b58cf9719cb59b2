"""Decides which proteins go to training and which to validation.

A protein of a training source goes to validation if a 64-bit hash (XXH3) is below ``val_fraction`` x 2^64: the hash of
its residues or, with clusters, of the name of its cluster. The decision depends on nothing else, so that reordering the
input or adding to it moves no protein, equal sequences and whole clusters stay on one side, and a larger fraction only
adds to validation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from plm_composer.shards.inputs.clusters import Membership

TRAIN, VAL = "train", "val"
SPLITS = (TRAIN, VAL)


def validation_mask(
    source_split: str, digests: npt.NDArray[np.uint64], membership: Membership | None, val_fraction: float
) -> npt.NDArray[np.bool_] | None:
    """Chooses the proteins that go to validation.

    Args:
        source_split: The split that the source is read for; a validation source goes to validation as a whole.
        digests: Hash of each protein's residues, shape (proteins,).
        membership: Clusters of the proteins, whose keys then decide; None without clusters.
        val_fraction: Share of the training sources that goes to validation, 0 to below 1.

    Returns:
        Whether each protein goes to validation, shape (proteins,); None if all go to ``source_split``.
    """
    threshold = int(val_fraction * 2**64)
    if source_split != TRAIN or not threshold:
        return None
    hashes = digests if membership is None else membership.keys
    return hashes < np.uint64(threshold)
