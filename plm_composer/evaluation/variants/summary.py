"""Averages over assays as on ProteinGym's leaderboard: per protein, then per selection type, then over types."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from plm_composer.evaluation.results import Score

FloatArray = npt.NDArray[np.float64]
METRICS = ("spearman", "auc", "mcc", "ndcg", "top_recall")
_RESAMPLES = 1000
_LEAST_FOR_INTERVAL = 3


@dataclasses.dataclass(frozen=True)
class AssayScores:
    """The metrics of an assay, with what its average is taken over.

    Args:
        assay: Name of the assay.
        protein: UniProt name of the protein, or the assay's where unknown.
        selection: Coarse selection type, such as ``Activity``; ``unknown`` where unknown.
        mutants: Number of mutants.
        scores: Metrics by name.
    """

    assay: str
    protein: str
    selection: str
    mutants: int
    scores: dict[str, Score]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Averages over assays.

    Args:
        average: Mean over selection types of the means over proteins, by metric; with an interval over proteins.
        by_selection: Mean over the proteins of each selection type, by type and metric.
    """

    average: dict[str, Score]
    by_selection: dict[str, dict[str, float]]


def summarise(assays: Sequence[AssayScores]) -> Summary:
    """Averages metrics over assays.

    Args:
        assays: At least one.

    Returns:
        The averages; intervals come from 1,000 bootstrap samples of the proteins within each selection type, as
        ProteinGym's standard errors do, if there are three proteins or more.
    """
    rows = [
        {"protein": each.protein, "selection": each.selection}
        | {name: score.value for name, score in each.scores.items()}
        for each in assays
    ]
    table = pd.DataFrame(rows)
    names = [name for name in METRICS if name in table]
    per_protein = table.groupby(["protein", "selection"])[names].mean().reset_index()
    types = {str(name): group[names].to_numpy() for name, group in per_protein.groupby("selection")}
    means = {name: np.nanmean(values, axis=0) for name, values in types.items()}
    average = np.nanmean(list(means.values()), axis=0)
    low, high = _interval(list(types.values())) if len(per_protein) >= _LEAST_FOR_INTERVAL else (None, None)
    return Summary(
        {
            name: Score(
                float(average[column]),
                None if low is None else float(low[column]),
                None if high is None else float(high[column]),
            )
            for column, name in enumerate(names)
        },
        {kind: dict(zip(names, map(float, values), strict=True)) for kind, values in means.items()},
    )


def _interval(types: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    generator = np.random.default_rng(0)
    means = [
        np.nanmean(
            [np.nanmean(values[generator.integers(0, len(values), len(values))], axis=0) for values in types], axis=0
        )
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high
