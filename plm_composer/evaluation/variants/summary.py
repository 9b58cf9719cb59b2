"""Averages over assays as on ProteinGym's leaderboard: per protein, then per selection type, then over types."""

from __future__ import annotations

import dataclasses
import warnings
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
    means = per_protein.groupby("selection")[names].mean()
    average = means.mean()
    low, high = _interval(per_protein, names) if len(per_protein) >= _LEAST_FOR_INTERVAL else (None, None)
    return Summary(
        {
            name: Score(
                float(average[name]),
                None if low is None else float(low[column]),
                None if high is None else float(high[column]),
            )
            for column, name in enumerate(names)
        },
        {str(kind): {name: float(row[name]) for name in names} for kind, row in means.iterrows()},
    )


def _interval(per_protein: pd.DataFrame, names: list[str]) -> tuple[FloatArray, FloatArray]:
    generator = np.random.default_rng(0)
    types = [group[names].to_numpy() for _, group in per_protein.groupby("selection")]
    # Each (samples, proteins, metrics), then a mean over proteins, then over types; missing values are left out.
    drawn = [values[generator.integers(0, len(values), (_RESAMPLES, len(values)))] for values in types]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        means = np.nanmean([np.nanmean(values, axis=1) for values in drawn], axis=0)
    low, high = np.nanpercentile(means, [2.5, 97.5], axis=0)
    return low, high
