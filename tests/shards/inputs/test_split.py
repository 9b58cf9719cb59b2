"""Which proteins go to validation, by the hash of their residues or of their cluster."""

import numpy as np
import numpy.typing as npt
import xxhash

from plm_composer.shards.inputs.cleaning import Rules, cut
from plm_composer.shards.inputs.clusters import Membership
from plm_composer.shards.inputs.fasta import FastaBlock
from plm_composer.shards.inputs.records import Records, parse_block
from plm_composer.shards.inputs.split import TRAIN, VAL, validation_mask


def block_of(*sequences: bytes, split: str = TRAIN) -> FastaBlock:
    return FastaBlock("x.fasta", split, 1, b"".join(b">h\n" + sequence + b"\n" for sequence in sequences))


def proteins_of(records: Records) -> list[bytes]:
    return [sample[4:] for sample in cut(records.samples, records.lengths + 4)]


def test_split_depends_on_the_residues_alone():
    rng = np.random.default_rng(0)
    proteins = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 30)).encode() for _ in range(400)]

    def val_set(order, fraction):
        parsed = parse_block(block_of(*order), Rules(), fraction)
        val = parsed.records[VAL]
        assert len(val) + len(parsed.records[TRAIN]) == len(order)
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
    assert parsed.records[TRAIN].digests.tolist() == [190265394891095647]


def test_validation_source_is_not_split():
    parsed = parse_block(block_of(b"MKV", b"MA", split=VAL), Rules(), 0.5)
    assert list(parsed.records) == [VAL]
    assert parsed.records[VAL].lengths.tolist() == [3, 2]


def hashes(*names: str) -> npt.NDArray[np.uint64]:
    return np.array([xxhash.xxh3_64_intdigest(name) for name in names], dtype=np.uint64)


def test_the_threshold_is_the_fraction_of_all_hashes():
    digests = np.array([0, 2**62 - 1, 2**62, 2**64 - 1], dtype=np.uint64)
    mask = validation_mask(TRAIN, digests, None, 0.25)
    assert mask is not None
    assert mask.tolist() == [True, True, False, False]
    assert validation_mask(TRAIN, digests, None, 0) is None


def test_a_cluster_goes_to_one_side_as_a_whole():
    digests = hashes(*map(str, range(200)))
    keys = np.repeat(hashes(*map(str, range(50))), 4)
    membership = Membership(keys, np.zeros(200, dtype=bool), np.ones(200, dtype=bool))
    mask = validation_mask(TRAIN, digests, membership, 0.5)
    assert mask is not None
    sides = mask.reshape(50, 4)
    assert (sides == sides[:, :1]).all()
    assert 0 < sides[:, 0].sum() < 50
