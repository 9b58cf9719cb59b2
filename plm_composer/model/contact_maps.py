"""What contacts are read from: symmetric maps of residue pairs, without what their rows and columns explain."""

from __future__ import annotations

from torch import Tensor


def correct_average_product(maps: Tensor) -> Tensor:
    """Subtracts the average product correction (Dunn et al. 2008): row sum times column sum, over the sum.

    Args:
        maps: Maps of residue pairs, shape (..., length, length).
    """
    return maps - maps.sum(-1, keepdim=True) * maps.sum(-2, keepdim=True) / maps.sum((-1, -2), keepdim=True)


def corrected_maps(attention: Tensor, keep: Tensor) -> Tensor:
    """Symmetrises and corrects attention maps, as Rao et al. 2021 and fair-esm do.

    Args:
        attention: Attention maps of a layer, shape (proteins, heads, length, length).
        keep: True on residues, False on special tokens to leave out, shape (proteins, length).

    Returns:
        Shape (proteins, heads, length - 2, length - 2): without the first and the last position.
    """
    maps = (attention * (keep[:, None, :, None] & keep[:, None, None, :]))[..., 1:-1, 1:-1]
    return correct_average_product(maps + maps.transpose(-1, -2))
