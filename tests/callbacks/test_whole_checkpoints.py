"""Checkpoints on a disk that fills up, and after many stops."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interrupted_runs import DEADLINE, Run, same_weights

Mount = Callable[[str], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that has room for one tiny checkpoint, not for two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if _mount(disk, "size=600k").returncode != 0:
        pytest.skip("this user or machine may not mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _mount(disk: Path, options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], capture_output=True, check=False)


@pytest.mark.slow
def test_a_full_disk_costs_no_checkpoint(small_set: Path, small_disk: Path, tiny: tuple[str, ...]) -> None:
    whole = Run(small_set, "roomy", tiny)
    whole.finish()
    run = Run(small_set, "cramped", (*tiny, f"save_folder={small_disk}/checkpoints"))
    process = run.start()
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2, stderr
    assert [line for line in stderr.splitlines() if line.startswith("error: ")] == [
        f"error: {small_disk}/checkpoints/ep0-ba4-rank0.pt: the disk is full; free some space and start again with "
        "autoresume=true, which continues from the last whole checkpoint"
    ]
    assert "Traceback" not in stderr
    names = sorted(path.name for path in (small_disk / "checkpoints").iterdir())
    assert names == ["ep0-ba2-rank0.pt", "latest-rank0.pt"]

    assert _mount(small_disk, "remount,size=4m").returncode == 0
    run.finish()
    assert run.learned() == whole.learned()
    assert same_weights(run, whole)
    names = sorted(path.name for path in (small_disk / "checkpoints").iterdir())
    assert names == ["ep0-ba6-rank0.pt", "latest-rank0.pt"]
