"""BERT's masking on proteins."""

import numpy as np
import pytest

from plm_composer.data.masking import Masking, mask_tokens
from plm_composer.data.randomness import sample_keys
from plm_composer.errors import UserError
from plm_composer.tokenizer import IGNORE_INDEX, MASK_ID, STANDARD_IDS, encode


def _mask(token_ids: np.ndarray, masking: Masking, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    keys = np.repeat(sample_keys(seed, 0, [3]), len(token_ids))
    return mask_tokens(token_ids, keys, np.arange(len(token_ids)), masking)


def test_rates_are_kept() -> None:
    token_ids = np.random.default_rng(0).integers(STANDARD_IDS.start, STANDARD_IDS.stop, 200_000)
    inputs, labels = _mask(token_ids, Masking(0.15, 0.8, 0.1))
    chosen = labels != IGNORE_INDEX
    assert chosen.mean() == pytest.approx(0.15, abs=0.003)
    assert (inputs[chosen] == MASK_ID).mean() == pytest.approx(0.8, abs=0.01)
    # A random residue is the right one in 1 of 20 cases.
    assert (inputs[chosen] == token_ids[chosen]).mean() == pytest.approx(0.1 + 0.1 / 20, abs=0.01)


def test_labels_are_the_tokens_and_the_rest_is_untouched() -> None:
    token_ids = np.random.default_rng(1).integers(4, 24, 10_000)
    inputs, labels = _mask(token_ids, Masking())
    chosen = labels != IGNORE_INDEX
    assert (labels[chosen] == token_ids[chosen]).all()
    assert (inputs[~chosen] == token_ids[~chosen]).all()


def test_random_replacements_are_the_20_amino_acids_evenly() -> None:
    token_ids = np.full(200_000, STANDARD_IDS.start)
    inputs, labels = _mask(token_ids, Masking(1.0, 0.0, 1.0))
    assert (labels == token_ids).all()
    values, counts = np.unique(inputs, return_counts=True)
    assert values.tolist() == list(STANDARD_IDS)
    assert counts / len(inputs) == pytest.approx(np.full(20, 0.05), abs=0.003)


def test_all_mask() -> None:
    inputs, labels = _mask(np.full(1000, 10), Masking(0.25, 1.0, 0.0))
    assert (inputs[labels != IGNORE_INDEX] == MASK_ID).all()


def test_special_and_ambiguous_tokens_are_never_chosen() -> None:
    token_ids = encode(b"\x01XBZUOJ\x02" * 100).astype(np.int64)
    inputs, labels = _mask(token_ids, Masking(1.0))
    assert (inputs == token_ids).all()
    assert (labels == IGNORE_INDEX).all()


def test_the_expected_share_of_mask_tokens_is_esm2s() -> None:
    assert Masking().mask_token_rate == pytest.approx(0.12)


@pytest.mark.parametrize(
    ("rates", "message"),
    [((0.0, 0.8, 0.1), "mask_rate"), ((1.5, 0.8, 0.1), "mask_rate"), ((0.15, -0.1, 0.1), "mask_token_fraction"),
     ((0.15, 0.8, 0.3), "must not exceed 1")],
)  # fmt: skip
def test_impossible_rates_are_refused(rates: tuple[float, float, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Masking(*rates)


@pytest.mark.parametrize("length", [2, 3, 6])
def test_spans_keep_the_rate_and_run_on(length: int) -> None:
    token_ids = np.random.default_rng(2).integers(4, 24, 400_000)
    _, labels = _mask(token_ids, Masking(0.15, span_length=length))
    chosen = labels != IGNORE_INDEX
    assert chosen.mean() == pytest.approx(0.15, abs=0.005)
    # Each span runs on for its length, unless the chain of tokens ends.
    edges = np.diff(np.concatenate([[0], chosen.astype(int), [0]]))
    runs = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    assert runs[1:-1].min() == length
    assert runs.mean() > length


def test_a_crop_does_not_move_spans() -> None:
    token_ids = np.random.default_rng(3).integers(4, 24, 1000)
    keys = np.repeat(sample_keys(0, 0, [3]), 1000)
    whole = mask_tokens(token_ids, keys, np.arange(1000), Masking(span_length=4))[1]
    piece = mask_tokens(token_ids[300:500], keys[300:500], np.arange(300, 500), Masking(span_length=4))[1]
    assert (piece == whole[300:500]).all()


def test_a_span_of_no_residues_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.mask_span_length is 0"):
        Masking(span_length=0)
