"""The bundled sample: 8,800 UniProt proteins of large families, split by sequence similarity (see ``README.md``)."""

from __future__ import annotations

from pathlib import Path

TRAIN_FASTA = Path(__file__).parent / "train.fasta.gz"
"""The training set, FASTA compressed with gzip."""
VAL_FASTA = Path(__file__).parent / "val.fasta.gz"
"""The validation set: relatives, but no close ones, of training proteins."""
