"""The streaming dataset: the same crops and masks whatever reads them, and no silent loss."""

from pathlib import Path

import numpy as np
import pytest
from streaming import MDSWriter
from torch.utils.data import DataLoader

from plm_composer.data.collate import Collator
from plm_composer.data.dataset import StreamingProteinDataset
from plm_composer.data.loader import make_data_spec
from plm_composer.errors import UserError

LETTERS = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", np.uint8)


def _proteins(count: int = 64, seed: int = 0) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [bytes(random.choice(LETTERS, random.integers(5, 120))) for _ in range(count)]


def _dataset(folder: Path, **arguments: object) -> StreamingProteinDataset:
    settings = {"local": str(folder), "split": "train", "batch_size": 8, "shuffle": True, **arguments}
    return StreamingProteinDataset(Collator(seed=3, crop_length=64), num_canonical_nodes=2, **settings)


def _epochs(dataset: StreamingProteinDataset, workers: int, epochs: int) -> list[list[tuple[int, int, bytes]]]:
    loader = DataLoader(
        dataset, batch_size=8, num_workers=workers, collate_fn=list, persistent_workers=workers > 0, drop_last=True
    )
    return [[tuple(protein) for batch in loader for protein in batch] for _ in range(epochs)]


def test_every_protein_comes_once_an_epoch_and_knows_its_epoch(write_shards) -> None:
    proteins = _proteins()
    dataset = _dataset(write_shards(proteins))
    for epoch, seen in enumerate(_epochs(dataset, 0, 2)):
        assert sorted(protein[0] for protein in seen) == list(range(64))
        assert {protein[1] for protein in seen} == {epoch}
        assert all(residues == proteins[sample_id] for sample_id, _, residues in seen)


def test_workers_change_nothing(write_shards) -> None:
    folder = write_shards(_proteins())
    alone = _epochs(_dataset(folder), 0, 2)
    shared = _epochs(_dataset(folder), 2, 2)
    for one, other in zip(alone, shared, strict=True):
        assert one == other


def test_a_remote_is_read_through_a_cache(write_shards, tmp_path) -> None:
    proteins = _proteins()
    remote = write_shards(proteins)
    dataset = _dataset(tmp_path / "cache", remote=str(remote))
    assert {residues for _, _, residues in _epochs(dataset, 0, 1)[0]} == set(proteins)
    assert (tmp_path / "cache" / "train" / "index.json").exists()


def test_streams_are_weighted(write_shards) -> None:
    many, few = write_shards(_proteins(64, 1), "many"), write_shards(_proteins(64, 2), "few")
    dataset = StreamingProteinDataset(
        Collator(),
        streams={"many": {"local": str(many), "proportion": 0.75}, "few": {"local": str(few), "proportion": 0.25}},
        split="train",
        epoch_size=64,
        batch_size=8,
        shuffle=True,
        num_canonical_nodes=1,
    )
    seen = [protein.sample_id for protein in dataset]
    assert sum(sample_id < 64 for sample_id in seen) == 48
    assert sum(sample_id >= 64 for sample_id in seen) == 16


def test_an_example_is_what_training_sees(write_shards) -> None:
    dataset = _dataset(write_shards(_proteins()))
    batch = dataset.example(5, epoch=1)
    assert batch["input_ids"].tolist() == dataset.collate([dataset[5]._replace(epoch=1)])["input_ids"].tolist()


def test_a_missing_remote_shard_is_loud(write_shards, tmp_path) -> None:
    remote = write_shards(_proteins())
    sorted((remote / "train").glob("shard*"))[1].unlink()
    dataset = _dataset(tmp_path / "cache", remote=str(remote), download_retry=1)
    with pytest.raises(Exception, match="shard"):
        list(dataset)


def test_a_flipped_byte_is_loud(write_shards, tmp_path) -> None:
    remote = write_shards(_proteins())
    shard = sorted((remote / "train").glob("shard*"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    dataset = _dataset(tmp_path / "cache", remote=str(remote), download_retry=1)
    with pytest.raises(Exception, match="shard"):
        list(dataset)


def test_no_dataset_is_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match=r"train/index.json is missing.*convert/fasta.py"):
        _dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match="names no dataset"):
        StreamingProteinDataset(Collator())


def test_another_kind_of_dataset_is_refused(tmp_path) -> None:
    with MDSWriter(out=str(tmp_path / "train"), columns={"text": "str"}, hashes=["xxh64"]) as writer:
        writer.write({"text": "MKV"})
    with pytest.raises(UserError, match=r"columns text but no 'sequence'"):
        _dataset(tmp_path)


def test_a_set_smaller_than_a_batch_is_refused(write_shards) -> None:
    dataset = _dataset(write_shards(_proteins(7)))
    with pytest.raises(UserError, match="no full batch of 8"):
        make_data_spec(dataset)


def test_the_loader_makes_batches(write_shards) -> None:
    spec = make_data_spec(_dataset(write_shards(_proteins())))
    batches = list(spec.dataloader)
    assert len(batches) == 8
    assert {spec.get_num_samples_in_batch(batch) for batch in batches} == {8}
