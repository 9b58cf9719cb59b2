"""Disks that are soon full: file systems in memory."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@dataclasses.dataclass(frozen=True)
class Disk:
    """A mounted file system.

    Args:
        path: Where.
    """

    path: Path

    def resize(self, size: str) -> None:
        """Gives it another size, such as ``4m``."""
        assert _mount(self.path, f"remount,size={size}")

    def remove(self) -> None:
        """Unmounts it."""
        subprocess.run(["umount", str(self.path)], check=True)


SmallDisk = Callable[[str], Disk]


def mount_disk(path: Path, size: str) -> Disk:
    """Mounts one at a new folder; skips the test where that is not allowed."""
    path.mkdir()
    if not _mount(path, f"size={size}"):
        pytest.skip("this user or machine may not mount")
    return Disk(path)


def _mount(path: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
