"""The metrics file across a resume."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from composer import Time, Timestamp

from plm_composer.loggers.metrics_file import MetricsFile


def _state(batch: int) -> SimpleNamespace:
    """All of Composer's state that the logger looks at."""
    return SimpleNamespace(timestamp=Timestamp(batch=batch, sample=Time.from_sample(batch * 4)))


def test_one_line_a_batch_and_nan_is_null(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path / "metrics.jsonl")
    logger.log_metrics({"loss": torch.tensor(1.5), "rate": 2})
    logger.log_metrics({"bad": float("nan"), "text": "no number"})
    logger.batch_end(_state(1), None)
    logger.batch_end(_state(2), None)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "batch": 1, "epoch": 0, "proteins": 4, "tokens": 0, "seconds": 0.0, "loss": 1.5, "rate": 2, "bad": None,
    }  # fmt: skip


def _lines(*places: tuple[int, int]) -> str:
    return "".join(json.dumps({"batch": batch, "epoch": epoch, "loss": 1.0}) + "\n" for batch, epoch in places)


def test_a_resume_drops_what_lies_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(_lines((1, 0), (2, 0), (3, 0)) + '{"bat')
    MetricsFile(path).fit_start(_state(2), None)
    assert path.read_text() == _lines((1, 0), (2, 0))


def test_a_resume_drops_the_end_of_an_epoch_that_it_runs_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(_lines((1, 0), (2, 0), (2, 1)))
    MetricsFile(path).fit_start(_state(2), None)
    assert path.read_text() == _lines((1, 0), (2, 0))


def test_a_resume_drops_the_end_of_the_training_that_it_continues(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(_lines((1, 0), (2, 0)) + '{"batch": 2, "epoch": 0, "time/batch": 2}\n')
    MetricsFile(path).fit_start(_state(2), None)
    assert path.read_text() == _lines((1, 0), (2, 0))
