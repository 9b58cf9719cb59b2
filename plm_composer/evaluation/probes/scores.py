"""Scores of a probe's predictions, with bootstrap intervals over proteins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_composer.evaluation.intervals import bootstrap
from plm_composer.evaluation.results import Score

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[IntArray], dict[str, float]]
"""Computes scores from the indices of proteins, some of them repeated."""


def spearman(targets: FloatArray, predictions: FloatArray) -> float:
    """Spearman's rank correlation; NaN if either is constant."""
    from scipy.stats import rankdata

    if np.ptp(targets) == 0 or np.ptp(predictions) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(targets), rankdata(predictions))[0, 1])


def r2(targets: FloatArray, predictions: FloatArray) -> float:
    """Share of the variance of the targets that is explained; NaN if they are constant."""
    total = np.square(targets - targets.mean()).sum()
    return float(1 - np.square(targets - predictions).sum() / total) if total > 0 else float("nan")


def accuracy(confusion: FloatArray) -> float:
    """Share of right classes, from a confusion matrix: rows are true classes."""
    return float(confusion.trace() / confusion.sum())


def macro_f1(confusion: FloatArray) -> float:
    """Mean of the F1 scores of the classes that occur as target or prediction."""
    counts = confusion.sum(0) + confusion.sum(1)
    occurs = counts > 0
    return float((2 * confusion.diagonal()[occurs] / counts[occurs]).mean())


def mcc(confusion: FloatArray) -> float:
    """Matthews' correlation coefficient for several classes (Gorodkin 2004); 0 if a side has one class only."""
    total, true, predicted = confusion.sum(), confusion.sum(1), confusion.sum(0)
    scale = (total**2 - (true**2).sum()) * (total**2 - (predicted**2).sum())
    return float((confusion.trace() * total - true @ predicted) / np.sqrt(scale)) if scale > 0 else 0.0


_NUMBER_SCORES = {"spearman": spearman, "r2": r2}
_CLASS_SCORES = {"accuracy": accuracy, "macro_f1": macro_f1, "mcc": mcc}


def _of_numbers(targets: Sequence[float], predictions: Sequence[Any]) -> Statistic:
    true, found = np.array(targets, dtype=np.float64), np.array(predictions, dtype=np.float64)
    return lambda chosen: {name: score(true[chosen], found[chosen]) for name, score in _NUMBER_SCORES.items()}


def _of_classes(targets: Sequence[str], predictions: Sequence[Any]) -> Statistic:
    return _of_residues([[each] for each in targets], [[each] for each in predictions])


def _of_residues(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> Statistic:
    sizes = np.array([len(each) for each in targets])
    true, found = (np.array([label for each in side for label in each]) for side in (targets, predictions))
    labels = np.unique(np.concatenate([true, found]))
    cells = np.searchsorted(labels, true) * len(labels) + np.searchsorted(labels, found)

    def scores(chosen: IntArray) -> dict[str, float]:
        weights = np.bincount(chosen, minlength=len(sizes)).repeat(sizes).astype(np.float64)
        confusion = np.bincount(cells, weights, len(labels) ** 2).reshape(len(labels), -1).astype(np.float64)
        return {name: score(confusion) for name, score in _CLASS_SCORES.items()}

    return scores


_STATISTICS: Mapping[str, Callable[[Any, Any], Statistic]] = {
    "regression": _of_numbers,
    "classes": _of_classes,
    "residues": _of_residues,
}


def score_predictions(
    kind: str, targets: Sequence[Any], predictions: Sequence[Any], baseline: Sequence[Any]
) -> dict[str, Score]:
    """Scores the predictions of a probe and of its baseline, and by how much the probe is better.

    Args:
        kind: Kind of the targets.
        targets: For each protein a number, a class, or a class for each residue.
        predictions: As ``targets``.
        baseline: Predictions of the baseline, as ``targets``.

    Returns:
        Scores by name: each of the probe, with the prefix ``baseline_`` that of the baseline, and with the suffix
        ``_gain`` the difference, whose interval resamples both together.
    """
    ours, theirs = (_STATISTICS[kind](targets, each) for each in (predictions, baseline))

    def scores(chosen: IntArray) -> dict[str, float]:
        probe, baseline = ours(chosen), theirs(chosen)
        return (
            probe
            | {f"baseline_{name}": value for name, value in baseline.items()}
            | {f"{name}_gain": probe[name] - value for name, value in baseline.items()}
        )

    return bootstrap(scores, len(targets))
