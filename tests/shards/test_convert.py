import gzip
import json
import resource
from collections import Counter
from pathlib import Path

import pytest

from plm_composer.errors import UserError
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.inputs.cleaning import Rules
from plm_composer.shards.inputs.fasta import FastaSource, read_fasta
from plm_composer.shards.output.manifest import read_manifest
from plm_composer.shards.output.settings import Settings
from plm_composer.shards.pipeline import run


@pytest.fixture
def fasta(tmp_path):
    def write(text: str | bytes, name: str = "x.fasta") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def convert(inputs, out, **options):
    return convert_fasta(inputs, out, **{"val_fraction": 0, "processes": 1, "progress": False, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


LEFT_OUT = "no proteins are left to train on"
MESSY = {
    # name: (proteins, dropped), or the error
    "Isoform.fasta.gz": (10, {}),
    "ambigprot.fasta": rf"{LEFT_OUT} \(dropped: 1 stop_codon_inside\)",
    "bad4.fasta": ([b"PEPTIDE"], {"empty": 1}),
    "blank_lines.fasta": ([b"MKVLLA", b"MA"], {}),
    "bom.fasta": ([b"MKVLLA", b"MA"], {}),
    "cr_only.fasta": ([b"MKVLLA", b"MA"], {}),
    "crlf.fasta": ([b"MKVLLA", b"MA"], {}),
    "duplicate_ids.fasta": ([b"MLPQTPDIIPTTLNQQKCVKARALYDNIAEAPDELAFRKGD"] * 2, {}),
    "empty_file.fasta": r"empty_file\.fasta: empty",
    "empty_record.fasta": ([b"MKVLLA", b"MA"], {"empty": 1}),
    "flowers.pro.gz": (3, {}),
    "latin1_header.fasta": ([b"MKVLLA", b"MA"], {}),
    "lower_star_gap.fasta": ([b"MKVLA", b"MA"], {}),
    "protgap.fasta": rf"{LEFT_OUT} \(dropped: 1 stop_codon_inside\)",
    "sample.fasta": (1, {"empty": 1}),
    "spaces_in_seq.fasta": ([b"MKVLLA", b"MA"], {}),
    "truncated.fasta.gz": r"truncated\.fasta\.gz: is cut short.*\(the last line that could be read is 11617\)",
}


def test_every_messy_file_has_its_rule(shared_data):
    assert {path.name for path in (shared_data / "messy_fasta").iterdir()} == set(MESSY)


@pytest.mark.parametrize("name", MESSY)
def test_messy_files(shared_data, tmp_path, read_split, name):
    path, out = shared_data / "messy_fasta" / name, tmp_path / "out"
    if isinstance(MESSY[name], str):
        with pytest.raises(UserError, match=MESSY[name]):
            convert([path], out)
        assert list(tmp_path.iterdir()) == []
        return
    proteins, dropped = MESSY[name]
    manifest = convert([path], out)
    found = read_split(out / "train")
    assert found == proteins or len(found) == proteins
    assert manifest.splits["train"].proteins == len(found)
    assert manifest.dropped == dropped


def test_same_bytes_for_any_number_of_processes_and_any_block_size(shared_data, tmp_path, read_split):
    path = shared_data / "proteins" / "val.fasta.gz"
    outputs = {}
    for processes, block_bytes in [(1, 8 << 20), (1, 5000), (2, 20_000), (3, 100_000)]:
        out = tmp_path / f"{processes}-{block_bytes}"
        run(
            [FastaSource(path, block_bytes=block_bytes)],
            out,
            settings=Settings(val_fraction=0.05, shard_size=0.25, deduplicate=True),
            processes=processes,
            progress=False,
        )
        outputs[out] = contents(out)
    first, *others = outputs.values()
    assert len(first) > 10
    assert all(other == first for other in others)

    expected = [protein for _, protein in read_fasta(path, rules=Rules(), dropped=Counter())]
    train, val = read_split(out / "train"), read_split(out / "val")
    assert 150 < len(val) < 400
    in_val = set(val)
    assert train == [protein for protein in expected if protein not in in_val]
    assert val == [protein for protein in expected if protein in in_val]


def test_manifest(fasta, tmp_path):
    path = fasta(">a\nMKVLLAXX\n>b\nMA\n>c\n\n>d\nM*A\n>e\nma\n>f\n" + "X" * 40 + "\n")
    val = fasta(gzip.compress(b">v\nMKK\n>w\nMKK\n"), "v.fasta.gz")
    settings = Settings(rules=Rules(max_unknown=0.3), deduplicate=True, compression="none")
    manifest = convert([path], tmp_path / "out", val_fraction=None, val_inputs=[val], settings=settings)
    assert read_manifest(tmp_path / "out") == manifest
    assert manifest.dropped == {"duplicate": 2, "empty": 1, "stop_codon_inside": 1, "too_many_unknown": 1}
    assert [(source.name, source.split, source.bytes) for source in manifest.sources] == [
        ("v.fasta.gz", "val", val.stat().st_size),
        ("x.fasta", "train", path.stat().st_size),
    ]
    assert manifest.settings == {
        "min_length": 1, "max_length": None, "max_unknown": 0.3, "invalid": "error", "val_fraction": 0.0,
        "deduplicate": True, "compression": "none", "shard_size": 32, "hashes": ["xxh64"],
    }  # fmt: skip
    train = manifest.splits["train"]
    assert (train.proteins, train.residues, train.shards) == (2, 10, 1)
    assert (train.min_length, train.mean_length, train.max_length) == (2, 5.0, 8)
    assert train.bytes == (tmp_path / "out" / "train" / "shard.00000.mds").stat().st_size
    assert train.composition == {"A": 2, "K": 1, "L": 2, "M": 2, "V": 1, "X": 2}
    assert train.length_histogram[0] == {"from": 1, "to": 31, "proteins": 2}
    assert sum(row["proteins"] for row in train.length_histogram) == 2
    assert manifest.splits["val"].proteins == 1
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["tool"].startswith("plm-composer ")


def test_digest_follows_the_proteins(fasta, tmp_path):
    digests = [
        convert([fasta(text)], tmp_path / str(i)).digest
        for i, text in enumerate([">a\nMKV\n>b\nMA\n", ">other header\nmk\nv*\n>b\nMA\n", ">a\nMKV\n>b\nMG\n"])
    ]
    assert digests[0] == digests[1] != digests[2]


def test_several_inputs_in_order(fasta, tmp_path, read_split):
    inputs = [fasta(">a\nMKV", "one.fasta"), fasta(gzip.compress(b">b\nMA\n"), "two.fasta.gz"), fasta(">c\nMC\n")]
    convert(inputs, tmp_path / "out")
    assert read_split(tmp_path / "out" / "train") == [b"MKV", b"MA", b"MC"]


def test_a_validation_protein_is_never_trained_on(fasta, tmp_path, read_split):
    train, val = fasta(">a\nMKV\n>b\nMA\n>c\nmkv*\n"), fasta(">v\nMKV\n", "val.fasta")
    manifest = convert([train], tmp_path / "out", val_fraction=None, val_inputs=[val])
    assert read_split(tmp_path / "out" / "train") == [b"MA"]
    assert read_split(tmp_path / "out" / "val") == [b"MKV"]
    assert manifest.dropped == {"in_validation": 2}


def test_duplicates_are_kept_unless_asked(fasta, tmp_path, read_split):
    path = fasta(">a\nMKV\n>b\nMA\n>c\nMKV\n")
    convert([path], tmp_path / "kept")
    assert read_split(tmp_path / "kept" / "train") == [b"MKV", b"MA", b"MKV"]
    manifest = convert([path], tmp_path / "dropped", settings=Settings(deduplicate=True))
    assert read_split(tmp_path / "dropped" / "train") == [b"MKV", b"MA"]
    assert manifest.dropped == {"duplicate": 1}


def test_no_validation_folder_without_validation(fasta, tmp_path):
    convert([fasta(">a\nMKV\n")], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "train"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": None}, r"none of the 2 proteins falls into validation; raise --val-fraction \(now 0\.001\)"),
        ({"settings": Settings(rules=Rules(min_length=9))}, rf"{LEFT_OUT} \(dropped: 2 too_short\)"),
        ({"val_fraction": 1.0}, "--val-fraction 1.0: must be"),
        ({"processes": 0}, "--processes 0: must be"),
    ],
)
def test_errors(fasta, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        convert([fasta(">a\nMKV\n>b\nMA\n")], tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["x.fasta"]


@pytest.mark.parametrize("wrong", [{"shard_size": 0}, {"shard_size": 1025}, {"compression": "zip"}])
def test_impossible_settings(wrong):
    with pytest.raises(UserError, match=r"^--"):
        Settings(**wrong)


def test_both_kinds_of_validation_are_refused(fasta, tmp_path):
    path = fasta(">a\nMKV\n")
    with pytest.raises(UserError, match="--val and --val-fraction: choose one"):
        convert([path], tmp_path / "out", val_fraction=0.1, val_inputs=[path])


def test_full_disk(fasta, tmp_path):
    path = fasta("".join(f">{i}\nMKVLLAGG\n" for i in range(20_000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"out: disk full while writing"):
            convert([path], tmp_path / "out", settings=Settings(compression="none"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["x.fasta"]


def test_failing_worker_leaves_nothing(fasta, tmp_path):
    path = fasta(">a\nMKV\n" * 5000 + ">b\nM5\n")
    with pytest.raises(UserError, match=r"x\.fasta, line 10002: character '5'"):
        convert([path], tmp_path / "out", processes=2)
    assert [path.name for path in tmp_path.iterdir()] == ["x.fasta"]


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No such file"), ("{", "not a manifest"), ('{"format_version": 99}', "format version 99")],
)
def test_faulty_manifest(tmp_path, text, message):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path)
