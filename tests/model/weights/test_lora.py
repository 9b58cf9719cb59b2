"""LoRA by ``peft`` on exports: what it trains and merges is read by us and by ``transformers`` alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForMaskedLM

from plm_composer.errors import UserError
from plm_composer.inference.load import load_model
from plm_composer.model.weights.huggingface_folder import load_huggingface, save_huggingface
from plm_composer.tokenizer import MASK_ID
from tests.model.small_models import SMALL, close, make_model
from tests.model.weights.exported import CRAMMING, TRUSTED, proteins

pytestmark = pytest.mark.usefixtures("modules_cache")


@pytest.mark.parametrize(
    ("changes", "targets"),
    [
        ({}, ["query", "key", "value"]),
        (CRAMMING, ["qkv", "out", "up", "down"]),
        ({**CRAMMING, "tie_word_embeddings": False}, "all-linear"),
    ],
    ids=["plain", "variant", "untied variant"],
)
def test_an_adapter_is_trained_merged_and_read(changes: dict[str, Any], targets: Any, tmp_path: Path) -> None:
    own = make_model(dataclasses.replace(SMALL, **changes))
    save_huggingface(own, tmp_path / "export")
    batch = proteins(tmp_path / "export")
    labels = torch.where(batch["input_ids"] == MASK_ID, 5, -100)
    base = AutoModelForMaskedLM.from_pretrained(tmp_path / "export", **TRUSTED)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=targets))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[0] - 0.1

    model.eval()
    tokens = batch["attention_mask"].bool()
    with torch.no_grad():
        trained = model(**batch).logits[tokens]
        assert (trained - own(**batch)[tokens]).abs().max() > 0.1
        # The adapter alone, on a fresh copy of the export.
        model.save_pretrained(tmp_path / "adapter")
        fresh = AutoModelForMaskedLM.from_pretrained(tmp_path / "export", **TRUSTED)
        close(peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()(**batch).logits[tokens], trained, 1e-5)
        with pytest.raises(UserError, match="merge it into the weights first"):
            (tmp_path / "adapter" / "config.json").write_bytes((tmp_path / "export" / "config.json").read_bytes())
            load_huggingface(tmp_path / "adapter")
        # Merged into the weights.
        model.merge_and_unload().save_pretrained(tmp_path / "merged")
        theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "merged", **TRUSTED).eval()
        close(theirs(**batch).logits[tokens], trained, 1e-4)
        one = {name: value[-1:, batch["attention_mask"][-1].bool()] for name, value in batch.items()}
        close(load_model(tmp_path / "merged")(**one), theirs(**one).logits, 1e-5)
