"""Tables as people keep them: every format gives the same proteins, and what is wrong is one line that names it."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plm_composer.errors import UserError
from plm_composer.shards.inputs.rows import RowSource, load_splits
from plm_composer.shards.inputs.tables import TableFiles

PEPTIDES = ["NA", "NAN", "nan", "NULL", "null", "INF", "None", "TRUE", "true", "N", "na", "MKV"]
"""Residues that some reader takes for a missing value, a number or a truth."""


def values(*paths: Path | str, column: str | None = None) -> list[str]:
    source = RowSource(load_splits([str(path) for path in paths])["train"], "x", column=column, rows_per_block=7)
    return [text.decode() for block in source.blocks() for text in block.texts]


def write(path: Path, rows: list[dict[str, Any]], separator: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = Path(path.name.removesuffix(".gz").removesuffix(".bz2")).suffix
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if suffix in (".csv", ".tsv"):
        separator = "\t" if suffix == ".tsv" else separator
        lines = [separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]
        text = "".join(f"{line}\n" for line in lines)
    elif suffix == ".jsonl":
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
    else:
        text = json.dumps(rows)
    packers = {".gz": gzip.compress, ".bz2": bz2.compress}
    path.write_bytes(packers.get(path.suffix, bytes)(text.encode()))
    return path


@pytest.mark.parametrize(
    "suffix", ["csv", "tsv", "jsonl", "json", "parquet", "csv.gz", "tsv.bz2", "jsonl.gz", "json.gz"]
)
def test_text_is_text(suffix: str, tmp_path: Path) -> None:
    rows = [{"id": index, "sequence": text} for index, text in enumerate(PEPTIDES)]
    assert values(write(tmp_path / f"x.{suffix}", rows)) == PEPTIDES
    assert values(write(tmp_path / f"only.{suffix}", [{"sequence": "NA"}] * 9)) == ["NA"] * 9


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters='\0\r\n",\t'), max_size=12), min_size=1),
    st.sampled_from(["csv", "tsv", "jsonl", "json", "parquet", "csv.gz"]),
)
def test_every_format_gives_back_what_was_written(tmp_path: Path, texts: list[str], suffix: str) -> None:
    rows = [{"id": index, "sequence": text} for index, text in enumerate(texts)]
    assert values(write(tmp_path / f"x.{suffix}", rows)) == texts


@pytest.mark.parametrize(
    "values_of",
    [
        lambda texts: pa.array(texts, pa.large_string()),
        lambda texts: pa.array(texts).dictionary_encode(),
        lambda texts: pa.array([text.encode() for text in texts], pa.binary()),
        lambda texts: pa.array([list(text) for text in texts]),
        lambda texts: pa.array([[text] for text in texts]),
    ],
    ids=["large", "dictionary", "bytes", "letters", "list of one"],
)
def test_any_type_of_text(values_of: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"sequence": values_of(PEPTIDES)}), tmp_path / "x.parquet")
    assert values(tmp_path / "x.parquet") == PEPTIDES


@pytest.mark.skipif(not hasattr(pa, "string_view"), reason="a pyarrow without string views")
def test_views_of_text(tmp_path: Path) -> None:
    try:
        pq.write_table(pa.table({"sequence": pa.array(PEPTIDES, pa.string_view())}), tmp_path / "x.parquet")
    except pa.ArrowNotImplementedError:
        pytest.skip("a pyarrow that writes no string views, and reads none")
    assert values(tmp_path / "x.parquet") == PEPTIDES


def test_missing_values_are_empty(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sequence": pa.array(["MKV", None, ""])}), tmp_path / "x.parquet")
    assert values(tmp_path / "x.parquet") == ["MKV", "", ""]
    (tmp_path / "x.jsonl").write_text('{"sequence": "MKV"}\n\n{"id": 3}\n{"sequence": null}\n')
    assert values(tmp_path / "x.jsonl") == ["MKV", "", ""]


def test_nested_columns(tmp_path: Path) -> None:
    rows = [{"id": f"P{index}", "sequence": {"value": text, "length": 3}} for index, text in enumerate(PEPTIDES)]
    results = {"results": rows, "facets": []}
    (tmp_path / "uniprot.json").write_text(json.dumps(results))
    (tmp_path / "indented.json").write_text(json.dumps(results, indent=1))
    paths = [write(tmp_path / f"x.{suffix}", rows) for suffix in ("jsonl", "json", "parquet")]
    for path in [*paths, tmp_path / "uniprot.json", tmp_path / "indented.json"]:
        assert values(path, column="sequence.value") == PEPTIDES
        with pytest.raises(
            UserError, match=r"holds the fields .*; choose one, such as --column sequence\.(value|length)"
        ):
            values(path)
    dotted = write(tmp_path / "dotted.csv", [{"a.b": text} for text in PEPTIDES])
    assert values(dotted, column="a.b") == PEPTIDES


def test_a_record_is_no_table_though_it_holds_one(tmp_path: Path) -> None:
    record = {"sequence": "MKV", "features": [{"type": "helix"}, {"type": "sheet"}]}
    for name in ("x.jsonl", "x.json"):
        (tmp_path / name).write_text(json.dumps(record) + "\n")
        assert values(tmp_path / name) == ["MKV"]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_a_field_that_is_not_there_is_told(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"x.{suffix}", [{"sequence": {"value": "MKV", "length": 3}}])
    with pytest.raises(UserError, match=r"no (column )?'sequence\.valeu'"):
        values(path, column="sequence.valeu")
    assert values(write(tmp_path / "null.jsonl", [{"sequence": None}]), column="sequence.value") == [""]


def test_quotes_line_ends_and_marks_of_spreadsheets(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'\xef\xbb\xbfid,sequence\r\n"a, ""b""","MK\r\nV"\r\nc,MA\r\n')
    assert [text.split() for text in values(tmp_path / "x.csv")] == [["MK", "V"], ["MA"]]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_other_columns_may_change_their_type(suffix: str, tmp_path: Path) -> None:
    rows = [{"sequence": "MKV", "ec": index if index < 11_000 else "1.1.1.1"} for index in range(12_000)]
    assert values(write(tmp_path / f"x.{suffix}", rows)) == ["MKV"] * len(rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_other_columns_may_have_another_encoding(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"x.{suffix}", [{"sequence": "MKV", "author": "Muller"}] * 3)
    path.write_bytes(path.read_bytes().replace(b"Muller", "Müller".encode("latin-1")))
    assert values(path) == ["MKV"] * 3


def test_parts_may_differ_in_other_columns_and_be_empty(tmp_path: Path) -> None:
    write(tmp_path / "d" / "part-0.parquet", [{"sequence": "MKV", "a": 1}])
    empty = pa.table({"sequence": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "d" / "part-1.parquet")
    pq.write_table(empty, tmp_path / "d" / "part-2.parquet", row_group_size=None)
    write(tmp_path / "d" / "part-3.parquet", [{"b": "t", "sequence": "MA"}])
    assert values(*sorted((tmp_path / "d").iterdir())) == ["MKV", "MA"]
    assert values(tmp_path / "d") == ["MKV", "MA"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
def test_empty_parts_of_every_format(suffix: str, tmp_path: Path) -> None:
    separator = "\t" if suffix == "tsv" else ","
    (tmp_path / f"0.{suffix}").write_text("")
    (tmp_path / f"1.{suffix}").write_text({"json": "[]", "jsonl": "\n"}.get(suffix, f"id{separator}sequence\n"))
    write(tmp_path / f"2.{suffix}", [{"id": 1, "sequence": "MKV"}])
    paths = [tmp_path / f"{number}.{suffix}" for number in range(3)]
    assert values(*paths) == ["MKV"]
    with pytest.raises(UserError, match="has no rows"):
        values(paths[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"id,sequence\n1,MKV\n2\n", r"x\.csv: cannot be read: CSV parse error: .*Expected 2 columns, got 1"),
        ("x.csv", b"id,sequence\n1,\xff\xfe\n", r"x\.csv: cannot be read: .*invalid UTF8"),
        ("x.csv", b"id;sequence\n1;MKV\n", r"Choose one with --column: id;sequence"),
        ("x.jsonl", b'{"sequence": "MKV"}\n{"sequence": \n', r"x\.jsonl, line 2: not valid JSON"),
        ("x.jsonl", b'{"sequence": "MKV"}\n[1]\n', r"x\.jsonl, line 2: holds list, not an object"),
        ("x.json", b'[{"sequence": "MKV"}, 3]', r"x\.json: holds int, not an object"),
        ("x.json", b'{"sequence": ', r"x\.json: not valid JSON"),
        ("x.parquet", b"PAR1", r"x\.parquet: cannot be read"),
        ("x.csv.gz", gzip.compress(b"sequence\nMKV\n" * 99)[:-20], r"x\.csv\.gz: cannot be read"),
        ("x.jsonl.gz", gzip.compress(b'{"sequence": "MKV"}\n' * 99)[:-20], r"x\.jsonl\.gz: cannot be read"),
        ("x.jsonl.gz", b"no gzip", r"x\.jsonl\.gz: cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        values(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_part_without_the_column_is_named(tmp_path: Path) -> None:
    paths = [write(tmp_path / "0.csv", [{"sequence": "MKV"}]), write(tmp_path / "1.csv", [{"seq": "MKV"}])]
    with pytest.raises(UserError, match=r"1\.csv: no column 'sequence'; there are: seq"):
        values(*paths)


@pytest.mark.parametrize(
    ("value", "found"),
    [(["MKV", "MA"], "a list of 2 values"), (3, "int"), (1.5, "float"), (True, "bool"), ([[1]], "a list")],
)
def test_a_value_that_is_no_text_names_its_row(value: Any, found: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{"sequence": "MKV"}, {"sequence": value}]))
    with pytest.raises(UserError, match=f"x, row 1: column 'sequence' holds {found}"):
        values(tmp_path / "x.json")


def test_a_file_of_no_known_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.xlsx: must end in \.parquet"):
        TableFiles([tmp_path / "x.xlsx"])
