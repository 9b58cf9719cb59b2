"""Every substitution at every position of a protein."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from plm_composer.evaluation.variants.methods import Scorer, score_variants
from plm_composer.evaluation.variants.mutations import Substitution, Variant

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
"""Columns of a scan."""
_POSITIONS_AT_ONCE = 1024


def scan_protein(scorer: Scorer, method: str, protein: str) -> npt.NDArray[np.float64]:
    """Scores every single mutant of a protein.

    Args:
        scorer: The model and its settings.
        method: Key of ``METHODS``.
        protein: Residues, in upper case.

    Returns:
        Shape (residues, 20), columns in the order of ``RESIDUES``; 0 where the residue stays.
    """
    rows = []
    for start in range(0, len(protein), _POSITIONS_AT_ONCE):
        variants = [
            Variant(protein[:index] + mutant + protein[index + 1 :], (Substitution(protein[index], index, mutant),))
            for index in range(start, min(start + _POSITIONS_AT_ONCE, len(protein)))
            for mutant in RESIDUES
        ]
        rows.append(score_variants(scorer, method, protein, variants).reshape(-1, len(RESIDUES)))
    return np.concatenate(rows)
