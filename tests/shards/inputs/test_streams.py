import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plm_composer.shards.inputs.streams import CorruptStream, decompress, unify_line_ends

TEXT = b"".join(b">%d\nMKVLLA\n" % i for i in range(5000))


def pieces(data: bytes, size: int):
    return (data[i : i + size] for i in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TEXT),
        gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]),
        gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:]) + b"\0" * 512,
        TEXT,
    ],
    ids=["one member", "two members", "empty member and padding", "plain"],
)
def test_decompress(data, size):
    assert b"".join(decompress(pieces(data, size), must_be_gzip=False)) == TEXT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(TEXT)[:-1], "cut short"),
        (gzip.compress(TEXT)[:500], "cut short"),
        (gzip.compress(TEXT)[:-8] + b"12345678", "corrupt"),
        (gzip.compress(TEXT) + b"left over", "corrupt"),
        (b"\x1f\x8bjunk junk junk", "corrupt"),
        (b"\x1f\x8b", "cut short"),
        (TEXT, "not compressed with gzip"),
    ],
)
def test_faulty_gzip(data, message):
    with pytest.raises(CorruptStream, match=message):
        list(decompress(pieces(data, 1000), must_be_gzip=True))


def test_everything_before_the_cut_is_passed_on():
    stream = decompress(pieces(gzip.compress(TEXT, 0)[:1000], 100), must_be_gzip=True)
    received = b""
    with pytest.raises(CorruptStream):
        for chunk in stream:
            received += chunk
    assert len(received) > 950
    assert TEXT.startswith(received)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"M", b"", b"A\r\n>b\r"]), max_size=12))
def test_line_ends_across_chunks(chunks):
    whole = b"".join(chunks)
    assert b"".join(unify_line_ends(iter(chunks))) == whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
