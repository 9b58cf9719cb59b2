"""A run with a budget ends inside of it, decayed, evaluated and exported, whatever happened to it in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from commands import REPOSITORY, TINY, Run
from composer.devices import DeviceCPU

from plm_composer.budget.ledger import FILE_NAME, Ledger
from plm_composer.callbacks.budget import Budget, estimate_evaluation
from plm_composer.evaluation.loader import make_evaluator

UNLIMITED = [override for override in TINY if not override.startswith("max_duration=")]
COMMAND = (REPOSITORY / "train.py", REPOSITORY / "yamls" / "esm2_small.yaml")


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_run_ends_within_its_budget(tmp_path: Path, run_command: Run) -> None:
    overrides = [*UNLIMITED, "autoresume=true", "save_interval=50ba", "eval_interval=0.4dur",
                 "scheduler.t_warmup=0.1dur"]  # fmt: skip
    folder = tmp_path / "runs" / "esm2_small"
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *map(str, COMMAND), *overrides, "budget=1h"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (folder / "checkpoints" / "latest-rank0.pt").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    spent = time.monotonic() - start
    assert process.returncode == -signal.SIGKILL

    budget = round(3 * spent + 10)  # by the speed of this machine, and of what else it does
    start = time.monotonic()
    result = run_command(sys.executable, *COMMAND, *overrides, f"budget={budget}s")
    spent += time.monotonic() - start
    assert result.returncode == 0, result.stdout + result.stderr
    ledger = json.loads((folder / FILE_NAME).read_text())
    assert ledger["finished"]
    assert ledger["charged"] <= spent + 0.1  # the kernel tells when a process began in hundredths
    assert spent <= ledger["budget"] == budget
    assert spent > 0.8 * budget
    for entry in ("start-up", "training", "evaluation", "checkpoints", "export"):
        assert ledger["entries"][entry] > 0, entry
    assert "budget      " in result.stdout

    lines = metrics(folder)
    rates = [line["lr-AdamW/group0"] for line in lines if "lr-AdamW/group0" in line]
    assert max(rates) > 0.5 * 6e-4
    assert rates[-1] < 0.05 * max(rates)  # decayed
    trained = max(line["batch"] for line in lines)
    assert trained == ledger["batches"] > 50
    assert lines[-1]["batch"] == trained
    assert any("metrics/eval/masked_nll" in line for line in lines if line["batch"] == trained)
    assert (folder / "export" / "model.safetensors").exists()


def test_only_the_same_runs_checkpoint_is_charged() -> None:
    spent = Budget(Ledger(None, 100.0, time.time() - 40), "first")
    again, other = (Budget(Ledger(None, 100.0, time.time()), name) for name in ("first", "second"))
    again.load_state_dict(spent.state_dict())
    other.load_state_dict(spent.state_dict())
    assert again.ledger.spent() == pytest.approx(40, abs=1)
    assert other.ledger.spent() < 1


def test_the_time_of_an_evaluation_is_told_from_what_it_scores() -> None:
    class Model(torch.nn.Module):
        def forward(self, batch: dict[str, torch.Tensor]) -> None:
            lengths.append(len(batch["input_ids"]))
            end = time.perf_counter() + 0.01
            while time.perf_counter() < end:
                pass

    proteins, lengths = [b"MKVLAAGIVE" * 5] * 40, list[int]()
    state = types.SimpleNamespace(model=Model(), device=DeviceCPU(), precision="fp32", evaluators=[])
    estimates = {}
    for subset in (-1, 5):
        evaluator = make_evaluator(proteins, 52, ["masked_nll"])
        evaluator.subset_num_batches = subset
        state.evaluators = [evaluator]
        estimates[subset] = estimate_evaluation(state)
    assert set(lengths) == {52}
    assert 0.4 <= estimates[-1] < 1.2  # 40 batches
    assert 0.05 <= estimates[5] < 0.15


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget=1s", "budget: 1 s are too few to train: "),
        ("budget=24", "budget is '24'; write a duration such as 24h"),
    ],
)
def test_a_budget_of_nothing_is_one_line(run_command: Run, override: str, message: str) -> None:
    result = run_command(sys.executable, *COMMAND, *UNLIMITED, override)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
