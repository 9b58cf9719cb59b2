"""Efficient training of protein language models on MosaicML Composer.

The functions that a script or a notebook needs, under one name: ``from plm_composer import load_model``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from plm_composer.evaluation.evaluate import evaluate as evaluate
    from plm_composer.inference.embed import embed as embed
    from plm_composer.inference.load import load_model as load_model
    from plm_composer.shards.convert import convert_fasta as convert_fasta

_MODULES = {
    "convert_fasta": "plm_composer.shards.convert",
    "embed": "plm_composer.inference.embed",
    "evaluate": "plm_composer.evaluation.evaluate",
    "load_model": "plm_composer.inference.load",
}

__all__ = ["convert_fasta", "embed", "evaluate", "load_model"]


def __getattr__(name: str) -> Any:
    """Imports a function when it is first asked for: a conversion needs neither torch nor Composer, which take seconds."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
