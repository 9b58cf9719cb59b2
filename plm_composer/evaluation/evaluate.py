"""Runs the pinned evaluation on a model and a set of proteins."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from plm_composer.data.batches import Batch
from plm_composer.data.streaming.reading import read_split
from plm_composer.data.streaming.remote_cache import cache_places
from plm_composer.errors import UserError
from plm_composer.evaluation.loader import EvaluationBatches
from plm_composer.evaluation.pinned import set_digest
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.esm2 import ESM2
from plm_composer.shards.inputs.cleaning import Rules
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.terminal.progress import ProgressBar


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of the pinned evaluation.

    Args:
        loss: Mean negative log-likelihood of the hidden residues, or of a causal model of each residue, in nats.
        perplexity: ``exp(loss)``.
        accuracy: Share of these residues whose most likely token is right, 0 to 1.
        scored_tokens: Number of these residues.
        proteins: Number of proteins.
        set_digest: Digest of the set of proteins.
    """

    loss: float
    perplexity: float
    accuracy: float
    scored_tokens: int
    proteins: int
    set_digest: str


def evaluate(
    model: ESM2,
    proteins: str | Path | Sequence[bytes | str],
    *,
    device: str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    batch_tokens: int = 16384,
    progress: bool = False,
) -> Evaluation:
    """Scores a model.

    Args:
        model: The model; it is moved to ``device``.
        proteins: Residues of each protein, in upper case; or where to read them, as for ``read_proteins``.
        device: A torch device.
        autocast_dtype: Precision of the matrix products; None for the model's own.
        batch_tokens: Largest number of tokens in a batch.
        progress: Whether to draw a progress bar on stderr.

    Raises:
        UserError: The set has no proteins, or no standard residue.
    """
    if isinstance(proteins, str | Path):
        proteins = read_proteins(str(proteins))
    sequences = [protein.encode() if isinstance(protein, str) else protein for protein in proteins]
    if not sequences:
        raise UserError("the set to evaluate on has no proteins")
    wrapped = ESM2ComposerModel(model, autocast_dtype=autocast_dtype).to(device).eval()
    metrics = {name: metric.to(device) for name, metric in wrapped.get_metrics(is_train=False).items()}
    batches = EvaluationBatches(sequences, batch_tokens, causal=model.config.causal)
    scored = 0
    with torch.inference_mode():
        for batch in ProgressBar(batches, desc="evaluate", unit=" batches", disable=not progress):
            outputs = wrapped.eval_forward(_move(batch, device))
            scored += outputs.targets.numel()
            for metric in metrics.values():
                wrapped.update_metric(batch, outputs, metric)
    if not scored:
        raise UserError("the set to evaluate on has no standard residue")
    loss = float(metrics[model.config.loss_name].compute())
    return Evaluation(
        loss=loss,
        perplexity=math.exp(loss),
        accuracy=float(metrics["accuracy"].compute()),
        scored_tokens=scored,
        proteins=len(sequences),
        set_digest=set_digest(sequences),
    )


def read_proteins(path: str, limit: int | None = None) -> list[bytes]:
    """Reads proteins from a FASTA file or from shards, under the rules of conversion, so that both give the same set.

    Args:
        path: A FASTA file (perhaps compressed, ``-`` for stdin), a folder made by ``convert/`` (its ``val`` split),
            a folder of one split, or a remote dataset such as ``s3://bucket/uniref50``.
        limit: Largest number of proteins; None for all.

    Raises:
        UserError: ``path`` is missing, unreadable, or holds no proteins.
    """
    folder = Path(path)
    if path == "-" or folder.is_file():
        dropped: Counter[str] = Counter()
        records = read_fasta(path, rules=Rules(), dropped=dropped)
        proteins = [residues for _, residues in itertools.islice(records, limit)]
        for reason, count in dropped.items():
            print(f"{path}: {count} proteins dropped: {reason}", file=sys.stderr)
    elif "://" in path or folder.is_dir():
        proteins = _read_shards(path, limit)
    else:
        raise UserError(f"{path}: there is no such FASTA file or folder of shards")
    if not proteins:
        raise UserError(f"{path}: holds no proteins")
    return proteins


def _read_shards(path: str, limit: int | None) -> list[bytes]:
    if "://" in path:
        return read_split(cache_places([{"remote": path}], ["val"]), "val", limit)
    return read_split([{"local": path}], "val" if Path(path, "val").is_dir() else None, limit)


def _move(batch: Batch, device: str) -> Batch:
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
