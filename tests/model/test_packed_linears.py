"""Weights that are laid out beforehand give the same products, and the model is as before afterwards."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from plm_composer.hardware.precision import multiplies_bf16
from plm_composer.model.packed_linears import packed_linears
from tests.model.small_models import SMALL, VARIANTS, close, inputs, make_batch, make_model


@pytest.mark.parametrize("changes", [{}, VARIANTS["no biases"], VARIANTS["swiglu"]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_the_same(changes: dict, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not multiplies_bf16("cpu"):
        pytest.skip("no bf16 products here")
    model = make_model(dataclasses.replace(SMALL, **changes))
    packed = inputs(make_batch()["packed"])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        expected = model.hidden_states(**packed)
        with packed_linears(model, dtype):
            assert "forward" in vars(model.blocks[0].feed_forward.up)
            found = model.hidden_states(**packed)
        again = model.hidden_states(**packed)
    close(found, expected, 2e-5 if dtype == torch.float32 else 0.05)
    assert torch.equal(again, expected)
    model(**packed).sum().backward()


def test_other_precisions_are_left_alone() -> None:
    model = make_model(dtype=torch.float64)
    with packed_linears(model, torch.float64):
        assert "forward" not in vars(model.blocks[0].feed_forward.up)
