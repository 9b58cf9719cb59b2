"""Which checkpoint of a local folder a run continues from: the latest, or else the newest that is whole."""

from __future__ import annotations

import zipfile
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystemReader

from plm_composer.checkpoints.names import CHECKPOINT_NAME, LATEST
from plm_composer.errors import UserError
from plm_composer.files.atomic import link_to
from plm_composer.files.weights_only import plain_values_only


def mend_latest(folder: Path) -> str | None:
    """Points ``latest-rank0.pt`` to the newest whole checkpoint where what it points to is damaged or gone.

    Args:
        folder: Where checkpoints lie; it need not exist.

    Returns:
        What was wrong and what the run continues from, in one line; None where nothing was wrong.

    Raises:
        UserError: There are checkpoints, and none is whole.
    """
    latest = folder / LATEST
    others = find_checkpoints(folder)
    if not others and not latest.is_symlink() and not latest.exists():
        return None
    first = latest.resolve()
    wrong: list[str] = []
    for candidate in (first, *(other for other in others if other.resolve() != first)):
        reason = damage(candidate)
        if reason is None:
            if candidate == first:
                return None
            link_to(latest, candidate)
            return f"{'; '.join(wrong)}; continuing from {candidate.name}"
        wrong.append(f"{folder / candidate.name} {reason}")
    raise UserError(
        f"autoresume: {'; '.join(wrong)}; no whole checkpoint is left: put one back, or start over with "
        "autoresume=false save_overwrite=true"
    )


def find_checkpoints(folder: Path) -> list[Path]:
    """Finds checkpoints by their names, whole or not: files, and folders of sharded ones; the newest first.

    Args:
        folder: Where to look.
    """
    found = [(match, path) for path in folder.glob("ep*-ba*") if (match := CHECKPOINT_NAME.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda entry: (-int(entry[0][2]), -int(entry[0][1])))]


def damage(path: Path) -> str | None:
    """Says what is wrong with a checkpoint, having read it once.

    Args:
        path: The file, or the folder of a sharded checkpoint.

    Returns:
        What follows the file's name in a message, such as "is empty"; None where the checkpoint is whole.
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
    """Torch writes ``.metadata`` when all shards are written; it tells how long each of them must be."""
    if not (path / ".metadata").is_file():
        return "was not finished"
    try:
        with plain_values_only(path):
            places = FileSystemReader(path).read_metadata().storage_data.values()
    except UserError:
        return "holds what could run code when it is loaded"
    except Exception:  # Whatever unpickling half a file may raise.
        return "is damaged or cut short"
    for place in places:
        shard = path / place.relative_path
        if not shard.is_file() or shard.stat().st_size < place.offset + place.length:
            return f"is not whole: {shard.name} is missing or cut short"
    return None
