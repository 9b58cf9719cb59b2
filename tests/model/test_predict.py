"""Logits of many proteins in packed batches are those of each protein alone, each under its own index."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, Query, group_by_tokens, predict_logits, tokenize
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


@pytest.mark.parametrize("limit", [1, 10, 12, 100])
def test_groups_hold_each_protein_once_and_stay_within_the_limit(limit: int) -> None:
    lengths = [5, 9, 2, 7, 7, 3]
    groups = list(group_by_tokens(lengths, limit))
    assert sorted(index for group in groups for index in group) == list(range(6))
    for group in groups:
        assert len(group) == 1 or sum(lengths[index] for index in group) <= limit
    flat = [lengths[index] for group in groups for index in group]
    assert flat == sorted(flat, reverse=True)
