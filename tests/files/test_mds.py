"""The shards are those that MDSWriter writes. A release of streaming that changes the format fails here."""

import json

import numpy as np
import pytest
from streaming import MDSWriter

from plm_composer.files.mds import COLUMNS, HASHES, compress, encode_samples, encode_shard, index_entry


def proteins_of_lengths(lengths):
    rng = np.random.default_rng(0)
    return [rng.choice(np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8), length).tobytes() for length in lengths]


@pytest.mark.parametrize("compression", ["zstd:3", "zstd:1", "zstd:19", None])
@pytest.mark.parametrize(
    "lengths",
    [[1], [7, 0, 70_000, 1], np.random.default_rng(1).integers(1, 600, 5000)],
    ids=["one sample", "odd lengths", "many"],
)
def test_like_mds_writer(tmp_path, compression, lengths):
    check_like_mds_writer(tmp_path, compression, proteins_of_lengths(lengths))


def test_like_mds_writer_beyond_what_zstd_does_in_one_job(tmp_path):
    check_like_mds_writer(tmp_path, "zstd:3", proteins_of_lengths([400_000] * 50))


def check_like_mds_writer(tmp_path, compression, proteins):
    numbers = range(2)
    with MDSWriter(
        out=str(tmp_path), columns=COLUMNS, compression=compression, hashes=HASHES, size_limit=None
    ) as writer:
        for _ in numbers:
            for protein in proteins:
                writer.write({"sequence": protein})
            writer.flush_shard()
            writer._reset_cache()
    expected = json.loads((tmp_path / "index.json").read_text())["shards"]

    lengths = np.array([len(protein) for protein in proteins])
    half = len(proteins) // 2
    runs = [
        encode_samples(part, lengths[at : at + len(part)])
        for at, part in [(0, proteins[:half]), (half, proteins[half:])]
    ]
    data = encode_shard(runs, lengths, compression)
    stored = compress(data, compression)
    assert [index_entry(number, len(proteins), data, stored, compression) for number in numbers] == expected
    for entry in expected:
        assert (tmp_path / (entry["zip_data"] or entry["raw_data"])["basename"]).read_bytes() == stored
