"""Training objectives: what a model sees of a batch's proteins, and which tokens it must predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from plm_composer.data.batches import Batch, is_packed, with_labels
from plm_composer.data.masking import Masking, draw_rates, is_standard, mask_tokens
from plm_composer.data.randomness import UInt64Array
from plm_composer.tokenizer import EOS_ID, IGNORE_INDEX

IntArray = npt.NDArray[np.int64]


class Cropped(NamedTuple):
    """The N proteins of a batch after cropping, T tokens together.

    Attributes:
        token_ids: Token ids of all proteins, one after another, shape (T,).
        positions: Position of each token in its whole protein, shape (T,).
        lengths: Number of tokens of each protein, shape (N,).
        keys: Key of each protein, from ``sample_keys``, shape (N,).
    """

    token_ids: IntArray
    positions: IntArray
    lengths: IntArray
    keys: UInt64Array


class Labelled(NamedTuple):
    """What the model sees, and what it must predict.

    Attributes:
        input_ids: The model's input, shape (T,).
        labels: Shape (T,), ``IGNORE_INDEX`` where nothing is predicted.
        fields: What a batch also holds for this objective.
    """

    input_ids: IntArray
    labels: IntArray
    fields: dict[str, Any]


def _mask(proteins: Cropped, masking: Masking) -> Labelled:
    keys = np.repeat(proteins.keys, proteins.lengths)
    return Labelled(*mask_tokens(proteins.token_ids, keys, proteins.positions, masking), {})


def _diffuse(proteins: Cropped, masking: Masking) -> Labelled:
    rates = draw_rates(proteins.keys, masking)
    keys = np.repeat(proteins.keys, proteins.lengths)
    labelled = mask_tokens(proteins.token_ids, keys, proteins.positions, masking, np.repeat(rates, proteins.lengths))
    return Labelled(*labelled, {"mask_rates": rates})


def _shift(proteins: Cropped, masking: Masking) -> Labelled:
    del masking
    return Labelled(proteins.token_ids, next_tokens(proteins.token_ids, proteins.lengths, ends=True), {})


OBJECTIVES: dict[str, Callable[[Cropped, Masking], Labelled]] = {
    "masked": _mask,
    "causal": _shift,
    "mixed": _mask,  # a share of the batches becomes causal in the training process
    "diffusion": _diffuse,
}
"""The values of ``objective``.

Hidden residues (BERT, Devlin et al. 2019), the next token (GPT, Radford 2018), both in turn, and hidden residues at a
rate that is drawn for each protein (masked diffusion, Sahoo et al. 2024).
"""


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


def make_causal(batch: Batch) -> Batch:
    """Turns a masked batch into one whose next tokens are predicted, and says so in its field ``causal``.

    Args:
        batch: A masked batch; it is not changed.
    """
    token_ids = torch.where(batch["labels"] == IGNORE_INDEX, batch["input_ids"], batch["labels"])
    filled = slice(None) if is_packed(batch) else batch["attention_mask"]
    labels = torch.full_like(batch["labels"], IGNORE_INDEX)
    labels[filled] = torch.from_numpy(next_tokens(token_ids[filled].numpy(), batch["lengths"], ends=True))
    return with_labels({**batch, "input_ids": token_ids, "causal": True}, labels)
