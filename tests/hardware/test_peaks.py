"""Peaks of cards that Composer knows, of those that it lacks, and of none."""

from __future__ import annotations

import pytest
import torch
from composer.core import Precision

from plm_composer.hardware.peaks import datasheet_peak


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", Precision.AMP_BF16, 989.5e12),
        ("NVIDIA A100-SXM4-40GB", Precision.AMP_FP16, 312e12),
        ("NVIDIA GeForce RTX 4090", Precision.AMP_BF16, 165.2e12),
        ("NVIDIA L4", Precision.AMP_FP16, 121e12),
        ("NVIDIA L40S", Precision.AMP_BF16, 362.05e12),
        ("NVIDIA B200", Precision.AMP_BF16, 2250e12),
        ("NVIDIA GB200", Precision.AMP_BF16, 2500e12),
        ("NVIDIA L40S", Precision.FP32, None),
        ("NVIDIA Z9000", Precision.AMP_BF16, None),
    ],
)
def test_a_card_is_found_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, precision: Precision, peak: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert datasheet_peak(precision) == (peak if peak is None else pytest.approx(peak, rel=1e-3))
