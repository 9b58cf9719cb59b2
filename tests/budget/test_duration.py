"""Durations as people write them."""

import pytest

from plm_composer.budget.duration import describe_duration, parse_duration
from plm_composer.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86400), ("90min", 5400), ("1h30min", 5400), ("300s", 300), ("0.5h", 1800), ("2 days", 172800)],
)
def test_units_are_what_they_say(text: str, seconds: float) -> None:
    assert parse_duration("budget", text) == seconds


@pytest.mark.parametrize("text", ["", "24", "1.5", "soon", "24x", "NaT", "0s", "-1h", "1e400h"])
def test_what_is_no_duration_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^budget is ") as error:
        parse_duration("budget", text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (63.21, "1 min 03.2 s"), (90061, "25 h 01 min 01.0 s"), (59.96, "1 min 00.0 s")],
)
def test_seconds_are_written_for_people(seconds: float, text: str) -> None:
    assert describe_duration(seconds) == text
