"""The schema of a run, and how a YAML, recipes and overrides become one validated config.

Keys are Composer's and llm-foundry's where these have one, and mean what they mean there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plm_composer.components import suggestion
from plm_composer.credentials import refuse_credentials, texts
from plm_composer.errors import UserError, first_line

# OmegaConf reads these annotations at run time and does not know `X | None` on Python 3.10.
Size = Union[int, str]  # noqa: UP007


@dataclasses.dataclass
class DataConfig:
    """Where proteins come from and how they become batches."""

    fasta: Optional[str] = None  # noqa: UP045
    """FASTA to convert into ``local`` where no shards are there yet; ``sample`` is the bundled one."""
    val_fasta: Optional[str] = None  # noqa: UP045
    """FASTA whose proteins are the validation set of ``fasta``; by default a share of ``fasta`` itself."""
    local: Optional[str] = None  # noqa: UP045
    """Folder with the shards of ``convert/``, or the cache of ``remote``."""
    remote: Optional[str] = None  # noqa: UP045
    """Where to stream from, such as ``s3://bucket/uniref50``."""
    streams: Optional[dict[str, dict[str, Any]]] = None  # noqa: UP045
    """Several datasets by name, each with ``local``, ``remote`` and ``proportion``, ``repeat`` or ``choose``."""
    train_split: str = "train"
    val_split: Optional[str] = "val"  # noqa: UP045
    """null trains without a validation set."""
    batch_format: str = "unpadded"
    """``unpadded`` (one row of tokens), ``padded`` (to the longest) or ``padded_to_crop_length``."""
    crop_length: int = 512
    """Most tokens of a protein, ``<cls>`` and ``<eos>`` included."""
    crop_keeps_ends: bool = False
    """False crops ``<cls> protein <eos>``, so that a piece shows that it is one; True adds both to every piece."""
    mask_rate: float = 0.15
    mask_token_fraction: float = 0.8
    random_token_fraction: float = 0.1
    shuffle: bool = True
    shuffle_algo: str = "py1e"
    shuffle_block_size: Optional[int] = None  # noqa: UP045
    num_canonical_nodes: Optional[int] = None  # noqa: UP045
    predownload: Optional[int] = None  # noqa: UP045
    cache_limit: Optional[str] = None  # noqa: UP045
    download_retry: int = 2
    download_timeout: float = 60.0
    validate_hash: Optional[str] = "xxh64"  # noqa: UP045
    num_workers: int = 2
    prefetch_factor: int = 4


@dataclasses.dataclass
class TrainConfig:
    """One training run."""

    recipe: Optional[str] = None  # noqa: UP045
    """Names of recipes, or paths, joined by commas, merged in order over the YAML."""
    run_name: Optional[str] = None  # noqa: UP045
    """Default: the YAML's name, and the recipes'."""
    run_folder: str = "runs/${run_name}"
    seed: int = 17
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    """``name`` of a preset, and fields of ``ESM2Config`` over it; or ``pretrained`` (a Hugging Face folder, or a run's)
    and perhaps ``stack_to`` (a number of layers)."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    scheduler: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "constant"})
    max_duration: Size = "1ep"
    budget: Optional[str] = None  # noqa: UP045
    """Wall-clock time from the start of the process to its end, such as ``24h``, in place of ``max_duration``."""
    global_train_batch_size: int = 256
    """Proteins of one optimizer step, over all devices."""
    device_train_microbatch_size: Optional[Size] = None  # noqa: UP045
    """Proteins of one forward pass on one device; default: the device's whole batch. ``auto`` needs a GPU."""
    device_train_microbatch_tokens: Optional[int] = None  # noqa: UP045
    """Most tokens of one forward pass on one device, padding included, instead of a number of proteins."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: a third more work, and far less memory."""
    precision: str = "auto"
    """``fp32``, ``amp_bf16``, or ``auto``: bf16 where the hardware multiplies it, fp32 elsewhere."""
    eval_interval: Size = "1ep"
    eval_subset_num_batches: int = -1
    eval_batch_tokens: int = 16384
    """Most tokens of one evaluation batch on one device."""
    algorithms: dict[str, Optional[dict[str, Any]]] = dataclasses.field(default_factory=dict)  # noqa: UP045
    callbacks: dict[str, Optional[dict[str, Any]]] = dataclasses.field(  # noqa: UP045
        default_factory=lambda: {
            "speed_monitor": {"window_size": 10},
            "efficiency_monitor": {"window_size": 10},
            "runtime_estimator": {"time_unit": "minutes"},
            "lr_monitor": {},
        }
    )
    loggers: dict[str, Optional[dict[str, Any]]] = dataclasses.field(default_factory=dict)  # noqa: UP045
    """By name, with arguments; null switches one off that the YAML or an earlier recipe has."""
    progress_bar: bool = True
    log_to_console: bool = False
    console_log_interval: Size = "10ba"
    save_folder: Optional[str] = "${run_folder}/checkpoints"  # noqa: UP045
    save_interval: Size = "1ep"
    save_num_checkpoints_to_keep: int = 1
    save_overwrite: bool = False
    autoresume: bool = False
    preemption_grace: float = 25.0
    """Seconds that a run has after SIGTERM to finish its batch and save; the ``composer`` launcher kills after 30."""
    load_path: Optional[str] = None  # noqa: UP045
    load_weights_only: bool = False
    load_trust: bool = False
    """Load whatever a checkpoint or ``model.pretrained`` holds, code included, not only tensors and plain values."""
    export: bool = True
    """Write the Hugging Face folder ``export/`` when training ends."""
    fsdp_config: Optional[dict[str, Any]] = None  # noqa: UP045
    """Fields of Composer's ``FSDP2Config``; null trains with DDP."""
    compile_config: Optional[dict[str, Any]] = None  # noqa: UP045
    """Arguments of ``torch.compile``, which is applied block by block; null does not compile."""
    device: Optional[str] = None  # noqa: UP045
    """``cpu`` or ``gpu``; default: a GPU if there is one."""
    dist_timeout: float = 600.0
    """Seconds after which a process that waits for another gives up."""


REPLACED_BY_NAME = ("model", "optimizer", "scheduler")
"""Sections that a layer naming another ``name`` (or a ``pretrained`` model) replaces as a whole: arguments of one
class rarely fit another."""

DATA_SOURCES = ("fasta", "val_fasta", "local", "remote", "streams")
"""Keys of ``data`` that say where proteins come from: a layer that sets one resets those that it does not set."""


def load_config(path: str | Path, arguments: Sequence[str] = ()) -> TrainConfig:
    """Merges a YAML, recipes and overrides, in this order, and checks every key and type.

    Args:
        path: The run's YAML. Recipes are looked for in ``recipes/`` beside it.
        arguments: ``key=value`` overrides, with dots for nesting; ``recipe=a,b`` names recipes.

    Returns:
        The config, with interpolations resolved and ``run_name`` set.

    Raises:
        UserError: A file cannot be read, a key is unknown, a value has the wrong type or is a secret.
    """
    path = Path(path)
    base = _read_yaml(path)
    overrides = _parse_overrides(arguments)
    if overrides.get("budget") is not None and "max_duration" in overrides:
        raise UserError("command line: budget takes the place of max_duration; give one of them")
    recipes = overrides.get("recipe", base.get("recipe")) or ""
    if not isinstance(recipes, str):
        raise UserError(f"recipe is {recipes!r}; give names or paths joined by commas")
    recipe_paths = [find_recipe(name, path.parent / "recipes") for name in recipes.split(",") if name.strip()]

    merged = OmegaConf.structured(TrainConfig)
    layers = [(str(path), base), *((str(recipe), _read_yaml(recipe)) for recipe in recipe_paths)]
    for source, layer in [*layers, ("command line", overrides)]:
        merged = _merge(merged, layer, source)
    if merged.run_name is None:
        merged.run_name = "-".join([path.stem, *(recipe.stem for recipe in recipe_paths)])
    merged.recipe = recipes or None
    return _resolve(merged, str(path))


def parse_config(content: Mapping[str, Any], source: str) -> TrainConfig:
    """Checks a resolved config, such as a checkpoint carries.

    Args:
        content: Keys and values.
        source: Where they come from, for messages.

    Raises:
        UserError: A key is unknown or a value has the wrong type.
    """
    for key, text in texts(content):
        if "${" in text:  # It would be filled in with this machine's environment.
            raise UserError(f"{source}: {key} is {text!r}, and the config of a run that has started has no references")
    return _resolve(_merge(OmegaConf.structured(TrainConfig), OmegaConf.create(dict(content)), source), source)


def find_recipe(name: str, folder: Path) -> Path:
    """Finds a recipe by its name in ``folder``, or by its path.

    Raises:
        UserError: There is no such recipe.
    """
    name = name.strip()
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"recipe={name}: {suggestion(name, (known.stem for known in folder.glob('*.yaml')))}")
    return path


def read_schema(path: Path, schema: type) -> dict[str, Any]:
    """Reads a YAML of another schema than a run's, and checks every key and type.

    Args:
        path: The file.
        schema: A dataclass that OmegaConf takes, its required keys ``omegaconf.MISSING``.

    Returns:
        Plain values by key, all of the schema's; references are left as they are.

    Raises:
        UserError: The file cannot be read, a key is unknown or missing, or a value has the wrong type.
    """
    layer = _read_yaml(path)
    with _explaining(str(path)):
        merged = OmegaConf.merge(OmegaConf.structured(schema), layer)
    assert isinstance(merged, DictConfig)
    plain = _plain(merged)
    for key, text in texts(plain):
        if text == MISSING:
            raise UserError(f"{path}: {key}: the key is missing")
    return plain


def to_yaml(config: TrainConfig) -> str:
    """Writes a config as YAML, as ``plm config`` prints it and a run keeps it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def read_resolved(path: Path) -> dict[str, Any]:
    """Reads the ``config.yaml`` of a run as a plain dict.

    Raises:
        UserError: The file cannot be read.
    """
    return _plain(_read_yaml(path))


def _resolve(merged: DictConfig, source: str) -> TrainConfig:
    try:
        refuse_credentials(_plain(merged), os.environ, source)
        OmegaConf.resolve(merged)
        refuse_credentials(_plain(merged), os.environ, source)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(_explain(error, source)) from error
    assert isinstance(config, TrainConfig)
    return config


def _plain(merged: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(merged)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _read_yaml(path: Path) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}: not valid YAML: {problem}") from error
    except OmegaConfBaseException as error:
        raise UserError(_explain(error, str(path))) from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path}: must hold keys and values, not a list")
    return loaded


def _parse_overrides(arguments: Sequence[str]) -> DictConfig:
    for argument in arguments:
        if "=" not in argument or not argument.split("=", 1)[0].strip(". "):
            raise UserError(f"command line: {argument!r} is not an override; write key=value")
    try:
        return OmegaConf.from_dotlist(list(arguments))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"command line: an override cannot be read: {first_line(error)}") from error


def _merge(merged: DictConfig, layer: DictConfig, source: str) -> DictConfig:
    with _explaining(source):
        _reset_what_is_replaced(merged, layer)
        return OmegaConf.merge(merged, layer)  # type: ignore[return-value]


@contextlib.contextmanager
def _explaining(source: str) -> Iterator[None]:
    """Turns what OmegaConf finds wrong with a layer into a ``UserError``."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise UserError(_explain(error, source)) from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {first_line(error)}") from error


def _reset_what_is_replaced(merged: DictConfig, layer: DictConfig) -> None:
    for section in REPLACED_BY_NAME:
        given = layer.get(section)
        if not isinstance(given, DictConfig):
            continue
        if given.get("name") not in (None, merged[section].get("name")) or "pretrained" in given:
            merged[section] = {}
    if "max_duration" in layer and "budget" not in layer:
        merged.budget = None
    given = layer.get("data")
    if isinstance(given, DictConfig) and any(key in given for key in DATA_SOURCES):
        for key in DATA_SOURCES:
            if not (key == "local" and "remote" in given and "local" not in given):
                merged.data[key] = None


def _explain(error: OmegaConfBaseException, source: str) -> str:
    """One line from OmegaConf's several."""
    key = str(error.full_key or error.key or "?")
    name = key.rsplit(".", 1)[-1]
    schema = error.object_type
    known = [field.name for field in dataclasses.fields(schema)] if dataclasses.is_dataclass(schema) else []
    if type(error).__name__ in ("ConfigKeyError", "ConfigAttributeError") and name not in known:
        return f"{source}: {key}: there is no such key; {suggestion(name, known)}"
    return f"{source}: {key}: {first_line(error)}"


def default_recipe_folder() -> Path:
    """The recipes that come with the project: ``yamls/recipes`` in the working folder, or beside the package."""
    here = Path("yamls/recipes")
    return here if here.is_dir() else Path(__file__).parent.parent / "yamls" / "recipes"


def describe_recipes(folder: Path) -> dict[str, str]:
    """Says what each recipe is for.

    Args:
        folder: Where the recipes lie.

    Returns:
        Recipe name to the first line of its opening comment.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of recipes")
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        first = next(iter(path.read_text().splitlines()), "")
        found[path.stem] = first.lstrip("# ").strip()
    return found
