"""A loss that is no number stops the run."""

from types import SimpleNamespace

import pytest
import torch
from composer import Timestamp

from plm_composer.callbacks.loss_guard import LossGuard
from plm_composer.errors import UserError


@pytest.mark.parametrize("loss", [torch.tensor(float("nan")), {"total": torch.tensor(float("inf"))}])
def test_nan_and_infinity_stop_the_run(loss: object) -> None:
    with pytest.raises(UserError, match="no longer finite at batch 7"):
        LossGuard().after_loss(SimpleNamespace(loss=loss, timestamp=Timestamp(batch=7)), None)


def test_a_finite_loss_passes() -> None:
    LossGuard().after_loss(SimpleNamespace(loss=torch.tensor(2.0), timestamp=Timestamp()), None)
