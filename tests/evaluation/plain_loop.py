"""The scores of Meier et al. 2021 by a plain loop over ``transformers``, one sequence a forward pass."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EsmForMaskedLM

from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.huggingface_folder import save_huggingface
from plm_composer.tokenizer import MASK_ID, VOCABULARY

CONTEXT = 1024


def small_model(seed: int = 0, **fields: Any) -> ESM2:
    """A model whose predictions depend on the residues around, as those of a fresh one hardly do."""
    torch.manual_seed(seed)
    config = ESM2Config(**{"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4} | {
        "intermediate_size": 64, "initializer_range": 0.25, **fields
    })  # fmt: skip
    return ESM2(config).eval()


class PlainLoop:
    """Scores by ``transformers.EsmForMaskedLM``; ``large`` is the window that ProteinGym's script chooses."""

    def __init__(self, model: ESM2, folder: Path) -> None:
        save_huggingface(model, folder)
        self.model = EsmForMaskedLM.from_pretrained(folder).eval()
        self._logits = functools.lru_cache(maxsize=1)(self._compute)  # of a window that is asked for again

    def log_probabilities(self, tokens: list[int], position: int, context: int = CONTEXT) -> np.ndarray:
        """Of all tokens at a position, in the window of ``get_optimal_window``."""
        half, length = context // 2, len(tokens)
        if length <= context:
            start, end = 0, length
        elif position < half:
            start, end = 0, context
        elif position >= length - half:
            start, end = length - context, length
        else:
            start, end = max(0, position - half), min(length, position + half)
        return self._logits(tuple(tokens[start:end]))[position - start].double().log_softmax(-1).numpy()

    @torch.no_grad()
    def _compute(self, window: tuple[int, ...]) -> torch.Tensor:
        return self.model(torch.tensor([window])).logits[0]

    def masked(self, sequence: str, index: int, context: int = CONTEXT) -> np.ndarray:
        tokens = tokens_of(sequence)
        tokens[index + 1] = MASK_ID
        return self.log_probabilities(tokens, index + 1, context)

    def seen(self, sequence: str, index: int, context: int = CONTEXT) -> np.ndarray:
        return self.log_probabilities(tokens_of(sequence), index + 1, context)

    def pll(self, sequence: str, context: int = CONTEXT) -> float:
        return math.fsum(
            self.masked(sequence, index, context)[VOCABULARY.index(residue)] for index, residue in enumerate(sequence)
        )


def tokens_of(sequence: str) -> list[int]:
    return [0, *(VOCABULARY.index(residue) for residue in sequence), 2]


def ratio(found: np.ndarray, wildtype: str, mutant: str) -> float:
    return float(found[VOCABULARY.index(mutant)] - found[VOCABULARY.index(wildtype)])
