"""The penalty is chosen on validation rows, or by folds of whole proteins, and only training rows are fitted on."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from plm_composer.evaluation.probes.fitting import FOLDS, PROBES, _folds, fit_probe


def _rows(count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(3, 5, size=(count, 40)).astype(np.float32)
    return features, features[:, 0] - features[:, 1] + rng.normal(scale=noise, size=count)


@pytest.mark.parametrize("validated", [True, False])
def test_ridge_by_hand(validated: bool) -> None:
    features, targets = _rows(90, noise=20)
    is_validation = np.arange(90) >= 60 if validated else np.zeros(90, dtype=bool)
    fitted, penalty = fit_probe("regression", features, targets, np.arange(90), is_validation)
    train = ~is_validation
    splits = [(train, is_validation)] if validated else [
        (np.isin(np.arange(90), one), np.isin(np.arange(90), other)) for one, other in _folds(np.arange(90))
    ]  # fmt: skip

    def score(alpha: float) -> float:
        found = []
        for one, other in splits:
            scaler = StandardScaler().fit(features[one])
            model = Ridge(alpha=alpha).fit(scaler.transform(features[one]), targets[one])
            found.append(model.score(scaler.transform(features[other]), targets[other]))
        return float(np.mean(found))

    assert penalty == max(PROBES["regression"].values, key=score)
    scaler = StandardScaler().fit(features[train])
    expected = Ridge(alpha=penalty).fit(scaler.transform(features[train]), targets[train])
    new = _rows(10, 0, seed=1)[0]
    np.testing.assert_allclose(fitted.predict(new), expected.predict(scaler.transform(new)), rtol=1e-4)


def test_noise_asks_for_a_larger_penalty() -> None:
    none = np.zeros(60, dtype=bool)
    quiet, loud = (fit_probe("regression", *_rows(60, noise), np.arange(60), none)[1] for noise in (0.01, 100))
    assert quiet < loud


def test_folds_are_of_whole_proteins() -> None:
    proteins = np.repeat(np.arange(11), 4)
    seen = []
    for train, held_out in _folds(proteins):
        assert set(proteins[train]).isdisjoint(proteins[held_out])
        seen += held_out.tolist()
    assert sorted(seen) == list(range(44))
    assert len(_folds(proteins)) == FOLDS


def test_classes_are_found() -> None:
    features, targets = _rows(120, noise=1)
    classes = np.where(targets > 0, "high", "low")
    fitted, _ = fit_probe("classes", features, classes, np.arange(120), np.zeros(120, dtype=bool))
    new, values = _rows(50, 0, seed=1)
    assert (fitted.predict(new) == np.where(values > 0, "high", "low")).mean() > 0.85
