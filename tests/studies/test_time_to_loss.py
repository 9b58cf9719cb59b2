"""When a curve first reaches a loss."""

import pytest

from plm_composer.studies.results import Point
from plm_composer.studies.time_to_loss import Reached, first_reached

CURVE = [Point(10, 1000, 4.0), Point(20, 2000, 3.0), Point(40, 4000, 3.2), Point(60, 6000, 2.8)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (3.5, Reached(15, 1500)),
        (3.0, Reached(20, 2000)),  # not the second time, after the bump
        (2.9, Reached(55, 5500)),
        (2.8, Reached(60, 6000)),
        (4.5, Reached(10, 1000)),  # before the first validation: nothing is known of it
        (2.7, None),
    ],
)
def test_lines_between_validations(target: float, expected: Reached | None) -> None:
    found = first_reached(CURVE, target)
    if expected is None:
        assert found is None
    else:
        assert (found.seconds, found.tokens) == pytest.approx((expected.seconds, expected.tokens))


def test_no_validation_reaches_nothing() -> None:
    assert first_reached([], 3.0) is None
