"""Mutations are read as ProteinGym writes them, and what does not fit the target is named."""

from __future__ import annotations

import pytest

from plm_composer.errors import UserError
from plm_composer.evaluation.variants.mutations import (
    Substitution,
    compare,
    find_offset,
    find_target,
    parse_mutant,
    place_mutant,
)


def test_mutants_are_applied_to_the_target() -> None:
    variant = place_mutant("MKTAY", parse_mutant("K2W:Y5a", "x"), 1, "x")
    assert variant.sequence == "MWTAA"
    assert variant.substitutions == (Substitution("K", 1, "W"), Substitution("Y", 4, "A"))
    assert place_mutant("MKTAY", parse_mutant("K102W", "x"), 101, "x").sequence == "MWTAY"
    assert place_mutant("MKTAY", parse_mutant("WT", "x"), 1, "x").sequence == "MKTAY"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("K2", "a.csv line 3: 'K2' is no substitution such as A30Q"),
        ("K2W,T3A", "'K2W,T3A' is no substitution such as A30Q; join several with ':'"),
        ("K2*", "is no substitution"),
        ("K2X", "mutates to 'X', which is none of the 20 standard residues"),
        ("K9W", "position 9 lies outside the target, whose residues are 1 to 5; give .* --offset"),
        ("A2W", "A2W, but residue 2 of the target is K"),
        ("K2W:K2A", "position 2 is mutated twice"),
    ],
)
def test_what_does_not_fit_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        place_mutant("MKTAY", parse_mutant(text, "a.csv line 3"), 1, "a.csv line 3")


def test_a_target_is_found_from_its_mutants() -> None:
    mutants = [parse_mutant(text, "x") for text in ("K2W", "T3A:Y5F", "wt")]
    assert find_target(mutants, ["MWTAY", "MKAAF", "MKTAY"], 1) == "MKTAY"
    assert find_target([parse_mutant("K200W", "x")], ["MWTAY"], 1) is None


def test_an_offset_is_found_for_a_hint() -> None:
    assert find_offset("MKTAY", [parse_mutant("K102W:Y105F", "x")]) == 101
    assert find_offset("AAAAA", [parse_mutant("A2W", "x")]) is None
    assert find_offset("MKTAY", [parse_mutant("W2K", "x")]) is None


def test_sequences_are_compared_with_the_target() -> None:
    assert compare("MKTAY", "MKTAF").substitutions == (Substitution("Y", 4, "F"),)
    assert compare("MKTAY", "MKTA").substitutions is None
