"""Scores against scikit-learn's and scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, r2_score

from plm_composer.evaluation.probes.scores import score_predictions


def test_numbers() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=50).round(1)  # with ties
    predictions, baseline = targets + rng.normal(size=50), rng.normal(size=50)
    scores = score_predictions("regression", targets.tolist(), predictions.tolist(), baseline.tolist())
    expected, weaker = spearmanr(targets, predictions).statistic, spearmanr(targets, baseline).statistic
    assert scores["spearman"].value == pytest.approx(expected)
    assert scores["r2"].value == pytest.approx(r2_score(targets, predictions))
    assert scores["baseline_r2"].value == pytest.approx(r2_score(targets, baseline))
    assert scores["spearman_gain"].value == pytest.approx(expected - weaker)
    for score in scores.values():
        assert score.low is not None and score.high is not None and score.low < score.value < score.high
    assert scores["spearman_gain"].low > 0


def test_constant_predictions_have_no_correlation() -> None:
    scores = score_predictions("regression", [1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    assert "spearman" not in scores and "spearman_gain" not in scores
    assert scores["baseline_spearman"].value == pytest.approx(1)


def test_classes() -> None:
    rng = np.random.default_rng(0)
    targets = rng.choice(["a", "b", "c"], p=[0.6, 0.3, 0.1], size=80).tolist()
    predictions = [each if rng.random() < 0.7 else "d" for each in targets]  # d is never right
    scores = score_predictions("classes", targets, predictions, ["a"] * 80)
    assert scores["accuracy"].value == pytest.approx(accuracy_score(targets, predictions))
    assert scores["macro_f1"].value == pytest.approx(f1_score(targets, predictions, average="macro"))
    assert scores["mcc"].value == pytest.approx(matthews_corrcoef(targets, predictions))
    assert scores["baseline_mcc"].value == 0
    assert scores["baseline_accuracy"].value == pytest.approx(accuracy_score(targets, ["a"] * 80))


def test_residues_count_together_and_proteins_are_resampled() -> None:
    targets, predictions = ["HHHH", "EC", "C"], ["HHEH", "EC", "H"]
    scores = score_predictions("residues", targets, predictions, predictions)
    flat = [list("".join(each)) for each in (targets, predictions)]
    assert scores["accuracy"].value == pytest.approx(5 / 7)
    assert scores["macro_f1"].value == pytest.approx(f1_score(*flat, average="macro"))
    assert scores["mcc"].value == pytest.approx(matthews_corrcoef(*flat))
    # A resample may hold the last protein three times, or the second.
    assert (scores["accuracy"].low, scores["accuracy"].high) == (0, 1)
    assert (scores["accuracy_gain"].low, scores["accuracy_gain"].high) == (0, 0)
