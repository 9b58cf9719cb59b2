"""Cropping and collating."""

import numpy as np
import pytest

from plm_composer.data.collate import Collator, Protein
from plm_composer.data.masking import Masking
from plm_composer.errors import UserError
from plm_composer.tokenizer import CLS_ID, EOS_ID, IGNORE_INDEX, encode

RESIDUES = bytes(np.random.default_rng(0).choice(np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", np.uint8), 300))


def _unmasked(batch: dict, index: int = 0) -> list[int]:
    """The tokens of one protein before masking."""
    start, stop = batch["cu_seqlens"][index : index + 2].tolist()
    ids, labels = batch["input_ids"][start:stop].numpy(), batch["labels"][start:stop].numpy()
    return np.where(labels == IGNORE_INDEX, ids, labels).tolist()


def test_a_short_protein_is_whole() -> None:
    batch = Collator(crop_length=512)([Protein(0, 0, RESIDUES)])
    assert _unmasked(batch) == [CLS_ID, *encode(RESIDUES).tolist(), EOS_ID]


def test_a_crop_is_a_piece_of_cls_protein_eos() -> None:
    whole = [CLS_ID, *encode(RESIDUES).tolist(), EOS_ID]
    batch = Collator(crop_length=64)([Protein(i, 0, RESIDUES) for i in range(3000)])
    starts = set()
    for index in range(3000):
        piece = _unmasked(batch, index)
        assert len(piece) == 64
        (start,) = [s for s in range(len(whole) - 63) if whole[s : s + 64] == piece]
        starts.add(start)
    # Every start is as likely as another: both ends come up, so <cls> and <eos> do.
    assert {0, len(whole) - 64} <= starts
    assert len(starts) == len(whole) - 63


def test_crops_that_keep_their_ends() -> None:
    batch = Collator(crop_length=64, crop_keeps_ends=True)([Protein(i, 0, RESIDUES) for i in range(50)])
    for index in range(50):
        piece = _unmasked(batch, index)
        assert (len(piece), piece[0], piece[-1]) == (64, CLS_ID, EOS_ID)


def test_a_protein_gets_the_same_crop_and_mask_in_any_company() -> None:
    collator = Collator(seed=5, crop_length=64)
    together = collator([Protein(i, 2, RESIDUES[i:]) for i in range(8)])
    alone = collator([Protein(3, 2, RESIDUES[3:])])
    start, stop = together["cu_seqlens"][3:5].tolist()
    assert together["input_ids"][start:stop].tolist() == alone["input_ids"].tolist()
    assert together["labels"][start:stop].tolist() == alone["labels"].tolist()


def test_epoch_sample_and_seed_each_change_crop_and_mask() -> None:
    base = Collator(seed=5, crop_length=64)([Protein(3, 2, RESIDUES)])
    for seed, sample_id, epoch in ((6, 3, 2), (5, 4, 2), (5, 3, 3)):
        other = Collator(seed=seed, crop_length=64)([Protein(sample_id, epoch, RESIDUES)])
        assert other["input_ids"].tolist() != base["input_ids"].tolist()


def test_formats_hold_the_same_tokens() -> None:
    proteins = [Protein(i, 0, RESIDUES[: 20 * i + 5]) for i in range(6)]
    packed = Collator(crop_length=64)(proteins)
    padded = Collator(crop_length=64, batch_format="padded")(proteins)
    full = Collator(crop_length=64, batch_format="padded_to_crop_length")(proteins)
    for batch in (padded, full):
        assert batch["input_ids"][batch["attention_mask"]].tolist() == packed["input_ids"].tolist()
        assert batch["labels"][batch["attention_mask"]].tolist() == packed["labels"].tolist()
    assert full["input_ids"].shape == (6, 64)


def test_one_residue() -> None:
    batch = Collator(masking=Masking(1.0, 1.0, 0.0))([Protein(0, 0, b"M")])
    assert batch["labels"].tolist() == [IGNORE_INDEX, int(encode(b"M")[0]), IGNORE_INDEX]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"crop_length": 2}, "crop_length"), ({"seed": -1}, "seed"), ({"batch_format": "ragged"}, "batch_format")],
)
def test_impossible_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Collator(**arguments)
