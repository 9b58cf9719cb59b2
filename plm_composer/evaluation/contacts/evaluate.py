"""Predicts contacts by a method, and scores the prediction against structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.evaluation.contacts.attention import (
    TRAIN_STRUCTURES,
    Regression,
    fit_regression,
    predict_by_attention,
    regression_of,
)
from plm_composer.evaluation.contacts.jacobian import predict_by_jacobian
from plm_composer.evaluation.contacts.precision import average, precisions
from plm_composer.evaluation.contacts.structures import CUTOFF, Structure, describe_structures
from plm_composer.evaluation.results import Result
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place

FloatArray = npt.NDArray[np.float32]


def _fit(model: ESM2, train: Sequence[Structure], place: Place) -> Regression:
    if not train:
        raise UserError(
            "the method attention fits a regression, and needs training structures that are not among those to be "
            "scored; or use the method jacobian, which needs none"
        )
    return fit_regression(model, train, place)


def _take_head(model: ESM2, train: Sequence[Structure], place: Place) -> Regression:
    regression = regression_of(model)
    if regression is None:
        raise UserError(
            "this model has no fitted contact head; use the method attention with training structures, or jacobian"
        )
    return regression


def _need_none(model: ESM2, train: Sequence[Structure], place: Place) -> None:
    return None


METHODS: dict[str, Callable[[ESM2, Sequence[Structure], Place], Regression | None]] = {
    "attention": _fit,
    "head": _take_head,
    "jacobian": _need_none,
}
"""Methods by name; each makes the regression on attention maps that it predicts with, or None for the Jacobian."""


def find_regression(
    model: ESM2, method: str, train: Sequence[Structure] = (), place: Place = Place()
) -> Regression | None:
    """Makes the regression that a method predicts with; None for the method ``jacobian``.

    Args:
        model: The model.
        method: Name in ``METHODS``.
        train: Structures that the method ``attention`` is fitted on.
        place: Where to compute.

    Raises:
        UserError: There is no such method, or it lacks something.
    """
    if method not in METHODS:
        raise UserError(f"method {method!r}: must be {', '.join(METHODS)}")
    return METHODS[method](model, train, place)


def predict_contacts(
    model: ESM2, proteins: Sequence[str | bytes], regression: Regression | None, place: Place = Place()
) -> Iterator[tuple[int, FloatArray]]:
    """Scores all pairs of residues of proteins: probabilities of a regression, or scores of the Jacobian.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        proteins: Residues of each protein, in upper case.
        regression: Result of ``find_regression``.
        place: Where to compute.

    Yields:
        Index of a protein and its scores, shape (residues, residues), symmetric.
    """
    if regression is None:
        return predict_by_jacobian(model, proteins, place)
    return predict_by_attention(model, proteins, regression, place)


def score_structures(
    model: ESM2,
    structures: Sequence[Structure],
    regression: Regression | None,
    place: Place = Place(),
    keep: Callable[[str, FloatArray], object] | None = None,
) -> list[dict[str, float]]:
    """Predicts the contacts of proteins and computes the precision of each.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        structures: The proteins.
        regression: Result of ``find_regression``.
        place: Where to compute.
        keep: If given, called with the name and the scores of each protein.

    Returns:
        Results of ``precisions``, in the order of the structures.
    """
    found: list[dict[str, float]] = [{} for _ in structures]
    for index, scores in predict_contacts(model, [each.sequence for each in structures], regression, place):
        found[index] = precisions(scores, structures[index].contacts)
        if keep is not None:
            keep(structures[index].name, scores)
    return found


def summarise(
    name: str,
    method: str,
    structures: Sequence[Structure],
    found: Sequence[Mapping[str, float]],
    regression: Regression | None,
) -> Result:
    """Averages precisions over proteins.

    Args:
        name: Name of the set of structures.
        method: Name of the method.
        structures: The proteins.
        found: Result of ``score_structures``.
        regression: Result of ``find_regression``.
    """
    settings: dict[str, str | int | float | bool | None] = {"method": method, "cutoff_angstrom": CUTOFF}
    settings |= describe_structures(structures)
    if regression is not None:
        settings |= {"train_structures": len(regression.trained_on), "heads_used": regression.heads_used}
    return Result("contacts", f"{name} {method}", average(found), settings)


def evaluate_contacts(
    model: ESM2,
    structures: Sequence[Structure],
    method: str = "jacobian",
    *,
    train: Sequence[Structure] = (),
    name: str = "structures",
    place: Place = Place(),
) -> Result:
    """Scores a model's contacts against structures: precision by range and depth, averaged over proteins.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        structures: The proteins to score.
        method: Name in ``METHODS``.
        train: Structures that the method ``attention`` is fitted on, the first 20 of them.
        name: Name of the set, under which a run folder keeps the result.
        place: Where to compute.

    Raises:
        UserError: A structure is both to be scored and trained on, or the method lacks something.
    """
    train = train[:TRAIN_STRUCTURES]
    check_apart(structures, train)
    regression = find_regression(model, method, train, place)
    found = score_structures(model, structures, regression, place)
    return summarise(name, method, structures, found, regression)


def check_apart(structures: Sequence[Structure], train: Sequence[Structure]) -> None:
    """Checks that no protein is both fitted on and scored.

    Raises:
        UserError: Two have the same sequence.
    """
    known = {each.sequence: each.name for each in train}
    for each in structures:
        if each.sequence in known:
            raise UserError(
                f"{each.name} has the sequence of {known[each.sequence]}, a training structure; take it out of one set"
            )
