"""What each objective shows and asks for."""

from __future__ import annotations

import numpy as np
import pytest

from plm_composer.data.collate import Collator, Protein
from plm_composer.data.objectives import next_tokens
from plm_composer.errors import UserError
from plm_composer.tokenizer import CLS_ID, EOS_ID, IGNORE_INDEX, VOCABULARY


def test_each_token_is_labelled_with_the_next_residue() -> None:
    batch = Collator(objective="causal")([Protein(0, 0, b"MKX"), Protein(1, 0, b"V")])
    names = [VOCABULARY[index] for index in batch["input_ids"].tolist()]
    assert names == ["<cls>", "M", "K", "X", "<eos>", "<cls>", "V", "<eos>"]
    labels = ["-" if index == IGNORE_INDEX else VOCABULARY[index] for index in batch["labels"].tolist()]
    assert labels == ["M", "K", "-", "<eos>", "-", "V", "<eos>", "-"]
    assert batch["masked_counts"].tolist() == [3, 2]


def test_a_crop_ends_without_a_label() -> None:
    batch = Collator(objective="causal", crop_length=10)([Protein(3, 0, b"LAGVSERTIDPKQNFYMHWC" * 5)])
    assert len(batch["input_ids"]) == 10
    assert batch["labels"].tolist()[:-1] == batch["input_ids"].tolist()[1:]
    assert batch["labels"].tolist()[-1] == IGNORE_INDEX


def test_evaluation_leaves_the_ends_out() -> None:
    ids = np.array([CLS_ID, 4, 5, EOS_ID])
    assert next_tokens(ids, np.array([4]), ends=False).tolist() == [4, 5, IGNORE_INDEX, IGNORE_INDEX]


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(UserError, match="objective is 'next'; choose from masked, causal"):
        Collator(objective="next")
