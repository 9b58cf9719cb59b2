"""Speed-up algorithms by name: Composer's that work on this model, and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from composer import Algorithm
from composer import algorithms as composer_algorithms

from plm_composer.algorithms.batch_curriculum import BatchCurriculum
from plm_composer.algorithms.batch_size_warmup import BatchSizeWarmup
from plm_composer.algorithms.ema import ExponentialMovingAverage, check_ema
from plm_composer.algorithms.layer_freezing import LayerFreezing, check_layer_freezing
from plm_composer.algorithms.low_precision_layernorm import check_low_precision_layernorm
from plm_composer.algorithms.mask_rate_schedule import MaskRateSchedule
from plm_composer.algorithms.sam import check_sam
from plm_composer.algorithms.sequence_length_warmup import SequenceLengthWarmup, check_sequence_length_warmup
from plm_composer.algorithms.swa import StochasticWeightAveraging, check_swa
from plm_composer.config.registry import Component, Registry

if TYPE_CHECKING:
    from plm_composer.config.schema import TrainConfig

ALGORITHMS = Registry(
    "algorithms",
    {
        "batch_size_warmup": BatchSizeWarmup,
        "ema": ExponentialMovingAverage,
        "gradient_clipping": composer_algorithms.GradientClipping,
        "layer_freezing": LayerFreezing,
        "low_precision_layernorm": composer_algorithms.LowPrecisionLayerNorm,
        "mask_rate_schedule": MaskRateSchedule,
        "sam": composer_algorithms.SAM,
        "sequence_length_warmup": SequenceLengthWarmup,
        "swa": StochasticWeightAveraging,
    },
    base=Algorithm,
)

COMBINATION_CHECKS: dict[str, Callable[[Mapping[str, Any], TrainConfig], None]] = {
    "ema": check_ema,
    "layer_freezing": check_layer_freezing,
    "low_precision_layernorm": check_low_precision_layernorm,
    "sam": check_sam,
    "sequence_length_warmup": check_sequence_length_warmup,
    "swa": check_swa,
}
"""Functions that refuse an algorithm that does not fit the run, called with its arguments and the run's config."""

_IMAGES_ONLY = "it works on images or convolutions, and a protein language model has none"

REFUSED_ALGORITHMS: dict[str, str] = {
    "alibi": "Composer's version finds nothing to replace here; set model.position_embedding_type=alibi",
    "factorize": "it splits linear layers in two, and no config or export of ESM2 describes such a model",
    "gated_linear_units": "Composer's version replaces BERT's feed-forward layers only; set model.feed_forward=swiglu",
    "gyro_dropout": "ESM2 has no dropout for it to replace",
    "label_smoothing": "Composer's version needs batches that are (input, target) pairs",
    "progressive_resizing": _IMAGES_ONLY,
    "selective_backprop": "Composer's version needs batches that are (input, target) pairs",
    "seq_length_warmup": "Composer's version needs a HuggingFaceModel; use algorithms.sequence_length_warmup",
    "stochastic_depth": "Composer's version supports only ResNet blocks and does nothing here; set model.layer_drop",
    **dict.fromkeys(
        (
            "augmix", "blurpool", "channels_last", "colout", "cutmix", "cutout", "ghost_batchnorm",
            "low_precision_groupnorm", "mixup", "randaugment", "squeeze_excite", "weight_standardization",
        ),
        _IMAGES_ONLY,
    ),
}  # fmt: skip
"""Composer's algorithms that would fail or do nothing on this model, with the reason."""


def check_combinations(components: Iterable[Component], config: TrainConfig) -> None:
    """Checks that algorithms fit the rest of the run.

    Args:
        components: The run's algorithms.
        config: The run's config.

    Raises:
        UserError: An algorithm does nothing, or fails, in this run.
    """
    for component in components:
        if component.name in COMBINATION_CHECKS:
            COMBINATION_CHECKS[component.name](component.arguments, config)


def needed_draws(algorithms: Iterable[Algorithm]) -> frozenset[str]:
    """The random draws that batches must carry for the curricula among the algorithms (``Collator.draws``).

    Args:
        algorithms: The run's algorithms.
    """
    return frozenset().union(*(each.draws for each in algorithms if isinstance(each, BatchCurriculum)))
