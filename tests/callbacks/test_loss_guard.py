"""A loss that is no number stops the run."""

from types import SimpleNamespace

import pytest
import torch
from composer import Timestamp

from plm_composer.callbacks.loss_guard import LossGuard
from plm_composer.errors import UserError
from tests.commands import run_here


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_nan_and_infinity_stop_the_run(loss: float) -> None:
    state = SimpleNamespace(total_loss_dict={"loss/train/total": loss}, previous_timestamp=Timestamp(batch=7))
    with pytest.raises(UserError, match="no longer finite at batch 7"):
        LossGuard().batch_end(state, None)


def test_a_finite_loss_passes() -> None:
    LossGuard().batch_end(SimpleNamespace(total_loss_dict={"loss/train/total": 2.0}), None)


def test_no_checkpoint_holds_weights_that_are_no_numbers(repository, tiny, tmp_path) -> None:
    result = run_here(
        tmp_path, "train.py", repository / "yamls" / "esm2_small.yaml", *tiny, "run_name=nan",
        "optimizer.lr=1e30", "algorithms.gradient_clipping=null", "max_duration=30ba", "save_interval=1ba",
    )  # fmt: skip
    assert result.returncode == 2
    assert "the loss is no longer finite at batch" in result.stderr
    checkpoint = torch.load(tmp_path / "runs" / "nan" / "checkpoints" / "latest-rank0.pt", weights_only=False)
    assert all(bool(value.isfinite().all()) for value in checkpoint["state"]["model"].values())
