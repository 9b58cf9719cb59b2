"""Facts about the machine that runs the tests."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import psutil
import pytest
import torch

import plm_composer.doctor.facts as module
from plm_composer.doctor.facts import Facts, collect_facts


@pytest.fixture(scope="module")
def facts() -> Facts:
    return collect_facts()


def test_versions(facts: Facts) -> None:
    assert facts.python == platform.python_version()
    assert facts.packages["mosaicml"] == importlib.metadata.version("mosaicml")
    assert facts.packages["torch"] == importlib.metadata.version("torch")
    assert facts.broken == {}
    assert not any("==" in wanted for wanted in facts.mismatches)


def test_the_machine(facts: Facts) -> None:
    assert facts.cuda_works == torch.cuda.is_available()
    assert len(facts.gpus) == torch.cuda.device_count()
    assert facts.memory == psutil.virtual_memory().total
    assert facts.cores == len(os.sched_getaffinity(0))
    assert facts.threads == torch.get_num_threads()
    assert facts.folders[0].path == str(Path.cwd())
    assert facts.folders[0].total == shutil.disk_usage(".").total
    assert facts.folders[0].writable
    assert set(facts.attention) == {"bf16", "fp32"}


def test_a_block_of_a_dead_run_is_found(facts: Facts) -> None:
    block = Path("/dev/shm/999983_barrier")
    block.write_bytes(b"\0")
    try:
        assert block.name in collect_facts().leftovers
        assert block.name not in facts.leftovers
    finally:
        block.unlink()


def test_what_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IMPORTED", ("json", "no_such_package"))
    assert module._broken_packages() == {"no_such_package": "No module named 'no_such_package'"}


@pytest.mark.parametrize(
    ("files", "cores"), [(("max 100000", None), None), (("250000 100000", None), 2.5), (("150000", "100000"), 1.5),
                         (("-1", "100000"), None)]
)  # fmt: skip
def test_the_quota_of_a_container(
    files: tuple[str, str | None], cores: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [None if text is None else tmp_path / str(number) for number, text in enumerate(files)]
    for path, text in zip(paths, files, strict=True):
        if path is not None and text is not None:
            path.write_text(f"{text}\n")
    monkeypatch.setattr(module, "_QUOTAS", ((tmp_path / "missing", None), tuple(paths)))
    assert module._core_quota() == cores


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", "580.65.06"),
        ("", None),
    ],
)
def test_the_version_of_a_driver(
    text: str, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(module, "_DRIVER", tmp_path / "version")
    assert module._driver_version() == version
