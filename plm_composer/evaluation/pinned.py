"""The pinned evaluation protocol: which residues of a protein are hidden, as a function of the protein alone.

15 % of the standard residues of each protein, chosen by a hash of its sequence, are all replaced by ``<mask>``; the
protein is cut into windows of 1,022 residues, ESM2's context, each with its ``<cls>`` and ``<eos>``. The loss is in
nats, weighted by token over the whole set. Neither a seed nor a recipe's own mask rate changes it.

Of a causal model, every standard residue is scored, given those before it in its window; ``<eos>`` is not.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from plm_composer.data.batches import Batch, pack
from plm_composer.data.masking import is_standard
from plm_composer.data.objectives import next_tokens
from plm_composer.data.randomness import Purpose, sample_keys, uniform
from plm_composer.tokenizer import CLS_BYTE, EOS_BYTE, IGNORE_INDEX, MASK_ID, encode

MASK_RATE = 0.15
WINDOW_RESIDUES = 1022


@dataclasses.dataclass(frozen=True)
class Window:
    """A piece of a protein.

    Args:
        residues: Residues of the piece, at most ``WINDOW_RESIDUES``.
        hidden: Positions in ``residues`` that are masked and scored, sorted, shape (M,).
    """

    residues: bytes
    hidden: npt.NDArray[np.int64]

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the window, ``<cls>`` and ``<eos>`` included."""
        return len(self.residues) + 2


def sequence_digest(residues: bytes) -> int:
    """64-bit digest of a sequence (BLAKE2b): the seed of its masks."""
    return int.from_bytes(hashlib.blake2b(residues, digest_size=8).digest(), "little")


def set_digest(proteins: Iterable[bytes]) -> str:
    """Digest of a set of proteins in any order; two evaluations with the same digest scored the same set."""
    digests = sorted(sequence_digest(residues) for residues in proteins)
    return hashlib.blake2b(np.array(digests, dtype="<u8").tobytes(), digest_size=8).hexdigest()


def hidden_positions(residues: bytes) -> npt.NDArray[np.int64]:
    """Chooses the residues to hide: the 15 % of the standard ones with the smallest hashes, at least one.

    Args:
        residues: Residues of the whole protein.

    Returns:
        Sorted positions, shape (M,); empty if the protein has no standard residue.
    """
    standard = np.flatnonzero(is_standard(encode(residues)))
    if not len(standard):
        return standard
    keys = sample_keys(0, 0, np.array([sequence_digest(residues)], dtype=np.uint64))
    draws = uniform(keys, Purpose.SELECT, standard)
    count = max(1, round(MASK_RATE * len(standard)))
    return np.sort(standard[np.argsort(draws, kind="stable")[:count]])


def windows(residues: bytes) -> Iterator[Window]:
    """Cuts a protein into windows, after choosing the masks on the whole protein."""
    hidden = hidden_positions(residues)
    for start in range(0, len(residues), WINDOW_RESIDUES):
        piece = residues[start : start + WINDOW_RESIDUES]
        inside = (hidden >= start) & (hidden < start + len(piece))
        yield Window(piece, hidden[inside] - start)


def group_windows(proteins: Iterable[bytes], max_tokens: int) -> list[list[Window]]:
    """Groups the proteins' windows, in order, into batches of at most ``max_tokens`` tokens (at least one window)."""
    groups: list[list[Window]] = []
    tokens = 0
    for residues in proteins:
        for window in windows(residues):
            if not groups or tokens + window.num_tokens > max_tokens:
                groups.append([])
                tokens = 0
            groups[-1].append(window)
            tokens += window.num_tokens
    return groups


def collate_windows(group: Sequence[Window]) -> Batch:
    """Makes a packed batch from windows, with their residues hidden."""
    token_ids, lengths = _tokens(group)
    offsets = np.cumsum(lengths) - lengths
    hidden = np.concatenate([window.hidden + offset + 1 for window, offset in zip(group, offsets, strict=True)])
    labels = np.full_like(token_ids, IGNORE_INDEX)
    labels[hidden] = token_ids[hidden]
    token_ids[hidden] = MASK_ID
    return pack(token_ids, labels, lengths)


def collate_causal_windows(group: Sequence[Window]) -> Batch:
    """Makes a packed batch from windows, in which each token is labelled with the residue after it."""
    token_ids, lengths = _tokens(group)
    return pack(token_ids, next_tokens(token_ids, lengths, ends=False), lengths)


def _tokens(group: Sequence[Window]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids of windows, one after another, and the number of each."""
    token_ids = encode(b"".join(CLS_BYTE + window.residues + EOS_BYTE for window in group)).astype(np.int64)
    return token_ids, np.array([window.num_tokens for window in group])
