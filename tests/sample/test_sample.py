"""The bundled sample: its size, its content, and the numbers that its README states."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import plm_composer.sample
from plm_composer.sample import TRAIN_FASTA, VAL_FASTA
from plm_composer.sample.make_sample import Protein, frequency_loss, read_proteins
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.tokenizer import STANDARD_RESIDUES

UNIPROT_HEADER = re.compile(r"(sp|tr)\|[A-Z0-9]{6,10}\|[A-Z0-9]+_[A-Z0-9]+ .+ OS=.+ PE=[1-5] SV=\d+")


def read_all(path: Path) -> list[Protein]:
    return [Protein(header, sequence.decode()) for header, sequence in read_fasta(path)]


@pytest.fixture(scope="module")
def train() -> list[Protein]:
    return read_all(TRAIN_FASTA)


@pytest.fixture(scope="module")
def val() -> list[Protein]:
    return read_all(VAL_FASTA)


@pytest.fixture(scope="module")
def readme_rows() -> dict[str, tuple[str, str]]:
    text = (Path(plm_composer.sample.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = (re.fullmatch(r"\| ([^|]+) \| ([^|]+) \| ([^|]+) \|", line) for line in text.splitlines())
    return {row[1]: (row[2], row[3]) for row in rows if row}


def test_has_enough_proteins_in_little_space(train: list[Protein], val: list[Protein]) -> None:
    assert len(train) + len(val) >= 8_000
    assert TRAIN_FASTA.stat().st_size + VAL_FASTA.stat().st_size <= 3_000_000


def test_headers_are_those_of_uniprot(train: list[Protein], val: list[Protein]) -> None:
    assert [protein.header for protein in train + val if not UNIPROT_HEADER.fullmatch(protein.header)] == []


def test_residues_are_standard_and_lengths_within_bounds(train: list[Protein], val: list[Protein]) -> None:
    assert set("".join(protein.residues for protein in train + val)) == set(STANDARD_RESIDUES)
    assert all(40 <= len(protein.residues) <= 512 for protein in train + val)


def test_no_protein_occurs_twice(train: list[Protein], val: list[Protein]) -> None:
    both = train + val
    assert len({protein.residues for protein in both}) == len({protein.accession for protein in both}) == len(both)


def test_no_validation_protein_shares_a_long_stretch_with_train(train: list[Protein], val: list[Protein]) -> None:
    # 40 identical residues in a row would often make a near copy; this needs no aligner.
    def windows(residues: str) -> set[str]:
        return {residues[i : i + 40] for i in range(len(residues) - 39)}

    asked = set().union(*(windows(protein.residues) for protein in val))
    shared = [protein.accession for protein in train if not asked.isdisjoint(windows(protein.residues))]
    assert shared == []


@pytest.mark.parametrize("path", [TRAIN_FASTA, VAL_FASTA], ids=["train", "val"])
def test_gzip_header_holds_no_time_and_no_name(path: Path) -> None:
    header = path.read_bytes()[:10]
    assert header[:3] == b"\x1f\x8b\x08"
    assert header[3] == 0, "flags: no file name, no comment"
    assert header[4:8] == bytes(4), "time of change"


def test_readme_states_the_files_numbers(
    train: list[Protein], val: list[Protein], readme_rows: dict[str, tuple[str, str]]
) -> None:
    for column, (path, proteins) in enumerate([(TRAIN_FASTA, train), (VAL_FASTA, val)]):
        assert readme_rows["file"][column] == f"`{path.name}`"
        assert readme_rows["proteins"][column] == f"{len(proteins):,}"
        assert readme_rows["residues"][column] == f"{sum(len(protein.residues) for protein in proteins):,}"
        assert readme_rows["bytes"][column] == f"{path.stat().st_size:,}"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert readme_rows["SHA-256, first 16 digits"][column] == f"`{digest[:16]}`"


def test_readme_states_the_loss_of_residue_frequencies(train: list[Protein], val: list[Protein]) -> None:
    text = (Path(plm_composer.sample.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert f"**{frequency_loss(train, val):.4f}** nats" in text


def test_sample_passes_the_filters_it_was_made_with(train: list[Protein]) -> None:
    assert len(read_proteins(TRAIN_FASTA)) == len(train)
