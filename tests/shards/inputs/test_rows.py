import json

import datasets
import pytest

from plm_composer.errors import UserError
from plm_composer.shards.convert import convert_huggingface
from plm_composer.shards.inputs.rows import DatasetTable, RowSource, choose_column
from plm_composer.shards.output.settings import Settings
from plm_composer.shards.pipeline import run

SEQUENCES = ["MKVLLA", "mk v\nLLA*", None, "MA", "M*A", "MKJX"]
KEPT = [b"MKVLLA", b"MKVLLA", b"MA", b"MKJX"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def table(tmp_path):
    """Writes rows as a data file and returns its path."""

    def write(name, sequences=SEQUENCES, column="sequence"):
        path = tmp_path / name
        rows = datasets.Dataset.from_dict({"id": list(range(len(sequences))), column: sequences})
        writers = {".parquet": rows.to_parquet, ".csv": rows.to_csv, ".jsonl": rows.to_json}
        path.parent.mkdir(exist_ok=True)
        writers[path.suffix](str(path))
        return str(path)

    return write


def convert(paths, out, **options):
    return convert_huggingface(paths, out, **{"val_fraction": 0, "processes": 1, "progress": False, **options})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_data_files(tmp_path, table, read_split, suffix, streaming):
    manifest = convert([table("x" + suffix)], tmp_path / "out", streaming=streaming)
    assert read_split(tmp_path / "out" / "train") == KEPT
    assert manifest.dropped == {"empty": 1, "stop_codon_inside": 1}
    assert manifest.sources[0].name == f"x{suffix} (train)"


def test_the_manifest_does_not_depend_on_how_rows_are_read(tmp_path, table):
    path = table("x.parquet")
    manifests = [convert([path], tmp_path / str(streaming), streaming=streaming) for streaming in (False, True)]
    assert manifests[0] == manifests[1]
    digests = {convert([table("x.csv", [other])], tmp_path / other).sources[0].xxh3_128 for other in ("MA", "MK")}
    assert len(digests) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_own_validation_split(tmp_path, table, read_split, streaming):
    table("data/train.csv", ["MKV", "MA"])
    table("data/validation.csv", ["MVV", "MA"])
    table("data/test.csv", ["MTT"])
    manifest = convert([str(tmp_path / "data")], tmp_path / "out", val_fraction=None, streaming=streaming)
    assert read_split(tmp_path / "out" / "val") == [b"MVV", b"MA"]
    assert read_split(tmp_path / "out" / "train") == [b"MKV"]
    assert manifest.settings["val_fraction"] == 0

    convert([str(tmp_path / "data")], tmp_path / "out2", val_fraction=None, val_split="test", streaming=streaming)
    assert read_split(tmp_path / "out2" / "val") == [b"MTT"]
    assert convert([str(tmp_path / "data")], tmp_path / "out3", val_fraction=0).splits.keys() == {"train"}


def test_saved_to_disk(tmp_path, read_split):
    rows = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"seq": [text]}) for name, text in [("train", "MKV"), ("valid", "MA")]}
    )
    rows.save_to_disk(str(tmp_path / "both"))
    rows["train"].save_to_disk(str(tmp_path / "one"))
    for streaming in (False, True):
        out = tmp_path / f"out{streaming}"
        convert([str(tmp_path / "both")], out, val_fraction=None, streaming=streaming)
        assert (read_split(out / "train"), read_split(out / "val")) == ([b"MKV"], [b"MA"])
    convert([str(tmp_path / "one")], tmp_path / "out")
    assert read_split(tmp_path / "out" / "train") == [b"MKV"]


def test_same_bytes_for_any_number_of_processes_and_any_block_size(tmp_path):
    rows = datasets.Dataset.from_dict({"sequence": [f"MKV{'A' * (i % 50)}" for i in range(3000)]})
    outputs = []
    for processes, rows_per_block in [(1, 3000), (1, 7), (2, 100)]:
        out = tmp_path / f"{processes}-{rows_per_block}"
        run(
            [RowSource(DatasetTable(rows, "x"), "x", rows_per_block=rows_per_block)],
            out,
            settings=Settings(val_fraction=0.1, shard_size=0.02),
            processes=processes,
            progress=False,
        )
        shards = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.zstd")}
        outputs.append((shards, json.loads((out / "manifest.json").read_text())["splits"]))
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_character_that_is_no_letter_names_the_row(tmp_path, table):
    with pytest.raises(UserError, match=r"x\.csv \(train\), row 2: character '5' in a sequence"):
        convert([table("x.csv", ["MKV", "MA", "M5"])], tmp_path / "out")


@pytest.mark.parametrize(
    ("names", "column", "chosen"),
    [
        (["id", "sequence"], None, "sequence"),
        (["text", "label"], None, "text"),
        (["Entry", "protein"], None, "protein"),
        (["sequence", "other"], "other", "other"),
    ],
)
def test_column(names, column, chosen):
    assert choose_column(names, column, "x") == chosen


@pytest.mark.parametrize(
    ("names", "column", "message"),
    [
        (["sequence", "text"], None, r"x: which column holds the sequences\? Choose one with --column: sequence, text"),
        (["id", "residues"], None, "Choose one with --column: id, residues"),
        (["id", "sequence"], "seq", "x: no column 'seq'; there are: id, sequence"),
    ],
)
def test_column_errors(names, column, message):
    with pytest.raises(UserError, match=message):
        choose_column(names, column, "x")


@pytest.mark.parametrize("streaming", [False, True])
def test_errors(tmp_path, table, streaming):
    path = table("x.csv")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    for paths, options, message in [
        ([table("x.parquet")], {"column": "id"}, r"row 0: column 'id' holds int, not text"),
        ([path], {"split": "test"}, r"x\.csv: no split 'test'; there are: train"),
        ([path], {"val_split": "valid", "val_fraction": None}, r"no split 'valid'"),
        ([path], {"val_split": "valid", "val_fraction": 0.1}, r"--val-split and --val-fraction: choose one"),
        ([str(tmp_path / "nowhere.csv")], {}, r"nowhere\.csv: no such file"),
        ([path, str(tmp_path / "broken.parquet")], {}, "name files of one format"),
        ([path, "some/name"], {}, "name files of one format"),
        (["some/name", "other/name"], {}, "name one dataset, or data files"),
        ([str(tmp_path / "broken.parquet")], {}, r"broken\.parquet.*: cannot be (read|loaded)"),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            convert(paths, tmp_path / "out", streaming=streaming, **options)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "out").exists()
