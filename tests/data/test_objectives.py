"""What each objective shows and asks for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from composer.core import Time

from plm_composer.algorithms.mixed_objective import MixedObjective
from plm_composer.data.batches import BATCH_FORMATS
from plm_composer.data.collate import Collator, Protein
from plm_composer.data.masking import Masking
from plm_composer.data.objectives import make_causal, next_tokens
from plm_composer.errors import UserError
from plm_composer.tokenizer import CLS_ID, EOS_ID, IGNORE_INDEX, MASK_ID, VOCABULARY


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


LONG = [Protein(number, 0, b"LAGVSERTIDPKQNFYMHWC" * 20) for number in range(200)]


@pytest.mark.parametrize("batch_format", BATCH_FORMATS)
def test_a_mixed_batch_becomes_the_causal_one(batch_format: str) -> None:
    proteins = [Protein(0, 0, b"MKXLAGVSERT"), Protein(1, 0, b"V"), *LONG[:2]]
    causal, mixed = (
        Collator(objective=objective, batch_format=batch_format, crop_length=64, masking=Masking(0.5))(proteins)
        for objective in ("causal", "mixed")
    )
    found = make_causal(mixed)
    assert found.pop("causal") is True
    assert found.keys() == causal.keys()
    for key, value in causal.items():
        np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize(("share", "batches"), [(0.5, [1, 3, 5, 7, 9]), (0.2, [4, 9]), (0.7, [1, 2, 4, 5, 7, 8, 9])])
def test_causal_batches_are_spread_evenly(share: float, batches: list[int]) -> None:
    def value(batch: int) -> float:
        return MixedObjective(share).value(SimpleNamespace(timestamp=SimpleNamespace(batch=Time(batch, "ba"))))

    assert [batch for batch in range(10) if value(batch)] == batches


def test_diffusion_masks_each_protein_at_a_rate_of_its_own() -> None:
    masking = Masking(mask_rate=0.8, mask_token_fraction=1.0, random_token_fraction=0.0)
    batch = Collator(objective="diffusion", masking=masking)(LONG)
    rates, shares = batch["mask_rates"], batch["masked_counts"] / 400
    assert rates.min() >= 0.008
    assert rates.max() <= 0.8
    assert np.abs(np.sort(rates) - np.linspace(0, 0.8, len(rates))).max() < 0.08  # uniform: Kolmogorov-Smirnov
    assert np.abs(shares - rates).max() < 4 * (0.25 / 400) ** 0.5
    assert bool((batch["input_ids"][batch["masked_positions"]] == MASK_ID).all())


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(UserError, match="objective is 'next'; choose from masked, causal, mixed, diffusion"):
        Collator(objective="next")
