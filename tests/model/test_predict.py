"""Logits of many proteins in packed batches are those of each protein alone, each under its own index."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import (
    Place,
    Query,
    group_by_tokens,
    predict_hidden,
    predict_logits,
    predict_sums,
    tokenize,
)
from plm_composer.tokenizer import MASK_ID


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


def test_hidden_states_and_their_sums_are_those_of_each_protein_alone() -> None:
    torch.manual_seed(0)
    model = ESM2(ESM2Config(2, 16, 2, 32))
    proteins = [tokenize(residues) for residues in (b"MKV", b"MKTAYIAKQRW", b"GG", b"ACDEFGHIK")]
    lengths = [len(each) for each in proteins]
    ranges = np.array([[0, 1], [1, 12], [2, 2], [4, 6]])
    place = Place(batch_tokens=16)
    hidden = dict(predict_hidden(model, lengths, proteins.__getitem__, place, layers=(0, -1)))
    last = dict(predict_hidden(model, lengths, proteins.__getitem__, place))
    half = dict(predict_hidden(model, lengths, proteins.__getitem__, place, dtype=torch.float16))
    sums = dict(predict_sums(model, lengths, proteins.__getitem__, ranges, place, layers=(0, -1)))
    assert sorted(hidden) == sorted(last) == sorted(sums) == [0, 1, 2, 3]
    for index, tokens in enumerate(proteins):
        with torch.no_grad():
            expected = torch.stack(model.layer_states(torch.from_numpy(tokens)[None], (0, 2)), dim=2)[0]
        torch.testing.assert_close(hidden[index], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(last[index], expected[:, 1:], rtol=0, atol=1e-5)
        assert torch.equal(half[index], last[index].half())
        first, stop = ranges[index]
        torch.testing.assert_close(sums[index], expected[first:stop].sum(0), rtol=0, atol=1e-5)
    for _ in predict_hidden(model, lengths, proteins.__getitem__, place):
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
