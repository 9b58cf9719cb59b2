"""Loads a trained model from a run, a checkpoint, a Hugging Face folder or a fair-esm file."""

from __future__ import annotations

import dataclasses
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from plm_composer.checkpoints.names import LATEST
from plm_composer.checkpoints.run_record import find_record
from plm_composer.checkpoints.stored_folder import fetch_model
from plm_composer.config.merge import parse_config
from plm_composer.config.own_code import load_code
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.files.weights_only import plain_values_only
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.registry import MODELS, class_of
from plm_composer.model.weights.fair_esm import load_fair_esm
from plm_composer.model.weights.files import read_torch_file
from plm_composer.model.weights.huggingface_folder import load_huggingface
from plm_composer.optim.schedule_free import average_checkpoint
from plm_composer.run_folder import RunFolder

_MODEL_PREFIX = "model."
"""``ESM2ComposerModel`` holds the ESM2 under this name."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model and its origin.

    Args:
        model: The model, in evaluation mode, fp32, on the CPU.
        source: The file, folder or address that was read.
        run: Config of the run that trained the model; None if the file does not contain it.
    """

    model: ESM2
    source: Path | str
    run: TrainConfig | None = None


def load_model(path: str | Path, trust: bool = False) -> ESM2:
    """Loads a trained model, ready to predict.

    Args:
        path: Path or address of the model, as for ``load_trained``.
        trust: Whether to load files that contain code.

    Returns:
        The model in evaluation mode, fp32, on the CPU.

    Raises:
        UserError: The path has nothing that can be loaded, or contains code.
    """
    return load_trained(path, trust).model


class MissingHead(nn.Module):
    """Replaces the language-model head of a model that has none."""

    def forward(self, *_: Any) -> NoReturn:
        """Raises an error.

        Raises:
            UserError: Always.
        """
        raise UserError("this model has no language-model head: it gives hidden states, but no logits")


def load_trained(path: str | Path, trust: bool = False, head_required: bool = True) -> LoadedModel:
    """Loads a trained model and its origin.

    Args:
        path: A run folder (its last checkpoint, or else its export), its ``best/`` or ``checkpoints/``, a Composer
            checkpoint (a ``.pt`` file, or the folder of a sharded one), a Hugging Face folder, or a fair-esm ``.pt``
            file; or the address of one of these, or of a run's ``save_folder``, in an object store.
        trust: Whether to load files that contain code.
        head_required: Whether to refuse a Hugging Face folder without a language-model head; embeddings need none.

    Raises:
        UserError: The path has nothing that can be loaded, or contains code.
    """
    if "://" in str(path):
        with tempfile.TemporaryDirectory() as scratch:
            copy = fetch_model(str(path), Path(scratch))
            try:
                loaded = load_trained(copy, trust, head_required)
            except UserError as error:
                raise UserError(str(error).replace(str(copy), str(path))) from error
        return dataclasses.replace(loaded, source=str(path))
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such checkpoint or folder")
    if path.is_file():
        return _load_file(path, trust)
    if (path / "config.json").is_file():
        config, state_dict = load_huggingface(path, trust, head_required)
        return LoadedModel(_assemble(config, state_dict, path), path)
    for latest in (RunFolder(path).latest, path / LATEST):  # of a run; of its folder of checkpoints, or of the best
        if latest.exists():
            return load_trained(latest.resolve(), trust)
    if (path / "export").is_dir():
        return load_trained(path / "export", trust, head_required)
    if (path / ".metadata").is_file():
        return _load_sharded(path, trust)
    raise UserError(f"{path}: neither a run folder, a sharded checkpoint nor a Hugging Face folder (no config.json)")


def _load_file(path: Path, trust: bool) -> LoadedModel:
    content = read_torch_file(path, trust)
    if "state" not in content:
        config, state_dict = load_fair_esm(path, trust)
        return LoadedModel(_assemble(config, state_dict, path), path)
    return _from_composer(content["state"], path, trust)


def _load_sharded(path: Path, trust: bool) -> LoadedModel:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "checkpoint.pt"
        try:
            with plain_values_only(path, trust):
                dcp_to_torch_save(path, whole)
        except (CheckpointException, OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
            raise UserError(f"{path}: a damaged checkpoint, or one whose parts are missing") from error
        content = read_torch_file(whole, trust)
    return _from_composer(content["state"], path, trust)


def _from_composer(state: Mapping[str, Any], path: Path, trust: bool) -> LoadedModel:
    record = find_record(state, path)
    run = parse_config(yaml.safe_load(record["config"]), str(path))
    averaged = average_checkpoint(state["model"], state.get("optimizers") or {})
    weights = {
        name.removeprefix(_MODEL_PREFIX): tensor for name, tensor in averaged.items() if name.startswith(_MODEL_PREFIX)
    }
    model = ESM2Config.from_mapping(record["model"], str(path))
    model_class = _find_own_class(run, path, trust) if record.get("own_class") else ESM2
    return LoadedModel(_assemble(model, weights, path, model_class), path, run)


def _find_own_class(run: TrainConfig, path: Path, trust: bool) -> type[ESM2]:
    """Finds a model's class in ``code_paths``, whose code runs only if it is trusted."""
    name = run.model.get("name")
    if name in MODELS:  # this process has run the code already
        return class_of(name)
    if not trust:
        raise UserError(
            f"{path}: its model {name!r} is a class in {', '.join(run.code_paths)}; allow this code to run with "
            "--trust (plm) or trust=True"
        )
    load_code(run.code_paths)
    return class_of(name)


def _assemble(config: ESM2Config, state_dict: Mapping[str, Any], path: Path, model_class: type[ESM2] = ESM2) -> ESM2:
    model = model_class(config)
    if not any(name.startswith("lm_head.") for name in state_dict):
        model.lm_head = MissingHead()
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit the model: {str(error).splitlines()[-1].strip()}") from error
    return model.float().eval()
