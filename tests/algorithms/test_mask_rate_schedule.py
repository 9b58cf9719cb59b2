"""A batch at a lowered mask rate is the batch that is masked at that rate."""

from __future__ import annotations

import pytest

from plm_composer.algorithms.mask_rate_schedule import MaskRateSchedule, lower_mask_rate
from plm_composer.data.masking import Masking
from plm_composer.errors import UserError
from tests.algorithms.curriculum_batches import FORMATS, PROTEINS, at, collator, equal


@pytest.mark.parametrize("batch_format", FORMATS)
@pytest.mark.parametrize("rate", [0.4, 0.21, 0.15, 0.01])
def test_lowering_is_masking_at_the_lower_rate(batch_format: str, rate: float) -> None:
    proteins = PROTEINS * 40
    high, low = (collator(batch_format=batch_format, masking=Masking(r, 0.7, 0.2))(proteins) for r in (0.4, rate))
    assert equal(lower_mask_rate(high, rate), low)
    assert equal(high, collator(batch_format=batch_format, masking=Masking(0.4, 0.7, 0.2))(proteins))


@pytest.mark.parametrize(
    ("shape", "batch", "rate"),
    [("linear", 0, 0.3), ("linear", 20, 0.25), ("linear", 80, 0.1), ("linear", 99, 0.1),
     ("cosine", 40, 0.2), ("cosine", 20, 0.3 - 0.2 * 0.14644661), ("cosine", 90, 0.1)],
)  # fmt: skip
@pytest.mark.parametrize("duration", ["100ba", "10ep"])
def test_the_rate_follows_the_time(shape: str, batch: int, rate: float, duration: str) -> None:
    schedule = MaskRateSchedule(0.3, 0.1, "0.8dur", shape)
    assert schedule.value(at(batch, duration)) == pytest.approx(rate)


def test_a_run_that_is_planned_anew_ends_where_the_plan_does() -> None:
    schedule = MaskRateSchedule(0.3, 0.1, "0.8dur")
    assert schedule.value(at(40, "100ba")) == pytest.approx(0.2)
    assert schedule.value(at(40, "50ba")) == 0.1
    assert MaskRateSchedule(0.3, 0.1, "1000tok").value(at(40, token=500)) == pytest.approx(0.2)


def test_rates_above_the_collators_are_one_line() -> None:
    with pytest.raises(
        UserError, match=r"initial_rate is 0.3, and it can only lower data.mask_rate, which is 0.15; set"
    ):
        MaskRateSchedule(0.3, 0.1).bind(collator())
    MaskRateSchedule(0.15, 0.1).bind(collator())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_rate": 0.0}, "initial_rate is 0.0"),
        ({"final_rate": 1.5}, "final_rate is 1.5"),
        ({"t_end": "1.5dur"}, "at most 1dur"),
        ({"t_end": "0ba"}, "above 0"),
        ({"t_end": "9sec"}, "by clock time"),
        ({"t_end": "soon"}, "write a number and a unit"),
        ({"t_end": 500}, "write a number and a unit"),
        ({"shape": "cubic"}, "choose from linear, cosine"),
    ],
)
def test_impossible_values_are_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        MaskRateSchedule(**{"initial_rate": 0.15, "final_rate": 0.1, **arguments})
    assert "\n" not in str(error.value)
