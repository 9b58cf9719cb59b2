"""The categorical Jacobian against a plain loop, one substitution at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from plm_composer.evaluation.contacts.jacobian import categorical_jacobian, predict_by_jacobian, score_pairs
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, tokenize
from tests.model.small_models import SMALL, make_model


@torch.no_grad()
def _by_loop(model: ESM2, protein: str) -> np.ndarray:
    """Zhang et al.'s steps: differences of logits, centring, symmetric tensor, norm, average product correction."""
    tokens = torch.from_numpy(tokenize(protein))
    length = len(protein)
    # The logits that predict a residue are its own, or in a causal model those of the token before.
    of_residues = slice(0, length) if model.config.causal else slice(1, length + 1)
    itself = model(tokens[None])[0, of_residues, 4:24]
    tensor = np.zeros((length, 20, length, 20))
    for position in range(length):
        for kind in range(20):
            changed = tokens.clone()
            changed[position + 1] = 4 + kind
            tensor[position, kind] = (model(changed[None])[0, of_residues, 4:24] - itself).numpy()
    for axis in range(4):
        tensor = tensor - tensor.mean(axis, keepdims=True)
    tensor = (tensor + tensor.transpose(2, 3, 0, 1)) / 2
    scores = np.sqrt((tensor**2).sum((1, 3)))
    scores[np.diag_indices(length)] = 0
    scores = scores - np.outer(scores.sum(1), scores.sum(0)) / scores.sum()
    scores[np.diag_indices(length)] = 0
    return scores


@pytest.mark.parametrize("changes", [{}, {"causal": True, "token_dropout": False}], ids=str)
def test_it_is_that_of_a_plain_loop(changes: dict[str, Any]) -> None:
    model = make_model(dataclasses.replace(SMALL, **changes))
    proteins = ["MKTAYX", "ACDE", "M"]  # X is no amino acid: all 20 substitute it
    found = dict(predict_by_jacobian(model, proteins, Place(batch_tokens=60)))
    assert found[0].dtype == np.float32
    for index, protein in enumerate(proteins[:2]):
        np.testing.assert_allclose(found[index], _by_loop(model, protein), atol=1e-4)
        np.testing.assert_allclose(found[index], found[index].T, atol=1e-5)
    assert found[2].tolist() == [[0]]


def test_it_finds_a_planted_coupling() -> None:
    rng = np.random.default_rng(0)
    tensor = rng.normal(scale=0.1, size=(12, 20, 12, 20)).astype(np.float32)
    tensor[2, :, 9] += rng.normal(size=(20, 20))
    scores = score_pairs(tensor)
    assert np.unravel_index(scores.argmax(), scores.shape) in [(2, 9), (9, 2)]


def test_the_shape_of_the_tensor() -> None:
    assert categorical_jacobian(make_model(), tokenize("MKVAA")).shape == (5, 20, 5, 20)
