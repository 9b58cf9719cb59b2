from collections import Counter

import numpy as np
import pytest

from plm_composer.errors import UserError
from plm_composer.shards.cleaning import OUTCOMES, Records, Rules, clean, judge, parse_block
from plm_composer.shards.fasta import FastaBlock


def block_of(*sequences: bytes, split: str = "train") -> FastaBlock:
    return FastaBlock("x.fasta", split, 1, b"".join(b">h\n" + sequence + b"\n" for sequence in sequences))


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        (b"MKV\nLLA\n", b"MKVLLA"),
        (b"MK V\tLL A\n", b"MKVLLA"),
        (b"mkvLLA", b"MKVLLA"),
        (b"MKVLLA*", b"MKVLLA"),
        (b"MKVLLA*-\n*\n", b"MKVLLA"),
        (b"..MK-V~LLA~~", b"MKVLLA"),
        (b"MK*VLLA*", b"MK*VLLA"),
        (b"MJUOBZX", b"MJUOBZX"),
        (b"\n \n", b""),
        (b"*", b""),
    ],
)
def test_clean(raw, cleaned):
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    ("protein", "rules", "outcome"),
    [
        (b"MKV", Rules(), "kept"),
        (b"", Rules(), "empty"),
        (b"M*V", Rules(), "stop_codon_inside"),
        (b"M5V", Rules(), "invalid_character"),
        (b"M\xe9V", Rules(), "invalid_character"),
        (b"M5*", Rules(min_length=9), "invalid_character"),
        (b"MK", Rules(min_length=3), "too_short"),
        (b"MKV", Rules(min_length=3, max_length=3), "kept"),
        (b"MKVL", Rules(max_length=3), "too_long"),
        (b"MXBA", Rules(max_unknown=0.5), "kept"),
        (b"MXBJ", Rules(max_unknown=0.5), "too_many_unknown"),
        (b"MKVX", Rules(max_unknown=0), "too_many_unknown"),
        (b"XXXX", Rules(max_unknown=1), "kept"),
    ],
)
def test_judge(protein, rules, outcome):
    # Neighbours, empty ones too, must not lend a protein their faults.
    outcomes = judge([b"", b"MKVLA", protein, b"", b"XXXX*", b"MKVLA"], rules)
    assert OUTCOMES[outcomes[2]] == outcome


def test_invalid_character_names_file_and_line():
    block = FastaBlock("x.fasta", "train", 11, b">a\nMKV\n\n>b 5\nMK\nV5A\n")
    with pytest.raises(UserError, match=r"x\.fasta, line 16: character '5' in a sequence.*--invalid drop"):
        parse_block(block, Rules(), 0)


def test_invalid_character_can_drop_the_record():
    parsed = parse_block(block_of(b"MKV", b"MK5", b"MA"), Rules(invalid="drop"), 0)
    assert parsed.records["train"].residues == b"MKVMA"
    assert parsed.dropped == Counter(invalid_character=1)


def test_split_depends_on_the_residues_alone():
    rng = np.random.default_rng(0)
    proteins = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 30)).encode() for _ in range(400)]

    def val_set(order, fraction):
        parsed = parse_block(block_of(*order), Rules(), int(fraction * 2**64))
        val = parsed.records["val"]
        assert len(val) + len(parsed.records["train"]) == len(order)
        return {val.residues[30 * i : 30 * i + 30] for i in range(len(val))}

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
    records = Records(b"MKVMALL", np.array([3, 2, 2]), np.array([1, 2, 3], dtype=np.uint64))
    chosen = records.select(np.array([True, False, True]))
    assert (chosen.residues, chosen.lengths.tolist(), chosen.digests.tolist()) == (b"MKVLL", [3, 2], [1, 3])


@pytest.mark.parametrize("wrong", [{"min_length": 0}, {"min_length": 5, "max_length": 4}, {"max_unknown": 1.5}])
def test_impossible_rules(wrong):
    with pytest.raises(UserError, match=r"^--m"):
        Rules(**wrong)
