"""Fits a probe and its baseline on training proteins, and scores both on test proteins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.evaluation.probes.features import Features, baseline_of, embeddings_of
from plm_composer.evaluation.probes.fitting import FOLDS, fit_probe
from plm_composer.evaluation.probes.scores import score_predictions
from plm_composer.evaluation.probes.tables import ProbeData
from plm_composer.evaluation.results import Result
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place

IntArray = npt.NDArray[np.int64]
TRAIN_RESIDUES = 50_000
"""Largest number of residues that a probe of residues is fitted on, and of those that choose its penalty."""


@dataclasses.dataclass(frozen=True)
class ProbeOutcome:
    """A probe's scores and predictions.

    Args:
        result: Scores on the test proteins.
        predictions: For each test protein a number, a class, or a letter for each residue.
        baseline: The baseline's predictions.
    """

    result: Result
    predictions: list[Any]
    baseline: list[Any]


def run_probe(
    model: ESM2,
    data: ProbeData,
    *,
    name: str = "probe",
    layer: int = -1,
    train_residues: int = TRAIN_RESIDUES,
    place: Place = Place(),
) -> ProbeOutcome:
    """Fits and scores a probe of a model's frozen embeddings.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        data: The proteins.
        name: Name of the data, under which a run folder keeps the result.
        layer: Layer of the hidden states, as for ``predict_hidden``.
        train_residues: Largest number of training residues of a probe of residues, and of validation residues, drawn at
            random.
        place: Where to compute.

    Raises:
        UserError: There are too few training proteins or classes, or no such layer.
    """
    per_residue = data.kind == "residues"
    if not len(data.validation) and len(data.train) < FOLDS:
        raise UserError(f"{len(data.train)} training proteins are too few: cross-validation takes at least {FOLDS}")
    if data.kind != "regression" and len({label for at in data.train for label in _labels(data, at)}) < 2:
        raise UserError("the training proteins have one class only; a probe needs two or more")
    rows = [_rows_of(data, part, train_residues) for part in (data.train, data.validation)]
    sides = {"": embeddings_of(model, layer, per_residue, place), "baseline_": baseline_of(per_residue)}
    penalties: dict[str, float] = {}
    predictions: dict[str, list[Any]] = {}
    for side, features in sides.items():
        predictions[side], penalties[f"{side}penalty"] = _fit_and_predict(
            data, features, [*rows[0], *rows[1]], len(rows[0])
        )
    tested = [data.targets[at] for at in data.test]
    settings: dict[str, str | int | float | bool | None] = {
        "kind": data.kind,
        "layer": layer,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "rows_left_out": data.left_out,
        **penalties,
    }
    scores = score_predictions(data.kind, tested, predictions[""], predictions["baseline_"])
    return ProbeOutcome(Result("probe", name, scores, settings), predictions[""], predictions["baseline_"])


def _labels(data: ProbeData, index: int) -> Sequence[Any]:
    """Targets of a protein's rows of features."""
    target = data.targets[index]
    return list(target) if data.kind == "residues" and isinstance(target, str) else [target]


def _rows_of(data: ProbeData, proteins: IntArray, limit: int) -> list[tuple[int, IntArray]]:
    """Which rows of each protein's features are used: all, or some drawn from all proteins."""
    sizes = np.array([len(_labels(data, at)) for at in proteins], dtype=np.int64)
    total = int(sizes.sum())
    if data.kind != "residues" or total <= limit:
        return [(int(at), np.arange(size)) for at, size in zip(proteins, sizes, strict=True)]
    drawn = np.sort(np.random.default_rng(0).choice(total, limit, replace=False))
    ends = np.cumsum(sizes)
    pieces = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    return [
        (int(at), piece - (end - size))
        for at, piece, end, size in zip(proteins, pieces, ends, sizes, strict=True)
    ]  # fmt: skip


def _fit_and_predict(
    data: ProbeData, features: Features, rows: list[tuple[int, IntArray]], train: int
) -> tuple[list[Any], float]:
    found: list[Any] = [None] * len(rows)
    for index, values in features([data.sequences[at] for at, _ in rows]):
        found[index] = values[rows[index][1]]
    targets = np.array([_labels(data, at)[row] for at, chosen in rows for row in chosen])
    proteins = np.repeat(np.arange(len(rows)), [len(chosen) for _, chosen in rows])
    fitted, penalty = fit_probe(data.kind, np.concatenate(found), targets, proteins, proteins >= train)
    predictions: list[Any] = [None] * len(data.test)
    for index, values in features([data.sequences[at] for at in data.test]):
        predicted = fitted.predict(values).tolist()
        predictions[index] = "".join(predicted) if data.kind == "residues" else predicted[0]
    return predictions, penalty
