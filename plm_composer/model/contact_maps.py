"""What contacts are read from: symmetric maps of residue pairs, without what their rows and columns explain."""

from __future__ import annotations

import torch
from torch import Tensor


def correct_average_product(maps: Tensor) -> Tensor:
    """Subtracts the average product correction (Dunn et al. 2008): row sum times column sum, over the sum.

    Args:
        maps: Maps of residue pairs, shape (..., length, length).
    """
    return maps - maps.sum(-1, keepdim=True) * maps.sum(-2, keepdim=True) / maps.sum((-1, -2), keepdim=True)


class ContactMaps:
    """One layer's attention maps, symmetrised and corrected by the average product, as Rao et al. 2021 and fair-esm do.

    What is asked of them is computed from the maps and their sums, because the corrected maps of all heads would take
    several times the memory and time.

    Args:
        attention: Attention maps of a layer, shape (proteins, heads, length, length).
        keep: True on residues, False on special tokens to leave out, shape (proteins, length).
    """

    def __init__(self, attention: Tensor, keep: Tensor) -> None:
        inner = keep[:, 1:-1]  # without the first and the last position
        self._maps = attention[..., 1:-1, 1:-1] * (inner[:, None, :, None] & inner[:, None, None, :])
        self._sums = self._maps.sum(-1) + self._maps.sum(-2)  # of the symmetric maps: (proteins, heads, length - 2)
        self._total = self._sums.sum(-1, keepdim=True)

    def corrected(self) -> Tensor:
        """The corrected maps, shape (proteins, heads, length - 2, length - 2)."""
        return correct_average_product(self._maps + self._maps.transpose(-1, -2))

    def weighted(self, weights: Tensor) -> Tensor:
        """Sums the corrected maps over heads, with weights of shape (heads,): (proteins, length - 2, length - 2)."""
        weights = weights.to(self._maps.dtype)
        mixed = torch.einsum("phij,h->pij", self._maps, weights)
        expected = (self._sums * (weights[:, None] / self._total)).transpose(-1, -2) @ self._sums
        return mixed + mixed.transpose(-1, -2) - expected

    def at(self, protein: int, rows: Tensor, columns: Tensor) -> Tensor:
        """The corrected maps of one protein at some pairs of residues, shape (heads, pairs)."""
        maps, sums = self._maps[protein], self._sums[protein]
        expected = sums[:, rows] * sums[:, columns] / self._total[protein]
        return maps[:, rows, columns] + maps[:, columns, rows] - expected
