"""docs/upstream.md names every private name of another library that the package uses."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import plm_composer

LIBRARIES = ("torch", "composer", "streaming", "pytorch_optimizer", "transformers", "datasets", "omegaconf")
PACKAGE = Path(plm_composer.__file__).parent


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def private_names(tree: ast.Module) -> set[str]:
    """Full names of what is imported from a library, read off one, or called of a base class."""
    roots: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.asname or alias.name.split(".")[0]: alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            roots |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    names = {name for name in roots.values() if name.split(".")[0] in LIBRARIES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            path = ast.unparse(node)
            first, _, rest = path.partition(".")
            if first == "super()":
                names.add(path)
            elif roots.get(first, "").split(".")[0] in LIBRARIES:
                names.add(f"{roots[first]}.{rest}")
    return {name for name in names if is_private(name)}


def test_the_page_names_them_all(repository: Path) -> None:
    page = (repository / "docs" / "upstream.md").read_text()
    named = set(re.findall(r"`([^`]+)`", page))
    used = {name for path in PACKAGE.rglob("*.py") for name in private_names(ast.parse(path.read_text()))}
    assert len(used) > 10
    # A module of private names is named by what is taken from it, and a class with all that it holds.
    unnamed = {name for name in used if not any(each.startswith(name) or name.startswith(f"{each}.") for each in named)}
    assert not unnamed


def test_the_page_names_tests_that_exist(repository: Path) -> None:
    page = (repository / "docs" / "upstream.md").read_text()
    paths = set(re.findall(r"`(tests/[^`]+)`", page))
    assert paths
    assert [path for path in paths if not (repository / path).is_file()] == []
