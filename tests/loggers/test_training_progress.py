"""The bar of a training, on a terminal and in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from composer import Time, Timestamp

from plm_composer.loggers.training_progress import TrainingProgress, closing_bars
from tests.commands import REPOSITORY, TINY, Run
from tests.terminal.streams import on_a_terminal, run_on_a_terminal


def state(batch: int, duration: str = "10ba", length: int = 5, epoch: int = 0) -> SimpleNamespace:
    """All of Composer's state that the logger looks at."""
    clock = Timestamp(epoch=epoch, batch=batch, batch_in_epoch=batch - epoch * length, sample=4 * batch)
    return SimpleNamespace(
        timestamp=clock,
        max_duration=Time.from_timestring(duration),
        dataloader_len=Time.from_batch(length),
        dataloader_label="eval",
    )


def train(logger: TrainingProgress, batches: range, state_of: Callable[[int], SimpleNamespace] = state) -> None:
    for batch in batches:
        logger.log_metrics({"loss/train/total": 3 - batch / 10, "throughput/tokens_per_sec": 12_345.0})
        logger.batch_end(state_of(batch), None)


def evaluate(logger: TrainingProgress, now: SimpleNamespace) -> None:
    logger.eval_start(now, None)
    for _ in range(5):
        logger.eval_batch_end(now, None)
    logger.log_metrics({"metrics/eval/masked_nll": 2.5, "metrics/eval/accuracy": 0.25})
    logger.eval_end(now, None)


def test_one_bar_on_a_terminal() -> None:
    with on_a_terminal() as terminal:
        logger = TrainingProgress()
        logger.fit_start(state(0), None)
        train(logger, range(1, 6))
        evaluate(logger, state(5))
        train(logger, range(6, 11))
        logger.fit_end(state(10), None)
        drawn = terminal.drawn()
        assert all(len(line) <= 78 for line in drawn)
        assert any(line.startswith("evaluate  ") for line in drawn)
        assert [line for line in drawn if "nats" in line] == ["eval at 5/10: loss 2.5000 nats, accuracy 25.0%"]
        assert drawn[-1].startswith("train 100%|")
        assert drawn[-1].endswith("| 10/10  loss 2.000  12.3k tok/s  in 00:00")
        # Two lines stay: the scores, and the bar.
        assert terminal.getvalue().count("\n") == 2


def test_a_resumed_run_continues_where_it_was() -> None:
    with on_a_terminal() as terminal:
        logger = TrainingProgress()
        logger.fit_start(state(6), None)
        logger.close(state(6), None)
        assert all(line.startswith("train  60%|") for line in terminal.drawn())


def test_a_budget_moves_the_end() -> None:
    with on_a_terminal() as terminal:
        logger = TrainingProgress()
        logger.fit_start(state(0, "100ba"), None)
        logger.log_metrics({"budget/seconds_left": 61.0})
        train(logger, range(1, 4), lambda batch: state(batch, "4ba"))
        logger.close(state(3, "4ba"), None)
        assert terminal.drawn()[-1].startswith("train  75%|")
        assert terminal.drawn()[-1].endswith("01:01 left")


def test_epochs_count_in_parts() -> None:
    with on_a_terminal() as terminal:
        logger = TrainingProgress()
        logger.fit_start(state(0, "2ep"), None)
        train(logger, range(1, 5), lambda batch: state(batch, "2ep"))
        logger.close(state(4, "2ep"), None)
        assert "0.80/2 ep" in terminal.drawn()[-1]
        assert terminal.drawn()[-1].startswith("train  40%|")


def test_an_evaluation_alone() -> None:
    with on_a_terminal() as terminal:
        evaluate(TrainingProgress(), state(10))
        assert terminal.drawn()[-1] == "eval at 10/10: loss 2.5000 nats, accuracy 25.0%"


def test_an_error_gets_a_line_of_its_own() -> None:
    with on_a_terminal() as terminal:
        logger = TrainingProgress()
        logger.fit_start(state(0), None)
        with pytest.raises(RuntimeError), closing_bars([logger]):
            raise RuntimeError
        assert terminal.getvalue().endswith("\n")


def test_lines_at_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    logger = TrainingProgress(log_interval="4ba")
    logger.fit_start(state(0), None)
    train(logger, range(1, 11))
    logger.fit_end(state(10), None)
    assert capsys.readouterr().err.splitlines() == [
        "train 40%: 4/10, loss 2.600, 12.3k tok/s",
        "train 80%: 8/10, loss 2.200, 12.3k tok/s",
    ]


def test_lines_at_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    logger = TrainingProgress(bar=False, log_interval="1ep")
    logger.fit_start(state(0, "2ep"), None)
    train(logger, range(1, 6), lambda batch: state(batch, "2ep"))
    logger.epoch_end(state(5, "2ep", epoch=1), None)
    assert capsys.readouterr().err == "train 50%: 1.00/2 ep, loss 2.500, 12.3k tok/s\n"


def test_only_rank_zero_shows_anything(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("composer.utils.dist.get_global_rank", lambda: 1)
    logger = TrainingProgress(log_interval="1ba")
    logger.fit_start(state(0), None)
    train(logger, range(1, 6))
    evaluate(logger, state(5))
    assert capsys.readouterr().err == ""


COMMAND = (sys.executable, REPOSITORY / "train.py", "esm2_small", *TINY[:-2], "progress_bar=true", "precision=fp32")


def test_a_run_on_a_terminal_of_80_columns(tmp_path: Path) -> None:
    code, written = run_on_a_terminal(tmp_path, *COMMAND, "max_duration=30ba")
    assert code == 0, written
    lines = written.replace("\r\n", "\n").split("\n")
    # What stays on the screen: of what was drawn over, the last.
    screen = [line.rstrip("\r").split("\r")[-1].rstrip() for line in lines]
    shown = [piece for line in lines for piece in line.split("\r")]
    assert "Config:" not in written
    assert "arning" not in written
    assert all(len(piece) <= 80 for piece in shown if piece.startswith(("train ", "evaluate ", "convert ")))
    bars = [line for line in screen if line.startswith("train ")]
    assert len(bars) == 1
    assert bars[0].startswith("train 100%|")
    for text in ("30/30", "loss ", " tok/s", "MFU ", "in 00:"):
        assert text in bars[0]
    assert any(line.startswith("eval at 30/30: loss ") for line in screen)
    assert any(line.startswith("validation loss ") for line in screen)


def test_a_run_in_a_log(tmp_path: Path, run_command: Run) -> None:
    result = run_command(*COMMAND, "log_to_console=true", "console_log_interval=2ba")
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert sum(line.startswith("train ") for line in lines) == 3
    assert sum(line.startswith("eval at ") for line in lines) == 2
    assert len(lines) < 15, result.stderr
    assert "\r" not in result.stderr
    assert "\x1b" not in result.stdout + result.stderr
