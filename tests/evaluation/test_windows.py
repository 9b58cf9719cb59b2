"""Windows are those of ProteinGym's scripts: here their loops, written out, beside ours."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plm_composer.errors import UserError
from plm_composer.evaluation.masked_predictions import Request, predict_tokens
from plm_composer.evaluation.windows import Window, make_windowing
from plm_composer.model.predict import tokenize
from tests.evaluation.plain_loop import small_model


def accumulate(length: int, size: int, values: np.ndarray) -> np.ndarray:
    """The ``overlapping`` loop of compute_fitness.py: values of each window, (starts, size), weighted and averaged."""
    weights = np.ones(size)
    quarter, eighth, slope = size // 4, size // 8, size / 64
    for i in range(1, quarter + 1):
        weights[i] = 1 / (1 + math.exp(-(i - eighth) / slope))
    for i in range(size - 2 - quarter, size - 1):
        weights[i] = 1 / (1 + math.exp((i - (size - 2) + eighth) / slope))
    total, weight = np.zeros(length), np.zeros(length)
    left, right, step = 0, length - size, size // 2 - 1

    def add(start: int) -> None:
        total[start : start + size] += values[start] * weights
        weight[start : start + size] += weights

    while True:
        add(left)
        add(right)
        if left + size - 1 > right:
            break
        left, right = left + step, right - step
    if left + size - 1 - right + 1 < step:
        add(int(length / 2) - size // 2)
    return total / weight


@pytest.mark.parametrize("length", [1025, 1030, 1500, 1865, 2046, 2047, 2600, 3100, 5000])
def test_sliding_windows_are_proteingyms_overlapping_ones(length: int) -> None:
    values = np.random.default_rng(0).normal(size=(length, 1024))
    windowing = make_windowing("sliding")
    expected = accumulate(length, 1024, values)
    for position in range(length):
        windows = windowing(position, length)
        mean = sum(each.weight * values[each.start][position - each.start] for each in windows)
        assert mean / sum(each.weight for each in windows) == pytest.approx(expected[position], abs=1e-12)


@pytest.mark.parametrize("length", [5, 1024, 1025, 1865, 4000])
def test_optimal_windows_are_proteingyms(length: int) -> None:
    windowing = make_windowing("optimal")
    for position in range(0, length, 7):
        if length <= 1024:
            start, end = 0, length
        elif position < 512:
            start, end = 0, 1024
        elif position >= length - 512:
            start, end = length - 1024, length
        else:
            start, end = position - 512, position + 512
        assert windowing(position, length) == [Window(start, end)]


def test_predictions_of_sliding_windows_are_weighted_means() -> None:
    model, protein = small_model(), tokenize("MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNL")
    windowing = make_windowing("sliding", 32)
    [found] = predict_tokens(model, [protein], [Request(0, (25,), 25)], windowing)
    windows = windowing(25, len(protein))
    assert len(windows) > 1
    alone = [
        predict_tokens(model, [protein[each.start : each.end]], [Request(0, (25 - each.start,), 25 - each.start)],
                       make_windowing("none"))[0]
        for each in windows
    ]  # fmt: skip
    weights = [each.weight for each in windows]
    np.testing.assert_allclose(found, np.average(alone, axis=0, weights=weights), rtol=0, atol=1e-6)


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(UserError, match="--window is 'best'; choose from optimal, sliding, preceding, none"):
        make_windowing("best")
    with pytest.raises(UserError, match="--window-tokens is 33; it must be an even number, at least 16"):
        make_windowing("optimal", 33)
