"""Recipes: pages of YAML that lie over a run's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plm_composer.config.bundled import BUNDLED_YAMLS
from plm_composer.config.registry import suggestion
from plm_composer.errors import UserError


def recipe_folders(yaml: Path | None = None) -> list[Path]:
    """Where recipes are looked for: beside a run's YAML, in the working folder, and among those of the project.

    Args:
        yaml: The run's YAML, if there is one.

    Returns:
        The folders that exist, the first to be looked into first.
    """
    beside = [] if yaml is None else [yaml.parent / "recipes"]
    return [
        folder
        for folder in (*beside, Path("recipes"), Path("yamls/recipes"), BUNDLED_YAMLS / "recipes")
        if folder.is_dir()
    ]


def find_recipe(name: str, folders: Sequence[Path]) -> Path:
    """Finds a recipe by its name, or by its path.

    Args:
        name: Of the recipe, or a path.
        folders: From ``recipe_folders``.

    Raises:
        UserError: There is no such recipe.
    """
    name = name.strip()
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    for folder in folders:
        if (path := folder / f"{name}.yaml").is_file():
            return path
    raise UserError(f"recipe={name}: {suggestion(name, describe_recipes(folders))}")


def describe_recipes(folders: Sequence[Path]) -> dict[str, str]:
    """Says what each recipe is for.

    Args:
        folders: Where the recipes lie; of two with one name, the first folder's counts.

    Returns:
        Recipe name to the first line of its opening comment.

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
