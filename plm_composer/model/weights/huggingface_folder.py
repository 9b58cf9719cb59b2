"""ESM2 weights as Hugging Face folders: ``transformers.EsmForMaskedLM`` and ``AutoTokenizer`` load what we write.

A variant that ``EsmForMaskedLM`` cannot compute is written to the same files, with our own names for the weights, the
model type ``plm_composer``, and the code of ``remote_code``, which ``transformers`` runs if it is told to trust it.
``load_huggingface`` never runs it.
"""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path

from plm_composer.errors import UserError
from plm_composer.files.safetensors import write_safetensors
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.files import read_json, read_shapes, read_weights
from plm_composer.model.weights.huggingface_config import (
    CODE_FILES,
    OWN_TYPE,
    SPECIAL_TOKENS,
    config_from_huggingface,
    config_to_huggingface,
)
from plm_composer.model.weights.huggingface_weights import frequencies_in, is_frequencies, to_huggingface, translate
from plm_composer.model.weights.naming import StateDict, from_own, inexpressible, with_stored_frequencies
from plm_composer.tokenizer import VOCABULARY

_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read_config(folder: str | Path, trust: bool = False) -> ESM2Config:
    """Reads the config of the model in a folder; of its weights it reads only the rotary frequencies.

    Args:
        folder: The folder with ``config.json``.
        trust: As for ``load_huggingface``.

    Raises:
        UserError: A file is missing or unreadable, or the model is not an ESM2.
    """
    folder = Path(folder)
    config = _config_in(folder)
    path = _weights_in(folder)
    return with_stored_frequencies(config, frequencies_in(read_weights(path, trust, is_frequencies)), str(path))


def check_huggingface(folder: str | Path, trust: bool = False) -> None:
    """Checks by the names and shapes of the weights that ``load_huggingface`` will find a complete model.

    Args:
        folder: The folder with ``config.json``.
        trust: As for ``load_huggingface``.

    Raises:
        UserError: As for ``load_huggingface``, except for values that contradict the config.
    """
    folder = Path(folder)
    path = _weights_in(folder)
    _translate(folder, read_shapes(path, trust), read_config(folder, trust), True, str(path))


def loader(config: ESM2Config) -> str:
    """Full name of the function that loads a model of this config from the folder that ``save_huggingface`` writes."""
    if inexpressible(config):
        task = "CausalLM" if config.causal else "MaskedLM"
        return f"transformers.AutoModelFor{task}.from_pretrained, trust_remote_code=True"
    return "transformers.EsmForMaskedLM.from_pretrained"


def load_huggingface(
    folder: str | Path, trust: bool = False, head_required: bool = True
) -> tuple[ESM2Config, StateDict]:
    """Reads a folder of an ``EsmForMaskedLM``: published, fine-tuned, or one of our exports; or a variant of ours.

    Code that lies in the folder is not run.

    Args:
        folder: The folder with ``config.json`` and safetensors or PyTorch weights, in one file or several.
        trust: Whether to unpickle anything in PyTorch weights, code included; otherwise that is refused.
        head_required: Whether to refuse an ``EsmModel`` or a classifier, which has no language-model head.

    Returns:
        Our config and state dict; without a head, the state dict has no ``lm_head``.

    Raises:
        UserError: A file is missing or unreadable, or the model is not an ESM2.
    """
    folder = Path(folder)
    config = _config_in(folder)
    path = _weights_in(folder)
    weights = read_weights(path, trust)
    config = with_stored_frequencies(config, frequencies_in(weights), str(path))
    return _translate(folder, weights, config, head_required, str(path))


def _config_in(folder: Path) -> ESM2Config:
    path = folder / "config.json"
    config = config_from_huggingface(read_json(path), str(path))
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}/adapter_config.json: an adapter belongs to the model; merge it into the weights first"
        )
    vocabulary = folder / "vocab.txt"
    if vocabulary.exists() and tuple(vocabulary.read_text().split()) != VOCABULARY:
        raise UserError(f"{vocabulary}: not the 33 tokens of ESM2 in their order")
    return config


def _translate(
    folder: Path, weights: StateDict, config: ESM2Config, head_required: bool, source: str
) -> tuple[ESM2Config, StateDict]:
    if read_json(folder / "config.json").get("model_type") == OWN_TYPE:
        return from_own(weights, config, head_required, source)
    return translate(weights, config, head_required, source)


def _weights_in(folder: Path) -> Path:
    for name in _WEIGHT_FILES:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder}: holds no weights; one of {', '.join(_WEIGHT_FILES)} is needed")


def save_huggingface(model: ESM2, folder: str | Path) -> None:
    """Writes a model as a folder for ``transformers``: config, weights, tokenizer. Logits and contacts are the same.

    A variant that ``EsmForMaskedLM`` cannot compute gets a folder with the code that computes it.

    Args:
        model: The model; it must not be sharded.
        folder: The folder, made if it is missing; files of the same names are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict()
    if not inexpressible(model.config):
        weights = to_huggingface(weights, model.config)
    weights = {name: value.cpu().contiguous() for name, value in weights.items()}
    write_safetensors(folder / "model.safetensors", weights)
    special = {f"{name}_token": VOCABULARY[token_id] for name, token_id in SPECIAL_TOKENS.items()}
    tokenizer = {"tokenizer_class": "EsmTokenizer", "clean_up_tokenization_spaces": False, **special}
    contents = {
        "config.json": config_to_huggingface(model.config, model.embedding.weight.dtype),
        "tokenizer_config.json": tokenizer,
        "special_tokens_map.json": special,
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    if inexpressible(model.config):
        code = importlib.resources.files(f"{__package__}.remote_code")
        for name in CODE_FILES:
            (folder / name).write_text((code / name).read_text())
