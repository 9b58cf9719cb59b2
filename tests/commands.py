"""How tests run the project's commands, as a user would."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from plm_composer.sample import TRAIN_FASTA
from plm_composer.shards.inputs.fasta import read_fasta

REPOSITORY = Path(__file__).resolve().parent.parent

WriteShards = Callable[..., Path]
TINY = (
    "model.num_hidden_layers=2",
    "model.hidden_size=32",
    "model.num_attention_heads=4",
    "model.intermediate_size=128",
    "data.crop_length=64",
    "data.num_workers=0",
    "global_train_batch_size=16",
    "scheduler.t_warmup=2ba",
    "max_duration=6ba",
    "save_interval=2ba",
    "eval_interval=3ba",
    "eval_subset_num_batches=1",
    "progress_bar=false",
    "precision=fp32",
)
"""Overrides that make any of the project's runs one of seconds, with the same numbers on any CPU."""

TEST_TOKEN = "hunter2-hunter2"
"""A secret in the environment of every command; nothing that a run leaves may hold it."""

Run = Callable[..., subprocess.CompletedProcess[str]]


def run_in(
    folder: Path, *command: str | Path, timeout: float = 300, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command of the project as a user would, in a folder, with this interpreter's environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
        "PLM_TEST_TOKEN": TEST_TOKEN,
        **(variables or {}),
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_here(
    folder: Path, *command: str | Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs ``plm ...`` or ``train.py ...`` in this process, which has its imports, from argv to the exit code.

    This saves the seconds that a new process spends on imports. ``run_in`` is for what depends on the process: signals,
    kills, memory, threads, other processes.
    """
    from plm_composer.cli import main as plm
    from plm_composer.errors import run_command
    from plm_composer.run.command import main as train

    words = [str(word) for word in command]
    main = plm if words[0] == "plm" else functools.partial(run_command, train)
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as exit_,
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", words)
        for name, value in (variables or {}).items():
            patch.setenv(name, value)
        # Composer makes a group of this one process, and variables that describe it. Both stay: torch 2.7 may wait for
        # ever for the threads of a group that it destroys.
        main()
    return subprocess.CompletedProcess(words, int(exit_.value.code or 0), stdout.getvalue(), stderr.getvalue())


def write_proteins(path: Path, number: int = 60) -> None:
    """Writes some of the bundled proteins as FASTA."""
    records = itertools.islice(read_fasta(TRAIN_FASTA), number)
    path.write_text("".join(f">{name}\n{protein.decode()}\n" for name, protein in records))
