"""ESM2's vocabulary of 33 tokens and the table that converts residues to token ids.

The order is that of ``fair-esm``'s ``Alphabet.from_architecture("ESM-1b")`` and of the vocabulary files of the
``facebook/esm2_*`` models on Hugging Face.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

VOCABULARY: tuple[str, ...] = (
    "<cls>", "<pad>", "<eos>", "<unk>",
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    "<null_1>", "<mask>",
)  # fmt: skip

CLS_ID, PAD_ID, EOS_ID, UNK_ID = range(4)
MASK_ID = VOCABULARY.index("<mask>")
STANDARD_RESIDUES = "LAGVSERTIDPKQNFYMHWC"
"""The 20 amino acids of the standard genetic code."""
STANDARD_IDS = range(4, 24)
"""Token ids of the 20 standard residues: contiguous, so that membership is a comparison."""
CLS_BYTE, EOS_BYTE = b"\x01", b"\x02"
"""Stand-ins for ``<cls>`` and ``<eos>`` in a byte string of residues, so that one look-up tokenises a whole batch."""
IGNORE_INDEX = -100
"""Label of a position that the loss ignores (the default of ``torch.nn.functional.cross_entropy``)."""


def _make_table() -> npt.NDArray[np.uint8]:
    table = np.full(256, UNK_ID, dtype=np.uint8)
    for token_id, token in enumerate(VOCABULARY):
        if len(token) == 1:
            table[ord(token)] = token_id
    table[ord(CLS_BYTE)] = CLS_ID
    table[ord(EOS_BYTE)] = EOS_ID
    return table


_TABLE = _make_table()


def encode(residues: bytes) -> npt.NDArray[np.uint8]:
    """Converts residues to token ids; adds no ``<cls>`` and ``<eos>``.

    Args:
        residues: Upper-case one-letter codes, ASCII; ``CLS_BYTE`` and ``EOS_BYTE`` become ``<cls>`` and ``<eos>``.
            A letter that ESM2 does not know (``J``) becomes ``<unk>``.

    Returns:
        Token ids, shape (len(residues),), uint8.
    """
    return _TABLE[np.frombuffer(residues, dtype=np.uint8)]


def decode(token_ids: npt.ArrayLike) -> str:
    """Converts token ids back to text; special tokens are written in full, such as ``<mask>``."""
    return "".join(VOCABULARY[int(token_id)] for token_id in np.asarray(token_ids).ravel())
