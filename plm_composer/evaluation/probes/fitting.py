"""Linear models on frozen features, whose penalty is chosen on validation data or by cross-validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
FOLDS = 5
"""Number of folds of the cross-validation."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """A kind of linear model.

    Args:
        make: Makes the unfitted model of scikit-learn.
        penalty: Name of its argument that sets the penalty.
        values: Penalties to choose from.
    """

    make: Callable[[], Any]
    penalty: str
    values: tuple[float, ...]


def _ridge() -> Any:
    from sklearn.linear_model import Ridge

    return Ridge()


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


_REGRESSION = Probe(_ridge, "alpha", tuple(10.0**power for power in range(-1, 7)))
_CLASSIFICATION = Probe(_logistic, "C", tuple(10.0**power for power in range(-5, 2)))
PROBES: Mapping[str, Probe] = {
    "regression": _REGRESSION,
    "classes": _CLASSIFICATION,
    "residues": _CLASSIFICATION,
}
"""Probes by the kind of the targets."""


def fit_probe(
    kind: str, features: FloatArray, targets: npt.NDArray[Any], proteins: IntArray, is_validation: npt.NDArray[np.bool_]
) -> tuple[Any, float]:
    """Standardises features, chooses the penalty, and fits on the training rows.

    The penalty is that with the best R2 or accuracy on the validation rows; if there are none, on average over
    ``FOLDS`` folds of the training proteins. Means and deviations are those of the rows that are fitted on.

    Args:
        kind: Key of ``PROBES``.
        features: Shape (rows, features), rows of training and validation.
        targets: Numbers or classes, shape (rows,).
        proteins: Which protein each row belongs to; no protein is on both sides of a fold, shape (rows,).
        is_validation: True for the rows that only choose the penalty, shape (rows,).

    Returns:
        The fitted pipeline of scikit-learn, and the penalty.
    """
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    probe = PROBES[kind]
    pipeline = Pipeline([("standardise", StandardScaler()), ("probe", probe.make())])
    train = np.flatnonzero(~is_validation)
    splits = [(train, np.flatnonzero(is_validation))] if is_validation.any() else _folds(proteins)
    search = GridSearchCV(pipeline, {f"probe__{probe.penalty}": list(probe.values)}, cv=splits, refit=False)
    search.fit(features, targets)
    fitted = pipeline.set_params(**search.best_params_).fit(features[train], targets[train])
    return fitted, float(search.best_params_[f"probe__{probe.penalty}"])


def _folds(proteins: IntArray) -> list[tuple[IntArray, IntArray]]:
    """Folds of whole proteins, drawn at random: tables are often sorted by their target."""
    kinds = np.unique(proteins)
    fold = np.random.default_rng(0).permutation(len(kinds)) % FOLDS
    of_row = fold[np.searchsorted(kinds, proteins)]
    return [(np.flatnonzero(of_row != number), np.flatnonzero(of_row == number)) for number in range(FOLDS)]
