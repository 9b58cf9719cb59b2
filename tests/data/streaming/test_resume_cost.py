"""A resume reads what is left to train and nothing of what was trained, however deep in an epoch it starts."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from composer import ComposerModel, Trainer

from plm_composer.data.batches import Batch
from plm_composer.data.collate import Collator, Protein
from plm_composer.data.streaming.dataset import StreamingProteinDataset
from plm_composer.data.streaming.loader import make_data_spec

BATCH_SIZE = 2
BATCHES = 2010
LEFT = 3
"""Batches that a resumed run trains here."""


class CountingDataset(StreamingProteinDataset):
    """Counts the proteins that are read, in all workers together."""

    reads = multiprocessing.Value("q", 0)

    def get_item(self, sample_id: int, retry: int = 7) -> Protein:
        with self.reads.get_lock():
            self.reads.value += 1
        return super().get_item(sample_id, retry)


class OneWeight(ComposerModel):
    """As little as Composer will train."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.weight * len(batch["input_ids"])

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return outputs


def train(shards: Path, checkpoints: Path, num_workers: int, until: int, load: int | None = None) -> int:
    """Trains, saving at the end; returns how many proteins were read."""
    dataset = CountingDataset(Collator(seed=1), local=str(shards), split="train", batch_size=BATCH_SIZE, shuffle=True)
    CountingDataset.reads.value = 0
    model = OneWeight()
    trainer = Trainer(
        model=model,
        train_dataloader=make_data_spec(dataset, num_workers=num_workers, prefetch_factor=2),
        optimizers=torch.optim.SGD(model.parameters(), lr=1e-9),
        max_duration=f"{until}ba",
        save_folder=str(checkpoints),
        save_interval="1000000ba",
        save_overwrite=True,
        load_path=None if load is None else str(checkpoints / f"ep0-ba{load}-rank0.pt"),
        device="cpu",
        progress_bar=False,
        seed=1,
    )
    trainer.fit()
    trainer.close()
    return int(CountingDataset.reads.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resume_reads_only_what_is_left(write_shards, tmp_path: Path, num_workers: int) -> None:
    shards = write_shards([b"MKV"] * (BATCHES * BATCH_SIZE), size=1 << 14)
    ahead = num_workers * 2  # Batches that a worker may have read when training ends: its prefetch factor.
    for deep in (10, 2000):
        assert train(shards, tmp_path / "saved", num_workers, until=deep) >= deep * BATCH_SIZE
        reads = train(shards, tmp_path / "saved", num_workers, until=deep + LEFT, load=deep)
        assert LEFT * BATCH_SIZE <= reads <= (LEFT + ahead) * BATCH_SIZE
        if num_workers == 0:
            assert reads == LEFT * BATCH_SIZE
