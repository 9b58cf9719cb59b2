"""Formats of exports: which files each has, which library loads them, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.fair_esm import CONTACT_SUFFIX, check_fair_esm, save_fair_esm
from plm_composer.model.weights.huggingface_config import CODE_FILES
from plm_composer.model.weights.huggingface_folder import save_huggingface
from plm_composer.model.weights.naming import inexpressible


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of exports.

    Args:
        library: The library that loads it, as a model card names it.
        files: The files that it may have.
        key_file: The file by which others recognise the folder.
        check: Function of a model's config that raises a ``UserError`` if the format cannot represent the model.
        save: Function that writes a model into a folder.
        usage: Function of a model's config that gives the code that loads the model.
    """

    library: str
    files: tuple[str, ...]
    key_file: str
    check: Callable[[ESM2Config], None]
    save: Callable[[ESM2, Path], None]
    usage: Callable[[ESM2Config], str]


_PLAIN_USAGE = """```python
from transformers import AutoTokenizer, EsmForMaskedLM
model = EsmForMaskedLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
```"""
_VARIANT_USAGE = """```python
from transformers import AutoModelForMaskedLM, AutoTokenizer
model = AutoModelForMaskedLM.from_pretrained(FOLDER, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
```"""
_CAUSAL_USAGE = _VARIANT_USAGE.replace("MaskedLM", "CausalLM")
_HUGGINGFACE_FILES = (
    "config.json", "model.safetensors", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
)  # fmt: skip


def _accept(_: ESM2Config) -> None:
    """A Hugging Face folder represents any model: that of a variant has the code, too."""


def _huggingface_usage(config: ESM2Config) -> str:
    if config.causal:
        return _CAUSAL_USAGE
    return _VARIANT_USAGE if inexpressible(config) else _PLAIN_USAGE


_FAIR_ESM_FILE = "esm2_model.pt"
"""fair-esm recognises ESM2 by the beginning of the name."""
_FAIR_ESM_USAGE = f"""```python
import argparse, esm, torch
with torch.serialization.safe_globals([argparse.Namespace]):
    model, alphabet = esm.pretrained.load_model_and_alphabet_local(FOLDER + "/{_FAIR_ESM_FILE}")
```"""


def _save_fair_esm(model: ESM2, folder: Path) -> None:
    save_fair_esm(model.state_dict(), model.config, folder / _FAIR_ESM_FILE)


def _fair_esm_usage(_: ESM2Config) -> str:
    return _FAIR_ESM_USAGE


CARD = "README.md"
"""The model card, which every format has."""
HUGGINGFACE = Format(
    library="transformers",
    files=(*_HUGGINGFACE_FILES, CARD, *CODE_FILES),
    key_file="config.json",
    check=_accept,
    save=save_huggingface,
    usage=_huggingface_usage,
)
FAIR_ESM = Format(
    library="fair-esm",
    files=(_FAIR_ESM_FILE, Path(_FAIR_ESM_FILE).stem + CONTACT_SUFFIX, CARD),
    key_file=_FAIR_ESM_FILE,
    check=check_fair_esm,
    save=_save_fair_esm,
    usage=_fair_esm_usage,
)
FORMATS = {"huggingface": HUGGINGFACE, "fair-esm": FAIR_ESM}
"""Formats by name."""


def find_format(name: str) -> Format:
    """Finds a format.

    Raises:
        UserError: There is none of this name.
    """
    if name not in FORMATS:
        raise UserError(f"--format: there is no {name!r}; choose from {', '.join(FORMATS)}")
    return FORMATS[name]
