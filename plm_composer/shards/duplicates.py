"""A set of 64-bit hashes that takes 8 bytes for each, with tests of whole arrays at once."""

from __future__ import annotations

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
