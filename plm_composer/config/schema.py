"""The schema of a run: every key of its YAML, with its default.

If Composer or llm-foundry has a key for something, ours has the same name and meaning. The text under each key is what
``docs/keys.md`` says of it (``python -m plm_composer.run.key_reference``).
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
    """FASTA that the run converts into ``local`` if there are no shards yet, plain or gzip; ``sample`` is the bundled
    one. Without ``local``, the shards go to ``data/NAME``, NAME being the file's name up to its first dot."""
    val_fasta: Optional[str] = None
    """FASTA whose proteins are the validation set of ``fasta``; by default a thousandth of ``fasta`` itself."""
    local: Optional[str] = None
    """Folder with the shards that ``plm convert`` wrote; with ``remote``, the folder of its cache."""
    remote: Optional[str] = None
    """URL of the shards to stream, such as ``s3://bucket/uniref50``."""
    streams: Optional[dict[str, dict[str, Any]]] = None
    """Several datasets by name, each with ``local``, ``remote`` or both, and its weight: ``proportion``, ``repeat`` or
    ``choose`` (arguments of streaming's ``Stream``). Takes the place of ``fasta``, ``local`` and ``remote``."""
    train_split: str = "train"
    """Split to train on: the name of a subfolder of the shards."""
    val_split: Optional[str] = "val"
    """Split for validation; null trains without a validation set."""
    batch_format: str = "unpadded"
    """``unpadded`` (all proteins of a batch in one row of tokens), ``padded`` (each to the batch's longest protein) or
    ``padded_to_crop_length``."""
    crop_length: int = 512
    """Maximum tokens of a protein, ``<cls>`` and ``<eos>`` included. A longer protein gives a random crop in each
    epoch."""
    crop_keeps_ends: bool = False
    """True adds ``<cls>`` and ``<eos>`` to every crop; False only where a crop has that end of the protein."""
    mask_rate: float = 0.15
    """Share of the standard residues that the model must predict, above 0 and at most 1."""
    mask_token_fraction: float = 0.8
    """Share of the chosen residues that become ``<mask>``, 0 to 1."""
    random_token_fraction: float = 0.1
    """Share of the chosen residues that become a random residue, 0 to 1; what is left of them stays as it is."""
    mask_span_length: int = 1
    """Residues in a row that are chosen together, at least 1; the share of chosen residues stays ``mask_rate``."""
    shuffle: bool = True
    """Read the proteins of each epoch in random order."""
    shuffle_algo: str = "py1e"
    """Streaming's algorithm for that order: ``py1e``, ``py1br``, ``py1s``, ``py2s`` or ``naive``."""
    shuffle_block_size: Optional[int] = None
    """Proteins within which ``shuffle_algo`` shuffles; a smaller number needs fewer shards at a time. Default: the
    larger of 4,000,000 / ``num_canonical_nodes`` and 262,144."""
    num_canonical_nodes: Optional[int] = None
    """Number of parts into which an epoch's proteins are divided before they are shuffled, which fixes their order
    whatever the number of machines. Default: the machines at the start of the run (64 times as many with ``py1s`` and
    ``py2s``)."""
    predownload: Optional[int] = None
    """Proteins that each worker tries to download ahead; default: 8 times the device's batch."""
    cache_limit: Optional[str] = None
    """Maximum size of the cache of ``remote``, such as ``100gb``; default: no limit."""
    download_retry: int = 2
    """Times that a failed download is tried again, with pauses of 1, 2, 4 ... seconds."""
    download_timeout: float = 60.0
    """Seconds that a download waits for an answer."""
    validate_hash: Optional[str] = "xxh64"
    """Hash in the index with which every shard is compared before it is read; null reads shards unchecked."""
    num_workers: int = 2
    """Processes of the loader for each device, at least 0; 0 loads in the training process."""
    prefetch_factor: int = 4
    """Batches that each worker prepares ahead, at least 1."""


@dataclasses.dataclass
class TrainConfig:
    """One training run."""

    recipe: Optional[str] = None
    """Names or paths of recipes, joined by commas and merged in order: below the YAML if the YAML names them, above it
    if the command line does."""
    run_name: Optional[str] = None
    """Name of the run. Default: the name of the YAML, followed by those of the recipes."""
    run_folder: str = "runs/${run_name}"
    """Folder that the run writes to; a local one."""
    code_paths: list[str] = dataclasses.field(default_factory=list)
    """Your own Python files that register parts, relative to the YAML or the working folder."""
    seed: int = 17
    """Seed of the initial weights, and of the order, the crops and the masks of proteins."""
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    """``name`` of a preset, and fields of ``ESM2Config`` that change it (below); ``name: auto``, or ``model: auto`` for
    short, chooses a size that fits the ``budget`` (``docs/choosing.md``); or ``pretrained`` (a Hugging Face
    folder, or a run's export) and optionally ``stack_to`` (a number of layers)."""
    objective: str = "masked"
    """What the model learns: ``masked`` (residues that are hidden, from both sides), ``causal`` (each next residue,
    from those before it), ``mixed`` (some batches masked, some causal) or ``diffusion`` (masked at a rate that is drawn
    for each protein, up to ``data.mask_rate``); ``docs/objectives.md``."""
    causal_share: Optional[float] = None
    """Share of the batches that are causal with ``objective: mixed``, above 0 and below 1; default: 0.5."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Where proteins come from and how they become batches (below)."""
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    """``name`` of an optimizer, and arguments of its class; ``name`` and ``lr`` are required. ``lr: auto`` chooses by
    the ``budget``."""
    scheduler: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "constant"})
    """``name`` of a learning-rate schedule, and arguments of its class."""
    max_duration: Size = "1ep"
    """Length of the training in epochs, batches, proteins or tokens: ``2ep``, ``500ba``, ``1000000sp``,
    ``1000000000tok``. A number alone is epochs."""
    budget: Optional[str] = None
    """Wall-clock time from the start of the process to its end, such as ``24h``, ``90min``, ``1h30min`` or ``300s``, in
    place of ``max_duration``."""
    global_train_batch_size: Size = 256
    """Proteins per optimizer step, over all devices; a multiple of their number. ``auto`` chooses by the ``budget``."""
    device_train_microbatch_size: Optional[Size] = None
    """Proteins per forward pass on one device; default: the device's whole batch. ``auto`` finds a number that fits,
    and needs a GPU."""
    device_train_microbatch_tokens: Optional[int] = None
    """Maximum tokens of one forward pass on one device, padding included, instead of a number of proteins; at least
    ``data.crop_length``."""
    loss_weighting: str = "token"
    """``token``: each predicted token counts the same; ``sqrt``: each protein by the square root of their number."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: a third more work, and far less memory."""
    precision: str = "auto"
    """``fp32``, ``amp_bf16``, ``amp_fp16`` (GPUs only, with loss scaling), or ``auto``: bf16 where the hardware
    multiplies it, fp32 elsewhere."""
    eval_interval: Size = "1ep"
    """Time between evaluations on the validation split, as for ``max_duration``, as a share of it (``0.1dur``), or in
    seconds (``600sec``)."""
    eval_subset_num_batches: int = -1
    """Batches of the validation split that an evaluation takes, the first ones; -1 for all."""
    eval_batch_tokens: int = 16384
    """Maximum tokens of one evaluation batch on one device."""
    algorithms: dict[str, Optional[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    """Speed-ups and curricula: name to arguments; null switches one off that an earlier layer names."""
    callbacks: dict[str, Optional[dict[str, Any]]] = dataclasses.field(
        default_factory=lambda: {
            "speed_monitor": {"window_size": 10},
            "efficiency_monitor": {"window_size": 10},
            "runtime_estimator": {"time_unit": "minutes"},
            "lr_monitor": {},
        }
    )
    """What watches the training, evaluations within it included: name to arguments; null switches one off."""
    loggers: dict[str, Optional[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    """Logger name to arguments; null switches off a logger that an earlier layer names. ``metrics.jsonl`` is always
    written."""
    progress_bar: bool = True
    """Draw a progress bar."""
    log_to_console: bool = False
    """Print metrics as lines of text."""
    console_log_interval: Size = "10ba"
    """Time between these lines, as for ``max_duration``."""
    save_folder: Optional[str] = "${run_folder}/checkpoints"
    """Folder or URL of the checkpoints; null saves none."""
    save_interval: Size = "1ep"
    """Time between checkpoints, as for ``eval_interval``; one is also saved when training ends."""
    save_num_checkpoints_to_keep: int = 1
    """Number of latest checkpoints that are kept; -1 keeps all."""
    keep_best: Optional[str] = None
    """Score by which the best checkpoint is also kept, in ``best/`` of the run folder: ``metrics/eval/masked_nll``,
    ``metrics/eval/perplexity`` or ``metrics/eval/accuracy`` (``metrics/eval/residue_nll`` of a causal model)."""
    save_overwrite: bool = False
    """Replace an earlier run in the same run folder."""
    autoresume: bool = False
    """Continue an earlier run in the same run folder from its latest intact checkpoint."""
    preemption_grace: float = 25.0
    """Seconds after SIGTERM for a run to finish its batch and save; the ``composer`` launcher kills it after 30."""
    load_path: Optional[str] = None
    """Checkpoint of another run to start from."""
    load_weights_only: bool = False
    """Take only the weights from ``load_path``: optimizer, schedule and count of batches start from zero."""
    load_trust: bool = False
    """Load everything in a checkpoint or ``model.pretrained``, code included, not only tensors and plain values."""
    export: bool = True
    """Write the Hugging Face folder ``export/`` when training ends."""
    report: bool = True
    """Write the page ``report.html`` when training ends."""
    fsdp_config: Optional[dict[str, Any]] = None
    """Fields of Composer's ``FSDP2Config``, and degrees of sharding; null trains with DDP."""
    compile_config: Any = "auto"
    """Arguments of ``torch.compile``, which is applied block by block (``{}`` for its defaults); ``auto`` compiles on
    GPUs only, null never."""
    attention_backend: Optional[str] = None
    """Kernel for attention over packed proteins: ``flash``, ``efficient``, ``flash_attn``, ``flash_attn_3``,
    ``cpu`` or ``reference``; default: the fastest that works (``plm_composer/model/attention.py``)."""
    device: Optional[str] = None
    """``cpu`` or ``gpu``; default: a GPU if there is one."""
    dist_timeout: float = 600.0
    """Seconds that a process waits for another one before it gives up."""
