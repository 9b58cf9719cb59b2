"""The code of ``docs/export.md`` runs as it stands there, on a plain export and on that of a variant."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from plm_composer.inference.export import export_model
from plm_composer.inference.export_formats import FAIR_ESM
from plm_composer.inference.load import load_model
from tests.commands import REPOSITORY
from tests.model.small_models import SMALL, make_model

BLOCKS = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "export.md").read_text(), re.DOTALL)


@pytest.mark.usefixtures("modules_cache")
@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}], ids=["plain", "variant"])
def test_the_code_of_the_page(
    changes: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    export_model(make_model(dataclasses.replace(SMALL, **changes)), Path("my_model"), None, {})
    export_model(make_model(SMALL), Path("my_fair_esm"), None, {}, FAIR_ESM)
    ours = [block for block in BLOCKS if "biotrainer" not in block]  # which is not installed for the tests
    assert len(ours) == len(BLOCKS) - 1 == 3
    for block in ours:
        exec(block, {})
    assert "torch.Size([2, 11, 33])" in capsys.readouterr().out
    assert load_model("my_tuned_model").config.qk_norm == changes.get("qk_norm", False)
