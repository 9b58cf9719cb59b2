"""Schedules give the learning rates they promise, and what does not fit a run is said before it starts."""

from __future__ import annotations

import types

import pytest
from composer.core import Time, Timestamp
from composer.optim import CosineAnnealingWithWarmupScheduler, LinearWithWarmupScheduler

from plm_composer.errors import UserError
from plm_composer.optim.schedulers import LinearWithWarmupAndHoldScheduler, check_scheduler


def at(batch: int, duration: str = "1000ba", epoch_length: int = 100) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        max_duration=Time.from_timestring(duration),
        timestamp=Timestamp(batch=batch),
        dataloader_len=Time(epoch_length, "ba"),
    )


@pytest.mark.parametrize(
    ("batch", "multiplier"), [(0, 0.0), (50, 0.5), (100, 1.0), (500, 0.55), (900, 0.1), (950, 0.1), (1000, 0.1)]
)
@pytest.mark.parametrize("duration", ["1000ba", "10ep"])
def test_warmup_decay_and_hold(batch: int, multiplier: float, duration: str) -> None:
    scheduler = LinearWithWarmupAndHoldScheduler("100ba", alpha_f=0.1, t_max="0.9dur")
    assert scheduler(at(batch, duration)) == pytest.approx(multiplier)


@pytest.mark.parametrize("batch", [0, 50, 100, 101, 700, 999, 1000])
def test_it_is_composers_where_composer_has_it(batch: int) -> None:
    ours, theirs = (
        kind("100ba", alpha_f=0.1) for kind in (LinearWithWarmupAndHoldScheduler, LinearWithWarmupScheduler)
    )
    assert ours(at(batch)) == pytest.approx(theirs(at(batch)))


@pytest.mark.parametrize("kind", [LinearWithWarmupScheduler, CosineAnnealingWithWarmupScheduler])
@pytest.mark.parametrize(("duration", "batches"), [("1000ba", None), ("10ep", 100)])
def test_a_schedule_that_ends_early_is_one_line(kind: type, duration: str, batches: int | None) -> None:
    with pytest.raises(UserError, match="scheduler: t_max 900ba must be") as error:
        check_scheduler(kind("100ba", t_max="900ba"), duration, batches)
    assert "\n" not in str(error.value)


def test_epochs_wait_for_the_data() -> None:
    check_scheduler(LinearWithWarmupScheduler("0.1dur", t_max="0.9dur"), "10ep")
    with pytest.raises(UserError):
        check_scheduler(LinearWithWarmupScheduler("0.1dur", t_max="0.9dur"), "10ep", 100)
