"""Finds duplicate proteins by 64-bit hash (8 bytes each), vectorised."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

Digests = npt.NDArray[np.uint64]


class DigestSet:
    """A set of digests in sorted runs; runs of similar size are merged, so that there are at most log2(n) of them."""

    def __init__(self) -> None:
        self._runs: list[Digests] = []

    def contains(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Whether each digest is in the set, shape (len(digests),)."""
        found = np.zeros(len(digests), dtype=np.bool_)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, digests), len(run) - 1)
            found |= run[places] == digests
        return found

    def add(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Adds digests; returns whether each was new, of equal ones only the first, shape (len(digests),)."""
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
    """Finds repeats, and training proteins that are in validation; it must see all proteins in order.

    Args:
        against_val: Whether to drop training proteins that are in validation, which must come first.
        deduplicate: Whether to drop exact repeats.
    """

    def __init__(self, *, against_val: bool, deduplicate: bool) -> None:
        self._against_val = against_val
        self._deduplicate = deduplicate
        self._seen, self._in_val = DigestSet(), DigestSet()

    def keep(self, digests: Digests, *, is_val: bool, dropped: Counter[str]) -> npt.NDArray[np.bool_]:
        """Filters the next proteins.

        Args:
            digests: Hash of each protein, shape (proteins,).
            is_val: Whether the proteins are in validation.
            dropped: Counts dropped proteins by reason.

        Returns:
            Whether to keep each protein, shape (proteins,).
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
