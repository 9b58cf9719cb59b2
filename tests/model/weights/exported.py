"""Variants to export, and real proteins for them."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from plm_composer.model.config import ESM2Config
from plm_composer.model.weights.naming import inexpressible
from plm_composer.sample import VAL_FASTA
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.tokenizer import MASK_ID
from tests.model.small_models import SMALL, VARIANTS

CRAMMING = {"short_convolution": 7, "qk_norm": True, "token_dropout_mask_rate": 0.25, "qkv_bias": False}
"""What ``recipes/cramming.yaml`` makes of a model, with the biases of ``cramming_67m``."""
TRUSTED: dict[str, Any] = {"trust_remote_code": True}
CHANGES: dict[str, dict[str, Any]] = {
    **VARIANTS,
    "cramming": CRAMMING,
    "untied": {"tie_word_embeddings": False},
    "no token dropout": {"token_dropout": False},
    "no contact head": {"contact_head": False},
    "frequencies": {"rotary_frequencies": (0.9, 0.2, 0.01, 0.003)},
    "epsilon": {"layer_norm_eps": 1e-2},
    "everything, rotary": {
        **CRAMMING,
        **VARIANTS["swiglu"],
        **VARIANTS["scales"],
        "normalization": "rmsnorm",
        "tie_word_embeddings": False,
        "attention_head_size": 12,
        "output_bias": False,
    },
    "everything, alibi": {
        **CRAMMING,
        **VARIANTS["no biases"],
        "position_embedding_type": "alibi",
        "num_attention_heads": 3,
        "attention_head_size": 5,
        "feed_forward": "swiglu",
        "token_dropout": False,
        "embedding_scale": 2.0,
    },
}
"""Every field of the config, and combinations of them."""


def variant(name: str) -> ESM2Config:
    """A model that no class of ``transformers`` computes; what alone does not make it one gets ``qk_norm``."""
    config = dataclasses.replace(SMALL, **CHANGES[name])
    return config if inexpressible(config) else dataclasses.replace(config, qk_norm=True)


def proteins(folder: Path, number: int = 3, longest: int = 90) -> dict[str, torch.Tensor]:
    """Real proteins as the tokenizer of a folder pads them, some residues masked, in all but the last."""
    residues = [str(protein, "ascii") for _, protein in itertools.islice(read_fasta(VAL_FASTA), number)]
    texts = [text[: longest - 20 * index] for index, text in enumerate(residues)]
    batch = AutoTokenizer.from_pretrained(folder, **TRUSTED)(texts, padding=True, return_tensors="pt")
    chosen = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    chosen[:-1, 3:25:4] = True
    return {"input_ids": batch["input_ids"].masked_fill(chosen, MASK_ID), "attention_mask": batch["attention_mask"]}
