"""Folders that people keep other files in: only what we wrote, and nobody changed since, is replaced or removed.

A list beside the files tells which they are, each with the hash of its content.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

from plm_composer import __version__
from plm_composer.errors import UserError
from plm_composer.files.atomic import sync

LIST = "plm_composer.json"
"""The list of the files that we wrote into a folder."""
_STAGING = ".plm_composer.partial"
"""Folder in which files are written that are to replace others."""
_CHUNK = 1 << 22

Hashes = dict[str, list[str]]
"""File name to the hashes of its content; two while one content replaces the other."""


def in_the_way(folder: Path, names: Iterable[str]) -> list[str]:
    """Names under which a folder holds something that we did not write, or that was changed since.

    Args:
        folder: The folder; it need not exist.
        names: The files that are to be written or removed.
    """
    written = _read_list(folder)
    return [name for name in names if _is_foreign(folder / name, written)]


def check_replaceable(folder: Path, names: Iterable[str], advice: str) -> None:
    """Checks that files can be written into a folder without taking anything from anybody.

    Args:
        folder: The folder; it need not exist.
        names: The files to be written.
        advice: What to do where that is not so.

    Raises:
        UserError: It is no folder, or some of the names are taken.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; {advice}")
    if taken := in_the_way(folder, [*names, LIST]):
        raise UserError(
            f"{folder}: {', '.join(taken)} would be replaced, but was not written by us, or was changed since; {advice}"
        )


@contextlib.contextmanager
def replacing_files(folder: Path, key_file: str, advice: str) -> Iterator[Path]:
    """Writes some files of a folder, in place of those that the last call wrote there; others stay as they are.

    They take their places when all of them are on the disk. A kill in between leaves a folder without ``key_file``,
    which nobody takes for a whole one, and which the next call completes.

    Args:
        folder: The folder; made if it is not there. A link is followed.
        key_file: The file by which others know the folder: removed first, and put in its place last.
        advice: As for ``check_replaceable``.

    Yields:
        An empty folder to write into. Where writing fails it is removed.

    Raises:
        UserError: As for ``check_replaceable``.
        OSError: The disk is full, or the folder cannot be written.
    """
    folder = folder.resolve()
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / _STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
        names = sorted(path.name for path in staging.iterdir())
        check_replaceable(folder, names, advice)
        _publish(folder, staging, [name for name in names if name != key_file], key_file)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def remove_files(folder: Path) -> None:
    """Removes what we wrote into a folder and nobody changed since, and the folder if nothing else is in it."""
    for name in _read_list(folder):
        if not in_the_way(folder, [name]):
            (folder / name).unlink(missing_ok=True)
    (folder / LIST).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _is_foreign(path: Path, written: Hashes) -> bool:
    if not path.exists() and not path.is_symlink():
        return False
    if path.name == LIST:
        return not written
    if path.is_symlink() or not path.is_file() or path.name not in written:
        return True
    try:
        return _hash(path) not in written[path.name]
    except OSError:  # somebody's who keeps it from us
        return True


def _publish(folder: Path, staging: Path, names: list[str], key_file: str) -> None:
    before = _read_list(folder)
    after: Hashes = {name: [_hash(staging / name)] for name in [*names, key_file]}
    for name in after:
        sync(staging / name)
    # Whatever stands there when a kill comes, the next call knows it for ours.
    _write_list(folder, {name: [*before.get(name, []), *after.get(name, [])] for name in {**before, **after}})
    (folder / key_file).unlink(missing_ok=True)
    for name in before:
        if name not in after and not in_the_way(folder, [name]):
            (folder / name).unlink(missing_ok=True)
    for name in [*names, key_file]:
        (staging / name).replace(folder / name)
    _write_list(folder, after)


def _read_list(folder: Path) -> Hashes:
    try:
        files = json.loads((folder / LIST).read_text())["files"]
        return {str(Path(name).name): [str(content) for content in hashes] for name, hashes in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _write_list(folder: Path, hashes: Hashes) -> None:
    staged = folder / _STAGING / LIST
    staged.write_text(json.dumps({"written_by": f"plm-composer {__version__}", "files": hashes}, indent=2) + "\n")
    sync(staged)
    staged.replace(folder / LIST)


def _hash(path: Path) -> str:
    content = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            content.update(chunk)
    return content.hexdigest()
