import json
from pathlib import Path

import pytest

from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.output.journal import JOURNAL_NAME, Journal
from plm_composer.shards.output.manifest import ShardSummary
from plm_composer.shards.output.settings import Settings
from plm_composer.shards.output.staging import LOCK_NAME

SETTINGS = Settings(shard_size=0.001, compression="zstd:1")


def summary(number: int) -> ShardSummary:
    return ShardSummary("train", number, {"samples": 2}, 2, 9, 4, 5, (1, 1), (0, 9))


def journal_of(folder: Path, *numbers: int) -> Journal:
    journal = Journal({"a": 1, "b": [2]})
    journal.resume(folder)
    journal.start()
    for number in numbers:
        journal.add(summary(number))
    return journal


def test_shards_are_remembered(tmp_path):
    journal_of(tmp_path, 0, 1)
    said: list[str] = []
    journal = Journal({"a": 1, "b": [2]}, said.append)
    assert journal.resume(tmp_path)
    assert journal.find("train", 1) == summary(1)
    assert journal.find("train", 2) is journal.find("val", 1) is None
    assert said == [f"continuing the interrupted conversion in {tmp_path}: 2 shards are done"]
    journal.add(summary(0))
    journal.finish()
    assert said[1:] == ["1 of 2 shards of the interrupted conversion differed and were made again"]
    assert list(tmp_path.iterdir()) == []


def test_another_conversion_is_not_continued(tmp_path):
    journal_of(tmp_path, 0)
    said: list[str] = []
    journal = Journal({"a": 1, "b": [3], "c": None}, said.append)
    assert not journal.resume(tmp_path)
    assert journal.find("train", 0) is None
    assert said == [f"starting over: the interrupted conversion in {tmp_path} had other b"]


def test_half_a_line_is_no_line(tmp_path):
    journal_of(tmp_path, 0, 1)
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(path.read_bytes()[:-9])
    journal = journal_of(tmp_path, 0, 7)
    assert (journal.find("train", 0), journal.find("train", 1)) == (summary(0), None)
    assert journal_of(tmp_path).find("train", 7) == summary(7)


@pytest.mark.parametrize("text", ['{"a": 1, "b": [2]}\n{"split": 3}\n', "what\n", "[]\n{}\n"])
def test_a_damaged_journal_starts_over(tmp_path, text):
    (tmp_path / JOURNAL_NAME).write_text(text)
    said: list[str] = []
    assert not Journal({"a": 1, "b": [2]}, said.append).resume(tmp_path)
    assert said == [f"starting over: {tmp_path / JOURNAL_NAME} is damaged"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A FASTA file, and beside it a complete conversion that was killed just before it was published."""
    fasta = tmp_path / "x.fasta"
    fasta.write_text("".join(f">p{i}\nMKVLLAGG{'A' * i}\n" for i in range(300)))

    def convert(out: str, **options):
        return convert_fasta([fasta], tmp_path / out, val_fraction=0.3, settings=SETTINGS, **options)

    convert("whole", progress=False)
    with monkeypatch.context() as patch:
        kept: dict[str, bytes] = {}
        patch.setattr(Journal, "finish", lambda self: kept.update(contents(self._path.parent)))
        convert("out", progress=False)
    partial = tmp_path / "out.partial"
    (tmp_path / "out").rename(partial)
    (partial / JOURNAL_NAME).write_bytes(kept[JOURNAL_NAME])
    (partial / LOCK_NAME).touch()
    return partial, convert


def test_damaged_and_missing_shards_are_made_again(interrupted, tmp_path, capsys):
    partial, convert = interrupted
    first, second, *others = sorted((partial / "train").glob("shard.*"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    times = [path.stat().st_mtime_ns for path in others]
    convert("out", overwrite=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert [(tmp_path / "out" / "train" / path.name).stat().st_mtime_ns for path in others] == times
    assert "shards are done" in capsys.readouterr().err


def test_leftovers_that_are_not_shards_go(interrupted, tmp_path):
    partial, convert = interrupted
    (partial / "train" / "shard.00999.mds.zstd").write_bytes(b"of something longer")
    (partial / ".gathering" / "val").mkdir(parents=True)
    (partial / ".gathering" / "val" / "0001.rows").write_bytes(b"half")
    convert("out", progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out" / ".gathering").exists()


def test_shards_of_an_input_that_changed_in_secret_are_made_again(interrupted, tmp_path, capsys):
    partial, convert = interrupted
    lines = (partial / JOURNAL_NAME).read_text().splitlines()
    shard = json.loads(lines[1])
    shard["entry"]["raw_data"]["hashes"]["xxh64"] = "0" * 16
    (partial / JOURNAL_NAME).write_text("\n".join([lines[0], json.dumps(shard), *lines[2:]]) + "\n")
    convert("out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert f"1 of {len(lines) - 1} shards of the interrupted conversion differed" in capsys.readouterr().err
