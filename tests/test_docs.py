"""The code in the documentation runs as it stands there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.commands import TINY, run_in, write_proteins
from tests.documented_commands import blocks_of


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return [block.text for block in blocks_of(page)[0] if block.language == language]


def test_the_python_page(tmp_path: Path) -> None:
    write_proteins(tmp_path / "proteins.fasta")
    (snippet,) = blocks("docs/python.md", "python")
    # Its model is one of minutes; here it is one of seconds.
    smaller = [text for text in TINY if not text.startswith(("max_duration", "eval_"))]
    snippet = snippet.replace('"max_duration=3ba"', f'"max_duration=3ba", *{smaller!r}')
    result = run_in(tmp_path, sys.executable, "-c", snippet)
    assert result.returncode == 0, result.stderr
    run, score, shape = result.stdout.strip().splitlines()[0::1][-3:]
    assert run.startswith("runs/esm2_small-fast ")
    assert 2 < float(score.split()[0]) < 5
    assert shape == "2 (32,)"


def test_the_page_on_own_parts(tmp_path: Path) -> None:
    (yaml,), (code,) = blocks("docs/extending.md", "yaml"), blocks("docs/extending.md", "python")
    (tmp_path / "my_run.yaml").write_text(yaml)
    (tmp_path / "my_parts.py").write_text(code)
    result = run_in(tmp_path, "plm", "train", "my_run.yaml", "precision=fp32", "eval_subset_num_batches=1")
    assert result.returncode == 0, result.stderr
    lines = map(json.loads, (tmp_path / "runs" / "my_run" / "metrics.jsonl").read_text().splitlines())
    assert sum("gradients/embedding" in line for line in lines) == 2
