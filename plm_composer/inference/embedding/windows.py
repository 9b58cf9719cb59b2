"""Windows of proteins that are longer than a model was trained on, and which residue is taken from which window."""

from __future__ import annotations

import dataclasses
import itertools
import math

DEFAULT_WINDOW = 1022
"""Residues of a window: ESM2 was trained on 1,022 residues between ``<cls>`` and ``<eos>`` (Lin et al. 2023)."""
_OVERLAP = 1 / 4
"""Smallest share of a window that the next one repeats."""


@dataclasses.dataclass(frozen=True)
class Window:
    """Some residues of a protein that a model sees at once; positions are residues of the protein, from 0.

    Args:
        start: First residue.
        stop: The one after the last.
        kept_start: First residue whose vector is taken from this window.
        kept_stop: The one after the last.
    """

    start: int
    stop: int
    kept_start: int
    kept_stop: int


def windows_of(length: int, size: int) -> list[Window]:
    """Cuts a protein into the fewest windows that overlap by a quarter or more.

    All windows of a longer protein have ``size`` residues and start at even distances. A residue belongs to the window
    whose middle is nearest, which is the one where it is furthest from an edge; at equal distances to the first.

    Args:
        length: Residues of the protein.
        size: Most residues of a window; 0 for no limit.

    Returns:
        The windows, in order; the kept residues are the whole protein, each residue once.
    """
    if not size or length <= size:
        return [Window(0, length, 0, length)]
    overlap = int(size * _OVERLAP)
    count = math.ceil((length - overlap) / (size - overlap))
    starts = [index * (length - size) // (count - 1) for index in range(count)]
    # Midway between the middles of neighbours.
    edges = [0, *((this + following + size + 1) // 2 for this, following in itertools.pairwise(starts))]
    edges.append(length)
    return [
        Window(start, start + size, kept_start, kept_stop)
        for start, (kept_start, kept_stop) in zip(starts, itertools.pairwise(edges), strict=True)
    ]
