"""The files that launch runs on clusters: what can be checked of them without a cluster."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from plm_composer.run.load import load_config
from tests.commands import REPOSITORY

FOLDER = REPOSITORY / "yamls" / "launch"
SHELL = sorted(FOLDER.glob("*.sbatch"))
YAMLS = sorted(FOLDER.glob("*.yaml"))


def commands(path: Path) -> str:
    """The shell commands of a launch file."""
    return path.read_text() if path in SHELL else yaml.safe_load(path.read_text())["run"]


@pytest.mark.parametrize("path", [*SHELL, *YAMLS], ids=lambda path: path.name)
def test_the_shell_can_read_it(path: Path) -> None:
    subprocess.run(["bash", "-n"], input=commands(path), text=True, check=True)


@pytest.mark.parametrize("path", [*SHELL, *YAMLS], ids=lambda path: path.name)
def test_it_starts_a_run_that_exists(path: Path) -> None:
    command = re.search(r"train\.py (.*)", commands(path).replace("\\\n", " "))
    assert command is not None
    name, *arguments = shlex.split(command[1].replace('"$@"', ""))
    assert (REPOSITORY / "train.py").is_file()
    config = load_config(REPOSITORY / name, [argument.replace("$BUCKET", "s3://bucket") for argument in arguments])
    assert config.autoresume
    assert config.save_folder == "s3://bucket/runs/esm2_650m/checkpoints"
    # Each node has a cache of its own, and everything else is shared.
    assert config.data.remote == "s3://bucket/uniref50"


def test_the_page_names_files_that_exist() -> None:
    page = (REPOSITORY / "docs" / "launch.md").read_text()
    names = set(re.findall(r"(?:yamls|tests)/[\w/.]+\.\w+", page))
    assert len(names) >= 4
    assert [name for name in names if not (REPOSITORY / name).is_file()] == []
