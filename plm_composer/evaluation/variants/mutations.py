"""Mutations as ProteinGym writes them, such as ``A30Q:K42E``, checked against the sequence that they change."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from plm_composer.errors import UserError
from plm_composer.tokenizer import STANDARD_RESIDUES

_MUTATION = re.compile(r"([A-Za-z])(\d+)([A-Za-z])")
SEPARATOR = ":"


@dataclasses.dataclass(frozen=True)
class Substitution:
    """One residue replaced by another.

    Args:
        wildtype: The residue in the target.
        index: Its index in the target, from 0.
        mutant: The residue in its place.
    """

    wildtype: str
    index: int
    mutant: str


@dataclasses.dataclass(frozen=True)
class Variant:
    """A mutant of a target.

    Args:
        sequence: Its whole sequence.
        substitutions: How it differs from the target; None if it has insertions or deletions, or no target is known.
    """

    sequence: str
    substitutions: tuple[Substitution, ...] | None


def parse_mutant(text: str, where: str) -> list[tuple[str, int, str]]:
    """Reads substitutions, such as ``A30Q:K42E``.

    Args:
        text: Substitutions joined by colons; ``WT``, ``_wt`` or ``wildtype`` is the target itself.
        where: The file and line, for errors.

    Returns:
        Wild-type residue, position as written, mutant residue.

    Raises:
        UserError: The text is something else.
    """
    if text.strip().lower() in ("wt", "_wt", "wildtype"):
        return []
    parsed = []
    for part in text.split(SEPARATOR):
        match = _MUTATION.fullmatch(part.strip())
        if match is None:
            raise UserError(f"{where}: {part!r} is no substitution such as A30Q; join several with '{SEPARATOR}'")
        wildtype, position, mutant = match.groups()
        if mutant.upper() not in STANDARD_RESIDUES:
            raise UserError(f"{where}: {part!r} mutates to {mutant!r}, which is none of the 20 standard residues")
        parsed.append((wildtype.upper(), int(position), mutant.upper()))
    return parsed


def place_mutant(target: str, parsed: Iterable[tuple[str, int, str]], offset: int, where: str) -> Variant:
    """Applies substitutions to a target.

    Args:
        target: Residues of the target, in upper case.
        parsed: From ``parse_mutant``.
        offset: Position of the target's first residue in the substitutions' numbering; usually 1.
        where: The file and line, for errors.

    Raises:
        UserError: A position lies outside the target, another residue stands there, or a position comes twice.
    """
    residues = list(target)
    substitutions: list[Substitution] = []
    for wildtype, position, mutant in parsed:
        index = position - offset
        if not 0 <= index < len(target):
            raise UserError(
                f"{where}: position {position} lies outside the target, whose residues are {offset} to "
                f"{offset + len(target) - 1}; give its first residue's number with --offset"
            )
        if target[index] != wildtype:
            raise UserError(
                f"{where}: {wildtype}{position}{mutant}, but residue {position} of the target is {target[index]}; give "
                "the right target, or its first residue's number with --offset"
            )
        if any(each.index == index for each in substitutions):
            raise UserError(f"{where}: position {position} is mutated twice")
        residues[index] = mutant
        substitutions.append(Substitution(wildtype, index, mutant))
    return Variant("".join(residues), tuple(substitutions))


def compare(target: str, sequence: str) -> Variant:
    """Makes the variant of a whole sequence: with its substitutions if it is as long as the target.

    Args:
        target: Residues of the target, in upper case.
        sequence: Residues of the mutant, in upper case.
    """
    if len(sequence) != len(target):
        return Variant(sequence, None)
    pairs = enumerate(zip(target, sequence, strict=True))
    return Variant(sequence, tuple(Substitution(a, index, b) for index, (a, b) in pairs if a != b))


def find_target(mutants: Sequence[list[tuple[str, int, str]]], sequences: Sequence[str], offset: int) -> str | None:
    """Finds the target from mutants that are given both as substitutions and as whole sequences.

    Args:
        mutants: From ``parse_mutant``, one a row.
        sequences: Their sequences.
        offset: Position of the first residue in the substitutions' numbering.

    Returns:
        The sequence that most rows agree on when their substitutions are undone; None if none can be undone.
    """
    found: Counter[str] = Counter()
    for parsed, sequence in zip(mutants, sequences, strict=True):
        residues = list(sequence)
        if all(0 <= position - offset < len(sequence) for _, position, _ in parsed):
            for wildtype, position, _ in parsed:
                residues[position - offset] = wildtype
            found["".join(residues)] += 1
    return found.most_common(1)[0][0] if found else None


def find_offset(target: str, mutants: Iterable[list[tuple[str, int, str]]]) -> int | None:
    """Finds the one numbering under which all substitutions fit a target, for a hint; None if there is not just one.

    Args:
        target: Residues of the target.
        mutants: From ``parse_mutant``.
    """
    wanted = {(position, wildtype) for parsed in mutants for wildtype, position, _ in parsed}
    if not wanted:
        return None
    first, last = min(wanted)[0], max(wanted)[0]
    fitting = [
        offset
        for offset in range(last - len(target) + 1, first + 1)
        if all(target[position - offset] == wildtype for position, wildtype in wanted)
    ]
    return fitting[0] if len(fitting) == 1 else None
