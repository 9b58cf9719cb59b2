import gzip
import itertools
import re

import numpy as np
import pytest
import xxhash

from plm_composer.errors import UserError
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.inputs.clusters import ClusterTable
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.shards.output.manifest import read_manifest


def hash_of(name: bytes) -> int:
    return xxhash.xxh3_64_intdigest(name)


def lookup(table: ClusterTable, *ids: bytes) -> tuple[list[int], list[bool], list[int]]:
    digests = np.arange(len(ids), dtype=np.uint64)
    found = table.membership(ids, digests)
    return found.keys.tolist(), found.leads.tolist(), np.flatnonzero(~found.listed).tolist()


@pytest.fixture
def write(tmp_path):
    def write_file(content: bytes, name: str = "clusters.tsv"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_file


@pytest.mark.parametrize("content", [b"A\tA\nA\tB\nC\tC\nC\tD\n", b"C\tD\r\nA\tB\r\nA\tA\r\nC\tC"])
@pytest.mark.parametrize("packed", [False, True])
def test_looks_members_up(write, content, packed):
    table = ClusterTable(write(gzip.compress(content), "c.tsv.gz") if packed else write(content))
    keys, leads, unlisted = lookup(table, b"D", b"A", b"B", b"E")
    assert keys == [hash_of(b"C"), hash_of(b"A"), hash_of(b"A"), 3]
    assert leads == [False, True, False, True]
    assert unlisted == [3]


def test_names_of_headers(write):
    table = ClusterTable(write(b"P1\tP1\nP1\tQ2\nsp|X|Y\tsp|X|Y\n"))
    keys, leads, unlisted = lookup(table, b"sp|P1|HBA_HUMAN", b"tr|Q2", b"sp|X|Y", b"sp|Z|P1", b"")
    assert keys == [hash_of(b"P1"), hash_of(b"P1"), hash_of(b"sp|X|Y"), 3, 4]
    assert leads == [True, False, True, True, True]
    assert unlisted == [3, 4]


def test_a_line_may_be_repeated_and_a_cluster_may_have_a_name_of_its_own(write):
    table = ClusterTable(write(b"UniRef50_A\tA\nUniRef50_A\tA\n"))
    assert lookup(table, b"A") == ([hash_of(b"UniRef50_A")], [False], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty, without a single cluster"),
        (b"A\tA\nA B\n", r"line 2: 'A B': expected a representative, a tab and a member"),
        (b"A\tA\nA\tB\tC\nD\n", r"line 2: 'A\\tB\\tC': expected"),
        (b"A\tA\n\nA\tB\n", r"line 2: '': expected"),
        (b"A\tA\nA\t", r"line 2: 'A\\t': expected"),
        (b"A\tA\nC\tC\nA\tB\nC\tB\n", r"line 4: 'B' is in the cluster of 'C', but in line 3 in that of 'A'"),
        (b"A\tA\nB\tA\n", r"line 2: 'A' is in the cluster of 'B', but in line 1 in that of 'A'"),
        (b"A\tA\nA\tB\nB\tC\n", r"line 3: 'B' is in the cluster of 'B', but in line 2 in that of 'A'"),
    ],
)
def test_errors_name_the_line(write, content, message):
    with pytest.raises(UserError, match=rf"clusters\.tsv.*{message}") as caught:
        ClusterTable(write(content))
    assert "\n" not in str(caught.value)


def test_unreadable(write, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        ClusterTable(tmp_path / "none.tsv")
    with pytest.raises(UserError, match="cut short"):
        ClusterTable(write(gzip.compress(b"A\tA\n" * 9)[:-9], "c.tsv.gz"))


def test_line_numbers_beyond_a_block(write):
    lines = [b"cluster\tmember%d\n" % i for i in range(60_000)]
    lines[50_000] = b"cluster member\n"
    with pytest.raises(UserError, match=r"line 50001: 'cluster member'"):
        ClusterTable(write(b"".join(lines)))


def names_by_sequence(*paths) -> dict[bytes, list[str]]:
    names: dict[bytes, list[str]] = {}
    for header, protein in itertools.chain.from_iterable(map(read_fasta, paths)):
        name = header.split()[0]
        names.setdefault(protein, []).append(name.split("|")[1] if "|" in name else name)
    return names


def test_clusters_stay_whole(shared_data, tmp_path, read_split):
    families = shared_data / "families"
    inputs = [families / "train.fasta.gz", families / "val.fasta.gz"]
    rows = (line.split("\t") for line in (families / "clusters.tsv").read_text().splitlines())
    cluster_of = {member: representative for representative, member in rows}
    manifest = convert_fasta(
        inputs, tmp_path / "out", val_fraction=0.2, clusters=families / "clusters.tsv", progress=False
    )
    assert manifest.clusters.pairs == len((families / "clusters.tsv").read_text().splitlines())
    assert read_manifest(tmp_path / "out") == manifest

    names = names_by_sequence(*inputs)
    clusters = {}
    for split in ("train", "val"):
        proteins = read_split(tmp_path / "out" / split)
        clusters[split] = {cluster_of[name] for protein in proteins for name in names[protein]}
    assert not clusters["train"] & clusters["val"]
    assert clusters["val"] == {name for name in set(cluster_of.values()) if hash_of(name.encode()) < 0.2 * 2**64}
    assert sum(split.proteins for split in manifest.splits.values()) == sum(map(len, names.values()))


FASTA = b"".join(b">p%d text\n%s\n" % (i, b"MKVLLAGGWC"[: 1 + i % 9] + b"ACDEFGHIKL"[i % 10 :]) for i in range(200))
TSV = b"".join(b"p%d\tp%d\n" % (i // 4 * 4, i) for i in range(200))


def test_order_of_the_list_is_no_matter(write, tmp_path):
    digests = []
    for name, lines in (("a", TSV.splitlines(True)), ("b", TSV.splitlines(True)[::-1])):
        table = write(b"".join(lines), f"{name}.tsv")
        manifest = convert_fasta(
            [write(FASTA, "x.fasta")], tmp_path / name, val_fraction=0.2, clusters=table, progress=False
        )
        digests.append(manifest.digest)
    assert digests[0] == digests[1]


def test_proteins_that_are_not_listed(write, tmp_path):
    fasta, table = write(FASTA, "x.fasta"), write(TSV.replace(b"\tp7\n", b"\tq7\n"))
    options = {"val_fraction": 0.2, "clusters": table, "progress": False}
    with pytest.raises(UserError, match=r"x\.fasta, line 15: 'p7' is in no cluster of .*--unlisted alone"):
        convert_fasta([fasta], tmp_path / "out", **options)
    manifest = convert_fasta([fasta], tmp_path / "out", unlisted="alone", **options)
    assert sum(split.proteins for split in manifest.splits.values()) == 200
    assert (manifest.clusters.pairs, manifest.clusters.unlisted) == (200, "alone")


def test_a_dropped_protein_needs_no_cluster(write, tmp_path):
    fasta = write(b">p0\nMKV\n>nobody\n\n>p1\nMKA\n", "x.fasta")
    manifest = convert_fasta([fasta], tmp_path / "out", val_fraction=0, clusters=write(TSV), progress=False)
    assert manifest.dropped == {"empty": 1}


def test_options_that_would_do_nothing_are_refused(write, tmp_path):
    fasta = write(FASTA, "x.fasta")
    with pytest.raises(UserError, match="--unlisted: there are no clusters"):
        convert_fasta([fasta], tmp_path / "out", unlisted="alone")
    with pytest.raises(UserError, match="--cluster-members: there are no clusters"):
        convert_fasta([fasta], tmp_path / "out", cluster_members="together")
    with pytest.raises(UserError, match=re.escape("--val and --clusters: the validation set is given")):
        convert_fasta([fasta], tmp_path / "out", val_inputs=[fasta], clusters=write(TSV))
