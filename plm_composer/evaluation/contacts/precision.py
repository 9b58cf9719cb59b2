"""How many of the highest-scored pairs of residues are in contact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from plm_composer.evaluation.contacts.structures import UNKNOWN, ContactArray
from plm_composer.evaluation.intervals import bootstrap
from plm_composer.evaluation.results import Score

RANGES: dict[str, tuple[int, int | None]] = {"short": (6, 12), "medium": (12, 24), "long": (24, None)}
"""Separations ``j - i`` of the pairs of each range: from the first number to below the second (CASP)."""
DEPTHS = {"L": 1, "L2": 2, "L5": 5}
"""The length of the chain is divided by these."""


def pairs_of(contacts: ContactArray, least: int, below: int | None = None) -> tuple[npt.NDArray[np.int64], ...]:
    """Finds the pairs of resolved residues of a range of separations.

    Args:
        contacts: As ``Structure.contacts``.
        least: Smallest separation.
        below: Separation above the largest one; None for any.

    Returns:
        Rows and columns, rows below columns, two arrays of shape (pairs,).
    """
    rows, columns = np.triu_indices(len(contacts), least)
    kept = contacts[rows, columns] != UNKNOWN
    if below is not None:
        kept &= columns - rows < below
    return rows[kept], columns[kept]


def precisions(scores: npt.NDArray[np.float32], contacts: ContactArray) -> dict[str, float]:
    """Computes the precision of the highest-scored pairs of one protein.

    Of ``L / k`` pairs, rounded down but at least one, where L is the length of the whole chain; of all pairs of a range
    that has fewer. Where pairs of equal score compete for the last places, each gets its share of them.

    Args:
        scores: Scores of pairs, higher for a contact, shape (length, length), symmetric.
        contacts: As ``Structure.contacts``.

    Returns:
        Shares between 0 and 1 by name, such as ``long_precision_at_L5``; NaN for a range without pairs.
    """
    found = {}
    for name, (least, below) in RANGES.items():
        rows, columns = pairs_of(contacts, least, below)
        ranked, in_contact = scores[rows, columns], contacts[rows, columns] == 1
        for depth, divisor in DEPTHS.items():
            found[f"{name}_precision_at_{depth}"] = _share(ranked, in_contact, max(1, len(contacts) // divisor))
    return found


def _share(ranked: npt.NDArray[np.float32], in_contact: npt.NDArray[np.bool_], count: int) -> float:
    """Share of contacts among the highest-scored pairs, on average over the orders of pairs of equal score."""
    count = min(count, len(ranked))
    if not count:
        return float("nan")
    last = np.partition(ranked, len(ranked) - count)[len(ranked) - count]
    above, equal = ranked > last, ranked == last
    drawn = (count - above.sum()) * in_contact[equal].mean()
    return float((in_contact[above].sum() + drawn) / count)


def average(found: Sequence[Mapping[str, float]]) -> dict[str, Score]:
    """Averages precisions over proteins, with bootstrap intervals; leaves out what no protein has.

    Args:
        found: Results of ``precisions``, one a protein.
    """
    if not found:
        return {}
    values = np.array([list(each.values()) for each in found])  # (proteins, precisions)

    def means(chosen: npt.NDArray[np.int64]) -> dict[str, float]:
        drawn = values[chosen]
        counts = (~np.isnan(drawn)).sum(0)
        sums = np.nansum(drawn, axis=0)
        return {
            name: total / count if count else float("nan")
            for name, total, count in zip(found[0], sums.tolist(), counts.tolist(), strict=True)
        }

    return bootstrap(means, len(found))
