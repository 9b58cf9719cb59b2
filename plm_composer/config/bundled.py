"""The bundled YAMLs: an installed package contains them, and in a checkout they lie beside the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from plm_composer.config.registry import suggestion
from plm_composer.errors import UserError

_PACKAGE = Path(__file__).parent.parent
_INSTALLED, _CHECKED_OUT = _PACKAGE / "yamls", _PACKAGE.parent / "yamls"
BUNDLED_YAMLS = _INSTALLED if _INSTALLED.is_dir() else _CHECKED_OUT


def find_yaml(name: str) -> Path:
    """Finds the YAML of a run by path or by name.

    A name is looked for in the working folder, then in its ``yamls/``, then among the bundled YAMLs.

    Args:
        name: A path, or the name of a YAML without ``.yaml``.

    Raises:
        UserError: No YAML has this name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    folders = (Path(), Path("yamls"), BUNDLED_YAMLS)
    for folder in folders:
        if (path := folder / f"{name}.yaml").is_file():
            return path
    known = [path.stem for folder in folders for path in folder.glob("*.yaml")]
    raise UserError(f"{name}: there is no such YAML, here or among the bundled ones; {suggestion(name, known)}")


def copy_yamls(folder: Path) -> list[Path]:
    """Copies the bundled YAMLs and recipes into a folder, where they can be edited.

    Args:
        folder: The target; the files are written to ``yamls/`` in it.

    Returns:
        The files that were written.

    Raises:
        UserError: A file of the same name exists, or the folder cannot be written.
    """
    sources = sorted(path for path in BUNDLED_YAMLS.rglob("*") if path.is_file())
    targets = [folder / "yamls" / path.relative_to(BUNDLED_YAMLS) for path in sources]
    for target in targets:
        if target.exists():
            raise UserError(f"{target} is there already, and is not replaced; move it away, or name another folder")
    try:
        for source, target in zip(sources, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    return targets
