"""One member of each cluster in an epoch, whatever reads it."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
from scipy import stats
from torch.utils.data import DataLoader

from plm_composer.data.collate import Collator
from plm_composer.data.members import draw_member, first_member
from plm_composer.data.streaming.dataset import StreamingProteinDataset
from plm_composer.data.streaming.reading import read_split

CLUSTERS = [[b"MKV" + b"A" * (9 * cluster + member) for member in range(1 + cluster % 5)] for cluster in range(48)]
RECORDS = [b"\n".join(cluster) for cluster in CLUSTERS]


def test_a_single_protein_is_itself():
    assert draw_member(b"MKV", 0, 3, 5) == first_member(b"MKV") == b"MKV"


def test_the_first_is_the_representative():
    assert first_member(b"MKV\nMA\nMC") == b"MKV"


def test_each_member_has_the_same_chance():
    record = b"MK\nMV\nMA"
    draws = [draw_member(record, seed, epoch, 7 * seed) for seed in range(30) for epoch in range(100)]
    assert stats.chisquare(list(Counter(draws).values())).pvalue > 0.01
    assert set(draws) == {b"MK", b"MV", b"MA"}
    after = Counter(itertools.pairwise(draws))
    table = [[after[first, second] for second in set(draws)] for first in set(draws)]
    assert stats.chi2_contingency(table).pvalue > 0.01


def _epochs(folder: Path, workers: int, skip: int = 0) -> list[list[tuple[int, int, bytes]]]:
    dataset = StreamingProteinDataset(
        Collator(seed=3), local=str(folder), split="train", batch_size=4, shuffle=True, num_canonical_nodes=2
    )
    if skip:
        dataset.load_state_dict({**dataset.state_dict(skip, True), "epoch": 0})
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=list, persistent_workers=workers > 0)
    return [[tuple(protein) for batch in loader for protein in batch] for _ in range(2)]


def test_the_same_members_for_any_number_of_workers_and_after_a_resume(write_shards):
    folder = write_shards(RECORDS, size=1 << 11)
    alone, shared, resumed = _epochs(folder, 0), _epochs(folder, 2), _epochs(folder, 2, skip=24)
    assert alone == shared
    assert resumed == [alone[0][24:], alone[1]]
    drawn = [[residues for _, _, residues in sorted(epoch)] for epoch in alone]
    for epoch, members in enumerate(drawn):
        for sample_id, residues in enumerate(members):
            assert residues in CLUSTERS[sample_id]
            assert residues == draw_member(RECORDS[sample_id], 3, epoch, sample_id)
    assert np.mean([one != other for one, other in zip(*drawn, strict=True)]) > 0.3


def test_an_example_draws_the_member_of_its_epoch(write_shards):
    folder = write_shards([b"MKV\nMKVV\nMKVVV\nM"] * 8)
    dataset = StreamingProteinDataset(Collator(seed=1), local=str(folder), split="train", batch_size=8)
    lengths = [len(dataset.example(2, epoch)["input_ids"].flatten()) - 2 for epoch in range(12)]
    assert lengths == [len(draw_member(b"MKV\nMKVV\nMKVVV\nM", 1, epoch, 2)) for epoch in range(12)]
    assert len(set(lengths)) > 1


def test_evaluation_reads_representatives(write_shards):
    assert read_split([{"local": str(write_shards(RECORDS))}], "train") == [cluster[0] for cluster in CLUSTERS]
