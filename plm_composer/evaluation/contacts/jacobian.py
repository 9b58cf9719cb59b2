"""The categorical Jacobian: how much each substitution changes the prediction at each other residue.

Zhang et al. 2024, "Protein language models learn evolutionary statistics of interacting sequence motifs". It needs no
training and no contact head, but 19 passes for each residue, and 1,600 bytes for each pair of residues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from plm_composer.model.contact_maps import correct_average_product
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, Query, predict_logits, tokenize
from plm_composer.terminal.progress import ProgressBar
from plm_composer.tokenizer import STANDARD_IDS

FloatArray = npt.NDArray[np.float32]
_FIRST, _KINDS = STANDARD_IDS.start, len(STANDARD_IDS)


def predict_by_jacobian(
    model: ESM2, proteins: Sequence[str | bytes], place: Place = Place()
) -> Iterator[tuple[int, FloatArray]]:
    """Scores the pairs of residues of proteins by the categorical Jacobian.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        proteins: Residues of each protein, in upper case.
        place: Where to compute.

    Yields:
        Index of a protein and its scores, shape (residues, residues), symmetric, zero on the diagonal; in order.
    """
    inner = dataclasses.replace(place, progress=False)
    for index, protein in enumerate(
        ProgressBar(proteins, desc="Jacobian", unit=" proteins", disable=not place.progress)
    ):
        yield index, score_pairs(categorical_jacobian(model, tokenize(protein), inner))


def categorical_jacobian(model: ESM2, token_ids: npt.NDArray[np.int64], place: Place = Place()) -> FloatArray:
    """Computes the logits of a protein's residues under every substitution of one of them.

    Zhang et al. subtract the logits of the protein itself. These are the same for all substitutions, so that centring
    takes them out too. Half of a causal model's Jacobian is zero: it sees earlier residues only.

    Args:
        model: The model.
        token_ids: Tokens of the protein, as ``tokenize`` makes them, shape (residues + 2,).
        place: Where to compute.

    Returns:
        Shape (residues, 20, residues, 20): substituted residue, by what, observed residue, its logits.
    """
    residues = len(token_ids) - 2
    jacobian = np.empty((residues, _KINDS, residues, _KINDS), dtype=np.float32)
    # A causal model predicts a residue at the token before it.
    asked = np.arange(1, residues + 1) - int(model.config.causal)
    substitutions = [
        (position, kind) for position in range(residues) for kind in range(_KINDS)
        if token_ids[position + 1] != _FIRST + kind
    ]  # fmt: skip

    def query_of(index: int) -> Query:
        substituted = token_ids.copy()
        if index:  # the first is the protein itself
            position, kind = substitutions[index - 1]
            substituted[position + 1] = _FIRST + kind
        return Query(substituted, asked)

    for index, logits in predict_logits(model, [len(token_ids)] * (len(substitutions) + 1), query_of, place):
        observed = logits[:, _FIRST : _FIRST + _KINDS].numpy()
        if index:
            jacobian[substitutions[index - 1]] = observed
        else:
            for position, token in enumerate(token_ids[1:-1] - _FIRST):
                if 0 <= token < _KINDS:
                    jacobian[position, token] = observed
    return jacobian


def score_pairs(jacobian: FloatArray) -> FloatArray:
    """Reduces a categorical Jacobian to a score for each pair of residues.

    As the authors' code does: centre along each of the four axes, average with the transpose, take the Frobenius norm
    over amino acids, set the diagonal to zero, and correct by the average product.

    Args:
        jacobian: Result of ``categorical_jacobian``; it is changed.

    Returns:
        Shape (residues, residues), symmetric, zero on the diagonal.
    """
    for axis in range(4):
        jacobian -= jacobian.mean(axis, keepdims=True)
    norms = np.empty((len(jacobian), len(jacobian)), dtype=np.float32)
    for position in range(len(jacobian)):  # row by row: the symmetric tensor would take as much memory again
        there, back = jacobian[position], jacobian[:, :, position]  # (20, residues, 20), (residues, 20, 20)
        norms[position] = np.sqrt(np.square((there + back.transpose(2, 0, 1)) / 2).sum((0, 2)))
    np.fill_diagonal(norms, 0)
    corrected = correct_average_product(torch.from_numpy(norms).double()).numpy() if norms.any() else norms
    np.fill_diagonal(corrected, 0)
    return corrected.astype(np.float32)
