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
        span_length: Number of neighbours that are chosen together, at least 1 (SpanBERT, Joshi et al. 2020, with spans
            of one length). Spans may overlap; the share of chosen residues stays ``mask_rate``.
    """

    mask_rate: float = 0.15
    mask_token_fraction: float = 0.8
    random_token_fraction: float = 0.1
    span_length: int = 1

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
        if self.span_length < 1:
            raise UserError(f"data.mask_span_length is {self.span_length}; it must be at least 1 residue")

    @property
    def mask_token_rate(self) -> float:
        """Expected share of residues that are ``<mask>``: 0.12 for ESM2, which its token dropout assumes."""
        return self.mask_rate * self.mask_token_fraction


def is_standard(token_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Whether each token is one of the 20 standard residues, the only ones that are masked and predicted."""
    return (token_ids >= STANDARD_IDS.start) & (token_ids < STANDARD_IDS.stop)


def selection_draws(keys: UInt64Array, positions: npt.NDArray[np.int64], masking: Masking) -> npt.NDArray[np.float64]:
    """Draws the number of each token that decides whether it is chosen: below ``mask_rate``, it is.

    With spans of L, each position may begin one. The least draw of the L positions that reach a token decides, turned
    into a number that is uniform again: the chance that the least of L draws is lower.

    Args:
        keys: Key of the protein to which each token belongs, from ``sample_keys``, shape (T,).
        positions: Position of each token in its whole protein, shape (T,).
        masking: The span length.

    Returns:
        Shape (T,), in [0, 1).
    """
    draws = uniform(keys, Purpose.SELECT, positions)
    if masking.span_length == 1:
        return draws
    for before in range(1, masking.span_length):
        # A span may begin before a crop does, and before the protein: so its first residues are chosen as often.
        draws = np.minimum(draws, uniform(keys, Purpose.SELECT, positions - before))
    return 1 - (1 - draws) ** masking.span_length


def draw_rates(keys: UInt64Array, masking: Masking) -> npt.NDArray[np.float64]:
    """Draws a mask rate for each protein, uniformly up to ``mask_rate``, as masked diffusion does (Sahoo et al. 2024).

    A hundredth of ``mask_rate`` is the least: a lower one seldom hides a residue, and gives it an enormous weight.

    Args:
        keys: Key of each protein, from ``sample_keys``, shape (N,).
        masking: The highest rate.

    Returns:
        Shape (N,).
    """
    lowest = 0.01
    return masking.mask_rate * (lowest + (1 - lowest) * uniform(keys, Purpose.RATE))


def mask_tokens(
    token_ids: npt.NDArray[np.int64],
    keys: UInt64Array,
    positions: npt.NDArray[np.int64],
    masking: Masking,
    rates: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Masks tokens, as a pure function of each token's key and position.

    Each standard residue is chosen with probability ``mask_rate``, independently unless there are spans; ambiguous
    residues (X, B, Z, U, O) and special tokens are never chosen, since they say nothing about the protein.

    Args:
        token_ids: Token ids, shape (T,).
        keys: Key of the protein to which each token belongs, from ``sample_keys``, shape (T,).
        positions: Position of each token in its whole protein, shape (T,), so that a crop does not move the mask.
        masking: The mask rate, and what replaces masked residues.
        rates: Mask rate for each token, shape (T,), in place of ``mask_rate``.

    Returns:
        The model's input, shape (T,), and the labels, shape (T,), ``IGNORE_INDEX`` where nothing is predicted.
    """
    below = selection_draws(keys, positions, masking) < (masking.mask_rate if rates is None else rates)
    chosen = np.flatnonzero(is_standard(token_ids) & below)
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
