"""Makes the bundled sample from Debian's ``mmseqs2-examples``: families of proteins, split by similarity.

One all-against-all search with MMseqs2 (Steinegger and Söding 2017) gives two kinds of link between proteins, and
single linkage turns each into sets. *Families* (homologous over half of both) say what goes into the sample;
*groups* (close relatives) each lie on one side of the split, so that validation holds no near copy of a training
protein. ``README.md`` beside this file has the command and the numbers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plm_composer.errors import UserError, run_command
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.tokenizer import STANDARD_RESIDUES

MIN_RESIDUES, MAX_RESIDUES = 40, 512
TRAIN_PROTEINS, VAL_PROTEINS = 8_400, 400
MIN_FAMILY = 3
"""Proteins in the smallest family that is used."""
FAMILY_E_VALUE, FAMILY_COVERAGE = 1e-5, 0.5
"""Two proteins are of one family if they align with at most this E-value over this share of *both*."""
GROUP_IDENTITY, GROUP_COVERAGE = 50.0, 0.5
"""Two proteins are close if they align with this identity (per cent) over this share of *either*."""
FAMILY_PER_HELD_OUT = 8
"""At most one in this number of proteins of a family goes to validation."""
SEARCH_E_VALUE = 1e-3
# Far more hits than any protein of the example data has, so that no list is cut off.
MAX_HITS = 4_000


@dataclass(frozen=True)
class Protein:
    """One UniProt record: its header, without ``>``, and its residues."""

    header: str
    residues: str

    @property
    def accession(self) -> str:
        """UniProt's accession, the second field of ``sp|P53508|CSSA1_ECOLX ...``."""
        return self.header.split("|", 2)[1]


@dataclass(frozen=True)
class Hit:
    """One alignment: identity in per cent, and the share of either protein that it covers."""

    query: str
    target: str
    e_value: float
    identity: float
    query_coverage: float
    target_coverage: float

    def is_family(self) -> bool:
        """Whether the two proteins are of one family."""
        covered = min(self.query_coverage, self.target_coverage)
        return self.e_value <= FAMILY_E_VALUE and covered >= FAMILY_COVERAGE

    def is_close(self) -> bool:
        """Whether the two proteins must lie on one side of the split."""
        return self.identity >= GROUP_IDENTITY and max(self.query_coverage, self.target_coverage) >= GROUP_COVERAGE


def read_proteins(path: Path) -> dict[str, Protein]:
    """Reads the proteins that may enter the sample, by accession and in the order of accessions.

    It drops proteins shorter than 40 or longer than 512 residues, with a letter other than the 20 standard residues, or
    with the residues of an earlier one. It removes the trailing ``Split=0``, which is not UniProt's.

    Raises:
        UserError: The file is not readable FASTA, or a header is not UniProt's.
    """
    candidates = {}
    for header, sequence in read_fasta(path):
        if header.count("|") < 2:
            raise UserError(f"{path}: header '{header[:60]}' is not UniProt's (sp|ACCESSION|NAME ...)")
        protein = Protein(header.removesuffix("Split=0").rstrip(), sequence.decode("ascii"))
        if MIN_RESIDUES <= len(sequence) <= MAX_RESIDUES and set(protein.residues) <= set(STANDARD_RESIDUES):
            candidates[protein.accession] = protein
    distinct: dict[str, Protein] = {}
    for accession in sorted(candidates):
        distinct.setdefault(candidates[accession].residues, candidates[accession])
    return {protein.accession: protein for protein in distinct.values()}


def search(
    queries: Iterable[Protein], targets: Iterable[Protein], *, sensitivity: float, threads: int
) -> Iterator[Hit]:
    """Aligns every query with every target that MMseqs2 finds similar, at an E-value of at most 1e-3.

    Args:
        queries: Proteins to search for.
        targets: Proteins to search in.
        sensitivity: MMseqs2's ``-s``; 7.5 is its most sensitive preset.
        threads: Number of threads; the hits do not depend on it.

    Raises:
        UserError: MMseqs2 is not installed, or fails.
    """
    program = shutil.which("mmseqs")
    if program is None:
        raise UserError("mmseqs is not on the PATH; install MMseqs2 (apt-get install mmseqs2)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for role, proteins in (("queries", queries), ("targets", targets)):
            text = "".join(f">{protein.accession}\n{protein.residues}\n" for protein in proteins)
            (folder / role).write_text(text, encoding="ascii")
        columns = "query,target,evalue,pident,qcov,tcov"
        paths = [str(folder / part) for part in ("queries", "targets", "hits", "tmp")]
        command = [program, "easy-search", *paths, "-s", str(sensitivity), "-e", str(SEARCH_E_VALUE), "-v", "1"]
        command += ["--max-seqs", str(MAX_HITS), "--threads", str(threads), "--format-output", columns]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            output = " ".join((finished.stderr or finished.stdout).split())
            raise UserError(f"mmseqs easy-search failed with code {finished.returncode}: {output[-300:]}")
        with (folder / "hits").open(encoding="ascii") as lines:
            for line in lines:
                query, target, *numbers = line.split()
                yield Hit(query, target, *map(float, numbers))


def single_linkage(members: Iterable[str], links: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Joins members that links connect, directly or through others.

    Returns:
        The sets, each sorted, in the order of their first members: independent of the order of the links.
    """
    parent = {member: member for member in members}

    def root(member: str) -> str:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for one, other in links:
        parent[root(one)] = root(other)
    sets = defaultdict(list)
    for member in sorted(parent):
        sets[root(member)].append(member)
    return list(sets.values())


def choose_families(families: Iterable[list[str]], proteins: dict[str, Protein]) -> list[list[str]]:
    """Takes families until the sample is full, those of many and short members first.

    The rank is members per mean length, so that a short training run meets each family as often as possible.
    """

    def rank(family: list[str]) -> tuple[float, str]:
        residues = sum(len(proteins[accession].residues) for accession in family)
        return -(len(family) ** 2) / residues, family[0]

    chosen: list[list[str]] = []
    for family in sorted((family for family in families if len(family) >= MIN_FAMILY), key=rank):
        if sum(map(len, chosen)) >= TRAIN_PROTEINS + VAL_PROTEINS:
            break
        chosen.append(family)
    return chosen


def hold_out(families: Iterable[list[str]], group_of: dict[str, int]) -> set[str]:
    """Chooses validation proteins: whole groups, the smallest first, of the families with the most members."""
    held_out: set[str] = set()
    for family in sorted(families, key=lambda family: (-len(family), family[0])):
        groups = defaultdict(list)
        for accession in family:
            groups[group_of[accession]].append(accession)
        room = min(len(family) // FAMILY_PER_HELD_OUT, VAL_PROTEINS - len(held_out))
        for group in sorted(groups.values(), key=lambda group: (len(group), group[0])):
            if len(group) > room:
                break
            held_out.update(group)
            room -= len(group)
    return held_out


def write_fasta(path: Path, proteins: Iterable[Protein]) -> None:
    """Writes compressed FASTA whose bytes depend on its content (and zlib) only, not on name or time."""
    text = "".join(f">{protein.header}\n{protein.residues}\n" for protein in proteins)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as compressed:
        compressed.write(text.encode("ascii"))


def frequency_loss(train: Iterable[Protein], val: Iterable[Protein]) -> float:
    """Mean loss, in nats per residue, on ``val`` of a model that knows only the residue frequencies of ``train``."""
    known = Counter("".join(protein.residues for protein in train))
    asked = Counter("".join(protein.residues for protein in val))
    return -sum(n * math.log(known[residue] / known.total()) for residue, n in asked.items()) / asked.total()


def make_sample(source: Path, out: Path, threads: int) -> dict[str, float]:
    """Writes ``train.fasta.gz`` and ``val.fasta.gz`` into ``out``.

    Args:
        source: ``DB.fasta.gz`` of ``mmseqs2-examples``, or another file of UniProt records.
        out: Folder, made if missing.
        threads: Threads of MMseqs2.

    Returns:
        The numbers that ``README.md`` states.

    Raises:
        UserError: The source is unusable or too small, or MMseqs2 is missing or fails.
    """
    proteins = read_proteins(source)
    pairs = list(search(proteins.values(), proteins.values(), sensitivity=5.7, threads=threads))
    close = [(hit.query, hit.target) for hit in pairs if hit.is_close()]
    # Groups join families, too, so that a group never lies in two families.
    families = single_linkage(proteins, close + [(hit.query, hit.target) for hit in pairs if hit.is_family()])
    groups = single_linkage(proteins, close)
    chosen = choose_families(families, proteins)
    if sum(map(len, chosen)) < TRAIN_PROTEINS + VAL_PROTEINS:
        needed = TRAIN_PROTEINS + VAL_PROTEINS
        raise UserError(f"{source}: {sum(map(len, chosen))} proteins in families; the sample needs {needed}")
    held_out = hold_out(chosen, {accession: index for index, group in enumerate(groups) for accession in group})
    # Families stay together, so that gzip finds relatives within its window of 32 KiB.
    train = [proteins[accession] for family in chosen for accession in family if accession not in held_out]
    val = [proteins[accession] for family in chosen for accession in family if accession in held_out]
    # A second, more sensitive search checks the split.
    near = {hit.query for hit in search(val, train, sensitivity=7.5, threads=threads) if hit.is_close()}
    val = [protein for protein in val if protein.accession not in near]
    out.mkdir(parents=True, exist_ok=True)
    write_fasta(out / "train.fasta.gz", train)
    write_fasta(out / "val.fasta.gz", val)
    return {
        "train_proteins": len(train),
        "train_residues": count_residues(train),
        "val_proteins": len(val),
        "val_residues": count_residues(val),
        "families": len(chosen),
        "smallest_family": min(map(len, chosen)),
        "val_families": sum(not held_out.isdisjoint(family) for family in chosen),
        "val_dropped_as_near_train": len(near),
        "frequency_loss_nats": round(frequency_loss(train, val), 4),
    }


def count_residues(proteins: Sequence[Protein]) -> int:
    """Total number of residues."""
    return sum(len(protein.residues) for protein in proteins)


def main() -> None:
    """Runs the command line and prints the sample's numbers as JSON."""
    parser = argparse.ArgumentParser(description="Make the bundled sample of UniProt proteins.")
    parser.add_argument("source", type=Path, help="DB.fasta.gz of Debian's mmseqs2-examples")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder (default: beside this script)")
    parser.add_argument("--threads", type=int, default=2, help="threads of MMseqs2 (default: 2)")
    arguments = parser.parse_args()
    if not arguments.source.is_file():
        raise UserError(f"{arguments.source}: no such file; see README.md for where it comes from")
    print(json.dumps(make_sample(arguments.source, arguments.out, arguments.threads), indent=2))


if __name__ == "__main__":
    run_command(main)
