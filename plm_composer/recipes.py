"""Recipes: pages of YAML that lie over a run's own."""

from __future__ import annotations

from pathlib import Path

from plm_composer.components import suggestion
from plm_composer.errors import UserError


def find_recipe(name: str, folder: Path) -> Path:
    """Finds a recipe by its name in ``folder``, or by its path.

    Raises:
        UserError: There is no such recipe.
    """
    name = name.strip()
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"recipe={name}: {suggestion(name, (known.stem for known in folder.glob('*.yaml')))}")
    return path


def default_recipe_folder() -> Path:
    """The recipes that come with the project: ``yamls/recipes`` in the working folder, or beside the package."""
    here = Path("yamls/recipes")
    return here if here.is_dir() else Path(__file__).parent.parent / "yamls" / "recipes"


def describe_recipes(folder: Path) -> dict[str, str]:
    """Says what each recipe is for.

    Args:
        folder: Where the recipes lie.

    Returns:
        Recipe name to the first line of its opening comment.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of recipes")
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        first = next(iter(path.read_text().splitlines()), "")
        found[path.stem] = first.lstrip("# ").strip()
    return found
