"""Imports go one way: down the list of folders that docs/architecture.md shows, and in no circle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import plm_composer
from tests.commands import REPOSITORY

PACKAGE = Path(plm_composer.__file__).parent
FACE = "plm_composer/__init__.py"


def folders() -> list[str]:
    """The folders and modules of the page, from the top down."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    names = re.findall(r"^\| `plm_composer/([\w/]+)(?:\.py|/)`", page, re.MULTILINE)
    assert len(names) > 15
    return names


def room_of(module: str, rooms: list[str]) -> str:
    """The entry of the page that a module belongs to, the deepest one."""
    path = module.removeprefix("plm_composer.").replace(".", "/")
    found = [room for room in rooms if path == room or path.startswith(f"{room}/")]
    assert found, f"docs/architecture.md does not name {module}"
    return max(found, key=len)


def imports() -> list[tuple[str, str]]:
    """Pairs of a module and another that it imports anywhere, for its types alone included."""
    pairs = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if module == "plm_composer":
            continue  # its face, which imports on demand
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("plm_composer."):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                inside = [name for name in names if (PACKAGE.parent / f"{name.replace('.', '/')}.py").is_file()]
                pairs += [(module, other) for other in inside or [str(node.module)]]
            elif isinstance(node, ast.ImportFrom) and node.module == "plm_composer":
                pairs += [(module, f"plm_composer.{alias.name}") for alias in node.names]
            elif isinstance(node, ast.Import):
                pairs += [(module, alias.name) for alias in node.names if alias.name.startswith("plm_composer.")]
    return pairs


def test_imports_go_down_the_page() -> None:
    rooms = folders()
    wrong = [
        f"{module} imports {other}"
        for module, other in imports()
        if rooms.index(room_of(module, rooms)) > rooms.index(room_of(other, rooms))
    ]
    assert wrong == []


def test_the_page_names_what_is_there() -> None:
    for name in folders():
        assert (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file(), name


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges: dict[str, set[str]] = {}
    for module, other in imports():
        edges.setdefault(module, set()).add(other)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in done:
            for other in sorted(edges.get(module, ())):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())
