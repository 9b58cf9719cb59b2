"""A compiled block moves no more memory on a GPU than it needs to, beside its products and attention.

Inductor writes its kernels for a GPU that is pretended. A pass is a token's hidden state in bf16, read or written once;
the residual stream is fp32, two passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from plm_composer.model.config import PRESETS, ESM2Config

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
PLAIN = PRESETS["cramming_67m"]
TOKENS = 65536

Passes = Callable[[ESM2Config], tuple[float, float]]


@pytest.fixture
def passes(repository, monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Passes of the fused kernels of a config's block, forward and backward."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    from pretended_gpu import block_kernels

    def count(config: ESM2Config) -> tuple[float, float]:
        forward, backward = (
            sum(kernel.bytes for kernel in kernels if kernel.kind == "fused") / (2 * TOKENS * config.hidden_size)
            for kernels in block_kernels(config, TOKENS)
        )
        return forward, backward

    return count


@pytest.mark.skipif(TORCH < (2, 11), reason="older torches cannot pretend a GPU")
@pytest.mark.parametrize(
    ("variant", "forward", "backward"),
    [
        # Forward: norm (reads 2, writes 1), rotation (2 + 2), sum and norm (3 + 1), GELU (2.7 + 2.7), sum (4 + 2).
        pytest.param({}, 24.5, 38.5, id="plain"),
        pytest.param({"normalization": "rmsnorm"}, 24.5, 38.5, id="rmsnorm"),
        pytest.param({"causal": True}, 24.5, 38.5, id="causal"),
        # One pass with the rotation; in the backward pass its sums over tokens need one of their own.
        pytest.param({"qk_norm": True}, 24.5, 46.5, id="qk_norm"),
        # However wide, it reads its input once and writes its result once.
        pytest.param({"short_convolution": 7}, 26.5, 45.5, id="convolution"),
        pytest.param({"feed_forward": "swiglu"}, 27.5, 44, id="swiglu"),
        pytest.param({"value_residual": True}, 30.5, 41.5, id="value residual"),
        pytest.param({"embedding_residual": True}, 31.5, 47.5, id="embedding residual"),
    ],
)
def test_a_block_passes_over_memory_no_more_than_it_must(
    passes: Passes, variant: dict[str, Any], forward: float, backward: float
) -> None:
    found = passes(dataclasses.replace(PLAIN, **variant))
    # Fewer by more than this, and kernels were not seen.
    assert 0.95 * forward < found[0] <= forward
    assert 0.95 * backward < found[1] <= backward
