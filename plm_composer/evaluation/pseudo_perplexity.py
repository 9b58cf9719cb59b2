"""Pseudo-perplexity of proteins: exact, one mask a position, and two estimates from a single pass without masks.

- Pseudo-log-likelihood (Salazar et al. 2020, "Masked Language Model Scoring"): the sum over residues of the logarithm
  of the residue's probability when it alone is masked. Pseudo-perplexity is ``exp(-mean)``.
- Unmasked: the same with the probabilities of a pass in which the model sees every residue. It is lower, because the
  model sees the answer.
- One fell swoop (Kantroo et al. 2024): the unmasked probability ``p`` of a residue, corrected for what BERT's masking
  teaches a model about residues that it sees: of those to be predicted as many (a tenth) were left as they are as were
  replaced by others, so that ``2 p - 1`` estimates the masked probability. It is no estimate for a model that was
  trained on ``<mask>`` alone (``data.mask_token_fraction: 1``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.evaluation.masked_predictions import mask_each, mask_none, own_log_probabilities
from plm_composer.evaluation.windows import Windowing, make_windowing
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place

FloatArray = npt.NDArray[np.float64]
_LEAST_PROBABILITY = 1e-3
"""Lower bound on a corrected probability, which may come out below 0."""


@dataclasses.dataclass(frozen=True)
class Perplexities:
    """Perplexities of a protein, or of a set, weighted by residue.

    Args:
        residues: Number of residues.
        pseudo: Pseudo-perplexity; None if it was not asked for.
        unmasked: Perplexity of one pass without masks.
        one_fell_swoop: The estimate of Kantroo et al. 2024 from that pass.
    """

    residues: int
    pseudo: float | None
    unmasked: float
    one_fell_swoop: float


def masked_log_likelihoods(
    model: ESM2,
    proteins: Sequence[bytes | str],
    windowing: Windowing,
    place: Place = Place(),
    *,
    all_processes: bool = False,
) -> Iterator[FloatArray]:
    """Computes the log-probability of each residue when it alone is masked.

    Args:
        model: The model.
        proteins: Residues of each protein, in upper case, at least one.
        windowing: Chooses the pieces of long proteins.
        place: Where to compute.
        all_processes: As for ``predict_tokens``.

    Returns:
        For each protein, in order, shape (residues,).

    Raises:
        UserError: The model is causal.
    """
    check_masked(model)
    return own_log_probabilities(
        model, proteins, mask_each, windowing, place, description="pseudo-likelihood", all_processes=all_processes
    )


def unmasked_log_likelihoods(
    model: ESM2,
    proteins: Sequence[bytes | str],
    windowing: Windowing,
    place: Place = Place(),
    *,
    all_processes: bool = False,
) -> Iterator[FloatArray]:
    """Computes the log-probability of each residue in a pass without masks; as ``masked_log_likelihoods``."""
    check_masked(model)
    return own_log_probabilities(
        model, proteins, mask_none, windowing, place, description="pseudo-likelihood", all_processes=all_processes
    )


def check_masked(model: ESM2) -> None:
    """Refuses a causal model, which fills no masks.

    Raises:
        UserError: The model is causal.
    """
    if model.config.causal:
        raise UserError("the model is causal and has no pseudo-perplexity; plm evaluate gives its perplexity")


def compute_perplexities(
    model: ESM2,
    proteins: Sequence[bytes | str],
    place: Place = Place(),
    *,
    exact: bool = True,
    windowing: Windowing | None = None,
) -> list[Perplexities]:
    """Computes the perplexities of each protein.

    Args:
        model: The model.
        proteins: Residues of each protein, in upper case.
        place: Where to compute.
        exact: Whether to compute the pseudo-perplexity, which takes a forward pass a residue.
        windowing: Chooses the pieces of long proteins; None for ``optimal`` ones of 1,024 tokens.

    Raises:
        UserError: A protein has no residues.
    """
    if any(not protein for protein in proteins):
        raise UserError("a protein without residues has no perplexity; leave it out")
    windowing = windowing or make_windowing("optimal")
    unmasked = list(unmasked_log_likelihoods(model, proteins, windowing, place))
    masked = list(masked_log_likelihoods(model, proteins, windowing, place)) if exact else [None] * len(proteins)
    return [_perplexities(each, seen) for each, seen in zip(masked, unmasked, strict=True)]


def pool_perplexities(parts: Sequence[Perplexities]) -> Perplexities:
    """Perplexities of a set of proteins, weighted by residue.

    Args:
        parts: Those of its proteins, at least one.
    """
    residues = np.array([part.residues for part in parts])

    def pool(values: Sequence[float]) -> float:
        return math.exp(float(np.average(np.log(values), weights=residues)))

    exact = [part.pseudo for part in parts if part.pseudo is not None]
    return Perplexities(
        int(residues.sum()),
        pool(exact) if len(exact) == len(parts) else None,
        pool([part.unmasked for part in parts]),
        pool([part.one_fell_swoop for part in parts]),
    )


def _perplexities(masked: FloatArray | None, unmasked: FloatArray) -> Perplexities:
    corrected = np.maximum(2 * np.exp(unmasked) - 1, _LEAST_PROBABILITY)
    return Perplexities(
        residues=len(unmasked),
        pseudo=None if masked is None else math.exp(-masked.mean()),
        unmasked=math.exp(-unmasked.mean()),
        one_fell_swoop=math.exp(-np.log(corrected).mean()),
    )
