"""Precision by a hand-made case and by fair-esm's published definition."""

from __future__ import annotations

import numpy as np
import pytest

from plm_composer.evaluation.contacts.precision import DEPTHS, RANGES, average, pairs_of, precisions

LENGTH = 30


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return np.triu(matrix, 1) + np.triu(matrix, 1).T


def test_by_hand() -> None:
    scores, contacts = np.zeros((LENGTH, LENGTH), np.float32), np.zeros((LENGTH, LENGTH), np.int8)
    # Long range, L/5 = 6 pairs: 3 of the best 6 are in contact.
    for rank, (row, column) in enumerate([(0, 24), (0, 25), (0, 26), (1, 27), (1, 28), (2, 29)]):
        scores[row, column] = 10 - rank
        contacts[row, column] = rank % 2
    # Short range: the best pair is not resolved and does not count; the next 3 are in contact, the other 3 are not.
    scores[5, 11], contacts[5, 11] = 100, -1
    for rank, row in enumerate(range(12, 18)):
        scores[row, row + 11] = 9 - rank
        contacts[row, row + 11] = rank < 3
    # Below the least separation, and so never looked at.
    scores[20, 25], contacts[20, 25] = 1000, 1
    found = precisions(_symmetric(scores), _symmetric(contacts))
    assert found["long_precision_at_L5"] == 3 / 6
    assert found["long_precision_at_L2"] == 3 / 15
    assert found["long_precision_at_L"] == 3 / 21  # there are 21 pairs of this range, fewer than L
    assert found["short_precision_at_L5"] == 3 / 6
    assert found["short_precision_at_L"] == 3 / 30
    assert found["medium_precision_at_L5"] == 0


def test_equal_scores_share_the_last_places() -> None:
    contacts = np.zeros((LENGTH, LENGTH), np.int8)
    contacts[0, 24:] = 1
    share = (LENGTH - 24) / 21
    found = precisions(np.zeros((LENGTH, LENGTH), np.float32), _symmetric(contacts))
    assert found["long_precision_at_L5"] == pytest.approx(share)  # whatever the order of pairs
    scores = np.zeros((LENGTH, LENGTH), np.float32)
    scores[0, 24] = 1
    found = precisions(_symmetric(scores), _symmetric(contacts))
    assert found["long_precision_at_L5"] == pytest.approx((1 + 5 * (LENGTH - 25) / 20) / 6)


def test_random_scores_by_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    length = 67
    scores = _symmetric(rng.normal(size=(length, length))).astype(np.float32)
    contacts = _symmetric(rng.choice([-1, 0, 1], p=[0.1, 0.7, 0.2], size=(length, length))).astype(np.int8)
    found = precisions(scores, contacts)
    for name, (least, below) in RANGES.items():
        pairs = [
            (scores[i, j], contacts[i, j] == 1)
            for i in range(length) for j in range(i, length)
            if least <= j - i < (below or length) and contacts[i, j] != -1
        ]  # fmt: skip
        pairs.sort(reverse=True)
        for depth, divisor in DEPTHS.items():
            top = pairs[: length // divisor]
            assert found[f"{name}_precision_at_{depth}"] == pytest.approx(np.mean([hit for _, hit in top]))


def test_pairs_are_of_the_range_and_resolved() -> None:
    contacts = np.zeros((9, 9), np.int8)
    contacts[0, 7] = contacts[7, 0] = -1
    rows, columns = pairs_of(contacts, 6, 8)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 6), (1, 7), (1, 8), (2, 8)]


def test_a_short_protein_has_no_long_range_and_does_not_count_in_its_mean() -> None:
    short = precisions(np.zeros((20, 20), np.float32), np.ones((20, 20), np.int8))
    long = precisions(np.zeros((40, 40), np.float32), np.zeros((40, 40), np.int8))
    assert np.isnan(short["long_precision_at_L"])
    scores = average([short, long, long])
    assert scores["long_precision_at_L"].value == 0
    assert scores["short_precision_at_L"].value == pytest.approx(1 / 3)
    assert scores["short_precision_at_L"].low == 0
    assert average([]) == {}
    assert "long_precision_at_L" not in average([short, short])
