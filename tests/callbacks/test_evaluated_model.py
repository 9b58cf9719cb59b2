"""The model of a running training, as an evaluation sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composer.core import Precision

from plm_composer.callbacks.evaluated_model import evaluation_place


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [(Precision.FP32, None), (Precision.AMP_BF16, torch.bfloat16), (Precision.AMP_FP16, torch.float16)],
)
def test_an_evaluation_has_the_precision_of_the_training(precision: Precision, dtype: torch.dtype | None) -> None:
    state: Any = SimpleNamespace(
        model=SimpleNamespace(autocast_dtype=None), precision=precision, device=SimpleNamespace(name="gpu")
    )
    assert evaluation_place(state, 100).autocast_dtype == dtype
