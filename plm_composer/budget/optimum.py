"""The size of a model and of its batches for an amount of compute: measured optima at minutes, published laws beyond.

The optima at minutes are those of `benchmarks/studies/sizes` and `sizes_20min` on two CPU cores. Beyond them, masked
language models of proteins follow Cheng et al. 2024 ("Training Compute-Optimal Protein Language Models"), who trained
more than 300 models of 3.5 M parameters and more; between the last measured optimum and the first compute of theirs,
the line that joins the two in logarithms. Batches and AdamW's learning rate follow Li et al. 2025 ("Predictable Scale:
Part I, Step Law"), found with texts.
"""

from __future__ import annotations

import math

import numpy as np

MEASURED = ((5e12, 2.2e5), (4e13, 4.5e5), (2e14, 1.3e6))
"""FLOPs that a training would reach at the speed of its first steps, and the best number of parameters. These are
budgets of 1, 5 and 20 minutes on two CPU cores. The last lies between 0.94 M and 1.83 M, which were equal."""
LEAST_PROTEINS = 16
"""Proteins of the smallest batch: 8 were worse at one, two and five minutes."""
_LAW_FROM = 1e18
"""FLOPs from which Cheng et al. trained."""
_LAWS = {False: (6.19e-8, 0.776), True: (1.26e-3, 0.578)}
"""Factor and exponent of the best number of parameters by FLOPs, of masked models and of causal ones."""
_REPETITIONS = 15.39
"""Epochs after which the worth of further ones has fallen to 1/e (Muennighoff et al. 2023)."""
SIZES = (
    (1, 64), (1, 128), (1, 192), (2, 192), (3, 192), (4, 192), (4, 256), (5, 320), (6, 384), (8, 448), (10, 512),
    (12, 640), (14, 768), (18, 896), (24, 1024), (28, 1152), (33, 1280), (36, 1792), (36, 2560),
)  # fmt: skip
"""Layers and widths to choose from, heads of 64: below the published sizes, and between them."""


def best_parameters(flops: float, *, causal: bool = False) -> float:
    """The best number of parameters for a training.

    Args:
        flops: Floating-point operations of the whole training, of matrix products alone.
        causal: Whether the model predicts next residues.
    """
    factor, exponent = _LAWS[causal]
    if flops >= _LAW_FROM:
        return float(factor * flops**exponent)
    points = [*MEASURED, (_LAW_FROM, factor * _LAW_FROM**exponent)]
    x, y = np.log(points).T
    if flops < MEASURED[0][0]:  # goes on as it begins
        return math.exp(y[0] + (y[1] - y[0]) / (x[1] - x[0]) * (math.log(flops) - x[0]))
    return math.exp(np.interp(math.log(flops), x, y))


def worth_of(tokens: float, unique: float) -> float:
    """Number of tokens without repetition that are worth as much as some epochs (Muennighoff et al. 2023).

    Args:
        tokens: Number of tokens that are trained on.
        unique: Number of tokens in the data.
    """
    if tokens <= unique:
        return tokens
    repetitions = tokens / unique - 1
    return unique * (1 + _REPETITIONS * (1 - math.exp(-repetitions / _REPETITIONS)))


def best_batch(tokens: float) -> float:
    """The best number of tokens in a batch, for a training of so many tokens (Li et al. 2025)."""
    return float(0.58 * tokens**0.571)


def best_adamw_rate(parameters: float, tokens: float) -> float:
    """The best learning rate of AdamW for so many parameters, without the table, and tokens (Li et al. 2025)."""
    return float(1.79 * parameters**-0.713 * tokens**0.307)
