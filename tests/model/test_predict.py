"""Logits of many proteins in packed batches are those of each protein alone, each under its own index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EsmModel

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, Query, group_by_tokens, predict_hidden, predict_logits, tokenize
from plm_composer.model.weights.huggingface_folder import save_huggingface
from plm_composer.tokenizer import MASK_ID
from tests.model.small_models import make_model


def test_logits_are_those_of_each_protein_alone() -> None:
    torch.manual_seed(0)
    model = ESM2(ESM2Config(2, 16, 2, 32)).double()
    proteins = [tokenize(residues) for residues in (b"MKV", "MKTAYIAKQRW", b"GG", b"ACDEFGHIK")]
    asked = [np.array([1]), np.array([2, 5, 9]), np.array([], dtype=np.int64), np.array([0, 10])]

    def query_of(index: int) -> Query:
        masked = proteins[index].copy()
        masked[asked[index]] = MASK_ID
        return Query(masked, asked[index])

    found = dict(predict_logits(model, [len(each) for each in proteins], query_of, Place(batch_tokens=16)))
    assert sorted(found) == [0, 1, 2, 3]
    for index, positions in enumerate(asked):
        with torch.no_grad():
            expected = model(torch.from_numpy(query_of(index).token_ids)[None])[0, positions]
        torch.testing.assert_close(found[index], expected, rtol=0, atol=1e-12)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("limit", [1, 10, 12, 100])
def test_groups_hold_each_protein_once_and_stay_within_the_limit(limit: int) -> None:
    lengths = [5, 9, 2, 7, 7, 3]
    groups = list(group_by_tokens(lengths, limit))
    assert sorted(index for group in groups for index in group) == list(range(6))
    for group in groups:
        assert len(group) == 1 or sum(lengths[index] for index in group) <= limit
    flat = [lengths[index] for group in groups for index in group]
    assert flat == sorted(flat, reverse=True)


def test_hidden_states_of_each_layer_are_those_of_transformers(tmp_path: Path) -> None:
    model = make_model()
    save_huggingface(model, tmp_path)
    theirs = EsmModel.from_pretrained(tmp_path).eval()
    proteins = [tokenize(residues) for residues in (b"MKV", b"MKTAYIAKQRW", b"GG")]
    lengths = [len(each) for each in proteins]
    with torch.no_grad():
        expected = [theirs(torch.from_numpy(each)[None], output_hidden_states=True).hidden_states for each in proteins]
    depth = len(model.blocks)
    for layer in range(-depth - 1, depth + 1):
        found = dict(predict_hidden(model, lengths, proteins.__getitem__, Place(batch_tokens=18), layer))
        for index, states in enumerate(expected):
            torch.testing.assert_close(found[index], states[layer][0], rtol=0, atol=1e-4)
    for layer in (depth + 1, -depth - 2):
        with pytest.raises(UserError, match=f"layer {layer}: the model has layers 0 to {depth}"):
            next(predict_hidden(model, lengths, proteins.__getitem__, layer=layer))
    assert not any(block._forward_pre_hooks for block in model.blocks)
