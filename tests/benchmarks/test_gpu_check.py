"""``make gpu-check``: its commands exist, and one that fails does not keep the others from running."""

from __future__ import annotations

import shlex
from importlib.metadata import distributions
from pathlib import Path

import plm_composer
from tests.commands import REPOSITORY, run_in
from tests.documented_commands import Command, problem_of

STAGES = (
    "esm2_150m --crop 512",
    "cramming_67m --crop 512",
    "benchmarks/loop.py",
    "benchmarks/attention.py",
    "yamls/cramming.yaml recipe=cramming budget=75s",
    "yamls/esm2_650m.yaml recipe=fsdp",
    "yamls/esm2_small.yaml",
    "esm2_650m --crop 1024",
    "esm2_8m --crop 512",
    "benchmarks/profile_step.py",
    "--candidates",
    "pytest tests/model",
)
ALONE = {"MAKEFLAGS": "", "MAKELEVEL": ""}
"""Of ``make test``, which may have started these tests: its options are not for the ``make`` that they start."""


def fake_python(folder: Path, script: str) -> Path:
    """An interpreter that writes its arguments to ``log`` beside it and does nothing."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {folder}/log\n{script}\n')
    path.chmod(0o755)
    return path


def commands(folder: Path) -> list[str]:
    """What the interpreter was given, the checks for a device left out."""
    return [line for line in (folder / "log").read_text().splitlines() if not line.startswith("-c ")]


def test_all_stages_run_though_each_fails(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 'test "$1" = -c')
    result = run_in(REPOSITORY, "make", "gpu-check", f"GPU_PYTHON={python}", variables=ALONE)
    assert result.returncode == 2
    run = commands(tmp_path)
    assert [stage in line for stage, line in zip(STAGES, run, strict=True)] == [True] * len(STAGES)
    assert "fair-esm" not in " ".join(run)


def test_its_commands_exist(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "exit 0")
    # Metrics that a stage shows are not there, which is no matter here.
    run_in(REPOSITORY, "make", "gpu-check", "gpu-check-curves", f"GPU_PYTHON={python}", "-k", variables=ALONE)
    run = commands(tmp_path)
    assert len(run) == len(STAGES) + 1
    for line in run:
        words = shlex.split(line)
        launched = words[:2] == ["-m", "composer.cli.launcher"]
        command = ("composer", *words[2:]) if launched else ("python", *words)
        assert problem_of(Command("Makefile", command)) is None


def test_other_proteins_and_contenders_are_taken(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 'test "$1" = -c')
    given = ("FASTA=a/b.fasta", "VAL_FASTA=c.fasta", "CONTENDERS=fair-esm")
    stages = ("gpu-check-67m", "gpu-check-cramming")
    run_in(REPOSITORY, "make", "-k", *stages, f"GPU_PYTHON={python}", *given, variables=ALONE)
    step, training = commands(tmp_path)
    assert "--fasta a/b.fasta" in step
    assert "--implementation fair-esm --model cramming_67m" in step
    assert "data.fasta=a/b.fasta data.val_fasta=c.fasta data.local=data/gpu_check/a_b.fasta" in training


def test_without_a_gpu_it_ends_at_once(tmp_path: Path) -> None:
    result = run_in(REPOSITORY, "make", "gpu-check", f"GPU_PYTHON={fake_python(tmp_path, 'exit 1')}", variables=ALONE)
    assert result.returncode == 2
    assert "error: torch finds no CUDA device" in result.stderr
    assert commands(tmp_path) == []


def test_an_environment_without_the_package_knows_its_version(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "exit 0")
    run_in(REPOSITORY, "make", "gpu-check-device", f"GPU_PYTHON={python}", variables=ALONE)
    (found,) = distributions(name="plm-composer", path=[str(REPOSITORY / "build" / "gpu_check")])
    assert found.version == plm_composer.__version__
