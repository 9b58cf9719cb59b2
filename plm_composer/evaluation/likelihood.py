"""Exact likelihood of proteins under a causal model: the product of the probabilities of their tokens, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from plm_composer.evaluation.masked_predictions import mask_none, own_log_probabilities
from plm_composer.evaluation.windows import Windowing
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place

FloatArray = npt.NDArray[np.float64]


def log_likelihoods(
    model: ESM2,
    proteins: Sequence[bytes | str],
    windowing: Windowing,
    place: Place = Place(),
    *,
    all_processes: bool = False,
) -> Iterator[FloatArray]:
    """Computes the log-probability of each residue, and of ``<eos>``, given the tokens before it.

    Args:
        model: A causal or mixed model.
        proteins: Residues of each protein, in upper case.
        windowing: Chooses the pieces of long proteins; ``preceding`` is meant for this.
        place: Where to compute.
        all_processes: As for ``predict_tokens``.

    Returns:
        For each protein, shape (residues + 1,), ``<eos>`` last.

    Raises:
        UserError: The model has not learnt to predict the next residue.
    """
    return own_log_probabilities(
        model.as_causal(),
        proteins,
        mask_none,
        windowing,
        place,
        ahead=1,
        description="likelihood",
        all_processes=all_processes,
    )
