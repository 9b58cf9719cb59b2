"""Numbers as text."""

import pytest

from plm_composer.report.quantities import NONE, show_count, show_number, show_seconds, show_share


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"),
        (9999, "", "9,999"),
        (10_000, "", "10.0 k"),
        (408_241, "", "408 k"),
        (999_999, "", "1.00 M"),
        (2.853e14, "FLOP", "285 TFLOP"),
        (1.29e9, "B", "1.29 GB"),
        (0.0, "FLOP", "0.00 FLOP"),
        (None, "B", NONE),
        (float("nan"), "FLOP", NONE),
    ],
)
def test_counts(value, unit, text) -> None:
    assert show_count(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04, "0.0 s"), (99.94, "99.9 s"), (99.96, "1 min 40 s"), (3600, "1 h 00 min"), (90_000, "25 h 00 min"),
     (200_000, "2 d 07 h"), (None, NONE)],
)  # fmt: skip
def test_durations(value, text) -> None:
    assert show_seconds(value) == text


def test_shares_and_signs() -> None:
    assert (show_share(0.051), show_share(0.424), show_share(None)) == ("5.1 %", "42 %", NONE)
    assert show_number(-0.5, 2) == "\N{MINUS SIGN}0.50"
