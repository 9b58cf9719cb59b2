"""Reading a split whole."""

from pathlib import Path

import pytest

from plm_composer.data.streaming.reading import read_split
from plm_composer.errors import UserError

PROTEINS = [b"MKV" * (index + 1) for index in range(60)]


def test_a_split_is_read_in_order(write_shards) -> None:
    folder = write_shards(PROTEINS, size=1 << 10)
    assert len(list((folder / "train").glob("shard*"))) > 1
    assert read_split([{"local": str(folder)}], "train") == PROTEINS
    assert read_split([{"local": str(folder / "train")}], None, limit=7) == PROTEINS[:7]


def test_a_remote_and_several_datasets(write_shards, tmp_path: Path) -> None:
    first, second = write_shards(PROTEINS, "first"), write_shards(PROTEINS[:3], "second")
    places = [{"remote": str(first), "local": str(tmp_path / "cache")}, {"local": str(second)}]
    assert read_split(places, "train") == PROTEINS + PROTEINS[:3]


def test_a_missing_or_damaged_shard_is_one_line(write_shards, tmp_path: Path) -> None:
    folder = write_shards(PROTEINS)
    cache = {"remote": str(folder), "local": str(tmp_path / "cache"), "validate_hash": "xxh64"}
    shard = next(iter((folder / "train").glob("shard*")))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"^shard .*shards/train/shard\.\d+\.mds\.zstd: the stored shard is not"):
        read_split([cache], "train")
    with pytest.raises(UserError, match=r"cannot read the dataset .*/none"):
        read_split([{"local": str(folder)}], "none")
