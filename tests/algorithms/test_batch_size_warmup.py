"""The first proteins of a batch, and how it is counted."""

from __future__ import annotations

import pytest

from plm_composer.algorithms.batch_curriculum import bind_curricula
from plm_composer.algorithms.batch_size_warmup import BatchSizeWarmup
from plm_composer.algorithms.mask_rate_schedule import MaskRateSchedule
from plm_composer.algorithms.sequence_length_warmup import SequenceLengthWarmup
from plm_composer.data.batches import count_proteins, count_rows, count_tokens, split, split_by_tokens
from plm_composer.errors import UserError
from tests.algorithms.curriculum_batches import FORMATS, PROTEINS, at, collator, equal


@pytest.mark.parametrize("batch_format", FORMATS)
def test_the_batch_is_that_of_the_first_proteins(batch_format: str) -> None:
    make = collator(batch_format=batch_format)
    warmup = BatchSizeWarmup()
    warmup.bind(make)
    batch = make(PROTEINS)
    assert equal(warmup.change(batch, 3 / 7), make(PROTEINS[:3]))
    assert equal(warmup.change(batch, 0.001), make(PROTEINS[:1]))
    assert equal(warmup.change(batch, 1.0), batch)


def test_the_share_grows() -> None:
    warmup = BatchSizeWarmup(0.2, "0.5dur")
    assert [warmup.value(at(batch)) for batch in (0, 25, 50, 99)] == pytest.approx([0.2, 0.6, 1, 1])


@pytest.mark.parametrize("batch_format", FORMATS)
@pytest.mark.parametrize("truncate", [True, False])
def test_all_proteins_count_as_read_and_only_what_is_trained_as_tokens(batch_format: str, truncate: bool) -> None:
    make = collator(batch_format=batch_format)
    curricula = [
        MaskRateSchedule(0.15, 0.1), SequenceLengthWarmup(16, truncate=truncate), BatchSizeWarmup(3 / 7),
    ]  # fmt: skip
    transform = bind_curricula(curricula, make)
    assert transform is not None
    for curriculum in curricula:
        curriculum._state = at(0)
    batch = transform(make(PROTEINS))
    assert count_proteins(batch) == len(PROTEINS)
    # 7, 42 and 64 tokens, in pieces of at most 16.
    assert count_rows(batch) == (3 if truncate else 1 + 3 + 4)
    assert count_tokens(batch)["total"] == (7 + 16 + 16 if truncate else 7 + 42 + 64)
    assert not {"selection", "window"} & batch.keys()
    for pieces in (split(batch, 2), split_by_tokens(batch, 20)):
        assert sum(count_tokens(piece)["total"] for piece in pieces) == count_tokens(batch)["total"]
        assert sum(count_proteins(piece) for piece in pieces) == count_rows(batch)


def test_no_curriculum_no_transform() -> None:
    assert bind_curricula([], collator()) is None


@pytest.mark.parametrize("share", [0.0, 1.0, -1, 2])
def test_impossible_shares_are_one_line(share: float) -> None:
    with pytest.raises(UserError, match="initial_share"):
        BatchSizeWarmup(share)
