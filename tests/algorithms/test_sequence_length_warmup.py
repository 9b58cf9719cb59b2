"""Pieces of proteins that grow."""

from __future__ import annotations

import pytest
import torch

from plm_composer.algorithms.sequence_length_warmup import SequenceLengthWarmup, cut_to_pieces, take_windows
from plm_composer.data.collate import Protein
from plm_composer.errors import UserError
from plm_composer.tokenizer import CLS_ID, EOS_ID, IGNORE_INDEX
from tests.algorithms.curriculum_batches import FORMATS, PROTEINS, at, collator, equal, rows


def contains(whole: list, piece: list) -> bool:
    return any(whole[start : start + len(piece)] == piece for start in range(len(whole) - len(piece) + 1))


@pytest.mark.parametrize("batch_format", FORMATS)
def test_a_window_is_a_piece_with_its_labels(batch_format: str) -> None:
    make = collator(batch_format=batch_format)
    batch = make(PROTEINS)
    short = take_windows(batch, 24, make)
    for key in ("input_ids", "labels", "selection"):
        whole, pieces = rows(batch, key), rows(short, key)
        assert [len(piece) for piece in pieces] == [min(len(row), 24) for row in whole]
        assert all(contains(row, piece) for row, piece in zip(whole, pieces, strict=True))
    if batch_format == "unpadded":
        assert short["max_seqlen"] == 24
        assert short["cu_seqlens"].dtype == torch.int32
    else:
        assert short["input_ids"].shape == (len(PROTEINS), 24)


def test_windows_lie_anywhere_and_follow_the_protein() -> None:
    make = collator()
    many = [Protein(i, 0, PROTEINS[3].residues[:38]) for i in range(2000)]  # 40 tokens
    batch = make(many)
    starts = [int(value * 17) for value in batch["window"]]
    assert set(starts) == set(range(17))
    pieces = rows(take_windows(batch, 24, make), "selection")
    wholes = rows(batch, "selection")
    assert all(w[s : s + 24] == p for w, p, s in zip(wholes, pieces, starts, strict=True))
    assert (
        rows(take_windows(make(many[7:9]), 24, make), "input_ids")
        == rows(take_windows(batch, 24, make), "input_ids")[7:9]
    )


@pytest.mark.parametrize("shorten", [take_windows, cut_to_pieces])
@pytest.mark.parametrize("length", [3, 16])
def test_pieces_keep_their_ends_where_crops_do(shorten, length: int) -> None:
    make = collator(crop_keeps_ends=True)
    batch = make(PROTEINS)
    short = shorten(batch, length, make)
    for ids, labels in zip(rows(short, "input_ids"), rows(short, "labels"), strict=True):
        assert len(ids) <= length
        assert (ids[0], ids[-1], labels[0], labels[-1]) == (CLS_ID, EOS_ID, IGNORE_INDEX, IGNORE_INDEX)
        assert CLS_ID not in ids[1:]
        assert EOS_ID not in ids[:-1]


@pytest.mark.parametrize("batch_format", FORMATS)
@pytest.mark.parametrize("keeps_ends", [False, True])
@pytest.mark.parametrize("length", [5, 24, 63])
def test_cutting_loses_no_token(batch_format: str, keeps_ends: bool, length: int) -> None:
    make = collator(batch_format=batch_format, crop_keeps_ends=keeps_ends)
    batch = make(PROTEINS)
    cut = cut_to_pieces(batch, length, make)
    ends = slice(1, -1) if keeps_ends else slice(None)
    for key in ("input_ids", "labels", "selection"):
        pieces, wholes = ([token for row in rows(b, key) for token in row[ends]] for b in (cut, batch))
        assert pieces == wholes
    lengths = [len(row) for row in rows(cut, "input_ids")]
    assert max(lengths) <= length
    if not keeps_ends:
        assert len(lengths) == sum(-(-len(row) // length) for row in rows(batch, "input_ids"))


def test_lengths_grow_in_steps_to_the_crops() -> None:
    warmup = SequenceLengthWarmup(10, "50ba", step_size=8)
    warmup.bind(collator())
    lengths = [warmup.value(at(batch)) for batch in range(60)]
    assert lengths[0] == 10
    assert lengths == sorted(lengths)
    assert set(lengths[:50]) <= {10, 16, 24, 32, 40, 48, 56}
    assert set(lengths[50:]) == {64}
    batch = collator()(PROTEINS)
    assert equal(warmup.change(batch, 64), batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"start_length": 2}, "start_length is 2"), ({"step_size": 0}, "step_size is 0"), ({"t_end": "x"}, "t_end")],
)
def test_impossible_values_are_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SequenceLengthWarmup(**arguments)
    with pytest.raises(UserError, match=r"start_length is 64; it must be below data.crop_length, 64"):
        SequenceLengthWarmup(64).bind(collator())
