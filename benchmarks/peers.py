"""The ESM2 that others train, each as a module from a padded batch to a loss. Same shape, same masks, same loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import esm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EsmConfig, EsmForMaskedLM

from plm_composer.model.config import VOCABULARY_SIZE, ESM2Config
from plm_composer.tokenizer import IGNORE_INDEX, MASK_ID, PAD_ID

Batch = dict[str, Any]


class HuggingFace(nn.Module):
    """``transformers.EsmForMaskedLM``, by default with its SDPA attention, as HF's Trainer runs it."""

    def __init__(self, config: ESM2Config, attention: str = "sdpa") -> None:
        super().__init__()
        self.model = EsmForMaskedLM._from_config(
            EsmConfig(
                vocab_size=VOCABULARY_SIZE,
                mask_token_id=MASK_ID,
                pad_token_id=PAD_ID,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size,
                max_position_embeddings=1026,
                position_embedding_type="rotary",
                token_dropout=config.token_dropout,
                emb_layer_norm_before=False,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            attn_implementation=attention,
        )

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss over the masked tokens."""
        loss: Tensor = self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
        ).loss
        return loss


class FairESM(nn.Module):
    """``esm.model.esm2.ESM2`` of fair-esm 2.0.0."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        if config.intermediate_size != 4 * config.hidden_size:
            raise ValueError("fair-esm knows only a feed-forward of 4 x hidden_size")
        self.model = esm.model.esm2.ESM2(
            config.num_hidden_layers, config.hidden_size, config.num_attention_heads, token_dropout=config.token_dropout
        )

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss over the masked tokens."""
        return _loss(self.model(batch["input_ids"])["logits"], batch["labels"])


class Tutorial(nn.Module):
    """A plain padded ESM2 on torch's SDPA, as a tutorial would write it: biases everywhere, rotary, pre-norm, GELU."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.embedding = nn.Embedding(VOCABULARY_SIZE, width, padding_idx=PAD_ID)
        self.blocks = nn.ModuleList(_TutorialBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.decoder = nn.Linear(width, VOCABULARY_SIZE)
        self.decoder.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss over the masked tokens."""
        x = self.embedding(batch["input_ids"])
        mask = batch["attention_mask"][:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        return _loss(self.decoder(self.head(self.norm(x))), batch["labels"])


class _TutorialBlock(nn.Module):
    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.intermediate_size), nn.GELU(), nn.Linear(config.intermediate_size, width)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(_rotate(query), _rotate(key), value, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        updated: Tensor = x + self.mlp(self.norm2(x))
        return updated


def _rotate(x: Tensor) -> Tensor:
    length, size = x.shape[-2:]
    frequencies = 10_000 ** (-torch.arange(0, size, 2, device=x.device) / size)
    angles = torch.arange(length, device=x.device)[:, None] * frequencies
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX)


def compiled(config: ESM2Config) -> nn.Module:
    """``transformers`` under ``torch.compile``, once for all shapes."""
    module: nn.Module = torch.compile(HuggingFace(config), dynamic=True)  # type: ignore[assignment]
    return module


PEERS: dict[str, Callable[[ESM2Config], nn.Module]] = {
    "transformers": HuggingFace,
    "transformers, compiled": compiled,
    "transformers, flash-attn": functools.partial(HuggingFace, attention="flash_attention_2"),
    "fair-esm": FairESM,
    "plain SDPA": Tutorial,
}
