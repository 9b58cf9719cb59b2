"""The schema of a run: every key of its YAML, with its default.

If Composer or llm-foundry has a key for something, ours has the same name and meaning.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Optional, Union

# OmegaConf reads these annotations at run time and does not know `X | None` on Python 3.10.
Size = Union[int, str]


@dataclasses.dataclass
class DataConfig:
    """Where proteins come from and how they become batches."""

    fasta: Optional[str] = None
    """FASTA that the run converts into ``local`` if there are no shards yet; ``sample`` is the bundled one."""
    val_fasta: Optional[str] = None
    """FASTA whose proteins are the validation set of ``fasta``; by default a share of ``fasta`` itself."""
    local: Optional[str] = None
    """Folder with the shards of ``convert/``, or the cache of ``remote``."""
    remote: Optional[str] = None
    """URL of the shards to stream, such as ``s3://bucket/uniref50``."""
    streams: Optional[dict[str, dict[str, Any]]] = None
    """Several datasets by name, each with ``local``, ``remote`` and ``proportion``, ``repeat`` or ``choose``."""
    train_split: str = "train"
    val_split: Optional[str] = "val"
    """Split for validation; null trains without a validation set."""
    batch_format: str = "unpadded"
    """``unpadded`` (all proteins in one row), ``padded`` (to the longest protein) or ``padded_to_crop_length``."""
    crop_length: int = 512
    """Maximum tokens of a protein, ``<cls>`` and ``<eos>`` included."""
    crop_keeps_ends: bool = False
    """True adds ``<cls>`` and ``<eos>`` to every crop; False only where a crop has that end of the protein."""
    mask_rate: float = 0.15
    mask_token_fraction: float = 0.8
    random_token_fraction: float = 0.1
    shuffle: bool = True
    shuffle_algo: str = "py1e"
    shuffle_block_size: Optional[int] = None
    num_canonical_nodes: Optional[int] = None
    predownload: Optional[int] = None
    cache_limit: Optional[str] = None
    download_retry: int = 2
    download_timeout: float = 60.0
    validate_hash: Optional[str] = "xxh64"
    num_workers: int = 2
    prefetch_factor: int = 4


@dataclasses.dataclass
class TrainConfig:
    """One training run."""

    recipe: Optional[str] = None
    """Names or paths of recipes, joined by commas and merged in order: below the YAML if the YAML names them, above it
    if the command line does."""
    run_name: Optional[str] = None
    """Default: the name of the YAML, followed by those of the recipes."""
    run_folder: str = "runs/${run_name}"
    code_paths: list[str] = dataclasses.field(default_factory=list)
    """Your own Python files that register parts, relative to the YAML or the working folder (docs/extending.md)."""
    seed: int = 17
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    """``name`` of a preset, and fields of ``ESM2Config`` that change it; or ``pretrained`` (a Hugging Face folder, or a
    run's export) and optionally ``stack_to`` (a number of layers)."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    scheduler: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "constant"})
    max_duration: Size = "1ep"
    budget: Optional[str] = None
    """Wall-clock time from the start of the process to its end, such as ``24h``, in place of ``max_duration``."""
    global_train_batch_size: int = 256
    """Proteins per optimizer step, over all devices."""
    device_train_microbatch_size: Optional[Size] = None
    """Proteins per forward pass on one device; default: the device's whole batch. ``auto`` needs a GPU."""
    device_train_microbatch_tokens: Optional[int] = None
    """Maximum tokens of one forward pass on one device, padding included, instead of a number of proteins."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: a third more work, and far less memory."""
    precision: str = "auto"
    """``fp32``, ``amp_bf16``, or ``auto``: bf16 where the hardware multiplies it, fp32 elsewhere."""
    eval_interval: Size = "1ep"
    eval_subset_num_batches: int = -1
    eval_batch_tokens: int = 16384
    """Maximum tokens of one evaluation batch on one device."""
    algorithms: dict[str, Optional[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    callbacks: dict[str, Optional[dict[str, Any]]] = dataclasses.field(
        default_factory=lambda: {
            "speed_monitor": {"window_size": 10},
            "efficiency_monitor": {"window_size": 10},
            "runtime_estimator": {"time_unit": "minutes"},
            "lr_monitor": {},
        }
    )
    loggers: dict[str, Optional[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    """Logger name to arguments; null switches off a logger that an earlier layer names."""
    progress_bar: bool = True
    log_to_console: bool = False
    console_log_interval: Size = "10ba"
    save_folder: Optional[str] = "${run_folder}/checkpoints"
    save_interval: Size = "1ep"
    save_num_checkpoints_to_keep: int = 1
    save_overwrite: bool = False
    autoresume: bool = False
    preemption_grace: float = 25.0
    """Seconds after SIGTERM for a run to finish its batch and save; the ``composer`` launcher kills it after 30."""
    load_path: Optional[str] = None
    load_weights_only: bool = False
    load_trust: bool = False
    """Load everything in a checkpoint or ``model.pretrained``, code included, not only tensors and plain values."""
    export: bool = True
    """Write the Hugging Face folder ``export/`` when training ends."""
    report: bool = True
    """Write the page ``report.html`` when training ends."""
    fsdp_config: Optional[dict[str, Any]] = None
    """Fields of Composer's ``FSDP2Config``; null trains with DDP."""
    compile_config: Any = "auto"
    """Arguments of ``torch.compile``, which is applied block by block; ``auto`` compiles on GPUs only, null never."""
    attention_backend: Optional[str] = None
    """Kernel for attention over packed proteins: ``flash``, ``efficient``, ``flash_attn``, ``flash_attn_3``,
    ``cpu`` or ``reference``; default: the fastest that works (``plm_composer/model/attention.py``)."""
    device: Optional[str] = None
    """``cpu`` or ``gpu``; default: a GPU if there is one."""
    dist_timeout: float = 600.0
    """Seconds that a process waits for another one before it gives up."""
