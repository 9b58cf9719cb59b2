"""A run with a budget ends inside of it, decayed, evaluated and exported, whatever happened to it in between."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from composer import Logger
from composer.callbacks import CheckpointSaver
from composer.core import Timestamp
from composer.devices import DeviceCPU

from plm_composer.budget.ledger import FILE_NAME, Ledger
from plm_composer.callbacks.budget import Budget, estimate_evaluation
from plm_composer.evaluation.loader import make_evaluator
from tests.commands import REPOSITORY, TINY, Run, run_here

UNLIMITED = [override for override in TINY if not override.startswith("max_duration=")]
ASSAY = "mutant,mutated_sequence,DMS_score\nM1A,AKTAYIA,1\nK2A,MATAYIA,2\nT3A,MKAAYIA,3\n"
COMMAND = (REPOSITORY / "train.py", REPOSITORY / "yamls" / "esm2_small.yaml")


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.alone
def test_a_killed_run_ends_within_its_budget(tmp_path: Path, run_command: Run) -> None:
    (tmp_path / "assay.csv").write_text(ASSAY)
    overrides = [*UNLIMITED, "autoresume=true", "save_interval=50ba", "eval_interval=0.4dur",
                 "scheduler.t_warmup=0.1dur", "log_to_console=true", "console_log_interval=1ba",
                 "callbacks.proteingym.interval=200ba", f"callbacks.proteingym.folder={tmp_path}"]  # fmt: skip
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
    for entry in ("start-up", "training", "evaluation", "proteingym", "checkpoints", "export"):
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

    lines = re.findall(r"^train (\d+)%: (\d+)/(\d+), .* left$", result.stderr, re.MULTILINE)
    assert lines[-1] == ("100", str(trained), str(trained))  # progress ends where the training does


def test_only_the_same_runs_checkpoint_is_charged() -> None:
    spent = Budget(Ledger(None, 100.0, time.time() - 40), "first")
    again, other = (Budget(Ledger(None, 100.0, time.time()), name) for name in ("first", "second"))
    again.load_state_dict(spent.state_dict())
    other.load_state_dict(spent.state_dict())
    assert again.ledger.spent() == pytest.approx(40, abs=1)
    assert other.ledger.spent() < 1


@pytest.mark.alone
def test_the_time_of_an_evaluation_is_estimated_from_what_it_scores() -> None:
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
        estimates[subset], tokens = estimate_evaluation(state)
        assert tokens == 52 * (40 if subset == -1 else 5)
    assert set(lengths) == {52}
    assert 0.4 <= estimates[-1] < 1.2  # 40 batches
    assert 0.05 <= estimates[5] < 0.15


class Ticking(torch.nn.Module):
    """A model whose batches take a time of a clock that is made up: the first ones more than later ones."""

    def __init__(self, clock: list[float], slow: int) -> None:
        super().__init__()
        self.clock, self.slow = clock, slow

    def forward(self, batch: dict[str, torch.Tensor]) -> None:
        self.clock[0] += 5.0 if self.slow > 0 else 0.01
        self.slow -= 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the callback reads."""
    clock = [0.0]
    monkeypatch.setattr("plm_composer.callbacks.budget.time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    return clock


@pytest.mark.parametrize(("device", "slow"), [("cpu", 1), ("gpu", 3)])
def test_a_batch_that_compiles_is_not_multiplied(
    device: str, slow: int, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plm_composer.callbacks.budget.synchronize", lambda _device: None)
    evaluator = make_evaluator([b"MKVLAAGIVE" * 5] * 40, 52, ["masked_nll"])
    evaluator.subset_num_batches = -1
    place = types.SimpleNamespace(name=device, batch_to_device=lambda batch: batch)
    state = types.SimpleNamespace(model=Ticking(clock, slow), device=place, precision="fp32", evaluators=[evaluator])
    assert estimate_evaluation(state).seconds == pytest.approx(0.4)  # 40 batches


class Spinning(torch.nn.Module):
    """A model whose every batch takes as long as it is told."""

    seconds = 0.0

    def forward(self, batch: dict[str, torch.Tensor]) -> None:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass


def planning(start_up: float, step: float | None = 1.0) -> tuple[Budget, types.SimpleNamespace]:
    """A budget of which 90 s are left to a run, of a second a batch or so, and its state after 2,000 batches."""
    now = [0.0]
    ledger = Ledger(None, 90 + start_up, 0.0, clock=lambda: now[0])
    budget = Budget(ledger, "run", slack=0.0)
    budget.load_state_dict({"run_name": "run", "entries": {}, "step": step})
    now[0] = start_up
    evaluator = make_evaluator([b"MKVLAAGIVE" * 5] * 40, 52, ["masked_nll"])  # 40 batches
    evaluator.subset_num_batches = -1
    state = types.SimpleNamespace(
        model=Spinning(), device=DeviceCPU(), precision="fp32", evaluators=[evaluator], max_duration=None,
        timestamp=Timestamp(batch=2000), callbacks=[],
    )  # fmt: skip
    return budget, state


@pytest.mark.alone
def test_an_evaluation_that_has_become_slower_is_told_again_near_the_end() -> None:
    budget, state = planning(start_up=1.0)
    budget.after_load(state, Logger(state))
    first = state.max_duration.value
    assert 2080 < first < 2090
    state.model.seconds = 0.1  # 4 s in all, of a plan of less than a hundred
    budget.batch_end(state, Logger(state))
    assert first - 6 <= state.max_duration.value <= first - 3

    # What was measured is not given up for an estimate.
    budget, state = planning(start_up=1.0)
    budget.after_load(state, Logger(state))
    start = time.perf_counter()
    budget.eval_start(state, Logger(state))
    state.model.seconds = 2.0
    state.model({})
    budget.eval_end(state, Logger(state))
    measured = time.perf_counter() - start
    state.model.seconds = 0.0
    budget.batch_end(state, Logger(state))
    assert state.max_duration.value <= first - int(measured)


@pytest.mark.alone
def test_an_evaluation_is_not_expected_to_take_longer_because_a_curriculum_ends() -> None:
    budget, state = planning(start_up=1.0)
    budget.after_load(state, Logger(state))

    def train(batches: int, seconds: float) -> None:
        state.model.seconds = seconds
        for _ in range(batches):
            budget.before_dataloader(state, Logger(state))
            state.model({})
            budget.batch_end(state, Logger(state))

    train(10, 0.001)
    budget.eval_start(state, Logger(state))
    state.model.seconds = 1.0
    state.model({})
    budget.eval_end(state, Logger(state))
    train(64, 0.04)  # batches of 40 times the size
    assert (state.max_duration.value - 2000) * 0.04 > 70  # of 90 s


def test_a_process_that_was_slow_to_start_is_given_time_to_exit() -> None:
    planned = []
    for start_up in (1.0, 60.0):
        budget, state = planning(start_up)
        budget.after_load(state, Logger(state))
        planned.append(state.max_duration.value)
    assert planned[0] - planned[1] == pytest.approx(0.3 * 60 - 1.5, abs=1.5)


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_a_first_batch_that_compiles_does_not_end_the_training_and_one_that_is_slow_does(
    device: str, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the evaluation has shown what its tokens take at most; a CPU's optimizer may be what is slow."""
    monkeypatch.setattr("plm_composer.callbacks.budget.synchronize", lambda _device: None)
    budget, state = planning(start_up=1.0, step=None)
    state.device = types.SimpleNamespace(name=device, batch_to_device=lambda batch: batch)
    state.model = Ticking(clock, slow=0)
    budget.after_load(state, Logger(state))
    budget.before_dataloader(state, Logger(state))
    clock[0] += 80.0
    state.timestamp = Timestamp(batch=2001, token=520)  # as ten batches of the evaluation
    budget.batch_end(state, Logger(state))
    if device == "gpu":
        assert 2001 + 100 < state.max_duration.value < 2001 + 90 / 0.6
    else:
        assert state.max_duration.value == 2001


def test_time_is_kept_for_every_checkpoint_of_the_end() -> None:
    planned = []
    for savers in (1, 2):
        budget, state = planning(start_up=1.0)
        state.model.weights = torch.nn.Parameter(torch.empty(250_000_000, device="meta"))
        # Without their constructors, which make folders.
        state.callbacks = [CheckpointSaver.__new__(CheckpointSaver) for _ in range(savers)]
        budget.after_load(state, Logger(state))
        planned.append(state.max_duration.value)
    assert planned[0] - planned[1] == pytest.approx(15, abs=1.5)  # 3 GB at 200 MB/s


def test_two_checkpoints_after_one_batch_are_measured_as_two(clock: list[float]) -> None:
    planned = []
    for written in (1, 2):
        budget, state = planning(start_up=1.0)
        state.callbacks = [CheckpointSaver.__new__(CheckpointSaver) for _ in range(2)]
        for number, saver in enumerate(state.callbacks):
            saver.last_checkpoint_batch = state.timestamp.batch if number < written else None
        state.model = Ticking(clock, slow=0)
        budget.after_load(state, Logger(state))
        budget.batch_checkpoint(state, Logger(state))
        clock[0] += 20.0
        budget.before_dataloader(state, Logger(state))
        budget.batch_end(state, Logger(state))
        planned.append(state.max_duration.value)
    assert planned[1] - planned[0] == pytest.approx(20, abs=1.5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget=1s", "budget: 1 s are too few to train: "),
        ("budget=24", "budget is '24'; write a duration such as 24h"),
    ],
)
def test_a_budget_of_nothing_is_one_line(tmp_path: Path, override: str, message: str) -> None:
    result = run_here(tmp_path, *COMMAND, *UNLIMITED, override)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
