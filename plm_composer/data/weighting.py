"""How much each protein's predicted tokens count in the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError

Weighting = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]]
"""From the number of predicted tokens of each protein to the weight of each of its tokens, both of shape (N,)."""


def _by_root(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Lets a protein of n predicted tokens count as sqrt(n): a compromise between token and protein."""
    return np.maximum(counts, 1) ** -0.5


LOSS_WEIGHTINGS: Mapping[str, Weighting | None] = {"token": None, "sqrt": _by_root}
"""The values of ``loss_weighting``; None for tokens that count the same."""


def find_weighting(name: str) -> Weighting | None:
    """Finds a weighting by its name.

    Args:
        name: Value of ``loss_weighting``.

    Raises:
        UserError: There is no such name.
    """
    if name not in LOSS_WEIGHTINGS:
        raise UserError(f"loss_weighting is {name!r}; choose from {', '.join(LOSS_WEIGHTINGS)}")
    return LOSS_WEIGHTINGS[name]


def total_weight(counts: npt.NDArray[np.int64], weighting: Weighting | None) -> float:
    """Weight of a batch's predicted tokens together.

    Args:
        counts: Number of predicted tokens of each protein, shape (N,).
        weighting: From ``find_weighting``.
    """
    return float(counts.sum() if weighting is None else (counts * weighting(counts)).sum())
