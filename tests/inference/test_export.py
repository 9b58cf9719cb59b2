"""What an export says of how it is loaded is true, for an ESM2 and for what transformers has no class for."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from plm_composer.errors import UserError
from plm_composer.files.owned import LIST
from plm_composer.inference.export import check_export, export_model
from plm_composer.inference.export_formats import FAIR_ESM, HUGGINGFACE, Format
from plm_composer.inference.load import load_model
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.huggingface_config import CODE_FILES
from plm_composer.run.train import describe_result
from plm_composer.run_folder import RunFolder
from tests.disks import SmallDisk

SMALL = ESM2Config(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=24)


def code_of_card(folder: Path) -> str:
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code is not None
    return code[1]


@pytest.mark.parametrize(
    ("changes", "loader"),
    [
        ({}, "transformers.EsmForMaskedLM.from_pretrained"),
        ({"residual_scale": 0.5, "output_bias": False}, "transformers.EsmForMaskedLM.from_pretrained"),
        (
            {"normalization": "rmsnorm", "feed_forward": "swiglu"},
            "transformers.AutoModelForMaskedLM.from_pretrained, trust_remote_code=True",
        ),
    ],
    ids=str,
)
@pytest.mark.usefixtures("modules_cache")
@torch.no_grad()
def test_the_card_and_the_summary_load_the_model(changes: dict[str, Any], loader: str, tmp_path: Path) -> None:
    model = ESM2(dataclasses.replace(SMALL, **changes)).eval()
    folder = RunFolder(tmp_path)
    export_model(model, folder.export, None, {})
    assert f"(loads with {loader})" in describe_result(folder, {})

    made: dict[str, Any] = {"FOLDER": str(folder.export)}
    exec(code_of_card(folder.export), made)
    ids = torch.tensor([made["tokenizer"]("MKVLA")["input_ids"]])
    torch.testing.assert_close(made["model"].eval()(ids).logits, model(ids), rtol=0, atol=1e-5)


def test_a_plain_export_replaces_that_of_a_variant_and_its_code(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for model, code in ((ESM2(dataclasses.replace(SMALL, qk_norm=True)), True), (ESM2(SMALL), False)):
        check_export(folder)
        export_model(model, folder, None, {})
        names = {path.name for path in folder.iterdir()}
        assert names <= {*HUGGINGFACE.files, LIST}
        assert names.isdisjoint(CODE_FILES) != code
        card = (folder / "README.md").read_text()
        assert ("custom_code" in card) == code and "library_name: transformers" in card


@torch.no_grad()
def test_fair_esm_loads_its_format_by_the_card(tmp_path: Path) -> None:
    model = ESM2(dataclasses.replace(SMALL, intermediate_size=64, output_bias=False, residual_scale=0.5)).eval()
    export_model(model, tmp_path, None, {}, FAIR_ESM)
    assert {path.name for path in tmp_path.iterdir()} == {*FAIR_ESM.files, LIST}
    made: dict[str, Any] = {"FOLDER": str(tmp_path)}
    exec(code_of_card(tmp_path), made)
    _, _, ids = made["alphabet"].get_batch_converter()([("a", "MKVLA<mask>GIV"), ("b", "MKV")])
    expected, found = model(ids), made["model"].eval()(ids)["logits"]
    torch.testing.assert_close(found[ids != 1], expected[ids != 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(load_model(tmp_path / "esm2_model.pt")(ids), expected, rtol=0, atol=1e-5)


def test_code_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / CODE_FILES[0]).write_text("mine")
    with pytest.raises(UserError, match=f"{CODE_FILES[0]} would be replaced, but was not written by us"):
        check_export(tmp_path)


@pytest.mark.parametrize("form", [HUGGINGFACE, FAIR_ESM], ids=["huggingface", "fair-esm"])
def test_a_full_disk_leaves_the_earlier_export_as_it_was(form: Format, small_disk: SmallDisk) -> None:
    disk = small_disk("1M")
    folder = disk.path / "model"
    small = dataclasses.replace(SMALL, intermediate_size=64)
    export_model(ESM2(small), folder, None, {}, form)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="No space left on device"):
        export_model(ESM2(dataclasses.replace(small, hidden_size=256, intermediate_size=1024)), folder, None, {}, form)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot write /proc/model"):
        export_model(ESM2(SMALL), Path("/proc/model"), None, {})
