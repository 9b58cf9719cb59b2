"""ProteinGym's metrics of an assay (Notin et al. 2023), and a bootstrap interval of Spearman's correlation.

As in ``performance_DMS_benchmarks.py`` of the package ``proteingym``, to whose numbers these are equal.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from plm_composer.evaluation.results import Score

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_TOP_PERCENT = 10
_RESAMPLES = 1000
_VALUES_AT_ONCE = 2_000_000
"""Number of resampled values that are held at once: 16 MB an array."""


def evaluate_assay(measured: FloatArray, scores: FloatArray, binary: FloatArray | None) -> dict[str, Score]:
    """Computes all metrics of one assay.

    Args:
        measured: The measured values, shape (mutants,); higher is fitter.
        scores: The model's, shape (mutants,).
        binary: Whether each mutant counts as fit, 0 or 1, NaN if unknown, shape (mutants,); None if all are unknown.

    Returns:
        ``spearman`` with its interval, ``ndcg``, ``top_recall``, and ``auc`` and ``mcc`` if both classes occur; without
        those that are not defined, as of constant scores or of fewer than ten mutants.
    """
    found = {
        "spearman": Score(spearman(measured, scores), *spearman_interval(measured, scores)),
        "ndcg": Score(ndcg(measured, scores)),
        "top_recall": Score(top_recall(measured, scores)),
    }
    known = np.zeros(0, dtype=np.int64) if binary is None else np.flatnonzero(~np.isnan(binary))
    if binary is not None and len(np.unique(binary[known])) == 2:
        classes, chosen = binary[known].astype(int), scores[known]
        found["auc"] = Score(float(roc_auc_score(classes, chosen)))
        found["mcc"] = Score(float(matthews_corrcoef(classes, (chosen >= np.median(chosen)).astype(int))))
    return {name: score for name, score in found.items() if not np.isnan(score.value)}


def spearman(measured: FloatArray, scores: FloatArray) -> float:
    """Spearman's rank correlation; NaN if either is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(stats.spearmanr(measured, scores).statistic)


def spearman_interval(measured: FloatArray, scores: FloatArray) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of Spearman's correlation over bootstrap samples of the mutants; the same each time.

    Returns:
        Low and high; None for fewer than three mutants, or if a sample is constant.
    """
    if len(measured) < 3:
        return None, None
    generator = np.random.default_rng(0)
    at_once = max(1, _VALUES_AT_ONCE // len(measured))
    values = np.concatenate([
        _rank_correlations(measured, scores, generator.integers(0, len(measured), (count, len(measured))))
        for count in (min(at_once, _RESAMPLES - done) for done in range(0, _RESAMPLES, at_once))
    ])  # fmt: skip
    if np.isnan(values).any():
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def ndcg(measured: FloatArray, scores: FloatArray) -> float:
    """Normalised discounted cumulative gain of the mutants in the top tenth by score.

    The gains are the measured values, scaled to 0 to 1; ties are in the order of ``numpy.argsort``.
    """
    top = int(np.floor(len(measured) * _TOP_PERCENT / 100))
    spread = measured.max() - measured.min()
    if spread == 0:
        return float("nan")
    gains = (measured - measured.min()) / spread
    best = _discounted(gains, gains, top)
    return _discounted(gains, scores, top) / best if best else float("nan")


def top_recall(measured: FloatArray, scores: FloatArray) -> float:
    """Share of the measured top tenth that is among the top tenth by score."""
    best = measured >= np.percentile(measured, 100 - _TOP_PERCENT)
    chosen = scores >= np.percentile(scores, 100 - _TOP_PERCENT)
    return float((best & chosen).sum() / best.sum())


def _rank_correlations(measured: FloatArray, scores: FloatArray, samples: IntArray) -> FloatArray:
    """Spearman's correlation of each row of indices, shape (samples,); NaN where a row is constant."""
    left, right = (stats.rankdata(values[samples], axis=1) for values in (measured, scores))
    left, right = (ranks - ranks.mean(1, keepdims=True) for ranks in (left, right))
    with np.errstate(invalid="ignore"):
        return (left * right).sum(1) / np.sqrt((left**2).sum(1) * (right**2).sum(1))


def _discounted(gains: FloatArray, order: FloatArray, top: int) -> float:
    ranks = np.argsort(np.argsort(-order)) + 1
    chosen = ranks <= top
    return float(np.sum(gains[chosen] / np.log2(ranks[chosen] + 1)))
