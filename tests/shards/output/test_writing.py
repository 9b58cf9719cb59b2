import json

import numpy as np
import pytest

from plm_composer.files.mds import encode_samples
from plm_composer.shards.inputs.cleaning import cut as cut_run
from plm_composer.shards.inputs.records import Records
from plm_composer.shards.output.manifest import LENGTH_BINS
from plm_composer.shards.output.writing import Shard, ShardCutter, write_shard


def records_of(proteins: list[bytes]) -> Records:
    lengths = np.array([len(protein) for protein in proteins], dtype=np.int64)
    return Records(encode_samples(proteins, lengths), lengths, np.zeros(len(proteins), dtype=np.uint64))


def cut(portions: list[list[bytes]], size_limit: int) -> list[list[bytes]]:
    cutter = ShardCutter("train", size_limit)
    shards = [shard for portion in portions for shard in cutter.add(records_of(portion))] + list(cutter.finish())
    assert [shard.number for shard in shards] == list(range(len(shards)))
    proteins = []
    for shard in shards:
        samples = cut_run(b"".join(shard.samples), shard.lengths + 4)
        assert [int.from_bytes(sample[:4], "little") for sample in samples] == shard.lengths.tolist()
        proteins.append([sample[4:] for sample in samples])
    return proteins


@pytest.mark.parametrize("size_limit", [1, 40, 100, 1000, 10**6])
def test_portions_do_not_move_shard_bounds(size_limit):
    rng = np.random.default_rng(0)
    proteins = [bytes(rng.integers(65, 91, rng.integers(1, 60)).tolist()) for _ in range(200)]
    whole = cut([proteins], size_limit)
    assert [protein for shard in whole for protein in shard] == proteins
    for step in (1, 7, 150):
        assert cut([proteins[i : i + step] for i in range(0, 200, step)] + [[]], size_limit) == whole


def test_shards_are_as_full_as_they_may_be():
    shards = cut([[b"A" * 12] * 10 + [b"A" * 500] + [b"A" * 2] * 3], 60)
    assert [len(shard) for shard in shards] == [3, 3, 3, 1, 1, 3]
    assert cut([[]], 60) == []


@pytest.mark.parametrize("compression", ["zstd:3", None])
def test_a_shard_reads_back(tmp_path, read_split, compression):
    (tmp_path / "val").mkdir()
    proteins = [b"MKVLLA", b"A", b"MX" * 40]
    parts = [records_of(proteins[:2]).samples, records_of(proteins[2:]).samples]
    shards = [Shard("val", number, parts, np.array([6, 1, 80])) for number in range(2)]
    summaries = [write_shard(shard, tmp_path, compression) for shard in shards]
    suffix = ".zstd" if compression else ""
    assert sorted(path.name for path in (tmp_path / "val").iterdir()) == [
        f"shard.00000.mds{suffix}",
        f"shard.00001.mds{suffix}",
    ]
    index = {"version": 2, "shards": [summary.entry for summary in summaries]}
    (tmp_path / "val" / "index.json").write_text(json.dumps(index))
    assert read_split(tmp_path / "val") == proteins * 2

    summary = summaries[1]
    assert (summary.residues, summary.min_length, summary.max_length) == (87, 1, 80)
    assert {LENGTH_BINS[i]: count for i, count in enumerate(summary.length_counts) if count} == {1: 2, 64: 1}
    assert {chr(65 + i): count for i, count in enumerate(summary.letter_counts) if count} == {
        "A": 2, "K": 1, "L": 2, "M": 41, "V": 1, "X": 40,
    }  # fmt: skip
