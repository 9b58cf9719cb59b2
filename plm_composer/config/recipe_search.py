"""Finds and describes recipes: YAMLs whose keys are merged with those of a run's YAML."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from plm_composer.config.bundled import BUNDLED_YAMLS
from plm_composer.config.registry import suggestion
from plm_composer.errors import UserError


def recipe_folders(yaml: Path | None = None) -> list[Path]:
    """The folders in which recipes are looked for: beside a run's YAML, in the working folder, and the bundled ones.

    Args:
        yaml: The run's YAML, if there is one.

    Returns:
        The folders that exist, in the order of the search.
    """
    beside = [] if yaml is None else [yaml.parent / "recipes"]
    return [
        folder
        for folder in (*beside, Path("recipes"), Path("yamls/recipes"), BUNDLED_YAMLS / "recipes")
        if folder.is_dir()
    ]


def find_recipe(name: str, folders: Sequence[Path]) -> Path:
    """Finds a recipe by name or by path.

    Args:
        name: The recipe's name, or a path.
        folders: The folders to search, from ``recipe_folders``.

    Raises:
        UserError: There is no such recipe.
    """
    name = name.strip()
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    for folder in folders:
        with contextlib.suppress(OSError):  # no file can have such a name, or the folder is closed to us
            if (path := folder / f"{name}.yaml").is_file():
                return path
    raise UserError(f"recipe={name[:60]}: {suggestion(name[:60], describe_recipes(folders))}")


def describe_recipes(folders: Sequence[Path]) -> dict[str, str]:
    """Describes each recipe in one line.

    Args:
        folders: Folders of recipes. If two recipes have the same name, the one in the earlier folder counts.

    Returns:
        Recipe name to description, which is the first line of the recipe's opening comment.

    Raises:
        UserError: There is no such folder.
    """
    found: dict[str, str] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder of recipes")
        for path in sorted(folder.glob("*.yaml")):
            first = next(iter(path.read_text(errors="replace").splitlines()), "")
            found.setdefault(path.stem, first.lstrip("# ").strip())
    return found
