from collections import Counter

import numpy as np
import pytest
import xxhash

from plm_composer.errors import UserError
from plm_composer.shards.inputs.cleaning import Rules, cut
from plm_composer.shards.inputs.fasta import FastaBlock
from plm_composer.shards.inputs.records import Records, parse_block


def block_of(*sequences: bytes, split: str = "train") -> FastaBlock:
    return FastaBlock("x.fasta", split, 1, b"".join(b">h\n" + sequence + b"\n" for sequence in sequences))


def proteins_of(records: Records) -> list[bytes]:
    return [sample[4:] for sample in cut(records.samples, records.lengths + 4)]


def test_invalid_character_names_file_and_line():
    block = FastaBlock("x.fasta", "train", 11, b">a\nMKV\n\n>b 5\nMK\nV5A\n")
    with pytest.raises(UserError, match=r"x\.fasta, line 16: character '5' in a sequence.*--invalid drop"):
        parse_block(block, Rules(), 0)


def test_invalid_character_can_drop_the_record():
    parsed = parse_block(block_of(b"MKV", b"MK5", b"MA"), Rules(invalid="drop"), 0)
    assert proteins_of(parsed.records["train"]) == [b"MKV", b"MA"]
    assert parsed.dropped == Counter(invalid_character=1)


def test_select():
    records = parse_block(block_of(b"MKV", b"MA", b"LL"), Rules(), 0).records["train"]
    chosen = records.select(np.array([True, False, True]))
    assert proteins_of(chosen) == [b"MKV", b"LL"]
    assert chosen.lengths.tolist() == [3, 2]
    assert chosen.digests.tolist() == [xxhash.xxh3_64_intdigest(protein) for protein in (b"MKV", b"LL")]
    assert records.select(np.zeros(3, dtype=bool)).samples == b""
