"""One key for GPU and CPU."""

import pytest
import torch

from plm_composer.errors import UserError
from plm_composer.hardware import precision


@pytest.mark.parametrize("supported", [True, False])
def test_auto_follows_the_hardware(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: supported)
    assert precision.resolve_precision("auto", "cpu") == ("amp_bf16" if supported else "fp32")
    assert precision.resolve_precision("fp32", "cpu") == "fp32"


def test_on_a_cpu_the_model_casts_and_on_a_gpu_composer_does() -> None:
    assert precision.trainer_precision("amp_bf16", "cpu") == "fp32"
    assert precision.autocast_dtype("amp_bf16", "cpu") is torch.bfloat16
    assert precision.trainer_precision("amp_bf16", "gpu") == "amp_bf16"
    assert precision.autocast_dtype("amp_bf16", "gpu") is None
    assert precision.autocast_dtype("fp32", "cpu") is None


def test_fp16_is_for_gpus() -> None:
    assert precision.trainer_precision("amp_fp16", "gpu") == "amp_fp16"
    assert precision.autocast_dtype("amp_fp16", "gpu") is None
    assert precision.working_dtype("amp_fp16", "gpu") is torch.float16
    with pytest.raises(UserError, match="precision is amp_fp16, which needs a GPU; use auto"):
        precision.resolve_precision("amp_fp16", "cpu")
