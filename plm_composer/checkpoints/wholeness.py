"""Is a checkpoint whole? Reads it once, and runs nothing that it holds."""

from __future__ import annotations

import zipfile
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystemReader

from plm_composer.errors import UserError
from plm_composer.files.weights_only import plain_values_only


def damage(path: Path) -> str | None:
    """Reads a checkpoint once and says what is wrong with it.

    Args:
        path: The file, or the folder of a sharded checkpoint.

    Returns:
        A predicate for a message, such as "is empty"; None if the checkpoint is intact.
    """
    if not path.exists():
        return "is missing"
    if path.is_dir():
        return _damage_of_shards(path)
    if path.stat().st_size == 0:
        return "is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            return None if archive.testzip() is None else "is damaged"
    except (zipfile.BadZipFile, OSError, EOFError, ValueError):
        return "is damaged or cut short"


def _damage_of_shards(path: Path) -> str | None:
    """Checks shards against ``.metadata``, which torch writes after all shards and which has their lengths."""
    if not (path / ".metadata").is_file():
        return "was not finished"
    try:
        with plain_values_only(path):
            places = FileSystemReader(path).read_metadata().storage_data.values()
    except UserError:
        return "holds objects that could run code when it is loaded"
    except Exception:  # Unpickling part of a file may raise anything.
        return "is damaged or cut short"
    for place in places:
        shard = path / place.relative_path
        if not shard.is_file() or shard.stat().st_size < place.offset + place.length:
            return f"is not whole: {shard.name} is missing or cut short"
    return None
