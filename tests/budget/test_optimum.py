"""Sizes and batches for an amount of compute."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from plm_composer.budget.optimum import (
    MEASURED,
    SIZES,
    best_adamw_rate,
    best_batch,
    best_parameters,
    worth_of,
)
from plm_composer.model.config import ESM2Config
from plm_composer.model.cost import parameter_count


def test_the_rule_goes_through_what_was_measured() -> None:
    for flops, parameters in MEASURED:
        assert best_parameters(flops) == pytest.approx(parameters)


@pytest.mark.parametrize("causal", [False, True])
def test_more_compute_never_gives_a_smaller_model_and_nothing_jumps(causal: bool) -> None:
    found = [best_parameters(flops, causal=causal) for flops in np.geomspace(1e10, 1e23, 400)]
    assert all(1 <= later / earlier < 1.1 for earlier, later in itertools.pairwise(found))


@pytest.mark.parametrize(("causal", "tokens"), [(False, 2.02e6 * 1e20**0.230), (True, 1.23e2 * 1e20**0.422)])
def test_large_models_follow_the_published_law(causal: bool, tokens: float) -> None:
    """The paper gives the tokens that go with the parameters: together they are the compute, 6 N D."""
    assert 6 * best_parameters(1e20, causal=causal) * tokens == pytest.approx(1e20, rel=0.1)


def test_repeated_tokens_are_worth_less() -> None:
    assert worth_of(50, 100) == 50
    assert worth_of(200, 100) == pytest.approx(197, abs=1)  # nearly as good as new ones, up to four epochs
    assert worth_of(1e9, 100) == pytest.approx(100 * 16.39)
    assert worth_of(1e9, math.inf) == 1e9


def test_batches_grow_slower_than_the_training() -> None:
    """For 7 B parameters and 100 B tokens, a batch of a million tokens and a rate of 4e-4, as is usual."""
    assert best_batch(1e11) == pytest.approx(1.1e6, rel=0.05)
    assert best_adamw_rate(7e9, 1e11) == pytest.approx(4e-4, rel=0.1)


def test_sizes_grow() -> None:
    counts = [parameter_count(ESM2Config(layers, width, width // 64, 4 * width)) for layers, width in SIZES]
    assert all(1.2 < later / earlier < 4.5 for earlier, later in itertools.pairwise(counts))
    assert all(width % 64 == 0 for _, width in SIZES)
