"""BERT's masking on proteins: chooses the residues that the model must predict."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_composer.data.randomness import Purpose, UInt64Array, uniform
from plm_composer.errors import UserError
from plm_composer.tokenizer import IGNORE_INDEX, MASK_ID, STANDARD_IDS


@dataclasses.dataclass(frozen=True)
class Masking:
    """How tokens are masked (Devlin et al. 2019; Rives et al. 2021 for proteins).

    Args:
        mask_rate: Share of the standard residues that are predicted, in (0, 1].
        mask_token_fraction: Share of the predicted residues that are replaced by ``<mask>``, in [0, 1].
        random_token_fraction: Share of them that are replaced by a random standard residue, in [0, 1]. The rest stay.
    """

    mask_rate: float = 0.15
    mask_token_fraction: float = 0.8
    random_token_fraction: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_rate <= 1.0:
            raise UserError(f"data.mask_rate is {self.mask_rate}; it must lie above 0 and at most at 1")
        for key in ("mask_token_fraction", "random_token_fraction"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise UserError(f"data.{key} is {getattr(self, key)}; it must lie between 0 and 1")
        if self.mask_token_fraction + self.random_token_fraction > 1.0 + 1e-9:
            raise UserError(
                "data.mask_token_fraction and data.random_token_fraction add up to "
                f"{self.mask_token_fraction + self.random_token_fraction:g}; they must not exceed 1"
            )

    @property
    def mask_token_rate(self) -> float:
        """Expected share of residues that are ``<mask>``: 0.12 for ESM2, which its token dropout assumes."""
        return self.mask_rate * self.mask_token_fraction


def is_standard(token_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Whether each token is one of the 20 standard residues, the only ones that are masked and predicted."""
    return (token_ids >= STANDARD_IDS.start) & (token_ids < STANDARD_IDS.stop)


def mask_tokens(
    token_ids: npt.NDArray[np.int64], keys: UInt64Array, positions: npt.NDArray[np.int64], masking: Masking
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Masks tokens, as a pure function of each token's key and position.

    Each standard residue is chosen independently with probability ``mask_rate``; ambiguous residues (X, B, Z, U, O)
    and special tokens are never chosen, since they say nothing about the protein.

    Args:
        token_ids: Token ids, shape (T,).
        keys: Key of the protein to which each token belongs, from ``sample_keys``, shape (T,).
        positions: Position of each token in its whole protein, shape (T,), so that a crop does not move the mask.
        masking: The mask rate, and what replaces masked residues.

    Returns:
        The model's input, shape (T,), and the labels, shape (T,), ``IGNORE_INDEX`` where nothing is predicted.
    """
    chosen = np.flatnonzero(is_standard(token_ids) & (uniform(keys, Purpose.SELECT, positions) < masking.mask_rate))
    labels = np.full_like(token_ids, IGNORE_INDEX)
    labels[chosen] = token_ids[chosen]

    # Only the chosen positions need the other two draws.
    keys, positions = keys[chosen], positions[chosen]
    replace = uniform(keys, Purpose.REPLACE, positions)
    residues = (uniform(keys, Purpose.RESIDUE, positions) * len(STANDARD_IDS)).astype(np.int64) + STANDARD_IDS.start
    inputs = token_ids.copy()
    random_below = masking.mask_token_fraction + masking.random_token_fraction
    inputs[chosen] = np.where(
        replace < masking.mask_token_fraction,
        MASK_ID,
        np.where(replace < random_below, residues, token_ids[chosen]),
    )
    return inputs, labels
