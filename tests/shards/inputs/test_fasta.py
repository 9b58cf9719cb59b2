import gzip
import io
import os
import sys
from collections import Counter

import pytest
import xxhash
from Bio.SeqIO.FastaIO import SimpleFastaParser
from hypothesis import given
from hypothesis import strategies as st

from plm_composer.errors import UserError
from plm_composer.shards.inputs.cleaning import Rules, cut
from plm_composer.shards.inputs.fasta import FastaSource, read_fasta


def write(folder, data: bytes, name: str = "x.fasta") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def test_agrees_with_biopython_on_real_proteins(shared_data):
    path = shared_data / "proteins" / "val.fasta.gz"
    with gzip.open(path, "rt") as file:
        expected = [(title, sequence.encode()) for title, sequence in SimpleFastaParser(file)]
    assert list(read_fasta(path)) == expected


HEADERS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12).map(str.strip)
LINES = st.lists(st.text("ACDEFGHIKLmnpqrstvwyXJ-.~ \t", max_size=9), max_size=4)


@given(
    records=st.lists(st.tuples(HEADERS, LINES), min_size=1, max_size=6),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.booleans(),
    compressed=st.booleans(),
    ends_with_line_end=st.booleans(),
    block_bytes=st.sampled_from([1, 5, 1 << 20]),
)
def test_agrees_with_biopython_on_generated_fasta(
    tmp_path_factory, records, line_end, bom, compressed, ends_with_line_end, block_bytes
):
    text = line_end.join(line for header, lines in records for line in [f">{header}", *lines])
    text += line_end * ends_with_line_end
    parsed = list(SimpleFastaParser(io.StringIO(text, newline=None)))
    removed = str.maketrans("", "", "-.~ \t")
    expected = [(header, sequence.translate(removed).upper().encode()) for header, sequence in parsed]

    data = b"\xef\xbb\xbf" * bom + text.encode()
    path = write(tmp_path_factory.mktemp("fasta"), gzip.compress(data) if compressed else data)
    dropped = Counter()
    found = list(read_fasta(path, dropped=dropped))
    assert [protein for _, protein in found] == [protein for _, protein in expected if protein]
    assert [header for header, _ in found] == [header.strip() for header, protein in expected if protein]
    assert dropped["empty"] == sum(not protein for _, protein in expected)

    blocks = list(FastaSource(path, block_bytes=block_bytes).blocks())
    whole = "".join(block.text.decode() for block in blocks)
    assert whole == text.replace("\r\n", "\n").replace("\r", "\n")
    for block in blocks:
        assert "\n".join(whole.split("\n")[block.first_line - 1 :]).startswith(block.text.decode())


def test_blocks_are_whole_records_and_know_their_lines(tmp_path):
    text = b"\n\n" + b"".join(b">%d\nMK\nVL\n" % i for i in range(100_000))
    blocks = list(FastaSource(write(tmp_path, text), block_bytes=1000).blocks())
    assert len(blocks) > 2
    assert b"".join(block.text for block in blocks) == text[2:]
    for block in blocks:
        number = int(block.text[1 : block.text.index(b"\n")])
        assert block.first_line == 3 + 3 * number


def test_a_record_may_be_longer_than_a_block(tmp_path):
    long = b"MKVLLAGG" * 200_000
    path = write(tmp_path, b">a\nMA\n>b\n" + long + b"\n>c\nMK\n")
    blocks = FastaSource(path, block_bytes=100).blocks()
    assert [text.strip() for block in blocks for text in cut(*block.sequences())] == [b"MA", long, b"MK"]


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "x.fasta", r"x\.fasta: empty"),
        (b"\xef\xbb\xbf\n\n", "x.fasta", r"x\.fasta: empty"),
        (b"", "x.fasta.gz", r"x\.fasta\.gz: empty"),
        (b"\n\nMKV\n>a\nMKV\n", "x.fasta", r"x\.fasta, line 3: not FASTA: expected a header .* found 'MKV'"),
        (b"LOCUS  X\n", "x.gb", r"x\.gb, line 1: not FASTA"),
        (b" >a\nMKV\n", "x.fasta", r"x\.fasta, line 1: not FASTA"),
        (">a\nMKV\n".encode("utf-16"), "x.fasta", r"x\.fasta, line 1: not FASTA"),
        (b">a\nMKV\n", "x.fasta.gz", r"x\.fasta\.gz: is named \.gz but is not compressed"),
        (b">a\nMKV\n>b\nM\x00V\n", "x.fasta", r"x\.fasta, line 4: character '\\x00'"),
        (b">a\nMKV\n; old comment\n", "x.fasta", r"x\.fasta, line 3: character ';'"),
        (b">a\r\n10 MKV\r\n", "x.fasta", r"x\.fasta, line 2: character '1'"),
        (gzip.compress(b">a\nMKV\n>b\nMA\n")[:-4], "x.fasta.gz", r"x\.fasta\.gz: is cut short.*\(.* is 4\)"),
    ],
)
def test_faulty_files(tmp_path, data, name, message):
    with pytest.raises(UserError, match=message):
        list(read_fasta(write(tmp_path, data, name)))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.fasta: no such file"):
        FastaSource(tmp_path / "nowhere.fasta")
    with pytest.raises(UserError, match="is a directory"):
        FastaSource(tmp_path)


def test_gzip_is_recognised_without_its_name(tmp_path):
    assert list(read_fasta(write(tmp_path, gzip.compress(b">a b\nMKV\n")))) == [("a b", b"MKV")]


def test_headers_of_any_encoding(tmp_path):
    path = write(tmp_path, ">é\nMK\n".encode() + ">é\nMA\n".encode("latin-1"))
    assert list(read_fasta(path)) == [("é", b"MK"), ("é", b"MA")]


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(open_pipe_with(b">a\nMKV\n")))
    source = FastaSource("-")
    assert source.size is None
    assert [block.text for block in source.blocks()] == [b">a\nMKV\n"]
    assert source.summary().name == "-"


def open_pipe_with(data: bytes):
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as file:
        file.write(data)
    return os.fdopen(read_end, "rb")


def test_summary_has_size_and_hash_of_the_raw_bytes(tmp_path):
    data = gzip.compress(b">a\nMKV\n")
    source = FastaSource(write(tmp_path, data), "val")
    seen = []
    list(source.blocks(seen.append))
    summary = source.summary()
    assert sum(seen) == source.size == summary.bytes == len(data)
    assert summary.xxh3_128 == xxhash.xxh3_128_hexdigest(data)
    assert (summary.name, summary.split) == ("x.fasta", "val")


def test_left_out_records_are_an_error_or_counted(tmp_path):
    path = write(tmp_path, b">first\nM*V\n>second\nMKV\n>third\n")
    with pytest.raises(UserError, match=r"record 'first': stop codon inside"):
        list(read_fasta(path))
    dropped = Counter()
    assert list(read_fasta(path, dropped=dropped)) == [("second", b"MKV")]
    assert dropped == {"stop_codon_inside": 1, "empty": 1}


def test_read_fasta_applies_rules(tmp_path):
    path = write(tmp_path, b">a\nXXXX\n>b\nMKV\n")
    assert len(list(read_fasta(path))) == 2
    assert [header for header, _ in read_fasta(path, rules=Rules(), dropped=Counter())] == ["b"]
