"""How much each protein's predicted tokens count in the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError

FloatArray = npt.NDArray[np.float64]
Weighting = Callable[[Mapping[str, Any]], FloatArray]
"""From a batch to the weight of each predicted token of each protein, shape (N,)."""


def _by_root(batch: Mapping[str, Any]) -> FloatArray:
    """Lets a protein of n predicted tokens count as sqrt(n): a compromise between token and protein."""
    weights: FloatArray = np.maximum(batch["masked_counts"], 1) ** -0.5
    return weights


def _by_inverse_rate(batch: Mapping[str, Any]) -> FloatArray:
    """Divides by the rate at which the protein is masked, so that it counts by its length, whatever the rate."""
    return 1.0 / np.asarray(batch["mask_rates"], dtype=np.float64)


LOSS_WEIGHTINGS: Mapping[str, Weighting | None] = {"token": None, "sqrt": _by_root}
"""The values of ``loss_weighting``; None for tokens that count the same."""


def find_weighting(name: str, objective: str) -> Weighting | None:
    """Finds the weighting of a run.

    Args:
        name: Value of ``loss_weighting``.
        objective: Value of ``objective``; ``diffusion`` has a weighting of its own (Sahoo et al. 2024).

    Raises:
        UserError: There is no such name, or the objective allows none.
    """
    if name not in LOSS_WEIGHTINGS:
        raise UserError(f"loss_weighting is {name!r}; choose from {', '.join(LOSS_WEIGHTINGS)}")
    if objective != "diffusion":
        return LOSS_WEIGHTINGS[name]
    if LOSS_WEIGHTINGS[name] is not None:
        raise UserError(
            f"loss_weighting is {name!r}, and objective=diffusion weighs by the mask rate; set loss_weighting=token"
        )
    return _by_inverse_rate


def total_weight(batch: Mapping[str, Any], weighting: Weighting) -> float:
    """Weight of a batch's predicted tokens together.

    Args:
        batch: A batch as ``plm_composer.data.batches`` describes it.
        weighting: From ``find_weighting``.
    """
    return float((batch["masked_counts"] * weighting(batch)).sum())
