"""Proteins that come again, found by 64-bit hashes that take 8 bytes for each, with tests of whole arrays at once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

Digests = npt.NDArray[np.uint64]


class DigestSet:
    """Digests in a few sorted runs; like runs are merged, so that there are at most log2(n) of them."""

    def __init__(self) -> None:
        self._runs: list[Digests] = []

    def contains(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """For each digest whether it is in the set, shape (len(digests),)."""
        found = np.zeros(len(digests), dtype=np.bool_)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, digests), len(run) - 1)
            found |= run[places] == digests
        return found

    def add(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Adds digests; returns for each whether it was new, the first of equal ones being so."""
        values, firsts = np.unique(digests, return_index=True)
        unseen = ~self.contains(values)
        run = values[unseen]
        while len(run) and self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # two sorted halves: a merge
        if len(run):
            self._runs.append(run)
        new = np.zeros(len(digests), dtype=np.bool_)
        new[firsts[unseen]] = True
        return new


class RepeatFilter:
    """Decides what only the order of all proteins can tell: which are repeats, or in validation already.

    Args:
        against_val: Whether validation comes first, and training leaves out what is in it.
        deduplicate: Whether to leave out exact repeats.
    """

    def __init__(self, *, against_val: bool, deduplicate: bool) -> None:
        self._against_val = against_val
        self._deduplicate = deduplicate
        self._seen, self._in_val = DigestSet(), DigestSet()

    def keep(self, digests: Digests, *, is_val: bool, dropped: Counter[str]) -> npt.NDArray[np.bool_]:
        """Takes the next proteins.

        Args:
            digests: Hash of each protein, shape (proteins,).
            is_val: Whether they are validation's.
            dropped: Counts those that are left out, by reason.

        Returns:
            Which to keep, shape (proteins,).
        """
        keep = np.ones(len(digests), dtype=np.bool_)
        if self._against_val and is_val:
            self._in_val.add(digests)
        elif self._against_val:
            keep = ~self._in_val.contains(digests)
            dropped["in_validation"] += int((~keep).sum())
        if self._deduplicate:
            new = self._seen.add(digests[keep])
            dropped["duplicate"] += int((~new).sum())
            keep[keep] = new
        return keep
