"""Weights of proteins in the loss."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plm_composer.data.batches import split, with_labels
from plm_composer.data.collate import Collator, Protein
from plm_composer.data.masking import Masking
from plm_composer.data.weighting import find_weighting, total_weight
from plm_composer.errors import UserError
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.esm2 import ESM2
from plm_composer.tokenizer import IGNORE_INDEX
from tests.model.small_models import SMALL, randomise

LETTERS = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> ESM2ComposerModel:
    inner = ESM2(dataclasses.replace(SMALL, z_loss=0.01)).double()
    randomise(inner)
    return ESM2ComposerModel(inner, weighting=find_weighting("sqrt", "masked")).train()


@pytest.fixture(scope="module")
def batch() -> dict:
    generator = np.random.default_rng(0)
    proteins = [Protein(number, 0, LETTERS[generator.integers(0, 20, length)].tobytes())
                for number, length in enumerate((300, 20, 90, 150))]  # fmt: skip
    made = Collator(masking=Masking(0.3))(proteins)
    labels = made["labels"].clone()
    labels[int(made["cu_seqlens"][1]) : int(made["cu_seqlens"][2])] = IGNORE_INDEX  # one with nothing to predict
    return with_labels(made, labels)


def test_a_protein_counts_as_the_root_of_its_tokens(model: ESM2ComposerModel, batch: dict) -> None:
    outputs = model(batch)
    losses = F.cross_entropy(outputs.logits, outputs.targets, reduction="none")
    losses = losses + 0.01 * outputs.logits.logsumexp(-1).square()
    means = [part.mean() for part in losses.split(batch["masked_counts"].tolist()) if len(part)]
    roots = [float(count) ** 0.5 for count in batch["masked_counts"] if count]
    expected = sum(root * mean for root, mean in zip(roots, means, strict=True)) / sum(roots)
    torch.testing.assert_close(model.loss(outputs, batch), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [1, 3])
def test_microbatches_add_up_to_the_batch(model: ESM2ComposerModel, batch: dict, size: int) -> None:
    weighting = find_weighting("sqrt", "masked")
    whole = float(model.loss(model(batch), batch))
    parts = split(batch, size)
    weights = [total_weight(part, weighting) for part in parts]
    losses = [float(model.loss(model(part), part)) for part in parts]
    assert np.average(losses, weights=weights) == pytest.approx(whole, abs=1e-12)


def test_evaluation_weighs_tokens_the_same(model: ESM2ComposerModel, batch: dict) -> None:
    model.eval()
    outputs = model.eval_forward(batch)
    expected = F.cross_entropy(outputs.logits, outputs.targets)
    torch.testing.assert_close(model.loss(outputs, batch), expected, atol=1e-12, rtol=0)
    model.train()


def test_diffusion_divides_by_the_rate_of_each_protein(batch: dict) -> None:
    rates = np.array([0.5, 1.0, 0.1, 0.25])
    whole = {**batch, "mask_rates": rates}
    weighting = find_weighting("token", "diffusion")
    weighted = ESM2ComposerModel(ESM2(SMALL), weighting=weighting).train()
    outputs = weighted(whole)
    losses = F.cross_entropy(outputs.logits, outputs.targets, reduction="none")
    weights = torch.from_numpy(np.repeat(1 / rates, batch["masked_counts"])).float()
    torch.testing.assert_close(weighted.loss(outputs, whole), (losses * weights).sum() / weights.sum())
    parts = split(whole, 2)
    found = [float(weighted.loss(weighted(part), part)) for part in parts]
    total = np.average(found, weights=[total_weight(part, weighting) for part in parts])
    assert total == pytest.approx(float(weighted.loss(outputs, whole)), abs=1e-5)


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(UserError, match="loss_weighting is 'square'; choose from token, sqrt"):
        find_weighting("square", "masked")
