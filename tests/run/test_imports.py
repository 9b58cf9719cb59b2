"""What starting a training imports: seconds of every run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import composer, streaming
theirs = {name.partition(".")[0] for name in sys.modules}
import plm_composer.run.train
print(*sorted({name.partition(".")[0] for name in sys.modules} - theirs - sys.stdlib_module_names))
"""


def test_training_imports_little_beside_composer_and_streaming(tmp_path: Path) -> None:
    # Plots, tables, probes, evaluations and Hugging Face's data sets are imported by those who use them.
    result = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=True)
    added = set(result.stdout.split())
    assert "plm_composer" in added
    assert added <= {"plm_composer", "omegaconf", "antlr4", "pytorch_optimizer", "typeguard"}
