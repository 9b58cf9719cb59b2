"""YAMLs by name, and copies of those that come with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from plm_composer.config.bundled import copy_yamls, find_yaml
from plm_composer.errors import UserError
from tests.commands import REPOSITORY


def test_a_name_is_looked_for_here_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_yaml("esm2_small") == REPOSITORY / "yamls" / "esm2_small.yaml"
    for place in (tmp_path / "yamls" / "esm2_small.yaml", tmp_path / "esm2_small.yaml"):
        place.parent.mkdir(exist_ok=True)
        place.touch()
        assert find_yaml("esm2_small").resolve() == place
    assert find_yaml("my/run.yaml") == Path("my/run.yaml")
    with pytest.raises(UserError, match=r"esm2_smal: there is no such YAML.*did you mean 'esm2_small'"):
        find_yaml("esm2_smal")


def test_copies_replace_nothing(tmp_path: Path) -> None:
    written = copy_yamls(tmp_path)
    assert tmp_path / "yamls" / "recipes" / "fast.yaml" in written
    assert all(path.read_bytes() == (REPOSITORY / path.relative_to(tmp_path)).read_bytes() for path in written)
    with pytest.raises(UserError, match="is there already"):
        copy_yamls(tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        copy_yamls(Path("/proc"))
