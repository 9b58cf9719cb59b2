"""The script that makes the sample."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plm_composer.errors import UserError
from plm_composer.sample import VAL_FASTA, make_sample
from plm_composer.sample.make_sample import Hit, Protein
from plm_composer.tokenizer import STANDARD_RESIDUES


def protein(accession: str, residues: str) -> Protein:
    return Protein(f"tr|{accession}|{accession}_TEST A protein OS=Test PE=4 SV=1", residues)


def test_command_without_mmseqs_fails_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, make_sample.__file__, str(VAL_FASTA), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: mmseqs is not on the PATH; install MMseqs2 (apt-get install mmseqs2)\n"
    assert not (tmp_path / "out").exists()


def test_command_with_a_missing_source_fails_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, make_sample.__file__, str(tmp_path / "none.fasta")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'none.fasta'}: no such file")


def test_a_failing_mmseqs_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mmseqs"
    program.write_text("#!/bin/sh\necho out of disk >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(UserError, match="failed with code 3: out of disk"):
        list(make_sample.search([protein("A", "MK")], [protein("B", "MK")], sensitivity=1, threads=1))


def test_reading_filters_sorts_and_strips(tmp_path: Path) -> None:
    kept = "MKLVAGHSTY" * 5
    records = {"P3": kept, "P2": kept, "P1": kept + "X", "P0": "MKV", "P5": "M" * 513, "P4": kept[::-1]}
    source = tmp_path / "db.fasta"
    source.write_text(
        "".join(f">tr|{name}|{name}_X Name OS=X SV=1 Split=0 \n{text}\n" for name, text in records.items())
    )
    proteins = make_sample.read_proteins(source)
    assert list(proteins) == ["P2", "P4"]
    assert proteins["P2"].header == "tr|P2|P2_X Name OS=X SV=1"


def test_headers_of_other_sources_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "db.fasta"
    source.write_text(">protein 1\nMKV\n")
    with pytest.raises(UserError, match="is not UniProt's"):
        make_sample.read_proteins(source)


def test_single_linkage_does_not_depend_on_the_order_of_links() -> None:
    links = [("a", "b"), ("c", "d"), ("b", "e"), ("a", "a"), ("f", "d")]
    expected = [["a", "b", "e"], ["c", "d", "f"], ["g"]]
    for seed in range(10):
        random.Random(seed).shuffle(links)
        assert make_sample.single_linkage("gfedcba", [pair[::-1] if seed % 2 else pair for pair in links]) == expected


@pytest.mark.parametrize(
    ("identity", "coverages", "close"),
    [(50.0, (0.5, 0.1), True), (50.0, (0.1, 0.5), True), (49.9, (1.0, 1.0), False), (90.0, (0.49, 0.49), False)],
)
def test_close_means_identical_over_half_of_either(
    identity: float, coverages: tuple[float, float], close: bool
) -> None:
    assert Hit("a", "b", 1e-9, identity, *coverages).is_close() is close


def test_held_out_groups_are_whole_and_few() -> None:
    family = [f"p{i:02}" for i in range(40)]
    group_of = {name: index // 3 for index, name in enumerate(family)}
    held_out = make_sample.hold_out([family, ["q1", "q2", "q3"]], {**group_of, "q1": 90, "q2": 91, "q3": 92})
    # An eighth of 40 is 5: the last group, of one member, and one of three.
    assert held_out == {"p39", "p00", "p01", "p02"}


def test_frequency_loss_is_the_entropy_on_the_same_proteins() -> None:
    uniform = [protein("A", STANDARD_RESIDUES)]
    assert make_sample.frequency_loss(uniform, uniform) == pytest.approx(math.log(20))


def test_written_bytes_do_not_depend_on_the_file_name(tmp_path: Path) -> None:
    proteins = [protein("A", "MKV"), protein("B", "MLV")]
    make_sample.write_fasta(tmp_path / "one.fasta.gz", proteins)
    make_sample.write_fasta(tmp_path / "two.fasta.gz", proteins)
    assert (tmp_path / "one.fasta.gz").read_bytes() == (tmp_path / "two.fasta.gz").read_bytes()


@pytest.mark.skipif(shutil.which("mmseqs") is None, reason="needs MMseqs2 (apt-get install mmseqs2)")
def test_search_finds_a_mutated_copy() -> None:
    generator = random.Random(0)
    residues = "".join(generator.choices(STANDARD_RESIDUES, k=120))
    mutated = "".join(
        generator.choice(STANDARD_RESIDUES) if i % 5 == 0 else letter for i, letter in enumerate(residues)
    )
    unrelated = "".join(generator.choices(STANDARD_RESIDUES, k=120))
    targets = [protein("COPY", mutated), protein("OTHER", unrelated)]
    (hit,) = make_sample.search([protein("QUERY", residues)], targets, sensitivity=7.5, threads=1)
    assert (hit.query, hit.target) == ("QUERY", "COPY")
    assert 75 <= hit.identity <= 90
    assert hit.is_close() and hit.is_family()
