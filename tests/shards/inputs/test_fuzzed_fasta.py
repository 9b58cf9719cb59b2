"""Generated and damaged FASTA: whatever comes in, it is converted, or refused with one line."""

import gzip
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plm_composer.errors import UserError
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.inputs.cleaning import Rules
from plm_composer.shards.inputs.fasta import FastaSource, read_fasta
from plm_composer.shards.inputs.records import parse_block
from plm_composer.shards.output.settings import Settings

pytestmark = pytest.mark.faults

INPUTS, CONVERSIONS = 10_000, 400
LINE_ENDS = (b"\n", b"\r\n", b"\r", b"\n\n", b" \n", b"\n\r")
ALPHABETS = (b"ACDEFGHIKLMNPQRSTVWY", b"acdefghiklmnpqrstvwyXBZUOJ", b"ACDE-.~* \t", b"ACDE5>;\x00\xff\xe2")
RULES = (Rules(), Rules(invalid="drop"), Rules(min_length=4, max_length=40, max_unknown=0.2, invalid="drop"))


def draw_bytes(random: np.random.Generator, alphabet: bytes, most: int) -> bytes:
    return bytes(random.choice(np.frombuffer(alphabet, np.uint8), random.integers(0, most)).tolist())


def draw_fasta(random: np.random.Generator) -> bytes:
    """Something like FASTA: some kinds of residues, some line ends, perhaps a mark or blank lines at the start."""
    ends = [LINE_ENDS[i] for i in random.integers(0, len(LINE_ENDS), random.integers(1, 3))]
    alphabet = ALPHABETS[random.choice(len(ALPHABETS), p=[0.5, 0.25, 0.15, 0.1])]
    parts = [[b"", b"\xef\xbb\xbf", b"\n \n", b"\r"][random.choice(4, p=[0.7, 0.1, 0.1, 0.1])]]
    for _ in range(random.integers(0, 12)):
        header = draw_bytes(random, bytes(byte for byte in range(256) if byte not in b"\r\n"), 30)
        lines = [draw_bytes(random, alphabet, 60) for _ in range(random.integers(0, 4))]
        for line in [b">" + header, *lines]:
            parts += [line, ends[random.integers(len(ends))]]
    return b"".join(parts)


def damage(random: np.random.Generator, data: bytes) -> bytes:
    """Cuts, overwrites, inserts, repeats, or leaves as it is."""
    if not data:
        return data
    start, stop = sorted(random.integers(0, len(data) + 1, 2).tolist())
    noise = random.bytes(int(random.integers(1, 9)))
    return [
        data, data, data[:stop], data[start:], data[:start] + data[stop:], data[:start] + noise + data[start:],
        data[:start] + noise + data[start + len(noise):], data[:stop] + data[start:], data + b"\0" * 9, data + noise,
    ][random.integers(10)]  # fmt: skip


def draw_file(random: np.random.Generator) -> tuple[str, bytes]:
    """A name and a content, plain or compressed, damaged before or after."""
    data = damage(random, draw_fasta(random))
    kind = random.integers(4)
    if kind == 0:
        return "x.fasta", data
    cut = int(random.integers(0, len(data) + 1))
    members = [data] if kind < 3 else [data[:cut], data[cut:]]
    packed = b"".join(gzip.compress(member, int(random.integers(10)), mtime=0) for member in members)
    return ("x.fasta.gz" if random.integers(5) else "x.fa"), damage(random, packed) if kind == 1 else packed


def outcome(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[str, Any]:
    """``ok`` and the result, or the one line of the error; anything else is a fault, and flies."""
    try:
        return "ok", function(*arguments, **options)
    except UserError as error:
        message = str(error)
        assert message.isprintable(), ascii(message)
        assert 0 < len(message) < 1000
        return message, None


def read(path: Path, rules: Rules) -> tuple[list[bytes], Counter[str]]:
    dropped: Counter[str] = Counter()
    return [protein for _, protein in read_fasta(path, rules=rules, dropped=dropped)], dropped


def parse(path: Path, rules: Rules, block_bytes: int) -> tuple[list[int], Counter[str]]:
    lengths: list[int] = []
    dropped: Counter[str] = Counter()
    for block in FastaSource(path, block_bytes=block_bytes).blocks():
        parsed = parse_block(block, rules, 0)
        dropped += parsed.dropped
        lengths += parsed.records["train"].lengths.tolist()
    return lengths, dropped


def test_reading_and_cleaning(tmp_path):
    random = np.random.default_rng(0)
    outcomes: Counter[str] = Counter()
    for number in range(INPUTS):
        name, content = draw_file(random)
        path = tmp_path / name
        path.write_bytes(content)
        rules = RULES[random.integers(len(RULES))]
        message, found = outcome(read, path, rules)
        in_blocks, others = outcome(parse, path, rules, int(random.choice([7, 60, 400, 1 << 20])))
        if message == "ok":
            proteins, dropped = found
            assert in_blocks == "ok", number
            assert others == ([len(protein) for protein in proteins], dropped), number
            assert all(protein.isalpha() and protein.isupper() for protein in proteins), number
            assert all(len(protein) >= rules.min_length for protein in proteins), number
            outcomes["ok"] += 1
        else:
            assert in_blocks != "ok", number
            assert message.startswith(str(path)), message
            outcomes[re.sub(r"[\d'].*|, line", "", message.removeprefix(str(path)))] += 1
    # All kinds of things must have happened, or the generator is no good.
    assert outcomes["ok"] > INPUTS / 3, outcomes
    assert len(outcomes) > 5, outcomes


def test_whole_conversions(tmp_path):
    random = np.random.default_rng(1)
    outcomes: Counter[str] = Counter()
    for number in range(CONVERSIONS):
        files: list[Path] = []
        for index in range(random.integers(1, 3)):
            name, content = draw_file(random)
            files.append(tmp_path / f"{index}-{name}")
            files[-1].write_bytes(content)
        settings = Settings(
            rules=RULES[random.integers(len(RULES))],
            val_fraction=float(random.choice([0, 0.3])),
            deduplicate=bool(random.integers(2)),
            compression=str(random.choice(["none", "zstd:1"])),
            shard_size=float(random.choice([1e-4, 1e-3, 32])),
        )
        out, processes = tmp_path / f"out{number}", int(random.integers(1, 3))
        message, _ = outcome(convert_fasta, files, out, settings=settings, processes=processes, progress=False)
        outcomes["ok" if message == "ok" else "refused"] += 1
        assert out.exists() == (message == "ok")
        assert not out.with_name(out.name + ".partial").exists()
        for file in files:
            file.unlink()
    assert min(outcomes["ok"], outcomes["refused"]) > CONVERSIONS / 8, outcomes
