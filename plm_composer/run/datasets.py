"""A run's datasets: where they lie, the training set, and the pinned evaluation of the validation set."""

from __future__ import annotations

from typing import Any

from composer import Evaluator
from composer.utils import dist, get_device

from plm_composer.config.schema import TrainConfig
from plm_composer.data.streaming.dataset import StreamingProteinDataset
from plm_composer.data.streaming.reading import read_split
from plm_composer.data.streaming.remote_cache import cache_places
from plm_composer.evaluation.loader import make_evaluator
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.run.parts import Parts

Places = dict[str, dict[str, Any]]
"""Name of a dataset to arguments of ``streaming.Stream``: ``local`` or ``remote`` or both, and the dataset's weight."""


def find_places(config: TrainConfig, local: str | None) -> Places:
    """Finds the datasets that a run reads.

    Args:
        config: A checked config.
        local: Folder of the shards; used if the config names one dataset, not several.

    Returns:
        The datasets. For a remote one, ``local`` is the cache folder of its present content.

    Raises:
        UserError: A remote dataset cannot be reached.
    """
    data = config.data
    named = data.streams or {"data": {"local": local, "remote": data.remote}}
    splits = [data.train_split, *([data.val_split] if data.val_split else [])]
    cached = cache_places(
        list(named.values()), splits, download_retry=data.download_retry, download_timeout=data.download_timeout
    )
    return dict(zip(named, cached, strict=True))


def make_dataset(parts: Parts, places: Places) -> StreamingProteinDataset:
    """Makes the training set.

    Args:
        parts: The run's parts.
        places: From ``find_places``.
    """
    data = parts.config.data
    return StreamingProteinDataset(
        parts.collator,
        split=data.train_split,
        streams=places,
        batch_size=parts.proteins,
        shuffle=data.shuffle,
        validate_hash=data.validate_hash,
        shuffle_algo=data.shuffle_algo,
        shuffle_block_size=data.shuffle_block_size,
        num_canonical_nodes=data.num_canonical_nodes,
        predownload=data.predownload,
        cache_limit=data.cache_limit,
        download_retry=data.download_retry,
        download_timeout=data.download_timeout,
    )


def make_evaluation(config: TrainConfig, places: Places, model: ESM2ComposerModel) -> Evaluator | None:
    """Makes the pinned evaluation of the validation split; None if ``data.val_split`` is null.

    Args:
        config: A checked config.
        places: From ``find_places``.
        model: The model, which says which metrics are computed.
    """
    data = config.data
    if data.val_split is None:
        return None
    shared = {
        "validate_hash": data.validate_hash,
        "download_retry": data.download_retry,
        "download_timeout": data.download_timeout,
    }
    to_read = [{"local": place.get("local"), "remote": place.get("remote"), **shared} for place in places.values()]
    # The node's first process downloads and unpacks; the others find the files.
    with dist.run_local_rank_zero_first():
        proteins = read_split(to_read, data.val_split)
    names = list(model.get_metrics(is_train=False))
    pin_memory = get_device(config.device).name == "gpu"
    ranks = (dist.get_global_rank(), dist.get_world_size())
    return make_evaluator(
        proteins, config.eval_batch_tokens, names, *ranks, pin_memory=pin_memory, causal=model.model.config.causal
    )
