"""Writes into folders that may hold other files: only files that we wrote, and nobody changed, are replaced or removed.

A list beside the files names them, each with the hash of its content.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import xxhash

from plm_composer.errors import UserError
from plm_composer.files.atomic import sync

LIST = "plm_composer.json"
"""Name of the list of files that we wrote into a folder."""
_STAGING = ".plm_composer.partial"
"""Folder in which new files are written before they replace others."""
_CHUNK = 1 << 22

Hashes = dict[str, list[str]]
"""File name to the hashes of its content: two while a new content replaces the old one."""


def in_the_way(folder: Path, names: Iterable[str]) -> list[str]:
    """Names of files in a folder that we did not write, or that were changed since.

    Args:
        folder: The folder; it need not exist.
        names: Names of the files to be written or removed.
    """
    written = _read_list(folder)
    return [name for name in names if _is_foreign(folder / name, written)]


def check_replaceable(folder: Path, names: Iterable[str], advice: str) -> None:
    """Checks that files can be written into a folder without replacing anybody's.

    Args:
        folder: The folder; it need not exist.
        names: Names of the files to be written.
        advice: What the user can do, for the message.

    Raises:
        UserError: ``folder`` is a file, or some of the names are taken.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; {advice}")
    if taken := in_the_way(folder, [*names, LIST]):
        raise UserError(
            f"{folder}: {', '.join(taken)} would be replaced, but was not written by us, or was changed since; {advice}"
        )


@contextlib.contextmanager
def replacing_files(folder: Path, key_file: str, advice: str) -> Iterator[Path]:
    """Writes files into a folder, and replaces those that the last call wrote there; other files stay as they are.

    The files are renamed into place once all of them are on the disk. A kill in between leaves a folder without
    ``key_file``, which nobody takes for complete, and which the next call completes.

    Args:
        folder: The folder; made if it is missing. A link is followed.
        key_file: Name of the file by which others recognise the folder: removed first, and written last.
        advice: As for ``check_replaceable``.

    Yields:
        An empty folder to write into. It is removed if writing fails.

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
    """Removes the files that we wrote into a folder and nobody changed, and the folder if it is then empty."""
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
    except OSError:  # another user's, which we may not read
        return True


def _publish(folder: Path, staging: Path, names: list[str], key_file: str) -> None:
    before = _read_list(folder)
    after: Hashes = {name: [_hash(staging / name)] for name in [*names, key_file]}
    for name in after:
        sync(staging / name)
    # After a kill at any point, the next call recognises the files as ours, old or new.
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
    content = {"written_by": f"plm-composer {version('plm-composer')}", "files": hashes}
    staged.write_text(json.dumps(content, indent=2) + "\n")
    sync(staged)
    staged.replace(folder / LIST)


def _hash(path: Path) -> str:
    content = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            content.update(chunk)
    return content.hexdigest()
