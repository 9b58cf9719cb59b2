"""Finds the checkpoint in a local folder to resume from: the latest, or else the newest intact one."""

from __future__ import annotations

from pathlib import Path

from plm_composer.checkpoints.names import CHECKPOINT_NAME, LATEST
from plm_composer.checkpoints.wholeness import damage
from plm_composer.errors import UserError
from plm_composer.files.atomic import link_to


def repair_latest(folder: Path) -> str | None:
    """Points ``latest-rank0.pt`` to the newest intact checkpoint if its target is damaged or missing.

    Args:
        folder: Folder of checkpoints; it need not exist.

    Returns:
        One line that says what was wrong and from where the run continues; None if nothing was wrong.

    Raises:
        UserError: There are checkpoints, but none is intact.
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
    """Finds checkpoints by name, newest first: files, and folders of sharded ones, intact or not.

    Args:
        folder: Folder of checkpoints.
    """
    found = [(match, path) for path in folder.glob("ep*-ba*") if (match := CHECKPOINT_NAME.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda entry: (-int(entry[0][2]), -int(entry[0][1])))]
