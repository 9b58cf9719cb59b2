"""The vocabulary against fair-esm's."""

import esm
import numpy as np

from plm_composer import tokenizer


def test_vocabulary_is_that_of_fair_esm() -> None:
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    assert list(tokenizer.VOCABULARY) == alphabet.all_toks
    assert (
        alphabet.cls_idx, alphabet.padding_idx, alphabet.eos_idx, alphabet.mask_idx,
    ) == (tokenizer.CLS_ID, tokenizer.PAD_ID, tokenizer.EOS_ID, tokenizer.MASK_ID)  # fmt: skip


def test_every_letter_is_encoded_as_fair_esm_does() -> None:
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    letters = "ABCDEFGHIKLMNOPQRSTUVWXYZ.-"
    assert tokenizer.encode(letters.encode()).tolist() == [alphabet.get_idx(letter) for letter in letters]
    assert tokenizer.encode(b"J").tolist() == [tokenizer.UNK_ID]


def test_encode_and_decode_agree() -> None:
    residues = b"\x01MKVLLAXB\x02"
    assert tokenizer.decode(tokenizer.encode(residues)) == "<cls>MKVLLAXB<eos>"
    assert tokenizer.decode(np.array([tokenizer.MASK_ID])) == "<mask>"


def test_standard_residues_are_contiguous() -> None:
    ids = tokenizer.encode(tokenizer.STANDARD_RESIDUES.encode())
    assert ids.tolist() == list(tokenizer.STANDARD_IDS)
