"""Runs that reports are written of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import TINY, run_here

MARKUP = "<b>x</b> & $y_1$"
"""A name that would be markup to a page, and a formula to matplotlib."""


@pytest.fixture(scope="session")
def measured_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run that fills the window of its speed monitor."""
    scratch = tmp_path_factory.mktemp("measured")
    result = run_here(
        scratch, "plm", "train", "esm2_small", *TINY, "recipe=unpadded", "max_duration=8ba", "eval_interval=4ba",
        "callbacks.speed_monitor.window_size=2", f"run_name={MARKUP}", "run_folder=runs/measured",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warning: no report" not in result.stderr
    return scratch / "runs" / "measured"
