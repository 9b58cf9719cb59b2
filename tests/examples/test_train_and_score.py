"""The example runs from end to end, as a script and cell by cell, and shows what it says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import REPOSITORY, TINY, run_in

SCRIPT = REPOSITORY / "examples" / "train_and_score.py"
PLOTS = {"training.png", "scan.png", "contacts.png", "embeddings.png"}


def cells() -> list[tuple[bool, str]]:
    """Whether each cell is text, and its lines; what stands before the first mark is left out."""
    parts = re.split(r"^# %%(.*)\n", SCRIPT.read_text(), flags=re.MULTILINE)[1:]
    return [(mark.strip() == "[markdown]", text) for mark, text in zip(parts[::2], parts[1::2], strict=True)]


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    result = run_in(folder, sys.executable, SCRIPT, variables={"MPLBACKEND": "Agg", **variables}, timeout=900)
    assert result.returncode == 0, result.stderr
    return result


def numbers(output: str, line: str) -> list[float]:
    (found,) = re.findall(rf"^{line}(.*)$", output, re.MULTILINE)
    return [float(number) for number in re.findall(r"\d+\.\d+", found)]


def test_its_cells_are_text_or_code() -> None:
    assert len(cells()) > 10
    for is_text, text in cells():
        if is_text:
            assert all(line.startswith("#") for line in text.splitlines() if line), text
        else:
            assert ast.parse(text).body


def test_it_runs_from_end_to_end(tmp_path: Path) -> None:
    result = run(tmp_path, EXAMPLE_TRAINING=" ".join(TINY), EXAMPLE_FOLDER="course")
    assert {path.name for path in (tmp_path / "course").glob("*.png")} == PLOTS
    for name in PLOTS:
        with Image.open(tmp_path / "course" / name) as image:
            assert image.width > 600
            assert len(set(image.convert("L").tobytes())) > 20  # something is drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == ["course"]
    assert numbers(result.stdout, "equally likely")[0] == 2.996
    assert 2.8 < numbers(result.stdout, "residue frequencies")[0] < 2.9


@pytest.mark.slow
def test_the_whole_of_it_learns_something_in_three_minutes(tmp_path: Path) -> None:
    began = time.monotonic()
    result = run(tmp_path, OMP_NUM_THREADS="2")
    assert time.monotonic() - began < 300  # three minutes on two cores that nobody else uses
    assert numbers(result.stdout, "the model")[0] < numbers(result.stdout, "residue frequencies")[0] - 0.1
    of_the_worst, of_all = numbers(result.stdout, "in the motifs:")
    assert of_the_worst > 3 * of_all
