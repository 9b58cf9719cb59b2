"""The Dockerfile, as far as it can be checked without docker: what it copies, calls and pins is there."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import entry_points, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.commands import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text()


def instructions() -> list[tuple[str, str]]:
    """Pairs of an instruction and its text, with continued lines joined and comments left out."""
    lines = [line for line in (REPOSITORY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line]  # type: ignore[misc]


def texts(name: str) -> list[str]:
    return [text for instruction, text in instructions() if instruction == name]


def kept(path: str) -> bool:
    """Whether ``.dockerignore`` leaves a path of the checkout to docker; the last pattern that matches decides."""
    keep = True
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parts = [path, *map(str, Path(path).parents)] + (list(Path(path).parts) if "**/" in line else [])
            if any(fnmatch.fnmatch(part, pattern) for part in parts if part != "."):
                keep = line.startswith("!")
    return keep


def sources() -> list[str]:
    return [source for text in texts("COPY") for source in shlex.split(text)[:-1]]


@pytest.mark.parametrize("source", sources())
def test_what_is_copied_exists_and_is_not_ignored(source: str) -> None:
    assert (REPOSITORY / source).exists()
    assert source == "." or kept(source)


def test_the_image_gets_the_package_and_nothing_private() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    package = [path for path in tracked.splitlines() if path.startswith(("plm_composer/", "yamls/"))]
    assert len(package) > 100
    assert all(map(kept, package))
    for path in (
        ".git/config",
        ".venv/bin/plm",
        "runs/a/config.yaml",
        "data/a",
        ".env",
        "plm_composer/__pycache__/a.pyc",
    ):
        assert not kept(path), path


def test_the_base_is_pinned_and_allowed() -> None:
    (base,) = texts("FROM")
    found = re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-\w+", base)
    assert found is not None, base
    assert found[1] in SpecifierSet(metadata("plm-composer")["Requires-Python"])


def test_targets_and_torches_are_those_of_the_makefile() -> None:
    (target,) = re.findall(r"\bmake ([\w-]+) TORCH=", " ".join(texts("RUN")))
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)
    newest = re.search(r"&& echo (\d+\.\d+\.\d+) \|\| echo (\d+\.\d+\.\d+)\)", MAKEFILE)
    assert newest is not None
    assert f"TORCH={newest[1]}" in texts("ARG")
    assert f"--build-arg TORCH={newest[2]}" in (REPOSITORY / "Dockerfile").read_text()


def test_it_runs_plm_and_not_as_root() -> None:
    (entrypoint,) = texts("ENTRYPOINT")
    (command,) = json.loads(entrypoint)
    assert command in {script.name for script in entry_points(group="console_scripts")}
    assert texts("USER")[-1] != "root"
    names = [name for name, _ in instructions()]
    assert "RUN" not in names[names.index("USER") :]


def test_an_unknown_device_ends_the_build(tmp_path: Path) -> None:
    (run,) = [text for text in texts("RUN") if "DEVICE" in text]
    script = re.sub(r"--mount=\S+", "", run).replace("make install", "echo installs with $UV_TORCH_BACKEND")

    def build(device: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / device
        folder.mkdir()
        environment = {"PATH": "/usr/bin:/bin", "DEVICE": device, "TORCH": "2.11.0"}
        return subprocess.run(["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)

    assert build("cpu").stdout == "installs with cpu TORCH=2.11.0\n"
    assert build("cuda").stdout == "installs with TORCH=2.11.0\n"
    assert (build("gpu").returncode, build("rocm").stderr) == (2, "error: DEVICE is rocm; it must be cpu or cuda\n")


def test_the_files_that_are_copied_first_suffice_to_install(tmp_path: Path) -> None:
    for text in texts("COPY")[:-1]:
        *files, target = shlex.split(text)
        (tmp_path / target).mkdir(exist_ok=True)
        for file in files:
            shutil.copy(REPOSITORY / file, tmp_path / target)
    for name in ("README.md", "LICENSE"):
        (tmp_path / name).touch()
    (tmp_path / "yamls").mkdir()
    # A wheel asks for as much as the editable install, for which hatchling needs another package.
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
