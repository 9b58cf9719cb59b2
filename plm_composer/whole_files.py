"""Replacing a file whole: a kill, a power cut or a full disk leaves the old one or the new one, never a half."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PARTIAL = "partial-"
"""What the name of a file begins with that is being written."""


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
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
