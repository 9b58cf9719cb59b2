"""Runs that are stopped at a batch: by a kill, a signal or a full disk. Watches ``metrics.jsonl``, not the clock."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import EsmForMaskedLM

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PROBES = Path(__file__).parent / "train_with_probes.py"
WITHOUT_CLOCK = ("batch", "epoch", "proteins", "tokens")
DEADLINE = 240


@dataclasses.dataclass(frozen=True)
class Run:
    """A run by name in a scratch folder, to be started once or often.

    Args:
        scratch: Where commands run: ``conftest.small_set``.
        name: ``run_name``.
        overrides: ``key=value``.
        script: What is started; ``train.py``, or ``PROBES`` to see batches.
        flags: Arguments of the script before the YAML.
    """

    scratch: Path
    name: str
    overrides: tuple[str, ...]
    script: Path = REPOSITORY / "train.py"
    flags: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.scratch / "runs" / self.name

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def start(self, *more: str, processes: int = 1, launcher: bool = False) -> subprocess.Popen[str]:
        """Starts it in a session of its own, so that a kill finds all of its processes."""
        environment = {
            **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}",
        }  # fmt: skip
        command = ["composer", "-n", str(processes)] if launcher or processes > 1 else [sys.executable]
        yaml = REPOSITORY / "yamls" / "esm2_small.yaml"
        overrides = (f"run_name={self.name}", "data.local=shards", *self.overrides, "autoresume=true", *more)
        return subprocess.Popen(
            [*command, str(self.script), *self.flags, str(yaml), *overrides],
            cwd=self.scratch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def finish(self, *more: str, processes: int = 1) -> str:
        """Starts it and lets it end well; returns stderr."""
        process = self.start(*more, processes=processes)
        stdout, stderr = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, stdout + stderr
        return stderr

    def wait_for_batch(self, process: subprocess.Popen[str], batch: int) -> None:
        """Waits until a batch is trained."""
        self.wait_for(process, lambda: self.last_batch() >= batch)

    @staticmethod
    def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
        """Waits until something has happened while the process runs."""
        deadline = time.monotonic() + DEADLINE
        while not happened():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)  # Between two looks; what happens does not depend on it.

    def kill_at(self, batch: int, *more: str, processes: int = 1) -> str:
        """Starts it and kills all of its processes as soon as a batch is trained; returns stderr."""
        process = self.start(*more, processes=processes)
        self.wait_for_new_lines(process)
        self.wait_for_batch(process, batch)
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate(timeout=DEADLINE)[1]

    def wait_for_new_lines(self, process: subprocess.Popen[str]) -> None:
        """Waits until a resumed run has dropped its predecessor's last lines and written its own first."""
        before = _identity(self.metrics)
        self.wait_for(process, lambda: _identity(self.metrics) != before)

    def lines(self) -> list[dict[str, Any]]:
        lines = []
        for line in self.metrics.read_text().splitlines() if self.metrics.exists() else ():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue  # Being written.
        return lines

    def last_batch(self) -> int:
        return max((line["batch"] for line in self.lines()), default=0)

    def learned(self) -> list[dict[str, Any]]:
        """What ``metrics.jsonl`` says of learning, line by line: everything but clocks, speeds and memory."""
        return [
            {
                name: value
                for name, value in line.items()
                if name in WITHOUT_CLOCK or name.startswith(("loss/", "metrics/", "lr-"))
            }
            for line in self.lines()
        ]

    def losses(self) -> dict[int, float]:
        return {line["batch"]: line["loss/train/total"] for line in self.lines() if "loss/train/total" in line}

    def weights(self) -> dict[str, torch.Tensor]:
        return EsmForMaskedLM.from_pretrained(self.folder / "export").state_dict()

    def saved(self) -> list[str]:
        """Names in the checkpoint folder."""
        return sorted(path.name for path in self.checkpoints.iterdir())


def same_weights(one: Run, other: Run) -> bool:
    """Whether two runs' exported models are equal, bit for bit."""
    expected, found = one.weights(), other.weights()
    return expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def recorded(folder: Path, batch_size: int = 16) -> dict[int, list[str]]:
    """What ``batch_recorder`` saw: batch to its proteins on all ranks, sorted; a batch trained twice must agree."""
    seen: dict[tuple[int, int], dict[int, list[str]]] = {}
    for path in sorted(folder.glob("rank*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            proteins = record["proteins"]
            ranks = seen.setdefault((record["batch"], batch_size // len(proteins)), {})
            assert ranks.setdefault(record["rank"], proteins) == proteins, record["batch"]
    batches: dict[int, list[str]] = {}
    for (batch, processes), ranks in seen.items():
        # A kill may have come between two processes' lines.
        if len(ranks) == processes:
            proteins = sorted(itertools.chain.from_iterable(ranks.values()))
            assert batches.setdefault(batch, proteins) == proteins, batch
    return batches


def _identity(path: Path) -> tuple[int, int]:
    return (path.stat().st_ino, path.stat().st_size) if path.exists() else (0, 0)
