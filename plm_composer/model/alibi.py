"""ALiBi (Press et al. 2022): each head lowers its scores in proportion to distance; there is no other position signal.

Proteins are read in both directions, so the distance is |i - j|. Slopes are not trained.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from plm_composer.model.sending import send


@dataclasses.dataclass(frozen=True)
class Alibi:
    """What ALiBi subtracts from scores, computed once for proteins up to some length.

    Args:
        slopes: Slope of each head, shape (heads,), in the dtype of the scores.
        distance: Distance between any two positions, shape (longest, longest), in the same dtype.
    """

    slopes: Tensor
    distance: Tensor

    def repeated(self, proteins: int) -> Alibi:
        """Repeats the slopes for several proteins, whose heads follow each other."""
        return self if proteins == 1 else dataclasses.replace(self, slopes=self.slopes.repeat(proteins))

    def subtract_from(self, scores: Tensor, heads: slice) -> None:
        """Lowers scores in place.

        Args:
            scores: Scores of some heads, shape (these heads, length, length).
            heads: Indices of these heads.
        """
        length = scores.shape[-1]
        scores.addcmul_(self.distance[:length, :length], self.slopes[heads, None, None], value=-1)


def distances(longest: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Computes the distance between any two positions, shape (longest, longest).

    Args:
        longest: Length of the longest protein.
        device: Device of the result.
        dtype: Data type of the result.
    """
    position = torch.arange(longest, device=device)
    return (position[:, None] - position).abs().to(dtype)


def alibi_bias(slopes: Tensor, length: int) -> Tensor:
    """The bias to add to the scores of a protein, shape (heads, length, length)."""
    return -slopes[:, None, None] * distances(length, slopes.device, slopes.dtype)


def alibi_slopes(heads: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The slopes of the heads, shape (heads,).

    They are a geometric series from 2^(-8 / heads) to 2^-8. If the number of heads is not a power of 2, the authors
    take the series of the next lower power, and every other slope of the next higher one.

    Args:
        heads: Number of heads.
        device: Device of the result; None for the CPU.
        dtype: Data type of the result.
    """
    lower = 2 ** math.floor(math.log2(heads))
    exponents = [-8 * (number + 1) / lower for number in range(lower)]
    exponents += [-8 * (2 * number + 1) / (2 * lower) for number in range(heads - lower)]
    slopes = torch.tensor([2**exponent for exponent in exponents], device="cpu", dtype=dtype)
    return slopes if device is None else send(slopes, device)
