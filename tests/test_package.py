"""The wheel works by itself: in an environment that has no checkout, and in an empty folder."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.commands import REPOSITORY, TINY, run_in


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of a fresh environment with the wheel; what the wheel depends on comes from this environment."""
    folder = tmp_path_factory.mktemp("package")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "fresh", with_pip=False, symlinks=True)
    packages = next((folder / "fresh" / "lib").glob("python*")) / "site-packages"
    # Not --prefix: pip would take away the editable install that these tests run in.
    into_fresh = [sys.executable, "-m", "pip", "--python", folder / "fresh" / "bin" / "python", "install"]
    subprocess.run([*into_fresh, "--quiet", "--no-deps", "--no-index", wheel], check=True)
    # A folder that is named in a .pth has its own .pth files left alone: an editable install there is not seen.
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "fresh" / "bin"


def test_the_package_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    found = run_in(tmp_path, installed / "python", "-c", "import plm_composer; print(plm_composer.__file__)")
    assert Path(found.stdout.strip()).is_relative_to(installed.parent)


def test_it_trains_and_evaluates(installed: Path, tmp_path: Path) -> None:
    run = run_in(tmp_path, installed / "plm", "train", "esm2_small", "recipe=fast", *TINY, "max_duration=3ba")
    assert run.returncode == 0, run.stderr
    scores = run_in(tmp_path, installed / "plm", "embed", "runs/esm2_small-fast", "x.fasta", "--out", "x.npz")
    assert (scores.returncode, scores.stderr.count("\n")) == (2, 1)  # there is no such FASTA
    (tmp_path / "x.fasta").write_text(">a\nMKVLAAGIV\n")
    assert run_in(
        tmp_path, installed / "plm", "embed", "runs/esm2_small-fast", "x.fasta", "--out", "x.npz"
    ).returncode == 0  # fmt: skip


def test_several_processes_train(installed: Path, tmp_path: Path) -> None:
    launcher = [installed / "python", "-m", "composer.cli.launcher", "-n", "2", "-m", "plm_composer.run"]
    run = run_in(tmp_path, *launcher, "esm2_small", *TINY, "max_duration=3ba", "eval_interval=1dur", "export=false")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "runs" / "esm2_small" / "metrics.jsonl").is_file()


def test_it_brings_its_commands_and_yamls(installed: Path, tmp_path: Path) -> None:
    assert "cramming" in run_in(tmp_path, installed / "plm", "recipes").stdout
    assert run_in(tmp_path, installed / "plm", "init").returncode == 0
    assert (tmp_path / "yamls" / "recipes" / "fast.yaml").is_file()
    (tmp_path / "x.fasta").write_text(">a\nMKVLAAGIV\n")
    converted = run_in(tmp_path, installed / "plm", "convert", "fasta", "x.fasta", "--out", "x", "--val-fraction", "0")
    assert converted.returncode == 0, converted.stderr
    usage = run_in(tmp_path, installed / "plm", "convert", "fasta", "--help")
    assert "plm convert fasta" in usage.stdout
