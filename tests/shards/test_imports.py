import subprocess
import sys

import pytest


@pytest.mark.parametrize("processes", [1, 2])
def test_a_local_conversion_needs_neither_torch_nor_streaming(tmp_path, processes):
    # Their imports take longer than the conversion of a million proteins.
    (tmp_path / "x.fasta").write_text(">a\nMKV\n")
    code = f"""
import sys
import plm_composer.shards.command
from plm_composer.shards.convert import convert_fasta
convert_fasta(["x.fasta"], "out", val_fraction=0, processes={processes}, progress=False)
print(*sorted({{"torch", "streaming", "composer", "datasets", "transformers"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "\n", "")
