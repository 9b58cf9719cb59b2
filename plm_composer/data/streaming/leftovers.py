"""Removes what killed runs leave in shared memory, which would make the next run think that its cache is in use."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock
from streaming.base.constant import BARRIER_FILELOCK, CACHE_FILELOCK, SHM_TO_CLEAN

_SHARED_MEMORY = Path("/dev/shm")
_NAME = re.compile(rf"(\d{{6}})_({'|'.join([*SHM_TO_CLEAN, BARRIER_FILELOCK, CACHE_FILELOCK])}|failure)")
"""Names of streaming's shared memory and lock files, and of our file for failures (``dataset.py``)."""


def remove_leftovers() -> list[str]:
    """Removes the shared memory and lock files of streaming datasets that no living process uses.

    Does nothing except on Linux, since elsewhere it cannot find out which process uses a block.

    Returns:
        The prefixes of the removed names.
    """
    leftovers = find_leftovers()
    if not leftovers:
        return []
    stale = {path.name[:6] for path in leftovers}
    # Locks without a block are left: a container that shares this folder but not the memory may hold them.
    locks = (path for path in _named(Path(tempfile.gettempdir())) if path.name[:6] in stale)
    for path in [*leftovers, *locks]:
        with contextlib.suppress(OSError):  # it is another user's, or another run removes it
            path.unlink()
    return sorted(stale)


def find_leftovers() -> list[Path]:
    """Finds the shared memory of streaming datasets that no living process uses; nothing except on Linux."""
    blocks = list(_named(_SHARED_MEMORY)) if _SHARED_MEMORY.is_dir() else []
    if not blocks:
        return []
    in_use = _in_use()
    return [path for path in blocks if path.name[:6] not in in_use]


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Lets the runs of a machine register their shared memory one at a time: two at once can take the same name."""
    with FileLock(Path(tempfile.gettempdir(), "plm_composer_streaming.lock"), mode=0o666):
        yield


def _named(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _in_use() -> set[str]:
    """Prefixes of the blocks that some process has mapped into its memory."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            for mapping in process.memory_maps():
                path = Path(mapping.path)
                if path.parent == _SHARED_MEMORY and _NAME.fullmatch(path.name):
                    found.add(path.name[:6])
    return found
