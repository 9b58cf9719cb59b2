"""Tables as FLIP, PEER and others have them, and what is wrong with a table."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from plm_composer.errors import UserError
from plm_composer.evaluation.probes.tables import ProbeData, read_probe_table

FLIP = """sequence,target,set,validation
MKV,1.5,train,False
MKA,2.5,train,True
mkl*,-3e-1,train,
GGG,,train,False
ACD,0.25,test,False
ACE,0.5,nan,
"""


def _write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def _parts(data: ProbeData) -> tuple[list[str], list[str], list[str]]:
    train, validation, test = ([data.sequences[at] for at in part] for part in (data.train, data.validation, data.test))
    return train, validation, test


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_flip(name: str, tmp_path: Path) -> None:
    data = read_probe_table(_write(tmp_path / name, FLIP), "target")
    assert data.kind == "regression"
    assert _parts(data) == (["MKV", "MKL"], ["MKA"], ["ACD"])
    assert data.targets == [1.5, 2.5, -0.3, 0.25]
    assert data.rows.tolist() == [1, 2, 3, 5]
    assert (data.left_out, data.cleaned) == (2, 1)


@pytest.mark.parametrize(
    ("column", "values"), [("stage", ("train", "valid", "test")), ("split", ("Train", "val", "test"))]
)
def test_other_names_of_splits(column: str, values: tuple[str, ...], tmp_path: Path) -> None:
    rows = "".join(
        f"MK{letter}\t{value}\t{target}\n" for letter, value, target in zip("ACD", values, "aba", strict=True)
    )
    data = read_probe_table(_write(tmp_path / "a.tsv", f"sequence\t{column}\tlocation\n{rows}"), "location")
    assert (data.kind, data.targets) == ("classes", ["a", "b", "a"])
    assert _parts(data) == (["MKA"], ["MKC"], ["MKD"])


def test_parquet_and_named_columns(tmp_path: Path) -> None:
    columns = {
        "seq": ["MKV", "MKA", "MKL"],
        "label": [True, False, None],
        "random_split": ["train", "test", "test"],
        "set": ["test", "train", "train"],
    }
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    data = read_probe_table(tmp_path / "a.parquet", "label", sequence="seq", split="random_split")
    assert (data.kind, data.targets, data.left_out) == ("classes", ["True", "False"], 1)
    assert _parts(data) == (["MKV"], [], ["MKA"])


def test_a_letter_for_each_residue(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "sequence,target,set\nMKV,HHC,train\nGG,EE,test\n")
    data = read_probe_table(path, "target")
    assert (data.kind, data.targets) == ("residues", ["HHC", "EE"])


@pytest.mark.parametrize(
    ("targets", "kind"),
    [("0 1 1", "classes"), ("0.0 1.0 1", "classes"), ("1 2 2.5", "regression"), ("a b b", "classes")],
)
def test_kinds_are_told_from_the_targets(targets: str, kind: str, tmp_path: Path) -> None:
    rows = "".join(
        f"MKV,{each},{part}\n" for each, part in zip(targets.split(), ("train", "train", "test"), strict=True)
    )
    assert read_probe_table(_write(tmp_path / "a.csv", "sequence,target,set\n" + rows), "target").kind == kind


def test_limits_draw_from_each_split(tmp_path: Path) -> None:
    rows = "".join(f"MKV,{number / 7},{'test' if number % 2 else 'train'}\n" for number in range(100))
    path = _write(tmp_path / "a.csv", "sequence,target,set\n" + rows)
    data, again = (read_probe_table(path, "target", train_limit=10, test_limit=5) for _ in range(2))
    assert (len(data.train), len(data.test)) == (10, 5)
    assert data.train.tolist() == again.train.tolist()
    assert data.train.tolist() != list(range(0, 20, 2))  # drawn, not the first


HEADER = "sequence,target,set,validation\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "no column"),
        ("sequence,target\nMKV,1.5\n", {}, "has no column set, split, stage"),
        (HEADER + "MKV,1.5,train,\nMKV,1.5,test,\n", {"target": "x"}, "no column 'x'; there are: sequence, target"),
        (HEADER + "MKV,1.5,train,\n", {}, "no row of the split test"),
        (HEADER + "MKV,1.5,test,\n", {}, "no row of the split train"),
        (HEADER + "MKV,1.5,train,\nMKV,1.5,holdout,\n", {}, "row 2: the split 'holdout' is none of train"),
        (HEADER + "MKV,1.5,train,maybe\n", {}, "row 1: the column 'validation' has 'maybe'"),
        (HEADER + "*,1.5,train,\n", {}, "row 1: the column 'sequence' holds no sequence"),
        (HEADER + "MKV,1,train,\nMKV,2,test,\n", {}, "say --kind regression or --kind classes"),
        (HEADER + "MKV,x,train,\nMKV,2,test,\n", {"kind": "regression"}, "row 1: the target 'x' is not a number"),
        (HEADER + "MKV,inf,train,\nMKV,2,test,\n", {"kind": "regression"}, "'inf' is not a number"),
        (
            HEADER + "MKV,HH,train,\nMKV,HHH,test,\n",
            {"kind": "residues"},
            "row 1: the target has 2 letters and the seq",
        ),
        (HEADER + "MK*,HHH,train,\nMKV,HHH,test,\n", {"kind": "residues"}, "row 1: the sequence holds signs other"),
        (HEADER + "MKV,1.5,train,\n", {"kind": "magic"}, "--kind is 'magic'; it must be regression, classes, residues"),
    ],
)
def test_what_is_wrong_is_told(text: str, options: dict[str, str], message: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", text)
    with pytest.raises(UserError) as error:
        read_probe_table(path, **{"target": "target", **options})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").touch()
    (tmp_path / "a.parquet").write_text("no")
    for name, message in {"a.xlsx": "must end in", "none.csv": "no such file", "a.parquet": "a.parquet"}.items():
        with pytest.raises(UserError, match=message):
            read_probe_table(tmp_path / name, "target")
