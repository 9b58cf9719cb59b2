"""Bootstrap intervals of an evaluation's numbers, over proteins (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from plm_composer.evaluation.results import Score

IntArray = npt.NDArray[np.int64]
RESAMPLES = 1000
"""Number of resamples; the ends of a 95 % interval then lie on 25 resamples each."""


def bootstrap(
    statistic: Callable[[IntArray], Mapping[str, float]], proteins: int, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Score]:
    """Computes numbers of a set of proteins and their 95 % intervals, by the percentiles of resampled sets.

    Args:
        statistic: Computes numbers by name from the indices of proteins, (proteins,), int64, some of them repeated; NaN
            for one that is not defined.
        proteins: Number of proteins.
        resamples: Number of resampled sets.
        seed: Seed of the resampling.

    Returns:
        The numbers of the set itself, without those that are not defined; without an interval if the set has fewer than
        two proteins, or fewer than half of the resampled sets have such a number.
    """
    values = {name: value for name, value in statistic(np.arange(proteins)).items() if not np.isnan(value)}
    if proteins < 2:
        return {name: Score(value) for name, value in values.items()}
    draws = np.random.default_rng(seed).integers(proteins, size=(resamples, proteins))
    found = [statistic(draw) for draw in draws]
    return {name: _score(value, np.array([each[name] for each in found])) for name, value in values.items()}


def _score(value: float, resampled: npt.NDArray[np.float64]) -> Score:
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < len(resampled) / 2:
        return Score(value)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Score(value, float(low), float(high))
