"""Checkpoints on a disk that fills up, and after many stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.disks import SmallDisk
from tests.run.interrupted_runs import DEADLINE, Run, same_weights


@pytest.mark.slow
def test_a_full_disk_costs_no_checkpoint(small_set: Path, small_disk: SmallDisk, tiny: tuple[str, ...]) -> None:
    disk = small_disk("600k")  # room for one tiny checkpoint, not for two
    whole = Run(small_set, "roomy", tiny)
    whole.finish()
    run = Run(small_set, "cramped", (*tiny, f"save_folder={disk.path}/checkpoints"))
    process = run.start()
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2, stderr
    assert [line for line in stderr.splitlines() if line.startswith("error: ")] == [
        f"error: {disk.path}/checkpoints/ep0-ba4-rank0.pt: the disk is full; free some space and start again with "
        "autoresume=true, which continues from the last whole checkpoint"
    ]
    assert "Traceback" not in stderr
    names = sorted(path.name for path in (disk.path / "checkpoints").iterdir())
    assert names == ["ep0-ba2-rank0.pt", "latest-rank0.pt"]

    disk.resize("4m")
    run.finish()
    assert run.learned() == whole.learned()
    assert same_weights(run, whole)
    names = sorted(path.name for path in (disk.path / "checkpoints").iterdir())
    assert names == ["ep0-ba6-rank0.pt", "latest-rank0.pt"]
