"""docs/upstream.md names every private name of another library that the package uses."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import datasets

import plm_composer
from plm_composer.shards.inputs.rows import DatasetTable

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


def own_names(tree: ast.Module) -> set[str]:
    """Attributes of a module's classes and of their objects: methods, fields, and what is set on ``self``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names |= {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            names |= {
                each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
            }
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return names


def borrowed_names(trees: Iterable[ast.Module]) -> set[str]:
    """Private attributes of any object that nothing here defines; those of Python's own modules aside."""
    own, names = set(), set()
    for tree in trees:
        own |= own_names(tree)
        imports = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        python = {each.asname or each.name for each in imports if each.name.split(".")[0] in sys.stdlib_module_names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in python:
                names.add(node.attr)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
                names |= {each.value for each in node.args[1:2] if isinstance(each, ast.Constant)}
    return {name for name in names if is_private(name)} - own


def test_the_page_names_them_all(repository: Path) -> None:
    page = (repository / "docs" / "upstream.md").read_text()
    named = set(re.findall(r"`([^`]+)`", page))
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]
    used = {name for tree in trees for name in private_names(tree)}
    assert len(used) > 10
    # A module of private names is named by what is taken from it, and a class with all that it holds.
    unnamed = {name for name in used if not any(each.startswith(name) or name.startswith(f"{each}.") for each in named)}
    assert not unnamed
    assert borrowed_names(trees) - {part for name in named for part in name.split(".")} == set()


def test_a_data_set_tells_whether_it_is_the_same() -> None:
    rows = datasets.Dataset.from_dict({"sequence": ["MKV", "MA"]})
    others = rows.select([1])
    assert DatasetTable(rows, "rows").identity not in (None, DatasetTable(others, "others").identity)


def test_private_names_of_objects_are_found() -> None:
    code = """
import os
self._theirs()
self.part._of_a_part = 1
getattr(part, "_asked_for", None)
self._ours = self._ours
os._exit(0)


def _asked_for():
    pass
"""
    assert borrowed_names([ast.parse(code)]) == {"_theirs", "_of_a_part", "_asked_for"}


def test_the_page_names_tests_that_exist(repository: Path) -> None:
    page = (repository / "docs" / "upstream.md").read_text()
    paths = set(re.findall(r"`(tests/[^`]+)`", page))
    assert paths
    assert [path for path in paths if not (repository / path).is_file()] == []
