"""The line of a progress bar at many widths."""

import pytest

from plm_composer.terminal.progress_line import Detail, compose_line, describe_amount, describe_seconds

DETAILS = [Detail("315/700", 4), Detail("loss 2.871"), Detail("12.3k tok/s", 2), Detail("MFU 31%", 3),
           Detail("01:42 left", 1)]  # fmt: skip


@pytest.mark.parametrize("columns", range(30, 220))
def test_it_is_as_wide_as_the_terminal_and_keeps_the_loss(columns: int) -> None:
    line = compose_line("train", 0.45, DETAILS, columns)
    assert len(line) == columns
    assert line.startswith("train  45%|")
    assert "loss 2.871" in line


def test_a_terminal_of_80_columns_has_everything() -> None:
    line = compose_line("train", 0.45, DETAILS, 80)
    assert all(detail.text in line for detail in DETAILS)
    assert line.count("█") >= 5


def test_what_matters_least_makes_way_first() -> None:
    shown = [sum(detail.text in compose_line("train", 0.45, DETAILS, columns) for detail in DETAILS)
             for columns in (75, 65, 55, 42, 30)]  # fmt: skip
    assert shown == [5, 4, 3, 2, 1]
    assert "01:42 left" in compose_line("train", 0.45, DETAILS, 42)


def test_a_log_gets_no_bar() -> None:
    line = compose_line("train", 0.45, DETAILS, None)
    assert line == "train 45%: 315/700, loss 2.871, 12.3k tok/s, MFU 31%, 01:42 left"


def test_without_an_end_there_is_no_bar() -> None:
    assert compose_line("convert", None, DETAILS[:2], 80) == "convert  315/700  loss 2.871"
    assert compose_line("convert", None, DETAILS[1:2], 10) == "convert  l"


def test_a_terminal_without_unicode() -> None:
    assert compose_line("train", 0.5, DETAILS, 100, ascii_only=True).isascii()


def test_more_than_all_is_all() -> None:
    assert "100%" in compose_line("train", 1.2, [], 40)


def test_braces_in_a_label() -> None:
    assert compose_line("{x}", 0.5, [Detail("{y}")], 40).startswith("{x}  50%|")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1.00k"), (12345, "12.3k"), (3.14159, "3.14"), (5e9, "5.00G")]
)
def test_amounts(number: float, text: str) -> None:
    assert describe_amount(number) == text
    assert describe_amount(number, "B") == f"{text}B"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "00:00"), (59.9, "00:59"), (102, "01:42"), (11045, "3:04:05"), (183600, "2d 03h")]
)
def test_times(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text
