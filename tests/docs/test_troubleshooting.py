"""Lines that docs/troubleshooting.md quotes are printed; those of faults that take long have tests where they occur."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from plm_composer.cli import app
from tests.commands import REPOSITORY, TINY, write_proteins

PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
TRAIN = ("train", "esm2_small", *(word for word in TINY if not word.startswith("scheduler")), "data.num_workers=0")
CONVERT = ("convert", "fasta")

QUOTED = [
    (("train", "esm2_small", "data.crop_lenght=128"), "command line: data.crop_lenght: there is no such key"),
    (("train", "esm2_small", "recipe=fats"), "recipe=fats: did you mean 'fast'?"),
    (("train", "esm2_small", "optimizer.lr=1,5"), "optimizer.lr is '1,5'; it must be a number"),
    (("train", "esm2_150m", "device=cpu"), "there is no dataset: data/uniref50/train/index.json is missing"),
    ((*TRAIN, "attention_backend=flash"), "attention_backend is 'flash', but it works on GPUs only"),
    ((*CONVERT, "digit.fasta", "--out", "data/x"), "digit.fasta, line 2: character '1' in a sequence; fix the file"),
    ((*CONVERT, "nohead.fasta", "--out", "data/x"), "nohead.fasta, line 1: not FASTA: expected a header starting with"),
    ((*CONVERT, "few.fasta", "--out", "data/x"), "none of the 10 proteins falls into validation; raise --val-fraction"),
]


@pytest.mark.parametrize(("words", "line"), QUOTED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_line_is_printed(words: tuple[str, ...], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"error: {line}" in PAGE
    if "flash" in line and torch.cuda.is_available():
        pytest.skip("it works here")
    (tmp_path / "digit.fasta").write_text(">a\nMKV1LLA\n")
    (tmp_path / "nohead.fasta").write_text("MKVLLA\n")
    write_proteins(tmp_path / "few.fasta", 10)
    monkeypatch.chdir(tmp_path)
    assert str(CliRunner().invoke(app, list(words)).exception).startswith(line)


def test_a_line_stands_for_every_row() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `") and "](#" in line]
    assert len(rows) >= 12
    headings = {line.removeprefix("## ") for line in PAGE.splitlines() if line.startswith("## ")}
    assert {row.partition("[")[2].partition("]")[0] for row in rows} == headings
