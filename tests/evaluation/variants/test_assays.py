"""Assays are read as they are written, with their targets; what is wrong with a file is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plm_composer.errors import UserError
from plm_composer.evaluation.variants.assays import find_assays, read_assay, read_reference

TARGET = "MKTAY"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_proteingyms_assays_have_their_target_and_what_was_measured(shared_data: Path) -> None:
    folder = shared_data / "proteingym"
    reference = read_reference(folder / "DMS_substitutions.csv")
    files = find_assays([folder / "DMS_ProteinGym_substitutions"])
    assert len(files) == len(reference) == 17
    for path in files:
        assay, alone = read_assay(path, reference), read_assay(path)
        assert assay.target == reference[path.name]["target_seq"]
        # Undoing the mutations of the rows gives the same target, where the file has whole sequences.
        assert alone.target == assay.target
        assert [each.sequence for each in assay.variants] == list(assay.table["mutated_sequence"])
        assert assay.measured is not None and not np.isnan(assay.measured).any()
        assert assay.binary is not None and 0.3 < assay.binary.mean() < 0.7
    assert assay.protein == "TRPC_THEMA" and assay.selection == "OrganismalFitness"


def test_a_target_can_be_given_and_numbered(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "mutant,note\nK102W,x\nwt,\n")
    assay = read_assay(path, target=TARGET, offset=101)
    assert [each.sequence for each in assay.variants] == ["MWTAY", TARGET]
    assert assay.measured is None and list(assay.table["note"]) == ["x", ""]


def test_insertions_and_deletions_are_read_as_proteingym_writes_them(tmp_path: Path) -> None:
    path = write(tmp_path / "indels.csv", "mutant,DMS_score\nMKTA,1\nMKTAYG,0\nMKTAF,2\n")
    assay = read_assay(path, target=TARGET)
    assert [each.sequence for each in assay.variants] == ["MKTA", "MKTAYG", "MKTAF"]
    assert [each.substitutions is None for each in assay.variants] == [True, True, False]
    mixed = write(tmp_path / "mixed.csv", "mutant,mutated_sequence\nK2W,MWTAY\n,MKTA\n")
    assay = read_assay(mixed)
    assert assay.target == TARGET and assay.variants[1].substitutions is None


def test_sequences_alone_are_compared_with_the_target(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sequence,DMS_score\nMKTAF,1\nMKTA,0.5\nMKTAYG,nan\n")
    assay = read_assay(path, target=TARGET)
    assert assay.variants[0].substitutions is not None and assay.variants[1].substitutions is None
    np.testing.assert_array_equal(assay.measured, [1, 0.5, np.nan])
    assert read_assay(path).target is None


def test_classes_come_from_the_file_or_the_reference_or_the_median(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "mutant,DMS_score,DMS_score_bin\nK2W,1,0\nK2A,2,1\nK2C,3,\n")
    np.testing.assert_array_equal(read_assay(path, target=TARGET).binary, [0, 1, np.nan])
    path = write(tmp_path / "b.csv", "mutant,DMS_score\nK2W,1\nK2A,2\nK2C,3\n")
    assert list(read_assay(path, target=TARGET).binary) == [0, 1, 1]
    row = {"target_seq": TARGET, "DMS_binarization_cutoff": "2.5"}
    assert list(read_assay(path, {"b.csv": row}).binary) == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.csv: cannot be read as CSV"),
        ("mutant\n", "a.csv: has no rows"),
        ("a,b\n1,2\n", "a.csv: has no column mutant, mutated_sequence or sequence; it has a, b"),
        ("mutant\nK2W\n", "a.csv: the target is unknown; give --reference, --sequence"),
        ("mutant,mutated_sequence\nK2W,MWTAY\nT3A,MKTAY\n", "a.csv line 3: the sequence is not the target with"),
        ("mutant,mutated_sequence,DMS_score\nK2W,MWTAY,high\n", "a.csv line 2: DMS_score is 'high'; write a number"),
        ("mutant,mutated_sequence,DMS_score\nK2W,MWTAY,1\n,,2\n", "a.csv line 3: '' is no substitution"),
        ("mutant,mutant\nK2W,K2W\n", "a.csv: has two columns 'mutant'"),
        ("mutant,mutated_sequence,DMS_score,DMS_score_bin\nK2W,MWTAY,1,2\n", "a.csv line 2: DMS_score_bin is 2;"),
        ("sequence\nMKTAY\nMKJAY\n", "a.csv line 3: 'MKJAY' is no sequence of residues that ESM2 knows"),
        ("sequence\nMKTAY\nMK TAY\n", "a.csv line 3: 'MK TAY' is no sequence of residues"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_assay(write(tmp_path / "a.csv", text))


def test_a_wrong_numbering_is_answered_by_the_right_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "mutant\nK102W\nY105F\n")
    with pytest.raises(UserError, match=r"lies outside the target.*; all mutants fit with --offset 101"):
        read_assay(path, target=TARGET)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such assay"):
        find_assays([tmp_path / "none.csv"])
    with pytest.raises(UserError, match=r"the folder has no \*\.csv"):
        find_assays([tmp_path])
    with pytest.raises(UserError, match="has no column DMS_filename"):
        read_reference(write(tmp_path / "reference.csv", "a\n1\n"))
