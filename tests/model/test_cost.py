"""Predicted memory against what autograd keeps; ``tests/benchmarks`` holds it against whole processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from plm_composer.data.batches import pack, pad
from plm_composer.hardware.precision import multiplies_bf16
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.cost import Workload, kept_for_backward
from plm_composer.model.esm2 import ESM2
from plm_composer.model.parallelize import parallelize
from tests.model.small_models import VARIANTS

LENGTHS = [50, 120, 30, 90]
BF16 = multiplies_bf16("cpu")


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=pytest.mark.skipif(not BF16, reason="no bf16"))])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_knows_what_autograd_keeps(bf16: bool, padded: bool, checkpointing: bool) -> None:
    model = ESM2(ESM2Config(3, 64, 4, 256))
    measured, predicted = kept(model, bf16=bf16, padded=padded, checkpointing=checkpointing)
    assert measured == pytest.approx(predicted, rel=0.06 if checkpointing else 0.01)


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=pytest.mark.skipif(not BF16, reason="no bf16"))])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_it_knows_what_variants_keep(name: str, padded: bool, bf16: bool) -> None:
    config = ESM2Config(**{**ESM2Config(3, 64, 4, 256).to_mapping(), **VARIANTS[name]})
    measured, predicted = kept(ESM2(config).eval(), bf16=bf16, padded=padded)
    assert measured == pytest.approx(predicted, rel=0.03)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropping_proteins_never_keeps_more(padded: bool, checkpointing: bool) -> None:
    model = ESM2(ESM2Config(3, 64, 4, 256, layer_drop=0.3))
    for seed in range(5):
        torch.manual_seed(seed)
        measured, predicted = kept(model, padded=padded, checkpointing=checkpointing)
        assert measured < 1.01 * predicted


def kept(model: ESM2, *, bf16: bool = False, padded: bool = False, checkpointing: bool = False) -> tuple[int, int]:
    """What autograd keeps, and what is predicted, in bytes."""
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 24, sum(LENGTHS))
    labels = np.where(rng.random(len(ids)) < 0.15, ids, -100)
    batch = (pad if padded else pack)(ids, labels, np.array(LENGTHS))
    parallelize(model, activation_checkpointing=checkpointing)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}

    def note(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in parameters:
            saved[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        ESM2ComposerModel(model, torch.bfloat16 if bf16 else None)(batch)
    lengths = [max(LENGTHS)] * len(LENGTHS) if padded else LENGTHS
    workload = Workload(
        lengths,
        mask_rate=float((labels >= 0).sum()) / sum(lengths),
        bf16=bf16,
        padded=padded,
        checkpointing=checkpointing,
    )
    measured = sum(x.untyped_storage().nbytes() for x in saved.values())
    return measured, kept_for_backward(model.config, workload)
