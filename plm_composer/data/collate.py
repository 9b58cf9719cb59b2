"""Makes a batch from proteins: crops, tokenises, labels and packs them, vectorised over the whole batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from plm_composer.data.batches import BATCH_FORMATS, Batch, attach_draws
from plm_composer.data.masking import Masking, selection_draws
from plm_composer.data.objectives import OBJECTIVES, Cropped
from plm_composer.data.randomness import Purpose, UInt64Array, sample_keys, uniform
from plm_composer.errors import UserError
from plm_composer.tokenizer import CLS_BYTE, EOS_BYTE, encode


class Protein(NamedTuple):
    """A protein from the dataset: its residues, and the sample id and epoch on which its random draws depend."""

    sample_id: int
    epoch: int
    residues: bytes


@dataclasses.dataclass(frozen=True)
class Collator:
    """Makes a batch from proteins; the same proteins always give the same batch.

    Args:
        seed: The run's seed, at least 0.
        crop_length: Largest number of tokens of a protein, ``<cls>`` and ``<eos>`` included; at least 3.
        crop_keeps_ends: False adds ``<cls>`` and ``<eos>`` first and then crops, so that the model can see from their
            absence that it gets a piece. True crops the residues and adds both to every piece.
        batch_format: A name in ``BATCH_FORMATS``.
        objective: A name in ``OBJECTIVES``.
        masking: The mask rate, and what replaces masked residues; a causal objective masks none.
        draws: Draws that batches carry for curricula: ``selection``, ``window``, or both (``data/batches.py``).
    """

    seed: int = 0
    crop_length: int = 512
    crop_keeps_ends: bool = False
    batch_format: str = "unpadded"
    objective: str = "masked"
    masking: Masking = dataclasses.field(default_factory=Masking)
    draws: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.crop_length < 3:
            raise UserError(f"data.crop_length is {self.crop_length}; it must be at least 3 tokens")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must be at least 0")
        if self.batch_format not in BATCH_FORMATS:
            raise UserError(f"data.batch_format is {self.batch_format!r}; choose from {', '.join(BATCH_FORMATS)}")
        if self.objective not in OBJECTIVES:
            raise UserError(f"objective is {self.objective!r}; choose from {', '.join(OBJECTIVES)}")
        if self.objective == "diffusion" and self.masking.mask_token_fraction < 1:
            raise UserError(
                "objective is diffusion, which hides residues behind <mask> only; add its recipe, as in "
                "recipe=cramming,diffusion, or set data.mask_token_fraction=1.0 and data.random_token_fraction=0.0"
            )

    def __call__(self, proteins: Sequence[Protein]) -> Batch:
        """Crops, tokenises, labels and packs N proteins.

        Returns:
            A batch as ``plm_composer.data.batches`` describes, in the order of ``proteins``.
        """
        keys = sample_keys(self.seed, [p.epoch for p in proteins], [p.sample_id for p in proteins])
        residue_counts = np.array([len(protein.residues) for protein in proteins])
        starts = self.crop_starts(keys, residue_counts)
        pieces = [self._piece(p.residues, int(start)) for p, start in zip(proteins, starts, strict=True)]
        lengths = np.array([len(piece) for piece in pieces])
        token_ids = encode(b"".join(pieces)).astype(np.int64)

        offsets = np.cumsum(lengths) - lengths
        positions = np.arange(lengths.sum()) + np.repeat(starts - offsets, lengths)
        labelled = OBJECTIVES[self.objective](Cropped(token_ids, positions, lengths, keys), self.masking)
        batch = BATCH_FORMATS[self.batch_format](labelled.input_ids, labelled.labels, lengths, self.crop_length)
        token_keys = np.repeat(keys, lengths)
        return attach_draws(
            {**batch, **labelled.fields},
            selection=selection_draws(token_keys, positions, self.masking) if "selection" in self.draws else None,
            window=uniform(keys, Purpose.WINDOW) if "window" in self.draws else None,
        )

    def crop_starts(self, keys: UInt64Array, residue_counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Draws the start of each crop, uniformly over all starts that fit.

        Args:
            keys: Key of each protein, from ``sample_keys``, shape (N,).
            residue_counts: Number of residues of each protein, shape (N,).

        Returns:
            Position of each crop's first token, in tokens of ``<cls> protein <eos>`` (or in residues where
            ``crop_keeps_ends``), shape (N,); 0 if the whole protein fits.
        """
        slack = np.maximum(residue_counts + 2 - self.crop_length, 0)
        return (uniform(keys, Purpose.CROP) * (slack + 1)).astype(np.int64)

    def _piece(self, residues: bytes, start: int) -> bytes:
        if self.crop_keeps_ends:
            return CLS_BYTE + residues[start : start + self.crop_length - 2] + EOS_BYTE
        return (CLS_BYTE + residues + EOS_BYTE)[start : start + self.crop_length]
