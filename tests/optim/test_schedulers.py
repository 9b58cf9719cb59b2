"""Schedules give the learning rates they promise, and what does not fit a run is said before it starts."""

from __future__ import annotations

import types

import pytest
from composer.core import Time, Timestamp
from composer.optim import CosineAnnealingWithWarmupScheduler, LinearWithWarmupScheduler

from plm_composer.errors import UserError
from plm_composer.optim.linear_schedules import LinearToZeroScheduler, LinearWithWarmupAndHoldScheduler
from plm_composer.optim.schedulers import check_scheduler
from plm_composer.optim.warmup_stable_decay import WarmupStableDecayScheduler


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


@pytest.mark.parametrize(
    ("decay", "halfway", "late"),
    [("linear", 0.5, 0.19), ("one_minus_sqrt", 1 - 0.5**0.5, 0.1), ("cosine", 0.5, 0.0865)],
)
def test_warmup_stable_decay(decay: str, halfway: float, late: float) -> None:
    scheduler = WarmupStableDecayScheduler("100ba", t_decay="0.2dur", decay=decay)
    multipliers = {0: 0.0, 50: 0.5, 100: 1.0, 500: 1.0, 800: 1.0, 900: halfway, 962: late, 1000: 0.0, 1001: 0.0}
    for batch, multiplier in multipliers.items():
        assert scheduler(at(batch)) == pytest.approx(multiplier, abs=2e-3), batch
        assert scheduler(at(batch, "10ep")) == scheduler(at(batch))
    ends_higher = WarmupStableDecayScheduler("100ba", t_decay="200ba", decay=decay, alpha_f=0.1)
    assert ends_higher(at(900)) == pytest.approx(0.1 + 0.9 * halfway)
    assert ends_higher(at(1000)) == pytest.approx(0.1)


@pytest.mark.parametrize(("batch", "multiplier"), [(0, 0.0), (50, 0.5), (100, 1.0), (550, 0.5), (1000, 0.0)])
def test_linear_to_zero(batch: int, multiplier: float) -> None:
    assert LinearToZeroScheduler("0.1dur")(at(batch)) == pytest.approx(multiplier)
    assert LinearToZeroScheduler("0.1dur")(at(batch)) == pytest.approx(LinearWithWarmupScheduler("0.1dur")(at(batch)))


def test_the_end_may_move_while_a_run_is_going() -> None:
    stable, linear = WarmupStableDecayScheduler("100ba", "200ba", "linear"), LinearToZeroScheduler("100ba")
    assert (stable(at(700)), linear(at(700))) == pytest.approx((1.0, 1 / 3))
    assert (stable(at(700, "800ba")), linear(at(700, "800ba"))) == pytest.approx((0.5, 1 / 7))
    assert (stable(at(900, "800ba")), linear(at(900, "800ba"))) == (0.0, 0.0)
    assert (stable(at(900)), linear(at(900))) == pytest.approx((0.5, 1 / 9))


def test_the_decay_waits_for_the_warmup() -> None:
    scheduler = WarmupStableDecayScheduler("100ba", "2dur", "linear")
    assert (scheduler(at(99)), scheduler(at(100)), scheduler(at(550))) == pytest.approx((0.99, 1.0, 0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": "sqrt"}, "decay is 'sqrt'; choose from linear, one_minus_sqrt, cosine"),
        ({"t_decay": "0ba"}, "t_decay is '0ba'; it must be above 0"),
    ],
)
def test_a_decay_that_cannot_be_is_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmupStableDecayScheduler("100ba", **arguments)
