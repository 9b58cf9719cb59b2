"""Runs that get SIGTERM: a checkpoint at the end of the batch, exit code 143, and an exact continuation."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.run.interrupted_runs import DEADLINE, PROBES, Run, same_weights

EXIT_CODE = 143
OVERRIDES = ("max_duration=40ba", "save_interval=1ep", "eval_interval=1ep")


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def unbroken(request: pytest.FixtureRequest, small_set: Path, tiny: tuple[str, ...]) -> tuple[int, Run]:
    """A run of one process or two that nobody stops."""
    run = Run(small_set, f"unstopped{request.param}", (*tiny, *OVERRIDES))
    run.finish(processes=request.param)
    return request.param, run


def signal_group(leader: int) -> None:
    """Signals every process, as SLURM and systemd do."""
    os.killpg(leader, signal.SIGTERM)


def signal_leader(leader: int) -> None:
    """Signals what was started, as Kubernetes does."""
    os.kill(leader, signal.SIGTERM)


def signal_last_child(leader: int) -> None:
    """Signals one of the launcher's processes: the last rank."""
    ranks = [child for child in psutil.Process(leader).children() if "train.py" in " ".join(child.cmdline())]
    ranks[-1].send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    "send",
    [
        signal_group,
        pytest.param(signal_leader, marks=pytest.mark.slow),
        pytest.param(signal_last_child, marks=pytest.mark.slow),
    ],
)
def test_sigterm_saves_at_once_and_the_next_start_continues(
    unbroken: tuple[int, Run], tiny: tuple[str, ...], send
) -> None:
    processes, whole = unbroken
    run = Run(whole.scratch, f"{send.__name__}{processes}", (*tiny, *OVERRIDES, "data.num_workers=2"))
    process = run.start(processes=processes, launcher=True)
    run.wait_for_batch(process, 4)
    send(process.pid)
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == EXIT_CODE, stderr
    stopped_at = run.last_batch()
    assert 4 <= stopped_at < 15
    assert f"stopped by SIGTERM, saved at batch {stopped_at}; continue with autoresume=true" in stderr.splitlines()
    assert run.saved() == [f"ep0-ba{stopped_at}-rank0.pt", "latest-rank0.pt"]
    run.finish(processes=processes)
    assert run.learned() == whole.learned()
    assert same_weights(run, whole)


def test_a_batch_that_does_not_end_is_given_up(small_set: Path, tiny: tuple[str, ...]) -> None:
    sign = small_set / "it stalls"
    stall = ("callbacks.stall.batch=3", f"callbacks.stall.sign={sign}")
    run = Run(small_set, "stalled", (*tiny, "preemption_grace=0.5", *stall), PROBES)
    process = run.start()
    run.wait_for(process, sign.exists)  # A signal in an earlier batch would be heeded at its end.
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == EXIT_CODE
    assert "stopped by SIGTERM: not done within 0.5 s (preemption_grace); the last checkpoint stands" in stderr
    assert run.saved() == ["ep0-ba2-rank0.pt", "latest-rank0.pt"]
