"""The protocol: pinned for ever, and a function of the protein alone."""

import numpy as np
import pytest
import torch

from plm_composer.evaluation.loader import EvaluationBatches
from plm_composer.evaluation.pinned import (
    WINDOW_RESIDUES,
    collate_windows,
    group_windows,
    hidden_positions,
    set_digest,
    windows,
)
from plm_composer.tokenizer import IGNORE_INDEX, MASK_ID, STANDARD_IDS, encode

INSULIN = (
    b"MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKTRREAEDLQVGQVELGGGPGAGSLQPLALEGSLQKRGIVEQCCTSICSLYQLENYCN"
)
LETTERS = np.frombuffer(b"LAGVSERTIDPKQNFYMHWCX", np.uint8)


def _proteins(lengths: list[int]) -> list[bytes]:
    random = np.random.default_rng(0)
    return [bytes(random.choice(LETTERS, length)) for length in lengths]


def test_positions_are_pinned() -> None:
    # Losses are comparable only while this holds.
    assert hidden_positions(INSULIN).tolist() == PINNED


PINNED = [0, 15, 19, 27, 36, 41, 42, 50, 64, 72, 77, 82, 83, 97, 101, 104]


@pytest.mark.parametrize("length", [1, 3, 7, 100, 3000])
def test_fifteen_percent_of_the_standard_residues_are_hidden(length: int) -> None:
    (protein,) = _proteins([length])
    standard = sum(token in STANDARD_IDS for token in encode(protein).tolist())
    hidden = hidden_positions(protein)
    assert len(hidden) == (max(1, round(0.15 * standard)) if standard else 0)
    assert all(int(token) in STANDARD_IDS for token in encode(protein)[hidden])


def test_a_protein_without_standard_residues_scores_nothing() -> None:
    assert len(hidden_positions(b"XXXX")) == 0
    batch = collate_windows(list(windows(b"XXXX")))
    assert (batch["labels"] == IGNORE_INDEX).all()


@pytest.mark.parametrize("length", [1, 1021, 1022, 1023, 5000])
def test_windows_cover_the_protein_once(length: int) -> None:
    (protein,) = _proteins([length])
    pieces = list(windows(protein))
    assert b"".join(piece.residues for piece in pieces) == protein
    assert all(len(piece.residues) <= WINDOW_RESIDUES for piece in pieces)
    starts = np.arange(len(pieces)) * WINDOW_RESIDUES
    hidden = np.concatenate([piece.hidden + start for piece, start in zip(pieces, starts, strict=True)])
    assert hidden.tolist() == hidden_positions(protein).tolist()


def test_a_batch_hides_and_scores_the_same_tokens() -> None:
    proteins = _proteins([50, 80])
    batch = collate_windows([window for protein in proteins for window in windows(protein)])
    scored = batch["labels"] != IGNORE_INDEX
    assert (batch["input_ids"][scored] == MASK_ID).all()
    whole = torch.where(scored, batch["labels"], batch["input_ids"])
    first = whole[: batch["cu_seqlens"][1]]
    assert first[1:-1].tolist() == encode(proteins[0]).tolist()


def test_groups_keep_order_and_bound() -> None:
    groups = group_windows(_proteins([100, 200, 300, 50, 2000]), 400)
    assert [[len(w.residues) for w in group] for group in groups] == [[100, 200], [300, 50], [1022], [978]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_share_the_set_and_score_each_token_once(world_size: int) -> None:
    proteins = _proteins([100, 200, 300, 50, 900])
    ranks = [EvaluationBatches(proteins, 400, rank, world_size) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    batches = [batch for rank in ranks for batch in rank]
    assert len(batches) == sum(len(rank) for rank in ranks)
    scored = sum(int((batch["labels"] != IGNORE_INDEX).sum()) for batch in batches)
    assert scored == sum(len(hidden_positions(protein)) for protein in proteins)


def test_the_sets_digest_knows_no_order() -> None:
    proteins = _proteins([10, 20, 30])
    assert set_digest(proteins) == set_digest(proteins[::-1])
    assert set_digest(proteins) != set_digest(proteins[:2])
    assert set_digest(proteins) != set_digest([*proteins, proteins[0]])
