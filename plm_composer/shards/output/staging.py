"""Writes a folder under another name and publishes it by a rename: all or nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from plm_composer.errors import UserError
from plm_composer.files.atomic import sync
from plm_composer.shards.inputs.split import SPLITS
from plm_composer.shards.output.manifest import INDEX_NAME, MANIFEST_NAME, read_manifest

LOCK_NAME = ".lock"
SOURCES_NAME = "sources.json"
"""File beside the manifest in which a run that converts its own FASTA describes that FASTA."""
_SHARD_NAME = re.compile(r"shard\.\d+\.mds(\.zst.*)?")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SIGTERM_EXIT = 128 + signal.SIGTERM


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    path.write_bytes(data)
    sync(path)


class _Terminated(SystemExit):
    """The process received SIGTERM."""


@contextmanager
def staged_folder(
    out: Path, *, overwrite: bool, keep_leftovers: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Gives a folder to write into that becomes ``out`` if the body succeeds, and is removed if it does not.

    A process that is killed, or ends on SIGTERM, leaves ``out`` as it was, and the folder as ``out`` + ``.partial``.

    Args:
        out: The folder to publish; must not exist, be empty, or be a converted dataset that ``overwrite`` may replace.
        overwrite: Whether to replace a dataset. It stays in place until the new one is complete.
        keep_leftovers: Called with the folder to write into; returns whether files that a killed process left there
            may stay. None removes them.

    Yields:
        The folder to write into.

    Raises:
        UserError: ``out`` is taken, another process is writing it, the disk is full, or the folder is not writable.
    """
    out = out.resolve()
    staging = out.with_name(out.name + ".partial")
    replaced = out.with_name(out.name + ".replaced")
    try:
        with _terminating(), _locked(staging):
            try:
                _recover(out, replaced)
                _check_free(out, overwrite)
                if keep_leftovers is None or not keep_leftovers(staging):
                    _clear(staging)
                yield staging
                _publish(staging, out, replaced)
            except _Terminated:
                raise
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise UserError(f"{out}: disk full while writing ({error.strerror}); free some space") from error
        raise UserError(f"{error.filename or out}: {error.strerror or error}") from error


@contextmanager
def _locked(staging: Path) -> Iterator[None]:
    path = staging / LOCK_NAME
    if staging.is_dir() and any(staging.iterdir()) and not path.exists():
        raise UserError(f"{staging}: in the way of a conversion, and not left by one; move it away")
    staging.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{staging}: another conversion is writing here; wait for it or stop it") from None
        # Between opening and locking, the other process may have published this folder.
        if not path.exists() or path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
            raise UserError(f"{staging}: another conversion has just ended here; try again")
        yield


@contextmanager
def _terminating() -> Iterator[None]:
    """Turns SIGTERM into ``SystemExit`` so that threads end. Only the main thread may set signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise _Terminated(_SIGTERM_EXIT)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _recover(out: Path, replaced: Path) -> None:
    """Completes a replacement that was killed between its two renames."""
    if replaced.exists() and (not replaced.is_dir() or _find_foreign(replaced) is not None):
        raise UserError(f"{replaced}: in the way of a conversion, and not a converted dataset; move it away")
    if replaced.exists() and out.exists():
        shutil.rmtree(replaced)
    elif replaced.exists():
        replaced.rename(out)


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; --out names a folder")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{out}: exists; choose another --out, or replace it with --overwrite")
    if (foreign := _find_foreign(out)) is not None:
        raise UserError(
            f"{out}: holds {foreign.relative_to(out)}, which is not part of a converted dataset, and --overwrite would "
            "delete it; move it away, or choose another --out"
        )


def _find_foreign(folder: Path) -> Path | None:
    """The first path in a folder that no conversion writes; any path if the manifest is missing or not ours."""
    if not (folder / MANIFEST_NAME).is_file():
        return next(iter(sorted(folder.iterdir())), None)
    try:
        read_manifest(folder)
    except UserError:
        return folder / MANIFEST_NAME
    for path in sorted(folder.iterdir()):
        if path.name in (MANIFEST_NAME, LOCK_NAME, SOURCES_NAME):
            continue
        if path.name not in SPLITS or path.is_symlink() or not path.is_dir():
            return path
        for part in sorted(path.iterdir()):
            if part.name != INDEX_NAME and not _SHARD_NAME.fullmatch(part.name):
                return part
    return None


def _clear(staging: Path) -> None:
    for path in staging.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK_NAME:
            path.unlink()


def _publish(staging: Path, out: Path, replaced: Path) -> None:
    if out.exists() and any(out.iterdir()):
        out.rename(replaced)
    staging.rename(out)
    (out / LOCK_NAME).unlink()
    if replaced.exists():
        shutil.rmtree(replaced)
