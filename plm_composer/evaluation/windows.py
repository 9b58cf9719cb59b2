"""Windows of proteins that are longer than a model's context, as ProteinGym's scripts for ESM models cut them.

Positions count tokens, ``<cls>`` and ``<eos>`` included, and a window of 1,024 tokens inside a protein holds neither
(``proteingym/baselines/esm/compute_fitness.py``, ``proteingym/utils/scoring_utils.py``).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError

WINDOW_TOKENS = 1024
"""The context of ESM-1v and ESM2: 1,022 residues, ``<cls>`` and ``<eos>``."""
_SHORTEST = 16


@dataclasses.dataclass(frozen=True)
class Window:
    """A piece of a protein in which one position is predicted.

    Args:
        start: Index of its first token.
        end: Index after its last token.
        weight: Weight of the prediction among those of the position's other windows; above 0.
    """

    start: int
    end: int
    weight: float = 1.0


Windowing = Callable[[int, int], list[Window]]
"""Chooses the windows of a position: (index of the token, number of tokens of the protein)."""


def _whole(position: int, length: int, size: int) -> list[Window]:
    del position, size
    return [Window(0, length)]


def _optimal(position: int, length: int, size: int) -> list[Window]:
    """The one window that has the position in its middle, or as near to it as the ends of the protein allow."""
    if length <= size:
        return [Window(0, length)]
    start = min(max(0, position - size // 2), length - size)
    return [Window(start, start + size)]


def _sliding(position: int, length: int, size: int) -> list[Window]:
    """All windows with the position; each prediction counts less the nearer the position is to the window's edge."""
    if length <= size:
        return [Window(0, length)]
    weights = _edge_weights(size)
    return [
        Window(start, start + size, float(weights[position - start]))
        for start in _sliding_starts(length, size)
        if start <= position < start + size
    ]


def _preceding(position: int, length: int, size: int) -> list[Window]:
    """The window that starts at a multiple of half its size and has at least half of it before the position.

    For causal models, of which all predictions in a window come from one forward pass.
    """
    if length <= size:
        return [Window(0, length)]
    start = max(0, math.ceil((position + 1 - size) / (size // 2))) * (size // 2)
    return [Window(start, min(start + size, length))]


@functools.lru_cache(maxsize=1024)
def _sliding_starts(length: int, size: int) -> tuple[int, ...]:
    """Starts of windows from both ends inward, by half a window, until they overlap; then one in the middle if needed.

    A window is listed twice, and so counts twice, if both ends arrive at it.
    """
    left, right, step = 0, length - size, size // 2 - 1
    starts = [left, right]
    while left + size - 1 <= right:
        left, right = left + step, right - step
        starts += [left, right]
    if left + size - right < step:
        starts.append(length // 2 - size // 2)
    return tuple(starts)


@functools.lru_cache(maxsize=8)
def _edge_weights(size: int) -> npt.NDArray[np.float64]:
    """Logistic weights that fall over a quarter of the window at each end; the outermost tokens count in full."""
    ramp, slope = size // 4, size / 64
    weights = np.ones(size)
    left = np.arange(1, ramp + 1)
    weights[left] = 1 / (1 + np.exp(-(left - ramp / 2) / slope))
    right = np.arange(size - 2 - ramp, size - 1)
    weights[right] = 1 / (1 + np.exp((right - (size - 2) + ramp / 2) / slope))
    return weights


WINDOWINGS: dict[str, Callable[[int, int, int], list[Window]]] = {
    "optimal": _optimal,
    "sliding": _sliding,
    "preceding": _preceding,
    "none": _whole,
}
"""Functions of (position, length, size) by name; ``sliding`` is ProteinGym's ``overlapping``."""


def make_windowing(name: str, size: int = WINDOW_TOKENS) -> Windowing:
    """Makes the function that chooses windows.

    Args:
        name: Key of ``WINDOWINGS``.
        size: Number of tokens of a window, even.

    Raises:
        UserError: There is no such name, or the size is odd or too small.
    """
    if name not in WINDOWINGS:
        raise UserError(f"--window is {name!r}; choose from {', '.join(WINDOWINGS)}")
    if size < _SHORTEST or size % 2:
        raise UserError(f"--window-tokens is {size}; it must be an even number, at least {_SHORTEST}")
    choose = WINDOWINGS[name]
    return lambda position, length: choose(position, length, size)
