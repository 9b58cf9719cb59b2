"""Replaces a file atomically: a kill, a power cut or a full disk leaves the old file or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from plm_composer.errors import UserError

PARTIAL = "partial-"
"""Prefix of the name of a file that is being written."""

FULL_DISK = (
    "{}: the disk is full; free some space and start again with autoresume=true, which continues from the last whole "
    "checkpoint"
)
"""Message of a run that cannot write."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_FULL = 1 << 20
"""Free bytes below which a disk counts as full: a failed write may leave a little free."""


def is_full(folder: Path, error: Exception) -> bool:
    """Whether a write failed because the disk is full: torch's writer, for one, does not say.

    Args:
        folder: Folder that was written to; exists.
        error: Error of the failed write.
    """
    return getattr(error, "errno", None) in _NO_SPACE or shutil.disk_usage(folder).free < _FULL


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Writes a file beside ``path``, and renames it to ``path`` once all of it is on the disk.

    Args:
        path: The file, which need not exist; its folder must.

    Yields:
        The path to write to. The file is removed if writing fails.
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


def check_writable(path: Path) -> None:
    """Checks that a file can be written, before what goes into it is computed.

    Args:
        path: The file, which need not exist.

    Raises:
        UserError: The folder does not exist or cannot be written, or the path is a folder.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def link_to(path: Path, target: Path) -> None:
    """Makes ``path`` a relative link to ``target``, and replaces what is there.

    Args:
        path: The link.
        target: The file that the link points to.
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
