"""Speed-up algorithms by name: Composer's that work on this model, and ours."""

from __future__ import annotations

from typing import Any

from composer import algorithms as composer_algorithms

ALGORITHMS: dict[str, Any] = {
    "ema": composer_algorithms.EMA,
    "gradient_clipping": composer_algorithms.GradientClipping,
    "layer_freezing": composer_algorithms.LayerFreezing,
    "low_precision_layernorm": composer_algorithms.LowPrecisionLayerNorm,
    "sam": composer_algorithms.SAM,
    "swa": composer_algorithms.SWA,
}

_IMAGES_ONLY = "it works on images or convolutions, and a protein language model has none"

REFUSED_ALGORITHMS: dict[str, str] = {
    "alibi": "Composer's version finds nothing to replace in ESM2, which has rotary positions",
    "gated_linear_units": "Composer's version replaces BERT's feed-forward layers only",
    "gyro_dropout": "ESM2 has no dropout for it to replace",
    "label_smoothing": "Composer's version needs batches that are (input, target) pairs",
    "progressive_resizing": _IMAGES_ONLY,
    "selective_backprop": "Composer's version needs batches that are (input, target) pairs",
    "seq_length_warmup": "Composer's version needs a HuggingFaceModel and cuts padded batches",
    "stochastic_depth": "Composer's version knows ResNet blocks only and silently does nothing here",
    **dict.fromkeys(
        (
            "augmix", "blurpool", "channels_last", "colout", "cutmix", "cutout", "factorize", "ghost_batchnorm",
            "low_precision_groupnorm", "mixup", "randaugment", "squeeze_excite", "weight_standardization",
        ),
        _IMAGES_ONLY,
    ),
}  # fmt: skip
"""Composer's algorithms that would fail or do nothing on this model, with the reason."""
