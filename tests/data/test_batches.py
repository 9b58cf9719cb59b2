"""Packing, padding, counting and cutting."""

import itertools

import numpy as np
import pytest
import torch

from plm_composer.data.batches import count_positions, count_proteins, count_tokens, pack, pad, split, split_by_tokens
from plm_composer.errors import UserError
from plm_composer.tokenizer import IGNORE_INDEX, PAD_ID

LENGTHS = np.array([3, 1, 5, 2])
TOKENS = np.arange(4, 4 + LENGTHS.sum())
LABELS = np.where(TOKENS % 3 == 0, TOKENS, IGNORE_INDEX)


def _proteins(batch: dict) -> list[tuple[list[int], list[int]]]:
    """Each protein's tokens and labels, whatever the format."""
    if "cu_seqlens" in batch:
        edges = batch["cu_seqlens"].tolist()
        rows = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
        return [(batch["input_ids"][row].tolist(), batch["labels"][row].tolist()) for row in rows]
    return [
        (ids[mask].tolist(), labels[mask].tolist())
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    ]


def test_packed_and_padded_hold_the_same_proteins() -> None:
    packed, padded = pack(TOKENS, LABELS, LENGTHS), pad(TOKENS, LABELS, LENGTHS)
    assert _proteins(packed) == _proteins(padded)
    assert packed["max_seqlen"] == 5
    assert padded["input_ids"].shape == (4, 5)
    assert (padded["input_ids"][~padded["attention_mask"]] == PAD_ID).all()
    assert (padded["labels"][~padded["attention_mask"]] == IGNORE_INDEX).all()


def test_padding_to_a_width() -> None:
    assert pad(TOKENS, LABELS, LENGTHS, 16)["input_ids"].shape == (4, 16)


def test_counts_leave_padding_out() -> None:
    for batch in (pack(TOKENS, LABELS, LENGTHS), pad(TOKENS, LABELS, LENGTHS, 16)):
        assert count_proteins(batch) == 4
        assert count_tokens(batch) == {"total": 11, "loss_generating": int((LABELS != IGNORE_INDEX).sum())}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("make", [pack, pad])
def test_microbatches_are_the_batch(make, size: int) -> None:
    batch = make(TOKENS, LABELS, LENGTHS)
    parts = split(batch, size)
    assert [count_proteins(part) for part in parts] == [min(size, 4 - start) for start in range(0, 4, size)]
    assert [protein for part in parts for protein in _proteins(part)] == _proteins(batch)
    for part in parts:
        if "cu_seqlens" in part:
            assert part["cu_seqlens"].dtype == torch.int32
            assert part["cu_seqlens"][0] == 0
            assert part["max_seqlen"] == part["cu_seqlens"].diff().max()


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_impossible_microbatches_are_refused(size: float) -> None:
    with pytest.raises(UserError, match="device_train_microbatch_size"):
        split(pack(TOKENS, LABELS, LENGTHS), size)


@pytest.mark.parametrize("make", [pack, pad])
@pytest.mark.parametrize(("bound", "pieces"), [(5, 1), (6, 1), (11, 1), (100, 1), (100, 3), (100, 9), (6, 4)])
def test_token_bounded_microbatches_are_the_batch(make, bound: int, pieces: int) -> None:
    batch = make(TOKENS, LABELS, LENGTHS)
    parts = split_by_tokens(batch, bound, pieces)
    assert all(0 < count_positions(part) <= bound for part in parts)
    assert min(pieces, 4) <= len(parts) <= 4
    assert [protein for part in parts for protein in _proteins(part)] == _proteins(batch)


def test_microbatches_are_as_full_as_the_bound_allows() -> None:
    assert [count_positions(part) for part in split_by_tokens(pack(TOKENS, LABELS, LENGTHS), 6)] == [4, 5, 2]


def test_a_protein_beyond_the_bound_is_named() -> None:
    with pytest.raises(UserError, match=r"one protein has 5 tokens; set it to data\.crop_length"):
        split_by_tokens(pack(TOKENS, LABELS, LENGTHS), 4)
