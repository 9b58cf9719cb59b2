"""Packing, padding, counting and cutting."""

import itertools

import numpy as np
import pytest
import torch

from plm_composer.data.batches import (
    count_positions,
    count_proteins,
    count_tokens,
    pack,
    pad,
    pin,
    split,
    split_by_tokens,
    with_labels,
)
from plm_composer.data.streaming.loader import PinnedSplit
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


def _is_described(batch: dict) -> bool:
    """Whether what the host is told of a batch is what the batch holds."""
    proteins = _proteins(batch)
    predicted = [sum(label != IGNORE_INDEX for label in labels) for _, labels in proteins]
    positions = (batch["labels"].flatten() != IGNORE_INDEX).nonzero().squeeze(-1)
    return (
        batch["lengths"].tolist() == [len(ids) for ids, _ in proteins]
        and batch["masked_counts"].tolist() == predicted
        and torch.equal(batch["masked_positions"], positions)
    )


@pytest.mark.parametrize("make", [pack, pad])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_host_knows_what_a_batch_and_its_parts_hold(make, share: float) -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([3, 1, 50, 2, 17, 9])
    ids = rng.integers(4, 24, lengths.sum())
    batch = make(ids, np.where(rng.random(len(ids)) < share, ids, IGNORE_INDEX), lengths)
    fewer = with_labels(batch, torch.where(batch["labels"] > 12, batch["labels"], IGNORE_INDEX))
    assert all(_is_described(each) for each in (batch, fewer, *split(batch, 1), *split(fewer, 4)))
    assert all(_is_described(part) for part in split_by_tokens(batch, 100, pieces=3))


def test_all_that_is_sent_to_a_gpu_is_pinned(monkeypatch) -> None:
    """Also what cutting computes, which no DataLoader has pinned."""
    pinned: set[int] = set()

    def pin_memory(x: torch.Tensor) -> torch.Tensor:
        copy = x.clone()
        pinned.add(copy.data_ptr())
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda x: x.data_ptr() in pinned)
    batch = pin(pack(TOKENS, LABELS, LENGTHS))
    parts = PinnedSplit(split)(batch, 2)
    assert len(parts) == 2
    assert all(value.is_pinned() for part in parts for value in part.values() if isinstance(value, torch.Tensor))
    assert [protein for part in parts for protein in _proteins(part)] == _proteins(batch)


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
    with pytest.raises(UserError, match=r"one protein has 5 tokens; set it to at least data\.crop_length"):
        split_by_tokens(pack(TOKENS, LABELS, LENGTHS), 4)
