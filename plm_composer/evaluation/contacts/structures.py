"""Protein chains and their contacts, from PDB, mmCIF and BinaryCIF files."""

from __future__ import annotations

import dataclasses
import gzip
import io
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError, first_line

CUTOFF = 8.0
"""Distance in Å below which two residues are in contact (CASP's definition)."""
UNKNOWN = -1
_BOND = 4.5
"""Largest distance in Å of the C-alpha atoms of neighbours in a chain."""

FloatArray = npt.NDArray[np.float32]
ContactArray = npt.NDArray[np.int8]


@dataclasses.dataclass(frozen=True)
class _Content:
    """What a file holds.

    Args:
        atoms: Atoms of its polymers, with ``auth_asym_id``, the authors' name of the chain, and ``label_entity_id``,
            what its whole sequence is filed under.
        whole: Names of all residues of a chain.
        numbered: Whether residue numbers are positions in the whole sequence, from 1.
    """

    atoms: Any
    whole: dict[str, list[str]]
    numbered: bool


@dataclasses.dataclass(frozen=True)
class Structure:
    """A protein chain and its contacts.

    Args:
        name: Name of the chain, such as ``1A8O_A``.
        sequence: Residues of the whole chain, those that the structure does not resolve included, upper case.
        contacts: 1 for residues in contact, 0 for others, ``UNKNOWN`` if either is not resolved, (length, length),
            symmetric.
    """

    name: str
    sequence: str
    contacts: ContactArray

    @property
    def unresolved(self) -> int:
        """Number of residues whose place is not known."""
        return int((self.contacts.diagonal() == UNKNOWN).sum())


def contacts_of(coordinates: FloatArray, cutoff: float = CUTOFF) -> ContactArray:
    """Finds which residues are in contact.

    Args:
        coordinates: Coordinates of each residue's C-beta atom in Å, NaN if not resolved, shape (length, 3).
        cutoff: Distance in Å below which residues are in contact.

    Returns:
        As ``Structure.contacts``.
    """
    from scipy.spatial.distance import cdist

    distances = cdist(coordinates, coordinates)
    contacts = (distances < cutoff).astype(np.int8)
    contacts[np.isnan(distances)] = UNKNOWN
    return contacts


def find_structure_files(paths: Iterable[Path]) -> list[Path]:
    """Finds the structure files of folders, sorted; a file stands for itself.

    Args:
        paths: Files and folders.

    Raises:
        UserError: A path does not exist, a file has an unknown ending, or a folder has no structure file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.is_file() and _format_of(each))
            if not inside:
                raise UserError(f"{path}: holds no structure; files must end in {_ENDINGS}, perhaps with .gz")
            found += inside
        elif not path.is_file():
            raise UserError(f"{path}: there is no such structure file or folder")
        elif not _format_of(path):
            raise UserError(f"{path}: must end in {_ENDINGS}, perhaps with .gz")
        else:
            found.append(path)
    return found


def read_structure(path: Path, chain: str | None = None) -> Structure:
    """Reads one protein chain of a file, of its first model and first alternative locations.

    The sequence is that of the whole construct where the file has it (``entity_poly_seq``, ``SEQRES``). Otherwise it is
    that of the resolved residues, with an ``X`` for each residue that the numbering skips where the chain is broken.

    Args:
        path: A PDB, mmCIF or BinaryCIF file, perhaps compressed by gzip.
        chain: The chain, as its authors name it; None for the first protein chain.

    Raises:
        UserError: The file cannot be read, or has no such protein chain.
    """
    ending = _format_of(path)
    if ending is None:
        raise UserError(f"{path}: must end in {_ENDINGS}, perhaps with .gz")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix.lower() == ".gz" else content
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as elements that are guessed from names
            read = _READERS[ending](content)
    except Exception as error:  # a parser of damaged files raises anything
        raise UserError(f"{path}: not a structure that can be read: {first_line(error)}") from error
    name = path.name[: path.name.lower().rindex(ending)]
    atoms, label = _choose_chain(read.atoms, chain, path)
    sequence, coordinates = _place(atoms, read.whole.get(str(atoms.label_entity_id[0])), read.numbered, path)
    structure = Structure(f"{name}_{label}", sequence, contacts_of(coordinates))
    if structure.unresolved == len(sequence):
        raise UserError(f"{path}: chain {label} has no C-beta atoms; contacts need them")
    return structure


def _read_pdb(content: bytes) -> _Content:
    from biotite.structure.io.pdb import PDBFile

    text = content.decode("latin-1")
    atoms = PDBFile.read(io.StringIO(text)).get_structure(model=1)
    for name in ("auth_asym_id", "label_entity_id"):
        atoms.set_annotation(name, atoms.chain_id)
    whole: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("SEQRES"):
            whole.setdefault(line[11].strip(), []).extend(line[19:70].split())
    return _Content(atoms, whole, numbered=False)


def _read_cif(content: bytes) -> _Content:
    from biotite.structure.io.pdbx import CIFFile

    return _read_block(CIFFile.read(io.StringIO(content.decode("utf-8", "replace"))).block)


def _read_binary_cif(content: bytes) -> _Content:
    from biotite.structure.io.pdbx import BinaryCIFFile

    return _read_block(BinaryCIFFile.read(io.BytesIO(content)).block)


def _read_block(block: Any) -> _Content:
    from biotite.structure.io.pdbx import get_structure

    fields = ["auth_asym_id", "label_entity_id"]
    atoms = get_structure(block, model=1, use_author_fields=False, extra_fields=fields)
    whole: dict[str, dict[int, str]] = {}
    if "entity_poly_seq" in block:
        columns = (block["entity_poly_seq"][name].as_array(str) for name in ("entity_id", "num", "mon_id"))
        for entity, number, residue in zip(*columns, strict=True):
            # A position where the crystal has several residues is listed once for each; the first counts.
            whole.setdefault(str(entity), {}).setdefault(int(number), str(residue))
    # Ligands and waters have no number in a polymer.
    polymer = atoms[atoms.res_id > 0] if (atoms.res_id > 0).any() else atoms
    residues = {entity: [names[number] for number in sorted(names)] for entity, names in whole.items()}
    return _Content(polymer, residues, numbered=True)


_READERS: dict[str, Callable[[bytes], _Content]] = {
    ".pdb": _read_pdb,
    ".ent": _read_pdb,
    ".cif": _read_cif,
    ".mmcif": _read_cif,
    ".bcif": _read_binary_cif,
}
"""Readers by ending."""
_ENDINGS = ", ".join(_READERS)


def _format_of(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((ending for ending in _READERS if name.endswith(ending)), None)


def _choose_chain(atoms: Any, chain: str | None, path: Path) -> tuple[Any, str]:
    from biotite.structure import filter_amino_acids

    protein = atoms[filter_amino_acids(atoms)]
    labels = {str(each): str(protein.auth_asym_id[protein.chain_id == each][0]) for each in _unique(protein.chain_id)}
    if not labels:
        raise UserError(f"{path}: has no protein chain")
    key = next((key for key, label in labels.items() if chain in (None, label)), None)
    if key is None:
        raise UserError(f"{path}: has no protein chain {chain!r}; there are: {', '.join(_unique(labels.values()))}")
    return protein[protein.chain_id == key], labels[key]


def _unique(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(map(str, values)))


def _place(atoms: Any, whole: list[str] | None, numbered: bool, path: Path) -> tuple[str, FloatArray]:
    """The whole sequence of a chain, and a place for each of its residues, NaN for those that are not resolved."""
    from biotite.structure import get_residue_starts

    starts = get_residue_starts(atoms, add_exclusive_stop=True)
    residues = [atoms[start:stop] for start, stop in itertools.pairwise(starts)]
    if whole is None:
        residues = _without_ligands(residues)
    numbers = np.array([int(each.res_id[0]) for each in residues])
    letters = "".join(_letter(str(each.res_name[0])) for each in residues)
    if whole is None:
        positions = _positions_by_number(numbers, _alpha(residues))
        padded = np.full(positions[-1] + 1, "X")
        padded[positions] = list(letters)
        sequence = "".join(padded)
    else:
        sequence = "".join(map(_letter, whole))
        positions = numbers - 1 if numbered else _positions_by_alignment(sequence, letters)
    coordinates = np.full((len(sequence), 3), np.nan, dtype=np.float32)
    for position, residue in zip(positions, residues, strict=True):
        if 0 <= position < len(sequence):
            coordinates[position] = _atom(residue, "CA" if residue.res_name[0] == "GLY" else "CB")
    if not len(residues) or not ((positions >= 0) & (positions < len(sequence))).any():
        raise UserError(f"{path}: its residues are not those of the sequence that it states")
    return sequence, coordinates


def _letter(residue: str) -> str:
    """One letter for a residue; that of the parent for a modified one, ``X`` for what has none or several."""
    from biotite.structure.info import one_letter_code

    letter = one_letter_code(residue)
    return letter if letter is not None and len(letter) == 1 and letter.isupper() else "X"


def _atom(residue: Any, name: str) -> npt.NDArray[np.float64]:
    found = residue.coord[residue.atom_name == name]
    return found[0] if len(found) else np.full(3, np.nan)


def _alpha(residues: list[Any]) -> npt.NDArray[np.float64]:
    return np.array([_atom(each, "CA") for each in residues]).reshape(-1, 3)


def _without_ligands(residues: list[Any]) -> list[Any]:
    """Leaves out amino acids of the chain's name that are no part of it: hetero residues without neighbours."""
    near = np.linalg.norm(np.diff(_alpha(residues), axis=0), axis=1) < _BOND
    bonded = np.concatenate([[False], near]) | np.concatenate([near, [False]])
    return [each for each, in_chain in zip(residues, bonded, strict=True) if in_chain or not each.hetero[0]]


def _positions_by_number(numbers: npt.NDArray[np.int64], alpha: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Positions of residues in a chain of which only these are known: numbers count only across a break."""
    broken = ~(np.linalg.norm(np.diff(alpha, axis=0), axis=1) < _BOND)
    steps = np.where(broken, np.maximum(np.diff(numbers), 1), 1)
    return np.concatenate([[0], np.cumsum(steps)])


def _positions_by_alignment(whole: str, resolved: str) -> npt.NDArray[np.int64]:
    """Positions of resolved residues in the whole sequence; -1 for what has no equal there."""
    from biotite.sequence import GeneralSequence, LetterAlphabet
    from biotite.sequence.align import SubstitutionMatrix, align_optimal

    alphabet = LetterAlphabet("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    scores = np.where(np.eye(len(alphabet), dtype=bool), 5, -20).astype(np.int32)
    sequences = (GeneralSequence(alphabet, whole), GeneralSequence(alphabet, resolved))
    matrix = SubstitutionMatrix(alphabet, alphabet, scores)
    alignment = align_optimal(*sequences, matrix, gap_penalty=(-6, 0), terminal_penalty=False, max_number=1)[0]
    positions = np.full(len(resolved), -1)
    for place, residue in alignment.trace:
        if place >= 0 and residue >= 0 and whole[place] == resolved[residue]:
            positions[residue] = place
    return positions


def describe_structures(structures: Iterable[Structure]) -> Mapping[str, int]:
    """Counts chains, residues, and residues that are not resolved."""
    chains = list(structures)
    return {
        "structures": len(chains),
        "residues": sum(len(each.sequence) for each in chains),
        "unresolved_residues": sum(each.unresolved for each in chains),
    }
