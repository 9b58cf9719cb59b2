"""uv.lock: in step with pyproject.toml, and made from PyPI alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.commands import REPOSITORY

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
LOCK = REPOSITORY / "uv.lock"
NAME = "plm-composer"


def read(name: str) -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / name).read_text())


def declared() -> Iterator[tuple[str, frozenset[str], SpecifierSet, str]]:
    """What pyproject.toml asks for: name, extras, versions, and the extra that asks; extras of its own spelled out."""
    project = read("pyproject.toml")["project"]
    extras = {name: list(map(Requirement, texts)) for name, texts in project["optional-dependencies"].items()}

    def spelled_out(requirements: list[Requirement]) -> Iterator[Requirement]:
        for each in requirements:
            if each.name == NAME:
                for extra in each.extras:
                    yield from spelled_out(extras[extra])
            else:
                yield each

    for extra, requirements in {"": list(map(Requirement, project["dependencies"])), **extras}.items():
        for each in spelled_out(requirements):
            yield normal(each.name), frozenset(each.extras), each.specifier, extra


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, Any]:
    (package,) = [package for package in read("uv.lock")["package"] if package["name"] == NAME]
    return package


def test_it_was_made_from_this_pyproject() -> None:
    found = {
        (
            each["name"],
            frozenset(each.get("extras", ())),
            SpecifierSet(each.get("specifier", "")),
            "".join(re.findall(r"extra == '(\w+)'", each.get("marker", ""))),
        )
        for each in locked()["metadata"]["requires-dist"]
    }
    assert found == set(declared())


def test_its_pythons_are_those_of_the_package() -> None:
    allowed = read("pyproject.toml")["project"]["requires-python"]
    assert SpecifierSet(read("uv.lock")["requires-python"]) == SpecifierSet(allowed)


def test_all_comes_from_pypi() -> None:
    sources = [package["source"] for package in read("uv.lock")["package"] if package["name"] != NAME]
    assert len(sources) > 100
    assert all(source == {"registry": "https://pypi.org/simple"} for source in sources)
    hosts = set(re.findall(r'url = "(\w+://[^/"]+)', LOCK.read_text()))
    assert hosts == {"https://files.pythonhosted.org"}


def test_every_file_has_a_digest() -> None:
    for package in read("uv.lock")["package"]:
        for file in [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]), file["url"]
