"""Training objectives: what a model sees of a batch's proteins, and which tokens it must predict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from plm_composer.data.masking import Masking, is_standard, mask_tokens
from plm_composer.data.randomness import UInt64Array
from plm_composer.tokenizer import EOS_ID, IGNORE_INDEX

IntArray = npt.NDArray[np.int64]
Objective = Callable[[IntArray, UInt64Array, IntArray, IntArray, Masking], tuple[IntArray, IntArray]]
"""From (token ids, keys, positions, lengths, masking) to the model's input and the labels, each of shape (tokens,)."""


def _mask(
    token_ids: IntArray, keys: UInt64Array, positions: IntArray, lengths: IntArray, masking: Masking
) -> tuple[IntArray, IntArray]:
    del lengths
    return mask_tokens(token_ids, keys, positions, masking)


def _shift(
    token_ids: IntArray, keys: UInt64Array, positions: IntArray, lengths: IntArray, masking: Masking
) -> tuple[IntArray, IntArray]:
    del keys, positions, masking
    return token_ids, next_tokens(token_ids, lengths, ends=True)


OBJECTIVES: dict[str, Objective] = {"masked": _mask, "causal": _shift}
"""The values of ``objective``: hidden residues (BERT, Devlin et al. 2019), or the next token (GPT, Radford 2018)."""


def next_tokens(token_ids: IntArray, lengths: IntArray, *, ends: bool) -> IntArray:
    """Labels each token with the one after it in its protein, where that is a standard residue.

    Ambiguous residues (X, B, Z, U, O) are seen and not predicted, as they are not masked.

    Args:
        token_ids: Token ids of all proteins, one after another, shape (T,).
        lengths: Number of tokens of each protein, shape (N,), adding up to T.
        ends: Whether ``<eos>`` is predicted too, so that the model learns where a protein ends.

    Returns:
        Labels, shape (T,), ``IGNORE_INDEX`` where nothing is predicted, such as at the last token of each protein.
    """
    following = np.concatenate([token_ids[1:], [IGNORE_INDEX]])
    following[np.cumsum(lengths) - 1] = IGNORE_INDEX
    predicted = is_standard(following) | (ends & (following == EOS_ID))
    return np.where(predicted, following, IGNORE_INDEX)
