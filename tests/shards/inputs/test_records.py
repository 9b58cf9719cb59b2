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


def test_split_depends_on_the_residues_alone():
    rng = np.random.default_rng(0)
    proteins = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 30)).encode() for _ in range(400)]

    def val_set(order, fraction):
        parsed = parse_block(block_of(*order), Rules(), int(fraction * 2**64))
        val = parsed.records["val"]
        assert len(val) + len(parsed.records["train"]) == len(order)
        return set(proteins_of(val))

    chosen = val_set(proteins, 0.1)
    assert 20 <= len(chosen) <= 60
    assert val_set(proteins[::-1], 0.1) == chosen
    assert val_set(proteins[:200], 0.1) == chosen & set(proteins[:200])
    assert val_set([protein.lower() + b"*" for protein in proteins], 0.1) == chosen
    assert chosen < val_set(proteins, 0.2)


def test_split_is_pinned():
    # A change of hash would move proteins from training to validation in data sets that people already use.
    parsed = parse_block(block_of(b"MKVLLA"), Rules(), 0)
    assert parsed.records["train"].digests.tolist() == [190265394891095647]


def test_validation_source_is_not_split():
    parsed = parse_block(block_of(b"MKV", b"MA", split="val"), Rules(), 2**63)
    assert list(parsed.records) == ["val"]
    assert parsed.records["val"].lengths.tolist() == [3, 2]


def test_select():
    records = parse_block(block_of(b"MKV", b"MA", b"LL"), Rules(), 0).records["train"]
    chosen = records.select(np.array([True, False, True]))
    assert proteins_of(chosen) == [b"MKV", b"LL"]
    assert chosen.lengths.tolist() == [3, 2]
    assert chosen.digests.tolist() == [xxhash.xxh3_64_intdigest(protein) for protein in (b"MKV", b"LL")]
    assert records.select(np.zeros(3, dtype=bool)).samples == b""
