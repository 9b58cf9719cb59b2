"""Chains and contacts of real entries, in all formats, against Biopython's reader; and files that are none."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from Bio.PDB import MMCIFParser

from plm_composer.errors import UserError
from plm_composer.evaluation.contacts.structures import UNKNOWN, contacts_of, find_structure_files, read_structure

DATA = Path(__file__).parent / "data"


@pytest.mark.filterwarnings("ignore::Bio.PDB.PDBExceptions.PDBConstructionWarning")
@pytest.mark.parametrize(
    ("name", "chain", "length", "unresolved"), [("1A7G", "E", 82, 0), ("1A8O", "A", 70, 0), ("4CUP", "A", 117, 2)]
)
def test_contacts_are_those_of_biopython(name: str, chain: str, length: int, unresolved: int) -> None:
    structure = read_structure(DATA / f"{name}.cif.gz")
    assert (structure.name, len(structure.sequence), structure.unresolved) == (f"{name}_{chain}", length, unresolved)
    with gzip.open(DATA / f"{name}.cif.gz", "rt") as file:
        model = MMCIFParser(auth_residues=False).get_structure(name, file)[0]
    residues = [residue for residue in model[chain] if "CA" in residue]
    # The numbers of mmCIF's own are positions in the whole sequence, from 1.
    for one in residues:
        for other in residues:
            atoms = [residue["CA" if residue.resname == "GLY" else "CB"] for residue in (one, other)]
            found = structure.contacts[one.id[1] - 1, other.id[1] - 1]
            assert found == (np.linalg.norm(atoms[0].coord - atoms[1].coord) < 8)


def test_formats_agree_and_modified_residues_have_their_parents_letter() -> None:
    cif, pdb = (read_structure(DATA / f"1A8O.{ending}.gz") for ending in ("cif", "pdb"))
    assert cif.sequence == pdb.sequence == "MDIRQGPKEPFRDYVDRFYKTLRAEQASQEVKNWMTETLLVQNANPDCKTILKALGPGATLEEMMTACQG"
    np.testing.assert_array_equal(cif.contacts, pdb.contacts)


def test_binary_cif_with_insertion_codes_and_unresolved_residues() -> None:
    trypsin, coiled = read_structure(DATA / "1GBT.bcif.gz"), read_structure(DATA / "3JQH.bcif.gz")
    assert (len(trypsin.sequence), trypsin.unresolved) == (223, 0)
    assert (len(coiled.sequence), coiled.unresolved) == (167, 144)
    hidden = coiled.contacts.diagonal() == UNKNOWN
    assert (coiled.contacts[hidden] == UNKNOWN).all()
    assert (coiled.contacts[~hidden][:, ~hidden] != UNKNOWN).all()
    # A disulfide bond of trypsin, between residues that are far apart in the chain.
    bonded = [at for at, residue in enumerate(trypsin.sequence) if residue == "C"]
    assert (trypsin.contacts[np.ix_(bonded, bonded)].sum(1) >= 2).all()


def _pdb_lines() -> list[str]:
    return gzip.decompress((DATA / "1A8O.pdb.gz").read_bytes()).decode().splitlines()


def _residue_number(line: str) -> int:
    return int(line[22:26]) if line.startswith(("ATOM", "HETATM")) else 0


def test_a_broken_chain_without_its_whole_sequence_is_filled(tmp_path: Path) -> None:
    whole = read_structure(DATA / "1A8O.pdb.gz")
    atoms = [line for line in _pdb_lines() if not line.startswith("SEQRES")]
    (tmp_path / "broken.pdb").write_text("\n".join(line for line in atoms if not 161 <= _residue_number(line) <= 163))
    broken = read_structure(tmp_path / "broken.pdb")
    assert broken.sequence == whole.sequence[:10] + "XXX" + whole.sequence[13:]
    assert broken.unresolved == 3
    outside = np.r_[0:10, 13:70]
    at = np.ix_(outside, outside)
    np.testing.assert_array_equal(broken.contacts[at], whole.contacts[at])


def test_a_broken_chain_is_aligned_with_its_whole_sequence(tmp_path: Path) -> None:
    lines = [line for line in _pdb_lines() if not 161 <= _residue_number(line) <= 163]
    (tmp_path / "broken.pdb").write_text("\n".join(lines))
    broken, whole = read_structure(tmp_path / "broken.pdb"), read_structure(DATA / "1A8O.pdb.gz")
    assert broken.sequence == whole.sequence
    np.testing.assert_array_equal(np.flatnonzero(broken.contacts.diagonal() == UNKNOWN), [10, 11, 12])


def test_contacts_by_hand() -> None:
    coordinates = np.array([[0, 0, 0], [7.9, 0, 0], [np.nan] * 3, [8.0, 0, 0]], np.float32)
    assert contacts_of(coordinates).tolist() == [[1, 1, -1, 0], [1, 1, -1, 1], [-1] * 4, [0, 1, -1, 1]]


def test_a_folder_stands_for_its_structures() -> None:
    found = find_structure_files([DATA, DATA / "4CUP.cif.gz"])
    assert [path.name.split(".")[0] for path in found] == ["1A7G", "1A8O", "1A8O", "1GBT", "3JQH", "4CUP", "4CUP"]


def test_wrong_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty.cif").touch()
    (tmp_path / "text.pdb").write_text("no structure\n")
    (tmp_path / "cut.cif.gz").write_bytes((DATA / "1A7G.cif.gz").read_bytes()[:2000])
    (tmp_path / "cut.bcif").write_bytes(gzip.decompress((DATA / "3JQH.bcif.gz").read_bytes())[:2000])
    alpha = [line for line in _pdb_lines() if line[12:16] == " CA "]
    (tmp_path / "alpha.pdb").write_text("\n".join(line for line in alpha if line[17:20] != "GLY"))
    water = [line for line in _pdb_lines() if line[17:20] == "HOH"]
    (tmp_path / "water.pdb").write_text("\n".join(water))
    (tmp_path / "folder").mkdir()
    for path, message in {
        "empty.cif": "not a structure that can be read",
        "text.pdb": "not a structure that can be read|no protein chain",
        "cut.cif.gz": "not a structure that can be read",
        "cut.bcif": "not a structure that can be read",
        "alpha.pdb": "no C-beta atoms",
        "water.pdb": "no protein chain",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            read_structure(tmp_path / path)
        assert path in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no protein chain 'Z'; there are: A"):
        read_structure(DATA / "4CUP.cif.gz", "Z")
    for path, message in {
        "none": "there is no such",
        "folder": "holds no structure",
        "../x.txt": "there is no",
    }.items():
        with pytest.raises(UserError, match=message):
            find_structure_files([tmp_path / path])
    (tmp_path / "x.txt").touch()
    with pytest.raises(UserError, match="must end in"):
        find_structure_files([tmp_path / "x.txt"])
