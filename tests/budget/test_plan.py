"""How many batches fit."""

import dataclasses

import pytest

from plm_composer.budget.plan import PROVISIONAL_BATCHES, Estimate, Reserve, StepTimes, plan_batches


@pytest.mark.parametrize(
    ("left", "step", "planned"),
    [
        (100.0, 1.0, 10 + 90),
        (100.0, 0.9, 10 + 100),
        (11.6, 1.0, 10 + 1),
        (11.4, 1.0, 10),  # might not fit
        (9.0, 1.0, 10),
        (-5.0, 1.0, 10),
        (100.0, None, 10 + PROVISIONAL_BATCHES),
        (9.0, None, 10),
    ],
)
def test_what_is_left_is_used_and_never_more(left: float, step: float | None, planned: int) -> None:
    assert plan_batches(10, left, reserve=10.0, step=step) == planned


def test_a_plan_that_is_made_anew_after_each_batch_ends_in_time() -> None:
    times = StepTimes()
    clock, batch, planned = 0.0, 0, 1
    while batch < planned:
        taken = 5.0 if batch == 0 else (1.0 + 0.3 * (batch % 3) + (0.5 if batch > 200 else 0.0))
        clock, batch = clock + taken, batch + 1
        times.add(taken)
        planned = plan_batches(batch, 600.0 - clock, 20.0, times.mean())
    assert 575 < clock <= 580


def test_the_first_batches_do_not_count() -> None:
    times = StepTimes()
    assert times.mean() is None
    times.add(60.0)
    assert times.mean() == 60
    times.add(30.0)
    assert times.mean() == 30
    times.add(1.0)
    times.add(2.0)
    assert times.mean() == 1.5


def test_a_first_batch_that_compiles_does_not_end_the_training() -> None:
    times = StepTimes()
    times.add(19.0, most=2.0)
    assert plan_batches(1, left=35.0, reserve=20.0, step=times.mean()) == 1 + 7
    times.add(0.5, most=2.0)
    assert plan_batches(2, left=34.5, reserve=20.0, step=times.mean()) == 2 + 29
    times.add(3.0, most=2.0)  # by now a batch is believed
    assert times.mean() == 3


def test_a_first_batch_that_is_as_slow_as_any_ends_it() -> None:
    times = StepTimes()
    times.add(19.0, most=30.0)
    assert plan_batches(1, left=35.0, reserve=20.0, step=times.mean()) == 1


def test_an_earlier_start_knows_the_speed() -> None:
    times = StepTimes(expected=2.0)
    assert times.mean() == 2
    for seconds in (60.0, 30.0, 1.0):
        times.add(seconds)
    assert times.mean() == 1


def test_the_evaluation_is_expected_to_slow_down_with_the_machine() -> None:
    times = StepTimes()
    for taken in (60.0, 60.0, *[1.0] * 100):
        times.add(taken)
    told = Estimate(20.0, times.recent())
    reserve = Reserve(told, checkpoint=1.0, export=1.0, exit=2.0, slack=1.0)
    assert reserve.total(times.recent()) == 25
    assert dataclasses.replace(reserve, checkpoints=2).total(times.recent()) == 26
    times.add(30.0)  # one that was held up says nothing of the machine's speed
    assert reserve.total(times.recent()) == 25
    for _ in range(24):
        times.add(1.5)
    assert reserve.total(times.recent()) == 35
    assert reserve.total(None) == Reserve(Estimate(20.0), 1.0, 1.0, 2.0, 1.0).total(1.5) == 25
