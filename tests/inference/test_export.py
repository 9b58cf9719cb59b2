"""What an export says of how it is loaded is true, for an ESM2 and for what transformers has no class for."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from plm_composer.errors import UserError
from plm_composer.inference.export import export_model
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.run.train import describe_result
from plm_composer.run_folder import RunFolder
from tests.disks import SmallDisk

SMALL = ESM2Config(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=24)


@pytest.mark.parametrize(
    ("changes", "loader"),
    [
        ({}, "transformers.EsmForMaskedLM.from_pretrained"),
        ({"residual_scale": 0.5, "output_bias": False}, "transformers.EsmForMaskedLM.from_pretrained"),
        ({"normalization": "rmsnorm", "feed_forward": "swiglu"}, "plm_composer.load_model"),
    ],
    ids=str,
)
@torch.no_grad()
def test_the_card_and_the_summary_load_the_model(changes: dict[str, Any], loader: str, tmp_path: Path) -> None:
    model = ESM2(dataclasses.replace(SMALL, **changes)).eval()
    folder = RunFolder(tmp_path)
    export_model(model, folder.export, None, {})
    assert f"(loads with {loader})" in describe_result(folder, {})

    code = re.search(r"```python\n(.*?)```", (folder.export / "README.md").read_text(), re.DOTALL)
    assert code is not None
    made: dict[str, Any] = {"FOLDER": str(folder.export)}
    exec(code[1], made)
    ids = torch.tensor([made["tokenizer"]("MKVLA")["input_ids"]])
    loaded = made["model"].eval()(ids)
    torch.testing.assert_close(getattr(loaded, "logits", loaded), model(ids), rtol=0, atol=1e-5)


def test_a_full_disk_leaves_the_earlier_export_as_it_was(small_disk: SmallDisk) -> None:
    disk = small_disk("1M")
    folder = disk.path / "model"
    export_model(ESM2(SMALL), folder, None, {})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="No space left on device"):
        export_model(ESM2(dataclasses.replace(SMALL, hidden_size=256)), folder, None, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot write /proc/model"):
        export_model(ESM2(SMALL), Path("/proc/model"), None, {})
