"""Replacing a file whole: a kill, a power cut or a full disk leaves the old one or the new one, never a half."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

PARTIAL = "partial-"
"""What the name of a file begins with that is being written."""

FULL_DISK = (
    "{}: the disk is full; free some space and start again with autoresume=true, which continues from the last whole "
    "checkpoint"
)
"""What to say where a run cannot write."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_FULL = 1 << 20
"""Bytes free below which a disk counts as full: what failed to be written may have left a little."""


def is_full(folder: Path, error: Exception) -> bool:
    """Whether it is for want of space that writing failed: torch's writer, for one, does not say.

    Args:
        folder: Where it was written; exists.
        error: What writing failed with.
    """
    return getattr(error, "errno", None) in _NO_SPACE or shutil.disk_usage(folder).free < _FULL


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Writes beside ``path`` and puts the file in its place once all of it is on the disk.

    Args:
        path: The file, which need not exist; its folder does.

    Yields:
        Where to write. Where writing fails it is removed.
    """
    partial = path.with_name(PARTIAL + path.name)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except Exception:
        partial.unlink(missing_ok=True)
        raise


def link_to(path: Path, target: Path) -> None:
    """Makes ``path`` a relative link to a file beside it, in place of what is there.

    Args:
        path: The link.
        target: What it points to.
    """
    partial = path.with_name(PARTIAL + path.name)
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, path.parent))
    partial.replace(path)


def sync(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
