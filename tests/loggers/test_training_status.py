"""What a training shows of itself, from its metrics."""

import pytest

from plm_composer.loggers.training_status import describe_evaluation, describe_position, describe_training, seconds_left
from plm_composer.terminal.progress_line import compose_line

METRICS = {
    "loss/train/total": 2.87149,
    "throughput/tokens_per_sec": 1_234_567.0,
    "throughput/device/mfu": 0.314,
    "time/remaining_estimate": 1.7,
}


@pytest.mark.parametrize(
    ("position", "total", "unit", "text"),
    [
        (315, 700, "ba", "315/700"),
        (1.4, 10, "ep", "1.40/10 ep"),
        (12_345, 1_000_000, "sp", "12.3k/1.00M sp"),
        (5e8, 2e9, "tok", "500M/2.00G tok"),
    ],
)
def test_positions(position: float, total: float, unit: str, text: str) -> None:
    assert describe_position(position, total, unit) == text


def test_the_time_left_is_in_the_unit_that_was_logged() -> None:
    assert seconds_left(METRICS, "minutes") == pytest.approx(102)
    assert seconds_left(METRICS, "hours") == pytest.approx(6120)
    assert seconds_left({}, "hours") is None


def test_a_budget_knows_the_time_left() -> None:
    assert seconds_left({**METRICS, "budget/seconds_left": 33.0}, "minutes") == 33


def test_all_fits_80_columns() -> None:
    details = describe_training("99999/100000", METRICS, "1d 03h left")
    line = compose_line("train", 0.99, details, 80)
    for text in ("99999/100000", "loss 2.871", "1.23M tok/s", "MFU 31%", "1d 03h left"):
        assert text in line


def test_what_no_metric_tells_is_left_out() -> None:
    assert [detail.text for detail in describe_training("0/700", {}, None)] == ["0/700"]


def test_an_evaluation_is_one_line() -> None:
    scores = {"masked_nll": 2.85, "perplexity": 17.288, "accuracy": 0.1215, "mine": 1}
    assert describe_evaluation("eval", "350/700", scores) == (
        "eval at 350/700: loss 2.8500 nats, perplexity 17.29, accuracy 12.2%, mine 1.0000"
    )
