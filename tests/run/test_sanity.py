"""The run that the README begins with learns: its loss has a bound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import REPOSITORY, run_in

BOUND = 2.87
"""Nats. Measured 2.850; residue frequencies alone give 2.878."""


@pytest.mark.slow
def test_the_small_run_beats_residue_frequencies(tmp_path: Path) -> None:
    command = ("composer", REPOSITORY / "train.py", REPOSITORY / "yamls" / "esm2_small.yaml", "progress_bar=false")
    result = run_in(tmp_path, *command, timeout=1800, variables={"OMP_NUM_THREADS": "2"})
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "runs" / "esm2_small" / "metrics.jsonl").read_text().splitlines()
    losses = {
        line["batch"]: line["metrics/eval/masked_nll"]
        for line in map(json.loads, lines)
        if "metrics/eval/masked_nll" in line
    }
    assert losses[700] < BOUND
