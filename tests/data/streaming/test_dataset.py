"""The streaming dataset: the same crops and masks whatever reads them, and no silent loss."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streaming import MDSWriter
from torch.utils.data import DataLoader

from plm_composer.data.collate import Collator
from plm_composer.data.streaming.checked_stream import ShardError
from plm_composer.data.streaming.dataset import StreamingProteinDataset
from plm_composer.data.streaming.loader import make_data_spec
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


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


DAMAGE = [Path.unlink, _flip, _truncate]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_remote_shard_ends_the_epoch_with_its_name(
    write_shards, tmp_path, damage: Callable[[Path], None], workers: int
) -> None:
    remote = write_shards(_proteins(256))
    shard = sorted((remote / "train").glob("shard*"))[1]
    damage(shard)
    dataset = _dataset(tmp_path / "cache", remote=str(remote), download_retry=1)
    with pytest.raises(ShardError, match=shard.name):
        _epochs(dataset, workers, 1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [_flip, _truncate])
def test_a_damaged_local_shard_ends_the_epoch_with_its_name(
    write_shards, damage: Callable[[Path], None], workers: int
) -> None:
    folder = write_shards(_proteins(256), compression=None)
    shard = sorted((folder / "train").glob("shard*"))[1]
    damage(shard)
    with pytest.raises(ShardError, match=shard.name):
        _epochs(_dataset(folder), workers, 1)
    assert shard.exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_crash_left_damaged_in_the_cache_is_fetched_again(write_shards, tmp_path, workers: int) -> None:
    proteins = _proteins(256)
    remote, cache = write_shards(proteins), tmp_path / "cache"
    first = _dataset(cache, remote=str(remote))
    list(first)
    del first
    raw, *others = sorted((cache / "train").glob("*.mds"))
    _truncate(raw)
    others[0].unlink()
    # Half a download, and half an unpacked shard.
    (cache / "train" / f"{others[0].name}.zstd").write_bytes(b"half")
    (cache / "train" / f"{others[1].name}.tmp").write_bytes(b"half")
    seen = _epochs(_dataset(cache, remote=str(remote)), workers, 1)[0]
    assert {residues for _, _, residues in seen} == set(proteins)


def test_an_unpacked_copy_that_is_damaged_is_unpacked_again(write_shards) -> None:
    proteins = _proteins()
    folder = write_shards(proteins)
    list(_dataset(folder))
    _flip(next((folder / "train").glob("*.mds")))
    assert {protein.residues for protein in _dataset(folder)} == set(proteins)


def test_shards_without_hashes_are_refused_unless_asked_for(write_shards) -> None:
    folder = write_shards(_proteins(), hashes=[])
    with pytest.raises(UserError, match=r"has no xxh64 hashes but none.*data.validate_hash=null"):
        _dataset(folder)
    assert len(list(_dataset(folder, validate_hash=None))) == 64


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
