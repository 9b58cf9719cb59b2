import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plm_composer.errors import UserError
from plm_composer.shards.inputs.cleaning import OUTCOMES, Rules, clean, cut, judge

STANDARD = set("ACDEFGHIKLMNPQRSTVWY")


def joined(texts):
    return b"".join(texts), np.array([len(text) for text in texts], dtype=np.int64)


def reference(text: bytes, rules: Rules) -> tuple[bytes, str]:
    """The rules of docs/conversion.md, for one record, one character after the other."""
    characters = [c for c in text.decode("latin-1") if c not in string.whitespace + "-.~"]
    while characters and characters[-1] == "*":
        characters.pop()
    protein = "".join(c.upper() if c in string.ascii_lowercase else c for c in characters)
    letters = [c for c in protein if c in string.ascii_uppercase]
    faults = {
        "empty": not protein,
        "invalid_character": len(letters) + protein.count("*") < len(protein),
        "stop_codon_inside": "*" in protein,
        "too_short": len(protein) < rules.min_length,
        "too_long": rules.max_length is not None and len(protein) > rules.max_length,
        "too_many_unknown": sum(c not in STANDARD for c in letters) > rules.max_unknown * len(protein),
    }
    return protein.encode("latin-1"), next((fault for fault, found in faults.items() if found), "kept")


TEXTS = st.one_of(
    st.text("ACDEFGHIKLMNPQRSTVWY\n", max_size=12),
    st.text("ACkXBJUOZ*-.~ \t\n\r\v\f", max_size=12),
    st.text("AX*", max_size=5),
    st.text(st.characters(max_codepoint=255), max_size=6),
).map(lambda text: text.encode("latin-1"))


@given(
    texts=st.lists(TEXTS, max_size=8),
    rules=st.builds(
        Rules,
        min_length=st.integers(1, 3),
        max_length=st.sampled_from([None, 3, 8]),
        max_unknown=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    ),
)
def test_agrees_with_one_record_after_the_other(texts, rules):
    residues, lengths = clean(*joined(texts))
    expected = [reference(text, rules) for text in texts]
    assert cut(residues, lengths) == [protein for protein, _ in expected]
    assert [OUTCOMES[outcome] for outcome in judge(residues, lengths, rules)] == [outcome for _, outcome in expected]


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        (b"MKV\nLLA\n", b"MKVLLA"),
        (b"MK V\tLL A\n", b"MKVLLA"),
        (b"mkvLLA", b"MKVLLA"),
        (b"MKVLLA*", b"MKVLLA"),
        (b"MKVLLA*-\n*\n", b"MKVLLA"),
        (b"..MK-V~LLA~~", b"MKVLLA"),
        (b"MK*VLLA*", b"MK*VLLA"),
        (b"MJUOBZX", b"MJUOBZX"),
        (b"\n \n", b""),
        (b"*", b""),
    ],
)
def test_clean(raw, cleaned):
    # Neighbours, empty ones too, must not change what becomes of a record.
    assert cut(*clean(*joined([raw, b"", b"MA\n", raw]))) == [cleaned, b"", b"MA", cleaned]


@pytest.mark.parametrize(
    ("protein", "rules", "outcome"),
    [
        (b"MKV", Rules(), "kept"),
        (b"", Rules(), "empty"),
        (b"M*V", Rules(), "stop_codon_inside"),
        (b"M5V", Rules(), "invalid_character"),
        (b"M\xe9V", Rules(), "invalid_character"),
        (b"M5*", Rules(min_length=9), "invalid_character"),
        (b"MK", Rules(min_length=3), "too_short"),
        (b"MKV", Rules(min_length=3, max_length=3), "kept"),
        (b"MKVL", Rules(max_length=3), "too_long"),
        (b"MXBA", Rules(max_unknown=0.5), "kept"),
        (b"MXBJ", Rules(max_unknown=0.5), "too_many_unknown"),
        (b"MKVX", Rules(max_unknown=0), "too_many_unknown"),
        (b"XXXX", Rules(max_unknown=1), "kept"),
    ],
)
def test_judge(protein, rules, outcome):
    # Neighbours, empty ones too, must not lend a protein their faults.
    outcomes = judge(*joined([b"", b"MKVLA", protein, b"", b"XXXX*", b"MKVLA"]), rules)
    assert OUTCOMES[outcomes[2]] == outcome


@pytest.mark.parametrize("wrong", [{"min_length": 0}, {"min_length": 5, "max_length": 4}, {"max_unknown": 1.5}])
def test_impossible_rules(wrong):
    with pytest.raises(UserError, match=r"^--m"):
        Rules(**wrong)
