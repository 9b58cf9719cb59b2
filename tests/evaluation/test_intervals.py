"""Intervals are scipy's percentile bootstrap, and what is not defined has none."""

from __future__ import annotations

import numpy as np
import scipy.stats

from plm_composer.evaluation.intervals import bootstrap
from plm_composer.evaluation.results import Score


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=60)
    ours = bootstrap(lambda chosen: {"mean": float(values[chosen].mean())}, 60, resamples=20_000)["mean"]
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, random_state=0)
    assert ours.value == values.mean()
    np.testing.assert_allclose((ours.low, ours.high), theirs.confidence_interval, atol=0.01)


def test_it_is_the_same_each_time() -> None:
    values = np.arange(10.0)
    first, second = (bootstrap(lambda chosen: {"mean": float(values[chosen].mean())}, 10) for _ in range(2))
    assert first == second


def test_one_protein_has_no_interval_and_what_is_not_defined_no_score() -> None:
    assert bootstrap(lambda chosen: {"a": 1.0, "b": float("nan")}, 1) == {"a": Score(1.0)}
    rare = bootstrap(lambda chosen: {"a": 1.0 if set(chosen) == {0, 1, 2} else float("nan")}, 3)
    assert rare == {"a": Score(1.0)}
