"""Batches for tests of curricula, and a moment of a run."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import torch
from composer.core import Time, Timestamp

from plm_composer.data.collate import Collator, Protein

RESIDUES = bytes(np.random.default_rng(0).choice(np.frombuffer(b"LAGVSERTIDPKQNFYMHWCX", np.uint8), 300))
PROTEINS = [Protein(i, 1, RESIDUES[i : i + length]) for i, length in enumerate((5, 40, 62, 63, 200, 1, 90))]
DRAWS = frozenset({"selection", "window"})
FORMATS = ("unpadded", "padded", "padded_to_crop_length")


def collator(**arguments: Any) -> Collator:
    return Collator(**{"seed": 3, "crop_length": 64, "draws": DRAWS, **arguments})


def at(batch: int, duration: str = "100ba", **others: int) -> Any:
    """What of Composer's State a curriculum looks at."""
    return types.SimpleNamespace(
        max_duration=Time.from_timestring(duration),
        timestamp=Timestamp(batch=batch, **others),
        dataloader_len=Time(10, "ba"),
    )


def rows(batch: dict[str, Any], key: str) -> list[list[float]]:
    """The proteins of a batch one by one, padding left out."""
    if "cu_seqlens" in batch:
        pieces = torch.split(batch[key], batch["cu_seqlens"].diff().tolist())
    else:
        pieces = [row[mask] for row, mask in zip(batch[key], batch["attention_mask"], strict=True)]
    return [piece.tolist() for piece in pieces]


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        (torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype)
        if isinstance(one[key], torch.Tensor)
        else np.array_equal(one[key], other[key])
        for key in one
    )
