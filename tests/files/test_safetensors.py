"""Safetensors are as readable as other files, and a full disk is an OSError."""

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plm_composer.files.safetensors import write_safetensors
from tests.disks import SmallDisk


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read(umask: int, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    before = os.umask(umask)
    try:
        write_safetensors(path, {"x": torch.arange(3)})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert load_file(path)["x"].tolist() == [0, 1, 2]


def test_a_full_disk_says_so(small_disk: SmallDisk) -> None:
    disk = small_disk("1M")
    with pytest.raises(OSError, match="No space left on device"):
        write_safetensors(disk.path / "x.safetensors", {"x": torch.zeros(1 << 20)})


def test_a_folder_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_safetensors(tmp_path / "none" / "x.safetensors", {"x": torch.zeros(1)})
