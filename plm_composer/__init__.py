"""Efficient training of protein language models on MosaicML Composer.

The functions that a script or a notebook needs: ``from plm_composer import train, load_model, embed, evaluate``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from plm_composer.evaluation.contacts.in_memory import contacts as contacts
    from plm_composer.evaluation.evaluate import evaluate as evaluate
    from plm_composer.evaluation.variants.in_memory import scan as scan
    from plm_composer.evaluation.variants.in_memory import score as score
    from plm_composer.inference.embedding.in_memory import embed as embed
    from plm_composer.inference.load import load_model as load_model
    from plm_composer.inference.sampling import Sampling as Sampling
    from plm_composer.inference.sampling import sample_proteins as sample_proteins
    from plm_composer.run.command import train_run as train
    from plm_composer.run.named_parts import register as register
    from plm_composer.shards.convert import convert_fasta as convert_fasta

_PLACES = {
    "Sampling": ("plm_composer.inference.sampling", "Sampling"),
    "contacts": ("plm_composer.evaluation.contacts.in_memory", "contacts"),
    "convert_fasta": ("plm_composer.shards.convert", "convert_fasta"),
    "embed": ("plm_composer.inference.embedding.in_memory", "embed"),
    "evaluate": ("plm_composer.evaluation.evaluate", "evaluate"),
    "load_model": ("plm_composer.inference.load", "load_model"),
    "register": ("plm_composer.run.named_parts", "register"),
    "sample_proteins": ("plm_composer.inference.sampling", "sample_proteins"),
    "scan": ("plm_composer.evaluation.variants.in_memory", "scan"),
    "score": ("plm_composer.evaluation.variants.in_memory", "score"),
    "train": ("plm_composer.run.command", "train_run"),
}

__all__ = [
    "Sampling", "contacts", "convert_fasta", "embed", "evaluate", "load_model", "register", "sample_proteins", "scan",
    "score", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a function when it is first asked for: torch and Composer take seconds, and a conversion needs none."""
    if name in _PLACES:
        module, function = _PLACES[name]
        return getattr(importlib.import_module(module), function)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
