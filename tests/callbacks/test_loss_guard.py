"""A loss that is no number stops the run."""

from types import SimpleNamespace

import pytest
from composer import Timestamp

from plm_composer.callbacks.loss_guard import LossGuard
from plm_composer.errors import UserError


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_nan_and_infinity_stop_the_run(loss: float) -> None:
    state = SimpleNamespace(total_loss_dict={"loss/train/total": loss}, previous_timestamp=Timestamp(batch=7))
    with pytest.raises(UserError, match="no longer finite at batch 7"):
        LossGuard().batch_end(state, None)


def test_a_finite_loss_passes() -> None:
    LossGuard().batch_end(SimpleNamespace(total_loss_dict={"loss/train/total": 2.0}), None)
