import itertools

import numpy as np
import pytest
import xxhash

from plm_composer.errors import UserError
from plm_composer.files.mds import encode_samples
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.inputs.cleaning import cut
from plm_composer.shards.inputs.clusters import Membership
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.shards.inputs.records import Records
from plm_composer.shards.output import gathering
from plm_composer.shards.output.gathering import gather
from plm_composer.shards.output.manifest import read_manifest
from plm_composer.shards.output.settings import Settings


def portion(proteins: list[tuple[int, bool, bytes]]) -> Records:
    residues = [protein for _, _, protein in proteins]
    lengths = np.array([len(protein) for protein in residues], dtype=np.int64)
    keys = np.array([key for key, _, _ in proteins], dtype=np.uint64)
    leads = np.array([lead for _, lead, _ in proteins], dtype=bool)
    membership = Membership(keys, leads, np.ones(len(proteins), dtype=bool))
    return Records(encode_samples(residues, lengths), lengths, keys, membership)


def records_of(portions) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {"train": [], "val": []}
    for split, records in portions:
        found[split] += [sample[4:] for sample in cut(records.samples, records.lengths + 4)]
    return found


@pytest.mark.parametrize("buffer_bytes", [1, 500, 10**6])
@pytest.mark.parametrize("step", [1, 7, 300])
def test_members_come_together_whatever_the_buffer(tmp_path, buffer_bytes, step):
    random = np.random.default_rng(0)
    keys = [int(key) for key in random.integers(0, 2**64, 40, dtype=np.uint64)]
    proteins = [(keys[i % 40], i // 40 == i % 4, b"MKV" + b"A" * int(random.integers(0, 30))) for i in range(300)]
    portions = [("train" if i % 2 else "val", portion(proteins[i : i + step])) for i in range(0, 300, step)]
    found = records_of(gather(portions, tmp_path / "scratch", buffer_bytes))
    assert list(tmp_path.iterdir()) == []

    for split in found:
        mine = [
            p for i in range(0, 300, step) if ("train" if i % 2 else "val") == split for p in proteins[i : i + step]
        ]
        expected = []
        for key in sorted(set(keys)):
            members = [protein for protein in mine if protein[0] == key]
            ordered = [p for p in members if p[1]] + [p for p in members if not p[1]]
            if ordered:
                expected.append(b"\n".join(residues for _, _, residues in ordered))
        assert found[split] == expected


def test_a_cluster_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "MAX_CLUSTER_BYTES", 1 << 20)
    proteins = [(5, False, b"M" * 2**18)] * 5
    with pytest.raises(UserError, match=r"a cluster of 5 proteins has 1,310,724 residues, more than 1 MiB"):
        records_of(gather([("train", portion(proteins))], tmp_path / "scratch"))


def test_real_clusters(shared_data, tmp_path, read_split, monkeypatch):
    families = shared_data / "families"
    inputs = [families / "train.fasta.gz", families / "val.fasta.gz"]
    cluster_of = dict(line.split("\t")[::-1] for line in (families / "clusters.tsv").read_text().splitlines())
    options = {"val_fraction": 0.1, "clusters": families / "clusters.tsv", "progress": False}
    settings = Settings(shard_size=0.25)
    manifests = {}
    for processes, buffer_bytes in ((1, 1 << 30), (2, 1 << 20)):
        monkeypatch.setattr(gathering, "BUFFER_BYTES", buffer_bytes)
        out = tmp_path / str(processes)
        manifest = convert_fasta(
            inputs, out, settings=settings, processes=processes, cluster_members="together", **options
        )
        assert read_manifest(out) == manifest
        assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "train", "val"]
        manifests[processes] = manifest
    assert manifests[1] == manifests[2]
    assert manifest.clusters.members == "together"

    apart = convert_fasta(inputs, tmp_path / "apart", settings=settings, **options)
    expected: dict[str, list[bytes]] = {}
    representatives = {}
    for header, protein in itertools.chain.from_iterable(map(read_fasta, inputs)):
        name = header.split()[0]
        name = name.split("|")[1] if "|" in name else name
        expected.setdefault(cluster_of[name], []).append(protein)
        if cluster_of[name] == name:
            representatives.setdefault(name, protein)
    for split, summary in manifest.splits.items():
        found = read_split(out / split)
        assert len(found) == summary.clusters < summary.proteins
        threshold = int(0.1 * 2**64)
        wanted = sorted(
            (key, name)
            for name in expected
            if ((key := xxhash.xxh3_64_intdigest(name.encode())) < threshold) == (split == "val")
        )
        assert [sorted(record.split(b"\n")) for record in found] == [sorted(expected[name]) for _, name in wanted]
        assert [record.split(b"\n")[0] for record in found] == [representatives[name] for _, name in wanted]
        # The statistics are those of the same proteins in records of their own.
        for field in ("proteins", "residues", "min_length", "mean_length", "max_length", "length_histogram"):
            assert getattr(summary, field) == getattr(apart.splits[split], field)
        assert summary.composition == apart.splits[split].composition


def test_a_validation_set_of_its_own(tmp_path, read_split):
    (tmp_path / "train.fasta").write_text(">a\nMK\n>x\nML\n>b\nMV\n")
    (tmp_path / "val.fasta").write_text(">c\nMC\n>a\nMK\n")
    (tmp_path / "clusters.tsv").write_text("b\ta\nb\tb\nb\tc\n")
    manifest = convert_fasta(
        [tmp_path / "train.fasta"],
        tmp_path / "out",
        val_inputs=[tmp_path / "val.fasta"],
        clusters=tmp_path / "clusters.tsv",
        cluster_members="together",
        unlisted="alone",
        progress=False,
    )
    assert manifest.dropped == {"in_validation": 1}
    assert sorted(read_split(tmp_path / "out" / "train")) == [b"ML", b"MV"]
    assert read_split(tmp_path / "out" / "val") == [b"MC\nMK"]
