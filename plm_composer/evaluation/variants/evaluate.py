"""Evaluates a model on an assay: scores its mutants, and compares them with what was measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from plm_composer.evaluation.results import Result
from plm_composer.evaluation.variants.assays import Assay
from plm_composer.evaluation.variants.methods import Scorer, score_variants
from plm_composer.evaluation.variants.metrics import evaluate_assay
from plm_composer.evaluation.variants.summary import AssayScores, Summary

FloatArray = npt.NDArray[np.float64]
Setting = str | int | float | bool | None
_LEAST_MUTANTS = 3


def score_assay(scorer: Scorer, method: str, assay: Assay) -> FloatArray:
    """Scores the mutants of an assay, in its order, shape (rows,); raises as ``score_variants``."""
    return score_variants(scorer, method, assay.target, assay.variants)


def compare_assay(assay: Assay, scores: FloatArray) -> AssayScores | None:
    """Computes ProteinGym's metrics of an assay, over the rows that have a measured value.

    Args:
        assay: The assay.
        scores: From ``score_assay``, shape (rows,).

    Returns:
        The metrics; None if fewer than three mutants were measured.
    """
    if assay.measured is None:
        return None
    rows = np.flatnonzero(~np.isnan(assay.measured))
    if len(rows) < _LEAST_MUTANTS:
        return None
    binary = None if assay.binary is None else assay.binary[rows]
    metrics = evaluate_assay(assay.measured[rows], scores[rows], binary)
    return AssayScores(assay.name, assay.protein or assay.name, assay.selection, len(rows), metrics)


def draw_mutants(assay: Assay, limit: int, seed: int) -> Assay:
    """Draws mutants of an assay that have a measured value, in the order of the file; the same for the same seed.

    Args:
        assay: The assay, with measured values.
        limit: Largest number of mutants.
        seed: Seed of the draw.
    """
    measured = assay.measured if assay.measured is not None else np.zeros(len(assay.variants))
    rows = np.flatnonzero(~np.isnan(measured))
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    return assay.take(rows)


def to_results(
    label: str, assays: list[AssayScores], summary: Summary, settings: Mapping[str, Setting]
) -> list[Result]:
    """Makes the results that are kept in a run folder: the averages, then each assay.

    Args:
        label: What distinguishes these scores from others of the same assays, such as the method.
        assays: Metrics of each assay, at least one.
        summary: Their averages.
        settings: How the mutants were scored.
    """
    count = len(assays)
    mutants = sum(each.mutants for each in assays)
    average = f"average of {count} assay{'' if count == 1 else 's'} ({label})"
    return [
        Result("variants", average, summary.average, {**settings, "mutants": mutants}),
        *(
            Result("variants", f"{each.assay} ({label})", each.scores, {**settings, "mutants": each.mutants})
            for each in assays
        ),
    ]
